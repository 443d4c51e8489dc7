"""Exact ranking of a corpus, and hybrid search over it: candidates, union, scores of pairs, ranks.

`Ranker.top` gives the candidates of one kind of score, `union` those of several, `Ranker.score`
what a weighted sum adds up, `Ranked.of` the ranks by it. Takes matrices of representations; knows
nothing of texts, models or files. Shapes: Q queries, P passages, K ranks, D dense size, V
vocabulary. No result depends on the sizes of blocks: what they could change by rounding is computed
again pair by pair, and equal scores go by place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.scores import (
    Places,
    Scores,
    check_same_model,
    float32,
    matmul,
    maxsim_packed,
    maxsim_pairs,
)
from tercet.sparse import SparseRows

SLACK = 16  # ranks looked at behind the last, so that rounding moves nothing over the edge


@dataclass(frozen=True)
class Blocks:
    """How much is scored at once."""

    queries: int
    passages: int
    first: int  # passages of the first block, of which all may be among the best
    sparse_passages: int = 1 << 16
    pairs: int = 1 << 14


# Of dense scores: 16 MB on a CPU, near its caches; 512 MB on a GPU, which smaller ones leave idle.
CPU_BLOCKS = Blocks(queries=1 << 8, passages=1 << 14, first=1 << 12)
GPU_BLOCKS = Blocks(queries=1 << 10, passages=1 << 17, first=1 << 17)


@dataclass(frozen=True)
class Ranked:
    """The best passages of Q queries, best first: places (Q, K), -1 behind the last; scores.

    K is at most the number that was asked for.
    """

    places: Places
    scores: Scores

    @staticmethod
    def of(rows: Places, places: Places, scores: Scores, queries: int, count: int) -> "Ranked":
        """From n scored pairs (row, place): at most `count` a query, equal ones by place."""
        order = np.lexsort((places, -scores, rows))
        rows, places, scores = rows[order], places[order], scores[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(queries))[rows]
        best = rank < count
        out = Ranked(
            np.full((queries, count), -1, dtype=np.int64),
            np.full((queries, count), -np.inf, dtype=np.float32),
        )
        out.places[rows[best], rank[best]] = places[best]
        out.scores[rows[best], rank[best]] = scores[best]
        return out

    @staticmethod
    def joined(parts: Sequence["Ranked"]) -> "Ranked":
        """Rankings of some queries and of those behind them as one."""
        width = max(part.places.shape[1] for part in parts)

        def padded(array: npt.NDArray[np.generic], value: float) -> npt.NDArray[np.generic]:
            return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)

        return Ranked(
            np.concatenate([padded(part.places, -1) for part in parts]),
            np.concatenate([padded(part.scores, -np.inf) for part in parts]),
        )

    def pairs(self) -> tuple[Places, Places, Scores]:
        """What `of` takes: rows, places and scores (n,) of all that was ranked."""
        rows, ranks = np.nonzero(self.places >= 0)
        return rows, self.places[rows, ranks], self.scores[rows, ranks]

    def cut(self, count: int) -> "Ranked":
        """The first so many ranks."""
        return Ranked(self.places[:, :count], self.scores[:, :count])


class Ranker(Protocol):
    """One way of scoring queries (numbers) against passages (places)."""

    def top(self, queries: Places, count: int) -> Ranked:
        """The best `count` candidates of each query."""

    def score(self, queries: Places, places: Places) -> Scores:
        """Scores of n pairs; those of a query are neighbours."""


def rankers(
    queries: Embeddings,
    passages: Embeddings,
    device: str = "cpu",
    candidates: int | None = None,
) -> dict[Head, Ranker]:
    """One for every head that both sides have; device, as torch names it, is for dense scores.

    The first `candidates` passages (by default all) are ranked, the others can only be scored.
    """
    check_same_model(queries, passages)
    size = len(passages) if candidates is None else candidates
    out: dict[Head, Ranker] = {}
    if queries.dense is not None and passages.dense is not None:
        blocks = CPU_BLOCKS if device == "cpu" else GPU_BLOCKS
        out["dense"] = DenseRanker(queries.dense, passages.dense, size, device, blocks)
    if queries.sparse is not None and passages.sparse is not None:
        out["sparse"] = SparseRanker(queries.sparse, passages.sparse, size)
    if queries.multi is not None and passages.multi is not None:
        out["multi"] = MultiRanker(queries, passages, size)
    return out


def union(several: Iterable[Ranked]) -> tuple[Places, Places]:
    """Rows and places (n,) that are in any of the rankings, once each, sorted."""
    pairs = [ranked.pairs()[:2] for ranked in several]
    rows, places = (np.concatenate(part) for part in zip(*pairs, strict=True))
    width = int(places.max(initial=0)) + 1
    return np.divmod(np.unique(rows * width + places), width)


def best_weights(
    value: Callable[[Weights], float],
    grids: Mapping[Head, Sequence[float]],
    *,
    near: Weights | None = None,
) -> Weights:
    """The weights of a grid with the highest value; a head without a grid weighs nothing.

    Of equal ones the first; with `near`, of those that differ by less than 1e-6 the nearest to it.
    """

    def order(weights: Weights) -> tuple[float, float]:
        if near is None:
            return value(weights), 0.0
        scale = weights.dense / near.dense if weights.dense and near.dense else 1.0
        pairs = zip(weights.as_tuple(), near.as_tuple(), strict=True)
        return round(value(weights), 6), -sum(abs(a - scale * b) for a, b in pairs)

    tries = product(*(grids.get(head, (0.0,)) for head in HEADS))
    return max((Weights(*numbers) for numbers in tries), key=order)


def highest(scores: Scores, count: int) -> Places:
    """Places of the `count` highest scores and of all equals of the last one, ascending."""
    if len(scores) <= count:
        return np.arange(len(scores))
    # NumPy's partition takes 50 times as long where most scores are the same, which are zeros
    above = scores[scores > 0]
    if len(above) >= count:
        last = np.partition(above, len(above) - count)[len(above) - count]
    elif np.count_nonzero(scores >= 0) >= count:
        last = np.float32(0)
    else:
        last = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= last)


@dataclass(frozen=True)
class DenseRanker:
    """Inner products of queries (Q, D) and passages (S, D), of which the first P are candidates."""

    queries: npt.NDArray[np.float32]
    passages: npt.NDArray[np.float32]
    candidates: int
    device: str
    blocks: Blocks = CPU_BLOCKS

    def top(self, queries: Places, count: int) -> Ranked:
        blocks = self.blocks
        size = min(count + SLACK, self.candidates)
        vectors = self.queries[queries]
        best = np.full((len(queries), size), -np.inf, dtype=np.float32)
        places = np.full((len(queries), size), -1, dtype=np.int64)
        first, last = 0, min(blocks.first, self.candidates)
        while first < last:
            block = float32(self.passages[first:last])
            if self.device != "cpu":
                several = _top_elsewhere(vectors, block, size, self.device, blocks.queries)
            for start in range(0, len(queries), blocks.queries):
                part = slice(start, start + blocks.queries)
                if self.device == "cpu":
                    new, columns = _entering(matmul(vectors[part], block.T), best[part], size)
                else:
                    new, columns = next(several)
                scores = np.concatenate((best[part], new), axis=1)
                columns = np.concatenate((places[part], columns + first), axis=1)
                order = np.argpartition(-scores, size - 1, axis=1)[:, :size]
                best[part] = np.take_along_axis(scores, order, axis=1)
                places[part] = np.take_along_axis(columns, order, axis=1)
            first, last = last, min(last + blocks.passages, self.candidates)
        scores = self.score(np.repeat(queries, size), places.ravel()).reshape(places.shape)
        order = np.lexsort((places, -scores))[:, :count]
        return Ranked(
            np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )

    def score(self, queries: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        for first in range(0, len(places), self.blocks.pairs):
            part = slice(first, first + self.blocks.pairs)
            left, right = self.queries[queries[part]], self.passages[places[part]]
            np.einsum("nd,nd->n", left, right, out=out[part])
        return out


def _top_elsewhere(
    queries: npt.NDArray[np.float32],
    passages: npt.NDArray[np.float32],
    size: int,
    device: str,
    step: int,
) -> Iterator[tuple[Scores, Places]]:
    """The `size` best scores of each query and their columns, `step` queries at once on a GPU."""
    import torch

    block = torch.from_numpy(passages).to(device).T
    for start in range(0, len(queries), step):
        scores = torch.from_numpy(queries[start : start + step]).to(device) @ block
        best, columns = scores.topk(min(size, scores.shape[1]), dim=1)
        yield best.cpu().numpy(), columns.cpu().numpy()


def _entering(scores: Scores, best: Scores, size: int) -> tuple[Scores, Places]:
    """Of new scores (Q, P) those that may enter the best (Q, K) so far, and their columns.

    At most `size` of each query, or all above the last of the best; padded with -infinity.
    """
    floor = best.min(axis=1, keepdims=True)
    if (floor == -np.inf).any():
        size = min(size, scores.shape[1])
        columns = np.argpartition(-scores, size - 1, axis=1)[:, :size]
        return np.take_along_axis(scores, columns, axis=1), columns
    # few are above the floor
    above = np.flatnonzero(scores > floor)
    rows, columns_above = np.divmod(above, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    rank = np.arange(len(above)) - (np.cumsum(counts) - counts)[rows]
    new = np.full((len(scores), int(counts.max())), -np.inf, dtype=np.float32)
    places = np.zeros(new.shape, dtype=np.int64)
    new[rows, rank] = scores.ravel()[above]
    places[rows, rank] = columns_above
    return new, places


@dataclass(frozen=True)
class SparseRanker:
    """Sums over shared tokens: queries (Q, V) and passages (S, V), the first P candidates.

    A passage that shares nothing with a query is no candidate of it.
    """

    queries: SparseRows
    passages: SparseRows
    candidates: int
    blocks: Blocks = CPU_BLOCKS

    def top(self, queries: Places, count: int) -> Ranked:
        vectors = self.queries[queries]
        empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        parts: list[tuple[Places, Places, Scores]] = [empty]
        for first in range(0, self.candidates, self.blocks.sparse_passages):
            last = min(first + self.blocks.sparse_passages, self.candidates)
            for row, scores in enumerate(self.passages[first:last].products(vectors)):
                best = highest(scores, count)
                best = best[scores[best] > 0]
                parts.append((np.full(len(best), row), best + first, scores[best]))
        rows, places, totals = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Ranked.of(rows, places, totals, len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        vector = np.zeros(self.queries.shape[1], dtype=np.float32)
        for part in np.split(np.arange(len(places)), np.flatnonzero(np.diff(queries)) + 1):
            query = self.queries[queries[part[:1]]]
            np.add.at(vector, query.indices, query.data)
            for first in range(0, len(part), self.blocks.pairs):
                some = part[first : first + self.blocks.pairs]
                out[some] = self.passages[places[some]] @ vector
            vector[query.indices] = 0
        return out


@dataclass(frozen=True)
class MultiRanker:
    """MaxSim, one query at a time: exact, and for few passages only."""

    queries: Embeddings
    passages: Embeddings
    candidates: int

    def top(self, queries: Places, count: int) -> Ranked:
        multi, offsets = self.passages.multi, self.passages.offsets
        assert multi is not None
        assert offsets is not None
        parts = []
        for row, query in enumerate(queries.tolist()):
            ends = offsets[: self.candidates + 1]
            scores = maxsim_packed(self.queries.tokens(query), multi, ends)
            places = highest(scores, count)
            parts.append((np.full(len(places), row), places, scores[places]))
        rows, places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Ranked.of(rows, places, scores, len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        return maxsim_pairs(self.queries, self.passages, queries, places)
