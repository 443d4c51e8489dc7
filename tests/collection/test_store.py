"""Documents in SQLite: states, files, transactions, and what is no such file."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tercet.collection.store import DONE, LEAVING, PENDING, DocumentStore, Incoming
from tercet.errors import StoreError
from tercet.records import Document, Section, Span
from tests.conftest import Disk


@pytest.fixture
def store(memory: Path) -> DocumentStore:
    DocumentStore.create(memory / "documents.sqlite", {"a": [1, "x"]})
    return DocumentStore(memory / "documents.sqlite")


def incoming(id: str, text: str = "some text") -> Incoming:
    half = len(text) // 2
    spans = [Span(0, half), Span(half, len(text))]
    document = Document(id, text, "T", "s", "en", {"k": 1})
    return Incoming(document, spans, f"hash of {text}", None)


def put(store: DocumentStore, *items: Incoming) -> list[int]:
    with store.transaction():
        return store.put_pending(items)


def test_only_done_documents_count_and_no_number_is_used_twice(store: DocumentStore) -> None:
    (first,) = put(store, incoming("a", "🙂 first"))
    assert store.known("a") is None  # pending ones do not count
    assert store.chunks(store.rows(PENDING).tolist()) == {}
    with store.transaction():
        store.promote([first])
    rows = store.rows(DONE).tolist()
    assert [chunk.text for chunk in store.chunks([*rows, 999]).values()] == ["🙂 f", "irst"]
    assert store.document(first)[0] == Document("a", "🙂 first", "T", "s", "en", {"k": 1})
    (second,) = put(store, incoming("a", "second"))
    with store.transaction():
        store.promote([second])
    assert (store.keys(LEAVING), store.rows(LEAVING).tolist()) == ([first], rows)
    assert store.chunks(rows) == {}
    with store.transaction():
        assert store.leave(["a", "b"]) == ["a"]
        store.forget([first, second])
    (third,) = put(store, incoming("a"))
    assert third > second
    assert min(store.rows(PENDING)) > max(rows) + 2
    assert store.owners(store.rows(PENDING)) == [third]


def test_a_store_of_before_is_read_and_says_where_new_chunks_stand(memory: Path) -> None:
    path = memory / "documents.sqlite"
    DocumentStore.create(path, {})
    with closing(DocumentStore(path)) as store, store.transaction():
        store.promote(store.put_pending([incoming("old")]))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE chunks DROP COLUMN place")
    reader = DocumentStore(path, read_only=True)
    rows = reader.rows(DONE).tolist()
    assert [chunk.text for chunk in reader.chunks(rows).values()] == ["some", " text"]
    with closing(DocumentStore(path)) as store, store.transaction():
        outline = (Section(0, 0, "7"), Section(0, 1, "Über"))
        new = incoming("new")
        new = replace(new, document=replace(new.document, outline=outline))
        store.promote(store.put_pending([new]))
    chunks = reader.chunks(reader.rows(DONE).tolist()).values()
    places = [(chunk.id, chunk.page, chunk.headings) for chunk in chunks]
    assert places == [("old", None, ())] * 2 + [("new", 7, ("Über",))] * 2
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE chunks SET place = '7'")
    with pytest.raises(StoreError, match="damaged"):
        reader.chunks(rows)


def test_a_transaction_is_kept_whole_or_not_at_all(store: DocumentStore, memory: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put_pending([incoming("a")])
        raise ZeroDivisionError
    assert store.counts() == (0, 0)
    with store.transaction():
        store.set_fact("b", {"c": None})
    store.close()
    again = DocumentStore(memory / "documents.sqlite")
    assert (again.fact("a"), again.fact("b"), again.fact("d")) == ([1, "x"], {"c": None}, None)
    with again.transaction():
        again.set_fact("format", 99)
    again.close()
    with pytest.raises(StoreError, match="format 99"):
        DocumentStore(memory / "documents.sqlite")


def test_what_is_no_store_is_named(memory: Path) -> None:
    with pytest.raises(StoreError):
        DocumentStore(memory / "documents.sqlite")
    (memory / "a.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        DocumentStore(memory / "a.sqlite")
    sqlite3.connect(memory / "b.sqlite").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(StoreError, match="emptied or cut short"):
        DocumentStore(memory / "b.sqlite")


def test_reads_of_threads_never_meet(store: DocumentStore) -> None:
    """Where they overlap, SQLite shows all of them the state that the first one saw."""
    db, busy, met = store._db, threading.Lock(), []

    def execute(*arguments: Any) -> Any:
        met.append(busy.locked())
        with busy:
            time.sleep(0.01)
            return db.execute(*arguments)

    store._db = cast("sqlite3.Connection", SimpleNamespace(execute=execute))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(store.fact, "aaaaaaaa")) == [[1, "x"]] * 8
    assert met == [False] * 8


def test_what_is_committed_while_a_list_is_read_is_seen(store: DocumentStore) -> None:
    with store.transaction():
        store.promote(store.put_pending([incoming(str(n)) for n in range(1500)]))
    reader = DocumentStore(store.path, read_only=True)
    listed = reader.documents()
    assert next(listed).id == "0"
    with store.transaction():
        store.leave(["999"])
    assert reader.known("999") is None
    assert sum(1 for _ in listed) == 1498


def test_a_new_file_and_every_commit_are_on_the_disk(memory: Path, disk: Disk) -> None:
    DocumentStore.create(memory / "documents.sqlite", {})
    disk.check()
    store = DocumentStore(memory / "documents.sqlite")
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_what_a_batch_asks_does_not_read_all_documents(
    store: DocumentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []
    rows = store._rows

    def listen(statement: str, *values: object) -> list[tuple[object, ...]]:
        asked.append((statement, values))
        return rows(statement, *values)

    monkeypatch.setattr(store, "_rows", listen)
    for state in (PENDING, LEAVING):
        store.keys(state)
        store.rows(state)
    store.chunks([1, 2])
    store.known("a")
    store.unseen(1)
    store.documents_of_file(1)
    store.moving()
    assert len(asked) == 10
    for statement, values in asked:
        plan = store._db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        steps = [step[3] for step in plan]
        assert not any(step.startswith("SCAN documents") and "INDEX" not in step for step in steps)
        assert not any(step.startswith("SCAN chunks") for step in steps), (statement, steps)


def test_a_limit_on_the_size_of_files_is_named(store: DocumentStore) -> None:
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StoreError, match=r"IOERR_WRITE.*ulimit -f"):
            put(store, incoming("a", "text " * 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (key,) = put(store, incoming("a"))
    assert store.keys(PENDING) == [key]
