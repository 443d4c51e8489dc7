"""Files and folders that appear under their names whole, or not at all, after a power cut too."""

import gzip
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

BUFFER = 1 << 18  # bytes packed at once


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when the block ends without an error.

    What is in it is on the disk before. It is packed where the name ends in .gz; the same content
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
        _sync(scratch)
        os.replace(scratch, path)
        _sync(path.parent)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name when the block ends without an error.

    What is in it is on the disk before. An empty folder of that name is replaced; OSError where
    there is more.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # some libraries write for the owner alone, as mkdtemp does
                _sync(path)
        scratch.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # empty, and Windows would not replace it
        os.rename(scratch, folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _sync(path: str | Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
