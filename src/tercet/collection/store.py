"""The document store of a collection in SQLite: texts, spans, states, and the files they came from.

A document is pending (its rows are on their way into the index), done (in the index and flushed)
or leaving (replaced or deleted; its rows are on their way out). Only done ones count. Every change
is one transaction, durable (WAL, synchronous FULL) when it returns. Knows nothing of vectors,
models or files' contents.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from tercet.documents.chunks import places
from tercet.errors import StoreError
from tercet.io import atomic_write
from tercet.records import Document, Payload, Span

FORMAT = 1
PENDING, DONE, LEAVING = 0, 1, 2
# SQLite uses a partial index only where its condition stands in the query as it was written.
_STATES = {
    PENDING: "state != 1 AND state = 0",
    DONE: "state = 1",
    LEAVING: "state != 1 AND state = 2",
}
_AGAIN = "restore it, or index the documents again"

_NOWHERE = "'[null, []]'"
_PLACE = f"place TEXT NOT NULL DEFAULT {_NOWHERE}"
_SCHEMA = f"""
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
    start INTEGER NOT NULL, stop INTEGER NOT NULL,
    {_PLACE} -- its page and headings
);
CREATE INDEX chunks_of_document ON chunks (document);
"""

Rows = npt.NDArray[np.uint64]  # numbers of rows of the index


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
    """A chunk of a done document, in the words of a Hit."""

    id: str  # of the document
    text: str
    span: Span
    title: str
    source: str
    language: str | None
    metadata: Payload
    headings: tuple[str, ...]
    page: int | None


class DocumentStore:
    """The SQLite file of a collection; any thread may read, one at a time.

    Read-only, it sees what was committed last, and waits for no writer.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens a file that `create` made; raises StoreError where it is none, or damaged."""
        if not path.is_file():
            raise StoreError(f"{path.parent} holds no collection: {path.name} is missing")
        self.path = path
        self._turn = threading.Lock()  # reads that meet one another all see the first one's state
        self._db = _connect(path, read_only)
        try:
            if not read_only:
                for setting in ("journal_mode = WAL", "synchronous = FULL", "temp_store = FILE"):
                    self._rows(f"PRAGMA {setting}")
                self._rows(
                    "CREATE TEMP TABLE seen (file INTEGER, id TEXT, PRIMARY KEY (file, id)) "
                    "WITHOUT ROWID"
                )
            if not self._rows("SELECT name FROM sqlite_master WHERE name = 'facts'"):
                raise StoreError(f"{path}: emptied or cut short: {_AGAIN}")
            if (written := self.fact("format")) != FORMAT:
                raise StoreError(f"{path}: format {written}, this Tercet reads {FORMAT}: {_AGAIN}")
            if not read_only and not self._has_places():
                self._rows(f"ALTER TABLE chunks ADD COLUMN {_PLACE}")
        except BaseException:
            self._db.close()
            raise

    @staticmethod
    def create(path: Path, facts: Mapping[str, Any]) -> None:
        """Makes a new file, whole or not at all."""
        rows = [(name, json.dumps(value)) for name, value in {**facts, "format": FORMAT}.items()]
        with closing(sqlite3.connect(":memory:")) as db:
            db.executescript(_SCHEMA)
            with db:
                db.executemany("INSERT INTO facts VALUES (?, ?)", rows)
            content = db.serialize()
        try:
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            raise StoreError(f"{path} cannot be made: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file; SQLite folds its log into it."""
        self._db.close()

    def verify(self) -> None:
        """Reads all of the file; raises StoreError where it is damaged."""
        answer = self._column("PRAGMA integrity_check(1)")
        if answer != ["ok"]:
            raise StoreError(f"{self.path}: the file is damaged ({answer[0]}): {_AGAIN}")

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """All changes within are kept together, durably at the end, or none of them is."""
        with _in_words(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._turn, _in_words(self.path):
            return self._db.execute(statement, values).fetchall()

    def _column(self, statement: str, *values: Any) -> list[Any]:
        return [value for (value,) in self._rows(statement, *values)]

    # Facts

    def fact(self, name: str) -> Any:
        """A recorded fact of the collection, None where there is none."""
        values = self._column("SELECT value FROM facts WHERE name = ?", name)
        return self._json(values[0]) if values else None

    def set_fact(self, name: str, value: Any) -> None:
        """Records a fact; within a transaction."""
        self._rows("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, json.dumps(value))

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.path}: the file is damaged ({error}): {_AGAIN}") from error

    # Files

    def file(self, by: Literal["number", "path", "label"], value: int | str) -> FileRecord | None:
        """The record of a file by its number, absolute path or label."""
        rows = self._rows(f"SELECT * FROM files WHERE {by} = ?", value)
        return FileRecord(*rows[0]) if rows else None

    def files(self) -> list[FileRecord]:
        """All recorded files."""
        return [FileRecord(*row) for row in self._rows("SELECT * FROM files ORDER BY number")]

    def next_file(self) -> int:
        """A number that no file has."""
        return int(self._column("SELECT coalesce(max(number), 0) + 1 FROM files")[0])

    def put_file(self, record: FileRecord) -> None:
        """Records or replaces a file; within a transaction."""
        self._rows(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
            "path = excluded.path, label = excluded.label, size = excluded.size, "
            "mtime_ns = excluded.mtime_ns, hash = excluded.hash",
            *astuple(record),
        )

    def forget_file(self, number: int) -> None:
        """Removes the record of a file; within a transaction."""
        self._rows("DELETE FROM files WHERE number = ?", number)

    def documents_of_file(self, number: int) -> int:
        """How many done documents came from a file."""
        statement = "SELECT count(*) FROM documents WHERE file = ? AND state = 1"
        return int(self._column(statement, number)[0])

    def mark_seen(self, file: int, id: str) -> bool:
        """Notes that an id occurs in a file; False where it was noted before. Not durable."""
        with _in_words(self.path):
            cursor = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (file, id))
            return cursor.rowcount == 1

    def clear_seen(self, file: int) -> None:
        """Forgets which ids were noted of a file."""
        self._rows("DELETE FROM seen WHERE file = ?", file)

    def unseen(self, file: int) -> list[str]:
        """The ids of done documents of a file that were not noted by `mark_seen`."""
        return self._column(
            "SELECT id FROM documents WHERE file = ? AND state = 1 AND id NOT IN "
            "(SELECT id FROM seen WHERE file = ?)",
            *(file, file),
        )

    # Documents; all that changes them stands within a transaction

    def known(self, id: str) -> Known | None:
        """The done document of that id."""
        rows = self._rows(
            "SELECT key, hash, file, source FROM documents WHERE id = ? AND state = 1", id
        )
        return Known(*rows[0]) if rows else None

    def keys(self, state: int) -> list[int]:
        """The keys of all documents in a state, in the order they came."""
        return self._column(f"SELECT key FROM documents WHERE {_STATES[state]} ORDER BY key")

    def put_pending(self, incoming: Iterable[Incoming]) -> list[int]:
        """Records documents as pending, with their chunks; their keys."""
        keys: list[int] = []
        for item in incoming:
            d = item.document
            metadata = json.dumps(dict(d.metadata), ensure_ascii=False)
            origin = (item.hash, item.file, d.title, d.source, d.language)
            cursor = self._db.execute(
                "INSERT INTO documents VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (d.id, PENDING, *origin, metadata, d.text),
            )
            key = cursor.lastrowid
            assert key is not None  # an INSERT of one row always has it
            chunks = [
                (key, span.start, span.end, json.dumps(place, ensure_ascii=False))
                for span, place in zip(item.spans, places(d, item.spans), strict=True)
            ]
            self._db.executemany("INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?)", chunks)
            keys.append(key)
        return keys

    def move(self, key: int, file: int | None, source: str) -> None:
        """Records that an unchanged document now stands elsewhere."""
        self._rows("UPDATE documents SET file = ?, source = ? WHERE key = ?", file, source, key)

    def promote(self, keys: Iterable[int]) -> None:
        """Pending documents become done, older ones of their ids leaving."""
        for key in keys:
            self._rows(
                "UPDATE documents SET state = 2 WHERE state = 1 AND id = "
                "(SELECT id FROM documents WHERE key = ?)",
                key,
            )
            self._rows("UPDATE documents SET state = 1 WHERE key = ?", key)

    def demote(self, keys: Iterable[int]) -> None:
        """Done documents become pending again."""
        values = [(key,) for key in keys]
        self._db.executemany("UPDATE documents SET state = 0 WHERE key = ?", values)

    def leave(self, ids: Iterable[str]) -> list[str]:
        """Done documents of these ids become leaving; the ids that were there."""
        statement = "UPDATE documents SET state = 2 WHERE id = ? AND state = 1"
        return [id for id in ids if self._db.execute(statement, (id,)).rowcount]

    def forget(self, keys: Iterable[int]) -> None:
        """Removes documents and their chunks."""
        values = [(key,) for key in keys]
        self._db.executemany("DELETE FROM chunks WHERE document = ?", values)
        self._db.executemany("DELETE FROM documents WHERE key = ?", values)

    def document(self, key: int) -> tuple[Document, list[int], list[Span]]:
        """A document whole, with the row numbers and spans of its chunks."""
        (fields,) = self._rows(
            "SELECT id, text, title, source, language, metadata FROM documents WHERE key = ?", key
        )
        chunks = self._rows(
            "SELECT row, start, stop FROM chunks WHERE document = ? ORDER BY row", key
        )
        spans = [Span(start, stop) for _, start, stop in chunks]
        return self._document(fields), [row for row, _, _ in chunks], spans

    def chunks(self, rows: Iterable[int], *, done: bool = True) -> dict[int, Chunk]:
        """The chunks of done documents (or of all) by row number; other rows are left out."""
        joined = self._rows(
            "SELECT row, id, substr(text, start + 1, stop - start), start, stop, title, source, "
            f"language, metadata, {'place' if self._has_places() else _NOWHERE} "
            "FROM chunks JOIN documents ON document = key "
            f"WHERE {'state = 1 AND' if done else ''} row IN (SELECT value FROM json_each(?))",
            json.dumps([int(row) for row in rows]),
        )
        return {row: self._chunk(*fields) for row, *fields in joined}

    def _chunk(
        self, id: str, text: str, start: int, stop: int, title: str, source: str, *more: Any
    ) -> Chunk:
        language, metadata, place = more
        match self._json(place):
            case [int() | None as page, [*headings]]:
                pass
            case _:
                raise StoreError(f"{self.path}: the file is damaged ({place!r:.80}): {_AGAIN}")
        about = (title, source, language, self._json(metadata))
        return Chunk(id, text, Span(start, stop), *about, tuple(headings), page)

    def _has_places(self) -> bool:
        """Whether it says where chunks stand; an older one not before it is opened to change."""
        return bool(self._rows("SELECT 1 FROM pragma_table_info('chunks') WHERE name = 'place'"))

    def rows(self, state: int) -> Rows:
        """The row numbers of the chunks of all documents in a state, ascending."""
        rows = self._column(
            "SELECT row FROM chunks JOIN documents ON document = key "
            f"WHERE {_STATES[state]} ORDER BY row"
        )
        return np.array(rows, dtype=np.uint64)

    def owners(self, rows: Rows) -> list[int]:
        """The keys of the documents that rows belong to."""
        statement = (
            "SELECT DISTINCT document FROM chunks WHERE row IN (SELECT value FROM json_each(?)) "
            "ORDER BY document"
        )
        return self._column(statement, json.dumps(rows.tolist()))

    def moving(self) -> bool:
        """Whether there are documents on their way in or out."""
        return bool(self._rows("SELECT 1 FROM documents WHERE state != 1 LIMIT 1"))

    def counts(self) -> tuple[int, int]:
        """(done documents, chunks of all documents)"""
        ((done, chunks),) = self._rows(
            "SELECT (SELECT count(*) FROM documents WHERE state = 1), (SELECT count(*) FROM chunks)"
        )
        return done, chunks

    def documents(self, after: str = "") -> Iterator[Document]:
        """The done documents by their ids, from behind one of them, without their texts."""
        statement = (
            "SELECT id, '', title, source, language, metadata FROM documents "
            "WHERE state = 1 AND id > ? ORDER BY id LIMIT 1000"
        )
        last = after
        while page := self._rows(statement, last):
            yield from map(self._document, page)
            last = page[-1][0]

    def languages(self) -> dict[str, int]:
        """The languages of done documents that have one, and how many have each; most first."""
        rows = self._rows(
            "SELECT language, count(*) FROM documents WHERE state = 1 AND language IS NOT NULL "
            "GROUP BY language ORDER BY 2 DESC, 1"
        )
        return dict(rows)

    def filter_keys(self) -> dict[str, int]:
        """The keys of metadata, `language` included, and how many done documents have each."""
        rows = self._rows(
            "SELECT key, count(*) FROM ("
            "SELECT document.id, item.key FROM documents AS document, "
            "json_each(document.metadata) AS item WHERE state = 1 UNION "
            "SELECT id, 'language' FROM documents WHERE state = 1 AND language IS NOT NULL"
            ") GROUP BY key ORDER BY key"
        )
        return dict(rows)

    def _document(self, fields: Sequence[Any]) -> Document:
        id, text, title, source, language, metadata = fields
        return Document(id, text, title, source, language, self._json(metadata))


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """A connection for any thread, whose transactions are opened by hand.

    Read-only, SQLite still makes the index of its log beside the file; where the folder or the disk
    does not allow that, no writer can be at work either, and the file is read as it stands.
    """
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    options: dict[str, Any] = {"uri": True, "isolation_level": None, "check_same_thread": False}
    with _in_words(path):
        db: sqlite3.Connection = sqlite3.connect(address, **options)
        try:
            db.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            db.close()
            if not read_only:
                raise
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise
            db = sqlite3.connect(f"{address}&immutable=1", **options)
    return db


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into a StoreError that says what is wrong and how to mend it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if code == sqlite3.SQLITE_FULL:
            what = "the disk is full: nothing that was recorded is lost; make room and run again"
        elif damaged or "decode to UTF-8" in str(error):  # which has no code
            what = f"the file is damaged ({error}): {_AGAIN}"
        elif not path.exists():
            what = "the file was removed or moved while it was open"
        elif code == sqlite3.SQLITE_IOERR:
            what = (
                f"reading or writing fails ({error.sqlite_errorname}): look at the disk, at its "
                "free space, and at the limit of a file's size (`ulimit -f`)"
            )
        elif isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            what = f"the file cannot be read or written now ({error})"
        else:
            raise  # a defect of ours, not of the file
        raise StoreError(f"{path}: {what}") from error
