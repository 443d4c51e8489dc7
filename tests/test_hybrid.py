"""Rankings are those of all scores sorted, whatever the sizes of the blocks."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tercet.config import Head, Weights
from tercet.hybrid import (
    Blocks,
    DenseRanker,
    MultiRanker,
    Ranked,
    Ranker,
    SparseRanker,
    best_weights,
    highest,
    rankers,
    union,
)
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tercet.sparse import SparseRows
from tests.index.conftest import make_embeddings

QUERIES, PASSAGES, CANDIDATES = 23, 157, 140  # the last passages are no candidates

Rank = Callable[[], tuple[Ranker, Scores]]


def dense() -> tuple[Ranker, Scores]:
    queries, passages = make_embeddings(QUERIES, 1), make_embeddings(PASSAGES, 2)
    assert queries.dense is not None
    assert passages.dense is not None
    passages.dense[40:60] = passages.dense[20:40]  # equal scores
    ranker = DenseRanker(queries.dense, passages.dense, CANDIDATES, "cpu")
    return ranker, dense_scores(queries, passages)


def sparse() -> tuple[Ranker, Scores]:
    queries = make_embeddings(QUERIES, 1, empty_sparse=(3,))
    passages = make_embeddings(PASSAGES, 2, empty_sparse=(0, 30))
    assert queries.sparse is not None
    assert passages.sparse is not None
    both = SparseRows.stacked([passages.sparse[:40], passages.sparse[20:137]])
    ranker = SparseRanker(queries.sparse, both, CANDIDATES)
    return ranker, (queries.sparse.to_scipy() @ both.to_scipy().T).toarray()


def multi() -> tuple[Ranker, Scores]:
    queries, passages = make_embeddings(QUERIES, 1), make_embeddings(PASSAGES, 2)
    return MultiRanker(queries, passages, CANDIDATES), maxsim_scores(queries, passages)


@pytest.mark.parametrize("count", [1, 7, 100])
@pytest.mark.parametrize("make", [dense, sparse, multi])
def test_the_best_are_those_of_all_scores_sorted(make: Rank, count: int) -> None:
    ranker, scores = make()
    some = np.arange(4, QUERIES)
    found = ranker.top(some, count)
    for row, query in enumerate(some.tolist()):
        own = scores[query, :CANDIDATES]
        places = found.places[row][found.places[row] >= 0]
        assert len(np.unique(places)) == len(places)
        expected = np.sort(own[own > 0] if make is sparse else own)[::-1][:count]
        again = ranker.score(np.full(len(places), query), places)
        for got in (found.scores[row, : len(places)], own[places], again):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        same = np.flatnonzero(np.diff(found.scores[row, : len(places)]) == 0)
        assert (places[same] < places[same + 1]).all()  # equal ones by place


@pytest.mark.parametrize("make", [dense, sparse])
def test_blocks_never_change_a_ranking(make: Rank) -> None:
    ranker: Any = make()[0]
    whole = ranker.top(np.arange(QUERIES), 30)
    assert (whole.places >= 0).sum() > 500
    for queries, passages, first in ((1, 7, 3), (5, 50, 60), (64, 11, 1), (7, 1, 140)):
        blocks = Blocks(queries, passages, first, sparse_passages=passages, pairs=queries + 3)
        found = replace(ranker, blocks=blocks).top(np.arange(QUERIES), 30)
        np.testing.assert_array_equal(found.places, whole.places)
        np.testing.assert_array_equal(found.scores, whole.scores)


def test_a_union_is_ranked_by_the_weighted_sum_of_all_heads() -> None:
    queries, passages = make_embeddings(QUERIES, 1), make_embeddings(PASSAGES, 2)
    by, some = rankers(queries, passages), np.array([3, 9, 4])
    firsts = [by[head].top(some, 8) for head in ("dense", "sparse")]
    rows, places = union(firsts)
    expected = {(row, place) for f in firsts for row in range(3) for place in f.places[row]}
    assert list(zip(rows.tolist(), places.tolist(), strict=True)) == sorted(expected)
    scores = {head: ranker.score(some[rows], places) for head, ranker in by.items()}
    found = Ranked.of(rows, places, weighted_sum(scores, Weights(1.0, 0.5, 0.25)), 3, 5)
    parts = [f(queries, passages)[some] for f in (dense_scores, lexical_scores, maxsim_scores)]
    total = parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    for row in range(3):
        own = places[rows == row]
        best = own[np.argsort(-total[row, own])][:5]
        np.testing.assert_array_equal(found.places[row], best)
        np.testing.assert_allclose(found.scores[row], total[row, best], rtol=1e-5)


def test_ranks_of_pairs_pad_what_is_missing() -> None:
    rows, places = np.array([2, 0, 2, 2]), np.array([5, 1, 9, 4])
    found = Ranked.of(rows, places, np.array([1, 2, 1, 3], dtype=np.float32), 3, 2)
    assert found.places.tolist() == [[1, -1], [-1, -1], [4, 5]]
    assert found.scores.tolist() == [[2, -math.inf], [-math.inf] * 2, [3, 1]]
    again = Ranked.of(*found.pairs(), 3, 2)
    np.testing.assert_array_equal(again.places, found.places)
    both = Ranked.joined([found.cut(1), found])
    assert both.places.tolist() == [[1, -1], [-1, -1], [4, -1], *found.places.tolist()]
    assert both.scores[2].tolist() == [3, -math.inf]


def test_the_highest_come_with_equals_of_the_last() -> None:
    scores = np.array([1, 3, 2, 3, 2, 0], dtype=np.float32)
    assert [highest(scores, k).tolist() for k in (1, 3, 6, 9)] == [
        [1, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip


def test_the_best_weights_of_a_grid() -> None:
    grids: dict[Head, tuple[float, ...]] = {"dense": (1.0,), "sparse": (0.5, 1.0, 2.0)}

    def level(weights: Weights) -> float:
        return -abs(weights.sparse - 1.0)

    assert best_weights(level, grids) == Weights(1.0, 1.0, 0.0)  # no grid: weighs nothing
    assert best_weights(lambda weights: 0.0, grids) == Weights(1.0, 0.5, 0.0)  # the first
    near = Weights(2.0, 3.8, 0.0)  # the same sums as 1, 1.9
    assert best_weights(lambda weights: 0.0, grids, near=near) == Weights(1.0, 2.0, 0.0)
