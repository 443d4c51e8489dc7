"""The three scores with gradients, of packed representations: what `tercet.scores` computes.

Memory follows the scores, not the tokens that were compared: MaxSim keeps the winning positions
alone, lexical scores work on the ids that the queries have. Takes tensors, never models. Shapes:
Q queries, P passages, S and T packed tokens of all queries and of all passages, M multi-vector
size, U different ids of the queries.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tercet.scores import Places, passage_blocks

# Similarities held at once, and values gathered at once in the backward pass: 16 MB in float32.
SIMILARITIES = 1 << 22
GATHERED = 1 << 22


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
    has none, as it has none behind its ReLU. Never (texts, tokens, V): a table (U, Q) and the
    passages' tokens whose id is in it.
    """
    seen = query_weights > 0
    unique, places = torch.unique(query_ids[seen], return_inverse=True)
    if not len(unique):  # zero, and still part of the graph
        return (query_weights.sum() * passage_weights.sum()).expand(queries, passages)
    table = query_weights.new_zeros(len(unique) * queries)
    at = places * queries + query_owners[seen]
    table = table.scatter_reduce(0, at, query_weights[seen], "amax").view(len(unique), queries)

    place = torch.searchsorted(unique, passage_ids).clamp_(max=len(unique) - 1)
    shared = (unique[place] == passage_ids) & (passage_weights > 0)
    term = passage_owners[shared] * len(unique) + place[shared]  # of one passage and id
    terms, inverse = torch.unique(term, return_inverse=True)
    weights = passage_weights.new_zeros(len(terms))
    weights = weights.scatter_reduce(0, inverse, passage_weights[shared], "amax")
    bounds = torch.arange(passages, device=terms.device) * len(unique)
    offsets = torch.searchsorted(terms, bounds)
    scores = F.embedding_bag(
        terms % len(unique), table, offsets, mode="sum", per_sample_weights=weights
    )
    return scores.T


def maxsim(
    queries: Tensor, owners: Tensor, texts: int, passages: Tensor, starts: Places, counts: Places
) -> Tensor:
    """MaxSim of every query with every passage, (Q, P): (1 / |q|) sum_i max_j <E_q[i], E_p[j]>.

    queries (S, M) with the text of each in owners (S,), Q = texts; passages (T, M), of which
    passage p owns counts[p] from starts[p] on. There is no padding that could win.
    """
    scores: Tensor = _MaxSim.apply(queries, owners, texts, passages, starts, counts)  # type: ignore[no-untyped-call]
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
    ) -> Tensor:
        shares = 1.0 / torch.bincount(owners, minlength=texts).clamp_(min=1)[owners]  # (S,)
        out = queries.new_zeros(texts, len(counts), dtype=torch.float32)
        keeps = any(ctx.needs_input_grad)
        winners = torch.empty(
            (len(queries), len(counts)) if keeps else 0, dtype=torch.int16, device=queries.device
        )  # counted from the start of a passage: 8,192 tokens at most
        sizes = torch.from_numpy(counts).to(queries.device)
        for some, places in passage_blocks(starts, counts, max(1, SIMILARITIES // 512)):
            at = torch.from_numpy(places).to(queries.device)  # (n, T)
            numbers = torch.from_numpy(some).to(queries.device)
            block = passages[at.flatten()].float()
            step = max(1, SIMILARITIES // max(1, at.numel()))
            for first in range(0, len(queries), step):
                part = slice(first, first + step)
                similar = (queries[part].float() @ block.T).view(-1, *at.shape)
                best, place = similar.max(-1)  # (step, n)
                if keeps:
                    # a place behind the passage's end repeats its first vector
                    place[place >= sizes[numbers]] = 0
                    winners[part, numbers] = place.short()
                sums = out.new_zeros(texts, len(some))
                sums.index_add_(0, owners[part], best * shares[part, None])
                out[:, numbers] += sums
        if keeps:
            begins = torch.from_numpy(starts).to(queries.device)
            ctx.save_for_backward(queries, owners, passages, shares, winners, begins)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, owners, passages, shares, winners, begins = ctx.saved_tensors
        for_queries, _, _, for_passages, _, _ = ctx.needs_input_grad
        query_grad = torch.empty_like(queries) if for_queries else None
        passage_grad = torch.zeros_like(passages) if for_passages else None
        step = max(1, GATHERED // max(1, winners.shape[1] * queries.shape[1]))
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
        return query_grad, None, None, passage_grad, None, None
