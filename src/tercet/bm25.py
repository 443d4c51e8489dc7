"""BM25 over the pieces of a model's own tokenizer, so that every script has terms.

Needs the extra `tercet[bm25]`. Knows nothing of rows or of ranking.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from tercet.errors import MissingExtraError

K1, B = 0.9, 0.4  # Anserini's, for passages; the M3 paper's BM25 runs have them too
BLOCK = 4096  # texts tokenised at once


class Tokenizes(Protocol):
    """What BM25 needs of a tokenizer; `tercet.tokens.Tokenizer` is one."""

    @property
    def vocabulary(self) -> int:
        """The number of ids."""

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Ids of each text without special tokens."""


def passage_weights(texts: Iterable[str], tokenizer: Tokenizes, max_tokens: int) -> sp.csr_array:
    """What a term of a query adds to each text's score, (S, V) float32: Lucene's formula."""
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("BM25 candidates need bm25s: pip install 'tercet[bm25]'") from error
    ids = _ids(texts, tokenizer, max_tokens)
    vocabulary = tokenizer.vocabulary
    index: Any = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(
        (ids, {term: term for term in range(vocabulary)}),
        create_empty_token=False,
        show_progress=False,
    )
    parts = tuple(index.scores[name] for name in ("data", "indices", "indptr"))
    return sp.csr_array(sp.csc_array(parts, shape=(len(ids), vocabulary)))


def query_counts(texts: Iterable[str], tokenizer: Tokenizes, max_tokens: int) -> sp.csr_array:
    """How often each term is in each query, (Q, V) float32."""
    ids = _ids(texts, tokenizer, max_tokens)
    ends = np.cumsum([0, *map(len, ids)])
    terms = np.fromiter((term for few in ids for term in few), dtype=np.int64, count=int(ends[-1]))
    counts = sp.csr_array(
        (np.ones(len(terms), dtype=np.float32), terms, ends), shape=(len(ids), tokenizer.vocabulary)
    )
    counts.sum_duplicates()
    return counts


def _ids(texts: Iterable[str], tokenizer: Tokenizes, max_tokens: int) -> list[list[int]]:
    """Ids of the texts without their case, as BM25 has it."""
    out: list[list[int]] = []
    some: list[str] = []
    for text in texts:
        some.append(text.casefold())
        if len(some) == BLOCK:
            out += tokenizer.contents(some, limit=max_tokens)
            some = []
    return out + tokenizer.contents(some, limit=max_tokens)
