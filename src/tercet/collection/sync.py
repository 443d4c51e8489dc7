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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from tercet.collection.store import DONE, LEAVING, PENDING, DocumentStore, FileRecord, Incoming
from tercet.config import Head, Progress, Role, Weights
from tercet.documents.base import Note, Problem, Reading, label_of, prepare
from tercet.documents.chunks import Chunker, Chunking
from tercet.documents.files import Ignored, SourceFile, find_files, read_file
from tercet.documents.language import Languages, names_of
from tercet.embeddings import Embeddings
from tercet.errors import InputError, MissingExtraError, StoreError
from tercet.index.contract import VectorIndex
from tercet.records import Document, Payload

# A file changed twice within the clock's grain looks unchanged, so that the time of a file that
# was changed this recently is not relied on (the same trap as git's "racy" index entries).
FRESH_NS = 2_000_000_000


class Encodes(Protocol):
    """What a collection needs of an encoder; `tercet.encoder.Encoder` is one.

    Both ways to encode take `multi_pool` where a collection merges multi-vectors.
    """

    source: str | None
    fingerprint: str
    weights: Weights
    min_score: float | None
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


SHORT_CHUNK = 7  # tokens, [CLS] and </s> among them
DIGEST = 128  # characters of a file's hash; how it was read comes after them
COPIED = 1024  # rows that are read and written at once where an index moves
NAMED = 1000  # rows of one file that are skipped by name, further ones by count

Kind = Literal["added", "updated", "removed", "truncated", "skipped", "note"]


@dataclass(frozen=True)
class Change:
    """Something that happened to a document, durable when it is reported."""

    kind: Kind
    id: str  # of what was skipped or is noted: the file, file:line, or folder
    reason: str = ""
    chunks: int = 0  # of a document that is added or updated


@dataclass(frozen=True)
class SyncState:
    """How far a long call is."""

    done: int  # bytes of text; chunks where recorded documents are encoded again
    total: int | None  # None where it cannot be known beforehand
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
    notes: list[Note] = field(default_factory=list)  # what should be known of files that were read


@dataclass
class _Waiting:
    """What the next `commit` does."""

    documents: dict[str, Incoming] = field(default_factory=dict)
    updates: set[str] = field(default_factory=set)  # which of the documents replace one
    bytes: int = 0  # of their texts
    files: dict[int, FileRecord] = field(default_factory=dict)  # as they are recorded then
    ended: list[int] = field(default_factory=list)  # files that were read to their end
    moved: list[tuple[int, int | None, str]] = field(default_factory=list)  # key, file, source


class Sync:
    """Changes a collection: feed it documents, then `commit` what is left."""

    def __init__(
        self,
        store: DocumentStore,
        index: VectorIndex,
        encoder: Callable[[], Encodes],
        chunking: Chunking,
        multi_pool: int = 1,
        *,
        batch: BatchSize,
        report: OnChange = None,
        progress: OnProgress = None,
    ) -> None:
        """The encoder is asked for only where something is new."""
        self.store, self.index, self.batch, self.result = store, index, batch, AddReport()
        self._encoder, self._chunking, self._multi_pool = encoder, chunking, multi_pool
        self._report, self._progress = report, progress
        self.total: int | None = None  # of what progress counts
        self.bytes = 0  # of the texts that were taken
        self._done = self._tokens = 0
        self._waiting = _Waiting()
        self._rows: Counter[bool] = Counter()  # skipped ones of a file, by whether they failed
        self.new_files = count(store.next_file())  # their numbers

    @cached_property
    def _chunker(self) -> Chunker:
        encoder = self._encoder()
        return Chunker(encoder.tokenizer.backend, self._chunking, encoder.max_length)

    @cached_property
    def _languages(self) -> Languages | None:
        try:
            return Languages()
        except MissingExtraError as error:
            self.skip(Note("languages", f"not detected: {error}"))
            return None

    def _ready(self, document: Document, file: FileRecord | None) -> Document | Problem:
        """The document as it is stored, its language detected where it has none."""
        try:
            ready = prepare(document)
        except InputError as error:
            if file is None:
                raise
            return Problem(document.source, str(error))
        if isinstance(ready, Document) and ready.language is None and self._languages is not None:
            ready = replace(ready, language=self._languages.find(ready.text))
        return ready

    # What is new

    def take(self, item: Document | Problem, file: FileRecord | None = None) -> bool:
        """Takes a document as it was given or read, new or not; whether it may count as read.

        What changed is done after the next `commit`; what cannot be used is skipped by name.
        """
        item = self._ready(item, file) if isinstance(item, Document) else item
        if isinstance(item, Document) and file is not None:
            item = self._clash(item, file) or item
        if isinstance(item, Problem):
            if file is not None and not isinstance(item, Note):
                self._rows[item.failed] += 1
            if self._rows.total() <= NAMED or isinstance(item, Note):
                self.skip(item)
            return not item.failed
        if item.id in self._waiting.documents:
            self.commit()  # given twice: the later one replaces the earlier one
        waiting = self._waiting
        number = None if file is None else file.number
        if file is not None:
            waiting.files[file.number] = file
        known = self.store.known(item.id)
        digest, size = _content_hash(item), len(item.text.encode())
        self.bytes += size
        if known is not None and known.hash == digest:
            self.result.unchanged += 1
            self.advance(size)
            if (known.file, known.source) != (number, item.source):
                waiting.moved.append((known.key, number, item.source))
            return True
        if known is not None:
            waiting.updates.add(item.id)
        spans = self._chunker.spans(item.text, item.title)
        waiting.documents[item.id] = Incoming(item, spans, digest, number)
        waiting.bytes += size
        if waiting.bytes >= self.batch.bytes or len(waiting.documents) >= self.batch.documents:
            self.commit()
        return True

    def _clash(self, document: Document, file: FileRecord) -> Problem | None:
        """Why a document cannot have the id that its file gives it; None where it can."""
        if not self.store.mark_seen(file.number, document.id):
            owner = "was used before in this file"
        else:
            number = self._owner(document.id)
            if number not in (None, file.number):
                self.commit()  # a file read to its end just now may have given the id up
                number = self._owner(document.id)
            other = None if number in (None, file.number) else self.store.file("number", number)
            if other is None or _is_gone(other.path):
                return None
            owner = f"belongs to {other.path}"
        return Problem(document.source, f"its id {document.id!r} {owner}; ids must be unique")

    def _owner(self, id: str) -> int | None:
        """The number of the file that a document, done or on its way, came from."""
        document = self._waiting.documents.get(id) or self.store.known(id)
        return None if document is None else document.file

    def end_file(self, file: FileRecord) -> None:
        """A file was read to its end without a problem: its documents that it lacks now leave."""
        self._waiting.files[file.number] = file
        self._waiting.ended.append(file.number)
        if len(self._waiting.ended) >= self.batch.documents:
            self.commit()

    def touch_file(self, file: FileRecord) -> None:
        """A file's record changed, its documents did not."""
        self._waiting.files[file.number] = file

    # What is told

    def skip(self, problem: Problem) -> None:
        """Counts and reports what gives no document, and what is noted of one that does."""
        if isinstance(problem, Note):
            self.result.notes.append(problem)
        else:
            self.result.skipped.append(problem)
        kind: Kind = "note" if isinstance(problem, Note) else "skipped"
        self._tell(kind, problem.source, problem.reason)

    def skip_rest(self, label: str) -> None:
        """Counts the skipped rows of a file, read to its end, that were not named."""
        rows, self._rows = self._rows, Counter()
        if rows.total() > NAMED:
            reason = f"{rows.total() - NAMED:,} more rows that give no document"
            self.skip(Problem(label, reason, failed=bool(rows[True])))

    def advance(self, size: int) -> None:
        """Counts bytes that need no more work."""
        self._done += size
        self._show()

    def _show(self, size: int = 0, tokens: int = 0) -> None:
        if self._progress is not None:
            done, total = self._done + size, self.total
            done = done if total is None else min(done, total)
            self._progress(SyncState(done, total, self._tokens + tokens))

    def _tell(self, kind: Kind, id: str, reason: str = "", chunks: int = 0) -> None:
        if self._report is not None:
            self._report(Change(kind, id, reason, chunks))

    # The four steps

    def commit(self) -> None:
        """Makes durable and reports all that was taken and ended so far."""
        waiting, self._waiting = self._waiting, _Waiting()
        if not (waiting.documents or waiting.files or waiting.moved):
            return
        incoming = list(waiting.documents.values())
        keys: list[int] = []
        truncated: list[str] = []
        if incoming:
            with self.store.transaction():  # 1
                for file in waiting.files.values():
                    self.store.put_file(replace(file, hash=None))
                keys = self.store.put_pending(incoming)
            chunks = sum(len(item.spans) for item in incoming)
            try:
                truncated = self.write_rows(keys, share=waiting.bytes / chunks)  # 2
            except StoreError:  # a full disk: `recover` goes on from here when there is room
                raise
            except BaseException:
                self._withdraw(keys)
                raise
            self.result.chunks += chunks
        left: list[str] = []
        with self.store.transaction():  # 3
            self.store.promote(keys)
            for file in waiting.files.values():
                self.store.put_file(file)
            for key, number, source in waiting.moved:
                self.store.move(key, number, source)
            for number in waiting.ended:
                left += self.store.leave(self.store.unseen(number))
        for id, item in waiting.documents.items():
            new = id not in waiting.updates
            self.result.added += new
            self.result.updated += not new
            self._tell("added" if new else "updated", id, chunks=len(item.spans))
        self.result.truncated += len(truncated)
        for id in truncated:
            self._tell("truncated", id, "longer than the model reads: its end is not indexed")
        self.advance(waiting.bytes)
        self._let_go(left)
        self.index.optimize(growth=0.5)  # readers score what is outside the graph one by one

    def _withdraw(self, keys: Sequence[int]) -> None:
        """Takes back a pending batch that failed or was interrupted: it was not reported yet.

        Else a text that the model refuses would be tried again at every opening.
        """
        self.index.delete(self.store.rows(PENDING))
        self.index.flush()
        with self.store.transaction():
            self.store.forget(keys)

    def remove(self, ids: Sequence[str]) -> None:
        """Removes documents durably."""
        with self.store.transaction():
            left = self.store.leave(ids)
        self._let_go(left)

    def remove_files(self, files: Sequence[FileRecord]) -> None:
        """Removes files' records and their documents."""
        left: list[str] = []
        with self.store.transaction():
            for file in files:
                self.store.clear_seen(file.number)
                left += self.store.leave(self.store.unseen(file.number))
                self.store.forget_file(file.number)
        self._let_go(left)

    def _let_go(self, left: Sequence[str]) -> None:
        for id in left:
            self.result.removed += 1
            self._tell("removed", id)
        self._clean_up()

    def _clean_up(self) -> None:
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
        self._clean_up()
        present = self.index.ids()
        pending, done = self.store.rows(PENDING), self.store.rows(DONE)
        self.index.delete(np.setdiff1d(present, np.concatenate((pending, done))))
        with self.store.transaction():
            self.store.demote(self.store.owners(np.setdiff1d(done, present)))
        keys = self.store.keys(PENDING)
        missing = np.setdiff1d(self.store.rows(PENDING), present)
        self.write_rows(self.store.owners(missing))
        with self.store.transaction():
            self.store.promote(keys)
        self._clean_up()

    def write_rows(self, keys: Sequence[int], *, share: float | None = None) -> list[str]:
        """Encodes recorded documents and flushes their rows; gives the ids of truncated ones.

        Progress has `share` bytes for a row until the caller counts them; without, it counts rows.
        """
        truncated: dict[str, None] = {}
        before = 0.0  # bytes of rows that the caller will count
        for batch in self._row_batches(keys):
            size = len(batch.rows) * (1.0 if share is None else share)
            encoded = 0

            def show(tokens: int, of: int, before: float = before, size: float = size) -> None:
                nonlocal encoded
                encoded = tokens
                self._show(int(before + size * tokens / max(1, of)), tokens)

            options: dict[str, Any] = {"heads": self.index.spec.heads, "progress": show}
            if self._multi_pool > 1:
                options["multi_pool"] = self._multi_pool
            if self._chunking.late:
                vectors = self._encoder().encode_spans(batch.texts, batch.spans, **options)
            else:
                vectors = _demote_short(self._encoder().encode(batch.texts, **options))
            self._tokens += encoded
            self._add(batch.rows, vectors, batch.payloads)
            if share is None:
                self.advance(len(batch.rows))
            else:
                before += size
            if vectors.truncated is not None:
                cut = np.flatnonzero(vectors.truncated).tolist()
                truncated.update(dict.fromkeys(batch.ids[row] for row in cut))
        self.index.flush()
        return list(truncated)

    def copy_rows(self, source: VectorIndex) -> None:
        """Copies the rows of all recorded documents from another index of the same vectors.

        Raises StoreError where one is missing there.
        """
        documents = (self.store.document(key) for key in self.store.keys(DONE))
        payloads = ((row, _payload(document)) for document, rows, _ in documents for row in rows)
        while batch := dict(islice(payloads, COPIED)):
            ids, vectors = source.stored(batch)
            if len(ids) < len(batch):
                raise StoreError("the index lacks rows of its documents")
            self._add(ids, vectors, [batch[id] for id in ids])
            self.advance(len(ids))
        self.index.flush()

    def _add(self, rows: list[int], vectors: Embeddings, payloads: list[Payload]) -> None:
        records = None
        if self.index.keeps_records:
            chunks = self.store.chunks(rows, done=False)
            records = [asdict(chunks[row]) for row in rows]
        self.index.add(rows, vectors, payloads, records)

    def _row_batches(self, keys: Sequence[int]) -> Iterator["_RowBatch"]:
        """The rows of documents in runs of bounded size, whatever the size of a document."""
        batch = _RowBatch()
        for key in keys:
            document, rows, spans = self.store.document(key)
            payload = _payload(document)
            heading = self._chunker.heading(document.title)
            runs = [[span] for span in spans]
            if self._chunking.late:
                runs = self._chunker.passes(document.text, document.title, spans)
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
                    batch = _RowBatch()
        if batch.rows:
            yield batch


def _payload(document: Document) -> Payload:
    """What filters see of a document's rows."""
    if document.language is None:
        return document.metadata
    names = names_of(document.language)
    return {"language": names if len(names) > 1 else names[0], **document.metadata}


def _demote_short(vectors: Embeddings) -> Embeddings:
    """Shortens dense and token vectors of chunks under SHORT_CHUNK tokens, a word's to 0.87.

    A word alone lies near every short query: among 700 passages and 50 words such as "fine" and
    "yes", one of these was first for 22% of the queries of one or two words, and for 0.7% so. Those
    chunks keep their order among each other, and their lexical weights.
    """
    assert vectors.lengths is not None
    factors = 1 - 0.2 * np.clip((SHORT_CHUNK - vectors.lengths) / (SHORT_CHUNK - 1), 0, 1)
    if factors.min(initial=1) == 1:
        return vectors
    dense, multi = vectors.dense, vectors.multi
    if dense is not None:
        dense = (dense * factors[:, None]).astype(dense.dtype)
    if multi is not None and vectors.offsets is not None:
        counts = np.diff(vectors.offsets)
        multi = (multi * np.repeat(factors, counts)[:, None]).astype(multi.dtype)
    return replace(vectors, dense=dense, multi=multi)


@dataclass
class _RowBatch:
    """Texts that are encoded together, and the rows that they become."""

    size: int = 0  # bytes of the texts
    texts: list[str] = field(default_factory=list)
    spans: list[list[tuple[int, int]]] = field(default_factory=list)  # per text, for late chunking
    rows: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # per row, the document's
    payloads: list[Payload] = field(default_factory=list)  # per row


def _content_hash(document: Document) -> str:
    """A hash of all that search can see of a document; where it was read from is left out."""
    facts: list[Any] = [document.title, document.language, dict(document.metadata), document.text]
    facts += [document.outline] if document.outline else []  # others keep the hash they had
    plain = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


# Files


def sync_files(
    sync: Sync, paths: Sequence[str | Path], reading: Reading, *, reread: bool = False
) -> None:
    """Brings the collection in line with files and folders as they are now.

    New files are added, changed ones (or differently read ones) replaced, those that are gone from
    under the folders, or left out now, removed. reread: unchanged files are read, too.
    What cannot be read is skipped by name and loses nothing: its documents stay as they were.
    Raises InputError where none of the paths is there.
    """
    check_paths(paths)
    items = list(find_files(paths, reading))
    sync.total = sum(item.size for item in items if isinstance(item, SourceFile))
    for item in items:
        if isinstance(item, SourceFile):
            _sync_file(sync, item, reading, reread)
        elif isinstance(item, Problem):
            sync.skip(item)
    sync.commit()
    roots = [label_of(os.path.abspath(path)) for path in paths if os.path.isdir(path)]
    folders = tuple(root.rstrip("/") + "/" for root in roots)
    records = [record for record in sync.store.files() if record.path.startswith(folders)]
    read = {label_of(item.path) for item in items if isinstance(item, SourceFile)}
    ignored = tuple(item.path for item in items if isinstance(item, Ignored))
    below = tuple(f"{path}/" for path in ignored)
    if gone := [
        record
        for record in records
        if record.path not in read
        and (_is_gone(record.path) or record.path in ignored or record.path.startswith(below))
    ]:
        sync.remove_files(gone)


def check_paths(paths: Sequence[str | Path]) -> None:
    """Raises InputError where none of the paths is there."""
    if paths and all(map(_is_gone, map(str, paths))):
        raise InputError(f"{paths[0]}: no such file or folder")


def _sync_file(sync: Sync, file: SourceFile, reading: Reading, reread: bool) -> None:
    record, now = _record(sync, file), time.time_ns()
    changed, digest = record, record.hash
    same = (record.size, record.mtime_ns) == (file.size, file.mtime_ns)
    if digest is None or digest[DIGEST:] != reading.key or not same:
        try:
            with file.path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "blake2b").hexdigest() + reading.key
        except OSError as error:
            sync.skip(Problem(file.label, f"cannot be read: {error.strerror}"))
            return
        mtime = file.mtime_ns if now - file.mtime_ns > FRESH_NS else 0
        changed = replace(record, size=file.size, mtime_ns=mtime)
    if record.hash == digest and not reread:
        if changed != record:
            sync.touch_file(changed)
        sync.result.unchanged += sync.store.documents_of_file(record.number)
        sync.advance(record.size)
        return
    unread = replace(changed, hash=None)
    sync.store.clear_seen(record.number)
    whole, before = True, sync.bytes
    for item in read_file(file.path, record.label, reading):
        whole = sync.take(item, unread) and whole
    sync.skip_rest(file.label)
    if whole:
        sync.end_file(replace(changed, hash=digest))
    sync.advance(max(0, file.size - (sync.bytes - before)))


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
    return FileRecord(next(sync.new_files), path, label, file.size, 0, None)


def _is_gone(path: str) -> bool:
    """Whether a file is certainly not there; one that cannot be looked at may be."""
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False
