"""What characters are, for many texts at once: letters, digits, damage, scripts without spaces.

Works on arrays of code points. Knows nothing of rows or of what is dropped. Shapes: N texts, C
characters of all of them.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

LETTER = 1  # letters and the marks on them: Unicode categories L and M
DIGIT = 2  # N
SPACE = 4
BROKEN = 8  # control characters, U+FFFD, halves of surrogate pairs, noncharacters
DENSE = 16  # of a script that sets no spaces between words
HIDDEN = 32  # apostrophes and what is not seen: inside words, and often left out
SYMBOL = 64  # of mathematics, money and names, as in C++ and C#: they say something

# Thai to Myanmar, Khmer, Tai and Javanese scripts, then CJK with kana; hangul has spaces
_DENSE = (
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x2E80, 0x312F),
    (0x31A0, 0x9FFF),
    (0xA980, 0xAADF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
SPREAD = 3  # letters that a dense character stands for, about
_TABLE_SIZE = 0x110000
_JOIN = "\0"

Codes = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


@lru_cache(maxsize=1)
def kinds() -> npt.NDArray[np.uint8]:
    """(0x110000,) bits of each code point."""
    table = np.zeros(_TABLE_SIZE, dtype=np.uint8)
    by_group = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE}
    for code in range(_TABLE_SIZE):
        character = chr(code)
        group = unicodedata.category(character)
        if group in ("Cc", "Cs"):
            table[code] = SPACE if character.isspace() else BROKEN
        elif group in ("Sm", "Sc", "So") or character in "#%&@":
            table[code] = SYMBOL
        else:
            table[code] = by_group.get(group[0], 0)
    for character in "'\u2019\u02bc\u0307\u00ad\u200b\u200c\u200d\ufeff":
        table[ord(character)] = HIDDEN
    table[0xFFFD] = BROKEN
    table[0xFDD0:0xFDF0] = BROKEN
    table[0xFFFE::0x10000] = table[0xFFFF::0x10000] = BROKEN
    for first, last in _DENSE:
        known = table[first : last + 1]
        known[(known & (LETTER | DIGIT)) > 0] |= DENSE
    return table


def code_points(text: str) -> Codes:
    """(C,) the characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


@dataclass(frozen=True)
class Counts:
    """(N,) characters of each text that are no spaces, and how many of those are what."""

    solid: Places
    letters: Places
    broken: Places

    @staticmethod
    def of(texts: Sequence[str]) -> "Counts":
        """Counts the characters of N texts."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        found = kinds()[code_points("".join(texts))]

        def per_text(marked: npt.NDArray[np.bool_]) -> Places:
            total: Places = np.concatenate(([0], np.cumsum(marked, dtype=np.int64)))
            ends = np.cumsum(lengths)
            counts: Places = total[ends] - total[ends - lengths]
            return counts

        return Counts(
            solid=lengths - per_text((found & SPACE) > 0),
            letters=per_text((found & LETTER) > 0),
            broken=per_text((found & BROKEN) > 0),
        )


@dataclass(frozen=True)
class Bare:
    """Texts without case and punctuation, words parted by one space, all in one array.

    Apostrophes and what is not seen part no words. Between characters of scripts without spaces
    there is none. Text n is codes[starts[n]:ends[n]]; a 0 stands before and behind each.
    """

    codes: Codes  # (C,)
    starts: Places  # (N,)
    ends: Places  # (N,)

    @staticmethod
    def of(texts: Sequence[str], *, symbols: bool = False) -> "Bare":
        """Bares N texts; symbols go too, or else are kept."""
        kept = LETTER | DIGIT | (SYMBOL if symbols else 0)
        if not texts:
            nowhere: Places = np.zeros(0, dtype=np.int64)
            return Bare(np.zeros(1, dtype=np.uint32), nowhere, nowhere)
        joined = _JOIN + _JOIN.join(text.replace(_JOIN, " ") for text in texts) + _JOIN
        if not joined.isascii():
            joined = unicodedata.normalize("NFKC", joined)
        # Turkish and Azerbaijani have two letters i, whose capitals are mixed up everywhere
        codes = code_points(joined.casefold().replace("ı", "i"))
        codes = codes[(kinds()[codes] & HIDDEN) == 0]
        found = kinds()[codes]
        ends = codes == 0
        word = (found & kept) > 0
        codes, found = codes[word | ends], found[word | ends]
        # a space stands where something was left out between two words, unless both are dense
        places = np.flatnonzero(word | ends)
        gap = np.zeros(len(places), dtype=np.bool_)  # before this character
        gap[1:] = np.diff(places) > 1
        solid = (found & kept) > 0
        dense = (found & DENSE) > 0
        gap[1:] &= solid[1:] & solid[:-1] & ~(dense[1:] & dense[:-1])
        out = np.full(len(codes) + int(gap.sum()), ord(" "), dtype=np.uint32)
        out[np.arange(len(codes)) + np.cumsum(gap)] = codes
        bounds = np.flatnonzero(out == 0)
        return Bare(out, bounds[:-1] + 1, bounds[1:])

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, number: int) -> Codes:
        """The characters of one text."""
        return self.codes[self.starts[number] : self.ends[number]]


def spread(codes: Codes) -> int:
    """The length of a bare text; a dense character counts for as much as it says."""
    return len(codes) + (SPREAD - 1) * int(((kinds()[codes] & DENSE) > 0).sum())


def as_text(codes: Codes) -> str:
    """The text of an array of code points."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def fold(text: str) -> str:
    """A text in one form: compatibility characters, case and white space made alike."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def letters_alone(text: str, *, symbols: bool = False) -> str:
    """What Bare keeps of one text."""
    return as_text(Bare.of([text], symbols=symbols).text(0))
