"""Texts of rows and lines: all of them, in order, and what is wrong named with its line."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.train.texts import tagged_texts, text_files, texts_in

ROWS = [
    {"query": "q", "pos": ["p1", "p2"], "neg": ["n"], "lang": "en"},
    {"text": "a raw text", "title": "its title"},
]


def test_rows_and_lines_give_their_texts(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "lines.txt").write_text("one\n\n  two \n")
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "most.txt.xz").write_bytes(lzma.compress(b"four"))
    files = text_files([tmp_path])
    assert sorted(files) == sorted(tmp_path.iterdir())
    expected = {"q", "p1", "p2", "n", "its title", "a raw text", "one", "two", "three", "four"}
    assert sorted(texts_in(files)) == sorted(expected)
    assert list(texts_in([tmp_path / "rows.jsonl"])) == [
        *("q", "p1", "p2", "n"),
        *("its title", "a raw text"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"id": 3}\n', r"a\.jsonl:2: a row needs a text .* has id"),
        ("a.jsonl", b'{"query": 3}\n', r"a\.jsonl:1: query holds a int"),
        ("a.jsonl", b'{"query": "x", "pos": [[]]}\n', r"a\.jsonl:1: pos holds a list"),
        ("a.txt", b"one\n\xff\xfe\n", r"a\.txt:\d: not readable"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz:1: not readable"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(tagged_texts([tmp_path / name]))


def test_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no files"):
        text_files([])
    with pytest.raises(InputError, match="no such file"):
        text_files([tmp_path / "absent"])
    with pytest.raises(InputError, match=r"no .* file here"):
        text_files([tmp_path])


def test_texts_come_with_the_language_of_their_side(tmp_path: Path) -> None:
    pair: dict[str, object] = {"query": "q", "pos": ["p"], "neg": ["n"]}
    rows = [
        {**pair, "lang": tag} for tag in ("pt-en", "az-Latn-en", "zh-Hant", "af-pt-BR", "009-en")
    ]
    rows += [pair, {**pair, "lang": None}, {"text": "t", "title": "h", "lang": "de"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lines.txt").write_text("one\n")
    sides = [("pt", "en"), ("az-Latn", "en"), ("zh-Hant", "zh-Hant"), ("af", "pt-BR")]
    sides += [("009", "en"), ("", ""), ("", "")]
    expected = [
        pair for first, second in sides for pair in ((first, "q"), (second, "p"), (second, "n"))
    ]
    expected += [("de", "h"), ("de", "t"), ("", "one")]
    assert list(tagged_texts([path, tmp_path / "lines.txt"])) == expected
    path.write_text('{"text": "x", "lang": ["de"]}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:1: lang holds a list"):
        list(tagged_texts([path]))
