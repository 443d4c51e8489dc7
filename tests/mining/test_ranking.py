"""Candidates of every source: which heads are encoded, what is ranked again, BM25, prompts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.mining import MineConfig
from tercet.mining.miner import mine
from tercet.mining.pool import Pool
from tercet.mining.selection import EXHAUSTIVE, Candidates, heads_needed
from tercet.scores import dense_scores, lexical_scores, maxsim_scores
from tests.mining.conftest import WordEncoder


def test_blocks_never_change_what_is_mined(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    words = "river mountain city water light history music science people world year".split()
    rows = [
        {
            "query": " ".join(rng.choice(words, 3)),
            "pos": [" ".join(rng.choice(words, 9)) + f" {n}"],
        }
        for n in range(50)
    ]
    encoder = Encoder.load(str(tiny_checkpoint), dtype="float32")
    config = MineConfig(
        by=("dense", "sparse", "multi", "all", "bm25"), first=1, last=30, number=8, limit=None
    )

    def result(name: str, block: int = 8192) -> bytes:
        report = mine(rows, encoder, to=tmp_path / name, config=config, block=block)
        assert report.kept == 400
        assert all(report.kept_by.values())
        return (tmp_path / name).read_bytes()

    whole = result("whole.jsonl")
    for size in (7, 33):
        assert result(f"{size}.jsonl", size) == whole


def prepared(tmp_path: Path, encoder: WordEncoder, **settings: Any) -> tuple[Pool, Candidates]:
    rows = [
        {"query": "river stone boat", "pos": ["river river bank"]},
        {"query": "boat law", "pos": ["stone river boat law"]},
        {"query": "market", "pos": ["law of the market", "boat boat market"]},
    ]
    pool = Pool.read(rows, tmp_path)
    config = MineConfig(first=1, last=4, number=1, **settings)
    return pool, Candidates.prepare(pool, encoder, config, tmp_path, lambda count: None)


def test_the_sum_and_maxsim_rank_the_candidates_of_the_others(
    tmp_path: Path, encoder: WordEncoder
) -> None:
    pool, made = prepared(tmp_path, encoder, by=("sparse", "multi", "all"))
    found = made.find(np.arange(3))
    assert list(found) == ["sparse", "multi", "all"]
    queries, passages = encoder.encode(list(pool.queries)), encoder.encode(list(pool.texts))
    parts = [f(queries, passages) for f in (dense_scores, lexical_scores, maxsim_scores)]
    total = parts[0] * 1.0 + parts[1] * 0.5 + parts[2] * 0.25
    for source, scores in (("multi", parts[2]), ("all", total)):
        for row in range(3):
            order = np.lexsort((np.arange(4), -scores[row]))
            ranked: Any = found[source]  # type: ignore[index]
            np.testing.assert_array_equal(ranked.places[row], order)
            np.testing.assert_allclose(ranked.scores[row], scores[row][order], rtol=1e-5)


def test_only_the_heads_needed_are_encoded(tmp_path: Path) -> None:
    for by, heads in (
        (("bm25",), []),
        (("sparse", "bm25"), [("sparse",)] * 2),
        (("multi",), [("multi",)] * 2),
        (("all",), [("dense", "sparse", "multi")] * 2),
    ):
        encoder, folder = WordEncoder(), tmp_path / "-".join(by)
        folder.mkdir()
        _, made = prepared(folder, encoder, by=by)
        assert encoder.asked == heads
        if by == ("multi",):  # alone for small corpora
            assert made.find(np.arange(3))["multi"].places.shape == (3, 4)
            assert heads_needed(encoder, made.config, EXHAUSTIVE) == ("multi",)
            with pytest.raises(InputError, match="name dense or sparse too"):
                heads_needed(encoder, made.config, EXHAUSTIVE + 1)


def test_a_prompt_of_a_row_is_encoded_with_its_query(tmp_path: Path) -> None:
    rows = [
        {"query": "boat", "pos": ["a boat"], "prompt": "find: "},
        {"query": "law", "pos": ["the law"]},
        {"query": "sea", "pos": ["the sea"], "prompt": ""},
    ]
    pool = Pool.read(rows, tmp_path)
    assert list(pool.prompted_queries("q: ")) == ["find: boat", "q: law", "sea"]
    assert list(pool.queries) == ["boat", "law", "sea"]
