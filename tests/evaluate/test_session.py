"""Whole evaluations: what is written, compared, tuned and kept, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tercet.checkpoint import read_checkpoint
from tercet.cli.evaluate import evaluate as command
from tercet.collection import Collection
from tercet.config import Weights
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.evaluate.results import text
from tercet.evaluate.runner import EvaluateConfig, evaluate
from tercet.evaluate.runner import EvaluatePlan as Plan
from tercet.evaluate.trec import read_qrels, read_run
from tercet.evaluate.tuning import keep_weights
from tercet.records import Document
from tests.evaluate.test_loaders import NQ, lines, miracl_files, mkqa_rows, packed, written
from tests.evaluate.test_run import texts


def beir(folder: Path, seed: int, *, queries: int = 8, passages: int = 30, words: int = 20) -> Path:
    """A BEIR folder of random words; each query is part of its passage."""
    (folder / "qrels").mkdir(parents=True)
    corpus = texts(passages, seed, words)
    draw = np.random.default_rng(seed)
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"_id": f"d{number}", "title": "", "text": passage}) + "\n"
            for number, passage in enumerate(corpus)
        )
    judged = ["query-id\tcorpus-id\tscore"]
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        for number, place in enumerate(draw.choice(passages, queries, replace=False).tolist()):
            asked = " ".join(corpus[place].split()[:3])
            file.write(json.dumps({"_id": f"q{number}", "text": asked}) + "\n")
            judged.append(f"q{number}\td{place}\t1")
    (folder / "qrels" / "test.tsv").write_text("\n".join(judged) + "\n")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    beir(folder / "one-en", 1)
    beir(folder / "two-de", 2)
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of passages of several chunks."""
    return beir(tmp_path_factory.mktemp("long") / "long-en", 3, words=120)


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")


def test_an_evaluation_and_all_it_writes(encoder: Encoder, sets: Path, tmp_path: Path) -> None:
    told: list[str] = []
    wanted = Plan((f"beir:{sets}",), to=tmp_path / "to", cache=tmp_path / "cache")
    made = evaluate(encoder, wanted, told=lambda result: told.append(result.name))
    assert told == ["beir/one-en", "beir/two-de"]
    assert json.loads((tmp_path / "to/report.json").read_text()) == json.loads(json.dumps(made))
    assert "one-en" in (tmp_path / "to/report.html").read_text()
    columns = ["BM25", "BM25 pieces", "dense", "sparse", "multi", "dense+sparse", "all"]
    assert made["columns"] == columns
    shown = text(made)
    for column in columns:
        assert f"{100 * made['tasks'][0]['figures'][column]['nDCG@10']:.1f}" in shown
        assert (tmp_path / f"to/runs/{column.replace(' ', '-')}/beir-one-en.trec.gz").exists()
    assert len(read_qrels(tmp_path / "to/qrels/beir-two-de.qrels")) == 8
    average = next(a for a in made["averages"] if a["measure"] == "nDCG@10")
    each = [task["figures"]["all"]["nDCG@10"] for task in made["tasks"]]
    assert average["tasks"]["all"] == pytest.approx(np.mean(each), abs=1e-5)
    assert {one["b"] for one in made["comparisons"]} == set(columns) - {"BM25"}
    # the same again, from what is kept
    again = evaluate(encoder, wanted)
    assert again["tasks"][0]["figures"] == made["tasks"][0]["figures"]

    # a run that was written is an outside run like any other, without a model
    outside = {"theirs": tmp_path / "to/runs/all"}
    alone = evaluate(None, Plan((f"beir:{sets}",), outside=outside))
    assert alone["columns"] == ["BM25", "theirs"]
    assert alone["model"] is None
    for task, other in zip(made["tasks"], alone["tasks"], strict=True):
        assert other["figures"]["theirs"] == task["figures"]["all"]
        assert other["figures"]["BM25"] == task["figures"]["BM25"]


def test_published_benchmarks_from_copies(encoder: Encoder, tmp_path: Path) -> None:
    judged, docs = miracl_files("sw")
    copy = written(tmp_path / "copy", {**judged, **docs})
    written(copy, {"nq/corpus.jsonl.gz": packed(NQ), "mkqa.jsonl": lines(mkqa_rows())})
    suites = ("miracl:sw", "mkqa:de,ja")
    made = evaluate(encoder, Plan(suites, local=copy, cache=tmp_path / "cache"))
    assert [task["name"] for task in made["tasks"]] == ["miracl/sw", "mkqa/de", "mkqa/ja"]
    first, second, _ = made["tasks"]
    assert set(first["figures"]["all"]) == {"nDCG@10", "Recall@100"}
    assert set(second["figures"]["all"]) == {"AnswerRecall@20", "AnswerRecall@100"}
    # of two passages both are found, and one has an answer to one of the two questions
    assert second["figures"]["dense"]["AnswerRecall@20"] == 0.5
    for task in made["tasks"]:
        assert task["weights"] == {
            "two": (1.0, 0.3, 0.0), "three": (1.0, 0.3, 1.0),
            "from": "the paper, for this kind of text",
        }  # fmt: skip
    assert first["notes"] == ["the corpus lacks relevant passages of 1 queries"]
    assert {a["suite"] for a in made["averages"]} == {"miracl", "mkqa"}


def test_lengths_make_a_curve(encoder: Encoder, sets: Path, tmp_path: Path) -> None:
    wanted = Plan(
        (f"beir:{sets / 'one-en'}",), lengths=(6, 64, 64), to=tmp_path / "to", cache=tmp_path / "c"
    )
    made = evaluate(encoder, wanted)
    assert [task["max_length"] for task in made["tasks"]] == [6, 64]
    assert [task["cut"]["passages"] > 0 for task in made["tasks"]] == [True, False]
    long, short = (read_run(tmp_path / f"to/runs/dense.{n}/beir-one-en.trec.gz") for n in (64, 6))
    assert long.of_query(0) != short.of_query(0)


def test_whole_and_best_passages_stand_side_by_side(
    encoder: Encoder, long: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    wanted = Plan((f"beir:{long}",), chunks=(24, 0), to=to, cache=tmp_path / "cache")
    told: list[int] = []
    made = evaluate(encoder, wanted, told=lambda result: told.append(result.chunk))
    assert told == [0, 24]
    whole, best = made["tasks"]
    assert (whole["max_length"], whole["chunk"], whole["chunks"]) == (510, 0, 0)
    assert (best["max_length"], best["chunk"], best["passages"]) == (24, 24, 30)
    assert best["chunks"] > 60
    assert best["protocol"]["overlap"] == 3
    assert made["settings"]["chunk"] == [0, 24]
    assert [a["chunk"] for a in made["averages"]] == [0, 0, 24, 24]
    assert {c["chunk"] for c in made["comparisons"]} == {0, 24}
    assert whole["figures"]["BM25"] == best["figures"]["BM25"]
    assert whole["figures"]["dense"] != best["figures"]["dense"]
    for shown in (text(made), (to / "report.html").read_text()):
        assert "whole, to 510 tokens" in shown
        assert "best passage of 24 tokens" in shown
    ids = {f"d{number}" for number in range(30)}
    for column in ("dense", "sparse", "multi", "dense+sparse", "all"):
        run = read_run(to / f"runs/{column}.chunk-24/beir-long-en.trec.gz")
        assert (to / f"runs/{column}/beir-long-en.trec.gz").exists()
        for row in range(len(run)):
            found, _ = run.of_query(row)
            assert len(set(found)) == len(found)
            assert set(found) <= ids

    # lengths are of whole passages; chunks alone are named as any run is
    several = Plan(wanted.suites, lengths=(64, 128), chunks=(0, 24), cache=wanted.cache)
    places = [(task["max_length"], task["chunk"]) for task in evaluate(encoder, several)["tasks"]]
    assert places == [(64, 0), (128, 0), (24, 24)]
    alone = evaluate(encoder, Plan(wanted.suites, chunks=(24,), to=to, cache=wanted.cache))
    assert [task["figures"] for task in alone["tasks"]] == [best["figures"]]
    assert (alone["settings"]["chunk"], alone["settings"]["max_length"]) == (24, None)


def test_weights_are_tuned_on_chunks(
    encoder: Encoder, sets: Path, long: Path, tmp_path: Path
) -> None:
    one, dev = f"beir:{long}", f"beir:{sets / 'two-de'}"
    cache = tmp_path / "cache"
    made = evaluate(encoder, Plan((one,), tune=(dev,), chunks=(16,), cache=cache))
    assert made["tasks"][0]["chunk"] == 16
    tuned = made["settings"]["tuned"]
    whole = evaluate(encoder, Plan((one,), tune=(dev,), cache=cache))["settings"]["tuned"]
    assert tuned["before"] != whole["before"]
    # what tuning says of the dev suite is what is measured there
    again = evaluate(
        encoder,
        Plan((dev,), chunks=(16,), cache=cache),
        EvaluateConfig(weights=Weights(*tuned["weights"])),
    )
    measured = again["tasks"][0]["figures"]["all"]["nDCG@10"]
    assert measured == pytest.approx(tuned["after"], abs=1e-5)


def test_tuned_weights_are_said_and_kept(
    encoder: Encoder, sets: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    with Collection.open(tmp_path / "index", encoder) as collection:
        collection.add([Document("a", "the river"), Document("b", "the mountain")])
        assert collection.weights == encoder.weights
    arguments = ["--tune-weights", f"beir:{sets / 'two-de'}", "--cache", tmp_path / "c", "--json"]
    for place in (model, tmp_path / "index"):
        done = call(
            f"beir:{sets / 'one-en'}", "--model", model, *arguments, "--store-weights", place
        )
        assert done.exit_code == 0, done.output
    made: dict[str, Any] = json.loads(done.stdout)
    tuned = Weights(*made["settings"]["tuned"]["weights"])
    assert made["settings"]["tuned"]["after"] >= made["settings"]["tuned"]["before"]
    assert "tuning on beir/two-de" in made["tasks"][0]["weights"]["from"]
    kept = read_checkpoint(model)
    assert kept.settings.weights == tuned
    assert kept.settings.query_prefix == encoder.settings.query_prefix  # the rest is as it was
    with Collection.open(tmp_path / "index", encoder, create=False) as collection:
        assert collection.weights == tuned
        given = collection.search(["river"], weights=tuned)
        assert collection.search(["river"]) == given


def test_weights_are_kept_in_nothing_else(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="neither a model's folder"):
        keep_weights(tmp_path, Weights())
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / "tercet.json").write_text("{")
    with pytest.raises(ModelError):
        keep_weights(model, Weights())
    assert (model / "tercet.json").read_text() == "{"


def test_what_cannot_be_evaluated_is_said(encoder: Encoder, sets: Path, tmp_path: Path) -> None:
    one = f"beir:{sets / 'one-en'}"
    (tmp_path / "empty").mkdir()
    shutil.copytree(sets / "one-en", tmp_path / "one-en")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"src": "the river", "en": "water"}\n')
    (tmp_path / "good.trec").write_text("q0 Q0 d1 1 2.5 x\n")
    (tmp_path / "bad.trec").write_text("q0 Q0 d1 1 nan x\n")
    cases: list[tuple[Plan, str]] = [
        (Plan(("nothing",)), "no suite"),
        (Plan((one,), tune=(one,)), "weights are to be tuned on"),
        (Plan((one,), tune=(f"beir:{tmp_path / 'one-en'}",)), "tune on a dev split"),
        (Plan((one,), against="nobody"), "no column 'nobody'"),
        (Plan((one, one)), "two tasks are named beir/one-en"),
        (Plan((one,), tune=(one,), lengths=(8, 16)), "at one length"),
        (Plan((one,), tune=(one,), chunks=(0, 16)), "at one length"),
        (
            Plan((one,), lengths=(8, 16), chunks=(16,)),
            "a maximum length is of whole passages",
        ),
        (Plan((one,), chunks=(0, 5)), "chunk is 5 tokens"),
        (Plan((one,), chunks=(0, 511)), "reads 510"),
        (Plan((f"bitext:{pairs}",), chunks=(16,)), "not cut into chunks"),
        (
            Plan((one,), outside={"dense": tmp_path / "good.trec"}),
            "run cannot be named .dense",
        ),
        (Plan((one,), outside={"x": tmp_path / "empty"}), "holds no run"),
        (Plan((one,), outside={"x": tmp_path / "bad.trec"}), r"bad\.trec:1"),
        (
            Plan((f"beir:{sets}",), outside={"x": tmp_path / "bad.trec"}),
            "one run, but there are",
        ),
    ]
    for wanted, said in cases:
        with pytest.raises(InputError, match=said):
            evaluate(encoder, Plan(**{**vars(wanted), "cache": tmp_path / "cache"}))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command(sets: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    one = f"beir:{sets / 'one-en'}"
    done = call(one, "--model", tiny_checkpoint, "--cache", tmp_path / "c", "--to", tmp_path / "to")
    assert done.exit_code == 0, done.output
    assert "nDCG@10" in done.stdout
    assert "report.html" in done.stdout
    both = call(one, "--model", tiny_checkpoint, "--cache", tmp_path / "c", "--chunk", "0,16")
    assert both.exit_code == 0, both.output
    assert "best passage of 16 tokens" in both.stdout
    assert "beir/one-en, best passage of 16 tokens: nDCG@10" in both.stderr
    alone = call(one, "--no-model", "--measures", "RR@10", "--json")
    assert list(json.loads(alone.stdout)["tasks"][0]["figures"]["BM25"]) == ["RR@10"]
    for wrong in (
        [one, "--no-model", "--model", "x"],
        [one, "--store-weights", "x"],
        [one, "--weights", "1,1,1", "--tune-weights", one],
        [one, "--max-length", "long"],
        [one, "--chunk", "long"],
        [one, "--chunk", ""],
        [one, "--chunk", "0,8"],
        [one, "--chunk", "64", "--max-length", "64"],
        [one, "--no-model", "--chunk", "64"],
        [one, "--measures", "Goodness@10"],
        [one, "--run", "nothing"],
        [one, "--run", "a=x", "--run", "a=y"],
        [one, "--no-model", "--max-length", "64"],
        [one, "--no-model", "--no-bm25"],
        [one, "--measures", ","],
        [one, "--tune-weights", one, "--store-weights", tmp_path],
        [],
    ):
        assert call(*wrong).exit_code == 2, wrong
