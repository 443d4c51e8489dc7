"""An encoder without a model: words hashed to fixed random vectors, all three heads, no waiting.

For what must be fast and need not be clever: crash tests, and tests of what surrounds an encoder.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tercet.config import HEADS, MAX_LENGTH, Head, Role, Weights
from tercet.embeddings import Embeddings
from tercet.sparse import SparseRows

VOCABULARY, DENSE, MULTI = 1 << 16, 32, 16
END = 1  # the id of </s>


@cache
def _tables(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float16]]:
    """A vector per word, (V, D) and (V, M) with unit rows."""
    draw = np.random.default_rng(seed)
    dense = draw.standard_normal((VOCABULARY, DENSE), dtype=np.float32)
    multi = draw.standard_normal((VOCABULARY, MULTI), dtype=np.float32)
    return dense, (multi / np.linalg.norm(multi, axis=1, keepdims=True)).astype(np.float16)


class HashedEncoder:
    """Has what a collection needs of `tercet.encoder.Encoder`."""

    def __init__(self, seed: int = 0, heads: tuple[Head, ...] = HEADS) -> None:
        self._dense, self._multi = _tables(seed)
        backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer = SimpleNamespace(
            backend=backend, eos_id=END, with_offsets=self._with_offsets
        )
        self.max_length = MAX_LENGTH
        self.source: str | None = f"hashed-{seed}"
        self.fingerprint = f"hashed-{seed}-fingerprint"
        self.weights = Weights()
        self.min_score: float | None = None
        self.heads = heads
        self.dims = {"dense": DENSE, "vocabulary": VOCABULARY, "multi": MULTI}
        self.texts: list[str] = []  # all that was encoded as passages, for tests to look at

    def encode(
        self,
        texts: Sequence[str],
        *,
        heads: tuple[Head, ...] = HEADS,
        role: Role = "passage",
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """One row per text."""
        if role == "passage":
            self.texts += texts
        tokens = [self._tokens(text) for text in texts]
        rows = [[token for token, _ in text[: MAX_LENGTH - 2]] for text in tokens]
        cut = [len(text) > MAX_LENGTH - 2 for text in tokens]
        return self._embeddings(rows, cut, heads, progress)

    def encode_spans(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        heads: tuple[Head, ...] = HEADS,
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        """One row per (text, span): the words of the span."""
        self.texts += texts
        rows, cut = [], []
        for text, inside in zip(texts, spans, strict=True):
            tokens = self._tokens(text)
            seen = tokens[: MAX_LENGTH - 2]
            for start, stop in inside:
                rows.append([token for token, place in seen if start <= place < stop])
                cut.append(len(tokens) > len(seen) and stop > seen[-1][1])
        return self._embeddings(rows, cut, heads, progress)

    def _with_offsets(self, text: str) -> tuple[list[int], npt.NDArray[np.int64]]:
        """As `tercet.tokenizer.Tokenizer` has it."""
        words = self.tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)
        offsets = np.array([span for _, span in words], dtype=np.int64).reshape(-1, 2)
        return [token for token, _ in self._tokens(text)], offsets

    def _tokens(self, text: str) -> list[tuple[int, int]]:
        """(id, place of its first character) of each word."""
        words = self.tokenizer.backend.pre_tokenizer.pre_tokenize_str(text.lower())
        return [
            (2 + zlib.crc32(word.encode()) % (VOCABULARY - 2), start) for word, (start, _) in words
        ]

    def _embeddings(
        self,
        rows: list[list[int]],
        cut: list[bool],
        heads: tuple[Head, ...],
        progress: Callable[[int, int], None] | None,
    ) -> Embeddings:
        lengths = np.array([len(row) + 2 for row in rows], dtype=np.int32)
        if progress is not None:
            progress(int(lengths.sum()), int(lengths.sum()))
        full = [[*row, END] for row in rows]
        dense = np.stack([self._dense[row].sum(axis=0) for row in full])
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        unique = [sorted(set(row)) for row in rows]
        borders = np.cumsum([0, *(len(row) for row in unique)])
        terms = np.array([token for row in unique for token in row], dtype=np.int32)
        weights = np.ones(len(terms), dtype=np.float32)
        offsets = np.cumsum([0, *(len(row) for row in full)]).astype(np.int64)
        return Embeddings(
            dense=dense if "dense" in heads else None,
            sparse=SparseRows(weights, terms, borders, (len(rows), VOCABULARY))
            if "sparse" in heads
            else None,
            multi=self._multi[np.concatenate(full)] if "multi" in heads else None,
            offsets=offsets if "multi" in heads else None,
            lengths=lengths,
            truncated=np.array(cut, dtype=np.bool_),
            fingerprint=self.fingerprint,
        )
