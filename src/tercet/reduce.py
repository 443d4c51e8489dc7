"""Token-level results of batches to Embeddings: largest weights by id, pooled vectors, row order.

NumPy only; knows nothing of models or tokenizers. Shapes: N tokens of a batch, B texts,
V vocabulary, M multi-vector size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.batching import Rows, inverse
from tercet.config import Head
from tercet.embeddings import Embeddings

Ints = npt.NDArray[np.integer]
Vectors = npt.NDArray[np.float32]

# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
RUN = 512


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> sp.csr_array:
    """(N,) weights of tokens -> (B, V) CSR with the largest weight of each id in each text.

    owners (N,) is each token's text. Weights of 0 and below are left out. With top, only so many
    of the largest weights of a text stay.
    """
    found = np.flatnonzero(weights > 0)
    keys = owners[found].astype(np.int64) * shape[1] + ids[found]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[found][order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    best = np.maximum.reduceat(weights, starts) if len(starts) else weights
    keys = keys[starts]
    if top is not None:
        ranked = np.lexsort((-best, keys // shape[1]))
        rows = keys[ranked] // shape[1]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = np.sort(ranked[rank < top])
        keys, best = keys[kept], best[kept]
    indptr = np.searchsorted(keys, np.arange(shape[0] + 1, dtype=np.int64) * shape[1])
    indices = (keys % shape[1]).astype(np.int32)
    matrix = (best.astype(np.float32), indices, indptr.astype(np.int32))
    return sp.csr_array(matrix, shape=shape)


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
        self._sparse: list[tuple[Rows, sp.csr_array]] = []
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
        sparse: Any = None
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=np.float16)
            while self._multi:  # each part is let go, so that they are not all held twice
                rows, vectors = self._multi.pop()
                counts = self._counts[rows]
                shift = offsets[rows] - (np.cumsum(counts) - counts)
                multi[np.arange(len(vectors)) + np.repeat(shift, counts)] = vectors
        if "sparse" in self._heads:
            empty = sp.csr_array((0, self._dims["vocabulary"]), dtype=np.float32)
            stacked = sp.vstack([empty, *(part for _, part in self._sparse)], format="csr")
            order = [rows for rows, _ in self._sparse] or [np.zeros(0, dtype=np.int64)]
            sparse = sp.csr_array(stacked)[inverse(np.concatenate(order))]
        return Embeddings(
            dense=self._dense if "dense" in self._heads else None,
            sparse=sparse,
            multi=multi,
            offsets=offsets,
            lengths=lengths.astype(np.int32),
            truncated=truncated,
            fingerprint=fingerprint,
        )
