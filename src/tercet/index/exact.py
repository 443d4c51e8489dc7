"""Exact search over memory-mapped rows: the oracle, and right for small corpora.

Each first-stage leg scores every row (about 1 ms per 10,000 rows), so nothing is ever missed.
"""

from collections.abc import Sequence

import numpy as np

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.hybrid import highest
from tercet.index.base import Choices, Index, part_of, score_rows
from tercet.index.store import Floats, Positions


class ExactIndex(Index):
    """An index without an index: every leg looks at every row."""

    def _candidates(
        self, queries: Embeddings, legs: Sequence[Head], count: int, choices: Choices
    ) -> list[Positions]:
        rows = np.flatnonzero(self._store.matching(choices))
        out = []
        for query in range(len(queries)):
            parts = score_rows(self._store, part_of(queries, query, legs), rows)
            union = [np.empty(0, dtype=np.int64)]
            union += [rows[_best(part, count, head)] for head, part in parts.items()]
            out.append(np.unique(np.concatenate(union)))
        return out


def _best(scores: Floats, count: int, head: Head) -> Positions:
    """Places of the `count` highest scores, of equals the first ones; sparse ones above 0."""
    best = highest(scores, count)
    best = best[np.argsort(-scores[best], kind="stable")][:count]
    return best[scores[best] > 0] if head == "sparse" else best
