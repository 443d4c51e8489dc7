"""The documents of a collection in SQLite: texts, spans, states, and the files they came from.

A document is pending (its rows are on their way into the index), done (in the index and flushed)
or leaving (replaced or deleted; its rows are on their way out). Only done ones count. Every change
is one transaction, durable (WAL, synchronous FULL) when it returns. Knows nothing of vectors,
models or files' contents.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tercet.errors import StoreError
from tercet.records import Document, Span
from tercet.sqlite import connect, in_words, new_database

FORMAT = 1
PENDING, DONE, LEAVING = 0, 1, 2
# SQLite uses a partial index only where its condition stands in the query as it was written.
_STATES = {
    PENDING: "state != 1 AND state = 0",
    DONE: "state = 1",
    LEAVING: "state != 1 AND state = 2",
}
_MANY = 500  # SQLite's limit on "?" in a statement was 999 for long

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    hash TEXT -- NULL until every document of the file is done
);
CREATE INDEX files_labelled ON files (label);
CREATE TABLE documents (
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, state INTEGER NOT NULL,
    hash TEXT NOT NULL, file INTEGER, title TEXT NOT NULL, source TEXT NOT NULL, language TEXT,
    metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE UNIQUE INDEX documents_done ON documents (id) WHERE state = 1;
CREATE INDEX documents_moving ON documents (state) WHERE state != 1;
CREATE INDEX documents_of_file ON documents (file) WHERE file IS NOT NULL;
CREATE TABLE chunks ( -- AUTOINCREMENT: the number of a row of the index is never used again
    row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL
);
CREATE INDEX chunks_of_document ON chunks (document);
"""


@dataclass(frozen=True)
class FileRecord:
    """A file that documents were read from."""

    number: int
    path: str  # absolute
    label: str  # how its ids begin
    size: int
    mtime_ns: int
    hash: str | None  # of its bytes; None until it was read to its end without a problem


@dataclass(frozen=True)
class Known:
    """What is recorded of a done document, its text aside."""

    key: int
    hash: str
    file: int | None
    source: str


@dataclass(frozen=True)
class Incoming:
    """A document on its way in, with its chunks."""

    document: Document
    spans: Sequence[Span]
    hash: str
    file: int | None


@dataclass(frozen=True)
class Chunk:
    """A row of the index: a span of a document, whose text is that of the chunk alone."""

    row: int
    span: Span
    document: Document


class Store:
    """The SQLite file of a collection; any thread may call it, one at a time."""

    def __init__(self, path: Path) -> None:
        """Opens a file that `create` made; raises StoreError where it is none, or damaged."""
        if not path.is_file():
            raise StoreError(f"{path.parent} holds no collection: {path.name} is missing")
        self.path = path
        self._db = connect(path)
        try:
            with in_words(path):
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA temp_store = FILE")
                self._db.execute(
                    "CREATE TEMP TABLE seen (file INTEGER, id TEXT, PRIMARY KEY (file, id)) "
                    "WITHOUT ROWID"
                )
                tables = self._rows("SELECT name FROM sqlite_master WHERE name = 'facts'")
            found = self.fact("format") if tables else None
            if found != FORMAT:
                raise StoreError(
                    f"{path}: format {found}, this Tercet reads {FORMAT}"
                    if found is not None
                    else f"{path}: emptied or cut short: restore it, or index the documents again"
                )
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def create(path: Path, facts: Mapping[str, Any]) -> None:
        """Makes a new file, whole or not at all."""
        rows = [(name, json.dumps(value)) for name, value in {**facts, "format": FORMAT}.items()]
        with new_database(path) as db:
            db.executescript(f"BEGIN; {_SCHEMA}")
            db.executemany("INSERT INTO facts VALUES (?, ?)", rows)
            db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file; SQLite folds its log into it."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """All changes within are kept together, durably at the end, or none of them is."""
        with in_words(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with in_words(self.path):
            return self._db.execute(statement, values).fetchall()

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        rows = self._rows(statement, values)
        return rows[0][0] if rows else None

    # facts

    def fact(self, name: str) -> Any:
        """A recorded fact of the collection, None where there is none."""
        value = self._one("SELECT value FROM facts WHERE name = ?", (name,))
        try:
            return None if value is None else json.loads(value)
        except ValueError as error:
            raise StoreError(f"{self.path}: the file is damaged ({error})") from error

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Records facts; within a transaction."""
        rows = [(name, json.dumps(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    # files

    def file(self, path: str) -> FileRecord | None:
        """The record of a file by its absolute path."""
        rows = self._rows("SELECT * FROM files WHERE path = ?", (path,))
        return FileRecord(*rows[0]) if rows else None

    def file_labelled(self, label: str) -> FileRecord | None:
        """The record of a file by its label."""
        rows = self._rows("SELECT * FROM files WHERE label = ?", (label,))
        return FileRecord(*rows[0]) if rows else None

    def file_path(self, number: int) -> str | None:
        """The absolute path of a file by its number."""
        path = self._one("SELECT path FROM files WHERE number = ?", (number,))
        return None if path is None else str(path)

    def files(self) -> Iterator[FileRecord]:
        """All recorded files."""
        yield from (FileRecord(*row) for row in self._rows("SELECT * FROM files ORDER BY number"))

    def next_file(self) -> int:
        """A number that no file has."""
        return int(self._one("SELECT coalesce(max(number), 0) + 1 FROM files"))

    def put_file(self, record: FileRecord) -> None:
        """Records or replaces a file; within a transaction."""
        self._db.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
            "path = excluded.path, label = excluded.label, size = excluded.size, "
            "mtime_ns = excluded.mtime_ns, hash = excluded.hash",
            (record.number, record.path, record.label, record.size, record.mtime_ns, record.hash),
        )

    def forget_file(self, number: int) -> None:
        """Removes the record of a file; within a transaction."""
        self._db.execute("DELETE FROM files WHERE number = ?", (number,))

    def documents_of_file(self, number: int) -> int:
        """How many done documents came from a file."""
        return int(
            self._one("SELECT count(*) FROM documents WHERE file = ? AND state = 1", (number,))
        )

    def first_sight(self, file: int, id: str) -> bool:
        """Notes that an id occurs in a file; False where it was noted before. Not durable."""
        with in_words(self.path):
            found = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (file, id))
            return found.rowcount == 1

    def forget_sights(self, file: int) -> None:
        """Forgets which ids were noted of a file."""
        self._rows("DELETE FROM seen WHERE file = ?", (file,))

    # documents

    def known(self, id: str) -> Known | None:
        """The done document of that id."""
        rows = self._rows(
            "SELECT key, hash, file, source FROM documents WHERE id = ? AND state = 1", (id,)
        )
        return Known(*rows[0]) if rows else None

    def keys(self, state: int) -> list[int]:
        """The keys of all documents in a state, in the order they came."""
        rows = self._rows(f"SELECT key FROM documents WHERE {_STATES[state]} ORDER BY key")
        return [key for (key,) in rows]

    def put_pending(self, incoming: Iterable[Incoming]) -> list[int]:
        """Records documents as pending, with their chunks; their keys. Within a transaction."""
        keys = []
        for item in incoming:
            document = item.document
            cursor = self._db.execute(
                "INSERT INTO documents VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    document.id,
                    PENDING,
                    item.hash,
                    item.file,
                    document.title,
                    document.source,
                    document.language,
                    json.dumps(dict(document.metadata), ensure_ascii=False),
                    document.text,
                ),
            )
            key = cursor.lastrowid
            assert key is not None  # an INSERT of one row always has it
            self._db.executemany(
                "INSERT INTO chunks VALUES (NULL, ?, ?, ?)",
                [(key, span.start, span.end) for span in item.spans],
            )
            keys.append(key)
        return keys

    def move(self, key: int, file: int | None, source: str) -> None:
        """Records that an unchanged document now stands elsewhere; within a transaction."""
        self._db.execute(
            "UPDATE documents SET file = ?, source = ? WHERE key = ?", (file, source, key)
        )

    def promote(self, keys: Iterable[int]) -> None:
        """Pending documents become done, older ones of their ids leaving; in a transaction."""
        for key in keys:
            self._db.execute(
                "UPDATE documents SET state = 2 WHERE state = 1 AND id = "
                "(SELECT id FROM documents WHERE key = ?)",
                (key,),
            )
            self._db.execute("UPDATE documents SET state = 1 WHERE key = ?", (key,))

    def demote(self, keys: Iterable[int]) -> None:
        """Done documents become pending again; within a transaction."""
        self._db.executemany(
            "UPDATE documents SET state = 0 WHERE key = ?", [(key,) for key in keys]
        )

    def leave(self, ids: Iterable[str]) -> list[str]:
        """Done documents of these ids become leaving; the ids found. Within a transaction."""
        found = []
        for id in ids:
            cursor = self._db.execute(
                "UPDATE documents SET state = 2 WHERE id = ? AND state = 1", (id,)
            )
            if cursor.rowcount:
                found.append(id)
        return found

    def unseen(self, file: int) -> list[str]:
        """The ids of done documents of a file that were not noted by `first_sight`."""
        rows = self._rows(
            "SELECT id FROM documents WHERE file = ? AND state = 1 AND id NOT IN "
            "(SELECT id FROM seen WHERE file = ?)",
            (file, file),
        )
        return [id for (id,) in rows]

    def forget(self, keys: Sequence[int]) -> None:
        """Removes documents and their chunks; within a transaction."""
        values = [(key,) for key in keys]
        self._db.executemany("DELETE FROM chunks WHERE document = ?", values)
        self._db.executemany("DELETE FROM documents WHERE key = ?", values)

    def document(self, key: int) -> tuple[Document, list[int], list[Span]]:
        """A document whole, with the row numbers and spans of its chunks."""
        rows = self._rows(
            "SELECT id, text, title, source, language, metadata FROM documents WHERE key = ?",
            (key,),
        )
        chunks = self._rows(
            "SELECT row, start, stop FROM chunks WHERE document = ? ORDER BY row", (key,)
        )
        spans = [Span(start, stop) for _, start, stop in chunks]
        return self._document(rows[0]), [row for row, _, _ in chunks], spans

    def chunks(self, rows: Sequence[int]) -> dict[int, Chunk]:
        """The chunks of done documents by row number; rows of other documents are left out."""
        out = {}
        for first in range(0, len(rows), _MANY):
            part = [int(row) for row in rows[first : first + _MANY]]
            marks = ",".join("?" * len(part))
            for row, start, stop, *fields in self._rows(
                "SELECT row, start, stop, id, substr(text, start + 1, stop - start), title, "
                "source, language, metadata FROM chunks JOIN documents ON document = key "
                f"WHERE state = 1 AND row IN ({marks})",
                part,
            ):
                out[row] = Chunk(row, Span(start, stop), self._document(fields))
        return out

    def rows(self, state: int) -> npt.NDArray[np.uint64]:
        """The row numbers of the chunks of all documents in a state, ascending."""
        found = self._rows(
            "SELECT row FROM chunks JOIN documents ON document = key "
            f"WHERE {_STATES[state]} ORDER BY row"
        )
        return np.array([row for (row,) in found], dtype=np.uint64)

    def owners(self, rows: npt.NDArray[np.uint64]) -> list[int]:
        """The keys of the documents that rows belong to."""
        found: set[int] = set()
        for first in range(0, len(rows), _MANY):
            part = [int(row) for row in rows[first : first + _MANY]]
            marks = ",".join("?" * len(part))
            found.update(
                key
                for (key,) in self._rows(
                    f"SELECT document FROM chunks WHERE row IN ({marks})", part
                )
            )
        return sorted(found)

    def moving(self) -> bool:
        """Whether there are documents on their way in or out."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM documents WHERE state != 1)"))

    def counts(self) -> tuple[int, int]:
        """(done documents, chunks of all documents)"""
        done = self._one("SELECT count(*) FROM documents WHERE state = 1")
        return int(done), int(self._one("SELECT count(*) FROM chunks"))

    def _document(self, fields: Sequence[Any]) -> Document:
        id, text, title, source, language, metadata = fields
        try:
            return Document(id, text, title, source, language, json.loads(metadata))
        except ValueError as error:
            raise StoreError(f"{self.path}: the file is damaged ({error})") from error
