"""The measures, the baseline and the table of benchmarks/quality.py."""

import json
import math
from argparse import Namespace
from pathlib import Path

import bm25_baseline
import numpy as np
import pytest
import quality
from beir_sets import Dataset, measure, read_dataset

from tercet.encoder import Encoder
from tercet.errors import InputError


def by_definition(
    scores: dict[str, float], gains: dict[str, int], positive: bool
) -> tuple[float, float]:
    """nDCG@10 and Recall@100 of one query, from sorted pairs of score and id."""
    ranked = [name for score, name in sorted(((s, n) for n, s in scores.items()), reverse=True)]
    if positive:
        ranked = [name for name in ranked if scores[name] > 0]
    gained = sum(gains.get(n, 0) / math.log2(1 + rank) for rank, n in enumerate(ranked[:10], 1))
    best = sorted(gains.values(), reverse=True)[:10]
    ideal = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(best, 1))
    return gained / ideal, len(gains.keys() & set(ranked[:100])) / len(gains)


@pytest.mark.parametrize("positive", [False, True])
def test_measures_follow_their_definition_with_grades_and_ties(positive: bool) -> None:
    rng = np.random.default_rng(3)
    ids = sorted((str(i) for i in range(150)), reverse=True)
    gains = [
        {ids[i]: int(rng.integers(1, 5)) for i in rng.choice(150, rng.integers(1, 20), False)}
        for _ in range(30)
    ]
    gains[4]["not in the corpus"] = 3
    scores = rng.integers(-6, 6, (30, 150)).astype(np.float32)
    data = Dataset("graded", ids, [""] * 150, [""] * 30, gains)
    found = np.concatenate(
        [measure(scores[i : i + 7], data, i, positive=positive) for i in range(0, 30, 7)]
    )
    for row in range(30):
        named = dict(zip(ids, scores[row].tolist(), strict=True))
        assert found[row] == pytest.approx(by_definition(named, gains[row], positive))
    assert 0 < found.mean() < 1


def test_a_passage_that_shares_no_term_is_not_retrieved() -> None:
    data = Dataset("zeros", ["b", "a"], ["", ""], [""], [{"b": 1}])
    nothing = np.zeros((1, 2), dtype=np.float32)
    assert measure(nothing, data, 0, positive=True).tolist() == [[0.0, 0.0]]
    assert measure(nothing, data, 0, positive=False).tolist() == [[1.0, 1.0]]


def test_terms_are_words_and_pairs_of_characters() -> None:
    assert bm25_baseline.terms("The U.S. won 24–10") == ["the", "u", "s", "won", "24", "10"]
    assert bm25_baseline.terms("東京タワーは1958年") == [
        "東京", "京タ", "タワ", "ワー", "ーは", "1958", "年",
    ]  # fmt: skip
    assert bm25_baseline.terms("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # marks stay with their letters
    assert bm25_baseline.terms("ที่นี่")[0] == "ที"
    assert bm25_baseline.terms(" … ") == []


def test_bm25_is_lucenes_formula() -> None:
    pytest.importorskip("bm25s")
    passages = ["red red stone", "a green stone by the river", "", "red sea"]
    score = bm25_baseline.bm25(passages)
    lengths = [len(bm25_baseline.terms(passage)) for passage in passages]
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))  # "red" is in 2 of 4
    norm = [0.9 * (0.6 + 0.4 * n / (sum(lengths) / 4)) for n in lengths]
    expected = [idf * 2 / (2 + norm[0]), 0.0, 0.0, idf * 1 / (1 + norm[3])]
    once, twice = score(["Red"], False), score(["red RED"], True)
    np.testing.assert_allclose(once[0], expected, rtol=1e-5)
    np.testing.assert_allclose(score(["red RED"], False), once)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    assert not score(["?!", "unheard"], False).any()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three passages and three queries, one of them without a relevant passage."""
    target = tmp_path / "little"
    (target / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "1", "title": "River", "text": "water of the mountain"},
        {"_id": "2", "title": "", "text": "a city law"},
        {"_id": "3", "text": "music and light of the night star"},
    ]
    queries = [{"_id": str(i), "text": t} for i, t in enumerate(["law", "music", "horse"], 1)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (target / f"{name}.jsonl").write_text(lines)
    judged = "query-id\tcorpus-id\tscore\n1\t2\t1\n2\t3\t2\n2\t1\t0\n3\t1\t0\n"
    (target / "qrels/test.tsv").write_text(judged)
    return target


def test_a_folder_is_read_with_titles_and_judged_queries_only(folder: Path) -> None:
    data = read_dataset(folder)
    assert data.passage_ids == ["3", "2", "1"]
    assert data.passages[1:] == ["a city law", "River\nwater of the mountain"]
    assert data.queries == ["law", "music"]
    assert data.gains == [{"2": 1}, {"3": 2}]


def test_a_bad_line_is_named(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "4"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 4"):
        read_dataset(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match="not a BEIR folder"):
        read_dataset(folder)


def test_every_column_is_measured_and_shown(folder: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("bm25s")
    found = quality.run(
        Namespace(
            data=folder.parent,
            sets="",
            all_sets=True,
            model=str(tiny_checkpoint),
            max_length=64,
            queries=None,
            bm25_only=False,
        )
    )
    facts = found["sets"]["little"]
    assert set(facts["ndcg@10"]) == set(facts["recall@100"]) == set(quality.COLUMNS)
    assert facts["ndcg@10"]["BM25"] == 1.0
    encoder, data = Encoder.load(str(tiny_checkpoint)), read_dataset(folder)
    queries = encoder.encode(data.queries, role="query").dense
    passages = encoder.encode(data.passages, role="passage").dense
    assert queries is not None
    assert passages is not None
    dense = measure(queries @ passages.T, data, 0, positive=False).mean(axis=0)
    assert facts["ndcg@10"]["dense"] == pytest.approx(dense[0])
    shown = quality.report(found)
    assert f"{100 * dense[0]:.1f}" in shown
    assert encoder.fingerprint in shown
