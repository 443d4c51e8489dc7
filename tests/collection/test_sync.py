"""Files into a collection: what is new, changed, moved, gone, or cannot be read."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.collection.sync import AddReport, Change
from tercet.documents import Problem
from tercet.documents.base import Reading
from tercet.errors import InputError
from tercet.records import Document


@pytest.fixture
def docs(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files written long ago, seen from the folder above it."""
    monkeypatch.chdir(memory)
    folder = memory / "docs"
    for name, text in (
        ("a.md", "# Bread\n\nFlour and water."),
        ("sub/b.txt", "The river runs."),
        ("c.jsonl", '{"id": "c1", "text": "Moon rises"}\n{"id": "c2", "text": "Sun sets"}\n'),
    ):
        write(folder / name, text)
    return folder


def write(path: Path, text: str, age: float = 3600.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))


def counts(report: AddReport) -> tuple[int, int, int, int, int]:
    """(added, updated, unchanged, removed, skipped)"""
    skipped = len(report.skipped)
    return report.added, report.updated, report.unchanged, report.removed, skipped


def ids(collection: Collection) -> set[str]:
    hits = collection.search(["text"], k=1000, mode="dense", candidates=None)[0]
    assert len(hits) == len(collection)
    return {hit.id for hit in hits}


def test_files_are_named_by_their_paths(collection: Collection, docs: Path) -> None:
    assert counts(collection.add("docs")) == (4, 0, 0, 0, 0)
    assert ids(collection) == {"docs/a.md", "docs/sub/b.txt", "c1", "c2"}
    hit = collection.search(["flour"], k=1, filter={"suffix": ".md"})[0][0]
    assert (hit.id, hit.source, hit.title) == ("docs/a.md", "docs/a.md", "Bread")
    assert collection.search(["moon"], k=1)[0][0].source == "docs/c.jsonl#1"


def test_unchanged_files_are_not_read_again(
    collection: Collection, docs: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add("docs")
    encoder.texts.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)  # neither hashed nor read
        assert counts(collection.add("docs")) == (0, 0, 4, 0, 0)
    os.utime(docs / "a.md")
    assert counts(collection.add("docs")) == (0, 0, 4, 0, 0)
    assert not encoder.texts


def test_a_change_within_the_clocks_grain_is_seen(collection: Collection, docs: Path) -> None:
    write(docs / "a.md", "old text", age=0)
    facts = os.stat(docs / "a.md")
    collection.add("docs")
    (docs / "a.md").write_text("new text")
    os.utime(docs / "a.md", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert counts(collection.add("docs")) == (0, 1, 3, 0, 0)


def test_changed_files_are_replaced(
    collection: Collection, docs: Path, encoder: HashedEncoder
) -> None:
    collection.add("docs")
    encoder.texts.clear()
    write(docs / "a.md", "# Bread\n\nRye.", age=10)
    rows = [{"id": "c2", "text": "Sun sets"}, {"id": "c3", "text": "Stars shine"}]
    write(docs / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows), age=10)
    assert counts(collection.add("docs")) == (1, 1, 2, 1, 0)
    assert sorted(encoder.texts) == ["Bread\nRye.", "Stars shine"]
    assert ids(collection) == {"docs/a.md", "docs/sub/b.txt", "c2", "c3"}
    assert len(collection.index) == 4
    assert collection.search(["sun"], k=1)[0][0].source == "docs/c.jsonl#1"  # it moved up


def test_deleted_files_are_removed_under_the_given_folders_alone(
    collection: Collection, docs: Path
) -> None:
    collection.add([Document("mine", "By hand.")])
    collection.add(["docs", Path("docs/sub")])
    told: list[Change] = []
    (docs / "a.md").unlink()
    (docs / "sub" / "b.txt").unlink()
    write(docs / "sub" / "d.txt", "Another.")
    assert counts(collection.add("docs/sub", report=told.append)) == (1, 0, 0, 1, 0)
    assert [(change.kind, change.id) for change in told] == [
        ("added", "docs/sub/d.txt"),
        ("removed", "docs/sub/b.txt"),
    ]
    assert "docs/a.md" in collection
    assert counts(collection.add("docs")) == (0, 0, 3, 1, 0)
    assert "mine" in collection
    assert len(collection.index) == len(collection) == 4


def test_what_cannot_be_read_is_named_and_loses_nothing(collection: Collection, docs: Path) -> None:
    collection.add("docs")
    (docs / "a.md").write_bytes(b"\xff\xff\xff")
    write(docs / "c.jsonl", '{"id": "c1", "text": "Moon rises"}\nbroken\n', age=10)
    write(docs / "empty.txt", " \n")
    for _ in range(2):  # named every time, not only the first
        report = collection.add("docs")
        assert counts(report)[:2] == (0, 0)
        assert [(problem.source, problem.failed) for problem in report.skipped] == [
            ("docs/a.md:1", True),
            ("docs/c.jsonl:2", True),
            *([("docs/empty.txt", False)] if _ == 0 else []),
        ]
        assert ids(collection) == {"docs/a.md", "docs/sub/b.txt", "c1", "c2"}


@pytest.mark.parametrize(
    ("line", "failed"), [("{", True), ('{"id": "c2", "text": "x"}', True), ('{"text": ""}', False)]
)
def test_many_rows_that_are_skipped_are_counted(
    collection: Collection, docs: Path, line: str, failed: bool
) -> None:
    with (docs / "c.jsonl").open("a") as file:
        file.write(f"{line}\n" * 1500)
    write(docs / "d.jsonl", "{\n")
    skipped = collection.add("docs").skipped
    assert len(skipped) == 1000 + 1 + 1
    assert re.fullmatch("docs/c.jsonl[:#]1002", skipped[999].source)
    assert skipped[1000] == Problem("docs/c.jsonl", "500 more rows that give no document", failed)
    assert collection.search(["moon"], k=1)[0][0].id == "c1"
    documents = [Document(f"n{n}", "") for n in range(1500)]
    assert len(collection.add(documents).skipped) == 1500


def test_a_moved_folder_is_known_again(
    collection: Collection, docs: Path, encoder: HashedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add("docs")
    (docs.parent / "new").mkdir()
    docs.rename(docs.parent / "new" / "docs")
    with pytest.raises(InputError, match="no such file"):
        collection.add("docs")  # and nothing is removed
    assert len(collection) == 4
    monkeypatch.chdir(docs.parent / "new")
    encoder.texts.clear()
    for _ in range(2):
        assert counts(collection.add("docs")) == (0, 0, 4, 0, 0)
    assert not encoder.texts


def test_the_same_names_under_another_folder_are_other_documents(
    collection: Collection, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add("docs")
    write(docs.parent / "other" / "docs" / "a.md", "Another text.")
    monkeypatch.chdir(docs.parent / "other")
    assert counts(collection.add("docs")) == (1, 0, 0, 0, 0)
    assert str(docs.parent / "other" / "docs" / "a.md") in ids(collection)
    monkeypatch.chdir(docs)
    assert counts(collection.add(".")) == (0, 0, 4, 0, 0)  # known by their absolute paths


def test_an_id_used_twice_is_named(collection: Collection, docs: Path) -> None:
    write(docs / "d.jsonl", '{"id": "c1", "text": "Mine"}\n{"id": "d", "text": "Ok"}\n')
    write(docs / "e.jsonl", '{"id": "e", "text": "One"}\n{"id": "e", "text": "Two"}\n')
    for _ in range(2):
        report = collection.add("docs")
        assert [problem.source for problem in report.skipped] == [
            "docs/d.jsonl#1",
            "docs/e.jsonl#2",
        ]
        assert "docs/c.jsonl" in report.skipped[0].reason
        assert "before in this file" in report.skipped[1].reason
        assert collection.search(["moon rises"], k=1)[0][0].text == "Moon rises"
        assert collection.search(["one"], k=1)[0][0].text == "One"


def test_an_id_that_moves_to_another_file_goes_with_it(collection: Collection, docs: Path) -> None:
    collection.add("docs")
    write(docs / "c.jsonl", '{"id": "c2", "text": "Sun sets"}\n', age=10)
    write(docs / "d.jsonl", '{"id": "c1", "text": "Moon rises"}\n')
    assert counts(collection.add("docs"))[4] == 0
    (docs / "c.jsonl").unlink()
    collection.add("docs")
    assert ids(collection) == {"docs/a.md", "docs/sub/b.txt", "c1"}


def test_a_deleted_document_stays_away_until_its_file_changes(
    collection: Collection, docs: Path
) -> None:
    collection.add("docs")
    collection.delete(["c1"])
    assert counts(collection.add("docs")) == (0, 0, 3, 0, 0)
    write(docs / "c.jsonl", '{"id": "c1", "text": "Moon rises"}\n', age=10)
    assert counts(collection.add("docs")) == (1, 0, 2, 1, 0)


def test_a_file_that_is_to_be_read_otherwise_is_read_again(
    collection: Collection, docs: Path
) -> None:
    (docs / "old.txt").write_bytes("Москва стоит на реке".encode("koi8-r"))
    collection.add("docs", reading=Reading(encoding="windows-1251"))
    assert collection.add("docs", reading=Reading(encoding="windows-1251")).updated == 0
    assert collection.add("docs", reading=Reading(encoding="koi8-r")).updated == 1
    [hits] = collection.search(["Москва"], k=1)
    assert hits[0].text == "Москва стоит на реке"


def test_many_files_come_in_few_transactions(
    collection: Collection, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        write(docs / f"n{number}.txt", f"Text number {number}.")
    flushes = []
    flush = collection.index.flush
    monkeypatch.setattr(collection.index, "flush", lambda: flushes.append(0) or flush())  # type: ignore[func-returns-value]
    report = collection.add("docs")
    assert report.added == 304
    assert len(flushes) <= 3


def test_hits_tell_their_headings_and_follow_the_file(memory: Path, encoder: HashedEncoder) -> None:
    path = memory / "docs" / "guide.md"
    below = " ".join(f"Word{number} is below." for number in range(40))
    salt = "Salt " * 25
    write(path, f"# Guide\n\nAbove.\n\n## River\n\n### Source\n\n{below}\n\n## Sea\n\n{salt}\n")
    with Collection.open(memory / "c", encoder, backend="exact", chunk=32, overlap=8) as collection:

        def headings(query: str) -> tuple[str, ...]:
            return collection.search([query], k=1)[0][0].headings

        assert collection.add(path).added == 1
        assert headings("word30") == ("River", "Source")  # in the middle of its section
        assert headings("above") == ()
        assert headings("salt") == ("Sea",)
        assert collection.search(["salt"], k=1)[0][0].page is None
        assert collection.add(path).unchanged == 1
        write(path, path.read_text().replace("### Source", "## Source"), age=10)
        assert collection.add(path).updated == 1  # though the text is the same
        assert headings("word30") == ("Source",)
        collection.rebuild()
        assert headings("word30") == ("Source",)
        with collection._store.transaction() as store:  # as it was made before there were any
            store._rows("UPDATE documents SET hash = 'of the text alone'")
            store._rows("ALTER TABLE chunks DROP COLUMN place")
    with Collection.open(memory / "c", encoder) as collection:
        assert headings("word30") == ()
        assert collection.add(path).unchanged == 1
        assert headings("word30") == ()
        assert collection.add(path, reread=True).updated == 1
        assert headings("word30") == ("Source",)
        assert collection.add(path, reread=True).unchanged == 1
