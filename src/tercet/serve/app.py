"""The server: who may ask, how much at once, and what every request and failure looks like.

`Server` owns the processes and what waits for them; `Guard` stands before every route; `Endpoint`
turns a body into a request and what a handler gives into an answer; `run` serves until it is told
to stop. The handlers are in `routes`. Knows nothing of models or indexes.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import math
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tercet.config import BUNDLED_NAME, Head
from tercet.embeddings import Embeddings
from tercet.errors import InputError, MissingExtraError, StoreError, TercetError
from tercet.serve import wire
from tercet.serve.processes import InternalError, OnEvent, Process, Unavailable
from tercet.serve.settings import LOOPBACK, ServeSettings

log = logging.getLogger("tercet.serve")

BYTES_PER_TOKEN = 4  # of UTF-8, about, in most languages; counts what waits before it is tokenised
JSON, MSGPACK, NDJSON = "application/json", "application/msgpack", "application/x-ndjson"
BODY_SECONDS = 60.0  # for a body to come
RECEIVED = 512 << 20  # bytes of bodies that are held at once
UPLOADED = 4 << 30  # bytes of files that are held at once, on disk
WRITES = 64  # changes of the index that may wait
DRAIN_SECONDS = 30  # for requests under way when the server is told to stop
WRITER_NICE = 10  # indexing takes what searches leave

Dialect = Literal["openai", "tei"]


class HttpError(Exception):
    """An answer that is no success: status, a code for programs, a sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}


def http_error(error: BaseException, request_id: str) -> HttpError:
    """What a failure looks like to who asked."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, Unavailable):
        return HttpError(503, "unavailable", str(error), {"retry-after": "1"})
    if isinstance(error, InputError):
        return HttpError(422, "invalid_request", str(error))
    if isinstance(error, StoreError):
        return HttpError(503, "index_unavailable", str(error), {"retry-after": "5"})
    if isinstance(error, TercetError):
        return HttpError(422, "model_error", str(error))
    if not isinstance(error, InternalError):
        log.error("defect", exc_info=error, extra={"facts": {"request_id": request_id}})
    return HttpError(500, "internal", f"a defect of the server; its log has request {request_id}")


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_TEI_TYPES = {400: "Empty", 413: "Validation", 422: "Validation", 429: "Overloaded"}


def error_response(error: HttpError, dialect: Dialect, request_id: str) -> Response:
    """An error in the shape of the API that was asked."""
    if dialect == "tei":
        kind = _TEI_TYPES.get(error.status, "Unhealthy" if error.status == 503 else "Backend")
        body: wire.Answer = wire.TeiError(error.message, kind)
    else:
        usual = "server_error" if error.status >= 500 else "invalid_request_error"
        body = wire.ErrorResponse(
            wire.ErrorBody(error.message, _TYPES.get(error.status, usual), error.code)
        )
    headers = {**error.headers, "x-request-id": request_id}
    return Response(msgspec.json.encode(body), error.status, headers, JSON)


# What waits, and what is counted


class Metrics:
    """What Prometheus is told; no texts, and routes by their templates."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tercet_requests",
            "Requests by route and status",
            ["route", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "tercet_request_seconds",
            "Seconds of a request by route",
            ["route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.under_way = Gauge("tercet_requests_under_way", "Requests now", registry=registry)
        self.tokens = Counter("tercet_tokens", "Tokens that were encoded", registry=registry)
        self.texts = Counter("tercet_texts", "Texts that were encoded", registry=registry)
        self.waiting = Gauge(
            "tercet_queue_tokens", "Tokens that wait for the model, about", registry=registry
        )
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
        self.pass_tokens = Histogram(
            "tercet_pass_tokens", "Tokens of a pass of the model", buckets=sizes, registry=registry
        )
        self.pass_texts = Histogram(
            "tercet_pass_texts", "Texts of a pass", buckets=sizes[:11], registry=registry
        )
        self.pass_seconds = Histogram(
            "tercet_pass_seconds", "Seconds of a pass of the model", registry=registry
        )
        self.restarts = Gauge(
            "tercet_process_restarts", "Restarts by process", ["process"], registry=registry
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class Server:
    """The processes behind the routes, and what waits for them."""

    def __init__(
        self,
        settings: ServeSettings,
        *,
        index: str | None = None,
        model: str | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> None:
        self.settings, self.index = settings, index
        self._model = {"model": model, "revision": revision}
        self._device = device
        self.keys = settings.keys()
        self.metrics = Metrics()
        self.draining = False
        self.under_way = 0
        self.received = 0  # bytes of bodies
        self.uploaded = 0  # bytes of files until they are indexed
        self.writes = 0  # changes of the index that wait or are made
        self._waiting = 0  # tokens, about
        self._rate = 0.0  # tokens a second, while passes run
        self.model: Process
        self.searcher: Process | None = None
        self.writer: Process | None = None

    @property
    def processes(self) -> list[Process]:
        """All that run."""
        return [process for process in (self.model, self.searcher, self.writer) if process]

    async def start(self) -> None:
        """Starts the processes; raises the TercetError that says what is wrong."""
        model = dict(self._model)
        local = model["model"] is None
        writer = searcher = None
        recorded: dict[str, Any] | None = None
        if self.index is not None:
            if self.settings.read_only:
                reader = Process("tercet.serve.search:Recorded", {"index": self.index})
                await reader.start()
                recorded = reader.facts
                await reader.stop()
            else:
                options: dict[str, Any] = {"index": self.index, **model}
                writer = Process("tercet.serve.search:Writer", options, nice=WRITER_NICE)
                await writer.start()
                recorded = writer.facts
            if local and recorded is not None:
                model["model"] = recorded["source"]
        options = {
            **model,
            "device": self._device,
            "download": not local,
            "budget": self.settings.batch_tokens,
        }
        self.writer = writer
        self.model = Process("tercet.serve.model:Model", options)
        self.model.on_event = self._passed
        try:
            await self.model.start()
            if recorded is not None and recorded["fingerprint"] != self.model.facts["fingerprint"]:
                raise StoreError(
                    f"{self.index} holds vectors of another model ({recorded['source'] or 'the'}"
                    f"{'' if recorded['source'] else ' bundled one'}) than {self.model_id}: serve "
                    "it with that one, or index the documents anew"
                )
            if self.index is not None:
                options = {"index": self.index, "model": self.model.facts}
                searcher = Process("tercet.serve.search:Searcher", options)
                await searcher.start()
                self.searcher = searcher
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Lets the processes finish and end."""
        await asyncio.gather(*(process.stop() for process in self.processes))

    @property
    def model_id(self) -> str:
        """The name that answers have: the folder's or the hub's."""
        source = self.model.facts["source"] if self.model.facts else self._model["model"]
        if source is None:
            return BUNDLED_NAME
        return Path(source).name if os.path.isdir(source) else str(source)

    def _passed(self, event: tuple[int, int, float]) -> None:
        texts, tokens, seconds = event
        self.metrics.texts.inc(texts)
        self.metrics.tokens.inc(tokens)
        self.metrics.pass_texts.observe(texts)
        self.metrics.pass_tokens.observe(tokens)
        self.metrics.pass_seconds.observe(seconds)
        rate = tokens / max(seconds, 1e-6)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate

    @asynccontextmanager
    async def admitted(self, sizes: Iterator[int] | Sequence[int]) -> AsyncIterator[None]:
        """A place in the queue for texts of so many bytes.

        Raises HttpError: 413 for what no queue takes, 429 where it is full.
        """
        longest = self.model.facts["max_length"]
        tokens = sum(min(longest, 2 + size // BYTES_PER_TOKEN) for size in sizes)
        limit = self.settings.queue_tokens
        if tokens > limit:
            raise HttpError(
                413,
                "too_many_tokens",
                f"about {tokens:,} tokens in one request, the server takes {limit:,}: send less",
            )
        if self._waiting + tokens > limit:
            seconds = math.ceil(min(60.0, max(1.0, self._waiting / max(self._rate, 1.0))))
            raise HttpError(
                429,
                "overloaded",
                f"the queue is full: try again in {seconds} s",
                {"retry-after": str(seconds)},
            )
        self._waiting += tokens
        self.metrics.waiting.set(self._waiting)
        try:
            yield
        finally:
            self._waiting -= tokens
            self.metrics.waiting.set(self._waiting)

    async def encode(
        self, texts: list[str] | list[list[int]], heads: Sequence[Head], **options: Any
    ) -> Embeddings:
        """Embeddings of texts or token ids, in one pass with what others ask now."""
        if lacking := [head for head in heads if head not in self.model.facts["heads"]]:
            raise HttpError(
                422, "no_such_head", f"the model {self.model_id} has no {lacking[0]} head"
            )
        sizes = [
            BYTES_PER_TOKEN * len(t) if isinstance(t, list) else len(t.encode()) for t in texts
        ]
        async with self.admitted(sizes):
            rows: Embeddings = await self.model.call("encode", texts, heads=tuple(heads), **options)
            return rows

    def change(
        self, method: str, *arguments: Any, on_event: OnEvent | None = None
    ) -> asyncio.Task[Any]:
        """What the writer gives for a change of the index; shield it: it is made whoever waits.

        Raises HttpError where there is no writer, or too many changes wait.
        """
        writer = self.writable()
        if self.writes >= WRITES:
            raise HttpError(
                429, "overloaded", "too many changes wait: try again", {"retry-after": "5"}
            )
        self.writes += 1

        async def work() -> Any:
            try:
                return await writer.call(method, *arguments, on_event=on_event)
            finally:
                self.writes -= 1

        return asyncio.create_task(work())

    def indexed(self) -> Process:
        """The process that searches; raises HttpError where the server has no index."""
        if self.searcher is None:
            raise HttpError(
                404, "no_index", "this server has no index: start it as `tercet serve INDEX`"
            )
        return self.searcher

    def writable(self) -> Process:
        """The process that changes the index; raises HttpError where there is none."""
        self.indexed()
        if self.writer is None:
            raise HttpError(403, "read_only", "this server only reads its index")
        return self.writer


# Before every route


class Guard:
    """Answers with JSON whatever happens; refuses who may not ask; counts and logs."""

    def __init__(self, app: ASGIApp, server: Server, routes: Callable[[Scope], tuple[str, Any]]):
        self.app, self.server, self._routes = app, server, routes
        settings = server.settings
        names = {*settings.allow_host, settings.host}
        self._any_host = not settings.is_local and not settings.allow_host
        self._hosts = {name.lower() for name in names} | (
            set(LOOPBACK) if settings.is_local else set()
        )
        self._origins = {origin.rstrip("/").lower() for origin in settings.allow_origin}
        self._tracer = tracer() if settings.trace else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        usable = given.isascii() and 0 < len(given) <= 64 and given.replace("-", "").isalnum()
        request_id = given if usable else uuid.uuid4().hex
        scope["state"]["request_id"] = request_id
        route, endpoint = self._routes(scope)
        dialect: Dialect = getattr(endpoint, "dialect", "openai")
        start, status, begun = time.perf_counter(), 500, False
        origin = headers.get(b"origin", "").lower()
        shared = origin in self._origins

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                extra = [
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if shared:
                    extra += [
                        (b"access-control-allow-origin", origin.encode()),
                        (b"vary", b"Origin"),
                    ]
                own = [h for h in message["headers"] if h[0] != b"x-request-id"]
                message = {**message, "headers": [*own, *extra]}
            await send(message)

        metrics = self.server.metrics
        self.server.under_way += 1
        metrics.under_way.set(self.server.under_way)
        try:
            if shared and scope["method"] == "OPTIONS":
                await _preflight(scope, receive, answer)
                return
            self._check(scope, headers, endpoint, origin)
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            status = 499
            raise
        except ClientGone:
            status = 499
        except Exception as error:
            if begun:
                raise
            failure = http_error(error, request_id)
            await error_response(failure, dialect, request_id)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            self.server.under_way -= 1
            metrics.under_way.set(self.server.under_way)
            metrics.requests.labels(route, str(status)).inc()
            metrics.latency.labels(route).observe(seconds)
            facts = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
            }
            log.log(
                logging.ERROR if status >= 500 else logging.INFO, "request", extra={"facts": facts}
            )
            if self._tracer is not None:
                _trace(self._tracer, facts, headers)

    def _check(self, scope: Scope, headers: dict[bytes, str], endpoint: Any, origin: str) -> None:
        """Raises HttpError for who may not ask, and when too many do."""
        host = headers.get(b"host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self._any_host and name.strip("[]") not in self._hosts:
            raise HttpError(
                403, "wrong_host", f"this server is not {name[:80]!r}: see --allow-host"
            )
        elsewhere = headers.get(b"sec-fetch-site", "") in ("cross-site", "same-site")
        if origin and origin not in self._origins and origin.partition("://")[2] != host:
            elsewhere = True
        if elsewhere and origin not in self._origins and scope["method"] not in ("GET", "HEAD"):
            raise HttpError(
                403, "wrong_origin", "a page elsewhere may not ask this server: see --allow-origin"
            )
        if self.server.keys and not getattr(endpoint, "open", False):
            scheme, _, token = headers.get(b"authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", "")
            # each is compared, so that the time tells nothing
            checks = [hmac.compare_digest(given.encode(), key) for key in self.server.keys]
            if not any(checks):
                raise HttpError(
                    401,
                    "wrong_key",
                    "give an API key: Authorization: Bearer KEY",
                    {"www-authenticate": "Bearer"},
                )
        if self.server.under_way > self.server.settings.max_requests and not getattr(
            endpoint, "open", False
        ):
            raise HttpError(
                429, "too_many_requests", "too many requests are under way", {"retry-after": "1"}
            )


def tracer() -> Any:
    """A tracer that exports as OpenTelemetry's environment variables say."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"traces need {error.name}: pip install 'tercet[telemetry]'"
        ) from error
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "tercet")}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("tercet.serve", version("tercet"))


def _trace(tracer: Any, facts: dict[str, Any], headers: dict[bytes, str]) -> None:
    """A span of a request that has ended, within the trace of who asked."""
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind, Status, StatusCode

    end = time.time_ns()
    span = tracer.start_span(
        f"{facts['method']} {facts['route']}",
        context=extract({"traceparent": headers.get(b"traceparent", "")}),
        kind=SpanKind.SERVER,
        start_time=end - int(1e9 * facts["seconds"]),
        attributes={
            "http.request.method": facts["method"],
            "http.route": facts["route"],
            "http.response.status_code": facts["status"],
            "tercet.request_id": facts["request_id"],
        },
    )
    if facts["status"] >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    allowed = {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-allow-headers": "authorization, content-type, x-request-id",
        "access-control-max-age": "600",
    }
    await Response(status_code=204, headers=allowed)(scope, receive, send)


# From bodies to handlers and back


class ClientGone(Exception):
    """Who asked closed the connection."""


async def read_body(server: Server, request: Request) -> bytes:
    """A body; raises HttpError where it is too large, or does not come."""
    most = server.settings.max_body_mb << 20
    declared = request.headers.get("content-length", "")
    too_large = HttpError(413, "body_too_large", f"the body has more than {most / 1e6:,.0f} MB")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                server.received += len(piece)
                if len(body) > most:
                    raise too_large
                if server.received > RECEIVED:
                    raise HttpError(
                        429, "overloaded", "too much is being sent", {"retry-after": "5"}
                    )
    except TimeoutError as error:
        raise HttpError(408, "too_slow", "the body does not come") from error
    except ClientDisconnect as error:
        raise ClientGone from error
    finally:
        server.received -= len(body)
    return bytes(body)


Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Endpoint:
    """A route: what it takes, what it gives, who answers.

    A handler gives the answer, or a function that makes it in another thread.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    takes: Any = None  # of a JSON body
    gives: Any = None
    dialect: Dialect = "openai"
    open: bool = False  # without a key
    tag: str = "tercet"
    query: dict[str, Any] = field(default_factory=dict)  # parameters and their types
    raw: bool = False  # the handler reads the request itself

    async def answer(self, server: Server, request: Request) -> Response:
        """Reads, asks the handler, and drops its work when the client leaves."""
        if self.raw:
            response: Response = await self.handler(server, request)
            return response
        given = () if self.takes is None else (await self._read(server, request),)
        handling = asyncio.ensure_future(self.handler(server, *given))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({handling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                raise ClientGone
            answer = handling.result()
        finally:
            leaving.cancel()
            if not handling.done():
                handling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await handling
        if isinstance(answer, Response):
            return answer
        packed = self.tag == "tercet" and _wants(request, MSGPACK)
        encode = msgspec.msgpack.encode if packed else msgspec.json.encode
        if callable(answer):  # vectors: their numbers would hold up the event loop
            body = await asyncio.to_thread(lambda: encoded(answer(), encode))
        else:
            body = encode(answer)
        return Response(body, media_type=MSGPACK if packed else JSON)

    async def _read(self, server: Server, request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        packed = kind == MSGPACK and self.tag == "tercet"
        if not packed and kind != JSON:
            raise HttpError(
                415, "wrong_content_type", f"send {JSON}, not {kind[:80] or 'a body of no type'}"
            )
        body = await read_body(server, request)
        return parse(body, self.takes, packed=packed)


def encoded(answer: Any, encode: Callable[[Any], bytes]) -> bytes:
    """An answer as bytes, row by row: a call for all would keep Python's lock to its end."""

    def parts(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: parts(part) for key, part in value.items()}
        return [msgspec.Raw(encode(row)) for row in value] if isinstance(value, list) else value

    if isinstance(answer, msgspec.Struct):
        fields = {name: parts(getattr(answer, name)) for name in answer.__struct_fields__}
        return encode(msgspec.structs.replace(answer, **fields))
    return encode(parts(answer))


def parse(body: bytes, kind: Any, *, packed: bool = False) -> Any:
    """A request of a kind; raises HttpError 400 for what is no JSON, 422 for what does not fit."""
    codec: Any = msgspec.msgpack if packed else msgspec.json
    try:
        return codec.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise HttpError(422, "invalid_request", _plain(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        form = "msgpack" if packed else "JSON"
        raise HttpError(400, "malformed", f"the body is no {form}: {error}") from error


def _plain(message: str) -> str:
    """What msgspec says, with the place of the field in front: `input: Expected ...`."""
    what, _, where = message.partition(" - at `$")
    return f"{where.rstrip('`').lstrip('.') or 'the body'}: {what}"


async def _left(request: Request) -> None:
    """Ends when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wants(request: Request, kind: str) -> bool:
    return kind in request.headers.get("accept", "")


# Serving


class _JsonLines(logging.Formatter):
    """A log record as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[2] is not None:
            # kinds and places: a message might quote a text
            kind, _, trace = record.exc_info
            places = []
            while trace is not None:
                code = trace.tb_frame.f_code
                places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
                trace = trace.tb_next
            facts["error"] = getattr(kind, "__name__", "")
            facts["places"] = places[-8:]
        return json.dumps(facts, ensure_ascii=False)


class _Http(uvicorn.Server):
    """Uvicorn that tells the server when it drains, and ends with 0 when it is told to."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._owner = server

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._owner.draining = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def run(server: Server, app: ASGIApp, *, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what is under way; started gets the address."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("tercet.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name.startswith("tercet") else logging.WARNING)
    settings = server.settings

    async def serve() -> None:
        await server.start()
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=4 * settings.max_requests,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        http = _Http(config, server)
        serving = asyncio.create_task(http.serve())
        try:
            while not http.started and not serving.done():
                await asyncio.sleep(0.01)
            if http.started:
                host = settings.host if ":" not in settings.host else f"[{settings.host}]"
                port = http.servers[0].sockets[0].getsockname()[1]
                started(f"http://{host}:{port}")
            await serving
        except SystemExit as error:  # how uvicorn says that it cannot listen
            raise InputError(
                f"cannot listen at {settings.host}:{settings.port}: choose another --port"
            ) from error
        finally:
            await server.stop()

    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())
