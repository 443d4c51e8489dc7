"""Losses of score matrices: InfoNCE per head and on the sum, self-distillation, an outside teacher.

Takes scores, never models. Shapes: Q queries of this device, P passages (columns) of all devices.
Source: method.md, "Losses" (M3 paper v4, section 3.3). Every mean is a sum over rows divided by a
given total, so that the losses of several devices add up to the loss of one with the whole batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.errors import InputError

TEACHERS = ("kl_div", "m3_kd")


@dataclass(frozen=True)
class LossConfig:
    """Weights and temperatures of the unified loss; the defaults are the paper's."""

    temperature: float = 0.02  # of every score, tau; reference configuration
    dense: float = 1.0  # w1 in the sum of scores (paper v4)
    sparse: float = 0.3  # w2
    multi: float = 1.0  # w3
    dense_loss: float = 1.0  # lambda1 (paper v4)
    sparse_loss: float = 0.1  # lambda2: a fresh W_lex scores badly, so it is kept small at first
    multi_loss: float = 1.0  # lambda3
    distillation: bool = True  # self-distillation, from distil_from on
    distil_from: int | Literal["auto"] = "auto"  # step; auto: 6,000 (paper) or 25% if that is less
    teacher: Literal["kl_div", "m3_kd"] = "kl_div"  # outside scores: beside InfoNCE, in its place
    teacher_weight: float = 1.0  # of the outside teacher's loss; the reference has no other
    teacher_temperature: float = 1.0  # of its scores; the reference divides by nothing
    dense_sizes: tuple[int, ...] = ()  # Matryoshka: leading sizes trained beside the whole vector
    multi_sizes: tuple[int, ...] = ()
    flops: float = 0.0  # weight of the FLOPS term of the sparse head (SPLADE, arXiv 2107.05720)

    def __post_init__(self) -> None:
        for name in ("temperature", "teacher_temperature"):
            if not 0 < getattr(self, name) < 1e12:
                raise InputError(f"loss.{name} must be above 0, got {getattr(self, name)}")
        if self.teacher not in TEACHERS:
            raise InputError(f"loss.teacher is one of {', '.join(TEACHERS)}, got {self.teacher!r}")
        if min(self.dense_sizes + self.multi_sizes, default=1) < 1:
            raise InputError("loss.dense_sizes and loss.multi_sizes hold sizes of at least 1")
        weights = (*HEADS, *(f"{head}_loss" for head in HEADS), "flops", "teacher_weight")
        wrong = [name for name in weights if not 0 <= getattr(self, name) < 1e12]
        if wrong:
            raise InputError(f"loss.{wrong[0]} is a weight of at least 0")

    def start(self, steps: int) -> int:
        """The step from which the loss has self-distillation, `steps` where it never has.

        Raises InputError where the configured step is at or beyond the end.
        """
        if not self.distillation:
            return steps
        if self.distil_from == "auto":
            return min(6000, steps // 4)
        if not 0 <= self.distil_from < steps:
            raise InputError(
                f"loss.distil_from = {self.distil_from}, but the run has {steps} steps: set an"
                ' earlier one, "auto", or loss.distillation = false'
            )
        return self.distil_from


@dataclass(frozen=True)
class Columns:
    """What the columns of a score matrix are to each of its Q queries.

    positives (Q,) the column of a query's own passage; mask (Q, P) the columns that it is compared
    with; own (Q, P) those of its own row, the positive included; teacher (Q, P) outside scores, NaN
    where there are none; total the queries of all devices.
    """

    positives: Tensor
    mask: Tensor
    own: Tensor
    teacher: Tensor | None
    total: int

    def taught(self) -> Tensor | None:
        """(Q,) queries all of whose own passages have an outside score; None where none has."""
        if self.teacher is None:
            return None
        known = (~self.own | self.teacher.isfinite()).all(1) & (self.own.sum(1) > 1)
        return known if bool(known.any()) else None


def competitors(
    query_marks: Tensor, passage_marks: Tensor, own: Tensor, *, in_batch: bool = True
) -> Tensor:
    """(Q, P) bool: the columns a query is compared with: its own, and others without a common mark.

    Marks (Q, K) and (P, K): the group, say. Members of one group (a translation, another question
    on the same paragraph) are never each other's negatives. Without in_batch, its own columns
    alone.
    """
    if not in_batch:
        return own
    mask = torch.ones_like(own)
    for mine, theirs in zip(query_marks.unbind(1), passage_marks.unbind(1), strict=True):
        mask &= mine[:, None] != theirs[None, :]
    return mask | own


def log_shares(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Log softmax of scores over temperature, in float32, over the columns that compete.

    The others are filled with the dtype's minimum, before and so after it.
    """
    scaled = scores.float() / temperature
    return F.log_softmax(scaled.masked_fill_(~mask, torch.finfo(scaled.dtype).min), dim=-1)


def info_nce(shares: Tensor, columns: Columns) -> Tensor:
    """-log of the share of each query's positive among its competitors, (Q, P) log shares."""
    return -shares.gather(1, columns.positives[:, None]).sum() / columns.total


def distillation(shares: Tensor, target: Tensor, columns: Columns) -> Tensor:
    """-target . log shares over the same columns; the target, a softmax, has no gradient."""
    return -(target.detach() * shares).sum() / columns.total


def teacher_targets(columns: Columns, temperature: float) -> Tensor:
    """Softmax of the outside scores over each query's own columns, (Q, P); 0 elsewhere."""
    if columns.teacher is None:
        raise InputError("no outside scores in this batch")
    raw = columns.teacher.nan_to_num().float() / temperature
    return F.softmax(raw.masked_fill(~columns.own, torch.finfo(raw.dtype).min), dim=-1)


def kl_div(scores: Tensor, columns: Columns, rows: Tensor, config: LossConfig) -> Tensor:
    """Cross entropy of a taught query's own columns with the outside targets.

    The reference's `kl_div`, which is added to InfoNCE.
    """
    target = teacher_targets(columns, config.teacher_temperature)[rows]
    student = log_shares(scores[rows], columns.own[rows], config.temperature)
    return -(target * student).sum() / columns.total


def m3_kd(scores: Tensor, columns: Columns, rows: Tensor, config: LossConfig) -> Tensor:
    """The reference's `m3_kd_loss` of the taught queries, in place of their InfoNCE.

    Each own column in turn is the positive, weighted by its target, against all columns but the own
    ones before it.
    """
    target = teacher_targets(columns, config.teacher_temperature)[rows]
    own, mask, some = columns.own[rows], columns.mask[rows], scores[rows]
    # the positive comes first, then the others from left to right
    rank = torch.where(own, own.cumsum(1) + 1, 0)
    rank[torch.arange(len(rank), device=rank.device), columns.positives[rows]] = 1
    total = scores.new_zeros(())
    for turn in torch.unique(rank[own]).tolist():
        here = rank == turn
        shares = log_shares(some, mask & ~(own & (rank < turn)), config.temperature)
        total = total - (target * shares)[here].sum()
    return total / columns.total


def contrast(scores: Tensor, shares: Tensor, columns: Columns, config: LossConfig) -> Tensor:
    """InfoNCE, with the outside teacher's loss where the batch has one."""
    rows = columns.taught()
    if rows is None:
        return info_nce(shares, columns)
    if config.teacher == "kl_div":
        taught = kl_div(scores, columns, rows, config)
        return info_nce(shares, columns) + config.teacher_weight * taught
    rest = -shares[~rows].gather(1, columns.positives[~rows, None]).sum() / columns.total
    return rest + config.teacher_weight * m3_kd(scores, columns, rows, config)


def unified(
    scores: Mapping[Head, Sequence[Tensor]], columns: Columns, config: LossConfig, *, distil: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = (l1 L_dense + l2 L_lex + l3 L_mul + L_inter) / 4, or (L + L') / 2 with distillation.

    A head has the scores of its whole representation and then those of its leading sizes, if any
    (Matryoshka): its part is their mean, the sum has the whole ones. A head that is absent takes no
    part, and 4 is the number of terms; one head alone is its InfoNCE. Returns the loss and each
    part's value, detached.
    """
    present = [head for head in HEADS if head in scores]
    tau = config.temperature
    shares = {head: [log_shares(s, columns.mask, tau) for s in scores[head]] for head in present}
    parts = {
        head: sum_of(
            contrast(score, share, columns, config)
            for score, share in zip(scores[head], shares[head], strict=True)
        )
        / len(scores[head])
        for head in present
    }
    facts: dict[str, Tensor] = {head: part.detach() for head, part in parts.items()}
    if len(present) == 1:
        return parts[present[0]], facts
    inter = sum_of(getattr(config, head) * scores[head][0].float() for head in present)
    together = log_shares(inter, columns.mask, tau)
    loss = contrast(inter, together, columns, config)
    facts["inter"] = loss.detach()
    loss = loss + sum_of(getattr(config, f"{head}_loss") * parts[head] for head in present)
    loss = loss / (len(present) + 1)
    if not distil:
        return loss, facts
    target, softer = together.detach().exp(), []
    for head in present:
        learned = sum_of(distillation(share, target, columns) for share in shares[head])
        learned = learned / len(shares[head])
        softer.append(getattr(config, f"{head}_loss") * learned)
        facts[f"{head}_distil"] = learned.detach()
    return (loss + sum_of(softer) / len(present)) / 2, facts


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Their sum, one after the other."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def flops(weights: Tensor, ids: Tensor, texts: int) -> Tensor:
    """Sum over ids of the square of their mean weight in so many texts: dense postings cost most.

    weights (N,), ids (N,). Source: Paria et al. 2020, arXiv 2004.05665, as in SPLADE. Works on
    the ids that occur; one seen twice in a text counts twice, which only errs upwards.
    """
    unique, places = torch.unique(ids, return_inverse=True)
    sums = weights.new_zeros(len(unique)).index_add(0, places, weights)
    return (sums / texts).square().sum()
