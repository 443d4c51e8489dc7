"""The held-out split: whole groups, the same every time, whatever the order of the rows."""

import random
from pathlib import Path

import pytest

from tercet.data.rows import read_rows, write_rows
from tercet.data.split import group_keys, split, text_key
from tercet.errors import InputError


def rows(count: int = 400) -> list[dict[str, object]]:
    """Each passage has a question in two languages; every tenth question repeats in a neighbour."""
    made: list[dict[str, object]] = []
    for number in range(count):
        passage = f"passage {number} tells of river {number * 7}"
        made.append({"query": f"what of river {number}?", "pos": [passage]})
        made.append({"query": f"¿qué del río {number}?", "pos": [passage]})
        if number % 10 == 0:
            made.append({"query": f"what of river {number}?", "pos": [f"another text {number}"]})
    return made


def sides(folder: Path) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    train, dev = (list(read_rows(folder / side / "a.jsonl.gz")) for side in ("train", "dev"))
    return train, dev


def test_no_text_stands_on_both_sides_and_nothing_is_lost(tmp_path: Path) -> None:
    write_rows(tmp_path / "raw" / "a.jsonl.gz", rows())
    report = split(tmp_path / "raw", tmp_path / "out", share=0.2)
    train, dev = sides(tmp_path / "out")
    assert len(train) + len(dev) == len(rows()) == report.train["a"] + report.dev["a"]
    assert 0.1 < len(dev) / len(rows()) < 0.3

    def texts(side: list[dict[str, object]]) -> set[str]:
        return {str(row["query"]) for row in side} | {str(row["pos"]) for row in side}

    assert not texts(train) & texts(dev)
    assert report.groups == 400


def test_the_split_depends_on_the_texts_alone(tmp_path: Path) -> None:
    shuffled = rows()
    random.Random(3).shuffle(shuffled)
    for name, order in (("one", rows()), ("two", shuffled)):
        write_rows(tmp_path / name / "a.jsonl.gz", order)
        split(tmp_path / name, tmp_path / f"{name}-out", share=0.2)
    first, second = (sides(tmp_path / f"{name}-out")[1] for name in ("one", "two"))
    key = lambda row: (row["query"], str(row["pos"]), row["group"])  # noqa: E731
    assert sorted(first, key=key) == sorted(second, key=key)


def test_a_common_heading_joins_nothing() -> None:
    heading = text_key("Examples")
    keyed = [[heading, text_key(f"body {number}")] for number in range(1000)]
    assert len(set(group_keys(keyed))) == 1000
    assert len(set(group_keys(keyed[:100]))) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "", "pos": ["a"]}', "'query'"),
        ('{"query": "a", "pos": []}', "'pos'"),
        ('{"query": "a", "pos": "b"}', "'pos'"),
        ("[1]", "JSON object"),
        ("{broken", "JSON lines"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "q", "pos": ["p"]}\n' + line + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:(1|2)") as caught:
        split(path, tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
