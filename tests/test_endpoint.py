"""The HTTP client against a local server with every fault."""

import asyncio
import base64
import gzip
import html
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import repeat
from typing import Any
from urllib.parse import quote

import pytest

from tercet.endpoint import (
    AccessError,
    Client,
    Endpoint,
    EndpointError,
    RejectedError,
    ask,
    wait_for,
)
from tercet.errors import InputError
from tests.chat_server import HTML, KEY, MODEL, NO_JSON, ChatServer, Reply, fails, says

PATH = "chat/completions"


def body(text: str = "Paragraph:\nwords of some length") -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}]}


def quick(url: str, **options: Any) -> Endpoint:
    return Endpoint(url, **{"backoff": 0.001, "retries": 2, "timeout": 5.0, **options})


FAULTS = {
    "429": fails(429, "Rate limit reached", retry_after="0.01"),
    "500": fails(500, "The server had an error"),
    "503": Reply(HTML.body, 503, {"Retry-After": "0"}),
    "text/html": HTML,
    "no JSON": NO_JSON,
    "it sent nothing": Reply(b""),
    "connection broke": Reply(says("Who wrote the long poem?").body, cut=True),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_may_pass_is_tried_again_then_told(words: str) -> None:
    with ChatServer(faults=(FAULTS[words],) * 5) as server:
        with pytest.raises(EndpointError, match=words) as caught:
            ask(quick(server.url), PATH, [body()])
        assert type(caught.value) is EndpointError
        assert f"{server.url}/{PATH}" in str(caught.value)
        assert "(tries: 3)" in str(caught.value)
        (answer,) = ask(quick(server.url), PATH, [body()])  # the third try of this one passes
    assert answer["object"] == "chat.completion"
    assert len(server.requests) == 6


@pytest.mark.parametrize("slow", [{"delay": 0.4}, {"drip": 0.01}], ids=str)
def test_a_server_that_is_slow_is_given_up(slow: dict[str, float]) -> None:
    reply = Reply(says("Who?").body, **slow)  # type: ignore[arg-type]
    with ChatServer(lambda request, number: reply) as server:
        endpoint = quick(server.url, timeout=0.1, retries=1)
        with pytest.raises(EndpointError, match=r"no answer within 0\.1 s.*tries: 2"):
            ask(endpoint, PATH, [body()])
    assert len(server.requests) == 2


def test_nobody_listens() -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(EndpointError, match="cannot connect"):
        ask(quick(server.url), PATH, [body()])
    with pytest.raises(InputError):  # that only the library refuses
        ask(quick("http://256.1.1.1/v1"), PATH, [body()])


REFUSED: dict[int, tuple[str, type[EndpointError]]] = {
    401: ("access denied", AccessError),
    402: ("used up", AccessError),
    404: ("ends in /v1", AccessError),
    308: ("moved to https://elsewhere", AccessError),
    429: ("used up", AccessError),  # insufficient_quota
    400: ("refused the request", RejectedError),
    422: ("refused the request", RejectedError),
}


@pytest.mark.parametrize("status", REFUSED)
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    words, kind = REFUSED[status]
    message, code = "maximum context length is 8 tokens", "insufficient_quota"
    fault = fails(status, message, code=code, location="https://elsewhere")

    async def post(endpoint: Endpoint) -> Any:
        async with Client(endpoint) as client:
            return await client.post(PATH, body())

    with ChatServer(faults=(fault,)) as server:
        with pytest.raises(kind, match=f"{words}.*{message}"):
            wait_for(post(quick(server.url)))
        assert len(server.requests) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_a_day_is_too_long_to_wait(as_date: bool) -> None:
    moment = datetime.now(UTC) + timedelta(days=1, seconds=50)
    value = format_datetime(moment, usegmt=True) if as_date else "86400"
    fault = fails(429, "Come back", retry_after=value)
    with ChatServer(faults=(fault,)) as server, pytest.raises(AccessError, match=r"86,4\d\d s"):
        ask(quick(server.url), PATH, [body()])


def test_a_wait_that_says_nothing_is_passed_over() -> None:
    values = ("soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", "")
    faults = tuple(fails(429, "slow down", retry_after=value) for value in values)
    with ChatServer(faults=faults) as server:
        ask(quick(server.url, retries=5), PATH, [body()])
    assert server.times[-1] - server.times[0] < 1


def test_the_key_comes_from_the_environment_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    with ChatServer(key=KEY) as server:
        ask(quick(server.url, key_env="A_KEY"), PATH, [body()])
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        with pytest.raises(AccessError, match="no API key was sent"):
            ask(quick(server.url), PATH, [body()])
        monkeypatch.setenv("A_KEY", "sk-wrong")
        endpoint = quick(server.url, key_env="A_KEY")
        with pytest.raises(AccessError, match="check the key in A_KEY") as caught:
            ask(endpoint, PATH, [body()])  # the server repeats it
    assert "[key]" in str(caught.value)
    assert "sk-wrong" not in f"{caught.value} {endpoint!r} {caught.value.__cause__!r}"
    for key in ("", "two words", "naïve", "a\nb", "e", "sk-", "a-b_c"):
        monkeypatch.setenv("A_KEY", key)
        with pytest.raises(InputError, match="A_KEY") as refused:
            endpoint.key()
        assert len(key) < 2 or key not in str(refused.value)


def test_retry_after_stops_every_request() -> None:
    wait = 0.3
    with ChatServer(faults=(fails(429, "slow down", retry_after=str(wait)),)) as server:
        ask(quick(server.url, concurrency=1), PATH, [body() for _ in range(3)])
    assert len(server.times) == 4
    assert all(moment - server.times[0] >= wait * 0.95 for moment in server.times[1:])


def test_waits_grow_and_are_told_once_for_each_reason() -> None:
    told: list[str] = []

    async def post(endpoint: Endpoint) -> None:
        async with Client(endpoint, tell=told.append) as client:
            await client.post(PATH, body())

    faults = (fails(500, "no"), fails(500, "no"), HTML)
    with ChatServer(faults=faults) as server:
        wait_for(post(quick(server.url, backoff=0.04, retries=3)))
    gaps = [late - early for early, late in zip(server.times, server.times[1:], strict=False)]
    for gap, wait in zip(gaps, (0.04, 0.08, 0.16), strict=True):
        assert wait / 2 <= gap
    assert ["500" in told[0], "text/html" in told[1]] == [True, True]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("limits", "expected", "used", "gap"),
    [
        ({"requests_per_minute": 1200.0}, 100, 100, 0.05),
        ({"tokens_per_minute": 120e3}, 100, 100, 0.05),
        ({"tokens_per_minute": 1200e3}, 1, 1000, 0.05),  # the answer's usage corrects it
    ],
)
def test_limits_a_minute(limits: Any, expected: int, used: int, gap: float) -> None:
    count = 5

    async def post(endpoint: Endpoint) -> None:
        async with Client(endpoint) as client:
            for _ in range(count):
                await client.post(PATH, body(), tokens=expected)

    with ChatServer(lambda request, number: says("Who was it?", tokens=used - 4)) as server:
        wait_for(post(quick(server.url, **limits)))
    assert server.times[-1] - server.times[0] >= 0.9 * gap * (count - 1)


def test_answers_come_in_the_order_of_the_bodies_so_many_at_once() -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][0]["content"]
        if text == "3":
            return fails(400, "no")
        return Reply({"echo": text}, delay=0.06 if text == "0" else 0.03)

    async def notebook(url: str) -> list[Any]:  # where a loop runs already
        return ask(quick(url, concurrency=3), PATH, [body(str(n)) for n in range(8)])

    with ChatServer(mind) as server:
        answers = asyncio.run(notebook(server.url))
    assert server.most_at_once == 3
    assert isinstance(answers.pop(3), RejectedError)
    assert answers == [{"echo": str(n)} for n in (0, 1, 2, 4, 5, 6, 7)]


URLS = ["localhost:8000/v1", "ftp://host/v1", "http:///v1", "http://host:99999/v1"]
URLS += ["http://[::1/v1", "http://a b/v1", "http://user:secret@host/v1", "http://host/v1?key=a"]
NUMBERS = [("concurrency", 0), ("timeout", 0.0), ("timeout", float("nan")), ("retries", -1)]
NUMBERS += [("backoff", float("inf")), ("requests_per_minute", 0.0), ("tokens_per_minute", -1.0)]


@pytest.mark.parametrize(
    "options", [{"url": url} for url in URLS] + [{name: value} for name, value in NUMBERS], ids=str
)
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Endpoint(**{"url": "http://127.0.0.1/v1", **options})


def test_a_failure_stops_the_others() -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        if request["messages"][0]["content"] == "bad":
            return fails(401, "no")
        return Reply(says("Who?").body, delay=3)

    start = time.monotonic()
    with ChatServer(mind) as server, pytest.raises(AccessError):
        ask(quick(server.url), PATH, [body("good"), body("bad")])
    assert time.monotonic() - start < 2


# answers of servers that are hostile


@contextmanager
def raw_server(*pieces: bytes, endless: bytes = b"") -> Iterator[tuple[str, list[int]]]:
    """Sends bytes to whoever connects, and one piece without end; its address, and sizes sent."""
    sent: list[int] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(1 << 16)
                    for piece in pieces:
                        connection.sendall(piece)
                    for piece in repeat(endless) if endless else ():
                        connection.sendall(piece)
                        sent.append(len(piece))
                    connection.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", sent


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MB = 1 << 20
ENDLESS: dict[str, tuple[bytes, bytes, str]] = {
    "body": (OK + b"\r\n", b" " * MB, "more than"),
    "chunks": (OK + CHUNKED, b"10000\r\n" + b"[" * (1 << 16) + b"\r\n", "more than"),
    "chunk": (OK + CHUNKED + b"fffffffffffff\r\n", b" " * MB, "more than"),
    "chunk's header": (OK + CHUNKED + b"1;", b"a" * (1 << 14), "connection broke"),
    "header": (OK + b"X: ", b"a" * (1 << 14), "connection broke"),
    "headers": (OK, b"X: " + b"a" * 1000 + b"\r\n", "connection broke"),
    "of an error": (b"HTTP/1.1 400 No\r\n\r\n", b"no " * MB, "refused the request"),
    "packed": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b""), b"\0" * MB, "no JSON"),
    "interim answers": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", "no answer within"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_answer_is_bounded(what: str) -> None:
    start, endless, words = ENDLESS[what]
    with raw_server(start, endless=endless) as (url, sent):
        with pytest.raises(EndpointError, match=words):
            (answer,) = ask(quick(url, timeout=1.0, retries=0), PATH, [body()], largest=MB)
            raise answer
        if "within" not in words:
            assert sum(sent) < 32 * MB  # the kernel's buffers count


@pytest.mark.parametrize("largest", [MB, 32 * MB])
def test_a_packed_answer_is_bounded_by_its_size_unpacked(largest: int) -> None:
    packed = gzip.compress(b" " * (16 * MB) + b"7")
    with raw_server(OK + b"Content-Encoding: gzip\r\n\r\n", packed) as (url, _):
        tracemalloc.start()
        try:
            if largest == MB:
                with pytest.raises(EndpointError, match="more than 1 MB"):
                    ask(quick(url), PATH, [body()], largest=largest)
                assert tracemalloc.get_traced_memory()[1] < 8 * MB
            else:
                assert ask(quick(url), PATH, [body()], largest=largest) == [7]
        finally:
            tracemalloc.stop()


ODD = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "a number of 5,000 digits": b"9" * 5000,
    "empty": b"",
}


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("what", ODD)
def test_odd_bodies_are_told(what: str, status: int) -> None:
    kind = {"Content-Type": "text/html; charset=zlib", "Content-Encoding": ""}
    with ChatServer(lambda request, number: Reply(ODD[what], status, kind)) as server:
        endpoint = quick(server.url, retries=0)
        with pytest.raises(EndpointError):
            (answer,) = ask(endpoint, PATH, [body()])
            raise answer


@pytest.mark.parametrize("total", ["9" * 4000, "1" + "0" * 17, "-1", "NaN", "1e400", "true"])
def test_usage_that_cannot_be_holds_nothing_up(total: str) -> None:
    reply = Reply(f'{{"usage": {{"total_tokens": {total}}}}}'.encode())
    with ChatServer(lambda request, number: reply) as server:
        for _ in ask(quick(server.url, tokens_per_minute=1e6), PATH, [body()] * 2):
            pass
    assert server.times[-1] - server.times[0] < 1


SECRET = "sk-secret0123456789+/abcdefghijklmnopqrstuvwxyz"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "every letter percent": lambda text: "".join(f"%{ord(c):02X}" for c in text),
    "entities": lambda text: "".join(f"&#{ord(c)};" for c in html.escape(text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "utf-16": lambda text: text.encode("utf-16-le").decode("latin-1"),
    "capitals": str.upper,
    "in lines": lambda text: "\n".join(text[start : start + 3] for start in range(0, 99, 3)),
    "cut by the server": lambda text: text[:-12] + "...",
    "coloured": lambda text: "\x1b[1m".join(text),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_hidden_before_anything_is_cut(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    for pad in (*range(9), *range(140, 210, 7)):
        said = "y" * pad + SPELLINGS[spelling](f"Bearer {SECRET}"[pad % 3 :])
        endpoint = quick("http://127.0.0.1/v1", key_env="A_KEY")
        client_quote = endpoint.redact(said)
        whole = SPELLINGS[spelling](SECRET)
        for start in range(12, len(whole) - 24):
            assert whole[start : start + 12] not in client_quote, (pad, client_quote)


@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500])
def test_no_message_has_a_part_of_the_key(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    told: list[str] = []

    async def post(endpoint: Endpoint) -> Any:
        async with Client(endpoint, tell=told.append) as client:
            answer = await client.post(PATH, body())
            with endpoint.reading("no completion", answer):
                return float(answer)  # as the reader of an answer would say what it cannot read

    for pad in (0, 8, 160, 175, 194, 195):
        message = "y" * pad + f" {SECRET} \x1b[31m\x9b2J"
        reply = fails(status, message, location=f"http://elsewhere/{quote(SECRET)}")
        reply = Reply([message], 200) if status == 200 else reply
        with ChatServer(faults=(reply,) * 2) as server, pytest.raises(EndpointError) as caught:
            wait_for(post(quick(server.url, key_env="A_KEY", retries=1)))
        for text in (str(caught.value), repr(caught.value.__cause__), *told):
            assert not any(SECRET[n : n + 7] in text for n in range(len(SECRET) - 6)), text
            assert SECRET[:4] not in text, text
            assert not any(control in text for control in "\x1b\x9b"), text
    assert bool(told) == (status in (429, 500))


def test_a_password_in_an_address_is_not_repeated() -> None:
    for url in (
        "http://user:secret@host:99999/v1",
        "http://user:secret@host/v1",
        "http://:secret@",
    ):
        with pytest.raises(InputError) as caught:
            Endpoint(url)
        assert "secret" not in str(caught.value)
