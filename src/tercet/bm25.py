"""BM25 of a corpus, over words or over the subwords of a model's own tokenizer.

Lucene's formula through bm25s; needs the extra `tercet[bm25]`. Texts are read once and kept as
int32 terms while the index is made. Knows nothing of rows, runs or ranking: it makes matrices,
whose product is the score.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any, Protocol
from unicodedata import category

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.errors import InputError, MissingExtraError

K1, B = 0.9, 0.4  # Anserini's, for passages; the M3 paper's BM25 runs have them too
SPECIAL = 2  # of a model's tokens: [CLS] and </s> are no terms
TERM_BYTES = 24  # of a term of the corpus, while bm25s makes its index

# Scripts without spaces between words, and Hangul: kana, Han, Han compatibility, Hangul, Thai.
PAIR_RANGES = (
    (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x1100, 0x11FF), (0xAC00, 0xD7AF), (0x0E00, 0x0E7F),
)  # fmt: skip


class Tokenizes(Protocol):
    """What BM25 needs of a tokenizer; `tercet.tokenizer.Tokenizer` is one."""

    @property
    def vocabulary(self) -> int:
        """The number of ids."""

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens, at most `limit`."""

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
class Subwords:
    """The tokens of a model's tokenizer, so that every script has terms."""

    tokenizer: Tokenizes
    fold: bool = False  # without case; the M3 paper's BM25 has the model's tokens as they are

    @property
    def size(self) -> int:
        return self.tokenizer.vocabulary

    def of_passages(self, texts: Sequence[str], limit: int | None) -> tuple[list[list[int]], int]:
        ids = self.of_queries(texts, None if limit is None else limit + 1)
        longer = 0 if limit is None else sum(len(few) > limit for few in ids)
        return [few[:limit] for few in ids] if longer else ids, longer

    def of_queries(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        folded = [text.casefold() for text in texts] if self.fold else texts
        return self.tokenizer.contents(folded, limit=limit)


@dataclass(frozen=True)
class Words:
    """Lower-cased words with their marks, and pairs of characters in CJK and Thai.

    The tokenizer says where the first so many tokens of a text end; it is needed for limits alone.
    """

    tokenizer: Tokenizes | None = None
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
        numbers = self.numbers
        return [
            [numbers[word] for word in words(text) if word in numbers]
            for text in self._first(texts, limit)
        ]

    def _first(self, texts: Sequence[str], limit: int | None) -> Sequence[str]:
        if limit is None:
            return texts
        assert self.tokenizer is not None
        sizes = map(len, self.tokenizer.contents(texts, limit=limit + 1))
        return [
            text if size <= limit else first_tokens(self.tokenizer, text, limit)
            for text, size in zip(texts, sizes, strict=True)
        ]


def first_tokens(
    tokenizer: Tokenizes, text: str, limit: int, *, read: int = 8, margin: int = 64
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
class TermIndex:
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
        limit = None if max_tokens is None else max_tokens - SPECIAL
        ids = [few for block in _blocks(texts) for few in self.terms.of_queries(block, limit)]
        ends = np.cumsum([0, *map(len, ids)])
        flat = np.fromiter((term for few in ids for term in few), np.int64, count=int(ends[-1]))
        shape = (len(ids), self.weights.shape[1])
        counts = sp.csr_array((np.ones(len(flat), dtype=np.float32), flat, ends), shape=shape)
        counts.sum_duplicates()
        if once:
            counts.data[:] = 1
        return counts


def index(texts: Iterable[str], terms: Terms, *, max_tokens: int | None = None) -> TermIndex:
    """Makes the index of a corpus; of each text the first max_tokens are read, special ones too.

    Raises MissingExtraError without bm25s.
    """
    bm25s = library()
    corpus, longer = _Corpus(), 0
    limit = None if max_tokens is None else max_tokens - SPECIAL
    for block in _blocks(texts):
        ids, more = terms.of_passages(block, limit)
        longer += more
        for few in ids:
            corpus.add(few)
    shape = (len(corpus), terms.size)
    if not corpus.values:
        zeros: Any = sp.csr_array(shape, dtype=np.float32)
        return TermIndex(zeros, terms, longer)
    made: Any = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="scipy")
    corpus.vocab = {term: term for term in range(terms.size)}
    made.index(corpus, create_empty_token=False, show_progress=False)
    parts = tuple(made.scores[name] for name in ("data", "indices", "indptr"))
    return TermIndex(sp.csr_array(sp.csc_array(parts, shape=shape)), terms, longer)


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


class _Corpus:
    """A tokenised corpus as bm25s takes it (`ids`, `vocab`), 4 bytes a term; it is read thrice."""

    def __init__(self) -> None:
        self.values, self.ends = array("i"), array("q", [0])
        self.vocab: dict[int, int] = {}

    @property
    def ids(self) -> "_Corpus":
        return self

    def add(self, ids: list[int]) -> None:
        self.values.extend(ids)
        self.ends.append(len(self.values))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for start, end in pairwise(self.ends):
            yield self.values[start:end].tolist()


def _blocks(texts: Iterable[str], size: int = 4096) -> Iterator[list[str]]:
    stream = iter(texts)
    while block := list(islice(stream, size)):
        yield block
