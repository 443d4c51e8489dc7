"""What every reader shares: what it finds, what it is told, files as bytes and as text.

Knows nothing of formats, of parts or of the report.
"""

import bz2
import codecs
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from tercet.errors import InputError, MissingExtraError
from tercet.rows import open_packed

Structure = Literal[
    "title-body",
    "heading-section",
    "title-abstract",
    "question-answer",
    "instruction-output",
    "code-docstring",
    "translations",
]
PACKED = (".gz", ".xz", ".zst", ".bz2")
NEEDED_BY = {"docutils": "reStructuredText", "polib": "PO", "tree_sitter": "source code"}
LARGEST = 64 << 20  # bytes of a file that is parsed as a whole, which takes memory many times that
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_BREAKS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Pair:
    """A query and what answers it; `path` holds the headings from the title down to the query."""

    structure: Structure
    query: str
    pos: tuple[str, ...]
    where: str  # the unit it is from: file and line, or an id of its own
    lang: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """Something that gave no row, and why; reasons are few, so that they can be counted."""

    reason: str
    where: str
    text: str = ""  # of it, as an example


@dataclass(frozen=True)
class Problem:
    """What could not be read: where (file, or file and line) and why, in words."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class Unreadable(InputError):
    """A file that gives no more units.

    void: what it gave before is wrong too.
    """

    def __init__(self, where: str, reason: str, *, void: bool = False) -> None:
        super().__init__(f"{where}: {reason}")
        self.problem = Problem(where, reason)
        self.void = void


Found = Pair | Left | Problem
Has = Callable[[int], bool]  # whether a unit, counted from 0, is to be read
Units = Iterator[tuple[int, list[Found]]]  # the units that are, and what each gave


@dataclass(frozen=True)
class Plan:
    """What readers are told, the same for all of them."""

    structures: tuple[Structure, ...] = ()  # none: what the kind of source suggests
    lang: str = ""  # of everything; "": what the source says
    directions: tuple[tuple[str, str], ...] = ()  # of translations; none: as the source lies
    both: bool = False  # directions are turned round too
    fields: tuple[tuple[str, str], ...] = ()  # of JSON lines: (role, name of the field)
    min_chars: int = 40  # of a positive
    min_translation: int = 10  # characters of a translation's longer side
    max_chars: int = 8000  # of a positive: prose and code are cut there
    max_query_chars: int = 1000


def need(module: str) -> None:
    """Raises MissingExtraError where an optional library is not there."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading {NEEDED_BY.get(module, 'source code')} needs {module}: "
            "pip install 'tercet[pairs]'"
        ) from error


def clean(text: str) -> str:
    """The text with one kind of line break, without control characters and lone surrogates."""
    if _UNCLEAN.search(text) is None:
        return text
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", _BREAKS.sub("\n", text)))


def line(text: str) -> str:
    """The text as one line."""
    return " ".join(clean(text).split())


def has_word(text: str) -> bool:
    """Whether there is a word: two letters in a row, or one of a script of Asia."""
    previous = False
    for char in text:
        letter = char.isalpha()
        if letter and (previous or char >= "\u0900"):
            return True
        previous = letter
    return False


def shorten(text: str, most: int) -> str:
    """At most so many characters, cut after a paragraph, a line, a sentence or a word.

    >>> shorten("One thing. Another thing.", 14)
    'One thing.'
    """
    if len(text) <= most:
        return text
    head = text[:most]
    for mark in ("\n\n", "\n", ". ", "。", " "):
        at = head.rfind(mark)
        if at >= most // 2:
            return head[: at + len(mark)].rstrip()
    return head


def shorten_code(text: str, most: int) -> str:
    """At most so many characters, cut at the end of a line."""
    return text if len(text) <= most else text[: text.rfind("\n", 0, most + 1)].rstrip()


def read_bytes(path: Path, label: str) -> bytes:
    """A whole file; raises Unreadable where it is too large for that."""
    size = path.stat().st_size
    if size > LARGEST:
        raise Unreadable(label, f"{size >> 20} MB are too much for one file: split it")
    return path.read_bytes()


def decode(raw: bytes, label: str, encoding: str | None = None) -> str:
    """The bytes of a file as text, without a byte order mark.

    UTF-8 unless such a mark or `encoding` says otherwise. Raises Unreadable with the line and the
    byte where they are not.
    """
    for mark, name in _BOMS:
        if raw.startswith(mark):
            raw, encoding = raw.removeprefix(mark) if name == "utf-8" else raw, name
            break
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"{label}:{number}", not_decoded(error)) from error


def known_encoding(name: str) -> str | None:
    """What Python calls an encoding, None where it does not know it."""
    try:
        return codecs.lookup("cp1252" if name.lower() == "iso-8859-1" else name).name
    except LookupError:
        return None


def not_decoded(error: UnicodeDecodeError) -> str:
    """Why bytes could not be read, in words."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} is not {error.encoding}: convert the file to UTF-8"


def open_bytes(path: Path) -> io.BufferedIOBase:
    """A file, plain or packed as its name says, for its unpacked bytes."""
    return bz2.open(path) if path.suffix == ".bz2" else open_packed(path)


def unpacked_name(path: Path) -> str:
    """The name without the suffix of a packer."""
    return path.name[: -len(path.suffix)] if path.suffix in PACKED else path.name


def numbered_lines(path: Path, label: str, wanted: Has) -> Iterator[tuple[int, bytes]]:
    """The wanted lines with their numbers, counted from 0, without line breaks.

    Only "\\n" ends a line: files that are aligned line by line may hold other breaks. Raises
    Unreadable where a packed file is damaged.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for number, raw in enumerate(file):
                if wanted(number):
                    raw = raw.removeprefix(_BOMS[0][0]) if number == 0 else raw
                    yield number, raw.rstrip(b"\r\n")
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"{label}:{number + 1}", f"cannot be read: {reason}") from error
