"""`tercet mine`: the options reach the library, and wrong ones are told."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tercet.cli.train import mine
from tercet.rows import read_rows, write_rows
from tests.mining.conftest import ask, training_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl.gz", training_rows())
    return tmp_path / "rows.jsonl.gz"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mine, [str(argument) for argument in arguments])


def test_rows_come_out_with_negatives_and_a_report(
    rows: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judge.py").write_text("def score(pairs):\n    return [len(p) for _, p in pairs]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    out = tmp_path / "out.jsonl"
    common = [rows, "--to", out, "--model", tiny_checkpoint, "--ranks", "1-20", "--number", 3]
    made = [*common, "--by", "dense,bm25", "--limit", "1", "--limit", "bm25=none"]
    scored = call(*made, "--scorer", "judge:score", "--margin", "none", "--scores", "--json")
    assert scored.exit_code == 0, scored.output
    report: dict[str, Any] = json.loads(scored.stdout)
    mined = list(read_rows(out))
    assert len(mined) == report["rows"] == len(training_rows())
    assert report["kept"] == sum(len(row.get("neg", [])) for row in mined) > 100
    assert mined[0]["neg_scores"] == [len(text) for text in mined[0]["neg"]]
    shown = call(*common, "--limit", "none")
    assert shown.exit_code == 0, shown.output
    assert "rows got fewer than wanted" in shown.stdout
    assert out.with_suffix(".jsonl").name in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_run_is_followed(training_run: Path, tiny_checkpoint: Path) -> None:
    ask(training_run, 2, tiny_checkpoint)
    (training_run / "DONE").touch()
    found = call("--follow", training_run, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rows.jsonl"], "give FILES and --to"),
        *(
            ([*given, "--follow", "run"], "leave out FILES and all options but --work, --device")
            for given in (["rows.jsonl"], ["--to", "x.jsonl"], ["--number", "3"], ["--model", "m"])
        ),
        (["rows.jsonl", "--to", "x.jsonl", "--ranks", "2:9"], "is not a range"),
        (["rows.jsonl", "--to", "x.jsonl", "--limit", "high"], "neither a number nor none"),
        (["rows.jsonl", "--to", "x.jsonl", "--limit", "95"], "share of the positive's score"),
        (["rows.jsonl", "--to", "x.jsonl", "--scores"], "--reranker or --scorer: give one"),
        (["rows.jsonl", "--to", "x.jsonl", "--scorer", "a:b", "--reranker", "c"], "not both"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str) -> None:
    found = call(*arguments)
    assert found.exit_code == 2
    assert words in " ".join(found.output.split())
