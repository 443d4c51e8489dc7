"""Files that survive a power cut: written whole or not at all, and arrays that grow on disk.

Knows nothing of what the files hold.
"""

import glob
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError, TercetError

BUFFER = 1 << 18  # bytes gathered before they are written
LARGEST_JSON = 1 << 26  # bytes of a JSON file that is read whole
_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when the block ends without an error.

    Its content is on the disk before. It is compressed where the name ends in .gz; the same content
    gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(os.fdopen(handle, "wb"))
            if path.suffix == ".gz":  # neither time nor name in the header
                packed = stack.enter_context(
                    gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=3, mtime=0)
                )
                # short lines one by one take GzipFile longer than to pack them
                file = stack.enter_context(io.BufferedWriter(packed, BUFFER))
            yield file
        os.chmod(scratch, 0o644)  # mkstemp makes it for its owner alone
        fsync(scratch)
        os.replace(scratch, path)
        fsync(path.parent)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(
    folder: Path, *, replace: bool = False, partial: Path | None = None
) -> Iterator[Path]:
    """A folder to fill that takes its name when the block ends without an error.

    Its content is on the disk before. An empty folder of that name is replaced, and with replace
    any other: the old one is moved aside before and removed after. Otherwise OSError where there
    is one. What killed processes left is removed; partial is a folder that is filled further, and
    stays where the block fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    lock = None
    if partial is None:
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        lock = _claim(scratch)
    else:
        scratch = partial
        scratch.mkdir(exist_ok=True)
    old: Path | None = None
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # some libraries write for the owner alone, as mkdtemp does
            fsync(path)
        scratch.chmod(0o755)
        fsync(scratch)
        if replace and folder.exists():
            old = folder.with_name(f"{scratch.name}.old")
            os.rename(folder, old)
        elif folder.is_dir():
            folder.rmdir()  # empty, and Windows would not replace it
        os.rename(scratch, folder)
        fsync(folder.parent)
    except BaseException:
        if old is not None and not folder.exists():
            os.rename(old, folder)
        if partial is None:
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _claim(folder: Path) -> int | None:
    """Locks a folder until the handle is closed; None where a process has it, and on Windows."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(folder: Path) -> None:
    """Removes the scratch folders of a name whose processes are dead, and what they replaced."""
    pattern = f".{glob.escape(folder.name)}.????????"
    left = [*folder.parent.glob(pattern)]
    if folder.exists():  # else what it replaced may be all there is
        left += folder.parent.glob(f"{pattern}.old")
    for other in left:
        with suppress(FileNotFoundError):  # another process may be done with it just now
            # one that was made this moment may not be locked yet
            age = time.time() - other.lstat().st_mtime
            if other.is_dir() and not other.is_symlink() and age > 1:
                lock = _claim(other)
                if lock is not None:
                    shutil.rmtree(other, ignore_errors=True)
                    os.close(lock)


def check_pointer(path: Path, kind: type[TercetError] = InputError) -> None:
    """Raises an error of this kind where a file is a Git LFS pointer instead of its content."""
    if path.is_file():  # what is read from a pipe is gone
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise kind(
                    f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs"
                    " pull`, or download the file"
                )


def check_file(path: Path, kind: type[TercetError] = InputError) -> None:
    """Raises an error of this kind for a pipe or device, which may never end, and a LFS pointer."""
    if path.exists() and not path.is_file():
        raise kind(f"{path} is not a regular file")
    check_pointer(path, kind)


def inner_path(folder: Path, name: object) -> Path:
    """The path of a folder's own file that another file names; ValueError where it is elsewhere."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file in this folder")
    return folder / name


def name_of(path: str | Path) -> str:
    """The last part of a path; for "." and ".." that of the folder they stand for."""
    return os.path.basename(os.path.abspath(path))


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises OSError where it cannot be read, ValueError where it is no JSON or beyond LARGEST_JSON.
    """
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    with path.open("rb") as file:
        data = file.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise ValueError(f"larger than {LARGEST_JSON >> 20} MB")
    try:
        return json.loads(data.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file: whatever happens, the old or the new one is there whole."""
    with atomic_write(path) as file:
        file.write(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Indented JSON with a line break at its end; raises ValueError for nan and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def fsync(path: str | Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class GrowingArray:
    """An array on disk that grows along its first axis and can be looked at, memory-mapped.

    With a header it is a new .npy file; without, plain numbers, and an existing file is continued.
    `flush` brings what was appended to the file, `sync` to the disk; `close` does the first.
    """

    def __init__(
        self,
        path: Path,
        dtype: npt.DTypeLike,
        row: tuple[int, ...] = (),
        *,
        header: bool = True,
        buffer: int = BUFFER,
        start: int = 0,
    ) -> None:
        """row is the shape of one row; with buffer 0, `append` itself writes (and may fail).

        start: the bytes of the header of a .npy file that is continued.
        """
        self.path, self.dtype, self.row, self.header = path, np.dtype(dtype), row, header
        self._row_bytes = self.dtype.itemsize * int(np.prod(row, dtype=np.int64))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        self._file = os.fdopen(handle, "r+b", buffering=buffer)
        self._start = start  # of the numbers, in bytes
        self._rows = 0
        self._view: npt.NDArray[Any] | None = None
        if header and not start:
            self._file.truncate(0)
            self._write_header()
            self._start = self._file.tell()
        else:
            self._rows = (self._file.seek(0, os.SEEK_END) - start) // self._row_bytes
            self.cut(self._rows)

    @staticmethod
    def continued(path: Path) -> "GrowingArray":
        """A .npy file that another GrowingArray wrote, closed or not."""
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            return GrowingArray(path, dtype, shape[1:], start=file.tell())

    def __len__(self) -> int:
        return self._rows

    def append(self, rows: npt.NDArray[Any] | Iterable[Any]) -> None:
        """Adds rows at the end; raises OSError where the disk is full, and `cut` makes good."""
        values = rows if isinstance(rows, np.ndarray) else np.array(list(rows), self.dtype)
        data = memoryview(np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data)
        self._view = None
        written = 0
        while written < len(data):  # without a buffer, a part may be written
            written += self._file.write(data[written:])
        self._rows += len(values)

    def cut(self, rows: int) -> None:
        """Forgets all but the first rows."""
        self._view = None
        self._rows = rows
        end = self._start + rows * self._row_bytes
        self._file.seek(end)
        self._file.truncate()

    def view(self) -> npt.NDArray[Any]:
        """All rows as they are now, read-only, backed by the file."""
        if self._view is None:
            self._file.flush()
            shape = (self._rows, *self.row)
            if self._rows:
                mapped = np.memmap(self.path, self.dtype, "r", offset=self._start, shape=shape)
                self._view = mapped.view(np.ndarray)  # np.memmap itself is slow to slice
            else:
                self._view = np.empty(shape, self.dtype)
        return self._view

    def flush(self) -> None:
        """Brings header and rows to the file."""
        if self.header:
            self._write_header()
            self._file.seek(0, os.SEEK_END)
        self._file.flush()

    def sync(self) -> None:
        """Brings header and rows to the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file after a flush."""
        self._view = None
        try:
            self.flush()
        finally:
            self._file.close()

    def _write_header(self) -> None:
        # NumPy pads the header so that a larger first axis takes no more room.
        shape = (self._rows, *self.row)
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, facts)
