"""Rows with fields: what is made of them, by the names they have or are given."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.curate.conftest import Make

ANSWER = "Open the settings, choose the tab of security and press the button there."
CODE = "def add(a, b):\n    total = a + b\n    return total"
ASKED, ANSWERED = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": ANSWER}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "structure", "query", "pos"),
    [
        ({"question": "How?", "answers": [ANSWER, "short", f"Or: {ANSWER}"]}, "question-answer",
         "How?", [ANSWER, f"Or: {ANSWER}"]),
        ({"instruction": "Add.", "input": "1 and 2", "output": ANSWER}, "instruction-output",
         "Add.\n1 and 2", [ANSWER]),
        ({"messages": [{"role": "system", "content": "x"}, ASKED, ANSWERED]}, "instruction-output",
         "Why?", [ANSWER]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": ANSWER}]},
         "instruction-output", "Why?", [ANSWER]),
        ({"title": "Bees", "abstract": ANSWER, "text": "x"}, "title-abstract", "Bees", [ANSWER]),
        ({"title": "Bees", "text": f"Bees\n\n{ANSWER}"}, "title-body", "Bees", [ANSWER]),
        ({"docstring": "Adds two numbers up.\n\nArgs:\n  a: one", "code": CODE}, "code-docstring",
         "Adds two numbers up.", [CODE]),
        ({"translation": {"de": "Guten Morgen", "en": "Good morning"}}, "translations",
         "Guten Morgen", ["Good morning"]),
    ],
)  # fmt: skip
def test_the_fields_say_what_is_made(
    make: Make, tmp_path: Path, row: dict[str, Any], structure: str, query: str, pos: list[str]
) -> None:
    (made,), report = make(write(tmp_path, row))
    assert (made["query"], made["pos"], made["id"]) == (query, pos, "rows.jsonl:1")
    assert list(report["structures"]) == [structure]
    assert make(tmp_path / "rows.jsonl", structures=[structure])[0] == [made]


def test_fields_can_be_named_also_inside_others(make: Make, tmp_path: Path) -> None:
    row = {"q": "How?", "a": {"texts": [{"t": ANSWER}, {"t": ANSWER[::-1]}]}, "k": 7, "l": "pt_br"}
    path = write(tmp_path, row)
    (made,), _ = make(path, fields=["question=q", "answer=a.texts.t", "id=k", "lang=l"])
    assert (made["pos"], made["id"], made["lang"]) == ([ANSWER, ANSWER[::-1]], "7", "pt-BR")
    rows, report = make(path, fields=["question=q", "answer=a"])
    assert rows == []
    (reason,) = report["left_out"]
    assert "--field answer=answers.text" in reason


def test_the_language_is_the_option_the_field_or_the_address(make: Make, tmp_path: Path) -> None:
    german, simple = "https://de.m.wikipedia.org/wiki?curid=1", "//simple.wikipedia.org/wiki/Bee"
    more: list[dict[str, Any]] = [{}, {"lang": "fr", "url": german}, {"url": german}]
    more += [{"url": 3}, {"url": simple}, {"url": "https://example.org/de.wikipedia.org"}]
    path = write(tmp_path, *({"title": "Bees", "text": ANSWER, **fields} for fields in more))
    assert [row["lang"] for row in make(path)[0]] == ["", "fr", "de", "", "", ""]
    assert {row["lang"] for row in make(path, lang="sw")[0]} == {"sw"}


def test_articles_give_every_structure_of_a_document(make: Make, tmp_path: Path) -> None:
    text = f"{ANSWER}\n\n== History ==\n{ANSWER}\n\n== Who made it? ==\n{ANSWER}"
    path = write(tmp_path, *({"title": "History", "text": text} for _ in range(4)))
    structures = ["title-body", "heading-section", "title-abstract", "question-answer"]
    rows, report = make(path, structures=structures)
    queries = {"History", "History > History", "History > Who made it?"}
    assert {row["query"] for row in rows} == queries  # titles of rows may repeat
    counts = {name: sum(langs.values()) for name, langs in report["structures"].items()}
    assert counts == dict.fromkeys(structures, 4) | {"heading-section": 12}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"title": "x"', "not a JSON object a line"),
        (b'["x"]', "a list): `jq -c"),
        (b'{"title": "\xff"}', "byte 0xff is not utf-8"),
        (b'<doc id="1" title="x">', "`wikiextractor --json`"),
        (b"[" * 100_000, "not a JSON object a line"),
    ],
)
def test_a_line_that_is_no_row_is_named(
    make: Make, tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"title": "Bees", "text": ANSWER}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n" + line + b"\n" + good)
    rows, report = make(path)
    assert [row["id"] for row in rows] == ["rows.jsonl:1", "rows.jsonl:4"]
    (problem,) = report["first_problems"]
    assert problem["where"] == "rows.jsonl:3"
    assert reason in problem["reason"]


def test_fields_of_other_types_are_skipped(make: Make, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {},
        {"title": 3, "text": ["x"]},
        {"title": "", "text": ANSWER},
        {"question": ["x"], "answer": {}},
        {"messages": [{"role": "user", "content": None}, ANSWERED], "input": "x"},
        {"messages": [3], "conversations": []},
        {"translation": [1]},
        {"translation": {"de": 1, "en": "x"}},
        {"docstring": 1, "code": 2},
    ]
    made, report = make(write(tmp_path, *rows))
    assert made == []
    assert sum(facts["count"] for facts in report["left_out"].values()) == len(rows)


def test_packed_files_and_tables_are_read(make: Make, tmp_path: Path) -> None:
    pa, zstandard = pytest.importorskip("pyarrow"), pytest.importorskip("zstandard")
    from pyarrow import parquet

    rows = [{"title": f"Bee {number}", "text": f"{number}: {ANSWER}"} for number in range(600)]
    titles = [row["title"] for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packers: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "xz": lzma.compress}
    packers |= {"bz2": bz2.compress, "zst": zstandard.ZstdCompressor().compress}
    for suffix, pack in packers.items():
        path = tmp_path / suffix / f"wiki_00.{suffix}"
        path.parent.mkdir()
        path.write_bytes(pack(text))
        assert [row["query"] for row in make(path.parent, parts=2)[0]] == titles
        path.write_bytes(pack(text)[:-20])
        (problem,) = make(path.parent, parts=2)[1]["first_problems"][:1]
        assert problem["where"].startswith(f"{path.name}:")
        assert problem["reason"].startswith("not readable as lines: ")
    table = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), table)
    assert [row["query"] for row in make(table, parts=2)[0]] == titles
    table.write_bytes(b"PAR1 no table")
    (problem,) = make(table)[1]["first_problems"]
    assert "not a whole file of rows" in problem["reason"]


def test_a_line_of_pairs_is_bounded(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERCET_LONGEST_LINE", "1")
    path = write(tmp_path, {"title": "Bee", "text": ANSWER}, {"title": "b" * (1 << 20)})
    made, report = make(path)
    assert [row["query"] for row in made] == ["Bee"]
    (problem,) = report["first_problems"]
    assert problem["where"] == f"{path.name}:2"
    assert problem["reason"].startswith("a line of more than 1 MB: ")
