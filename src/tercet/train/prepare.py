"""What a run is made of before its first step: model, heads, rows, batches, devices, memory.

Knows nothing of steps or losses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from tercet.checkpoint import Checkpoint, TensorFiles, read_checkpoint, weight_files
from tercet.config import HEADS, Head, default_cache
from tercet.encoder import BUNDLED, multiplies_bfloat16
from tercet.errors import InputError, ModelError
from tercet.model import BackboneConfig, Layer, M3Model, MultiHead, SparseHead
from tercet.tokenizer import MASK
from tercet.train.config import TrainConfig, frozen_layers
from tercet.train.distributed import World
from tercet.train.examples import Examples
from tercet.train.init import extend_positions
from tercet.train.pools import make_sampler
from tercet.train.retromae import RetroMAE
from tercet.train.sampler import Sampler

Show = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """What a run is made of before its first step."""

    config: TrainConfig
    world: World
    checkpoint: Checkpoint
    examples: Examples
    sampler: Sampler
    steps: int
    dtype: torch.dtype
    sub_batch: int | None


def prepare(config: TrainConfig, world: World, *, progress: Show | None = None) -> Prepared:
    """Loads the model and the rows, and plans the batches; raises InputError on what cannot run."""
    if not config.data.sources:
        raise InputError("data.sources names no files: give training rows (--rows FILES)")
    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoint = load_model(config, world.device)
    config = fit_lengths(config, checkpoint)
    if not world.first:
        world.wait()  # the first process makes the cache, the others read it
    examples = Examples.load(
        config.data.sources,
        checkpoint.tokenizer,
        config.data,
        cache=cache_folder(config),
        progress=progress,
    )
    if world.first:
        world.wait()
    sampler = make_sampler(config, examples)
    small = [pool for pool in sampler.pools if pool.size < world.size]
    if small:
        raise InputError(
            f"{small[0].name}: batches of {small[0].size} rows cannot be shared by {world.size}"
            " devices: use fewer devices, or fewer length groups (batch.lengths)"
        )
    steps = config.steps or max(
        1, math.ceil(config.epochs * sampler.per_epoch / config.batch.accumulate)
    )
    if config.stage == "unified":
        config.loss.start(steps)
    dtype = product_dtype(config, world.device)
    sub_batch = sub_batch_tokens(config, checkpoint.model.backbone.config, dtype)
    return Prepared(config, world, checkpoint, examples, sampler, steps, dtype, sub_batch)


def fit_lengths(config: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """The config with texts cut to the model's positions, and its prefixes where none is given."""
    most = checkpoint.model.backbone.config.max_length
    data = config.data
    return replace(
        config,
        data=replace(
            data,
            query_tokens=min(data.query_tokens, most),
            passage_tokens=min(data.passage_tokens, most),
            query_prefix=data.query_prefix or checkpoint.settings.query_prefix,
            passage_prefix=data.passage_prefix or checkpoint.settings.passage_prefix,
        ),
    )


def cache_folder(config: TrainConfig) -> Path:
    """Where tokenised rows are kept."""
    return Path(config.data.cache) if config.data.cache else default_cache()


def load_model(config: TrainConfig, device: torch.device) -> Checkpoint:
    """The checkpoint that the run starts from, ready to train.

    `unified` gives it the heads that it lacks, from the seed. Raises ModelError where it cannot be
    read or holds a value that is not finite.
    """
    source: str | Path = config.model or BUNDLED
    checkpoint = read_checkpoint(source, dtype=torch.float32, device=device)
    model = checkpoint.model
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModelError(f"{source}: {name} holds values that are not finite: it cannot train")
    torch.manual_seed(config.seed)
    hidden = model.backbone.config.hidden
    if config.stage in ("align", "unified"):
        with torch.device(device):
            if model.sparse is None:
                model.sparse = SparseHead(hidden)
            if model.multi is None:
                model.multi = MultiHead(hidden, config.multi or hidden)
    if config.stage == "retromae":
        extend_positions(model.backbone, config.retromae.positions)
    if config.dropout >= 0:
        set_dropout(model, config.dropout)
    model.backbone.checkpointing = config.batch.checkpointing
    model.backbone.adds_rows = True
    model.requires_grad_(True)
    if config.optimiser.embedding_lr == 0:
        model.backbone.word_embeddings.requires_grad_(False)
    trunk = model.backbone
    parts: dict[str, tuple[nn.Module | nn.Parameter | None, ...]] = {
        "words": (trunk.word_embeddings,),
        "positions": (trunk.position_embeddings,),
        "layers": (trunk.layers, trunk.norm, trunk.type_embedding),
        "sparse": (model.sparse,),
        "multi": (model.multi,),
    }
    for name in (*unused_heads(config), *config.optimiser.frozen):
        some = frozen_layers(name)
        if some and some.stop > len(trunk.layers):
            raise InputError(f"optimiser.frozen: {name!r} of a model of {len(trunk.layers)} layers")
        for part in parts[name] if name in parts else (trunk.layers[at] for at in some):
            if part is not None:
                part.requires_grad_(False)
    return checkpoint


def make_retromae(checkpoint: Checkpoint, config: TrainConfig, device: torch.device) -> RetroMAE:
    """The trunk with a decoder and a language head, the checkpoint's own where it has one."""
    tokenizer = checkpoint.tokenizer
    retro = RetroMAE(
        checkpoint.model.backbone,
        config.retromae,
        mask_id=tokenizer.backend.token_to_id(MASK),
        special_ids=tokenizer.weightless_ids.tolist(),
        seed=config.seed,
    )
    stored = TensorFiles(weight_files(checkpoint.folder)).reader(torch.float32, prefix="lm_head.")
    retro.head.load_published(stored)
    return retro.to(device)


def unused_heads(config: TrainConfig) -> tuple[str, ...]:
    """Heads with weights of their own that a stage does not train."""
    return () if config.stage in ("align", "unified") else ("sparse", "multi")


def heads_of(config: TrainConfig) -> tuple[Head, ...]:
    """The heads that a stage trains."""
    return HEADS if config.stage in ("align", "unified") else ("dense",)


def set_dropout(model: M3Model, share: float) -> None:
    """Another dropout than the checkpoint's; raises InputError where it is no share."""
    if not 0 <= share < 1:
        raise InputError(f"dropout is a share below 1, got {share}")
    trunk = model.backbone
    trunk.config = replace(trunk.config, dropout=share)
    for layer in trunk.layers:
        if isinstance(layer, Layer):
            layer.dropout = share


def product_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What matrix products run in: bfloat16 on a GPU and on CPUs that multiply it, if "auto"."""
    if config.dtype == "auto":
        fast = device.type == "cuda" or multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """As configs name it."""
    return str(dtype).removeprefix("torch.")


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


def sub_batch_tokens(config: TrainConfig, trunk: BackboneConfig, dtype: torch.dtype) -> int | None:
    """Tokens encoded at once under the run's memory budget; None: no split."""
    batch = config.batch
    if batch.sub_batch_tokens:
        return batch.sub_batch_tokens
    if not batch.memory_gb:
        return None
    each = activation_bytes(trunk, dtype, checkpointing=batch.checkpointing)
    return max(1, int(batch.memory_gb * 1e9 / each))
