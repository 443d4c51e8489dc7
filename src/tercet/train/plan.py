"""What a run would do, before it does it: groups, batches, padding, steps, memory.

Knows nothing of loops. Memory is an estimate, good to about a fifth.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tercet.train.prepare import Prepared, activation_bytes, heads_of
from tercet.train.sampler import Pool
from tercet.train.word_loss import LOGITS

DRAWS = 200  # batches looked at for the padding share


@dataclass(frozen=True)
class Plan:
    """The plan of a run; memory in MB of one device."""

    stage: str
    rows: int
    texts: int
    groups: list[dict[str, Any]]
    batches_per_epoch: int
    steps: int
    epochs: float
    distillation_from: int | None
    padding: float  # share of padding if each batch were padded to its longest text
    padding_at_random: float  # the same for batches of rows drawn without groups
    sub_batch_tokens: int | None
    weights_mb: int  # parameters, gradients and two moments of the trained ones
    activations_mb: int
    representations_mb: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def make_plan(ready: Prepared) -> Plan:
    """Counts what the sampler and the config of a run amount to."""
    config, sampler = ready.config, ready.sampler
    model = ready.checkpoint.model
    lengths = passage_lengths(ready)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    largest = max(sampler.pools, key=lambda pool: pool.size * pool.tokens)
    tokens = int(largest.size * largest.tokens / ready.world.size)
    at_once = tokens if ready.sub_batch is None else min(tokens, ready.sub_batch)
    each = activation_bytes(
        model.backbone.config, ready.dtype, checkpointing=config.batch.checkpointing
    )
    multiple = config.steps * config.batch.accumulate / sampler.per_epoch if config.steps else 0
    return Plan(
        stage=config.stage,
        rows=len(ready.examples),
        texts=len(ready.examples.keys),
        groups=[group(pool) for pool in sampler.pools],
        batches_per_epoch=sampler.per_epoch,
        steps=ready.steps,
        epochs=round(multiple or config.epochs, 3),
        distillation_from=config.loss.start(ready.steps) if config.stage == "unified" else None,
        padding=round(padding_of_batches(ready, lengths), 4),
        padding_at_random=round(padding_at_random(ready, lengths), 4),
        sub_batch_tokens=ready.sub_batch,
        weights_mb=int((16 * trained + 4 * frozen) / 1e6),
        activations_mb=int(each * at_once / 1e6),
        representations_mb=int(representation_bytes(ready, largest) / 1e6),
    )


def representation_bytes(ready: Prepared, pool: Pool) -> float:
    """Bytes on a device for a batch's representations with their gradients, and for the losses.

    Passages of all devices are there, the queries of this one; MaxSim keeps a place of two bytes
    for each token of a query and each passage. RetroMAE has no representations: it keeps the states
    of a batch, and logits in blocks of a fixed size.
    """
    config, world, model = ready.config, ready.world.size, ready.checkpoint.model
    hidden = model.backbone.config.hidden
    if config.stage == "retromae":
        return float(8 * hidden * pool.size * pool.tokens / world + 3 * 4 * LOGITS)
    examples, rows = ready.examples, pool.rows
    queries = np.minimum(examples.lengths()[examples.query[rows]] + 2, config.data.query_tokens)
    asked = float(queries.mean()) * pool.size / world  # tokens of queries
    read = max(0.0, pool.tokens - float(queries.mean())) * pool.size  # of all devices' passages
    negatives = np.minimum(np.diff(examples.negatives.offsets)[rows], config.data.negatives)
    passages = (1 + float(negatives.mean())) * pool.size
    size = 8.0 * hidden * (pool.size / world + passages)
    if "sparse" in heads_of(config):
        size += 8 * (asked + read)
    if "multi" in heads_of(config) and model.multi is not None:
        size += 8 * model.multi.out_features * (asked + read) + 2 * asked * passages
    return size + 4 * 8 * passages * pool.size / world  # scores of all heads, soft targets


def group(pool: Pool) -> dict[str, Any]:
    """A pool in numbers."""
    return {
        "name": pool.name,
        "rows": len(pool.rows),
        "batch": pool.size,
        "batches": pool.batches,
        "tokens_per_row": round(pool.tokens, 1),
    }


def passage_lengths(ready: Prepared) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of each row's first positive, as it would be encoded, (N,)."""
    examples, most = ready.examples, ready.config.data.passage_tokens
    if ready.config.stage in ("align", "retromae"):  # its rows are texts
        return np.minimum(examples.lengths() + 2, most)
    first = examples.positives.values[examples.positives.offsets[:-1]]
    out: np.ndarray[Any, np.dtype[np.int64]] = np.minimum(examples.lengths()[first] + 2, most)
    return out


def padding_of_batches(ready: Prepared, lengths: np.ndarray[Any, Any]) -> float:
    """The share of padding of the first batches' positives."""
    return _share(
        lengths[ready.sampler.batch(number)[1]]
        for number in range(min(DRAWS, ready.sampler.per_epoch))
    )


def padding_at_random(ready: Prepared, lengths: np.ndarray[Any, Any]) -> float:
    """The same for batches as large, of rows drawn from all."""
    draw = np.random.default_rng(0)
    sizes = [
        ready.sampler.batch(number)[0].size for number in range(min(DRAWS, ready.sampler.per_epoch))
    ]
    return _share(draw.choice(lengths, size=min(size, len(lengths))) for size in sizes)


def _share(batches: Any) -> float:
    tokens = padded = 0
    for some in batches:
        tokens, padded = tokens + int(some.sum()), padded + len(some) * int(some.max())
    return 1 - tokens / max(1, padded)
