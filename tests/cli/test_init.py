"""`tercet init` and `tercet trim`: what they print, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tercet.checkpoint import read_checkpoint
from tercet.cli.init import init
from tercet.cli.trim import trim
from tercet.tokens import Tokenizer

SIZES = "--hidden 32 --layers 1 --heads 2 --feed-forward 32 --multi 8 --positions 66".split()


def call(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made: list[dict[str, Any]] = [
        {"query": f"the river {n}", "pos": [f"water of the river {n}"]} for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_init_makes_a_model(source: Path, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "fresh"
    found = call(init, "--to", target, "--tokenizer", source, *SIZES)
    assert found.exit_code == 0, found.output
    assert "1 layers of 32" in found.stdout
    assert read_checkpoint(target).model.heads == ("dense", "sparse", "multi")
    found = call(
        init, "--to", tmp_path / "b", "--tokenizer", source, *SIZES, "--multi", 0, "--json"
    )
    facts = json.loads(found.stdout)
    assert facts["heads"] == ["dense", "sparse"]
    assert facts["max_length"] == 64


def test_init_prunes_trains_and_warms_up(source: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text(rows.read_text())
    found = call(
        *(init, "--to", tmp_path / "a", "--tokenizer", source, "--rows", folder),
        *("--vocabulary", 200, "--bag-steps", 50, "--json", *SIZES),
    )
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["vocabulary"] <= 200
    assert "step 50, loss" in found.stderr
    bag = read_checkpoint(tmp_path / "a").settings.training["bag"]
    assert (bag["rows"], bag["sources"]) == (80, ["one", "two"])
    found = call(
        *(init, "--to", tmp_path / "b", "--train-tokenizer", "--rows", rows),
        *("--vocabulary", 60, "--json", *SIZES),
    )
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["vocabulary"] <= 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --tokenizer or --train-tokenizer"),
        (["--tokenizer", "x", "--train-tokenizer"], "either --tokenizer or --train-tokenizer"),
        (["--train-tokenizer"], "needs --vocabulary"),
        (["--tokenizer", "x", "--vocabulary", "100"], "needs --rows"),
        (["--tokenizer", "x", "--bag-minutes", "1"], "needs --rows"),
        (["--tokenizer", "x", "--rows", "x"], "do nothing"),
        (["--tokenizer", "x", "--teacher", "x"], "--teacher needs"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    found = call(init, "--to", tmp_path / "a", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert not list(tmp_path.iterdir())


def test_trim_tells_what_it_did(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the river and the sea\n")
    (tmp_path / "b.jsonl").write_text('{"text": "bread"}\n')
    both = f"{tmp_path / 'a.txt'},{tmp_path / 'b.jsonl'}"
    found = call(trim, tiny_checkpoint, "--rows", both, "--to", tmp_path / "small")
    assert found.exit_code == 0, found.output
    assert "texts: 2; cut into other pieces than before: 0" in found.stdout
    assert "dense 0 (scores 0), sparse 0 (scores 0), multi 0 (scores 0)" in found.stdout
    found = call(
        *(trim, tiny_checkpoint, "--rows", both, "--to", tmp_path / "c", "--sample", 0, "--json")
    )
    facts = json.loads(found.stdout)
    assert facts["after"]["vocabulary"] < facts["before"]["vocabulary"]
    assert facts["compared"] == 0


@pytest.mark.parametrize("command", [init, trim])
def test_every_option_has_help_and_the_command_examples(command: click.Command) -> None:
    assert f"  tercet {command.name} " in (command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert not command.get_short_help_str(70).endswith("...")
