"""Arrays of one folder: written piece by piece, opened memory-mapped and only where whole.

The folder appears under its name when all is written, its list (cache.json) last. Knows nothing of
what the arrays hold.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

LIST = "cache.json"
_BUFFER = 1 << 16  # values kept before they are written


@dataclass(frozen=True)
class Arrays:
    """What a folder holds: arrays by name, and the facts beside them."""

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]


class ArraysWriter:
    """Columns of a folder that grow together: `with ArraysWriter(folder, key, {...}) as writer`.

    Where the block raises, or the process dies, nothing is under the folder's name.
    """

    def __init__(self, folder: Path, key: str, dtypes: Mapping[str, type]) -> None:
        self.folder, self.key = folder, key
        self.facts: dict[str, Any] = {}
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        self._columns = {
            name: _Column(self._scratch / f"{name}.npy", np.dtype(dtype))
            for name, dtype in dtypes.items()
        }

    def extend(self, name: str, values: Iterable[Any]) -> None:
        """Appends to a column."""
        self._columns[name].extend(values)

    def written(self, name: str) -> npt.NDArray[Any]:
        """A column so far, memory-mapped."""
        column = self._columns[name]
        column.flush()
        return _mapped(column.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for column in self._columns.values():
                with contextlib.suppress(OSError):  # of a full disk, told already
                    column.file.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _finish(self) -> None:
        listed = {}
        for name, column in self._columns.items():
            column.flush()
            os.fsync(column.file.fileno())
            listed[name] = [column.dtype.str, column.count, column.path.stat().st_size]
        with (self._scratch / LIST).open("w") as file:
            json.dump({"key": self.key, "arrays": listed, **self.facts}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        self._scratch.chmod(0o755)  # a temporary folder is its owner's alone
        _publish(self._scratch, self.folder, self.key, list(self._columns))


def _publish(scratch: Path, folder: Path, key: str, names: list[str]) -> None:
    """Gives a folder its name; one that is whole and there already stays, a damaged one goes."""
    for last in (False, False, True):
        try:
            os.rename(scratch, folder)
        except OSError:
            if last or not folder.exists():
                raise
        else:
            return
        if open_arrays(folder, key, names) is not None:
            return  # another process was first
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):  # another process took it away
            os.rename(folder, aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)


def open_arrays(folder: Path, key: str, names: Iterable[str]) -> Arrays | None:
    """The arrays of a folder, memory-mapped; None where one is missing or not as it was listed."""
    try:
        facts = json.loads((folder / LIST).read_text(encoding="utf-8"))
        listed = facts.pop("arrays")
        if facts.pop("key") != key or set(listed) != set(names):
            return None
        arrays = {}
        for name, (dtype, count, size) in listed.items():
            path = folder / f"{name}.npy"
            if path.stat().st_size != size:
                return None
            arrays[name] = _mapped(path)
            if arrays[name].dtype.str != dtype or arrays[name].shape != (count,):
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return Arrays(arrays, facts)


def _mapped(path: Path) -> npt.NDArray[Any]:
    """A .npy file as a plain array over its mapped bytes: np.memmap itself is slow to slice."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class _Column:
    """A .npy file of one dimension that grows."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype, self.count = path, dtype, 0
        self._waiting: list[Any] = []
        self.file = path.open("wb")
        self._header()

    def _header(self) -> None:
        # NumPy pads the header so that a larger first axis takes no more room.
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count,)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, facts)
        self.file.seek(0, os.SEEK_END)

    def extend(self, values: Iterable[Any]) -> None:
        if isinstance(values, np.ndarray):
            self._write()
            self.file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
            self.count += len(values)
            return
        self._waiting.extend(values)
        if len(self._waiting) >= _BUFFER:
            self._write()

    def _write(self) -> None:
        self.file.write(np.array(self._waiting, dtype=self.dtype).data)
        self.count += len(self._waiting)
        self._waiting.clear()

    def flush(self) -> None:
        self._write()
        self._header()
        self.file.flush()
