"""Negatives for a model in training: the same from the same process and from a second one."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, TercetError
from tercet.mining import Refresher, follow
from tercet.train.config import NegativesConfig
from tests.mining.conftest import WordEncoder, ask, training_rows

SETTINGS = NegativesConfig(number=4, first=2, last=30, heads=("dense", "sparse"), limit=1.0)


@pytest.fixture
def refresher() -> Iterator[Refresher]:
    made = Refresher(training_rows(), SETTINGS, seed=3)
    yield made
    made.close()


def test_every_row_in_order_gets_a_list(refresher: Refresher) -> None:
    found = refresher(WordEncoder(), 100)
    rows = training_rows()
    assert len(found) == len(rows)
    assert found[5] == []
    texts = {text for row in rows for text in row.get("pos", [])}
    for row, negatives in zip(rows, found, strict=True):
        assert set(negatives) <= texts - set(row.get("pos", []))
    assert refresher.report is not None
    assert refresher.report.kept == sum(map(len, found)) > 100


def test_seed_and_step_decide(refresher: Refresher) -> None:
    found = refresher(WordEncoder(), 100)
    assert refresher(WordEncoder(), 100) == found
    assert refresher(WordEncoder(), 200) != found
    other = Refresher(training_rows(), SETTINGS, seed=4)
    assert other(WordEncoder(), 100) != found
    other.close()


def test_few_rows_give_what_they_have(tmp_path: Path) -> None:
    few = Refresher(training_rows(3)[:4], NegativesConfig(heads=("dense",)), work=tmp_path)
    assert list(tmp_path.iterdir())
    found = few(WordEncoder(), 1)
    assert max(map(len, found)) == 2
    few.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"negatives\.first is 9, but the rows have"):
        Refresher(training_rows(3)[:4], NegativesConfig(first=9), work=tmp_path)
    assert not list(tmp_path.iterdir())


def wait(answer: Path) -> list[list[str]]:
    end = time.monotonic() + 30
    while not answer.exists():
        assert time.monotonic() < end, "no answer"
        time.sleep(0.01)
    rows = [json.loads(line) for line in answer.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(len(rows)))
    return [row["neg"] for row in rows]


def load(folder: Path) -> Encoder:
    torch.set_num_threads(1)
    return Encoder.load(folder, dtype="float32")


def test_a_follower_answers_as_this_process_would(
    training_run: Path, tiny_checkpoint: Path
) -> None:
    steps: list[int] = []
    ended: list[int] = []

    def other() -> None:
        ended.append(
            follow(training_run, load, poll=0.01, report=lambda step, _: steps.append(step))
        )

    thread = threading.Thread(target=other)
    thread.start()
    try:
        first = wait(ask(training_run, 2, tiny_checkpoint))
        second = wait(ask(training_run, 4, tiny_checkpoint))
    finally:
        (training_run / "DONE").touch()
        thread.join(30)
    assert not thread.is_alive()
    assert ended == [2]
    assert steps == [2, 4]
    here = Refresher(
        training_rows(),
        NegativesConfig(number=4, last=30, limit=1.0),
        seed=3,
        query_tokens=64,
        passage_tokens=128,
    )
    encoder = load(tiny_checkpoint)
    assert [here(encoder, 2), here(encoder, 4)] == [first, second]
    here.close()
    assert first != second
    assert sum(map(bool, first)) > 5
    left = sorted(path.name for path in (training_run / "refresh" / "step-000002").iterdir())
    assert left == ["READY", "model", "negatives.jsonl"]


def test_what_is_asked_before_the_end_is_answered(
    training_run: Path, tiny_checkpoint: Path
) -> None:
    answer = ask(training_run, 2, tiny_checkpoint)
    (training_run / "DONE").touch()
    assert follow(training_run, load, poll=0.01) == 1
    assert len(wait(answer)) == len(training_rows())
    assert follow(training_run, load, poll=0.01) == 0


def test_a_follower_that_cannot_says_so_and_the_trainer_can_read_it(
    training_run: Path, tiny_checkpoint: Path
) -> None:
    answer = ask(training_run, 2, tiny_checkpoint)
    weights = answer.parent / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ModelError) as error:
        follow(training_run, load, poll=0.01)
    failed = answer.parent / "FAILED"
    assert failed.read_text().strip() == str(error.value)
    assert not answer.exists()
    weights.write_bytes(whole)  # mended, and started again
    (training_run / "DONE").touch()
    assert follow(training_run, load, poll=0.01) == 1
    assert not failed.exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("{}", "not the config of a training run"),
        ('{"data": {"sources": []}}', "names no file"),
        ('{"data": {"sources": [{"files": ["gone.jsonl"]}]}}', "no file gone.jsonl"),
    ],
)
def test_a_run_that_is_none_is_told(
    training_run: Path, tiny_checkpoint: Path, config: str | None, words: str
) -> None:
    ask(training_run, 2, tiny_checkpoint)
    (training_run / "config.json").unlink()
    if config is not None:
        (training_run / "config.json").write_text(config)
    with pytest.raises(TercetError, match=words):
        follow(training_run, load, poll=0.01)
    with pytest.raises(InputError, match="no such folder"):
        follow(training_run / "gone", load)
