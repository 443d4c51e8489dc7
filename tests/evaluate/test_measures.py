"""Measures: cases by hand, another implementation beside ir_measures', answers, averages."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from tercet.errors import InputError
from tercet.evaluate import measures
from tercet.evaluate.measures import (
    ACCURACY,
    Values,
    average,
    bitext_accuracy,
    check_measures,
    first_answers,
    measure,
)
from tercet.evaluate.tasks import Bitext, Corpus, Protocol, Qrels, Task
from tercet.evaluate.trec import Run
from tests.evaluate.matrix_measures import Judged
from tests.evaluate.matrix_measures import measure as matrix_measure

pytest.importorskip("ir_measures")
NDCG, RECALL = "nDCG@10", "Recall@100"


def task_of(qrels: Qrels, queries: list[str] | None = None, **more: object) -> Task:
    return Task(
        name="t",
        suite="s",
        language="",
        corpus=Corpus("c", lambda: iter(())),
        queries=dict.fromkeys(queries or qrels, "text"),
        qrels=qrels,
        **more,  # type: ignore[arg-type]
    )


def one(task: Task, found: dict[str, dict[str, float]], *names: str) -> dict[str, Values]:
    return measure(task, {"run": Run.from_scores(found)}, names or (NDCG, RECALL))["run"]


def test_graded_gains_by_hand() -> None:
    task = task_of({"q": {"a": 3, "b": 1, "c": 2, "z": 0}})
    got = one(task, {"q": {"x": 0.9, "a": 0.8, "b": 0.7, "z": 0.6}})
    found = 3 / math.log2(3) + 1 / math.log2(4)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert got[NDCG].mean == pytest.approx(found / ideal)
    assert got[RECALL].mean == pytest.approx(2 / 3)


def test_ties_go_to_the_id_that_sorts_last() -> None:
    task = task_of({"q": {"b": 1}})
    for other, rank in (("a", 1), ("c", 2)):
        got = one(task, {"q": {"b": 0.5, other: 0.5}})
        assert got[NDCG].mean == pytest.approx(1 / math.log2(1 + rank))
    # as trec_eval keeps them, in float32, these two are equal
    got = one(task, {"q": {"b": 1.0, "c": 1.0 - 1e-9}})
    assert got[NDCG].mean == pytest.approx(1 / math.log2(3))


def test_a_hit_with_the_id_of_the_query_is_not_dropped() -> None:
    got = one(task_of({"q": {"q": 1}}), {"q": {"q": 2.0, "b": 1.0}})
    assert got[NDCG].mean == 1.0
    got = one(task_of({"q": {"b": 1}}), {"q": {"q": 2.0, "b": 1.0}})
    assert got[NDCG].mean == pytest.approx(1 / math.log2(3))


def test_queries_without_relevant_passages_are_left_out_and_missing_ones_count_zero() -> None:
    qrels = {"full": {"a": 1}, "none": {"a": 0}, "minus": {"a": -1}, "missing": {"a": 1}}
    task = task_of(qrels, ["full", "none", "minus", "missing", "unjudged"])
    found = {"full": {"a": 1.0}, "none": {"a": 1.0}, "outside": {"a": 1.0}}
    for run in (found, found | {"missing": {}}):  # a file has no line of the second
        for values in one(task, run).values():
            assert values.queries == ("full", "missing")
            assert values.values.tolist() == [1.0, 0.0]
            assert (values.missing, values.skipped, values.mean) == (1, 3, 0.5)
    nothing = one(task_of({"none": {"a": 0}}), {"none": {"a": 1.0}})[NDCG]
    assert math.isnan(nothing.mean)
    empty = one(task, {"other": {"a": 1.0}})[NDCG]
    assert (empty.values.tolist(), empty.missing) == ([0.0, 0.0], 2)


def test_our_own_implementation_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "BLOCK", 7)
    rng = np.random.default_rng(3)
    ids = sorted((str(i) for i in range(150)), reverse=True)
    gains = [
        {ids[i]: int(rng.integers(1, 5)) for i in rng.choice(150, rng.integers(1, 20), False)}
        for _ in range(30)
    ]
    gains[4]["not in the corpus"] = 3
    scores = rng.integers(-6, 6, (30, 150)).astype(np.float32)  # many ties
    expected = matrix_measure(scores, Judged(ids, gains))
    names = [f"q{i}" for i in range(30)]
    found = {
        name: dict(zip(ids, row.tolist(), strict=True))
        for name, row in zip(names, scores, strict=True)
    }
    got = one(task_of(dict(zip(names, gains, strict=True))), found)
    np.testing.assert_allclose(got[NDCG].values, expected[:, 0], atol=1e-7)
    np.testing.assert_allclose(got[RECALL].values, expected[:, 1], atol=1e-7)
    assert 0 < expected.mean() < 1


def test_other_measures_by_name() -> None:
    task = task_of({"q": {"a": 1, "b": 1}, "r": {"c": 1}})
    found = {"q": {"x": 3.0, "a": 2.0, "b": 1.0}, "r": {"c": 1.0}}
    got = one(task, found, "RR@10", "P@2", "AP", "R@100", "Recall@100", "Success@1")
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
    [
        "nDCGG@10",
        "nDCG@ten",
        "Recall",
        "nDCG@10 or so",
        "",
        "1+1",
        "nDCG@0",
        "P@2.5",
        "P@-1",
        "AnswerRecall@0",
    ],
)
def test_an_unknown_measure_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"no measure .*common ones are nDCG@10"):
        check_measures(["nDCG@10", name])


PASSAGES = {"1": "Paris is big", "2": "London", "3": "in PARIS — Texas", "4": "Rome"}
ANSWERS = {"q": ("Paris",), "r": ("Rome", "Roma"), "s": ("Oslo",), "t": ()}


def asked() -> Task:
    reads: list[int] = []

    def read() -> Iterator[tuple[str, str]]:
        reads.append(1)
        assert len(reads) == 1, "the corpus is read more than once"
        yield from PASSAGES.items()

    return Task(
        name="mkqa/xx",
        suite="mkqa",
        language="xx",
        corpus=Corpus("nq", read),
        queries=dict.fromkeys(ANSWERS, "text"),
        answers=ANSWERS,
        protocol=Protocol(measures=("AnswerRecall@1", "AnswerRecall@2")),
    )


def test_answers_in_the_top() -> None:
    runs = {
        "a": Run.from_scores({"q": {"2": 3.0, "3": 2.0, "1": 1.0}, "r": {"4": 1.0}, "t": {"1": 1}}),
        "b": Run.from_scores({"r": {"1": 2.0, "4": 1.0}, "s": {"1": 1.0}, "q": {"nowhere": 1.0}}),
    }
    got = measure(asked(), runs)
    assert got["a"]["AnswerRecall@1"].values.tolist() == [0.0, 1.0, 0.0]
    assert got["a"]["AnswerRecall@2"].values.tolist() == [1.0, 1.0, 0.0]
    assert got["b"]["AnswerRecall@1"].values.tolist() == [0.0, 0.0, 0.0]
    assert got["b"]["AnswerRecall@2"].values.tolist() == [0.0, 1.0, 0.0]
    first = got["a"]["AnswerRecall@2"]
    assert (first.queries, first.missing, first.skipped) == (("q", "r", "s"), 1, 1)


def test_deeper_never_finds_less_and_ranks_are_those_of_a_search_by_hand() -> None:
    rng = np.random.default_rng(0)
    names = list(PASSAGES)
    found = {q: dict(zip(names, rng.random(4).tolist(), strict=True)) for q in "qrs"}
    run = Run.from_scores(found)
    ranks = first_answers(asked(), {"run": run}, 4)["run"]
    by_hand = []
    for number, words in enumerate((["paris"], ["rome"], ["oslo"])):
        texts = [PASSAGES[name].lower() for name in run.of_query(number)[0]]
        hits = [i for i, text in enumerate(texts, 1) if any(word in text for word in words)]
        by_hand.append(min(hits, default=5))
    assert ranks.tolist() == by_hand
    got = measure(asked(), {"run": run}, [f"AnswerRecall@{k}" for k in (1, 2, 3, 4)])["run"]
    for low, high in pairwise(got.values()):
        assert (low.values <= high.values).all()


def test_measures_that_a_task_cannot_have() -> None:
    with pytest.raises(InputError, match="mkqa/xx has answer strings, no judgements"):
        measure(asked(), {}, ["nDCG@10"])
    with pytest.raises(InputError, match="t has no answer strings"):
        measure(task_of({"q": {"a": 1}}), {}, ["AnswerRecall@20"])


def test_means_by_group_and_over_tasks() -> None:
    values = Values("m", ("a", "b", "c"), np.array([1.0, 0.0, 0.5]))
    assert values.mean_by({"a": "de", "b": "de"}) == {"": 0.5, "de": 0.5}
    means = average([("de", 1.0), ("de", 0.0), ("fr", 0.8), ("xx", float("nan"))])
    assert means.tasks == pytest.approx(0.6)
    assert means.by_language == {"de": 0.5, "fr": 0.8}
    assert means.languages == pytest.approx(0.65)
    assert math.isnan(average([]).tasks)


def test_accuracy_of_pairs_in_both_directions() -> None:
    pairs = Bitext("x", "bitext", "de", ("eins", "zwei", "zwo", "drei"), ("1", "2", "2", "3"))
    got = bitext_accuracy(pairs, np.array([0, 1, 1, 1]), np.array([0, 1, 1, 3]))
    # "2" stands there twice: either is right; "zwo" is not "zwei"
    assert got[ACCURACY[0]].values.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert got[ACCURACY[1]].values.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert got[ACCURACY[0]].mean == 0.75
