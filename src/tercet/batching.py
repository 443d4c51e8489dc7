"""Texts of mixed lengths to batches of a bounded number of tokens, and their order back.

Works on lengths; knows nothing of texts or models. Nothing is padded: a batch's cost is its tokens.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError

Rows = npt.NDArray[np.int64]


def by_length(lengths: npt.NDArray[np.integer]) -> Rows:
    """Row numbers from the longest text to the shortest, equal ones in their order.

    Longest first: what does not fit in memory shows at once, and time left is never too low.
    """
    return np.argsort(-lengths.astype(np.int64), kind="stable")


def batches(lengths: npt.NDArray[np.integer], budget: int) -> Iterator[Rows]:
    """Row numbers in length order, cut into batches of at most `budget` tokens, or of one text.

    Raises InputError where the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"a batch needs a budget of at least 1 token, got {budget}")
    order = by_length(lengths)
    ends = np.cumsum(lengths[order], dtype=np.int64)
    first, used = 0, 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(ends, used + budget, side="right")))
        yield order[first:last]
        first, used = last, int(ends[last - 1])


def inverse(order: Rows) -> Rows:
    """Where each row went: `sorted_rows[inverse(order)]` are the rows in their first order."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order), dtype=order.dtype)
    return back
