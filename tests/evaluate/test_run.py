"""Columns are what the scores say, whatever is kept, cut into blocks or encoded again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet import bm25
from tercet.config import HEADS, Head, Weights
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.evaluate.runner import EvaluateConfig, Evaluator
from tercet.evaluate.tasks import PAPER, Bitext, Corpus, Protocol, Task
from tercet.evaluate.trec import Run
from tercet.evaluate.vectors import Digest, EncodeOptions, VectorCache
from tercet.scores import dense_scores, lexical_scores, maxsim_scores, weighted_sum
from tests.conftest import WORDS

PASSAGES, QUERIES = 60, 12


def texts(count: int, seed: int, length: int) -> list[str]:
    draw = np.random.default_rng(seed)
    words = list(dict.fromkeys(WORDS))
    return [" ".join(draw.choice(words, size=draw.integers(3, length))) for _ in range(count)]


@pytest.fixture(scope="module")
def task() -> Task:
    passages = texts(PASSAGES, 0, 30)
    ids = [f"p{number:02d}" for number in range(PASSAGES)]

    def read() -> Iterator[tuple[str, str]]:
        yield from zip(ids, passages, strict=True)

    asked = {f"q{number}": text for number, text in enumerate(texts(QUERIES, 1, 6))}
    draw = np.random.default_rng(2)
    judged = {q: {ids[p]: int(1 + p % 2) for p in draw.choice(PASSAGES, 3)} for q in asked}
    protocol = Protocol(rerank=PASSAGES, union=PASSAGES)
    return Task("own/x", "own", "en", Corpus("x", read), asked, judged, protocol=protocol)


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")


def evaluator(encoder: Encoder, folder: Path, config: EvaluateConfig | None = None) -> Evaluator:
    return Evaluator(encoder, config or EvaluateConfig(), VectorCache(folder, encoder, block=17))


def wanted(encoder: Encoder, task: Task, weights: Weights) -> dict[str, np.ndarray]:
    """All scores of all pairs, by column."""
    passages = encoder.encode([text for _, text in task.corpus.read()])
    queries = encoder.encode(list(task.queries.values()), role="query", max_length=512)
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    parts = {head: functions[head](queries, passages) for head in HEADS}
    two: dict[Head, np.ndarray] = {head: parts[head] for head in ("dense", "sparse")}
    out: dict[str, np.ndarray] = dict(parts.items())
    return out | {"dense+sparse": weighted_sum(two, weights), "all": weighted_sum(parts, weights)}


def check(runs: dict[str, Run], scores: dict[str, np.ndarray], ids: list[str]) -> None:
    for name, expected in scores.items():
        for row in range(QUERIES):
            found, values = runs[name].of_query(row)
            at = [ids.index(one) for one in found]
            np.testing.assert_allclose(values, expected[row, at], atol=2e-5, err_msg=name)
            best = np.sort(expected[row])[::-1][: len(found)]
            if name == "sparse":  # no shared token, no hit
                best = best[best > 0]
                assert len(found) == len(best)
            np.testing.assert_allclose(values, best, atol=2e-5, err_msg=name)


def test_columns_rank_all_passages_where_the_depths_allow(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    result, runs = evaluator(encoder, tmp_path).retrieval(task)
    ids = [identifier for identifier, _ in task.corpus.read()]
    check(runs, wanted(encoder, task, encoder.weights), ids)
    assert len(runs["multi"].of_query(0)[0]) == PASSAGES
    assert set(result.values) == {*runs} == {*wanted(encoder, task, encoder.weights)} | {
        "BM25", "BM25 pieces"}  # fmt: skip
    assert result.weights["from"] == "the model"
    assert result.weights["three"] == (1.0, 0.5, 0.8)
    assert 0 < result.values["all"]["nDCG@10"].mean < 1


def test_multi_ranks_the_candidates_of_dense_alone(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    few = EvaluateConfig(rerank=5, union=7, bm25=False)
    _, runs = evaluator(encoder, tmp_path, few).retrieval(task)
    for row in range(QUERIES):
        best = set(runs["dense"].of_query(row)[0][:5])
        assert set(runs["multi"].of_query(row)[0]) == best == set(runs["all"].of_query(row)[0])
        both = set(runs["dense"].of_query(row)[0][:7]) | set(runs["sparse"].of_query(row)[0][:7])
        assert set(runs["dense+sparse"].of_query(row)[0]) == both
    assert "BM25" not in runs


def test_multi_vectors_that_are_not_kept_score_the_same(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    kept, ranks = evaluator(encoder, tmp_path / "a", EvaluateConfig(rerank=20)).retrieval(task)
    config = EvaluateConfig(rerank=20, multi_gb=0)
    streamed, others = evaluator(encoder, tmp_path / "b", config).retrieval(task)
    assert streamed.notes
    assert not kept.notes
    for name in ("multi", "all"):
        for row in range(QUERIES):
            (ids, scores), (again, others_scores) = (r[name].of_query(row) for r in (ranks, others))
            assert ids == again
            np.testing.assert_allclose(scores, others_scores, atol=1e-5)
    assert list((tmp_path / "b" / "maxsim").glob("*.npy"))


@pytest.mark.parametrize("multi_gb", [0.0, 8.0])
def test_a_second_run_encodes_nothing(
    encoder: Encoder,
    task: Task,
    tmp_path: Path,
    multi_gb: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = EvaluateConfig(multi_gb=multi_gb)
    first, runs = evaluator(encoder, tmp_path, config).retrieval(task)
    monkeypatch.setattr(Encoder, "encode", lambda *a, **k: pytest.fail("encoded again"))
    second, again = evaluator(encoder, tmp_path, config).retrieval(task)
    assert [r.of_query(3) for r in runs.values()] == [r.of_query(3) for r in again.values()]
    assert first.as_dict()["figures"] == second.as_dict()["figures"]


def test_a_query_s_own_prompt_is_put_before_it(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    first = next(iter(task.queries))
    told = replace(task, prompts={first: "the city law "})  # "the " is the model's prefix
    written = replace(
        task, queries={q: ("city law " if q == first else "") + t for q, t in task.queries.items()}
    )
    config = EvaluateConfig(bm25=False)
    (_, plain), (_, found), (_, expected) = (
        evaluator(encoder, tmp_path, config).retrieval(one) for one in (task, told, written)
    )
    for name, run in found.items():
        assert run.of_query(0)[0] == expected[name].of_query(0)[0]
        np.testing.assert_array_equal(run.of_query(0)[1], expected[name].of_query(0)[1])
        np.testing.assert_array_equal(run.of_query(1)[1], plain[name].of_query(1)[1])
    assert list(found["dense"].of_query(0)[1]) != list(plain["dense"].of_query(0)[1])


def test_a_corpus_that_bm25_has_no_memory_for_is_refused_before_it_is_encoded(
    encoder: Encoder, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bm25, "_free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"own/x: BM25 of about .* --no-bm25"):
        evaluator(encoder, tmp_path).retrieval(task)
    assert not list(tmp_path.iterdir())
    evaluator(encoder, tmp_path, EvaluateConfig(bm25=False)).retrieval(task)


def test_a_killed_run_goes_on_and_a_damaged_block_is_made_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, settings = texts(50, 3, 20), EncodeOptions(("dense",))
    cache, digest = VectorCache(tmp_path, encoder, block=17), Digest(passages)
    asked: list[int] = []
    fatal = {passages[20]}
    real: Callable[..., object] = Encoder.encode

    def dying(self: Encoder, some: list[str], **options: object) -> object:
        if fatal & set(some):
            raise KeyboardInterrupt
        asked.append(len(some))
        return real(self, some, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "encode", dying)
        cache.encode(passages, digest, settings, lambda more: None)
    assert asked == [17]
    fatal.clear()
    monkeypatch.setattr(Encoder, "encode", dying)
    one = np.array(cache.encode(passages, digest, settings, lambda more: None).dense)
    assert asked == [17, 17, 16]
    assert not list(tmp_path.rglob("blocks/*"))
    next(tmp_path.rglob("dense.npy")).write_bytes(b"no array")
    again = cache.encode(passages, digest, settings, lambda more: None)
    assert len(asked) == 6
    np.testing.assert_array_equal(one, again.dense)
    assert not list(tmp_path.rglob(".*"))


def test_a_second_process_may_be_quicker(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages, settings = texts(9, 3, 20), EncodeOptions(("dense",))
    digest, real = Digest(passages), VectorCache.once
    other = VectorCache(tmp_path, encoder)

    def once(self: VectorCache, *arguments: Any) -> Any:
        monkeypatch.setattr(VectorCache, "once", real)
        other.encode(passages, digest, settings, lambda more: None)
        return real(self, *arguments)

    monkeypatch.setattr(VectorCache, "once", once)
    found = VectorCache(tmp_path, encoder).encode(passages, digest, settings, lambda more: None)
    assert len(found) == 9


def test_what_decides_vectors_decides_the_cache(encoder: Encoder, tmp_path: Path) -> None:
    cache, settings = VectorCache(tmp_path, encoder), EncodeOptions(("dense",))
    changes = ({"max_length": 9}, {"role": "query"}, {"mcls": 4}, {"heads": ("sparse",)})
    both, others = Digest(["a", "b"]), (["a"], ["ab"], ["b", "a"], ["a", "b", ""])
    keys = {cache.key(both, replace(settings, **change)) for change in ({}, *changes)}
    keys |= {cache.key(Digest(some), settings) for some in others}
    assert len(keys) == 1 + len(changes) + 4


def test_a_shorter_length_cuts_and_bm25_is_cut_with_it(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    result, runs = evaluator(encoder, tmp_path, EvaluateConfig(max_length=12)).retrieval(task)
    assert result.max_length == 12
    assert 0 < result.cut["passages"] < 1
    assert {"BM25 cut", "BM25 pieces cut"} <= set(runs)
    assert runs["BM25 cut"].of_query(1) != runs["BM25"].of_query(1)
    with_mcls = EvaluateConfig(max_length=12, mcls=3)
    _, others = evaluator(encoder, tmp_path, with_mcls).retrieval(task)
    assert others["dense"].of_query(0) != runs["dense"].of_query(0)


def test_weights_are_the_benchmark_s_unless_others_are_given(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    paper = replace(task, protocol=replace(PAPER, rerank=PASSAGES, union=PASSAGES))
    result, runs = evaluator(encoder, tmp_path).retrieval(paper)
    assert result.weights["from"] == "the paper, for this kind of text"
    ids = [identifier for identifier, _ in task.corpus.read()]
    check(runs, wanted(encoder, task, Weights(1.0, 0.3, 1.0)), ids)
    given = EvaluateConfig(weights=Weights(0.2, 2.0, 0.1))
    result, runs = evaluator(encoder, tmp_path, given).retrieval(paper)
    assert (result.weights["from"], result.weights["two"]) == ("given", (0.2, 2.0, 0.0))
    check(runs, wanted(encoder, task, Weights(0.2, 2.0, 0.1)), ids)


def test_tuned_weights_are_no_worse_on_dev_and_measured_the_same(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    tuned = evaluator(encoder, tmp_path).tune([task])
    assert tuned.after >= tuned.before
    assert tuned.weights != encoder.weights
    for weights, value in ((encoder.weights, tuned.before), (tuned.weights, tuned.after)):
        config = EvaluateConfig(weights=weights, bm25=False)
        result, _ = evaluator(encoder, tmp_path, config).retrieval(task)
        assert result.values["all"]["nDCG@10"].mean == pytest.approx(value, abs=1e-6)
    with pytest.raises(InputError, match="has no judgements"):
        evaluator(encoder, tmp_path).tune([replace(task, qrels={})])


def test_suites_count_alike_whatever_the_number_of_their_tasks(
    encoder: Encoder, task: Task, tmp_path: Path
) -> None:
    other = replace(task, name="other", qrels={query: {"p0": 1} for query in task.queries})
    run = evaluator(encoder, tmp_path)
    alone = [run.tune([one]).before for one in (task, other)]
    again = replace(task, name="again")
    found = run.tune([task, again], [other])
    assert found.before == pytest.approx(sum(alone) / 2)
    assert found.before != pytest.approx((2 * alone[0] + alone[1]) / 3)
    assert found.tasks == (task.name, "again", "other")


def test_translations_find_each_other(encoder: Encoder, tmp_path: Path) -> None:
    left = texts(30, 5, 12)
    same = Bitext("t/x", "t", "x", tuple(left), tuple(left))
    found = evaluator(encoder, tmp_path).bitext(same).values
    assert set(found) == {*HEADS, "dense+sparse", "all"}
    # a lexical score has no norm: a longer text may hold more of a short one than it holds itself
    sure = [found[name].values() for name in ("dense", "multi")]
    assert {values.mean for column in sure for values in column} == {1.0}
    mixed = replace(same, right=tuple(left[1:] + left[:1]))
    figures = evaluator(encoder, tmp_path).bitext(mixed).values
    assert all(v.mean == 0.0 for name in ("dense", "multi") for v in figures[name].values())


def test_some_heads_alone(encoder: Encoder, task: Task, tmp_path: Path) -> None:
    cases: tuple[tuple[tuple[Head, ...], set[str]], ...] = (
        (("dense",), {"dense"}),
        (("sparse", "multi"), {"sparse", "multi", "all"}),
        (("dense", "multi"), {"dense", "multi", "all"}),
    )
    for heads, names in cases:
        config = EvaluateConfig(heads=heads, bm25=False)
        result, _ = evaluator(encoder, tmp_path, config).retrieval(task)
        assert set(result.values) == names
    with pytest.raises(InputError, match="multi alone finds no candidates"):
        config = EvaluateConfig(heads=("multi",), bm25=False)
        evaluator(encoder, tmp_path, config).retrieval(task)


def test_a_model_of_nan_is_refused(
    encoder: Encoder, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., object] = Encoder.encode

    def broken(self: Encoder, some: list[str], **options: object) -> object:
        found = real(self, some, **options)
        return replace(found, dense=np.full_like(found.dense, np.nan))  # type: ignore[type-var, attr-defined]

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(ModelError, match="not finite"):
        evaluator(encoder, tmp_path).retrieval(task)
    assert not list((tmp_path / "vectors").glob("[!.]*"))
