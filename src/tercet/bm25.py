"""BM25 of a corpus, over words or over the pieces of a model's own tokenizer.

Lucene's formula through bm25s; needs the extra `tercet[bm25]`. Texts are read once and kept as
int32 terms while the index is made. Knows nothing of rows, runs or ranking: it makes matrices,
whose product is the score.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol
from unicodedata import category

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.errors import InputError, MissingExtraError

K1, B = 0.9, 0.4  # Anserini's, for passages; the M3 paper's BM25 runs have them too
BLOCK = 4096  # texts tokenised at once
SPECIAL = 2  # of a model's tokens: [CLS] and </s> are no terms
READ = 8  # characters per token that are read at first of a text to be cut
MARGIN = 64  # tokens by which what was read must go on behind a cut

# Scripts without spaces between words, and Hangul: kana, Han, Han compatibility, Hangul, Thai.
PAIR_RANGES = (
    (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x1100, 0x11FF), (0xAC00, 0xD7AF), (0x0E00, 0x0E7F),
)  # fmt: skip


TERM_BYTES = 24  # of a term of the corpus, while bm25s makes its index


class Tokenizes(Protocol):
    """What BM25 on pieces needs of a tokenizer; `tercet.tokenizer.Tokenizer` is one."""

    @property
    def vocabulary(self) -> int:
        """The number of ids."""

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens, at most `limit`."""


class Locates(Tokenizes, Protocol):
    """What finding the end of the first so many tokens needs besides."""

    def with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Ids of a text and the characters [start, end) of each, (T, 2)."""


class Terms(Protocol):
    """A way to cut texts into terms, which are numbers below `size`."""

    @property
    def size(self) -> int:
        """The number of terms, so far."""

    def of_passages(self, texts: Sequence[str], limit: int | None) -> tuple[list[list[int]], int]:
        """The terms of each text, of its first `limit` tokens, and how many texts had more."""

    def of_queries(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        """The terms of each text that are known."""


@dataclass(frozen=True)
class Pieces:
    """The pieces of a model's tokenizer, so that every script has terms."""

    tokenizer: Tokenizes
    fold: bool = False  # without case; the M3 paper's BM25 has the model's pieces as they are

    @property
    def size(self) -> int:
        return self.tokenizer.vocabulary

    def of_passages(self, texts: Sequence[str], limit: int | None) -> tuple[list[list[int]], int]:
        found = self._ids(texts, None if limit is None else limit + 1)
        longer = 0 if limit is None else sum(len(ids) > limit for ids in found)
        return [ids[:limit] for ids in found] if longer else found, longer

    def of_queries(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        return self._ids(texts, limit)

    def _ids(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        folded = [text.casefold() for text in texts] if self.fold else texts
        return self.tokenizer.contents(folded, limit=limit)


@dataclass(frozen=True)
class Words:
    """Lower-cased words with their marks, and pairs of characters in CJK and Thai.

    The tokenizer says where the first so many tokens of a text end; it is needed for limits alone.
    """

    tokenizer: Locates | None = None
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.numbers)

    def of_passages(self, texts: Sequence[str], limit: int | None) -> tuple[list[list[int]], int]:
        short = self._first(texts, limit)
        new = self.numbers.setdefault
        ids = [[new(word, len(self.numbers)) for word in words(text)] for text in short]
        return ids, sum(len(a) != len(b) for a, b in zip(short, texts, strict=True))

    def of_queries(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        known = self.numbers.get
        found = [map(known, words(text)) for text in self._first(texts, limit)]
        return [[number for number in ids if number is not None] for ids in found]

    def _first(self, texts: Sequence[str], limit: int | None) -> Sequence[str]:
        if limit is None:
            return texts
        assert self.tokenizer is not None
        sizes = map(len, self.tokenizer.contents(texts, limit=limit + 1))
        return [
            text if size <= limit else first_tokens(self.tokenizer, text, limit)
            for text, size in zip(texts, sizes, strict=True)
        ]


def first_tokens(tokenizer: Locates, text: str, limit: int) -> str:
    """The text of the first `limit` tokens of a text that has more, and nothing of the next one."""
    size = READ * limit
    while True:
        ids, places = tokenizer.with_offsets(text[:size])
        # the last few tokens before a cut may not be those of the whole text
        if size >= len(text) or len(ids) >= limit + MARGIN:
            # a mark of a word's start covers its first character, and so does the piece behind it
            return text[: int(min(places[limit - 1, 1], places[limit, 0]))]
        size *= 4


@cache
def _kind(character: str) -> str:
    """Whether a character belongs to a word, to a run that is cut into pairs, or to neither."""
    if not (character.isalnum() or category(character)[0] == "M"):
        return ""
    pairs = any(low <= ord(character) <= high for low, high in PAIR_RANGES)
    return "pairs" if pairs else "word"


def words(text: str) -> list[str]:
    """The words of a text, in order, as `Words` has them; a run of one character is a word.

    >>> words("The U.S. won 24–10 in 東京タワー")
    ['the', 'u', 's', 'won', '24', '10', 'in', '東京', '京タ', 'タワ', 'ワー']
    """
    out: list[str] = []
    for kind, characters in groupby(text.lower(), _kind):
        run = "".join(characters)
        if kind == "pairs" and len(run) > 1:
            out += (run[i : i + 2] for i in range(len(run) - 1))
        elif kind:
            out.append(run)
    return out


@dataclass(frozen=True)
class Index:
    """BM25 of P passages: what a term of a query adds to each passage's score."""

    weights: sp.csr_array  # (P, V) float32
    terms: Terms
    longer: int = 0  # passages of which only the first tokens were read

    def queries(
        self, texts: Iterable[str], *, max_tokens: int | None = None, once: bool = False
    ) -> sp.csr_array:
        """How often each term is in each query, (Q, V) float32, as Lucene counts; `once`: 1 each.

        The product with the transposed weights is the score of every pair.
        """
        return _counts(texts, self.terms, self.weights.shape[1], max_tokens, once)


def _counts(
    texts: Iterable[str], terms: Terms, size: int, max_tokens: int | None, once: bool
) -> sp.csr_array:
    limit = None if max_tokens is None else max_tokens - SPECIAL
    ids = [found for some in _blocks(texts) for found in terms.of_queries(some, limit)]
    ends = np.cumsum([0, *map(len, ids)])
    flat = np.fromiter((term for few in ids for term in few), np.int64, count=int(ends[-1]))
    counts = sp.csr_array(
        (np.ones(len(flat), dtype=np.float32), flat, ends), shape=(len(ids), size)
    )
    counts.sum_duplicates()
    if once:
        counts.data[:] = 1
    return counts


def index(texts: Iterable[str], terms: Terms, *, max_tokens: int | None = None) -> Index:
    """Makes the index of a corpus; of each text the first max_tokens are read, special ones too.

    Raises MissingExtraError without bm25s.
    """
    bm25s = library()
    packed, longer = _Packed(), 0
    for some in _blocks(texts):
        limit = None if max_tokens is None else max_tokens - SPECIAL
        found, more = terms.of_passages(some, limit)
        longer += more
        for ids in found:
            packed.add(ids)
    shape = (len(packed), terms.size)
    if not packed.values:
        ends = np.zeros(len(packed) + 1, np.int64)
        nothing = (np.empty(0, np.float32), np.empty(0, np.int64), ends)
        return Index(sp.csr_array(nothing, shape=shape), terms, longer)
    made: Any = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="scipy")
    made.index(
        _Corpus(packed, {term: term for term in range(terms.size)}),
        create_empty_token=False,
        show_progress=False,
    )
    parts = tuple(made.scores[name] for name in ("data", "indices", "indptr"))
    return Index(sp.csr_array(sp.csc_array(parts, shape=shape)), terms, longer)


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
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line[:13] == "MemAvailable:")
    except (OSError, StopIteration):
        return None


def library() -> Any:
    """The library that counts; raises MissingExtraError where it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("BM25 needs bm25s: pip install 'tercet[bm25]'") from error
    return bm25s


class _Packed:
    """Lists of terms, 4 bytes a term; bm25s reads them one after the other, three times."""

    def __init__(self) -> None:
        self.values, self.ends = array("i"), array("q", [0])

    def add(self, ids: list[int]) -> None:
        self.values.extend(ids)
        self.ends.append(len(self.values))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            yield self.values[self.ends[number] : self.ends[number + 1]].tolist()


@dataclass(frozen=True)
class _Corpus:
    """What bm25s takes for a tokenised corpus."""

    ids: _Packed
    vocab: dict[int, int]


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while some := list(islice(stream, BLOCK)):
        yield some
