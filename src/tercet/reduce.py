"""Token-level results of batches to Embeddings: largest weights by id, pooled vectors, row order.

NumPy only; knows nothing of models or tokenizers. Shapes: N tokens of a batch, B texts,
V vocabulary, M multi-vector size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.batching import Rows
from tercet.config import Head
from tercet.embeddings import Embeddings

Ints = npt.NDArray[np.integer]
Vectors = npt.NDArray[np.float32]

# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
RUN = 512


@dataclass(frozen=True)
class Weighted:
    """Sparse rows as they are collected: counts (B,) of each row, then ids and weights, packed."""

    counts: Ints
    ids: npt.NDArray[np.int32]
    weights: Vectors


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> Weighted:
    """(N,) weights of tokens -> the largest weight of each id in each text, ids increasing.

    owners (N,) is each token's text; shape is (B, V). Weights of 0 and below are left out. With
    top, only so many of the largest weights of a text stay.
    """
    found = np.flatnonzero(weights > 0)
    keys = owners[found].astype(np.int64) * shape[1] + ids[found]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[found[order]]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)])
    best = np.maximum.reduceat(weights, starts) if len(starts) else weights
    rows, kept = np.divmod(keys[starts], shape[1])
    if top is not None:
        ranked = np.lexsort((-best, rows))
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # the same with rows[ranked]
        stay = np.sort(ranked[rank < top])
        rows, kept, best = rows[stay], kept[stay], best[stay]
    return Weighted(
        np.bincount(rows, minlength=shape[0]), kept.astype(np.int32), best.astype(np.float32)
    )


def pool_tokens(vectors: Vectors, factor: int) -> Vectors:
    """Merges the most alike of a text's unit vectors: (T, M) -> (about T / factor, M) unit rows.

    Ward's clustering, the mean of each cluster, normalised, in the order of their first tokens;
    texts over 512 tokens in runs of that many. Source: Clavié, Chaffin and Adams 2024, arXiv
    2409.14683 ("hierarchical" pooling).
    """
    if factor == 1 or len(vectors) <= 1:
        return vectors
    from scipy.cluster.hierarchy import fcluster, ward

    parts = []
    for first in range(0, len(vectors), RUN):
        run = vectors[first : first + RUN]
        wanted = -(-len(run) // factor)
        one = np.zeros(len(run), dtype=np.int32)
        labels = fcluster(ward(run), wanted, criterion="maxclust") if wanted > 1 else one
        _, firsts, which = np.unique(labels, return_index=True, return_inverse=True)
        sums = np.zeros((len(firsts), run.shape[1]), dtype=np.float32)
        np.add.at(sums, which, run)
        parts.append(sums[np.argsort(firsts)])
    pooled = np.concatenate(parts)
    # opposite vectors, which clustering does not join, could cancel out
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    out: Vectors = pooled / np.maximum(norms, 1e-12)
    return out


class RowCollector:
    """Takes what batches give, in any order, and gives Embeddings in the order of the rows."""

    def __init__(
        self,
        dims: Mapping[str, int],
        heads: tuple[Head, ...],
        count: int,
        *,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
    ) -> None:
        """dims as in `Encoder.dims`; count is the number of rows."""
        self._dims, self._heads, self._count = dims, heads, count
        self._pool, self._top = multi_pool or 1, sparse_top
        self._dense = np.empty((count if "dense" in heads else 0, dims["dense"]), dtype=np.float32)
        self._sparse: list[tuple[Rows, Weighted]] = []
        self._multi: list[tuple[Rows, npt.NDArray[np.float16]]] = []
        self._counts = np.zeros(count, dtype=np.int64)  # vectors of each row

    @property
    def pools(self) -> bool:
        """Whether multi-vectors are pooled, and so wanted in float32."""
        return self._pool > 1

    def add_dense(self, rows: Rows, vectors: Vectors) -> None:
        """A batch's (B, D) vectors of these rows."""
        self._dense[rows] = vectors

    def add_sparse(self, rows: Rows, owners: Rows, ids: Ints, weights: Vectors) -> None:
        """A batch's (N,) token ids and weights; owners (N,) index `rows`."""
        shape = (len(rows), self._dims["vocabulary"])
        self._sparse.append((rows, max_by_id(owners, ids, weights, shape, top=self._top)))

    def add_multi(
        self, rows: Rows, owners: Rows, vectors: Vectors | npt.NDArray[np.float16]
    ) -> None:
        """A batch's (N, M) token vectors; owners (N,) index `rows` and do not decrease."""
        counts = np.bincount(owners, minlength=len(rows))
        if self.pools:
            texts = np.split(vectors, np.cumsum(counts)[:-1])
            pooled = [pool_tokens(text.astype(np.float32), self._pool) for text in texts]
            counts = np.array([len(text) for text in pooled])
            vectors = np.concatenate(pooled)
        self._counts[rows] = counts
        self._multi.append((rows, vectors.astype(np.float16, copy=False)))

    def embeddings(
        self, lengths: Ints, truncated: npt.NDArray[np.bool_], fingerprint: str
    ) -> Embeddings:
        """All rows, in order; what was collected is used up."""
        multi = offsets = None
        sparse: sp.csr_array | None = None
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=np.float16)
            while self._multi:  # each part is let go, so that they are not all held twice
                rows, vectors = self._multi.pop()
                multi[_places(offsets, rows, self._counts[rows])] = vectors
        if "sparse" in self._heads:
            counts = np.zeros(self._count, dtype=np.int64)
            for rows, part in self._sparse:
                counts[rows] = part.counts
            indptr = np.concatenate(([0], np.cumsum(counts)))
            ids = np.empty(int(indptr[-1]), dtype=np.int32)
            weights = np.empty(int(indptr[-1]), dtype=np.float32)
            for rows, part in self._sparse:
                places = _places(indptr, rows, part.counts)
                ids[places], weights[places] = part.ids, part.weights
            shape = (self._count, self._dims["vocabulary"])
            sparse = sp.csr_array((weights, ids, indptr), shape=shape)
        return Embeddings(
            dense=self._dense if "dense" in self._heads else None,
            sparse=sparse,
            multi=multi,
            offsets=offsets,
            lengths=lengths.astype(np.int32),
            truncated=truncated,
            fingerprint=fingerprint,
        )


def _places(starts: Ints, rows: Rows, counts: Ints) -> Rows:
    """Where the packed parts of these rows belong: row r's from starts[r] on, counts of them."""
    before = np.cumsum(counts) - counts
    out: Rows = np.arange(int(counts.sum())) + np.repeat(starts[rows] - before, counts)
    return out
