"""Averages over tasks and languages, and what is compared together."""

import numpy as np
import pytest

from tercet.evaluate.measures import Values
from tercet.evaluate.results import TaskResult, averages, comparisons


def test_means_by_language_and_over_tasks() -> None:
    def result(name: str, language: str, *values: float) -> TaskResult:
        measured = Values("m", tuple(map(str, range(len(values)))), np.array(values))
        return TaskResult(name, "s", language, values={"a": {"m": measured}})

    mixed = result("t/4", "", 1.0, 0.0, 0.5)
    mixed.languages = {"0": "de", "1": "de"}
    results = [result("t/1", "de", 1.0), result("t/2", "fr", 0.8), result("t/3", "xx"), mixed]
    (line,) = averages(results, ["a"])
    assert line["tasks"] == {"a": pytest.approx((1 + 0.8 + 0.5) / 3, abs=1e-6)}  # xx has no query
    assert line["by_language"] == {"de": {"a": 0.75}, "fr": {"a": 0.8}}
    assert line["languages"] == {"a": pytest.approx(0.775)}
    assert averages(results[2:3], ["a"])[0]["tasks"] == {"a": None}


def test_the_same_questions_in_many_languages_are_one_sample() -> None:
    draw = np.random.default_rng(5)
    values = {name: draw.random(40) for name in ("a", "b")}
    results = []
    for number in range(6):
        order = draw.permutation(40)
        ids = tuple(f"q{place}" for place in order)
        measured = {n: {"nDCG@10": Values("nDCG@10", ids, v[order])} for n, v in values.items()}
        results.append(TaskResult(f"t/{number}", "t", str(number), values=measured))
    (alone,) = comparisons(results[:1], ["a", "b"], "a")
    (together,) = comparisons(results, ["a", "b"], "a")
    assert together["p"] == pytest.approx(alone["p"], abs=0.02)
    assert together["queries"] == 40
    widths = [one["high"] - one["low"] for one in (together, alone)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
