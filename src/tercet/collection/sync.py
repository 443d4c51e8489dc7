"""Documents and files into a collection: what is new, what changed, what is gone.

The one place that changes the document store and the index together. The order of its steps makes
a death at any moment harmless:

    1. a batch is recorded as pending                           (a transaction)
    2. its chunks are encoded and indexed, the index is flushed
    3. it is recorded as done and what it replaces as leaving   (a transaction); now it is reported
    4. the rows of what leaves go out of the index, flush; then its record (a transaction)

`recover` does what a dead process left undone. A file is known by its absolute path; size and time
of change tell cheaply, its hash decides, whether it changed. Knows nothing of files' formats,
queries or models.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tercet.collection.store import (
    DONE,
    LEAVING,
    PENDING,
    DocumentStore,
    FileRecord,
    Incoming,
)
from tercet.config import Head, Progress, Role, Weights
from tercet.documents.chunks import Chunker
from tercet.documents.readers import (
    Problem,
    SourceFile,
    find_files,
    label_of,
    prepare,
    read_file,
)
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index.base import Index
from tercet.records import Document, Payload

# A file changed twice within the clock's grain looks unchanged, so that the time of a file that
# was changed this recently is not relied on (the same trap as git's "racy" index entries).
FRESH_NS = 2_000_000_000


class Encodes(Protocol):
    """What a collection needs of an encoder; `tercet.encoder.Encoder` is one."""

    source: str | None
    fingerprint: str
    weights: Weights
    heads: tuple[Head, ...]
    dims: dict[str, int]
    max_length: int
    tokenizer: Any

    def encode(
        self,
        texts: Sequence[str],
        *,
        heads: tuple[Head, ...] = ...,
        role: Role = ...,
        progress: Progress | None = ...,
    ) -> Embeddings:
        """One row per text."""

    def encode_spans(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        heads: tuple[Head, ...] = ...,
        progress: Progress | None = ...,
    ) -> Embeddings:
        """One row per (text, span), from one pass over each text."""


@dataclass(frozen=True)
class BatchSize:
    """What is recorded, encoded and flushed together, at most about.

    64,000 tokens or so: enough that waiting for the disk is little of the time and that encoding
    can sort by length, little enough that a killed process has little to do again.
    """

    bytes: int = 1 << 18  # of text
    documents: int = 1024


Kind = Literal["added", "updated", "removed", "truncated", "skipped"]


@dataclass(frozen=True)
class Change:
    """Something that happened to a document, durable when it is reported."""

    kind: Kind
    id: str  # of what was skipped: the file, or file:line
    reason: str = ""


@dataclass(frozen=True)
class SyncState:
    """How far a long call is."""

    done: int  # bytes of text; chunks where recorded documents are encoded again
    total: int | None  # None where it cannot be known beforehand
    documents: int  # looked at and done
    tokens: int  # encoded


OnChange = Callable[[Change], None] | None
OnProgress = Callable[[SyncState], None] | None


@dataclass
class AddReport:
    """What an `add` did; counts are of documents, but for `chunks`."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    chunks: int = 0  # of the added and updated ones
    truncated: int = 0  # longer than the model reads: only their beginning can be found
    skipped: list[Problem] = field(default_factory=list)


@dataclass
class _Waiting:
    """What the next `commit` does."""

    documents: dict[str, Incoming] = field(default_factory=dict)
    updates: set[str] = field(default_factory=set)  # which of the documents replace one
    bytes: int = 0  # of their texts
    unread: dict[int, FileRecord] = field(default_factory=dict)  # of which they are the beginning
    ended: list[FileRecord] = field(default_factory=list)  # read to their end
    touched: list[FileRecord] = field(default_factory=list)  # whose record alone changed
    moved: list[tuple[int, int | None, str]] = field(default_factory=list)  # key, file, source


class Sync:
    """Changes a collection: feed it documents, then `commit` what is left."""

    def __init__(
        self,
        store: DocumentStore,
        index: Index,
        encoder: Callable[[], Encodes],
        chunker: Callable[[], Chunker],
        *,
        batch: BatchSize,
        report: OnChange = None,
        progress: OnProgress = None,
    ) -> None:
        """Encoder and chunker are asked for only where something is new."""
        self.store, self.index, self.batch, self.result = store, index, batch, AddReport()
        self._encoder, self._chunker = encoder, chunker
        self._report, self._progress = report, progress
        self.total: int | None = None
        self._done = self._documents = self._tokens = 0
        self._waiting = _Waiting()
        self._next_file = store.next_file()

    def put(self, document: Document, file: FileRecord | None = None) -> None:
        """Takes a prepared document, new or not; what changed is done after the next `commit`."""
        if document.id in self._waiting.documents:
            self.commit()  # given twice: the later one replaces the earlier one
        waiting = self._waiting
        if file is not None:
            waiting.unread[file.number] = file
        number = None if file is None else file.number
        known = self.store.known(document.id)
        digest = _content_hash(document)
        size = len(document.text.encode())
        if known is not None and known.hash == digest:
            self.result.unchanged += 1
            self.advance(size, documents=1)
            if (known.file, known.source) != (number, document.source):
                waiting.moved.append((known.key, number, document.source))
            return
        if known is not None:
            waiting.updates.add(document.id)
        spans = self._chunker().spans(document.text, document.title)
        waiting.documents[document.id] = Incoming(document, spans, digest, number)
        waiting.bytes += size
        if waiting.bytes >= self.batch.bytes or len(waiting.documents) >= self.batch.documents:
            self.commit()

    def owner(self, id: str) -> int | None:
        """The number of the file that a document, done or on its way, came from."""
        if id in self._waiting.documents:
            return self._waiting.documents[id].file
        known = self.store.known(id)
        return None if known is None else known.file

    def end_file(self, file: FileRecord) -> None:
        """A file was read to its end without a problem: its documents that it lacks now leave."""
        self._waiting.ended.append(file)
        if len(self._waiting.ended) >= self.batch.documents:
            self.commit()

    def touch_file(self, file: FileRecord) -> None:
        """A file's record changed, its documents did not."""
        self._waiting.touched.append(file)

    def new_file(self) -> int:
        """A number for a file that has none."""
        self._next_file += 1
        return self._next_file - 1

    def skip(self, problem: Problem) -> None:
        """Counts and reports what gives no document."""
        self.result.skipped.append(problem)
        self._tell("skipped", problem.source, problem.reason)

    def advance(self, size: int, *, documents: int = 0) -> None:
        """Counts bytes and documents that need no more work."""
        self._done += size
        self._documents += documents
        self._show()

    def _show(self, size: int = 0, tokens: int = 0) -> None:
        if self._progress is not None:
            done, total = self._done + size, self.total
            done = done if total is None else min(done, total)
            self._progress(SyncState(done, total, self._documents, self._tokens + tokens))

    def _tell(self, kind: Kind, id: str, reason: str = "") -> None:
        if self._report is not None:
            self._report(Change(kind, id, reason))

    def commit(self) -> None:
        """Makes durable and reports all that was put and ended so far."""
        waiting = self._waiting
        if not (waiting.documents or waiting.ended or waiting.moved or waiting.touched):
            return
        incoming = list(waiting.documents.values())
        keys: list[int] = []
        truncated: list[str] = []
        if incoming:
            with self.store.transaction():  # 1
                for file in waiting.unread.values():
                    self.store.put_file(file)
                keys = self.store.put_pending(incoming)
            try:
                truncated = self.write_rows(keys, limit=waiting.bytes)  # 2
                self.index.flush()
            except StoreError:  # a full disk: `recover` goes on from here when there is room
                raise
            except BaseException:
                self._withdraw(keys)
                raise
        left: list[str] = []
        with self.store.transaction():  # 3
            self.store.promote(keys)
            for file in [*waiting.unread.values(), *waiting.ended, *waiting.touched]:
                self.store.put_file(file)
            for key, number, source in waiting.moved:
                self.store.move(key, number, source)
            for file in waiting.ended:
                left += self.store.leave(self.store.unseen(file.number))
        for file in waiting.ended:
            self.store.clear_seen(file.number)
        for item in incoming:
            id = item.document.id
            self.result.chunks += len(item.spans)
            new = id not in waiting.updates
            self.result.added += new
            self.result.updated += not new
            self._tell("added" if new else "updated", id)
        for id in truncated:
            self.result.truncated += 1
            self._tell("truncated", id, "longer than the model reads: its end is not indexed")
        self._waiting = _Waiting()
        self.advance(waiting.bytes, documents=len(incoming))
        self._let_go(left)

    def _withdraw(self, keys: Sequence[int]) -> None:
        """Takes back a pending batch that failed or was interrupted: it was not reported yet.

        Else a text that the model refuses would be tried again at every opening.
        """
        self.index.delete(self.store.rows(PENDING))
        self.index.flush()
        with self.store.transaction():
            self.store.forget(keys)

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Removes documents durably; the ids that were there."""
        with self.store.transaction():
            left = self.store.leave(ids)
        self._let_go(left)
        return left

    def remove_files(self, files: Sequence[FileRecord]) -> None:
        """Removes files' records and their documents."""
        left: list[str] = []
        with self.store.transaction():
            for file in files:
                left += self.store.leave(self.store.unseen(file.number))
                self.store.forget_file(file.number)
        self._let_go(left)

    def _let_go(self, left: Sequence[str]) -> None:
        for id in left:
            self.result.removed += 1
            self._tell("removed", id)
        self.clean_up()

    def clean_up(self) -> None:
        """Takes the rows of leaving documents out of the index, then their records."""
        keys = self.store.keys(LEAVING)  # 4
        if keys:
            self.index.delete(self.store.rows(LEAVING))
            self.index.flush()
            with self.store.transaction():
                self.store.forget(keys)

    def recover(self) -> None:
        """Finishes what a dead process or a failure left undone; store and index agree again.

        Pending documents become done, leaving ones go, rows of no document go out of the index,
        documents whose rows are not in the index are encoded again.
        """
        self.clean_up()
        present = self.index.ids()
        pending, done = self.store.rows(PENDING), self.store.rows(DONE)
        phantoms = np.setdiff1d(present, np.concatenate((pending, done)))
        if len(phantoms):
            self.index.delete(phantoms)
        with self.store.transaction():
            self.store.demote(self.store.owners(np.setdiff1d(done, present)))
        keys = self.store.keys(PENDING)
        missing = np.setdiff1d(self.store.rows(PENDING), present)
        self.write_rows(self.store.owners(missing))
        self.index.flush()
        with self.store.transaction():
            self.store.promote(keys)
        self.clean_up()

    def write_rows(self, keys: Sequence[int], *, limit: int | None = None) -> list[str]:
        """Encodes recorded documents of `limit` bytes; gives the ids of truncated ones."""
        truncated: dict[str, None] = {}
        for batch in self._row_batches(keys):
            # Chunks overlap and repeat the title, so they have more bytes than their documents.
            shown = 0 if limit is None else min(limit, batch.before)
            room = len(batch.rows) if limit is None else min(limit - shown, batch.size)
            encoded = 0

            def show(tokens: int, of: int, shown: int = shown, room: int = room) -> None:
                nonlocal encoded
                encoded = tokens
                self._show(shown + room * tokens // max(1, of), tokens)

            options: dict[str, Any] = {"heads": self.index.spec.heads, "progress": show}
            if self._chunker().chunking.late:
                vectors = self._encoder().encode_spans(batch.texts, batch.spans, **options)
            else:
                vectors = self._encoder().encode(batch.texts, **options)
            self._tokens += encoded
            self.index.add(batch.rows, vectors, batch.payloads)
            if limit is None:
                self.advance(len(batch.rows))
            if vectors.truncated is not None:
                places = np.flatnonzero(vectors.truncated)
                truncated.update(dict.fromkeys(batch.ids[place] for place in places))
        return list(truncated)

    def _row_batches(self, keys: Sequence[int]) -> Iterator["_RowBatch"]:
        """The rows of documents in runs of bounded size, whatever the size of a document."""
        batch = _RowBatch()
        for key in keys:
            chunker = self._chunker()
            document, rows, spans = self.store.document(key)
            payload: Payload = document.metadata
            if document.language is not None:
                payload = {"language": document.language, **payload}
            heading = chunker.heading(document.title)
            runs = [[span] for span in spans]
            if chunker.chunking.late:
                runs = chunker.passes(document.text, document.title, spans)
            first = 0
            for run in runs:
                start = run[0].start
                text = heading + document.text[start : run[-1].end]
                shift = len(heading) - start
                batch.texts.append(text)
                batch.spans.append([(span.start + shift, span.end + shift) for span in run])
                batch.rows += rows[first : first + len(run)]
                batch.ids += [document.id] * len(run)
                batch.payloads += [payload] * len(run)
                batch.size += len(text.encode())
                first += len(run)
                if batch.size >= self.batch.bytes or len(batch.rows) >= self.batch.documents:
                    yield batch
                    batch = _RowBatch(before=batch.before + batch.size)
        if batch.rows:
            yield batch


@dataclass
class _RowBatch:
    """Texts that are encoded together, and the rows that they become."""

    before: int = 0  # bytes of the batches before it
    size: int = 0  # bytes of the texts
    texts: list[str] = field(default_factory=list)
    spans: list[list[tuple[int, int]]] = field(default_factory=list)  # per text, for late chunking
    rows: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # per row, the document's
    payloads: list[Payload] = field(default_factory=list)  # per row


def _content_hash(document: Document) -> str:
    """A hash of all that search can see of a document; where it was read from is left out."""
    facts = [document.title, document.language, dict(document.metadata), document.text]
    plain = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


# Files


def sync_files(sync: Sync, paths: Sequence[str | Path]) -> None:
    """Brings the collection in line with files and folders as they are now.

    New files are added, changed ones replaced, those that are gone from under the folders removed.
    What cannot be read is skipped by name and loses nothing: its documents stay as they were.
    """
    items = list(find_files(paths))
    files = [item for item in items if isinstance(item, SourceFile)]
    sync.total = sum(file.size for file in files)
    for item in items:
        if isinstance(item, SourceFile):
            _sync_file(sync, item)
        else:
            sync.skip(item)
    sync.commit()
    seen = {label_of(file.path) for file in files}
    roots = [label_of(os.path.abspath(path)) for path in paths if os.path.isdir(path)]
    folders = tuple(root.rstrip("/") + "/" for root in roots)
    gone = []
    for record in sync.store.files():
        if record.path not in seen and record.path.startswith(folders) and _is_gone(record.path):
            sync.store.clear_seen(record.number)
            gone.append(record)
    if gone:
        sync.remove_files(gone)


def _sync_file(sync: Sync, file: SourceFile) -> None:
    record = _record(sync, file)
    now = time.time_ns()
    if record.hash is not None and (record.size, record.mtime_ns) == (file.size, file.mtime_ns):
        _unchanged(sync, record)
        return
    try:
        with file.path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "blake2b").hexdigest()
    except OSError as error:
        sync.skip(Problem(file.label, f"cannot be read: {error.strerror}"))
        return
    mtime = file.mtime_ns if now - file.mtime_ns > FRESH_NS else 0
    changed = replace(record, size=file.size, mtime_ns=mtime)
    if record.hash == digest:
        if changed != record:
            sync.touch_file(changed)
        _unchanged(sync, record)
        return
    unread = replace(changed, hash=None)
    sync.store.clear_seen(record.number)
    whole, size = True, 0
    for item in read_file(file.path, record.label):
        usable = prepare(item) if isinstance(item, Document) else item
        if isinstance(usable, Document):
            clash = _clash(sync, usable, unread)
            if clash is None:
                size += len(usable.text.encode())
                sync.put(usable, unread)
                continue
            usable = clash
        whole = whole and not usable.failed
        sync.skip(usable)
    if whole:
        sync.end_file(replace(changed, hash=digest))
    sync.advance(max(0, file.size - size))


def _record(sync: Sync, file: SourceFile) -> FileRecord:
    """The file's record, new or as stored; under a new path where its folder was moved."""
    path = label_of(file.path)
    stored = sync.store.file("path", path)
    if stored is not None:
        return stored
    namesake = sync.store.file("label", file.label)
    if namesake is not None and _is_gone(namesake.path):
        return replace(namesake, path=path, mtime_ns=0)
    label = file.label if namesake is None else path
    return FileRecord(sync.new_file(), path, label, file.size, 0, None)


def _unchanged(sync: Sync, record: FileRecord) -> None:
    documents = sync.store.documents_of_file(record.number)
    sync.result.unchanged += documents
    sync.advance(record.size, documents=documents)


def _clash(sync: Sync, document: Document, file: FileRecord) -> Problem | None:
    """Why a document cannot have the id that its file gives it; None where it can."""
    if not sync.store.mark_seen(file.number, document.id):
        reason = f"its id {document.id!r} was used before in this file; ids must be unique"
        return Problem(document.source, reason)
    owner = sync.owner(document.id)
    if owner not in (None, file.number):
        sync.commit()  # a file read to its end just now may have given the id up
        owner = sync.owner(document.id)
    if owner is None or owner == file.number:
        return None
    other = sync.store.file("number", owner)
    if other is None or _is_gone(other.path):
        return None
    return Problem(
        document.source, f"its id {document.id!r} belongs to {other.path}; ids must be unique"
    )


def _is_gone(path: str) -> bool:
    """Whether a file is certainly not there; one that cannot be looked at may be."""
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False
