"""The best passages are those with the best chunks, however chunks crowd."""

import numpy as np

from tercet.evaluate.systems import top_passages
from tercet.evaluate.vectors import Owners
from tercet.hybrid import Ranked
from tercet.scores import Places, Scores


class Table:
    """Scores of queries and chunks as they are given; what is not above 0 is no candidate."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.calls = scores, 0

    def top(self, queries: Places, count: int) -> Ranked:
        self.calls += 1
        rows, places = np.nonzero(self.scores[queries] > 0)
        return Ranked.of(rows, places, self.scores[queries[rows], places], len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        return self.scores[queries, places]


def test_chunks_of_long_documents_crowd_nothing_out() -> None:
    draw = np.random.default_rng(5)
    calls = 0
    for _ in range(60):
        sizes = draw.choice([1, 2, 3, 60], size=draw.integers(1, 15))
        owners = Owners.make(np.repeat(np.arange(len(sizes)), sizes))
        # few levels, so that many are the same; long documents are ahead of others
        scores = draw.integers(-2, 5, size=(6, sizes.sum())).astype(np.float32)
        scores += np.where(np.repeat(sizes, sizes) == 60, 5, 0).astype(np.float32)
        table, count = Table(scores), int(draw.integers(1, 12))
        queries = draw.choice(6, 4, replace=False)
        ranked = top_passages(table, owners, queries, count, fetch=1)
        best = np.maximum.reduceat(scores, owners.bounds[:-1], axis=1)[queries]
        rows, places = np.nonzero(best > 0)
        expected = Ranked.of(rows, places, best[rows, places], 4, count)
        np.testing.assert_array_equal(ranked.places, expected.places)
        np.testing.assert_array_equal(ranked.scores, expected.scores)
        calls = max(calls, table.calls)
    assert calls > 3  # else no crowd was there
