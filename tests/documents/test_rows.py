import csv
import json
from pathlib import Path

import pytest

from tercet.documents.readers import Problem, read_file
from tercet.records import Document


def read(path: Path) -> tuple[list[Document], list[Problem]]:
    items = list(read_file(path, path.name))
    documents = [item for item in items if isinstance(item, Document)]
    return documents, [item for item in items if isinstance(item, Problem)]


def test_jsonl_fields_become_fields_and_the_rest_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {
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
    path.write_text(json.dumps(row) + "\n\n" + json.dumps({"text": "second"}) + "\n")
    (first, second), problems = read(path)
    assert not problems
    assert (first.id, first.text, first.title, first.language) == ("7", "The text", "A title", "en")
    assert first.source == "a.jsonl#1"
    assert first.metadata == {
        "path": "a.jsonl",
        "suffix": ".jsonl",
        "year": 2020,
        "big": str(10**30),
        "ok": True,
        "ratio": 0.5,
    }
    assert (second.id, second.text, second.source) == ("a.jsonl#3", "second", "a.jsonl#3")


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
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    documents, problems = read(path)
    assert [document.text for document in documents] == ["one", "three"]
    assert [problem.source for problem in problems] == ["a.jsonl:2"]
    assert words in problems[0].reason


def test_surrogates_and_nuls_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "\\ud800x", "text": "a\\udfffb\\u0000c", "title": "\\ud83d\\ude00"}\n')
    (document,), problems = read(path)
    assert not problems
    assert (document.id, document.text, document.title) == ("\ufffdx", "a\ufffdb c", "😀")


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


def test_tsv_takes_quotes_as_csv_does(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("title\tbody\nT\tB, b\n")
    (document,), problems = read(path)
    assert not problems
    assert (document.title, document.text) == ("T", "B, b")


@pytest.mark.parametrize(
    ("raw", "source", "words"),
    [
        (b"a,b\n1,2\n", "a.csv", "the columns are a, b"),
        (b"", "a.csv", "the columns are none"),
        (b"text\nok\n\xff\n", "a.csv:3", "0xff"),
        (b'text\nok\n"open', "a.csv:3", "not separated values"),
        (b"text\nok\none,two\n", "a.csv:3", "2 fields"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(
    tmp_path: Path, raw: bytes, source: str, words: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(raw)
    documents, problems = read(path)
    assert [(problem.source, words in problem.reason) for problem in problems] == [(source, True)]
    assert [document.text for document in documents] == ["ok"] * (b"ok" in raw)


def test_parquet_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "text": ["one", None, "three"],
            "Title": ["t", "u", None],
            "tags": [["x"], [], None],
            "raw": [b"x", b"y", b"z"],
            "day": pa.array([0, 1, None], pa.date32()),
            "n": [1, 2, 3],
        }
    )
    pq.write_table(table, path)
    documents, problems = read(path)
    assert not problems
    assert [document.text for document in documents] == ["one", "", "three"]
    assert documents[0].title == "t"
    assert documents[0].metadata == {
        "path": "a.parquet",
        "suffix": ".parquet",
        "day": "1970-01-01",
        "n": 1,
    }
    assert documents[2].id == "a.parquet#3"
    path.write_bytes(path.read_bytes()[:100])
    documents, problems = read(path)
    assert not documents
    assert "not a whole Parquet file" in problems[0].reason
    pq.write_table(pa.table({"a": [1]}), path)
    assert "the columns are a" in read(path)[1][0].reason
