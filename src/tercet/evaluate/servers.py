"""Embedding servers: which of three published interfaces one speaks, and its vectors for texts.

OpenAI's /v1/embeddings, text-embeddings-inference (TEI) with /embed, /embed_sparse and /embed_all,
and vLLM's /pooling. Knows nothing of verdicts.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tercet.endpoint import (
    LARGEST,
    AccessError,
    Endpoint,
    EndpointError,
    RejectedError,
    UnreadableError,
    ask,
)
from tercet.evaluate.causes import Kind, SparseVector, Vector
from tercet.evaluate.golden import TOKENS, Golden

Api = Literal["openai", "tei", "vllm"]
BY_TOKEN: tuple[Kind, ...] = ("multi", "states")  # a vector for each token
VECTOR = 1 << 16  # bytes of a vector in JSON, at most
LARGE = 2000  # characters from which a text is sent alone


@dataclass(frozen=True)
class Answers:
    """What was answered, by kind: one entry a text, None where it was not asked or not answered.

    rejected: why, by kind and number of text. again: asks for some texts one by one, by number.
    """

    source: str  # what answered, in words
    vectors: dict[Kind, list[Vector | None]]
    rejected: dict[Kind, dict[int, str]] = field(default_factory=dict)
    again: Callable[[Kind, Sequence[int]], list[Vector | None]] | None = None


@dataclass(frozen=True)
class Route:
    """One path of a server and the head that it answers with."""

    kind: Kind
    path: str
    task: str | None = None  # of vLLM's /pooling

    def __str__(self) -> str:
        return f"/{self.path}" + (f" ({self.task})" if self.task else "")


ROUTES: dict[Api, list[Route]] = {
    "tei": [Route("dense", "embed"), Route("sparse", "embed_sparse"), Route("states", "embed_all")],
    "openai": [Route("dense", "v1/embeddings"), Route("dense", "embeddings")],
}
ROUTES["vllm"] = [
    *ROUTES["openai"],
    Route("sparse", "pooling", "token_classify"),
    Route("multi", "pooling", "token_embed"),
]
_PATHS = re.compile(r"(/v\d+)?(/(embeddings|embed|embed_sparse|embed_all|pooling))?/*$")


class EmbeddingServer:
    """An embedding server and the paths on which it answers with vectors of the texts of `golden`.

    name: of the model, as the server has it; batch: texts of a request. Raises EndpointError where
    no path of the interface (None: of any) answers with embeddings.
    """

    def __init__(
        self, endpoint: Endpoint, golden: Golden, name: str, api: Api | None, batch: int
    ) -> None:
        tail = _PATHS.search(endpoint.url)
        assert tail is not None  # it matches an empty end
        root, retries = endpoint.url[: tail.start()], endpoint.retries
        self.endpoint = replace(endpoint, url=root, retries=min(1, retries))  # while it is tried
        self.name, self.batch = name, batch
        self.golden, self.texts = golden, list(golden.texts.values())
        self.weightless = golden.about.weightless
        self.routes: dict[Kind, Route] = {}
        version = (tail[1] or "/v1").lstrip("/")
        failures: dict[str, list[str]] = {}  # paths by the reason why they do not answer
        for group in (api,) if api else ("tei", "vllm"):
            for usual in ROUTES[group]:
                route = replace(usual, path=usual.path.replace("v1/", f"{version}/"))
                if route.kind in self.routes:
                    continue
                try:
                    (answer,) = self._request(route, [[0]])
                except (AccessError, UnreadableError) as error:
                    answer = error
                if isinstance(answer, EndpointError):
                    failures.setdefault(_reason(answer), []).append(str(route))
                else:
                    self.routes[route.kind] = route
            if self.routes:
                self.endpoint = replace(self.endpoint, retries=retries)
                return
        why = "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in failures.items())
        raise EndpointError(
            f"{self.endpoint.url} gives no embeddings, check the address, --api and --name: {why}"
        )

    @cached_property
    def ids(self) -> list[list[int]]:
        """Of the tokens of each text; the checkpoint is run for them once the server answers."""
        return [[] if made is None else made.ids.tolist() for made in self.golden.outputs(0)]

    def answer(self, kinds: Sequence[Kind]) -> Answers:
        """What the server answers; vectors of tokens are asked of texts up to 1,024 tokens."""
        paths = ", ".join(map(str, self.routes.values()))
        answers = Answers(f"{self.endpoint.url} ({paths})", {}, {}, self.again)
        for kind in (kind for kind in self.routes if kind in kinds):
            by_token = kind in BY_TOKEN
            rows = [row for row, ids in enumerate(self.ids) if not by_token or len(ids) <= TOKENS]
            answers.vectors[kind] = [None] * len(self.texts)
            answers.rejected[kind] = {}
            for row, vector in zip(rows, self._ask(kind, rows, self.batch), strict=True):
                if isinstance(vector, RejectedError):
                    answers.rejected[kind][row] = _reason(vector)
                else:
                    answers.vectors[kind][row] = vector
        return answers

    def again(self, kind: Kind, rows: Sequence[int]) -> list[Vector | None]:
        """The vectors of some texts that are sent one by one."""
        return [None if isinstance(v, RejectedError) else v for v in self._ask(kind, rows, 1)]

    def _ask(self, kind: Kind, rows: Sequence[int], batch: int) -> list[Any]:
        """A vector for each text, or the RejectedError that the server has for it."""
        short = [row for row in rows if len(self.texts[row]) < LARGE]
        groups = [short[start : start + batch] for start in range(0, len(short), batch)]
        groups += [[row] for row in rows if len(self.texts[row]) >= LARGE]
        vectors: dict[int, Any] = {}
        while groups:
            answers = self._request(self.routes[kind], groups)
            alone: list[list[int]] = []
            for group, answer in zip(groups, answers, strict=True):
                if not isinstance(answer, RejectedError):
                    vectors |= zip(group, answer, strict=True)
                elif len(group) > 1:
                    alone += [[row] for row in group]
                else:
                    vectors[group[0]] = answer
            groups = alone
        return [vectors[row] for row in rows]

    def _request(self, route: Route, groups: list[list[int]]) -> list[Any]:
        """For each group of texts the vectors, or the RejectedError that the server has for it."""
        tei = route in ROUTES["tei"]
        bodies: list[dict[str, Any]] = []
        for group in groups:
            texts = [self.texts[row] for row in group]
            if tei:
                bodies.append({"inputs": texts, "truncate": True})
            else:
                form = {"task": route.task} if route.task else {"encoding_format": "float"}
                bodies.append({"model": self.name, "input": texts, **form})
        most = max(map(len, groups))  # vectors
        if route.kind in BY_TOKEN:  # one a character at most
            texts = self.texts
            most = max(sum(min(len(texts[r]) + 2, TOKENS) for r in group) for group in groups)
        answers = ask(self.endpoint, route.path, bodies, largest=LARGEST + most * VECTOR)
        for position, (group, answer) in enumerate(zip(groups, answers, strict=True)):
            if isinstance(answer, RejectedError):
                continue
            what = f"{self.endpoint.url}{route}: an answer that is no embeddings"
            with self.endpoint.reading(what, answer):
                answers[position] = self._read(route, answer, group)
        return answers

    def _read(self, route: Route, answer: Any, group: list[int]) -> list[Vector]:
        """One vector a text; raises ValueError and the like for what cannot be read."""
        if route not in ROUTES["tei"]:  # {"data": [{"index", "embedding" or "data"}]}
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            answer = [row["data" if route.task else "embedding"] for row in rows]
        if len(answer) != len(group):
            raise ValueError(f"{len(answer)} answers to {len(group)} texts in one request")
        if route.kind != "sparse":
            return [_array(value, 1 if route.kind == "dense" else 2) for value in answer]
        if route.task is None:  # [{"index", "value"}]
            return [
                SparseVector.of([p["index"] for p in pairs], [p["value"] for p in pairs])
                for pairs in answer
            ]
        return [
            _by_token(value, self.ids[row], self.weightless)
            for value, row in zip(answer, group, strict=True)
        ]


def _reason(error: EndpointError) -> str:
    """An error of the client without the address it begins with."""
    return re.sub(r"^https?://\S+: ", "", str(error))


def _array(value: Any, dimensions: int) -> Any:
    """Numbers as float32, null as NaN; an empty list of vectors has size 0."""
    array = np.array(value if len(value) else np.zeros((0,) * dimensions), dtype=np.float32)
    if array.ndim != dimensions:
        raise ValueError(f"it has {array.ndim} dimensions where {dimensions} should be")
    return array


def _by_token(value: Any, ids: Sequence[int], weightless: Sequence[int]) -> SparseVector:
    """Weights of the tokens in order, with or without the first and the last; the largest stays."""
    weights = np.array(value, dtype=np.float32).reshape(-1).tolist()
    first = 0 if len(weights) == len(ids) else 1
    if len(weights) > len(ids):
        raise ValueError(f"{len(weights)} weights for a text of {len(ids)} tokens")
    merged: dict[int, float] = {}
    for token, weight in zip(ids[first:], weights, strict=False):
        if token not in weightless:  # who asks for the weights of tokens is to leave these out
            merged[token] = max(weight, merged.get(token, -np.inf))
    return SparseVector.of(list(merged), list(merged.values()))
