"""A second implementation of nDCG@10 and Recall@100, over a matrix of scores: the tests' oracle.

The measures are those of trec_eval: the gain is the grade, ties go to the id that sorts last.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.scores import Scores

DEPTH = 100


@dataclass(frozen=True)
class Judged:
    """Passages in descending order of id, and the gains of each query, those above 0."""

    passage_ids: list[str]
    gains: list[dict[str, int]]


def measure(scores: Scores, data: Judged) -> npt.NDArray[np.float64]:
    """nDCG@10 and Recall@100 of each query, (Q, P) -> (Q, 2); Jarvelin and Kekalainen 2002."""
    discounts = 1 / np.log2(np.arange(2, 12))
    out = np.zeros((len(scores), 2))
    top = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
    for row, ranked in enumerate(top):
        gains = data.gains[row]
        found = [gains.get(data.passage_ids[i], 0) for i in ranked]
        best = sorted(gains.values(), reverse=True)[:10]
        ideal = float(np.dot(best, discounts[: len(best)]))
        out[row, 0] = np.dot(found[:10], discounts[: len(found[:10])]) / ideal
        out[row, 1] = np.count_nonzero(found) / len(gains)
    return out
