"""The stages of the paper as named functions that return a whole config.

A variant changes fields of one (`tercet train unified --set batch.rows=64`). The same recipes lie
in recipes/*.toml at the top of the repository; a test keeps them equal. Paths are for the user to
set. Source: method.md, "Training" and "Efficient batching" (M3 paper, section 3, table 8
and appendix; arXiv 2402.03216 v4).
"""

from collections.abc import Callable

from tercet.errors import InputError
from tercet.train.config import (
    LENGTHS,
    BatchConfig,
    DataConfig,
    NegativesConfig,
    OptimiserConfig,
    RetroConfig,
    RunConfig,
    TrainConfig,
)

# Rows of a batch over all devices for each of LENGTHS (table 8); 3000-5000 is one range there.
CONTRASTIVE_ROWS = (67_200, 54_720, 37_248, 27_648, 21_504, 17_280, 15_072, 12_288, 9_984)
UNIFIED_ROWS = (1_152, 768, 480, 432, 336, 336, 288, 240, 192)


def retromae() -> TrainConfig:
    """Stage 1: RetroMAE on raw text, which also learns the new positions."""
    return TrainConfig(
        stage="retromae",
        steps=20_000,
        data=DataConfig(shuffle_segments=0.0),
        # 32 GPUs, 32 texts each, 16 batches accumulated
        batch=BatchConfig(rows=1_024, accumulate=16, memory_gb=16, checkpointing=True),
        optimiser=OptimiserConfig(lr=7e-5, warmup=0.1),  # warm-up: ours, the paper names none
        retromae=RetroConfig(),
    )


def contrastive() -> TrainConfig:
    """Stage 2: the dense head on unlabelled pairs, in-batch negatives alone."""
    return TrainConfig(
        stage="contrastive",
        steps=25_000,
        data=DataConfig(negatives=0),
        batch=BatchConfig(
            lengths=LENGTHS, sizes=CONTRASTIVE_ROWS, memory_gb=16, checkpointing=True
        ),
        optimiser=OptimiserConfig(lr=5e-5, warmup=0.1, weight_decay=0.01),
    )


def unified() -> TrainConfig:
    """Stage 3: all heads, warm-up, then self-distillation; 7 hard negatives."""
    return TrainConfig(
        stage="unified",
        epochs=1.0,
        data=DataConfig(negatives=7, shuffle_segments=0.002),
        batch=BatchConfig(lengths=LENGTHS, sizes=UNIFIED_ROWS, memory_gb=16, checkpointing=True),
        optimiser=OptimiserConfig(lr=1e-5, warmup=0.1),
        negatives=NegativesConfig(),
        run=RunConfig(evaluate_every=500),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "retromae": retromae,
    "contrastive": contrastive,
    "unified": unified,
}


def recipe(name: str) -> TrainConfig:
    """The config of a named recipe; raises InputError for another name."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose from {', '.join(RECIPES)}")
    return RECIPES[name]()
