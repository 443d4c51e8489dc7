"""Trains a bag of tokens on pairs: minutes on a CPU that give word embeddings a start.

Knows nothing of files or of trunks. A line of what it sees every so often, through `log`. Shapes: B
texts, T tokens of the longest.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.errors import InputError, TercetError
from tercet.tokens import TokenBatch, Tokenizer
from tercet.train.bag import Bag, BagLoss, bag_loss
from tercet.train.collate import Collated, Collator
from tercet.train.config import BatchConfig, DataConfig
from tercet.train.examples import Examples
from tercet.train.losses import competitors
from tercet.train.sampler import PoolSpec, Sampler, make_pools, temperature_weights
from tercet.train.teacher import Targets

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class BagConfig:
    """How a bag is trained; ends after `minutes` or `steps`, whichever comes first."""

    minutes: float = 12.0  # 0: as long as the steps take
    steps: int = 0  # 0: as many as the minutes allow
    rows: int = 1024  # of a batch; the more, the better the negatives, and a bag is cheap
    lr: float = 5e-3  # no layers, so a high rate; chosen on dev with tercet-mini
    warmup: float = 0.05  # share of the run; then the rate falls to 0
    query_tokens: int = 48  # special tokens counted; the beginning of a text says most
    passage_tokens: int = 80
    temperature: float = 0.6  # sources are drawn by rows ** temperature
    report_every: int = 50
    loss: BagLoss = field(default_factory=BagLoss)

    def __post_init__(self) -> None:
        if self.minutes <= 0 and self.steps <= 0:
            raise InputError("a bag of tokens is trained for some minutes or steps: give either")

    def data(self) -> DataConfig:
        """How much of the texts is read: one positive of each row, no hard negatives."""
        return DataConfig(
            query_tokens=self.query_tokens,
            passage_tokens=self.passage_tokens,
            negatives=0,
            shuffle_segments=0.0,
        )

    def progress(self, step: int, seconds: float) -> float:
        """0 at the start, 1 at the end."""
        steps = step / self.steps if self.steps else 0.0
        return max(steps, seconds / 60 / self.minutes if self.minutes else 0.0)

    def rate(self, progress: float) -> float:
        """The learning rate: linear warm-up, then linear decay."""
        warm = min(1.0, (progress + 1e-3) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * max(0.0, 1.0 - progress)


def bag_sampler(
    examples: Examples, names: Sequence[str], config: BagConfig, *, seed: int
) -> Sampler:
    """Batches from one source and of similar length; rows without 'pos' take no part.

    Raises InputError where no source has two pairs.
    """
    paired = np.diff(examples.positives.offsets) > 0
    rows = [np.flatnonzero(paired & (examples.source == at)) for at in range(len(names))]
    used = [at for at, mine in enumerate(rows) if len(mine) > 1]
    if not used:
        raise InputError("a bag of tokens learns from rows with 'query' and 'pos': there are none")
    factors = temperature_weights([len(rows[at]) for at in used], config.temperature)
    specs = [
        PoolSpec(names[at], at, factor, rows[at]) for at, factor in zip(used, factors, strict=True)
    ]
    lengths = examples.lengths()
    query = np.minimum(lengths[examples.query] + 2, config.query_tokens)
    passage = np.zeros(len(examples), dtype=np.int64)
    of = np.repeat(np.arange(len(examples)), np.diff(examples.positives.offsets))
    sizes = np.minimum(lengths[examples.positives.values] + 2, config.passage_tokens)
    np.maximum.at(passage, of, sizes)
    edges = sorted({math.ceil(config.passage_tokens * part / 4) for part in (1, 2, 3, 4)})
    batches = BatchConfig(lengths=tuple(edges), rows=config.rows)
    pools = make_pools(specs, np.maximum(query, passage), query + passage, batches)
    return Sampler(pools, seed=seed)


def train_bag(
    bag: Bag,
    examples: Examples,
    names: Sequence[str],
    tokenizer: Tokenizer,
    config: BagConfig,
    *,
    seed: int = 0,
    targets: Targets | None = None,
    log: Log = print,
) -> int:
    """Trains a bag in place on the rows of sources of these names; returns the steps taken.

    Raises InputError where there are no pairs, TercetError where the loss is not finite.
    """
    sampler = bag_sampler(examples, names, config, seed=seed)
    collator = Collator(examples, tokenizer, config.data(), seed=seed)
    optimiser = torch.optim.Adam(bag.parameters(), lr=config.lr, betas=(0.9, 0.98), fused=True)
    began, step, seen = time.monotonic(), 0, [0.0, 0.0]
    while (progress := config.progress(step, time.monotonic() - began)) < 1.0:
        _, rows = sampler.batch(step)
        collated = collator.batch(rows, step)
        loss = _loss(bag, collated, targets, config.loss)
        if not torch.isfinite(loss):
            raise TercetError(
                f"step {step}: the loss is {loss.item()} on the rows"
                f" {', '.join(examples.where(int(row)) for row in rows[:4])} ...: look at them, or"
                " take a lower learning rate"
            )
        for group in optimiser.param_groups:
            group["lr"] = config.rate(progress)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step, seen = step + 1, [seen[0] + float(loss.detach()), seen[1] + 1]
        if step % config.report_every == 0:
            mean = round(seen[0] / seen[1], 4)
            log({"stage": "bag", "step": step, "done": round(progress, 3), "loss": mean})
            seen = [0.0, 0.0]
    return step


def _loss(bag: Bag, collated: Collated, targets: Targets | None, config: BagLoss) -> Tensor:
    queries = bag(padded(collated.queries, bag.pad_id))
    passages = bag(padded(collated.passages, bag.pad_id))
    own = torch.eye(len(queries), dtype=torch.bool)  # no hard negatives: passage i is query i's
    mask = competitors(
        torch.from_numpy(collated.query_marks), torch.from_numpy(collated.passage_marks), own
    )
    pulls = []
    if targets is not None:
        both = zip((queries, passages), targets.of(collated), strict=True)
        pulls = [(vectors, at, goal) for vectors, (at, goal) in both if len(at) > 1]
    return bag_loss(queries, passages, mask, pulls, config)


def padded(batch: TokenBatch, pad_id: int) -> Tensor:
    """(B, T) ids of packed texts."""
    ids = np.full((len(batch), int(batch.lengths.max())), pad_id, dtype=np.int64)
    ids[np.arange(ids.shape[1]) < batch.lengths[:, None]] = batch.ids
    return torch.from_numpy(ids)
