"""Which texts are the same, which rows belong together, and the held-out part of training rows.

Rows that share a text, directly or through other rows (a translation, a second question on one
paragraph, a repeat in another file), are one group and land on the same side of a split. The side
follows from a hash of the group's texts alone, so it changes neither with row order nor with the
machine. What is no negative of a row is less: what it shares a text with directly, and translations
of that. Knows nothing of tokens or models. Shapes: N rows, K text keys of all rows, U different
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

from tercet.errors import InputError
from tercet.rows import check_row, files_of, numbered_rows, read_rows, stem_of, write_rows

Keys = npt.NDArray[np.int64]
Index = npt.NDArray[np.signedinteger]  # of rows or keys, of 32 bits where they do

# A text met with more different partners than this is a common heading ("Examples"), not a
# document: it joins nothing. A NTREX-128 sentence has about 130 partners.
COMMON_PARTNERS = 400
SHARE = 0.02

# Tags of one language and a region that are written in small letters (see `is_parallel`).
REGIONS = frozenset(
    "en-us en-gb en-au en-nz en-in es-mx pt-br zh-cn zh-hk zh-sg zh-tw zh-yue".split()
)

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


# Groups, for a split


def group_rows(keys: Keys, offsets: Keys, given: tuple[Keys, Keys] = (_NONE, _NONE)) -> Keys:
    """(N,) groups of rows from their text keys, query first: row n owns those from offsets[n] on.

    given are rows (rising) and the ids that they bring. Rows that share a key or an id, directly or
    through others, are one group; a key with more partners than COMMON_PARTNERS is a heading and
    joins nothing. The id of a group, 0 or more, is its smallest key, so the order of rows does not
    change it.
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
    part = _components(left, right, nodes)
    del left, right
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
    return rows


def _components(left: Index, right: Index, nodes: int) -> Index:
    """(nodes,) the smallest node that each is joined with, directly or through others.

    1. Both ends of an edge take the smaller of their numbers, and so does the node of that number.
    2. A node takes its number's number, until that is its own.
    3. Edges whose ends have one number are done.
    """
    part: Index = np.arange(nodes, dtype=left.dtype)
    while len(left):
        ends = part[left], part[right]
        low = np.minimum(*ends)
        for end in ends:
            np.minimum.at(part, end, low)  # 1
        while (part != (further := part[part])).any():
            part = further  # 2
        joins = part[left] != part[right]  # 3
        left, right = left[joins], right[joins]
    return part


class RowKeys:
    """The text keys of rows as they are read, the group ids that some bring, which are parallel."""

    def __init__(self) -> None:
        self._keys, self._offsets = array("q"), array("q", [0])
        self._given = array("q"), array("q")  # rows that bring an id, and the ids
        self._parallel = array("b")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, keys: Iterable[int], group: int | None = None, language: str = "") -> None:
        """One more row: the key of its query, those of its positives."""
        if group is not None:
            self._given[0].append(len(self))
            self._given[1].append(group)
        self._keys.extend(keys)
        self._offsets.append(len(self._keys))
        self._parallel.append(is_parallel(language))

    def groups(self) -> Keys:
        arrays = (self._keys, self._offsets, *self._given)
        keys, offsets, rows, ids = map(np.asarray, arrays)  # views, not copies
        return group_rows(keys, offsets, (rows, ids))

    def related(self) -> "Related":
        arrays = (self._keys, self._offsets, *self._given, self._parallel)
        keys, offsets, rows, ids, parallel = map(np.asarray, arrays)
        return Related.make(keys, offsets, (rows, ids), parallel.astype(np.bool_))


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
    ends = np.cumsum(sizes)[row[counted]]
    which, partners = _spread(ends - sizes[row[counted]], ends)
    met = np.unique(place[counted][which] * keys + place[partners])
    heading |= np.bincount(met // keys, minlength=keys) > COMMON_PARTNERS
    return heading


# What is no negative of a row


@dataclass(frozen=True)
class Related:
    """The texts that are no negatives of a row: those of its query's rows, of all that share a text
    or a given id with these or the query with one that does, and the translations of any of them.

    Row n has keys[offsets[n]:offsets[n + 1]], its query first and a key for a given id last;
    parallel (N,) the rows in two languages. shared (S,) the sorted keys that join rows, no headings
    among them: shared[i] those of holders[starts[i]:starts[i + 1]]. Nothing is joined through more
    rows than that, so the texts of a row are few in a set whose rows are all one group.
    """

    keys: Keys
    offsets: Keys
    parallel: npt.NDArray[np.bool_]
    shared: Keys
    starts: Keys
    holders: Keys

    @staticmethod
    def make(
        keys: Keys, offsets: Keys, given: tuple[Keys, Keys], parallel: npt.NDArray[np.bool_]
    ) -> "Related":
        """From text keys, rows and their given ids as `group_rows` takes them."""
        rows, ids = given
        unique, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        index = np.int32 if max(len(keys), len(offsets)) < 2**31 else np.int64
        place = place.astype(index)
        row: Index = np.repeat(np.arange(len(offsets) - 1, dtype=index), np.diff(offsets))
        joins = (counts > 1) & ~_headings(row, place, len(offsets) - 1, len(unique))
        joins = joins[place]
        marks = _NONE
        if len(ids):
            different, which = np.unique(ids, return_inverse=True)
            hashes = [
                _hash63(b"group" + i.to_bytes(8, "big", signed=True)) for i in different.tolist()
            ]
            marks = np.array(hashes, dtype=np.int64)[which]
        held = np.concatenate((keys[joins], marks))
        holders = np.concatenate((row[joins], rows)).astype(np.int64)
        del unique, place, counts, row, joins
        order = np.lexsort((holders, held))
        shared, starts = np.unique(held[order], return_index=True)
        if len(ids):
            keys = np.insert(keys, offsets[rows + 1], marks)
            offsets = offsets + np.searchsorted(rows, np.arange(len(offsets)))
        return Related(
            keys, offsets, parallel, shared, np.append(starts, len(held)), holders[order]
        )

    def of(self, rows: Keys) -> tuple[Keys, Keys]:
        """Pairs of a place in rows and the key of a text related to that row, ascending."""
        near = self._of_queries(np.arange(len(rows)), rows)
        near = self._of_queries(*_joined(near, self._holders(*self._texts(*near))))
        texts = self._texts(*near)
        owner, held = self._holders(*texts)
        translated = self.parallel[held]
        return _joined(texts, self._texts(owner[translated], held[translated]))

    def compared(self, sample: int = 256) -> float:
        """Mean share of the positives of other rows that are not related to a row: 0 where none has
        other positives, 1 where none has any.

        Of as many rows as the sample has, evenly drawn.
        """
        with_positives = np.flatnonzero(np.diff(self.offsets) > 1)
        rows = with_positives[:: -(-len(with_positives) // sample) or 1]
        is_positive = np.ones(len(self.keys), dtype=np.bool_)
        is_positive[self.offsets[:-1]] = False
        positives = np.unique(self.keys[is_positive])
        owner, own = _spread(self.offsets[rows] + 1, self.offsets[rows + 1])
        own_counts = np.bincount(_different(owner, self.keys[own])[0], minlength=len(rows))
        owner, keys = self.of(rows)
        met = np.bincount(owner, np.isin(keys, positives), len(rows))
        others = len(positives) - own_counts
        shares = (len(positives) - met)[others > 0] / others[others > 0]
        return float(shares.mean()) if len(shares) else float(not len(rows))

    def _texts(self, owner: Keys, rows: Keys) -> tuple[Keys, Keys]:
        which, places = _spread(self.offsets[rows], self.offsets[rows + 1])
        return _different(owner[which], self.keys[places])

    def _of_queries(self, owner: Keys, rows: Keys) -> tuple[Keys, Keys]:
        """These rows, and those that have the query of one of them."""
        asked = _different(owner, self.keys[self.offsets[rows]])
        return _joined((owner, rows), self._holders(*asked, queries=True))

    def _holders(self, owner: Keys, keys: Keys, *, queries: bool = False) -> tuple[Keys, Keys]:
        """The rows that keys join; with queries, those that have them as their query."""
        if not len(self.shared):
            return _NONE, _NONE
        nearest = np.searchsorted(self.shared, keys).clip(max=len(self.shared) - 1)
        known = self.shared[nearest] == keys
        owner, keys, nearest = owner[known], keys[known], nearest[known]
        which, places = _spread(self.starts[nearest], self.starts[nearest + 1])
        held = self.holders[places]
        if queries:
            same = self.keys[self.offsets[held]] == keys[which]
            which, held = which[same], held[same]
        return _different(owner[which], held)


def _spread(starts: Keys, ends: Keys) -> tuple[Keys, Keys]:
    """Of each range its number and its places, one range after the other."""
    lengths = ends - starts
    which = np.repeat(np.arange(len(starts)), lengths)
    return which, np.arange(len(which)) + (starts - np.cumsum(lengths) + lengths)[which]


def _different(owner: Keys, values: Keys) -> tuple[Keys, Keys]:
    """Pairs, ascending, each once."""
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    new = np.ones(len(owner), dtype=np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])
    return owner[new], values[new]


def _joined(one: tuple[Keys, Keys], two: tuple[Keys, Keys]) -> tuple[Keys, Keys]:
    return _different(np.concatenate((one[0], two[0])), np.concatenate((one[1], two[1])))


def is_parallel(language: str) -> bool:
    """Whether a tag names two languages: "de-en" does, "zh-Hant" (a script) does not.

    Nor does "pt-br": regions in small letters are known where the language is never meant; others
    need the usual capitals ("fr-CA").
    """
    head, _, tail = language.rpartition("-")
    if not head or len(tail) not in (2, 3) or not tail.islower():
        return False
    return head != tail and language not in REGIONS


# The held-out part


@dataclass(frozen=True)
class SplitReport:
    """Rows per file on each side, the number of groups, and the rows of the largest."""

    train: dict[str, int]
    dev: dict[str, int]
    groups: int
    largest_group: int


def is_held_out(group: int, share: float) -> bool:
    """Whether a group belongs to the dev side: a function of its id alone."""
    digest = hashlib.blake2b(b"tercet-dev" + group.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def split(source: Path, target: Path, *, share: float = SHARE) -> SplitReport:
    """Writes target/train and target/dev from the files of source.

    Raises InputError on a row that cannot train, naming file and line, on two files whose names
    differ in the suffix alone, and where one side would be empty.
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
            keys.add(map(text_key, (record.query, *record.pos)), record.group)
        ends.append(len(keys))
    different, which, sizes = np.unique(keys.groups(), return_inverse=True, return_counts=True)
    held = np.array([is_held_out(group, share) for group in different.tolist()], np.bool_)[which]
    report = SplitReport({}, {}, len(different), int(sizes.max(initial=0)))
    if held.all() or not held.any():
        raise InputError(
            f"{source}: {'every' if len(held) and held.all() else 'no'} row would be held out: the "
            f"{len(held):,} rows are {report.groups:,} groups that share texts, the largest of "
            f"{report.largest_group:,}: give another share, or leave out the texts and group ids "
            "that join so many rows"
        )
    for (path, stem), (first, last) in zip(files.items(), pairwise(ends), strict=True):
        for name, side, totals in (("dev", held, report.dev), ("train", ~held, report.train)):
            chosen = zip(read_rows(path), side[first:last].tolist(), strict=True)
            rows = (row for row, mine in chosen if mine)
            totals[stem] = write_rows(target / name / f"{stem}.jsonl.gz", rows)
    return report
