"""Shingles of many texts, MinHash bands over them, and how alike two texts are.

A row has two sides, its query and its positives; a raw text is both sides of itself. Two rows are
near-duplicates where both sides are alike, so the bands look at both. Knows nothing of files.

    1. a side is the set of its runs of 5 characters, without case and punctuation
    2. MinHash (rensa) gives each side 3 values for every band
    3. a band of a row is one hash of the 6; rows that share one are candidates
    4. candidates are compared by the true Jaccard similarity of their sets; short texts must
       have the same letters, for there one word makes another question

Shapes: N rows, K bands.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.data.filter.characters import Bare, fold, spread
from tercet.errors import MissingExtraError

SHINGLE = 5  # characters; short enough for every script, long enough to be rare
SIDE = 3  # MinHash values of each side in a band
# Letters of a short passage or raw text, and of a short query, which may be a sentence that asks; a
# dense character (characters.DENSE) counts for SPREAD.
SHORT, SHORT_QUERY = 200, 500
MISSED = 0.01  # part of the pairs just at the threshold that may share no band
_SEEDS = (1, 2)  # of the two sides
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 / golden ratio (Knuth, TAOCP 6.4)

Shingles = npt.NDArray[np.uint64]
Bands = npt.NDArray[np.uint64]


def bands_for(threshold: float) -> int:
    """Bands that find all but MISSED of the pairs whose sides are just as alike as the threshold.

    Broder 1997; Leskovec et al., Mining of Massive Datasets, section 3.4.

    >>> bands_for(0.8), bands_for(0.7)
    (16, 37)
    """
    shared = threshold ** (2 * SIDE)  # the chance that one band of such a pair agrees
    return 1 if shared >= 1 else math.ceil(math.log(MISSED) / math.log1p(-shared))


def hashes(bare: Bare) -> tuple[Shingles, npt.NDArray[np.uint64]]:
    """Hashes of all runs of 5 characters of N texts, and (N + 1,) where each text's begin.

    Repeats are kept. A text has one at least; behind the end of a short one are zeros.
    """
    counts = np.maximum(bare.ends - bare.starts - SHINGLE + 1, 1)
    bounds = np.concatenate(([0], np.cumsum(counts)))
    first = np.arange(bounds[-1]) + np.repeat(bare.starts - bounds[:-1], counts)
    ends = np.repeat(bare.ends, counts)
    codes = np.pad(bare.codes, (0, SHINGLE))
    mixed = np.zeros(len(first), dtype=np.uint64)
    for shift in range(SHINGLE):
        place = first + shift
        mixed = (mixed + np.where(place < ends, codes[place], 0)) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed, bounds.astype(np.uint64)


def shingles(text: str) -> Shingles:
    """The set of a text's shingles, sorted."""
    return _sorted_set(hashes(_bare([text]))[0])


def _sorted_set(found: Shingles) -> Shingles:
    found = np.sort(found)  # quicker than np.unique for so few
    first = np.ones(len(found), dtype=np.bool_)
    first[1:] = found[1:] != found[:-1]
    return found[first]


def _bare(texts: Sequence[str]) -> Bare:
    return Bare.of(texts, symbols=True)


def jaccard(left: Shingles, right: Shingles) -> float:
    """Shared shingles by all shingles of two texts: 1 for the same text, 0 for nothing in common.

    Of 600 characters, one word changed leaves about 0.97; a whole sentence of six about 0.7.
    """
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


class Side:
    """A side of a row, to be compared; its shingles are made when they are asked for."""

    def __init__(self, text: str, short: int) -> None:
        """`short` is the number of letters from which on it is judged by its shingles."""
        self._bare = _bare([text])
        self.letters = self._bare.text(0)
        self.long = spread(self.letters) >= short

    @cached_property
    def shingles(self) -> Shingles:
        """The set of its shingles."""
        return _sorted_set(hashes(self._bare)[0])


def compared(texts: Sequence[str]) -> list[Side]:
    """The sides of a row as they are compared with another's: two, or one of a raw text."""
    if len(texts) == 1:
        return [Side(texts[0], SHORT)]
    query, positives = sides_of(texts)
    return [Side(query, SHORT_QUERY), Side(positives, SHORT)]


def similarity(left: Side, right: Side) -> float:
    """How alike two sides are, between 0 and 1: see step 4."""
    if left.long and right.long:
        return jaccard(left.shingles, right.shingles)
    return float(np.array_equal(left.letters, right.letters))


def sides_of(texts: Sequence[str]) -> tuple[str, str]:
    """The two sides of a row from its texts: the query and the positives, or a raw text twice."""
    query = texts[0]
    return query, "\n".join(texts[1:]) if len(texts) > 1 else query


def key_of(texts: Sequence[str]) -> int:
    """A 64-bit hash of a row's texts, folded; the order of the positives does not change it."""
    folded = [fold(texts[0]), *sorted(fold(text) for text in texts[1:])]
    packed = "\0".join([str(len(folded)), *folded]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big")


def bands_of(rows: Sequence[Sequence[str]], count: int) -> Bands:
    """(N, K) the band hashes of N rows' texts, for K bands."""
    if not rows:
        return np.zeros((0, count), dtype=np.uint64)
    out = np.zeros((len(rows), count), dtype=np.uint64)
    both = [sides_of(texts) for texts in rows]
    for side, seed in enumerate(_SEEDS):
        values = _minhash([pair[side] for pair in both], SIDE * count, seed)
        for at in range(SIDE):
            out = (out ^ values[:, at::SIDE]) * _MIX
            out ^= out >> np.uint64(32)
    return out


def minhash_version() -> int:
    """The version of the library's algorithm: bands of two versions are not comparable."""
    return int(_library().ALGORITHM_VERSION)


def _minhash(texts: Sequence[str], count: int, seed: int) -> Bands:
    """(N, count) MinHash values of N texts."""
    found, bounds = hashes(_bare(texts))
    matrix = _library().digest_matrix_from_flat_token_hashes(found, bounds, count, seed)
    return np.array(matrix.to_rows(), dtype=np.uint64)


def _library() -> Any:
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise MissingExtraError(
            "finding near-duplicates needs rensa: pip install 'tercet[filter]', or leave the step "
            "'near' out"
        ) from error
    return RMinHash
