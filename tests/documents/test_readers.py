"""Every kind of file gives its text, title, language and metadata, or a problem in words."""

import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pypdf import PdfReader, PdfWriter
from pypdf.errors import DependencyError

from tercet.documents import files
from tercet.documents.base import Problem, Reading, prepare
from tercet.documents.files import SourceFile, find_files, read_file
from tercet.errors import InputError
from tercet.records import Document, Section


def read(path: Path, content: str | bytes | None = None) -> tuple[list[Document], list[Problem]]:
    """What a file of that content gives."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    items = list(read_file(path, path.name))
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Problem)]


def read_one(path: Path, content: str | bytes | None = None) -> Document:
    (document,), problems = read(path, content)
    assert not problems
    return document


def problem_of(path: Path, content: bytes) -> Problem:
    return read(path, content)[1][-1]


# Finding files


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


def test_files_come_once_in_one_order_hidden_and_foreign_ones_left_out(folder: Path) -> None:
    assert labels("docs") == labels("./docs/") == ["docs/a.md", "docs/b.txt", "docs/sub/c.HTML"]
    (note,) = [item for item in find_files(["docs"]) if isinstance(item, Problem)]
    assert (str(note), note.failed) == ("docs: 1 file of another kind passed over: 1 .png", False)
    assert labels("docs/b.txt", "docs", folder) == ["docs/b.txt", "docs/a.md", "docs/sub/c.HTML"]


def test_what_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "dangling.txt").symlink_to("nowhere")
    paths = ["docs/nothing.txt", "docs/z.png", "docs/empty", "docs"]
    problems = [item for item in find_files(paths) if isinstance(item, Problem) and item.failed]
    assert [problem.source for problem in problems] == [*paths[:3], "docs/dangling.txt"]
    for problem, words in zip(problems, ("No such", ".parquet", "no file that"), strict=False):
        assert words in problem.reason
    (folder / "a.txt").mkdir()
    ((problem,), source) = read(folder / "a.txt")[1], "a.txt"
    assert (problem.source, "Is a directory" in problem.reason) == (source, True)


def test_files_without_an_extension_are_read_where_they_are_text(folder: Path) -> None:
    texts = {
        "LICENSE": b"Free.",
        "Makefile": "ü: all\n".encode(),
        "notes.gz": gzip.compress(b"Bees."),
    }
    cut = b"x" * (files._HEAD - 1) + "ü".encode()  # a character over the end of what is looked at
    texts |= {"cut": cut, "sub/page.html.gz": gzip.compress(b"<p>Packed.")}
    others = {
        "program": b"\x7fELF\0", "latin": b"caf\xe9", "image.gz": gzip.compress(b"\0\1"),
        "broken.gz": b"no gzip", "empty": b"",
    }  # fmt: skip
    for name, raw in (texts | others).items():
        (folder / name).write_bytes(raw)
    os.mkfifo(folder / "pipe")
    assert set(labels("docs")) - {"docs/a.md", "docs/b.txt", "docs/sub/c.HTML"} == {
        f"docs/{name}" for name in texts
    }
    (note,) = [item for item in find_files(["docs"]) if isinstance(item, Problem)]
    assert note.reason == ("7 files of other kinds passed over: 4 without extension, 2 .gz, 1 .png")
    assert read_one(folder / "notes.gz").text == "Bees."
    assert read_one(folder / "sub/page.html.gz").text == "Packed."
    for name in others:
        (problem,) = find_files([f"docs/{name}"])
        (read_so,) = read_file(folder / name)
        assert isinstance(problem, Problem)
        assert isinstance(read_so, Problem)
        assert problem.reason == read_so.reason
        assert "not a kind of file that is read" in problem.reason


def test_a_text_without_an_extension_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a" * (1 << 21)))
    (problem,) = read_file(tmp_path / "bomb.gz", "bomb.gz", Reading(max_mb=1))
    assert str(problem) == "bomb.gz: more than 1 MB of text: split it, or raise --max-mb"


def test_names_that_are_no_unicode_give_ids_that_are(folder: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt"))
    path.write_text("text")
    label = labels("docs")[-2]
    assert label == "docs/\\xff.txt"
    (item,) = read_file(path, label)
    assert isinstance(item, Document)
    assert prepare(item) == item


# What is stored of a document


def test_prepare_cleans_and_names_what_is_empty() -> None:
    document = Document("a", "x\r\ny\0\ud800", title=" A \n b ", metadata={"k": " v\0 "})
    ready = prepare(document)
    assert ready == Document("a", "x\ny \ufffd", "A b", "a", metadata={"k": "v"})
    assert prepare(ready) == ready
    assert prepare(Document("a", " \u200b\n", title="Alone")) == Document("a", "Alone", source="a")
    empty = prepare(Document("a", " \0\u200b\ufeff", source="a.txt"))
    assert isinstance(empty, Problem)
    assert (empty.source, empty.failed) == ("a.txt", False)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"id": "a\0"},
        {"id": "\ud800"},
        {"text": 3},
        {"metadata": {"k": object()}},
        {"metadata": {"k": [[1]]}},
        {"metadata": {" ": 1}},
        {"metadata": None},
        {"metadata": [1]},
        {"language": 5},
        {"metadata": {3: 1}},
        {"outline": 5},
        {"outline": [(0, 1)]},
        {"outline": [(0, 7, "too deep")]},
        {"outline": [(2, 1, "beyond the text")]},
        {"outline": [("0", 1, "a")]},
        {"outline": [(0, 1, None)]},
        {"outline": [(0, 0, "ii")]},
    ],
)
def test_prepare_refuses_what_cannot_be_stored(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="document"):
        prepare(Document(**{"id": "a", "text": "x", **fields}))


# Outlines


def headings(document: Document) -> list[tuple[int, str]]:
    """(level, label) of an outline, each of which stands where it says in the text."""
    text = document.text
    for start, level, label in document.outline:
        assert level == 0 or " ".join(text[start : start + len(label)].split()) == label
        assert start == 0 or text[start - 1] == "\n"
    return [(section.level, section.label) for section in document.outline]


def test_markdown_headings_are_the_outline(tmp_path: Path) -> None:
    content = (
        "# Guide\n\nAbout.\n\nThe long\nriver *north*\n===\n\nText.\n\n### Skips `two`\n\n- item\n"
        "- ## In a list\n\nSmaller\n---\n\n<h2 align=center>Raw <b>HTML</b></h2>\n<p>more</p>\n\n"
        "```\n# code\n```\n\n## Guide\n\n##\n"
    )
    document = read_one(tmp_path / "a.md", content)
    assert document.title == "Guide"  # which the text does not repeat
    assert headings(document) == [
        (1, "The long river north"),
        (3, "Skips two"),
        (2, "In a list"),
        (2, "Smaller"),
        (2, "Raw HTML"),
        (2, "Guide"),
    ]
    assert "Raw HTML\n\nmore" in document.text


def test_html_headings_are_the_outline(tmp_path: Path) -> None:
    page = (
        "<nav><h2>Menu</h2></nav><main>  <div><h1> <i>One</i>\n two<br>three </h1></div>"
        "<pre>\n\n\nx\n\n\n\ny</pre><h3></h3><h2>Four<h3>Five</h3>text<table><tr><td><h6>Six</h6><td>7"
        "</table><h1>&#13;  Eight &nbsp; nine</h1></main>"
    )
    document = read_one(tmp_path / "a.html", page)
    assert headings(document) == [
        (1, "One two three"),
        (2, "Four"),
        (3, "Five"),
        (6, "Six"),
        (1, "Eight nine"),
    ]
    assert headings(read_one(tmp_path / "a.html", "<p>no heading")) == []


def test_pdf_pages_are_the_outline(tmp_path: Path) -> None:
    document = read_one(tmp_path / "a.pdf", pdf_of("Hello river", "", "Third"))
    assert document.text == "Hello river\n\nThird"
    assert document.outline == (Section(0, 0, "1"), Section(13, 0, "3"))  # of three


def test_an_outline_counts_in_the_text_that_is_stored(tmp_path: Path) -> None:
    hidden = "Soft\u00ad hy\u00adphen\u200b.\n\n# Zwei\u00adter\n\n\ufe0f&#13;\n\n"
    content = f"{hidden}## Dritter\u200d\n\nEnde"
    document = read_one(tmp_path / "a.md", content)
    assert headings(document) == [(1, "Zwei\u00adter"), (2, "Dritter\u200d")]
    ready = prepare(document)
    assert isinstance(ready, Document)
    assert headings(ready) == [(1, "Zweiter"), (2, "Dritter")]
    assert prepare(ready) == ready
    long = prepare(Document("a", "x" * 999, outline=(Section(0, 1, "x" * 999), Section(5, 2, " "))))
    assert isinstance(long, Document)
    assert [len(section.label) for section in long.outline] == [256]
    given = [(4, 0, " 2"), (0, 0, "1")]  # any order
    pages = prepare(Document("a", "one two", outline=given))  # type: ignore[arg-type]
    assert isinstance(pages, Document)
    assert pages.outline == ((0, 0, "1"), (4, 0, "2"))
    alone = prepare(Document("a", "\u00ad", title="T", outline=(Section(0, 1, "gone"),)))
    assert isinstance(alone, Document)
    assert (alone.text, alone.outline) == ("T", ())


# Files that are one document


def test_text_keeps_its_words_and_loses_what_no_store_can_hold(tmp_path: Path) -> None:
    document = read_one(tmp_path / "a.txt", "\ufeffOne\r\ntwo\0three\u2028four\n")
    about = {"path": "a.txt", "suffix": ".txt"}
    assert document == Document("a.txt", "One\ntwo three\nfour", source="a.txt", metadata=about)
    assert read_one(tmp_path / "a.txt", "Ελληνικά".encode("utf-16")).text == "Ελληνικά"
    page = "<meta charset='windows-1251'><p>Река".encode("cp1251")
    assert read_one(tmp_path / "a.htm", page).text == "Река"
    problem = problem_of(tmp_path / "latin.txt", "one\ntwo\ncaf\xe9\n".encode("latin-1"))
    assert (problem.source, problem.failed) == ("latin.txt:3", True)
    assert "0xe9" in problem.reason


def test_markdown_gives_plain_paragraphs_and_the_first_heading(tmp_path: Path) -> None:
    document = read_one(
        tmp_path / "a.md",
        "# The *river*\n\nIt runs [north](http://x.y) and\nturns.\n\n- one\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```\n\n<div>kept <b>text</b></div>\n\n"
        "![a bridge](b.png)\n\n## Later\n",
    )
    assert document.title == "The river"
    assert document.text.split("\n\n") == [
        "It runs north and\nturns.",
        "one\ntwo\na | b\n1 | 2",
        "x = 1",
        "kept text",
        "a bridge",
        "Later",
    ]


@pytest.mark.parametrize(("mark", "is_"), [("---", ":"), ("+++", " =")])
def test_front_matter_gives_title_language_and_metadata(
    tmp_path: Path, mark: str, is_: str
) -> None:
    fields = f'title{is_} "Pain"\nlang{is_} fr\nyear{is_} 2020\nempty{is_}\n'
    document = read_one(tmp_path / "a.md", f"{mark}\n{fields}{mark}\n# Le pain\n\nBon.\n")
    assert (document.title, document.language) == ("Pain", "fr")
    assert document.metadata == {"path": "a.md", "suffix": ".md", "year": "2020"}
    assert document.text == "Le pain\n\nBon."  # a heading that is not the title stays


@pytest.mark.parametrize("text", ["#\n", "", "<!-- -->", "[a]: http://b\n", "---\n---\n"])
def test_markdown_without_text_is_no_error(tmp_path: Path, text: str) -> None:
    assert read_one(tmp_path / "a.md", text).text == ""
    assert read_one(tmp_path / "a.md", "---\n\nkey: value\n").text == "key: value"  # a rule


def test_html_gives_main_text_title_and_language(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    document = read_one(
        path,
        "<!doctype html><html lang=de><head><title> Das\n Haus </title><style>p{}</style></head>"
        "<body><nav>Start</nav><main><h1>Haus</h1><p>Ein <b>gro</b>ßes\nHaus.<p>Zwei<br>Zeilen"
        "<script>x()</script><ul><li>a<li>b</ul><pre>x\n  y</pre>"
        "<table><tr><td>1<td>2</table></main><footer>Ende</footer>",
    )
    assert (document.title, document.language) == ("Das Haus", "de")
    assert document.text == ("Haus\n\nEin großes Haus.\n\nZwei\nZeilen\n\na\nb\n\nx\ny\n\n1 2")
    assert read_one(path, "<body><main></main><nav>Only this</nav>").text == "Only this"
    assert read_one(path, "<b><i>" * 20_000 + "deep").text == "deep"


def test_a_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    line = "word " * 2_000_000
    for name in ("a.txt", "a.md", "a.html"):
        assert len(read_one(tmp_path / name, line).text) == len(line) - 1


def test_pdf_pages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    assert read_one(path, pdf_of("Hello river")).text == "Hello river"
    far = pdf_of("Hello").replace(b"startxref\n", b"startxref\n" + b"9" * 20)
    for damaged in (pdf_of("Hello")[:60], b"\0" * 100, far):
        assert "not a whole PDF" in problem_of(path, damaged).reason
    assert "text recognition" in problem_of(path, pdf_of("")).reason
    for large in (pdf_of("x" * (1 << 20) + "x"), pdf_of("x") + bytes(8 << 20)):
        path.write_bytes(large)
        (problem,) = read_file(path, "a.pdf", Reading(max_mb=1))
        assert "--max-mb" in str(problem)


def test_an_encrypted_pdf_is_read_or_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encrypted(password: str) -> bytes:
        writer, out = PdfWriter(clone_from=io.BytesIO(pdf_of("Hello river"))), io.BytesIO()
        writer.encrypt(password, "owner", algorithm="RC4-128")
        writer.write(out)
        return out.getvalue()

    def lacks(reader: PdfReader, password: str) -> None:
        raise DependencyError("cryptography>=3.1 is required for AES algorithm")

    path = tmp_path / "a.pdf"
    assert read_one(path, encrypted("")).text == "Hello river"  # only its permissions are
    assert "encrypted PDF: save it without" in problem_of(path, encrypted("x")).reason
    monkeypatch.setattr(PdfReader, "decrypt", lacks)
    assert "encrypted PDF: pip install cryptography" in problem_of(path, encrypted("")).reason
    unknown = pdf_of("a").replace(b"/Size 5", b"/Size 5/Encrypt<</Filter/Foo/V 9>>/ID[<00><00>]")
    assert "encrypted PDF" in problem_of(path, unknown).reason


def pdf_of(*texts: str) -> bytes:
    """A PDF of a page for each text, written by hand."""
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 3 + 2 * len(texts), 2))
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(texts)),
    ]
    for text in texts:
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
        bodies += [
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R" % (len(bodies) + 2)
            + b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
            b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        ]
    out, table = b"%PDF-1.4\n", b"0000000000 65535 f \n"
    for number, body in enumerate(bodies, 1):
        table += b"%010d 00000 n \n" % len(out)
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    size = len(bodies) + 1
    trailer = b"trailer<</Root 1 0 R/Size %d>>\nstartxref\n%d\n%%%%EOF" % (size, len(out))
    return out + b"xref\n0 %d\n" % size + table + trailer


@pytest.mark.parametrize(("name", "library"), [("a.pdf", "pypdf"), ("a.parquet", "pyarrow")])
def test_a_missing_library_is_named_with_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert f"pip install 'tercet[{name[2:]}]'" in problem_of(tmp_path / name, b"x").reason


# Files that are many documents


def test_fields_of_json_lines_become_fields_and_the_rest_metadata(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "_id": 7,
        "contents": "The text",
        "title": "A\ntitle",
        "lang": "en",
        "year": 2020,
        "big": 10**30,
        "ok": True,
        "ratio": 0.5,
        "list": [1],
        "none": None,
        "long": "x" * 5000,
    }
    strange = r'{"id": "\ud800x", "text": "a\udfffb\u0000c", "title": "\ud83d\ude00"}'
    lines = [json.dumps(row), "", '{"text": "second"}', strange, ""]
    (first, second, third), problems = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert [note.failed for note in problems] == [False]  # "long" is left out
    assert "left out: long" in problems[0].reason
    kept = {name: row[name] for name in ("year", "ok", "ratio", "list")}
    about = {"path": "a.jsonl", "suffix": ".jsonl", "big": str(10**30), **kept}
    assert first == Document("7", "The text", "A title", "a.jsonl#1", "en", about)
    assert (second.id, second.text, second.source) == ("a.jsonl#3", "second", "a.jsonl#3")
    assert (third.id, third.text, third.title) == ("\ufffdx", "a\ufffdb c", "😀")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{not json", "JSON"),
        (b'{"text": "\xff"}', "0xff"),
        (b"[1, 2]", "list"),
        (b'{"texts": "x"}', "text, contents, body"),
        (b'{"text": ["x"]}', "list"),
        (b"[" * 200_000, "JSON"),
        (b'{"text": 1' + b"0" * 5000 + b"}", "JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path: Path, line: bytes, words: str) -> None:
    content = b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n'
    documents, (problem,) = read(tmp_path / "a.jsonl", content)
    assert [document.text for document in documents] == ["one", "three"]
    assert (problem.source, words in problem.reason) == ("a.jsonl:2", True)


def test_csv_with_quotes_and_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "word " * 200_000
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [["ID", "Text", "topic"], ["x", 'two\nlines, "quoted"', "a"], [], ["", long, ""]]
        )
    (first, second), problems = read(path)
    assert not problems
    assert (first.id, first.text) == ("x", 'two\nlines, "quoted"')
    assert first.metadata["topic"] == "a"
    assert second.text == long.strip()
    assert second.id == second.source == "a.csv#5"
    document = read_one(tmp_path / "a.tsv", "title\tbody\nT\tB, b\n")
    assert (document.title, document.text) == ("T", "B, b")


@pytest.mark.parametrize(
    ("raw", "source", "words"),
    [
        (b"a,b\n1,2\n", "a.csv:2", "the fields are a, b"),
        (b"", "a.csv", "the columns are none"),
        (b"text\nok\n\xff\n", "a.csv:3", "0xff"),
        (b'text\nok\n"open', "a.csv:3", "not closed"),
        (b"text\nok\none,two\n", "a.csv:3", "2 fields"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(
    tmp_path: Path, raw: bytes, source: str, words: str
) -> None:
    documents, (problem,) = read(tmp_path / "a.csv", raw)
    assert (problem.source, words in problem.reason) == (source, True)
    assert [document.text for document in documents] == ["ok"] * (b"ok" in raw)


def test_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = {
        "text": ["one", None, "three"],
        "Title": ["t", "u", None],
        "tags": [["x"], [], None],
        "raw": [b"x", b"y", b"z"],
        "day": pa.array([0, 1, None], pa.date32()),
        "n": [1, 2, 3],
    }
    pq.write_table(pa.table(table), path)
    documents, problems = read(path)
    assert not problems
    assert [document.text for document in documents] == ["one", "", "three"]
    about = {"path": "a.parquet", "suffix": ".parquet", "day": "1970-01-01", "n": 1}
    about["tags"] = ["x"]
    assert (documents[0].title, documents[0].metadata) == ("t", about)
    assert documents[2].id == "a.parquet#3"
    assert "not a whole Parquet" in problem_of(path, path.read_bytes()[:100]).reason
    pq.write_table(pa.table({"a": [1]}), path)
    assert "the fields are a" in read(path)[1][0].reason
    far = pa.array([2**60, 0], pa.timestamp("us"))  # which Python's dates cannot be
    pq.write_table(pa.table({"text": ["one", "two"], "when": far}), path)
    (one, two), problems = read(path)
    assert (two.metadata["when"], problems) == ("1970-01-01 00:00:00.000000", [])
    assert str(one.metadata["when"]) > "3"
