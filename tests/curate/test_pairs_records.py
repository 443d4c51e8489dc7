"""Rows with fields: what is made of them, by the names they have or are given."""

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
        ({"instruction": "Add.", "input": "", "output": ANSWER}, "instruction-output",
         "Add.", [ANSWER]),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Why?"},
                       {"role": "assistant", "content": ANSWER}]}, "instruction-output",
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
    (found,), report = make(write(tmp_path, row))
    assert (found["query"], found["pos"]) == (query, pos)
    assert list(report["structures"]) == [structure]
    assert found["id"] == "rows.jsonl:1"
    assert make(tmp_path / "rows.jsonl", structures=[structure])[0] == [found]


def test_fields_can_be_named_also_inside_others(make: Make, tmp_path: Path) -> None:
    row = {"q": "How?", "a": {"texts": [{"t": ANSWER}, {"t": ANSWER[::-1]}]}, "k": 7, "l": "pt_br"}
    path = write(tmp_path, row)
    fields = ["question=q", "answer=a.texts.t", "id=k", "lang=l"]
    (found,), _ = make(path, fields=fields)
    assert found["pos"] == [ANSWER, ANSWER[::-1]]
    assert (found["id"], found["lang"]) == ("7", "pt-BR")
    rows, report = make(path, fields=["question=q", "answer=a"])
    assert rows == []
    assert list(report["left_out"]) == [
        "a field that is no text: name one inside it, as --field answer=answers.text"
    ]


def test_the_language_is_the_option_the_field_or_the_address(make: Make, tmp_path: Path) -> None:
    base = {"title": "Bees", "text": ANSWER}
    url = "https://de.wikipedia.org/wiki?curid=1"
    path = write(
        tmp_path, base, {**base, "lang": "fr", "url": url}, {**base, "url": url}, {**base, "url": 3}
    )
    assert [row["lang"] for row in make(path)[0]] == ["", "fr", "de", ""]
    assert {row["lang"] for row in make(path, lang="sw")[0]} == {"sw"}


def test_articles_give_every_structure_of_a_document(make: Make, tmp_path: Path) -> None:
    text = f"{ANSWER}\n\n== History ==\n{ANSWER}\n\n== Who made it? ==\n{ANSWER}"
    path = write(tmp_path, {"id": 1, "title": "History", "text": text})
    wanted = ["title-body", "heading-section", "title-abstract", "question-answer"]
    rows, report = make(path, structures=wanted)
    assert {row["query"] for row in rows} == {
        "History",
        "History > History",
        "History > Who made it?",
    }
    assert {name: sum(found.values()) for name, found in report["structures"].items()} == {
        "heading-section": 3,
        "question-answer": 1,
        "title-abstract": 1,
        "title-body": 1,
    }


def test_titles_of_rows_may_repeat(make: Make, tmp_path: Path) -> None:
    path = write(
        tmp_path, *({"title": "Bees", "text": f"{number} {ANSWER}"} for number in range(9))
    )
    assert [row["query"] for row in make(path)[0]] == 9 * ["Bees"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"title": "x"', "not a JSON object a line"),
        (b"[", "jq -c"),
        (b'["x"]', "a JSON object was expected, this is a list"),
        (b'{"title": "\xff"}', "byte 0xff is not utf-8"),
        (b'<doc id="1" title="x">', "run wikiextractor with --json"),
        (b"[" * 100_000, "not a JSON object a line"),
    ],
)
def test_a_line_that_is_no_row_is_named(make: Make, tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"title": "Bees", "text": ANSWER}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n" + line + b"\n" + good)
    rows, report = make(path)
    assert [row["id"] for row in rows] == ["rows.jsonl:1", "rows.jsonl:4"]
    (problem,) = report["first_problems"]
    assert problem["where"] == "rows.jsonl:3"
    assert says in problem["reason"]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"title": 3, "text": ["x"]},
        {"title": "", "text": ANSWER},
        {"question": ["x"], "answer": {}},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}]},
        {"messages": [3], "conversations": []},
        {"translation": [1]},
        {"translation": {"de": 1, "en": "x"}},
        {"docstring": 1, "code": 2},
    ],
)
def test_fields_of_other_kinds_are_left_out(
    make: Make, tmp_path: Path, row: dict[str, Any]
) -> None:
    rows, report = make(write(tmp_path, row))
    assert rows == []
    assert sum(found["count"] for found in report["left_out"].values()) == 1


def test_packed_files_and_tables_are_read(make: Make, tmp_path: Path) -> None:
    import bz2

    import pyarrow as pa
    import pyarrow.parquet
    import zstandard

    rows = [{"title": f"Bee {number}", "text": f"{number}: {ANSWER}"} for number in range(600)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
    }
    packers["zst"] = zstandard.ZstdCompressor().compress
    for suffix, pack in packers.items():
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"wiki_00.{suffix}").write_bytes(pack(text))
        assert [row["query"] for row in make(folder, parts=2)[0]] == [row["title"] for row in rows]
        (folder / f"wiki_00.{suffix}").write_bytes(pack(text)[:-20])
        assert "cannot be read" in make(folder, parts=2)[1]["first_problems"][0]["reason"]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found, _ = make(tmp_path / "rows.parquet", parts=2)
    assert [row["query"] for row in found] == [row["title"] for row in rows]
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no table")
    (problem,) = make(tmp_path / "rows.parquet")[1]["first_problems"]
    assert problem["reason"].startswith("not a whole Parquet file")
