"""From the representations of a batch to its loss: all devices' passages against each query.

Joins interaction (scores), losses and distributed; knows nothing of models or files. Shapes:
Q queries of this device, P passages of this device, A passages of all devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.config import Head
from tercet.scores import lexical, maxsim
from tercet.train.collate import Collated
from tercet.train.config import TeacherConfig
from tercet.train.distributed import World
from tercet.train.losses import Columns, LossConfig, competitors, flops, log_shares, sum_of, unified
from tercet.train.split_batch import Encoded
from tercet.train.teacher import Targets

Facts = dict[str, float]


@dataclass
class Objective:
    """The loss of one batch; facts hold each part's value after the call, over all devices."""

    config: LossConfig
    world: World
    heads: tuple[Head, ...]
    collated: Collated
    total: int  # queries of all devices
    distil: bool
    in_batch: bool = True
    targets: Targets | None = None  # what a teacher says of the texts
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    facts: Facts = field(default_factory=dict)

    def __call__(self, queries: Encoded, passages: Encoded) -> Tensor:
        """This device's part of the loss: parts of all devices add up to the whole batch's."""
        device = queries.ids.device
        everyone = Gathered.of(self.world, passages)
        columns, known = self._columns(device)
        scores = score(queries, everyone, self.heads, self.config)
        loss, parts = unified(scores, columns, self.config, distil=self.distil)
        facts = {f"loss_{name}": value for name, value in parts.items()}
        if self.config.flops and queries.weights is not None and everyone.weights is not None:
            asked = self.world.gather(queries.weights)
            ids = self.world.gather(queries.ids)
            penalty = flops(asked, ids, self.total) + flops(
                everyone.weights, everyone.ids, len(everyone)
            )
            penalty = penalty / self.world.size  # every device has all of it
            loss = loss + self.config.flops * penalty
            facts["flops"] = penalty.detach()
        if known is not None and self.teacher.scores:
            shares = {head: getattr(self.config, f"{head}_loss") for head in scores}
            each = (shares[h] * self._taught(s[0], columns, known) for h, s in scores.items())
            taught = sum_of(each) / max(sum(shares.values()), 1e-9)
            loss = loss + self.teacher.scores * taught
            facts["teacher_scores"] = taught.detach()
        if self.targets is not None:
            mine = ((queries, self.collated.query_places), (passages, self.collated.passage_places))
            pulled, told = pull(self.targets, self.teacher, mine, self.world)
            loss = loss + pulled
            facts |= told
        facts["loss"] = loss.detach()
        names, values = list(facts), torch.stack([facts[name].float() for name in facts])
        summed = self.world.sum(values).tolist()
        self.facts |= dict(zip(names, summed, strict=True))
        self.facts |= spread(scores, queries, passages)
        return loss

    def _columns(self, device: torch.device) -> tuple[Columns, "Known | None"]:
        """What the columns of all devices are to this device's queries, and what a teacher says."""
        world, mine = self.world, self.collated
        counts = world.all((len(mine.positives), len(mine.owners)))
        before = [sum(n for n, _ in counts[: world.rank]), sum(n for _, n in counts[: world.rank])]
        owners = world.gather(torch.from_numpy(mine.owners + before[0]).to(device))
        marks = world.gather(torch.from_numpy(mine.passage_marks).to(device))
        teacher = None
        if any(world.all(bool(np.isfinite(mine.teacher).any()))):
            teacher = world.gather(torch.from_numpy(mine.teacher).to(device))
        asked = torch.arange(len(mine.positives), device=device) + before[0]
        own = asked[:, None] == owners[None, :]
        mask = competitors(
            torch.from_numpy(mine.query_marks).to(device), marks, own, in_batch=self.in_batch
        )
        positives = torch.from_numpy(mine.positives + before[1]).to(device)
        known = None
        if self.targets is not None and (self.teacher.scores or self.teacher.margin >= 0):
            known = Known.of(self.targets, mine, positives, world, device)
            if self.teacher.margin >= 0:
                mask = mask & ~known.above(self.teacher.margin)
        told = None if teacher is None else teacher[None, :].expand_as(own)
        return Columns(positives, mask, own, told, self.total), known

    def _taught(self, scores: Tensor, columns: Columns, known: "Known") -> Tensor:
        """Cross entropy of a head's scores with the teacher's, over the columns that it knows."""
        mask = columns.mask & known.pairs
        rows = known.rows & (mask.sum(1) > 1)
        if not bool(rows.any()):
            return scores.sum() * 0.0
        goal = log_shares(known.scores[rows], mask[rows], self.teacher.temperature).exp()
        shares = log_shares(scores[rows], mask[rows], self.config.temperature)
        return -(goal * shares).sum() / columns.total


@dataclass(frozen=True)
class Known:
    """The teacher's scores (Q, A), the pairs that it knows both sides of, and the rows (Q,) whose
    own positive it knows."""

    scores: Tensor
    pairs: Tensor
    rows: Tensor
    positives: Tensor

    @staticmethod
    def of(
        targets: Targets, collated: Collated, positives: Tensor, world: World, device: torch.device
    ) -> "Known":
        """From the dense vectors that queries and all devices' passages are drawn to."""
        asked, knows = spread_out(targets, collated.query_places)
        given, known = spread_out(targets, collated.passage_places)
        passages = world.gather(given.to(device))
        which = world.gather(known.float().to(device)) > 0
        pairs = knows.to(device)[:, None] & which[None, :]
        rows = pairs.gather(1, positives[:, None])[:, 0]
        return Known(asked.to(device) @ passages.T, pairs, rows, positives)

    def above(self, margin: float) -> Tensor:
        """(Q, A) known pairs, the positives not, that score above the positive less a margin."""
        bar = self.scores.gather(1, self.positives[:, None]) - margin
        found = self.pairs & self.rows[:, None] & (self.scores > bar)
        return found.scatter(1, self.positives[:, None], False)


def spread_out(targets: Targets, places: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The dense targets of texts, (B, D), zero where there is none, and which have one, (B,)."""
    rows, goal = targets.of(places)
    out = torch.zeros(len(places), targets.vectors.dense.shape[1])
    out[rows] = goal
    known = torch.zeros(len(places), dtype=torch.bool)
    known[rows] = True
    return out, known


def pull(
    targets: Targets,
    config: TeacherConfig,
    sides: Sequence[tuple[Encoded, npt.NDArray[np.int64]]],
    world: World,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted distances of some texts to the teacher, and each distance by name.

    sides are encoded texts and their places. Every distance is a mean over the texts or tokens of
    all devices that the teacher knows.
    """
    device = sides[0][0].ids.device
    total = torch.zeros((), device=device)
    facts: dict[str, Tensor] = {}

    def add(name: str, weight: float, distances: Sequence[Tensor]) -> None:
        nonlocal total
        if not weight or not distances:
            return
        count = world.sum(torch.tensor(float(sum(len(d) for d in distances)), device=device))
        mean = sum_of(d.sum() for d in distances) / count.clamp(min=1)
        facts[f"teacher_{name}"] = mean.detach()
        total = total + weight * mean

    dense, tokens, rarity, likeness = [], [], [], []
    for encoded, places in sides:
        if encoded.dense is not None:
            rows, goal = targets.of(places)
            found = encoded.dense[rows.to(device)]
            dense.append(1 - (found * goal.to(device)).sum(-1))
            if config.relations and len(rows) > 1:
                likeness.append(unlike(found, goal.to(device), config.temperature))
        if not len(targets.vectors.tokens):
            continue
        at, vectors, rare = targets.tokens(places, encoded.starts, encoded.counts)
        if encoded.multi is not None:
            tokens.append(1 - (encoded.multi[at.to(device)] * vectors.to(device)).sum(-1))
        if encoded.weights is not None:
            # texts before it, and its own, each have a [CLS] that has a weight but no vector
            owners = encoded.multi_owners.cpu()[at]
            order = np.argsort(np.argsort(encoded.starts, kind="stable"), kind="stable")
            shift = torch.from_numpy(order)[owners] + 1
            weights = encoded.weights[(at + shift).to(device)]
            rarity.append((weights - rare.to(device)).square())
    add("dense", config.dense, dense)
    add("tokens", config.tokens, tokens)
    add("rarity", config.rarity, rarity)
    add("relations", config.relations, likeness)
    return total, facts


def unlike(vectors: Tensor, goal: Tensor, temperature: float) -> Tensor:
    """How far each vector's likeness to all goals is from that of its goal, (B, D) -> (B,).

    The Kullback-Leibler divergence of the softmax of cosines, 0 where they are the same.
    """
    wanted = (goal @ goal.T / temperature).log_softmax(-1)
    given = (vectors @ goal.T / temperature).log_softmax(-1)
    return (wanted.exp() * (wanted - given)).sum(-1)


@dataclass(frozen=True)
class Gathered(Encoded):
    """The passages of all devices, in the devices' order."""

    @staticmethod
    def of(world: World, mine: Encoded) -> Encoded:
        """Brings all devices' representations here, with gradient."""
        if world.size == 1:
            return mine
        sizes = world.all((len(mine), len(mine.multi_owners)))
        texts = sum(count for count, _ in sizes[: world.rank])
        tokens = sum(count for _, count in sizes[: world.rank])
        spans = world.all((mine.starts + tokens, mine.counts))

        def gather(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else world.gather(tensor)

        return Encoded(
            dense=gather(mine.dense),
            weights=gather(mine.weights),
            ids=world.gather(mine.ids),
            owners=world.gather(mine.owners + texts),
            multi=gather(mine.multi),
            multi_owners=world.gather(mine.multi_owners + texts),
            starts=np.concatenate([starts for starts, _ in spans]),
            counts=np.concatenate([counts for _, counts in spans]),
        )


def score(
    queries: Encoded, passages: Encoded, heads: Sequence[Head], config: LossConfig
) -> dict[Head, list[Tensor]]:
    """Scores (Q, A) of every head that both sides have, whole and then by leading sizes."""
    out: dict[Head, list[Tensor]] = {}
    if "dense" in heads and queries.dense is not None and passages.dense is not None:
        q, p = queries.dense, passages.dense
        sizes = [size for size in config.dense_sizes if size < q.shape[1]]
        out["dense"] = [q @ p.T, *(leading(q, size) @ leading(p, size).T for size in sizes)]
    if "sparse" in heads and queries.weights is not None and passages.weights is not None:
        sides = [(side.weights, side.ids, side.owners, len(side)) for side in (queries, passages)]
        out["sparse"] = [lexical(*sides[0], *sides[1])]  # type: ignore[arg-type]
    if "multi" in heads and queries.multi is not None and passages.multi is not None:
        q, p = queries.multi, passages.multi
        spans = (passages.starts, passages.counts)
        sizes = [size for size in config.multi_sizes if size < q.shape[1]]
        pairs = [(q, p), *((leading(q, size), leading(p, size)) for size in sizes)]
        out["multi"] = [maxsim(a, queries.multi_owners, len(queries), b, *spans) for a, b in pairs]
    return out


def leading(vectors: Tensor, size: int) -> Tensor:
    """The first values of unit vectors, normalised again (Kusupati et al. 2022, 2205.13147)."""
    return F.normalize(vectors[:, :size], dim=-1)


@torch.no_grad()
def spread(scores: dict[Head, list[Tensor]], queries: Encoded, passages: Encoded) -> Facts:
    """What shows that a head collapses: how scores differ between columns, weights a text."""
    facts: Facts = {}
    for head, some in scores.items():
        if some[0].shape[1] > 1:
            facts[f"spread_{head}"] = float(some[0].std(1).mean())
    for name, side in (("query", queries), ("passage", passages)):
        if side.weights is not None:
            facts[f"terms_{name}"] = float((side.weights > 0).sum()) / len(side)
    return facts
