"""One bad file never stops the others: odd encodings, lies, bombs and special files."""

import datetime as dt
import gzip
import json
import os
import socket
import tracemalloc
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.documents import Note, Problem, Reading, files, find_files, prepare, read_file, readers
from tercet.documents.base import plain_values, readable
from tercet.documents.encodings import encoding_of, html_encoding, unmarked
from tercet.documents.files import SourceFile
from tercet.errors import InputError
from tercet.records import Document

PAGE = "<html><head><meta charset={}><title>T</title></head><body><p>{}</p></body></html>"
BEES = "Bees dance to show where flowers are."
RUSSIAN = "Быстрая коричневая лиса прыгает через ленивую собаку. Москва стоит на реке. "


def read(path: Path, raw: bytes, **options: Any) -> tuple[list[Document], list[Problem]]:
    path.write_bytes(raw)
    items = list(read_file(path, path.name, Reading(**options)))
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Problem)]


def texts(path: Path, raw: bytes, **options: Any) -> list[str]:
    documents, problems = read(path, raw, **options)
    assert not [problem for problem in problems if problem.failed]
    return [document.text for document in documents]


@pytest.mark.parametrize(
    ("label", "really", "text"),
    [
        ("undefined", "utf-8", BEES),
        ("hex", "utf-8", BEES),
        ("punycode", "utf-8", BEES),
        ("gb2312", "gbk", "前总理朱镕基谈改革"),
        ("gbk", "gb18030", "𠮷野家在东京"),
        ("euc-kr", "cp949", "똠방각하 펲시콜라"),
        ("shift_jis", "cp932", "①㈱髙島屋"),
        ("big5", "big5hkscs", "香港嘅嘢係咁㗎"),
        ("us-ascii", "cp1252", "café"),
        ("iso-8859-9", "cp1254", "‘İstanbul’"),
        ("utf-16le", "utf-8", "Really UTF-8, whatever it says."),
    ],
)
def test_pages_are_read_as_browsers_read_them(
    tmp_path: Path, label: str, really: str, text: str
) -> None:
    assert texts(tmp_path / "a.html", PAGE.format(label, text).encode(really)) == [text]


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"<!-- <meta charset=koi8-r> --><meta charset=utf-8>", "utf-8"),
        (b"<meta name=d content='charset=koi8-r'><meta charset=gbk>", "gb18030"),
        (b"<META content='text/html; charset=koi8-r' http-equiv=Content-Type>", "koi8-r"),
        (b"<?xml version='1.0' encoding='windows-1251'?><html>", "cp1251"),
        (b"<p>charset=koi8-r", None),
    ],
)
def test_the_meta_element_alone_names_an_encoding(head: bytes, encoding: str | None) -> None:
    assert html_encoding(head) == encoding


def test_code_pages_have_control_characters_where_they_have_nothing(tmp_path: Path) -> None:
    page = PAGE.format("latin1", "a").encode().replace(b">a<", b">a\x81\xe9<")
    (document,), guesses = read(tmp_path / "a.html", page)
    assert (document.text, guesses) == ("a\x81é", [])
    assert encoding_of("cp437") == "cp437"
    assert [encoding_of(name) for name in ("rot13", "idna", "unicode_escape", "x")] == [None] * 4


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html"])
@pytest.mark.parametrize(
    "encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize(
    "text",
    [
        BEES,
        "Пчёлы танцуют, и цветы.",
        "中文没有空格，只有标点。\n一",
        "मधुमक्खियाँ नाचती हैं।",
        "ประเทศไทย 1",
    ],
)
def test_utf_16_and_32_are_seen(tmp_path: Path, suffix: str, encoding: str, text: str) -> None:
    (read_text,) = texts(tmp_path / f"a{suffix}", text.encode(encoding))
    assert " ".join(read_text.split()) == " ".join(text.split())


@pytest.mark.parametrize("text", ["id,text\n1,hel\0lo\n\0,\0\n", "Bienen \0tanzen für uns"])
def test_a_nul_in_utf_8_makes_it_no_utf_16(text: str) -> None:
    assert unmarked(text.encode()) is None


def test_japanese_of_mail_is_seen(tmp_path: Path) -> None:
    text = "日本語の文章\nplain\n蜂はダンスで会話します。"
    assert texts(tmp_path / "a.txt", text.encode("iso2022_jp")) == [text]
    assert texts(tmp_path / "a.txt", b"a \x1b[31mred\x1b[0m bee") == ["a \x1b[31mred\x1b[0m bee"]


def test_a_table_in_utf_16_is_read_with_its_tabs(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.csv", "id\ttext\r\n1\tBees.\r\n".encode("utf-16")) == ["Bees."]


def test_legacy_encodings_are_detected_said_or_given(tmp_path: Path) -> None:
    documents, (note,) = read(tmp_path / "a.txt", RUSSIAN.encode("cp1251"))
    assert (documents[0].text, note.failed) == (RUSSIAN.strip(), False)
    assert "cp1251" in note.reason
    assert texts(tmp_path / "a.txt", "Москва".encode("cp1251"), encoding="windows-1251")
    rows = f"id,text\n1,{RUSSIAN}\n2,река\n".encode("cp1251")
    assert texts(tmp_path / "a.csv", rows) == [RUSSIAN.strip(), "река"]
    for text in (RUSSIAN * 3, "Die Bienen tanzen für uns über den Blüten. " * 3):
        _, (problem,) = read(tmp_path / "b.txt", f"{text}\n".encode() + b"\xff bad")
        assert (problem.source, problem.failed) == ("b.txt:2", True)  # damaged UTF-8 is no guess
    with pytest.raises(InputError, match="unknown encoding"):
        Reading(encoding="hex")


@pytest.mark.parametrize("mark", ["\u00ad", "\u200b", "\u2060", "\ufeff", "\u200e", "\u200d"])
def test_invisible_characters_are_left_out(mark: str) -> None:
    assert readable(f"Dona{mark}u") == "Donau"
    ready = prepare(Document("a", f"Dona{mark}u", title=f"Fl{mark}uss"))
    assert isinstance(ready, Document)
    assert (ready.text, ready.title) == ("Donau", "Fluss")
    assert readable("می\u200cخواهم 👩\u200d👧") == "می\u200cخواهم 👩\u200d👧"  # these shape letters


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("---\n\nThe valve must be closed.\n\n---\n\nMore.\n", "valve must be closed"),
        ("---\n# Safety\n- Note: wear gloves\n---\nMore.\n", "wear gloves"),
        ("---\n\n**Subject: leak**\n\nThe seal is broken.\n\n---\nReply.\n", "seal is broken"),
        ("---\nA sentence: and more of it, here.\nNo field\n---\nMore.\n", "No field"),
        ("---\nThe bees dance: they do\n---\nMore.\n", "bees dance"),
        ("---\na: " + "[" * 1000 + "\n---\nMore.\n", "More"),
        ("+++\nnot toml\n+++\nMore.\n", "not toml"),
        ("---\n" + "".join(f"k{n}: v\n" for n in range(9000)) + "---\nMore.\n", "k8999"),
    ],
)
def test_what_is_no_front_matter_is_text(tmp_path: Path, source: str, kept: str) -> None:
    (document,), _ = read(tmp_path / "a.md", source.encode())
    assert kept in f"{document.title} {document.text}"


def test_front_matter_is_yaml_or_toml(tmp_path: Path) -> None:
    source = (
        "---\ntitle: T\nd: >\n  Folded\n  text\ntags:\n  - bees\nm: {a: 1}\nno: no\n---\nBody.\n"
    )
    (document,), _ = read(tmp_path / "a.md", source.encode())
    facts = {"d": "Folded text", "tags": ["bees"], "m.a": "1", "no": "no"}
    assert document.metadata == {"path": "a.md", "suffix": ".md", **facts}
    toml = '+++\ntitle = "My post"\ndate = 2024-01-02\ndraft = true\n+++\nBody.\n'
    (document,), _ = read(tmp_path / "a.md", toml.encode())
    assert (document.title, document.text) == ("My post", "Body.")
    assert (document.metadata["date"], document.metadata["draft"]) == ("2024-01-02", "true")
    (document,), _ = read(tmp_path / "a.md", b"---\ntitle: Foo: bar\nlang: de\n---\nBody.\n")
    assert (document.title, document.language) == ("Foo: bar", "de")


def test_rows_of_a_table_keep_cells_that_its_header_lacks(tmp_path: Path) -> None:
    table = b"| a | b |\n|---|---|\n| 1 | 2 | 3 | x\\|y |\n| 4 |\n"
    assert texts(tmp_path / "a.md", table) == ["a | b\n1 | 2 | 3 | x\\|y\n4 | "]


@pytest.mark.parametrize(
    "rows",
    [
        ['"The bees dance', "plain two", 'a screen of 5"', "last"],
        ['"Manhattan" was a project', "plain"],
        ['"open', "plain"],
    ],
)
def test_a_quotation_mark_in_tsv_is_a_character(tmp_path: Path, rows: list[str]) -> None:
    raw = "id\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(rows))
    assert texts(tmp_path / "a.tsv", raw.encode()) == rows


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (b'2,"open\n', 3),
        (b'2,"a"b\n', 3),
        (b"2,b,c\n", 3),
        (b"2,\xff\n", 3),
        (b'2,"a\nb\n', 3),
    ],
)
def test_a_bad_row_of_csv_is_lost_alone(tmp_path: Path, bad: bytes, line: int) -> None:
    raw = b'id,text\n1,"one\xc3\xa9"\n' + bad + b'3,"three, 3"\n4,5" four\n'
    documents, problems = read(tmp_path / "a.csv", raw)
    good = [document.text for document in documents]
    assert [text for text in good if text != "2"][-2:] == ["three, 3", '5" four']
    assert good[0] == "oneé"
    assert problems[0].source == f"a.csv:{line}"


@pytest.mark.parametrize(
    "raw",
    [
        b"id,text\r1,one\r2,two\r",
        b"id;text\n1;one\n2;two\n",
        b"sep=;\r\nid;text\r\n1;one\r\n2;two\r\n",
        b"SEP=|\nid|text\n1|one\n2|two\n",
        b"\n \nid,text\n1,one\n\n2,two\n",
    ],
)
def test_other_line_breaks_and_marks_of_csv(tmp_path: Path, raw: bytes) -> None:
    assert texts(tmp_path / "a.csv", raw) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.csv", b"id,name,city,n\n1,Ada,London,3\n"),
        ("a.tsv", b"id\tname\tcity\tn\n1\tAda\tLondon\t3\n"),
        ("a.jsonl", b'{"id": 1, "name": "Ada", "city": "London", "n": 3}\n'),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1, "name": "Ada", "city": "London"}\n', mtime=0)),
    ],
)
def test_rows_without_a_text_are_joined_and_that_is_said(
    tmp_path: Path, name: str, raw: bytes
) -> None:
    (document,), (note,) = read(tmp_path / name, raw)
    assert (document.id, document.text) == ("1", "name: Ada\ncity: London")
    assert isinstance(note, Note)
    assert "name, city" in note.reason
    assert texts(tmp_path / name, raw, text_field="City") == ["London"]
    assert read(tmp_path / name, raw, text_field="x")[1][0].failed


def test_whether_rows_have_a_text_the_first_one_shows(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = [{"name": "Ada"}, {"text": "T"}, {"name": "Bo"}]

    def read_rows(rows: list[dict[str, str]]) -> tuple[list[str], int]:
        raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
        documents, problems = read(tmp_path / "a.jsonl", raw)
        return [document.text for document in documents], sum(p.failed for p in problems)

    assert read_rows(rows) == (["name: Ada", "T", "name: Bo"], 0)
    assert read_rows(rows[1:]) == (["T"], 1)


def test_metadata_is_plain() -> None:
    values: Any = {
        "i": np.int64(3), "b": np.bool_(True), "f": np.float32(1.5), "a": np.array([1, 2]),
        "d": dt.date(2024, 1, 2), "t": np.datetime64("2024-01-02"), "m": Decimal("2.50"),
        "n": None, "l": ("x", np.int8(1)), "o": {"p": {"q": [1]}},
    }  # fmt: skip
    ready = prepare(Document("a", "text", metadata=values))
    assert isinstance(ready, Document)
    assert json.loads(json.dumps(dict(ready.metadata))) == {
        "i": 3, "b": True, "f": 1.5, "a": [1, 2], "d": "2024-01-02", "t": "2024-01-02", "m": 2.5,
        "l": ["x", 1], "o.p.q": [1],
    }  # fmt: skip
    loop: dict[str, Any] = {}
    loop |= {"a": loop, "b": loop}
    with pytest.raises(InputError, match="nests"):
        plain_values("k", loop)


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html", ".jsonl", ".csv"])
def test_texts_are_bounded(tmp_path: Path, suffix: str) -> None:
    large = b"w " * (600 << 10)
    head = {".jsonl": b'{"text": "good"}\n', ".csv": b"text\ngood\n"}.get(suffix, b"")
    for name, raw in ((f"a{suffix}", head + large), (f"a{suffix}.gz", gzip.compress(head + large))):
        documents, (problem,) = read(tmp_path / name, raw, max_mb=1)
        assert [document.text for document in documents] == (["good"] if head else [])
        assert (problem.failed, "--max-mb" in problem.reason) == (True, True)


def test_what_follows_an_open_quotation_mark_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"' + "a\n" * 100_000)
    tracemalloc.start()
    items = read_file(tmp_path / "a.csv", "a.csv", Reading(max_mb=1))
    assert "not closed" in next(item.reason for item in items if isinstance(item, Problem))
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    tracemalloc.stop()


def test_titles_ids_and_metadata_are_bounded(tmp_path: Path) -> None:
    many = {f"k{n}": "v" * 100 for n in range(1000)}
    row = {"text": "x", "title": "word " * 5000, "long": "v" * 2000, **many}
    (document,), (note,) = read(tmp_path / "a.jsonl", json.dumps(row).encode())
    assert len(document.title) <= 1024
    assert len(json.dumps(dict(document.metadata))) < 30_000
    assert "long" in note.reason
    assert read(tmp_path / "a.jsonl", json.dumps({"id": "i" * 2000, "text": "x"}).encode())[1]


def test_elements_that_nest_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_STEPS", 10**6)
    for page in (b"<div>" * 3000, b"<svg><title>" * 3000, b"<div></x>" * 3000, b"<div/>" * 3000):
        assert "nest" in read(tmp_path / "a.html", page + b"text")[1][0].reason
    assert "nest" in read(tmp_path / "a.md", b"<div>" * 3000)[1][0].reason
    for page in (b"<p>a<li>b<br><tr>" * 3000, b"<div>a</div>" * 3000, b"<svg><path/></svg>" * 3000):
        assert not read(tmp_path / "a.html", page)[1]


@pytest.mark.parametrize("mark", ["=1 ", "='>' ", '="<"', "/"])
def test_an_element_of_very_many_attributes_is_refused(tmp_path: Path, mark: str) -> None:
    tag = "".join(f"a{n}{mark}" for n in range(50_000))
    for name, page in (("a.html", f"<p {tag}>bees"), ("a.md", f"<div {tag}>bees</div>")):
        assert "attributes" in read(tmp_path / name, page.encode())[1][0].reason
    page = f"<p a='{'x' * 300_000}'>{BEES}<b class=x id=y>{' a' * 99_000}"
    assert texts(tmp_path / "a.html", page.encode())[0].startswith(BEES)


def test_lists_and_quotations_nest_deep_or_are_refused(tmp_path: Path) -> None:
    def nested(levels: int) -> bytes:
        return "".join(f"{'  ' * n}- bee {n}\n" for n in range(levels)).encode() + b"\n\n# Below"

    (text,) = texts(tmp_path / "a.md", nested(40))
    assert ("bee 39" in text, text.endswith("Below")) == (True, True)
    assert texts(tmp_path / "a.md", b">" * 40 + b" bees") == ["bees"]
    for deep in (nested(60), b">" * 200 + b" bees"):
        assert "nest too deep" in read(tmp_path / "a.md", deep)[1][0].reason


@pytest.mark.parametrize("field", ["title", "lang", "tags"])
def test_front_matter_that_grows_is_not_unfolded(tmp_path: Path, field: str) -> None:
    names = "abcdefghijklmno"
    lists = [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise(names)]
    source = "\n".join(["---", "a: &a [x]", *lists, f"{field}: [*o, de]", "---", BEES])
    documents, _ = read(tmp_path / "a.md", source.encode())
    assert [(document.text, document.metadata.get("a")) for document in documents] == [
        (BEES, ["x"])
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_table_without_rows_is_said_to_be_empty(tmp_path: Path, name: str) -> None:
    raw = {".csv": b"id,text\n", ".tsv": b"id\ttext\n\n", ".jsonl": b"\n\n"}
    documents, (problem,) = read(tmp_path / name, raw[Path(name).suffix])
    assert (documents, problem.failed, "empty" in problem.reason) == ([], False, True)


def test_a_json_array_is_called_that(tmp_path: Path) -> None:
    rows = [{"text": "a bee"}, {"text": "a wasp"}]
    for raw in (json.dumps(rows, indent=1), "[\n" + ",\n".join(map(json.dumps, rows)) + "]"):
        (problem,) = read(tmp_path / "a.jsonl", raw.encode())[1]
        assert (problem.source, "a JSON array" in problem.reason) == ("a.jsonl", True)


def test_whatever_a_reader_does_is_a_problem_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise AssertionError("of a library")

    monkeypatch.setitem(files.READERS, ".txt", broken)
    _, (problem,) = read(tmp_path / "a.txt", b"x")
    assert (problem.source, "of a library" in problem.reason) == ("a.txt", True)


def test_only_regular_files_are_read_and_links_stay_inside(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "a.txt").write_text("a")
    os.mkfifo(docs / "b.txt")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(docs / "c.txt"))
    (tmp_path / "out.txt").write_text("secret")
    (docs / "d.txt").symlink_to("../out.txt")
    (docs / "e.txt").symlink_to("a.txt")
    (docs / "sub" / "up").symlink_to("..")

    def names(follow: bool) -> list[str]:
        items = list(find_files([docs], Reading(follow_links=follow)))
        failed = [
            Path(item.source).name for item in items if isinstance(item, Problem) and item.failed
        ]
        assert failed == ["b.txt", "c.txt"]
        notes = [item.reason for item in items if isinstance(item, Note)]
        assert (len(notes), follow) in ((1, False), (0, True))
        return [item.path.name for item in items if isinstance(item, SourceFile)]

    assert names(False) == ["a.txt", "e.txt"]
    assert names(True) == ["a.txt", "d.txt", "e.txt"]
    (problem,) = find_files([docs / "b.txt"])
    assert isinstance(problem, Problem)
    assert "regular" in problem.reason


def test_an_index_among_the_files_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mine" / "index-000001").mkdir(parents=True)
    (tmp_path / "mine" / "documents.sqlite").touch()
    for name in ("a.md", "mine/b.md", "mine/index-000001/payloads.jsonl"):
        (tmp_path / name).write_text("x")
    found = [item.path for item in find_files([tmp_path]) if isinstance(item, SourceFile)]
    assert found == [tmp_path / "a.md"]


def test_gitignore_and_exclude_are_honoured(tmp_path: Path) -> None:
    files = "a.txt b.md drafts/c.txt sub/d.txt sub/keep.txt node_modules/e.txt x.odt y.gz"
    for name in files.split():
        path = tmp_path / "repo" / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "repo" / ".git").mkdir()
    (tmp_path / "repo" / ".gitignore").write_text("d.txt\nkeep.txt\n")
    (tmp_path / "repo" / "docs" / "sub" / ".gitignore").write_text("!keep.txt\n")
    docs = tmp_path / "repo" / "docs"
    items = list(find_files([docs], Reading(exclude=("drafts/", "*.md"))))
    found = [item.path.name for item in items if isinstance(item, SourceFile)]
    assert found == ["a.txt", "keep.txt"]
    notes = [item.reason for item in items if isinstance(item, Note)]
    assert notes[0] == "2 files of other kinds passed over: 1 .odt, 1 .gz"
    assert "4 left out" in notes[1]
