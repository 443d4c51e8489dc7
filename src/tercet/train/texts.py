"""The texts of training rows, documents and plain files, one after the other, with their language.

Knows nothing of tokens or models.
"""

import gzip
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tercet.data.rows import SUFFIXES, files_of, numbered_rows
from tercet.errors import InputError

PLAIN = (".txt", ".txt.gz", ".txt.xz")  # one text a line
SINGLE, LISTED = ("query", "title", "text"), ("pos", "neg")  # fields of a row that hold texts
SECOND = re.compile(r"-(?=[a-z])")  # scripts and regions are capitals or digits: az-Latn-en


def text_files(given: Sequence[Path]) -> list[Path]:
    """The files given, with those of rows or of lines in the folders given.

    Raises InputError where there are none.
    """
    if not given:
        raise InputError("no files of text were given")
    found: list[Path] = []
    for path in given:
        lines = sorted(one for one in path.glob("*") if one.name.endswith(PLAIN))
        found += lines
        if not lines or any(one.name.endswith(SUFFIXES) for one in path.glob("*")):
            found += files_of(path)
    return found


def texts_in(files: Iterable[Path]) -> Iterator[str]:
    """Every text of the files; raises InputError naming file and line where a row has none."""
    return (text for _, text in tagged_texts(files))


def tagged_texts(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(language, text) of every text of the files, "" for a language that is not told.

    Of a row whose "lang" names two, as pt-en or az-Latn-en, the query is in the first and all else
    in the second. Raises InputError naming file and line where a row has no text.
    """
    for path in files:
        if path.name.endswith(PLAIN):
            yield from (("", text) for text in _lines(path))
            continue
        for number, row in numbered_rows(path):
            yield from ((tag, text) for _, tag, text in tagged_fields(row, f"{path}:{number}"))


def tagged_fields(row: dict[str, Any], where: str) -> Iterator[tuple[str, str, str]]:
    """(field, language, text) of every text of a row; see `tagged_texts`."""
    some = list(_fields(row, where))
    if not some:
        raise InputError(
            f"{where}: a row needs a text in one of {', '.join((*SINGLE, *LISTED))};"
            f" this has {', '.join(row) or 'nothing'}"
        )
    tag = row.get("lang") or ""
    if not isinstance(tag, str):
        raise InputError(f"{where}: lang holds a {type(tag).__name__}, not the tag of a language")
    first, *more = SECOND.split(tag, 1)
    second = more[0] if more else first
    for name, text in some:
        yield name, first if name == "query" else second, text


def _fields(row: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """(field, text) of every text of a row."""
    for name in (*SINGLE, *LISTED):
        value = row.get(name)
        if value is None:
            continue
        some = value if name in LISTED and isinstance(value, list) else [value]
        for text in some:
            if not isinstance(text, str):
                raise InputError(f"{where}: {name} holds a {type(text).__name__}, not a text")
            yield name, text


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with _open(path) as lines:
            for line in lines:
                number += 1
                if text := line.strip():
                    yield text
    except (UnicodeDecodeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}:{number + 1}: not readable as lines of text: {error}") from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
