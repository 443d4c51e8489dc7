"""`tercet init` and `tercet trim`: what they print, and what they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from tercet.checkpoint import read_checkpoint
from tercet.cli import run
from tercet.cli.train import init, trim


def call(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made: list[dict[str, Any]] = [
        {"query": f"the river {n}", "pos": [f"water of the river {n}"], "lang": "en"}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def bare(folder: Path, target: Path) -> Path:
    """A copy of a model without the heads of its own."""
    shutil.copytree(folder, target)
    for name in ("sparse_linear.pt", "colbert_linear.pt", "tercet.json"):
        (target / name).unlink()
    return target


def test_init_makes_three_heads(tiny_checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    source = bare(tiny_checkpoint, tmp_path / "encoder")
    target = tmp_path / "start"
    found = call(init, "--from", source, "--to", target, "--fit", rows, "--multi", 8)
    assert found.exit_code == 0, found.output
    assert "2 layers of 32" in found.stdout
    assert "positions: 512 -> 8,194" in found.stdout
    assert "sample: 80 texts in 1 languages" in found.stdout
    model = read_checkpoint(target).model
    assert model.heads == ("dense", "sparse", "multi")
    assert model.multi is not None
    assert model.multi.out_features == 8


@pytest.mark.parametrize(
    ("dtype", "held"),
    [("bfloat16", {torch.bfloat16}), ("float8", {torch.bfloat16, torch.float8_e5m2})],
)
def test_init_prunes_and_stores_in_a_dtype(
    tiny_checkpoint: Path, rows: Path, tmp_path: Path, dtype: str, held: set[torch.dtype]
) -> None:
    found = call(
        *(init, "--from", tiny_checkpoint, "--to", tmp_path / "a", "--rows", rows),
        *("--vocabulary", 200, "--positions", 600, "--dtype", dtype, "--json"),
    )
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["vocabulary"][1] <= 200
    assert facts["positions"] == [512, 600]
    stored = load_file(tmp_path / "a" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == held


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--vocabulary", "100"], 1, "a smaller vocabulary is chosen by text: give rows"),
        (["--fit", "nowhere.jsonl", "--multi", "8"], 1, "nowhere.jsonl"),
        (["--positions", "3"], 2, "--positions"),
        (["--alpha", "2"], 2, "--alpha"),
    ],
)
def test_what_cannot_start_is_told_in_words(
    tiny_checkpoint: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = bare(tiny_checkpoint, tmp_path / "encoder")
    assert run(["init", "--from", str(source), "--to", str(tmp_path / "a"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


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
