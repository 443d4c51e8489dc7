"""Which rows of all parts repeat an earlier one, exactly or nearly; the first is kept.

Candidates share a band; what decides is the Jaccard similarity of the texts themselves, of both
sides of the rows. A row is dropped only for a row that is kept. Memory grows by some 60 bytes with
each row, and by 10 for each band that it shares with another. Shapes: N rows in the order of their
files.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.data.filter.part import LINES, ROW, ROWS, band_name
from tercet.data.filter.shingles import Side, compared, similarity

KNOWN = 4096  # rows whose shingles are held at once
TRIED = 8  # rows of a band that a row is compared with; a larger one is a common phrase

Numbers = npt.NDArray[np.int64]


class KeptRows:
    """The rows that all parts kept, by number 0 to N - 1 in the order of the whole."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        tables = [np.fromfile(folder / ROWS, dtype=ROW) for folder in folders]
        table = np.concatenate(tables)
        self._order = np.argsort(table["place"], kind="stable")
        table = table[self._order]
        self.places: Numbers = table["place"]
        self.keys: npt.NDArray[np.uint64] = table["key"]
        self._start, self._size = table["start"], table["size"]
        parts = np.repeat(np.arange(len(tables), dtype=np.int32), [len(one) for one in tables])
        self._part = parts[self._order]
        self._stack = ExitStack()
        self._files = [
            self._stack.enter_context((folder / LINES).open("rb", buffering=0))
            for folder in folders
        ]

    def __len__(self) -> int:
        return len(self.places)

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def line(self, number: int) -> bytes:
        """The row as JSON."""
        file = self._files[self._part[number]]
        return os.pread(file.fileno(), int(self._size[number]), int(self._start[number]))

    def texts(self, number: int) -> list[str]:
        """The query and the positives of a row, or its raw text."""
        row = json.loads(self.line(number))
        return [row["query"], *row["pos"]] if row.get("pos") else [row["text"]]

    def band(self, band: int) -> npt.NDArray[np.uint64]:
        """(N,) the hashes of one band."""
        found = [np.fromfile(folder / band_name(band), dtype="<u8") for folder in self._folders]
        return np.concatenate(found)[self._order]


def exact_repeats(keys: npt.NDArray[np.uint64]) -> Numbers:
    """(N,) the first row with the same key, -1 for the first itself."""
    out = np.full(len(keys), -1, dtype=np.int64)
    if not len(keys):
        return out
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))]
    out[order[~new]] = first[~new]
    return out


def near_repeats(
    rows: KeptRows, standing: npt.NDArray[np.bool_], bands: int, threshold: float
) -> dict[int, tuple[int, float]]:
    """Rows that are nearly an earlier one that stays: its number and their similarity."""
    compare = _Compare(rows, threshold)
    kept_in: dict[int, list[int]] = {}  # group -> rows in it that stay
    out: dict[int, tuple[int, float]] = {}
    for number, groups in _sharing(rows, standing, bands):
        tried: dict[int, int] = {}  # row -> bands shared
        for group in groups:
            for other in kept_in.get(group, ()):
                tried[other] = tried.get(other, 0) + 1
        # those that share most bands are most alike; of equals the earliest
        for other in sorted(tried, key=lambda other: (-tried[other], other)):
            if (alike := compare(number, other)) >= threshold:
                out[number] = other, alike
                break
        else:
            for group in groups:
                members = kept_in.setdefault(group, [])
                if len(members) < TRIED:
                    members.append(number)
    return out


def _sharing(
    rows: KeptRows, standing: npt.NDArray[np.bool_], bands: int
) -> Iterator[tuple[int, list[int]]]:
    """Rows that share a band with another, rising, and the numbers of the groups they are in."""
    numbers = np.flatnonzero(standing)
    members: list[npt.NDArray[np.int64]] = []
    groups: list[npt.NDArray[np.int64]] = []
    count = 0
    for band in range(bands):
        values = rows.band(band)[numbers]
        order = np.argsort(values, kind="stable")
        same = values[order][1:] == values[order][:-1]
        within = np.zeros(len(order), dtype=np.bool_)
        within[1:] |= same
        within[:-1] |= same
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = ~same
        group = np.cumsum(first[within]) + count
        members.append(numbers[order[within]])
        groups.append(group)
        count = int(group[-1]) + 1 if len(group) else count
    if not members:
        return
    member, group = np.concatenate(members), np.concatenate(groups)
    order = np.argsort(member, kind="stable")
    member, group = member[order], group[order]
    ends = np.append(np.flatnonzero(np.diff(member)) + 1, len(member))
    start = 0
    for end in ends.tolist() if len(member) else []:
        yield int(member[start]), group[start:end].tolist()
        start = end


class _Compare:
    """How alike two rows are: the less alike of their sides."""

    def __init__(self, rows: KeptRows, threshold: float) -> None:
        self._rows, self._threshold = rows, threshold
        self._known: OrderedDict[int, list[Side]] = OrderedDict()

    def __call__(self, left: int, right: int) -> float:
        one, other = self._sides(left), self._sides(right)
        if len(one) != len(other):  # a raw text and a row
            return 0.0
        least = 1.0
        for mine, its in zip(one, other, strict=True):
            least = min(least, similarity(mine, its))
            if least < self._threshold:
                break
        return least

    def _sides(self, number: int) -> list[Side]:
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        sides = self._known[number] = compared(self._rows.texts(number))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return sides
