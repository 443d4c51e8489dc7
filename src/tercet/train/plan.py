"""What a run is made of before its first step, and what it would do: model, rows, batches, memory.

Knows nothing of steps or losses. Memory is an estimate, good to about a fifth.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.config import default_cache
from tercet.errors import InputError, ModelError
from tercet.inference import multiplies_bfloat16
from tercet.layout import BUNDLED, BackboneConfig
from tercet.model import MultiHead, SparseHead
from tercet.train.batches import Pool, Sampler, make_sampler
from tercet.train.config import TEXT_STAGES, TrainConfig, frozen_layers
from tercet.train.dataset import Examples, Numbers
from tercet.train.distributed import World
from tercet.train.init import extend_positions
from tercet.train.retromae import LOGITS

FEW = 0.1  # below this share, what a query is compared with is little
FEW_STEPS = 50  # below these a run hardly learns
SAMPLE = 1 << 16  # rows of a pool that are looked at for an estimate


@dataclass(frozen=True)
class Prepared:
    """What a run is made of before its first step."""

    config: TrainConfig
    world: World
    checkpoint: Checkpoint
    examples: Examples
    sampler: Sampler
    steps: int
    distil_from: int  # the step from which the loss has self-distillation; steps: it never has
    dtype: torch.dtype
    sub_batch: int | None  # tokens encoded at once; None: no split


def prepare(config: TrainConfig, world: World, *, download: bool = True) -> Prepared:
    """Loads the model and the rows, and plans the batches; raises InputError on what cannot run."""
    if not config.data.sources:
        raise InputError("data.sources names no files: give training rows (--rows FILES)")
    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoint = load_model(config, world.device, download=download)
    data, trunk = config.data, checkpoint.model.backbone.config
    data = replace(  # texts are cut to the model's positions, and have its prefixes by default
        data,
        query_tokens=min(data.query_tokens, trunk.max_length),
        passage_tokens=min(data.passage_tokens, trunk.max_length),
        query_prefix=data.query_prefix or checkpoint.settings.query_prefix,
        passage_prefix=data.passage_prefix or checkpoint.settings.passage_prefix,
    )
    config = replace(config, data=data)
    cache = cache_folder(config)
    if not world.first:
        world.wait()  # the first process makes the cache, the others read it
    examples = Examples.load(data.sources, checkpoint.tokenizer, data, cache=cache)
    if world.first:
        world.wait()
    sampler = make_sampler(config, examples, scratch=cache if os.access(cache, os.W_OK) else None)
    small = min(sampler.pools, key=lambda pool: pool.size)
    if small.size < world.size:
        raise InputError(
            f"{small.name}: batches of {small.size} rows cannot be shared by {world.size}"
            " devices: use fewer devices, or fewer length groups (batch.lengths)"
        )
    steps = config.steps or max(
        1, math.ceil(config.epochs * sampler.per_epoch / config.batch.accumulate)
    )
    fast = world.device.type == "cuda" or multiplies_bfloat16()
    rounded = config.dtype == "bfloat16" or (config.dtype == "auto" and fast)
    dtype = torch.bfloat16 if rounded else torch.float32
    if config.stage not in TEXT_STAGES and compared(sampler, examples, config)[1] == 0:
        raise InputError(
            "nothing to learn from: no query of a batch has a passage that is not related to it;"
            " leave out the texts and group ids that so many rows share (`tercet data check`), or"
            " give rows with negatives or larger batch.rows"
        )
    sub_batch = config.batch.sub_batch_tokens or None
    if sub_batch is None and config.batch.memory_gb:
        each = activation_bytes(trunk, dtype, checkpointing=config.batch.checkpointing)
        sub_batch = max(1, int(config.batch.memory_gb * 1e9 / each))
    return Prepared(
        config=config,
        world=world,
        checkpoint=checkpoint,
        examples=examples,
        sampler=sampler,
        steps=steps,
        distil_from=config.loss.start(steps) if config.stage == "unified" else steps,
        dtype=dtype,
        sub_batch=sub_batch,
    )


def cache_folder(config: TrainConfig) -> Path:
    return Path(config.data.cache) if config.data.cache else default_cache()


def load_model(config: TrainConfig, device: torch.device, *, download: bool = True) -> Checkpoint:
    """The checkpoint that the run starts from, ready to train.

    `unified` and `align` give it the heads that it lacks, from the seed. Raises ModelError where it
    cannot be read or holds a value that is not finite; download as in `read_checkpoint`.
    """
    source: str | Path = config.model or BUNDLED
    try:
        checkpoint = read_checkpoint(source, dtype=torch.float32, device=device, download=download)
    except ModelError as error:
        if download or Path(source).exists():
            raise
        raise ModelError(
            f"{error}. The run names this model; if you trust that, fetch it: hf download {source}"
        ) from error
    model, trunk, heads = checkpoint.model, checkpoint.model.backbone, config.heads
    torch.manual_seed(config.seed)
    with torch.device(device):
        if model.sparse is None and "sparse" in heads:
            model.sparse = SparseHead(trunk.config.hidden)
        if model.multi is None and "multi" in heads:
            model.multi = MultiHead(trunk.config.hidden, config.multi or trunk.config.hidden)
    if config.stage == "retromae":
        extend_positions(trunk, config.retromae.positions)
    if config.dropout >= 0:
        trunk.set_dropout(config.dropout)
    trunk.checkpointing = config.batch.checkpointing
    trunk.adds_rows = True
    model.requires_grad_(True)
    parts: dict[str, tuple[nn.Module | nn.Parameter | None, ...]] = {
        "words": (trunk.word_embeddings,),
        "positions": (trunk.position_embeddings,),
        "layers": (trunk.layers, trunk.norm, trunk.type_embedding),
        "sparse": (model.sparse,),
        "multi": (model.multi,),
    }
    frozen = [head for head in ("sparse", "multi") if head not in heads]
    if config.optimiser.embedding_lr == 0:
        frozen.append("words")
    for name in (*frozen, *config.optimiser.frozen):
        layers = frozen_layers(name)
        if layers and layers.stop > len(trunk.layers):
            raise InputError(f"optimiser.frozen: {name!r} of a model of {len(trunk.layers)} layers")
        for part in parts[name] if name in parts else [trunk.layers[layer] for layer in layers]:
            if part is not None:
                part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"optimiser.frozen leaves nothing that the stage {config.stage} trains")
    return checkpoint


def activation_bytes(trunk: BackboneConfig, dtype: torch.dtype, *, checkpointing: bool) -> float:
    """Bytes of memory that a pass of the trunk and its backward pass need for each token.

    Counted from `Layer`: the inputs of four products, the two norms, GELU, dropout masks and
    attention. With checkpointing, each layer's input, and one layer whole with its gradients. Peaks
    measured on CPU lie within 15% (6 layers of 384, both dtypes).
    """
    size = 2 if dtype == torch.bfloat16 else 4
    hidden, wide = trunk.hidden, trunk.feed_forward
    # products' inputs in dtype: x, qkv (3), mixed, x, GELU's in and out; norms' inputs in float32
    layer = size * (6 * hidden + 2 * wide) + 4 * 4 * hidden + (2 * hidden if trunk.dropout else 0)
    if checkpointing:
        return 4 * hidden * trunk.layers + 1.5 * layer
    return float(layer * trunk.layers)


# The plan of a run


@dataclass(frozen=True)
class Plan:
    """What a run amounts to; memory in MB of one device."""

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
    warning: str | None


def make_plan(ready: Prepared, *, draws: int = 200) -> Plan:
    """Counts what the sampler and the config of a run amount to; padding is that of some draws."""
    config, sampler, model = ready.config, ready.sampler, ready.checkpoint.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    largest = max(sampler.pools, key=lambda pool: pool.size * pool.tokens)
    tokens = int(largest.size * largest.tokens / ready.world.size)
    at_once = tokens if ready.sub_batch is None else min(tokens, ready.sub_batch)
    trunk = model.backbone.config
    each = activation_bytes(trunk, ready.dtype, checkpointing=config.batch.checkpointing)
    batches = [sampler.batch(number)[1] for number in range(min(draws, sampler.per_epoch))]
    draw = np.random.default_rng(0)
    most = len(ready.examples.keys) if config.stage in TEXT_STAGES else len(ready.examples)
    random = [draw.integers(most, size=len(rows)) for rows in batches]
    multiple = config.steps * config.batch.accumulate / sampler.per_epoch
    return Plan(
        stage=config.stage,
        rows=len(ready.examples),
        texts=len(ready.examples.keys),
        groups=[
            {
                "name": pool.name,
                "rows": len(pool.rows),
                "batch": pool.size,
                "batches": pool.batches,
                "tokens_per_row": round(pool.tokens, 1),
            }
            for pool in sampler.pools
        ],
        batches_per_epoch=sampler.per_epoch,
        steps=ready.steps,
        epochs=round(multiple or config.epochs, 3),
        distillation_from=ready.distil_from if config.stage == "unified" else None,
        padding=_padding(ready, batches),
        padding_at_random=_padding(ready, random),
        sub_batch_tokens=ready.sub_batch,
        weights_mb=int((16 * trained + 4 * frozen) / 1e6),
        activations_mb=int(each * at_once / 1e6),
        representations_mb=int(representation_bytes(ready, largest) / 1e6),
        warning="; ".join(warnings(ready)) or None,
    )


def warnings(ready: Prepared) -> list[str]:
    """Why a run may learn little, in sentences."""
    out, steps = [], ready.steps
    if steps < FEW_STEPS:
        batch = max(pool.size for pool in ready.sampler.pools)
        epochs = steps * ready.config.batch.accumulate / ready.sampler.per_epoch
        out.append(
            f"{steps} steps are few to learn from: {len(ready.examples):,} rows in batches of up to"
            f" {batch:,}, {epochs:.3g} epochs; set more epochs or steps, or smaller batch.rows"
        )
    if ready.config.stage not in TEXT_STAGES:
        share, learning = compared(ready.sampler, ready.examples, ready.config)
        if share < FEW or learning < 1 - FEW:
            out.append(
                f"a query is compared with {share:.0%} of its batch's other passages, and"
                f" {1 - learning:.0%} of the queries with nothing: the rest is related to them"
                " through shared texts and group ids (`tercet data check`)"
            )
    return out


def compared(
    sampler: Sampler, examples: Examples, config: TrainConfig, *, draws: int = 16
) -> tuple[float, float]:
    """Of the queries of some batches, what they are compared with, counted with little work.

    Returns the share of the others' positives that are no relatives of a query, and the share of
    the queries that have any such, or a negative of their own.
    """
    shares, learning = [], []
    for number in range(min(draws, sampler.per_epoch)):
        pool, rows = sampler.batch(number)
        owners, keys = examples.related.of(rows)
        first = examples.positives.values[examples.positives.offsets[rows]]
        different, counts = np.unique(examples.keys[first], return_counts=True)
        nearest = np.searchsorted(different, keys).clip(max=len(different) - 1)
        met = np.where(different[nearest] == keys, counts[nearest], 0)
        others = len(rows) - np.bincount(owners, met, len(rows))
        others *= config.data.sources[pool.source].in_batch_negatives
        shares.append(others / (len(rows) - 1))
        learns = others > 0
        bounds = np.searchsorted(owners, np.arange(len(rows) + 1))
        for place in np.flatnonzero(~learns).tolist() if config.data.negatives else ():
            own = examples.keys[examples.negatives[rows[place]]]
            learns[place] = not np.isin(own, keys[slice(*bounds[place : place + 2])]).all()
        learning.append(learns)
    return float(np.concatenate(shares).mean()), float(np.concatenate(learning).mean())


def _padding(ready: Prepared, batches: Iterable[Numbers]) -> float:
    """The share of padding where the first positives of batches were padded to the longest."""
    examples, tokens, padded = ready.examples, 0, 0
    for rows in batches:
        texts = rows
        if ready.config.stage not in TEXT_STAGES:  # whose rows are texts
            texts = examples.positives.values[examples.positives.offsets[rows]]
        lengths = np.minimum(examples.lengths(texts) + 2, ready.config.data.passage_tokens)
        tokens, padded = tokens + int(lengths.sum()), padded + len(rows) * int(lengths.max())
    return round(1 - tokens / max(1, padded), 4)


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
    examples, rows = ready.examples, pool.rows[:: -(-len(pool.rows) // SAMPLE)]
    lengths = np.minimum(examples.lengths(examples.query[rows]) + 2, config.data.query_tokens)
    query = float(lengths.mean())
    query_tokens = query * pool.size / world
    passage_tokens = max(0.0, pool.tokens - query) * pool.size  # of all devices
    offsets = examples.negatives.offsets
    negatives = np.minimum(offsets[rows + 1] - offsets[rows], config.data.negatives)
    passages = (1 + float(negatives.mean())) * pool.size
    size = 8.0 * hidden * (pool.size / world + passages)
    if "sparse" in config.heads:
        size += 8 * (query_tokens + passage_tokens)
    if "multi" in config.heads and model.multi is not None:
        size += 8 * model.multi.out_features * (query_tokens + passage_tokens)
        size += 2 * query_tokens * passages
    return size + 4 * 8 * passages * pool.size / world  # scores of all heads, soft targets
