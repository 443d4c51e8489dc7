"""Batches: every row once, within the budget, in length order, and the order comes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.encoder import batches
from tercet.errors import InputError

LENGTHS = st.lists(st.integers(2, 600), max_size=60).map(lambda x: np.array(x, dtype=np.int64))


@given(LENGTHS, st.integers(1, 2000))
def test_batches(lengths: np.ndarray, budget: int) -> None:
    found = list(batches(lengths, budget))
    order = np.concatenate([*found, np.zeros(0, dtype=np.int64)])
    np.testing.assert_array_equal(order, np.argsort(-lengths, kind="stable"))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(lengths)))
    assert (np.diff(lengths[order]) <= 0).all()
    for number, rows in enumerate(found):
        size = lengths[rows].sum()
        assert size <= budget or len(rows) == 1
        if number + 1 < len(found):  # as full as they can be
            assert size + lengths[found[number + 1][0]] > budget
    np.testing.assert_array_equal(lengths[order][np.argsort(order)], lengths)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="budget"):
        next(batches(np.array([3]), 0))
