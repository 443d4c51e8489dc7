"""Rows of few weights each: a matrix in CSR form, and the products that are needed of it.

Products are of float32, their sums run in float64 in the order of a row's ids and are rounded once,
so that a score is the same number wherever it is computed. Knows nothing of texts or tokens.
Shapes: B rows, V columns, Q rows of queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import scipy.sparse as sp

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class SparseRows:
    """A (B, V) matrix of float32: row n has the weights data[indptr[n]:indptr[n + 1]].

    indices (int32) says for each weight its column, indptr is (B + 1,) int64. As a
    `scipy.sparse.csr_array` is, from which `of` makes one and which `to_scipy` gives.
    """

    data: Floats
    indices: npt.NDArray[np.int32]
    indptr: Places
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Raises InputError where the arrays have lengths that cannot belong together."""
        rows, columns = self.shape
        fits = len(self.indptr) == rows + 1 and 0 <= columns < 1 << 31
        if not fits or not len(self.data) == len(self.indices) == self.indptr[-1]:
            raise InputError(f"the arrays of sparse rows do not fit a matrix of {self.shape}")

    @staticmethod
    def of(matrix: Any) -> "SparseRows":
        """From a CSR matrix or array of scipy, too; raises InputError for what is none."""
        if isinstance(matrix, SparseRows):
            return matrix
        if getattr(matrix, "format", None) != "csr" or len(matrix.shape) != 2:
            raise InputError(f"sparse must be rows in CSR form, not a {type(matrix).__name__}")
        size = int(matrix.indptr[-1])  # a matrix may have room for more
        return SparseRows(
            np.asarray(matrix.data[:size], dtype=np.float32),
            np.asarray(matrix.indices[:size], dtype=np.int32),
            np.asarray(matrix.indptr, dtype=np.int64),
            (int(matrix.shape[0]), int(matrix.shape[1])),
        )

    @staticmethod
    def from_pairs(
        rows: npt.NDArray[np.integer],
        ids: npt.NDArray[np.integer],
        weights: npt.NDArray[Any],
        shape: tuple[int, int],
        combine: np.ufunc = np.add,
    ) -> "SparseRows":
        """From (N,) weights at rows and ids in any order, those at one place combined.

        The ids of each row increase.
        """
        keys = rows.astype(np.int64) * shape[1] + ids
        order = np.argsort(keys, kind="stable")
        keys, weights = keys[order], weights[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        if len(starts):
            weights = combine.reduceat(weights, starts)
        rows, ids = np.divmod(keys[starts], shape[1])
        ends = _ends(np.bincount(rows, minlength=shape[0]))
        return SparseRows(weights.astype(np.float32), ids.astype(np.int32), ends, shape)

    @staticmethod
    def stacked(parts: Sequence["SparseRows"]) -> "SparseRows":
        """The rows of all parts, of which there is one at least, as wide as the widest."""
        ends = _ends(np.concatenate([np.diff(part.indptr) for part in parts]))
        return SparseRows(
            np.concatenate([part.data for part in parts]),
            np.concatenate([part.indices for part in parts]),
            ends,
            (len(ends) - 1, max(part.shape[1] for part in parts)),
        )

    def __repr__(self) -> str:
        return f"SparseRows({self.shape[0]} x {self.shape[1]}, {self.nnz} weights)"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nnz(self) -> int:
        """The number of weights."""
        return len(self.data)

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """(nnz,) the row of each weight."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.indptr))

    def __getitem__(self, rows: int | slice | Sequence[int] | npt.NDArray[Any]) -> "SparseRows":
        """The rows of a number, a slice, numbers or a mask, in that order."""
        if isinstance(rows, slice) and rows.step in (None, 1):  # of neighbours nothing is copied
            first, last, _ = rows.indices(len(self))
            ends = self.indptr[first : max(first, last) + 1]
            span = slice(int(ends[0]), int(ends[-1]))
            shape = (len(ends) - 1, self.shape[1])
            return SparseRows(self.data[span], self.indices[span], ends - ends[0], shape)
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        counts = np.diff(self.indptr)[chosen]
        picked = packed_positions(self.indptr[chosen], counts)
        shape = (len(chosen), self.shape[1])
        return SparseRows(self.data[picked], self.indices[picked], _ends(counts), shape)

    def kept(self, places: Places) -> "SparseRows":
        """With these weights alone; places (n,) among all weights, ascending."""
        ends = np.searchsorted(places, self.indptr)
        return replace(self, data=self.data[places], indices=self.indices[places], indptr=ends)

    def canonical(self) -> "SparseRows":
        """The same numbers without zeros, the ids of each row increasing, each once."""
        rises = np.ones(self.nnz, dtype=np.bool_)
        rises[1:] = self.indices[1:] > self.indices[:-1]
        rises[self.indptr[:-1][np.diff(self.indptr) > 0]] = True
        made = self
        if not rises.all():
            made = SparseRows.from_pairs(self.rows, self.indices, self.data, self.shape)
        return made if made.data.all() else made.kept(np.flatnonzero(made.data))

    def transposed(self) -> "SparseRows":
        """(V, B), the rows of each column ascending."""
        ids = self.indices
        # NumPy sorts numbers of 16 bits by their digits, larger ones by comparing them
        order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
        if self.shape[1] > 1 << 16:
            high = (ids >> 16).astype(np.uint16)
            order = order[np.argsort(high[order], kind="stable")]
        ends = _ends(np.bincount(ids, minlength=self.shape[1]))
        return SparseRows(self.data[order], self.rows[order], ends, self.shape[::-1])

    def __matmul__(self, vector: Floats) -> Floats:
        """(B,) inner products of the rows with a dense vector (V,)."""
        weights = vector.take(self.indices)
        shared = np.flatnonzero(weights != 0)
        rows = np.searchsorted(self.indptr, shared, side="right") - 1
        return np.bincount(rows, self.data[shared] * weights[shared], len(self)).astype(np.float32)

    def products(self, queries: "SparseRows") -> Iterator[Floats]:
        """For each query (Q, V) its inner products with all rows, (B,).

        By the postings of the queries' ids: 100 queries with 50,000 rows of 60 weights over
        250,000 ids take 45 ms on a core, `csr_array` products 75 ms.
        """
        used = np.zeros(self.shape[1], dtype=np.bool_)
        used[queries.indices] = True
        postings = self.kept(np.flatnonzero(used[self.indices])).transposed()
        rows = postings.indices.astype(np.int64)  # as `bincount` takes them
        for first, last in pairwise(queries.indptr.tolist()):
            ids, weights = queries.indices[first:last], queries.data[first:last]
            spans = [slice(*postings.indptr[id : id + 2].tolist()) for id in ids.tolist()]
            products = [postings.data[s] * w for s, w in zip(spans, weights, strict=True)]
            flat = np.concatenate([rows[:0], *(rows[span] for span in spans)])
            sums = np.bincount(flat, np.concatenate([postings.data[:0], *products]), len(self))
            yield sums.astype(np.float32)

    def toarray(self) -> Floats:
        """As a dense array."""
        out = np.zeros(self.shape, dtype=np.float32)
        np.add.at(out, (self.rows, self.indices), self.data)
        return out

    def to_scipy(self) -> "sp.csr_array":
        """As a matrix of scipy that shares its memory; raises MissingExtraError without scipy."""
        try:
            import scipy.sparse as sp
        except ModuleNotFoundError as error:
            raise MissingExtraError("to_scipy needs scipy: pip install scipy") from error
        return sp.csr_array((self.data, self.indices, self.indptr), shape=self.shape)


def _ends(counts: npt.NDArray[np.integer]) -> Places:
    """Boundaries (B + 1,) of rows with so many weights."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def packed_positions(
    starts: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """start, start + 1, ... for each start, so many of each, all in one array."""
    before = np.cumsum(counts) - counts
    out: npt.NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return out
