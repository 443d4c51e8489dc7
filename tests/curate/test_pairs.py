"""The work as a whole: the same rows from any number of parts, the command, files and languages."""

import gzip
import json
import os
import sys
from pathlib import Path

import pytest

from tercet.cli import run
from tercet.curate import pairs_translations, shards
from tercet.curate.pairs import PairsJob, report_path
from tercet.curate.pairs_sources import language_of_name, parse_direction, parse_tag, tag_or_none
from tercet.curate.pairs_translations import row_tag
from tercet.errors import InputError
from tercet.split import is_parallel
from tests.curate.conftest import LINES, Make

# Parts and what needs all of them


@pytest.mark.parametrize("parts", [2, 7])
def test_rows_and_report_do_not_depend_on_the_number_of_parts(
    tree: Path, make: Make, parts: int
) -> None:
    (tree / "bad.jsonl").write_text('{"title": "x"}\nno json\n' * LINES)
    (tree / "cut.tmx").write_text((tree / "memory.tmx").read_text()[:-3000])
    (tree / "bad.py").write_text("def f(:\n")
    whole = make(tree)
    assert make(tree, parts=parts) == whole
    rows, report = whole
    assert report["problems"] == LINES + 2
    assert {row["source"] for row in rows} == {"tree"}
    made = {name: sum(counts.values()) for name, counts in report["structures"].items()}
    assert LINES < made.pop("translations") < 2 * LINES  # the one that was cut gave some
    assert made == {"title-body": LINES, "code-docstring": 1, "heading-section": 7}


def test_processes_make_the_same_and_do_not_read_what_is_written(tree: Path, make: Make) -> None:
    expected, report = make(tree)
    job = PairsJob(sources=[str(tree)], target=str(tree / "rows.jsonl"))
    for _ in range(2):
        assert {**shards.run(job, workers=2), "to": ""} == {**report, "to": ""}
        lines = (tree / "rows.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == expected
    assert json.loads(report_path(tree / "rows.jsonl").read_text())["rows"] == len(expected)


def heading_file(path: Path, title: str, heading: str, text: str) -> None:
    path.write_text(f"# {title}\n\n## {heading}\n\n{text} is long enough to be a body of a row.\n")


def test_a_heading_that_repeats_is_joined_to_the_title(make: Make, tmp_path: Path) -> None:
    for number in range(3):
        text = f"Text {number} of its own"
        heading_file(tmp_path / f"{number}.md", f"Machine {number}", "How it is oiled", text)
    heading_file(tmp_path / "9.md", "Machine nine", "Why it stands still", "Another text")

    def queries(**options: object) -> list[str]:
        return [row["query"] for row in make(tmp_path, kind="markdown", **options)[0]]

    joined = [f"Machine {number} > How it is oiled" for number in range(3)]
    bare = 3 * ["How it is oiled"]
    assert queries() == [*joined, "Why it stands still"]
    assert queries(headings="joined") == [*joined, "Machine nine > Why it stands still"]
    assert queries(headings="drop") == ["Why it stands still"]
    assert queries(repeated=4) == queries(repeated=0) == [*bare, "Why it stands still"]


def test_copies_repeat_no_heading_and_a_document_asks_once(make: Make, tmp_path: Path) -> None:
    for number in range(5):
        heading_file(tmp_path / f"{number}.md", "Machine", "How it is oiled", "The same text")
    with open(tmp_path / "0.md", "a") as file:
        file.write(f"\n## How it is oiled\n\n{40 * 'more '}\n")
    rows, report = make(tmp_path)
    assert [row["query"] for row in rows] == 5 * ["How it is oiled"]
    assert report["left_out"]["a query met before in its document"]["count"] == 1


def test_everything_read_is_a_row_or_skipped(tree: Path, make: Make) -> None:
    rows, report = make(tree / "articles.jsonl", min_chars=58)
    skipped = report["left_out"]["a body shorter than asked"]
    assert skipped["count"] > 0
    assert len(rows) + skipped["count"] == report["units"]["records"] == LINES
    assert skipped["examples"][0]["id"] == "0"
    assert skipped["examples"][0]["text"].startswith("Town 0: Town 0 lies")


def test_texts_are_cut_where_they_may_be(make: Make, tmp_path: Path) -> None:
    body = "\n\n".join(f"Paragraph {number} tells something." for number in range(50))
    (tmp_path / "a.md").write_text(f"# A long story\n\n{body}\n")
    (row,), _ = make(tmp_path, max_chars=333)
    assert 333 // 2 <= len(row["pos"][0]) <= 333
    assert row["pos"][0].endswith("something.")
    assert body.startswith(row["pos"][0])


# Files


def test_an_unreadable_file_is_named_and_the_rest_is_made(tree: Path, make: Make) -> None:
    (tree / "guide.md").write_bytes(b"# Titel\n\ngr\xfc\xdfe\n")
    (tree / "gone.md").symlink_to(tree / "nowhere.md")
    os.mkfifo(tree / "pipe.md")
    rows, report = make(tree, structures=["heading-section"], exclude=["*.jsonl"])
    notes, page = "deep/notes.rst", "deep/page.html"
    assert [row["id"] for row in rows] == [f"{notes}:1", f"{notes}:6", page, page]
    reasons = {problem["where"]: problem["reason"] for problem in report["first_problems"]}
    assert "byte 0xfc is not utf-8" in reasons.pop("guide.md:3")
    assert reasons == {
        str(tree / "gone.md"): "cannot be read: a link to nothing",
        str(tree / "pipe.md"): "not a regular file but a pipe, socket or device",
    }


def test_links_out_of_the_folder_are_followed_where_it_is_said(make: Make, tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for folder in (tree / "inner", outside):
        folder.mkdir(parents=True)
    heading_file(tree / "own.md", "Own", "What is inside", "The text inside")
    heading_file(outside / "far.md", "Far", "What is outside", "The text outside")
    (tree / "again.md").symlink_to(tree / "own.md")
    (tree / "far.md").symlink_to(outside / "far.md")
    (tree / "folder").symlink_to(outside)
    (tree / "inner" / "round").symlink_to(tree)
    rows, report = make(tree, structures=["heading-section"])
    assert {row["id"] for row in rows} == {"own.md:3", "again.md:3"}
    assert report["passed_over"] == {"links out of the folder (--follow-links)": 1}
    rows, report = make(tree, structures=["heading-section"], follow_links=True)
    assert {row["id"] for row in rows} == {
        f"{name}.md:3" for name in ("own", "again", "far", "folder/far")
    }
    assert not report["passed_over"]


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.po", b"\x80\xff" * 50, "byte 0x80"),
        ("a.po", b'msgid ""\nmsgstr "x"\n\\', ""),
        ("a.md", b"> " * 2000 + b"bees", "nest too deep"),
        ("a.jsonl.gz", gzip.compress(b"x" * (2 << 20), mtime=0), "more than 1 MB"),
        ("a.jsonl.gz", b"no gz", "Not a gzipped file"),
        ("a.tmx.gz", gzip.compress(b"<tmx>", mtime=0)[:-9], "cannot be read"),
        ("a.tmx", b"<tmx><tu>" + b"<x>" * 100_000, "not well-formed"),
        ("a.tmx", b"<tmx><tu><tuv><seg>" + b"x" * (2 << 20), "more than 1 MB"),
    ],
)
def test_whatever_a_file_does_the_others_go_on(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    raw: bytes,
    reason: str,
) -> None:
    monkeypatch.setenv("TERCET_LONGEST_LINE", "1")
    monkeypatch.setattr(pairs_translations, "LARGEST", 1 << 20)
    (tmp_path / name).write_bytes(raw)
    heading_file(tmp_path / "z.md", "Machine", "How it is oiled", "A text")
    rows, report = make(tmp_path)
    assert [row["query"] for row in rows] == ["How it is oiled"]
    (problem,) = report["first_problems"]
    assert (problem["where"].split(":")[0], reason in problem["reason"]) == (name, True)


def test_a_pipe_is_no_source(make: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        make(tmp_path / "a.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_what_is_closed_is_named(tree: Path, make: Make) -> None:
    (tree / "guide.md").chmod(0)
    (tree / "deep").chmod(0)
    _, report = make(tree, structures=["heading-section"], exclude=["*.jsonl"])
    (tree / "deep").chmod(0o755)
    reasons = [problem["reason"] for problem in report["first_problems"]]
    assert reasons == 2 * ["cannot be read: Permission denied"]


def test_files_can_be_excluded_and_read_as_another_kind(tree: Path, make: Make) -> None:
    exclude = ["deep/*", "*.jsonl", "*.tmx"]
    (tree / ".hidden.md").write_text((tree / "guide.md").read_text())
    rows, report = make(tree, exclude=exclude)
    assert report["files"] == {"markdown": 1, "python": 1, "po": 1}
    assert make(tree, tree / "guide.md", exclude=exclude)[0] == rows  # each file once
    (tree / "guide.txt").write_text((tree / "guide.md").read_text())
    guide = [row for row in rows if row["id"].startswith("guide")]
    assert make(tree / "guide.txt", kind="markdown", source="tree")[0] == [
        {**row, "id": row["id"].replace(".md", ".txt")} for row in guide
    ]


@pytest.mark.parametrize(
    ("name", "structure", "message"),
    [
        ("nowhere", "", "no such file"),
        ("guide.md", "code-docstring", "not a file that gives code-docstring"),
        ("deep", "instruction-output", "no file that gives instruction-output"),
        ("guide.md.gz", "", "packed files only as"),
    ],
)
def test_sources_that_give_nothing_are_refused(
    tree: Path, make: Make, name: str, structure: str, message: str
) -> None:
    (tree / "guide.md.gz").write_text("")
    with pytest.raises(InputError, match=message):
        make(tree / name, structures=[structure] if structure else [])


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"structures": ["poems"]}, "poems"),
        ({"kind": "word"}, "word"),
        ({"headings": "maybe"}, "maybe"),
        ({"lang": "jp"}, "jp"),
        ({"directions": ["de-de"]}, "de-de"),
        ({"fields": ["colour=red"]}, "colour"),
        ({"fields": ["title="]}, "title="),
        ({"min_chars": 50, "max_chars": 20}, "50"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, object], shown: str) -> None:
    with pytest.raises(InputError, match=shown):
        PairsJob(sources=["x"], target="y", **options)  # type: ignore[arg-type]


# The command


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["data", "pairs", *map(str, arguments)])
    return (code, *capsys.readouterr())


def test_the_command_writes_rows_and_a_report_whole_or_in_parts(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, target = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    code, out, err = call(capsys, tree, "--to", whole, "--workers", 1)
    assert (code, err) == (0, "")
    rows = whole.read_text().count("\n")
    for shown in (f"{whole}: {rows:,} rows\n", "title-body: language not said 700", "records 700"):
        assert shown in out
    assert "1  a section around the text" in out
    code, out, _ = call(capsys, tree, "--to", whole, "--workers", 1, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "whole.report.json").read_text())
    for part in ("2/2", "1/2"):
        assert call(capsys, tree, "--to", target, "--shard", part)[0] == 0
        assert not target.exists()
    assert run(["data", "merge", str(target)]) == 0
    assert target.read_bytes() == whole.read_bytes()


def test_problems_and_no_rows_make_the_exit_code_1(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "bad.md").write_bytes(b"\xff\xff")
    target = tmp_path / "rows.jsonl"
    code, _, err = call(capsys, tree, "--to", target, "--workers", 1)
    assert code == 1
    assert target.exists()
    assert err.startswith("tercet: bad.md:1: byte 0xff is not utf-8")
    assert call(capsys, tree, "--to", target, "--shard", "1/1")[0] == 0
    assert run(["data", "merge", str(target)]) == 1
    assert capsys.readouterr().err == err
    code, out, err = call(capsys, tree / "memory.tmx", "--to", target, "--direction", "fr-it")
    assert code == 1
    assert "700  a unit without a language asked for" in out
    assert err.startswith("tercet: no row was made")
    code, _, err = call(capsys, "x", "--to", "y", "--as", "poems")
    assert code == 2
    assert "no structure 'poems'" in err


def test_a_missing_extra_is_named_before_the_work(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "docutils", None)
    arguments = (tree, "--to", tmp_path / "rows.jsonl", "--workers", 1)
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert "needs docutils: pip install" in err
    assert call(capsys, *arguments, "--exclude", "*.rst")[0] == 0


# Languages


def test_tags_have_one_form() -> None:
    usual = {"DE": "de", "pt_br": "pt-BR", "zh-hant-tw": "zh-Hant-TW", "sr@latin": "sr"}
    for given, tag in {**usual, "ckb": "ckb", "es-419": "es-419"}.items():
        assert parse_tag(given) == parse_tag(tag) == tag
    for wrong in ("", "d", "english", "jp", "xx", "de-", "top_level", "de en"):
        with pytest.raises(InputError, match="is not a language"):
            parse_tag(wrong)
        assert tag_or_none(wrong) == ""


def test_training_sees_two_languages_in_the_tag_of_a_row() -> None:
    for first in ("de", "zh-Hans", "ckb"):
        for second in ("en", "zh-Hant-TW", "quc"):
            assert is_parallel(row_tag(first, second)) is True


def test_directions() -> None:
    assert parse_direction("de-en") == ("de", "en")
    assert parse_direction("pt-BR:zh-Hant") == ("pt-BR", "zh-Hant")
    for wrong in ("de", "de-", "de-de", "german-english"):
        with pytest.raises(InputError):
            parse_direction(wrong)


@pytest.mark.parametrize(
    ("name", "language", "stem"),
    [
        ("news.de", "de", "news"),
        ("news.de-en.de.gz", "de", "news.de-en"),
        ("news.deu-eng.deu", "deu", "news.deu-eng"),
        ("news.pt-BR.txt", "pt-BR", "news"),
        ("de.txt", "de", ""),
        ("news.de-en", "", "news.de-en"),
        ("logo.png", "", "logo.png"),
        ("top_level.txt", "", "top_level.txt"),
    ],
)
def test_languages_in_names_of_text_files(name: str, language: str, stem: str) -> None:
    assert language_of_name(Path("x.fr") / name) == (language, stem)
