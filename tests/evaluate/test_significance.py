"""Paired tests: exact where few differ, as scipy has them, and false alarms as rare as told."""

import numpy as np
import pytest
from scipy import stats

from tercet.errors import InputError
from tercet.evaluate.measures import Values
from tercet.evaluate.results import TaskResult, comparisons
from tercet.evaluate.significance import EXACT, compare, holm


def test_few_differences_are_tested_exactly() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(40)
    b = a.copy()
    moved = rng.choice(40, EXACT, replace=False)
    b[moved] += rng.normal(0.05, 0.1, EXACT)
    (found,) = compare({"a": [a], "b": [b]})
    theirs = stats.permutation_test(
        (a[moved], b[moved]),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        permutation_type="samples",
        n_resamples=1 << EXACT,  # as many as there are: all of them
        vectorized=True,
    )
    assert found.exact
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.difference == pytest.approx(float((b - a).mean()))


def test_hand_worked_signs() -> None:
    zero = np.zeros(5)
    (all_better,) = compare({"a": [zero], "b": [np.full(5, 0.1)]})
    assert all_better.p == 2 / 2**5  # all signs alike, either way
    (one,) = compare({"a": [zero], "b": [np.array([0.1, 0, 0, 0, 0])]})
    assert one.p == 1.0
    (same,) = compare({"a": [zero], "b": [zero]})
    assert (same.p, same.difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)


def test_many_differences_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(300)
    b = a + rng.normal(0.012, 0.1, 300)
    (found,) = compare({"a": [a], "b": [b]}, trials=20_000)
    assert not found.exact
    assert found.p == pytest.approx(stats.ttest_rel(b, a).pvalue, abs=0.01)
    theirs = stats.bootstrap((b - a,), np.mean, n_resamples=9999, method="percentile", rng=2)
    low, high = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0006)
    assert found.low < found.difference < found.high


def test_the_same_seed_gives_the_same_and_swapping_turns_the_sign() -> None:
    rng = np.random.default_rng(2)
    runs = {"a": [rng.random(50)], "b": [rng.random(50)]}
    assert compare(runs) == compare(runs)
    (there,), (back,) = compare(runs, pairs=[("a", "b")]), compare(runs, pairs=[("b", "a")])
    assert back.difference == -there.difference
    assert back.p == there.p


def test_false_alarms_are_as_rare_as_told() -> None:
    rng = np.random.default_rng(3)
    base = rng.random(200)
    runs = {"base": [base]} | {f"n{i}": [base + rng.laplace(0, 0.1, 200)] for i in range(400)}
    pairs = [("base", name) for name in runs if name != "base"]
    found = compare(runs, pairs=pairs, trials=1000)
    assert 0.02 < np.mean([one.p < 0.05 for one in found]) < 0.08
    assert 0.02 < np.mean([not one.low <= 0 <= one.high for one in found]) < 0.08
    assert sum(one.corrected < 0.05 for one in found) <= 1
    (real,) = compare({"a": [base], "b": [base + rng.normal(0.05, 0.1, 200)]})
    assert real.p < 0.001
    assert real.low > 0


def test_tasks_count_alike_whatever_their_size() -> None:
    rng = np.random.default_rng(5)
    sizes = (400, 20)
    a = [rng.random(size) for size in sizes]
    b = [values + shift for values, shift in zip(a, (0.0, 0.2), strict=True)]
    (found,) = compare({"a": a, "b": b})
    assert found.difference == pytest.approx(0.1)  # the mean of the tasks' means
    assert found.low == pytest.approx(0.1)  # queries are drawn within their task
    assert found.high == pytest.approx(0.1)
    assert found.queries == 420


def test_blocks_change_nothing() -> None:
    rng = np.random.default_rng(6)
    runs = {name: [rng.random(30), rng.random(17)] for name in "abc"}
    expected = {(one.a, one.b): one for one in compare(runs, trials=4000)}
    for one in compare(runs, trials=4000, block=1000):
        other = expected[one.a, one.b]
        assert one.difference == other.difference
        assert one.p == pytest.approx(other.p, abs=0.03)  # other draws, of the same law
    assert len(expected) == 3


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(InputError, match="a and b have values of different queries"):
        compare({"a": [np.zeros(3)], "b": [np.zeros(4)]})
    with pytest.raises(InputError, match="no run 'c'"):
        compare({"a": [np.zeros(3)], "b": [np.zeros(3)]}, pairs=[("a", "c")])
    with pytest.raises(InputError, match="nothing to compare"):
        compare({"a": [np.zeros(0)], "b": [np.zeros(0)]})
    assert compare({"a": [np.zeros(3)]}) == []


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    rng = np.random.default_rng(7)
    p = rng.random(20)
    corrected = np.array(holm(p.tolist()))
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()


def test_the_same_questions_in_many_languages_are_one_sample() -> None:
    draw = np.random.default_rng(5)
    values = {name: draw.random(40) for name in ("a", "b")}
    results = []
    for number in range(6):
        order = draw.permutation(40)
        ids = tuple(f"q{place}" for place in order)
        found = {n: {"nDCG@10": Values("nDCG@10", ids, v[order])} for n, v in values.items()}
        results.append(TaskResult(f"t/{number}", "t", str(number), "retrieval", 9, 40, 512, found))
    (alone,) = comparisons(results[:1], ["a", "b"], "a")
    (together,) = comparisons(results, ["a", "b"], "a")
    assert together["p"] == pytest.approx(alone["p"], abs=0.02)
    assert together["queries"] == 40
    assert together["high"] - together["low"] == pytest.approx(
        alone["high"] - alone["low"], rel=0.1
    )
