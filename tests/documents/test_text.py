from pathlib import Path

import pytest

from tercet.documents.readers import Problem, read_file
from tercet.records import Document


def one(path: Path) -> Document:
    items = list(read_file(path, path.name))
    assert len(items) == 1
    assert isinstance(items[0], Document), items[0]
    return items[0]


def problem(path: Path) -> Problem:
    items = list(read_file(path, path.name))
    assert isinstance(items[-1], Problem), items
    return items[-1]


def test_text_keeps_its_words_and_loses_what_no_store_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\r\ntwo\0three\u2028four\n".encode())
    document = one(path)
    assert document.text == "One\ntwo three\nfour"
    assert (document.id, document.title, document.source) == ("a.txt", "", "a.txt")
    assert document.metadata == {"path": "a.txt", "suffix": ".txt"}


def test_utf16_with_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Ελληνικά".encode("utf-16"))
    assert one(path).text == "Ελληνικά"


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("one\ntwo\ncaf\xe9\n".encode("latin-1"))
    found = problem(path)
    assert found.source == "latin.txt:3"
    assert "0xe9" in found.reason
    assert found.failed


def test_markdown_gives_plain_paragraphs_and_the_first_heading(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(
        "# The *river*\n\nIt runs [north](http://x.y) and\nturns.\n\n- one\n- two\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```\n\n<div>kept <b>text</b></div>\n\n"
        "![a bridge](b.png)\n\n## Later\n"
    )
    document = one(path)
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
    path = tmp_path / "a.md"
    fields = f'title{is_} "Pain"\nlang{is_} fr\nyear{is_} 2020\nempty{is_}\n'
    path.write_text(f"{mark}\n{fields}{mark}\n# Le pain\n\nBon.\n")
    document = one(path)
    assert (document.title, document.language) == ("Pain", "fr")
    assert document.metadata == {"path": "a.md", "suffix": ".md", "year": "2020"}
    assert document.text == "Le pain\n\nBon."  # a heading that is not the title stays


def test_a_rule_at_the_top_is_no_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("---\n\nkey: value\n")
    assert one(path).text == "key: value"


@pytest.mark.parametrize("text", ["#\n", "", "<!-- -->", "[a]: http://b\n", "---\n---\n"])
def test_markdown_without_text_is_no_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.md"
    path.write_text(text)
    assert one(path).text == ""


def test_html_gives_main_text_title_and_language(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        "<!doctype html><html lang=de><head><title> Das\n Haus </title><style>p{}</style></head>"
        "<body><nav>Start</nav><main><h1>Haus</h1><p>Ein <b>gro</b>ßes\nHaus.<p>Zwei<br>Zeilen"
        "<script>x()</script><ul><li>a<li>b</ul><pre>x\n  y</pre>"
        "<table><tr><td>1<td>2</table></main><footer>Ende</footer>"
    )
    document = one(path)
    assert (document.title, document.language) == ("Das Haus", "de")
    assert document.text == ("Haus\n\nEin großes Haus.\n\nZwei\nZeilen\n\na\nb\n\nx\ny\n\n1 2")


def test_html_without_main_text_falls_back_to_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<body><main></main><nav>Only this</nav>")
    assert one(path).text == "Only this"


def test_html_is_read_in_the_encoding_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "a.htm"
    path.write_bytes("<meta charset='windows-1251'><p>Река".encode("cp1251"))
    assert one(path).text == "Река"


def test_html_nested_without_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<b><i>" * 20_000 + "deep")
    assert one(path).text == "deep"


def test_a_line_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    line = "word " * 2_000_000
    for name in ("a.txt", "a.md", "a.html"):
        (tmp_path / name).write_text(line)
        assert len(one(tmp_path / name).text) == len(line) - 1


def test_pdf_pages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_of("Hello river"))
    document = one(path)
    assert document.text == "Hello river"
    assert document.metadata["suffix"] == ".pdf"


def test_damaged_and_textless_pdfs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf_of("Hello")[:60])
    assert "not a whole PDF" in problem(path).reason
    path.write_bytes(b"\0" * 100)
    assert "not a whole PDF" in problem(path).reason
    path.write_bytes(pdf_of(""))
    assert "text recognition" in problem(path).reason


@pytest.mark.parametrize(("name", "library"), [("a.pdf", "pypdf"), ("a.parquet", "pyarrow")])
def test_a_missing_library_is_named_with_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    (tmp_path / name).write_bytes(b"x")
    assert f"pip install 'tercet[{name[2:]}]'" in problem(tmp_path / name).reason


def pdf_of(text: str) -> bytes:
    """A PDF of one page, written by hand."""
    content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    bodies = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        out
        + b"xref\n0 5\n0000000000 65535 f \n%strailer<</Root 1 0 R/Size 5>>\nstartxref\n%d\n%%%%EOF"
        % (
            table,
            len(out),
        )
    )
