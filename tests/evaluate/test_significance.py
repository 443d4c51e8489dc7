"""Paired tests: exact where few differ, as scipy has them, and false alarms as rare as told."""

import numpy as np
import pytest
from scipy import stats

from tercet.errors import InputError
from tercet.evaluate.significance import EXACT, Comparison, compare, holm


def one(a: np.ndarray, b: np.ndarray, trials: int = 10_000) -> Comparison:
    (comparison,) = compare({"a": [a], "b": [b]}, "a", trials=trials)
    return comparison


def test_few_differences_are_tested_exactly() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(40)
    b = a.copy()
    moved = rng.choice(40, EXACT, replace=False)
    b[moved] += rng.normal(0.05, 0.1, EXACT)
    theirs = stats.permutation_test(
        (a[moved], b[moved]),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        permutation_type="samples",
        n_resamples=1 << EXACT,  # as many as there are: all of them
        vectorized=True,
    )
    ours = one(a, b)
    assert ours.exact
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.difference == pytest.approx(float((b - a).mean()))


def test_hand_worked_signs() -> None:
    zero = np.zeros(5)
    assert one(zero, np.full(5, 0.1)).p == 2 / 2**5  # all signs alike, either way
    assert one(zero, np.array([0.1, 0, 0, 0, 0])).p == 1.0
    same = one(zero, zero)
    assert (same.p, same.difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)


def test_many_differences_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(300)
    b = a + rng.normal(0.012, 0.1, 300)
    ours = one(a, b, trials=20_000)
    assert not ours.exact
    assert ours.p == pytest.approx(stats.ttest_rel(b, a).pvalue, abs=0.01)
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=9999, method="percentile", rng=2)
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.0006)
    assert ours.low < ours.difference < ours.high
    back = one(b, a, trials=20_000)  # the same seed gives the same, and swapping turns the sign
    assert (back.p, back.difference) == (ours.p, -ours.difference)


def test_false_alarms_are_as_rare_as_told() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(200)
    runs = {"base": [base]} | {f"n{i}": [base + rng.laplace(0, 0.1, 200)] for i in range(400)}
    several = compare(runs, "base", trials=1000)
    assert 0.02 < np.mean([each.p < 0.05 for each in several]) < 0.08
    assert 0.02 < np.mean([not each.low <= 0 <= each.high for each in several]) < 0.08
    assert sum(each.corrected < 0.05 for each in several) <= 1
    real = one(base, base + rng.normal(0.05, 0.1, 200))
    assert real.p < 0.001
    assert real.low > 0


def test_tasks_count_alike_whatever_their_size() -> None:
    rng = np.random.default_rng(5)
    a = [rng.random(size) for size in (400, 20)]
    b = [values + shift for values, shift in zip(a, (0.0, 0.2), strict=True)]
    (alike,) = compare({"a": a, "b": b}, "a")
    # the mean of the tasks' means; queries are drawn within their task
    assert (alike.difference, alike.low, alike.high) == pytest.approx((0.1, 0.1, 0.1))
    assert alike.queries == 420
    (weighted,) = compare({"a": a, "b": b}, "a", weights=(3, 1))
    assert weighted.difference == pytest.approx(0.05)


def test_blocks_change_nothing() -> None:
    rng = np.random.default_rng(6)
    runs = {name: [rng.random(30), rng.random(17)] for name in "abc"}
    whole, parts = (compare(runs, "a", trials=4000, block=block) for block in (1 << 22, 1000))
    assert [each.b for each in whole] == ["b", "c"]
    for each, other in zip(whole, parts, strict=True):
        assert each.difference == other.difference
        assert each.p == pytest.approx(other.p, abs=0.03)  # other draws, of the same law


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(InputError, match="values of different queries"):
        one(np.zeros(3), np.zeros(4))
    assert compare({"a": [np.zeros(3)]}, "a") == []


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    p = np.random.default_rng(7).random(20)
    corrected = np.array(holm(p.tolist()))
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
