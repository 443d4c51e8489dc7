"""`tercet evaluate`: figures on stdout, tuned weights where they are to be kept, wrong usage."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tercet.checkpoint import read_checkpoint
from tercet.cli.evaluate import evaluate
from tercet.collection import Collection
from tercet.config import Weights
from tercet.encoder import Encoder
from tercet.records import Document
from tests.evaluate.test_runner import random_beir


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"beir:{random_beir(tmp_path_factory.mktemp('sets') / 'one-en', 1)}"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def test_figures_are_shown_and_written(one: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    arguments = [one, "--model", tiny_checkpoint, "--cache", tmp_path / "c"]
    done = call(*arguments, "--to", tmp_path / "to", "--chunk", "0,16")
    assert done.exit_code == 0, done.output
    for said in ("nDCG@10", "report.html", "best passage of 16 tokens"):
        assert said in done.stdout
    assert "beir/one-en, best passage of 16 tokens: nDCG@10" in done.stderr
    alone = call(one, "--no-model", "--measures", "RR@10", "--json")
    assert list(json.loads(alone.stdout)["tasks"][0]["figures"]["BM25"]) == ["RR@10"]


def test_tuned_weights_are_said_and_kept(one: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    before = read_checkpoint(model).settings
    encoder = Encoder.load(tiny_checkpoint, device="cpu")
    with Collection.open(tmp_path / "index", encoder) as collection:
        collection.add([Document("a", "the river"), Document("b", "the mountain")])
    dev = f"beir:{random_beir(tmp_path / 'two-de', 2)}"
    arguments = [one, "--model", model, "--tune-weights", dev, "--cache", tmp_path / "c", "--json"]
    for place in (tmp_path / "index", model):
        done = call(*arguments, "--chunk", "16", "--store-weights", place)
        assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    tuned = Weights(*made["settings"]["tuned"]["weights"])
    assert made["settings"]["tuned"]["after"] >= made["settings"]["tuned"]["before"]
    assert made["tasks"][0]["chunk"] == 16
    assert "tuning on beir/two-de" in made["tasks"][0]["weights"]["from"]
    after = read_checkpoint(model).settings
    assert after.weights == tuned != before.weights
    assert after.query_prefix == before.query_prefix  # the rest is as it was
    assert f"{','.join(f'{w:g}' for w in before.weights.as_tuple())} became 1," in done.stderr
    with Collection.open(tmp_path / "index", encoder, read_only=True) as collection:
        assert collection.weights == tuned
    # none is better than these: a tie changes nothing
    stored = (model / "tercet.json").stat()
    done = call(*arguments, "--chunk", "16", "--store-weights", model)
    assert "stay: none of those that were tried is better" in done.stderr
    assert (model / "tercet.json").stat() == stored


@pytest.mark.parametrize("kind", ["model", "index"])
def test_weights_of_another_model_are_not_kept(
    one: str, kind: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    settings = json.loads((model / "tercet.json").read_text())
    (model / "tercet.json").write_text(json.dumps(settings | {"query_prefix": "other "}))
    with Collection.open(tmp_path / "index", Encoder.load(model, device="cpu")) as collection:
        collection.add([Document("a", "the river")])
    before = (model / "tercet.json").read_bytes()
    dev = f"beir:{random_beir(tmp_path / 'two-de', 2)}"
    tuned = [one, "--tune-weights", dev, "--cache", tmp_path / "c", "--store-weights"]
    done = call(*tuned, tmp_path / kind, "--model", tiny_checkpoint)
    assert "another model" in str(done.exception)
    done = call(*tuned, tmp_path / kind, "--model", model, "--heads", "dense,sparse")
    assert "give --heads dense,sparse,multi" in str(done.exception)
    assert (model / "tercet.json").read_bytes() == before
    with Collection.open(tmp_path / "index", read_only=True) as collection:
        assert collection.weights == collection.encoder.weights


@pytest.mark.parametrize(
    "wrong",
    [
        ["--no-model", "--model", "x"],
        ["--store-weights", "x"],
        ["--weights", "1,1,1", "--tune-weights", "beir:x"],
        ["--max-length", "long"],
        ["--chunk", ""],
        ["--chunk", "0,8"],
        ["--chunk", "64", "--max-length", "64"],
        ["--no-model", "--chunk", "64"],
        ["--measures", "Goodness@10"],
        ["--measures", ","],
        ["--run", "nothing"],
        ["--run", "a=x", "--run", "a=y"],
        ["--no-model", "--no-bm25"],
        ["--tune-weights", "beir:x", "--store-weights", "."],
        None,
    ],
)
def test_wrong_usage_is_refused(one: str, wrong: list[str] | None) -> None:
    assert call(*([] if wrong is None else [one, *wrong])).exit_code == 2
