"""The weights of a checkpoint as NumPy arrays, without torch: safetensors, and torch's own files.

What NumPy has no type for is converted when it is asked for: bfloat16 to float32, float8 to
float16. Files are memory-mapped. Of torch's files the zipped ones are read (since torch 1.6), and
nothing is unpickled but tensors.
"""

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tercet.errors import ModelError
from tercet.io import check_file

Array = npt.NDArray[Any]

_WORDS = "embeddings.word_embeddings.weight"  # what stands before it is the prefix of all names
# Of a type its NumPy type as stored, and what makes numbers of it.
_TYPES: dict[str, tuple[Any, Callable[[Array], Array] | None]] = {
    "F32": (np.float32, None),
    "F16": (np.float16, None),
    "F64": (np.float64, None),
    "BF16": (np.uint16, lambda bits: (bits.astype(np.uint32) << 16).view(np.float32)),
    "F8_E5M2": (np.uint8, lambda bits: (bits.astype(np.uint16) << 8).view(np.float16)),
}
_TORCH = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "DoubleStorage": "F64",
    "BFloat16Storage": "BF16",
}


class _Stored(NamedTuple):
    file: Path
    kind: str
    shape: tuple[int, ...]
    start: int  # of its bytes in the file


class StoredArrays(Mapping[str, Array]):
    """The tensors of some files by name, behind the prefix that a trunk's names have, if any."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises ModelError where a file is damaged or holds more than tensors."""
        self.files = list(files)
        self._all: dict[str, _Stored] = {}
        for file in self.files:
            check_file(file, ModelError)
            read = _safetensors if file.suffix == ".safetensors" else _zipped
            try:
                stored = read(file)
                size = file.stat().st_size
                for name, part in stored.items():
                    if part.kind not in _TYPES:
                        raise ValueError(f"{name} is of type {part.kind}")
                    length = math.prod(part.shape) * np.dtype(_TYPES[part.kind][0]).itemsize
                    if part.start < 0 or min(part.shape, default=0) < 0:
                        raise ValueError(f"{name} has no place or shape")
                    if part.start + length > size:
                        raise ValueError(f"{name} goes on behind its end")
            except pickle.UnpicklingError as error:
                raise ModelError(
                    f"{file}: is corrupt, or holds more than tensors, which Tercet does not load"
                ) from error
            except Exception as error:  # whatever bytes make of a reader
                raise ModelError(f"{file}: corrupt or truncated: {error}") from error
            self._all |= stored
        ends = [name for name in self._all if name.endswith(_WORDS)]
        self._prefix = ends[0].removesuffix(_WORDS) if len(ends) == 1 else ""

    def under(self, prefix: str) -> dict[str, Array]:
        """What stands under a part of the stored names, such as `sparse_linear.`, by the rest."""
        return {
            name.rpartition(prefix)[2]: self._read(name, stored)
            for name, stored in self._all.items()
            if f".{prefix}" in f".{name}"
        }

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, name: str) -> Array:
        return self._read(name, self._all[self._prefix + name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._all[self._prefix + name].shape

    def _read(self, name: str, stored: _Stored) -> Array:
        if not math.prod(stored.shape):
            return np.zeros(stored.shape, dtype=np.float32)
        dtype, convert = _TYPES[stored.kind]
        mapped = np.memmap(
            stored.file, np.dtype(dtype).newbyteorder("<"), "r", stored.start, stored.shape
        )
        bits = np.asarray(mapped)
        numbers = bits if convert is None else convert(bits)
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"{stored.file}: {name} holds values that are not finite: the file is damaged, or"
                " the training that made it went astray"
            )
        return numbers


def _safetensors(path: Path) -> dict[str, _Stored]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("its header goes on behind its end")
        header = json.loads(file.read(length))
    return {
        name: _Stored(
            path,
            part["dtype"],
            tuple(map(int, part["shape"])),
            8 + length + int(part["data_offsets"][0]),
        )
        for name, part in header.items()
        if name != "__metadata__"
    }


class _Tensor(NamedTuple):
    key: str
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Makes `_Tensor`s of what torch.save wrote, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *rest: _Tensor(
                storage[0], storage[1], offset, shape, strides
            )
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *rest: tensor
        if module == "torch" and name in _TORCH:
            return _TORCH[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, *_ = pid
        return key, kind


def _zipped(path: Path) -> dict[str, _Stored]:
    with zipfile.ZipFile(path) as file:
        (top,) = (name for name in file.namelist() if name.endswith("/data.pkl"))
        with file.open(top) as pickled:
            state = _Unpickler(pickled).load()
        if isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        out: dict[str, _Stored] = {}
        with path.open("rb") as raw:
            for name, tensor in state.items():
                entry = file.getinfo(f"{top.removesuffix('data.pkl')}data/{tensor.key}")
                if entry.compress_type:
                    raise ValueError("its tensors are packed, torch stores them as they are")
                raw.seek(entry.header_offset + 26)
                names = struct.unpack("<HH", raw.read(4))  # lengths of what stands before the bytes
                start = entry.header_offset + 30 + sum(names)
                size = np.dtype(_TYPES[tensor.kind][0]).itemsize
                plain = [math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape))]
                if list(tensor.strides) != plain and math.prod(tensor.shape) > 1:
                    raise ValueError(f"{name} is a view that is not stored row by row")
                if (math.prod(tensor.shape) + tensor.offset) * size > entry.file_size:
                    raise ValueError(f"{name} is larger than the numbers that are stored for it")
                out[name] = _Stored(path, tensor.kind, tensor.shape, start + tensor.offset * size)
        return out
