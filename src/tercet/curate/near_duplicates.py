"""Rows that repeat an earlier one, exactly or nearly; the first is kept.

A row has two sides, its query and its positives; a raw text is both sides of itself. Two rows are
near-duplicates where both sides are alike. Knows nothing of files. Shapes: N rows, K bands.

    1. a side is the set of its runs of 5 characters, without case and punctuation
    2. MinHash (rensa) gives each side 3 values for every band
    3. a band of a row is one hash of the 6; rows that share one are candidates
    4. candidates are compared by the true Jaccard similarity of their sets; short texts must
       have the same letters, for there one word makes another question
    5. a row is dropped only for a row that is kept

Memory grows by some 60 bytes with each row, and by 10 for each band that it shares with another.
"""

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.curate.quality import Normalized, count_letters
from tercet.errors import MissingExtraError

SHINGLE = 5  # characters; short enough for every script, long enough to be rare
SIDE_VALUES = 3  # MinHash values of each side in a band
# Letters (quality.count_letters) of a short passage or raw text, and of a short query, which may be
# a sentence that asks.
SHORT, SHORT_QUERY = 200, 500
MISSED = 0.01  # part of the pairs just at the threshold that may share no band
CACHED = 4096  # rows whose shingles are held at once
COMPARED = 8  # rows of a band that a row is compared with; a larger one is a common phrase
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 / golden ratio (Knuth, TAOCP 6.4)

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


def key_of(texts: Sequence[str]) -> int:
    """A 64-bit hash of a row's texts, folded; the order of the positives does not change it."""
    folded = [fold(texts[0]), *sorted(fold(text) for text in texts[1:])]
    joined = "\0".join([str(len(folded)), *folded]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


def fold(text: str) -> str:
    """A text in one form: compatibility characters, case and white space made alike."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def exact_repeats(keys: Hashes) -> Numbers:
    """(N,) the first row with the same key, -1 for the first itself."""
    order = np.argsort(keys, kind="stable")
    new = _is_new(keys[order])
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))]
    out = np.full(len(keys), -1, dtype=np.int64)
    out[order[~new]] = first[~new]
    return out


def _is_new(ordered: Hashes) -> npt.NDArray[np.bool_]:
    """(N,) whether each differs from the one before."""
    new = np.ones(len(ordered), dtype=np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    return new


# Candidates: MinHash bands


def bands_for(threshold: float) -> int:
    """Bands that find all but MISSED of the pairs whose sides are just as alike as the threshold.

    Broder 1997; Leskovec et al., Mining of Massive Datasets, section 3.4.

    >>> bands_for(0.8), bands_for(0.7)
    (16, 37)
    """
    shared = threshold ** (2 * SIDE_VALUES)  # the chance that one band of such a pair agrees
    return 1 if shared >= 1 else math.ceil(math.log(MISSED) / math.log1p(-shared))


def bands_of(rows: Sequence[Sequence[str]], count: int) -> Hashes:
    """(N, K) the band hashes of N rows' texts, for K bands."""
    out = np.zeros((len(rows), count), dtype=np.uint64)
    for seed, side in enumerate(zip(*map(_sides_of, rows), strict=True), 1):
        hashes, bounds = shingle_hashes(Normalized.of(side, symbols=True))
        matrix = minhash().digest_matrix_from_flat_token_hashes(
            hashes, bounds, SIDE_VALUES * count, seed
        )
        values = np.array(matrix.to_rows(), dtype=np.uint64)
        for at in range(SIDE_VALUES):
            out = (out ^ values[:, at::SIDE_VALUES]) * _MIX
            out ^= out >> np.uint64(32)
    return out


def _sides_of(texts: Sequence[str]) -> tuple[str, str]:
    return texts[0], "\n".join(texts[1:]) if len(texts) > 1 else texts[0]


def minhash() -> Any:
    """The library; bands of two of its ALGORITHM_VERSIONs are not comparable."""
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise MissingExtraError(
            "finding near-duplicates needs rensa: pip install 'tercet[filter]', or leave the step "
            "'near' out"
        ) from error
    return RMinHash


def shingle_hashes(texts: Normalized) -> tuple[Hashes, Hashes]:
    """Hashes of all runs of 5 characters of N texts, and (N + 1,) where each text's begin.

    Repeats are kept. A text has one at least; behind the end of a short one are zeros.
    """
    counts = np.maximum(texts.ends - texts.starts - SHINGLE + 1, 1)
    bounds = np.concatenate(([0], np.cumsum(counts)))
    first = np.arange(bounds[-1]) + np.repeat(texts.starts - bounds[:-1], counts)
    ends = np.repeat(texts.ends, counts)
    codes = np.pad(texts.codes, (0, SHINGLE))
    mixed = np.zeros(len(first), dtype=np.uint64)
    for shift in range(SHINGLE):
        place = first + shift
        mixed = (mixed + np.where(place < ends, codes[place], 0)) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed, bounds.astype(np.uint64)


# Comparison


def jaccard(left: Hashes, right: Hashes) -> float:
    """Shared shingles by all shingles of two texts: 1 for the same text, 0 for nothing in common.

    Of 600 characters, one word changed leaves about 0.97; a whole sentence of six about 0.7.
    """
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


class Side:
    """A side of a row, to be compared; its shingles are made when they are needed."""

    def __init__(self, text: str, short: int) -> None:
        """`short` is the number of letters from which on it is judged by its shingles."""
        self._text = Normalized.of([text], symbols=True)
        self.letters = self._text.text(0)
        self.long = count_letters(self.letters) >= short

    @cached_property
    def shingles(self) -> Hashes:
        hashes = np.sort(shingle_hashes(self._text)[0])  # quicker than np.unique for so few
        return hashes[_is_new(hashes)]

    def similarity(self, other: "Side") -> float:
        """How alike two sides are, between 0 and 1: see step 4."""
        if self.long and other.long:
            return jaccard(self.shingles, other.shingles)
        return float(np.array_equal(self.letters, other.letters))


def sides_to_compare(texts: Sequence[str]) -> list[Side]:
    """The sides of a row as they are compared with another's: two, or one of a raw text."""
    if len(texts) == 1:
        return [Side(texts[0], SHORT)]
    query, positives = _sides_of(texts)
    return [Side(query, SHORT_QUERY), Side(positives, SHORT)]


def near_repeats(
    texts: Callable[[int], Sequence[str]],
    bands: Iterable[Hashes],
    standing: Numbers,
    threshold: float,
) -> dict[int, tuple[int, float]]:
    """Rows that are nearly an earlier one that stays: its number and their similarity.

    texts: of a row, by number. bands: (N,) the hashes of each. standing: numbers of the rows that
    are compared, rising.
    """
    sides = lru_cache(maxsize=CACHED)(lambda number: sides_to_compare(texts(number)))

    def similarity(left: int, right: int) -> float:
        """Of the less alike of their sides."""
        least, of_left, of_right = 1.0, sides(left), sides(right)
        if len(of_left) != len(of_right):  # a raw text and a row
            return 0.0
        for one, other in zip(of_left, of_right, strict=True):
            if least >= threshold:
                least = min(least, one.similarity(other))
        return least

    members: dict[int, list[int]] = {}  # group -> rows in it that stay
    repeats: dict[int, tuple[int, float]] = {}
    for number, groups in _sharing(bands, standing):
        # row -> bands shared
        shared = Counter(other for group in groups for other in members.get(group, ()))
        # those that share most bands are most alike; of equals the earliest
        for other in sorted(shared, key=lambda other: (-shared[other], other)):
            if (alike := similarity(number, other)) >= threshold:
                repeats[number] = other, alike
                break
        else:
            for group in groups:
                if len(rows := members.setdefault(group, [])) < COMPARED:
                    rows.append(number)
    return repeats


def _sharing(bands: Iterable[Hashes], standing: Numbers) -> Iterator[tuple[int, list[int]]]:
    """Rows that share a band with another, rising, and the numbers of the groups they are in."""
    member, group = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    count = 0
    for band in bands:
        values = band[standing]
        order = np.argsort(values, kind="stable")
        new = _is_new(values[order])
        within = ~new
        within[:-1] |= ~new[1:]
        groups = np.cumsum(new[within]) + count
        member.append(standing[order[within]])
        group.append(groups)
        count = int(groups[-1]) + 1 if len(groups) else count
    members, groups = np.concatenate(member), np.concatenate(group)
    order = np.argsort(members, kind="stable")
    members, groups = members[order], groups[order]
    bounds = np.append(np.flatnonzero(np.diff(members, prepend=-1)), len(members))
    for start, end in pairwise(bounds.tolist()):
        yield int(members[start]), groups[start:end].tolist()
