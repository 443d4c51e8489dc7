"""Deaths at every step, by copies of the folder as it stands on disk then; full disks; damage."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crash
import pytest
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.collection.store import DONE, LEAVING, PENDING, DocumentStore
from tercet.collection.sync import BatchSize, Change
from tercet.errors import InputError, StoreError, TercetError
from tercet.index import GraphOptions, Index, open_index
from tercet.records import Document


@dataclass
class Told:
    """What was reported so far: the ids that must be there, and those that must not."""

    there: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def __call__(self, change: Change) -> None:
        if change.kind in ("added", "updated"):
            self.there.add(change.id)
            self.gone.discard(change.id)
        elif change.kind == "removed":
            self.there.discard(change.id)
            self.gone.add(change.id)


@dataclass
class Deaths:
    """Copies of a collection's folder before every step that changes its index or its store."""

    folder: Path  # of the copies
    told: Told
    every: int = 1  # step
    steps: int = 0
    copies: list[tuple[Path, Told]] = field(default_factory=list)

    def look(self, collection: Path, step: str) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            copy = self.folder / f"{collection.name} {len(self.copies):03d} {step}"
            shutil.copytree(collection, copy)
            self.copies.append((copy, Told(set(self.told.there), set(self.told.gone))))

    @contextmanager
    def of(self, collection: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:

            def watch(owner: Any, name: str) -> None:
                real = getattr(owner, name)

                def call(index: Index, *arguments: Any, **options: Any) -> Any:
                    self.look(collection, f"before {name}")
                    return real(index, *arguments, **options)

                patch.setattr(owner, name, call)

            for name in ("add", "delete", "flush", "optimize"):
                watch(Index, name)
            real = DocumentStore.transaction

            @contextmanager
            def transaction(store: DocumentStore) -> Iterator[DocumentStore]:
                self.look(collection, "before transaction")
                with real(store):
                    yield store
                    self.look(collection, "within transaction")

            patch.setattr(DocumentStore, "transaction", transaction)
            yield
            self.look(collection, "at the end")


def check(folder: Path, told: Told, encoder: HashedEncoder, leaving: set[str]) -> set[str]:
    """Nothing reported is lost, nothing gone is found, store and index agree; the ids.

    leaving: what is removed without its being told yet, so that it may be there or not.
    """
    store = DocumentStore(folder / "documents.sqlite")
    place = folder / store.fact("settings")["index"]
    if place.exists():
        with open_index(place) as index:
            durable = set(index.ids().tolist())
        rows = {state: set(store.rows(state).tolist()) for state in (PENDING, DONE, LEAVING)}
        assert rows[DONE] <= durable, "done before it was flushed"
        assert durable <= set().union(*rows.values()), "forgotten before that was flushed"
    store.close()
    with Collection.open(folder, encoder) as collection:
        ids = {hit.id for hit in collection.search(["any"], k=999, mode="dense")[0]}
        assert len(ids) == len(collection)
        assert told.there - leaving <= ids
        assert not told.gone & ids
        assert collection.index.ids().tolist() == collection._store.rows(DONE).tolist()
        assert not collection._store.moving()
    return ids


FEW = GraphOptions(rows=3)  # a graph for hardly any rows


def corpus(version: str, numbers: range) -> list[Document]:
    filler = " ".join(f"Sentence {version} {n}." for n in range(12))
    return [Document(f"d{n}", f"Text {n} {version} said. {filler}") for n in numbers]


@pytest.mark.parametrize(("backend", "every"), [("exact", 1), ("graph", 2)])
def test_a_death_at_any_step_loses_nothing_and_leaves_nothing(
    memory: Path, backend: Any, every: int
) -> None:
    encoder, told = HashedEncoder(), Told()
    deaths = Deaths(memory, told, every)
    with Collection.open(memory / "c", encoder, backend=backend, chunk=16, graph=FEW) as collection:
        collection.batch = BatchSize(documents=4)
        collection.add(corpus("old", range(6)), report=told)
        with deaths.of(memory / "c"):
            report = collection.add(corpus("new", range(4, 9)), report=told)
            assert (report.added, report.updated) == (3, 2)
            collection.delete(["d0", "d5"])
    assert len(deaths.copies) > 20 / every
    again = Deaths(memory, told, every)
    for folder, known in deaths.copies:
        if backend == "exact":  # and another death while the first is made good
            with again.of(folder):
                Collection.open(folder, encoder).close()
        ids = check(folder, known, encoder, {"d0", "d5"})
        assert {"d1", "d2", "d3", "d4"} <= ids <= {f"d{n}" for n in range(9)}
        with Collection.open(folder, encoder) as collection:
            collection.add(corpus("new", range(4, 9)))
            hits = collection.search(["new said"], k=9, mode="sparse")[0]
            assert {hit.id for hit in hits if " new " in hit.text} == {f"d{n}" for n in range(4, 9)}
    for folder, _ in again.copies:
        check(folder, Told(), encoder, set())


def test_a_death_while_files_change_or_the_index_is_made_again(memory: Path) -> None:
    encoder, told, docs = HashedEncoder(), Told(), memory / "docs"
    deaths = Deaths(memory, told)
    docs.mkdir()

    def rows(*numbers: int) -> str:
        return "".join(json.dumps({"id": f"r{n}", "text": f"row {n}"}) + "\n" for n in numbers)

    (docs / "a.txt").write_text("first text")
    (docs / "b.jsonl").write_text(rows(0, 1, 2, 3, 4))
    with Collection.open(memory / "c", encoder, backend="exact") as collection:
        collection.batch = BatchSize(documents=2)
        collection.add([docs], report=told)
        (docs / "a.txt").unlink()
        (docs / "b.jsonl").write_text(rows(1, 3, 4, 5, 6, 7))
        with deaths.of(memory / "c"):
            collection.add([docs], report=told)
            before = deaths.steps
            collection.rebuild()
    assert 6 < before < deaths.steps
    for folder, known in deaths.copies:
        check(folder, known, encoder, {"r0", "r2", str(docs / "a.txt")})
        with Collection.open(folder, encoder) as collection:
            collection.add([docs])
            assert len(list(folder.glob("index-*"))) == 1
        assert check(folder, Told(), encoder, set()) == {f"r{n}" for n in (1, 3, 4, 5, 6, 7)}


@pytest.mark.parametrize("failure", [InputError("no vector"), KeyboardInterrupt()])
def test_a_batch_that_fails_is_taken_back(
    memory: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    encoder, told, encode = HashedEncoder(), Told(), HashedEncoder.encode
    deaths = Deaths(memory, told)

    def refuse(self: HashedEncoder, texts: list[str], **options: Any) -> Any:
        if any("poison" in text for text in texts):
            raise failure
        return encode(self, texts, **options)

    monkeypatch.setattr(HashedEncoder, "encode", refuse)
    with Collection.open(memory / "c", encoder, backend="exact") as collection:
        collection.add(corpus("old", range(3)), report=told)
        with pytest.raises(type(failure)), deaths.of(memory / "c"):
            collection.add([*corpus("new", range(2, 5)), Document("p", "poison")], report=told)
        collection.add(corpus("new", range(1, 2)), report=told)
    assert check(memory / "c", told, encoder, set()) == {"d0", "d1", "d2"}
    monkeypatch.undo()
    for folder, known in deaths.copies:
        check(folder, known, HashedEncoder(), set())


def test_rows_of_no_document_and_documents_without_rows_are_mended(memory: Path) -> None:
    encoder = HashedEncoder()
    with Collection.open(memory, encoder, backend="exact") as collection:
        collection.add(corpus("old", range(4)))
        collection.index.add([9999], encoder.encode(["a phantom"]), [{}])
        collection.index.delete(collection._store.rows(DONE)[:2])
    encoder.texts.clear()
    with Collection.open(memory, encoder):
        assert len(encoder.texts) == 2  # those that were missing, and no more
    assert check(memory, Told(), encoder, set()) == {"d0", "d1", "d2", "d3"}


def test_a_folder_left_by_a_death_while_it_was_made_is_made_again(memory: Path) -> None:
    encoder = HashedEncoder()
    Collection.open(memory / "c", encoder, backend="exact").close()
    shutil.rmtree(memory / "c" / "index-000001")
    (memory / "c" / ".index-000001.x").mkdir()
    with Collection.open(memory / "c", encoder) as collection:
        assert collection.add(corpus("old", range(2))).added == 2
    assert not (memory / "c" / ".index-000001.x").exists()
    (memory / "d").mkdir()
    (memory / "d" / ".documents.sqlite.x").write_bytes(b"half")
    (memory / "d" / "lock").write_text("1\n")
    with Collection.open(memory / "d", encoder, backend="exact") as collection:
        assert len(collection) == 0


# A full disk


def test_a_full_disk_under_the_documents_loses_nothing(memory: Path) -> None:
    encoder, told = HashedEncoder(), Told()
    with Collection.open(memory, encoder, backend="exact") as collection:
        collection.add(corpus("old", range(4)), report=told)
        db = collection._store._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 1}")  # what SQLite may use is all there is
        with pytest.raises(StoreError, match="disk is full"):
            collection.add(corpus("new", range(3000)), report=told)
        assert {hit.id for hit in collection.search(["text"], k=99)[0]} == told.there
        db.execute("PRAGMA max_page_count = 1000000")
        collection.add(corpus("new", range(10)), report=told)
    assert check(memory, told, encoder, set()) == {f"d{n}" for n in range(10)}


@pytest.mark.parametrize("step", ["add", "flush", "delete"])
def test_a_full_disk_under_the_index_loses_nothing(
    memory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    encoder, told = HashedEncoder(), Told()

    def full(*_: Any) -> None:
        raise StoreError("cannot write (No space left on device)")

    with Collection.open(memory, encoder, backend="exact") as collection:
        collection.add(corpus("old", range(4)), report=told)
        with monkeypatch.context() as patch:
            patch.setattr(collection.index, step, full)
            with pytest.raises(StoreError, match="No space left"):
                collection.add(corpus("new", range(2, 6)), report=told)
        assert told.there <= {hit.id for hit in collection.search(["text"], k=99)[0]}
        collection.add([Document("last", "text")], report=told)
        told.there |= {"d4", "d5"}  # recorded as pending, so finished when there was room
    assert check(memory, told, encoder, set()) == {*(f"d{n}" for n in range(6)), "last"}


# Damage


def test_a_damaged_store_is_named_or_harmless_and_its_index_is_kept(memory: Path) -> None:
    encoder, draw = HashedEncoder(), random.Random(0)
    with Collection.open(memory / "c", encoder, backend="exact") as collection:
        collection.add([Document(f"d{n}", f"text {n} " * 40) for n in range(60)])
    whole = (memory / "c" / "documents.sqlite").read_bytes()
    index = len(list((memory / "c" / "index-000001").rglob("*")))
    cuts = [whole[:size] for size in (0, 1, 99, 4096, len(whole) // 2, len(whole) - 4096)]
    strewn = []
    for _ in range(15):
        content = bytearray(whole)
        for start in [draw.randrange(len(whole)) for _ in range(3)]:
            damage = draw.randbytes(draw.choice([1, 60, 3000]))
            content[start : start + len(damage)] = damage
        strewn.append(bytes(content))
    messages = {}
    for number, damaged in enumerate([None, *cuts, *strewn]):
        shutil.rmtree(memory / "d", ignore_errors=True)
        shutil.copytree(memory / "c", memory / "d")
        (memory / "d" / "documents.sqlite").unlink()
        if damaged is not None:
            (memory / "d" / "documents.sqlite").write_bytes(damaged)
        try:
            with Collection.open(memory / "d", encoder) as collection:
                collection.search(["text 7"], k=60)
                collection.add([Document("d7", "changed"), Document("new", "new")])
                collection.delete(["d8"])
        except TercetError as error:
            messages[number] = str(error)
            if number <= len(cuts):
                assert len(list((memory / "d" / "index-000001").rglob("*"))) == index
    assert len(messages) > len(cuts) + 3
    assert all("documents.sqlite" in messages[number] for number in range(len(cuts) + 1))


# Real deaths


def test_three_kills(memory: Path) -> None:
    options = (
        f"--kills 3 --encoder hashed --backend exact --documents 100 --span 0.3 --folder {memory}"
    )
    summary = crash.run(crash.parse(options.split()))
    assert (summary["kills"], summary["checks"]) == (3, 2)
    assert summary["reported"] > 0
    assert (summary["lost"], summary["phantoms"], summary["not_found"]) == (0, 0, 0)


def test_what_is_lost_is_noticed(memory: Path) -> None:
    said, faults = crash.Said(), crash.Faults()
    documents = [crash.document(number, 1) for number in range(4)]
    with Collection.open(memory, HashedEncoder(), backend="exact") as collection:
        collection.add([crash.document(0, 0), *documents[1:]])
        for document in documents:
            said.hear("added", document.id, 1)
        said.hear("version", "", 1)
        said.hear("removed", "d1", 1)
        collection.index.delete(collection.index.ids()[:1])
        crash.check(collection, said, faults, None)
    assert faults.lost
    assert faults.phantoms
