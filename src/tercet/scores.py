"""Scores of queries against passages, computed here for search and evaluation alike.

Takes representations, never texts or models. Sums run in float32, those of sparse weights in
float64. Products run in torch where it is installed, which a thread can keep to one core, else in
NumPy. Those with gradients are in `tercet.train.scores`. Shapes: Q queries, P passages, S and T
vectors of all queries and of all passages, D dense size, V vocabulary, M multi-vector size.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, Head, Weights, cores
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.sparse import packed_positions

Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

TORCH = find_spec("torch") is not None
# Numbers of stored passages made float32 at once, and similarities: 4 MB stay in cache.
CONVERTED = SIMILARITIES = 1 << 20
INFINITE = 0x1F << 23  # the exponent of float16, moved to where float32 has its own


def check_same_model(queries: Embeddings, passages: Embeddings) -> None:
    """Raises InputError for vectors of two models, whose scores mean nothing."""
    names = {queries.fingerprint, passages.fingerprint} - {""}
    heads = [head for head in queries.heads if head in passages.heads]
    sizes = [[getattr(side, head).shape[1] for head in heads] for side in (queries, passages)]
    if len(names) > 1 or sizes[0] != sizes[1]:
        raise InputError(
            f"vectors of two models cannot be compared: {queries.fingerprint} and "
            f"{passages.fingerprint}, of sizes {sizes[0]} and {sizes[1]}; encode both with one"
        )


def dense_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """Inner products of dense vectors, (Q, P) float32.

    Raises InputError where a side has none, or is of another model; so do the functions below.
    """
    check_same_model(queries, passages)
    if queries.dense is None or passages.dense is None:
        raise InputError("dense scores need dense vectors on both sides")
    return np.asarray(queries.dense @ passages.dense.T, dtype=np.float32)


def lexical_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """Sums over shared tokens of the products of their weights, (Q, P) float32."""
    check_same_model(queries, passages)
    if queries.sparse is None or passages.sparse is None:
        raise InputError("lexical scores need sparse vectors on both sides")
    out = np.empty((len(queries), len(passages)), dtype=np.float32)
    for row, scores in enumerate(passages.sparse.products(queries.sparse)):
        out[row] = scores
    return out


def maxsim_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """MaxSim of packed multi-vectors, (Q, P) float32.

    Raises InputError where a side has no multi-vectors or a text no vector.
    """
    check_same_model(queries, passages)
    query_multi, query_offsets, query_counts = _packed(queries)
    multi, offsets, _ = _packed(passages)
    out = np.empty((len(queries), len(passages)), dtype=np.float32)
    for first, last in _runs(offsets, max(1, CONVERTED // max(1, multi.shape[1]))):
        block = float32(multi[int(offsets[first]) : int(offsets[last])])
        starts = offsets[first:last] - offsets[first]
        for row, end in _runs(query_offsets, max(1, SIMILARITIES // len(block))):
            vectors = float32(query_multi[int(query_offsets[row]) : int(query_offsets[end])])
            best = np.maximum.reduceat(matmul(vectors, block.T), starts, axis=1)
            sums = np.add.reduceat(best, query_offsets[row:end] - query_offsets[row], axis=0)
            out[row:end, first:last] = sums / query_counts[row:end, None]
    return out


def maxsim_packed(
    query: npt.NDArray[np.floating],
    passages: npt.NDArray[np.floating],
    offsets: Places | None,
) -> Scores:
    """MaxSim of one query (S, M) with packed passages (T, M), (P,) float32.

    Raises InputError where a passage has no vector.
    """
    if offsets is None:
        raise InputError("packed passages need offsets")
    counts = _counts(offsets)
    vectors = float32(query)
    out = np.empty(len(counts), dtype=np.float32)
    for first, last in _runs(offsets, max(1, CONVERTED // max(1, passages.shape[1]))):
        start, stop = int(offsets[first]), int(offsets[last])
        similarity = matmul(vectors, float32(passages[start:stop]).T)  # (S, T of the block)
        best = np.maximum.reduceat(similarity, offsets[first:last] - start, axis=1)
        out[first:last] = best.mean(axis=0)
    return out


def maxsim_pairs(queries: Embeddings, passages: Embeddings, rows: Places, places: Places) -> Scores:
    """MaxSim of n pairs of queries (rows) and passages (places), (n,) float32.

    Passage by passage, since a query has far fewer vectors to bring together.
    """
    check_same_model(queries, passages)
    multi, offsets, counts = _packed(queries)
    out = np.empty(len(places), dtype=np.float32)
    if not len(places):
        return out
    order = np.lexsort((rows, places))
    for same in np.split(order, np.flatnonzero(np.diff(places[order])) + 1):
        passage = float32(passages.tokens(int(places[same[0]])))
        ends = np.cumsum(counts[rows[same]])
        size = max(1, SIMILARITIES // max(1, len(passage)))  # vectors of queries at once
        for pairs in np.split(same, np.flatnonzero(np.diff(ends // size)) + 1):
            lengths = counts[rows[pairs]]
            vectors = float32(multi[packed_positions(offsets[rows[pairs]], lengths)])
            best = matmul(vectors, passage.T).max(axis=1)
            out[pairs] = np.add.reduceat(best, np.cumsum(lengths) - lengths) / lengths
    return out


# The scores (Q, P) of each head by name.
SCORES = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}


def float32(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy in float32 of vectors as they are stored, which may be mapped from a file.

    Of float16 by moving its bits, five times as fast as NumPy converts one number after the other.
    """
    if vectors.dtype != np.float16:
        return np.array(vectors, dtype=np.float32)
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= -0x70002000  # the sign, 5 bits of exponent, 10 of fraction
    positive, negative = bits.max(initial=0), bits.view(np.uint32).max(initial=0)
    if positive >= INFINITE or negative >= 1 << 31 | INFINITE:  # or not a number
        return np.array(vectors, dtype=np.float32)
    out = bits.view(np.float32)
    out *= np.float32(2**112)  # the exponents of float32 count from -127, of float16 from -15
    return out


def threads() -> int:
    """Cores that this process may use: torch's number where it is loaded, else OMP_NUM_THREADS."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else cores()


def matmul(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """a @ b of arrays that may be written to, on as many cores as this thread may use."""
    if not TORCH:
        return a @ b
    import torch

    out: npt.NDArray[np.float32] = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    return out


def weighted_sum(parts: dict[Head, Scores], weights: Weights | Iterable[float]) -> Scores:
    """w1 * dense + w2 * sparse + w3 * multi over raw scores; a head that is absent adds nothing."""
    weights = Weights.of(weights)
    terms = [getattr(weights, head) * parts[head] for head in HEADS if head in parts]
    if not terms:
        raise InputError("no scores to add up")
    return np.asarray(sum(terms), dtype=np.float32)


def _packed(side: Embeddings) -> tuple[npt.NDArray[np.float16], Places, Places]:
    """Multi-vectors, and where those of each text begin and how many there are."""
    if side.multi is None or side.offsets is None:
        raise InputError("MaxSim needs multi-vectors on both sides")
    return side.multi, side.offsets, _counts(side.offsets)


def _counts(offsets: Places) -> Places:
    counts: Places = np.diff(offsets)
    if len(counts) and int(counts.min()) < 1:
        raise InputError(f"text {int(counts.argmin())} has no token vector: MaxSim needs one")
    return counts


def _runs(offsets: Places, size: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of neighbouring texts with about `size` vectors together."""
    first = 0
    while first < len(offsets) - 1:
        after = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = max(first + 1, after)
        yield first, last
        first = last
