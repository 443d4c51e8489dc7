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
    "429": fails(429, "Rate limit reached"),
    "429, in seconds": fails(429, "Rate limit reached", retry_after="0.01"),
    "500": fails(500, "The server had an error"),
    "503, HTML": Reply(HTML.body, 503, {"Retry-After": "0"}),
    "HTML": HTML,
    "broken JSON": NO_JSON,
    "nothing": Reply(b""),
    "cut": Reply(says("Who wrote the long poem?").body, cut=True),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_may_pass_is_tried_again(fault: Reply) -> None:
    with ChatServer(faults=(fault, fault)) as server:
        (answer,) = ask(quick(server.url), PATH, [body()])
    assert answer["object"] == "chat.completion"
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_in_the_end_it_says_what_was_wrong(fault: Reply) -> None:
    with ChatServer(faults=(fault,) * 9) as server, pytest.raises(EndpointError) as caught:
        ask(quick(server.url), PATH, [body()])
    assert len(server.requests) == 3
    assert type(caught.value) is EndpointError
    assert f"{server.url}/{PATH}" in str(caught.value)
    assert "(3 tries)" in str(caught.value)
    assert str(fault.status) in str(caught.value) or fault.status == 200


@pytest.mark.parametrize("slow", [{"delay": 0.4}, {"drip": 0.01}], ids=str)
def test_a_server_that_is_slow_is_given_up(slow: dict[str, float]) -> None:
    reply = Reply(says("Who?").body, **slow)  # type: ignore[arg-type]
    with ChatServer(lambda request, number: reply) as server:
        endpoint = quick(server.url, timeout=0.1, retries=1)
        with pytest.raises(EndpointError, match=r"no answer within 0\.1 s.*2 tries"):
            ask(endpoint, PATH, [body()])
    assert len(server.requests) == 2


def test_nobody_listens() -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(EndpointError, match="connection refused"):
        ask(quick(server.url), PATH, [body()])


REFUSED = {
    401: ("access denied", AccessError),
    402: ("used up", AccessError),
    403: ("access denied", AccessError),
    404: ("ends in /v1", AccessError),
    308: ("moved to https://elsewhere", AccessError),
    400: ("refused the request", RejectedError),
    413: ("refused the request", RejectedError),
    422: ("refused the request", RejectedError),
}


@pytest.mark.parametrize("status", REFUSED)
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    words, kind = REFUSED[status]
    fault = fails(status, "maximum context length is 8 tokens", location="https://elsewhere")
    with ChatServer(faults=(fault,)) as server, pytest.raises(kind, match=words):
        ask(quick(server.url), PATH, [body()])
    assert len(server.requests) == 1


def test_an_empty_account_is_not_asked_again() -> None:
    fault = fails(429, "You exceeded your current quota", code="insufficient_quota")
    with ChatServer(faults=(fault,)) as server, pytest.raises(AccessError, match="current quota"):
        ask(quick(server.url), PATH, [body()])
    assert len(server.requests) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_a_day_is_too_long_to_wait(as_date: bool) -> None:
    moment = datetime.now(UTC) + timedelta(days=1, seconds=50)
    value = format_datetime(moment, usegmt=True) if as_date else "86400"
    fault = fails(429, "Come back", retry_after=value)
    with ChatServer(faults=(fault,)) as server, pytest.raises(AccessError, match=r"86,4\d\d s"):
        ask(quick(server.url), PATH, [body()])


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_a_wait_that_says_nothing_is_passed_over(value: str) -> None:
    with ChatServer(faults=(fails(429, "slow down", retry_after=value),)) as server:
        ask(quick(server.url), PATH, [body()])
    assert server.times[1] - server.times[0] < 1


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


@pytest.mark.parametrize("key", ["", " ", "two words", "naïve", "a\nb"])
def test_a_key_that_is_none(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(InputError, match="A_KEY") as caught:
        Client(Endpoint("http://127.0.0.1/v1", key_env="A_KEY"))
    assert not key.strip() or key not in str(caught.value)


def test_retry_after_stops_every_request() -> None:
    wait = 0.3
    with ChatServer(faults=(fails(429, "slow down", retry_after=str(wait)),)) as server:
        ask(quick(server.url, concurrency=1), PATH, [body() for _ in range(3)])
    assert len(server.times) == 4
    assert all(moment - server.times[0] >= wait * 0.95 for moment in server.times[1:])


def test_waits_grow() -> None:
    with ChatServer(faults=(fails(500, "no"),) * 3) as server:
        ask(quick(server.url, backoff=0.04, retries=3), PATH, [body()])
    gaps = [late - early for early, late in zip(server.times, server.times[1:], strict=False)]
    for gap, wait in zip(gaps, (0.04, 0.08, 0.16), strict=True):
        assert wait / 2 <= gap


def test_no_more_requests_at_once_than_allowed() -> None:
    slow = Reply(says("Who?").body, delay=0.03)
    with ChatServer(lambda request, number: slow) as server:
        ask(quick(server.url, concurrency=3), PATH, [body() for _ in range(9)])
    assert server.most_at_once == 3


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1200.0}, {"tokens_per_minute": 120e3}])
def test_limits_a_minute(limits: dict[str, float]) -> None:
    count, gap = 6, 0.05  # 100 tokens each

    async def run(endpoint: Endpoint) -> None:
        async with Client(endpoint) as client, asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(client.post(PATH, body(), tokens=100))

    with ChatServer(lambda request, number: says("Who was it?", tokens=96)) as server:
        wait_for(run(quick(server.url, **limits)))
    assert server.times[-1] - server.times[0] >= 0.9 * gap * (count - 1)


def test_what_an_answer_took_corrects_the_limit() -> None:
    async def run(endpoint: Endpoint) -> None:
        async with Client(endpoint) as client:
            for _ in range(2):
                await client.post(PATH, body(), tokens=1)

    with ChatServer(lambda request, number: says("Who was it?", tokens=996)) as server:
        wait_for(run(quick(server.url, tokens_per_minute=300e3)))  # 1,000 tokens are 0.2 s
    assert server.times[1] - server.times[0] >= 0.18


def test_answers_come_in_the_order_of_the_bodies() -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][0]["content"]
        return Reply({"echo": text}, delay=0.02 if text == "0" else 0)

    with ChatServer(mind) as server:
        answers = ask(quick(server.url), PATH, [body(str(n)) for n in range(8)])
    assert answers == [{"echo": str(n)} for n in range(8)]


def test_it_works_where_a_loop_runs() -> None:
    async def notebook(url: str) -> int:
        return len(ask(quick(url), PATH, [body()]))

    with ChatServer() as server:
        assert asyncio.run(notebook(server.url)) == 1


def test_waits_are_told_once_for_each_reason() -> None:
    told: list[str] = []

    async def run(endpoint: Endpoint) -> Client:
        async with Client(endpoint, tell=told.append) as client:
            await client.post(PATH, body())
        return client

    faults = (fails(500, "no"), fails(500, "no"), HTML)
    with ChatServer(faults=faults) as server:
        client = wait_for(run(quick(server.url, retries=3)))
    assert client.retried == {"500": 2, "no JSON": 1}
    assert len(told) == 2
    assert "text/html" in told[1]


@pytest.mark.parametrize(
    "options",
    [
        {"url": "localhost:8000/v1"},
        {"url": "ftp://host/v1"},
        {"url": "http:///v1"},
        {"url": "http://host:99999/v1"},
        {"url": "http://[::1/v1"},
        {"url": "http://a b/v1"},
        {"url": "http://user:secret@host/v1"},
        {"url": "http://host/v1?key=secret"},
        {"concurrency": 0},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"retries": -1},
        {"backoff": float("inf")},
        {"requests_per_minute": 0.0},
        {"tokens_per_minute": -1.0},
    ],
    ids=str,
)
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Endpoint(**{"url": "http://127.0.0.1/v1", **options})


def test_an_address_that_only_the_library_refuses() -> None:
    with pytest.raises(InputError, match="no address"):
        ask(quick("http://256.1.1.1/v1"), PATH, [body()])


def test_a_failure_stops_the_others() -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        if request["messages"][0]["content"] == "bad":
            return fails(400, "no")
        return Reply(says("Who?").body, delay=3)

    start = time.monotonic()
    with ChatServer(mind) as server, pytest.raises(RejectedError):
        ask(quick(server.url), PATH, [body("good"), body("bad")])
    assert time.monotonic() - start < 2
