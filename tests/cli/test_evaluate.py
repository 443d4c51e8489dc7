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
    for place in (model, tmp_path / "index"):
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
    with Collection.open(tmp_path / "index", encoder, create=False) as collection:
        assert collection.weights == tuned


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
