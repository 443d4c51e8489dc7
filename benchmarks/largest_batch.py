"""The largest batch that fits in 20 GB, with split batches and without (the paper's table 10).

    python benchmarks/largest_batch.py

A full-size model (24 layers of 1,024, vocabulary 250,002, multi-vectors of 1,024) with gradients
and AdamW's two moments in float32, products in bfloat16; every query (16 tokens) has one passage of
1,024, 4,096 or 8,192 tokens; all three heads, unified loss. Every trial is one backward pass in a
process whose memory is limited; the largest that passes is found by bisection, to about 10%.

Without: one pass over the whole batch, with its graph. With: sub-batches of one text and gradient
checkpointing. To try batches that would take hours to encode, only the first whole sub-batch of
either pass is encoded for real; the others get random representations of the same size, since they
would use the same memory again. The loss and the gradients of all representations are computed.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tercet.config import HEADS, Head
from tercet.model import BackboneConfig, M3Model
from tercet.tokenizer import TokenBatch
from tercet.train import gradcache
from tercet.train.batches import Batch
from tercet.train.config import LossConfig
from tercet.train.distributed import World
from tercet.train.gradcache import MicroBatch, Side
from tercet.train.losses import Objective
from tercet.train.trainer import autocast

QUERY, HIDDEN = 16, 1024
WEIGHTS = 9.1  # GB: weights, gradients and two moments of 568 million parameters in float32
real_encode = gradcache.encode


class FirstOnly:
    """Stands in for `encode`: the longest texts are real once in either pass, the rest random."""

    def __init__(self, longest: int) -> None:
        self.longest, self.done = longest, {True: False, False: False}

    def __call__(
        self, model: M3Model, micro: MicroBatch, heads: Sequence[Head], context: Any = None
    ) -> dict[Head, torch.Tensor]:
        graph = torch.is_grad_enabled()
        tokens, texts = micro.inputs.layout.tokens, len(micro.texts)
        if tokens >= self.longest and not self.done[graph]:
            self.done[graph] = True
            return real_encode(model, micro, heads, context)
        multi = F.normalize(torch.randn(tokens - texts, HIDDEN), dim=-1)
        dense = F.normalize(torch.randn(texts, HIDDEN), dim=-1)
        weights = torch.rand(tokens)
        made = zip(HEADS, (dense, weights, multi), strict=True)
        return {head: tensor.requires_grad_(graph) for head, tensor in made}


def texts(count: int, tokens: int) -> TokenBatch:
    draw = np.random.default_rng(tokens)
    ids = draw.integers(4, 250_000, size=count * tokens).astype(np.int32)
    offsets = np.arange(count + 1) * tokens
    ids[offsets[:-1]], ids[offsets[1:] - 1] = 0, 2
    return TokenBatch(ids, offsets, offsets[:-1].copy(), np.zeros(count, dtype=np.bool_))


def trial(batch: int, length: int, split: bool, limit: float) -> None:
    """One backward pass, or MemoryError."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))
    with torch.device("meta"):
        model = M3Model(BackboneConfig(dropout=0.0), [0, 1, 2, 3], multi=HIDDEN)
    model.to_empty(device="cpu")
    kept = []
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.full_like(parameter, 1e-8)
        kept.append((torch.full_like(parameter, 1e-8), torch.full_like(parameter, 1e-8)))
    model.get_buffer("weightless").zero_()
    model.backbone.adds_rows = True
    model.backbone.checkpointing = split
    model.train()
    if split:
        gradcache.encode = FirstOnly(length)
    numbers = np.arange(batch)
    collated = Batch(
        queries=texts(batch, QUERY),
        passages=texts(batch, length),
        positives=numbers,
        owners=numbers,
        query_marks=numbers[:, None],
        passage_marks=numbers[:, None],
        teacher=np.full(batch, np.nan, dtype=np.float32),
        query_texts=numbers,
        passage_texts=numbers,
    )
    world = World(torch.device("cpu"))
    objective = Objective(LossConfig(), world, HEADS, collated, total=batch, distil=True)
    most = length if split else None
    sides = [Side(side, most=most) for side in (collated.queries, collated.passages)]
    context = autocast(torch.bfloat16, world.device)
    gradcache.backward(model, sides, HEADS, objective, context=context)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def fits(batch: int, length: int, split: bool, limit: float) -> float | None:
    """The peak GB of a trial in a process of its own; None where memory did not suffice."""
    command = [sys.executable, __file__, "--trial", str(batch), str(length), str(int(split))]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--limit", str(limit)], capture_output=True, text=True, check=False
    )
    if done.returncode and "memory" not in done.stderr.lower():
        sys.exit(done.stderr or f"the trial ended with {done.returncode}")
    peak = None if done.returncode else float(done.stdout.split()[-1])
    word = "does not fit" if peak is None else f"fits, {peak:.1f} GB"
    seconds = time.monotonic() - began
    print(
        f"{length} x {batch}, {'split' if split else 'plain'}: {word}, {seconds:.0f} s", flush=True
    )
    return peak


def largest(length: int, split: bool, limit: float, guess: int) -> int:
    """By bisection between a size that fits and one that does not.

    It starts at a guess; what fits says by its peak, of which the weights are a known part, which
    size to try next.
    """
    low, high, size = 0, 0, guess
    while not high or high - low > max(1, 0.1 * low):
        peak = fits(size, length, split, limit)
        if peak is None:
            high = size
            size = max(low + 1, int(0.8 * size)) if not low else (low + high) // 2
        else:
            low = size
            room = max(1.05, (limit - WEIGHTS) / max(0.1, peak - WEIGHTS))
            size = max(low + 1, int(1.1 * low), int(0.98 * low * room))
            if high:
                size = min(size, (low + high) // 2)
        if high == 1:
            return 0
    return low


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trial", type=int, nargs=3, metavar=("BATCH", "LENGTH", "SPLIT"))
    parser.add_argument("--limit", type=float, default=20.0, help="GB")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.trial:
        batch, length, split = options.trial
        trial(batch, length, bool(split), options.limit)
        return
    report: dict[str, dict[str, int]] = {}
    for length in options.lengths:
        plain = largest(length, False, options.limit, max(1, 12_000 // length))
        split = largest(length, True, options.limit, max(2, 920_000 // length))
        report[str(length)] = {"plain": plain, "split": split}
        print(f"{length}: {plain} plain, {split} split", flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
