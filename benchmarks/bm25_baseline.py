"""BM25 over words as a matrix of all scores, for the benchmarks that rank exhaustively.

The index and the words are the package's own (`tercet.bm25`).
"""

from collections.abc import Callable

from tercet.bm25 import Words, index
from tercet.bm25 import words as terms
from tercet.scores import Scores

__all__ = ["bm25", "terms"]


def bm25(passages: list[str]) -> Callable[[list[str], bool], Scores]:
    """A scorer of queries against the passages, (Q,) -> (Q, P) float32; True counts repeats."""
    made = index(passages, Words())

    def score(queries: list[str], repeats: bool) -> Scores:
        asked = made.queries(queries, once=not repeats)
        scores: Scores = (asked @ made.weights.T).toarray()
        return scores

    return score
