"""Checkpoints of a run: all that a resumed run needs, each written whole or not at all.

A folder step-000123 holds model.safetensors and optimiser.safetensors (float32), and state.json,
last. Random states need no file: each step seeds them from (seed, step, device). Knows nothing of
data or losses.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tercet.errors import TercetError
from tercet.model import current_name

FORMAT = 1
Facts = dict[str, Any]


def names_of(modules: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name."""
    return {name: value for name, value in modules.named_parameters() if value.requires_grad}


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Writes folder/step-N, then removes all but the `keep` newest; returns its path.

    Raises TercetError where it cannot be written (a full disk): the checkpoints before stay.
    """
    target = folder / f"step-{step:06d}"
    scratch = folder / f".{target.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
        save_file(weights, scratch / "model.safetensors")
        del weights
        moments: dict[str, Tensor] = {}
        for name, parameter in names_of(model).items():
            for kind, value in optimiser.state.get(parameter, {}).items():
                moments[f"{name}/{kind}"] = torch.as_tensor(value).detach().cpu().contiguous()
        save_file(moments, scratch / "optimiser.safetensors")
        del moments
        sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
        record = {"format": FORMAT, "step": step, "files": sizes, **facts}
        (scratch / "state.json").write_text(json.dumps(record, indent=1) + "\n")
        for path in scratch.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.rename(scratch, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        left = checkpoints(folder)
        last = f"the last good checkpoint is {left[-1]}" if left else "there is no checkpoint yet"
        raise TercetError(f"{target}: the checkpoint cannot be written: {error}; {last}") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [
        path
        for path in folder.glob("step-*")
        if path.name[5:].isdigit() and (path / "state.json").is_file()
    ]
    return sorted(found, key=lambda path: int(path.name[5:]))


def read_facts(path: Path) -> Facts:
    """The facts of a checkpoint; raises TercetError where a file of it is short or missing."""
    try:
        facts: Facts = json.loads((path / "state.json").read_text())
        sizes = dict(facts["files"])
        step = facts["step"]
        if not isinstance(facts["run"], dict):
            raise TypeError("run is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, path / "state.json", str(error)) from error
    if facts.get("format") != FORMAT or not isinstance(step, int):
        raise _damaged(path, path / "state.json", f"format {facts.get('format')!r}")
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            found = f"{file.stat().st_size} bytes" if file.is_file() else "missing"
            raise _damaged(path, file, f"{found}, expected {size} bytes")
    return facts


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Facts:
    """Brings model and optimiser to a checkpoint's state; returns its facts.

    Raises TercetError naming the damaged file and the checkpoint to go on from instead.
    """
    facts = read_facts(path)
    try:
        weights, moments = (
            {current_name(name): tensor for name, tensor in load_file(path / file).items()}
            for file in ("model.safetensors", "optimiser.safetensors")
        )
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise _damaged(path, path, first) from error
    for name, parameter in names_of(model).items():
        found: dict[str, Tensor] = {}
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            if (value := moments.get(f"{name}/{kind}")) is not None:
                # AdamW keeps its count of steps on the CPU unless it is fused on a GPU
                alone = kind == "step" and not optimiser.defaults.get("fused")
                found[kind] = value if alone else value.to(parameter.device)
        if found:
            optimiser.state[parameter] = found
    return facts


def _damaged(path: Path, file: Path, found: str) -> TercetError:
    others = [other for other in checkpoints(path.parent) if other != path]
    fix = (
        f"remove {path} to go on from {others[-1].name}"
        if others
        else f"remove {path} and start anew"
    )
    return TercetError(f"{file}: damaged ({found}): {fix}")
