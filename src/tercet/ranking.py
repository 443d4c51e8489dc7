"""The best texts of a corpus for each query: exact, in blocks, with equal scores in a fixed order.

Takes matrices of representations; knows nothing of texts, models or rows. Shapes: Q queries,
P passages, K ranks, D dense size, V vocabulary. No result depends on the sizes of blocks: what
they could change by rounding is computed again pair by pair, and equal scores go by place.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from tercet.embeddings import Embeddings
from tercet.scores import Scores, maxsim_packed

Places = npt.NDArray[np.int64]

QUERIES, PASSAGES = 256, 1 << 14  # of a block of dense scores: 16 MB
FIRST = 1 << 12  # passages of the first block, of which all may be among the best
SPARSE_PASSAGES = 1 << 16  # of a block of sparse scores
PAIRS = 1 << 14  # computed at once
ASKED, TOKENS = 2048, 512  # of queries and of a passage, compared at once: 4 MB stay in cache
SLACK = 16  # ranks looked at behind the last, so that rounding moves nothing over the edge

NONE = -np.inf


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
        starts = np.searchsorted(rows, np.arange(queries))
        rank = np.arange(len(rows)) - starts[rows]
        kept = rank < count
        out = Ranked(
            np.full((queries, count), -1, dtype=np.int64),
            np.full((queries, count), NONE, dtype=np.float32),
        )
        out.places[rows[kept], rank[kept]] = places[kept]
        out.scores[rows[kept], rank[kept]] = scores[kept]
        return out


class Ranker(Protocol):
    """One way of scoring queries (numbers) against passages (places)."""

    def top(self, queries: Places, count: int) -> Ranked:
        """The best `count` candidates of each query."""

    def score(self, queries: Places, places: Places) -> Scores:
        """Scores of n pairs."""


@dataclass(frozen=True)
class DenseRanker:
    """Inner products of queries (Q, D) and passages (S, D), of which the first P are candidates."""

    queries: npt.NDArray[np.float32]
    passages: npt.NDArray[np.float32]
    candidates: int
    device: torch.device

    def top(self, queries: Places, count: int) -> Ranked:
        size = min(count + SLACK, self.candidates)
        asked = torch.from_numpy(self.queries[queries]).to(self.device)
        best = np.full((len(queries), size), NONE, dtype=np.float32)
        places = np.full((len(queries), size), -1, dtype=np.int64)
        first, last = 0, min(FIRST, self.candidates)
        while first < last:
            block = torch.from_numpy(np.array(self.passages[first:last])).to(self.device).T
            for start in range(0, len(queries), QUERIES):
                some = slice(start, start + QUERIES)
                new, at = _entering(asked[some] @ block, best[some], size)
                scores = np.concatenate((best[some], new), axis=1)
                at = np.concatenate((places[some], at + first), axis=1)
                kept = np.argpartition(-scores, size - 1, axis=1)[:, :size]
                best[some] = np.take_along_axis(scores, kept, axis=1)
                places[some] = np.take_along_axis(at, kept, axis=1)
            first, last = last, min(last + PASSAGES, self.candidates)
        scores = self.score(np.repeat(queries, size), places.ravel()).reshape(places.shape)
        order = np.lexsort((places, -scores))[:, :count]
        return Ranked(
            np.take_along_axis(places, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )

    def score(self, queries: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        for first in range(0, len(places), PAIRS):
            some = slice(first, first + PAIRS)
            left, right = self.queries[queries[some]], self.passages[places[some]]
            np.einsum("nd,nd->n", left, right, out=out[some])
        return out


def _entering(scores: Tensor, best: Scores, size: int) -> tuple[Scores, Places]:
    """Of new scores (Q, P) those that may enter the best (Q, K) so far, and their columns.

    At most `size` of each query; padded with -infinity.
    """
    floor = best.min(axis=1, keepdims=True)
    if scores.device.type != "cpu" or (floor == NONE).any():
        new, at = scores.topk(min(size, scores.shape[1]), dim=1)
        return new.cpu().numpy(), at.cpu().numpy()
    # Few are above the floor, and NumPy finds them many times faster than a top-k does.
    found = scores.numpy()
    flat = np.flatnonzero(found > floor)
    rows, columns = np.divmod(flat, found.shape[1])
    counts = np.bincount(rows, minlength=len(found))
    rank = np.arange(len(flat)) - (np.cumsum(counts) - counts)[rows]
    padded = np.full((len(found), int(counts.max())), NONE, dtype=np.float32)
    at_columns = np.zeros(padded.shape, dtype=np.int64)
    padded[rows, rank] = found.ravel()[flat]
    at_columns[rows, rank] = columns
    return padded, at_columns


@dataclass(frozen=True)
class SparseRanker:
    """Sums over shared tokens: queries (Q, V) and passages (S, V), the first P candidates.

    A passage that shares nothing with a query is no candidate of it.
    """

    queries: sp.csr_array
    passages: sp.csr_array
    candidates: int

    def top(self, queries: Places, count: int) -> Ranked:
        asked = self.queries[queries]
        rows, places = np.empty(0, np.int64), np.empty(0, np.int64)
        scores = np.empty(0, np.float32)
        for first in range(0, self.candidates, SPARSE_PASSAGES):
            last = min(first + SPARSE_PASSAGES, self.candidates)
            block = sp.csr_array(self.passages[first:last].T)  # (V, P)
            parts = [(rows, places, scores)]
            for start in range(0, len(queries), QUERIES):
                product = sp.csr_array(asked[start : start + QUERIES] @ block)
                parts.append(_best(product, start, first, count))
            rows, places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Ranked.of(rows, places, scores, len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        for first in range(0, len(places), PAIRS):
            some = slice(first, first + PAIRS)
            shared = self.queries[queries[some]].multiply(self.passages[places[some]])
            out[some] = np.asarray(sp.csr_array(shared).sum(axis=1)).ravel()
        return out


def _best(product: sp.csr_array, row: int, place: int, count: int) -> tuple[Places, Places, Scores]:
    """The best entries above 0 of each row: rows from `row` on, columns from `place` on."""
    rows, places, scores = [], [], []
    for number in range(product.shape[0]):
        start, end = product.indptr[number : number + 2]
        values, columns = product.data[start:end], product.indices[start:end]
        if len(values) > count:
            floor = np.partition(values, len(values) - count)[len(values) - count]
            kept = np.flatnonzero(values >= floor)  # with all equals of the last
            values, columns = values[kept], columns[kept]
        kept = np.flatnonzero(values > 0)
        rows.append(np.full(len(kept), row + number, dtype=np.int64))
        places.append(columns[kept].astype(np.int64) + place)
        scores.append(values[kept])
    return np.concatenate(rows), np.concatenate(places), np.concatenate(scores)


@dataclass(frozen=True)
class MultiRanker:
    """MaxSim, one query at a time: exact, and for few passages only."""

    queries: Embeddings
    passages: Embeddings
    candidates: int

    def top(self, queries: Places, count: int) -> Ranked:
        passages, offsets = self.passages.multi, self.passages.offsets
        assert passages is not None
        assert offsets is not None
        ends = offsets[: self.candidates + 1]
        parts = []
        for row, query in enumerate(queries.tolist()):
            scores = maxsim_packed(self.queries.tokens(query), passages, ends)
            floor = np.partition(scores, -count)[-count] if len(scores) > count else NONE
            places = np.flatnonzero(scores >= floor)
            parts.append((np.full(len(places), row), places, scores[places]))
        rows, places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Ranked.of(rows, places, scores, len(queries), count)

    def score(self, queries: Places, places: Places) -> Scores:
        """Passage by passage, since a query has far fewer vectors to bring together."""
        assert self.queries.multi is not None
        assert self.queries.offsets is not None
        starts, counts = self.queries.offsets[:-1], np.diff(self.queries.offsets)
        out = np.empty(len(places), dtype=np.float32)
        if not len(places):
            return out
        order = np.lexsort((queries, places))
        for some in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
            passage = torch.from_numpy(np.array(self.passages.tokens(int(places[some[0]])))).float()
            ends = np.cumsum(counts[queries[some]])
            for few in np.split(some, np.flatnonzero(np.diff(ends // ASKED)) + 1):
                asked = queries[few]
                bounds = np.concatenate(([0], np.cumsum(counts[asked])))
                at = np.arange(bounds[-1]) + np.repeat(starts[asked] - bounds[:-1], counts[asked])
                tokens = torch.from_numpy(self.queries.multi[at]).float()
                best = torch.full((len(tokens),), NONE)
                for first in range(0, len(passage), TOKENS):
                    part = passage[first : first + TOKENS]
                    torch.maximum(best, (tokens @ part.T).amax(1), out=best)
                out[few] = np.add.reduceat(best.numpy(), bounds[:-1]) / counts[asked]
        return out
