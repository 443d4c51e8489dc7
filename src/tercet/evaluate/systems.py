"""The systems of a report: a head, or a weighted sum of heads, ranking a corpus.

Dense and sparse search all passages (first stage); multi-vectors and sums rank candidates again.
Takes embeddings and a protocol; knows nothing of texts, judgements or measures. Places are numbers
of passages in their corpus, rows are numbers of queries. A passage may be embedded in chunks: then
it counts as its best one does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tercet.config import Head, Weights
from tercet.embeddings import Embeddings
from tercet.evaluate.tasks import Protocol
from tercet.evaluate.vectors import Owners
from tercet.hybrid import Ranked, Ranker, rankers, union
from tercet.scores import SCORES, Places, Scores, weighted_sum

BM25, BM25_PIECES = "BM25", "BM25 pieces"
CUT = " cut"  # behind the name of a BM25 that read what the model read, no more
BASELINES = (BM25, BM25_PIECES, BM25 + CUT, BM25_PIECES + CUT)
OWN = ("dense", "sparse", "multi", "dense+sparse", "all")

DEPTH = 1000  # ranks of a run

Advance = Callable[[int], None]  # so many queries more are done
MultiScores = Callable[[Places, Places], Scores]  # of pairs that are sorted by row


@dataclass(frozen=True)
class BlockSizes:
    """What is in memory at once."""

    queries: int = 512  # ranked
    chunk_pairs: int = 1 << 22  # of a query and a chunk, scored
    fetch: int = 3  # chunks asked for per passage


def own_systems(heads: Sequence[Head]) -> dict[str, Sequence[Head]]:
    """The systems of a model with these heads, and the heads that each adds up."""
    systems: dict[str, Sequence[Head]] = {head: (head,) for head in heads}
    if {"dense", "sparse"} <= set(heads):
        systems["dense+sparse"] = ("dense", "sparse")
    if "multi" in heads and len(heads) > 1:
        systems["all"] = heads
    return systems


def top_passages(
    ranker: Ranker, owners: Owners, queries: Places, count: int, fetch: int = BlockSizes.fetch
) -> Ranked:
    """The passages with the best chunks: as many as `count`, however the chunks crowd.

    Asks for `fetch` chunks a passage, and for four times as many while there are fewer passages.
    """
    passages, size = len(owners.bounds) - 1, len(owners.of)
    first = depth = min(size, fetch * count)
    waiting = np.arange(len(queries))
    parts: list[tuple[Places, Places, Scores]] = []
    while len(waiting):
        short = []
        step = max(1, len(queries) * first // depth)  # no more in memory than the first time
        for start in range(0, len(waiting), step):
            block = waiting[start : start + step]
            hits = ranker.top(queries[block], depth)
            rows, chunks, scores = hits.pairs()
            # hits are best first, so that the first of a pair is its best
            pairs, best = np.unique(rows * passages + owners.of[chunks], return_index=True)
            rows, places = np.divmod(pairs, passages)
            enough = np.bincount(rows, minlength=len(block)) >= min(count, passages)
            enough |= ((hits.places >= 0).sum(1) < depth) | (depth == size)
            done = enough[rows]
            parts.append((block[rows[done]], places[done], scores[best][done]))
            short.append(block[~enough])
        waiting, depth = np.concatenate(short), min(size, 4 * depth)
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
    streamed: bool = False  # `multi` reads the corpus each time: all pairs at once
    sizes: BlockSizes = BlockSizes()

    @staticmethod
    def of(
        queries: Embeddings,
        passages: Embeddings,
        device: str,
        multi: MultiScores | None = None,
        owners: Owners | None = None,
        sizes: BlockSizes | None = None,
    ) -> "Scorers":
        """multi stands in for the multi-vectors of passages where these are not kept."""
        streamed = multi is not None
        first_stage = rankers(queries, passages, device)
        if (ranker := first_stage.pop("multi", None)) is not None and multi is None:
            multi = ranker.score
        return Scorers(len(queries), first_stage, multi, owners, streamed, sizes or BlockSizes())

    @property
    def heads(self) -> tuple[Head, ...]:
        """In the order of sums."""
        multi: tuple[Head, ...] = () if self.multi is None else ("multi",)
        return (*self.rankers, *multi)

    def first_stage(
        self, protocol: Protocol, advance: Advance, weights: Weights | None = None
    ) -> dict[str, Ranked]:
        """The best passages of dense and sparse, and the union of both by the weighted sum.

        No union without weights or with but one of the heads.
        """
        count = max(DEPTH, protocol.union, protocol.rerank)
        blocks: dict[str, list[Ranked]] = {}
        for first in range(0, self.queries, self.sizes.queries):
            rows = np.arange(first, min(first + self.sizes.queries, self.queries))
            best = {head: self._top(ranker, rows, count) for head, ranker in self.rankers.items()}
            for head, ranked in best.items():
                blocks.setdefault(head, []).append(ranked.cut(DEPTH))
            if len(best) > 1 and weights is not None:
                own, places = union(ranked.cut(protocol.union) for ranked in best.values())
                total = self.totals(rows[own], places, {"": (tuple(best), weights)})[""]
                ranked = Ranked.of(own, places, total, len(rows), DEPTH)
                blocks.setdefault("dense+sparse", []).append(ranked)
            advance(len(rows))
        return {name: Ranked.joined(parts) for name, parts in blocks.items()}

    def _top(self, ranker: Ranker, queries: Places, count: int) -> Ranked:
        if self.owners is None:
            return ranker.top(queries, count)
        return top_passages(ranker, self.owners, queries, count, self.sizes.fetch)

    def candidates(self, first_stage: Mapping[str, Ranked], count: int) -> tuple[Places, Places]:
        """Rows and places of the best of dense, or of sparse in a model without."""
        return union([first_stage[next(iter(self.rankers))].cut(count)])

    def score(self, rows: Places, places: Places, heads: Iterable[Head]) -> Parts:
        """Pairs, sorted by row, with the scores of heads."""
        queries, passages, starts = rows, places, None
        if self.owners is not None:
            queries, passages, starts = self.owners.chunks(rows, places)
        scores: dict[Head, Scores] = {}
        for head in heads:
            multi = self.multi if head == "multi" else None
            scores[head] = (multi or self.rankers[head].score)(queries, passages)
        return Parts(rows, places, scores, starts)

    def totals(
        self, rows: Places, places: Places, sums: Mapping[str, tuple[Sequence[Head], Weights]]
    ) -> dict[str, Scores]:
        """Weighted sums of some heads by name, for pairs sorted by row; see `Parts.total`."""
        heads = [head for head in self.heads if any(head in of for of, _ in sums.values())]
        out = {name: np.empty(len(rows), dtype=np.float32) for name in sums}
        for block in self._blocks(places, heads):
            parts = self.score(rows[block], places[block], heads)
            for name, (of, weights) in sums.items():
                out[name][block] = parts.total(weights, of)
        return out

    def _blocks(self, places: Places, heads: Sequence[Head]) -> Iterator[slice]:
        """Pairs in runs of about so many scores as fit in memory."""
        if self.owners is None or ("multi" in heads and self.streamed):
            yield slice(0, len(places))
            return
        ends = np.cumsum(self.owners.bounds[places + 1] - self.owners.bounds[places])
        steps = np.flatnonzero(np.diff(ends // self.sizes.chunk_pairs)) + 1
        yield from (slice(a, b) for a, b in pairwise([0, *steps.tolist(), len(places)]) if a < b)


def rank(
    scorers: Scorers, protocol: Protocol, weights: tuple[Weights, Weights], advance: Advance
) -> dict[str, Ranked]:
    """Every system that the heads allow, by name: heads, "dense+sparse" and "all".

    weights are those of dense+sparse and of all. M3 paper, section 4: multi-vector and all re-rank
    the best `protocol.rerank` of dense (of sparse in a model without), dense+sparse the union of
    the best `protocol.union` of each. Of candidates in chunks every chunk is scored.
    """
    ranked = scorers.first_stage(protocol, advance, weights[0])
    reranked = {"multi": Weights(0, 0, 1), "all": weights[1]}
    systems = own_systems(scorers.heads)
    sums = {name: (systems[name], by) for name, by in reranked.items() if name in systems}
    rows, places = scorers.candidates(ranked, protocol.rerank)
    for name, total in scorers.totals(rows, places, sums).items():
        ranked[name] = Ranked.of(rows, places, total, scorers.queries, DEPTH)
    advance(scorers.queries)
    return ranked


def best_of(
    queries: Embeddings, others: Embeddings, weights: tuple[Weights, Weights], pairs: int = 1 << 24
) -> dict[str, Places]:
    """The best of the others for each query, (n,), by system; about so many pairs at once."""
    systems = own_systems(queries.heads)
    best: dict[str, list[Places]] = {name: [] for name in systems}
    step = max(1, pairs // max(1, len(others)))
    for first in range(0, len(queries), step):
        block = queries[first : first + step]
        parts = {head: SCORES[head](block, others) for head in queries.heads}
        for name, heads in systems.items():
            scores = parts[heads[0]]
            if len(heads) > 1:
                scores = weighted_sum({h: parts[h] for h in heads}, weights[name == "all"])
            best[name].append(scores.argmax(1))
    return {name: np.concatenate(places) for name, places in best.items()}
