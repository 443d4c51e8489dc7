"""Holds out a share of every training source by document: the same split every time.

Rows that share a text, directly or through other rows (a translation, a second question on one
paragraph, a repeat in another file), get one group id by union-find and land on the same side. The
side follows from a hash of the group's texts alone, so it changes neither with row order nor with
the machine. Knows nothing of tokens or models.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.data.rows import (
    Row,
    files_of,
    numbered_rows,
    pair_of,
    read_rows,
    stem_of,
    write_rows,
)
from tercet.errors import InputError

# A text met with more different partners than this is a common heading ("Examples"), not a
# document: it joins nothing. A NTREX-128 sentence has about 130 partners.
COMMON_PARTNERS = 400
SHARE = 0.02


def text_key(text: str) -> int:
    """A 63-bit hash of a text with white space folded and case ignored."""
    folded = " ".join(text.split()).casefold().encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "big") >> 1


class UnionFind:
    """Sets of keys that have been joined; find() gives each set's smallest key."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def find(self, key: int) -> int:
        root = key
        while (parent := self.parent.setdefault(root, root)) != root:
            root = parent
        while key != root:
            self.parent[key], key = root, self.parent[key]
        return root

    def join(self, left: int, right: int) -> None:
        low, high = sorted((self.find(left), self.find(right)))
        self.parent[high] = low


def group_keys(keyed: Iterable[list[int]]) -> list[int]:
    """Group id of each row, given the text keys (query first) of every row."""
    rows = list(keyed)
    partners: dict[int, set[int]] = defaultdict(set)
    for keys in rows:
        for key in keys:
            if len(partners[key]) <= COMMON_PARTNERS:
                partners[key].update(keys)
    sets = UnionFind()
    for keys in rows:
        # the key itself is among its partners
        joined = [key for key in keys if len(partners[key]) <= COMMON_PARTNERS]
        for key in joined[1:]:
            sets.join(joined[0], key)
    out = []
    for keys in rows:
        own = next((key for key in keys if len(partners[key]) <= COMMON_PARTNERS), None)
        # nothing but headings: the row stands for itself
        out.append(sets.find(own) if own is not None else hash_of_keys(keys))
    return out


def hash_of_keys(keys: list[int]) -> int:
    """One key for a list of keys."""
    packed = b"".join(key.to_bytes(8, "big") for key in keys)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


def is_held_out(group: int, share: float) -> bool:
    """Whether a group belongs to the dev side: a function of its id alone."""
    digest = hashlib.blake2b(b"tercet-dev" + group.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


@dataclass(frozen=True)
class SplitReport:
    """Rows per file on each side, and the number of groups."""

    train: dict[str, int]
    dev: dict[str, int]
    groups: int


def texts_of(row: Row, where: str) -> list[str]:
    """The texts that make two rows one document: the query and positives, or a raw text."""
    if "text" in row and "query" not in row:
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise InputError(f"{where}: a raw row needs a non-empty string in 'text'")
        return [row["text"]]
    query, positives = pair_of(row, where)
    return [query, *positives]


def split(source: Path, target: Path, *, share: float = SHARE) -> SplitReport:
    """Writes target/train and target/dev from the files of source, "group" added.

    Raises InputError on a row that lacks its fields, naming file and line, and on two files whose
    names differ in the suffix alone.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"the held-out share must lie between 0 and 1, got {share}")
    files = files_of(source)
    stems = [stem_of(path) for path in files]
    for path, stem in zip(files, stems, strict=True):
        if stems.count(stem) > 1:
            raise InputError(f"{path}: another file here is named {stem!r} too: rename one of them")
    keyed: list[list[int]] = []
    counts: list[int] = []
    for path in files:
        before = len(keyed)
        for number, row in numbered_rows(path):
            keyed.append([text_key(text) for text in texts_of(row, f"{path}:{number}")])
        counts.append(len(keyed) - before)
    groups: npt.NDArray[np.int64] = np.array(group_keys(keyed), dtype=np.int64)
    held = {int(g): is_held_out(int(g), share) for g in np.unique(groups)}
    report = SplitReport(train={}, dev={}, groups=len(held))
    first = 0
    for path, count in zip(files, counts, strict=True):
        own = groups[first : first + count]
        first += count
        for side, wanted, totals in (
            ("dev", True, report.dev),
            ("train", False, report.train),
        ):
            rows = (
                {**row, "group": int(group)}
                for row, group in zip(read_rows(path), own, strict=True)
                if held[int(group)] is wanted
            )
            totals[stem_of(path)] = write_rows(target / side / f"{stem_of(path)}.jsonl.gz", rows)
    return report
