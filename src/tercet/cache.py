"""What lies in the user's cache folder, and how it is removed: all of it can be made again.

Training keeps tokenised rows there, evaluation vectors, chunks and scores. Knows nothing of how
they are made or read.
"""

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tercet.config import default_cache

# Kind -> where its entries lie below the folder. Unfinished is what a process is making, or was
# when it was killed: blocks let it go on, scratch folders are of no use to anybody.
# Names are keys in hexadecimal digits: whatever else lies there is not of the cache.
_ROWS, _KEY = "rows-" + "[0-9a-f]" * 32, "[0-9a-f]" * 40
KINDS = {
    "rows": (_ROWS,),
    "vectors": (f"evaluate/vectors/{_KEY}",),
    "chunks": (f"evaluate/chunks/{_KEY}.npy",),
    "maxsim": (f"evaluate/maxsim/{_KEY}.npy",),
    "unfinished": (f"evaluate/blocks/{_KEY}", f"evaluate/*/.{_KEY}.*", f".{_ROWS}.*"),
}


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache that is used as a whole."""

    kind: str  # a key of KINDS
    path: Path
    bytes: int
    used: float  # when last, in seconds since 1970


def entries(folder: Path | None = None, *, older_than: float = 0) -> list[Entry]:
    """What the cache folder holds, last used longest ago first; by default the user's folder.

    older_than: only what was not used for so many days.
    """
    folder = folder or default_cache()
    listed = []
    for kind, patterns in KINDS.items():
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            with suppress(FileNotFoundError):  # another process may remove it meanwhile
                listed.append(Entry(kind, path, _size(path), path.lstat().st_mtime))
    latest = time.time() - 86400 * older_than
    old = [entry for entry in listed if entry.used <= latest]
    return sorted(old, key=lambda entry: entry.used)


def remove(listed: Iterable[Entry]) -> int:
    """Removes entries and returns how many bytes that frees."""
    freed = 0
    for entry in listed:
        with suppress(FileNotFoundError):  # another process may remove it meanwhile
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink()
            freed += entry.bytes
    return freed


def touch(path: Path) -> None:
    """Notes that an entry was used now."""
    with suppress(OSError):  # of a folder that is only read
        os.utime(path)


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(inner.lstat().st_size for inner in path.rglob("*") if not inner.is_dir())
