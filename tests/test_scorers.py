"""Scorers by name: modules of the present folder are found, and hide nothing that is installed."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import InputError
from tercet.scorers import PAIRS, scorer_of, scores_of

JUDGE = "import colorsys\n\ndef score(pairs):\n    return [len(colorsys.__file__)] * len(pairs)\n"


def test_a_module_of_the_present_folder_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judge_of_this_test.py").write_text(JUDGE)
    (tmp_path / "colorsys.py").write_text("raise AssertionError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert scorer_of("judge_of_this_test:score")([("a", "b")])[0] > 0
    assert Path(sys.modules["colorsys"].__file__ or "").parent != tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nocolon", "module:function"),
        ("tercet_no_such:thing", "is not there"),
        ("math:absent", "is not there"),
        ("math:tau", "not a function"),
    ],
)
def test_a_scorer_that_is_not_there_is_told(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        scorer_of(name)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda pairs: [1.0], "one number for each pair"),
        (lambda pairs: [[1.0, 2.0]] * len(pairs), "one number for each pair"),
        (lambda pairs: [float("nan")] * len(pairs), "b:7: .*nan .* finite"),
        (lambda pairs: ["high"] * len(pairs), "something else than numbers"),
    ],
)
def test_scores_are_one_finite_number_a_pair(wrong: Any, words: str) -> None:
    pairs = [(str(n), "text") for n in range(PAIRS + 2)]
    assert scores_of(lambda some: [float(q) for q, _ in some], pairs) == list(range(len(pairs)))
    with pytest.raises(InputError, match=words):
        scores_of(wrong, pairs[:2], ["b:7", "b:8"])
