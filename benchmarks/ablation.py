"""Does a part of the method help? The same data, seeds and steps with it and without it.

    python benchmarks/ablation.py distillation --rows ROWS --dev DEV --work DIR
    python benchmarks/ablation.py retromae --rows ROWS --raw RAW --dev DEV --work DIR

- distillation: unified training with self-distillation from the first quarter on, and without, for
  every seed; nDCG@10 of every head on the dev files.
- retromae: the stage retromae on raw text, then contrastive training of that trunk and of the start
  as it was; their dense nDCG@10. Also the losses of the first stage, at its start and its end.

All runs start from --model or, without it, from one random trunk: 4 layers of 256, with the bundled
model's tokenizer pruned to the texts. Runs go on where a killed one stopped; a finished one is not
run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, save

from tercet.checkpoint import write_checkpoint
from tercet.layout import BUNDLED, BackboneConfig, read_tokenizer
from tercet.model import M3Model
from tercet.rows import tagged_texts, text_files
from tercet.train.config import TrainConfig, from_tree
from tercet.train.prune_vocab import prune_tokenizer, score_ids
from tercet.train.trainer import train


def random_start(options: argparse.Namespace) -> Path:
    """A random trunk with the three heads in the folder of the runs; made once."""
    folder: Path = options.work / "start"
    if folder.exists():
        return folder
    whole, _ = read_tokenizer(BUNDLED)
    counts = score_ids(whole, tagged_texts(text_files([*options.rows, *options.raw])))
    tokenizer, _ = prune_tokenizer(whole, counts, options.vocabulary)
    sizes = {"hidden": 256, "layers": 4, "heads": 4, "feed_forward": 512, "positions": 514}
    trunk = BackboneConfig(vocabulary=tokenizer.vocabulary, pad_id=tokenizer.pad_id, **sizes)
    model = M3Model(trunk, tokenizer.weightless_ids.tolist(), multi=64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as XLM-RoBERTa starts: normal, norms as they are, biases and pad 0
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" not in name:
                parameter.normal_(0.0, 0.02, generator=generator)  # its initializer_range
        for table in (model.backbone.word_embeddings, model.backbone.position_embeddings):
            table.weight[trunk.pad_id] = 0.0
    write_checkpoint(folder, model, tokenizer)
    return folder


def base(options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """What all runs share: short texts, batches of --batch rows, rates for a small trunk."""
    tree: dict[str, Any] = {
        "stage": "unified",
        "model": str(options.model),
        "steps": options.steps,
        "dropout": 0.0,
        "data": {
            "sources": [{"files": [str(path)]} for path in options.rows],
            "dev": [str(path) for path in options.dev],
            "cache": str(options.work / "cache"),
            "query_tokens": 48,
            "passage_tokens": 112,
            "negatives": 0,
            "temperature": 0.6,
        },
        "batch": {"lengths": [24, 48, 80, 112], "rows": options.batch},
        "optimiser": {"lr": 1e-3, "warmup": 0.05, "betas": [0.9, 0.98]},
        "run": {"report_every": 10, "save_every": 50, "dev_queries": 500},
    }
    return {**tree, **changes}


def run(config: TrainConfig) -> list[dict[str, Any]]:
    """Trains, or takes up, or only reads; returns the reports."""
    folder = Path(config.to)
    if not (folder / "DONE").exists():
        begun = any((folder / "checkpoints").glob("step-*"))
        train(config, resumed=begun, log=lambda line: print(json.dumps(line), flush=True))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def dev_of(lines: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The last evaluation of a run, before any weights are tuned: set by head."""
    dev = [line["dev"] for line in lines if "dev" in line and "step" in line][-1]
    return {name: heads for name, heads in dev.items() if isinstance(heads, dict)}


def compare(
    options: argparse.Namespace, variants: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Trains both variants with every seed and prints nDCG@10 by set and head of both."""
    report: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for seed in options.seeds:
        for name, changes in variants.items():
            to = str(options.work / f"{options.what}-{name}-{seed}")
            lines = run(from_tree(base(options, seed=seed, to=to, **changes)))
            losses = [line["loss"] for line in lines if "loss" in line]
            report[name].append({"dev": dev_of(lines), "loss": [losses[0], losses[-1]]})
    without, with_it = variants
    print(f"\n{'set':<22}{'head':<8}{without:>10}{with_it:>10}{'gain':>8}  gains by seed")
    for dataset, heads in report[without][0]["dev"].items():
        for head in heads:
            old, new = ([made["dev"][dataset][head] for made in report[n]] for n in variants)
            gains = [a - b for a, b in zip(new, old, strict=True)]
            means = f"{np.mean(old):>10.1f}{np.mean(new):>10.1f}{np.mean(gains):>+8.2f}"
            print(f"{dataset:<22}{head:<8}{means}  {', '.join(f'{gain:+.1f}' for gain in gains)}")
    return report


def distillation(options: argparse.Namespace) -> dict[str, Any]:
    """With and without, for every seed."""
    return compare(options, {n: {"loss": {"distillation": n == "on"}} for n in ("off", "on")})


def retromae(options: argparse.Namespace) -> dict[str, Any]:
    """The first stage's losses, and what contrastive training makes of it and of the start."""
    tree = base(
        options,
        stage="retromae",
        to=str(options.work / "retromae"),
        steps=options.raw_steps,
        batch={"lengths": [64, 128, 256], "tokens": options.raw_tokens},
    )
    tree["data"] = {
        **tree["data"],
        "sources": [{"files": [str(path)]} for path in options.raw],
        "dev": [],
        "passage_tokens": 256,
        "shuffle_segments": 0.0,
    }
    lines = [line for line in run(from_tree(tree)) if "loss_encoder" in line]
    losses = {part: [lines[n][f"loss_{part}"] for n in (0, -1)] for part in ("encoder", "decoder")}
    print(f"losses, first and last report: {losses}")
    trained = str(options.work / "retromae" / "model")
    starts = {"fresh": str(options.model), "retromae": trained}
    contrastive = {n: {"stage": "contrastive", "model": start} for n, start in starts.items()}
    return losses | compare(options, contrastive)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("what", choices=["distillation", "retromae"])
    given.add_argument("--model", type=Path, help="start of all runs; else a random one")
    given.add_argument("--vocabulary", type=int, default=16_384, help="ids of a random one")
    given.add_argument("--rows", type=Path, nargs="+", required=True, help="training rows")
    given.add_argument("--raw", type=Path, nargs="+", default=[], help="raw text")
    given.add_argument("--dev", type=Path, nargs="+", required=True, help="held-out rows")
    given.add_argument("--work", type=Path, required=True, help="folder of the runs")
    given.add_argument("--steps", type=int, default=120)
    given.add_argument("--batch", type=int, default=128)
    given.add_argument("--raw-steps", type=int, default=300)
    given.add_argument("--raw-tokens", type=int, default=4096)
    given.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = given.parse_args()
    options.model = options.model or random_start(options)
    report = {"distillation": distillation, "retromae": retromae}[options.what](options)
    save(options.json, report)


if __name__ == "__main__":
    main()
