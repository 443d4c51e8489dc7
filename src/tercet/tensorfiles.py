"""Named tensors in safetensors, shards or a torch zip, read one at a time with little memory.

Knows names, shapes and files; nothing of what the tensors mean. Nothing is unpickled but tensors
(`weights_only=True`).
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tercet.errors import ModelError

# A memory-mapped file counts as resident once read: it is closed and opened again every so often.
REOPEN = 1 << 28  # bytes

_ANCHOR = "embeddings.word_embeddings.weight"  # what stands before it is the prefix of all names


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the trunk's weights, in a fixed order; raises ModelError where none."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            shards = sorted({folder / str(name) for name in names})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of shards: {error!r}") from error
        for shard in shards:
            if shard.parent != folder or not shard.exists():
                raise ModelError(f"{index} names {shard.name}, which is not in the folder")
        return shards
    binary = folder / "pytorch_model.bin"
    if binary.exists():
        return [binary]
    raise ModelError(
        f"{folder} has no weights: none of {single.name}, {index.name} and {binary.name}"
    )


class TensorFiles:
    """What one or more files hold: shapes, whether floats, and which file, by stored name."""

    def __init__(self, files: list[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.floats: dict[str, bool] = {}
        self.owner: dict[str, Path] = {}
        self.prefix = ""  # what the trunk's names begin with, such as `roberta.` or nothing
        self._files = files
        for path in files:
            self._scan(path)

    def _scan(self, path: Path) -> None:
        found: dict[str, tuple[tuple[int, ...], bool]] = {}
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    part = file.get_slice(name)
                    kind = str(part.get_dtype())
                    found[name] = (tuple(part.get_shape()), kind[0] in "FB" and kind != "BOOL")
        else:
            for name, tensor in load_torch(path).items():
                found[name] = (tuple(tensor.shape), tensor.is_floating_point())
        anchors = [name for name in found if name.endswith(_ANCHOR)]
        if anchors:
            self.prefix = min(anchors, key=len)[: -len(_ANCHOR)]
        for name, (shape, floats) in found.items():
            self.shapes[name], self.floats[name] = shape, floats
            self.owner[name] = path

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ModelError naming file and tensor where one is absent, misshapen or no float."""
        files = ", ".join(str(path) for path in self._files)
        for short, shape in expected.items():
            name = self.prefix + short
            if name not in self.shapes:
                raise ModelError(f"{files}: has no tensor {name!r}, which config.json asks for")
            if self.shapes[name] != shape:
                raise ModelError(
                    f"{self.owner[name]}: {name} is {self.shapes[name]}, but config.json says"
                    f" {shape}"
                )
            if not self.floats[name]:
                raise ModelError(f"{self.owner[name]}: {name} does not hold floating-point numbers")

    def reader(
        self,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        prefix: str | None = None,
    ) -> "TensorReader":
        """The tensors under a prefix (the trunk's), each converted as it is asked for."""
        return TensorReader(self, dtype, device, self.prefix if prefix is None else prefix)


class TensorReader(Mapping[str, Tensor]):
    """A lazy state dict: what is asked for is read, converted and not kept."""

    def __init__(
        self, files: TensorFiles, dtype: torch.dtype, device: torch.device | str, prefix: str
    ) -> None:
        self._files, self._dtype, self._device, self._prefix = files, dtype, device, prefix
        self._open: Any = None
        self._path: Path | None = None
        self._read = 0

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._files.shapes

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        return (name[len(prefix) :] for name in self._files.shapes if name.startswith(prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._prefix + name
        path = self._files.owner[stored]
        if path != self._path or self._read > REOPEN:
            self._open = None  # first drop the old mapping
            safe = path.suffix == ".safetensors"
            self._open = _opened(path) if safe else load_torch(path)
            self._path, self._read = path, 0
        held: Tensor = (
            self._open[stored] if isinstance(self._open, dict) else self._open.get_tensor(stored)
        )
        self._read += held.nbytes
        return held.to(self._device, self._dtype, copy=True)


@dataclass(frozen=True)
class HeadFile:
    """A linear head as found: weight (out, H), bias (out,), and the file it came from."""

    tensors: dict[str, Tensor]
    file: Path


def read_head(folder: Path, name: str, hidden: int, trunk: TensorFiles) -> HeadFile | None:
    """The head `name` from its own file or from the trunk's; None where there is none.

    Raises ModelError where it is corrupt, incomplete or not made for `hidden`.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        with _opened(path) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    elif (path := folder / f"{name}.pt").exists():
        tensors = load_torch(path)
    elif f"{name}.weight" in trunk.owner:
        path = trunk.owner[f"{name}.weight"]
        tensors = dict(trunk.reader(torch.float32, prefix=f"{name}."))
    else:
        return None
    if set(tensors) != {"weight", "bias"}:
        raise ModelError(f"{path}: a head is a weight and a bias, this holds {sorted(tensors)}")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or weight.shape[1] != hidden or weight.shape[0] < 1:
        raise ModelError(
            f"{path}: weight is {tuple(weight.shape)}, but the trunk's states have {hidden} numbers"
        )
    if tuple(bias.shape) != (weight.shape[0],):
        raise ModelError(
            f"{path}: bias is {tuple(bias.shape)}, but weight is {tuple(weight.shape)}"
        )
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise ModelError(f"{path}: does not hold floating-point numbers")
    return HeadFile(tensors, path)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: corrupt or truncated safetensors: {error}") from error


def load_torch(path: Path) -> dict[str, Tensor]:
    """A state dict saved by torch, memory-mapped where its format allows; raises ModelError."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 is no zip
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is corrupt, or holds more than tensors, which Tercet does not load"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{path}: corrupt or truncated: {first}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(f"{path}: holds no state dict (names to tensors)")
    return state
