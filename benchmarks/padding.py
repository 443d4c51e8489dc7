"""Length groups against batches at random: padding that a padded batch would have, and tokens/s.

    python benchmarks/padding.py --rows split/train/qa_all.jsonl.gz split/train/long_docs.jsonl.gz

Every --every'th row of the files (short questions and whole documents), the bundled model, a token
budget for each batch, steps of the unified stage. "groups" has the paper's lengths with finer ones
below 500; "random" has one group for all, so a batch is any rows. Both encode without padding, in
sub-batches of --piece tokens, so tokens/s shows what is left: attention and waiting.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tercet.rows import read_rows, write_rows
from tercet.train.config import LENGTHS, from_tree
from tercet.train.distributed import World
from tercet.train.plan import make_plan, prepare
from tercet.train.trainer import Step

GROUPS = {"groups": [32, 64, 128, 256, *LENGTHS], "random": [8192]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--every", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--piece", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tercet-padding-") as scratch:
        some = Path(scratch) / "rows.jsonl.gz"
        rows = (row for path in options.rows for row in read_rows(path))
        count = write_rows(some, (row for at, row in enumerate(rows) if at % options.every == 0))
        for name, lengths in GROUPS.items():
            tree = {
                "steps": 100,
                "dropout": 0.0,
                "data": {"sources": [{"files": [str(some)]}], "cache": scratch, "negatives": 0},
                "batch": {
                    "lengths": lengths,
                    "tokens": options.tokens,
                    "sub_batch_tokens": options.piece,
                },
            }
            ready = prepare(from_tree(tree), World.start("cpu"))
            plan = make_plan(ready)
            ready.checkpoint.model.train()
            step = Step(ready)
            rates, tokens, padded = [], 0, 0
            for number in range(options.steps + 1):
                began = time.perf_counter()
                torch.manual_seed(number)
                done = step.run(number, distil=True)
                if number:
                    rates.append(done.tokens / (time.perf_counter() - began))
                    tokens, padded = tokens + done.tokens, padded + done.padded
            report[name] = {
                "padding_of_positives": plan.padding,
                "padding_seen": round(1 - tokens / padded, 4),
                "tokens_per_s": round(statistics.median(rates)),
                "groups": len(plan.groups),
            }
    report["rows"] = count
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
