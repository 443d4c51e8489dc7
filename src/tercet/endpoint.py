"""JSON posted to an HTTP endpoint that may be slow, busy, wrong or gone; failures in words.

Requests run side by side, within limits a minute. What may pass (429, 5xx, a timeout, a cut
connection, a page of HTML in place of JSON) is tried again after growing waits. Knows nothing of
what is asked.
"""

import asyncio
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from tercet.errors import InputError, TercetError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

LONGEST_BACKOFF = 60.0  # seconds between two tries, where the endpoint does not say
LONGEST_WAIT = 600.0  # seconds that an endpoint may ask for; more is told to the user
CONNECT = 10.0  # seconds to open a connection
_TOLD = 200  # characters of an endpoint's own words


class EndpointError(TercetError):
    """An endpoint gave no usable answer, however often it was asked."""


class RejectedError(EndpointError):
    """The endpoint refuses this one request, as it does a prompt that is too long (400, 422)."""


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
        if not usable or any(character.isspace() for character in self.url):
            raise InputError(
                f"{self.url!r} is no address of an endpoint: give one such as "
                "http://localhost:8000/v1"
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise InputError(
                "the address of an endpoint takes no user, query or fragment: a key comes from an "
                "environment variable"
            )
        for name in ("timeout", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise InputError(f"{name} must be above 0, got {value}")
        if self.concurrency < 1 or self.retries < 0 or not 0 <= self.backoff < math.inf:
            raise InputError(
                "concurrency counts from 1, retries and backoff from 0, got "
                f"{self.concurrency}, {self.retries} and {self.backoff}"
            )

    def key(self) -> str | None:
        """The API key; raises InputError where the variable is not set or cannot be a key."""
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise InputError(f"no API key: the environment variable {self.key_env} is not set")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(
                f"the environment variable {self.key_env} holds no API key: it has spaces, or "
                "characters that no header can carry"
            )
        return key


class Client:
    """Asks an endpoint: `async with Client(endpoint) as client: await client.post(path, body)`.

    tell gets a sentence when it starts to wait for a reason it did not wait for before; `retried`
    counts all of them.
    """

    def __init__(self, endpoint: Endpoint, *, tell: Callable[[str], None] | None = None) -> None:
        """Raises InputError where the API key is not to be had."""
        self.endpoint = endpoint
        self.retried: Counter[str] = Counter()
        self._tell = tell
        self._key = endpoint.key()
        self._requests = _Rate(endpoint.requests_per_minute)
        self._tokens = _Rate(endpoint.tokens_per_minute)
        self._paused = 0.0  # until when, on the monotonic clock, nothing is sent

    async def __aenter__(self) -> Self:
        import httpx2

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._slots = asyncio.Semaphore(self.endpoint.concurrency)
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(self.endpoint.timeout, connect=CONNECT, pool=None),
            limits=httpx2.Limits(max_connections=self.endpoint.concurrency),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: Any, *, tokens: float = 0) -> Any:
        """The JSON that answers a POST of `body` to a path below the endpoint's address.

        tokens: how many the request and its answer will take, for the limit; what the answer says
        of its usage corrects it. Raises RejectedError, AccessError, or EndpointError when the tries
        are used up.
        """
        url = f"{self.endpoint.url.rstrip('/')}/{path.lstrip('/')}"
        payload = json.dumps(body, allow_nan=False).encode()
        for attempt in range(self.endpoint.retries + 1):
            try:
                async with self._slots:
                    await self._turn(tokens)
                    answer = await self._once(url, payload)
            except _Passing as passing:
                problem = passing
            else:
                self._tokens.take(_used(answer, tokens) - tokens)
                return answer
            if attempt < self.endpoint.retries:
                await self._wait(problem, attempt)
        tries = f" ({attempt + 1} tries)" if attempt else ""
        raise EndpointError(self._clean(f"{url}: {problem.what}{tries}")) from problem

    async def _turn(self, tokens: float) -> None:
        """Waits until limits and pauses let a request through."""
        now = time.monotonic()
        ready = max(self._requests.take(1), self._tokens.take(tokens))
        while (pause := max(ready, self._paused) - now) > 0:
            await asyncio.sleep(pause)
            now = time.monotonic()

    async def _wait(self, problem: "_Passing", attempt: int) -> None:
        """Waits before the next try; where the endpoint named a time, all requests wait."""
        self.retried[problem.kind] += 1
        wait = min(LONGEST_BACKOFF, self.endpoint.backoff * 2**attempt)
        wait *= random.uniform(0.5, 1)  # so that those who failed together do not return together
        if problem.after is not None:
            self._paused = max(self._paused, time.monotonic() + problem.after)
        if self.retried[problem.kind] == 1 and self._tell is not None:
            seconds = max(wait, problem.after or 0)
            self._tell(self._clean(f"{problem.what}; trying again in {seconds:.0f} s"))
        await asyncio.sleep(wait)

    async def _once(self, url: str, payload: bytes) -> Any:
        import httpx2

        limit = self.endpoint.timeout
        try:
            async with asyncio.timeout(limit):  # httpx's own limit starts anew with each byte
                response = await self._http.post(url, content=payload)
        except httpx2.ConnectTimeout as error:
            raise _Passing("no connection", f"no connection within {CONNECT:g} s") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Passing(
                "too slow", f"no answer within {limit:g} s: allow more time or ask less at once"
            ) from error
        except httpx2.ConnectError as error:
            raise _Passing("no connection", f"cannot connect: {_reason(error)}") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Passing("cut", f"the connection broke: {_reason(error)}") from error
        except httpx2.InvalidURL as error:
            raise InputError(f"{url} is no address of an endpoint: {error}") from error
        if response.is_success:
            try:
                return json.loads(response.content)
            except (ValueError, RecursionError) as error:
                raise _Passing("no JSON", f"{_nonsense(response)}: {_begins(response)}") from error
        raise self._failure(url, response)

    def _failure(self, url: str, response: "httpx2.Response") -> Exception:
        """What an answer that is no success means."""
        status, said = response.status_code, _words(response)
        kind: type[EndpointError] = AccessError
        if status in (401, 403):
            key = self.endpoint.key_env
            fix = "no API key was sent" if key is None else f"check the key in {key}"
            what = f"access denied ({status}), {fix}: {said}"
        elif status == 402 or (status == 429 and b"insufficient_quota" in response.content):
            what = f"the account is used up ({status}): {said}"
        elif status in (404, 405):
            what = (
                f"no such address or model ({status}): check both; the address often ends in /v1: "
                f"{said}"
            )
        elif response.is_redirect:
            to = response.headers.get("location", "elsewhere")
            what = f"moved to {to} ({status}): give the address it has now"
        elif status in (408, 409, 425, 429) or status >= 500:
            after = _retry_after(response.headers.get("retry-after"))
            if after is None or after <= LONGEST_WAIT:
                return _Passing(str(status), f"answered {status}: {said}", after)
            what = f"asks to wait {after:,.0f} s ({status}), come back then: {said}"
        else:
            kind, what = RejectedError, f"refused the request ({status}): {said}"
        return kind(self._clean(f"{url}: {what}"))

    def _clean(self, message: str) -> str:
        """A message without the key, which some servers repeat."""
        return message if self._key is None else message.replace(self._key, "[key]")


class _Passing(Exception):
    """A failure that may be gone at the next try."""

    def __init__(self, kind: str, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.kind, self.what, self.after = kind, what, after  # after: seconds, as it was asked


class _Rate:
    """A budget a minute, spread evenly, so that no minute takes more than its share."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60 / per_minute  # for one
        self._free = 0.0

    def take(self, amount: float) -> float:
        """Takes an amount (gives back a negative one); returns when its turn is."""
        start = max(self._free, time.monotonic()) if amount > 0 else self._free
        self._free = start + amount * self._seconds
        return start if amount > 0 else 0.0


def ask(endpoint: Endpoint, path: str, bodies: Sequence[Any]) -> list[Any]:
    """The answers to all bodies, in their order; the first failure raises as in Client.post."""

    async def all_of_them() -> list[Any]:
        async with Client(endpoint) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(client.post(path, body)) for body in bodies]
            except BaseExceptionGroup as errors:
                raise first_of(errors) from None
        return [task.result() for task in tasks]

    return wait_for(all_of_them())


def first_of(errors: BaseExceptionGroup[Any]) -> BaseException:
    """One error of a group, however deep."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, in a notebook too, where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _reason(error: BaseException) -> str:
    """Why a connection failed; libraries bury a refusal under words of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: does anything run there?"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _used(answer: Any, expected: float) -> float:
    """The tokens that an answer in OpenAI's form says it took."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else expected


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _words(response: "httpx2.Response") -> str:
    """What an endpoint says of its own failure: the message in its JSON, or how its text begins."""
    try:
        found: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        return _begins(response)
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return _short(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))


def _begins(response: "httpx2.Response") -> str:
    return _short(response.text) or "it sent nothing"


def _nonsense(response: "httpx2.Response") -> str:
    """What came in place of JSON."""
    kind = response.headers.get("content-type", "").split(";")[0].strip()
    return f"answered with {kind or 'something'} that is no JSON"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TOLD else f"{line[:_TOLD]}..."
