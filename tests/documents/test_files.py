import os
from pathlib import Path

import pytest

from tercet.documents.readers import Problem, SourceFile, find_files, prepare, read_file
from tercet.errors import InputError
from tercet.records import Document


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.md", ".hidden.txt", "sub/c.HTML", "sub/.git/d.txt", "z.png"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "docs"


def labels(*paths: str | Path) -> list[str]:
    return [item.label for item in find_files(paths) if isinstance(item, SourceFile)]


def test_files_come_in_one_order_hidden_and_foreign_ones_left_out(folder: Path) -> None:
    assert labels("docs") == ["docs/a.md", "docs/b.txt", "docs/sub/c.HTML"]
    assert labels("./docs/") == labels("docs")
    assert not [item for item in find_files(["docs"]) if isinstance(item, Problem)]


def test_each_file_comes_once(folder: Path) -> None:
    assert labels("docs/b.txt", "docs", folder) == ["docs/b.txt", "docs/a.md", "docs/sub/c.HTML"]


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "dangling.txt").symlink_to("nowhere")
    paths = ["docs/nothing.txt", "docs/z.png", "docs/empty", "docs"]
    problems = [item for item in find_files(paths) if isinstance(item, Problem)]
    assert [problem.source for problem in problems] == [*paths[:3], "docs/dangling.txt"]
    assert "No such file" in problems[0].reason
    assert ".parquet" in problems[1].reason
    assert "no file that can be read" in problems[2].reason


def test_a_file_that_cannot_be_opened_is_named(folder: Path) -> None:
    (folder / "a.txt").mkdir()
    (item,) = read_file(folder / "a.txt", "a.txt")
    assert isinstance(item, Problem)
    assert item.source == "a.txt"
    assert "Is a directory" in item.reason


def test_names_that_are_no_unicode_give_ids_that_are(folder: Path) -> None:
    path = os.fsencode(folder) + b"/\xff.txt"
    with open(path, "wb") as file:
        file.write(b"text")
    label = labels("docs")[-2]
    assert label == "docs/\\xff.txt"
    (item,) = read_file(Path(os.fsdecode(path)), label)
    assert isinstance(item, Document)
    assert prepare(item) == item


def test_prepare_cleans_and_names_what_is_empty() -> None:
    document = Document("a", "x\r\ny\0\ud800", title=" A \n b ", metadata={"k": " v\0 "})
    ready = prepare(document)
    assert isinstance(ready, Document)
    assert (ready.text, ready.title, ready.source) == ("x\ny \ufffd", "A b", "a")
    assert ready.metadata == {"k": "v"}
    assert prepare(ready) == ready
    title_only = prepare(Document("a", " \u200b\n", title="Alone"))
    assert isinstance(title_only, Document)
    assert (title_only.text, title_only.title) == ("Alone", "")
    empty = prepare(Document("a", " \0\u200b\ufeff", source="a.txt"))
    assert isinstance(empty, Problem)
    assert (empty.source, empty.failed) == ("a.txt", False)


@pytest.mark.parametrize(
    "document",
    [
        Document("", "x"),
        Document("a\0", "x"),
        Document("\ud800", "x"),
        Document("a", 3),  # type: ignore[arg-type]
        Document("a", "x", metadata={"k": [1]}),  # type: ignore[dict-item]
        Document("a", "x", metadata={" ": 1}),
        Document("a", "x", metadata={3: 1}),  # type: ignore[dict-item]
    ],
)
def test_prepare_refuses_what_cannot_be_stored(document: Document) -> None:
    with pytest.raises(InputError, match="document"):
        prepare(document)
