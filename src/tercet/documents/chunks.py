"""Documents to chunks: spans of at most so many tokens, on paragraph and sentence borders.

Works on characters and a token count; knows nothing of models, vectors or indexes.
"""

import re
import unicodedata
from bisect import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tercet.config import MAX_LENGTH
from tercet.documents.sentences import sentences
from tercet.errors import InputError
from tercet.records import Document, Section, Span

SPECIAL = 2  # [CLS] and </s>, which every encoded text has
PREFIX = 32  # tokens that a late pass leaves free for what a model wants before a passage
FLAGS = 2000  # in a row; of more than half as many flags one may be cut in two
SHORTEST = 16  # tokens; below that a title leaves no room for text


@dataclass(frozen=True)
class Chunking:
    """How documents are cut."""

    chunk: int = 512  # tokens of a chunk, title and special tokens included; 0: no cutting
    overlap: int = 64  # tokens of the text that neighbours share at most
    late: bool = False  # late chunking: a chunk's vectors come from a pass over its surroundings

    def __post_init__(self) -> None:
        if self.chunk and not SHORTEST <= self.chunk <= MAX_LENGTH:
            raise InputError(
                f"chunk is {self.chunk} tokens: give 0 (whole documents) or {SHORTEST} to "
                f"{MAX_LENGTH}"
            )
        if self.overlap < 0 or (self.chunk and 2 * self.overlap > self.chunk):
            raise InputError(
                f"overlap is {self.overlap} tokens: give 0 to {self.chunk // 2}, half of a chunk"
            )
        if self.late and not self.chunk:
            raise InputError("late chunking needs chunks: give a chunk size above 0")


class Chunker:
    """Cuts texts as a Chunking says, counting with the model's tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chunking: Chunking,
        max_length: int = MAX_LENGTH,
        *,
        window: int = 1 << 16,
    ) -> None:
        """max_length is the most tokens that the model reads at once; window as below."""
        if tokenizer.truncation is not None:
            raise InputError("the tokenizer truncates, so it cannot count: call no_truncation()")
        self.chunking = chunking
        self._tokenizer = tokenizer
        self._max_length = min(max_length, MAX_LENGTH)
        # So many characters are tokenised at once. The last chunk of a window is cut again as the
        # first of the next, so that windows do not show in the result.
        self._window = max(window, 16 * chunking.chunk)
        self._title_room = (chunking.chunk or self._max_length // 4) // 4

    def count(self, text: str) -> int:
        """Tokens of a text, special ones left out."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def heading(self, title: str) -> str:
        """What stands before a chunk: the title and a line break, or nothing.

        A title longer than a quarter of a chunk is cut there. Title + newline + text: M3 paper.
        """
        if not title:
            return ""
        title = title[: 64 * self._title_room]  # more than that many tokens, in any script
        offsets = self._tokenizer.encode(title, add_special_tokens=False).offsets
        if len(offsets) > self._title_room:
            title = title[: offsets[self._title_room - 1][1]].rstrip()
        return f"{title}\n"

    def spans(self, text: str, title: str = "") -> list[Span]:
        """The chunks of a text, in order, without white space at their ends, (start, end) pairs.

        Every chunk with its heading and the special tokens has at most `chunk` tokens. Between
        them only white space is left out. One span over everything where chunk is 0.
        """
        stripped = text.strip()
        start = text.find(stripped)
        whole = Span(start, start + len(stripped))
        if not self.chunking.chunk or not stripped:
            return [whole]
        room = self.chunking.chunk - SPECIAL
        if title:
            room -= self.count(self.heading(title))
        if len(stripped) <= 8 * room and self.count(stripped) <= room:
            return [whole]
        return list(self._cut(text.rstrip(), room))

    def _cut(self, text: str, room: int) -> Iterator[Span]:
        """Spans of at most `room` tokens, each counted alone; a single character may have more."""
        kinds = borders(text)
        spare = 0  # tokens that a chunk had alone beyond those that it has within the text
        start, end = _next_word(text, 0), 0
        while start < len(text):
            stop = min(len(text), start + self._window)
            encoding = self._tokenizer.encode(text[start:stop], add_special_tokens=False)
            offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2) + start
            part = _Part(text, kinds, offsets[:, 0], offsets[:, 1], stop)
            plan = list(part.chunks(start, end, room - spare, self.chunking.overlap))
            pieces = [text[span.start : span.end] for span in plan]
            counts = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
            over = [max(0, len(count) - room) for count in counts]
            kept = next((n for n in range(len(plan)) if over[n] and len(pieces[n]) > 1), len(plan))
            if kept < len(plan) and spare < room - 1:
                spare = min(room - 1, spare + over[kept])
            else:
                kept = len(plan) - (stop < len(text) and len(plan) > 1)
            yield from plan[:kept]
            end = plan[kept - 1].end if kept else end
            start = plan[kept].start if kept < len(plan) else _next_word(text, stop)

    def passes(self, text: str, title: str, spans: Sequence[Span]) -> list[list[Span]]:
        """For late chunking: runs of neighbouring spans that one pass of the model can hold.

        A pass reads the heading and the text from its first span's start to its last one's end.
        """
        room = self._max_length - SPECIAL - PREFIX
        room -= self.count(self.heading(title)) if title else 0
        runs: list[list[Span]] = []
        used = 0
        for span in spans:
            # Spans overlap, so the sum of their tokens is never below what the pass will read.
            tokens = self.count(text[span.start : span.end])
            if not runs or used + tokens > room:
                runs.append([])
                used = 0
            runs[-1].append(span)
            used += tokens
        return runs


# Borders, from the best kind to the worst

_PARAGRAPH, _LINE, _SENTENCE, _CLAUSE, _WORD, _TOKEN = range(6)
# Quarters of its room that a chunk fills at least to end at a border of each kind.
_FLOORS = (2, 2, 1, 3, 2, 0)
_PATTERNS = {
    _CLAUSE: re.compile(r"[,;:،؛፣፤၊](?=\s)|[、，；：](?=.)|\S(?=\n)"),
    _WORD: re.compile(r"\S(?=\s)"),
}


def borders(text: str, *, phrases: bool = False) -> list[list[int]]:
    """Where paragraphs, lines and sentences end; a list has all that are in the one before."""
    kinds: list[list[int]] = [[], [], []]
    for span, after in pairwise([*sentences(text, phrases=phrases), Span(len(text), len(text))]):
        if _joined(text, span.end):
            continue
        breaks = text.count("\n", span.end, after.start)
        for kind in range(max(_PARAGRAPH, _SENTENCE - breaks), _SENTENCE + 1):
            kinds[kind].append(span.end)
    return kinds


@dataclass(frozen=True)
class _Part:
    """A part of a text, with its borders and where its tokens start and end."""

    text: str
    kinds: list[list[int]]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    stop: int

    def chunks(self, start: int, end: int, room: int, overlap: int) -> Iterator[Span]:
        """Chunks from `start` on by the tokens of the part; `end` is that of the chunk before.

        A chunk ends at the last border of the best kind that fills it far enough. The next one
        starts at the first border of that kind from which they share at most `overlap` tokens.
        """
        while start < self.stop:
            first = int(self.ends.searchsorted(start, "right"))
            if first + room >= len(self.starts):
                yield Span(start, start + len(self.text[start : self.stop].rstrip()))
                return
            high = int(self.starts[first + room])
            for kind, quarters in enumerate(_FLOORS):
                low = max(start, end, int(self.starts[first + quarters * room // 4]))
                if found := self.within(kind, low, high):
                    end = found[-1]
                    break
            else:
                if start < end:  # what is shared leaves no room for more
                    start = _next_word(self.text, end)
                    continue
                # a cluster, or one character, of more tokens than there is room for
                after = [*self.starts[self.starts > start][:1].tolist(), self.stop][0]
                end = start + len(self.text[start : max(high, after)].rstrip())
            yield Span(start, end)
            shared = int(self.starts.searchsorted(end)) - overlap
            low = max(start, int(self.ends[shared - 1]) - 1 if shared > 0 else 0)
            same = range(kind, kind + 1 if kind < _CLAUSE else len(_FLOORS)) if overlap else ()
            found = next(filter(None, (self.within(k, low, end - 1) for k in same)), [end])
            start = _next_word(self.text, found[0])

    def within(self, kind: int, low: int, high: int) -> Sequence[int]:
        """The borders of a kind in (low, high], in order."""
        if kind < _CLAUSE:
            return self.kinds[kind][bisect(self.kinds[kind], low) : bisect(self.kinds[kind], high)]
        if kind < _TOKEN:
            pattern = _PATTERNS[kind]
            places = [match.end() for match in pattern.finditer(self.text, low, high + 1)]
        else:
            tokens = slice(*self.starts.searchsorted([low, high], "right"))
            places = self.starts[tokens].tolist()
        return [place for place in places if not _joined(self.text, place)]


# Two characters of one grapheme cluster (UAX 29); marks, flags and conjuncts are looked for apart.
_PAIR = re.compile(
    "\u200d\\S|[\u1100-\u115f]{2}"
    "|.[\u0e33\u0eb3\u1160-\u11ff\u200c\u200d\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]",
    re.DOTALL,
)
_FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # a flag is two of them
_VIRAMA = 9  # combining class of the sign between the consonants of a conjunct


def _joined(text: str, place: int) -> bool:
    """Whether nothing may be cut there: inside a grapheme cluster, or behind white space."""
    before, after = text[place - 1], text[place : place + 1]
    if not after or before.isspace() or after.isspace():
        return before.isspace()
    category = unicodedata.category(after)
    if after in _FLAGS:
        run = text[max(0, place - FLAGS) : place]
        return len(run) - len(run.rstrip(_FLAGS)) & 1 == 1
    return (
        category.startswith("M")
        or (category == "Lo" and unicodedata.combining(before) == _VIRAMA)
        or _PAIR.match(before + after) is not None
    )


# Where chunks stand

_BLANK = re.compile(r"\s*")


def places(document: Document, spans: Sequence[Span]) -> Iterator[tuple[int | None, list[str]]]:
    """For each of the chunks, in order, the page on which it starts and its headings.

    These are the ones that hold where its own text begins, after what it shares with the chunk
    before; the document's title is none of them.
    """
    text = document.text
    pages = [section for section in document.outline if not section.level]
    headings = deque(section for section in document.outline if section.level)
    path: list[Section] = []  # of levels that rise
    end = 0
    for span in spans:
        begin = _next_word(text, max(span.start, end))
        end = span.end
        while headings and headings[0].start <= begin:
            heading = headings.popleft()
            path = [*(above for above in path if above.level < heading.level), heading]
            # what opens with a heading may open with several, one below the other
            begin = _next_word(text, max(begin, heading.start + len(heading.label)))
        labels = [heading.label for heading in path]
        number = bisect(pages, span.start, key=lambda page: page.start)
        page = int(pages[number - 1].label) if number else None
        yield page, labels[1:] if labels[:1] == [document.title] else labels


def _next_word(text: str, start: int) -> int:
    match = _BLANK.match(text, start)
    return match.end() if match else start
