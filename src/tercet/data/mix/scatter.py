"""Lines to files in random order, in bounded memory: first scattered, then each file shuffled.

A line's random key says which file it goes to and where in it, so that the order depends on keys
alone. Knows nothing of what the lines are.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_HEAD = struct.Struct("<dI")  # key, bytes of the line
_HELD = 32 << 20  # bytes of lines that wait in memory to be written


class Scatter:
    """Files of a folder, each made of the lines whose keys fall to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[tuple[int, int], list[bytes]] = {}
        self._size = 0
        self._seen: set[tuple[int, int]] = set()

    def add(self, group: int, files: int, key: float, line: bytes) -> None:
        """A line of a group that is spread over so many files; key from 0 to 1, 1 left out."""
        at = group, int(key * files)
        self._held.setdefault(at, []).extend((_HEAD.pack(key, len(line)), line))
        self._size += _HEAD.size + len(line)
        if self._size >= _HELD:
            self._flush()

    def files(self) -> Iterator[tuple[int, list[bytes]]]:
        """The group and the lines of each file, in order; what was scattered is removed."""
        self._flush()
        for group, number in sorted(self._seen):
            path = self._path((group, number))
            yield group, _sorted(path.read_bytes())
            path.unlink()

    def _flush(self) -> None:
        for at, lines in self._held.items():
            with self._path(at).open("ab") as file:  # opened anew: there may be very many
                file.writelines(lines)
        self._seen.update(self._held)
        self._held.clear()
        self._size = 0

    def _path(self, at: tuple[int, int]) -> Path:
        return self._folder / f".scattered-{at[0]}-{at[1]}"


def _sorted(data: bytes) -> list[bytes]:
    """The lines, by key."""
    found: list[tuple[float, int, int]] = []
    at = 0
    while at < len(data):
        key, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        found.append((key, at, at + size))
        at += size
    found.sort()
    return [data[start:stop] for _, start, stop in found]
