"""Rows on disk: what a crash, a full disk, a second opener or a damaged file does to them."""

import errno
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tercet.errors import StoreError
from tercet.index import Index, IndexSpec, open_index
from tercet.index.store import RowStore, dequantize, quantize
from tests.conftest import Disk

from .conftest import create, killed, make_embeddings

Make = Callable[..., Index]

ROWS = make_embeddings(60, seed=1)
QUERIES = make_embeddings(4, seed=5)


@pytest.fixture(scope="module", params=["exact", "graph"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_came_after_the_last_flush_is_lost_and_nothing_else(
    make: Make, tmp_path: Path
) -> None:
    index = make()
    index.add(range(40), ROWS[:40])
    index.delete(range(5))
    index.flush()
    before = index.search(QUERIES, k=40)
    index.add(range(30, 50), ROWS[40:])  # replaces ten, adds ten
    index.delete(range(5, 10))
    left = killed(index, tmp_path / "left")
    with open_index(left) as again:
        assert again.ids().tolist() == list(range(5, 40))
        assert again.search(QUERIES, k=40) == before
        again.add(range(100, 120), ROWS[40:])  # its serials were used by the lost ones
        assert len(again) == 55
        after = again.search(QUERIES, k=55, candidates=55)
        assert after == again.search(QUERIES, k=55, candidates=None)


def test_what_was_never_flushed_and_a_half_done_compaction_are_cleared_away(
    make: Make, tmp_path: Path
) -> None:
    index = make()
    index.add(range(60), ROWS)
    with open_index(killed(index, tmp_path / "empty")) as again:
        assert again.search(QUERIES) == [[]] * 4
    index.flush()
    left = killed(index, tmp_path / "left")
    (left / "rows-000002").mkdir()
    (left / "rows-000002" / "ids.bin").write_bytes(b"half")
    with open_index(left) as again:
        assert len(again) == 60
    assert not (left / "rows-000002").exists()


def test_compaction_gives_the_bytes_back_and_keeps_every_row(make: Make) -> None:
    index = make()
    payloads = [{"n": n} for n in range(60)]
    index.add(range(60), ROWS, payloads)
    index.flush()
    whole = index.sizes()["multi"]
    index.delete([*range(0, 60, 3), 1, 2])
    expected = index.search(QUERIES, k=60, candidates=None)
    (index.path / "rows-000002").mkdir()  # as one that found the disk full leaves it
    (index.path / "rows-000002" / "ids.bin").write_bytes(b"12345678")
    index.optimize()
    assert index.sizes()["multi"] < 0.8 * whole
    assert index.search(QUERIES, k=60, candidates=None) == expected
    assert index.search(QUERIES, k=60, candidates=60) == expected
    assert [h.id for h in index.search(QUERIES[:1], filter={"n": 59})[0]] == [59]
    path = index.path
    index.close()
    with open_index(path) as again:
        assert again.search(QUERIES, k=60, candidates=60) == expected


def test_every_name_is_on_the_disk(make: Make, disk: Disk) -> None:
    index = make()
    disk.check()  # of the folder
    for step in (lambda: index.add(range(60), ROWS), lambda: index.delete(range(30))):
        step()
        disk.events.clear()
        index.flush()
        rows = index.path / "rows-000001"
        manifest = disk.events.index(("name", index.path / "manifest.json"))
        assert {path for kind, path in disk.events[:manifest]} >= set(rows.iterdir())
        disk.check()
    disk.events.clear()
    index.optimize()  # copies the living rows
    manifest = disk.events.index(("name", index.path / "manifest.json"))
    copies = index.path / "rows-000002"
    synced = {path for kind, path in disk.events[:manifest]}
    assert synced >= {index.path, copies, *copies.iterdir()}
    disk.check()


def test_a_second_opener_is_told_who_has_it(make: Make) -> None:
    index = make()
    with pytest.raises(StoreError, match=rf"open in process {os.getpid()} \(this one\)"):
        open_index(index.path)
    index.close()
    open_index(index.path).close()


def test_a_full_disk_and_one_without_locks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make()
    index.close()

    def failing(number: int) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC))
        open_index(index.path).close()
    with monkeypatch.context() as patch:
        patch.setattr("tercet.index.store._lock", failing(errno.ENOLCK))
        with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
            open_index(index.path)
    open_index(index.path).close()


def test_every_damaged_file_of_the_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with create(path, dtype="int8") as index:
        index.add(range(60), ROWS, [{"n": 1}] * 60)
        index.delete([7, 8])
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lock"]
    assert len(files) == 15
    for file in files:
        kept = file.read_bytes()
        assert kept
        for damage in (kept[: len(kept) // 2], b""):
            file.write_bytes(damage)
            with pytest.raises(StoreError, match=file.name) as caught:
                open_index(path)
            assert "rebuild" in str(caught.value)
        file.unlink()
        with pytest.raises(StoreError, match=file.name):
            open_index(path)
        file.write_bytes(kept)
    with open_index(path) as again:
        assert len(again) == 58


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b"{}"),
        ("index.json", b'{"format": 1, "heads": ["dense"], "color": "red"}'),
        ("index.json", b"\xff\xfe\x00"),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"format": 2}'),
        ("manifest.json", b'{"format": 1, "generation": 1, "next_serial": 0, "bytes": {}}'),
        ("rows-000001/serials.bin", np.zeros(60, "<u8").tobytes()),
        ("rows-000001/multi_ends.bin", np.arange(60, 0, -1, dtype="<i8").tobytes()),
        ("rows-000001/term_ends.bin", np.full(60, 10**6, dtype="<i8").tobytes()),
        # what is found when it is read: a float16 that is no number, infinity, a term, JSON
        ("rows-000001/dense.bin", b"\x00\x7e"),
        ("rows-000001/multi.bin", b"\x00\x7c"),
        ("rows-000001/terms.bin", b"\xff\xff\xff\x7f"),
        ("rows-000001/payloads.jsonl", b"["),
        ("rows-000001/payloads.jsonl", b"[" * 4000),
    ],
)
def test_nonsense_in_a_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / "index"
    with create(path) as index:
        index.add(range(60), ROWS, [{"n": 1, "long": "x" * 4000}] * 60)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(content + (whole[len(content) :] if "rows" in name else b""))
    with pytest.raises(StoreError, match="rebuild the index"), open_index(path) as index:
        index.search(QUERIES, filter={"n": 1})


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_costs_nothing_but_the_batch(make: Make) -> None:
    index = make()
    index.add(range(30), ROWS[:30])
    index.flush()
    before = index.search(QUERIES, candidates=None)
    size = (index.path / "rows-000001" / "multi.bin").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot write .* was not stored"):
            index.add(range(20, 60), ROWS[:40])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert index.search(QUERIES, candidates=None) == before
    assert index.search(QUERIES) == before
    index.add(range(30, 60), ROWS[30:])
    path = index.path
    index.close()
    with open_index(path) as again:
        assert len(again) == 60
        assert again.search(QUERIES, candidates=60) == again.search(QUERIES, candidates=None)


def test_creating_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, spec: IndexSpec) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "create", full)
        with pytest.raises(StoreError, match="No space left"):
            create(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    for path, words in ((tmp_path / "index", "no such folder"), (tmp_path, "json is missing")):
        with pytest.raises(StoreError, match=words):
            open_index(path)
    create(tmp_path / "index").close()
    with pytest.raises(StoreError):
        create(tmp_path / "index")


def test_threads_may_search_and_add_at_once(make: Make) -> None:
    index = make()
    index.add(range(60), ROWS)
    expected = index.search(QUERIES, candidates=None)
    seen: list[bool] = []

    def search() -> None:
        for _ in range(5):
            hits = index.search(QUERIES, candidates=200, filter={"n": 0})
            seen.append(all(hit.id >= 1000 for row in hits for hit in row))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for part in range(4):
        index.add(range(1000 + 10 * part, 1010 + 10 * part), ROWS[:10], [{"n": 0}] * 10)
    for thread in threads:
        thread.join()
    assert seen == [True] * 15
    index.delete(range(1000, 1040))
    assert index.search(QUERIES, candidates=None) == expected


def test_int8_codes_are_within_half_a_step() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((50, 33)).astype(np.float32)
    matrix[7] = 0
    codes, scales = quantize(matrix)
    step = np.abs(matrix).max(axis=1) / 127
    error = np.abs(dequantize(codes, scales) - matrix).max(axis=1)
    assert (error <= 0.51 * step + 1e-7).all()
    assert codes.min() >= -127
