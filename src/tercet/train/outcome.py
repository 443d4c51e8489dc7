"""What a run leaves behind: dev figures on the way, the best model, and the last one.

Knows nothing of steps. `dev.py` measures.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from tercet.checkpoint import Settings, write_checkpoint
from tercet.errors import TercetError
from tercet.train.config import DONE, MODEL, SourceConfig, to_tree
from tercet.train.dev import DevSet, check, dev_sets, tune_weights
from tercet.train.encode import model_encoder
from tercet.train.examples import Examples
from tercet.train.loop import Log
from tercet.train.prepare import Prepared, cache_folder, heads_of


class DevChecks:
    """nDCG@10 of every trained head on the dev files, and the weights that suit them."""

    def __init__(self, ready: Prepared) -> None:
        config = ready.config
        sources = tuple(SourceConfig(files=(path,)) for path in config.data.dev)
        held = Examples.load(
            sources, ready.checkpoint.tokenizer, config.data, cache=cache_folder(config)
        )
        self.sets: list[DevSet] = dev_sets(
            held, [source.label for source in sources], most=config.run.dev_queries
        )
        self.encode = model_encoder(
            ready.checkpoint.model,
            held,
            ready.checkpoint.tokenizer,
            heads=heads_of(config),
            dtype=ready.dtype,
        )
        self.settings = ready.checkpoint.settings

    def run(self) -> dict[str, Any]:
        """Every set's and head's figure; score is the mean of all."""
        found = check(self.sets, self.encode, self.settings.weights)
        values = [value for heads in found.values() for value in heads.values()]
        return {"score": round(float(np.mean(values)), 2), **found}


def write_model(target: Path, ready: Prepared, settings: Settings | None = None) -> None:
    """Writes the model in the reference layout in place of what lies there."""
    scratch, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        write_checkpoint(
            scratch,
            ready.checkpoint.model,
            ready.checkpoint.tokenizer,
            settings=settings or trained_settings(ready),
        )
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
        os.rename(scratch, target)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise TercetError(f"{target}: the model cannot be written: {error}") from error
    shutil.rmtree(old, ignore_errors=True)


def trained_settings(ready: Prepared) -> Settings:
    """The model's settings with the prefixes that it is trained with."""
    data = ready.config.data
    return replace(
        ready.checkpoint.settings,
        query_prefix=data.query_prefix,
        passage_prefix=data.passage_prefix,
    )


def finish(
    folder: Path, ready: Prepared, start: dict[str, torch.Tensor], dev: DevChecks | None, log: Log
) -> None:
    """Blends, tunes the weights of the hybrid sum on dev, and writes model/ and DONE."""
    config, model = ready.config, ready.checkpoint.model
    model.eval()
    if start:
        blend(model, start, config.blend)
    settings = trained_settings(ready)
    facts: dict[str, Any] = {
        "stage": config.stage,
        "sources": [source.label for source in config.data.sources],
        "rows": len(ready.examples),
        "steps": ready.steps,
        "config": portable(to_tree(config)),
    }
    if dev is not None and config.stage == "unified":
        weights, _ = tune_weights(dev.sets, dev.encode)
        facts["dev_ndcg_at_10"] = check(dev.sets, dev.encode, weights)
        settings = replace(settings, weights=weights)
        log({"dev": facts["dev_ndcg_at_10"], "weights": weights.as_tuple()})
    before = ready.checkpoint.settings.training
    if before:
        facts["before"] = dict(before)
    write_model(folder / MODEL, ready, replace(settings, training=facts))
    (folder / DONE).touch()


def portable(tree: dict[str, Any]) -> dict[str, Any]:
    """A config as it is told to others: folders and files by their names alone."""
    out = dict(tree)
    del out["to"]
    out["model"] = Path(out["model"]).name
    out["teacher"] = {**out["teacher"], "path": Path(out["teacher"]["path"]).name}
    data = dict(out["data"])
    del data["cache"]
    data["dev"] = [Path(name).name for name in data["dev"]]
    data["sources"] = [
        {**source, "files": [Path(name).name for name in source["files"]]}
        for source in data["sources"]
    ]
    out["data"] = data
    return out


@torch.no_grad()
def blend(model: torch.nn.Module, start: dict[str, torch.Tensor], share: float) -> None:
    """Moves a trained model back towards its start: share of the trained weights, rest the start's.

    A short run on little data gains on what it saw and forgets some of the rest; the mean keeps
    most of both. Source: Wortsman et al. 2022, arXiv 2109.01903 (weight-space ensembles).
    """
    for name, tensor in model.state_dict().items():
        tensor.copy_(share * tensor + (1 - share) * start[name])
