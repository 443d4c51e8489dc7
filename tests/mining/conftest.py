"""An encoder without a model: a text is its words, so that every score is known beforehand."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tercet.config import HEADS, Head, Role, Weights
from tercet.embeddings import Embeddings
from tercet.layout import Settings
from tercet.mining import MineConfig
from tercet.mining.miner import mine, requests
from tercet.mining.selection import MineReport
from tercet.rows import read_rows, write_rows
from tercet.sparse import SparseRows
from tercet.tokenizer import text_shards

VOCABULARY = 512


class Words:
    """Word numbers in the order of their first appearance; 0 is for texts without a word."""

    vocabulary = VOCABULARY

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        return [
            [self.numbers.setdefault(word, len(self.numbers) + 1) for word in text.split()][:limit]
            for text in texts
        ]


class WordEncoder:
    """dense: unit vectors of word counts; sparse: the counts; multi: one unit vector a word."""

    def __init__(self, heads: tuple[Head, ...] = HEADS) -> None:
        self.heads, self.weights, self.tokenizer = heads, Weights(1.0, 0.5, 0.25), Words()
        self.settings = Settings(query_prefix="")
        self.asked: list[tuple[Head, ...]] = []

    def stream(
        self,
        texts: Iterable[str],
        *,
        heads: Sequence[Head] = HEADS,
        max_length: int = 512,
        role: Role = "passage",
    ) -> Iterator[Embeddings]:
        self.asked.append(tuple(heads))
        for shard in text_shards(texts, 3, max_length):
            yield self.encode(shard, heads)

    def encode(self, texts: Sequence[str], heads: Sequence[Head] = HEADS) -> Embeddings:
        ids = [few or [0] for few in self.tokenizer.contents(texts)]
        counts = np.zeros((len(ids), VOCABULARY), dtype=np.float32)
        for row, few in enumerate(ids):
            np.add.at(counts[row], few, 1)
        every = np.concatenate(ids)
        multi = np.zeros((len(every), VOCABULARY), dtype=np.float16)
        multi[np.arange(len(every)), every] = 1
        return Embeddings(
            dense=counts / np.linalg.norm(counts, axis=1, keepdims=True)
            if "dense" in heads
            else None,
            sparse=SparseRows.of(sp.csr_array(counts)) if "sparse" in heads else None,
            multi=multi if "multi" in heads else None,
            offsets=np.cumsum([0, *map(len, ids)]) if "multi" in heads else None,
        )


Mined = tuple[list[dict[str, Any]], MineReport]
Mine = Callable[..., Mined]


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def run(tmp_path: Path, encoder: WordEncoder) -> Mine:
    """Mines with the word encoder and gives back the rows as written, and the report."""

    def call(rows: Any, *, corpus: Any = None, scorer: Any = None, **settings: Any) -> Mined:
        target = tmp_path / "mined.jsonl.gz"
        config = MineConfig(**settings)
        report = mine(rows, encoder, to=target, corpus=corpus, config=config, scorer=scorer)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return list(read_rows(target)), report

    return call


TOPICS = ["river water sea", "king queen law", "star night light", "bread fire stone"]


def training_rows(count: int = 40) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"query": f"{TOPICS[n % 4]} {n}", "pos": [f"{TOPICS[n % 4]} ship {n} {n}"]}
        for n in range(count)
    ]
    return [*rows[:5], {"text": "raw text"}, *rows[5:]]


@pytest.fixture
def training_run(tmp_path: Path) -> Path:
    """The folder of a run that has two files of rows and asks for nothing yet."""
    rows = training_rows()
    write_rows(tmp_path / "a.jsonl.gz", rows[:20])
    write_rows(tmp_path / "b.jsonl.gz", rows[20:])
    folder = tmp_path / "run"
    folder.mkdir()
    sources = [{"files": [str(tmp_path / name)]} for name in ("a.jsonl.gz", "b.jsonl.gz")]
    config = {
        "stage": "unified",
        "steps": 9,
        "seed": 3,
        "data": {"sources": sources, "query_tokens": 64, "passage_tokens": 128},
        "negatives": {"every": 2, "by": "other", "number": 4, "last": 30, "limit": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ask(run: Path, step: int, model: Path) -> Path:
    """What the trainer does; returns the file that it waits for."""
    folder = run / "refresh" / f"step-{step:06d}"
    shutil.copytree(model, folder / "model")
    assert requests(run) == []  # not before it is ready
    (folder / "READY").touch()
    return folder / "negatives.jsonl"
