"""Documents in SQLite: states, files, transactions, and what is no such file."""

import sqlite3
from pathlib import Path

import pytest

from tercet.collection.store import DONE, LEAVING, PENDING, DocumentStore, FileRecord, Incoming
from tercet.errors import StoreError
from tercet.records import Document, Span


@pytest.fixture
def store(memory: Path) -> DocumentStore:
    DocumentStore.create(memory / "documents.sqlite", {"a": [1, "x"]})
    return DocumentStore(memory / "documents.sqlite")


def incoming(id: str, text: str = "some text", file: int | None = None) -> Incoming:
    half = len(text) // 2
    spans = [Span(0, half), Span(half, len(text))]
    document = Document(id, text, "T", "s", "en", {"k": 1})
    return Incoming(document, spans, f"hash of {text}", file)


def put(store: DocumentStore, *items: Incoming) -> list[int]:
    with store.transaction():
        return store.put_pending(items)


def test_a_document_comes_is_replaced_and_goes(store: DocumentStore) -> None:
    (first,) = put(store, incoming("a", "🙂 first"))
    assert store.known("a") is None  # pending ones do not count
    assert store.chunks(list(store.rows(PENDING))) == {}
    with store.transaction():
        store.promote([first])
    rows = store.rows(DONE)
    chunks = store.chunks([*rows, 999])
    assert [chunks[int(row)][1].text for row in rows] == ["🙂 f", "irst"]
    assert store.document(first)[0] == Document("a", "🙂 first", "T", "s", "en", {"k": 1})
    (second,) = put(store, incoming("a", "second"))
    with store.transaction():
        store.promote([second])
    assert store.keys(LEAVING) == [first]
    assert store.moving()
    assert store.rows(LEAVING).tolist() == rows.tolist()
    assert store.chunks([int(row) for row in rows]) == {}
    with store.transaction():
        store.forget([first])
    assert (store.counts(), store.moving()) == ((1, 2), False)
    with store.transaction():
        assert store.leave(["a", "b"]) == ["a"]
        store.forget([second])
    (third,) = put(store, incoming("a"))
    assert third > second
    assert min(store.rows(PENDING)) > max(rows) + 2  # no row number is used twice
    assert store.owners(store.rows(PENDING)) == [third]


def test_files_and_what_was_seen_of_them(store: DocumentStore) -> None:
    record = FileRecord(store.next_file(), "/x/a.jsonl", "a.jsonl", 3, 4, None)
    keys = put(store, incoming("a", file=record.number), incoming("b", file=record.number))
    with store.transaction():
        store.put_file(record)
        store.promote(keys)
    assert store.file("path", "/x/a.jsonl") == store.file("label", "a.jsonl") == record
    assert (store.file("path", "/x"), store.file("number", record.number)) == (None, record)
    assert store.next_file() == record.number + 1
    assert store.mark_seen(record.number, "a")
    assert not store.mark_seen(record.number, "a")
    assert store.unseen(record.number) == ["b"]
    store.clear_seen(record.number)
    assert store.unseen(record.number) == ["a", "b"]
    assert store.documents_of_file(record.number) == 2
    with store.transaction():
        store.move(keys[0], None, "elsewhere")
        store.forget_file(record.number)
    assert store.documents_of_file(record.number) == 1
    assert list(store.files()) == []


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
    with pytest.raises(StoreError, match="is missing"):
        DocumentStore(memory / "documents.sqlite")
    (memory / "a.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        DocumentStore(memory / "a.sqlite")
    sqlite3.connect(memory / "b.sqlite").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(StoreError, match="emptied or cut short"):
        DocumentStore(memory / "b.sqlite")


def test_every_commit_is_synced(
    store: DocumentStore, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr("tercet.collection.store.fsync", seen.append)
    DocumentStore.create(memory / "new.sqlite", {})
    assert seen == [memory]  # the name of a new file, too
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
    assert len(asked) == 9
    for statement, values in asked:
        plan = store._db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        steps = [step[3] for step in plan]
        assert not any(step.startswith("SCAN documents") and "INDEX" not in step for step in steps)
        assert not any(step.startswith("SCAN chunks") for step in steps), (statement, steps)
