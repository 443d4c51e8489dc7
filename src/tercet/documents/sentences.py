"""Sentences of a text in any script, by their marks and by line breaks.

Works on characters alone; knows nothing of tokens, languages or models.
"""

import re
import unicodedata
from collections.abc import Iterator

from tercet.records import Span

# Han and kana, Devanagari and its kin, Arabic and Urdu, Ethiopic, Armenian, Greek, Khmer, Myanmar,
# Tibetan: marks that end a sentence whatever follows.
_MARKS = "。！？｡।॥؟۔።፧։\u037e។៕။།༎"
_CLOSERS = "\"'”’»›」』】）)\\]"
_END = re.compile(
    rf"[{_MARKS}][{_MARKS}!?{_CLOSERS}]*"
    # two Ethiopic word marks or colons, and a colon in Armenian, are typed for the full stop
    rf"|(?:(?<=[\u1200-\u135a])(?:፡፡|::)|(?<=[\u0561-\u0587]):(?=\s))[{_CLOSERS}]*"
    # these stand in numbers, names and addresses too, and end a sentence before white space alone
    rf"|(?P<stop>(?<![.!?…])[.!?…]+[{_CLOSERS}]*)(?=\s)"
    r"|\n\s*"
)
# A full stop behind these ends nothing: initials, "Dr." and its kin, numbers as in "am 5. Mai".
_SHORT = re.compile(r"(?<![\w.,])(?:[^\W\d_]|[A-Z][a-z]|\d{1,2})\.$")
_NEXT = re.compile(r"\s+[\"'“‘«‹„(\[¿¡]*(\w)?")
_UNICASE = "".join(map(chr, range(0x10D0, 0x1100)))  # Georgian: sentences begin in lower case
_BLOCK = re.compile(r"\s*(?:[-*+•|#>]|\d{1,3}[.)])\s")  # members of lists, headings, tables
_WRAPPED = range(50, 121)  # characters of a line that goes on in the next one
_UNMARKED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Myanmar, Khmer
_PHRASE = 60  # characters of such a script behind which a space ends a sentence


def sentences(text: str, *, phrases: bool = True) -> Iterator[Span]:
    """The sentences of a text in order, without white space at their ends.

    Between them only white space is left out. In scripts that often lack marks a space behind 60
    characters ends one, if `phrases`; a line of usual width that goes on in the next does not.
    """
    start = 0
    for match in _END.finditer(text):
        if _ends(text, match):
            yield from _parts(text, start, match.end(), phrases)
            start = match.end()
    yield from _parts(text, start, len(text), phrases)


def _ends(text: str, match: re.Match[str]) -> bool:
    if match["stop"]:
        ahead = _NEXT.match(text, match.end())
        if ahead and ahead[1] and ahead[1].islower() and ahead[1] not in _UNICASE:
            return False
        line = text[max(0, match.start() - 4) : match.start() + 1]
        short = _SHORT.search(line)
        # behind a vowel sign a letter is none of its own, but for `\w` a sign is no letter
        return short is None or unicodedata.category(line[: short.start()][-1:] or " ")[0] == "M"
    if match[0].count("\n") == 1 and match[0][0] == "\n":
        width = match.start() - (text.rfind("\n", 0, match.start()) + 1)
        return width not in _WRAPPED or bool(_BLOCK.match(text, match.end()))
    return True


def _parts(text: str, start: int, end: int, phrases: bool) -> Iterator[Span]:
    """A sentence without outer white space; cut at spaces where its script often lacks marks."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start == end:
        return
    if phrases and end - start > _PHRASE and _UNMARKED.search(text, start, end):
        first = start
        for space in re.compile(r"\s+").finditer(text, start, end):
            if space.start() - first >= _PHRASE:
                yield Span(first, space.start())
                first = space.end()
        start = first
    yield Span(start, end)
