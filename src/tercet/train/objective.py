"""From the representations of a batch to its loss: all devices' passages against each query.

Joins interaction (scores), losses and distributed; knows nothing of models or files. Shapes:
Q queries of this device, P passages of this device, A passages of all devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.config import Head
from tercet.train.collate import Collated
from tercet.train.distributed import World
from tercet.train.interaction import lexical, maxsim
from tercet.train.losses import Columns, LossConfig, competitors, flops, unified
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
    targets: Targets | None = None  # of an outside teacher of dense vectors
    targets_weight: float = 0.0
    facts: Facts = field(default_factory=dict)

    def __call__(self, queries: Encoded, passages: Encoded) -> Tensor:
        """This device's part of the loss: parts of all devices add up to the whole batch's."""
        device = queries.ids.device
        everyone = Gathered.of(self.world, passages)
        columns = self._columns(device)
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
        if self.targets is not None and queries.dense is not None and passages.dense is not None:
            pull = self._pull(queries.dense, passages.dense)
            loss = loss + self.targets_weight * pull
            facts["teacher"] = pull.detach()
        facts["loss"] = loss.detach()
        names, values = list(facts), torch.stack([facts[name].float() for name in facts])
        summed = self.world.sum(values).tolist()
        self.facts |= dict(zip(names, summed, strict=True))
        self.facts |= spread(scores, queries, passages)
        return loss

    def _columns(self, device: torch.device) -> Columns:
        """What the columns of all devices are to this device's queries."""
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
        known = None if teacher is None else teacher[None, :].expand_as(own)
        return Columns(positives, mask, own, known, self.total)

    def _pull(self, queries: Tensor, passages: Tensor) -> Tensor:
        """Mean cosine distance of known texts to the teacher's vectors, both sides added."""
        assert self.targets is not None
        pull = queries.new_zeros(())
        for vectors, (rows, wanted) in zip(
            (queries, passages), self.targets.of(self.collated), strict=True
        ):
            count = self.world.sum(torch.tensor(float(len(rows)), device=vectors.device))
            at, goal = rows.to(vectors.device), wanted.to(vectors.device)
            pull = pull + (1 - (vectors[at] * goal).sum(-1)).sum() / count.clamp(min=1)
        return pull


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
