"""`tercet evaluate`: figures on stdout, tuned weights where they are to be kept, wrong usage."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tercet.checkpoint import read_checkpoint
from tercet.cli.evaluate import compare, evaluate
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
    assert before.weights is not None
    assert f"{','.join(f'{w:g}' for w in before.weights.as_tuple())} became 1," in done.stderr
    with Collection.open(tmp_path / "index", encoder, read_only=True) as collection:
        assert collection.weights == tuned
    # none is better than these: a tie changes nothing
    stored = (model / "tercet.json").stat()
    done = call(*arguments, "--chunk", "16", "--store-weights", model)
    assert "stay: none of those that were tried is better" in done.stderr
    assert (model / "tercet.json").stat() == stored
    done = call(*arguments, "--chunk", "16", "--store-weights", model, "--tune-min-score")
    least = json.loads(done.stdout)["settings"]["tuned"]["min_score"]
    assert (
        f"stay: none of those that were tried is better; the least score of an answer {least:g}"
        in (done.stderr)
    )
    assert "answers score at least" in done.stderr
    assert read_checkpoint(model).settings == replace(after, min_score=least)


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
        ["--tune-min-score"],
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


def test_two_models_or_two_reports_are_compared(
    one: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    settings = json.loads((model / "tercet.json").read_text())
    (model / "tercet.json").write_text(json.dumps(settings | {"query_prefix": "mountain river "}))
    cache = ["--cache", tmp_path / "c"]
    for name, source in (("a", tiny_checkpoint), ("b", model)):
        done = call(one, "--model", source, "--to", tmp_path / name, *cache)
        assert done.exit_code == 0, done.output
    reports = compared(tmp_path / "a", tmp_path / "b/report.json")
    assert reports == compared(tiny_checkpoint, model, one, *cache)
    assert {of["system"] for of in reports} == {"dense", "sparse", "multi", "dense+sparse", "all"}
    made = [json.loads((tmp_path / name / "report.json").read_text()) for name in "ab"]
    figures = [report["tasks"][0]["figures"] for report in made]
    for of in reports:
        low, high = (figure[of["system"]]["nDCG@10"] for figure in figures)
        assert of["difference"] == pytest.approx(high - low, abs=2e-6)
        assert of["means"] == {"A": low, "B": high}
        assert of["corrected"] >= of["p"]
    assert any(of["difference"] for of in reports)
    assert all(of["p"] == 1 for of in compared(tmp_path / "a", tmp_path / "a"))
    assert CliRunner().invoke(compare, [str(model), str(model)]).exit_code == 2  # without a suite
    shown = CliRunner().invoke(compare, [str(tmp_path / "a"), str(tmp_path / "b")]).stdout
    assert all(f"beir {of['system']} " in shown for of in reports)


def compared(*arguments: object) -> list[dict[str, Any]]:
    done = CliRunner().invoke(compare, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    lines: list[dict[str, Any]] = json.loads(done.stdout)["comparisons"]
    return lines


@pytest.mark.parametrize(
    ("changed", "old", "new", "said"),
    [
        (
            "report.json",
            b'"seconds": {',
            b'"x": NaN, "seconds": {',
            r"report\.json:\d\d+: NaN is no",
        ),
        ("report.json", b'"seconds": {', b'"x": 1e999, "seconds": {', r"report\.json:\d+: 1e999"),
        ("report.json", b'"seconds": {', b'"x" 1, "seconds": {', r"report\.json:\d\d+: not JSON"),
        (
            "report.json",
            b'"seconds": {',
            b'"\xff": 1, "seconds": {',
            r"report\.json:\d\d+: byte 0xff is not UTF-8",
        ),
        ("report.json", b"{", b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        ("report.json", b'"tasks"', b'"other"', r"report\.json: not as `tercet evaluate --to`"),
        ("report.json", b'"passages": 30', b'"passages": 31', "is not the same task"),
        ("report.json", b'"name": "beir/', b'"name": "beir/x', "is missing: two reports"),
        ("values", b'"q0"', b'"q9"', "is not the same task"),
        ("values", b'"queries": [', b'"queries": ["x",', "not as .*9 queries, but 8 values"),
        ("values", b"1.0", b"-Infinity", r"\.json:\d+: -Infinity is no"),
    ],
)
def test_what_is_no_report_is_named(
    one: str, changed: str, old: bytes, new: bytes, said: str, tmp_path: Path
) -> None:
    assert call(one, "--no-model", "--to", tmp_path / "a").exit_code == 0
    copy = shutil.copytree(tmp_path / "a", tmp_path / "b")
    (path,) = copy.glob("values/*" if changed == "values" else changed)
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    done = CliRunner().invoke(compare, [str(tmp_path / "a"), str(copy)])
    assert re.search(said, str(done.exception)), done.exception
