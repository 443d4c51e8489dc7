"""Rankings of every representation and of their sums: the columns of a report.

Takes embeddings and a protocol; knows nothing of texts, judgements or measures. Places are numbers
of passages in their corpus, rows are numbers of queries.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.evaluate.encoding import Vectors
from tercet.evaluate.tasks import Protocol
from tercet.ranking import DenseRanker, MultiRanker, Places, Ranked, Ranker, SparseRanker
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum

DEPTH = 1000  # ranks of a run
QUERIES = 512  # ranked at once
SHARE = 0.2  # of all pairs of a block: from there on MaxSim computes them all, which is faster

Advance = Callable[[int], None]  # so many queries more are done
MultiScores = Callable[[Places, Places], Scores]  # of pairs that are sorted by row


@dataclass(frozen=True)
class Blocks:
    """The scores of one head over a corpus in blocks."""

    rankers: list[Ranker]
    firsts: list[int]
    sizes: list[int]

    def top(self, queries: Places, count: int) -> Ranked:
        """The best `count` passages of each query."""
        rows, places = np.empty(0, np.int64), np.empty(0, np.int64)
        scores = np.empty(0, np.float32)
        best = Ranked.of(rows, places, scores, len(queries), count)
        for ranker, first in zip(self.rankers, self.firsts, strict=True):
            parts = [pairs(best), pairs(ranker.top(queries, count), shift=first)]
            rows, places, scores = (np.concatenate(some) for some in zip(*parts, strict=True))
            best = Ranked.of(rows, places, scores, len(queries), count)
        return best

    def score(self, queries: Places, places: Places) -> Scores:
        """Scores of n pairs; the pairs of a query must be neighbours."""
        out = np.zeros(len(places), dtype=np.float32)
        for ranker, first, size in zip(self.rankers, self.firsts, self.sizes, strict=True):
            mine = np.flatnonzero((places >= first) & (places < first + size))
            if len(mine):
                out[mine] = ranker.score(queries[mine], places[mine] - first)
        return out


@dataclass(frozen=True)
class WholeMulti(MultiRanker):
    """MaxSim that computes all pairs at once where most of them are asked for."""

    def score(self, queries: Places, places: Places) -> Scores:
        asked = np.unique(queries)
        if len(places) < SHARE * len(asked) * self.candidates:
            return super().score(queries, places)
        scores = maxsim_scores(self.queries[asked], self.passages)
        out: Scores = scores[np.searchsorted(asked, queries), places]
        return out


def head_blocks(
    head: Head, queries: Embeddings, passages: Vectors, device: torch.device
) -> Blocks | None:
    """The scores of one head, None where either side lacks it."""
    rankers: list[Ranker] = []
    for block in passages.blocks:
        if head == "dense" and queries.dense is not None and block.dense is not None:
            rankers.append(DenseRanker(queries.dense, block.dense, len(block), device))
        elif head == "sparse" and queries.sparse is not None and block.sparse is not None:
            rankers.append(SparseRanker(queries.sparse, block.sparse, len(block)))
        elif head == "multi" and queries.multi is not None and block.multi is not None:
            rankers.append(WholeMulti(queries, block, len(block)))
        else:
            return None
    return Blocks(rankers, passages.firsts, [len(block) for block in passages.blocks])


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
    blocks: dict[Head, Blocks]
    multi: MultiScores | None

    @staticmethod
    def of(
        queries: Embeddings,
        passages: Vectors,
        device: torch.device,
        multi: MultiScores | None = None,
    ) -> "Scorers":
        """multi stands in for the multi-vectors of passages where these are not kept."""
        found = {head: head_blocks(head, queries, passages, device) for head in HEADS}
        blocks = {head: some for head, some in found.items() if some is not None}
        if multi is None and "multi" in blocks:
            multi = blocks["multi"].score
        return Scorers(len(queries), blocks, multi)

    def firsts(self, protocol: Protocol, advance: Advance) -> tuple[dict[Head, Ranked], Parts]:
        """The best passages of dense and sparse, and the scored union of both (empty without)."""
        count = max(DEPTH, protocol.union, protocol.rerank)
        heads: list[Head] = [head for head in ("dense", "sparse") if head in self.blocks]
        found: dict[Head, list[Ranked]] = {head: [] for head in heads}
        both: list[Parts] = []
        for first in range(0, self.queries, QUERIES):
            some = np.arange(first, min(first + QUERIES, self.queries))
            best = {head: self.blocks[head].top(some, count) for head in heads}
            for head, ranked in best.items():
                found[head].append(cut(ranked, DEPTH))
            if len(heads) > 1:
                rows, places = unions([cut(ranked, protocol.union) for ranked in best.values()])
                scores = {head: self.blocks[head].score(some[rows], places) for head in heads}
                both.append(Parts(some[rows], places, scores))
            advance(len(some))
        return {head: joined(parts) for head, parts in found.items()}, _together(both)

    def again(self, base: Ranked, advance: Advance) -> Parts:
        """What is ranked, scored by all heads."""
        rows, places = unions([base])
        scores: dict[Head, Scores] = {
            head: self.blocks[head].score(rows, places)
            for head in ("dense", "sparse")
            if head in self.blocks
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


def pairs(ranked: Ranked, *, shift: int = 0) -> tuple[Places, Places, Scores]:
    """Rows, places and scores of what is ranked, in order; `shift` is added to the places."""
    rows, ranks = np.nonzero(ranked.places >= 0)
    return rows, ranked.places[rows, ranks] + shift, ranked.scores[rows, ranks]


def unions(several: Iterable[Ranked]) -> tuple[Places, Places]:
    """Rows and places found by any, once each, sorted."""
    found = [pairs(ranked)[:2] for ranked in several]
    rows, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    both = np.unique(np.stack((rows, places)), axis=1)
    return both[0], both[1]


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
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    there = {head: functions[head](left, right) for head in left.heads}
    back = {head: scores.T for head, scores in there.items()}
    if "multi" in back:  # a mean over the tokens of the side that asks
        back["multi"] = maxsim_scores(right, left)
    columns: dict[str, list[dict[Head, Scores]]] = {h: [{h: there[h]}, {h: back[h]}] for h in there}
    of = dict.fromkeys(columns, Weights(1, 1, 1))
    if "dense" in there and "sparse" in there:
        two: tuple[Head, ...] = ("dense", "sparse")
        columns["dense+sparse"] = [{h: scores[h] for h in two} for scores in (there, back)]
        of["dense+sparse"] = weights[0]
    if len(there) > 1 and "multi" in there:
        columns["all"], of["all"] = [there, back], weights[1]
    out = {}
    for name, ways in columns.items():
        first, second = (weighted_sum(parts, of[name]).argmax(1) for parts in ways)
        out[name] = (first, second)
    return out
