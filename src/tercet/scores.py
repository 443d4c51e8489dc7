"""Scores of queries against passages, computed once for training, search and evaluation alike.

Takes representations, never texts or models. Sums run in float32. Two forms: differentiable
tensors padded with a mask (training), and packed Embeddings (search). Shapes: Q queries,
P passages, S query tokens, T passage tokens, D dense size, V vocabulary, M multi-vector size.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.config import HEADS, Head, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError

Scores = npt.NDArray[np.float32]

MAXSIM_BLOCK = 1 << 20  # passage numbers converted at once: 4 MB, which caches hold


def maxsim(queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor) -> Tensor:
    """MaxSim of every query with every passage, (Q, S, M) x (P, T, M) -> (Q, P) float32.

    (1 / |q|) sum_i max_j <E_q[i], E_p[j]>. Padding is filled with the dtype's minimum before the
    maximum, so it can never win; query padding weighs nothing. Masks are (Q, S) and (P, T) bool.
    """
    similarity = torch.einsum("qsm,ptm->qpst", queries, passages).float()
    floor = torch.finfo(similarity.dtype).min
    best = similarity.masked_fill(~passage_mask[None, :, None, :], floor).amax(-1)  # (Q, P, S)
    best = best * query_mask[:, None, :]
    return best.sum(-1) / query_mask.sum(-1).clamp(min=1)[:, None]


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
    """MaxSim of packed multi-vectors, (Q, P) float32: no padding exists, so none can win."""
    if queries.multi is None or passages.multi is None:
        raise InputError("MaxSim needs multi-vectors on both sides")
    out = np.empty((len(queries), len(passages)), dtype=np.float32)
    for row in range(len(queries)):
        out[row] = maxsim_packed(queries.tokens(row), passages.multi, passages.offsets)
    return out


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
