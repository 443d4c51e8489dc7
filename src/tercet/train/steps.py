"""One batch of a stage: its rows collated, encoded, scored, and its gradients added up.

Joins sampler, collate, split_batch and objective; knows nothing of optimisers or files.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from tercet.config import HEADS, Head
from tercet.model import M3Model
from tercet.train.collate import Collator
from tercet.train.config import TrainConfig
from tercet.train.distributed import World
from tercet.train.examples import Examples
from tercet.train.objective import Facts, Objective, pull
from tercet.train.retromae import RetroMAE, text_seeds
from tercet.train.sampler import Pool, Rows, Sampler, share_of
from tercet.train.split_batch import Batch, Encoded, backward
from tercet.train.teacher import Targets

Trained = TypeVar("Trained", bound=torch.nn.Module)


@dataclass
class BatchReport:
    """What one batch gave: facts of the loss, its tokens here and those that padding would add."""

    facts: Facts
    tokens: int
    padded: int
    rows: Rows


class Step(Protocol):
    """What the loop calls: adds the gradients of a batch."""

    def run(self, number: int, *, distil: bool) -> BatchReport:
        """Batch `number` of the run."""

    def where(self, row: int) -> str:
        """The file and line of a row that a report names."""


def autocast(dtype: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Products in dtype, weights as they are."""
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype)


@dataclass
class Parts(Generic[Trained]):
    """What every step is made of."""

    model: Trained
    examples: Examples
    sampler: Sampler
    collator: Collator
    config: TrainConfig
    world: World
    dtype: torch.dtype
    sub_batch: int | None


@dataclass
class PairStep(Parts[M3Model]):
    """A batch of rows with queries and passages: the stages contrastive and unified."""

    targets: Targets | None = None

    def run(self, number: int, *, distil: bool) -> BatchReport:
        pool, everyone = self.sampler.batch(number)
        rows = share_of(everyone, self.world.rank, self.world.size)
        collated = self.collator.batch(rows, number)
        source = self.config.data.sources[pool.source]
        objective = Objective(
            self.config.loss,
            self.world,
            self.heads(pool),
            collated,
            total=len(everyone),
            distil=distil,
            in_batch=source.in_batch_negatives,
            targets=self.targets,
            teacher=self.config.teacher,
        )
        device = self.world.device
        sides = [
            Batch(tokens, most=self.sub_batch, device=device)
            for tokens in (collated.queries, collated.passages)
        ]
        share = 1.0 / self.config.batch.accumulate
        backward(
            self.model,
            sides,
            objective.heads,
            lambda queries, passages: objective(queries, passages) * share,
            context=autocast(self.dtype, device),
        )
        both = (collated.queries, collated.passages)
        return BatchReport(
            objective.facts,
            sum(side.tokens for side in sides),
            sum(len(side) * int(side.lengths.max()) for side in both),
            rows,
        )

    def where(self, row: int) -> str:
        return self.examples.where(row)

    def heads(self, pool: Pool) -> tuple[Head, ...]:
        """The heads that a batch of this pool trains: two languages share no tokens."""
        if self.config.stage == "contrastive":
            return ("dense",)
        named = self.config.data.sources[pool.source].heads
        if named:
            return tuple(head for head in HEADS if head in named)
        return ("dense", "multi") if pool.parallel else HEADS


@dataclass
class AlignStep(Parts[M3Model]):
    """A batch of single texts drawn to a teacher: the stage align."""

    targets: Targets

    def run(self, number: int, *, distil: bool) -> BatchReport:
        _, everyone = self.sampler.batch(number)
        places = share_of(everyone, self.world.rank, self.world.size)
        tokens = self.collator.texts(places, number)
        batch = Batch(tokens, most=self.sub_batch, device=self.world.device)
        facts: Facts = {}

        def loss_of(texts: Encoded) -> torch.Tensor:
            loss, parts = pull(self.targets, self.config.teacher, [(texts, places)], self.world)
            parts["loss"] = loss.detach()
            summed = self.world.sum(torch.stack(list(parts.values()))).tolist()
            facts.update(zip(parts, summed, strict=True))
            return loss / self.config.batch.accumulate

        heads = [head for head in HEADS if head in self.model.heads]
        context = autocast(self.dtype, self.world.device)
        backward(self.model, [batch], heads, loss_of, context=context)
        return BatchReport(facts, batch.tokens, batch.size * int(tokens.lengths.max()), places)

    def where(self, row: int) -> str:
        return where_text(self.examples, row)


@dataclass
class RetroStep(Parts[RetroMAE]):
    """A batch of single texts: the stage retromae."""

    def run(self, number: int, *, distil: bool) -> BatchReport:
        _, everyone = self.sampler.batch(number)
        places = share_of(everyone, self.world.rank, self.world.size)
        tokens = self.collator.texts(places, number)
        seeds = text_seeds(self.config.seed, number, places)
        batch = Batch(tokens, most=self.sub_batch, device=self.world.device)
        pieces = [(piece.inputs, seeds[torch.from_numpy(piece.texts)]) for piece in batch.pieces]
        counts = torch.tensor([self.model.counts(*piece) for piece in pieces]).sum(0).double()
        totals = self.world.sum(counts.to(self.world.device))
        encoder, decoder = (int(total) for total in totals.tolist())
        share, sums = 1.0 / self.config.batch.accumulate, torch.zeros(2)
        context = autocast(self.dtype, self.world.device)
        for inputs, some in pieces:
            with context():
                losses = self.model(inputs, some)
            (losses.mean((encoder, decoder)) * share).backward()
            sums += torch.stack((losses.encoder.detach(), losses.decoder.detach())).cpu()
        means = self.world.sum(sums.to(self.world.device)) / totals.clamp(min=1)
        facts = {"loss_encoder": float(means[0]), "loss_decoder": float(means[1])}
        facts["loss"] = sum(facts.values())
        return BatchReport(facts, batch.tokens, batch.size * int(tokens.lengths.max()), places)

    def where(self, row: int) -> str:
        return where_text(self.examples, row)


def where_text(examples: Examples, place: int) -> str:
    """The file and line of the first row that has a text as its query or a positive."""
    rows = np.flatnonzero(examples.query == place)
    if not len(rows):
        at = np.flatnonzero(examples.positives.values == place)[:1]
        rows = np.searchsorted(examples.positives.offsets, at, side="right") - 1
    return examples.where(int(rows[0]))
