"""A full-size checkpoint in the reference layout: trained for three steps, loaded elsewhere.

    python benchmarks/make_reference.py .work/reference-full --size full --tokenizer DIR
    python benchmarks/full_size.py --model .work/reference-full --rows ROWS

Random weights of 24 layers of 1,024. `tercet train` takes three unified steps with split batches
and gradient checkpointing and writes the model; FlagEmbedding loads it and encodes texts, which
must be what Tercet gives. Reports seconds a step and the peak of memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
TEXTS = ["What is a glacier?", "Ein Gletscher ist eine Masse aus Eis.", "氷河とは何ですか。"]

THEIRS = """
import json, sys
import numpy as np
from FlagEmbedding import BGEM3FlagModel
model = BGEM3FlagModel(sys.argv[1], use_fp16=False, devices=["cpu"])
out = model.encode(json.loads(sys.argv[2]), batch_size=1, return_dense=True, return_sparse=True)
weights = [{int(k): float(v) for k, v in row.items()} for row in out["lexical_weights"]]
print("RESULT" + json.dumps({"dense": out["dense_vecs"].tolist(), "sparse": weights}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--peers", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--scratch", type=Path, help="where 10 GB fit (default: temporary)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tercet-full-", dir=options.scratch) as scratch:
        run = Path(scratch) / "run"
        settings = [
            "steps=3", f"batch.rows={options.batch}",
            "batch.lengths=[128]", "batch.sub_batch_tokens=512", "batch.memory_gb=0.0",
            "optimiser.lr=1e-7", "data.passage_tokens=128", "data.query_tokens=64",
            "data.negatives=1",
            "run.report_every=1", "run.save_every=1000", "run.evaluate_every=0", "run.keep=1",
            f"data.cache={scratch}/cache",
        ]  # fmt: skip
        command = [sys.executable, "-m", "tercet", "train", "unified", "--json"]
        command += ["--model", str(options.model), "--rows", str(options.rows), "--to", str(run)]
        for setting in settings:
            command += ["--set", setting]
        began = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        theirs = encode_there(options.peers, run / "model")
        ours = encode_here(run / "model")
    report = {
        "steps": [{k: line[k] for k in ("loss", "tokens_per_s", "memory_mb")} for line in lines],
        "seconds_in_all": round(seconds, 1),
        "dense_difference": float(np.abs(np.array(theirs["dense"]) - ours["dense"]).max()),
        "sparse_weights": sum(len(row) for row in ours["sparse"]),
        "sparse_difference": max(
            (
                abs(mine.get(token, 0.0) - yours.get(token, 0.0))
                for mine, yours in zip(ours["sparse"], theirs["sparse"], strict=True)
                for token in {*mine, *yours}
            ),
            default=0.0,
        ),
    }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def encode_there(python: str, folder: Path) -> Any:
    done = subprocess.run(
        [python, "-c", THEIRS, str(folder), json.dumps(TEXTS)],
        check=True,
        capture_output=True,
        text=True,
    )
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    found = json.loads(line.removeprefix("RESULT"))
    found["sparse"] = [{int(k): v for k, v in row.items()} for row in found["sparse"]]
    return found


def encode_here(folder: Path) -> Any:
    from tercet.encoder import Encoder

    out = Encoder.load(folder, dtype="float32").encode(TEXTS, heads=("dense", "sparse"))
    assert out.sparse is not None
    rows = [out.sparse[[row]].tocoo() for row in range(len(TEXTS))]
    found = [dict(zip(row.coords[1].tolist(), row.data.tolist(), strict=True)) for row in rows]
    return {"dense": out.dense, "sparse": found}


if __name__ == "__main__":
    main()
