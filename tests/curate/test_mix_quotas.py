"""Counts in, counts out: weights, caps and temperature are what they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.curate.mix import allot
from tercet.errors import InputError

NONE = np.inf


def wanted(
    weights: list[float],
    *,
    languages: int,
    source_caps: list[float] | None = None,
    language_caps: list[float] | None = None,
    **options: object,
) -> dict[str, Any]:
    return dict(
        weights=np.array(weights, dtype=float),
        source_caps=np.array(source_caps or [NONE] * len(weights), dtype=float),
        language_caps=np.array(language_caps or [NONE] * languages, dtype=float),
        **options,
    )


COUNTS = np.array([[1000, 100, 10], [500, 0, 7]])


def test_nothing_asked_is_every_row_once() -> None:
    np.testing.assert_array_equal(allot(COUNTS, **wanted([1, 1], languages=3)), COUNTS)


def test_a_weight_is_how_often_a_row_is_drawn() -> None:
    got = allot(COUNTS, **wanted([2, 0.5], languages=3))
    np.testing.assert_array_equal(got[0], 2 * COUNTS[0])
    assert got[1].tolist()[:2] == [250, 0]
    assert got[1, 2] in (3, 4)
    twice = allot(COUNTS, **wanted([1, 1], languages=3, epochs=2.0))
    np.testing.assert_array_equal(twice, 2 * COUNTS)
    assert allot(COUNTS, **wanted([1, 0], languages=3))[1].sum() == 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_temperature_is_the_formula(alpha: float) -> None:
    counts = np.array([[1_000_000, 10_000, 100]])
    got = allot(counts, **wanted([1], languages=3, alpha=alpha, rows=300_000))[0]
    share = counts[0] ** alpha / (counts[0] ** alpha).sum()
    np.testing.assert_allclose(got / got.sum(), share, atol=1e-5)
    assert got.sum() == 300_000


def test_temperature_reads_languages_of_all_sources_together() -> None:
    counts = np.array([[900, 0], [100, 10]])
    got = allot(counts, **wanted([1, 1], languages=2, alpha=0.5, rows=1010)).sum(axis=0)
    np.testing.assert_allclose(got[0] / got[1], 10.0, rtol=0.02)  # 1000 ** 0.5 to 10 ** 0.5


def test_shares_hold_whatever_the_languages() -> None:
    shared = wanted([70, 30], languages=3, by_share=True, rows=1000, alpha=0.3)
    assert allot(COUNTS, **shared).sum(axis=1).tolist() == [700, 300]
    # without a number of rows: as many as there are before the first source is used up
    once = wanted([50, 50], languages=3, by_share=True)
    assert allot(COUNTS, **once).sum(axis=1).tolist() == [507, 507]


def test_caps_hold_and_the_rest_fills_up() -> None:
    capped = wanted([1, 1], languages=3, language_caps=[300, NONE, NONE])
    got = allot(COUNTS, **capped)
    assert got.sum(axis=0).tolist() == [300, 100, 17]
    np.testing.assert_allclose(got[0, 0] / got[1, 0], 2, rtol=0.02)  # in proportion
    filled = wanted([1, 1], languages=3, language_caps=[300, NONE, NONE], rows=600)
    assert allot(COUNTS, **filled).sum(axis=0).tolist()[0] == 300
    assert allot(COUNTS, **filled).sum() == 600
    assert allot(COUNTS, **wanted([5, 1], languages=3, source_caps=[50, NONE])).sum(axis=1)[0] == 50


def test_repeats_hold_and_fewer_rows_are_said_by_their_sum() -> None:
    got = allot(COUNTS, **wanted([1, 1], languages=3, rows=10_000, repeats=3, alpha=0.1))
    np.testing.assert_array_equal(got, 3 * COUNTS)
    assert (
        allot(COUNTS, **wanted([1, 1], languages=3, rows=4000, repeats=3, alpha=0.1)).sum() == 4000
    )


def test_what_repeats_keep_from_small_languages_goes_to_others() -> None:
    counts = np.array([[100_000, 10_000, 10]])
    got = allot(counts, **wanted([1], languages=3, alpha=0.3, repeats=2))[0]
    assert got.sum() == counts.sum()
    assert got.tolist()[1:] == [20_000, 20]
    # weights that ask for more than the limit are cut, and nothing else is drawn instead
    held = allot(COUNTS, **wanted([5, 1], languages=3, repeats=2))
    np.testing.assert_array_equal(held, [[2000, 200, 20], [500, 0, 7]])


def test_a_share_of_nothing_is_refused() -> None:
    empty = np.array([[5, 5], [0, 0]])
    with pytest.raises(InputError, match="source 2 has a share of the mix, but no rows"):
        allot(empty, **wanted([50, 50], languages=2, by_share=True))


@given(
    counts=st.lists(
        st.lists(st.integers(0, 2000), min_size=3, max_size=3), min_size=2, max_size=2
    ).filter(lambda rows: all(map(any, rows))),
    weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=2),
    cap=st.integers(1, 3000),
    source_cap=st.integers(1, 3000),
    alpha=st.floats(0, 1),
    rows=st.none() | st.integers(1, 20_000),
    repeats=st.none() | st.integers(1, 5),
    by_share=st.booleans(),
)
def test_limits_always_hold(
    counts: list[list[int]],
    weights: list[float],
    cap: int,
    source_cap: int,
    alpha: float,
    rows: int | None,
    repeats: int | None,
    by_share: bool,
) -> None:
    table = np.array(counts)
    got = allot(
        table,
        **wanted(
            weights,
            languages=3,
            language_caps=[cap, NONE, NONE],
            source_caps=[NONE, source_cap],
            alpha=alpha,
            rows=rows,
            repeats=np.inf if repeats is None else repeats,
            by_share=by_share,
        ),
    )
    assert (got >= 0).all()
    assert (got[table == 0] == 0).all()
    assert got[:, 0].sum() <= cap
    assert got[1].sum() <= source_cap
    if rows is not None:
        assert got.sum() <= rows
    if repeats is not None:
        assert (got <= repeats * table).all()
