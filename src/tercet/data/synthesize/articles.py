"""Rows to long articles, each with the one paragraph that its question will be about.

What is picked is a function of the seed and the article alone. Knows nothing of language models.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semantic_text_splitter import TextSplitter

from tercet.data.synthesize.language import single
from tercet.errors import InputError
from tercet.rows import Row, check_row, numbered_rows, stem_of
from tercet.split import text_key

BYTES_A_TOKEN = 4
LETTERS = 0.75  # least share of letters in a paragraph of prose; code and tables have fewer
# The splitter's time grows with the square of a text without breaks; nobody asks beyond this.
LONGEST_REACH = 1 << 15


def tokens_of(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes in UTF-8, rounded up.

    Against the XLM-RoBERTa tokenizer on paragraphs: 0.84 to 1.2 of the true number in English,
    Romance and Germanic languages, Chinese, Japanese and Korean, 1.3 to 1.8 in Cyrillic, Arabic
    and Hebrew script, 2 to 2.5 in Thai and the scripts of India: costs are rather over-estimated.
    """
    return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)


@dataclass(frozen=True)
class Picking:
    """Which articles are taken, and which of their paragraphs; sizes in tokens by `tokens_of`."""

    shortest: int = 1000  # article
    reach: int = 8192  # the paragraph comes from so much of the article's start: what M3 reads
    paragraph: tuple[int, int] = (60, 500)
    limit: int | None = None  # take so many articles, the first ones
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.paragraph
        if not 1 <= low < high:
            raise InputError(
                f"a paragraph of {low} to {high} tokens cannot be: give such as 60-500"
            )
        if not high <= self.reach <= LONGEST_REACH:
            raise InputError(
                f"the reach must hold a paragraph and lie in {high} to {LONGEST_REACH} tokens, got "
                f"{self.reach}"
            )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"the limit counts from 1, got {self.limit}")


@dataclass(frozen=True)
class Article:
    """A long article and a paragraph of it."""

    number: int  # among the articles taken, from 0
    text: str  # the whole: title, line break, text
    title: str
    lang: str  # as the row says; empty where that says none, or two
    source: str
    paragraph: str
    key: int  # the same for two articles that differ in white space or case alone


def articles(files: Iterable[Path], picking: Picking, left_out: Counter[str]) -> Iterator[Article]:
    """The articles of files of rows, in order; counts what it leaves out, by reason.

    A row is {"text"} or {"query", "pos"}, whose positives are the articles; "title", "lang" and
    "source" are kept. Raises InputError naming file and line.
    """
    seen: set[int] = set()
    number = 0
    low, high = picking.paragraph
    splitter = TextSplitter.from_callback(tokens_of, (low, high))
    for file in files:
        for line, row in numbered_rows(file):
            for title, text, lang, source in _texts(row, file, line):
                key = text_key(text)
                if tokens_of(text) < picking.shortest:
                    left_out["too short"] += 1
                    continue
                if key in seen:
                    left_out["seen before"] += 1
                    continue
                seen.add(key)
                paragraph = _pick(text, key, picking, splitter)
                if paragraph is None:
                    left_out["no paragraph of prose"] += 1
                    continue
                whole = f"{title}\n{text}" if title else text
                yield Article(number, whole, title, lang, source, paragraph, key)
                number += 1
                if number == picking.limit:
                    return


def _texts(row: Row, file: Path, line: int) -> Iterator[tuple[str, str, str, str]]:
    """Title, text, language and source of each article in a row."""
    where = f"{file}:{line}"
    record = check_row(row, where)
    title = row.get("title")
    if title is not None and not isinstance(title, str):
        raise InputError(f"{where}: 'title' must be a string, got {title!r:.40}")
    source = record.source or stem_of(file)
    if record.raw:
        yield (title or "").strip(), record.query, record.lang, source
        return
    for text in record.pos:
        yield "", text, single(record.lang), source


def _pick(text: str, key: int, picking: Picking, splitter: TextSplitter) -> str | None:
    """A paragraph of prose, every one as likely as another; None where there is none."""
    reach = picking.reach * BYTES_A_TOKEN
    start = text.encode("utf-8", "replace")[:reach].decode("utf-8", "ignore")
    parts = splitter.chunks(start)
    if len(start) < len(text) and len(parts) > 1:
        parts.pop()  # may end in the middle of a sentence
    low, high = picking.paragraph
    found = [part for part in parts if low <= tokens_of(part) <= high]

    def draw(place: int) -> bytes:
        drawn = f"{picking.seed}/{key}/{place}".encode()
        return hashlib.blake2b(drawn, digest_size=8).digest()

    return next(
        (found[at] for at in sorted(range(len(found)), key=draw) if _prose(found[at])), None
    )


def _prose(text: str) -> bool:
    """Whether a paragraph is mostly letters (and their marks)."""
    shown = [character for character in text if not character.isspace()]
    letters = sum(unicodedata.category(character)[0] in "LM" for character in shown)
    return letters >= LETTERS * len(shown)
