"""Graphs over the rows of an index, and readers beside its writer."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.config import HEADS, MODES, Head
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index import Index, base, open_index
from tercet.index.contract import LEGS
from tercet.index.store import Manifest
from tercet.scores import dense_scores
from tercet.sparse import SparseRows

from .conftest import MODEL, SMALL, create, make_embeddings

QUERIES = make_embeddings(5, seed=5)


def graphed(path: Path, **how: Any) -> Index:
    return create(path, "graph", **how)


def reader(path: Path) -> Index:
    return open_index(path, read_only=True, options=SMALL)


def exhaustive(index: Index, **how: Any) -> Any:
    return index.search(QUERIES, k=20, candidates=None, **how)


def full(index: Index, **how: Any) -> Any:
    return index.search(QUERIES, k=20, candidates=10_000, **how)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("tail", [0, 30])
def test_the_graph_serves_candidates_and_never_scores(
    tmp_path: Path, dtype: Any, tail: int
) -> None:
    rows = make_embeddings(1500, seed=2)
    with graphed(tmp_path / "index", dtype=dtype) as index:
        payloads = [{"tenth": n % 10, "part": n % 200} for n in range(1500)]
        index.add(range(1500 - tail), rows[: 1500 - tail], payloads[: 1500 - tail])
        index.optimize()
        assert (index.path / "graph-000001").is_dir()
        index.add(range(1500 - tail, 1500), rows[1500 - tail :], payloads[1500 - tail :])
        index.delete(range(0, 1500, 20))
        for filter in (None, {"tenth": 3}, {"part": [3, 4, 5, 6, 7, 8, 9]}):
            best = index.search(QUERIES, candidates=None, filter=filter)
            found = index.search(QUERIES, candidates=100, filter=filter)
            true = {(q, h.id): h for q, hits in enumerate(best) for h in hits}
            same = [(q, h) for q, hits in enumerate(found) for h in hits if (q, h.id) in true]
            assert len(same) >= 0.9 * len(true)
            for q, hit in same:  # the graph's own scores would be off by 1e-3 and more
                for part in ("dense", "sparse", "multi", "score"):
                    wanted = getattr(true[q, hit.id], part)
                    assert getattr(hit, part) == pytest.approx(wanted, abs=2e-6)
            for key, values in (filter or {}).items():
                allowed = {n for n in range(1500) if payloads[n][key] in np.atleast_1d(values)}
                assert {h.id for hits in found for h in hits} <= allowed
            assert not any(h.id % 20 == 0 for hits in found for h in hits)


def test_the_graph_finds_what_brute_force_finds(tmp_path: Path) -> None:
    """Of vectors without order, where a graph is at its worst, ef 2 finds 86% and ef 1 69%."""
    rng, size, k = np.random.default_rng(0), 48, 10

    def rows(count: int) -> Embeddings:
        dense = rng.standard_normal((count, size)).astype(np.float32)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        return Embeddings(dense=dense, fingerprint=MODEL)

    with graphed(tmp_path / "index", heads=("dense",), dense=size) as index:
        passages, queries = rows(3000), rows(60)
        index.add(range(3000), passages)
        index.optimize()
        best = np.argsort(-dense_scores(queries, passages), axis=1)[:, :k]
        found = index.search(queries, k=k, mode="dense", candidates=k)
        shared = [
            len({hit.id for hit in hits} & set(row.tolist()))
            for hits, row in zip(found, best, strict=True)
        ]
        assert 0.78 < np.mean(shared) / k < 0.999  # below 1: it was the graph


def test_sparse_candidates_are_exact(tmp_path: Path) -> None:
    rows = make_embeddings(600, seed=3, empty_sparse=(4, 5))
    with graphed(tmp_path / "index", heads=("dense", "sparse")) as index:
        index.add(range(600), rows)
        index.optimize()
        index.delete(range(0, 600, 7))
        for k in (1, 10):
            best = index.search(QUERIES, k=k, mode="sparse", candidates=None)
            assert index.search(QUERIES, k=k, mode="sparse", candidates=k) == best


def test_a_graph_grows_and_is_made_anew_when_worn(tmp_path: Path) -> None:
    rows = make_embeddings(400, seed=4)
    with graphed(tmp_path / "index") as index:
        index.add(range(200), rows[:200])
        index.optimize()
        index.add(range(200, 215), rows[200:215])
        index.optimize()  # so few are scored one by one
        assert [p.name for p in index.path.glob("graph-*")] == ["graph-000001"]
        index.add(range(215, 400), rows[215:])
        done: list[tuple[int, int]] = []
        index.optimize(progress=lambda *given: done.append(given))
        assert done == [(200, 200)]  # the others are taken over
        assert [p.name for p in index.path.glob("graph-*")] == ["graph-000002"]
        assert full(index) == exhaustive(index)
        index.delete(range(150))  # which compacts, and wears the graph
        index.optimize()
        assert [p.name for p in index.path.glob("graph-*")] == ["graph-000003"]
        assert full(index) == exhaustive(index)
        index.delete(range(380))
        index.optimize()
        assert not list(index.path.glob("graph-*"))
        assert full(index) == exhaustive(index)


@pytest.mark.parametrize("heads", [("dense",), ("sparse",), HEADS])
def test_a_graph_grows_over_rows_that_are_gone(tmp_path: Path, heads: tuple[Head, ...]) -> None:
    rows = make_embeddings(900, seed=4)
    with graphed(tmp_path / "index", heads=heads) as index:
        for start, few in ((0, 0), (300, 5), (600, 50)):  # the 50 are compacted
            index.delete(range(few))
            index.add(range(250, 250 + few), rows[:few])  # in place of others
            index.add(range(start, start + 300), rows[start : start + 300])
            index.optimize()
            with reader(index.path) as beside:
                for mode in (*heads, "hybrid"):
                    assert full(beside, mode=mode) == exhaustive(index, mode=mode)
                for leg in set(LEGS["hybrid"]) & set(heads):
                    best = beside.search(QUERIES, k=10, candidates=None, mode=leg)
                    found = beside.search(QUERIES, k=10, candidates=10, mode=leg)
                    pairs = zip(found, best, strict=True)
                    same = [len({h.id for h in a} & {h.id for h in b}) for a, b in pairs]
                    assert sum(same) > 0.6 * 10 * len(QUERIES)
        assert [p.name for p in index.path.glob("graph-*")] == ["graph-000003"]


# Readers beside a writer


def test_a_reader_sees_the_last_flush_and_holds_nobody_up(tmp_path: Path) -> None:
    rows = make_embeddings(400, seed=6)
    with graphed(tmp_path / "index") as writer:
        writer.add(range(200), rows[:200], [{"even": n % 2 == 0} for n in range(200)])
        writer.flush()
        with reader(writer.path) as one, reader(writer.path) as other:
            before = full(one)
            assert before == full(other) == full(writer)
            writer.add(range(200, 400), rows[200:], [{"even": n % 2 == 0} for n in range(200, 400)])
            writer.delete(range(50))
            assert full(one) == before
            assert len(one) == 200
            writer.optimize()  # compacts, and makes a graph
            assert (writer.path / "rows-000002").is_dir()
            assert len(one) == len(other) == 350
            assert full(one) == full(other) == full(writer) != before
            assert full(one, filter={"even": True}) == exhaustive(writer, filter={"even": True})
            writer.delete([399])
            writer.add([60], rows[[399]])
            writer.flush()
            assert full(one) == exhaustive(writer)
            assert full(one, filter={"even": True}) == exhaustive(writer, filter={"even": True})
            for call in (lambda: one.add([1], rows[[0]]), one.optimize, lambda: one.delete([1])):
                with pytest.raises(StoreError, match="for reading alone"):
                    call()


def test_a_reader_that_meets_a_compaction_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with graphed(tmp_path / "index") as writer:
        writer.add(range(80), make_embeddings(80))
        writer.flush()
        real, seen = Manifest.read, []

        def read(*given: Any) -> Manifest:
            seen.append(real(*given))
            if len(seen) == 1:
                writer.delete(range(30))
                writer.optimize()
            return seen[-1]

        monkeypatch.setattr(Manifest, "read", staticmethod(read))
        with reader(writer.path) as index:
            assert full(index) == full(writer)


def test_reading_writes_nothing(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as writer:
        writer.add(range(200), make_embeddings(200))
        writer.optimize()
        expected = full(writer)
    files = [p for p in writer.path.rglob("*") if p.is_file()]
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    (writer.path / "lock").unlink()
    with reader(writer.path) as index:
        assert full(index) == expected
        index.verify()
    (writer.path / "lock").touch()
    for path, (changed, content) in before.items():
        if path.name != "lock":
            assert (path.stat().st_mtime_ns, path.read_bytes()) == (changed, content)
    assert {p for p in writer.path.rglob("*") if p.is_file()} == set(before)


def test_threads_search_while_rows_come_and_go(tmp_path: Path) -> None:
    """What a reader gives is the state of some flush: row n and row n + 1000 come together."""
    rows = make_embeddings(300, seed=7)
    failed: list[Exception] = []
    done = threading.Event()
    with graphed(tmp_path / "index") as writer, reader(writer.path) as index:

        def read() -> None:
            try:
                while not done.is_set():
                    for hits in index.search(QUERIES, k=50, candidates=None):
                        ids = {hit.id % 1000 for hit in hits}
                        assert len(hits) in (2 * len(ids), 0)
            except Exception as error:  # noqa: BLE001 - any is a failure here
                failed.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(12):
            ids = list(range(turn * 20, turn * 20 + 20))
            same = rows[[id for id in ids for _ in range(2)]]
            writer.add([id + shift for id in ids for shift in (0, 1000)], same)
            writer.flush()
            if turn % 3 == 2:
                gone = ids[:15]
                writer.delete(gone + [id + 1000 for id in gone])
                writer.optimize()
        done.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[0]


@pytest.mark.parametrize("look_up", [0, 64])
def test_postings_that_are_left_out_lose_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_up: int
) -> None:
    """Common words of little weight beside rare ones: MaxScore skips the former's postings."""
    monkeypatch.setattr("tercet.index.graph.ROWS_AT_ONCE", 250)
    monkeypatch.setattr("tercet.index.graph.LOOK_UP", look_up)
    rng = np.random.default_rng(8)
    ranks = [np.unique((300 ** rng.random(40)).astype(int)) - 1 for _ in range(3000)]
    sizes = np.cumsum([0, *map(len, ranks)])
    terms = np.concatenate(ranks)
    # rounded, so that many rows are equal
    weights = np.round(np.log1p(terms) * rng.uniform(0.05, 0.2, len(terms)), 2) + 0.01
    rows = Embeddings(
        sparse=SparseRows(weights.astype(np.float32), terms.astype(np.int32), sizes, (3000, 300)),
        fingerprint=MODEL,
    )
    with create(tmp_path / "index", "graph", heads=("sparse",), vocabulary=300) as index:
        index.add(range(3000), rows, [{"odd": n % 2} for n in range(3000)])
        index.optimize()
        index.delete(range(0, 3000, 50))
        for filter in ({}, {"odd": 1}):
            for k in (1, 10, 100):
                how: dict[str, Any] = {"k": k, "mode": "sparse", "filter": filter}
                best = index.search(rows[:20], candidates=None, **how)
                assert index.search(rows[:20], candidates=k, **how) == best


@pytest.mark.parametrize("step", ["open", "search", "verify"])
def test_a_graph_may_be_replaced_while_a_reader_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    rows = make_embeddings(100, seed=8)
    with graphed(tmp_path / "index") as writer:
        writer.add(range(30), rows[:30])
        writer.optimize()
        index = reader(writer.path)
        if step != "verify":
            writer.add(range(30, 60), rows[30:60])
            writer.optimize()
        turns = iter([True])

        def meanwhile(real: Any) -> Any:
            def call(*arguments: Any) -> Any:
                if next(turns, False):
                    writer.add(range(60, 100), rows[60:])
                    writer.optimize()
                return real(*arguments)

            return call

        name = "verify_graph" if step == "verify" else "Graph"
        monkeypatch.setattr(base, name, meanwhile(getattr(base, name)))
        if step == "verify":
            index.verify()
        opened = reader(writer.path) if step == "open" else index
        assert full(opened) == full(writer)
        assert len(opened) == len(writer)


def test_a_reader_of_a_removed_index_goes_on_and_of_a_damaged_one_says_so_again(
    tmp_path: Path,
) -> None:
    with graphed(tmp_path / "index") as writer:
        writer.add(range(60), make_embeddings(60))
        writer.optimize()
        index = reader(writer.path)
        expected, sizes = full(index), index.sizes()
        manifest = writer.path / "manifest.json"
        content = manifest.read_bytes()
        manifest.write_text("{")
        for _ in range(2):
            with pytest.raises(StoreError, match="damaged"):
                full(index)
        manifest.write_bytes(content)
        assert full(index) == expected
    shutil.rmtree(writer.path)
    assert (full(index), index.sizes()) == (expected, sizes)


def test_threads_that_search_first_share_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> object:
        time.sleep(0.05)
        return object()

    monkeypatch.setattr(base, "_started", cache(start))
    with ThreadPoolExecutor(4) as threads:
        workers = list(threads.map(lambda _: base._workers(), range(4)))
    assert len(set(workers)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_fork_is_told_to_open_it_itself(tmp_path: Path, read_only: bool) -> None:
    create(tmp_path / "index", "graph").close()
    index = open_index(tmp_path / "index", read_only=read_only)
    receive, send = os.pipe()
    if not (child := os.fork()):
        signal.alarm(60)  # a child that waits for ever
        try:
            index.search(QUERIES)
        except StoreError as error:
            os.write(send, str(error).encode())
        os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    assert b"was opened in process" in os.read(receive, 1000)
    os.close(receive)
    index.close()
    open_index(tmp_path / "index").close()


# What is damaged, and what is not ours


def check_again(graph: Path) -> None:
    """Makes the checksums those of the files."""
    files = [path for path in graph.iterdir() if path.name != "checksums.json"]
    listed = {path.name: zlib.crc32(path.read_bytes()) for path in files}
    (graph / "checksums.json").write_text(json.dumps(listed))


def test_a_damaged_graph_is_seen_and_made_again(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(200), make_embeddings(200))
        index.optimize()
        expected = full(index)
    for name in ("dense.usearch", "rows.npy", "starts.npy", "checksums.json"):
        file = next(index.path.glob(f"graph-*/{name}"))
        content = bytearray(file.read_bytes())
        content[-9] ^= 64
        file.write_bytes(content)
        with pytest.raises(StoreError, match=r"graph-\d+ is damaged"):
            reader(index.path)
        with open_index(index.path, options=SMALL) as again:
            assert full(again) == expected
            again.verify()
            with reader(index.path) as beside:
                assert full(beside) == expected
    next(index.path.glob("graph-*/rows.npy")).unlink()
    with open_index(index.path, options=SMALL) as again:
        assert full(again) == expected


def test_a_damaged_graph_of_rows_that_need_none_any_more_is_left_out(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(24), make_embeddings(24))
        index.optimize()
        index.delete(range(5))
        index.optimize()
        expected = full(index)
    next(index.path.glob("graph-*/rows.npy")).unlink()
    with open_index(index.path, options=SMALL) as again:
        again.verify()
        with reader(index.path) as beside:
            assert full(beside) == full(again) == expected


@pytest.mark.parametrize("damaged", [False, True])
def test_a_graph_that_cannot_be_written_leaves_the_index_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    with graphed(tmp_path / "index") as index:
        index.add(range(200), make_embeddings(200))
        index.optimize()
        if damaged:
            index.close()
            next(index.path.glob("graph-*/rows.npy")).unlink()
        with (
            monkeypatch.context() as patch,
            pytest.raises(StoreError, match="cannot write a graph"),
        ):
            patch.setattr(base, "build_graph", full_disk)
            if damaged:
                open_index(index.path, options=SMALL)
            index.delete(range(150))
            index.optimize()
        if not damaged:
            assert full(index) == exhaustive(index)
            assert len(index) == 50
    with open_index(index.path, options=SMALL) as again:  # nobody has it open
        assert full(again) == exhaustive(again)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        *((f"{name}.npy", place, value) for name in ("starts", "serials")
          for place, value in ((1, 10**9), (2, 2**62), (0, 7))),
        ("serials.npy", None, 0),
        ("starts.npy", -1, 10**12),
        ("starts.npy", 1, -5),
        ("rows.npy", slice(None), 2**31 - 1),
        ("rows.npy", slice(None), -1),
    ],
)  # fmt: skip
def test_arrays_that_lie_are_refused_whatever_their_checksums(
    tmp_path: Path, name: str, place: Any, value: int
) -> None:
    heads = ("sparse",) if place is None else ("dense", "sparse", "multi")
    with graphed(tmp_path / "index", heads=heads) as index:
        index.add(range(80), make_embeddings(80))
        index.optimize()
    (graph,) = index.path.glob("graph-*")
    values = np.load(graph / name)
    if place is None:
        values = values[:0]
    else:
        values[place] = value
    np.save(graph / name, values)
    check_again(graph)
    with pytest.raises(StoreError, match="damaged"), reader(index.path) as opened:
        opened.search(make_embeddings(3), k=5)


@pytest.mark.parametrize("name", ["serials.npy", "starts.npy", "rows.npy", "weights.npy"])
@pytest.mark.parametrize("kind", ["float16", "two dimensions"])
def test_arrays_of_another_kind_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(80), make_embeddings(80))
        index.optimize()
    (graph,) = index.path.glob("graph-*")
    values = np.load(graph / name)
    np.save(graph / name, values[:, None] if kind != "float16" else values.astype(np.float16))
    check_again(graph)
    with pytest.raises(StoreError, match=r"\.npy is .* dimensions"):
        reader(index.path)


@pytest.mark.parametrize(
    ("size", "first", "count"),
    [(8, 0, 80), (16, 0, 60), (16, 80, 80)],
    ids=["of another size", "of fewer rows", "of other rows"],
)
def test_another_graph_is_refused(tmp_path: Path, size: int, first: int, count: int) -> None:
    graphs: list[Path] = []
    for name, columns, gone, stay in (("index", 16, 0, 80), ("other", size, first, count)):
        with graphed(tmp_path / name, heads=("dense",), dense=columns) as index:
            rows = make_embeddings(gone + stay)
            assert rows.dense is not None
            index.add(range(gone + stay), replace(rows, dense=rows.dense[:, :columns]))
            index.delete(range(gone))
            index.optimize()
        graphs += index.path.glob("graph-*")
    shutil.copy(graphs[1] / "dense.usearch", graphs[0])
    check_again(graphs[0])
    with pytest.raises(StoreError, match="damaged"), reader(tmp_path / "index") as opened:
        opened.search(QUERIES, k=5, mode="dense", candidates=5)
    (graphs[0] / "dense.usearch").write_bytes(bytes(1000))
    check_again(graphs[0])
    with pytest.raises(StoreError, match="damaged"):
        reader(tmp_path / "index")


@pytest.mark.parametrize("name", ["dense.usearch", "serials.npy"])
def test_a_pipe_among_the_files_of_a_graph_is_refused(tmp_path: Path, name: str) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(80), make_embeddings(80))
        index.optimize()
    (graph,) = index.path.glob("graph-*")
    (graph / name).unlink()
    os.mkfifo(graph / name)
    listed = json.loads((graph / "checksums.json").read_text())
    del listed[name]
    (graph / "checksums.json").write_text(json.dumps(listed))
    with pytest.raises(StoreError, match=r"not a regular file|damaged"):
        reader(index.path)


@pytest.mark.parametrize("name", ["../../outside", "/dev/zero", "..", "pipe"])
def test_checksums_are_of_own_files_alone(tmp_path: Path, name: str) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(80), make_embeddings(80))
        index.optimize()
    (graph,) = index.path.glob("graph-*")
    os.mkfifo(graph / "pipe")
    (tmp_path / "outside").touch()  # whose checksum is 0
    listed = json.loads((graph / "checksums.json").read_text())
    (graph / "checksums.json").write_text(json.dumps({name: 0, **listed}))
    with pytest.raises(StoreError, match="damaged"):
        reader(index.path)


def test_bit_rot_is_seen_in_every_file(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(80), make_embeddings(80), [{"n": n} for n in range(80)])
        index.delete([3])
        index.optimize()
        index.verify()
        files = [*index.path.glob("rows-*/*"), *index.path.glob("graph-*/*")]
        assert len(files) > 12
        for file in files:
            content = file.read_bytes()
            middle = len(content) // 2
            if not content:
                continue
            file.write_bytes(
                content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            )
            with pytest.raises(StoreError, match="damaged"):
                index.verify()
            file.write_bytes(content)
        index.verify()


def test_a_writer_removes_only_what_an_index_made(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(80), make_embeddings(80))
        index.optimize()
    own = ["rows-000009", "graph-000007", ".graph-000008.x1"]
    foreign = ["rows-mine", "graph", "notes", "rows-0000001"]
    for name in own + foreign:
        (index.path / name).mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (index.path / "rows-000005").symlink_to(outside)
    with open_index(index.path, options=SMALL):
        names = {path.name for path in index.path.iterdir()}
    assert not names & set(own)
    assert names >= {*foreign, "rows-000005", "rows-000001", "graph-000001"}
    manifest = json.loads((index.path / "manifest.json").read_text())
    for graph in ("../outside", str(outside), "graph-000001/../../outside"):
        (index.path / "manifest.json").write_text(json.dumps({**manifest, "graph": graph}))
        for read_only in (False, True):
            with pytest.raises(StoreError, match="damaged"):
                open_index(index.path, read_only=read_only)
    assert outside.is_dir()


def test_an_index_of_0_1_is_read_and_gets_what_it_lacks(tmp_path: Path) -> None:
    with create(tmp_path / "index", "exact") as index:
        index.add(range(80), make_embeddings(80))
        index.flush()
        expected = full(index)
    for name, gone in (("index.json", ()), ("manifest.json", ("crc", "graph"))):
        facts = json.loads((index.path / name).read_text())
        facts = {key: value for key, value in facts.items() if key not in gone}
        facts |= {"backend": "edge"} if "backend" in facts else {}
        (index.path / name).write_text(json.dumps(facts))
    (index.path / "engine").mkdir()
    with open_index(index.path, read_only=True) as old:
        assert old.spec.backend == "graph"
        assert full(old) == expected
    with open_index(index.path, options=SMALL) as old:
        old.optimize()
        assert full(old) == expected
        shutil.rmtree(old.path / "engine")
        old.verify()
        assert json.loads((old.path / "manifest.json").read_text())["crc"]


def test_a_graph_without_the_highest_weights_is_searched(tmp_path: Path) -> None:
    with graphed(tmp_path / "index") as index:
        index.add(range(400), make_embeddings(400, seed=4))
        index.optimize()
        folder = index.path / "graph-000001"
    (folder / "peaks.npy").unlink()
    sums = json.loads((folder / "checksums.json").read_text())
    del sums["peaks.npy"]
    (folder / "checksums.json").write_text(json.dumps(sums))
    with reader(index.path) as opened:
        for k in (1, 5, 20):
            best = opened.search(QUERIES, k=k, mode="sparse", candidates=None)
            assert opened.search(QUERIES, k=k, mode="sparse", candidates=k) == best
        assert best[0]


def test_a_graph_and_onnx_runtime_are_loaded_in_one_process() -> None:
    code = "from tercet.index import graph; graph._hnsw(); import onnxruntime"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


# Without usearch


@pytest.mark.parametrize("made", [True, False], ids=["made with it", "made without it"])
def test_an_index_is_searched_without_usearch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    """The same hits by an exact scan; a graph that is there stays, one that lacks is made later."""
    rows = make_embeddings(400)
    how: dict[str, Any] = {"k": 10, "candidates": 20}
    monkeypatch.setattr("tercet.index.graph.HNSW", made)
    with graphed(tmp_path / "index") as index:
        index.add(range(400), rows)
        index.optimize()
    folders = list(index.path.glob("graph-*"))
    assert (folders[0] / "dense.usearch").exists() == made
    monkeypatch.setattr("tercet.index.graph.HNSW", False)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    monkeypatch.setattr("tercet.index.graph.ADVISED", 399)
    with create(tmp_path / "exact", "exact") as exact:
        exact.add(range(400), rows)
        for open_as in (reader, open_index):
            with open_as(tmp_path / "index") as index:
                assert "tercet[hnsw]" in index.advice
                index.verify()
                for mode in MODES:
                    best = exact.search(QUERIES, mode=mode, **how)
                    assert index.search(QUERIES, mode=mode, **how) == best
    assert list(index.path.glob("graph-*")) == folders
    monkeypatch.undo()
    with open_index(tmp_path / "index", options=SMALL) as index:
        index.optimize()
        assert not index.advice
        [folder] = index.path.glob("graph-*")
        assert (folder / "dense.usearch").exists()
        assert (folder == folders[0]) == made
