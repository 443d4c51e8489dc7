"""The routes: each takes a request of `wire`, asks the processes, and gives an answer of `wire`.

One table has them all; the OpenAPI document is made from it. The shapes that others have published
are in `dialects`. Knows nothing of models or files of an index.
"""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tercet.config import Head
from tercet.documents.base import LONGEST
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.serve import dialects, wire
from tercet.serve.app import (
    BODY_SECONDS,
    NDJSON,
    UPLOADED,
    ClientGone,
    Endpoint,
    Guard,
    HttpError,
    Server,
    parse,
    read_body,
)
from tercet.serve.dialects import Made, base64_of, pair_scores, read_tokens, weights_of

HEADS: dict[str, Head] = {"dense": "dense", "sparse": "sparse", "multivector": "multi"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


# Our own


async def info(server: Server) -> dict[str, Any]:
    facts, settings = server.model.facts, server.settings
    held = None
    if server.searcher is not None:
        held = await server.searcher.call("info")
        held["writable"] = server.writer is not None
    return {
        "version": version("tercet"),
        "model": {
            "id": server.model_id,
            "fingerprint": facts["fingerprint"],
            "heads": facts["heads"],
            "dims": facts["dims"],
            "max_length": facts["max_length"],
            "weights": facts["weights"],
            "min_score": facts["min_score"],
            "dtype": facts["dtype"],
            "device": facts["device"],
        },
        "index": held,
        # as text-embeddings-inference has them
        "model_id": server.model_id,
        "served_model_name": server.model_id,
        "model_sha": facts["fingerprint"],
        "model_dtype": facts["dtype"],
        "model_type": {"embedding": {"pooling": "cls"}},
        "max_concurrent_requests": settings.max_requests,
        "max_input_length": facts["max_length"],
        "max_batch_tokens": facts["budget"],
        "max_batch_requests": None,
        "max_client_batch_size": settings.queue_tokens // 2,
        "auto_truncate": False,
        "tokenization_workers": 2,
        "sha": None,
        "docker_label": None,
    }


async def health(server: Server) -> dict[str, str]:
    return {"status": "ok"}


async def ready(server: Server) -> dict[str, str]:
    away = [process.name for process in server.processes if not process.ready.is_set()]
    if server.draining or away:
        what = "the server ends" if server.draining else f"not running: {', '.join(away)}"
        raise HttpError(503, "not_ready", what, {"retry-after": "1"})
    return {"status": "ready"}


async def metrics(server: Server) -> Response:
    for process in server.processes:
        server.metrics.restarts.labels(process.name).set(process.restarts)
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


Kind = Literal["float32", "float16", "int8"]


def numbers(values: npt.NDArray[Any], kind: Kind, packed: bool) -> Any:
    """Values in a dtype, as a list or as base64."""
    dtype = {"float32": "<f4", "float16": "<f2", "int8": "i1"}[kind]
    if packed:
        return base64_of(values, dtype)
    return values.astype(dtype).tolist()


def quantized(
    rows: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Each row as int8 and the scale that makes its numbers of them, (N, M) and (N,)."""
    rows = rows.astype(np.float32)
    scales = np.maximum(np.abs(rows).max(axis=1, initial=0.0), 1e-12) / 127
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


async def encode(server: Server, request: wire.EncodeRequest) -> Made[wire.EncodeResponse]:
    start = time.perf_counter()
    params = request.params
    heads = tuple(HEADS[name] for name in dict.fromkeys(params.output_types))
    rows = await server.encode(
        [item.text for item in request.items],
        heads,
        role="query" if params.options.is_query else "passage",
        max_length=params.max_length,
        truncate=params.truncate,
    )
    return lambda: encode_response(server, request, rows, start)


def encode_response(
    server: Server, request: wire.EncodeRequest, rows: Embeddings, start: float
) -> wire.EncodeResponse:
    """The answer to a request that came at `start`."""
    params = request.params
    kind, packed = params.output_dtype, params.encoding == "base64"
    assert rows.lengths is not None
    assert rows.truncated is not None
    items = []
    for number, item in enumerate(request.items):
        made = wire.EncodedItem(item.id, int(rows.lengths[number]), bool(rows.truncated[number]))
        if rows.dense is not None:
            vector = rows.dense[number]
            made.dense = wire.DenseValues(len(vector), kind, None)
            if kind == "int8":
                codes, scales = quantized(vector[None])
                vector, made.dense.scale = codes[0], float(scales[0])
            made.dense.values = numbers(vector, kind, packed)
        if rows.sparse is not None:
            part = slice(*rows.sparse.indptr[number : number + 2])
            ids = rows.sparse.indices[part]
            exact: Kind = "float32" if kind == "int8" else kind  # weights are few
            made.sparse = wire.SparseValues(
                int(rows.sparse.shape[1]),
                exact,
                base64_of(ids, "<i4") if packed else ids.tolist(),
                numbers(rows.sparse.data[part], exact, packed),
            )
        if rows.multi is not None:
            tokens: npt.NDArray[Any] = rows.tokens(number)
            made.multivector = wire.MultiValues(tokens.shape[1], len(tokens), kind, None)
            if kind == "int8":
                tokens, scales = quantized(tokens)
                made.multivector.scales = numbers(scales, "float32", packed)
            made.multivector.values = numbers(tokens, kind, packed)
        items.append(made)
    usage = wire.TotalTokens(read_tokens(rows))
    timing = {"total_ms": round(1e3 * (time.perf_counter() - start), 3)}
    return wire.EncodeResponse(server.model_id, items, usage, timing)


async def score(server: Server, request: wire.PassagesRequest) -> wire.PassagesResponse:
    weights = weights_of(request.weights)
    parts = await pair_scores(
        server, request.query, request.passages, weights=weights, truncate=request.truncate
    )
    none = [None] * len(request.passages)
    rows = zip(parts["scores"], *(parts.get(head, none) for head in HEADS.values()), strict=True)
    scores = [wire.PassageScores(number, *row) for number, row in enumerate(rows)]
    used = server.model.facts["weights"] if weights is None else asdict(weights)
    return wire.PassagesResponse(scores, used, wire.TotalTokens(parts["tokens"]))


async def search(server: Server, request: wire.SearchRequest) -> wire.SearchResponse:
    start = time.perf_counter()
    searcher = server.indexed()
    query = request.query
    if not query.strip():
        raise InputError("query is empty: ask something")
    vectors = await server.encode([query], server.model.facts["heads"], role="query")
    options: dict[str, Any] = {}
    if request.candidates is not None:
        options["candidates"] = request.candidates or None
    answer = await searcher.call(
        "search",
        query,
        vectors,
        k=request.k,
        mode=request.mode,
        weights=weights_of(request.weights),
        filter=request.filter or None,
        chunks=request.chunks,
        min_score=request.min_score,
        **options,
    )
    took = round(1e3 * (time.perf_counter() - start), 3)
    return wire.SearchResponse(query, answer["weights"], answer["hits"], took)


async def explain(server: Server, request: wire.ExplainRequest) -> dict[str, Any]:
    texts = (request.query, request.title, request.passage)
    async with server.admitted([len(text.encode()) for text in texts]):
        explanation: dict[str, Any] = await server.model.call(
            "explain", request.query, request.passage, request.title
        )
        return explanation


async def list_documents(server: Server, request: Request) -> Response:
    limit = request.query_params.get("limit", "100")
    if not (re.fullmatch("[0-9]{1,4}", limit) and 1 <= int(limit) <= 1000):
        raise HttpError(422, "invalid_request", f"limit: 1 to 1000, not {limit[:20]!r}")
    after = request.query_params.get("after", "")
    rows = await server.indexed().call("documents", after, int(limit))
    page = wire.DocumentPage(
        [wire.DocumentFacts(**row) for row in rows],
        rows[-1]["id"] if len(rows) == int(limit) else None,
    )
    return Response(msgspec.json.encode(page), media_type="application/json")


async def add_documents(server: Server, request: Request) -> Response:
    server.writable()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    events = Events() if NDJSON in request.headers.get("accept", "") else None
    on_event = None if events is None else events.put
    if kind == "multipart/form-data":
        upload = await _receive(server, request)
        try:
            work = server.change("add_files", upload.files, on_event=on_event)
        except HttpError:
            await upload.remove()
            raise
        work.add_done_callback(lambda _: upload.remove())
    elif kind == "application/json":
        body = await read_body(server, request)
        given = parse(body, wire.DocumentsRequest)
        documents = [msgspec.structs.asdict(document) for document in given.documents]
        work = server.change("add_documents", documents, on_event=on_event)
    else:
        raise HttpError(
            415,
            "wrong_content_type",
            "send application/json, or files as multipart/form-data",
        )
    if events is not None:
        return StreamingResponse(events.lines(work), media_type=NDJSON)
    report = await asyncio.shield(work)
    answer = msgspec.convert(report, wire.DocumentsReport)
    return Response(msgspec.json.encode(answer), media_type="application/json")


EVENTS = 256  # of a change that wait for a client
PATIENCE = 10.0  # seconds that a client may hold a change up


class Events:
    """What is told of a change while it is made, for one client, at most EVENTS at once.

    A client that reads slowly holds the change up, for PATIENCE seconds in all; from then on events
    for which there is no room are left out, and it is told how many.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(EVENTS)
        self._patience = PATIENCE
        self._left_out = 0

    @property
    def waiting(self) -> int:
        """Events that are held for the client."""
        return self._queue.qsize()

    async def put(self, event: Any) -> None:
        """Keeps an event until it is read; waits for room."""
        if not self._queue.full():
            self._queue.put_nowait(event)
            return
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                await self._queue.put(event)
        except TimeoutError:
            self._left_out += 1
        self._patience = max(0.0, self._patience - (time.monotonic() - start))

    async def lines(self, work: asyncio.Future[Any]) -> AsyncGenerator[bytes, None]:
        """A JSON line for each event, the report last."""
        ending = asyncio.create_task(self._end(work))
        try:
            while (event := await self._queue.get()) is not None:
                yield msgspec.json.encode(event) + b"\n"
            if self._left_out:
                reason = f"the client reads too slowly: {self._left_out} lines are left out"
                yield msgspec.json.encode({"kind": "note", "id": "", "reason": reason}) + b"\n"
            try:
                yield msgspec.json.encode({"kind": "done", **work.result()}) + b"\n"
            except Exception as error:  # noqa: BLE001 - the answer has begun: told in its last line
                yield msgspec.json.encode({"kind": "error", "message": str(error)}) + b"\n"
        finally:  # nobody reads any more
            ending.cancel()
            self._patience = 0.0
            while not self._queue.empty():
                self._queue.get_nowait()

    async def _end(self, work: asyncio.Future[Any]) -> None:
        await asyncio.wait({work})
        await self._queue.put(None)


@dataclass
class _Upload:
    """Files in a scratch folder (path, name), until they are removed."""

    server: Server
    folder: str
    files: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0

    def remove(self) -> asyncio.Future[None]:
        """Begins to remove them; the future is done when they are gone."""
        self.server.uploaded -= self.size
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, partial(shutil.rmtree, self.folder, ignore_errors=True))


async def _receive(server: Server, request: Request) -> _Upload:
    """The files of a form; raises HttpError for what is too large, too slow or no form."""
    settings = server.settings
    most = settings.max_upload_mb << 20
    declared = request.headers.get("content-length", "")
    too_large = HttpError(413, "body_too_large", f"more than {settings.max_upload_mb} MB")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    upload = _Upload(server, tempfile.mkdtemp(prefix="tercet-upload-"))
    receive = request.receive

    async def counted() -> Any:
        async with asyncio.timeout(BODY_SECONDS):
            message = await receive()
        size = len(message.get("body", b""))
        upload.size += size
        server.uploaded += size
        if upload.size > most:
            raise too_large
        if server.uploaded > UPLOADED:
            raise HttpError(429, "overloaded", "too much is being sent", {"retry-after": "5"})
        return message

    names = set[str]()
    try:
        form = Request(request.scope, counted).form(max_files=settings.max_files, max_fields=10)
        async with form as parts:
            for _, part in parts.multi_items():
                if not isinstance(part, UploadFile):
                    continue
                name = upload_name(part.filename or "")
                if name in names:
                    raise HttpError(422, "invalid_request", f"two files are called {name!r}")
                names.add(name)
                kind = "".join(Path(name).suffixes[-2:])[-20:]  # and how it is packed
                path = Path(upload.folder) / f"{len(upload.files):06d}{kind}"
                await asyncio.to_thread(_store, part.file, path)
                upload.files.append((str(path), name))
        if not upload.files:
            raise HttpError(422, "invalid_request", "no file in the form: send parts with a name")
    except BaseException as error:
        await upload.remove()
        if isinstance(error, TimeoutError):
            raise HttpError(408, "too_slow", "the body does not come") from error
        if isinstance(error, MultiPartException | FormParserError):
            reason = getattr(error, "message", "") or str(error)
            raise HttpError(400, "malformed", f"the form cannot be read: {reason}") from error
        if isinstance(error, ClientDisconnect):
            raise ClientGone from error
        raise
    return upload


def _store(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    with path.open("wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def upload_name(name: str) -> str:
    """A file's name as an id: a relative path without steps up; raises HttpError for none."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    short = "/".join(parts)
    if not short or len(short) > LONGEST or not short.isprintable():
        raise HttpError(422, "invalid_request", f"{name[:80]!r} is no name of a file")
    return short


async def delete_document(server: Server, request: Request) -> Response:
    id = request.path_params["id"]
    removed = await asyncio.shield(server.change("delete", [id]))
    if not removed:
        raise HttpError(404, "no_such_document", f"no document {id[:200]!r}")
    return Response(msgspec.json.encode(wire.Removed(removed)), media_type="application/json")


# The page


async def static(server: Server, request: Request) -> Response:
    """A file of the page, by its name alone."""
    return _file(request.path_params.get("name", "index.html"), request)


def _file(name: str, request: Request) -> Response:
    path = files("tercet.serve") / "static" / name
    if "/" in name or name.startswith(".") or not path.is_file():
        raise HttpError(404, "not_found", f"nothing is at {request.url.path[:200]}")
    headers = {
        "content-security-policy": PAGE_POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    kind = TYPES.get(Path(name).suffix, "application/octet-stream")
    return Response(path.read_bytes(), headers=headers, media_type=kind)


async def api_page(server: Server, request: Request) -> Response:
    """The page that shows the OpenAPI document."""
    return _file("docs.html", request)


@cache
def _described() -> bytes:
    from tercet.serve.openapi import document

    return msgspec.json.encode(document(ENDPOINTS))


async def openapi(server: Server) -> Response:
    return Response(_described(), media_type="application/json")


def _post(path: str, summary: str, handler: Any, takes: Any, gives: Any, **more: Any) -> Endpoint:
    return Endpoint("POST", path, summary, handler, takes, gives, **more)


def _get(path: str, summary: str, handler: Any, **more: Any) -> Endpoint:
    return Endpoint("GET", path, summary, handler, **more)


def _tei(path: str, summary: str, handler: Any, takes: Any, gives: Any) -> Endpoint:
    tag = "text-embeddings-inference"
    return Endpoint("POST", path, summary, handler, takes, gives, dialect="tei", tag=tag)


_COHERE, _RANKS = "Cohere and Jina", wire.RerankResponse
_EMBED = wire.EmbedRequest
ENDPOINTS: tuple[Endpoint, ...] = (
    _post(
        "/v1/embeddings",
        "Dense vectors, as OpenAI's",
        dialects.embeddings,
        wire.EmbeddingRequest,
        wire.EmbeddingList,
        tag="OpenAI",
    ),
    _post("/v1/rerank", "As Jina's", dialects.rerank, wire.RerankRequest, _RANKS, tag=_COHERE),
    _post("/v2/rerank", "As Cohere's", dialects.rerank, wire.RerankRequest, _RANKS, tag=_COHERE),
    _post(
        "/v2/embed",
        "As Cohere's",
        dialects.cohere_embed,
        wire.CohereEmbedRequest,
        wire.CohereEmbedResponse,
        tag=_COHERE,
    ),
    _post(
        "/v1/score",
        "Scores of pairs, as vLLM's",
        dialects.score_pairs,
        wire.ScoreRequest,
        wire.ScoreList,
        tag="vLLM",
    ),
    _post(
        "/api/embed",
        "As Ollama's",
        dialects.ollama_embed,
        wire.OllamaRequest,
        wire.OllamaResponse,
        tag="Ollama",
    ),
    _tei("/embed", "Dense vectors", dialects.tei_embed, _EMBED, list[list[float]]),
    _tei(
        "/embed_sparse",
        "Weights of tokens",
        dialects.tei_sparse,
        _EMBED,
        list[list[wire.SparseValue]],
    ),
    _tei(
        "/embed_all", "A vector for each token", dialects.tei_all, _EMBED, list[list[list[float]]]
    ),
    _tei(
        "/rerank",
        "Texts by their hybrid score",
        dialects.tei_rerank,
        wire.TeiRerankRequest,
        list[wire.TeiRank] | _RANKS,
    ),
    _tei(
        "/similarity",
        "Cosines of a sentence with others",
        dialects.similarity,
        wire.SimilarityRequest,
        list[float],
    ),
    _tei("/tokenize", "Tokens", dialects.tokenize, wire.TokenizeRequest, list[list[wire.Token]]),
    _tei("/decode", "Texts of token ids", dialects.decode, wire.DecodeRequest, list[str]),
    _post(
        "/encode",
        "Any of the three representations",
        encode,
        wire.EncodeRequest,
        wire.EncodeResponse,
    ),
    _post(
        "/score",
        "A query against passages, every part",
        score,
        wire.PassagesRequest,
        wire.PassagesResponse,
    ),
    _post("/search", "Ask the index", search, wire.SearchRequest, wire.SearchResponse),
    _post(
        "/explain",
        "Why a passage answers a query",
        explain,
        wire.ExplainRequest,
        dict[str, Any],
    ),
    _get(
        "/documents",
        "The documents of the index",
        list_documents,
        gives=wire.DocumentPage,
        raw=True,
        query={"after": str, "limit": int},
    ),
    _post(
        "/documents",
        "Add or replace documents, or files as multipart/form-data",
        add_documents,
        wire.DocumentsRequest,
        wire.DocumentsReport,
        raw=True,
    ),
    Endpoint(
        "DELETE",
        "/documents/{id:path}",
        "Remove a document",
        delete_document,
        gives=wire.Removed,
        raw=True,
    ),
    _get("/v1/models", "The model", dialects.models, gives=wire.ModelList, tag="OpenAI"),
    _get("/info", "What is served", info, gives=dict[str, Any]),
    _get("/health", "Whether the server lives", health, gives=dict[str, str], open=True),
    _get("/ready", "Whether it can answer", ready, gives=dict[str, str], open=True),
    _get("/metrics", "For Prometheus", metrics),
    _get("/openapi.json", "This document", openapi, open=True),
    _get("/docs", "It as a page", api_page, raw=True, open=True),
    _get("/", "The search page", static, raw=True, open=True),
    _get("/static/{name}", "Its files", static, raw=True, open=True),
)


class Routes:
    """The application: finds the endpoint of a path and lets it answer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._prefix: dict[str, dict[str, Endpoint]] = {}
        for endpoint in ENDPOINTS:
            head, brace, _ = endpoint.path.partition("{")
            table = self._prefix if brace else self._exact
            table.setdefault(head, {})[endpoint.method] = endpoint

    def match(self, scope: Scope) -> tuple[str, Endpoint | None]:
        """The path's template, "unknown" where there is none, and the endpoint of the method."""
        path, method = scope["path"], scope["method"]
        method = "GET" if method == "HEAD" else method
        methods = self._exact.get(path)
        if methods is None:
            for head, several in self._prefix.items():
                if path.startswith(head) and len(path) > len(head):
                    methods = several
                    name = "id" if head == "/documents/" else "name"
                    scope["path_params"] = {name: path[len(head) :]}
        if methods is None:
            return "unknown", None
        scope["allowed"] = ", ".join(methods)
        endpoint = methods.get(method)
        return (endpoint or next(iter(methods.values()))).path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, endpoint = self.match(scope)
        request = Request(scope, receive)
        if endpoint is None:
            if path == "unknown":
                raise HttpError(404, "not_found", f"nothing is at {scope['path'][:200]}: see /docs")
            raise HttpError(
                405, "wrong_method", f"{path} takes {scope['allowed']}", {"allow": scope["allowed"]}
            )
        response = await endpoint.answer(self.server, request)
        await response(scope, receive, send)


def application(server: Server) -> Guard:
    """The ASGI application of a server."""
    routes = Routes(server)
    return Guard(routes, server, routes.match)
