"""The work as a whole: the same rows from any number of parts, and what needs all of them."""

import json
import os
from pathlib import Path

import pytest

from tercet.curate import shards
from tercet.curate.pairs import PairsJob, report_path
from tercet.errors import InputError
from tests.curate.conftest import LINES, Make


def heading_file(path: Path, title: str, heading: str, text: str) -> None:
    path.write_text(f"# {title}\n\n## {heading}\n\n{text} is long enough to be a body of a row.\n")


@pytest.mark.parametrize("parts", [2, 3, 7])
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
    assert made["title-body"] == LINES
    assert made["code-docstring"] == 1
    assert made["heading-section"] == 7
    assert LINES < made["translations"] < 2 * LINES + 1  # the one that was cut gave some


def test_processes_make_the_same_as_this_one(tree: Path, make: Make, tmp_path: Path) -> None:
    expected, report = make(tree)
    target = tmp_path / "other" / "rows.jsonl"
    job = PairsJob(sources=[str(tree)], target=str(target))
    assert {**shards.run(job, workers=2), "to": ""} == {**report, "to": ""}
    assert [json.loads(line) for line in target.read_text().splitlines()] == expected
    assert json.loads(report_path(target).read_text())["rows"] == len(expected)


def test_what_is_written_is_not_read_again(tree: Path) -> None:
    job = PairsJob(sources=[str(tree)], target=str(tree / "rows.jsonl"))
    first = shards.run(job, workers=1)
    assert shards.run(job, workers=1) == first


def test_a_heading_that_repeats_is_joined_to_the_title(make: Make, tmp_path: Path) -> None:
    for number in range(3):
        text = f"Text {number} of its own"
        heading_file(tmp_path / f"{number}.md", f"Machine {number}", "How it is oiled", text)
    heading_file(tmp_path / "9.md", "Machine nine", "Why it stands still", "Another text")

    def queries(**options: object) -> list[str]:
        return [row["query"] for row in make(tmp_path, kind="markdown", **options)[0]]

    joined = [f"Machine {number} > How it is oiled" for number in range(3)]
    assert queries() == [*joined, "Why it stands still"]
    assert queries(headings="joined") == [*joined, "Machine nine > Why it stands still"]
    assert queries(headings="drop") == ["Why it stands still"]
    assert (
        queries(repeated=4)
        == queries(repeated=0)
        == 3 * ["How it is oiled"] + ["Why it stands still"]
    )


def test_copies_of_a_document_do_not_make_its_headings_repeat(make: Make, tmp_path: Path) -> None:
    for number in range(5):
        heading_file(tmp_path / f"{number}.md", "Machine", "How it is oiled", "The same text")
    assert [row["query"] for row in make(tmp_path)[0]] == 5 * ["How it is oiled"]


def test_a_heading_is_a_query_once_in_a_document(make: Make, tmp_path: Path) -> None:
    heading_file(tmp_path / "a.md", "Machine", "How it is oiled", "The same text")
    text = (tmp_path / "a.md").read_text()
    (tmp_path / "a.md").write_text(f"{text}\n## How it is oiled\n\n{40 * 'more '}\n")
    rows, report = make(tmp_path)
    assert len(rows) == 1
    assert report["left_out"]["a query met before in its document"]["count"] == 1


def test_everything_read_is_a_row_or_left_out_or_a_problem(tree: Path, make: Make) -> None:
    rows, report = make(tree / "articles.jsonl", min_chars=73)
    left = report["left_out"]["a body shorter than asked"]["count"]
    assert left
    assert len(rows) + left == report["units"]["records"] == LINES
    example = report["left_out"]["a body shorter than asked"]["examples"][0]
    assert example["id"] == "0"
    assert example["text"].startswith("Town 0: Town number 0")


def test_an_unreadable_file_is_named_and_the_rest_is_made(tree: Path, make: Make) -> None:
    (tree / "guide.md").write_bytes(b"# Titel\n\ngr\xfc\xdfe\n")
    (tree / "gone.md").symlink_to(tree / "nowhere.md")
    rows, report = make(tree, structures=["heading-section"], exclude=["*.jsonl"])
    assert [row["id"] for row in rows] == [
        "deep/notes.rst:1",
        "deep/notes.rst:6",
        "deep/page.html",
        "deep/page.html",
    ]
    told = {problem["where"]: problem["reason"] for problem in report["first_problems"]}
    assert told["guide.md:3"] == "byte 0xfc is not utf-8; convert the file to UTF-8"
    assert told[str(tree / "gone.md")] == "cannot be read: a link to nothing"
    assert report["problems"] == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_what_is_closed_is_named(tree: Path, make: Make) -> None:
    (tree / "guide.md").chmod(0)
    (tree / "deep").chmod(0)
    _, report = make(tree, structures=["heading-section"], exclude=["*.jsonl"])
    (tree / "deep").chmod(0o755)
    assert [problem["reason"] for problem in report["first_problems"]] == 2 * [
        "cannot be read: Permission denied"
    ]


def test_texts_are_cut_where_they_may_be(make: Make, tmp_path: Path) -> None:
    body = "\n\n".join(f"Paragraph {number} tells something." for number in range(50))
    (tmp_path / "a.md").write_text(f"# A long story\n\n{body}\n")
    for most in (100, 333):
        (row,), _ = make(tmp_path, max_chars=most)
        assert most // 2 <= len(row["pos"][0]) <= most
        assert row["pos"][0].endswith("something.")
        assert body.startswith(row["pos"][0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"structures": ["poems"]}, "no structure 'poems'"),
        ({"kind": "word"}, "no kind 'word'"),
        ({"headings": "maybe"}, "no headings 'maybe'"),
        ({"lang": "jp"}, "did you mean ja?"),
        ({"directions": ["de"]}, "'de' is not a direction"),
        ({"directions": ["de-de"]}, "to the same one"),
        ({"fields": ["colour=red"]}, "no field 'colour'"),
        ({"min_chars": 50, "max_chars": 20}, "nothing fits"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says.replace("?", r"\?")):
        PairsJob(sources=["x"], target="y", **options)  # type: ignore[arg-type]


def test_sources_that_give_nothing_are_refused(make: Make, tree: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        make(tree / "nowhere")
    with pytest.raises(InputError, match=r"markdown gives .*, not code-docstring"):
        make(tree / "guide.md", structures=["code-docstring"])
    with pytest.raises(InputError, match="no file that gives instruction-output"):
        make(tree / "deep", structures=["instruction-output"])
    (tree / "x.json").write_text("[]")
    with pytest.raises(InputError, match="jq -c"):
        make(tree / "x.json")
    (tree / "x.doc").write_text("")
    with pytest.raises(InputError, match="not a kind of file that is read"):
        make(tree / "x.doc")


def test_files_can_be_left_out_and_read_as_another_kind(tree: Path, make: Make) -> None:
    rows, report = make(tree, exclude=["deep/*", "*.jsonl", "*.tmx"])
    assert report["files"] == {"markdown": 1, "python": 1, "po": 1}
    again = make(tree, tree / "guide.md", exclude=["deep/*", "*.jsonl", "*.tmx"])
    assert again[0] == rows  # each file once
    (tree / "guide.txt").write_text((tree / "guide.md").read_text())
    assert make(tree / "guide.txt", kind="markdown", source="tree")[0] == [
        {**row, "id": row["id"].replace(".md", ".txt")}
        for row in rows
        if row["id"].startswith("guide")
    ]
