"""What every backend promises, checked against the formulas on random rows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tercet.config import Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.index import Index, create_index, open_index
from tercet.records import IndexHit
from tercet.scores import dense_scores, lexical_scores, maxsim_scores, weighted_sum

from .conftest import DIMS, MODEL, make_embeddings

Make = Callable[..., Index]

QUERIES = make_embeddings(7, seed=5)
ROWS = make_embeddings(120, seed=1, empty_sparse=(3, 50))
IDS = np.random.default_rng(8).permutation(10_000)[: len(ROWS)].astype(np.uint64)
WEIGHTS = Weights(1.0, 0.3, 0.7)
HALF = 2e-3  # float16 of unit vectors


@pytest.fixture(scope="module")
def filled(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of ROWS for tests that only read."""
    folder = tmp_path_factory.mktemp("filled") / "index"
    with create_index(folder, backend, dims=DIMS, fingerprint=MODEL) as index:  # type: ignore[arg-type]
        index.add(IDS, ROWS)
        yield index


def expected(rows: Embeddings = ROWS, queries: Embeddings = QUERIES) -> dict[Any, Any]:
    return {
        "dense": dense_scores(queries, rows),
        "sparse": lexical_scores(queries, rows),
        "multi": maxsim_scores(queries, rows),
    }


def ids_of(hits: list[IndexHit]) -> list[int]:
    return [hit.id for hit in hits]


def test_hybrid_over_every_row_is_the_weighted_sum(filled: Index) -> None:
    sums = weighted_sum(expected(), WEIGHTS)
    for candidates in (None, len(ROWS)):
        found = filled.search(QUERIES, k=10, weights=WEIGHTS, candidates=candidates)
        for row, hits in enumerate(found):
            best = np.sort(sums[row])[::-1][:10]
            np.testing.assert_allclose([hit.score for hit in hits], best, atol=HALF)
            assert len(set(ids_of(hits)) & set(IDS[np.argsort(-sums[row])[:10]].tolist())) >= 9


def test_every_hit_carries_the_raw_parts_of_its_score(filled: Index) -> None:
    place = {int(i): row for row, i in enumerate(IDS)}
    parts = expected()
    for candidates in (None, 20):
        for query, hits in enumerate(
            filled.search(QUERIES, k=25, weights=WEIGHTS, candidates=candidates)
        ):
            assert len(hits) == 25
            for hit in hits:
                row = place[hit.id]
                assert hit.dense == pytest.approx(parts["dense"][query, row], abs=HALF)
                assert hit.sparse == pytest.approx(parts["sparse"][query, row], abs=1e-5)
                assert hit.multi == pytest.approx(parts["multi"][query, row], abs=HALF)
                assert hit.dense is not None
                assert hit.sparse is not None
                assert hit.multi is not None
                total = hit.dense + 0.3 * hit.sparse + 0.7 * hit.multi
                assert hit.score == pytest.approx(total, abs=1e-5)


def test_hybrid_scores_every_part_on_the_union_of_both_legs(filled: Index) -> None:
    dense, sparse, sums = (
        expected()["dense"],
        expected()["sparse"],
        weighted_sum(expected(), WEIGHTS),
    )
    some_in_one_leg = 0
    for row, hits in enumerate(filled.search(QUERIES, k=8, weights=WEIGHTS, candidates=8)):
        legs = [set(np.argsort(-leg[row])[:8].tolist()) for leg in (dense, sparse)]
        union = sorted(legs[0] | legs[1])
        some_in_one_leg += len(legs[0] ^ legs[1])
        best = sorted(union, key=lambda place: -sums[row, place])[:8]
        np.testing.assert_allclose([h.score for h in hits], sums[row, best], atol=HALF)
        assert ids_of(hits) == IDS[best].tolist()
    assert some_in_one_leg > 10, "the legs agree: this test would see nothing"


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi"])
def test_one_leg_alone_is_ranked_by_its_raw_score(filled: Index, mode: Any) -> None:
    scores = expected()[mode]
    for row, hits in enumerate(filled.search(QUERIES, k=10, mode=mode, candidates=len(ROWS))):
        best = np.argsort(-scores[row])[:10]
        np.testing.assert_allclose([hit.score for hit in hits], scores[row, best], atol=HALF)
        assert all(getattr(hit, mode) == hit.score for hit in hits)


def test_multi_rescores_only_the_candidates_of_dense(filled: Index) -> None:
    parts = expected()
    for row, hits in enumerate(filled.search(QUERIES, k=5, mode="multi", candidates=5)):
        candidates = np.argsort(-parts["dense"][row])[:5]
        best = candidates[np.argsort(-parts["multi"][row, candidates])]
        assert ids_of(hits) == IDS[best].tolist()


def test_sparse_finds_only_rows_that_share_a_token(filled: Index) -> None:
    sharing = (expected()["sparse"] > 0).sum(axis=1)
    assert int(sharing.min()) < len(ROWS)
    for candidates in (None, 300):
        found = filled.search(QUERIES, k=300, mode="sparse", candidates=candidates)
        assert [len(hits) for hits in found] == sharing.tolist()


def test_an_empty_sparse_query_has_no_sparse_leg(filled: Index) -> None:
    queries = make_embeddings(3, seed=6, empty_sparse=(1,))
    assert [bool(hits) for hits in filled.search(queries, mode="sparse")] == [True, False, True]
    hybrid = filled.search(queries)
    assert all(hit.sparse is None and hit.multi is not None for hit in hybrid[1])
    assert len(hybrid[1]) == 10


def test_a_row_with_empty_sparse_is_found_by_dense(filled: Index) -> None:
    found = filled.search(ROWS[[3]], k=1, mode="dense")[0]
    assert ids_of(found) == [int(IDS[3])]
    hit = next(h for h in filled.search(ROWS[[3]], k=5)[0] if h.id == int(IDS[3]))
    assert hit.sparse is None  # the query is that row, and has no tokens either
    hits = filled.search(QUERIES, k=len(ROWS), candidates=len(ROWS))[0]
    assert next(h for h in hits if h.id == int(IDS[3])).sparse == 0.0


def test_adding_an_id_again_replaces_its_row(make: Make) -> None:
    index = make()
    index.add([1, 2, 3], ROWS[:3], [{"n": 1}, {"n": 2}, {"n": 3}])
    index.add([2, 4], ROWS[10:12], [{"n": 20}, {"n": 4}])
    assert index.ids().tolist() == [1, 2, 3, 4]
    assert len(index) == 4
    best = index.search(ROWS[[10]], k=1)[0][0]
    assert best.id == 2
    assert best.dense == pytest.approx(1.0, abs=HALF)
    assert ids_of(index.search(QUERIES[:1], filter={"n": 2})[0]) == []
    assert ids_of(index.search(QUERIES[:1], filter={"n": 20})[0]) == [2]


def test_deleted_rows_are_gone_and_others_stay(make: Make) -> None:
    index = make()
    index.add(IDS, ROWS)
    gone = IDS[::3]
    assert index.delete([*gone.tolist(), 123_456]) == len(gone)
    assert index.delete(gone) == 0
    assert index.ids().tolist() == sorted(set(IDS.tolist()) - set(gone.tolist()))
    for mode in ("dense", "sparse", "multi", "hybrid"):
        for hits in index.search(QUERIES, k=200, mode=mode):
            assert not set(ids_of(hits)) & set(gone.tolist())
    index.optimize()
    assert len(index) == len(IDS) - len(gone)
    index.add(gone, ROWS[::3])
    full = index.search(QUERIES, k=10, candidates=None)
    assert full == index.search(QUERIES, k=10, candidates=len(IDS))
    assert len(index) == len(IDS)


def test_the_largest_ids_survive(make: Make) -> None:
    index = make()
    ids = [0, 2**63, 2**64 - 1]
    index.add(ids, ROWS[:3])
    assert index.ids().tolist() == ids
    assert index.search(ROWS[[2]], k=1)[0][0].id == 2**64 - 1
    assert index.delete([2**64 - 1]) == 1


def test_what_was_flushed_is_there_after_opening_again(make: Make) -> None:
    index = make()
    index.add(IDS, ROWS, [{"n": int(i)} for i in IDS])
    index.delete(IDS[:5])
    index.flush()
    before = index.search(QUERIES, k=20)
    path = index.path
    index.close()
    with open_index(path, fingerprint=MODEL, heads=("dense", "sparse", "multi")) as again:
        assert again.search(QUERIES, k=20) == before
        assert again.ids().tolist() == np.sort(IDS[5:]).tolist()
        assert ids_of(again.search(QUERIES[:1], filter={"n": int(IDS[9])})[0]) == [int(IDS[9])]


def test_order_of_rows_and_batches_changes_nothing(make: Make) -> None:
    one, other = make(), make()
    one.add(IDS, ROWS)
    order = np.random.default_rng(3).permutation(len(ROWS))
    for part in np.array_split(order, 7):
        other.add(IDS[part], ROWS[part])
    other.optimize()
    for a, b in zip(
        one.search(QUERIES, candidates=None), other.search(QUERIES, candidates=200), strict=True
    ):
        assert ids_of(a) == ids_of(b)
        np.testing.assert_allclose([h.score for h in a], [h.score for h in b], atol=1e-5)


def test_equal_scores_are_ordered_by_id(make: Make) -> None:
    index = make()
    same = ROWS[[7] * 40]
    index.add(np.arange(40)[::-1].copy(), same)
    assert ids_of(index.search(ROWS[[7]], k=6, candidates=40)[0]) == [0, 1, 2, 3, 4, 5]


def test_filters(make: Make) -> None:
    index = make()
    payloads = [
        {"lang": ("en", "de", "it")[n % 3], "n": n, "half": n / 2, "odd": n % 2 == 1, "a.b": "x y"}
        for n in range(len(ROWS))
    ]
    index.add(np.arange(len(ROWS)), ROWS, payloads)

    def found(**options: Any) -> set[int]:
        sets = [
            {hit.id for hit in index.search(QUERIES[:1], k=200, candidates=c, **options)[0]}
            for c in (None, 200)
        ]
        assert sets[0] == sets[1]
        return sets[0]

    rows = range(len(ROWS))
    assert found(filter={}) == set(rows)
    assert found(filter={"lang": "de"}) == {n for n in rows if n % 3 == 1}
    assert found(filter={"lang": ["de", "it"]}) == {n for n in rows if n % 3}
    assert found(filter={"lang": "de", "odd": True}) == {n for n in rows if n % 6 == 1}
    assert found(filter={"n": [5, 7.0]}) == {5, 7}
    assert found(filter={"half": 3.5}) == {7}
    assert found(filter={"half": 4}) == {8}
    assert found(filter={"odd": 1}) == set(), "a bool is no number"
    assert found(filter={"n": "5"}) == set(), "a text is no number"
    assert found(filter={"n": True}) == set()
    assert found(filter={"a.b": "x y"}) == set(rows)
    assert found(filter={"unknown": 1}) == set()
    for mode in ("dense", "sparse", "multi"):
        hits = index.search(QUERIES, k=200, mode=mode, filter={"lang": "de"})
        assert {hit.id % 3 for row in hits for hit in row} == {1}


def test_values_of_several_kinds_under_one_key(make: Make) -> None:
    index = make()
    values: list[Any] = ["1", 1, True, 1.5, "true"]
    index.add(range(5), ROWS[:5], [{"key": value} for value in values])
    for place, value in enumerate(values):
        assert ids_of(index.search(QUERIES[:1], filter={"key": value})[0]) == [place]
    assert set(ids_of(index.search(QUERIES[:1], filter={"key": ["1", 1.5]})[0])) == {0, 3}


def test_an_index_without_multi_vectors_sums_the_other_two(make: Make) -> None:
    index = make(heads=("sparse", "dense"))
    index.add(IDS, ROWS)
    parts: dict[Any, Any] = {head: expected()[head] for head in ("dense", "sparse")}
    sums = weighted_sum(parts, WEIGHTS)
    for row, hits in enumerate(index.search(QUERIES, weights=WEIGHTS, candidates=200)):
        np.testing.assert_allclose(
            [hit.score for hit in hits], np.sort(sums[row])[::-1][:10], atol=HALF
        )
        assert all(hit.multi is None for hit in hits)
    with pytest.raises(InputError, match=r"mode multi needs multi, .* does not store"):
        index.search(QUERIES, mode="multi")
    assert "multi" not in index.sizes()


@pytest.mark.parametrize("head", ["dense", "sparse"])
def test_an_index_of_one_head(make: Make, head: Any) -> None:
    index = make(heads=(head,))
    index.add(IDS, ROWS)
    alone = index.search(QUERIES, mode=head, candidates=200)
    hybrid = index.search(QUERIES, weights=Weights(1.0, 1.0, 1.0), candidates=200)
    assert [ids_of(hits) for hits in alone] == [ids_of(hits) for hits in hybrid]


def test_int8_scores_stay_near(make: Make) -> None:
    index = make(dtype="int8")
    index.add(IDS, ROWS)
    place = {int(i): row for row, i in enumerate(IDS)}
    parts = expected()
    for query, hits in enumerate(index.search(QUERIES, k=50, candidates=None)):
        for hit in hits:
            assert hit.dense == pytest.approx(parts["dense"][query, place[hit.id]], abs=0.02)
            assert hit.multi == pytest.approx(parts["multi"][query, place[hit.id]], abs=0.02)
    assert index.search(QUERIES, candidates=None) == index.search(QUERIES, candidates=200)
    wide = make()
    wide.add(IDS, ROWS)
    assert index.sizes()["multi"] < 0.7 * wide.sizes()["multi"]


def test_queries_may_lack_a_head_in_hybrid_but_not_in_its_own_mode(filled: Index) -> None:
    queries = Embeddings(dense=QUERIES.dense, fingerprint=MODEL)
    hits = filled.search(queries, candidates=200)[0]
    assert hits[0].dense is not None
    assert hits[0].sparse is hits[0].multi is None
    with pytest.raises(InputError, match="sparse, which the queries lack"):
        filled.search(queries, mode="sparse")


def test_nothing_in_and_nothing_out(make: Make) -> None:
    index = make()
    assert index.search(QUERIES) == [[] for _ in range(len(QUERIES))]
    assert index.search(QUERIES, candidates=None) == [[] for _ in range(len(QUERIES))]
    index.add([], ROWS[:0])
    assert len(index) == 0
    assert index.ids().tolist() == []
    assert index.delete([1]) == 0
    index.optimize()
    index.add(IDS, ROWS)
    assert index.search(QUERIES[:0]) == []
    assert all(value > 0 for value in index.sizes().values())
    assert set(index.sizes()) == {"dense", "sparse", "multi", "other"}


def broken(**changed: Any) -> Embeddings:
    return make_embeddings(3, seed=2, **changed)


def with_value(name: str, value: float) -> Embeddings:
    array = getattr(broken(), name).copy()
    array.reshape(-1)[array.size // 2] = value
    return broken(**{name: array})


def with_weights(*values: tuple[int, float]) -> Embeddings:
    rows = broken()
    assert rows.sparse is not None
    sparse = rows.sparse.copy()
    for place, weight in values:
        sparse.data[place] = weight
    return broken(sparse=sparse)


def with_repeated_token() -> Embeddings:
    rows = broken()
    assert rows.sparse is not None
    sparse = rows.sparse.copy()
    sparse.indices[1] = sparse.indices[0]
    return broken(sparse=sparse)


BAD = {
    "nan dense": (lambda: with_value("dense", np.nan), "dense vector holds a value"),
    "inf multi": (lambda: with_value("multi", np.inf), "multi vector holds a value"),
    "huge dense": (lambda: with_value("dense", 1e6), "not finite in float16"),
    "nan sparse": (lambda: with_weights((2, np.nan)), "negative or not finite"),
    "negative sparse": (lambda: with_weights((2, -1.0)), "negative or not finite"),
    "repeated token": (with_repeated_token, "names one token twice"),
    "wrong dense": (lambda: broken(dense=np.ones((3, 5), np.float32)), "stores 16"),
    "no multi": (lambda: broken(multi=None, offsets=None), "stores multi, which"),
    "no token": (
        lambda: broken(offsets=np.array([0, 2, 2, 3]), multi=np.ones((3, 8), np.float16)),
        "no token vector",
    ),
}


def test_a_bad_batch_is_refused_whole(make: Make) -> None:
    index = make()
    index.add([1, 2, 3], ROWS[:3])
    before = index.search(QUERIES, candidates=None)
    for build, words in BAD.values():
        with pytest.raises(InputError, match=words):
            index.add([3, 4, 5], build())
        assert index.ids().tolist() == [1, 2, 3]
        assert index.search(QUERIES, candidates=None) == before
        assert index.search(QUERIES) == before


@pytest.mark.parametrize(
    ("ids", "payloads", "words"),
    [
        ([1, 2, 1], None, "id 1 stands twice"),
        ([1, 2], None, "3 embeddings for 2 ids"),
        ([1, 2, -3], None, "id -3 at place 2"),
        ([1, 2, 2**64], None, "at place 2"),
        ([1, 2, True], None, "id True"),
        ([1, 2, 3], [{}], "1 payloads for 3 ids"),
        ([1, 2, 3], [{}, {}, {"a": None}], "id 3: payload 'a': None"),
        ([1, 2, 3], [{}, {"a": float("nan")}, {}], "id 2: payload 'a'"),
        ([1, 2, 3], [{"a": "\ud800"}, {}, {}], "id 1: payload 'a'"),
        ([1, 2, 3], [{"": 1}, {}, {}], "payload key"),
    ],
)
def test_bad_ids_and_payloads_are_refused(
    filled: Index, ids: Any, payloads: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        filled.add(ids, ROWS[:3], payloads)
    assert len(filled) == len(ROWS)


def test_another_models_vectors_are_refused_in_words(filled: Index) -> None:
    other = make_embeddings(3, fingerprint="model-b")
    with pytest.raises(StoreError, match=r"model 'model-a', not of 'model-b'"):
        filled.add([1, 2, 3], other)
    with pytest.raises(StoreError, match=r"model 'model-a', not of 'model-b'"):
        filled.search(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "all"}, "unknown mode 'all'"),
        ({"k": 0}, "k must be a whole number >= 1"),
        ({"candidates": 0}, "candidates must be"),
        ({"filter": {"a": []}}, "names no value"),
        ({"filter": {"a": None}}, "filter on 'a'"),
    ],
)
def test_bad_searches_are_refused(filled: Index, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        filled.search(QUERIES, **options)


def test_a_bad_query_is_refused(filled: Index) -> None:
    with pytest.raises(InputError, match="dense vector holds a value"):
        filled.search(with_value("dense", np.inf))
    with pytest.raises(InputError, match="needs dense or sparse"):
        filled.search(Embeddings(multi=QUERIES.multi, offsets=QUERIES.offsets, fingerprint=MODEL))


def test_a_closed_index_says_so(make: Make) -> None:
    index = make()
    index.close()
    index.close()
    for call in (
        index.ids,
        index.flush,
        index.optimize,
        index.sizes,
        lambda: index.search(QUERIES),
    ):
        with pytest.raises(StoreError, match="was closed"):
            call()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": ("multi",)}, "store dense beside them"),
        ({"heads": ()}, "no head asked for"),
        ({"heads": ("dense", "colbert")}, "unknown head 'colbert'"),
        ({"dims": {"dense": 16}}, "storing sparse needs its size"),
        ({"dims": {"dense": 0, "vocabulary": 2, "multi": 3}}, "storing dense needs its size"),
        ({"dtype": "float32"}, "unknown dtype"),
        ({"backend": "faiss"}, "unknown backend"),
    ],
)
def test_bad_parameters_are_refused(make: Make, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**options)


@pytest.mark.parametrize(
    "given",
    [{"fingerprint": "b"}, {"heads": ("dense",)}, {"dtype": "int8"}, {"dims": {"multi": 64}}],
)
def test_opening_with_other_parameters_is_refused(make: Make, given: dict[str, Any]) -> None:
    index = make()
    index.close()
    with pytest.raises(StoreError, match=rf"was made with {next(iter(given)).rstrip('s')}|multi"):
        open_index(index.path, **given)
    open_index(index.path, dims=DIMS, dtype="float16").close()


def test_creating_over_something_is_refused(make: Make) -> None:
    index = make()
    with pytest.raises(StoreError, match="not empty"):
        create_index(index.path, dims=DIMS, fingerprint=MODEL)
