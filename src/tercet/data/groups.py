"""Group ids of many rows in arrays: what `split.group_keys` gives, for rows that fill a disk.

Knows nothing of tokens, files or models. Shapes: N rows, K text keys of all rows, U different ones.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tercet.data.split import COMMON_PARTNERS, hash_of_keys

Keys = npt.NDArray[np.int64]
_NONE: Keys = np.zeros(0, dtype=np.int64)


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
        _, own = np.unique(keys, return_inverse=True)
        if not len(self.keys):
            return -1 - own.astype(np.int64)
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        known = (self.keys[at] == keys) & (self.key_groups[at] >= 0)
        return np.where(known, self.key_groups[at], -1 - own).astype(np.int64)


def group_rows(keys: Keys, offsets: Keys, given: tuple[Keys, Keys] | None = None) -> Groups:
    """Groups of rows from their text keys, query first: row n owns keys[offsets[n]:offsets[n + 1]].

    given are rows (rising) and the ids that they bring. Rows that share a key or an id, directly or
    through others, are one group;
    a key with more partners than COMMON_PARTNERS is a heading and joins nothing. The id of a group
    is its smallest key, so the order of rows does not change it.
    """
    count = len(offsets) - 1
    bringing, brought = given if given is not None else (_NONE, _NONE)
    unique, place = np.unique(keys, return_inverse=True)
    row = np.repeat(np.arange(count), np.diff(offsets))
    heading = _headings(row, place, count, len(unique))
    # Nodes of one graph: rows, then keys, then given ids.
    ids, which = np.unique(brought, return_inverse=True)
    joins = ~heading[place]
    left = np.concatenate((row[joins], bringing))
    right = np.concatenate((count + place[joins], count + len(unique) + which))
    nodes = count + len(unique) + len(ids)
    edges = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(nodes, nodes))
    _, part = connected_components(edges, directed=False)
    unset = np.iinfo(np.int64).max
    smallest = np.full(nodes, unset, dtype=np.int64)
    np.minimum.at(smallest, part[count : count + len(unique)][~heading], unique[~heading])
    rows = smallest[part[:count]]
    bare = rows[bringing] == unset
    own_ids = dict(zip(bringing[bare].tolist(), brought[bare].tolist(), strict=True))
    for number in np.flatnonzero(rows == unset).tolist():  # nothing but headings
        own = keys[offsets[number] : offsets[number + 1]].tolist()
        rows[number] = _hash_of_id(own_ids[number]) if number in own_ids else hash_of_keys(own)
    key_groups = np.where(heading, -1, smallest[part[count : count + len(unique)]])
    return Groups(rows, unique, key_groups.astype(np.int64))


def _headings(row: Keys, place: Keys, rows: int, keys: int) -> npt.NDArray[np.bool_]:
    """(U,) whether a key has more different partners in its rows, itself included, than allowed."""
    heading = np.zeros(keys, dtype=np.bool_)
    if not keys:
        return heading
    pairs = np.unique(row * keys + place)  # each key once a row
    row, place = pairs // keys, pairs % keys
    sizes = np.bincount(row, minlength=rows)
    wide = sizes[row] > COMMON_PARTNERS
    heading[place[wide]] = True
    # Only keys whose rows are long enough in all can have so many: few, and those are counted.
    most = np.bincount(place, weights=sizes[row], minlength=keys)
    counted = np.flatnonzero((most[place] > COMMON_PARTNERS) & ~heading[place])
    starts, lengths = (np.cumsum(sizes) - sizes)[row[counted]], sizes[row[counted]]
    ends = np.cumsum(lengths)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    partners = place[np.repeat(starts, lengths) + within]
    found = np.unique(np.repeat(place[counted], lengths) * keys + partners)
    heading |= np.bincount(found // keys, minlength=keys) > COMMON_PARTNERS
    return heading


def _hash_of_id(group: int) -> int:
    """A group id for rows that have nothing but a given one."""
    packed = b"group" + group.to_bytes(8, "big", signed=True)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1
