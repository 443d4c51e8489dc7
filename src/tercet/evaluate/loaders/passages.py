"""Rows of files as passages: title, newline, text; a corpus that is read again each time.

Knows nothing of which dataset the files are of.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tercet.errors import InputError
from tercet.evaluate.tasks import Corpus, Texts
from tercet.rows import Row, numbered_rows

Numbered = Iterator[tuple[str, str, str]]  # file and line, id, text


def passage_text(title: str, text: str) -> str:
    """Title, newline, text; the text alone where there is no title (method.md, scores)."""
    return f"{title}\n{text}" if title else text


def string(row: Row, name: str, where: str, *, default: str | None = None) -> str:
    """A field of a row that is a string; raises InputError. A null one is absent."""
    value = row.get(name)
    if value is None:
        if default is not None:
            return default
        raise InputError(f"{where}: a row needs {name!r}, this one has {', '.join(row) or 'none'}")
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} must be a string, not {value!r:.40}")
    return value


def identifier(row: Row, name: str, where: str) -> str:
    """An id, which some files write as a number."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = string(row, name, where)
    if not found.strip():
        raise InputError(f"{where}: {name!r} is empty")
    return found


def corpus_of(
    name: str,
    files: Sequence[Path],
    fields: tuple[str, str | None, str],
    *,
    change: Callable[[str], str] | None = None,
) -> Corpus:
    """A corpus in files of rows; fields are those of id, title (None: there is none) and text."""
    key, title, text = fields

    def head(row: Row, where: str) -> str:
        return "" if title is None else string(row, title, where, default="")

    def rows() -> Numbered:
        for path in files:
            for line, row in numbered_rows(path):
                where = f"{path}:{line}"
                passage = passage_text(head(row, where), string(row, text, where))
                yield where, identifier(row, key, where), change(passage) if change else passage

    def titles() -> Iterator[int]:
        for path in files:
            for line, row in numbered_rows(path):
                found = head(row, f"{path}:{line}")
                yield len(change(found) if change else found)

    return Corpus(name, lambda: once_each(rows, name), None if title is None else titles)


def once_each(rows: Callable[[], Numbered], name: str) -> Texts:
    """The ids and texts; when all are read, raises InputError for an id that came twice, or none.

    Keeps 8 bytes an id. Where two have the same hash, the rows are read again to find them.
    """
    hashes = array("q")
    for _, key, text in rows():
        hashes.append(hash(key))
        yield key, text
    if not hashes:
        raise InputError(f"{name}: no passage")
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    doubtful = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    first: dict[str, str] = {}
    for where, key, _ in rows() if doubtful else ():
        if hash(key) in doubtful and (other := first.setdefault(key, where)) != where:
            raise InputError(f"{where}: the id {key!r} has a passage already, in {other}")


def judged_queries(
    queries: Iterator[tuple[str, str, str]], judged: set[str], source: object
) -> dict[str, str]:
    """Of (where, id, text), the judged ones; raises InputError naming what is wrong with one.

    A judged query that is empty, comes twice or does not come at all is wrong.
    """
    out: dict[str, str] = {}
    for where, key, text in queries:
        if key not in judged:
            continue
        if key in out:
            raise InputError(f"{where}: query {key!r} is here a second time")
        if not text.strip():
            raise InputError(f"{where}: query {key!r} is empty")
        out[key] = text
    if absent := sorted(judged - out.keys()):
        raise InputError(
            f"{source}: {len(absent)} queries are judged but not here, the first {absent[0]!r}"
        )
    return out
