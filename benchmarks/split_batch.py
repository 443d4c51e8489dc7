"""Split batches: are the gradients those of a plain pass, is memory flat, what does it cost?

    python benchmarks/split_batch.py

A random model (4 layers of 384, vocabulary 30,000), dropout 0.1, every query with one passage of 64
tokens. Three questions, each answered in processes of their own:

- gradients: for every head and all together, split and plain with the same dropout, in float32.
  The error of a tensor is the norm of the difference over max(its norm, 1e-3 of the global norm).
- memory: peak resident memory of a step, less what the process had before it (weights, gradients
  and texts) and less the representations and their gradients, from batch 32 to 1,024.
- time: split against plain at equal batch, medians, sub-batches of 4,096 tokens.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resident import Peak, resident
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.model import BackboneConfig, M3Model
from tercet.scores import lexical, maxsim
from tercet.train.batches import frame
from tercet.train.config import LossConfig
from tercet.train.gradcache import Representations, Side, backward, encode
from tercet.train.losses import Columns, unified

VOCABULARY, TOKENS = 30_000, 64
PIECE = 1024  # tokens of a sub-batch: a batch of 32 has several
LARGER = 4096  # of one where time counts: products of few rows are slower on two threads


class Ids:
    """The special ids of XLM-RoBERTa."""

    cls_id, eos_id = 0, 2


def make_model(dropout: float) -> M3Model:
    torch.manual_seed(0)
    config = BackboneConfig(
        vocabulary=VOCABULARY, hidden=384, layers=4, heads=6, feed_forward=1536, positions=514,
        dropout=dropout,
    )  # fmt: skip
    model = M3Model(config, [0, 1, 2, 3], multi=64)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05 if "backbone" in name else 0.2)
    model.backbone.adds_rows = True  # as `tercet train` sets it
    return model.train()


def make_sides(batch: int, most: int | None) -> list[Side]:
    draw = np.random.default_rng(0)
    sides = []
    for size in (16, TOKENS):
        some = [
            draw.integers(4, VOCABULARY, size=int(n)).astype(np.int32)
            for n in draw.integers(size // 2, size - 1, size=batch)
        ]
        sides.append(Side(frame(some, Ids(), size), most=most))
    return sides


def loss_of(heads: tuple[Head, ...], batch: int) -> Any:
    own = torch.eye(batch, dtype=torch.bool)
    columns = Columns(torch.arange(batch), torch.ones_like(own), own, None, batch)

    def loss(q: Representations, p: Representations) -> Tensor:
        scores: dict[Head, list[Tensor]] = {}
        if q.dense is not None and p.dense is not None:
            scores["dense"] = [q.dense @ p.dense.T]
        if q.weights is not None and p.weights is not None:
            sides = [(s.weights, s.ids, s.owners, len(s)) for s in (q, p)]
            scores["sparse"] = [lexical(*sides[0], *sides[1])]  # type: ignore[arg-type]
        if q.multi is not None and p.multi is not None:
            scores["multi"] = [maxsim(q.multi, q.multi_owners, len(q), p.multi, p.starts, p.counts)]
        return unified(scores, columns, LossConfig(temperature=0.05), distil=True)[0]

    return loss


def plain(model: M3Model, sides: list[Side], heads: tuple[Head, ...], loss: Any) -> None:
    """The same sub-batches with all their graphs at once."""
    encoded = []
    for side in sides:
        parts = [encode(model, micro, heads) for micro in side.micro_batches]
        whole = {head: torch.cat([part[head] for part in parts]) for head in heads}
        encoded.append(side.representations(whole))
    loss(*encoded).backward()


def gradients(batch: int) -> dict[str, float]:
    """Worst error over tensors, for each head and all."""
    out = {}
    for heads in (("dense",), ("sparse",), ("multi",), HEADS):
        found = []
        runs: list[Callable[..., Any]] = [plain, backward]
        for run in runs:
            model = make_model(0.1)
            sides = make_sides(batch, PIECE)
            torch.manual_seed(1)
            run(model, sides, heads, loss_of(heads, batch))
            found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        theirs, ours = found
        whole = float(torch.stack([g.norm() for g in theirs.values()]).norm())
        out[" + ".join(heads)] = max(
            float((ours[n] - g).norm()) / max(float(g.norm()), 1e-3 * whole)
            for n, g in theirs.items()
        )
    return out


def memory(batch: int) -> dict[str, float]:
    """MB of one split step above what was there before, and of its representations."""
    model = make_model(0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    small = make_sides(8, PIECE)  # first calls make workspaces
    backward(model, small, HEADS, loss_of(HEADS, 8))
    sides, loss = make_sides(batch, PIECE), loss_of(HEADS, batch)
    gc.collect()
    before, peak = resident(), Peak()
    peak.start()
    backward(model, sides, HEADS, loss)
    most = peak.stop()
    kept = sum(4 * (384 * s.size + s.tokens + 64 * int(s.counts.sum())) for s in sides)
    above = most - before
    return {
        "batch": batch,
        "above_mb": above / 1e6,
        "representations_mb": 2 * kept / 1e6,
        "rest_mb": (above - 2 * kept) / 1e6,
    }


def seconds(batch: int, rounds: int) -> dict[str, float]:
    """Medians of a plain step in one piece and of a split one, taking turns."""
    model, loss = make_model(0.1), loss_of(HEADS, batch)
    runs: dict[str, list[float]] = {"plain": [], "split": []}
    for turn in range(rounds + 1):
        for name, most in (("plain", None), ("split", LARGER)):
            sides = make_sides(batch, most)
            started = time.perf_counter()
            backward(model, sides, HEADS, loss)
            if turn:
                runs[name].append(time.perf_counter() - started)
    out = {name: statistics.median(times) for name, times in runs.items()}
    ratios = [s / p for s, p in zip(runs["split"], runs["plain"], strict=True)]
    return {"batch": batch, **out, "ratio": statistics.median(ratios)}


def worker(name: str, batch: int, rounds: int) -> Any:
    """The answer of a process of its own."""
    command = [sys.executable, __file__, "--worker", name, "--batch", str(batch)]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        check=True,
        capture_output=True,
        text=True,
        # freed memory goes back at once: what is resident is what is in use
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--worker", choices=["gradients", "memory", "seconds"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.worker:
        answers: dict[str, Callable[[], Any]] = {
            "gradients": lambda: gradients(options.batch),
            "memory": lambda: memory(options.batch),
            "seconds": lambda: seconds(options.batch, options.rounds),
        }
        print(json.dumps(answers[options.worker]()))
        return
    report = {
        "gradient_error": worker("gradients", 96, 0),
        "memory": [worker("memory", batch, 0) for batch in (32, 64, 128, 256, 512, 1024)],
        "time": [worker("seconds", batch, options.rounds) for batch in (128, 256)],
    }
    print(f"worst gradient error: {report['gradient_error']}")
    print(f"{'batch':>6}{'step MB':>10}{'representations':>17}{'rest MB':>9}")
    for row in report["memory"]:
        print(
            f"{row['batch']:>6}{row['above_mb']:>10.0f}{row['representations_mb']:>17.1f}"
            f"{row['rest_mb']:>9.0f}"
        )
    for row in report["time"]:
        print(
            f"batch {row['batch']}: plain {row['plain']:.2f} s, split {row['split']:.2f} s,"
            f" ratio {row['ratio']:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
