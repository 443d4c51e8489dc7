"""Texts by number in a file of their own, each once, and how alike two texts are.

What is kept in memory of a text is a few numbers. Knows nothing of rows or models.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.split import text_key

SHINGLE = 5  # characters; short enough for every script, long enough to be rare
_MIX = np.uint64(
    0x9E3779B97F4A7C15
)  # odd, 2**64 / golden ratio (Knuth): spreads what it multiplies

Shingles = npt.NDArray[np.uint64]


class TextStore:
    """Different texts in the order of their first appearance, by place 0, 1, ..."""

    def __init__(self, path: Path, *, unique: bool = True) -> None:
        """With unique=False every text has a place of its own, as often as it comes."""
        self._file = path.open("w+b")
        self._ends = array("q", [0])
        self._places: dict[int, int] | None = {} if unique else None
        self._written = True
        self.keys = array("q")  # text_key of each
        self.sizes = array("q")  # number of its shingles; 0 where unique=False

    def add(self, text: str) -> int:
        """The place of a text, new or as it was."""
        raw = text.encode("utf-8", "surrogatepass")
        if self._places is not None:
            digest = hashlib.blake2b(raw, digest_size=8).digest()
            exact = int.from_bytes(digest, "big")
            place = self._places.setdefault(exact, len(self))
            if place < len(self):
                return place
        self.keys.append(text_key(text))
        self.sizes.append(0 if self._places is None else len(shingles(text)))
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))
        self._written = False
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        if not self._written:
            self._file.flush()
            self._written = True
        start, end = self._ends[place], self._ends[place + 1]
        raw = os.pread(self._file.fileno(), end - start, start)
        return raw.decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for place in range(len(self)):
            yield self[place]

    def close(self) -> None:
        """Closes the file; the texts are gone."""
        self._file.close()


def shingles(text: str) -> Shingles:
    """Sorted hashes of all runs of 5 characters, case and white space folded; at least one."""
    folded = " ".join(text.split()).casefold()
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    count = len(codes) - SHINGLE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for shift in range(SHINGLE):
        mixed = (mixed + codes[shift : shift + count]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def jaccard(left: Shingles, right: Shingles) -> float:
    """Shared shingles by all shingles of two texts: 1 for the same text, 0 for nothing in common.

    Of 600 characters, one word changed leaves about 0.97; a whole sentence of six about 0.7.
    """
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)
