"""The folder of a run: config, metrics, checkpoints, and the model in the reference layout.

A checkpoint step-000123 holds all that a resumed run needs, written whole or not at all:
model.safetensors and optimiser.safetensors (float32), and state.json, last. Random states need no
file: each step seeds them from (seed, step, device). Knows nothing of data or losses.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tercet.checkpoint import Checkpoint, Settings, write_checkpoint
from tercet.errors import MissingExtraError, TercetError
from tercet.io import atomic_folder, write_json
from tercet.model import current_name
from tercet.train.config import CONFIG, TrainConfig, to_tree

FORMAT = 1  # of a checkpoint
Log = Callable[[dict[str, Any]], None]
Facts = dict[str, Any]


# Reports


class RunWriter:
    """metrics.jsonl, TensorBoard where asked, and the caller's own log."""

    def __init__(self, folder: Path, log: Log, *, tensorboard: bool) -> None:
        self.path, self.log, self.board = folder / "metrics.jsonl", log, None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError(
                    "run.tensorboard needs `pip install 'tercet[tensorboard]'`"
                ) from error
            self.board = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, line: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None and "step" in line:
            for name, value in flat(line, "/").items():
                if isinstance(value, int | float) and name not in ("step", "of"):
                    self.board.add_scalar(name, float(value), line["step"])
        self.log(line)

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def flat(tree: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, joint, f"{prefix}{name}{joint}")
        else:
            out[f"{prefix}{name}"] = value
    return out


# Config and model


def write_config(folder: Path, config: TrainConfig) -> None:
    """Writes config.json, for --resume and for `tercet mine --follow`."""
    write_json(folder / CONFIG, to_tree(config))


def write_model(target: Path, checkpoint: Checkpoint, settings: Settings) -> None:
    """Writes a model in the reference layout in place of what lies there."""
    try:
        with atomic_folder(target, replace=True) as scratch:
            scratch.rmdir()  # write_checkpoint makes it
            write_checkpoint(scratch, checkpoint.model, checkpoint.tokenizer, settings=settings)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TercetError(f"{target}: the model cannot be written: {error}") from error


# Checkpoints


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


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
    try:
        with atomic_folder(target, replace=True) as scratch:
            weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
            save_file(weights, scratch / "model.safetensors")
            del weights
            moments: dict[str, Tensor] = {}
            for name, parameter in _trained(model).items():
                for kind, value in optimiser.state.get(parameter, {}).items():
                    moments[f"{name}/{kind}"] = torch.as_tensor(value).detach().cpu().contiguous()
            save_file(moments, scratch / "optimiser.safetensors")
            sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
            write_json(
                scratch / "state.json", {"format": FORMAT, "step": step, "files": sizes, **facts}
            )
    except (OSError, SafetensorError) as error:
        left = checkpoints(folder)
        last = f"the last good checkpoint is {left[-1]}" if left else "there is no checkpoint yet"
        raise TercetError(f"{target}: the checkpoint cannot be written: {error}; {last}") from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    finished = [
        path
        for path in folder.glob("step-*")
        if path.name[5:].isdigit() and (path / "state.json").is_file()
    ]
    return sorted(finished, key=lambda path: int(path.name[5:]))


def read_facts(path: Path) -> Facts:
    """The facts of a checkpoint; raises TercetError where a file of it is short or missing."""
    try:
        facts: Facts = json.loads((path / "state.json").read_text())
        sizes = dict(facts["files"])
        whole = facts["format"] == FORMAT and isinstance(facts["run"], dict)
        if not whole or not isinstance(facts["step"], int):
            raise ValueError(f"format {facts['format']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path / "state.json", str(error)) from error
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            length = f"{file.stat().st_size} bytes" if file.is_file() else "missing"
            raise _damaged(file, f"{length}, expected {size} bytes")
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
        raise _damaged(path / "model.safetensors", str(error).strip().split("\n", 1)[0]) from error
    for name, parameter in _trained(model).items():
        state: dict[str, Tensor] = {}
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            if (value := moments.get(f"{name}/{kind}")) is not None:
                # AdamW keeps its count of steps on the CPU unless it is fused on a GPU
                alone = kind == "step" and not optimiser.defaults.get("fused")
                state[kind] = value if alone else value.to(parameter.device)
        if state:
            optimiser.state[parameter] = state
    return facts


def _damaged(file: Path, what: str) -> TercetError:
    path = file.parent
    others = [other for other in checkpoints(path.parent) if other != path]
    fix = f"to go on from {others[-1].name}" if others else "and start anew"
    return TercetError(f"{file}: damaged ({what}): remove {path} {fix}")
