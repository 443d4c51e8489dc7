"""Whole runs of a tiny model: what they leave, stop and resume, negatives found on the way."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from tercet.encoder import Encoder
from tercet.errors import InputError, TercetError
from tercet.mining import follow
from tercet.train.batches import HardNegatives
from tercet.train.config import TrainConfig, from_tree
from tercet.train.distributed import World
from tercet.train.plan import make_plan, prepare, representation_bytes
from tercet.train.trainer import Stopped, rate, train
from tests.conftest import WORDS

LONG = [word for word in dict.fromkeys(WORDS) if len(word) > 3]


def write_rows(path: Path, count: int = 40, *, negatives: int = 2, seed: int = 0) -> Path:
    """Rows whose passage has two words of its query, and negatives that have one."""
    draw = np.random.default_rng(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            words = draw.choice(LONG, size=9, replace=False).tolist()
            row: dict[str, Any] = {
                "query": " ".join(words[:3]),
                "pos": [" ".join(words[1:6])],
                "neg": [" ".join([words[0], *draw.choice(LONG, size=5)]) for _ in range(negatives)],
                "lang": "en",
            }
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def tree(tmp_path: Path, rows: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    return {
        "stage": "unified",
        "steps": 6,
        "model": str(tiny_checkpoint),
        "to": str(tmp_path / "run"),
        "device": "cpu",
        "dtype": "float32",
        "dropout": 0.1,
        "data": {
            "sources": [{"files": [str(rows)]}],
            "cache": str(tmp_path / "cache"),
            "negatives": 1,
            "query_tokens": 32,
            "passage_tokens": 64,
        },
        "batch": {"lengths": [16, 64], "rows": 8, "sub_batch_tokens": 60},
        "optimiser": {"lr": 1e-3},
        "run": {"report_every": 1, "save_every": 2},
    }


def quiet(line: dict[str, Any]) -> None:
    """A log that says nothing."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = max((folder / "checkpoints").glob("step-*"))
    return load_file(found / "model.safetensors")


def same(left: Path, right: Path) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_model(tree: dict[str, Any], rows: Path) -> None:
    tree |= {"steps": 40, "dropout": 0.0}
    tree["run"] |= {"evaluate_every": 20, "report_every": 5}
    tree["data"]["dev"] = [str(rows)]
    folder = train(from_tree(tree), log=quiet)
    lines = metrics(folder.parent)
    reports = [line for line in lines if "loss" in line]
    assert reports[-1]["loss"] < 0.7 * reports[0]["loss"]
    for name in ("loss_dense", "loss_sparse", "loss_multi", "loss_inter", "norm", "tokens_per_s",
                 "padding", "memory_mb", "terms_query", "terms_passage", "lr"):  # fmt: skip
        assert name in reports[-1]
    assert "loss_dense_distil" in reports[-1]  # from step 10 on
    measured = [line for line in lines if "dev" in line]
    assert {line["measure"] for line in measured} == {"nDCG@10, percent"}
    assert [line.get("step") for line in measured] == [0, 20, 40, None]
    dev = [line["dev"] for line in measured]
    assert set(dev[0]["rows"]) >= {"dense", "sparse", "multi"}
    assert dev[-1]["rows"]["all"] >= dev[0]["rows"]["all"]
    assert (folder.parent / "best" / "model.safetensors").exists()
    assert (folder.parent / "DONE").exists()
    encoder = Encoder.load(folder)
    assert encoder.settings.training["steps"] == 40
    assert encoder.encode(["the river"]).heads == ("dense", "sparse", "multi")


def test_a_resumed_run_is_the_uninterrupted_one(tree: dict[str, Any], tmp_path: Path) -> None:
    whole = from_tree({**tree, "to": str(tmp_path / "whole")})
    train(whole, log=quiet)

    class Killed(Exception):
        pass

    def kill(line: dict[str, Any]) -> None:
        if line.get("step") == 5:
            raise Killed

    cut = from_tree({**tree, "to": str(tmp_path / "cut")})
    with pytest.raises(Killed):
        train(cut, log=kill)
    # the error saved the steps that were done
    assert [p.name for p in sorted((tmp_path / "cut" / "checkpoints").iterdir())] == [
        "step-000004", "step-000005",
    ]  # fmt: skip
    train(cut, resumed=True, log=quiet)
    assert same(tmp_path / "whole", tmp_path / "cut")
    other = from_tree({**tree, "to": str(tmp_path / "other"), "seed": 1})
    train(other, log=quiet)
    assert not same(tmp_path / "whole", tmp_path / "other")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(
    tree: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def terminate(line: dict[str, Any]) -> None:
        if line.get("step") == 3:
            os.kill(os.getpid(), number)

    config = from_tree(tree)
    with pytest.raises(Stopped, match="stopped at step 3 of 6: go on with --resume") as stop:
        train(config, log=terminate)
    assert stop.value.number == number
    assert signal.getsignal(number) == before
    train(config, resumed=True, log=quiet)
    whole = from_tree({**tree, "to": str(tmp_path / "whole")})
    train(whole, log=quiet)
    assert same(tmp_path / "run", tmp_path / "whole")


def test_a_second_interrupt_does_not_wait(tree: dict[str, Any]) -> None:
    def interrupt(line: dict[str, Any]) -> None:
        if line.get("step") == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(from_tree(tree), log=interrupt)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_miner_that_fails_costs_no_step(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree["negatives"] = {"every": 3}

    def waited(world: World) -> None:
        raise AssertionError("other devices still wait for negatives")

    def broken(place: Path) -> None:
        monkeypatch.setattr(World, "wait", waited)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        train(from_tree(tree), mine=broken, log=quiet)
    assert (tmp_path / "run/checkpoints/step-000003").exists()


def test_a_run_is_not_written_over(tree: dict[str, Any]) -> None:
    config = from_tree(tree)
    train(config, log=quiet)
    with pytest.raises(InputError, match="holds a run already: go on with --resume"):
        train(config, log=quiet)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "seed was 0, now it is 5"),
        ({"optimiser": {"lr": 2e-3}}, r"optimiser\.lr was 0\.001, now it is 0\.002"),
        ({"teacher": {"dense": 3.0}}, r"teacher\.dense was 1\.0, now it is 3\.0"),
        ({"data": "other"}, "the training data was"),
    ],
)
def test_another_run_is_not_resumed(
    tree: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    train(from_tree(tree), log=quiet)
    if change.get("data"):
        change = {}
        write_rows(Path(tree["data"]["sources"][0]["files"][0]), seed=3)
    with pytest.raises(TercetError, match=said):
        train(from_tree({**tree, **change}), resumed=True, log=quiet)
    if change:  # what was refused has left no trace
        train(from_tree(tree), resumed=True, log=quiet)
        kept = json.loads((Path(tree["to"]) / "config.json").read_text())
        assert from_tree(kept).optimiser.lr == 1e-3


def test_a_damaged_checkpoint_is_named_and_the_one_before_stays(tree: dict[str, Any]) -> None:
    config = from_tree(tree)
    train(config, log=quiet)
    folder = Path(tree["to"]) / "checkpoints"
    last = folder / "step-000006"
    file = last / "optimiser.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        TercetError, match=r"damaged .*remove .*step-000006 to go on from step-000004"
    ):
        train(config, resumed=True, log=quiet)
    shutil.rmtree(last)
    train(config, resumed=True, log=quiet)
    assert last.exists()
    shutil.rmtree(folder)
    with pytest.raises(TercetError, match="no checkpoint to resume from"):
        train(config, resumed=True, log=quiet)


def test_a_loss_that_is_not_finite_names_its_rows(
    tree: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    tensors = load_file(broken / "model.safetensors")
    bias = tensors["encoder.layer.0.output.dense.bias"]
    bias[0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TercetError, match=r"layers\.0\.down\.bias holds values that are not finite"
    ):
        train(from_tree({**tree, "model": str(broken)}), log=quiet)
    bias[:] = 3e38  # finite, but not what comes of it
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TercetError, match=r"step 1: .* is nan on a batch of .*rows\.jsonl:\d+, .*low"
    ):
        train(from_tree({**tree, "model": str(broken)}), log=quiet)
    assert not (Path(tree["to"]) / "checkpoints").exists()


def test_a_full_disk_keeps_the_last_checkpoint(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tercet.train import runfolder

    written: list[int] = []
    real = safetensors.torch.save_file

    def full(tensors: Any, path: Any) -> None:
        written.append(1)
        if len(written) > 2:  # the first checkpoint has two files
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(runfolder, "save_file", full)
    with pytest.raises(TercetError, match=r"No space left.*the last good checkpoint is .*000002"):
        train(from_tree(tree), log=quiet)
    names = [path.name for path in (Path(tree["to"]) / "checkpoints").iterdir()]
    assert names == ["step-000002"]


class Miner:
    """Answers requests for negatives with texts that tell the step."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, list[str]()

    def __call__(self, place: Path) -> None:
        self.asked.append(place.name)
        assert (place / "READY").exists()
        assert Encoder.load(place / "model").dims["multi"] == 16
        lines = [
            json.dumps({"row": row, "neg": [f"{LONG[row]} {LONG[-row - 1]} {len(self.asked)}"]})
            for row in range(self.count)
        ]
        (place / "negatives.jsonl").write_text("\n".join(lines) + "\n")


def test_negatives_are_refreshed_at_their_steps_and_kept_for_a_resume(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["negatives"] = {"every": 2}
    miner = Miner(40)
    train(from_tree(tree), mine=miner, log=quiet)
    assert miner.asked == ["step-000002", "step-000004"]
    facts = json.loads((tmp_path / "run/checkpoints/step-000006/state.json").read_text())
    assert facts["negatives"].startswith("step-000004:")

    def kill(line: dict[str, Any]) -> None:
        if line.get("step") == 5:
            raise KeyboardInterrupt

    cut = from_tree({**tree, "to": str(tmp_path / "cut")})
    with pytest.raises(KeyboardInterrupt):
        train(cut, mine=Miner(40), log=kill)
    train(cut, resumed=True, mine=Miner(40), log=quiet)
    assert same(tmp_path / "run", tmp_path / "cut")
    without = from_tree({**tree, "to": str(tmp_path / "without"), "negatives": {"every": 0}})
    train(without, log=quiet)
    assert not same(tmp_path / "run", tmp_path / "without")

    shutil.rmtree(tmp_path / "cut/checkpoints/step-000006")
    changed = tmp_path / "cut/refresh/step-000002/negatives.jsonl"
    changed.write_text(changed.read_text().replace(LONG[0], LONG[1]))
    with pytest.raises(InputError, match="has changed since the checkpoint"):
        train(cut, resumed=True, mine=Miner(40), log=quiet)


def test_wrong_negatives_are_refused(tree: dict[str, Any]) -> None:
    tree["negatives"] = {"every": 2}
    with pytest.raises(InputError, match="negatives for 3 rows, but there are 40"):
        train(from_tree(tree), mine=Miner(3), log=quiet)


def test_the_plan(tree: dict[str, Any]) -> None:
    tree["batch"] = {"lengths": [16, 64], "rows": 8, "memory_gb": 0.001}
    plan = make_plan(prepare(from_tree(tree), World.start("cpu")))
    assert (plan.rows, plan.steps, plan.distillation_from) == (40, 6, 1)
    assert sum(group["rows"] for group in plan.groups) == 40
    assert 0 <= plan.padding <= plan.padding_at_random < 1
    assert plan.sub_batch_tokens is not None
    whole = make_plan(prepare(from_tree({**tree, "batch": {"rows": 8}}), World.start("cpu")))
    assert whole.sub_batch_tokens is None
    assert whole.activations_mb >= plan.activations_mb
    ready = prepare(from_tree({**tree, "batch": {"rows": 8}}), World.start("cpu"))
    pool = ready.sampler.pools[0]
    # as much again for the gradient of each vector: 32 of dense, 16 of multi, both in float32
    assert representation_bytes(ready, pool) > 2 * 4 * (16 * pool.size * pool.tokens)


def test_what_cannot_train_is_said(tree: dict[str, Any], tmp_path: Path) -> None:
    bare = write_rows(tmp_path / "bare.jsonl", negatives=0)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"sources": []}, "names no files"),
        (
            {"sources": [{"files": [str(bare)], "in_batch_negatives": False}]},
            r"bare\.jsonl:1: no 'neg'",
        ),
        ({"sources": [{"files": [str(tmp_path / "absent.jsonl")]}]}, "no such file"),
    ]
    for data, said in cases:
        with pytest.raises(InputError, match=said):
            train(from_tree({**tree, "data": {**tree["data"], **data}}), log=quiet)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(steps=100).optimiser
    found = [rate(config, step, 100) for step in range(100)]
    assert found[0] < found[5] < found[10]
    assert max(found) == pytest.approx(1.0)
    assert found[50] > found[99] > 0


def test_retromae_learns_from_raw_text_and_new_positions(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    raw = tmp_path / "raw.jsonl"
    draw = np.random.default_rng(0)
    with open(raw, "w", encoding="utf-8") as file:
        for _ in range(30):
            text = " ".join(draw.choice(LONG[:12], size=int(draw.integers(5, 30))))
            file.write(json.dumps({"text": text, "lang": "en"}) + "\n")
    tree |= {"stage": "retromae", "steps": 30, "dropout": 0.0}
    tree |= {"retromae": {"positions": 700}, "optimiser": {"lr": 3e-3}}
    tree["data"] |= {"sources": [{"files": [str(raw)]}], "shuffle_segments": 0.0}
    folder = train(from_tree(tree), log=quiet)
    reports = [line for line in metrics(folder.parent) if "loss" in line]
    first, last = reports[0], reports[-1]
    assert last["loss_encoder"] < 0.9 * first["loss_encoder"]
    assert last["loss_decoder"] < 0.9 * first["loss_decoder"]
    encoder = Encoder.load(folder)
    assert encoder.max_length == 698
    dense = encoder.encode(["the " * 690], heads=("dense",)).dense
    assert dense is not None
    assert np.isfinite(dense).all()


def test_raw_text_does_not_train_the_other_stages(tree: dict[str, Any], tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"text": "the river"}\n{"text": "the light"}\n')
    tree["data"]["sources"] = [{"files": [str(raw)]}]
    with pytest.raises(InputError, match=r"raw\.jsonl:1: a raw text has no 'pos'"):
        train(from_tree({**tree, "stage": "contrastive"}), log=quiet)


def test_contrastive_training_leaves_the_other_heads_as_they_were(
    tree: dict[str, Any], tiny_checkpoint: Path
) -> None:
    folder = train(from_tree({**tree, "stage": "contrastive"}), log=quiet)
    before, after = Encoder.load(tiny_checkpoint), Encoder.load(folder)
    for head in ("sparse", "multi"):
        ours, theirs = getattr(before.model, head), getattr(after.model, head)
        assert torch.equal(ours.weight, theirs.weight)
    changed = after.model.backbone.state_dict()
    assert any(
        not torch.equal(t, changed[n]) for n, t in before.model.backbone.state_dict().items()
    )


def test_a_run_that_came_to_nothing_does_not_bar_the_next(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["data"]["dev"] = [str(tmp_path / "absent.jsonl")]
    with pytest.raises(InputError, match="absent"):
        train(from_tree(tree), log=quiet)
    tree["data"]["dev"] = []

    def kill(line: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # before the first checkpoint
        train(from_tree(tree), log=kill)
    stale = tmp_path / "run" / "refresh" / "step-000002"
    stale.mkdir(parents=True)
    (stale / "negatives.jsonl").write_text("of another run\n")
    tree["negatives"] = {"every": 2}
    train(from_tree(tree), mine=Miner(40), log=quiet)
    assert (tmp_path / "run" / "DONE").exists()
    assert [line["step"] for line in metrics(tmp_path / "run") if "of" in line] == [*range(1, 7)]


def test_sigterm_ends_a_wait_for_negatives(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["negatives"] = {"every": 3, "by": "other"}
    said: list[dict[str, Any]] = []

    def terminate(line: dict[str, Any]) -> None:
        said.append(line)
        if "waiting" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped before step 4"):
        train(from_tree(tree), log=terminate)
    assert said[-1]["waiting"] == f"for `tercet mine --follow {tmp_path / 'run'}`"
    assert (tmp_path / "run/checkpoints/step-000003").exists()

    def fail(line: dict[str, Any]) -> None:
        if "waiting" in line:
            (tmp_path / "run/refresh/step-000003/FAILED").write_text("no memory")

    with pytest.raises(TercetError, match="no negatives were found: no memory"):
        train(from_tree(tree), resumed=True, log=fail)


def test_another_process_answers(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["negatives"] = {"every": 3, "by": "other", "first": 1, "last": 20, "number": 2}
    run = tmp_path / "run"
    run.mkdir()
    answered: list[int] = []
    follower = threading.Thread(
        target=lambda: answered.append(follow(run, Encoder.load, poll=0.05)), daemon=True
    )
    follower.start()
    train(from_tree(tree), log=quiet)
    follower.join(timeout=30)
    assert answered == [1]
    facts = json.loads((run / "checkpoints/step-000006/state.json").read_text())
    assert facts["negatives"].startswith("step-000003:")


def test_negatives_of_the_rows_own_group_are_left_out(tree: dict[str, Any], tmp_path: Path) -> None:
    rows = tmp_path / "grouped.jsonl"
    rows.write_text(
        '{"query": "the river", "pos": ["water"], "neg": ["light", "stone fire"]}\n'
        '{"query": "the river", "pos": ["light"]}\n'
        '{"query": "city", "pos": ["house"], "neg": ["water"]}\n'
    )
    tree["data"]["sources"] = [{"files": [str(rows)]}]
    ready = prepare(from_tree(tree), World.start("cpu"))
    hard = HardNegatives.of_files(ready.examples)
    assert [len(hard.places[row]) for row in range(3)] == [1, 0, 1]
    texts = [["light", "stone fire"], ["water"], ["light"]]
    config = ready.config
    new = HardNegatives.of_texts(ready.examples, texts, ready.checkpoint.tokenizer, config.data)
    assert [len(new.places[row]) for row in range(3)] == [1, 0, 1]


def test_a_model_keeps_its_own_prefix(tree: dict[str, Any]) -> None:
    ready = prepare(from_tree(tree), World.start("cpu"))
    assert ready.config.data.query_prefix == "the "
    ids = ready.examples.content(int(ready.examples.query[0])).tolist()
    assert ids[0] == ready.checkpoint.tokenizer.backend.token_to_id("▁the")
    assert Encoder.load(train(from_tree(tree), log=quiet)).settings.query_prefix == "the "


def test_a_collapsed_head_is_reported(
    tree: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(tiny_checkpoint, silent)
    torch.save(
        {"weight": torch.zeros(1, 32), "bias": torch.full((1,), -5.0)}, silent / "sparse_linear.pt"
    )
    train(from_tree({**tree, "model": str(silent)}), log=quiet)
    warnings = [line["warning"] for line in metrics(tmp_path / "run") if "warning" in line]
    assert "a passage has 0.0 sparse weights above 0: it may have collapsed" in warnings
    train(from_tree({**tree, "to": str(tmp_path / "well")}), log=quiet)
    warnings = [line["warning"] for line in metrics(tmp_path / "well") if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("6 steps are few")


def test_accumulated_batches_are_averaged(tree: dict[str, Any]) -> None:
    tree |= {"steps": 2, "dropout": 0.0, "optimiser": {"lr": 1e-12}}  # weights stay
    tree["loss"] = {"distillation": False}
    tree["batch"]["accumulate"] = 3
    train(from_tree(tree), log=quiet)
    lines = [line for line in metrics(Path(tree["to"])) if "norm" in line]
    assert len(lines) == 2
    single = {**tree, "to": tree["to"] + "-one", "steps": 6}
    single["batch"] = {**tree["batch"], "accumulate": 1}
    train(from_tree(single), log=quiet)
    ones = [line for line in metrics(Path(single["to"])) if "norm" in line]
    for at, line in enumerate(lines):
        three = [one["loss"] for one in ones[3 * at : 3 * at + 3]]
        assert max(three) - min(three) > 1e-3
        assert line["loss"] == pytest.approx(np.mean(three), abs=2e-5)
        assert line["norm"] < max(one["norm"] for one in ones[3 * at : 3 * at + 3])


def test_words_of_a_frozen_table_stay(tree: dict[str, Any], tiny_checkpoint: Path) -> None:
    tree["optimiser"] |= {"embedding_lr": 0.0}
    after = Encoder.load(train(from_tree(tree), log=quiet)).model.backbone
    before = Encoder.load(tiny_checkpoint).model.backbone
    assert torch.equal(after.word_embeddings.weight, before.word_embeddings.weight)
    assert not torch.equal(after.position_embeddings.weight, before.position_embeddings.weight)


def test_products_in_bfloat16_stay_near(tree: dict[str, Any]) -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        config = from_tree({**tree, "dtype": dtype, "dropout": 0.0, "to": f"{tree['to']}-{dtype}"})
        train(config, log=quiet)
        found.append(next(x["loss"] for x in metrics(Path(config.to)) if "loss" in x))
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_a_batch_has_one_language_where_asked(tree: dict[str, Any], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.jsonl"
    lines = write_rows(tmp_path / "all.jsonl", 41).read_text().splitlines()
    with open(mixed, "w", encoding="utf-8") as file:
        for number, line in enumerate(lines[:40]):
            language = ("en", "de", "fr")[number % 3]
            file.write(json.dumps({**json.loads(line), "lang": language}) + "\n")
    tree["data"]["sources"] = [{"files": [str(mixed)], "by_language": True}]
    ready = prepare(from_tree(tree), World.start("cpu"))
    seen = [
        {int(x) for x in ready.examples.language[ready.sampler.batch(number)[1]]}
        for number in range(ready.sampler.per_epoch)
    ]
    assert all(len(some) == 1 for some in seen)
    assert set().union(*seen) == {0, 1, 2}
    with open(mixed, "a", encoding="utf-8") as file:
        file.write(json.dumps({**json.loads(lines[40]), "lang": "it"}) + "\n")
    with pytest.raises(
        InputError, match=r"mixed\.jsonl:41: the only row of mixed/it; .*by_language"
    ):
        prepare(from_tree(tree), World.start("cpu"))
