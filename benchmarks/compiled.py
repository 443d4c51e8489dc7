"""Does `compile = true` pay: one training step of the trunk, compiled against as it is.

    python benchmarks/compiled.py

A random trunk (4 layers of 384, vocabulary 30,000), dropout 0.1, packed batches of 64 texts of 8-64
tokens, another set of lengths at every step, as in training; forward and backward. Steps of both
sides alternate; medians, after the steps that compiled. The compilation is timed apart.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from split_batch import VOCABULARY, Ids, make_model

from tercet.model import Inputs
from tercet.train.batches import frame
from tercet.train.trainer import autocast

TEXTS = 64


def batch(step: int) -> Inputs:
    draw = np.random.default_rng(step)
    some = [
        draw.integers(4, VOCABULARY, size=int(n)).astype(np.int32)
        for n in draw.integers(8, 63, size=TEXTS)
    ]
    return Inputs.of(frame(some, Ids(), 64), torch.device("cpu"))


def step(model: torch.nn.Module, inputs: Inputs, dtype: torch.dtype) -> float:
    began = time.perf_counter()
    with autocast(dtype, torch.device("cpu"))():
        out = model(inputs, ("dense",))
        loss = out.dense.float().square().mean()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    report = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain, compiled = make_model(0.1), make_model(0.1)
        compiled.backbone.compile(dynamic=True)
        first = [step(compiled, batch(number), dtype) for number in range(3)]
        step(plain, batch(0), dtype)
        seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
        for number in range(3, 3 + options.steps):
            for name, model in (("plain", plain), ("compiled", compiled)):
                seconds[name].append(step(model, batch(number), dtype))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        name = str(dtype).removeprefix("torch.")
        report[name] = {"compiling": first[0], **medians}
        ratio = medians["compiled"] / medians["plain"]
        print(
            f"{name}: plain {1000 * medians['plain']:.0f} ms, compiled "
            f"{1000 * medians['compiled']:.0f} ms ({ratio:.2f} times), the first step of it "
            f"{first[0]:.0f} s",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
