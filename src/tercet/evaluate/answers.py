"""Whether an answer string occurs in a passage, as MKQA is measured: the published normalisation.

Passages are lower-cased and their quotes and dashes made plain (the reference's evaluation of the
M3 model); then passages and answers become NFD and are cut into runs of letters, digits and marks,
and single other characters (the DPR and Contriever evaluations). An answer occurs where its
tokens stand in a row. Knows nothing of files or runs.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

_PLAIN: dict[str, str] = {
    # controls that Unicode does not count as blank
    "".join(map(chr, [*range(0x01, 0x09), 0x0E, 0x0F, *range(0x11, 0x1C), 0xAD])): "",
    "\x0b\x0c\x85": " ",
    "‐‑⁃‒–—―−－⁻": "-",
    "“”„‟": '"',
    "‘’‚‛՚Ꞌꞌ＇`´′‵": "'",
    "″‶": "''",
    "‴‷": "'''",
    "⁗": "''''",
    "…": "...",
    "⁄∕": "/",
}
_TABLE = str.maketrans({old: new for olds, new in _PLAIN.items() for old in olds})


def plain(text: str) -> str:
    """A passage as MKQA's evaluation encodes and reads it: lower case, plain quotes and dashes."""
    return text.lower().translate(_TABLE).replace(" . . . ", " ... ")


def tokens(text: str) -> list[str]:
    """The tokens of a text, in lower case."""
    return [token.lower() for token in _pattern().findall(unicodedata.normalize("NFD", text))]


class Answers:
    """Finds any of a query's answers in passages; an answer without a token is never found."""

    def __init__(self, answers: Iterable[str]) -> None:
        joined = {_joined(tokens(answer)) for answer in answers}
        self._joined = tuple(sorted(joined - {_joined([])}, key=len))

    def in_tokens(self, passage: str) -> bool:
        """Whether one occurs in a passage that `joined_tokens` made."""
        return any(answer in passage for answer in self._joined)


def joined_tokens(text: str) -> str:
    """A passage's tokens with a line break around each, for `Answers.in_tokens`."""
    return _joined(tokens(plain(text)))


def _joined(found: list[str]) -> str:
    return "\n" + "".join(f"{token}\n" for token in found)  # a line break is never a token


@cache
def _pattern() -> re.Pattern[str]:
    """Runs of letters, numbers and marks, or one character that is no separator and no control."""
    kinds: dict[str, list[tuple[int, int]]] = {"word": [], "other": []}
    last = ""
    for code in range(sys.maxunicode + 1):
        major = unicodedata.category(chr(code))[0]
        kind = "word" if major in "LNM" else "" if major in "ZC" else "other"
        if kind and kind == last:
            kinds[kind][-1] = (kinds[kind][-1][0], code)
        elif kind:
            kinds[kind].append((code, code))
        last = kind
    word, other = (
        "".join(f"\\U{first:08x}-\\U{final:08x}" for first, final in ranges)
        for ranges in kinds.values()
    )
    return re.compile(f"[{word}]+|[{other}]")
