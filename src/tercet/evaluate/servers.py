"""Embedding servers: which of the published interfaces one speaks, and its vectors for texts.

OpenAI's /v1/embeddings, text-embeddings-inference (TEI) with /embed, /embed_sparse and /embed_all,
vLLM's /pooling, and answers in the form of FlagEmbedding's dict. Knows nothing of verdicts.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from tercet.endpoint import AccessError, Endpoint, EndpointError, RejectedError, ask
from tercet.evaluate.causes import Kind, SparseVector, Vector
from tercet.evaluate.golden import TOKENS, Golden

Api = Literal["openai", "tei", "vllm"]
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


def is_url(target: str) -> bool:
    """Whether a target is an address rather than a folder or a hub id."""
    return urlsplit(target).scheme in ("http", "https")


@dataclass(frozen=True)
class Route:
    """One path of a server and the head that it answers with."""

    kind: Kind
    path: str
    task: str | None = None  # of vLLM's /pooling

    def __str__(self) -> str:
        return f"/{self.path}" + (f" ({self.task})" if self.task else "")

    def body(self, texts: list[str], name: str) -> dict[str, Any]:
        """What is sent."""
        if self.path.startswith("embed") and not self.path.endswith("embeddings"):
            return {"inputs": texts, "truncate": True}
        task = {"encoding_format": "float"} if self.task is None else {"task": self.task}
        return {"model": name, "input": texts, **task}

    def read(self, answer: Any, texts: Sequence[Sequence[int]], special: Sequence[int]) -> Any:
        """One vector a text, given its token ids; raises ValueError for what cannot be read.

        A list (TEI), {"data"} with "index" (OpenAI, vLLM), or FlagEmbedding's dict of heads.
        """
        values = answer
        if isinstance(answer, dict) and "data" in answer:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            values = [row.get("embedding", row.get("data")) for row in rows]
        elif isinstance(answer, dict):
            values = answer[FLAG_EMBEDDING[self.kind]]
        if len(values) != len(texts):
            raise ValueError(f"{len(values)} answers to {len(texts)} texts in one request")
        if self.kind == "dense":
            return [_array(value, 1) for value in values]
        if self.kind != "sparse":
            return [_array(value, 2) for value in values]
        if self.task is None:
            return [_sparse(value) for value in values]
        return [_by_token(v, ids, special) for v, ids in zip(values, texts, strict=True)]


FLAG_EMBEDDING = {"dense": "dense_vecs", "sparse": "lexical_weights", "multi": "colbert_vecs"}
ROUTES: dict[Api, list[Route]] = {
    "tei": [
        Route("dense", "embed"),
        Route("sparse", "embed_sparse"),
        Route("states", "embed_all"),
    ],
    "openai": [Route("dense", "v1/embeddings"), Route("dense", "embeddings")],
}
ROUTES["vllm"] = [
    *ROUTES["openai"],
    Route("sparse", "pooling", "token_classify"),
    Route("multi", "pooling", "token_embed"),
]
_PATHS = re.compile(r"(/v\d+)?(/(embeddings|embed|embed_sparse|embed_all|pooling))?/*$")


@dataclass(frozen=True)
class EmbeddingServer:
    """An embedding server whose interface is known: see `find`."""

    endpoint: Endpoint
    name: str  # of the model, as the server has it
    batch: int  # texts of a request
    routes: tuple[Route, ...] = ()  # one a kind

    @staticmethod
    def find(endpoint: Endpoint, name: str, api: Api | None, batch: int) -> "EmbeddingServer":
        """Asks which paths answer; raises EndpointError where none does with embeddings."""
        tail = _PATHS.search(endpoint.url)
        assert tail is not None  # it matches an empty end
        version = (tail[1] or "/v1").lstrip("/")
        server = EmbeddingServer(replace(endpoint, url=endpoint.url[: tail.start()]), name, batch)
        first = replace(server, endpoint=replace(server.endpoint, retries=min(1, endpoint.retries)))
        said: dict[str, list[str]] = {}
        for group in (api,) if api else ("tei", "vllm"):
            routes: list[Route] = []
            for usual in ROUTES[group]:
                route = replace(usual, path=usual.path.replace("v1/", f"{version}/"))
                if route.kind in [known.kind for known in routes]:
                    continue
                try:
                    (answer,) = first.ask(route, ["lighthouse"], [range(99)])
                except AccessError as error:
                    answer = error
                if isinstance(answer, EndpointError):
                    said.setdefault(_reason(answer), []).append(str(route))
                else:
                    routes.append(route)
            if routes:
                return replace(server, routes=tuple(routes))
        why = "; ".join(f"{', '.join(paths)}: {reason}" for reason, paths in said.items())
        raise EndpointError(
            f"{server.endpoint.url} gives no embeddings, check the address, --api and --name: {why}"
        )

    def answer(self, golden: Golden, kinds: Sequence[Kind]) -> Answers:
        """What the server answers; vectors of tokens are asked of texts up to 1,024 tokens."""
        words = f"{self.endpoint.url} ({', '.join(map(str, self.routes))})"
        texts = list(golden.texts.values())
        ids = [[] if output is None else output.ids.tolist() for output in golden.outputs(0)]
        special = golden.about.weightless
        vectors: dict[Kind, list[Vector | None]] = {}
        rejected: dict[Kind, dict[int, str]] = {}

        def fill(kind: Kind, rows: Sequence[int], batch: int) -> list[Vector | RejectedError]:
            route = next(route for route in self.routes if route.kind == kind)
            sender = replace(self, batch=batch)
            return sender.ask(route, [texts[r] for r in rows], [ids[r] for r in rows], special)

        def again(kind: Kind, rows: Sequence[int]) -> list[Vector | None]:
            return [None if isinstance(v, RejectedError) else v for v in fill(kind, rows, 1)]

        for kind in (route.kind for route in self.routes if route.kind in kinds):
            by_token = kind in ("multi", "states")
            rows = [row for row in range(len(texts)) if not by_token or len(ids[row]) <= TOKENS]
            vectors[kind] = [None] * len(texts)
            rejected[kind] = {}
            for row, answer in zip(rows, fill(kind, rows, self.batch), strict=True):
                if isinstance(answer, RejectedError):
                    rejected[kind][row] = _reason(answer)
                else:
                    vectors[kind][row] = answer
        return Answers(words, vectors, rejected, again=again)

    def ask(
        self,
        route: Route,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        special: Sequence[int] = (),
    ) -> list[Any]:
        """A vector for each text, or the RejectedError that the server has for it."""
        groups: list[list[int]] = []
        for row, text in enumerate(texts):  # neighbours together, long ones alone
            fits = row > 0 and len(groups[-1]) < self.batch
            if fits and max(len(texts[row - 1]), len(text)) < LARGE:
                groups[-1].append(row)
            else:
                groups.append([row])
        out: list[Any] = [None] * len(texts)
        for _ in range(2):  # where a request is rejected, its texts are sent one by one
            bodies = [route.body([texts[row] for row in rows], self.name) for rows in groups]
            answers = ask(self.endpoint, route.path, bodies, rejections=True)
            alone = []
            for rows, answer in zip(groups, answers, strict=True):
                if isinstance(answer, RejectedError):
                    out[rows[0]] = answer
                    alone += [[row] for row in rows] if len(rows) > 1 else []
                    continue
                try:
                    vectors = route.read(answer, [ids[row] for row in rows], special)
                except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                    raise EndpointError(
                        f"{self.endpoint.url}{route}: an answer that is no embeddings "
                        f"({error}): {repr(answer)[:80]}"
                    ) from error
                for row, vector in zip(rows, vectors, strict=True):
                    out[row] = vector
            groups = alone
        return out


def _reason(error: EndpointError) -> str:
    """An error of the client without the address it begins with."""
    return re.sub(r"^https?://\S+: ", "", str(error))


def _array(value: Any, dimensions: int) -> Any:
    """Numbers as float32, null as NaN; an empty list of vectors has size 0."""
    array = np.array(value if len(value) else np.zeros((0,) * dimensions), dtype=np.float32)
    if array.ndim != dimensions:
        raise ValueError(f"it has {array.ndim} dimensions where {dimensions} should be")
    return array


def _sparse(value: Any) -> SparseVector:
    """[{"index", "value"}] of TEI, {"indices", "values"}, or {id: weight} of FlagEmbedding."""
    if isinstance(value, list):
        return SparseVector.of([p["index"] for p in value], _array([p["value"] for p in value], 1))
    if value.keys() == {"indices", "values"}:
        return SparseVector.of(value["indices"], _array(value["values"], 1))
    return SparseVector.of([int(i) for i in value], _array(list(value.values()), 1))


def _by_token(value: Any, ids: Sequence[int], special: Sequence[int]) -> SparseVector:
    """Weights of the tokens in order, with or without the first and the last; the largest stays."""
    weights = _array(np.reshape(value, -1).tolist(), 1)
    if len(weights) > len(ids):
        raise ValueError(f"{len(weights)} weights for a text of {len(ids)} tokens")
    first = 0 if len(weights) == len(ids) else 1
    merged: dict[int, float] = {}
    for token, weight in zip(ids[first : first + len(weights)], weights.tolist(), strict=True):
        if token not in special:  # who asks for the weights of tokens is to leave these out
            merged[token] = max(weight, merged.get(token, -np.inf))
    return SparseVector.of(list(merged), list(merged.values()))
