"""`tercet train`: plans, runs, goes on, and says in a sentence what it cannot do."""

import json
import tomllib
from pathlib import Path

import pytest

from tercet.cli import run
from tercet.encoder import Encoder
from tercet.train.config import from_tree
from tests.train.test_trainer import write_rows


@pytest.fixture
def arguments(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    rows = write_rows(tmp_path / "rows.jsonl", 24)
    settings = ["steps=3", "batch.rows=8", "batch.lengths=[64]", "dtype=float32", "device=cpu"]
    command = ["train", "unified", "--model", str(tiny_checkpoint), "--rows", f"{rows},"]
    for setting in settings:
        command += ["--set", setting]
    return [*command, "--to", str(tmp_path / "run")]


def test_a_plan_is_shown_and_nothing_is_made(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "24 rows" in text
    assert "3 steps, 1 epochs of 3 batches; distillation from step 0" in text
    assert run([*arguments, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [group["batch"] for group in plan["groups"]] == [8]
    assert not (tmp_path / "run").exists()


def test_the_whole_config_is_shown_as_toml(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--show"]) == 0
    config = from_tree(tomllib.loads(capsys.readouterr().out))
    assert (config.steps, config.epochs, config.batch.rows, config.batch.sizes) == (3, 0.0, 8, ())
    assert len(config.data.sources[0].files) == 1  # nothing behind the comma


def test_a_run_is_made_and_gone_on_with(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith(str(tmp_path / "run" / "model"))
    Encoder.load(tmp_path / "run" / "model")
    assert run(arguments) == 1
    assert "holds a run already: go on with --resume" in capsys.readouterr().err
    assert run(["train", "unified", "--to", str(tmp_path / "run"), "--resume"]) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "best"], "best: no such file, and no recipe of that name"),
        (["train", "unified", "--set", "batch.row=3"], "unknown field 'row'"),
        (["train", "unified", "--set", "optimiser.clip=-1"], "optimiser.clip is at least 0"),
        (["train", "unified", "--set", "optimiser.lr=nan"], "optimiser.lr is at least"),
        (
            ["train", "unified", "--set", "negatives.limit=1.5", "--dry-run"],
            "negatives.limit is at least 0.01 and at most 1, got 1.5",
        ),
        (["train", "unified", "--rows", ","], "a source needs files"),
        (["train", "unified"], "say where the run is kept (--to DIR)"),
        (["train", "unified", "--to", "x"], "give training rows (--rows FILES)"),
        (["train", "unified", "--to", "x", "--set", "device=gpu"], "device is cpu or cuda"),
    ],
)
def test_what_cannot_run_is_a_sentence(
    command: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("tercet: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
