"""Paths to files to documents: which files are read, and what is in each.

`find_files` lists files, `read_file` gives their documents and, for what cannot be read, Problems
in its place; the rest goes on. A label is the path as it was given, normalised: it names the file
in ids and messages. Knows nothing of formats, chunks, indexes or models.
"""

import codecs
import lzma
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pathspec import GitIgnoreSpec

from tercet.documents import office, readers
from tercet.documents.base import (
    DEFAULT,
    EMPTY,
    Note,
    Problem,
    Reading,
    Unreadable,
    bounded,
    label_of,
    problem_of,
)
from tercet.documents.readers import Read, Reader
from tercet.errors import TercetError
from tercet.records import Document
from tercet.rows import PACKED, kind_of, open_packed

READERS: dict[str, Reader] = {
    ".txt": readers.read_text,
    ".md": readers.read_markdown,
    ".markdown": readers.read_markdown,
    ".html": readers.read_html,
    ".htm": readers.read_html,
    ".jsonl": readers.read_jsonl,
    ".csv": readers.read_csv,
    ".tsv": readers.read_csv,
    ".parquet": readers.read_parquet,
    ".pdf": readers.read_pdf,
    ".docx": office.read_docx,
    ".pptx": office.read_pptx,
    ".xlsx": office.read_xlsx,
    ".epub": office.read_epub,
    ".rtf": office.read_rtf,
    ".eml": office.read_eml,
    ".ipynb": office.read_ipynb,
}
UNPACKED = (".parquet", ".pdf", ".docx", ".pptx", ".xlsx", ".epub")  # that are not read packed
_HEAD = 1 << 14  # bytes of a file without an extension that tell whether it is text


def reader_of(path: Path) -> Reader | None:
    """What reads a file, by its extension or, without one, if it is UTF-8 text; None: nothing."""
    kind, packed = kind_of(path), path.suffix.lower() in PACKED
    if not kind:
        return readers.read_text if _is_text(path) else None
    return None if packed and kind in UNPACKED else READERS.get(kind)


def _is_text(path: Path) -> bool:
    """Whether a file, maybe packed, begins with UTF-8 text without a NUL."""
    if not path.is_file():  # a pipe gives nothing back
        return False
    try:
        with open_packed(path) as file:
            head = file.read(_HEAD)
        whole = len(head) < _HEAD  # else it may end within a character
        codecs.getincrementaldecoder("utf-8")().decode(head, whole)
    except (TercetError, OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError):
        return False
    return bool(head) and b"\0" not in head


# Passed over where no .gitignore says otherwise: what others wrote and a package manager fetched.
FETCHED = ("node_modules/",)
_KINDS = f"{' '.join(READERS)}, and text without an extension"
_UNREAD = f"not a kind of file that is read: {_KINDS}"
COLLECTION = "documents.sqlite"  # in a folder whose other files are no documents: it is an index


@dataclass(frozen=True)
class SourceFile:
    """A file to be read."""

    path: Path  # absolute
    label: str
    size: int  # bytes
    mtime_ns: int  # when it was last changed, as the file system tells


@dataclass(frozen=True)
class Ignored:
    """A file or folder that a .gitignore or `exclude` leaves out."""

    path: str  # absolute


Item = SourceFile | Ignored | Problem


def find_files(paths: Iterable[str | Path], reading: Reading = DEFAULT) -> Iterator[Item]:
    """The readable kinds of files under folders, and files as given, each once, in a fixed order.

    Hidden files and folders are passed over, indexes, and what .gitignore files or `exclude` say;
    links out of a folder and to folders are followed only as `follow_links` says. In a folder other
    kinds of files are passed over too, and summed up in a Note; named alone, they are a Problem. So
    are a path that is not there, a folder that cannot be listed, what is no regular file, and a
    folder that holds no file of a readable kind.
    """
    seen: set[Path] = set()
    for path in paths:
        if os.path.isdir(path):
            items = list(_Walk(os.fspath(path), reading).items())
            if not any(isinstance(item, SourceFile) or (item_failed(item)) for item in items):
                reason = f"no file that can be read: looked for {_KINDS}"
                items.append(Problem(label_of(path), reason))
        elif os.path.exists(path) and reader_of(Path(path)) is None:
            items = [Problem(label_of(path), _UNREAD)]
        else:
            items = [_stat(path)]
        for item in items:
            if not isinstance(item, SourceFile):
                yield item
            elif item.path not in seen:
                seen.add(item.path)
                yield item


def item_failed(item: Item) -> bool:
    """Whether something could not be read."""
    return isinstance(item, Problem) and item.failed


class _Walk:
    """What is under one folder."""

    def __init__(self, root: str, reading: Reading) -> None:
        self._root, self._real = root, os.path.realpath(root)
        self._follow = reading.follow_links
        self._excluded = GitIgnoreSpec.from_lines(reading.exclude)
        self._rules: dict[str, GitIgnoreSpec] = {}  # absolute folder -> its .gitignore
        self._others: Counter[str] = Counter()  # files that are not read, by kind
        self._links: list[str] = []
        self._ignored = 0

    def items(self) -> Iterator[Item]:
        for folder in _repository(self._real):
            self._read_rules(folder)
        problems: list[Problem] = []

        def note(error: OSError) -> None:
            label = label_of(error.filename or self._root)
            problems.append(Problem(label, f"the folder cannot be read: {error.strerror}"))

        entered = {self._real}
        for where, folders, names in os.walk(self._root, onerror=note, followlinks=self._follow):
            if COLLECTION in names and any(name.startswith("index-") for name in folders):
                folders.clear()
                continue
            self._read_rules(os.path.realpath(where))
            inner = []
            for name in sorted(folders):
                path = os.path.join(where, name)
                if name.startswith("."):
                    continue
                if self._is_ignored(path, folder=True):
                    yield Ignored(label_of(os.path.abspath(path)))
                elif not os.path.islink(path):
                    inner.append(name)
                elif self._follow and (real := os.path.realpath(path)) not in entered:
                    entered.add(real)  # once: links can go round
                    inner.append(name)
            folders[:] = inner
            for name in sorted(names):
                if not name.startswith((".", "~$")):  # hidden, or a file that Word has opened
                    yield from self._file(os.path.join(where, name))
            yield from problems
            problems.clear()
        yield from problems
        yield from self._notes()

    def _file(self, path: str) -> Iterator[Item]:
        if self._is_ignored(path, folder=False):
            yield Ignored(label_of(os.path.abspath(path)))
        elif reader_of(Path(path)) is None:
            self._others[Path(path).suffix.lower()] += 1
        elif not self._follow and leads_out(path, self._real):
            self._links.append(path)
        else:
            yield _stat(path)

    def _read_rules(self, folder: str) -> None:
        try:
            with open(
                os.path.join(folder, ".gitignore"), encoding="utf-8", errors="replace"
            ) as file:
                text = file.read()
        except OSError:
            return
        self._rules[folder] = GitIgnoreSpec.from_lines(text.splitlines())

    def _is_ignored(self, path: str, *, folder: bool) -> bool:
        """As git has it: the rules of the nearest folder that say anything of a path."""
        end = "/" if folder else ""
        where = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        inside = os.path.relpath(path, self._root).replace(os.sep, "/") + end
        said = self._excluded.check_file(inside).include
        parent = where
        while said is None and parent != (parent := os.path.dirname(parent)):
            if (rules := self._rules.get(parent)) is not None:
                said = rules.check_file(os.path.relpath(where, parent) + end).include
        if said is None:
            said = bool(_FETCHED.match_file(inside))
        self._ignored += said
        return said

    def _notes(self) -> Iterator[Note]:
        label = label_of(self._root)
        if self._others:
            total = sum(self._others.values())
            kinds = [f"{n} {kind or 'without extension'}" for kind, n in self._others.most_common()]
            more = f", {len(kinds) - 8} more kinds" if len(kinds) > 8 else ""
            what = "file of another kind" if total == 1 else "files of other kinds"
            yield Note(label, f"{total} {what} passed over: {', '.join(kinds[:8])}{more}")
        if self._ignored:
            yield Note(
                label, f"{self._ignored} left out by .gitignore or --exclude, or as node_modules"
            )
        if self._links:
            what = f"{len(self._links)} links out of the folder passed over"
            yield Note(
                label, f"{what} ({label_of(self._links[0])} first): --follow-links reads them"
            )


def leads_out(path: str | Path, folder: str) -> bool:
    """Whether a path is a link to something outside of a folder, which is given without links."""
    real = os.path.realpath(path) if os.path.islink(path) else ""
    return os.path.exists(real) and not real.startswith(os.path.join(folder, ""))


_FETCHED = GitIgnoreSpec.from_lines(FETCHED)


def _repository(folder: str) -> list[str]:
    """The folders above one, down from the root of its git repository; none outside of one."""
    above: list[str] = []
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return []
        above.insert(0, parent)
        folder = parent
    return above


def _stat(path: str | Path) -> SourceFile | Problem:
    label = label_of(path)
    try:
        facts = os.stat(path)
    except OSError as error:
        return Problem(label, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        return Problem(label, "not a regular file but a pipe, socket or device")
    return SourceFile(Path(os.path.abspath(path)), label, facts.st_size, facts.st_mtime_ns)


def read_file(path: Path, label: str | None = None, reading: Reading = DEFAULT) -> Read:
    """The documents of one file, streamed; what cannot be read comes as a Problem in its place.

    The metadata of each gains the path (its label) and the suffix of the file.
    """
    label = label_of(path) if label is None else label
    about = {"path": label, "suffix": path.suffix.lower()}
    left_out: dict[str, None] = {}
    item: Document | Problem | None = None
    try:
        if (reader := reader_of(path)) is None:
            raise Unreadable(label, _UNREAD)
        for item in reader(path, label, reading):
            if isinstance(item, Document):
                metadata, outside = bounded(item.metadata)
                left_out.update(dict.fromkeys(outside[:20]))
                item = replace(item, metadata={**about, **metadata})
            yield item
    except Exception as error:  # noqa: BLE001 - whatever one file does, the others go on
        yield (item := problem_of(error, label, path))
    if item is None:
        yield Problem(label, EMPTY, failed=False)
    if left_out:
        names = ", ".join([name[:80] for name in left_out][:20])
        yield Note(label, f"metadata too long or of no plain kind left out: {names}")
