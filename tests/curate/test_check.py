"""`tercet data check`: what is in files of rows, and every defect with file and line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tercet.cli import run
from tercet.curate.check import OVERSIZED, FileReport, Found, Lengths, check_files
from tercet.tokenizer import Tokenizer
from tercet.train.config import DataConfig, SourceConfig
from tercet.train.dataset import Examples
from tests.kinds import write_as

ROWS: list[dict[str, Any]] = [
    {"query": "the river", "pos": ["the sea"], "neg": ["fire", "stone"], "lang": "en"},
    {"query": "the  River", "pos": ["the water"], "neg": ["The WATER"], "lang": "en"},
    {"query": "casa", "pos": ["la casa"], "lang": "es", "pos_scores": [1.0]},
    {"query": "casa", "pos": ["la casa"], "neg": [], "lang": "es", "group": 4},
    {"query": "a" * (OVERSIZED + 1), "pos": ["sea"], "neg": ["ship"]},
]


def one(path: Path, tokenizer: Tokenizer, **options: Any) -> FileReport:
    (report,) = check_files([path], tokenizer, **{"max_length": 100, **options})
    return report


def test_what_is_reported(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_as("jsonl", tmp_path, ROWS)
    path.write_text("\n" + path.read_text())
    assert one(path, tokenizer, block=2) == one(path, tokenizer)
    sizes = [len(ids) + 2 for ids in tokenizer.contents([row["query"] for row in ROWS])]
    assert sizes[-1] > 8192
    texts = [text for row in ROWS for text in row.get("neg", [])]
    negatives = sorted(len(ids) + 2 for ids in tokenizer.contents(texts))
    assert one(path, tokenizer) == FileReport(
        file=str(path),
        rows=5,
        texts=12,
        lengths={
            "query": Lengths(5, sorted(sizes)[2], sorted(sizes)[3], sizes[-1], 1),
            "pos": Lengths(5, 4, 4, 4, 0),
            "neg": Lengths(4, negatives[1], negatives[2], negatives[3], 0),
        },
        languages={"en": 2, "es": 2, "": 1},
        groups=3,
        largest_group=2,
        compared=0.85,
        scored=1,
        without_negatives=Found(3, 3),
        positive_in_negatives=Found(1, 3),
        duplicates=Found(1, 5),
        oversized=Found(1, 6),
        empty=Found(0, None),
        defects=0,
        first_defects=(),
    )


def test_counts_are_those_of_the_examples(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"query": f"q{n % 9}", "pos": [f"p{n % 14}"], "neg": [f"n{n}"]} for n in range(40)]
    path = write_as("jsonl", tmp_path, rows)
    report = one(path, tokenizer)
    found = Examples.load(
        [SourceConfig(files=(str(path),))], tokenizer, DataConfig(), cache=tmp_path / "cache"
    )
    assert (report.groups, report.largest_group) == (1, 40)
    assert report.compared == round(found.related.compared(), 4)
    assert (report.rows, report.texts) == (len(found), len(found.keys))
    queries = found.lengths(found.query) + 2
    assert report.lengths["query"].longest == queries.max()


def test_repeats_of_an_earlier_file_are_found(tokenizer: Tokenizer, tmp_path: Path) -> None:
    paths = [write_as("jsonl", tmp_path, ROWS[:3], name=name) for name in "ab"]
    first, second = check_files(paths, tokenizer, max_length=100)
    assert (first.duplicates, second.duplicates) == (Found(0, None), Found(3, 1))


BAD = [
    '{"query": "q", "pos": ["p"], "neg": ["n"]}',
    '{"query": " ", "pos": ["p"]}',
    "",
    "{broken",
    '{"query": "q", "pos": ["p", ""]}',
    '{"query": "q", "pos": ["p"], "neg_scores": [1]}',
    "[1]",
    '{"text": "raw"}',
]


def test_all_defects_are_collected(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(BAD))
    report = one(path, tokenizer)
    assert (report.rows, report.defects, report.empty) == (2, 5, Found(2, 2))
    assert [text.removeprefix(f"{path}:").partition(":")[0] for text in report.first_defects] == [
        "2", "4", "5", "6", "7",
    ]  # fmt: skip
    strict = one(path, tokenizer, negatives_required=True)
    assert strict.defects == 6
    assert strict.first_defects[-1].startswith(f"{path}:8: no 'neg'")
    path.write_text("\n\n")
    assert one(path, tokenizer).first_defects == (f"{path}: no rows",)


def test_what_ends_too_soon_is_reported_so_far(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"query": f"q{n}", "pos": [f"p{n * 7919}"]} for n in range(6_000)]
    path = write_as("jsonl.zst", tmp_path, rows)
    path.write_bytes(path.read_bytes()[:-1000])
    report = one(path, tokenizer)
    assert 0 < report.rows < 6_000
    assert report.defects == 1
    assert "ends in the middle" in report.first_defects[0]


# the command


def test_a_good_file(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_as("jsonl", tmp_path, ROWS[:4], name="a")
    write_as("dataset", tmp_path, ROWS[:1], name="b")
    options = ["--model", str(tiny_checkpoint), "--max-length", "3"]
    assert run(["data", "check", str(tmp_path), *options, "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["file"] for line in lines] == [str(tmp_path / "a.jsonl"), str(tmp_path / "b")]
    assert lines[0]["lengths"]["query"]["cut"] == 2
    assert run(["data", "check", str(tmp_path), *options]) == 0
    words = capsys.readouterr().out
    for says in (
        "a.jsonl: 4 rows, 9 different texts",
        "over 3",
        "languages: en 2, es 2",
        "groups: 2, the largest of 2 rows",
        "passages of other rows that a row is compared with: ",
        "rows without negatives: 3, the first in line 2",
        "rows that repeat an earlier one: 1, the first in line 4",
        "defects: 0",
    ):
        assert says in words, says


def test_a_set_that_compares_little_or_nothing_is_told(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def checked(rows: list[dict[str, Any]]) -> tuple[int, str]:
        path = write_as("jsonl", tmp_path, rows)
        return run(
            ["data", "check", str(path), "--model", str(tiny_checkpoint)]
        ), capsys.readouterr().err

    rows: list[dict[str, Any]] = [{"query": f"q{n}", "pos": [f"p{n}"]} for n in range(20)]
    assert checked(rows) == (0, "")
    chain = [{**row, "pos": [*row["pos"], f"p{n + 1}"]} for n, row in enumerate(rows)]
    code, told = checked(chain)
    assert code == 0
    assert "20 of 20 rows are one group" in told
    assert "compared with" not in told
    code, told = checked([{**row, "pos": [*row["pos"], "shared"]} for row in rows])
    assert code == 1
    assert "compared with 0.0% of the other" in told
    assert "nothing that a row is compared with" in told
    code, told = checked([{**row, "pos": [*row["pos"], "shared"], "neg": ["n"]} for row in rows])
    assert code == 0
    assert "compared with 0.0% of the other" in told


def test_a_file_that_cannot_train(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*BAD, *['{"pos": []}'] * 30]))
    options = ["--model", str(tiny_checkpoint)]
    write_as("jsonl", tmp_path, [{"query": "q", "pos": ["p"]}], name="c")
    assert run(["data", "check", str(tmp_path / "c.jsonl"), *options]) == 1
    assert "nothing that a row is compared with" in capsys.readouterr().err
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write("{\n")
    assert run(["data", "check", str(tmp_path / "c.jsonl"), *options]) == 1
    assert "c.jsonl:2: not readable as JSON" in capsys.readouterr().err
    rows = [{"query": text, "pos": [f"p {text}"]} for text in "qr"]
    write_as("jsonl", tmp_path, rows, name="c")
    lacking = ["data", "check", str(tmp_path / "c.jsonl"), *options]
    assert run(lacking) == 0
    for flag in ("--negatives-required", "--no-in-batch"):
        assert run([*lacking, flag]) == 1
        assert "c.jsonl:1: no 'neg'" in capsys.readouterr().err
    (tmp_path / "c.jsonl").unlink()
    assert run(["data", "check", str(tmp_path), *options]) == 1
    shown = capsys.readouterr()
    told = shown.err.splitlines()
    assert ["compared with 0.0%" in line for line in told[:3]] == [True, True, False]
    told = told[2:]
    assert len(told) == 21
    assert told[0] == f"tercet: {tmp_path / 'a.jsonl'}:2: 'query' is empty"
    assert told[-1] == "tercet: 70 defects: this cannot train, of which 20 are named"
    assert run(["data", "check", str(tmp_path), *options, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["defects"] for line in lines] == [35, 35]
    assert [len(line["first_defects"]) for line in lines] == [20, 20]


def test_the_bundled_tokenizer_is_the_default_and_stdout_is_clean(tmp_path: Path) -> None:
    path = write_as("jsonl", tmp_path, ROWS[:1])
    command = [sys.executable, "-m", "tercet", "data", "check", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 1
    assert done.stderr == ""
