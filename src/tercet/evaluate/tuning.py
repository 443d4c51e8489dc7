"""Weights of the hybrid sums, found on dev tasks: a grid over scores that are computed once.

Never given the tasks that are reported. Knows nothing of models or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from tercet.config import Head, Weights
from tercet.errors import InputError
from tercet.evaluate.columns import Parts, Scorers, base_of, cut, unions
from tercet.evaluate.tasks import Protocol, Task

# Shares of the sum, dense 1: lexical scores have no bound, so the grid spans two decades.
GRID = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0)
FINER = (0.75, 0.87, 1.0, 1.15, 1.33)  # around the best, once more
DEPTH = 10

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Pairs of one dev task: their raw scores, gains (n,), and ideal DCG@10 of each query."""

    queries: int
    parts: Parts
    gains: Values
    ideal: Values

    def ndcg(self, weights: Weights) -> float:
        """Mean nDCG@10 of the weighted sum, over queries with a relevant passage."""
        total = self.parts.total(weights)
        order = np.lexsort((self.parts.places, -total, self.parts.rows))
        rows = self.parts.rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(self.queries))[rows]
        kept = rank < DEPTH
        gained = self.gains[order][kept] / np.log2(2 + rank[kept])
        found = np.bincount(rows[kept], weights=gained, minlength=self.queries)
        counted = self.ideal > 0
        return float(np.mean(found[counted] / self.ideal[counted]))


@dataclass(frozen=True)
class Tuned:
    """The best weights, and the mean nDCG@10 of the dev tasks with them and with those before."""

    weights: Weights
    after: float
    before: float
    tasks: tuple[str, ...]


def candidates(task: Task, scorers: Scorers, ids: Sequence[str], protocol: Protocol) -> Candidates:
    """The candidates of "all" on a dev task; raises InputError where it has no judgements."""
    if not task.qrels:
        raise InputError(f"{task.name} has no judgements: weights are tuned on nDCG@10")
    found, _ = scorers.firsts(protocol, lambda done: None)
    rows, places = unions([cut(base_of(found), protocol.rerank)])
    parts = scorers.scored(rows, places, scorers.heads)
    asked = [task.qrels.get(query, {}) for query in task.queries]
    pairs = zip(rows.tolist(), places.tolist(), strict=True)
    gains = [max(0, asked[row].get(ids[at], 0)) for row, at in pairs]
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    ideal = []
    for judged in asked:
        best = sorted((gain for gain in judged.values() if gain > 0), reverse=True)[:DEPTH]
        ideal.append(float(np.dot(best, discounts[: len(best)])))
    if not any(ideal):
        raise InputError(f"{task.name}: no query has a relevant passage")
    return Candidates(len(asked), parts, np.array(gains, dtype=np.float64), np.array(ideal))


def tune(suites: Sequence[Mapping[str, Candidates]], before: Weights) -> Tuned:
    """The weights with the best mean nDCG@10 over dev tasks; dense is 1 where the model has it.

    Of several suites each counts alike, whatever the number of its tasks. A grid over the weights
    of the other heads, then a finer one around its best. Of equal ones the nearest to those of
    before.
    """
    heads: list[Head] = list(next(iter(suites[0].values())).parts.scores)
    if len(heads) < 2:
        raise InputError(f"the model has but one head, {heads[0]}: there is nothing to weigh")
    others = heads[1:]

    def value(weights: Weights) -> float:
        means = [np.mean([some.ndcg(weights) for some in dev.values()]) for dev in suites]
        return float(np.mean(means))

    def made(numbers: Sequence[float]) -> Weights:
        given = dict(zip(others, numbers, strict=True)) | {heads[0]: 1.0}
        return Weights(given.get("dense", 0), given.get("sparse", 0), given.get("multi", 0))

    def best_of(grids: Sequence[Sequence[float]]) -> Weights:
        tried = [made(numbers) for numbers in product(*grids)]
        return max(tried, key=lambda w: (round(value(w), 6), -_distance(w, before)))

    coarse = best_of([GRID for _ in others])
    around = [[round(getattr(coarse, head) * f, 4) for f in FINER] for head in others]
    best = best_of(around)
    if value(best) <= value(before):
        best = before
    return Tuned(best, value(best), value(before), tuple(name for dev in suites for name in dev))


def _distance(one: Weights, other: Weights) -> float:
    scale = one.dense / other.dense if one.dense and other.dense else 1.0
    return sum(abs(a - scale * b) for a, b in zip(one.as_tuple(), other.as_tuple(), strict=True))
