"""Measures: cases by hand, another implementation beside ir_measures', answers, averages."""

import math
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.measures import (
    ACCURACY,
    Values,
    answer_tokens,
    bitext_accuracy,
    check_measures,
    joined,
    measure,
    plain,
    tokens,
)
from tercet.evaluate.tasks import Bitext, Corpus, Protocol, Qrels, Task
from tercet.evaluate.trec import Run

NDCG, RECALL = "nDCG@10", "Recall@100"


def task_of(qrels: Qrels, queries: list[str] | None = None) -> Task:
    corpus = Corpus("c", lambda: iter(()))
    return Task("t", "s", "", corpus, dict.fromkeys(queries or qrels, "text"), qrels)


def one(task: Task, scores: dict[str, dict[str, float]], *names: str) -> dict[str, Values]:
    return measure(task, {"run": Run.from_scores(scores)}, names or (NDCG, RECALL))["run"]


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        ({"b": 0.5, "a": 0.5}, 1),  # ties go to the id that sorts last
        ({"b": 0.5, "c": 0.5}, 2),
        ({"b": 1.0, "c": 1.0 - 1e-9}, 2),  # as trec_eval keeps them, in float32, these are equal
        ({"q": 2.0, "b": 1.0}, 2),  # a hit with the id of the query is not dropped
    ],
)
def test_ranks_are_those_of_trec_eval(scores: dict[str, float], rank: int) -> None:
    got = one(task_of({"q": {"b": 1}}), {"q": scores})
    assert got[NDCG].mean == pytest.approx(1 / math.log2(1 + rank))


def test_queries_without_relevant_passages_are_left_out_and_missing_ones_count_zero() -> None:
    qrels = {"full": {"a": 1}, "none": {"a": 0}, "minus": {"a": -1}, "missing": {"a": 1}}
    task = task_of(qrels, ["full", "none", "minus", "missing", "unjudged"])
    scores = {"full": {"a": 1.0}, "none": {"a": 1.0}, "outside": {"a": 1.0}}
    for run in (scores, scores | {"missing": {}}):  # a file has no line of the second
        for values in one(task, run).values():
            assert values.queries == ("full", "missing")
            assert values.values.tolist() == [1.0, 0.0]
            assert (values.missing, values.skipped, values.mean) == (1, 3, 0.5)
    assert math.isnan(one(task_of({"none": {"a": 0}}), {"none": {"a": 1.0}})[NDCG].mean)
    empty = one(task, {"other": {"a": 1.0}})[NDCG]
    assert (empty.values.tolist(), empty.missing) == ([0.0, 0.0], 2)


def test_they_are_those_of_trec_eval() -> None:
    """Every value, over random runs with many ties, gains below 0, and runs that end early."""
    library = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(5)
    qrels: dict[str, dict[str, int]] = {}
    runs: dict[str, dict[str, float]] = {}
    for number in range(300):
        ids = [f"p{n}" for n in rng.permutation(60)]
        gains = rng.integers(-2, 4, rng.integers(1, 40)).tolist()
        qrels[f"q{number}"] = dict(zip(ids, gains, strict=False)) | {"not ranked": 1}
        ranked = rng.permutation(ids)[: rng.integers(1, 60)].tolist()
        scores = rng.integers(0, 5, len(ranked)) / 3
        runs[f"q{number}"] = dict(zip(ranked, scores.tolist(), strict=True))
    names = [f"{kind}@{k}" for kind in ("nDCG", "R", "P", "Success") for k in (1, 5, 10, 100)]
    got = one(task_of(qrels), runs, *names)
    provider = library.pytrec_eval
    for name in names:
        expected = {
            value.query_id: value.value
            for value in provider.iter_calc([library.parse_measure(name)], qrels, runs)
        }
        assert got[name].queries == tuple(qrels)
        assert got[name].values.tolist() == pytest.approx([expected[query] for query in qrels])
        assert 0 < got[name].mean < 1


def test_only_other_measures_need_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    task, scores = task_of({"q": {"a": 1}}), {"q": {"b": 2.0, "a": 1.0}}
    got = one(task, scores, "nDCG@10", "Recall@100", "R@1", "P@2", "Success@2")
    assert [round(values.mean, 3) for values in got.values()] == [0.631, 1.0, 0.0, 0.5, 1.0]
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[evaluate\]'"):
        check_measures(["nDCG@10", "AP"])


def test_our_own_implementation_agrees() -> None:
    """nDCG@10 (Jarvelin and Kekalainen 2002) and Recall@100 over a matrix with many ties."""
    rng = np.random.default_rng(3)
    count = 300  # more than are measured at once
    ids = sorted((str(i) for i in range(150)), reverse=True)  # ties go to the id that sorts last
    gains = [
        {ids[i]: int(rng.integers(1, 5)) for i in rng.choice(150, rng.integers(1, 20), False)}
        for _ in range(count)
    ]
    gains[4]["not in the corpus"] = 3
    scores = rng.integers(-6, 6, (count, 150)).astype(np.float32)
    discounts = 1 / np.log2(np.arange(2, 12))
    expected = np.zeros((count, 2))
    for row, ranked in enumerate(np.argsort(-scores, axis=1, kind="stable")[:, :100]):
        got = [gains[row].get(ids[i], 0) for i in ranked]
        best = sorted(gains[row].values(), reverse=True)[:10]
        expected[row, 0] = np.dot(got[:10], discounts) / np.dot(best, discounts[: len(best)])
        expected[row, 1] = np.count_nonzero(got) / len(gains[row])
    names = [f"q{i}" for i in range(count)]
    runs = {
        name: dict(zip(ids, row.tolist(), strict=True))
        for name, row in zip(names, scores, strict=True)
    }
    values = one(task_of(dict(zip(names, gains, strict=True))), runs)
    np.testing.assert_allclose(values[NDCG].values, expected[:, 0], atol=1e-7)
    np.testing.assert_allclose(values[RECALL].values, expected[:, 1], atol=1e-7)
    assert 0 < expected.mean() < 1


def test_other_measures_by_name() -> None:
    pytest.importorskip("ir_measures")
    task = task_of({"q": {"a": 1, "b": 1}, "r": {"c": 1}})
    scores = {"q": {"x": 3.0, "a": 2.0, "b": 1.0}, "r": {"c": 1.0}}
    got = one(task, scores, "RR@10", "P@2", "AP", "R@100", "Recall@100", "Success@1")
    assert {name: values.values.tolist() for name, values in got.items()} == {
        "RR@10": [0.5, 1.0],
        "P@2": [0.5, 0.5],
        "AP": [pytest.approx((1 / 2 + 2 / 3) / 2), 1.0],
        "R@100": [1.0, 1.0],
        "Recall@100": [1.0, 1.0],
        "Success@1": [0.0, 1.0],
    }


@pytest.mark.parametrize(
    "name",
    ["nDCGG@10", "nDCG@ten", "Recall", "", "1+1", "nDCG@0", "P@2.5", "P@-1", "AnswerRecall@0"],
)
def test_an_unknown_measure_is_named(name: str) -> None:
    pytest.importorskip("ir_measures")
    with pytest.raises(InputError, match=r"no measure .*common ones are nDCG@10"):
        check_measures(["nDCG@10", name])


def test_accuracy_of_pairs_in_both_directions() -> None:
    pairs = Bitext("x", "bitext", "de", ("eins", "zwei", "zwo", "drei"), ("1", "2", "2", "3"))
    got = bitext_accuracy(pairs, np.array([0, 1, 1, 1]), np.array([0, 1, 1, 3]))
    # "2" stands there twice: either is right; "zwo" is not "zwei"
    assert got[ACCURACY[0]].values.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert got[ACCURACY[1]].values.tolist() == [1.0, 1.0, 0.0, 1.0]


# Answers: whether one stands in a passage, by the published normalisation

PASSAGES = {"1": "Paris is big", "2": "London", "3": "in PARIS — Texas", "4": "Rome"}
ANSWERS = {"q": ("Paris",), "r": ("Rome", "Roma"), "s": ("Oslo",), "t": ()}


def mkqa() -> Task:
    reads: list[int] = []

    def rows() -> Iterator[tuple[str, str, str]]:
        reads.append(1)
        assert len(reads) == 1, "the corpus is read more than once"
        yield from ((key, "", text) for key, text in PASSAGES.items())

    queries = dict.fromkeys(ANSWERS, "text")
    protocol = Protocol(measures=("AnswerRecall@1", "AnswerRecall@2"))
    return Task("mkqa/xx", "mkqa", "xx", Corpus("nq", rows), queries, {}, ANSWERS, protocol)


def test_answers_in_the_top() -> None:
    runs = {
        "a": Run.from_scores({"q": {"2": 3.0, "3": 2.0, "1": 1.0}, "r": {"4": 1.0}, "t": {"1": 1}}),
        "b": Run.from_scores({"r": {"1": 2.0, "4": 1.0}, "s": {"1": 1.0}, "q": {"nowhere": 1.0}}),
    }
    got = measure(mkqa(), runs)
    assert got["a"]["AnswerRecall@1"].values.tolist() == [0.0, 1.0, 0.0]
    assert got["a"]["AnswerRecall@2"].values.tolist() == [1.0, 1.0, 0.0]
    assert got["b"]["AnswerRecall@1"].values.tolist() == [0.0, 0.0, 0.0]
    assert got["b"]["AnswerRecall@2"].values.tolist() == [0.0, 1.0, 0.0]
    first = got["a"]["AnswerRecall@2"]
    assert (first.queries, first.missing, first.skipped) == (("q", "r", "s"), 1, 1)


def test_measures_that_a_task_cannot_have() -> None:
    with pytest.raises(InputError, match="mkqa/xx has answer strings, no judgements"):
        measure(mkqa(), {}, ["nDCG@10"])
    with pytest.raises(InputError):
        measure(task_of({"q": {"a": 1}}), {}, ["AnswerRecall@20"])


@pytest.mark.parametrize(
    ("answer", "passage", "occurs"),
    [
        ("Dave Edmunds", "written by DAVE  EDMUNDS, in 1970", True),
        ("café", "the Cafe\u0301 of Paris", True),  # composed or not
        ("1.5", "about 1.5 km", True),
        ("U.S.", "in the u.s. army", True),
        ("rock 'n' roll", "Rock ‘n’ Roll music", True),  # the passage's quotes are made plain
        ("1914-1918", "the war (1914–1918)", True),
        ("東京", "首都は 東京 です", True),
        ("Edmund", "Dave Edmunds", False),  # whole tokens
        ("Edmunds Dave", "Dave Edmunds", False),
        ("Dave Edmunds", "Dave X Edmunds", False),
        ("東京", "東京都", False),  # a run of letters is one token
        ("cafe", "café", False),  # marks count
        ("1914–1918", "the war (1914–1918)", False),  # an answer's dash stays as it is
        (" \t", "anything", False),
    ],
)
def test_whether_an_answer_occurs(answer: str, passage: str, occurs: bool) -> None:
    words = joined(tokens(plain(passage)))
    assert any(one in words for one in answer_tokens(["nowhere", "", answer])) == occurs


def test_a_passage_is_made_plain() -> None:
    assert plain("“It’s” — 3⁄4…\u00ad\x0b`X´ ″") == "\"it's\" - 3/4... 'x' ''"
    assert plain('plain text - it\'s "so"') == 'plain text - it\'s "so"'
