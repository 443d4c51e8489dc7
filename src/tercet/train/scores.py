"""Lexical scores and MaxSim with gradients, for training: sums run in float32.

Shapes: Q queries, P passages, S and T vectors of all queries and of all passages, M multi-vector
size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tercet.scores import Places


@dataclass(frozen=True)
class Blocks:
    """How much of MaxSim is computed at once; no result depends on it."""

    tokens: int  # vectors of passages
    similarities: int
    gathered: int  # numbers in the backward pass


# On a CPU 4 MB of similarities stay in its caches; a GPU needs many more to be busy (256 MB).
CPU_BLOCKS = Blocks(tokens=1 << 9, similarities=1 << 20, gathered=1 << 22)


GPU_BLOCKS = Blocks(tokens=1 << 13, similarities=1 << 26, gathered=1 << 26)


def lexical(
    query_weights: Tensor,
    query_ids: Tensor,
    query_owners: Tensor,
    queries: int,
    passage_weights: Tensor,
    passage_ids: Tensor,
    passage_owners: Tensor,
    passages: int,
) -> Tensor:
    """Sums over shared ids of the products of their weights, (Q, P).

    weights (N,) >= 0, ids (N,) and owners (N,) (the text of each token) of both sides. An id seen
    more than once in a text keeps its largest weight, which alone has a gradient. A weight of 0
    has none, as it has none behind its ReLU. Never (texts, tokens, V): a table (U, Q) of the U
    different ids of the queries, and the passages' tokens whose id is in it.
    """
    seen = query_weights > 0
    unique, columns = torch.unique(query_ids[seen], return_inverse=True)
    if not len(unique):  # zero, and still part of the graph
        return (query_weights.sum() * passage_weights.sum()).expand(queries, passages)
    table = query_weights.new_zeros(len(unique) * queries)
    cells = columns * queries + query_owners[seen]
    table = table.scatter_reduce(0, cells, query_weights[seen], "amax").view(len(unique), queries)

    columns = torch.searchsorted(unique, passage_ids).clamp_(max=len(unique) - 1)
    shared = (unique[columns] == passage_ids) & (passage_weights > 0)
    pairs = passage_owners[shared] * len(unique) + columns[shared]  # of a passage and an id
    terms, inverse = torch.unique(pairs, return_inverse=True)
    weights = passage_weights.new_zeros(len(terms))
    weights = weights.scatter_reduce(0, inverse, passage_weights[shared], "amax")
    bounds = torch.arange(passages, device=terms.device) * len(unique)
    offsets = torch.searchsorted(terms, bounds)
    scores = F.embedding_bag(
        terms % len(unique), table, offsets, mode="sum", per_sample_weights=weights
    )
    return scores.T


def maxsim(
    queries: Tensor,
    owners: Tensor,
    texts: int,
    passages: Tensor,
    starts: Places,
    counts: Places,
    *,
    blocks: Blocks | None = None,
) -> Tensor:
    """MaxSim of every query with every passage, (Q, P): (1 / |q|) sum_i max_j <E_q[i], E_p[j]>.

    queries (S, M) with the text of each in owners (S,), Q = texts; passages (T, M), of which
    passage p owns counts[p] from starts[p] on. There is no padding that could win. Memory follows
    the scores: for the backward pass the winning positions alone are kept. blocks: by default
    those of the device of the tensors.
    """
    blocks = blocks or (CPU_BLOCKS if queries.device.type == "cpu" else GPU_BLOCKS)
    scores: Tensor = _MaxSim.apply(queries, owners, texts, passages, starts, counts, blocks)  # type: ignore[no-untyped-call]
    return scores


class _MaxSim(torch.autograd.Function):
    """Blocks of similarities in, winning positions kept: the backward pass touches no others."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        owners: Tensor,
        texts: int,
        passages: Tensor,
        starts: Places,
        counts: Places,
        blocks: Blocks,
    ) -> Tensor:
        shares = 1.0 / torch.bincount(owners, minlength=texts).clamp_(min=1)[owners]  # (S,)
        out = queries.new_zeros(texts, len(counts), dtype=torch.float32)
        learns = any(ctx.needs_input_grad)
        winners = torch.empty(
            (len(queries), len(counts)) if learns else 0, dtype=torch.int16, device=queries.device
        )  # counted from the start of a passage: 8,192 tokens at most
        sizes = torch.from_numpy(counts).to(queries.device)
        for members, positions in _passage_blocks(starts, counts, blocks.tokens):
            rows = torch.from_numpy(positions).to(queries.device)  # (n, T)
            columns = torch.from_numpy(members).to(queries.device)
            block = passages[rows.flatten()].float()
            step = max(1, blocks.similarities // max(1, rows.numel()))
            for first in range(0, len(queries), step):
                part = slice(first, first + step)
                similar = (queries[part].float() @ block.T).view(-1, *rows.shape)
                if learns:
                    best, winner = similar.max(-1)  # (step, n)
                    # a vector behind the passage's end repeats its first one
                    winner[winner >= sizes[columns]] = 0
                    winners[part, columns] = winner.short()
                else:
                    best = similar.amax(-1)
                sums = out.new_zeros(texts, len(members))
                sums.index_add_(0, owners[part], best * shares[part, None])
                out[:, columns] += sums
        if learns:
            begins = torch.from_numpy(starts).to(queries.device)
            ctx.save_for_backward(queries, owners, passages, shares, winners, begins)
            ctx.gathered = blocks.gathered
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, owners, passages, shares, winners, begins = ctx.saved_tensors
        for_queries, _, _, for_passages, *_ = ctx.needs_input_grad
        query_grad = torch.empty_like(queries) if for_queries else None
        passage_grad = torch.zeros_like(passages) if for_passages else None
        step = max(1, ctx.gathered // max(1, winners.shape[1] * queries.shape[1]))
        for first in range(0, len(queries), step):
            part = slice(first, first + step)
            pulls = grad[owners[part]] * shares[part, None]  # (step, P)
            places = winners[part] + begins
            if query_grad is not None:
                query_grad[part] = F.embedding_bag(
                    places, passages, mode="sum", per_sample_weights=pulls.to(passages.dtype)
                )
            if passage_grad is not None:
                pushed = pulls[:, :, None] * queries[part, None, :]  # (step, P, M)
                passage_grad.index_add_(
                    0, places.flatten(), pushed.flatten(0, 1).to(passages.dtype)
                )
        return query_grad, None, None, passage_grad, None, None, None


def _passage_blocks(starts: Places, counts: Places, tokens: int) -> Iterator[tuple[Places, Places]]:
    """Passages of similar length, about so many tokens at once: numbers (n,), positions (n, T).

    starts and counts (P,) say where each one's vectors lie; a shorter one repeats its own first
    vector up to T, which cannot change a maximum.
    """
    order = np.argsort(counts, kind="stable")
    first = 0
    while first < len(order):
        padded = counts[order[first:]] * np.arange(1, len(order) - first + 1)
        fitting = int(np.searchsorted(padded, tokens, side="right"))
        members = order[first : first + max(1, fitting)]
        steps = np.arange(counts[members[-1]])
        steps = np.where(steps < counts[members][:, None], steps, 0)
        yield members, starts[members][:, None] + steps
        first += len(members)
