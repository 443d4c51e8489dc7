"""Quick checks on held-out pairs while training: nDCG@10 of each head over all dev passages.

Knows nothing of indexes or of the evaluation suites; what it measures chooses settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tercet.train.examples import Examples

Rows = npt.NDArray[np.int64]
Encode = Callable[[Rows], Embeddings]  # places of texts -> their embeddings


@dataclass(frozen=True)
class DevSet:
    """Q questions and the P passages that all of them search."""

    name: str
    queries: Rows  # (Q,) places in the store
    passages: Rows  # (P,) places in the store, different
    relevant: Rows  # (Q,) column of each question's passage


def dev_sets(
    examples: Examples, names: Sequence[str], *, most: int = 500, seed: int = 0
) -> list[DevSet]:
    """One set per source (file) of held-out rows, by name, of at most so many questions.

    Rows with a passage of more than 250 tokens are left out: whole long documents are not for a
    quick check. A source of them alone is kept as it is.
    """
    lengths = examples.lengths()
    first = examples.positives.offsets[:-1]
    has = np.diff(examples.positives.offsets) > 0
    out = []
    for number, name in enumerate(names):
        rows = np.flatnonzero((examples.source == number) & has)
        passages = examples.positives.values[first[rows]]
        short = rows[lengths[passages] <= 250]
        rows = short if len(short) else rows
        if not len(rows):
            continue
        # a source has its own draw: what other sources are there does not change it
        draw = np.random.default_rng((seed, len(rows)))
        rows = np.sort(draw.permutation(rows)[:most])
        own = examples.positives.values[first[rows]]
        different, relevant = np.unique(own, return_inverse=True)
        out.append(DevSet(name, np.asarray(examples.query[rows]), different, relevant))
    if not out:
        raise InputError("data.dev: no row with a query and a positive")
    return out


def ndcg_at_10(scores: Scores, relevant: Rows) -> float:
    """Mean nDCG@10 with one relevant passage a query: 1 / log2(1 + rank), ties against us."""
    own = scores[np.arange(len(relevant)), relevant]
    ranks = (scores >= own[:, None]).sum(1)
    return float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0).mean())


def head_scores(queries: Embeddings, passages: Embeddings) -> dict[Head, Scores]:
    """The raw score matrix (Q, P) of every head that both sides have."""
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    both = [head for head in HEADS if head in queries.heads and head in passages.heads]
    return {head: functions[head](queries, passages) for head in both}


def check(
    sets: list[DevSet], encode: Encode, weights: Weights | None = None
) -> dict[str, dict[str, float]]:
    """nDCG@10 in percent of every head (and of the weighted sum) on every set."""
    report = {}
    for dev in sets:
        parts = head_scores(encode(dev.queries), encode(dev.passages))
        found: dict[str, float] = {
            head: round(100 * ndcg_at_10(scores, dev.relevant), 1) for head, scores in parts.items()
        }
        if weights is not None and len(parts) > 1:
            total = weighted_sum(parts, weights)
            found["all"] = round(100 * ndcg_at_10(total, dev.relevant), 1)
        report[dev.name] = found
    return report


def tune_weights(
    sets: list[DevSet],
    encode: Encode,
    *,
    grid: tuple[float, ...] = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0),
) -> tuple[Weights, dict[str, float]]:
    """The weights (dense fixed at 1) whose sum has the best mean nDCG@10 over the dev sets.

    Every head keeps a weight: the sets are kinds of text that were trained on, and a head that
    adds nothing there may be what finds the others.
    """
    scored = [(dev, head_scores(encode(dev.queries), encode(dev.passages))) for dev in sets]
    best, best_found, best_mean = Weights(), {}, -1.0
    for sparse in grid:
        for multi in grid:
            weights = Weights(1.0, sparse, multi)
            found = {
                dev.name: 100 * ndcg_at_10(weighted_sum(parts, weights), dev.relevant)
                for dev, parts in scored
            }
            mean = sum(found.values()) / len(found)
            if mean > best_mean:
                best, best_found, best_mean = weights, found, mean
    return best, best_found
