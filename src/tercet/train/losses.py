"""Losses of a batch: InfoNCE per head and on the sum, self-distillation, outside teachers, FLOPS.

The first half takes score matrices alone; `batch_loss` brings the representations of all devices
together, scores them and adds the losses up. Knows nothing of models or files. Shapes: Q queries of
this device, P passages (columns) of all devices. Source: docs/method.md, "Losses" (M3 paper v4,
section 3.3). Every mean is a sum over rows divided by a given total, so that the losses of several
devices add up to the loss of one with the whole batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.train.batches import Batch
from tercet.train.config import LossConfig, TeacherConfig
from tercet.train.distributed import World
from tercet.train.gradcache import Representations
from tercet.train.scores import lexical, maxsim
from tercet.train.teacher import Targets

Facts = dict[str, float]


# Losses of score matrices


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


def competitors(related: Tensor, keys: Tensor, own: Tensor) -> Tensor:
    """(Q, P) bool: the columns a query is compared with: its own, and others it is not related to.

    related (R, 2): queries and the keys of texts that are none of their negatives (a translation,
    another positive of theirs); keys (P,) of the columns.
    """
    different, which = torch.unique(keys, return_inverse=True)
    query, key = related.unbind(1)
    nearest = torch.searchsorted(different, key.contiguous()).clamp(max=len(different) - 1)
    met = different[nearest] == key
    mask = torch.ones(len(own), len(different), dtype=torch.bool, device=own.device)
    mask[query[met], nearest[met]] = False
    return mask[:, which] | own


def log_probs(scores: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Log softmax of scores over temperature, in float32, over the columns that compete.

    The others are filled with the dtype's minimum, before and so after it.
    """
    scaled = scores.float() / temperature
    return F.log_softmax(scaled.masked_fill_(~mask, torch.finfo(scaled.dtype).min), dim=-1)


def info_nce(logs: Tensor, columns: Columns) -> Tensor:
    """-log of the probability of each query's positive, from (Q, P) log probabilities."""
    return -logs.gather(1, columns.positives[:, None]).sum() / columns.total


def distillation(logs: Tensor, target: Tensor, columns: Columns) -> Tensor:
    """-target . log probabilities over the same columns; the target has no gradient."""
    return -(target.detach() * logs).sum() / columns.total


def contrast(scores: Tensor, logs: Tensor, columns: Columns, config: LossConfig) -> Tensor:
    """InfoNCE, with the loss of outside scores of the queries that have them.

    kl_div: the cross entropy of a query's own columns with the softmax of their outside scores is
    added. m3_kd, in place of InfoNCE: each own column in turn, the positive first, is the positive,
    weighted by that softmax, against all columns but the own ones before it. Both are the
    reference's.
    """
    rows = columns.taught()
    if rows is None or columns.teacher is None:
        return info_nce(logs, columns)
    own, least = columns.own[rows], torch.finfo(torch.float32).min
    raw = columns.teacher[rows].nan_to_num().float() / config.teacher_temperature
    target = F.softmax(raw.masked_fill(~own, least), dim=-1)
    if config.teacher == "kl_div":
        taught = -(target * log_probs(scores[rows], own, config.temperature)).sum() / columns.total
        return info_nce(logs, columns) + config.teacher_weight * taught
    rank = torch.where(own, own.cumsum(1) + 1, 0)  # from left to right, the positive first
    rank[torch.arange(len(rank), device=rank.device), columns.positives[rows]] = 1
    total = scores.new_zeros(())
    for turn in torch.unique(rank[own]).tolist():
        mask = columns.mask[rows] & ~(own & (rank < turn))
        each = target * log_probs(scores[rows], mask, config.temperature)
        total = total - each[rank == turn].sum()
    rest = -logs[~rows].gather(1, columns.positives[~rows, None]).sum() / columns.total
    return rest + config.teacher_weight * (total / columns.total)


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
    logs: dict[Head, list[Tensor]] = {}
    parts: dict[Head, Tensor] = {}
    for head in present:
        logs[head] = [log_probs(s, columns.mask, config.temperature) for s in scores[head]]
        pairs = zip(scores[head], logs[head], strict=True)
        each = [contrast(score, log, columns, config) for score, log in pairs]
        parts[head] = reduce(torch.add, each) / len(each)
    facts: dict[str, Tensor] = {head: part.detach() for head, part in parts.items()}
    if len(present) == 1:
        return parts[present[0]], facts
    inter = reduce(torch.add, [getattr(config, h) * scores[h][0].float() for h in present])
    together = log_probs(inter, columns.mask, config.temperature)
    loss = contrast(inter, together, columns, config)
    facts["inter"] = loss.detach()
    weights = {head: getattr(config, f"{head}_loss") for head in present}
    loss = loss + reduce(torch.add, [weights[head] * parts[head] for head in present])
    loss = loss / (len(present) + 1)
    if not distil:
        return loss, facts
    target, softer = together.detach().exp(), []
    for head in present:
        each = [distillation(log, target, columns) for log in logs[head]]
        learned = reduce(torch.add, each) / len(each)
        softer.append(weights[head] * learned)
        facts[f"{head}_distil"] = learned.detach()
    return (loss + reduce(torch.add, softer) / len(present)) / 2, facts


def flops(weights: Tensor, ids: Tensor, texts: int) -> Tensor:
    """Sum over ids of the square of their mean weight in so many texts: dense postings cost most.

    weights (N,), ids (N,). Source: Paria et al. 2020, arXiv 2004.05665, as in SPLADE. Works on
    the ids that occur; one seen twice in a text counts twice, which only errs upwards.
    """
    unique, places = torch.unique(ids, return_inverse=True)
    sums = weights.new_zeros(len(unique)).index_add(0, places, weights)
    return (sums / texts).square().sum()


# From representations to the loss


def batch_loss(
    queries: Representations,
    passages: Representations,
    batch: Batch,
    config: LossConfig,
    teacher: TeacherConfig,
    world: World,
    *,
    total: int,
    distil: bool,
    in_batch: bool = True,
    targets: Targets | None = None,
) -> tuple[Tensor, Facts]:
    """This device's part of the loss of a batch, and each part's value over all devices.

    total is the queries of all devices, whose parts add up to the whole batch's loss; without
    in_batch a query meets its own negatives alone; targets are what a teacher says of the texts.
    """
    device = queries.ids.device
    everyone, first_query, first_passage = passages, 0, 0
    owners, keys, outside = (
        torch.from_numpy(part).to(device) for part in (batch.owners, batch.keys, batch.teacher)
    )
    has_outside = bool(np.isfinite(batch.teacher).any())
    if world.size > 1:
        everyone, first_query, first_passage = gathered(world, queries, passages)
        owners, keys, outside = map(world.gather, (owners + first_query, keys, outside))
        has_outside = any(world.all(has_outside))
    own = torch.arange(len(queries), device=device)[:, None] + first_query == owners
    mask = own
    if in_batch:
        mask = competitors(torch.from_numpy(batch.related).to(device), keys, own)
    positives = torch.from_numpy(batch.positives + first_passage).to(device)
    known = None
    if targets is not None and (teacher.scores or teacher.margin >= 0):
        known = Known.of(targets, batch, positives, world, device)
        if teacher.margin >= 0:
            mask = mask & ~known.above(teacher.margin)
    columns = Columns(positives, mask, own, outside.expand_as(own) if has_outside else None, total)

    scores = score(queries, everyone, config)
    loss, parts = unified(scores, columns, config, distil=distil)
    facts = {f"loss_{name}": value for name, value in parts.items()}
    if config.flops and queries.weights is not None and everyone.weights is not None:
        penalty = flops(world.gather(queries.weights), world.gather(queries.ids), total)
        penalty = penalty + flops(everyone.weights, everyone.ids, len(everyone))
        penalty = penalty / world.size  # every device has all of it
        loss = loss + config.flops * penalty
        facts["flops"] = penalty.detach()
    if known is not None and teacher.scores:
        weights = {head: getattr(config, f"{head}_loss") for head in scores}
        tau = teacher.temperature, config.temperature
        each = [weights[h] * known.cross_entropy(s[0], columns, *tau) for h, s in scores.items()]
        taught = reduce(torch.add, each) / max(sum(weights.values()), 1e-9)
        loss = loss + teacher.scores * taught
        facts["teacher_scores"] = taught.detach()
    if targets is not None:
        sides = ((queries, batch.query_texts), (passages, batch.passage_texts))
        pulled, told = pull(targets, teacher, sides, world)
        loss = loss + pulled
        facts |= told
    facts["loss"] = loss.detach()
    summed = world.sum(torch.stack([value.float() for value in facts.values()]))
    values = dict(zip(facts, summed.tolist(), strict=True))
    return loss, values | spread(scores, queries, passages)


def gathered(
    world: World, queries: Representations, mine: Representations
) -> tuple[Representations, int, int]:
    """Passages of all devices, in the devices' order, with gradient.

    And how many queries and passages the devices before this one have.
    """
    sizes = world.all((len(queries), len(mine), len(mine.multi_owners)))
    before = np.array(sizes[: world.rank], dtype=np.int64).reshape(-1, 3)
    first_query, texts, tokens = before.sum(0).tolist()
    spans = world.all((mine.starts + tokens, mine.counts))
    heads = {
        name: None if getattr(mine, name) is None else world.gather(getattr(mine, name))
        for name in ("dense", "weights", "multi")
    }
    everyone = replace(
        mine,
        **heads,
        ids=world.gather(mine.ids),
        owners=world.gather(mine.owners + texts),
        multi_owners=world.gather(mine.multi_owners + texts),
        starts=np.concatenate([starts for starts, _ in spans]),
        counts=np.concatenate([counts for _, counts in spans]),
    )
    return everyone, first_query, texts


def score(
    queries: Representations, passages: Representations, config: LossConfig
) -> dict[Head, list[Tensor]]:
    """Scores (Q, P) of every head that both sides have, whole and then by leading sizes."""
    out: dict[Head, list[Tensor]] = {}
    if queries.dense is not None and passages.dense is not None:
        pairs = _sized(queries.dense, passages.dense, config.dense_sizes)
        out["dense"] = [q @ p.T for q, p in pairs]
    if queries.weights is not None and passages.weights is not None:
        sides = [(side.weights, side.ids, side.owners, len(side)) for side in (queries, passages)]
        out["sparse"] = [lexical(*sides[0], *sides[1])]  # type: ignore[arg-type]
    if queries.multi is not None and passages.multi is not None:
        owners, spans = (queries.multi_owners, len(queries)), (passages.starts, passages.counts)
        pairs = _sized(queries.multi, passages.multi, config.multi_sizes)
        out["multi"] = [maxsim(q, *owners, p, *spans) for q, p in pairs]
    return out


def _sized(queries: Tensor, passages: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors whole, and by their leading sizes normalised again (Matryoshka, 2205.13147)."""
    smaller = [size for size in sizes if size < queries.shape[1]]
    cut = [(queries[:, :size], passages[:, :size]) for size in smaller]
    return [
        (queries, passages),
        *((F.normalize(q, dim=-1), F.normalize(p, dim=-1)) for q, p in cut),
    ]


@torch.no_grad()
def spread(
    scores: dict[Head, list[Tensor]], queries: Representations, passages: Representations
) -> Facts:
    """What shows that a head collapses: how scores differ between columns, weights a text."""
    facts: Facts = {}
    for head, (whole, *_) in scores.items():
        if whole.shape[1] > 1:
            facts[f"spread_{head}"] = float(whole.std(1).mean())
    for name, side in (("query", queries), ("passage", passages)):
        if side.weights is not None:
            facts[f"terms_{name}"] = float((side.weights > 0).sum()) / len(side)
    return facts


# What a teacher's vectors say


@dataclass(frozen=True)
class Known:
    """The teacher's scores (Q, P), the pairs that it knows both sides of, and the rows (Q,) whose
    own positive it knows."""

    scores: Tensor
    pairs: Tensor
    rows: Tensor
    positives: Tensor

    @staticmethod
    def of(
        targets: Targets, batch: Batch, positives: Tensor, world: World, device: torch.device
    ) -> "Known":
        """From the dense vectors that queries and all devices' passages are drawn to."""
        queries, knows = _dense_targets(targets, batch.query_texts)
        passages, known = _dense_targets(targets, batch.passage_texts)
        everyone = world.gather(passages.to(device))
        which = world.gather(known.float().to(device)) > 0
        pairs = knows.to(device)[:, None] & which[None, :]
        rows = pairs.gather(1, positives[:, None])[:, 0]
        return Known(queries.to(device) @ everyone.T, pairs, rows, positives)

    def above(self, margin: float) -> Tensor:
        """(Q, P) known pairs, the positives not, that score above the positive less a margin."""
        bar = self.scores.gather(1, self.positives[:, None]) - margin
        over = self.pairs & self.rows[:, None] & (self.scores > bar)
        return over.scatter(1, self.positives[:, None], False)

    def cross_entropy(
        self, scores: Tensor, columns: Columns, taught: float, temperature: float
    ) -> Tensor:
        """Of a head's scores with the teacher's, each over its temperature, in known columns."""
        mask = columns.mask & self.pairs
        rows = self.rows & (mask.sum(1) > 1)
        if not bool(rows.any()):
            return scores.sum() * 0.0
        goal = log_probs(self.scores[rows], mask[rows], taught).exp()
        return -(goal * log_probs(scores[rows], mask[rows], temperature)).sum() / columns.total


def _dense_targets(targets: Targets, texts: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The dense targets of texts, (B, D), zero where there is none, and which have one, (B,)."""
    rows, goal = targets.of(texts)
    out = torch.zeros(len(texts), targets.vectors.dense.shape[1])
    out[rows] = goal
    known = torch.zeros(len(texts), dtype=torch.bool)
    known[rows] = True
    return out, known


def pull(
    targets: Targets,
    config: TeacherConfig,
    sides: Sequence[tuple[Representations, npt.NDArray[np.int64]]],
    world: World,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted distances of some texts to the teacher, and each distance by name.

    sides are representations and the numbers of their texts. Every distance is a mean over the
    texts or tokens of all devices that the teacher knows.
    """
    device = sides[0][0].ids.device
    distances: dict[str, list[Tensor]] = {"dense": [], "tokens": [], "rarity": [], "relations": []}
    for side, texts in sides:
        if side.dense is not None:
            rows, goal = targets.of(texts)
            dense, goal = side.dense[rows.to(device)], goal.to(device)
            distances["dense"].append(1 - (dense * goal).sum(-1))
            if config.relations:
                distances["relations"].append(unlike(dense, goal, config.temperature))
        if not len(targets.vectors.tokens):
            continue
        tokens, vectors, rare = targets.tokens(texts, side.starts, side.counts)
        if side.multi is not None:
            cosines = (side.multi[tokens.to(device)] * vectors.to(device)).sum(-1)
            distances["tokens"].append(1 - cosines)
        if side.weights is not None:
            # texts before it, and its own, each have a [CLS] that has a weight but no vector
            owners = side.multi_owners.cpu()[tokens]
            order = np.argsort(np.argsort(side.starts, kind="stable"), kind="stable")
            shift = torch.from_numpy(order)[owners] + 1
            weights = side.weights[(tokens + shift).to(device)]
            distances["rarity"].append((weights - rare.to(device)).square())
    total = torch.zeros((), device=device)
    facts: dict[str, Tensor] = {}
    for name, parts in distances.items():
        if not getattr(config, name) or not parts:
            continue
        count = world.sum(torch.tensor(float(sum(len(part) for part in parts)), device=device))
        mean = reduce(torch.add, [part.sum() for part in parts]) / count.clamp(min=1)
        facts[f"teacher_{name}"] = mean.detach()
        total = total + getattr(config, name) * mean
    return total, facts


def unlike(vectors: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """How far each vector's likeness to all goals is from that of its goal, (B, D) -> (B,).

    The Kullback-Leibler divergence of the softmax of cosines, 0 where they are the same.
    """
    wanted = (goal @ goal.T / temperature).log_softmax(-1)
    given = (vectors @ goal.T / temperature).log_softmax(-1)
    return (wanted.exp() * (wanted - given)).sum(-1)
