"""`tercet data pairs`: what it prints, its exit codes, parts by hand."""

import json
from pathlib import Path

import click
import pytest

from tercet.cli import run
from tercet.cli.curate import pairs as command
from tercet.curate.pairs import PairsJob
from tercet.curate.pairs_sources import PairOptions


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["data", "pairs", *(str(argument) for argument in arguments)])
    return (code, *capsys.readouterr())


def test_rows_and_a_report_are_written(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "rows.jsonl"
    arguments = (tree, "--to", target, "--workers", 1)
    code, out, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    rows = target.read_text().count("\n")
    assert out.startswith(f"{target}: {rows:,} rows\n")
    assert "  title-body: language not said 700\n" in out
    assert "  units read: records 700, tmx 700, " in out
    assert "1  a section around the text" in out
    code, out, _ = call(capsys, *arguments, "--json")
    report = json.loads(out)
    assert (code, report["rows"], report["problems"]) == (0, rows, 0)
    assert report == json.loads((tmp_path / "rows.report.json").read_text())


def test_parts_made_by_hand_are_joined(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(capsys, tree, "--to", tmp_path / "whole.jsonl", "--workers", 1)
    target = tmp_path / "rows.jsonl"
    for part in ("2/2", "1/2"):
        code, out, _ = call(capsys, tree, "--to", target, "--shard", part)
        assert code == 0
        assert f"part {part[0]} of 2" in out
        assert not target.exists()
    assert run(["data", "merge", str(target)]) == 0
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_cannot_be_read_is_named_and_the_exit_code_is_1(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "bad.md").write_bytes(b"\xff\xff")
    target = tmp_path / "rows.jsonl"
    code, _, err = call(capsys, tree, "--to", target, "--workers", 1)
    assert code == 1
    assert target.exists()
    assert err.splitlines() == [
        "tercet: bad.md:1: byte 0xff is not utf-8; convert the file to UTF-8",
        "tercet: 1 file or unit could not be read",
    ]
    assert call(capsys, tree, "--to", target, "--shard", "1/1")[0] == 0
    assert run(["data", "merge", str(target)]) == 1
    assert capsys.readouterr().err == err


def test_no_row_is_a_failure(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (tree / "memory.tmx", "--to", tmp_path / "rows.jsonl", "--direction", "fr-it")
    code, out, err = call(capsys, *arguments, "--workers", 1)
    assert code == 1
    assert "700  a unit without a language asked for" in out
    assert err == "tercet: no row was made: see what was left out, and why\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--as", "poems"], "no structure 'poems'"),
        (["--lang", "english"], "'english' is not a language tag"),
        (["--direction", "de"], "'de' is not a direction"),
        (["--field", "x"], "no field 'x'"),
        (["--shard", "3/2"], "no part 3 of 2"),
        (["--headings", "none"], "'none' is not one of"),
        (["--min-chars", "9", "--max-chars", "5"], "nothing fits"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, _, err = call(capsys, "x", "--to", "y", *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_defaults_are_those_of_the_library() -> None:
    job = PairsJob(sources=["x"], target="y")
    given = {option.name: option.default for option in command.params}
    for name in ("headings", "repeated", "max_chars", "max_query_chars", "kind", "lang", "source"):
        assert given[name] == getattr(job, name)
    text = " ".join(command.get_help(click.Context(command)).split())
    assert (
        f"[default: {PairOptions.min_chars}, of translations {PairOptions.min_translation}]" in text
    )


def test_a_missing_extra_is_named_before_the_work(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "docutils", None)
    arguments = (tree, "--to", tmp_path / "rows.jsonl", "--workers", 1)
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert err == "tercet: reading restructuredtext needs docutils: pip install 'tercet[pairs]'\n"
    assert call(capsys, *arguments, "--exclude", "*.rst")[0] == 0
