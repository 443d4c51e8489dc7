"""Rankings of every representation and of their sums: the columns of a report.

Takes embeddings and a protocol; knows nothing of texts, judgements or measures. Places are numbers
of passages in their corpus, rows are numbers of queries.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from tercet.config import Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.evaluate.tasks import Protocol
from tercet.ranking import DenseRanker, MultiRanker, Places, Ranked, Ranker, SparseRanker
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum

DEPTH = 1000  # ranks of a run
QUERIES = 512  # ranked at once
PAIRS = 1 << 24  # of translations, compared at once

Advance = Callable[[int], None]  # so many queries more are done
MultiScores = Callable[[Places, Places], Scores]  # of pairs that are sorted by row


def rankers(queries: Embeddings, passages: Embeddings, device: torch.device) -> dict[Head, Ranker]:
    """One for every head that both sides have."""
    out: dict[Head, Ranker] = {}
    size = len(passages)
    if queries.dense is not None and passages.dense is not None:
        out["dense"] = DenseRanker(queries.dense, passages.dense, size, device)
    if queries.sparse is not None and passages.sparse is not None:
        out["sparse"] = SparseRanker(queries.sparse, passages.sparse, size)
    if queries.multi is not None and passages.multi is not None:
        out["multi"] = MultiRanker(queries, passages, size)
    return out


@dataclass(frozen=True)
class Parts:
    """Pairs of queries and candidates, sorted by row, and the raw scores of heads for them."""

    rows: Places
    places: Places
    scores: dict[Head, Scores]

    def ranked(self, weights: Weights, queries: int) -> Ranked:
        """The candidates by the weighted sum."""
        total = weighted_sum(self.scores, weights)
        return Ranked.of(self.rows, self.places, total, queries, DEPTH)


@dataclass(frozen=True)
class Scorers:
    """Every head that queries and passages have; `multi` may be a function of pairs instead."""

    queries: int
    rankers: dict[Head, Ranker]
    multi: MultiScores | None

    @staticmethod
    def of(
        queries: Embeddings,
        passages: Embeddings,
        device: torch.device,
        multi: MultiScores | None = None,
    ) -> "Scorers":
        """multi stands in for the multi-vectors of passages where these are not kept."""
        found = rankers(queries, passages, device)
        if multi is None and "multi" in found:
            multi = found["multi"].score
        return Scorers(len(queries), found, multi)

    def firsts(self, protocol: Protocol, advance: Advance) -> tuple[dict[Head, Ranked], Parts]:
        """The best passages of dense and sparse, and the scored union of both (empty without)."""
        count = max(DEPTH, protocol.union, protocol.rerank)
        heads: list[Head] = [head for head in ("dense", "sparse") if head in self.rankers]
        found: dict[Head, list[Ranked]] = {head: [] for head in heads}
        both: list[Parts] = []
        for first in range(0, self.queries, QUERIES):
            some = np.arange(first, min(first + QUERIES, self.queries))
            best = {head: self.rankers[head].top(some, count) for head in heads}
            for head, ranked in best.items():
                found[head].append(cut(ranked, DEPTH))
            if len(heads) > 1:
                rows, places = unions([cut(ranked, protocol.union) for ranked in best.values()])
                scores = {head: self.rankers[head].score(some[rows], places) for head in heads}
                both.append(Parts(some[rows], places, scores))
            advance(len(some))
        return {head: joined(parts) for head, parts in found.items()}, _together(both)

    def again(self, base: Ranked, advance: Advance) -> Parts:
        """What is ranked, scored by all heads."""
        rows, places = unions([base])
        scores: dict[Head, Scores] = {
            head: self.rankers[head].score(rows, places)
            for head in ("dense", "sparse")
            if head in self.rankers
        }
        if self.multi is not None:
            scores["multi"] = self.multi(rows, places)
        advance(self.queries)
        return Parts(rows, places, scores)


def rank(
    scorers: Scorers, protocol: Protocol, weights: tuple[Weights, Weights], advance: Advance
) -> dict[str, Ranked]:
    """Every column that the heads allow, by name: heads, "dense+sparse" and "all".

    weights are those of dense+sparse and of all. M3 paper, section 4: multi-vector and all re-rank
    the best `protocol.rerank` of dense (of sparse in a model without), dense+sparse the union of
    the best `protocol.union` of each.
    """
    found, both = scorers.firsts(protocol, advance)
    out: dict[str, Ranked] = dict(found.items())
    parts = scorers.again(cut(base_of(found), protocol.rerank), advance)
    if "multi" in parts.scores:
        only = Parts(parts.rows, parts.places, {"multi": parts.scores["multi"]})
        out["multi"] = only.ranked(Weights(0, 0, 1), scorers.queries)
    if len(found) > 1:
        out["dense+sparse"] = both.ranked(weights[0], scorers.queries)
    if len(parts.scores) > 1 and "multi" in parts.scores:
        out["all"] = parts.ranked(weights[1], scorers.queries)
    return out


def base_of(found: dict[Head, Ranked]) -> Ranked:
    """Whose candidates are ranked again; raises InputError for a model of multi-vectors alone."""
    if not found:
        raise InputError(
            "the model has neither a dense nor a sparse head: multi-vectors alone find no "
            "candidates"
        )
    return found["dense"] if "dense" in found else found["sparse"]


def _together(several: list[Parts]) -> Parts:
    if not several:
        return Parts(np.empty(0, np.int64), np.empty(0, np.int64), {})
    return Parts(
        np.concatenate([part.rows for part in several]),
        np.concatenate([part.places for part in several]),
        {head: np.concatenate([p.scores[head] for p in several]) for head in several[0].scores},
    )


def unions(several: Iterable[Ranked]) -> tuple[Places, Places]:
    """Rows and places found by any, once each, sorted."""
    rows, places = [], []
    for ranked in several:
        at = np.nonzero(ranked.places >= 0)
        rows.append(at[0])
        places.append(ranked.places[at])
    flat = np.concatenate(places)
    width = int(flat.max(initial=0)) + 1
    return np.divmod(np.unique(np.concatenate(rows) * width + flat), width)


def cut(ranked: Ranked, count: int) -> Ranked:
    """The first so many ranks."""
    return Ranked(ranked.places[:, :count], ranked.scores[:, :count])


def joined(parts: list[Ranked]) -> Ranked:
    """Rankings of some queries and of those behind them as one."""
    width = max(part.places.shape[1] for part in parts)
    places = [np.pad(p.places, ((0, 0), (0, width - p.places.shape[1])), constant_values=-1)
              for p in parts]  # fmt: skip
    scores = [np.pad(p.scores, ((0, 0), (0, width - p.scores.shape[1])),
              constant_values=-np.inf) for p in parts]  # fmt: skip
    return Ranked(np.concatenate(places), np.concatenate(scores))


def both_ways(
    left: Embeddings, right: Embeddings, weights: tuple[Weights, Weights]
) -> dict[str, tuple[Places, Places]]:
    """The place of the best right side for each left one (n,), and the other way, by column."""
    there, back = best_of(left, right, weights), best_of(right, left, weights)
    return {name: (there[name], back[name]) for name in there}


def best_of(
    asked: Embeddings, others: Embeddings, weights: tuple[Weights, Weights]
) -> dict[str, Places]:
    """The best of the others for each that asks, (n,), by column; in blocks of those that ask."""
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    found: dict[str, list[Places]] = {}
    step = max(1, PAIRS // max(1, len(others)))
    for first in range(0, len(asked), step):
        some = asked[first : first + step]
        parts = {head: functions[head](some, others) for head in asked.heads}
        columns: dict[str, Scores] = dict(parts.items())
        if "dense" in parts and "sparse" in parts:
            two: dict[Head, Scores] = {"dense": parts["dense"], "sparse": parts["sparse"]}
            columns["dense+sparse"] = weighted_sum(two, weights[0])
        if len(parts) > 1 and "multi" in parts:
            columns["all"] = weighted_sum(parts, weights[1])
        for name, scores in columns.items():
            found.setdefault(name, []).append(scores.argmax(1))
    return {name: np.concatenate(places) for name, places in found.items()}
