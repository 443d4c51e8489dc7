"""Negatives for a model in training: the same from the same process and from a second one."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, TercetError
from tercet.mining.miner import Answers, follow
from tests.mining.conftest import WordEncoder, ask, training_rows


def negatives(answer: Path) -> list[list[str]]:
    """What an answer holds, waited for."""
    end = time.monotonic() + 30
    while not answer.exists():
        assert time.monotonic() < end, "no answer"
        time.sleep(0.01)
    rows = [json.loads(line) for line in answer.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(len(rows)))
    return [row["neg"] for row in rows]


def answered(run: Path, *steps: int, work: Path | None = None) -> list[list[list[str]]]:
    """What this process answers, with the word encoder."""
    answers = Answers(run, lambda folder: WordEncoder(), work=work)
    out = []
    for step in steps:
        request = run / "refresh" / f"step-{step:06d}"
        request.mkdir(parents=True, exist_ok=True)
        report = answers(request)
        out.append(negatives(request / "negatives.jsonl"))
        assert report.kept == sum(map(len, out[-1]))
    assert work is None or list(work.iterdir())
    answers.close()
    return out


def edit(run: Path, **changes: object) -> None:
    """Other settings of the run."""
    facts = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps(facts))


def test_every_row_gets_a_list_that_seed_and_step_decide(
    training_run: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    first, second = answered(training_run, 100, 200, work=work)
    assert not list(work.iterdir())
    rows = training_rows()
    assert len(first) == len(rows)
    assert first[5] == []  # raw text has none
    texts = {text for row in rows for text in row.get("pos", [])}
    for row, own in zip(rows, first, strict=True):
        assert set(own) <= texts - set(row.get("pos", []))
    assert sum(map(len, first)) > 100
    assert answered(training_run, 100) == [first]
    assert second != first
    edit(training_run, seed=4)
    assert answered(training_run, 100) != [first]


def test_few_rows_give_what_they_have(training_run: Path, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in training_rows(3)[:4])
    )
    edit(training_run, data={"sources": [{"files": [str(tmp_path / "few.jsonl")]}]}, negatives={})
    (found,) = answered(training_run, 1)
    assert max(map(len, found)) == 2
    edit(training_run, negatives={"first": 9})
    with pytest.raises(InputError, match=r"negatives\.first is 9, but the rows have"):
        answered(training_run, 2)


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
        first = ask(training_run, 2, tiny_checkpoint)
        found = negatives(first)
        second = negatives(ask(training_run, 4, tiny_checkpoint))
        last = ask(training_run, 6, tiny_checkpoint)  # asked before the end, so answered
    finally:
        (training_run / "DONE").touch()
        thread.join(30)
    assert not thread.is_alive()
    assert (ended, steps) == ([3], [2, 4, 6])
    assert found != second != negatives(last)
    assert sum(map(bool, found)) > 5
    assert sorted(path.name for path in first.parent.iterdir()) == [
        "READY",
        "model",
        "negatives.jsonl",
    ]
    first.unlink()
    answers = Answers(training_run, load)
    answers(first.parent)
    answers.close()
    assert negatives(first) == found
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
        (None, "not the config of a training run"),
        ("{", "not the config of a training run"),
        ("[]", "expected a table"),
        ('{"steps": 3, "data": {"sources": [{"files": ["gone.jsonl"]}]}}', "no file gone.jsonl"),
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
    with pytest.raises(InputError):
        follow(training_run / "gone", load)
