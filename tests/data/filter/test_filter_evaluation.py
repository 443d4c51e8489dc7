"""Evaluation sets in every form, and what in them counts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tercet.curate.decontamination import Passages, evaluation_files, read_evaluation
from tercet.errors import InputError

Row = dict[str, Any]


def lines(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def beir(folder: Path, *, suffix: str = ".jsonl", qrels: dict[str, str] | None = None) -> Path:
    lines(folder / f"queries{suffix}", [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)])
    corpus = [{"_id": f"d{n}", "title": "T", "text": f"passage {n}"} for n in range(3)]
    lines(folder / f"corpus{suffix}", corpus)
    for name, body in (qrels or {}).items():
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + body)
    return folder


def texts(source: Path, passages: Passages = "relevant") -> list[str]:
    return [found.text for found in read_evaluation(source, passages=passages)]


QRELS = {"test": "q0\td1\t1\nq0\td2\t0\n", "dev": "q1\td1\t2\n", "train": "q2\td0\t1\n"}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_beir_folder_gives_what_is_measured(tmp_path: Path, suffix: str) -> None:
    folder = beir(tmp_path / "set", suffix=suffix, qrels=QRELS)
    asked = ["query 0", "query 1"]  # query 2 is for training
    assert texts(folder) == [*asked, "passage 1"]
    assert texts(folder, "none") == asked
    assert texts(folder, "all") == [*asked, "passage 0", "passage 1", "passage 2"]
    first = next(iter(read_evaluation(folder)))
    assert (first.name, first.path, first.line) == ("set", str(folder / f"queries{suffix}"), 1)


def test_without_judgements_all_queries_count(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set")
    assert texts(folder) == ["query 0", "query 1", "query 2"]
    assert len(texts(folder, "all")) == 6


def test_rows_and_translations_are_sets_too(tmp_path: Path) -> None:
    held = lines(
        tmp_path / "held.jsonl",
        [{"query": "q", "pos": ["p1", "p2"], "neg": ["n"], "lang": "de"}, {"text": "raw"}],
    )
    assert texts(held) == ["q", "p1", "p2", "raw"]
    pairs = [{"lang": "afr", "id": 0, "src": "Goeiemôre.", "en": "Good morning."}]
    lines(tmp_path / "bitext" / "pairs.jsonl.gz", pairs)
    assert texts(tmp_path / "bitext") == ["Goeiemôre.", "Good morning."]


def test_a_folder_of_sets_is_all_of_them(tmp_path: Path) -> None:
    beir(tmp_path / "b", qrels=QRELS)
    lines(tmp_path / "a" / "pairs.jsonl", [{"src": "eins", "en": "one"}])
    (tmp_path / "c").mkdir()
    assert {found.name for found in read_evaluation(tmp_path)} == {"a", "b"}
    assert texts(tmp_path) == ["eins", "one", *texts(tmp_path / "b")]
    assert len(evaluation_files(tmp_path)) == 3


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, r"no evaluation set here"),
        (
            {"queries.jsonl": '{"_id": "a", "text": "t"}\n{"_id": "b"}\n'},
            r"queries\.jsonl:2: .*'_id'",
        ),
        (
            {"queries.jsonl": '{"_id": "a", "text": "t"}\n', "qrels/test.tsv": "a\n"},
            r"test\.tsv:1: ",
        ),
        ({"pairs.jsonl": '{"src": "a", "en": "b"}\n{"id": 3}\n'}, r"pairs\.jsonl:2: no text"),
        ({"pairs.jsonl": "nonsense\n"}, r"pairs\.jsonl:1: not readable"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    with pytest.raises(InputError, match=told):
        texts(tmp_path)


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such evaluation set"):
        texts(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="not a file of rows"):
        texts(tmp_path / "notes.txt")
