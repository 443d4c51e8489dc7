"""A whole run of one stage: model, data, loop, and the model that it leaves behind.

The folder of a run holds config.json, metrics.jsonl, checkpoints/, refresh/ (negatives found while
training), best/ and model/ in the reference layout, and DONE at the end. Never sees an index:
negatives are mined by a callable, or by another process that answers in refresh/.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tercet.errors import InputError
from tercet.train.collate import Collator
from tercet.train.config import TrainConfig, to_tree
from tercet.train.distributed import World
from tercet.train.loop import Log, Loop, make_optimiser, resume
from tercet.train.metrics import RunWriter
from tercet.train.outcome import DevChecks, finish, write_model
from tercet.train.prepare import Prepared, Show, make_retromae, prepare
from tercet.train.refresh import Mine, refresh, take_up
from tercet.train.steps import PairStep, RetroStep, Step
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

    Raises InputError for a run that cannot be made, Stopped where SIGTERM ended it, TercetError for
    a loss that is not finite or a disk that is full.
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
    if not resumed and (folder / "config.json").exists():
        raise InputError(
            f"{folder} holds a run already: go on with --resume, or name another folder"
        )
    ready = prepare(config, world)
    config, model = ready.config, ready.checkpoint.model
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(to_tree(config), indent=1) + "\n")
    world.wait()
    start = {name: t.clone() for name, t in model.state_dict().items()} if config.blend < 1 else {}
    collator = Collator(ready.examples, ready.checkpoint.tokenizer, config.data, seed=config.seed)
    shared = (ready.examples, ready.sampler, collator, config, world, ready.dtype, ready.sub_batch)
    trained: torch.nn.Module = model
    step: Step
    if config.stage == "retromae":
        trained = retro = make_retromae(ready.checkpoint, config, world.device)
        step = RetroStep(retro, *shared)
    else:
        step = PairStep(model, *shared, targets=_targets(config, ready))
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
        refresh=partial(refresh, folder, ready, collator, mine) if config.negatives.every else None,
        log=writer,
        show=show or (lambda done, total, tokens: None),
    )
    if resumed:
        resume(loop)
        if loop.negatives:
            take_up(folder, loop.negatives, ready, collator)
    if config.compile:
        model.backbone.compile(dynamic=True)
    try:
        loop.run()
        if world.first:
            finish(folder, ready, start, dev, writer)
    finally:
        writer.close()
    world.wait()
    return folder / "model"


def _facts(config: TrainConfig, ready: Prepared) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on from."""
    tree = to_tree(config)
    same = ("stage", "seed", "batch", "loss", "optimiser", "negatives", "retromae", "dropout")
    return {
        "data": ready.examples.fingerprint,
        "devices": ready.world.size,
        "steps": ready.steps,
        "dtype": str(ready.dtype),
        "start": ready.checkpoint.fingerprint,
        **{name: tree[name] for name in same},
        "data settings": {n: v for n, v in tree["data"].items() if n not in ("cache", "dev")},
    }


def _targets(config: TrainConfig, ready: Prepared) -> Targets | None:
    if not config.teacher:
        return None
    size = ready.checkpoint.model.backbone.config.hidden
    vectors = TeacherVectors.join([TeacherVectors.load(Path(p)) for p in config.teacher.split(",")])
    return Targets(ready.examples, vectors, size)
