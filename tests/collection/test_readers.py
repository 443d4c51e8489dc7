"""Readers beside the one that changes a collection, and collections that somebody else made."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hashed import HashedEncoder

import tercet.collection as collection_module
from tercet.collection import Collection
from tercet.collection.store import DocumentStore
from tercet.collection.sync import BatchSize
from tercet.errors import InputError, StoreError
from tercet.index import GraphOptions
from tercet.records import Document

FEW = GraphOptions(rows=3)


def corpus(version: str, numbers: range) -> list[Document]:
    return [Document(f"d{n}", f"river {n} {version} water") for n in numbers]


def texts(collection: Collection) -> set[str]:
    return {hit.text for hit in collection.search(["river"], k=99, candidates=None)[0]}


def of(documents: list[Document]) -> set[str]:
    return {document.text for document in documents}


def test_readers_see_what_was_committed_and_never_wait(
    memory: Path, encoder: HashedEncoder
) -> None:
    old, new = corpus("old", range(8)), corpus("new", range(4, 12))
    with Collection.open(memory, encoder, graph=FEW) as writer:
        writer.add(old)
        holding, seen, slow = threading.Event(), [], threading.Event()

        def encode(*arguments: Any, **options: Any) -> Any:
            if options.get("role") != "query":
                holding.set()
                assert slow.wait(20)
            return HashedEncoder.encode(encoder, *arguments, **options)

        with Collection.open(memory, HashedEncoder(), read_only=True, graph=FEW) as reader:
            assert texts(reader) == texts(writer) == of(old)
            encoder.encode = encode  # type: ignore[method-assign]
            adding = threading.Thread(target=writer.add, args=(new,))
            adding.start()
            assert holding.wait(20)
            for collection in (writer, reader):  # while another thread is within `add`
                began = time.monotonic()
                seen.append((texts(collection), len(collection), "d9" in collection))
                assert time.monotonic() - began < 5  # the writer holds until it is told
            slow.set()
            adding.join()
            assert seen == [(of(old), 8, False)] * 2
            assert texts(reader) == texts(writer) == of(old[:4]) | of(new)
            assert len(reader) == 12
            writer.delete(["d0", "d11"])
            assert "d11" not in reader
            assert texts(reader) == texts(writer)
            writer.keep_weights(writer.weights)
            assert reader.weights == writer.weights
            writer.rebuild()
            assert reader.settings.index == "index-000001"
            assert texts(reader) == texts(writer) == of(old[1:4]) | of(new[:-1])
            assert reader.info() == writer.info()
            assert reader.settings.index == "index-000002"


@pytest.mark.parametrize("step", ["encode", "open_index"])
def test_an_index_may_be_made_again_while_it_is_searched_or_opened(
    memory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    documents = corpus("old", range(8))
    rebuilt: list[bool] = []
    with Collection.open(memory, HashedEncoder(), graph=FEW) as writer:
        writer.add(documents)
        encoder = HashedEncoder()
        reader = Collection.open(memory, encoder, read_only=True, graph=FEW)
        owner = encoder if step == "encode" else collection_module
        real = getattr(owner, step)

        def meanwhile(*arguments: Any, **options: Any) -> Any:
            if not rebuilt:
                rebuilt.append(True)
                writer.rebuild()
                assert len(reader) == 8  # as another thread asks, which opens the new one
            return real(*arguments, **options)

        monkeypatch.setattr(owner, step, meanwhile)
        if step == "open_index":
            reader = Collection.open(memory, encoder, read_only=True, graph=FEW)
        assert texts(reader) == of(documents)
        assert rebuilt


def test_a_document_that_is_replaced_while_it_is_searched_is_in_the_answer(
    memory: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = corpus("new", range(4))
    with Collection.open(memory, encoder) as writer:
        writer.add(corpus("old", range(4)))
        with Collection.open(memory, HashedEncoder(), read_only=True) as reader:
            _, index = reader._newest()
            real = index.search

            def search(*arguments: Any, **options: Any) -> Any:
                rows = real(*arguments, **options)
                writer.add(new)
                return rows

            monkeypatch.setattr(index, "search", search)
            assert texts(reader) == of(new)


def test_a_search_at_the_end_of_a_rebuild_costs_nothing(
    memory: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = corpus("old", range(4))
    with Collection.open(memory, encoder) as writer:
        writer.add(documents)
        transaction = DocumentStore.transaction

        @contextmanager
        def meanwhile(store: DocumentStore) -> Iterator[DocumentStore]:
            with transaction(store):
                yield store
            assert texts(writer) == of(documents)  # as another thread may

        monkeypatch.setattr(DocumentStore, "transaction", meanwhile)
        writer.rebuild()
        assert texts(writer) == of(documents)
        assert [path.name for path in memory.glob("index-*")] == ["index-000002"]
    with Collection.open(memory, encoder, read_only=True) as reader:
        assert texts(reader) == of(documents)


def test_a_reader_changes_nothing(memory: Path, encoder: HashedEncoder) -> None:
    with pytest.raises(StoreError):
        Collection.open(memory / "none", encoder, read_only=True)
    assert not (memory / "none").exists()
    with Collection.open(memory / "c", encoder) as writer:
        writer.add(corpus("old", range(3)))
    files = {path: path.read_bytes() for path in (memory / "c").rglob("*") if path.is_file()}
    with Collection.open(memory / "c", encoder, read_only=True) as reader:
        assert len(texts(reader)) == 3
        reader.verify()
        for change in (
            lambda: reader.add(corpus("new", range(3))),
            lambda: reader.delete(["d0"]),
            lambda: reader.rebuild(),
            lambda: reader.keep_weights(reader.weights),
        ):
            with pytest.raises(StoreError, match="read_only"):
                change()
    after = {path: path.read_bytes() for path in (memory / "c").rglob("*") if path.is_file()}
    shared = {path for path in after if path.name.endswith(("-shm", "-wal"))}  # SQLite's own
    assert {path: after[path] for path in after.keys() - shared} == files
    with pytest.raises(InputError, match="read_only"):
        Collection.open(memory / "c", encoder, read_only=True, chunk=32)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights of POSIX")
def test_an_index_on_a_read_only_medium_is_searched(memory: Path, encoder: HashedEncoder) -> None:
    with Collection.open(memory / "c", encoder) as writer:
        writer.add(corpus("old", range(3)))
    script = (
        # torch now: that user may not read what the interpreter brings
        "import os, sys, torch; sys.path[:0] = sys.argv[2:]\n"
        "from hashed import HashedEncoder; from tercet.collection import Collection\n"
        "os.geteuid() or os.setuid(65534)\n"
        "with Collection.open(sys.argv[1], HashedEncoder(), read_only=True) as reader:\n"
        "    print(len(reader.search(['river'])[0]))\n"
    )
    folders = [memory / "c", *(path for path in (memory / "c").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    memory.chmod(0o755)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(memory / "c"), *sys.path],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.parametrize(
    "name", ["../outside", "{outside}", "index-1", "index-000001/../../outside"]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_name_in_a_file_never_leads_outside(
    memory: Path, encoder: HashedEncoder, name: str, read_only: bool
) -> None:
    outside = memory / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    with Collection.open(memory / "c", encoder) as writer:
        writer.add(corpus("old", range(3)))
    with sqlite3.connect(memory / "c" / "documents.sqlite") as db:
        db.execute(
            "UPDATE facts SET value = json_set(value, '$.index', ?) WHERE name = 'settings'",
            (name.format(outside=outside),),
        )
    db.close()
    with pytest.raises(StoreError):
        Collection.open(memory / "c", encoder, read_only=read_only)
    assert (outside / "precious").exists()
    assert (memory / "c" / "index-000001" / "index.json").exists()


SETTINGS: list[tuple[str, object]] = [
    *((name, value) for name in ("heads", "backend", "dtype", "index", "fingerprint")
      for value in (5, None, ["a"])),
    *(("source", value) for value in (5, ["a"])),
    *((name, value) for name in ("chunk", "overlap") for value in ("x", None, -5, 1.5)),
    *((name, "x") for name in ("heads", "backend", "dtype")),
    ("late_chunking", "no"),
    *(("multi_pool", value) for value in (0, "x", None)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTINGS)
@pytest.mark.parametrize("read_only", [False, True])
def test_settings_of_another_kind_are_refused(
    memory: Path, encoder: HashedEncoder, name: str, value: object, read_only: bool
) -> None:
    with Collection.open(memory / "c", encoder) as writer, writer._store.transaction() as store:
        store.set_fact("settings", {**asdict(writer.settings), name: value})
    with pytest.raises(StoreError, match="settings are of no known form"):
        Collection.open(memory / "c", encoder, read_only=read_only)


def test_opening_removes_only_what_an_index_left(memory: Path, encoder: HashedEncoder) -> None:
    with Collection.open(memory / "c", encoder) as writer:
        writer.add(corpus("old", range(3)))
    for name in ("index-000007", ".index-000008.x1", "index-000009", "index-old"):
        (memory / "c" / name).mkdir()
    (memory / "c" / "index-000007" / "index.json").touch()
    (memory / "c" / "index-000009" / "thesis.txt").touch()
    (memory / "outside").mkdir()
    (memory / "c" / "index-000010").symlink_to(memory / "outside")
    with Collection.open(memory / "c", encoder) as writer:
        assert len(texts(writer)) == 3
    names = {path.name for path in (memory / "c").glob("*index*")}
    assert names == {"index-000001", "index-000009", "index-000010", "index-old"}
    assert (memory / "outside").is_dir()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_fork_is_told_to_open_it_itself(
    memory: Path, encoder: HashedEncoder, read_only: bool
) -> None:
    Collection.open(memory, encoder).close()
    collection = Collection.open(memory, encoder, read_only=read_only)
    receive, send = os.pipe()
    if not (child := os.fork()):
        for call in (lambda: collection.search(["river"]), lambda: len(collection)):
            try:
                call()
            except StoreError as error:
                os.write(send, f"{error}\n".encode())
        collection.close()
        os.close(send)
        time.sleep(0.3)  # longer than its parent: it holds no lock
        os._exit(0)
    os.close(send)
    collection.close()
    Collection.open(memory, encoder).close()
    with os.fdopen(receive) as told:
        assert told.read().count("was opened in process") == 2
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_closes_what_another_thread_of_its_parent_changes(
    memory: Path, encoder: HashedEncoder
) -> None:
    with Collection.open(memory, encoder) as collection:
        held, over = threading.Event(), threading.Event()
        index: Any = collection.index

        def change() -> None:
            with collection._turn, index._turn:
                held.set()
                over.wait(20)

        thread = threading.Thread(target=change)
        thread.start()
        assert held.wait(20)
        if not (child := os.fork()):
            try:
                collection.close()
                index.close()
                os._exit(7)
            finally:
                os._exit(1)
        ended, status = 0, 0
        limit = time.monotonic() + 10
        while not ended and time.monotonic() < limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        over.set()
        thread.join()
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7


def test_bit_rot_is_found_in_texts_and_vectors(memory: Path, encoder: HashedEncoder) -> None:
    with Collection.open(memory, encoder) as writer:
        writer.add(corpus("old", range(30)))
    files = [*memory.glob("index-*/rows-*/*.bin"), memory / "documents.sqlite"]
    for file in files:
        content = file.read_bytes()
        if not content:
            continue
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 0x10
        if file.suffix == ".sqlite":
            damaged[4096:4200] = b"\xff" * 104  # a page's own structure
        file.write_bytes(damaged)
        with (
            pytest.raises(StoreError, match="damaged"),
            Collection.open(memory, encoder, read_only=True) as reader,
        ):
            reader.verify()
        file.write_bytes(content)
    with Collection.open(memory, encoder, read_only=True) as reader:
        reader.verify()


def test_the_graph_grows_while_documents_are_added(tmp_path: Path) -> None:
    options = GraphOptions(rows=8)
    with Collection.open(tmp_path / "c", HashedEncoder(), graph=options) as collection:
        collection.batch = BatchSize(documents=10)
        collection.add(Document(f"d{number}", f"river {number}") for number in range(60))
    [graph] = (tmp_path / "c").glob("**/graph-*")
    assert graph.name > "graph-000002"
