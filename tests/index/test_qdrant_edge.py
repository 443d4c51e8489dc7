"""The traps of the embedded engine, each sprung: what the contract suite cannot see."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge

from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index import Index, open_index
from tercet.index.qdrant_edge import EngineOptions, QdrantEdgeIndex
from tercet.scores import dense_scores
from tests.conftest import Disk

from .conftest import MODEL, create, killed, make_embeddings

ROWS = make_embeddings(60, seed=1, empty_sparse=(4,))
QUERIES = make_embeddings(5, seed=5)


@pytest.fixture
def index(tmp_path: Path) -> Any:
    with create(tmp_path / "index", "edge") as index:
        yield index


def exhaustive(index: Index, **how: Any) -> Any:
    return index.search(QUERIES, k=20, candidates=None, **how)


def full(index: Index, **how: Any) -> Any:
    return index.search(QUERIES, k=20, candidates=10_000, **how)


def graphed(path: Path, **how: Any) -> QdrantEdgeIndex:
    """An index that builds a graph even for few rows."""
    with create(path, "edge", **how) as index:
        spec = index.spec
    (path / "engine-made").unlink()
    return QdrantEdgeIndex(path, spec, EngineOptions(full_scan_kb=1))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_graph_serves_candidates_and_never_scores(tmp_path: Path, dtype: Any) -> None:
    rows = make_embeddings(1500, seed=2)
    with graphed(tmp_path / "index", dtype=dtype) as index:
        index.add(range(1500), rows, [{"tenth": n % 10} for n in range(1500)])
        index.optimize()
        graphs = list(index.path.glob("engine/segments/*/vector_index-dense/graph.bin"))
        assert graphs, "no graph was built: this test would see nothing"
        for filter in (None, {"tenth": 3}):
            best = index.search(QUERIES, candidates=None, filter=filter)
            found = index.search(QUERIES, candidates=100, filter=filter)
            true = {(q, h.id): h for q, hits in enumerate(best) for h in hits}
            same = [(q, h) for q, hits in enumerate(found) for h in hits if (q, h.id) in true]
            assert len(same) >= 0.9 * len(true)
            for q, hit in same:  # the engine's own scores would be off by 1e-3 and more
                for part in ("dense", "sparse", "multi", "score"):
                    wanted = getattr(true[q, hit.id], part)
                    assert getattr(hit, part) == pytest.approx(wanted, abs=2e-6)
            if filter:
                assert {h.id % 10 for hits in found for h in hits} == {3}


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
        assert np.mean(shared) / k > 0.78


def test_multi_vectors_beyond_the_engines_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [8191, 3]
    multi = rng.standard_normal((sum(sizes), 160)).astype(np.float32)
    multi /= np.linalg.norm(multi, axis=1, keepdims=True)
    assert sizes[0] * 160 > 1_048_576
    rows = Embeddings(
        dense=np.eye(2, 4, dtype=np.float32),
        multi=multi.astype(np.float16),
        offsets=np.array([0, sizes[0], sum(sizes)]),
        fingerprint=MODEL,
    )
    sizes_of = {"heads": ("dense", "multi"), "dense": 4, "multi": 160}
    with create(tmp_path / "index", "edge", **sizes_of) as index:
        index.add([1, 2], rows)
        hit = index.search(rows[[0]], k=1)[0][0]
        assert hit.id == 1
        assert hit.multi == pytest.approx(1.0, abs=2e-3)


def test_a_refused_batch_leaves_nothing_behind(index: Any, tmp_path: Path) -> None:
    index._options = EngineOptions(points=10)
    index.add(range(30), ROWS[:30])
    index.flush()
    before = exhaustive(index)
    real, calls = index._shard.update, []

    class Failing:
        def update(self, operation: Any) -> None:
            calls.append(operation)
            if len(calls) == 2:
                raise Exception("disk on fire")  # the engine raises nothing better
            real(operation)

        def __getattr__(self, name: str) -> Any:
            return getattr(shard, name)

    shard = index._shard
    index._shard = Failing()
    with pytest.raises(StoreError, match="disk on fire"):
        index.add(range(20, 50), ROWS[30:])
    index._shard = shard
    assert len(calls) == 2
    assert index._count() == 40, "the engine kept half of the batch, as it does"
    assert index.ids().tolist() == list(range(30))
    assert exhaustive(index) == full(index) == before
    with open_index(killed(index, tmp_path / "left")) as again:
        assert again._count() == 30  # type: ignore[attr-defined]
        assert exhaustive(again) == full(again) == before
    index.optimize()
    assert index._count() == 30
    index.add(range(30, 60), ROWS[30:])
    assert full(index) == exhaustive(index)
    assert len(index) == 60


def test_a_lost_engine_is_made_anew(index: Any) -> None:
    index.add(range(60), ROWS, [{"n": n} for n in range(60)])
    index.delete([5])
    expected = exhaustive(index)
    path = index.path
    index.close()
    shutil.rmtree(path / "engine")
    with open_index(path) as again:
        assert full(again) == expected
        assert full(again, filter={"n": [3, 4]}) == exhaustive(again, filter={"n": [3, 4]})
    (path / "engine-made").unlink()  # as if making it had been cut off
    (path / "engine" / "edge_config.json").unlink()
    with open_index(path) as again:
        assert full(again) == expected


def test_an_engine_that_is_behind_or_ahead_is_made_good(index: Any, tmp_path: Path) -> None:
    index.add(range(20), ROWS[:20])
    index.flush()
    early = killed(index, tmp_path / "early")
    index.delete(range(10))
    index.add(range(20, 60), ROWS[20:])
    index.flush()
    late = killed(index, tmp_path / "late")
    expected: dict[Path, Any] = {}
    for folder in (early, late):
        with open_index(folder) as whole:
            expected[folder] = exhaustive(whole)
    for rows, engine in ((early, late), (late, early)):
        mixed = tmp_path / f"rows-of-{rows.name}"
        shutil.copytree(rows, mixed, ignore=shutil.ignore_patterns("engine"))
        shutil.copytree(engine / "engine", mixed / "engine")
        with open_index(mixed) as again:
            assert full(again) == expected[rows]


def test_an_engine_that_is_damaged_or_in_use_is_an_error_with_the_way_out(index: Any) -> None:
    index.add(range(60), ROWS)
    expected = exhaustive(index)
    path = index.path
    index.close()
    shard = edge.EdgeShard.load(str(path / "engine"))
    with pytest.raises(StoreError, match="the engine failed"):
        open_index(path)
    shard.close()
    status = next(path.glob("engine/segments/*/vector_storage-dense/vectors/status.dat"))
    config = path / "engine" / "edge_config.json"
    for file in (config, status):  # the first is an exception in the engine, the second a panic
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StoreError, match=r"the engine failed .* delete that folder"):
            open_index(path)
        file.write_bytes(whole)
    shutil.rmtree(path / "engine")
    with open_index(path) as again:
        assert full(again) == expected


def test_rows_count_when_the_engine_is_durable(
    index: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (index.path / "engine-made").exists()
    index.add(range(60), ROWS)
    assert (index.path / "engine-behind").exists()
    assert disk.events == [("sync", index.path)]  # "engine-behind", before rows come
    run, engine = index._run, ("sync", index.path / "engine")

    def watched(call: Any) -> Any:
        disk.events.append(engine)
        return run(call)

    monkeypatch.setattr(index, "_run", watched)
    index.flush()
    assert disk.events[1] == engine
    assert disk.events.count(engine) == 1
    assert ("name", index.path / "manifest.json") in disk.events
    assert not (index.path / "engine-behind").exists()
    disk.events.clear()
    index.flush()
    assert disk.events == [], "nothing changed, so nothing is written"
