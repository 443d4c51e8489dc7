"""`tercet data filter`: what is typed reaches the job, what comes back is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.cli import run
from tercet.curate.filter import encoder_scorer
from tercet.rows import read_rows

QUERY, PASSAGE = "what do bees eat", "Bees eat the pollen and the nectar of the plants they visit."


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines: list[Any] = [
        {"query": QUERY, "pos": [PASSAGE], "lang": "en"},
        {"query": "what is a wasp", "pos": ["404 Not Found"]},
        {"query": QUERY, "pos": [PASSAGE]},
        {"query": "wie leben Bienen im Winter", "pos": ["In einer Traube, die sich wärmt."]},
        {"query": "q"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_report_is_told(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, dropped = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    typed = ["data", "filter", str(rows), "--to", str(target), "--dropped", str(dropped)]
    assert run([*typed, "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert f"{target}: 2 of 5 rows kept" in told
    assert f"{rows}:2: positive: an error page: '404 Not Found' | 404 Not Found" in told
    assert f"{rows}:3: the same as {rows}:1" in told
    assert f"{rows}:5: 'pos' is missing" in told
    assert "languages written into rows: " in told
    assert [one["line"] for one in read_rows(dropped)] == [2, 3, 5]
    assert [one["query"] for one in read_rows(target)] == [QUERY, "wie leben Bienen im Winter"]


def test_a_model_scores(
    rows: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = encoder_scorer(str(tiny_checkpoint), None, "cpu", 64)
    pairs = [("the river", "the river in the city"), ("the star", "bread"), ("the river", "bread")]
    scores = list(score(pairs))
    assert scores == pytest.approx([score([pair])[0] for pair in pairs], abs=1e-5)
    assert all(-1.001 <= one <= 1.001 for one in scores)
    typed = ["data", "filter", str(rows), "--to", str(tmp_path / "out.jsonl"), "--json"]
    typed += ["--workers", "1", "--steps", "relevance", "--model", str(tiny_checkpoint)]
    typed += ["--device", "cpu"]
    assert run([*typed, "--min-score", "-1.1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == 4
    assert set(report["scores"]) == {"1%", "5%", "25%", "50%", "75%"}
    assert run([*typed, "--min-score", "1.1"]) == 1
    assert "no row is left of 5: fields 1, relevance 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--steps", "near,speed"], "unknown step 'speed'"),
        (["--without", "speed"], "unknown step 'speed'"),
        (["--steps", "evaluation"], "the step evaluation needs --against"),
        (["--steps", "relevance"], "the step relevance needs --min-score"),
        (["--steps", "near", "--against", "x"], "--against is for the step evaluation"),
        (["--model", "x"], "give that too"),
        (["--min-score", "0", "--model", "x", "--scorer", "y:z"], "not both"),
        (["--query-length", "5"], "'5' is not a range"),
        (["--near", "2"], "near must lie between"),
        (["--shard", "3/2"], "no part 3 of 2"),
        (["--to", "x.csv"], "must end in .jsonl or .jsonl.gz"),
    ],
)
def test_wrong_usage_is_told(
    rows: Path,
    tmp_path: Path,
    typed: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["data", "filter", str(rows), "--to", str(tmp_path / "o.jsonl"), *typed]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "see `tercet data filter --help`" in error
