"""BM25 of a corpus by Lucene's formula, over words or over the subwords of a model's tokenizer.

It makes matrices, whose product is the score; knows nothing of rows, runs or ranking.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from unicodedata import category, normalize

import numpy as np

from tercet.errors import InputError
from tercet.sparse import SparseRows
from tercet.tokenizer import MARGIN, READ, Tokenizer

K1, B = 0.9, 0.4  # Anserini's, for passages; the M3 paper's BM25 runs have them too
SPECIAL = 2  # of a model's tokens: [CLS] and </s> are no terms
TERM_BYTES = 24  # of a term of the corpus, while its index is made

# Blocks of scripts without spaces between words, and Hangul.
PAIR_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1100, 0x11FF),  # Thai, Lao; Myanmar; Hangul letters
    (0x1700, 0x17FF), (0x1950, 0x1AAF),  # Philippine, Khmer; Tai Le to Tai Tham, Buginese
    (0x1B00, 0x1BFF), (0x2E80, 0xA4CF),  # Balinese, Sundanese, Batak; kana, Bopomofo, Han, Yi
    (0xA930, 0xAADF),  # Rejang, Hangul letters, Javanese, Myanmar, Cham, Tai Viet
    (0xAC00, 0xD7FF), (0xF900, 0xFAFF),  # Hangul syllables; Han compatibility
    (0x11000, 0x1107F), (0x11300, 0x113FF), (0x11700, 0x1174F),  # Brahmi; Grantha, Tulu; Ahom
    (0x11EE0, 0x11F5F), (0x12000, 0x1467F),  # Makasar, Kawi; cuneiform, hieroglyphs
    (0x16FE0, 0x1B2FF), (0x20000, 0x3FFFF),  # Tangut, Khitan, kana, Nushu; Han, planes 2 and 3
)  # fmt: skip
# Default_Ignorable_Code_Point of Unicode: what is not seen parts no word.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_MARKS = str.maketrans("\u2122\u2120", "  ")  # TM and SM, which are no part of a word


@dataclass(frozen=True)
class Subwords:
    """The tokens of a model's tokenizer as terms, so that every script has some."""

    tokenizer: Tokenizer
    fold: bool = False  # without case; the M3 paper's BM25 has the model's tokens as they are

    @property
    def size(self) -> int:
        return self.tokenizer.vocabulary

    def of(
        self, texts: Sequence[str], limit: int | None, *, new: bool
    ) -> tuple[list[list[int]], int]:
        """The terms of each text's first `limit` tokens, and how many texts had more."""
        folded = [text.casefold() for text in texts] if self.fold else texts
        ids = self.tokenizer.contents(folded, limit=None if limit is None else limit + 1)
        if limit is None:
            return ids, 0
        return [text[:limit] for text in ids], sum(len(text) > limit for text in ids)


@dataclass(frozen=True)
class Words:
    """Lower-cased words with their marks, and pairs of characters where there are no spaces.

    The tokenizer says where the first so many tokens of a text end; it is needed for limits alone.
    """

    tokenizer: Tokenizer | None = None
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.numbers)

    def of(
        self, texts: Sequence[str], limit: int | None, *, new: bool
    ) -> tuple[list[list[int]], int]:
        """As of `Subwords`; words that no text had before are left out unless `new`."""
        numbers, longer = self.numbers, 0
        if limit is not None:
            assert self.tokenizer is not None
            sizes = [len(ids) for ids in self.tokenizer.contents(texts, limit=limit + 1)]
            longer = sum(size > limit for size in sizes)
            texts = [
                text if size <= limit else first_tokens(self.tokenizer, text, limit)
                for text, size in zip(texts, sizes, strict=True)
            ]
        if new:
            ids = [[numbers.setdefault(w, len(numbers)) for w in words(text)] for text in texts]
        else:
            ids = [[numbers[w] for w in words(text) if w in numbers] for text in texts]
        return ids, longer


Terms = Subwords | Words


def first_tokens(
    tokenizer: Tokenizer, text: str, limit: int, *, read: int = READ, margin: int = MARGIN
) -> str:
    """The text of the first `limit` tokens of a text that has more, and nothing of the next one.

    At first `read` characters per token are looked at, and they must go on for `margin` tokens
    behind the cut: the last few before their end may not be those of the whole text.
    """
    size = read * limit
    while True:
        ids, offsets = tokenizer.with_offsets(text[:size])
        if size >= len(text) or len(ids) >= limit + margin:
            # a mark of a word's start covers its first character, and so does the token behind it
            return text[: int(min(offsets[limit - 1, 1], offsets[limit, 0]))]
        size *= 4


class Kinds(dict[int, str]):
    """Of each character: p is of a run that is cut into pairs, w of a word, m a mark on either."""

    def __missing__(self, code: int) -> str:
        kind = {"L": "w", "N": "w", "M": "m"}.get(category(chr(code))[0], " ")
        newer = code >= 0x20000  # Han that this Python has no category of
        if (kind != " " or newer) and any(low <= code <= high for low, high in PAIR_RANGES):
            kind = "p"
        self[code] = kind
        return kind


KINDS = Kinds()  # for str.translate
_RUN = re.compile("(p[pm]*)|w[wm]*")


def words(text: str) -> list[str]:
    """The words of a text (NFKC, lower case) in order, as `Words` has them.

    A run of one character is a word.

    >>> words("The U.S. won 24–10 in 東京タワー")
    ['the', 'u', 's', 'won', '24', '10', 'in', '東京', '京タ', 'タワ', 'ワー']
    """
    out: list[str] = []
    text = normalize("NFKC", _UNSEEN.sub("", text).translate(_MARKS)).lower()
    for match in _RUN.finditer(text.translate(KINDS)):
        start, end = match.span()
        if match[1] and end - start > 1:
            out += (text[i : i + 2] for i in range(start, end - 1))
        else:
            out.append(text[start:end])
    return out


@dataclass(frozen=True)
class TermIndex:
    """BM25 of P passages: what a term of a query adds to each passage's score."""

    weights: SparseRows  # (P, V)
    terms: Terms
    longer: int = 0  # passages of which only the first tokens were read

    def queries(self, texts: Iterable[str], *, max_tokens: int | None = None) -> SparseRows:
        """How often each term is in each query, (Q, V), as Lucene counts.

        Their products with the weights are the scores of every pair.
        """
        return _counts(texts, self.terms, max_tokens, new=False)[0]


def index(texts: Iterable[str], terms: Terms, *, max_tokens: int | None = None) -> TermIndex:
    """Makes the index of a corpus; of each text the first max_tokens are read, special ones too.

    A term's weight is log(1 + (P - df + 0.5) / (df + 0.5)) * tf / (tf + K1 * (1 - B + B * l / L)),
    l being the passage's length and L the mean length (Kamphuis et al., ECIR 2020).
    """
    counts, longer = _counts(texts, terms, max_tokens, new=True)
    frequency = np.bincount(counts.indices, minlength=terms.size)
    idf = np.log1p((counts.shape[0] - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    lengths = np.bincount(counts.rows, counts.data, len(counts))
    norms = K1 * (1 - B + B * lengths / (lengths.mean() or 1.0))
    share = counts.data / (counts.data + norms[counts.rows])
    weights = (idf[counts.indices] * share).astype(np.float32)
    return TermIndex(replace(counts, data=weights), terms, longer)


def _counts(
    texts: Iterable[str], terms: Terms, max_tokens: int | None, *, new: bool, block: int = 4096
) -> tuple[SparseRows, int]:
    """How often each term is in each text, (N, V), and how many texts were cut."""
    limit = None if max_tokens is None else max_tokens - SPECIAL
    parts, longer = [_counted([], terms.size)], 0
    stream = iter(texts)
    while part := list(islice(stream, block)):
        ids, cut = terms.of(part, limit, new=new)
        longer += cut
        parts.append(_counted(ids, terms.size))
    return SparseRows.stacked(parts), longer


def _counted(texts: Sequence[Sequence[int]], size: int) -> SparseRows:
    lengths = [len(text) for text in texts]
    rows = np.repeat(np.arange(len(texts)), lengths)
    ids = np.fromiter(chain.from_iterable(texts), np.int32, len(rows))
    return SparseRows.from_pairs(rows, ids, np.ones(len(rows), np.float32), (len(texts), size))


def check_memory(terms: int, what: str) -> None:
    """Raises InputError where the index of so many terms, about, is more than the free memory."""
    free = _free_memory()
    if free is not None and terms * TERM_BYTES > free:
        raise InputError(
            f"{what}: BM25 of about {terms:,} terms needs {terms * TERM_BYTES / 1e9:,.0f} GB of "
            f"memory, and {free / 1e9:,.0f} GB are free: leave it out with --no-bm25"
        )


def _free_memory() -> int | None:
    """Bytes that processes can still have; None where the system does not say (Linux does)."""
    facts = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s+(\d+)", facts.read_text() if facts.exists() else "")
    return int(match[1]) * 1024 if match else None
