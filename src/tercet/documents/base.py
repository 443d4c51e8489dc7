"""What every reader of documents shares: its options, problems in words, bytes as clean text.

Knows nothing of formats, folders, chunks, indexes or models.
"""

import datetime as dt
import math
import os
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from tercet.documents.encodings import detect, encoding_of, unmarked
from tercet.errors import InputError, TercetError
from tercet.records import Document, Scalar, Section, Value

LONGEST = 1024  # characters of an id, a title or a metadata string
EMPTY = "empty: no text to index"
METADATA = 1 << 14  # characters of all metadata of a document
HEADING = 256  # characters of a heading that are stored with each chunk below it
DEEPEST = 6  # level of headings, as in HTML


@dataclass(frozen=True)
class Reading:
    """How files are found and read.

    Options:
      exclude PATTERN: Pass over what matches, written as in a .gitignore file; may be repeated.
      follow_links: Read links that lead out of a folder, and links to folders.
      encoding NAME: Encoding of text files that neither are UTF-8 nor name their own, as in
          windows-1251.  [default: detected]
      text_field NAME: Field or column that is the text of a row.  [default: text, contents or
          body, else all that hold text]
      max_mb N: Largest text that is read, unpacked, in MB: a file that is one document, or a line
          of rows.
    """

    exclude: tuple[str, ...] = ()
    follow_links: bool = False
    encoding: str | None = None
    text_field: str | None = None
    max_mb: int = 64

    def __post_init__(self) -> None:
        if self.encoding is not None and encoding_of(self.encoding) is None:
            raise InputError(f"unknown encoding {self.encoding!r}: give one as windows-1251")
        if self.max_mb < 1:
            raise InputError(f"max_mb is {self.max_mb}: give at least 1")

    @property
    def most(self) -> int:
        """Bytes of the largest text."""
        return self.max_mb << 20

    @property
    def key(self) -> str:
        """What decides how a file's bytes are read; empty where nothing was chosen."""
        chosen = [self.encoding and encoding_of(self.encoding), self.text_field]
        return "".join(f":{part}" for part in chosen if part)


DEFAULT = Reading()


@dataclass(frozen=True)
class Problem:
    """A file, or a row of one, that gave no document, and why, in words."""

    source: str  # a path, or a path with ":line"
    reason: str
    failed: bool = True  # False where nothing is wrong: the document is merely empty

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True)
class Note(Problem):
    """What should be known of a file or folder that was read."""

    failed: bool = False


class Unreadable(InputError):
    """A file that gives no document, or none from here on; source and reason as in Problem."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason


def problem_of(error: Exception, label: str, path: Path) -> Problem:
    """What stopped the reading of one file as a Problem: whatever it is, the other files go on."""
    if isinstance(error, Unreadable):
        return Problem(error.source, error.reason)
    reason = f"cannot be read: {type(error).__name__}: {error}"
    if isinstance(error, UnicodeDecodeError):
        reason = undecodable(error)
    elif isinstance(error, TercetError):
        match = re.match(rf"{re.escape(str(path))}(:\d+)?: ", str(error))
        label += (match and match[1]) or ""
        reason = str(error)[match.end() if match else 0 :]
    elif isinstance(error, OSError):
        reason = f"cannot be read: {error.strerror or error}"
    return Problem(label, reason[:500])


# Cleaning

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
# Unicode's default ignorable characters; the joiners only beside letters that they do not shape.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]+"
    "|(?<=[\t-\u052f])[\u200c\u200d]+|[\u200c\u200d]+(?=[\t-\u052f]|$)"
)
_INTEGERS = range(-(1 << 63), 1 << 63)  # what an index payload can hold


def clean(text: str) -> str:
    """The text with one kind of line break, NULs as spaces and lone surrogates as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text  # most short ones
    return _SURROGATES.sub("\ufffd", _BREAKS.sub("\n", text).replace("\0", " "))


def readable(text: str) -> str:
    """The clean text without characters that nobody sees, such as the soft hyphen."""
    text = clean(text)
    return text if text.isascii() else _INVISIBLE.sub("", text)


def clean_line(text: str) -> str:
    """The text as one line without outer space, for titles and ids."""
    return " ".join(clean(text).split())


def title_of(text: str) -> str:
    """A title as it is stored: one line of at most LONGEST characters."""
    return clean_line(text[: 4 * LONGEST])[:LONGEST].rstrip()


def label_of(path: str | Path) -> str:
    """The path as ids and messages show it: normalised, "/" between parts, valid Unicode."""
    plain = os.path.normpath(path).replace(os.sep, "/")
    return clean(plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


# Decoding


def decode(raw: bytes, label: str, encoding: str | None = None, *, given: str | None = None) -> str:
    """The bytes of a text file as text, without a byte order mark.

    A mark decides, then the encoding that the text names itself, then UTF-8, then what is given or
    can be detected. Raises Unreadable with the line and the byte where they are not in it.
    """
    return decode_as(raw, label, encoding, given=given)[0]


def decode_as(
    raw: bytes, label: str, encoding: str | None = None, *, given: str | None = None
) -> tuple[str, str | None]:
    """As `decode`, and the name of the encoding where that was guessed."""
    if (marked := unmarked(raw)) is not None:
        encoding = marked
    try:
        return raw.decode(encoding or "utf-8", "tercet").removeprefix("\ufeff"), None
    except UnicodeDecodeError as error:
        other = encoding_of(given) if given else detect(raw, error.start)
        if other is not None and marked is None:
            try:
                return raw.decode(other, "tercet"), None if given else other
            except UnicodeDecodeError as second:
                error = second
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{label}:{line}", undecodable(error)) from error


def undecodable(error: UnicodeDecodeError) -> str:
    """The reason in words for bytes that are not in the encoding they should be in."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} is not {error.encoding}: convert the file to UTF-8"


# Documents


def plain_values(key: str, value: Any) -> dict[str, Value]:
    """A metadata value as an index can hold it: scalars, lists of them, objects as "key.name".

    NumPy's values are Python's, Decimals numbers, dates text; None gives nothing. Raises InputError
    for what has no such form.
    """
    flat: dict[str, Value] = {}
    waiting: list[tuple[str, Any]] = [(key, value)]
    for name, part in waiting:  # which grows
        if isinstance(part, Mapping):
            if len(name) > LONGEST or len(waiting) > LONGEST:
                raise InputError(f"metadata {key!r} nests too deep")
            waiting += [(f"{name}.{inner}", of) for inner, of in part.items()]
            continue
        if hasattr(part, "tolist") and type(part).__name__ != "datetime64":
            part = part.tolist()
        if isinstance(part, list | tuple | set | frozenset):
            members = [_scalar(key, member) for member in part]
            flat[name] = [member for member in members if member is not None]
        elif (scalar := _scalar(key, part)) is not None:
            flat[name] = scalar
    return flat


def _scalar(key: str, value: Any) -> Scalar | None:
    if hasattr(value, "item") and type(value).__name__ != "datetime64":  # of NumPy
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == int(value) else float(value)
    if isinstance(value, int):
        return int(value) if value in _INTEGERS else _digits(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, str):
        return clean(str(value)).strip()
    if type(value).__name__ in ("datetime64", "timedelta", "UUID"):
        return str(value)
    raise InputError(
        f"metadata {key!r} is {reprlib.repr(value)}: give a text, a number, true or false, a date, "
        f"or a list of these"
    )


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python prints no more than 4,300 digits
        return f"{value:#x}"


def _is_blank(text: str) -> bool:
    """Whether nothing in the text can be read: white space, control and format marks only."""
    return all(char.isspace() or unicodedata.category(char) in ("Cc", "Cf") for char in text)


def prepare(document: Document) -> Document | Problem:
    """The document as it is stored: clean text, a title alone as the text, plain metadata.

    Character spans count in this text. A Problem where nothing is left to read; raises InputError
    where a field is of a wrong type or the id cannot be stored.
    """
    name = f"document {document.id!r:.80}"
    for field in ("id", "text", "title", "source", "language", "metadata"):
        value = getattr(document, field)
        kind, what = (Mapping, "dict") if field == "metadata" else (str, "string")
        if not isinstance(value, kind) and not (field == "language" and value is None):
            raise InputError(f"{name}: its {field} is a {type(value).__name__}, not a {what}")
    if not document.id or clean(document.id) != document.id:
        raise InputError(
            f"{name}: an id needs at least one character and can hold no NUL, lone surrogate or "
            f"line break other than \\n"
        )
    metadata: dict[str, Value] = {}
    for key, value in document.metadata.items():
        if not isinstance(key, str) or not clean_line(key):
            raise InputError(f"{name}: metadata {key!r}: a key must be a text")
        try:
            metadata |= plain_values(clean_line(key), value)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    text, title = readable(document.text), clean_line(readable(document.title))
    source = clean(document.source) or document.id
    outline = _outline(document, name)
    if _is_blank(text):
        text, title, outline = title, "", ()
    if _is_blank(text):
        return Problem(source, EMPTY, failed=False)
    language = clean_line(document.language or "") or None
    return replace(
        document,
        text=text,
        title=title,
        source=source,
        language=language,
        metadata=metadata,
        outline=outline,
    )


def _outline(document: Document, name: str) -> tuple[Section, ...]:
    """The outline in the text that is stored, its headings each a line of at most HEADING."""
    outline: list[Section] = []
    before = after = 0  # the same place in the text as it was given, and as it is stored
    try:
        for start, level, label in sorted(document.outline):
            if start not in range(len(document.text) + 1) or level not in range(DEEPEST + 1):
                raise ValueError
            heading = title_of(readable(label))[:HEADING].rstrip() if level else str(int(label))
            after += len(readable(document.text[before:start]))
            before = start
            if heading:
                outline.append(Section(after, level, heading))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: its outline is {reprlib.repr(document.outline)}: give (start, level, label) "
            f"of each heading, with a start in the text and a level from 1 to {DEEPEST}, and of "
            f"each page, with level 0 and its number"
        ) from error
    return tuple(outline)


def bounded(metadata: Mapping[str, Any]) -> tuple[dict[str, Value], list[str]]:
    """Metadata that was read, in bounds and plain; the keys of what was left out."""
    inside: dict[str, Value] = {}
    outside: list[str] = []
    room = METADATA
    for key, value in metadata.items():
        name = clean_line(key[:LONGEST])
        try:
            flat = plain_values(name, value) if name else {}
        except InputError:
            flat, room = {}, room - len(name)
            outside.append(name)
        for inner, plain in flat.items():
            members = plain if isinstance(plain, list) else [plain]
            sizes = [len(str(member)) for member in members]
            if max(sizes, default=0) > LONGEST or sum(sizes) + len(inner) > room:
                outside.append(inner)
            elif sizes and plain != "":
                inside[inner] = plain
                room -= sum(sizes) + len(inner)
    return inside, outside
