"""Weights and the least score of hybrid sums, found on dev tasks: scores are computed once.

Never given the tasks that are reported. Knows nothing of files or of how scores are made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.config import Head, Weights
from tercet.errors import InputError
from tercet.evaluate.systems import Parts, Scorers
from tercet.evaluate.tasks import Protocol, Task
from tercet.hybrid import best_weights

# Shares of the sum, dense 1: lexical scores have no bound, so the grid spans two decades.
GRID = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0)
FINER = (0.75, 0.87, 1.0, 1.15, 1.33)  # around the best, once more
NDCG = 10  # ranks that count
LOST = 0.01  # of the questions with an answer, whose best one may score less than the least


@dataclass(frozen=True)
class Candidates:
    """Pairs of one dev task: their raw scores, gains (n,), and ideal DCG@10 of each query."""

    queries: int
    parts: Parts
    gains: npt.NDArray[np.float64]
    ideal: npt.NDArray[np.float64]

    def ndcg(self, weights: Weights) -> float:
        """Mean nDCG@10 of the weighted sum, over queries with a relevant passage."""
        total = self.parts.total(weights)
        order = np.lexsort((self.parts.places, -total, self.parts.rows))
        rows = self.parts.rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(self.queries))[rows]
        counted = rank < NDCG
        gained = self.gains[order][counted] / np.log2(2 + rank[counted])
        sums = np.bincount(rows[counted], weights=gained, minlength=self.queries)
        judged = self.ideal > 0
        return float(np.mean(sums[judged] / self.ideal[judged]))


@dataclass(frozen=True)
class Tuned:
    """The best weights, and the mean nDCG@10 of the dev tasks with them and with those before."""

    weights: Weights
    after: float
    before: float
    tasks: tuple[str, ...]
    min_score: float | None = None  # of an answer with these weights; None: not asked for
    refused: float | None = None  # share of the questions below it where their answers are left out

    def __str__(self) -> str:
        names = ", ".join(self.tasks[:3]) + (", ..." if len(self.tasks) > 3 else "")
        return (
            f"tuning on {names} (nDCG@10 {100 * self.before:.1f} with the weights of before, "
            f"{100 * self.after:.1f} with these)"
        )


def least_score(tasks: Iterable[Candidates], weights: Weights) -> tuple[float, float]:
    """The hybrid score below which the best answers of 1% of questions lie, and what it refuses.

    That is the share of questions whose best candidate scores less once their answers are left
    out, as if the corpus lacked them. Raises InputError where no answer is a candidate.
    """
    answers: list[npt.NDArray[np.float64]] = []
    others: list[npt.NDArray[np.float64]] = []
    for task in tasks:
        total = task.parts.total(weights)
        for best, which in ((answers, task.gains > 0), (others, task.gains <= 0)):
            top = np.full(task.queries, -np.inf)
            np.maximum.at(top, task.parts.rows[which], total[which])
            best.append(top[top > -np.inf])
    found = np.sort(np.concatenate(answers))
    if not len(found):
        raise InputError("no answer is among the candidates: there is no least score to learn")
    least = float(np.floor(1e4 * found[int(LOST * len(found))]) / 1e4)
    wrong = np.concatenate(others)
    return least, float((wrong < least).mean()) if len(wrong) else 0.0


def candidates_of(
    task: Task, scorers: Scorers, ids: Sequence[str], protocol: Protocol
) -> Candidates:
    """The candidates of "all" on a dev task; raises InputError where it has no judgements."""
    if not any(gain > 0 for gains in task.qrels.values() for gain in gains.values()):
        raise InputError(f"{task.name} has no judgements: weights are tuned on nDCG@10")
    ranked = scorers.first_stage(protocol, lambda done: None)
    rows, places = scorers.candidates(ranked, protocol.rerank)
    if task.ignore_identical_ids:
        names = list(task.queries)
        pairs = zip(rows.tolist(), places.tolist(), strict=True)
        others = [names[row] != ids[place] for row, place in pairs]
        rows, places = rows[others], places[others]
    parts = scorers.score(rows, places, scorers.heads)
    judged = [task.qrels.get(query, {}) for query in task.queries]
    pairs = zip(rows.tolist(), places.tolist(), strict=True)
    gains = [max(0, judged[row].get(ids[place], 0)) for row, place in pairs]
    discounts = 1 / np.log2(np.arange(2, NDCG + 2))
    ideal = []
    for of in judged:
        best = sorted((gain for gain in of.values() if gain > 0), reverse=True)[:NDCG]
        ideal.append(float(np.dot(best, discounts[: len(best)])))
    return Candidates(len(judged), parts, np.array(gains, dtype=np.float64), np.array(ideal))


def tune(suites: Sequence[Mapping[str, Candidates]], before: Weights) -> Tuned:
    """The weights with the best mean nDCG@10 over dev tasks; dense is 1 where the model has it.

    Of several suites each counts alike, whatever the number of its tasks. A grid over the weights
    of the other heads, then a finer one around its best. Of equal ones the nearest to those of
    before.
    """
    heads: list[Head] = list(next(iter(suites[0].values())).parts.scores)

    def value(weights: Weights) -> float:
        means = [np.mean([task.ndcg(weights) for task in suite.values()]) for suite in suites]
        return float(np.mean(means))

    first: dict[Head, Sequence[float]] = {heads[0]: (1.0,)}
    coarse = best_weights(value, first | dict.fromkeys(heads[1:], GRID), near=before)
    finer = {
        head: [round(getattr(coarse, head) * factor, 4) for factor in FINER] for head in heads[1:]
    }
    best = best_weights(value, first | finer, near=before)
    if round(value(best), 6) <= round(value(before), 6):  # a tie changes nothing
        best = before
    return Tuned(
        best, value(best), value(before), tuple(name for suite in suites for name in suite)
    )
