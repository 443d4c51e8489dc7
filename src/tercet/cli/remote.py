"""Questions to a running `tercet serve`: the hits that a search of its folder would give.

The standard library's HTTP alone, since what a search loads takes seconds. Knows nothing of
models, indexes or how hits are shown.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from tercet.errors import InputError, TercetError
from tercet.records import Hit, Span

KEY = "TERCET_KEY"  # the environment variable with the key of the server
TIMEOUT = 60.0  # seconds
LARGEST = 64 << 20  # bytes of an answer
QUOTED = 200  # characters of an answer that is none


class ServerError(TercetError):
    """A server is not there, refuses a question, or is none of Tercet's."""


@dataclass(frozen=True)
class Server:
    """A running server by its address; raises InputError where that is none."""

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = bool(parts.hostname) and parts.port != 0 and parts.username is None
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or self.url.split() != [self.url]:
            raise InputError(
                "the address of a server is like http://localhost:8080, without a user, a query "
                f"or spaces; its key comes from the environment variable {KEY}"
            )

    def documents(self) -> int:
        """How many its index holds."""
        return int(self._info(lambda model, index: int(index["documents"])))

    def min_score(self) -> float | None:
        """The least score of an answer that its model has learned, with the weights it has."""

        def read(model: Any, index: Any) -> float | None:
            least: float | None = model.get("min_score")
            return least if index["weights"] == model["weights"] else None

        found: float | None = self._info(read)
        return found

    def _info(self, read: Callable[[Any, Any], Any]) -> Any:
        """What is read of the facts of its model and its index."""

        def facts(answer: Any) -> Any:
            model, index = answer["model"], answer["index"]
            return (None, True) if index is None else (read(model, index), False)

        found, lacks = self._answer("GET", "/info", None, facts)
        if lacks:
            raise ServerError(f"{self.url} has no index: start it with `tercet serve INDEX`")
        return found

    def search(self, question: str, **options: Any) -> list[Hit]:
        """The hits of one question; options as `POST /search` takes them."""
        body = json.dumps({"query": question, **options}).encode()
        hits: list[Hit] = self._answer(
            "POST", "/search", body, lambda answer: [*map(_hit, answer["hits"])]
        )
        return hits

    def _answer(
        self, method: str, path: str, body: bytes | None, read: Callable[[Any], Any]
    ) -> Any:
        """What is read of the answer to a request; raises ServerError where there is none."""
        key = os.environ.get(KEY, "").strip()
        if not (key.isascii() and (key.isprintable() or not key)) or " " in key:
            raise InputError(f"the environment variable {KEY} holds no key: it has odd characters")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        # one connection a question: a server closes what is idle while a person thinks
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        try:
            connection.request(method, parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            status, content = response.status, response.read(LARGEST + 1)
        except (OSError, HTTPException, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerError(
                f"no server answers at {self.url} ({reason}): start one with "
                f"`tercet serve INDEX`, or give the folder of an index"
            ) from error
        finally:
            connection.close()
        if len(content) > LARGEST:
            raise ServerError(f"{self.url} answers with more than {LARGEST >> 20} MB: ask for less")
        try:
            answer = json.loads(content)
            if status == 200:
                return read(answer)
            words = str(answer["error"]["message"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ServerError(
                f"{self.url} is no Tercet server: it answers {method} {path} with {status} and "
                f"{content[:QUOTED].decode(errors='replace')!r}"
            ) from error
        if status == 401:
            mend = f"the key in {KEY} is not one of its" if key else f"put its key into {KEY}"
            raise ServerError(f"{self.url} wants a key: {mend}")
        raise ServerError(f"{self.url} answers {status}: {words}")


def _hit(answer: Mapping[str, Any]) -> Hit:
    """A hit of an answer; what a newer server tells besides is left out."""
    facts = {field.name: answer[field.name] for field in fields(Hit) if field.name in answer}
    for name, value in facts.items():
        if name in ("span", "sentence") and value is not None:
            facts[name] = Span(value["start"], value["end"])
        elif name == "marks":
            facts[name] = tuple(Span(part["start"], part["end"]) for part in value)
        elif name == "headings":
            facts[name] = tuple(value)
    return Hit(**facts)
