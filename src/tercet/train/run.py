"""A whole run of one stage: model, data, loop, and the model that it leaves behind.

The folder of a run holds config.json, metrics.jsonl, checkpoints/, refresh/ (negatives found while
training), best/ and model/ in the reference layout, and DONE at the end. Never sees an index:
negatives are mined by a callable, or by another process that answers in refresh/.
"""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tercet.errors import InputError
from tercet.train.collate import Collator
from tercet.train.config import CONFIG, DONE, MODEL, REFRESH, TrainConfig, to_tree
from tercet.train.distributed import World
from tercet.train.loop import Log, Loop, make_optimiser, resume
from tercet.train.metrics import RunWriter
from tercet.train.outcome import DevChecks, finish, write_model
from tercet.train.prepare import Prepared, Show, dtype_name, make_retromae, prepare
from tercet.train.refresh import Mine, refresh, take_up
from tercet.train.state import checkpoints
from tercet.train.steps import AlignStep, PairStep, RetroStep, Step
from tercet.train.teacher import Targets, TeacherVectors


def train(
    config: TrainConfig,
    *,
    resumed: bool = False,
    mine: Mine | None = None,
    log: Log = print,
    show: Show | None = None,
) -> Path:
    """Runs a stage to its end and returns the folder of the model it wrote.

    Raises InputError for a run that cannot be made, Stopped where a signal ended it, TercetError
    for a loss that is not finite or a disk that is full.
    """
    if not config.to:
        raise InputError("to names no folder: say where the run is kept (--to DIR)")
    world = World.start(config.device or None)
    try:
        return _train(config, world, resumed=resumed, mine=mine, log=log, show=show)
    finally:
        world.stop()


def _train(
    config: TrainConfig,
    world: World,
    *,
    resumed: bool,
    mine: Mine | None,
    log: Log,
    show: Show | None,
) -> Path:
    folder = Path(config.to)
    if not resumed and (checkpoints(folder / "checkpoints") or (folder / DONE).exists()):
        raise InputError(
            f"{folder} holds a run already: go on with --resume, or name another folder"
        )
    ready = prepare(config, world)
    config, model = ready.config, ready.checkpoint.model
    start = {name: t.clone() for name, t in model.state_dict().items()} if config.blend < 1 else {}
    collator = Collator(ready.examples, ready.checkpoint.tokenizer, config.data, seed=config.seed)
    shared = (ready.examples, ready.sampler, collator, config, world, ready.dtype, ready.sub_batch)
    trained: torch.nn.Module = model
    step: Step
    if config.stage == "retromae":
        trained = retro = make_retromae(ready.checkpoint, config, world.device)
        step = RetroStep(retro, *shared)
    elif config.stage == "align":
        step = AlignStep(model, *shared, targets=make_targets(config, ready))
    else:
        targets = make_targets(config, ready) if config.teacher.path else None
        step = PairStep(model, *shared, targets=targets)
    dev = DevChecks(ready) if config.data.dev else None
    writer = RunWriter(folder, log, tensorboard=config.run.tensorboard and world.first)
    loop = Loop(
        config,
        ready.steps,
        folder,
        world,
        trained,
        make_optimiser(trained, config.optimiser),
        step,
        facts=_facts(config, ready),
        evaluate=None if dev is None else dev.run,
        keep_best=partial(write_model, folder / "best", ready),
        log=writer,
        show=show or (lambda done, total, tokens: None),
    )
    if config.negatives.every:
        loop.refresh = partial(
            refresh, folder, ready, collator, mine, stopping=lambda: bool(loop.stopping), log=writer
        )
    if resumed:
        resume(loop)
        if loop.negatives:
            take_up(folder, loop.negatives, ready, collator)
    if world.first and not resumed:
        # what a run left that came to nothing: its negatives are not this one's
        shutil.rmtree(folder / REFRESH, ignore_errors=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        write_config(folder, config)
    world.wait()
    if config.compile:
        model.backbone.compile(dynamic=True)
    try:
        loop.run()
        if world.first:
            finish(folder, ready, start, dev, writer)
    finally:
        writer.close()
    world.wait()
    return folder / MODEL


def write_config(folder: Path, config: TrainConfig) -> None:
    """Writes config.json, for --resume and for `tercet mine --follow`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".config.json.part"
    scratch.write_text(json.dumps(to_tree(config), indent=1) + "\n", encoding="utf-8")
    scratch.replace(folder / CONFIG)


def _facts(config: TrainConfig, ready: Prepared) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on from."""
    free = {"to", "model", "device", "dtype", "compile", "threads", "steps", "epochs", "run"}
    free |= {"data.cache", "data.dev", "data.sources"}  # these may change, or are below
    tree = flat({name: value for name, value in to_tree(config).items() if name not in free})
    weights = [source["weight"] for source in to_tree(config)["data"]["sources"]]
    return {
        "the training data": ready.examples.fingerprint,
        "the number of devices": ready.world.size,
        "the number of steps": ready.steps,
        "the dtype of products": dtype_name(ready.dtype),
        "the model at the start": ready.checkpoint.fingerprint,
        "the weights of the sources": weights,
        **{name: value for name, value in tree.items() if name not in free},
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def make_targets(config: TrainConfig, ready: Prepared) -> Targets:
    """What the teacher of the config says of the run's texts."""
    model = ready.checkpoint.model
    multi = 0 if model.multi is None else model.multi.out_features
    vectors = TeacherVectors.load(Path(config.teacher.path))
    by_token = len(vectors.tokens) and (config.teacher.tokens or config.teacher.rarity)
    if by_token and (config.data.query_prefix or config.data.passage_prefix):
        raise InputError(
            "the teacher's vectors of tokens are of texts without the model's prefixes: take a"
            " model that has none, or set teacher.tokens = 0 and teacher.rarity = 0"
        )
    return Targets(ready.examples, vectors, model.backbone.config.hidden, multi)
