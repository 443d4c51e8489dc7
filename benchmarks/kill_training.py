"""Training killed with SIGKILL at random moments: does it end as an uninterrupted run?

    python benchmarks/kill_training.py --kills 10

Trains a small random model on made-up rows in a process of its own, kills it, resumes it, and so on
until it is done; then compares every weight with those of a run that was left alone.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tercet.encoder import Encoder

WORDS = "river mountain city water light history music science people world year house".split()


def write_rows(path: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            words = draw.choice(WORDS, size=8).tolist()
            row = {"query": " ".join([*words[:4], str(number)]), "pos": [" ".join(words)]}
            file.write(json.dumps(row) + "\n")


def command(rows: Path, to: Path, steps: int, *, resume: bool) -> list[str]:
    """`tercet train`, a checkpoint every third step."""
    settings = [
        f"steps={steps}", "batch.rows=16", "run.save_every=3", "run.report_every=1",
        f"data.cache={rows.parent / 'cache'}", "data.passage_tokens=64", "dropout=0.1",
        "batch.lengths=[64]", "batch.memory_gb=0.01", "threads=1", "device=cpu",
    ]  # fmt: skip
    out = [sys.executable, "-m", "tercet", "train", "unified", "--rows", str(rows), "--to", str(to)]
    for setting in settings:
        out += ["--set", setting]
    return [*out, "--resume"] if resume else out


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = max((run / "checkpoints").glob("step-*"))
    return load_file(newest / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    Encoder.load()  # the bundled model is the start: fail here if it is absent
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="tercet-kill-") as scratch:
        folder = Path(scratch)
        rows = folder / "rows.jsonl"
        write_rows(rows, 400)
        whole, cut = folder / "whole", folder / "cut"
        began = time.monotonic()
        subprocess.run(command(rows, whole, options.steps, resume=False), check=True)
        alone = time.monotonic() - began
        kills = 0
        while not (cut / "DONE").exists():
            begun = any((cut / "checkpoints").glob("step-*"))
            process = subprocess.Popen(
                command(rows, cut, options.steps, resume=begun), stderr=subprocess.DEVNULL
            )
            if kills < options.kills:
                lines, before = 0, seen(cut) if begun else 0  # a new run starts a new file
                target = rng.randint(2, max(3, options.steps // 6))
                while process.poll() is None and lines < target:
                    time.sleep(0.02)
                    lines = seen(cut) - before
                time.sleep(rng.random() * 0.3)
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            process.wait()
        ours, theirs = weights(cut), weights(whole)
        equal = ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    report: dict[str, Any] = {
        "kills": kills, "steps": options.steps, "equal": equal, "seconds_alone": round(alone, 1)
    }  # fmt: skip
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report) + "\n")
    sys.exit(0 if equal and kills == options.kills else 1)


def seen(run: Path) -> int:
    """Reports so far, over all its lives."""
    path = run / "metrics.jsonl"
    return sum(1 for _ in open(path, encoding="utf-8")) if path.exists() else 0


if __name__ == "__main__":
    main()
