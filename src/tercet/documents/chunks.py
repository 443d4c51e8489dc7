"""Documents to chunks: spans of at most so many tokens, on paragraph and sentence borders.

Works on characters and a token count; knows nothing of models, vectors or indexes.
"""

import re
import unicodedata
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from tercet.config import MAX_LENGTH
from tercet.errors import InputError
from tercet.records import Document, Section, Span

SPECIAL = 2  # [CLS] and </s>, which every encoded text has
PREFIX = 32  # tokens that a late pass leaves free for what a model wants before a passage
DENSE = 2  # characters that one becomes when normalised: no text, but ligatures of whole phrases
SHORTEST = 16  # tokens; below that a title leaves no room for text


@dataclass(frozen=True)
class Chunking:
    """How documents are cut."""

    chunk: int = 512  # tokens of a chunk, title and special tokens included; 0: no cutting
    overlap: int = 64  # tokens that neighbours share at most
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
        window: int = 1 << 15,
    ) -> None:
        """max_length is the most tokens that the model reads at once; window as below."""
        if tokenizer.truncation is not None:
            raise InputError("the tokenizer truncates, so it cannot count: call no_truncation()")
        self.chunking = chunking
        self._tokenizer = tokenizer
        self._max_length = min(max_length, MAX_LENGTH)
        # The splitter's time grows with the square of a text without breaks, so it is given windows
        # of so many characters. The last chunk of one is cut again as the first of the next, so
        # that windows do not show in the result.
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
        return list(self._windows(text, room))

    def _windows(self, text: str, room: int) -> Iterator[Span]:
        splitter = TextSplitter.from_callback(self.count, room, self.chunking.overlap)
        start = 0
        while start < len(text):
            stop = min(len(text), start + self._window)
            by = splitter
            if len(unicodedata.normalize("NFKC", text[start:stop])) > DENSE * (stop - start):
                stop = min(stop, start + self._window // 4)
                by = self._by_characters(text[start:stop], room)
            chunks = by.chunk_indices(text[start:stop])
            again = stop < len(text) and len(chunks) > 1
            for offset, chunk in chunks[: -1 if again else None]:
                yield Span(start + offset, start + offset + len(chunk))
            start = start + chunks[-1][0] if again else stop

    def _by_characters(self, text: str, room: int) -> TextSplitter:
        """A splitter that counts every character as the one of most tokens: one pass does."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        most = max(Counter(start for start, _ in offsets).values(), default=1)
        return TextSplitter(max(1, (room - 1) // most), self.chunking.overlap // most)

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
