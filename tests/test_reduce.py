"""Reductions: the largest weight of each id, pooled vectors, rows in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.encoder import POOL_RUN, max_by_id, pool_tokens

TOKENS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])),
    max_size=50,
)


@given(TOKENS, st.none() | st.integers(1, 4))
def test_max_by_id(tokens: list[tuple[int, int, float]], top: int | None) -> None:
    tokens = sorted(tokens, key=lambda token: token[0])
    owners, ids, weights = (np.array([t[n] for t in tokens]) for n in range(3))
    got = max_by_id(
        owners.astype(np.int64), ids.astype(np.int32), weights.astype(np.float32), (5, 10), top=top
    )
    want = np.zeros((5, 10))
    for owner, token, weight in tokens:
        want[owner, token] = max(want[owner, token], weight)
    assert (got.data > 0).all()
    assert got.has_sorted_indices
    if top is None:
        np.testing.assert_array_equal(got.toarray(), want)
        return
    for row in range(5):
        kept = np.sort(got.toarray()[row])[::-1][:top]
        np.testing.assert_array_equal(kept, np.sort(want[row])[::-1][:top])
        assert np.count_nonzero(got.toarray()[row]) == min(top, np.count_nonzero(want[row]))


def unit(rows: int, size: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@pytest.mark.parametrize("rows", [1, 2, 5, 100, POOL_RUN + 7])
@pytest.mark.parametrize("factor", [1, 2, 3, 1000])
def test_pool_tokens(rows: int, factor: int) -> None:
    vectors = unit(rows, 8)
    pooled = pool_tokens(vectors, factor)
    most = sum(-(-min(POOL_RUN, rows - first) // factor) for first in range(0, rows, POOL_RUN))
    assert 1 <= len(pooled) <= most
    assert len(pooled) > 0.8 * most
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1.0, atol=1e-5)
    if factor == 1:
        np.testing.assert_array_equal(pooled, vectors)


def test_pooling_joins_what_is_alike() -> None:
    centres = unit(4, 16)
    noise = unit(12, 16, seed=1) * 0.05
    vectors: np.ndarray = np.repeat(centres, 3, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pooled = pool_tokens(vectors, 3)
    assert len(pooled) == 4
    assert (np.sum(pooled * centres, axis=1) > 0.99).all()  # in the order of their first tokens


def test_opposite_vectors_stay_finite() -> None:
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    assert np.isfinite(pool_tokens(vectors, 2)).all()
