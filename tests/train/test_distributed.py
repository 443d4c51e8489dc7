"""Several processes equal one with the whole batch: loss and gradients, all three heads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.test_trainer import write_rows

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("devices.py")


def run(size: int, tree: dict[str, Any], target: Path) -> list[dict[str, Any]]:
    """The results of every process."""
    torchrun = [
        "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-port", "0",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
    ]  # fmt: skip
    command = [sys.executable, *(torchrun if size > 1 else []), str(SCRIPT), json.dumps(tree)]
    done = subprocess.run(
        [*command, str(target)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(target / f"{size}-{rank}.pt") for rank in range(size)]


@pytest.fixture
def tree(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    rows = write_rows(tmp_path / "rows.jsonl")
    scored = tmp_path / "scored.jsonl"
    with open(scored, "w", encoding="utf-8") as file:  # with outside scores, for some batches
        for number, line in enumerate(rows.read_text().splitlines()):
            row = json.loads(line)
            file.write(
                json.dumps({**row, "pos_scores": [0.9], "neg_scores": [0.1, number / 40]}) + "\n"
            )
    parallel = tmp_path / "parallel.jsonl"
    with open(parallel, "w", encoding="utf-8") as file:  # batches without the sparse head
        for line in rows.read_text().splitlines()[:14]:
            file.write(json.dumps({**json.loads(line), "neg": [], "lang": "de-en"}) + "\n")
    return {
        "stage": "unified",
        "steps": 9,
        "model": str(tiny_checkpoint),
        "dtype": "float32",
        "dropout": 0.0,
        "data": {
            "sources": [{"files": [str(path)]} for path in (rows, scored, parallel)],
            "cache": str(tmp_path / "cache"),
            "negatives": 2,
            "parallel_heads": ["dense", "multi"],
        },
        "batch": {"lengths": [32], "rows": 7, "sub_batch_tokens": 40},
        "loss": {"flops": 0.01, "dense_sizes": [8], "multi_sizes": [4], "temperature": 0.2},
    }


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_devices_equal_one_process(size: int, tree: dict[str, Any], tmp_path: Path) -> None:
    (alone,) = run(1, tree, tmp_path)
    several = run(size, tree, tmp_path)
    whole = float(torch.stack([g.norm() for g in alone["gradients"].values()]).norm())
    assert whole > 1e-3
    names = set().union(*alone["facts"])
    assert {"loss_sparse", "loss_multi_distil", "flops"} <= names
    assert any("loss_sparse" not in facts for facts in alone["facts"])
    for one in several:
        for ours, theirs in zip(one["facts"], alone["facts"], strict=True):
            for name, value in theirs.items():
                if name.startswith(("loss", "flops")):
                    assert ours[name] == pytest.approx(value, rel=1e-5)
        assert one["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            error = float((one["gradients"][name] - gradient).norm())
            assert error / max(float(gradient.norm()), 1e-3 * whole) < 1e-5, name
