"""Embedding servers: which of the usual interfaces they speak, and what they answer to texts.

Knows nothing of verdicts or causes.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np

from tercet.endpoint import Client, Endpoint, EndpointError, RejectedError, first_of, wait_for
from tercet.errors import InputError
from tercet.evaluate.doctor.compare import Fact, error
from tercet.evaluate.doctor.readings import Answer, Kind, Sparse
from tercet.evaluate.doctor.routes import POOLING, TEI, Route, Text, openai
from tercet.evaluate.doctor.sequences import TOKENS

Api = Literal["openai", "tei", "vllm"]
LARGE = 2000  # characters from which a text is sent alone
SHOWN = 120  # characters of a reason
SURE = ("no connection", "too slow", "429")  # failures that are no matter of the path
_SUFFIX = re.compile(r"/(v\d+/)?(embeddings|embed|embed_sparse|embed_all|pooling)$")
_VERSION = re.compile(r"/(v\d+)$")
_BASE64 = "base64, which OpenAI's own client asks for"

T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """What was answered, by kind: one entry a text, None where it was not asked or not answered.

    refused: why, by kind and number of text.
    """

    source: str  # what answered, in words
    found: dict[Kind, list[Answer | None]]
    refused: dict[Kind, dict[int, str]] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Server:
    """An embedding server whose interface is known: see `find`."""

    endpoint: Endpoint
    name: str  # of the model, as the server has it
    routes: tuple[Route, ...] = ()  # one a kind
    batch: int = 1  # texts of a request

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
        named = _served(first, version or "v1", guess) if name is None else name
        paths = [f"{version}/embeddings"] if version else ["v1/embeddings", "embeddings"]
        probe = Server(first, named)

        async def answering(client: Client) -> tuple[list[Route], dict[str, str]]:
            said: dict[str, str] = {}
            if api in (None, "tei") and (routes := await probe._answering(client, TEI, said)):
                return routes, said
            if api == "tei":
                return [], said
            routes = await probe._answering(client, [openai(path) for path in paths], said)
            if api != "openai":
                routes += await probe._answering(client, POOLING, said)
            return routes, said

        routes, said = _with_client(first, answering)
        if not routes:
            raise EndpointError(f"{endpoint.url} gives no embeddings: {_grouped(said)}")
        return Server(endpoint, named, tuple(routes), batch)

    @property
    def words(self) -> str:
        """What this is, for people."""
        return f"{self.endpoint.url} ({', '.join(map(str, self.routes))})"

    def ask(self, texts: Sequence[Text], kinds: Sequence[Kind], *, multi: int | None) -> Answers:
        """What the server answers; vectors of tokens are asked of texts up to 1,024 tokens.

        multi: the size of the checkpoint's multi-vectors. Raises EndpointError.
        """
        answers = Answers(self.words, {})

        async def everything(client: Client) -> list[Fact]:
            for route in self.routes:
                if route.kind in kinds or _may_be_other(route):
                    await self._add(client, route, texts, kinds, multi, answers)
            return await self._base64(client, texts) if "dense" in answers.found else []

        return replace(answers, facts=tuple(_with_client(self.endpoint, everything)))

    def alone(self, texts: Sequence[Text], kind: Kind) -> list[Answer | None]:
        """The answers to texts that are sent one by one."""
        several = [r for r in self.routes if r.kind == kind or _may_be_other(r)]
        route = next((r for r in several if r.kind == kind), several[0])
        one = replace(self, batch=1)
        return _with_client(self.endpoint, lambda client: one._ask(client, route, texts, {}))

    async def _answering(
        self, client: Client, routes: Sequence[Route], said: dict[str, str]
    ) -> list[Route]:
        """The routes that answer, one a kind; `said` gets the reasons of the others."""
        out: list[Route] = []
        for route in routes:
            if any(known.kind == route.kind for known in out):
                continue
            try:
                await self._ask(client, route, [Text("lighthouse", range(9999))])
            except EndpointError as failed:
                if getattr(failed.__cause__, "kind", "") in SURE:
                    raise
                said[str(route)] = _after(str(failed))
            else:
                out.append(route)
        return out

    async def _add(
        self,
        client: Client,
        route: Route,
        texts: Sequence[Text],
        kinds: Sequence[Kind],
        multi: int | None,
        answers: Answers,
    ) -> None:
        """Puts what a route answers to all texts into `answers`."""
        by_token = route.kind in ("multi", "states")
        rows = [n for n, text in enumerate(texts) if not by_token or len(text.ids) <= TOKENS]
        refused: dict[int, str] = {}
        got = await self._ask(client, route, [texts[row] for row in rows], refused)
        kind = _kind(got, route.kind, multi)
        if kind in kinds:
            found: list[Answer | None] = [None] * len(texts)
            for row, answer in zip(rows, _shaped(got) if by_token else got, strict=True):
                found[row] = answer
            answers.found[kind] = found
            answers.refused[kind] = {rows[place]: why for place, why in refused.items()}

    async def _base64(self, client: Client, texts: Sequence[Text]) -> list[Fact]:
        """What is wrong with the form that OpenAI's own client asks for, if anything."""
        route = next(route for route in self.routes if route.kind == "dense")
        if not route.path.endswith("embeddings"):
            return []
        form = {"encoding_format": "base64"}
        coded = replace(route, body=lambda some, name: route.body(some, name) | form)
        few = [text for text in texts if text.text.strip() and len(text.text) < LARGE][:3]
        plain = await self._ask(client, route, few, {})
        try:
            found = await self._ask(client, coded, few)
        except EndpointError as failed:
            return [Fact(f"{_BASE64}, fails: {_after(str(failed))}", False)]
        for a, b in zip(found, plain, strict=True):
            if a is not None and b is not None and error(a, b) > 1e-2:
                return [Fact(f"{_BASE64}, gives other numbers than plain floats")]
        return []

    async def _ask(
        self,
        client: Client,
        route: Route,
        texts: Sequence[Text],
        refused: dict[int, str] | None = None,
    ) -> list[Answer | None]:
        """One answer a text; with `refused`, a text that the server rejects is None."""
        values: dict[int, Any] = {}

        async def send(rows: list[int]) -> None:
            try:
                body = route.body([texts[row].text for row in rows], self.name)
                answer = await client.post(route.path, body)
            except RejectedError as failed:
                if refused is None:
                    raise
                if len(rows) == 1:
                    refused[rows[0]] = _after(str(failed))
                else:
                    half = len(rows) // 2
                    await send(rows[:half])
                    await send(rows[half:])
            else:
                values.update(zip(rows, self._rows(route, answer, len(rows)), strict=True))

        try:
            async with asyncio.TaskGroup() as group:
                for rows in _batches(texts, self.batch):
                    group.create_task(send(rows))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from first_of(errors).__cause__
        return [
            self._read(route, values[row], text) if row in values else None
            for row, text in enumerate(texts)
        ]

    def _rows(self, route: Route, answer: Any, count: int) -> list[Any]:
        where = f"{self.endpoint.url}{route}"
        try:
            rows = route.rows(answer)
        except (KeyError, TypeError, AttributeError):
            rows = None
        if not isinstance(rows, list):
            raise EndpointError(f"{where}: an answer without embeddings: {repr(answer)[:80]}")
        if len(rows) != count:
            raise EndpointError(f"{where}: {len(rows)} answers to {count} texts in one request")
        return rows

    def _read(self, route: Route, value: Any, text: Text) -> Answer:
        try:
            return route.read(value, text)
        except ValueError as wrong:
            raise EndpointError(
                f"{self.endpoint.url}{route}: the answer to {text.text[:30]!r} cannot be read: "
                f"{wrong}"
            ) from wrong


def _with_client(endpoint: Endpoint, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Runs work with one client, to its end."""

    async def run() -> T:
        async with Client(endpoint) as client:
            return await work(client)

    return wait_for(run())


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


def _may_be_other(route: Route) -> bool:
    """Whether answers may be of another kind than the path says, see `_kind`."""
    return route.path.endswith("embeddings") or route.kind == "states"


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


def _grouped(said: dict[str, str]) -> str:
    """Which paths failed for which reason, each reason once and in short."""
    paths: dict[str, list[str]] = {}
    for path, why in said.items():
        why = re.sub(
            r"^no such address or model (\(\d+\)): .*?/v1: ", r"no such address or model \1: ", why
        )
        paths.setdefault(why[:SHOWN], []).append(path)
    return "; ".join(f"{', '.join(some)}: {why}" for why, some in paths.items())


def is_url(target: str) -> bool:
    """Whether a target is an address rather than a folder or a hub id."""
    return urlsplit(target).scheme in ("http", "https")
