"""What every backend promises, checked against the formulas on random rows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tercet.config import MODES, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.index import VectorIndex
from tercet.records import IndexHit
from tercet.scores import dense_scores, lexical_scores, maxsim_scores, weighted_sum

from .conftest import MODEL, again, create, create_on, make_embeddings

Make = Callable[..., VectorIndex]

QUERIES = make_embeddings(7, seed=5)
ROWS = make_embeddings(120, seed=1, empty_sparse=(3, 50))
IDS = np.random.default_rng(8).permutation(10_000)[: len(ROWS)].astype(np.uint64)
WEIGHTS = Weights(1.0, 0.3, 0.7)
HALF = 2e-3  # float16 of unit vectors
PARTS: Any = {
    "dense": dense_scores(QUERIES, ROWS),
    "sparse": lexical_scores(QUERIES, ROWS),
    "multi": maxsim_scores(QUERIES, ROWS),
}
SUMS = weighted_sum(PARTS, WEIGHTS)


@pytest.fixture(scope="module")
def filled(
    backend: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[VectorIndex]:
    """An index of ROWS for tests that only read."""
    made: VectorIndex
    if backend == "qdrant":
        made = create_on(request.getfixturevalue("qdrant"))
    else:
        made = create(tmp_path_factory.mktemp("filled") / "index", backend)
    with made as index:
        index.add(IDS, ROWS)
        yield index


def ids_of(hits: list[IndexHit]) -> list[int]:
    return [hit.id for hit in hits]


def test_what_is_stored_of_rows_can_be_read(filled: VectorIndex) -> None:
    chosen = [int(IDS[7]), 10_001, int(IDS[3]), int(IDS[119])]
    stored: Any
    ids, stored = filled.stored(chosen)
    place = {int(i): row for row, i in enumerate(IDS)}
    assert sorted(ids) == sorted(id for id in chosen if id in place)
    expected: Any = ROWS[[place[id] for id in ids]]
    np.testing.assert_allclose(stored.dense, expected.dense, atol=HALF)
    assert stored.offsets.tolist() == expected.offsets.tolist()
    np.testing.assert_allclose(stored.multi, expected.multi, atol=HALF)
    np.testing.assert_array_equal(stored.sparse.toarray(), expected.sparse.toarray())
    assert filled.stored([10_001])[0] == []


@pytest.mark.parametrize("candidates", [None, 20, len(ROWS)])
def test_a_hybrid_score_is_the_weighted_sum_of_its_raw_parts(
    filled: VectorIndex, candidates: int | None
) -> None:
    place = {int(i): row for row, i in enumerate(IDS)}
    ranked = filled.search(QUERIES, k=25, weights=WEIGHTS, candidates=candidates)
    for query, hits in enumerate(ranked):
        assert len(hits) == 25
        if candidates != 20:
            best = np.sort(SUMS[query])[::-1][:25]
            np.testing.assert_allclose([hit.score for hit in hits], best, atol=HALF)
        for hit in hits:
            parts = {head: getattr(hit, head) for head in PARTS}
            for head, part in parts.items():
                assert part == pytest.approx(PARTS[head][query, place[hit.id]], abs=HALF)
            total = sum(getattr(WEIGHTS, head) * part for head, part in parts.items())
            assert hit.score == pytest.approx(total, abs=1e-5)


def test_hybrid_scores_every_part_on_the_union_of_both_legs(filled: VectorIndex) -> None:
    some_in_one_leg = 0
    for row, hits in enumerate(filled.search(QUERIES, k=8, weights=WEIGHTS, candidates=8)):
        legs = [set(np.argsort(-PARTS[leg][row])[:8].tolist()) for leg in ("dense", "sparse")]
        some_in_one_leg += len(legs[0] ^ legs[1])
        best = sorted(legs[0] | legs[1], key=lambda place: -SUMS[row, place])[:8]
        np.testing.assert_allclose([h.score for h in hits], SUMS[row, best], atol=HALF)
        assert ids_of(hits) == IDS[best].tolist()
    assert some_in_one_leg > 10, "the legs agree: this test would see nothing"


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi"])
def test_one_leg_alone_is_ranked_by_its_raw_score(filled: VectorIndex, mode: Any) -> None:
    for row, hits in enumerate(filled.search(QUERIES, k=10, mode=mode, candidates=len(ROWS))):
        best = np.sort(PARTS[mode][row])[::-1][:10]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=HALF)
        assert all(getattr(hit, mode) == hit.score for hit in hits)


def test_multi_rescores_only_the_candidates_of_dense(filled: VectorIndex) -> None:
    for row, hits in enumerate(filled.search(QUERIES, k=5, mode="multi", candidates=5)):
        candidates = np.argsort(-PARTS["dense"][row])[:5]
        best = candidates[np.argsort(-PARTS["multi"][row, candidates])]
        assert ids_of(hits) == IDS[best].tolist()


def test_rows_and_queries_without_sparse_terms(filled: VectorIndex) -> None:
    sharing = (PARTS["sparse"] > 0).sum(axis=1)
    assert int(sharing.min()) < len(ROWS)
    for candidates in (None, 300):  # only rows that share a token
        ranked = filled.search(QUERIES, k=300, mode="sparse", candidates=candidates)
        assert [len(hits) for hits in ranked] == sharing.tolist()
    queries = make_embeddings(3, seed=6, empty_sparse=(1,))
    assert [bool(hits) for hits in filled.search(queries, mode="sparse")] == [True, False, True]
    hybrid = filled.search(queries)[1]
    assert len(hybrid) == 10
    assert all(hit.sparse is None and hit.multi is not None for hit in hybrid)
    assert ids_of(filled.search(ROWS[[3]], k=1, mode="dense")[0]) == [int(IDS[3])]
    hits = filled.search(QUERIES, k=len(ROWS), candidates=len(ROWS))[0]
    assert next(hit for hit in hits if hit.id == int(IDS[3])).sparse == 0.0
    dense = filled.search(Embeddings(dense=QUERIES.dense, fingerprint=MODEL))[0]
    assert all(hit.sparse is hit.multi is None and hit.score == hit.dense for hit in dense)


def test_adding_an_id_again_replaces_its_row(make: Make) -> None:
    index = make()
    largest = 2**64 - 1
    index.add([1, largest, 3], ROWS[:3], [{"n": 1}, {"n": 2}, {"n": 3}])
    index.add([largest, 4], ROWS[10:12], [{"n": 20}, {"n": 4}])
    assert index.ids().tolist() == [1, 3, 4, largest]
    assert len(index) == 4
    best = index.search(ROWS[[10]], k=1)[0][0]
    assert best.id == largest
    assert best.dense == pytest.approx(1.0, abs=HALF)
    assert ids_of(index.search(QUERIES[:1], filter={"n": 2})[0]) == []
    assert ids_of(index.search(QUERIES[:1], filter={"n": 20})[0]) == [largest]


def test_deleted_rows_are_gone_and_others_stay(make: Make) -> None:
    index = make()
    index.add(IDS, ROWS)
    gone = IDS[::3]
    assert index.delete([*gone.tolist(), 123_456]) == len(gone)
    assert index.delete(gone) == 0
    assert index.ids().tolist() == sorted(set(IDS.tolist()) - set(gone.tolist()))
    for mode in MODES:
        for hits in index.search(QUERIES, k=200, mode=mode):
            assert not set(ids_of(hits)) & set(gone.tolist())
    few = index.search(QUERIES, k=5, mode="dense", candidates=5)
    assert {len(hits) for hits in few} == {5}  # what is gone takes no candidate's place
    index.optimize()
    assert len(index) == len(IDS) - len(gone)
    index.add(gone, ROWS[::3])
    exhaustive = index.search(QUERIES, k=10, candidates=None)
    assert exhaustive == index.search(QUERIES, k=10, candidates=len(IDS))


def test_what_was_flushed_is_there_after_opening_again(make: Make) -> None:
    index = make()
    index.add(IDS, ROWS, [{"n": int(i)} for i in IDS])
    index.delete(IDS[:5])
    index.flush()
    before = index.search(QUERIES, k=20)
    index.close()
    with pytest.raises(StoreError, match="model 'model-a', not of 'model-b'"):
        again(index, fingerprint="model-b")
    with again(index, fingerprint=MODEL) as opened:
        assert opened.search(QUERIES, k=20) == before
        assert opened.ids().tolist() == np.sort(IDS[5:]).tolist()
        assert ids_of(opened.search(QUERIES[:1], filter={"n": int(IDS[9])})[0]) == [int(IDS[9])]


def test_order_of_rows_and_batches_changes_nothing(make: Make) -> None:
    whole, parts = make(), make()
    whole.add(IDS, ROWS)
    order = np.random.default_rng(3).permutation(len(ROWS))
    for part in np.array_split(order, 7):
        parts.add(IDS[part], ROWS[part])
    parts.optimize()
    ranked = (
        whole.search(QUERIES, candidates=None),
        parts.search(QUERIES, candidates=200),
    )
    for a, b in zip(*ranked, strict=True):
        assert ids_of(a) == ids_of(b)
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-5)
    equal = make()
    equal.add(np.arange(40)[::-1].copy(), ROWS[[7] * 40])
    assert ids_of(equal.search(ROWS[[7]], k=6, candidates=40)[0]) == [0, 1, 2, 3, 4, 5]


def test_filters(make: Make) -> None:
    index = make()
    kinds: list[Any] = ["1", 1, True, 1.5, "true"]
    payloads = [
        {
            "lang": ("en", "de", "it")[n % 3],
            "n": n,
            "half": n / 2,
            "odd": n % 2 == 1,
            "a.b": "x y",
            **({"kind": kinds[n]} if n < len(kinds) else {}),
        }
        for n in range(len(ROWS))
    ]
    index.add(np.arange(len(ROWS)), ROWS, payloads)

    def rows_of(**filter: Any) -> set[int]:
        sets = [
            {hit.id for hit in index.search(QUERIES[:1], k=200, candidates=c, filter=filter)[0]}
            for c in (None, 200)
        ]
        assert sets[0] == sets[1]
        return sets[0]

    rows = range(len(ROWS))
    assert rows_of() == rows_of(**{"a.b": "x y"}) == set(rows)
    assert rows_of(lang="de") == {n for n in rows if n % 3 == 1}
    assert rows_of(lang=["de", "it"]) == {n for n in rows if n % 3}
    assert rows_of(lang="de", odd=True) == {n for n in rows if n % 6 == 1}
    assert rows_of(n=[5, 7.0]) == {5, 7}
    assert rows_of(half=3.5) == {7}
    assert rows_of(half=4) == {8}
    assert rows_of(odd=1) == set(), "a bool is no number"
    assert rows_of(n="5") == rows_of(n=True) == set(), "a text or a bool is no number"
    assert rows_of(unknown=1) == set()
    for number, kind in enumerate(kinds):
        assert rows_of(kind=kind) == {number}
    assert rows_of(kind=["1", 1.5]) == {0, 3}
    for mode in MODES:
        hits = index.search(QUERIES, k=200, mode=mode, filter={"lang": "de"})
        assert {hit.id % 3 for row in hits for hit in row} == {1}


@pytest.mark.parametrize("heads", [("sparse", "dense"), ("dense",), ("sparse",)])
def test_an_index_of_some_heads_sums_those(make: Make, heads: Any) -> None:
    index = make(heads=heads)
    index.add(IDS, ROWS)
    sums = weighted_sum({head: PARTS[head] for head in heads}, WEIGHTS)
    for row, hits in enumerate(index.search(QUERIES, weights=WEIGHTS, candidates=200)):
        best = np.sort(sums[row])[::-1][:10]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=HALF)
        assert all(getattr(hit, head) is None for hit in hits for head in {*PARTS} - {*heads})
    with pytest.raises(InputError, match=r"needs \w+, which this index does not store"):
        index.search(QUERIES, mode="multi")
    assert set(index.sizes()) in ({*heads, "other"}, set())


def test_int8_scores_stay_near(make: Make) -> None:
    index = make(dtype="int8")
    index.add(IDS, ROWS)
    place = {int(i): row for row, i in enumerate(IDS)}
    exhaustive = index.search(QUERIES, k=50, candidates=None)
    for query, hits in enumerate(exhaustive):
        for hit in hits:
            for head in ("dense", "multi"):
                want = PARTS[head][query, place[hit.id]]
                assert getattr(hit, head) == pytest.approx(want, abs=0.02)
    assert exhaustive == index.search(QUERIES, k=50, candidates=200)
    if sizes := index.sizes():
        wide = make()
        wide.add(IDS, ROWS)
        assert sizes["multi"] < 0.7 * wide.sizes()["multi"]


def test_nothing_in_and_nothing_out(make: Make) -> None:
    index = make()
    for candidates in (200, None):
        assert index.search(QUERIES, candidates=candidates) == [[] for _ in range(len(QUERIES))]
    index.add([], ROWS[:0])
    assert len(index) == 0
    assert index.delete([1]) == index.delete([]) == 0
    index.optimize()
    index.add(IDS, ROWS)
    assert index.search(QUERIES[:0]) == []
    assert all(value > 0 for value in index.sizes().values())
    index.close()
    index.close()
    for call in (index.ids, index.flush, index.optimize, lambda: index.search(QUERIES)):
        with pytest.raises(StoreError, match="was closed"):
            call()


def broken(name: str = "", value: float = 0.0, **changed: Any) -> Embeddings:
    """Three rows, one number of which is another, or with changed parts."""
    rows = make_embeddings(3, seed=2, **changed)
    part = getattr(rows, name, None)
    if part is not None:
        numbers = part.data if name == "sparse" else part.reshape(-1)
        numbers[len(numbers) // 2] = value
    return rows


BAD = {
    "dense vector holds a value": broken("dense", np.nan),
    "multi vector holds a value": broken("multi", np.inf),
    "not finite in float16": broken("dense", 1e6),
    "negative or not finite": broken("sparse", np.nan),
    "is negative or": broken("sparse", -1.0),
    "stores 16": broken(dense=np.ones((3, 5), np.float32)),
    "stores multi, which": broken(multi=None, offsets=None),
    "no token vector": broken(offsets=np.array([0, 2, 2, 3]), multi=np.ones((3, 8), np.float16)),
}


def test_a_bad_batch_is_refused_whole(make: Make) -> None:
    index = make()
    index.add([1, 2, 3], ROWS[:3])
    before = index.search(QUERIES, candidates=None)
    for words, rows in BAD.items():
        with pytest.raises(InputError, match=words):
            index.add([3, 4, 5], rows)
    for ids, payloads in (
        ([1, 2, 1], None),
        ([1, 2], None),
        ([1, 2, -3], None),
        ([1, 2, 2**64], None),
        ([1, 2, "3"], None),
        ([1, 2, 3], [{}]),
        ([1, 2, 3], [{}, {}, {"a": None}]),
        ([1, 2, 3], [{}, {"a": float("nan")}, {}]),
        ([1, 2, 3], [{}, {"a": 2**63}, {}]),
        ([1, 2, 3], [{}, {"a": -(2**63) - 1}, {}]),
    ):
        with pytest.raises(InputError):
            index.add(ids, ROWS[10:13], payloads)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="model 'model-a', not of 'model-b'"):
        index.add([1, 2, 3], broken(fingerprint="model-b"))
    assert index.ids().tolist() == [1, 2, 3]
    assert index.search(QUERIES, candidates=None) == index.search(QUERIES) == before


@pytest.mark.parametrize(
    ("queries", "options", "error"),
    [
        (QUERIES, {"mode": "all"}, InputError),
        (QUERIES, {"k": 0}, InputError),
        (QUERIES, {"k": True}, InputError),
        (QUERIES, {"candidates": 0}, InputError),
        (QUERIES, {"filter": {"a": []}}, InputError),
        (QUERIES, {"filter": {"a": None}}, InputError),
        (broken("dense", np.inf), {}, InputError),
        (broken(dense=None, sparse=None), {}, InputError),
        (broken(sparse=None), {"mode": "sparse"}, InputError),
        (broken(fingerprint="model-b"), {}, StoreError),
    ],
)
def test_bad_searches_are_refused(
    filled: VectorIndex, queries: Embeddings, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        filled.search(queries, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": ("multi",)}, "store dense beside them"),
        ({"heads": ()}, "no head asked for"),
        *(({"vocabulary": size}, "vocabulary must be a whole number") for size in (None, -5, "9")),
        ({"dtype": "float32"}, "unknown dtype"),
        ({"backend": "faiss"}, "unknown backend"),
    ],
)
def test_bad_parameters_are_refused(make: Make, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**options)
