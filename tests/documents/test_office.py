"""Office files, books, mail and notebooks: their text, headings and pages, and what is refused."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.documents.base import Problem, Reading
from tercet.documents.files import find_files, read_file
from tercet.records import Document
from tests.documents import office

AMP = "R&amp;D at AT&amp;T: 1 &lt; 2, caf&#233;"
PLAIN = "R&D at AT&T: 1 < 2, café"


def read(path: Path, content: bytes, max_mb: int = 64) -> Document | Problem:
    path.write_bytes(content)
    (item,) = read_file(path, path.name, Reading(max_mb=max_mb))
    return item


def document(path: Path, content: bytes) -> Document:
    item = read(path, content)
    assert isinstance(item, Document), item
    for start, level, label in item.outline:
        assert level == 0 or item.text[start:].replace("\n", " ").startswith(label)
    return item


def sections(item: Document) -> list[tuple[int, str]]:
    return [(section.level, section.label) for section in item.outline]


def test_a_word_document_keeps_headings_tables_and_every_character(tmp_path: Path) -> None:
    made = office.docx(
        *((1, "Guide"), (0, AMP), (2, AMP), (0, "The spring * is #1.")),
        table=[["Name", "Size"], ["Rhine", AMP]],
        title="The book",
    )
    item = document(tmp_path / "a.docx", made)
    assert item.title == "The book"
    assert item.text == (
        f"Guide\n\n{PLAIN}\n\n{PLAIN}\n\nThe spring * is #1.\n\nName | Size\nRhine | {PLAIN}"
    )
    assert sections(item) == [(1, "Guide"), (2, PLAIN)]
    assert document(tmp_path / "b.docx", office.docx((0, "a"), (2, "Second"))).title == "Second"


BODY = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"


@pytest.mark.parametrize(
    ("xml", "text", "outline"),
    [
        ("<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>", "a\tb\nc",
         []),
        ("<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t></w:r></w:p>", "a", []),
        ("<w:p><w:del><w:r><w:delText>x</w:delText></w:r></w:del><w:ins><w:r><w:t>a</w:t></w:r>"
         "</w:ins><w:moveFrom><w:r><w:t>y</w:t></w:r></w:moveFrom></w:p>", "a", []),
        ("<w:p><w:r><w:instrText>PAGE</w:instrText></w:r><w:r><w:t>a </w:t></w:r><w:r>"
         "<w:t>b</w:t></w:r></w:p>", "a b", []),
        ("<w:p><w:r><m:AlternateContent xmlns:m='m'><m:Choice><w:txbxContent>"
         f"{BODY.format('box')}</w:txbxContent></m:Choice><m:Fallback>{BODY.format('box')}"
         "</m:Fallback></m:AlternateContent></w:r><w:r><w:t>a</w:t></w:r></w:p>", "box\n\na", []),
        ("<w:p><w:pPr><w:outlineLvl w:val='1'/></w:pPr><w:r><w:t>a</w:t></w:r></w:p>", "a",
         [(2, "a")]),
        ("<w:p><w:pPr><w:outlineLvl w:val='9'/></w:pPr><w:r><w:t>a</w:t></w:r></w:p>", "a", []),
        ("<w:p><w:pPr><w:pStyle w:val='Mine'/></w:pPr><w:r><w:t>a</w:t></w:r></w:p>", "a",
         [(3, "a")]),
        ("<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc>" + BODY.format("in") + "</w:tc></w:tr></w:tbl>"
         + BODY.format("a") + "</w:tc><w:tc>" + BODY.format("b") + "</w:tc></w:tr></w:tbl>",
         "in a | b", []),
        ("<w:sdt><w:sdtContent>" + BODY.format("a") + "</w:sdtContent></w:sdt>", "a", []),
    ],
)  # fmt: skip
def test_what_word_writes(
    tmp_path: Path, xml: str, text: str, outline: list[tuple[int, str]]
) -> None:
    made = office.docx((0, "XML"))
    files = {name: content.decode() for name, content in unpacked(made).items()}
    files["word/document.xml"] = files["word/document.xml"].replace(BODY.format("XML"), xml)
    mine = '<w:style w:styleId="Mine"><w:basedOn w:val="Also"/></w:style>'
    also = '<w:style w:styleId="Also"><w:basedOn w:val="Heading3"/></w:style></w:styles>'
    files["word/styles.xml"] = files["word/styles.xml"].replace("</w:styles>", mine + also)
    item = document(tmp_path / "a.docx", office.packed(files))
    assert (item.text, sections(item)) == (text, outline)


def unpacked(made: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(made)) as parts:
        return {name: parts.read(name) for name in parts.namelist()}


def test_the_notes_of_a_word_document_come_last(tmp_path: Path) -> None:
    files = {name: content.decode() for name, content in unpacked(office.docx((0, "a"))).items()}
    listed = "word/_rels/document.xml.rels"
    files[listed] = office.relations(("styles", "styles.xml"), ("footnotes", "footnotes.xml"))
    note = f"<w:footnote>{BODY.format('a note')}</w:footnote>"
    files["word/footnotes.xml"] = f'<w:footnotes xmlns:w="{office.WORD}">{note}</w:footnotes>'
    assert document(tmp_path / "a.docx", office.packed(files)).text == "a\n\na note"


def test_slides_are_pages(tmp_path: Path) -> None:
    made = office.pptx(("First", f"Bees dance\n{AMP}"), ("", "Only text"), ("", ""), ("Last", "x"))
    files = unpacked(made)
    footer = office.shape(9, '<p:ph type="sldNum"/>', "4").encode()
    slide = "ppt/slides/slide4.xml"
    files[slide] = files[slide].replace(b"</p:spTree>", footer + b"</p:spTree>")
    notes = office.shape(2, '<p:ph type="body"/>', "Said aloud")
    files["ppt/notes.xml"] = (
        f'<p:notes xmlns:p="{office.SLIDES}" xmlns:a="{office.DRAWING}">{notes}</p:notes>'
    ).encode()
    files["ppt/slides/_rels/slide1.xml.rels"] = office.relations(
        ("notesSlide", "../notes.xml")
    ).encode()
    item = document(tmp_path / "a.pptx", office.packed(files))
    assert item.title == "First"
    assert item.text == f"First\n\nBees dance\n{PLAIN}\nSaid aloud\nOnly text\n\nLast\n\nx"
    assert sections(item) == [(0, "1"), (1, "First"), (0, "2"), (0, "4"), (1, "Last")]
    assert document(tmp_path / "b.pptx", office.pptx(("a", "b"), title="Talk")).title == "Talk"


def test_sheets_are_headings_and_rows_lines(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    sheets: dict[str, list[list[str | int]]] = {
        "Rivers": [["name", "km"], ["Rhine", 1233]], "Empty": [], "More": [[AMP]],
    }  # fmt: skip
    item = document(tmp_path / "a.xlsx", office.xlsx(sheets, title="Numbers"))
    assert item.title == "Numbers"
    assert item.text == f"Rivers\n\nname | km\nRhine | 1233\n\nMore\n\n{PLAIN}"
    assert sections(item) == [(1, "Rivers"), (1, "More")]


def test_a_sheet_that_is_wide_and_empty_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.documents.office._CELLS", 100_000)
    pytest.importorskip("openpyxl")
    files = unpacked(office.xlsx({"S": [["here"]]}))
    sheet = "xl/worksheets/sheet1.xml"
    far = b'<row r="20000"><c r="XFD20000"><v>1</v></c></row></sheetData>'
    files[sheet] = files[sheet].replace(b"</sheetData>", far)
    files[sheet] = files[sheet].replace(
        b"<sheetData>", b'<dimension ref="A1:XFD1048576"/><sheetData>'
    )
    tracemalloc.start()
    assert document(tmp_path / "a.xlsx", office.packed(files)).text == "S\n\nhere\n1"
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    row = b'<row><c r="A1"/><c r="XFD1"><v>1</v></c></row>'
    files[sheet] = files[sheet].replace(b"</sheetData>", row * 6 + b"</sheetData>")
    problem = read(tmp_path / "b.xlsx", office.packed(files))
    assert isinstance(problem, Problem)
    assert "more than 100,000 cells" in problem.reason


def test_a_book_has_the_headings_of_its_pages(tmp_path: Path) -> None:
    made = office.epub(
        "<h1>One</h1><p>First.</p><script src='x'/><h2>Sub</h2><p>below</p>",
        f"<nav>x</nav><h1>Two</h1><p>{AMP}</p>",
        title="My Book",
        language="de",
    )
    item = document(tmp_path / "a.epub", made)
    assert (item.title, item.language) == ("My Book", "de")
    assert item.text == f"One\n\nFirst.\n\nSub\n\nbelow\n\nTwo\n\n{PLAIN}"
    assert sections(item) == [(1, "One"), (2, "Sub"), (1, "Two")]
    locked = unpacked(made) | {
        "META-INF/encryption.xml": b'<e><CipherReference URI="OEBPS/c1.xhtml"/></e>'
    }
    problem = read(tmp_path / "b.epub", office.packed(locked))
    assert isinstance(problem, Problem)
    assert problem.reason == "an encrypted book: its text cannot be read"


def test_rich_text(tmp_path: Path) -> None:
    pytest.importorskip("striprtf")
    rich = (
        rb"{\rtf1\ansi\ansicpg1252{\info{\title The \'fcber}}"
        rb"The \b river\b0  is old.\par \'e9\u8364?}"
    )
    item = document(tmp_path / "a.rtf", rich)
    assert (item.title, item.text) == ("The über", "The river is old.\né€")
    problem = read(tmp_path / "b.rtf", b"plain")
    assert isinstance(problem, Problem)
    assert "not Rich Text" in problem.reason


def test_mail(tmp_path: Path) -> None:
    made = office.eml("Gruß aus Köln", "Hällo Bob,\nline.\n", html="<p>x", attachment="not this")
    item = document(tmp_path / "a.eml", made)
    assert (item.title, item.text) == ("Gruß aus Köln", "Hällo Bob,\nline.")
    assert item.metadata["from"] == "Ann <a@x.test>"
    assert item.metadata["date"] == "2026-02-02T10:00:00+01:00"
    page = (
        b"Subject: =?iso-2022-jp?B?GyRCRnxLXBsoQg==?=\n"
        b"Content-Type: text/html; charset=iso-2022-jp\n\n<h1>\x1b$BF|K\\\x1b(B</h1><p>x"
    )
    item = document(tmp_path / "b.eml", page)
    assert (item.title, item.text, sections(item)) == ("日本", "日本\n\nx", [(1, "日本")])
    said = b"Content-Type: text/plain; charset=iso-8859-5\n\n" + "Да, это он.".encode("iso-8859-5")
    assert document(tmp_path / "d.eml", said).text == "Да, это он."
    odd = b"Content-Type: text/plain; charset=no-such\n\n" + "Grüße".encode()
    assert document(tmp_path / "e.eml", odd).text == "Grüße"
    secret = b"Content-Type: multipart/encrypted; boundary=b\n\n--b--"
    problem = read(tmp_path / "c.eml", secret)
    assert isinstance(problem, Problem)
    assert "an encrypted mail" in problem.reason


def test_notebooks(tmp_path: Path) -> None:
    cells = [
        ("markdown", "# Title\n\nSome *text*."),
        ("code", "# no heading\n~~~\nx = 1"),
        ("raw", "y"),
    ]
    item = document(tmp_path / "a.ipynb", office.ipynb(*cells, ("markdown", "## Part\nmore")))
    assert item.title == "Title"
    assert item.text == "Some text.\n\n# no heading\n~~~\nx = 1\n\nPart\n\nmore"
    assert sections(item) == [(2, "Part")]
    for wrong in (b"{}", b"[", b'{"cells": [1]}', b"[" * 100_000):
        problem = read(tmp_path / "b.ipynb", wrong)
        assert isinstance(problem, Problem)
        assert "not a notebook" in problem.reason


MADE: dict[str, Callable[[], bytes]] = {
    "docx": lambda: office.docx((0, "text")),
    "pptx": lambda: office.pptx(("a", "text")),
    "xlsx": lambda: office.xlsx({"S": [["text"]]}),
    "epub": lambda: office.epub("<p>text"),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_is_broken_encrypted_or_a_bomb_is_a_sentence(tmp_path: Path, kind: str) -> None:
    if kind == "xlsx":
        pytest.importorskip("openpyxl")
    made = MADE[kind]()
    files = unpacked(made)
    text = next(name for name in reversed(files) if b"text" in files[name])
    entity = b'<!DOCTYPE a [<!ENTITY e "eeee">]><a>&e;</a>'
    cases = {
        b"": "not a whole",
        b"PK no zip": "not a whole",
        made[:-40]: "not a whole",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100): "an encrypted",
        office.packed({"a.txt": "b"}): "not a whole",
        office.packed(files | {text: b" " * (9 << 20)}): "more than 1 MB of text",
        office.packed(files | {text: files[text].replace(b"text", b"t" * (2 << 20))}): (
            "more than 1 MB"
        ),
    }  # fmt: skip
    if kind in ("docx", "pptx"):
        cases[office.packed(files | {text: entity})] = "declares entities"
        cases[office.packed(files | {text: b"<a><b>"})] = "not a whole"
    for number, (content, words) in enumerate(cases.items()):
        problem = read(tmp_path / f"{number}.{kind}", content, max_mb=1)
        assert isinstance(problem, Problem), (number, problem)
        assert words in problem.reason, (number, problem)
        assert len(problem.reason) < 200


def test_a_folder_goes_on_behind_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"broken")
    (tmp_path / "b.docx").write_bytes(MADE["docx"]())
    (tmp_path / "~$b.docx").write_bytes(b"what Word leaves beside a file that is open")
    names = [getattr(item, "label", "") for item in find_files([tmp_path])]
    assert [Path(name).name for name in names] == ["a.docx", "b.docx"]


def test_a_large_document_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(office.docx(*((0, "") for _ in range(20_000)), (0, "end")))
    tracemalloc.start()
    (item,) = read_file(path)
    assert isinstance(item, Document)
    assert item.text == "end"
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
