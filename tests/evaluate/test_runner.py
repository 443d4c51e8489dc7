"""Columns are what the scores say, however texts are cut and kept; whole evaluations are told."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet import bm25
from tercet.collection import Collection
from tercet.config import HEADS, Head, Weights
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.results import text
from tercet.evaluate.runner import EvaluateConfig, Evaluator, evaluate
from tercet.evaluate.runner import EvaluatePlan as Plan
from tercet.evaluate.systems import BlockSizes, Parts
from tercet.evaluate.tasks import PAPER, Bitext, Task
from tercet.evaluate.trec import Run, read_qrels, read_run
from tercet.evaluate.tuning import Candidates, least_score
from tercet.evaluate.vectors import Passages, VectorCache, chunking_of, cut_corpus
from tercet.records import Document
from tercet.scores import Scores, dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tests.evaluate.conftest import CHUNK, DOCUMENTS, QUERIES, documents, task_of, texts
from tests.evaluate.test_loaders import NQ, beir, miracl_files, mkqa_zip, packed, written

MODEL = ["dense", "sparse", "multi", "dense+sparse", "all"]
COLUMNS = ["BM25", "BM25 pieces", *MODEL]
either = pytest.mark.parametrize("chunk", [0, CHUNK], ids=["whole", "chunks"])


def evaluator(encoder: Encoder, folder: Path, **settings: Any) -> Evaluator:
    config = EvaluateConfig(**{"bm25": False, **settings})
    few = BlockSizes(queries=4, chunk_pairs=50)
    return Evaluator(VectorCache(folder, encoder, block=17), config, sizes=few)


def check(
    runs: dict[str, Run], encoder: Encoder, task: Task, folder: Path, chunk: int, weights: Weights
) -> None:
    """Every column has all documents, by the best score of any chunk of theirs."""
    passages = Passages.read(task.corpus)
    if chunk:
        cut = cut_corpus(passages, encoder, chunking_of(chunk), folder, lambda more: None)
        passages = cut[0]
        assert len(passages.ids) > 4 * DOCUMENTS
    vectors = encoder.encode([text for _, text in passages.corpus.read()])
    queries = encoder.encode(list(task.queries.values()), role="query", max_length=512)
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    parts: dict[Head, Scores] = {head: functions[head](queries, vectors) for head in HEADS}
    scores: dict[str, Scores] = dict(parts.items())
    two: dict[Head, Scores] = {"dense": parts["dense"], "sparse": parts["sparse"]}
    scores |= {"dense+sparse": weighted_sum(two, weights), "all": weighted_sum(parts, weights)}
    owners = np.array(passages.ids)
    assert set(runs) - {"BM25", "BM25 pieces"} == set(scores)
    for name, of_chunks in scores.items():
        for row in range(QUERIES):
            best = {key: of_chunks[row, owners == key].max() for key in set(passages.ids)}
            ids, values = runs[name].of_query(row)
            np.testing.assert_allclose(values, [best.pop(key) for key in ids], atol=2e-5)
            # no shared token, no hit
            assert not best or (name == "sparse" and max(best.values()) == 0), name


@either
@pytest.mark.parametrize("multi_gb", [8.0, 0.0])
def test_columns_rank_all_documents_where_the_depths_allow(
    encoder: Encoder, tmp_path: Path, chunk: int, multi_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(documents())
    settings = {"chunk": chunk, "multi_gb": multi_gb, "bm25": True}
    result, runs = evaluator(encoder, tmp_path, **settings).retrieval(task)
    check(runs, encoder, task, tmp_path, chunk, encoder.weights)
    assert list(result.values) == [
        *MODEL[:2],
        "dense+sparse",
        "multi",
        "all",
        "BM25",
        "BM25 pieces",
    ]
    assert (result.weights["from"], result.weights["three"]) == ("the model", (1.0, 0.5, 0.8))
    assert (result.passages, result.chunk, bool(result.chunks)) == (DOCUMENTS, chunk, bool(chunk))
    assert bool(result.notes) == (multi_gb == 0) == bool(list(tmp_path.rglob("maxsim/*.npy")))
    assert result.cut["passages"] == 0
    assert 0 < result.values["all"]["nDCG@10"].mean < 1
    # the same again, from what is kept
    monkeypatch.setattr(Encoder, "encode", lambda *a, **k: pytest.fail("encoded again"))
    again = evaluator(encoder, tmp_path, **settings).retrieval(task)
    assert again[0].as_dict()["figures"] == result.as_dict()["figures"]
    assert again[1]["all"].of_query(3) == runs["all"].of_query(3)


@either
def test_candidates_count_in_documents(encoder: Encoder, tmp_path: Path, chunk: int) -> None:
    few = evaluator(encoder, tmp_path, rerank=5, union=7, chunk=chunk)
    _, runs = few.retrieval(task_of(documents()))
    for row in range(QUERIES):
        ranked = {name: run.of_query(row)[0] for name, run in runs.items()}
        assert len(ranked["dense"]) == len(set(ranked["dense"])) == DOCUMENTS
        assert set(ranked["multi"]) == set(ranked["all"]) == set(ranked["dense"][:5])
        assert set(ranked["dense+sparse"]) == {*ranked["dense"][:7], *ranked["sparse"][:7]}


def test_chunks_score_as_an_index_of_the_same_documents(encoder: Encoder, tmp_path: Path) -> None:
    rows = documents(4)
    task = task_of(rows)
    _, runs = evaluator(encoder, tmp_path, chunk=CHUNK).retrieval(task)
    with Collection.open(tmp_path / "index", encoder, backend="exact", chunk=CHUNK) as collection:
        collection.add([Document(key, text, title=title) for key, title, text in rows])
        hits = collection.search(list(task.queries.values()), k=DOCUMENTS, candidates=None)
    for row, of_query in enumerate(hits):
        scores = dict(zip(*runs["all"].of_query(row), strict=True))
        assert {hit.id for hit in of_query} == set(scores)
        expected = [scores[hit.id] for hit in of_query]
        np.testing.assert_allclose([hit.score for hit in of_query], expected, rtol=2e-3)  # float16


def test_a_query_s_own_prompt_is_put_before_it(encoder: Encoder, tmp_path: Path) -> None:
    task = task_of(documents())
    first, asked = next(iter(task.queries)), list(task.queries.values())
    prompted = replace(task, prompts={first: "the city law "})  # "the " is the model's prefix
    written_out = task_of(documents(), [f"city law {asked[0]}", *asked[1:]])
    _, runs = evaluator(encoder, tmp_path).retrieval(prompted)
    _, expected = evaluator(encoder, tmp_path).retrieval(written_out)
    _, plain = evaluator(encoder, tmp_path).retrieval(task)
    for name, run in runs.items():
        assert run.of_query(0) == expected[name].of_query(0) != plain[name].of_query(0)
        assert run.of_query(1) == plain[name].of_query(1)


def test_a_shorter_length_cuts_and_bm25_is_cut_with_it(encoder: Encoder, tmp_path: Path) -> None:
    task = task_of([(f"p{n}", "", t) for n, t in enumerate(texts(40, 0, 30))])
    result, runs = evaluator(encoder, tmp_path, max_length=12, bm25=True).retrieval(task)
    assert result.max_length == 12
    assert 0 < result.cut["passages"] < 1
    assert {"BM25 cut", "BM25 pieces cut"} <= set(runs)
    assert runs["BM25 cut"].of_query(1) != runs["BM25"].of_query(1)
    _, others = evaluator(encoder, tmp_path, max_length=12, mcls=3).retrieval(task)
    assert others["dense"].of_query(0) != runs["dense"].of_query(0)


def test_weights_are_the_benchmark_s_unless_others_are_given(
    encoder: Encoder, tmp_path: Path
) -> None:
    task = task_of(documents())
    paper = replace(task, protocol=replace(PAPER, rerank=DOCUMENTS, union=DOCUMENTS))
    result, runs = evaluator(encoder, tmp_path).retrieval(paper)
    assert result.weights["from"] == "the paper, for this kind of text"
    check(runs, encoder, task, tmp_path, 0, Weights(1.0, 0.3, 1.0))
    result, runs = evaluator(encoder, tmp_path, weights=Weights(0.2, 2.0, 0.1)).retrieval(paper)
    assert (result.weights["from"], result.weights["two"]) == ("given", (0.2, 2.0, 0.0))
    check(runs, encoder, task, tmp_path, 0, Weights(0.2, 2.0, 0.1))


@either
def test_tuned_weights_are_no_worse_on_dev_and_measured_the_same(
    encoder: Encoder, tmp_path: Path, chunk: int
) -> None:
    task = task_of(documents())
    run = evaluator(encoder, tmp_path, chunk=chunk)
    tuned = run.tune([task])
    assert tuned.after > tuned.before
    for weights, value in ((encoder.weights, tuned.before), (tuned.weights, tuned.after)):
        result, _ = evaluator(encoder, tmp_path, weights=weights, chunk=chunk).retrieval(task)
        assert result.values["all"]["nDCG@10"].mean == pytest.approx(value, abs=1e-6)
    with pytest.raises(InputError, match="has no judgements"):
        run.tune([replace(task, qrels={})])
    # suites count alike, whatever the number of their tasks
    other = replace(task, name="other", qrels={query: {"d00": 1} for query in task.queries})
    again, alone = replace(task, name="again"), run.tune([other]).before
    both = run.tune([task, again], [other])
    assert both.before == pytest.approx((tuned.before + alone) / 2)
    assert both.tasks == (task.name, "again", "other")
    assert (both.min_score, both.refused) == (None, None)


def test_the_least_score_is_passed_by_99_of_100_answers() -> None:
    queries = 250
    draw = np.random.default_rng(0)
    rows = np.repeat(np.arange(queries), 3)
    gains = np.tile([1.0, 2.0, 0.0], queries)  # two answers, one that is none
    dense = draw.uniform(0.5, 1.0, len(rows)).astype(np.float32)
    parts = Parts(rows, np.arange(len(rows)), {"dense": dense, "sparse": 0 * dense + 2})
    task = Candidates(queries, parts, gains, np.ones(queries))
    least, refused = least_score([task, task], Weights(1, 0.5, 0))
    best = 1 + dense.reshape(queries, 3)[:, :2].max(axis=1)
    assert 0.007 < (best < least).mean() <= 0.01
    others = 1 + dense.reshape(queries, 3)[:, 2]
    assert refused == pytest.approx((others < least).mean())
    assert 0.0 < refused < 1.0
    with pytest.raises(InputError, match="no answer is among the candidates"):
        least_score([replace(task, gains=0 * gains)], Weights())


def test_translations_are_matched_by_every_system(encoder: Encoder, tmp_path: Path) -> None:
    left = texts(30, 5, 12)
    same = Bitext("t/x", "t", "x", tuple(left), tuple(left))
    values = evaluator(encoder, tmp_path).bitext(same).values
    assert set(values) == set(MODEL)
    # a lexical score has no norm: a longer text may hold more of a short one than it holds itself
    assert all(v.mean == 1.0 for name in ("dense", "multi") for v in values[name].values())
    mixed = replace(same, right=tuple(left[1:] + left[:1]))
    values = evaluator(encoder, tmp_path).bitext(mixed).values
    assert all(v.mean == 0.0 for name in ("dense", "multi") for v in values[name].values())


@pytest.mark.parametrize(
    ("heads", "systems"),
    [
        (("dense",), {"dense"}),
        (("sparse", "multi"), {"sparse", "multi", "all"}),
        (("dense", "multi"), {"dense", "multi", "all"}),
    ],
)
def test_some_heads_alone(
    encoder: Encoder, tmp_path: Path, heads: tuple[Head, ...], systems: set[str]
) -> None:
    result, _ = evaluator(encoder, tmp_path, heads=heads).retrieval(task_of(documents()))
    assert set(result.values) == systems


def test_what_cannot_be_measured_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(documents())
    with pytest.raises(InputError):
        evaluator(encoder, tmp_path, heads=("multi",)).retrieval(task)
    with pytest.raises(InputError, match="nothing to weigh"):
        evaluator(encoder, tmp_path, heads=("dense",)).tune([task])
    with pytest.raises(InputError):
        evaluator(encoder, tmp_path).retrieval(replace(task, queries={}))
    with pytest.raises(InputError, match="chunk is 15 tokens: give 0"):
        EvaluateConfig(chunk=15)
    with pytest.raises(InputError):
        EvaluateConfig(chunk=64, max_length=128)
    monkeypatch.setattr(bm25, "_free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"own/long: BM25 of about .* --no-bm25"):
        evaluator(encoder, tmp_path, bm25=True).retrieval(task)
    assert not list(tmp_path.iterdir())


# Whole evaluations


def random_beir(folder: Path, seed: int, *, words: int = 20) -> Path:
    """A BEIR folder of 30 random passages and 8 queries, each the beginning of one."""
    passages = texts(30, seed, words)
    places = np.random.default_rng(seed).choice(30, 8, replace=False).tolist()
    beginnings = [" ".join(passages[place].split()[:3]) for place in places]
    corpus = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(passages)]
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(beginnings)]
    qrels = "".join(f"q{n}\td{place}\t1\n" for n, place in enumerate(places))
    return beir(
        folder, corpus=corpus, queries=queries, qrels=f"query-id\tcorpus-id\tscore\n{qrels}"
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    random_beir(folder / "one-en", 1)
    random_beir(folder / "two-de", 2)
    return folder


def test_an_evaluation_and_all_it_writes(encoder: Encoder, sets: Path, tmp_path: Path) -> None:
    told: list[str] = []
    to = tmp_path / "to"
    plan = Plan((f"beir:{sets}",), to=to, cache=tmp_path / "cache")
    made = evaluate(encoder, plan, told=lambda result: told.append(result.name))
    assert told == ["beir/one-en", "beir/two-de"]
    assert json.loads((to / "report.json").read_text()) == json.loads(json.dumps(made))
    assert "one-en" in (to / "report.html").read_text()
    assert made["columns"] == COLUMNS
    shown = text(made)
    for column in COLUMNS:
        assert f"{100 * made['tasks'][0]['figures'][column]['nDCG@10']:.1f}" in shown
        assert (to / f"runs/{column.replace(' ', '-')}/beir-one-en.trec.gz").exists()
    assert len(read_qrels(to / "qrels/beir-two-de.qrels")) == 8
    average = next(a for a in made["averages"] if a["measure"] == "nDCG@10")
    each = [task["figures"]["all"]["nDCG@10"] for task in made["tasks"]]
    assert average["tasks"]["all"] == pytest.approx(np.mean(each), abs=1e-5)
    assert [one["b"] for one in made["comparisons"]] == COLUMNS[1:]

    # a run that was written is an outside run like any other, without a model
    alone = evaluate(None, Plan((f"beir:{sets}",), outside={"theirs": to / "runs/all"}))
    assert alone["columns"] == ["BM25", "theirs"]
    assert alone["model"] is None
    for task, other in zip(made["tasks"], alone["tasks"], strict=True):
        assert other["figures"]["theirs"] == task["figures"]["all"]
        assert other["figures"]["BM25"] == task["figures"]["BM25"]


@pytest.mark.parametrize(
    ("name", "text", "ignored", "told"),
    [
        ("arguana", "", False, "4 queries are passages too: no hits of themselves"),
        ("set", "", True, "4 queries are passages too: no hits of themselves"),
        ("set", "", False, "4 queries are passages too and find themselves: --ignore-identical"),
        ("set", "other words", False, None),  # the same id by chance
    ],
)
def test_queries_that_are_passages(
    encoder: Encoder, tmp_path: Path, name: str, text: str, ignored: bool, told: str | None
) -> None:
    passages, asked = texts(8, 1, 20), texts(4, 2, 20)
    corpus = [{"_id": f"d{n}", "text": of} for n, of in enumerate(passages)]
    corpus += [{"_id": f"q{n}", "title": "T", "text": text or of} for n, of in enumerate(asked)]
    queries = [{"_id": f"q{n}", "text": of} for n, of in enumerate(asked)]
    qrels = "".join(f"q{n}\td{n}\t1\n" for n in range(4))
    folder = beir(tmp_path / name, corpus=corpus, queries=queries, qrels=qrels)
    written(tmp_path, {"x.trec": b"q0 Q0 q0 1 9 x\nq0 Q0 d0 2 8 x\n"})
    plan = Plan((f"beir:{folder}",), to=tmp_path / "to", outside={"x": tmp_path / "x.trec"})
    config = EvaluateConfig(measures=("RR@10", "nDCG@10"), ignore_identical_ids=ignored)
    made = evaluate(encoder, replace(plan, cache=tmp_path / "cache"), config)
    assert [said.startswith(told or "-") for said in made["tasks"][0]["notes"]] == (
        [True] if told else []
    )
    left_out = told is not None and "no hits" in told
    assert made["tasks"][0]["figures"]["x"]["RR@10"] == (0.25 if left_out else 0.125)
    run = read_run(tmp_path / f"to/runs/all/beir-{name}.trec.gz")
    assert [f"q{n}" in run.of_query(n)[0] for n in range(4)] == [not left_out] * 4
    tuned = replace(plan, suites=(f"beir:{random_beir(tmp_path / 'o', 5)}",), tune=plan.suites)
    before = evaluate(encoder, replace(tuned, outside=None, to=None, cache=tmp_path), config)
    value = made["tasks"][0]["figures"]["all"]["nDCG@10"]
    assert before["settings"]["tuned"]["before"] == pytest.approx(value, abs=1e-6)


def test_published_benchmarks_from_copies(encoder: Encoder, tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    copy = written(tmp_path / "copy", {**judged, **docs, "nq/corpus.jsonl.gz": packed(NQ)})
    mkqa_zip(copy)
    suites = ("miracl:sw", "mkqa:de,ja")
    made = evaluate(encoder, Plan(suites, local=copy, cache=tmp_path / "cache"))
    assert [task["name"] for task in made["tasks"]] == ["miracl/sw", "mkqa/de", "mkqa/ja"]
    first, second, _ = made["tasks"]
    assert set(first["figures"]["all"]) == {"nDCG@10", "Recall@100"}
    assert set(second["figures"]["all"]) == {"AnswerRecall@20", "AnswerRecall@100"}
    # both of two passages are ranked, and one has an answer to one of the two questions
    assert second["figures"]["dense"]["AnswerRecall@20"] == 0.5
    for task in made["tasks"]:
        weights = {"two": (1.0, 0.3, 0.0), "three": (1.0, 0.3, 1.0)}
        assert task["weights"] == weights | {"from": "the paper, for this kind of text"}
    assert first["notes"] == ["the corpus lacks relevant passages of 1 queries"]
    assert {a["suite"] for a in made["averages"]} == {"miracl", "mkqa"}


def test_lengths_and_chunks_stand_side_by_side(encoder: Encoder, tmp_path: Path) -> None:
    to, long = tmp_path / "to", random_beir(tmp_path / "long-en", 3, words=120)
    plan = Plan((f"beir:{long}",), lengths=(9, 510, 600), chunks=(24, 0), to=to, cache=tmp_path)
    told: list[int] = []
    made = evaluate(encoder, plan, told=lambda result: told.append(result.chunk))
    assert told == [0, 0, 24]
    short, whole, best = made["tasks"]
    assert [task["max_length"] for task in made["tasks"]] == [9, 510, 24]
    assert [task["cut"]["passages"] > 0 for task in made["tasks"]] == [True, False, False]
    assert (best["chunk"], best["passages"], best["protocol"]["overlap"]) == (24, 30, 3)
    assert best["chunks"] > 60
    assert (made["settings"]["max_length"], made["settings"]["chunk"]) == ([9, 510], [0, 24])
    assert {c["chunk"] for c in made["comparisons"]} == {0, 24}
    assert short["figures"]["BM25"] == whole["figures"]["BM25"] == best["figures"]["BM25"]
    assert short["figures"]["dense"] != whole["figures"]["dense"] != best["figures"]["dense"]
    for shown in (text(made), (to / "report.html").read_text()):
        assert "whole, to 510 tokens" in shown
        assert "best passage of 24 tokens" in shown
    for column in MODEL:
        labels = (".9", ".510", ".chunk-24")
        assert all((to / f"runs/{column}{of}/beir-long-en.trec.gz").exists() for of in labels)
    run = read_run(to / "runs/dense.chunk-24/beir-long-en.trec.gz")
    assert set(run.of_query(0)[0]) == {f"d{number}" for number in range(30)}
    alone = evaluate(encoder, Plan(plan.suites, chunks=(24,), cache=plan.cache))
    assert [task["figures"] for task in alone["tasks"]] == [best["figures"]]
    assert (alone["settings"]["chunk"], alone["settings"]["max_length"]) == (24, None)


def test_what_cannot_be_evaluated_is_said(encoder: Encoder, sets: Path, tmp_path: Path) -> None:
    one = (f"beir:{sets / 'one-en'}",)
    shutil.copytree(sets / "one-en", tmp_path / "one-en")
    files = {"pairs.jsonl": b'{"src": "the river", "en": "water"}\n', "empty/x": b"",
             "good.trec": b"q0 Q0 d1 1 2.5 x\n", "bad.trec": b"q0 Q0 d1 1 nan x\n"}  # fmt: skip
    written(tmp_path, files)
    bad, both = {"x": tmp_path / "bad.trec"}, (f"beir:{sets}",)
    cases: Sequence[tuple[Plan, str]] = [
        (Plan(("nothing",)), "no suite"),
        (Plan(one, tune=(f"beir:{tmp_path / 'one-en'}",)), "tune on a dev split"),
        (Plan(one, against="nobody"), "no column 'nobody'"),
        (Plan(one * 2), "two tasks are named beir/one-en"),
        (Plan(one, tune=one, lengths=(8, 16)), "at one length"),
        (Plan(one, tune=one, chunks=(0, 16)), "at one length"),
        (Plan(one, lengths=(8, 16), chunks=(16,)), "a maximum length is of whole passages"),
        (Plan(one, chunks=(0, 5)), "chunk is 5 tokens"),
        (Plan(one, chunks=(0, 511)), "reads 510"),
        (Plan((f"bitext:{tmp_path / 'pairs.jsonl'}",), chunks=(16,)), "not cut into chunks"),
        (Plan(one, outside={"dense": tmp_path / "good.trec"}), "run cannot be named .dense"),
        (Plan(one, outside={"x": tmp_path / "empty"}), "holds no run"),
        (Plan(one, outside=bad), r"bad\.trec:1"),
        (Plan(both, outside=bad), "one run, but there are"),
    ]
    for plan, said in cases:
        with pytest.raises(InputError, match=said):
            evaluate(encoder, replace(plan, cache=tmp_path / "cache"))
