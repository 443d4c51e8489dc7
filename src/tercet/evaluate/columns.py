"""Rankings of every representation and of their sums: the columns of a report.

Takes embeddings and a protocol; knows nothing of texts, judgements or measures. Places are numbers
of passages in their corpus, rows are numbers of queries. A passage may be embedded in chunks: then
it counts as its best one does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from tercet.config import Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.evaluate.tasks import Protocol
from tercet.hybrid import DenseRanker, MultiRanker, Ranked, Ranker, SparseRanker
from tercet.scores import Places, Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum

DEPTH = 1000  # ranks of a run
QUERIES = 512  # ranked at once
PAIRS = 1 << 24  # of translations, compared at once
SCORED = 1 << 22  # pairs of a query and a chunk, scored at once
FETCH, MORE = 3, 4  # chunks asked for per passage wanted; times that where they do not do

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
class Owners:
    """Which passage each of n chunks is of: P passages have theirs in a row, one at least."""

    of: Places  # (n,), sorted
    bounds: Places  # (P + 1,): chunks bounds[p] to bounds[p + 1] are of passage p

    @staticmethod
    def make(of: Places, passages: int) -> "Owners":
        """From the passage of each chunk."""
        return Owners(of, np.searchsorted(of, np.arange(passages + 1)))

    def chunks(self, rows: Places, places: Places) -> tuple[Places, Places, Places]:
        """Pairs of rows and passages as pairs of rows and all their chunks, and where each starts.

        Returns rows (m,), chunks (m,) and starts (n,).
        """
        sizes = self.bounds[places + 1] - self.bounds[places]
        starts = np.cumsum(sizes) - sizes
        at = np.arange(sizes.sum()) + np.repeat(self.bounds[places] - starts, sizes)
        return np.repeat(rows, sizes), at, starts

    def top(self, ranker: Ranker, queries: Places, count: int) -> Ranked:
        """The passages with the best chunks: as many as `count`, however the chunks crowd.

        Asks for more chunks until there are so many passages or no more chunks.
        """
        passages, size = len(self.bounds) - 1, len(self.of)
        first = fetch = min(size, FETCH * count)
        waiting = np.arange(len(queries))
        parts: list[tuple[Places, Places, Scores]] = []
        while len(waiting):
            short = []
            step = max(1, len(queries) * first // fetch)  # no more in memory than the first time
            for start in range(0, len(waiting), step):
                some = waiting[start : start + step]
                found = ranker.top(queries[some], fetch)
                rows, ranks = np.nonzero(found.places >= 0)
                numbers = rows * passages + self.of[found.places[rows, ranks]]
                numbers, best = np.unique(numbers, return_index=True)  # the first is the best
                scores = found.scores[rows, ranks][best]
                rows, places = np.divmod(numbers, passages)
                enough = np.bincount(rows, minlength=len(some)) >= min(count, passages)
                enough |= (found.places >= 0).sum(1) < fetch
                enough |= fetch == size
                kept = enough[rows]
                parts.append((some[rows[kept]], places[kept], scores[kept]))
                short.append(some[~enough])
            waiting, fetch = np.concatenate(short), min(size, MORE * fetch)
        rows, places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Ranked.of(rows, places, scores, len(queries), count)


@dataclass(frozen=True)
class Parts:
    """Pairs of queries and candidates, sorted by row, and the raw scores of heads for them.

    Of a candidate in chunks there is a score for each, those of pair i from starts[i] on.
    """

    rows: Places
    places: Places
    scores: dict[Head, Scores]
    starts: Places | None = None

    def total(self, weights: Weights, heads: Iterable[Head] | None = None) -> Scores:
        """The weighted sum (of some heads) for each pair: the highest that one chunk has."""
        parts = self.scores if heads is None else {head: self.scores[head] for head in heads}
        total = weighted_sum(parts, weights)
        return total if self.starts is None else np.maximum.reduceat(total, self.starts)


@dataclass(frozen=True)
class Scorers:
    """Every head that queries and passages have; `multi` may be a function of pairs instead.

    With owners the rankers' passages are chunks, and what is given and taken here is passages.
    """

    queries: int
    rankers: dict[Head, Ranker]
    multi: MultiScores | None
    owners: Owners | None = None

    @staticmethod
    def of(
        queries: Embeddings,
        passages: Embeddings,
        device: torch.device,
        multi: MultiScores | None = None,
        owners: Owners | None = None,
    ) -> "Scorers":
        """multi stands in for the multi-vectors of passages where these are not kept."""
        found = rankers(queries, passages, device)
        if multi is None and "multi" in found:
            multi = found["multi"].score
        return Scorers(len(queries), found, multi, owners)

    @property
    def heads(self) -> tuple[Head, ...]:
        """In the order of sums."""
        multi: tuple[Head, ...] = () if self.multi is None else ("multi",)
        return (*self._searching, *multi)

    @property
    def _searching(self) -> tuple[Head, ...]:
        return tuple(head for head in ("dense", "sparse") if head in self.rankers)

    def firsts(
        self, protocol: Protocol, advance: Advance, weights: Weights | None = None
    ) -> tuple[dict[Head, Ranked], Ranked | None]:
        """The best passages of dense and sparse, and the union of both by the weighted sum.

        No union without weights or with but one of the heads.
        """
        count = max(DEPTH, protocol.union, protocol.rerank)
        heads = self._searching
        found: dict[Head, list[Ranked]] = {head: [] for head in heads}
        both: list[Ranked] = []
        for first in range(0, self.queries, QUERIES):
            some = np.arange(first, min(first + QUERIES, self.queries))
            best = {head: self._top(head, some, count) for head in heads}
            for head, ranked in best.items():
                found[head].append(cut(ranked, DEPTH))
            if len(heads) > 1 and weights is not None:
                rows, places = unions([cut(ranked, protocol.union) for ranked in best.values()])
                total = self.sums(some[rows], places, {"": (heads, weights)})[""]
                both.append(Ranked.of(rows, places, total, len(some), DEPTH))
            advance(len(some))
        return {head: joined(parts) for head, parts in found.items()}, joined(
            both
        ) if both else None

    def _top(self, head: Head, queries: Places, count: int) -> Ranked:
        if self.owners is None:
            return self.rankers[head].top(queries, count)
        return self.owners.top(self.rankers[head], queries, count)

    def scored(self, rows: Places, places: Places, heads: Iterable[Head]) -> Parts:
        """Pairs, sorted by row, with the scores of heads."""
        starts = None
        asked, at = rows, places
        if self.owners is not None:
            asked, at, starts = self.owners.chunks(rows, places)
        scores: dict[Head, Scores] = {}
        for head in heads:
            if head == "multi" and self.multi is not None:
                scores[head] = self.multi(asked, at)
            else:
                scores[head] = self.rankers[head].score(asked, at)
        return Parts(rows, places, scores, starts)

    def sums(
        self, rows: Places, places: Places, wanted: Mapping[str, tuple[Iterable[Head], Weights]]
    ) -> dict[str, Scores]:
        """Weighted sums of some heads by name, for pairs sorted by row; see `Parts.total`."""
        heads = [head for head in self.heads if any(head in of for of, _ in wanted.values())]
        out = {name: np.empty(len(rows), dtype=np.float32) for name in wanted}
        for some in self._slices(places, heads):
            parts = self.scored(rows[some], places[some], heads)
            for name, (of, weights) in wanted.items():
                out[name][some] = parts.total(weights, of)
        return out

    def _slices(self, places: Places, heads: Iterable[Head]) -> Iterator[slice]:
        """Pairs in runs of about so many scores as fit in memory."""
        if self.owners is None or ("multi" in heads and "multi" not in self.rankers):
            yield slice(0, len(places))  # a function of pairs reads the corpus once for all of them
            return
        ends = np.cumsum(self.owners.bounds[places + 1] - self.owners.bounds[places])
        edges = [0, *(np.flatnonzero(np.diff(ends // SCORED)) + 1).tolist(), len(places)]
        yield from (slice(a, b) for a, b in pairwise(edges) if a < b)


def rank(
    scorers: Scorers, protocol: Protocol, weights: tuple[Weights, Weights], advance: Advance
) -> dict[str, Ranked]:
    """Every column that the heads allow, by name: heads, "dense+sparse" and "all".

    weights are those of dense+sparse and of all. M3 paper, section 4: multi-vector and all re-rank
    the best `protocol.rerank` of dense (of sparse in a model without), dense+sparse the union of
    the best `protocol.union` of each. Of candidates in chunks every chunk is scored.
    """
    found, both = scorers.firsts(protocol, advance, weights[0])
    out: dict[str, Ranked] = dict(found.items())
    wanted: dict[str, tuple[Iterable[Head], Weights]] = {}
    if scorers.multi is not None:
        wanted["multi"] = (("multi",), Weights(0, 0, 1))
        if len(scorers.heads) > 1:
            wanted["all"] = (scorers.heads, weights[1])
    rows, places = unions([cut(base_of(found), protocol.rerank)])
    totals = scorers.sums(rows, places, wanted)
    if both is not None:
        out["dense+sparse"] = both
    for name, total in totals.items():
        out[name] = Ranked.of(rows, places, total, scorers.queries, DEPTH)
    advance(scorers.queries)
    return out


def base_of(found: dict[Head, Ranked]) -> Ranked:
    """Whose candidates are ranked again; raises InputError for a model of multi-vectors alone."""
    if not found:
        raise InputError(
            "the model has neither a dense nor a sparse head: multi-vectors alone find no "
            "candidates"
        )
    return found["dense"] if "dense" in found else found["sparse"]


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
