"""Which texts are the same, which rows belong together, and the held-out part of training rows.

Rows that share a text, directly or through other rows (a translation, a second question on one
paragraph, a repeat in another file), are one group and land on the same side of a split. The side
follows from a hash of the group's texts alone, so it changes neither with row order nor with the
machine. Knows nothing of tokens or models. Shapes: N rows, K text keys of all rows, U different
ones.
"""

import hashlib
import struct
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tercet.errors import InputError
from tercet.rows import check_row, files_of, numbered_rows, read_rows, stem_of, write_rows

Keys = npt.NDArray[np.int64]
Index = npt.NDArray[np.signedinteger]  # of rows or keys, of 32 bits where they do

# A text met with more different partners than this is a common heading ("Examples"), not a
# document: it joins nothing. A NTREX-128 sentence has about 130 partners.
COMMON_PARTNERS = 400
SHARE = 0.02

_NONE: Keys = np.zeros(0, dtype=np.int64)
_HASH = struct.Struct("<QQ")
_BLOCK = 1 << 20  # texts put into a larger table at once


# The same text


def text_key(text: str) -> int:
    """A 63-bit hash of a text with white space folded and case ignored."""
    return _hash63(" ".join(text.split()).casefold().encode("utf-8", "replace"))


def _hash63(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


class DistinctTexts:
    """Numbers different texts 0, 1, ... in the order of their first appearance.

    Of a text stay 16 bytes of its hash and 6 to 12 in a table of open addressing, 18 while that
    grows: at most 35 bytes, so 600 million different texts in 24 GB.
    """

    def __init__(self, slots: int = 1 << 10) -> None:
        """slots is the size that the table begins with, a power of 2."""
        self._hashes = array("Q")  # two of each text
        self._slots = np.zeros(slots, dtype=np.uint32).data  # number + 1, 0 where free

    def __len__(self) -> int:
        return len(self._hashes) // 2

    def get(self, text: bytes) -> int | None:
        """The number of a text, None for one that was never added."""
        number = self._slots[self._slot(*_halves(text))]
        return number - 1 if number else None

    def add(self, text: bytes) -> int:
        """The number of a text: the next one where it is new."""
        low, high = _halves(text)
        slot = self._slot(low, high)
        if number := self._slots[slot]:
            return number - 1
        self._hashes.extend((low, high))
        count = self._slots[slot] = len(self)
        if 3 * count > 2 * len(self._slots):
            self._grow()
        return count - 1

    def _slot(self, low: int, high: int) -> int:
        """The slot of a hash, or the free one where it belongs."""
        slots, hashes, mask = self._slots, self._hashes, len(self._slots) - 1
        slot = low & mask
        while number := slots[slot]:
            if hashes[2 * number - 2] == low and hashes[2 * number - 1] == high:
                break
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        """Twice the slots."""
        slots = np.zeros(2 * len(self._slots), dtype=np.uint32)
        mask = np.uint64(len(slots) - 1)
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)[::2]
        for first in range(0, len(self), _BLOCK):
            numbers = np.arange(first + 1, min(first + _BLOCK, len(self)) + 1, dtype=np.uint32)
            tried = hashes[first : first + _BLOCK] & mask
            while len(numbers):
                free = slots[tried] == 0
                slots[tried[free]] = numbers[free]  # of several that try a slot one gets it
                left = slots[tried] != numbers
                numbers, tried = numbers[left], (tried[left] + np.uint64(1)) & mask
        self._slots = slots.data


def _halves(text: bytes) -> tuple[int, int]:
    low, high = _HASH.unpack(hashlib.blake2b(text, digest_size=16).digest())
    return low, high


# Groups


@dataclass(frozen=True)
class Groups:
    """rows (N,) the group of each row, 0 or more; keys (U,) sorted, key_groups (U,) their groups.

    -1 is the group of a heading.
    """

    rows: Keys
    keys: Keys
    key_groups: Keys

    def of_texts(self, keys: Keys) -> Keys:
        """(S,) the group of each text by its key.

        A text of no row, and a heading, has an id below 0 of its own.
        """
        _, unknown = np.unique(keys, return_inverse=True)
        if not len(self.keys):
            return -1 - unknown.astype(np.int64)
        nearest = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        known = (self.keys[nearest] == keys) & (self.key_groups[nearest] >= 0)
        return np.where(known, self.key_groups[nearest], -1 - unknown).astype(np.int64)


def group_rows(keys: Keys, offsets: Keys, given: tuple[Keys, Keys] = (_NONE, _NONE)) -> Groups:
    """Groups of rows from their text keys, query first: row n owns keys[offsets[n]:offsets[n + 1]].

    given are rows (rising) and the ids that they bring. Rows that share a key or an id, directly or
    through others, are one group; a key with more partners than COMMON_PARTNERS is a heading and
    joins nothing. The id of a group is its smallest key, so the order of rows does not change it.
    Takes about 110 bytes a row of two texts: 100 million pairs with their `DistinctTexts` in 24 GB.
    """
    count = len(offsets) - 1
    bringing, brought = given
    unique, place = np.unique(keys, return_inverse=True)
    ids, which = np.unique(brought, return_inverse=True)
    nodes = count + len(unique) + len(ids)
    index = np.int32 if nodes < 2**31 else np.int64  # half the memory, where it will do
    place = place.astype(index)
    row: Index = np.repeat(np.arange(count).astype(index), np.diff(offsets))
    heading = _headings(row, place, count, len(unique))
    # Nodes of one graph: rows, then keys, then given ids.
    joins = ~heading[place]
    left = np.concatenate((row[joins], bringing.astype(index)))
    right = np.concatenate(
        (place[joins] + index(count), (count + len(unique) + which).astype(index))
    )
    del row, place, joins
    edges = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(nodes, nodes))
    del left, right
    _, part = connected_components(edges, directed=False)
    del edges
    unset = np.iinfo(np.int64).max
    smallest = np.full(nodes, unset, dtype=np.int64)
    key_part = part[count : count + len(unique)]
    np.minimum.at(smallest, key_part[~heading], unique[~heading])
    rows = smallest[part[:count]]
    bare = rows[bringing] == unset
    own_ids = dict(zip(bringing[bare].tolist(), brought[bare].tolist(), strict=True))
    for number in np.flatnonzero(rows == unset).tolist():  # nothing but headings
        content = keys[offsets[number] : offsets[number + 1]].astype(">i8").tobytes()
        if number in own_ids:
            content = b"group" + own_ids[number].to_bytes(8, "big", signed=True)
        rows[number] = _hash63(content)
    return Groups(rows, unique, np.where(heading, -1, smallest[key_part]).astype(np.int64))


class RowKeys:
    """The text keys of rows as they are read, and the group ids that some of them bring."""

    def __init__(self) -> None:
        self._keys, self._offsets = array("q"), array("q", [0])
        self._given = array("q"), array("q")  # rows that bring an id, and the ids

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, keys: Iterable[int], group: int | None = None) -> None:
        """One more row: the key of its query, those of its positives."""
        if group is not None:
            self._given[0].append(len(self))
            self._given[1].append(group)
        self._keys.extend(keys)
        self._offsets.append(len(self._keys))

    def groups(self) -> Groups:
        """The groups of all rows, see `group_rows`."""
        arrays = (self._keys, self._offsets, *self._given)
        keys, offsets, rows, ids = map(np.asarray, arrays)  # views, not copies
        return group_rows(keys, offsets, (rows, ids))


def _headings(row: Index, place: Index, rows: int, keys: int) -> npt.NDArray[np.bool_]:
    """(U,) whether a key has more different partners in its rows, itself included, than allowed."""
    heading = np.zeros(keys, dtype=np.bool_)
    # Only keys whose rows are long enough in all can have so many: few, and those are counted.
    most = np.bincount(place, weights=np.bincount(row, minlength=rows)[row], minlength=keys)
    counted_rows = np.zeros(rows, dtype=np.bool_)
    counted_rows[row[most[place] > COMMON_PARTNERS]] = True
    inside = counted_rows[row]
    if not inside.any():
        return heading
    pairs = np.unique(row[inside] * np.int64(keys) + place[inside])  # each key once a row
    row, place = pairs // keys, pairs % keys
    sizes = np.bincount(row, minlength=rows)
    heading[place[sizes[row] > COMMON_PARTNERS]] = True
    counted = np.flatnonzero((most[place] > COMMON_PARTNERS) & ~heading[place])
    starts, lengths = (np.cumsum(sizes) - sizes)[row[counted]], sizes[row[counted]]
    ends = np.cumsum(lengths)
    within = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    partners = place[np.repeat(starts, lengths) + within]
    met = np.unique(np.repeat(place[counted], lengths) * keys + partners)
    heading |= np.bincount(met // keys, minlength=keys) > COMMON_PARTNERS
    return heading


# The held-out part


@dataclass(frozen=True)
class SplitReport:
    """Rows per file on each side, and the number of groups."""

    train: dict[str, int]
    dev: dict[str, int]
    groups: int


def is_held_out(group: int, share: float) -> bool:
    """Whether a group belongs to the dev side: a function of its id alone."""
    digest = hashlib.blake2b(b"tercet-dev" + group.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def split(source: Path, target: Path, *, share: float = SHARE) -> SplitReport:
    """Writes target/train and target/dev from the files of source, "group" added.

    Raises InputError on a row that cannot train, naming file and line, and on two files whose
    names differ in the suffix alone.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"the held-out share must lie between 0 and 1, got {share}")
    files = {path: stem_of(path) for path in files_of(source)}
    named = Counter(files.values())
    for path, stem in files.items():
        if named[stem] > 1:
            raise InputError(f"{path}: another file here is named {stem!r} too: rename one of them")
    keys, ends = RowKeys(), [0]
    for path in files:
        for number, row in numbered_rows(path):
            record = check_row(row, f"{path}:{number}")
            keys.add(map(text_key, (record.query, *record.pos)))
        ends.append(len(keys))
    groups = keys.groups().rows
    different, which = np.unique(groups, return_inverse=True)
    held = np.array([is_held_out(group, share) for group in different.tolist()], np.bool_)[which]
    report = SplitReport(train={}, dev={}, groups=len(different))
    for (path, stem), (first, last) in zip(files.items(), pairwise(ends), strict=True):
        own = groups[first:last].tolist()
        for name, side, totals in (("dev", held, report.dev), ("train", ~held, report.train)):
            chosen = zip(read_rows(path), own, side[first:last].tolist(), strict=True)
            rows = ({**row, "group": group} for row, group, mine in chosen if mine)
            totals[stem] = write_rows(target / name / f"{stem}.jsonl.gz", rows)
    return report
