"""Paths to files to documents: which files are read, in which order, under which labels.

A label is the path as it was given, normalised; it names the file in ids and messages. Knows
nothing of chunks, indexes or what was read before.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tercet.documents.base import Problem, Read, Reader, Unreadable, label_of
from tercet.documents.rows import read_csv, read_jsonl, read_parquet, read_tsv
from tercet.documents.text import read_html, read_markdown, read_pdf, read_text
from tercet.errors import MissingExtraError
from tercet.records import Document

READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".pdf": read_pdf,
}


@dataclass(frozen=True)
class Found:
    """A file to be read."""

    path: Path  # absolute
    label: str
    size: int  # bytes
    mtime_ns: int  # when it was last changed, as the file system tells


def find_files(paths: Iterable[str | Path]) -> Iterator[Found | Problem]:
    """The readable kinds of files under folders, and files as given, each once, in a fixed order.

    Hidden files and folders are passed over, links to folders are not followed. In a folder other
    kinds of files are passed over too; named alone, they are a Problem. So are a path that is not
    there, a folder that cannot be listed, and one that holds no file of a readable kind.
    """
    seen: set[str] = set()
    for path in paths:
        label = label_of(path)
        if os.path.isdir(path):
            found = False
            for item in _walk(path):
                found = True
                if isinstance(item, Problem) or _first_time(item, seen):
                    yield item
            if not found:
                kinds = " ".join(READERS)
                yield Problem(label, f"no file that can be read: looked for {kinds}")
        elif Path(path).suffix.lower() not in READERS and os.path.exists(path):
            yield Problem(label, f"not a kind of file that is read: {' '.join(READERS)}")
        else:
            item = _stat(path)
            if isinstance(item, Problem) or _first_time(item, seen):
                yield item


def _first_time(found: Found, seen: set[str]) -> bool:
    key = str(found.path)
    new = key not in seen
    seen.add(key)
    return new


def _walk(folder: str | Path) -> Iterator[Found | Problem]:
    closed: list[Problem] = []

    def remember(error: OSError) -> None:
        label = label_of(error.filename or folder)
        closed.append(Problem(label, f"the folder cannot be read: {error.strerror}"))

    for where, folders, names in os.walk(folder, onerror=remember):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in READERS:
                yield _stat(os.path.join(where, name))
        yield from closed
        closed.clear()
    yield from closed


def _stat(path: str | Path) -> Found | Problem:
    try:
        facts = os.stat(path)
    except OSError as error:
        return Problem(label_of(path), f"cannot be read: {error.strerror}")
    absolute = Path(os.path.abspath(path))
    return Found(absolute, label_of(path), facts.st_size, facts.st_mtime_ns)


def read_file(path: Path, label: str | None = None) -> Read:
    """The documents of one file, streamed; what cannot be read comes as a Problem in its place.

    The metadata of each gains the path (its label) and the suffix of the file.
    """
    label = label_of(path) if label is None else label
    suffix = path.suffix.lower()
    reader = READERS.get(suffix)
    if reader is None:
        yield Problem(label, f"not a kind of file that is read: {' '.join(READERS)}")
        return
    about = {"path": label, "suffix": suffix}
    try:
        for item in reader(path, label):
            if isinstance(item, Document):
                item = replace(item, metadata={**about, **item.metadata})
            yield item
    except Unreadable as error:
        yield Problem(error.source, error.reason)
    except MissingExtraError as error:
        yield Problem(label, str(error))
    except OSError as error:
        yield Problem(label, f"cannot be read: {error.strerror or error}")
