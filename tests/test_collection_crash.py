"""Deaths at every step, by copies of the folder as it stands on disk at that moment."""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import crash
import numpy as np
import pytest
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.collection.store import DONE, DocumentStore
from tercet.collection.sync import BatchSize, Change
from tercet.errors import InputError, StoreError, TercetError
from tercet.records import Document


class Told:
    """What was reported so far: the ids that must be there, and those that must not."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()

    def __call__(self, change: Change) -> None:
        if change.kind in ("added", "updated"):
            self.there.add(change.id)
            self.gone.discard(change.id)
        elif change.kind == "removed":
            self.there.discard(change.id)
            self.gone.add(change.id)

    def copy(self) -> "Told":
        other = Told()
        other.there, other.gone = set(self.there), set(self.gone)
        return other


@contextmanager
def watched(
    monkeypatch: pytest.MonkeyPatch, collection: Collection, look: Callable[[str], None]
) -> Iterator[None]:
    """Calls `look` before every step that changes the index or the store, and after the last."""
    with monkeypatch.context() as patch:

        def wrap(owner: Any, name: str) -> None:
            real = getattr(owner, name)

            def call(*arguments: Any, **options: Any) -> Any:
                look(f"before {name}")
                return real(*arguments, **options)

            patch.setattr(owner, name, call)

        for name in ("add", "delete", "flush", "optimize"):
            wrap(collection.index, name)
        real = DocumentStore.transaction

        @contextmanager
        def transaction(store: DocumentStore) -> Iterator[DocumentStore]:
            look("before transaction")
            with real(store):
                yield store
                look("within transaction")

        patch.setattr(DocumentStore, "transaction", transaction)
        yield
        look("at the end")


def check(folder: Path, told: Told, encoder: HashedEncoder, leaving: set[str]) -> set[str]:
    """Nothing reported is lost, nothing gone is found, store and index agree; the ids.

    leaving: what is removed without its being told yet, so that it may be there or not.
    """
    with Collection.open(folder, encoder) as collection:
        ids = {hit.id for hit in collection.search(["any"], k=999, mode="dense")[0]}
        assert len(ids) == len(collection)
        assert told.there - leaving <= ids
        assert not told.gone & ids
        rows = collection._store.rows(DONE)
        assert np.array_equal(np.sort(collection.index.ids()), rows)
        assert not collection._store.moving()
    return ids


def corpus(version: str, numbers: range) -> list[Document]:
    filler = " ".join(f"Sentence {version} {n}." for n in range(12))
    return [Document(f"d{n}", f"Text {n} {version} said. {filler}") for n in numbers]


@pytest.mark.parametrize("backend", ["exact", "edge"])
def test_a_death_at_any_step_loses_nothing_and_leaves_nothing(
    memory: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    encoder, told = HashedEncoder(), Told()
    deaths: list[tuple[Path, Told]] = []
    every, looks = (1 if backend == "exact" else 5), count()  # the engine's files are large

    def look(step: str) -> None:
        if next(looks) % every == every - 1:
            copy = memory / f"{len(deaths):03d} {step}"
            shutil.copytree(memory / "c", copy)
            deaths.append((copy, told.copy()))

    with Collection.open(memory / "c", encoder, backend=backend, chunk=16) as collection:
        collection.batch = BatchSize(documents=4)
        collection.add(corpus("old", range(6)), report=told)
        with watched(monkeypatch, collection, look):
            report = collection.add(corpus("new", range(4, 9)), report=told)
            assert (report.added, report.updated) == (3, 2)
            collection.delete(["d0", "d5"])
    assert len(deaths) > 20 / every
    for folder, known in deaths:
        ids = check(folder, known, encoder, {"d0", "d5"})
        assert {"d1", "d2", "d3", "d4"} <= ids <= {f"d{n}" for n in range(9)}
        if backend == "exact":
            with Collection.open(folder, encoder) as collection:
                found = collection.search(["new"], k=9, mode="sparse")[0]
                assert {hit.id for hit in found} <= {f"d{n}" for n in range(4, 9)}
                collection.add(corpus("new", range(4, 9)))
                found = collection.search(["new said"], k=9, mode="sparse")[0]
                assert {hit.id for hit in found if " new " in hit.text} == {
                    f"d{n}" for n in range(4, 9)
                }


def test_a_death_while_files_change_or_the_index_is_made_again(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, told = HashedEncoder(), Told()
    docs = memory / "docs"
    docs.mkdir()
    deaths: list[tuple[Path, Told]] = []

    def look(step: str) -> None:
        copy = memory / f"{len(deaths):03d} {step}"
        shutil.copytree(memory / "c", copy)
        deaths.append((copy, told.copy()))

    def rows(*numbers: int) -> str:
        return "".join(json.dumps({"id": f"r{n}", "text": f"row {n}"}) + "\n" for n in numbers)

    (docs / "a.txt").write_text("first text")
    (docs / "b.jsonl").write_text(rows(0, 1, 2, 3, 4))
    with Collection.open(memory / "c", encoder, backend="exact") as collection:
        collection.batch = BatchSize(documents=2)
        collection.add([docs], report=told)
        (docs / "a.txt").unlink()
        (docs / "b.jsonl").write_text(rows(1, 3, 4, 5, 6, 7))
        with watched(monkeypatch, collection, look):
            collection.add([docs], report=told)
            before = len(deaths)
            collection.rebuild()
    assert before > 6
    assert len(deaths) > before
    for folder, known in deaths:
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

    def refuse(self: HashedEncoder, texts: list[str], **options: Any) -> Any:
        if any("poison" in text for text in texts):
            raise failure
        return encode(self, texts, **options)

    monkeypatch.setattr(HashedEncoder, "encode", refuse)
    with Collection.open(memory, encoder, backend="exact") as collection:
        collection.add(corpus("old", range(3)), report=told)
        with pytest.raises(type(failure)):
            collection.add([*corpus("new", range(2, 5)), Document("p", "poison")], report=told)
        collection.add(corpus("new", range(1, 2)), report=told)
    assert check(memory, told, encoder, set()) == {"d0", "d1", "d2"}


def test_rows_of_no_document_and_documents_without_rows_are_mended(memory: Path) -> None:
    encoder = HashedEncoder()
    with Collection.open(memory, encoder, backend="exact") as collection:
        collection.add(corpus("old", range(4)))
        known = collection._store.rows(DONE)
        phantom = encoder.encode(["a phantom"])
        collection.index.add([9999], phantom, [{}])
        collection.index.delete(known[:2])
    encoder.texts.clear()
    assert check(memory, Told(), encoder, set()) == {"d0", "d1", "d2", "d3"}
    assert len(encoder.texts) == 2  # those that were missing, and no more


def test_a_folder_left_by_a_death_while_it_was_made_is_made_again(memory: Path) -> None:
    encoder = HashedEncoder()
    Collection.open(memory / "c", encoder, backend="exact").close()
    shutil.rmtree(memory / "c" / "index-000001")
    (memory / "c" / ".index-000001.x").mkdir()
    with Collection.open(memory / "c", encoder) as collection:
        assert collection.add(corpus("old", range(2))).added == 2
    assert not (memory / "c" / ".index-000001.x").exists()
    (memory / "d").mkdir()
    (memory / "d" / "documents.sqlite.new").write_bytes(b"half")
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
        ids = {hit.id for hit in collection.search(["text"], k=99)[0]}
        assert told.there <= ids
        collection.add([Document("last", "text")], report=told)
        told.there |= {"d4", "d5"}  # recorded as pending, so finished when there was room
    assert check(memory, told, encoder, set()) == {*(f"d{n}" for n in range(6)), "last"}


def test_a_folder_that_cannot_be_written_is_named(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="No space left"):
        Collection.open(memory / "c", HashedEncoder())


def test_the_engine_is_not_let_near_a_full_disk(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, told = HashedEncoder(), Told()
    usage = shutil.disk_usage(memory)
    with Collection.open(memory, encoder, backend="edge") as collection:
        collection.add(corpus("old", range(3)), report=told)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9 << 20))
            with pytest.raises(StoreError, match="full but for 9 MB"):
                collection.add(corpus("new", range(5)), report=told)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=9 << 20))
        with pytest.raises(StoreError, match="full but for 9 MB"):
            Collection.open(memory, encoder)
    check(memory, told, encoder, set())


# Damage


def made(folder: Path, encoder: HashedEncoder) -> int:
    with Collection.open(folder, encoder, backend="exact") as collection:
        collection.add([Document(f"d{n}", f"text {n} " * 40) for n in range(60)])
    return (folder / "documents.sqlite").stat().st_size


def use(folder: Path, encoder: HashedEncoder) -> None:
    with Collection.open(folder, encoder) as collection:
        collection.search(["text 7"], k=60)
        collection.add([Document("d7", "changed"), Document("new", "new")])
        collection.delete(["d8"])


def test_a_truncated_store_is_named_and_its_index_kept(memory: Path) -> None:
    encoder = HashedEncoder()
    size = made(memory / "c", encoder)
    index = len(list((memory / "c" / "index-000001").rglob("*")))
    for keep in (0, 1, 99, 4096, size // 2, size - 4096):
        shutil.copytree(memory / "c", memory / "d")
        os.truncate(memory / "d" / "documents.sqlite", keep)
        with pytest.raises(StoreError, match=r"documents\.sqlite"):
            use(memory / "d", encoder)
        assert len(list((memory / "d" / "index-000001").rglob("*"))) == index
        shutil.rmtree(memory / "d")
    (memory / "c" / "documents.sqlite").unlink()
    with pytest.raises(StoreError, match="is missing"):
        use(memory / "c", encoder)


def test_a_store_with_wrong_bytes_is_an_error_in_words_or_none(memory: Path) -> None:
    encoder = HashedEncoder()
    size = made(memory / "c", encoder)
    draw, named = random.Random(0), 0
    for _ in range(15):
        shutil.rmtree(memory / "d", ignore_errors=True)
        shutil.copytree(memory / "c", memory / "d")
        with open(memory / "d" / "documents.sqlite", "r+b") as file:
            for _ in range(3):
                file.seek(draw.randrange(size))
                file.write(draw.randbytes(draw.choice([1, 60, 3000])))
        try:
            use(memory / "d", encoder)
        except TercetError:
            named += 1
    assert named > 3


# Real deaths


def test_three_kills(memory: Path) -> None:
    options = [
        "--kills",
        "3",
        "--encoder",
        "hashed",
        "--backend",
        "exact",
        "--folder",
        str(memory),
    ]
    summary = crash.run(crash.parse([*options, "--documents", "100", "--span", "0.3"]))
    assert summary["kills"] == 3
    assert summary["checks"] == 2
    assert summary["reported"] > 0
    assert (summary["lost"], summary["phantoms"], summary["not_found"]) == (0, 0, 0)


def test_what_is_lost_is_noticed(memory: Path) -> None:
    said, faults = crash.Said(), crash.Faults()
    documents = [crash.document(number, 1) for number in range(4)]
    with Collection.open(memory, HashedEncoder(), backend="exact") as collection:
        collection.add([crash.document(0, 0), *documents[1:]])
        said.hear("version", "", 1)
        for document in documents:
            said.hear("added", document.id, 1)
        said.hear("removed", "d1", 1)
        crash.check(collection, said, faults, None)
        assert len(faults.lost) == len(faults.phantoms) == 1
        assert not faults.not_found
        collection.index.delete(collection.index.ids()[:1])
        crash.check(collection, said, faults, None)
        assert len(faults.lost) + len(faults.phantoms) > 4
