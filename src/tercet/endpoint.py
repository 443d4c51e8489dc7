"""JSON posted to an HTTP endpoint that may be slow, busy, wrong or gone; failures in words.

Requests run side by side, within limits a minute. What may pass (429, 5xx, a timeout, a cut
connection, a page of HTML in place of JSON) is tried again after growing waits. Answers are
bounded, and nothing that is told of them holds the key. Knows nothing of what is asked.
"""

import asyncio
import json
import math
import os
import random
import re
import reprlib
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from tercet.errors import InputError, TercetError, printable

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

LONGEST_BACKOFF = 60.0  # seconds between two tries, where the endpoint does not say
LONGEST_WAIT = 600.0  # seconds that an endpoint may ask for; more is told to the user
CONNECT = 10.0  # seconds to open a connection
QUOTED = 200  # characters of an endpoint's own words
LARGEST = 16 << 20  # bytes of an answer, unpacked: a chat's longest has about 1 MB
WORDS = 1 << 16  # bytes that are read of an answer that is no success
MOST_TOKENS = 10_000_000  # that one request can take; who says more is not believed
SHORTEST_KEY = 4  # letters and digits: shorter ones could not be hidden without hiding words
KEY_RUN = 6  # letters and digits of a key, one after the other, that are not shown


class EndpointError(TercetError):
    """An endpoint gave no usable answer, however often it was asked."""


class RejectedError(EndpointError):
    """The endpoint refuses this one request, as it does a prompt that is too long (400, 422)."""


class UnreadableError(EndpointError):
    """The endpoint answered with something else than what was asked for."""


class AccessError(EndpointError):
    """The endpoint would refuse every request: a wrong key, path or model, an empty account."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and how patiently; raises InputError on values that cannot be."""

    url: str  # what comes before the path of a request, as in http://localhost:8000/v1
    key_env: str | None = None  # the environment variable that holds the API key, if one is needed
    concurrency: int = 8  # requests at the same time
    timeout: float = 120.0  # seconds for one request, to its last byte
    retries: int = 6  # of one request
    backoff: float = 1.0  # seconds before the first retry, doubled for each one after it
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or self.url.split() != [self.url]:
            shown = re.sub(r"[^/]*@", "...@", self.url)  # before it may be a password
            raise InputError(
                f"{shown!r} is no address of an endpoint: give one such as http://localhost:8000/v1"
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise InputError(
                "the address of an endpoint takes no user, query or fragment: a key comes from an "
                "environment variable"
            )
        numbers = [self.concurrency, self.timeout, self.retries + 1, self.backoff + 1]
        limits = [x for x in (self.requests_per_minute, self.tokens_per_minute) if x is not None]
        if not all(0 < number < math.inf for number in (*numbers, *limits)):
            raise InputError(
                f"numbers of an endpoint lie above 0, retries and backoff from 0 on, got {self}"
            )

    def key(self) -> str | None:
        """The API key; raises InputError where the variable is not set or cannot be a key."""
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key or not (key.isascii() and key.isprintable()) or " " in key:
            what = "holds no API key: it has odd characters" if key else "is not set"
            raise InputError(f"the environment variable {self.key_env} {what}")
        if sum(letter.isalnum() for letter in key) < SHORTEST_KEY:
            raise InputError(
                f"the environment variable {self.key_env} holds no API key: it has fewer than "
                f"{SHORTEST_KEY} letters and digits; where the server needs none, name no variable"
            )
        return key

    def redact(self, text: str) -> str:
        """A text without the API key and longer parts of it, which some servers repeat.

        The key is seen as it is, in base64 and hexadecimal, and with percent signs, HTML's entities
        or colours, whatever stands between its letters.
        """
        key = None if self.key_env is None else self.key()
        if key is None:
            return text
        forms = [key, key.encode().hex()]
        forms += [b64encode(b"\0" * shift + key.encode()).decode() for shift in range(3)]
        plain = [re.sub(r"[\W_]", "", form).lower() for form in forms]
        size = min(KEY_RUN, len(plain[0]))
        runs = {form[start : start + size] for form in plain for start in range(len(form))}
        runs = {run for run in runs if len(run) == size}
        for read in (str, unquote, unescape, lambda told: _COLOUR.sub("", told)):
            shown = read(text)
            places = [place for place, c in enumerate(shown) if c.isascii() and c.isalnum()]
            letters = "".join(shown[place] for place in places).lower()
            spans: list[list[int]] = []  # of the characters that are hidden
            for start in range(len(letters) - size + 1):
                if letters[start : start + size] in runs:
                    first, last = places[start], places[start + size - 1] + 1
                    if spans and first <= spans[-1][1]:
                        spans[-1][1] = last
                    else:
                        spans.append([first, last])
            for first, last in reversed(spans):
                shown = f"{shown[:first]}[key]{shown[last:]}"
            text = shown if spans else text
        return text

    @contextmanager
    def reading(self, what: str, answer: Any) -> Iterator[None]:
        """Raises UnreadableError where an answer cannot be read in the block, as what it is not."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            begin = reprlib.repr(answer)
            raise UnreadableError(self.redact(f"{what} ({error}; it begins {begin})")) from None

    def share(self, count: int) -> "Endpoint":
        """The same with the limits a minute of one of `count` that ask at the same time."""
        requests, tokens = self.requests_per_minute, self.tokens_per_minute
        return replace(
            self,
            requests_per_minute=requests and requests / count,
            tokens_per_minute=tokens and tokens / count,
        )


class Client:
    """Asks an endpoint: `async with Client(endpoint) as client: await client.post(path, body)`.

    tell gets a sentence when a request is tried again for a reason that was not told before.
    """

    def __init__(self, endpoint: Endpoint, *, tell: Callable[[str], None] | None = None) -> None:
        """Raises InputError where the API key is not to be had."""
        import httpx2

        self.endpoint = endpoint
        self._tell, self._told = tell, set[str]()
        self._key = endpoint.key()
        self._requests = _Rate(endpoint.requests_per_minute)
        self._tokens = _Rate(endpoint.tokens_per_minute)
        self._paused = 0.0  # until when, on the monotonic clock, nothing is sent
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=CONNECT),
            limits=httpx2.Limits(),  # the slots are the limit
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: Any, *, tokens: float = 0, largest: int = LARGEST) -> Any:
        """The JSON that answers a POST of `body` to a path below the endpoint's address.

        tokens: how many the request and its answer will take, for the limit; what the answer says
        of its usage corrects it. largest: bytes of the answer. Raises RejectedError, AccessError,
        or EndpointError when it is larger or the tries are used up.
        """
        url = f"{self.endpoint.url.rstrip('/')}/{path}"
        payload = json.dumps(body, allow_nan=False).encode()
        attempt = 0
        while True:
            try:
                async with self._slots:
                    await self._turn(tokens)
                    answer = await self._post_once(url, payload, largest)
                self._tokens.take(_used_tokens(answer, tokens) - tokens)
                return answer
            except _TransientError as error:
                if attempt == self.endpoint.retries:
                    raise EndpointError(f"{url}: {error} (tries: {attempt + 1})") from error
                await self._wait(error, attempt)
                attempt += 1

    async def _turn(self, tokens: float) -> None:
        """Waits until limits and pauses let a request through."""
        ready = max(self._requests.take(1), self._tokens.take(tokens))
        while (pause := max(ready, self._paused) - time.monotonic()) > 0:
            await asyncio.sleep(pause)

    async def _wait(self, error: "_TransientError", attempt: int) -> None:
        """Waits before the next try; where the endpoint named a time, all requests wait."""
        wait = min(LONGEST_BACKOFF, self.endpoint.backoff * 2**attempt)
        wait *= random.uniform(0.5, 1)  # so that those who failed together do not return together
        self._paused = max(self._paused, time.monotonic() + error.after)
        if error.kind not in self._told and self._tell is not None:
            self._tell(f"{error}; trying again in {max(wait, error.after):.0f} s")
        self._told.add(error.kind)
        await asyncio.sleep(wait)

    async def _post_once(self, url: str, payload: bytes, largest: int) -> Any:
        import httpx2

        limit, redact = self.endpoint.timeout, self.endpoint.redact
        try:
            async with (
                asyncio.timeout(limit),  # httpx's own limit starts anew with each byte
                self._http.stream("POST", url, content=payload) as response,
            ):
                body = await _read(response, largest if response.is_success else WORDS)
        except TimeoutError as error:
            what = f"no answer within {limit:g} s: allow more time or ask less at once"
            raise _TransientError("too slow", what) from error
        except httpx2.ConnectError as error:
            what = f"cannot connect ({error}): check the address, and whether anything runs there"
            raise _TransientError("no connection", what) from error
        except (httpx2.TransportError, zlib.error) as error:
            what = f"the connection broke: {redact(str(error))[:QUOTED] or type(error).__name__}"
            raise _TransientError("cut", what) from None
        except httpx2.InvalidURL as error:
            raise InputError(f"{url} is no address of an endpoint: {error}") from error
        if not response.is_success:
            raise self._failure(url, response, body)
        if len(body) > largest:
            raise EndpointError(f"{url}: the answer has more than {largest / 1e6:,.0f} MB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            kind = response.headers.get("content-type", "").split(";")[0].strip() or "something"
            what = f"answered with {redact(kind)[:QUOTED]} that is no JSON: {self._quote(body)}"
            raise _TransientError("no JSON", what) from None

    def _failure(self, url: str, response: "httpx2.Response", body: bytes) -> Exception:
        """What an answer that is no success means."""
        status, quote = response.status_code, self._quote(body)
        after = _retry_after(response.headers.get("retry-after", ""))
        kind: type[EndpointError] = AccessError
        if status in (401, 403):
            key = self.endpoint.key_env
            what = "access denied, " + (f"check the key in {key}" if key else "no API key was sent")
        elif status == 402 or (status == 429 and b"insufficient_quota" in body):
            what = "the account is used up"
        elif status in (404, 405):
            what = "no such address or model: check both; the address often ends in /v1"
        elif response.is_redirect:
            where = self.endpoint.redact(response.headers["location"])[:QUOTED]
            what = f"moved to {where}: give the address it has now"
        elif status not in (408, 409, 425, 429) and status < 500:
            kind, what = RejectedError, "refused the request"
        elif after <= LONGEST_WAIT:
            return _TransientError(str(status), f"answered {status}: {quote}", after)
        else:
            what = f"asks to wait {after:,.0f} s, come back then"
        return kind(f"{url}: {what} ({status}): {quote}")

    def _quote(self, body: bytes) -> str:
        """What an endpoint says of its failure: the message in its JSON, or how its text begins."""
        text = body[:WORDS].decode(errors="replace")
        with suppress(ValueError, RecursionError):
            tree = json.loads(body)
            for name in ("error", "message", "detail"):
                if isinstance(tree, dict):
                    tree = tree.get(name) or tree
            text = tree if isinstance(tree, str) else text
        return " ".join(self.endpoint.redact(text).split())[:QUOTED] or "it sent nothing"


async def _read(response: "httpx2.Response", most: int) -> bytes:
    """The body of an answer, to one byte more than `most`."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most:
            break
    if response.headers.get("content-encoding", "") not in ("", "identity"):  # as not asked for
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, most + 1)
    return bytes(body[: most + 1])


class _TransientError(Exception):
    """A failure that may be gone at the next try."""

    def __init__(self, kind: str, what: str, after: float = 0.0) -> None:
        super().__init__(printable(what))
        self.kind, self.after = kind, after  # after: seconds that the endpoint asks to wait


class _Rate:
    """A budget a minute, spread evenly, so that no minute takes more than its share."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60 / per_minute  # for one
        self._free = 0.0

    def take(self, amount: float) -> float:
        """Takes an amount (gives back a negative one); returns when its turn is."""
        start = max(self._free, time.monotonic())
        self._free = start + amount * self._seconds
        return start


def ask(
    endpoint: Endpoint, path: str, bodies: Sequence[Any], *, largest: int = LARGEST
) -> list[Any]:
    """The answers to all bodies, in their order; a RejectedError stands in place of its answer.

    The first other failure stops all and raises as in Client.post.
    """

    async def answer(client: Client, body: Any) -> Any:
        try:
            return await client.post(path, body, largest=largest)
        except RejectedError as error:
            return error

    async def answers() -> list[Any]:
        async with Client(endpoint) as client:
            return await asyncio.gather(*(answer(client, body) for body in bodies))

    return wait_for(answers())


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, in a notebook too, where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _used_tokens(answer: Any, expected: float) -> float:
    """The tokens that an answer in OpenAI's form says it took."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and 0 <= total <= MOST_TOKENS else expected


def _retry_after(value: str) -> float:
    """Seconds to wait by a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    try:
        return max(0.0, float(value))
    except ValueError:
        with suppress(ValueError, TypeError):  # no date, or one without a time zone
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return 0.0
