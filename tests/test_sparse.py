"""Sparse rows are what scipy's CSR arrays are, and their products those of dense matrices."""

import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError, MissingExtraError
from tercet.sparse import SparseRows

WIDE = 200_000  # more columns than 16 bits can name


def matrix(rows: int, seed: int, columns: int = WIDE) -> Any:
    """Weights at few places, some ids in all of 16 bits and beyond, and rows without any."""
    draw = np.random.default_rng(seed)
    ids = draw.choice(columns, min(columns, 12), replace=False)
    places = draw.integers(0, [[max(1, rows)], [len(ids)]], (2, 5 * rows))
    weights = draw.uniform(0.1, 1, 5 * rows).astype(np.float32)
    made = sp.coo_array((weights, (places[0], ids[places[1]])), shape=(rows, columns)).tocsr()
    made.sum_duplicates()
    return made


SIZES = st.integers(0, 9)
SEEDS = st.integers(0, 1000)
COLUMNS = st.sampled_from([1, 12, WIDE])


@given(SIZES, SEEDS, COLUMNS)
@settings(max_examples=60, deadline=None)
def test_a_matrix_is_the_same_in_every_form(rows: int, seed: int, columns: int) -> None:
    theirs = matrix(rows, seed, columns)
    ours = SparseRows.of(theirs)
    dense = theirs.toarray()
    assert (len(ours), ours.shape, ours.nnz) == (rows, dense.shape, theirs.nnz)
    np.testing.assert_array_equal(ours.toarray(), dense)
    np.testing.assert_array_equal(ours.to_scipy().toarray(), dense)
    other = ours.transposed()
    assert other.to_scipy().has_canonical_format
    np.testing.assert_array_equal(other.toarray(), dense.T)
    mixed = np.random.default_rng(seed).permutation(ours.nnz)
    again = SparseRows.from_pairs(
        ours.rows[mixed], ours.indices[mixed], ours.data[mixed], ours.shape
    )
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(again, name), getattr(ours, name))
    wider = SparseRows.stacked([ours, SparseRows.of(matrix(2, seed, columns + 1))])
    assert wider.shape == (rows + 2, columns + 1)
    np.testing.assert_array_equal(wider.toarray()[:rows, :columns], dense)


@given(SIZES, SIZES, SEEDS, COLUMNS)
@settings(max_examples=60, deadline=None)
def test_products_are_those_of_dense_matrices(
    queries: int, rows: int, seed: int, columns: int
) -> None:
    ours = SparseRows.of(matrix(rows, seed, columns))
    asked = SparseRows.of(matrix(queries, seed, columns))  # the same ids
    want = asked.toarray().astype(np.float64) @ ours.toarray().T
    got = list(ours.products(asked))
    assert len(got) == queries
    for row, scores in enumerate(got):
        np.testing.assert_allclose(scores, want[row], rtol=1e-6)
        np.testing.assert_array_equal(ours @ asked.toarray()[row], scores)


@given(
    st.one_of(
        st.slices(7),
        st.integers(-7, 6),
        st.lists(st.integers(-7, 6), max_size=9),
        st.lists(st.booleans(), min_size=7, max_size=7).map(np.array),
    ),
    SEEDS,
)
@settings(max_examples=100, deadline=None)
def test_rows_that_are_picked(rows: Any, seed: int) -> None:
    ours = SparseRows.of(matrix(7, seed, 12))
    want = np.atleast_2d(ours.toarray()[rows])
    picked = ours[rows]
    assert picked.shape == want.shape
    np.testing.assert_array_equal(picked.toarray(), want)


@pytest.mark.parametrize(("data", "ids"), [([1, 2, 4], [3, 1, 3]), ([2, 1, 4], [1, 3, 3])])
def test_repeated_ids_are_added_and_zeros_go(data: Any, ids: Any) -> None:
    data, ids = np.array([*data, 8, 0], np.float32), np.array([*ids, 0, 2], np.int32)
    ends = np.array([0, 0, 3, 5])
    made = SparseRows(data, ids, ends, (3, 4)).canonical()
    assert made.indices.tolist() == [1, 3, 0]
    assert made.data.tolist() == [2, 5, 8]
    assert made.indptr.tolist() == [0, 0, 2, 3]
    assert made.canonical() is made
    assert made.toarray().tolist() == SparseRows(data, ids, ends, (3, 4)).toarray().tolist()


def test_what_is_taken_of_scipy() -> None:
    roomy = sp.csr_matrix(np.eye(3))
    roomy.data, roomy.indices = np.append(roomy.data, 7.0), np.append(roomy.indices, 0)
    made = SparseRows.of(roomy)
    dtypes = [array.dtype.str[1:] for array in (made.data, made.indices, made.indptr)]
    assert dtypes == ["f4", "i4", "i8"]
    np.testing.assert_array_equal(made.toarray(), np.eye(3))
    for wrong in (np.eye(3), sp.csc_array(np.eye(3)), None):
        with pytest.raises(InputError, match="CSR"):
            SparseRows.of(wrong)
    with pytest.raises(InputError, match="do not fit"):
        SparseRows(made.data, made.indices, made.indptr[:-1], (3, 3))


def test_without_scipy_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SparseRows.of(sp.csr_array(np.eye(2)))
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingExtraError, match="pip install scipy"):
        made.to_scipy()
