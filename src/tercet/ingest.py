"""Documents into a collection, batch by batch: recorded, encoded, indexed, flushed, done.

The one place that changes the store and the index together. The order of its steps makes a death
at any moment harmless:

    1. a batch is recorded as pending                           (a transaction)
    2. its chunks are encoded and indexed, the index is flushed
    3. it is recorded as done and what it replaces as leaving   (a transaction); now it is reported
    4. the rows of what leaves go out of the index, flush; then its record (a transaction)

`recover` does what a dead process left undone. Knows nothing of files' formats, queries or models.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from tercet.config import Head, Role, Weights
from tercet.documents.chunks import Chunker
from tercet.documents.readers import Problem
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index.base import Index
from tercet.records import Document, Payload
from tercet.store import DONE, LEAVING, PENDING, FileRecord, Incoming, Store

# Text of a batch, about 64,000 tokens: enough that waiting for the disk is little of the time and
# that encoding can sort by length, little enough that a killed process has little to do again.
BATCH_BYTES = 1 << 18
BATCH_DOCUMENTS = 1024


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
        progress: Callable[[int, int], None] | None = ...,
    ) -> Embeddings:
        """One row per text."""

    def encode_spans(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        heads: tuple[Head, ...] = ...,
        progress: Callable[[int, int], None] | None = ...,
    ) -> Embeddings:
        """One row per (text, span), from one pass over each text."""


Kind = Literal["added", "updated", "removed", "truncated", "skipped"]


@dataclass(frozen=True)
class Change:
    """Something that happened to a document, durable when it is reported."""

    kind: Kind
    id: str  # of what was skipped: the file, or file:line
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a long call is."""

    done: int  # bytes of text; chunks where recorded documents are encoded again
    total: int | None  # None where it cannot be known beforehand
    documents: int  # looked at and done
    tokens: int  # encoded


OnChange = Callable[[Change], None] | None
OnProgress = Callable[[Progress], None] | None


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


def content_hash(document: Document) -> str:
    """A hash of all that search can see of a document; where it was read from is left out."""
    facts = [document.title, document.language, dict(document.metadata), document.text]
    plain = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def payload_of(document: Document) -> Payload:
    """What a filter sees of a document: its metadata and, where known, its language."""
    if document.language is None:
        return document.metadata
    return {"language": document.language, **document.metadata}


class Ingest:
    """Changes a collection: feed it documents, then `commit` what is left."""

    def __init__(
        self,
        store: Store,
        index: Index,
        encoder: Callable[[], Encodes],
        chunker: Callable[[], Chunker],
        *,
        report: OnChange = None,
        progress: OnProgress = None,
    ) -> None:
        self.store, self.index, self.result = store, index, AddReport()
        self._encoder, self._chunker = encoder, chunker  # loaded only where something is new
        self._heads = index.spec.heads
        self._report, self._progress = report, progress
        self.total: int | None = None
        self._done = self._documents = self._tokens = 0
        self._incoming: dict[str, Incoming] = {}
        self._bytes = 0
        self._updates: set[str] = set()  # which of the incoming replace one
        self._unread: dict[int, FileRecord] = {}
        self._ended: list[FileRecord] = []
        self._touched: list[FileRecord] = []
        self._next_file = store.next_file()
        self._moved: list[tuple[int, int | None, str]] = []

    def put(self, document: Document, file: FileRecord | None = None) -> None:
        """Takes a prepared document, new or not; what changed is done after the next `commit`."""
        if document.id in self._incoming:
            self.commit()  # given twice: the later one replaces the earlier one
        if file is not None:
            self._unread[file.number] = file
        number = None if file is None else file.number
        known = self.store.known(document.id)
        digest = content_hash(document)
        if known is not None and known.hash == digest:
            self.result.unchanged += 1
            self.advance(len(document.text.encode()), documents=1)
            if (known.file, known.source) != (number, document.source):
                self._moved.append((known.key, number, document.source))
            return
        if known is not None:
            self._updates.add(document.id)
        spans = self._chunker().spans(document.text, document.title)
        self._incoming[document.id] = Incoming(document, spans, digest, number)
        self._bytes += len(document.text.encode())
        if self._bytes >= BATCH_BYTES or len(self._incoming) >= BATCH_DOCUMENTS:
            self.commit()

    def owner(self, id: str) -> int | None:
        """The number of the file that a document, done or on its way, came from."""
        if id in self._incoming:
            return self._incoming[id].file
        known = self.store.known(id)
        return None if known is None else known.file

    def end_file(self, file: FileRecord) -> None:
        """A file was read to its end without a problem: its documents that it lacks now leave."""
        self._ended.append(file)
        if len(self._ended) >= BATCH_DOCUMENTS:
            self.commit()

    def touch_file(self, file: FileRecord) -> None:
        """A file's record changed, its documents did not."""
        self._touched.append(file)

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
            self._progress(Progress(done, total, self._documents, self._tokens + tokens))

    def _tell(self, kind: Kind, id: str, reason: str = "") -> None:
        if self._report is not None:
            self._report(Change(kind, id, reason))

    def commit(self) -> None:
        """Makes durable and reports all that was put and ended so far."""
        if not (self._incoming or self._ended or self._moved or self._touched):
            return
        incoming, keys, truncated = list(self._incoming.values()), [], []
        if incoming:
            with self.store.transaction():  # 1
                for file in self._unread.values():
                    self.store.put_file(file)
                keys = self.store.put_pending(incoming)
            try:
                truncated = self.write_rows(keys, limit=self._bytes)  # 2
                self.index.flush()
            except StoreError:  # a full disk: `recover` goes on from here when there is room
                raise
            except BaseException:
                self._withdraw(keys)
                raise
        left: list[str] = []
        with self.store.transaction():  # 3
            self.store.promote(keys)
            for file in [*self._unread.values(), *self._ended, *self._touched]:
                self.store.put_file(file)
            for key, number, source in self._moved:
                self.store.move(key, number, source)
            for file in self._ended:
                left += self.store.leave(self.store.unseen(file.number))
        for file in self._ended:
            self.store.forget_sights(file.number)
        for item in incoming:
            id = item.document.id
            self.result.chunks += len(item.spans)
            new = id not in self._updates
            self.result.added += new
            self.result.updated += not new
            self._tell("added" if new else "updated", id)
        for id in truncated:
            self.result.truncated += 1
            self._tell("truncated", id, "longer than the model reads: its end is not indexed")
        self._count_removed(left)
        self._incoming, self._updates, self._unread = {}, set(), {}
        self._ended, self._moved, self._touched = [], [], []
        size, self._bytes = self._bytes, 0
        self.advance(size, documents=len(incoming))
        self.clean_up()  # 4

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
        self._count_removed(left)
        self.clean_up()
        return left

    def remove_files(self, files: Sequence[FileRecord]) -> None:
        """Removes files' records and their documents."""
        if not files:
            return
        left: list[str] = []
        with self.store.transaction():
            for file in files:
                left += self.store.leave(self.store.unseen(file.number))
                self.store.forget_file(file.number)
        self._count_removed(left)
        self.clean_up()

    def _count_removed(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.result.removed += 1
            self._tell("removed", id)

    def clean_up(self) -> None:
        """Takes the rows of leaving documents out of the index, then their records."""
        keys = self.store.keys(LEAVING)
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
        for piece in self._pieces(keys):
            # Chunks overlap and repeat the title, so they have more bytes than their documents.
            shown = 0 if limit is None else min(limit, piece.before)
            room = len(piece.rows) if limit is None else min(limit - shown, piece.size)
            got = 0

            def show(tokens: int, of: int, shown: int = shown, room: int = room) -> None:
                nonlocal got
                got = tokens
                self._show(shown + room * tokens // max(1, of), tokens)

            vectors = self._encode(piece, show)
            self._tokens += got
            self.index.add(piece.rows, vectors, piece.payloads)
            if limit is None:
                self.advance(len(piece.rows))
            if vectors.truncated is not None:
                cut = np.flatnonzero(vectors.truncated)
                truncated.update(dict.fromkeys(piece.ids[place] for place in cut))
        return list(truncated)

    def _encode(self, piece: "_Piece", show: Callable[[int, int], None]) -> Embeddings:
        if self._chunker().chunking.late:
            return self._encoder().encode_spans(
                piece.texts, piece.spans, heads=self._heads, progress=show
            )
        return self._encoder().encode(piece.texts, heads=self._heads, progress=show)

    def _pieces(self, keys: Sequence[int]) -> Iterator["_Piece"]:
        """The rows of documents in runs of bounded size, whatever the size of a document."""
        piece = _Piece()
        for key in keys:
            chunker = self._chunker()
            document, rows, spans = self.store.document(key)
            payload, heading = payload_of(document), chunker.heading(document.title)
            if chunker.chunking.late:
                runs = chunker.passes(document.text, document.title, spans)
            else:
                runs = [[span] for span in spans]
            first = 0
            for run in runs:
                start = run[0].start
                text = heading + document.text[start : run[-1].end]
                shift = len(heading) - start
                piece.texts.append(text)
                piece.spans.append([(span.start + shift, span.end + shift) for span in run])
                piece.rows += rows[first : first + len(run)]
                piece.ids += [document.id] * len(run)
                piece.payloads += [payload] * len(run)
                piece.size += len(text.encode())
                first += len(run)
                if piece.size >= BATCH_BYTES or len(piece.rows) >= BATCH_DOCUMENTS:
                    yield piece
                    piece = _Piece(before=piece.before + piece.size)
        if piece.rows:
            yield piece


@dataclass
class _Piece:
    """Texts that are encoded together, and the rows that they become."""

    before: int = 0  # bytes of the pieces before it
    size: int = 0  # bytes of the texts
    texts: list[str] = field(default_factory=list)
    spans: list[list[tuple[int, int]]] = field(default_factory=list)  # per text, for late chunking
    rows: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # per row, the document's
    payloads: list[Payload] = field(default_factory=list)  # per row
