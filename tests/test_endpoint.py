"""The HTTP client against a local server with every fault."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

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
    with pytest.raises(InputError, match="no address"):  # that only the library refuses
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
    for key in ("", "two words", "naïve", "a\nb"):
        monkeypatch.setenv("A_KEY", key)
        with pytest.raises(InputError, match="A_KEY") as refused:
            endpoint.key()
        assert not key or key not in str(refused.value)


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
