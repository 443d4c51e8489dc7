"""Files that survive a crash: an append-only array, a JSON file replaced whole, a lock.

Knows nothing of rows or vectors.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.errors import StoreError


class AppendFile:
    """An array of one dtype on disk, (N,) or (N, width), that grows at its end and is mapped."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int | None = None) -> None:
        self.path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self.size = os.fstat(self._file).st_size  # bytes
        self._mapped: npt.NDArray[Any] | None = None

    def view(self) -> npt.NDArray[Any]:
        """The whole array as it is now, read-only, backed by the file."""
        if self._mapped is None:
            shape = (-1,) if self._width is None else (-1, self._width)
            if self.size:
                count = self.size // self._dtype.itemsize
                flat = np.memmap(self.path, self._dtype, "r", shape=count)
                self._mapped = flat.view(np.ndarray).reshape(shape)
            else:
                empty = (0,) if self._width is None else (0, self._width)
                self._mapped = np.empty(empty, self._dtype)
        return self._mapped

    def append(self, values: npt.NDArray[Any] | bytes) -> None:
        """Writes at the end; raises OSError (a full disk), and then `cut` makes good."""
        if isinstance(values, bytes):
            data = memoryview(values)
        else:
            flat = np.ascontiguousarray(values, self._dtype).reshape(-1)
            data = memoryview(flat.view(np.uint8).data)
        os.lseek(self._file, self.size, os.SEEK_SET)
        written = 0
        while written < len(data):
            written += os.write(self._file, data[written:])
        if written:
            self.size += written
            self._mapped = None

    def cut(self, size: int) -> None:
        """Forgets what stands after the first `size` bytes."""
        self._mapped = None
        os.ftruncate(self._file, size)
        self.size = size

    def fsync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        self._mapped = None
        os.close(self._file)


class Lock:
    """Holds a folder for this process (and this object alone) until `release`."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock; raises StoreError with the owner's process id where it is taken."""
        path = folder / "lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._file)
        except OSError as error:
            os.lseek(self._file, 0, os.SEEK_SET)
            owner = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            here = " (this one)" if owner == str(os.getpid()) else ""
            raise StoreError(
                f"{folder} is open in process {owner}{here}: an index has one owner at a time, "
                "so close it there first"
            ) from error
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._file)  # which lets go of the lock, as the end of the process would


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # past the process id, so that others can read it
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_json(path: Path, what: str) -> Any:
    """A JSON file's value; raises StoreError naming it where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: {path.parent} is no whole {what}") from error
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError too
        raise StoreError(f"{path} is damaged ({error}): rebuild the {what}") from error


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file so that, whatever happens, the old or the new one is there whole."""
    scratch = path.with_name(f".{path.name}.new")
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    fsync_folder(path.parent)


def touch(path: Path) -> None:
    """Makes an empty file, durably; raises StoreError where the disk is full."""
    try:
        path.touch()
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot write ({error.strerror})") from error


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder durable (Windows cannot, and does it by itself)."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
