"""Scores of queries against passages, computed once for training, search and evaluation alike.

Takes representations, never texts or models. Sums run in float32. `tercet.train.interaction` gives
the same scores with gradients. Shapes: Q queries, P passages, S query tokens, T passage tokens,
D dense size, V vocabulary, M multi-vector size.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError

TOKENS, QUERY_TOKENS = 512, 2048  # of a block of `maxsim_scores`: 4 MB stay in cache

Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

MAXSIM_BLOCK = 1 << 20  # passage numbers converted at once: 4 MB, which caches hold


def dense_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """Inner products of dense vectors, (Q, P) float32; raises InputError where a side has none."""
    if queries.dense is None or passages.dense is None:
        raise InputError("dense scores need dense vectors on both sides")
    return np.asarray(queries.dense @ passages.dense.T, dtype=np.float32)


def lexical_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """Sums over shared tokens of the products of their weights, (Q, P) float32."""
    if queries.sparse is None or passages.sparse is None:
        raise InputError("lexical scores need sparse vectors on both sides")
    return np.asarray((queries.sparse @ passages.sparse.T).toarray(), dtype=np.float32)


def maxsim_scores(queries: Embeddings, passages: Embeddings) -> Scores:
    """MaxSim of packed multi-vectors, (Q, P) float32.

    Raises InputError where a side has no multi-vectors or
    a text no vector.
    """
    if queries.multi is None or queries.offsets is None:
        raise InputError("MaxSim needs multi-vectors on both sides")
    if passages.multi is None or passages.offsets is None:
        raise InputError("MaxSim needs multi-vectors on both sides")
    asked, counts = np.diff(queries.offsets), np.diff(passages.offsets)
    if (len(asked) and asked.min() < 1) or (len(counts) and counts.min() < 1):
        raise InputError("MaxSim needs at least one vector of every text")
    out = np.empty((len(queries), len(passages)), dtype=np.float32)
    for some, places in passage_blocks(passages.offsets[:-1], counts, TOKENS):
        block = torch.from_numpy(passages.multi[places.ravel()]).float()  # (n * T, M)
        for start, stop in _runs(queries.offsets, QUERY_TOKENS):
            tokens = queries.multi[int(queries.offsets[start]) : int(queries.offsets[stop])]
            similarity = torch.from_numpy(np.array(tokens)).float() @ block.T
            best = similarity.view(len(tokens), *places.shape).amax(-1).numpy()
            sums = np.add.reduceat(best, queries.offsets[start:stop] - queries.offsets[start])
            out[start:stop, some] = sums / asked[start:stop, None]
    return out


def passage_blocks(starts: Places, counts: Places, tokens: int) -> Iterator[tuple[Places, Places]]:
    """Passages of similar length, about so many tokens at once: their numbers (n,), places (n, T).

    starts and counts (P,) say where each one's vectors lie; a shorter one repeats its own first
    vector up to T, which cannot change a maximum.
    """
    order = np.argsort(counts, kind="stable")
    first = 0
    while first < len(order):
        padded = counts[order[first:]] * np.arange(1, len(order) - first + 1)
        room = int(np.searchsorted(padded, tokens, side="right"))
        some = order[first : first + max(1, room)]
        longest = np.arange(counts[some[-1]])
        yield some, starts[some][:, None] + np.where(longest < counts[some][:, None], longest, 0)
        first += len(some)


def _runs(offsets: Places, size: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of neighbouring texts with about `size` vectors together."""
    first = 0
    while first < len(offsets) - 1:
        after = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        last = max(first + 1, after)
        yield first, last
        first = last


def maxsim_packed(
    query: npt.NDArray[np.floating],
    passages: npt.NDArray[np.floating],
    offsets: npt.NDArray[np.int64] | None,
) -> Scores:
    """MaxSim of one query (S, M) with packed passages (sum T, M), (P,) float32.

    A passage without a vector scores the float32 minimum over nothing, so it is refused.
    """
    if offsets is None:
        raise InputError("packed passages need offsets")
    counts = np.diff(offsets)
    if len(counts) and int(counts.min()) < 1:
        raise InputError(f"passage {int(counts.argmin())} has no token vector")
    query32 = torch.from_numpy(np.array(query, dtype=np.float32))
    out = np.empty(len(counts), dtype=np.float32)
    per_block = max(1, MAXSIM_BLOCK // max(1, passages.shape[1]))
    first = 0
    while first < len(counts):
        limit = int(offsets[first]) + per_block
        last = max(first + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
        start, stop = int(offsets[first]), int(offsets[last])
        block = passages[start:stop]
        # torch converts float16 25 times faster than NumPy; it wants memory it may write to.
        block32 = torch.from_numpy(block if block.flags.writeable else block.copy()).float()
        similarity = (query32 @ block32.T).numpy()  # (S, sum T in block)
        best = np.maximum.reduceat(similarity, offsets[first:last] - start, axis=1)
        out[first:last] = best.mean(axis=0)
        first = last
    return out


def weighted_sum(parts: dict[Head, Scores], weights: Weights) -> Scores:
    """w1 * dense + w2 * sparse + w3 * multi over raw scores; a head that is absent adds nothing."""
    terms = [getattr(weights, head) * parts[head] for head in HEADS if head in parts]
    if not terms:
        raise InputError("no scores to add up")
    return np.asarray(sum(terms), dtype=np.float32)
