"""Files of a run: the model in the reference layout, and checkpoints of its training.

A checkpoint step-000123 holds all that a resumed run needs, written whole or not at all:
model.safetensors and optimiser.safetensors (float32), and state.json. Random states need no file:
each step seeds them from (seed, step, device). Knows nothing of data or losses.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tercet.checkpoint import Checkpoint, write_checkpoint
from tercet.errors import MissingExtraError, TercetError
from tercet.io import atomic_folder, inner_path, read_json, write_json
from tercet.layout import Settings
from tercet.model import current_name

FORMAT = 1  # of a checkpoint


def tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's files; raises MissingExtraError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "run.tensorboard needs `pip install 'tercet[tensorboard]'`"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def flat(tree: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, joint, f"{prefix}{name}{joint}")
        else:
            out[f"{prefix}{name}"] = value
    return out


def write_model(target: Path, checkpoint: Checkpoint, settings: Settings) -> None:
    """Writes a model in the reference layout in place of what lies there."""
    try:
        with atomic_folder(target, replace=True) as scratch:
            scratch.rmdir()  # write_checkpoint makes it
            write_checkpoint(scratch, checkpoint.model, checkpoint.tokenizer, settings=settings)
    except OSError as error:
        raise TercetError(f"{target}: the model cannot be written: {error}") from error


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    facts: Mapping[str, Any],
    *,
    keep: int,
) -> None:
    """Writes folder/checkpoints/step-N, then removes all but the `keep` newest.

    Raises TercetError where it cannot be written (a full disk): the checkpoints before stay.
    """
    target = folder / "checkpoints" / f"step-{step:06d}"
    try:
        with atomic_folder(target, replace=True) as scratch:
            weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
            save_file(weights, scratch / "model.safetensors")
            del weights
            moments = {
                f"{name}/{kind}": torch.as_tensor(value).detach().cpu().contiguous()
                for name, parameter in model.named_parameters()
                for kind, value in optimiser.state.get(parameter, {}).items()
            }
            save_file(moments, scratch / "optimiser.safetensors")
            sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
            state = {"format": FORMAT, "step": step, "files": sizes, **facts}
            write_json(scratch / "state.json", state)
    except (OSError, SafetensorError) as error:
        left = checkpoints(folder)
        last = f"the last good checkpoint is {left[-1]}" if left else "there is no checkpoint yet"
        raise TercetError(f"{target}: the checkpoint cannot be written: {error}; {last}") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first; copies under other names are none."""
    found = (path.parent for path in folder.glob("checkpoints/step-*/state.json"))
    own = [path for path in found if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(own, key=lambda path: int(path.name.partition("-")[2]))


def load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Brings model and optimiser to a checkpoint's state; returns what is in its state.json.

    Raises TercetError where it is of another run than one with these facts, and for a damaged file,
    naming it and the checkpoint to go on from instead.
    """
    file = path / "state.json"
    try:
        state: dict[str, Any] = read_json(file)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r}")
        for name, now in json.loads(json.dumps(run)).items():
            if (was := state["run"].get(name)) != now:
                raise TercetError(
                    f"{path}: {name} was {json.dumps(was):.60}, now it is {json.dumps(now):.60}:"
                    " resume with what it was, or start a new run in another folder"
                )
        for name, size in state["files"].items():
            file = inner_path(path, name)
            if file.stat().st_size != size:
                raise ValueError(f"{file.stat().st_size} bytes, expected {size} bytes")
        file = path / "optimiser.safetensors"
        moments = {current_name(name): tensor for name, tensor in load_file(file).items()}
        file = path / "model.safetensors"
        model.load_state_dict({current_name(n): tensor for n, tensor in load_file(file).items()})
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        others = [other for other in checkpoints(path.parents[1]) if other != path]
        fix = f"to go on from {others[-1].name}" if others else "and start anew"
        what = str(error).strip().partition("\n")[0]
        raise TercetError(f"{file}: damaged ({what}): remove {path} {fix}") from error
    for name, parameter in model.named_parameters():
        parts = {kind: moments.get(f"{name}/{kind}") for kind in ("step", "exp_avg", "exp_avg_sq")}
        kept = {kind: part.to(parameter.device) for kind, part in parts.items() if part is not None}
        if kept:
            optimiser.state[parameter] = kept
    return state
