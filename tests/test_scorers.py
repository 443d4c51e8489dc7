"""Scorers by name: modules of the present folder are found, and hide nothing that is installed."""

import sys
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.scorers import scorer_of

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
    with pytest.raises(InputError, match="judge_of_this_test:absent"):
        scorer_of("judge_of_this_test:absent")
