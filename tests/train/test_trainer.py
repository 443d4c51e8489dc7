"""Whole runs of a tiny model: what they leave, stop and resume, negatives found on the way."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from tercet.checkpoint import read_checkpoint
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, TercetError
from tercet.mining.miner import follow
from tercet.train import runfolder
from tercet.train.config import TrainConfig, from_tree
from tercet.train.dev import DevChecks
from tercet.train.distributed import World
from tercet.train.plan import Plan, make_plan, prepare, representation_bytes
from tercet.train.trainer import Stopped, Trainer, make_retromae, rate, train
from tests.conftest import WORDS

LONG = [word for word in dict.fromkeys(WORDS) if len(word) > 3]


def write_rows(path: Path, count: int = 40, *, negatives: int = 2, seed: int = 0) -> Path:
    """Rows whose passage has two words of its query, and negatives that have one."""
    draw = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def run(tree: dict[str, Any], to: str = "", **options: Any) -> list[dict[str, Any]]:
    """Trains, in a folder beside the tree's where one is named, and returns metrics.jsonl."""
    folder = Path(tree["to"]).with_name(to) if to else Path(tree["to"])
    train(from_tree({**tree, "to": str(folder)}), **{"log": lambda line: None, **options})
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(tree: dict[str, Any], to: str = "run") -> list[str]:
    """The names of a run's checkpoints."""
    folder = Path(tree["to"]).with_name(to) / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def weights(tree: dict[str, Any], to: str = "run") -> dict[str, torch.Tensor]:
    newest = Path(tree["to"]).with_name(to) / "checkpoints" / saved(tree, to)[-1]
    return load_file(newest / "model.safetensors")


def same(tree: dict[str, Any], left: str, right: str) -> bool:
    ours, theirs = weights(tree, left), weights(tree, right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def at_step(step: int, act: Callable[[], Any]) -> Callable[[dict[str, Any]], None]:
    """A log that acts when a step is reported."""

    def log(line: dict[str, Any]) -> None:
        if line.get("step") == step and "loss" in line:
            act()

    return log


def fail(error: BaseException) -> Callable[..., None]:
    def raises(*arguments: Any) -> None:
        raise error

    return raises


# What a run leaves


def test_a_run_learns_and_leaves_a_model(tree: dict[str, Any], rows: Path) -> None:
    tree |= {"steps": 40, "dropout": 0.0}
    tree["run"] |= {"evaluate_every": 20, "report_every": 5}
    tree["data"]["dev"] = [str(rows)]
    lines, folder = run(tree), Path(tree["to"])
    reports = [line for line in lines if "loss" in line]
    assert reports[-1]["loss"] < 0.7 * reports[0]["loss"]
    assert reports[-1].keys() >= {
        "loss_dense", "loss_sparse", "loss_multi", "loss_inter", "norm", "tokens_per_s", "padding",
        "memory_mb", "terms_query", "terms_passage", "lr", "loss_dense_distil",
    }  # fmt: skip
    measured = [line for line in lines if "dev" in line]
    assert {line["measure"] for line in measured} == {"nDCG@10, percent"}
    assert [line.get("step") for line in measured] == [0, 20, 40, None]
    dev = [line["dev"]["rows"] for line in measured]
    assert set(dev[0]) >= {"dense", "sparse", "multi"}
    assert dev[-1]["all"] >= dev[0]["all"]
    assert (folder / "best" / "model.safetensors").exists()
    assert (folder / "DONE").exists()
    encoder = Encoder.load(folder / "model")
    assert encoder.settings.training["steps"] == 40
    assert encoder.settings.query_prefix == "the "  # the model keeps its own
    assert encoder.encode(["the river"]).heads == ("dense", "sparse", "multi")
    with pytest.raises(InputError, match="holds a run already: go on with --resume"):
        run(tree)


def test_the_model_with_the_best_dev_figures_is_kept(
    tree: dict[str, Any], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([90.0, 30.0, 40.0, 40.0, 20.0])  # the first is of the start, which is no result
    monkeypatch.setattr(DevChecks, "run", lambda self: {"score": next(scores)})
    tree["data"]["dev"] = [str(rows)]
    tree["run"] |= {"evaluate_every": 1, "save_every": 1, "keep": 4}
    run({**tree, "stage": "contrastive", "steps": 4})
    folder = Path(tree["to"])
    best = read_checkpoint(folder / "best").model.state_dict()
    second = load_file(folder / "checkpoints/step-000002/model.safetensors")
    assert all(torch.equal(second[name], best[name]) for name in best)
    assert json.loads((folder / "checkpoints/step-000004/state.json").read_text())["best"] == 40.0


def test_every_dev_file_has_figures_of_its_own(tree: dict[str, Any], rows: Path) -> None:
    names = ["rows.jsonl", "other/rows.jsonl", "other/score.jsonl", "alone.jsonl"]
    files = [str(write_rows(rows.with_name("dev") / name, 4)) for name in names]
    tree["data"]["dev"] = files
    dev = DevChecks(prepare(from_tree(tree), World.start("cpu"))).run()
    assert list(dev) == ["score", *files[:3], "alone"]
    Path(files[1]).write_text('{"text": "the river"}\n')
    with pytest.raises(InputError, match=r"other/rows\.jsonl: no row with a query and a positive"):
        DevChecks(prepare(from_tree(tree), World.start("cpu")))


def test_a_run_that_came_to_nothing_does_not_bar_the_next(tree: dict[str, Any], rows: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        run({**tree, "data": {**tree["data"], "dev": [str(rows.with_name("absent.jsonl"))]}})
    with pytest.raises(KeyboardInterrupt):  # before the first checkpoint
        run(tree, log=fail(KeyboardInterrupt()))
    stale = Path(tree["to"]) / "refresh" / "step-000002"
    stale.mkdir(parents=True)
    (stale / "negatives.jsonl").write_text("of another run\n")
    tree["negatives"] = {"every": 2}
    lines = run(tree, mine=Miner(rows))
    assert (Path(tree["to"]) / "DONE").exists()
    assert [line["step"] for line in lines if "of" in line] == [*range(1, 7)]


def test_retromae_learns_from_raw_text_and_new_positions(tree: dict[str, Any], rows: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(LONG[:12], size=int(draw.integers(5, 30)))) for _ in range(30)]
    rows.write_text("".join(json.dumps({"text": text, "lang": "en"}) + "\n" for text in texts))
    with pytest.raises(InputError, match=r"rows\.jsonl:1: a raw text has no 'pos'"):
        run({**tree, "stage": "contrastive"})
    tree |= {"stage": "retromae", "steps": 30, "dropout": 0.0}
    tree |= {"retromae": {"positions": 700}, "optimiser": {"lr": 3e-3}}
    tree["data"]["shuffle_segments"] = 0.0
    reports = [line for line in run(tree) if "loss" in line]
    for name in ("loss_encoder", "loss_decoder"):
        assert reports[-1][name] < 0.9 * reports[0][name]
    encoder = Encoder.load(Path(tree["to"]) / "model")
    assert encoder.max_length == 698
    dense = encoder.encode(["the " * 690], heads=("dense",)).dense
    assert dense is not None
    assert np.isfinite(dense).all()


def test_retromae_begins_with_the_language_head_of_the_checkpoint(
    tree: dict[str, Any], tiny_checkpoint: Path
) -> None:
    with_head = Path(tree["to"]).with_name("with-head")
    shutil.copytree(tiny_checkpoint, with_head)
    tensors = load_file(with_head / "model.safetensors")
    words = len(tensors["embeddings.word_embeddings.weight"])
    sizes: dict[str, tuple[int, ...]] = {
        "dense.weight": (32, 32),
        "dense.bias": (32,),
        "bias": (words,),
    }
    sizes |= {"layer_norm.weight": (32,), "layer_norm.bias": (32,)}
    own = {f"lm_head.{name}": torch.randn(size) for name, size in sizes.items()}
    save_file(tensors | own, with_head / "model.safetensors", metadata={"format": "pt"})
    config = from_tree({**tree, "stage": "retromae", "model": str(with_head)})
    head = make_retromae(prepare(config, World.start("cpu"))).head
    assert torch.equal(head.bias, own["lm_head.bias"])
    assert torch.equal(head.norm.bias, own["lm_head.layer_norm.bias"])


@pytest.mark.parametrize(
    ("change", "still"),
    [
        ({"stage": "contrastive"}, ["sparse_linear", "colbert_linear"]),
        ({"optimiser": {"lr": 1e-3, "embedding_lr": 0.0}}, ["word_embeddings"]),
        (
            {"optimiser": {"lr": 1e-3, "frozen": ["positions", "layers 2-2", "multi"]}},
            ["position_embeddings", "layers.1.", "multi."],
        ),
    ],
)
def test_what_is_not_trained_stays(
    tree: dict[str, Any], tiny_checkpoint: Path, change: dict[str, Any], still: list[str]
) -> None:
    run({**tree, **change, "steps": 2})
    before = read_checkpoint(tiny_checkpoint).model.state_dict()
    after = read_checkpoint(Path(tree["to"]) / "model").model.state_dict()
    still = [{"sparse_linear": "sparse.", "colbert_linear": "multi."}.get(n, n) for n in still]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    for part in still:
        assert any(part in name for name in before)
        assert not any(part in name for name in changed)
    assert any("layers.0." in name for name in changed)


def test_products_in_bfloat16_stay_near(tree: dict[str, Any]) -> None:
    found = [
        next(x["loss"] for x in run({**tree, "dtype": d, "dropout": 0.0}, d) if "loss" in x)
        for d in ("float32", "bfloat16")
    ]
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.1)


@pytest.mark.parametrize("stage", ["unified", "retromae"])
def test_accumulated_batches_are_averaged(tree: dict[str, Any], stage: str) -> None:
    tree |= {"dropout": 0.0, "optimiser": {"lr": 1e-12}, "stage": stage}
    tree["loss"] = {"distillation": False}
    single = [line for line in run(tree, "single") if "norm" in line]
    tree["batch"]["accumulate"], tree["steps"] = 3, 2
    lines = [line for line in run(tree) if "norm" in line]
    assert len(lines) == 2
    for at, line in enumerate(lines):
        three = single[3 * at : 3 * at + 3]
        losses = [one["loss"] for one in three]
        assert max(losses) - min(losses) > 1e-3
        assert line["loss"] == pytest.approx(np.mean(losses), abs=2e-5)
        assert line["norm"] < max(one["norm"] for one in three)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = TrainConfig(steps=100).optimiser
    found = [rate(config, step, 100) for step in range(100)]
    assert found[0] < found[5] < found[10]
    assert max(found) == pytest.approx(1.0)
    assert found[50] > found[99] > 0


def test_a_collapsed_head_is_reported(tree: dict[str, Any], tiny_checkpoint: Path) -> None:
    silent = Path(tree["to"]).with_name("silent")
    shutil.copytree(tiny_checkpoint, silent)
    torch.save(
        {"weight": torch.zeros(1, 32), "bias": torch.full((1,), -5.0)}, silent / "sparse_linear.pt"
    )
    said = [x["warning"] for x in run({**tree, "model": str(silent)}, "mute") if "warning" in x]
    assert "a passage has 0.0 sparse weights above 0: it may have collapsed" in said
    said = [line["warning"] for line in run(tree) if "warning" in line]
    assert len(said) == 1
    assert said[0].startswith("6 steps are few")


def test_a_set_that_compares_little_or_nothing_is_told(tree: dict[str, Any], rows: Path) -> None:
    def planned(**changes: Any) -> Plan:
        changed = [{**json.loads(line), **changes} for line in rows.read_text().splitlines()]
        path = rows.with_name("changed.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        sources = [{"files": [str(path)]}]
        ready = prepare(
            from_tree({**tree, "data": {**tree["data"], "sources": sources}}), World.start("cpu")
        )
        return make_plan(ready)

    assert "compared" not in str(planned().warning)
    assert "compared with 0% of its batch's other passages, and 0% of" in str(
        planned(group=1).warning
    )
    assert "compared" not in str(planned(neg=[]).warning)
    with pytest.raises(InputError, match="nothing to learn from: no query"):
        planned(group=1, neg=[])


def test_the_plan(tree: dict[str, Any]) -> None:
    tree["batch"] = {"lengths": [16, 64], "rows": 8, "memory_gb": 0.001}
    plan = make_plan(prepare(from_tree(tree), World.start("cpu")))
    assert (plan.rows, plan.steps, plan.distillation_from) == (40, 6, 1)
    assert sum(group["rows"] for group in plan.groups) == 40
    assert 0 <= plan.padding <= plan.padding_at_random < 1
    assert plan.sub_batch_tokens is not None
    ready = prepare(from_tree({**tree, "batch": {"rows": 8}}), World.start("cpu"))
    whole = make_plan(ready)
    assert whole.sub_batch_tokens is None
    assert whole.activations_mb >= plan.activations_mb
    pool = ready.sampler.pools[0]
    # as much again for the gradient of each vector: 32 of dense, 16 of multi, both in float32
    assert representation_bytes(ready, pool) > 2 * 4 * (16 * pool.size * pool.tokens)


# Stop, fail, go on


def test_a_resumed_run_is_the_uninterrupted_one(tree: dict[str, Any]) -> None:
    run(tree, "whole")
    with pytest.raises(ZeroDivisionError):
        run(tree, log=at_step(5, fail(ZeroDivisionError())))
    assert saved(tree) == ["step-000004", "step-000005"]  # the error saved the steps before it
    run(tree, resumed=True)
    assert same(tree, "run", "whole")
    run({**tree, "seed": 1}, "other")
    assert not same(tree, "run", "other")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tree: dict[str, Any], number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped at step 3 of 6: go on with --resume") as stop:
        run(tree, log=at_step(3, lambda: os.kill(os.getpid(), number)))
    assert (stop.value.number, saved(tree)[-1]) == (number, "step-000003")
    assert signal.getsignal(number) == before


def test_a_second_interrupt_does_not_wait(tree: dict[str, Any]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tree, log=at_step(3, twice))
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "seed was 0, now it is 5"),
        ({"optimiser": {"lr": 2e-3}}, r"optimiser\.lr was 0\.001, now it is 0\.002"),
        ({}, "the training data was"),
    ],
)
def test_another_run_is_not_resumed(
    tree: dict[str, Any], rows: Path, change: dict[str, Any], said: str
) -> None:
    run(tree)
    if not change:
        write_rows(rows, seed=3)
    with pytest.raises(TercetError, match=said):
        run({**tree, **change}, resumed=True)
    if change:  # what was refused has left no trace
        run(tree, resumed=True)
        kept = json.loads((Path(tree["to"]) / "config.json").read_text())
        assert from_tree(kept).optimiser.lr == 1e-3


def test_a_resumed_run_asks_no_hub_for_the_model_that_it_names(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, *, local_files_only: bool = False, **options: Any) -> Any:
        assert local_files_only
        raise huggingface_hub.errors.LocalEntryNotFoundError("no copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=r"the hub was not asked.*hf download a/stranger"):
        run({**tree, "model": "a/stranger"}, resumed=True)


def test_a_damaged_checkpoint_is_named_and_the_one_before_stays(tree: dict[str, Any]) -> None:
    run(tree)
    last = Path(tree["to"]) / "checkpoints" / "step-000006"
    said = r"damaged .*remove .*step-000006 to go on from step-000004"
    for name in ("model.safetensors", "optimiser.safetensors"):
        file = last / name
        whole = file.read_bytes()
        for content in (b"\0" * len(whole), whole[:-100]):  # of its size, and cut
            file.write_bytes(content)
            with pytest.raises(TercetError, match=rf"/{name}: {said}"):
                run(tree, resumed=True)
        file.write_bytes(whole)
    shutil.rmtree(last)
    run(tree, resumed=True)
    assert last.exists()
    shutil.rmtree(last.parent)
    with pytest.raises(TercetError):
        run(tree, resumed=True)


def test_a_loss_that_is_not_finite_names_its_rows(
    tree: dict[str, Any], tiny_checkpoint: Path
) -> None:
    broken = Path(tree["to"]).with_name("broken")
    shutil.copytree(tiny_checkpoint, broken)
    tensors = load_file(broken / "model.safetensors")
    for value, said in (
        (float("nan"), r"layer\.0\.output\.dense\.bias holds values that are not finite"),
        (3e38, r"step 1: .* is nan on a batch of .*rows\.jsonl:\d+, .*low"),
    ):
        tensors["encoder.layer.0.output.dense.bias"][:] = value
        save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(TercetError, match=said):
            run({**tree, "model": str(broken)})
    assert saved(tree) == []


def test_a_full_disk_keeps_the_last_checkpoint(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = safetensors.torch.save_file

    def full(tensors: Any, path: Any) -> None:
        written.append(1)
        if len(written) > 2:  # the first checkpoint has two files
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(runfolder, "save_file", full)
    with pytest.raises(TercetError, match=r"No space left.*the last good checkpoint is .*000002"):
        run(tree)
    assert saved(tree) == ["step-000002"]


# Negatives found while training


class Miner:
    """Answers requests for negatives with passages of other rows, other ones each time."""

    def __init__(self, rows: Path) -> None:
        self.texts = [json.loads(line)["pos"][0] for line in rows.read_text().splitlines()]
        self.asked: list[str] = []

    def __call__(self, request: Path) -> None:
        self.asked.append(request.name)
        assert (request / "READY").exists()
        assert Encoder.load(request / "model").dims["multi"] == 16
        shift = 5 + int(request.name[-6:])
        turned = self.texts[shift:] + self.texts[:shift]
        lines = [json.dumps({"row": row, "neg": [text]}) for row, text in enumerate(turned)]
        (request / "negatives.jsonl").write_text("\n".join(lines) + "\n")


def test_negatives_are_refreshed_at_their_steps_and_kept_for_a_resume(
    tree: dict[str, Any], rows: Path
) -> None:
    run(tree, "without")
    tree["negatives"] = {"every": 2}
    miner = Miner(rows)
    run(tree, mine=miner)
    assert miner.asked == ["step-000002", "step-000004"]
    assert not list(Path(tree["to"]).glob("refresh/*/model"))  # which is large
    assert not same(tree, "run", "without")
    with pytest.raises(KeyboardInterrupt):
        run(tree, "cut", mine=Miner(rows), log=at_step(5, fail(KeyboardInterrupt())))
    run(tree, "cut", mine=Miner(rows), resumed=True)
    assert same(tree, "run", "cut")
    checkpoint = Path(tree["to"]).with_name("cut") / "checkpoints/step-000006"
    used = json.loads((checkpoint / "state.json").read_text())["negatives"]
    assert used.startswith("step-000004:")
    answer = checkpoint.parents[1] / "refresh/step-000004/negatives.jsonl"
    lines = answer.read_text().splitlines()
    first, second = (json.loads(line)["neg"] for line in lines[:2])
    turned = [json.dumps({"row": 0, "neg": second}), json.dumps({"row": 1, "neg": first})]
    answer.write_text("\n".join([*turned, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="has changed since the checkpoint"):
        run(tree, "cut", resumed=True)
    answer.unlink()
    with pytest.raises(InputError, match=r"negatives\.jsonl: cannot be read"):
        run(tree, "cut", resumed=True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no memory"),
        ([{"row": 0, "neg": []}], "negatives for 1 of 40 rows"),
        ([{"row": 1, "neg": []}], r"negatives\.jsonl:1: expected row 0 with its 'neg'"),
        (
            [{"row": 0, "neg": []}, {"row": 1, "neg": ["of no row"]}],
            r"negatives\.jsonl:2: 'of no row' is no passage of the training rows",
        ),
    ],
)
def test_a_refresh_that_fails_costs_no_step(
    tree: dict[str, Any],
    answer: list[dict[str, Any]] | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree["negatives"] = {"every": 3}

    def mine(request: Path) -> None:
        if answer is None:
            # other devices still wait for negatives: nothing may wait for them
            monkeypatch.setattr(World, "wait", fail(AssertionError("waits for other devices")))
            raise RuntimeError("no memory")
        text = "".join(json.dumps(row) + "\n" for row in answer)
        (request / "negatives.jsonl").write_text(text)

    with pytest.raises((RuntimeError, InputError), match=said):
        run(tree, mine=mine)
    assert saved(tree) == ["step-000002", "step-000003"]


def test_the_failure_of_an_earlier_run_is_not_that_of_this(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Path(tree["to"]) / "refresh" / "step-000003"
    request.mkdir(parents=True)
    (request / "FAILED").write_text("no memory")
    trainer = Trainer(prepare(from_tree(tree), World.start("cpu")), Path(tree["to"]))

    def wait() -> None:  # for the first device, which begins anew
        (request / "FAILED").unlink(missing_ok=True)
        lines = [json.dumps({"row": row, "neg": []}) + "\n" for row in range(40)]
        (request / "negatives.jsonl").write_text("".join(lines))

    monkeypatch.setattr(trainer.world, "wait", wait)
    trainer.world.rank = 1
    assert trainer.refresh(3).startswith("step-000003:")


def test_sigterm_ends_a_wait_for_negatives(tree: dict[str, Any]) -> None:
    tree["negatives"] = {"every": 3, "by": "other"}
    folder = Path(tree["to"])
    said: list[dict[str, Any]] = []

    def terminate(line: dict[str, Any]) -> None:
        said.append(line)
        if "waiting" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped before step 4"):
        run(tree, log=terminate)
    assert said[-1]["waiting"] == f"for `tercet mine --follow {folder}`"
    assert saved(tree)[-1] == "step-000003"

    def give_up(line: dict[str, Any]) -> None:
        if "waiting" in line:
            (folder / "refresh/step-000003/FAILED").write_text("no memory")

    with pytest.raises(TercetError, match="no negatives were found: no memory"):
        run(tree, resumed=True, log=give_up)


def test_another_process_answers(tree: dict[str, Any]) -> None:
    tree["negatives"] = {"every": 3, "by": "other", "first": 1, "last": 20, "number": 2}
    folder = Path(tree["to"])
    folder.mkdir()
    answered: list[int] = []
    follower = threading.Thread(
        target=lambda: answered.append(follow(folder, Encoder.load, poll=0.05)), daemon=True
    )
    follower.start()
    run(tree)
    follower.join(timeout=30)
    assert answered == [1]
    facts = json.loads((folder / "checkpoints/step-000006/state.json").read_text())
    assert facts["negatives"].startswith("step-000003:")


def test_copies_beside_the_checkpoints_are_none(tmp_path: Path) -> None:
    for name in ("step-000004", "step-000002", "step-000009.old", "step-000008 copy", "step-last"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "state.json").write_text("{}")
    found = [path.name for path in runfolder.checkpoints(tmp_path)]
    assert found == ["step-000002", "step-000004"]
