"""Embedding servers: which of the usual interfaces they speak, and what they answer to texts.

OpenAI's /v1/embeddings (vLLM, infinity, llama.cpp, SGLang and many more); text-embeddings-inference
(TEI) with /embed, /embed_sparse and /embed_all; vLLM's /pooling for sparse weights and
multi-vectors. Knows nothing of verdicts or causes.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np

from tercet.endpoint import Client, Endpoint, EndpointError, RejectedError, first_of, wait_for
from tercet.errors import InputError
from tercet.evaluate.doctor.answers import read_sparse, read_value, token_weights
from tercet.evaluate.doctor.compare import error
from tercet.evaluate.doctor.readings import Answer, Kind, Sparse
from tercet.evaluate.doctor.sequences import TOKENS

Api = Literal["openai", "tei", "vllm"]
APIS: tuple[Api, ...] = get_args(Api)
LARGE = 2000  # characters from which a text is sent alone
_SUFFIX = re.compile(r"/(v\d+/)?(embeddings|embed|embed_sparse|embed_all|pooling)$")
_VERSION = re.compile(r"/(v\d+)$")


@dataclass(frozen=True)
class Answers:
    """What was answered, by kind: one entry a text, None where it was not asked or not answered.

    refused: why, by kind and number of text.
    """

    source: str  # what answered, in words
    found: dict[Kind, list[Answer | None]]
    refused: dict[Kind, dict[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A text, the token ids that the checkpoint makes of it, and those that never weigh."""

    text: str
    ids: Sequence[int]
    weightless: Sequence[int] = ()


@dataclass(frozen=True)
class Route:
    """One path of a server: what is sent there, and how its answer is read."""

    path: str
    kind: Kind
    body: Callable[[list[str], str], dict[str, Any]]
    rows: Callable[[Any], Any]  # one value a text
    read: Callable[[Any, Text], Answer] = lambda value, text: read_value(value)

    def __str__(self) -> str:
        task = self.body([], "").get("task")
        return f"/{self.path}" + (f" ({task})" if task else "")


def _tei(path: str, kind: Kind) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"inputs": texts, "truncate": True}

    if kind == "sparse":
        return Route(
            path, kind, body, lambda answer: answer, lambda value, text: read_sparse(value)
        )
    return Route(path, kind, body, lambda answer: answer)


def _openai(path: str) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "input": texts, "encoding_format": "float"}

    return Route(path, "dense", body, lambda answer: _ordered(answer["data"], "embedding"))


def _pooling(task: str, kind: Kind, read: Callable[[Any, Text], Answer]) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "task": task, "input": texts}

    return Route("pooling", kind, body, lambda answer: _ordered(answer["data"], "data"), read)


def _by_token(value: Any, text: Text) -> Answer:
    """Who asks for the weights of tokens is to leave special ones out."""
    found = token_weights(value, text.ids)
    weighs = ~np.isin(found.ids, text.weightless)
    return Sparse(found.ids[weighs], found.weights[weighs])


def _plugin() -> Route:
    """vLLM with a plugin for M3's sparse weights, which gives ids too."""

    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "task": "plugin", "data": {"input": texts}}

    def rows(answer: Any) -> Any:
        return _ordered(answer["data"]["data"], "sparse_embedding")

    return Route("pooling", "sparse", body, rows, lambda value, text: read_sparse(value))


TEI = [_tei("embed", "dense"), _tei("embed_sparse", "sparse"), _tei("embed_all", "states")]
POOLING = [
    _pooling("token_classify", "sparse", _by_token),
    _plugin(),
    _pooling("token_embed", "multi", lambda value, text: read_value(value)),
]


def _ordered(data: list[Any], name: str) -> list[Any]:
    """The values in the order of the texts, which `index` tells."""
    places = [item.get("index") for item in data]
    if sorted(map(str, places)) == sorted(map(str, range(len(data)))):
        data = [
            item for _, item in sorted(zip(places, data, strict=True), key=lambda both: both[0])
        ]
    return [item[name] for item in data]


class Server:
    """An embedding server whose interface is known: see `find`."""

    def __init__(self, endpoint: Endpoint, name: str, routes: Sequence[Route], batch: int) -> None:
        self.endpoint, self.name, self.routes, self.batch = endpoint, name, list(routes), batch

    @staticmethod
    def find(
        endpoint: Endpoint, *, name: str | None, guess: str, api: Api | None = None, batch: int = 8
    ) -> "Server":
        """Asks which interface the server speaks, unless it is said.

        name: of the model as the server has it; None: the only one that it lists, else `guess`.
        Raises EndpointError where nothing there answers with embeddings, InputError where the
        server has several models.
        """
        endpoint, version = _root(endpoint)
        first = replace(endpoint, retries=min(1, endpoint.retries))
        wanted = _served(first, version or "v1", guess) if name is None else name
        paths = [f"{version}/embeddings"] if version else ["v1/embeddings", "embeddings"]
        said: dict[str, str] = {}

        def answering(routes: Sequence[Route]) -> list[Route]:
            probe = Server(first, wanted, [], 1)
            out: list[Route] = []
            for route in routes:
                if any(known.kind == route.kind for known in out):
                    continue
                try:
                    found = probe._ask(route, [Text("lighthouse", range(9999))])
                except EndpointError as error:
                    if getattr(error.__cause__, "kind", "") in ("no connection", "too slow", "429"):
                        raise
                    said[str(route)] = str(error)
                else:
                    if found[0] is not None:
                        out.append(route)
            return out

        routes = answering(TEI) if api in (None, "tei") else []
        if not routes and api != "tei":
            routes = answering([_openai(path) for path in paths])
            if api != "openai":
                routes += answering(POOLING)
        if not routes:
            told = "; ".join(f"{route}: {_after(text)}" for route, text in said.items())
            raise EndpointError(f"{endpoint.url} gives no embeddings: {told}")
        return Server(endpoint, wanted, routes, batch)

    @property
    def words(self) -> str:
        """What this is, for people."""
        return f"{self.endpoint.url} ({', '.join(map(str, self.routes))})"

    def ask(self, texts: Sequence[Text], kinds: Sequence[Kind], *, multi: int | None) -> Answers:
        """What the server answers; vectors of tokens are asked of texts up to 1,024 tokens.

        multi: the size of the checkpoint's multi-vectors. Raises EndpointError.
        """
        found: dict[Kind, list[Answer | None]] = {}
        refused: dict[Kind, dict[int, str]] = {}
        for route in self.routes:
            if route.kind not in kinds and not (route.kind == "states" and "multi" in kinds):
                continue
            by_token = route.kind in ("multi", "states")
            rows = [n for n, text in enumerate(texts) if not by_token or len(text.ids) <= TOKENS]
            reasons: dict[int, str] = {}
            got = self._ask(route, [texts[row] for row in rows], reasons)
            kind = _kind(got, route.kind, multi)
            got = _shaped(got) if by_token else got
            if kind not in kinds:
                continue
            found[kind] = [None] * len(texts)
            for row, answer in zip(rows, got, strict=True):
                found[kind][row] = answer
            refused[kind] = {rows[place]: why for place, why in reasons.items()}
        notes = [self._base64(texts)] if "dense" in found else []
        return Answers(self.words, found, refused, tuple(note for note in notes if note))

    def alone(self, texts: Sequence[Text], kind: Kind) -> list[Answer | None]:
        """The answers to texts that are sent one by one."""
        route = next(
            r for r in self.routes if r.kind == kind or (kind, r.kind) == ("multi", "states")
        )
        return Server(self.endpoint, self.name, [], 1)._ask(route, texts, {})

    def _base64(self, texts: Sequence[Text]) -> str | None:
        """What is wrong with the form that OpenAI's own client asks for, if anything."""
        route = next(route for route in self.routes if route.kind == "dense")
        if not route.path.endswith("embeddings"):
            return None
        coded = replace(
            route, body=lambda t, name: route.body(t, name) | {"encoding_format": "base64"}
        )
        some = [text for text in texts if len(text.text) < LARGE][:3]
        plain = self._ask(route, some, {})
        try:
            found = self._ask(coded, some, {})
        except EndpointError as failed:
            return f"base64, which OpenAI's own client asks for, fails: {failed}"
        if any(a is None for a in found):
            return "base64, which OpenAI's own client asks for, is refused"
        for a, b in zip(found, plain, strict=True):
            if a is not None and b is not None and error(a, b) > 1e-2:
                return "base64, which OpenAI's own client asks for, gives other numbers"
        return None

    def _ask(
        self, route: Route, texts: Sequence[Text], refused: dict[int, str] | None = None
    ) -> list[Answer | None]:
        """One answer a text; with `refused`, a text that the server rejects is None."""
        parts = list(_batches(texts, self.batch))
        values: list[Any] = [None] * len(texts)
        given: set[int] = set()

        async def send(client: Client, rows: list[int]) -> None:
            body = route.body([texts[row].text for row in rows], self.name)
            try:
                answer = await client.post(route.path, body)
            except RejectedError as error:
                if refused is None:
                    raise
                if len(rows) == 1:
                    refused[rows[0]] = _after(str(error))
                    return
                half = len(rows) // 2
                await send(client, rows[:half])
                await send(client, rows[half:])
                return
            for row, value in zip(rows, self._rows(route, answer, len(rows)), strict=True):
                values[row] = value
                given.add(row)

        async def everything() -> None:
            async with Client(self.endpoint) as client:
                try:
                    async with asyncio.TaskGroup() as group:
                        for rows in parts:
                            group.create_task(send(client, rows))
                except BaseExceptionGroup as errors:
                    raise first_of(errors) from first_of(errors).__cause__

        wait_for(everything())
        out: list[Answer | None] = []
        for row, text in enumerate(texts):
            try:
                out.append(route.read(values[row], text) if row in given else None)
            except ValueError as error:
                raise EndpointError(
                    f"{self.endpoint.url}{route}: the answer to {text.text[:30]!r} cannot be read: "
                    f"{error}"
                ) from error
        return out

    def _rows(self, route: Route, answer: Any, count: int) -> list[Any]:
        where = f"{self.endpoint.url}{route}"
        try:
            rows = route.rows(answer)
        except (KeyError, TypeError, AttributeError) as error:
            shown = repr(answer)[:80]
            raise EndpointError(f"{where}: an answer without embeddings: {shown}") from error
        if not isinstance(rows, list):
            raise EndpointError(f"{where}: an answer without embeddings: {repr(answer)[:80]}")
        if len(rows) != count:
            raise EndpointError(f"{where}: {len(rows)} answers to {count} texts in one request")
        return rows


def _batches(texts: Sequence[Text], size: int) -> list[list[int]]:
    """Numbers of texts that are sent together: neighbours, of which long ones go alone."""
    out: list[list[int]] = []
    for row, text in enumerate(texts):
        fits = out and len(out[-1]) < size and len(texts[out[-1][-1]].text) < LARGE
        if fits and len(text.text) < LARGE:
            out[-1].append(row)
        else:
            out.append([row])
    return out


def _shaped(answers: list[Answer | None]) -> list[Answer | None]:
    """Gives texts without any vector the size that the vectors of others have."""
    arrays = [a for a in answers if a is not None and not isinstance(a, Sparse)]
    none = np.zeros((0, next((a.shape[1] for a in arrays if a.ndim == 2), 0)), dtype=np.float32)
    return [none if isinstance(a, np.ndarray) and not a.size else a for a in answers]


def _kind(answers: Sequence[Answer | None], said: Kind, multi: int | None) -> Kind:
    """The kind that answers are of: /embed_all may give states or multi-vectors."""
    first = next((a for a in answers if a is not None), None)
    if isinstance(first, Sparse):
        return "sparse"
    if first is None or first.ndim == 1:
        return "dense" if said == "dense" else said
    if said == "states" and first.shape[1] == multi:
        unit = np.allclose(np.linalg.norm(first, axis=1), 1, atol=0.05)
        return "multi" if unit else "states"
    return "multi" if said == "dense" else said


def _root(endpoint: Endpoint) -> tuple[Endpoint, str | None]:
    """The address without the path of a request, and the version that stood in it, such as v1."""
    url = endpoint.url.rstrip("/")
    if match := _SUFFIX.search(url):
        url = url[: match.start()] + (f"/{match[1].rstrip('/')}" if match[1] else "")
    version = _VERSION.search(url)
    if version:
        url = url[: version.start()]
    return replace(endpoint, url=url), version[1] if version else None


def _served(endpoint: Endpoint, version: str, guess: str) -> str:
    """The name of the only model that a server lists; `guess` where it lists none, or that one."""
    import httpx2

    key = endpoint.key()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = f"{endpoint.url}/{version}/models"
    try:
        answer = httpx2.get(url, headers=headers, timeout=min(10, endpoint.timeout)).json()
        names = [str(model["id"]) for model in answer["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return guess  # many servers list nothing; those of one model take any name
    if len(names) > 1 and guess not in names:
        raise InputError(
            f"{endpoint.url} has {len(names)} models: name one with --name: {', '.join(names[:20])}"
        )
    return names[0] if len(names) == 1 else guess


def _after(message: str) -> str:
    """A message of the client without the address it begins with."""
    return re.sub(r"^https?://\S+: ", "", message)


def is_url(target: str) -> bool:
    """Whether a target is an address rather than a folder or a hub id."""
    return urlsplit(target).scheme in ("http", "https")
