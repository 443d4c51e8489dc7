"""Losses of score matrices: InfoNCE per head and on the sum, self-distillation, an outside teacher.

Takes scores, never models. Shapes: Q queries, P passages (columns), positives (Q,) the column of
each query's positive. Source: method.md, "Losses" (M3 paper v4, section 3.3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.errors import InputError


@dataclass(frozen=True)
class LossConfig:
    """Weights and temperatures of the unified loss; the defaults are the paper's."""

    temperature: float = 0.02  # reference configuration
    dense: float = 1.0  # w1 in the sum of scores
    sparse: float = 0.3  # w2
    multi: float = 1.0  # w3
    dense_loss: float = 1.0  # lambda1
    sparse_loss: float = 0.1  # lambda2: a fresh W_lex scores badly
    multi_loss: float = 1.0  # lambda3

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"the temperature must be above 0, got {self.temperature}")


def competitors(query_groups: Tensor, passage_groups: Tensor, positives: Tensor) -> Tensor:
    """(Q, P) bool: the columns a query is compared with, its positive and every other group's.

    Members of one group (a translation, another question on the same paragraph) are never each
    other's negatives.
    """
    mask = query_groups[:, None] != passage_groups[None, :]
    mask[torch.arange(len(positives)), positives] = True
    return mask


def logits(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Scores over temperature in float32, the dtype's minimum where a column does not compete."""
    scaled = scores.float() / temperature
    return scaled.masked_fill(~mask, torch.finfo(scaled.dtype).min)


def info_nce(scores: Tensor, positives: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """-log softmax of each query's positive over its competitors, averaged over queries."""
    return F.cross_entropy(logits(scores, mask, temperature), positives)


def distillation(scores: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """-softmax(teacher) . log softmax(scores), same columns; the teacher has no gradient."""
    target = F.softmax(logits(teacher.detach(), mask, temperature), dim=-1)
    return -(target * F.log_softmax(logits(scores, mask, temperature), dim=-1)).sum(-1).mean()


def unified(
    scores: Mapping[Head, Tensor],
    positives: Tensor,
    mask: Tensor,
    config: LossConfig,
    *,
    distil: bool,
) -> tuple[Tensor, dict[str, float]]:
    """L = (l1 L_dense + l2 L_lex + l3 L_mul + L_inter) / 4, or (L + L') / 2 with distillation.

    Heads absent from scores take no part (a batch of parallel text shares no tokens). Returns the
    loss and each part's value.
    """
    present = [head for head in HEADS if head in scores]
    inter = torch.stack([getattr(config, head) * scores[head].float() for head in present]).sum(0)
    tau = config.temperature
    parts = {head: info_nce(scores[head], positives, mask, tau) for head in present}
    total = info_nce(inter, positives, mask, tau)
    facts = {"inter": float(total.detach())}
    for head in present:
        total = total + getattr(config, f"{head}_loss") * parts[head]
        facts[head] = float(parts[head].detach())
    loss = total / (len(present) + 1)
    if distil:
        softer = [
            getattr(config, f"{head}_loss") * distillation(scores[head], inter, mask, tau)
            for head in present
        ]
        loss = (loss + torch.stack(softer).sum() / len(present)) / 2
    return loss, facts


def lexical(weights: Tensor, ids: Tensor, owners: Tensor, texts: int) -> Tensor:
    """Sparse vectors over the ids that occur in the batch, (N,) weights -> (texts, U) float32.

    An id seen more than once in a text keeps its max. Never (texts, T, V): U is the number of
    different ids here. Gradients reach the winning token.
    """
    unique, places = torch.unique(ids, return_inverse=True)
    flat = weights.new_zeros(texts * len(unique))
    return flat.scatter_reduce(0, owners * len(unique) + places, weights, "amax").view(texts, -1)
