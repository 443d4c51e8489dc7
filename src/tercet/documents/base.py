"""What every reader shares: the record of what was not read, cleaning, decoding, file labels.

Knows nothing of particular formats, of chunks, indexes or models.
"""

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.records import Document, Scalar


@dataclass(frozen=True)
class Problem:
    """A file, or a row of one, that gave no document, and why, in words."""

    source: str  # a path, or a path with ":line"
    reason: str
    failed: bool = True  # False where nothing is wrong: the document is merely empty

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class Unreadable(InputError):
    """A file that gives no document, or none from here on; source and reason as in Problem."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason


Read = Iterator[Document | Problem]
Reader = Callable[[Path, str], Read]  # (path, label) -> what is in the file

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_INTEGERS = range(-(1 << 63), 1 << 63)  # what an index payload can hold


def clean(text: str) -> str:
    """The text with one kind of line break, NULs as spaces and lone surrogates as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text  # most short ones
    return _SURROGATES.sub("\ufffd", _BREAKS.sub("\n", text).replace("\0", " "))


def clean_line(text: str) -> str:
    """The text as one line without outer space, for titles and ids."""
    return " ".join(clean(text).split())


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be read: white space, control and format marks only."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def scalar(value: Any) -> Scalar | None:
    """A metadata value as an index can hold it; None for what it cannot (lists, objects, null)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in _INTEGERS else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return clean(value).strip() if isinstance(value, str) else None


def label_of(path: str | Path) -> str:
    """The path as ids and messages show it: normalised, "/" between parts, valid Unicode."""
    plain = os.path.normpath(path).replace(os.sep, "/")
    return clean(plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def decode(raw: bytes, label: str, encoding: str | None = None) -> str:
    """The bytes of a text file as text, without a byte order mark.

    UTF-8 unless a byte order mark or `encoding` says otherwise. Raises Unreadable with the line
    and the byte where they are not in that encoding.
    """
    for mark, name in _BOMS:
        if raw.startswith(mark):
            raw, encoding = (raw[3:] if name == "utf-8" else raw), name
            break
    else:
        encoding = encoding or "utf-8"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{label}:{line}", undecodable(error)) from error


def undecodable(error: UnicodeDecodeError) -> str:
    """The reason in words for bytes that are not in the encoding they should be in."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} is not {error.encoding}; convert the file to UTF-8"


def prepare(document: Document) -> Document | Problem:
    """The document as it is stored: clean text, a title alone as the text, plain metadata.

    Character spans count in this text. A Problem where nothing is left to read; raises InputError
    where a field is of a wrong type or the id cannot be stored.
    """
    for name in ("id", "text", "title", "source"):
        if not isinstance(getattr(document, name), str):
            kind = type(getattr(document, name)).__name__
            raise InputError(f"document {document.id!r}: its {name} is a {kind}, not a string")
    if not document.id or clean(document.id) != document.id:
        raise InputError(
            f"document id {document.id!r}: an id needs at least one character and can hold no "
            f"NUL, lone surrogate or line break other than \\n"
        )
    metadata: dict[str, Scalar] = {}
    for key, value in document.metadata.items():
        kept = scalar(value)
        if not isinstance(key, str) or not clean_line(key):
            raise InputError(f"document {document.id!r}: metadata key {key!r} is no text")
        if kept is None:
            raise InputError(
                f"document {document.id!r}: metadata {key!r} is a {type(value).__name__}; it must "
                f"be a string, a number or true/false"
            )
        metadata[clean_line(key)] = kept
    text, title = clean(document.text), clean_line(document.title)
    source = clean(document.source) or document.id
    if is_blank(text):
        if is_blank(title):
            return Problem(source, "empty: no text to index", failed=False)
        text, title = title, ""
    language = clean_line(document.language or "") or None
    return replace(
        document, text=text, title=title, source=source, language=language, metadata=metadata
    )
