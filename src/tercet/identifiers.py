"""Identifiers of a question, and which of them a text holds: error codes, part numbers, versions.

A model reads them in pieces that many texts share, so that E14 and E15 mean nearly the same to it.
Knows nothing of models, vectors or indexes.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

# Latin, Greek, Cyrillic: what an identifier is made of. Beside letters of scripts without spaces
# (and Korean, whose particles have none) one ends as it does at a space.
_LETTERS = "A-Za-zª²³¹º\u00c0-\u024f\u0370-\u052f"
_CHARACTER = rf"[0-9_{_LETTERS}]"
_TOKEN = re.compile(rf"{_CHARACTER}+(?:[-./:]{{1,2}}{_CHARACTER}+)*")
_NUMBERED = re.compile(rf"(?<!{_CHARACTER})[A-ZА-Я]{{2,}} \d[0-9.-]*\d(?!{_CHARACTER})")  # ISO 9001
_NUMBER = re.compile(r"[0-9]+(?:[-./:][0-9]+)*")
# 20th, 10km, 1990s, 5-year-old: words of a sentence (3D and 5G are none)
_AMOUNT = re.compile(rf"[0-9]+-?[a-zß-ÿа-я][{_LETTERS}]*(?:-[{_LETTERS}]+)*")
# getElementById, NullPointerException; not YouTube or BSkyB, which other words of a text stand for
_CAMEL = re.compile(r"[a-z]+[A-Z]|.*[a-z][A-Z].*[a-z][A-Z]")
_YEARS = range(1000, 2200)
_PIECE = re.compile(rf"[0-9]+|[{_LETTERS}]+|[- ]|[_./:]+")
_HYPHEN = r"[-\s\u2010-\u2014]?"


@dataclass(frozen=True)
class Identifiers:
    """The identifiers of one question, as patterns of how a text may write them."""

    patterns: tuple[re.Pattern[str], ...]

    @staticmethod
    def of(question: str) -> "Identifiers":
        """Those of a question; plain words, years and amounts are none."""
        question = unicodedata.normalize("NFKC", question)
        names = _NUMBERED.findall(question)
        for name in _TOKEN.findall(_NUMBERED.sub(" ", question)):
            if _identifies(name):
                names.append(name)
        return Identifiers(tuple(map(_pattern, dict.fromkeys(name.casefold() for name in names))))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def share(self, texts: Iterable[str]) -> float:
        """The share of them that any of the texts holds, in any case, with or without hyphens."""
        text = unicodedata.normalize("NFKC", "\n".join(texts)).casefold()
        return sum(bool(pattern.search(text)) for pattern in self.patterns) / len(self.patterns)


def _identifies(token: str) -> bool:
    if ("_" in token and token.strip("_")) or _CAMEL.match(token):
        return True
    if not any(letter.isdecimal() for letter in token):
        return False
    if _NUMBER.fullmatch(token):  # 4711, 2.13.0 and 2024-08-15, but not 100, 1999, 3.5 or 24/7
        parts = re.split(r"[-./:]+", token)
        return len(parts) > 2 or (len(parts) == 1 and len(token) > 3 and int(token) not in _YEARS)
    return not _AMOUNT.fullmatch(token)


def _pattern(name: str) -> re.Pattern[str]:
    """Matches an identifier, case-folded, that does not go on before or behind it."""
    pieces = _PIECE.findall(name)
    out = ""
    for before, piece in zip(["", *pieces], pieces, strict=False):
        if piece in "- ":
            continue
        if before and (before in "- " or (before.isalnum() and piece.isalnum())):
            out += _HYPHEN
        out += re.escape(piece)
    return re.compile(rf"(?<!{_CHARACTER})(?<![0-9][-./]){out}(?!{_CHARACTER})(?![-./][0-9])")
