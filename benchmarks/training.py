"""Training: split batches, compiling, padding, the largest batch, killed runs, memory of rows.

    python benchmarks/training.py split
    python benchmarks/training.py compiled
    python benchmarks/training.py padding --rows split/train/qa.jsonl.gz split/train/docs.jsonl.gz
    python benchmarks/training.py largest
    python benchmarks/training.py killed --kills 10
    python benchmarks/training.py rows
    python benchmarks/training.py full-size --model .work/reference-full --rows rows.jsonl

split and compiled take a random model of 4 layers of 384, vocabulary 30,000, with dropout 0.1.
"""

import argparse
import gc
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import PEERS, Peak, answer_of, resident, save, train_command
from torch import Tensor

from tercet.checkpoint import read_checkpoint
from tercet.config import HEADS, LENGTHS, Head
from tercet.layout import BUNDLED, BackboneConfig
from tercet.model import Inputs, M3Model
from tercet.rows import read_rows, write_rows
from tercet.tokenizer import TokenBatch
from tercet.train import gradcache
from tercet.train.batches import Batch, Collator, frame, make_sampler
from tercet.train.config import LossConfig, TeacherConfig, from_tree
from tercet.train.dataset import Examples, read_negatives
from tercet.train.distributed import World
from tercet.train.gradcache import MicroBatch, Representations, Side, backward
from tercet.train.losses import Columns, batch_loss, unified
from tercet.train.plan import make_plan, prepare
from tercet.train.scores import lexical, maxsim
from tercet.train.trainer import Trainer, autocast

VOCABULARY, TOKENS = 30_000, 64
CPU = torch.device("cpu")


def make_model() -> M3Model:
    torch.manual_seed(0)
    config = BackboneConfig(
        vocabulary=VOCABULARY, hidden=384, layers=4, heads=6, feed_forward=1536, positions=514,
        dropout=0.1,
    )  # fmt: skip
    model = M3Model(config, [0, 1, 2, 3], multi=64)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05 if "backbone" in name else 0.2)
    model.backbone.adds_rows = True  # as `tercet train` sets it
    return model.train()


def random_texts(draw: np.random.Generator, count: int, least: int, most: int) -> TokenBatch:
    """Texts of random ids, from least to below most of them without the special ones."""
    return frame(
        [
            draw.integers(4, VOCABULARY, size=int(size)).astype(np.int32)
            for size in draw.integers(least, most, size=count)
        ],
        0,
        2,
        most + 1,
    )


# Are the gradients of split batches those of a plain pass, is memory flat, what does it cost? Every
# question is answered in processes of their own, every query has one passage of 64 tokens.
# gradients: split and plain with the same dropout, in float32; the error of a tensor is the norm of
# the difference over max(its norm, 1e-3 of the global norm). memory: the peak of a step, less what
# the process had before it (weights, gradients, texts) and less the representations and their
# gradients. seconds: split against plain at equal batch, medians.

PIECE = 1024  # tokens of a sub-batch: a batch of 32 has several
LARGER = 4096  # of one where time counts: products of few rows are slower on two threads


def make_sides(batch: int, most: int | None) -> list[Side]:
    draw = np.random.default_rng(0)
    sizes = (16, TOKENS)
    return [Side(random_texts(draw, batch, size // 2, size - 1), most=most) for size in sizes]


def loss_of(batch: int) -> Any:
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
        parts = [gradcache.encode(model, micro, heads) for micro in side.micro_batches]
        whole = {head: torch.cat([part[head] for part in parts]) for head in heads}
        encoded.append(side.representations(whole))
    loss(*encoded).backward()


def gradients(batch: int, rounds: int) -> dict[str, float]:
    """Worst error over tensors, for each head and all."""
    out = {}
    for heads in (("dense",), ("sparse",), ("multi",), HEADS):
        by_run = []
        runs: list[Callable[..., Any]] = [plain, backward]
        for run in runs:
            model, sides = make_model(), make_sides(batch, PIECE)
            torch.manual_seed(1)
            run(model, sides, heads, loss_of(batch))
            by_run.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        theirs, ours = by_run
        whole = float(torch.stack([g.norm() for g in theirs.values()]).norm())
        out[" + ".join(heads)] = max(
            float((ours[n] - g).norm()) / max(float(g.norm()), 1e-3 * whole)
            for n, g in theirs.items()
        )
    return out


def memory(batch: int, rounds: int) -> dict[str, float]:
    """MB of one split step above what was there before, and of its representations."""
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    backward(model, make_sides(8, PIECE), HEADS, loss_of(8))  # first calls make workspaces
    sides, loss = make_sides(batch, PIECE), loss_of(batch)
    gc.collect()
    before, peak = resident(), Peak()
    peak.start()
    backward(model, sides, HEADS, loss)
    above = peak.stop() - before
    kept = 2 * sum(4 * (384 * len(s.counts) + len(s.ids) + 64 * len(s.multi_owners)) for s in sides)
    sizes = {"above_mb": above, "representations_mb": kept, "rest_mb": above - kept}
    return {"batch": batch, **{name: size / 1e6 for name, size in sizes.items()}}


def seconds(batch: int, rounds: int) -> dict[str, float]:
    """Medians of a plain step in one piece and of a split one, taking turns."""
    model, loss = make_model(), loss_of(batch)
    runs: dict[str, list[float]] = {"plain": [], "split": []}
    for turn in range(rounds + 1):
        for name, most in (("plain", None), ("split", LARGER)):
            sides = make_sides(batch, most)
            started = time.perf_counter()
            backward(model, sides, HEADS, loss)
            if turn:
                runs[name].append(time.perf_counter() - started)
    ratios = [s / p for s, p in zip(runs["split"], runs["plain"], strict=True)]
    medians = {name: statistics.median(times) for name, times in runs.items()}
    return {"batch": batch, **medians, "ratio": statistics.median(ratios)}


QUESTIONS = {"gradients": gradients, "memory": memory, "seconds": seconds}


def split(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.worker:
        print(json.dumps(QUESTIONS[options.worker](options.batch, options.rounds)))
        return None

    def worker(name: str, batch: int) -> Any:
        return answer_of(
            __file__, "split", "--worker", name, "--batch", batch, "--rounds", options.rounds,
            # freed memory goes back at once: what is resident is what is in use
            MALLOC_MMAP_THRESHOLD_="65536", MALLOC_ARENA_MAX="1",
        )  # fmt: skip

    report = {"gradient_error": worker("gradients", 96)}
    print(f"worst gradient error: {report['gradient_error']}")
    report["memory"] = [worker("memory", batch) for batch in (32, 64, 128, 256, 512, 1024)]
    print(f"{'batch':>6}{'step MB':>10}{'representations':>17}{'rest MB':>9}")
    for row in report["memory"]:
        sizes = f"{row['above_mb']:>10.0f}{row['representations_mb']:>17.1f}"
        print(f"{row['batch']:>6}{sizes}{row['rest_mb']:>9.0f}")
    report["time"] = [worker("seconds", batch) for batch in (128, 256)]
    for row in report["time"]:
        times = f"plain {row['plain']:.2f} s, split {row['split']:.2f} s"
        print(f"batch {row['batch']}: {times}, ratio {row['ratio']:.2f}")
    return report


# Does `compile = true` pay? Packed batches of 64 texts of 8-64 tokens, another set of lengths at
# every step, as in training; forward and backward. Steps of both sides alternate; medians, after
# the steps that compiled, which are timed apart.


def compiled(options: argparse.Namespace) -> dict[str, Any]:
    def step(model: M3Model, number: int, dtype: torch.dtype) -> float:
        inputs = Inputs.of(random_texts(np.random.default_rng(number), 64, 8, 63), CPU)
        began = time.perf_counter()
        with autocast(dtype, CPU)():
            loss = model(inputs, ("dense",)).dense.float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    report = {}
    for dtype in (torch.float32, torch.bfloat16):
        models = {"plain": make_model(), "compiled": make_model()}
        models["compiled"].backbone.compile(dynamic=True)
        compiling, *_ = [step(models["compiled"], number, dtype) for number in range(3)]
        step(models["plain"], 0, dtype)
        times: dict[str, list[float]] = {name: [] for name in models}
        for number in range(3, 3 + options.steps):
            for name, model in models.items():
                times[name].append(step(model, number, dtype))
        medians = {name: statistics.median(values) for name, values in times.items()}
        name = str(dtype).removeprefix("torch.")
        report[name] = {"compiling": compiling, **medians}
        print(
            f"{name}: plain {1000 * medians['plain']:.0f} ms, compiled "
            f"{1000 * medians['compiled']:.0f} ms ({medians['compiled'] / medians['plain']:.2f} "
            f"times), the first step of it {compiling:.0f} s",
            flush=True,
        )
    return report


# Length groups against batches at random: padding that a padded batch would have, and tokens/s.
# Every --every'th row of the files, the bundled model, a token budget for each batch, steps of the
# unified stage. "groups" has the paper's lengths with finer ones below 500; "random" has one group
# for all, so a batch is any rows. Both encode without padding, in sub-batches of --piece tokens, so
# tokens/s shows what is left: attention and waiting.

GROUPS = {"groups": [32, 64, 128, 256, *LENGTHS], "random": [8192]}


def padding(options: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tercet-padding-") as scratch:
        part = Path(scratch) / "rows.jsonl.gz"
        rows = (row for path in options.rows for row in read_rows(path))
        count = write_rows(part, (row for n, row in enumerate(rows) if n % options.every == 0))
        batch = {"tokens": options.tokens, "sub_batch_tokens": options.piece}
        tree = {
            "steps": 100,
            "dropout": 0.0,
            "data": {"sources": [{"files": [str(part)]}], "cache": scratch, "negatives": 0},
        }
        for name, lengths in GROUPS.items():
            ready = prepare(
                from_tree({**tree, "batch": {**batch, "lengths": lengths}}), World.start("cpu")
            )
            plan = make_plan(ready)
            ready.checkpoint.model.train()
            trainer = Trainer(ready, Path(scratch))
            rates, tokens, padded = [], 0, 0
            for number in range(options.steps + 1):
                began = time.perf_counter()
                torch.manual_seed(number)
                done = trainer.gradients(number, distil=True)
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
    return report


# The largest batch that fits in 20 GB, with split batches and without (the paper's table 10): a
# full-size model (24 layers of 1,024, vocabulary 250,002, multi-vectors of 1,024) with gradients
# and AdamW's two moments in float32, products in bfloat16; every query (16 tokens) has one passage
# of 1,024, 4,096 or 8,192 tokens; all heads, unified loss. Every trial is one backward pass in a
# process whose memory is limited; the largest that passes is found by bisection, to about 10%.
# Without: one pass over the whole batch, with its graph. With: sub-batches of one text and gradient
# checkpointing. To try batches that would take hours to encode, only the first whole sub-batch of
# either pass is encoded for real; the others get random representations of the same size, since
# they would use the same memory again. The loss and the gradients of all are computed.

QUERY, HIDDEN = 16, 1024
WEIGHTS = 9.1  # GB: weights, gradients and two moments of 568 million parameters in float32
real_encode = gradcache.encode


class FirstOnly:
    """Stands in for `encode`: the longest texts are real once in either pass, the rest random."""

    def __init__(self, longest: int) -> None:
        self.longest, self.done = longest, {True: False, False: False}

    def __call__(
        self, model: M3Model, micro: MicroBatch, heads: Sequence[Head], context: Any = None
    ) -> dict[Head, Tensor]:
        graph = torch.is_grad_enabled()
        tokens, texts = micro.inputs.layout.tokens, len(micro.texts)
        if tokens >= self.longest and not self.done[graph]:
            self.done[graph] = True
            return real_encode(model, micro, heads, context)
        multi = F.normalize(torch.randn(tokens - texts, HIDDEN), dim=-1)
        dense = F.normalize(torch.randn(texts, HIDDEN), dim=-1)
        made = zip(HEADS, (dense, torch.rand(tokens), multi), strict=True)
        return {head: tensor.requires_grad_(graph) for head, tensor in made}


def long_texts(count: int, tokens: int) -> TokenBatch:
    ids = np.random.default_rng(tokens).integers(4, 250_000, size=count * tokens).astype(np.int32)
    offsets = np.arange(count + 1) * tokens
    ids[offsets[:-1]], ids[offsets[1:] - 1] = 0, 2
    return TokenBatch(ids, offsets, offsets[:-1].copy(), np.zeros(count, dtype=np.bool_))


def trial(batch: int, length: int, is_split: bool, limit: float) -> None:
    """One backward pass, or MemoryError; prints the peak in GB."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 1e9), int(limit * 1e9)))
    with torch.device("meta"):
        model = M3Model(BackboneConfig(dropout=0.0), [0, 1, 2, 3], multi=HIDDEN)
    model.to_empty(device="cpu")
    moments = []
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.full_like(parameter, 1e-8)
        moments += [torch.full_like(parameter, 1e-8), torch.full_like(parameter, 1e-8)]
    model.get_buffer("weightless").zero_()
    model.backbone.adds_rows = True
    model.backbone.checkpointing = is_split
    model.train()
    if is_split:
        gradcache.encode = FirstOnly(length)
    numbers = np.arange(batch)
    collated = Batch(
        queries=long_texts(batch, QUERY),
        passages=long_texts(batch, length),
        positives=numbers,
        owners=numbers,
        keys=numbers,
        related=np.stack((numbers, numbers), axis=1),
        teacher=np.full(batch, np.nan, dtype=np.float32),
        query_texts=numbers,
        passage_texts=numbers,
    )
    world = World(CPU)

    def loss(queries: Representations, passages: Representations) -> Tensor:
        parts = (queries, passages, collated, LossConfig(), TeacherConfig(), world)
        return batch_loss(*parts, total=batch, distil=True)[0]

    most = length if is_split else None
    sides = [Side(side, most=most) for side in (collated.queries, collated.passages)]
    backward(model, sides, HEADS, loss, context=autocast(torch.bfloat16, CPU))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def fits(batch: int, length: int, is_split: bool, limit: float) -> float | None:
    """The peak GB of a trial in a process of its own; None where memory did not suffice."""
    command = [sys.executable, __file__, "largest", "--limit", str(limit), "--trial"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, str(batch), str(length), str(int(is_split))], capture_output=True, text=True
    )
    if done.returncode and "memory" not in done.stderr.lower():
        sys.exit(done.stderr or f"the trial ended with {done.returncode}")
    peak = None if done.returncode else float(done.stdout.split()[-1])
    told = "does not fit" if peak is None else f"fits, {peak:.1f} GB"
    how = "split" if is_split else "plain"
    print(f"{length} x {batch}, {how}: {told}, {time.monotonic() - began:.0f} s", flush=True)
    return peak


def largest_of(length: int, is_split: bool, limit: float, guess: int) -> int:
    """By bisection between a size that fits and one that does not.

    It starts at a guess; what fits says by its peak, of which the weights are a known part, which
    size to try next.
    """
    low, high, size = 0, 0, guess
    while not high or high - low > max(1, 0.1 * low):
        peak = fits(size, length, is_split, limit)
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


def largest(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.trial:
        batch, length, is_split = options.trial
        trial(batch, length, bool(is_split), options.limit)
        return None
    report = {}
    for length in options.lengths:
        sizes = {
            "plain": largest_of(length, False, options.limit, max(1, 12_000 // length)),
            "split": largest_of(length, True, options.limit, max(2, 920_000 // length)),
        }
        report[str(length)] = sizes
        print(f"{length}: {sizes['plain']} plain, {sizes['split']} split", flush=True)
    return report


# A run that is killed (SIGKILL) at random moments and resumed until it is done: does it end with
# the weights of one that was left alone? The bundled model on made-up rows.

WORDS = "river mountain city water light history music science people world year house".split()


def killed(options: argparse.Namespace) -> dict[str, Any]:
    rng, draw = random.Random(options.seed), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="tercet-kill-") as scratch:
        folder = Path(scratch)
        whole, cut = folder / "whole", folder / "cut"
        texts = [draw.choice(WORDS, size=8).tolist() for _ in range(400)]
        rows = folder / "rows.jsonl"
        write_rows(
            rows,
            (
                {"query": " ".join([*words[:4], str(number)]), "pos": [" ".join(words)]}
                for number, words in enumerate(texts)
            ),
        )
        settings = {
            "steps": options.steps, "batch.rows": 16, "run.save_every": 3, "run.report_every": 1,
            "data.cache": folder / "cache", "data.passage_tokens": 64, "dropout": 0.1,
            "batch.lengths": [64], "batch.memory_gb": 0.01, "threads": 1, "device": "cpu",
        }  # fmt: skip
        began = time.monotonic()
        subprocess.run(train_command("unified", {"rows": rows, "to": whole}, settings), check=True)
        alone, kills = time.monotonic() - began, 0
        while not (cut / "DONE").exists():
            begun = any((cut / "checkpoints").glob("step-*"))
            given = {"rows": rows, "to": cut} | ({"resume": True} if begun else {})
            process = subprocess.Popen(
                train_command("unified", given, settings), stderr=subprocess.DEVNULL
            )
            if kills < options.kills:
                before = reports(cut) if begun else 0  # a new run starts a new file
                target = before + rng.randint(2, max(3, options.steps // 6))
                while process.poll() is None and reports(cut) < target:
                    time.sleep(0.02)
                time.sleep(rng.random() * 0.3)
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
            process.wait()
        ours, theirs = weights(cut), weights(whole)
        equal = ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    report = {"kills": kills, "steps": options.steps, "equal": equal, "seconds_alone": alone}
    print(json.dumps(report))
    if not equal or kills < options.kills:
        sys.exit(1)
    return report


def weights(run: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(max((run / "checkpoints").glob("step-*")) / "model.safetensors")


def reports(run: Path) -> int:
    """Reports so far, over all its lives."""
    path = run / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


# A full-size checkpoint in the reference layout (see make_reference.py): `tercet train` takes three
# unified steps with split batches and gradient checkpointing and writes the model; FlagEmbedding
# loads it and encodes texts, which must be what Tercet gives.

TEXTS = ["What is a glacier?", "Ein Gletscher ist eine Masse aus Eis.", "氷河とは何ですか。"]


def full_size(options: argparse.Namespace) -> dict[str, Any]:
    from parity import Numbers, ours
    from peers import run_peer

    from tercet.encoder import Encoder

    with tempfile.TemporaryDirectory(prefix="tercet-full-", dir=options.scratch) as scratch:
        run = Path(scratch) / "run"
        settings = {
            "steps": 3, "batch.rows": options.batch, "batch.lengths": [128],
            "batch.sub_batch_tokens": 512, "batch.memory_gb": 0.0, "optimiser.lr": 1e-7,
            "data.passage_tokens": 128, "data.query_tokens": 64, "data.negatives": 1,
            "run.report_every": 1, "run.save_every": 1000, "run.evaluate_every": 0, "run.keep": 1,
            "data.cache": f"{scratch}/cache",
        }  # fmt: skip
        given = {"model": options.model, "rows": options.rows, "to": run, "json": True}
        began = time.monotonic()
        done = subprocess.run(
            train_command("unified", given, settings), check=True, capture_output=True, text=True
        )
        spent = time.monotonic() - began
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        encoder = Encoder.load(run / "model", dtype="float32")
        job = {"texts": TEXTS, "max_length": 512, "colbert_dim": encoder.dims["multi"]}
        file = run_peer(options.peers, "FlagEmbedding", run / "model", job, Path(scratch))
        theirs = Numbers.load(file, encoder.dims["vocabulary"])
        here = ours(encoder, TEXTS, 512)
    report = {
        "steps": [{k: line[k] for k in ("loss", "tokens_per_s", "memory_mb")} for line in lines],
        "seconds_in_all": round(spent, 1),
        "dense_difference": float(np.abs(theirs.dense - here.dense).max()),
        "sparse_weights": here.sparse.nnz,
        "sparse_difference": float(abs(here.sparse - theirs.sparse).max()),
    }
    print(json.dumps(report, indent=1))
    return report


# What rows take of memory: pairs of short different texts, with hard negatives or without, are made
# ready and drawn from in a process of their own, which then takes new negatives, two a row. Memory
# is what is the process's own (anonymous): what is mapped from files goes when there is no room.
# Bytes a pair are those of more rows less those of fewer.


def own_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def rows_trial(count: int, negatives: int, folder: Path) -> None:
    """Bytes at the peak of every part of a run, less those before."""
    rows, cache = folder / "rows.jsonl", folder / "cache"
    draw = np.random.default_rng(0)
    with open(rows, "w", encoding="utf-8") as file:
        for row in range(count):
            words = [f"{number:x}" for number in draw.integers(1 << 20, size=2 + negatives)]
            texts = [f"{place} {word} {row}" for place, word in enumerate(words)]
            file.write(json.dumps({"query": texts[0], "pos": texts[1:2], "neg": texts[2:]}) + "\n")
    answer = folder / "negatives.jsonl"
    with open(rows, encoding="utf-8") as file, open(answer, "w", encoding="utf-8") as out:
        before = ["", ""]
        for number, line in enumerate(file):
            if number == 0:
                before = json.loads(line)["pos"] * 2
            out.write(json.dumps({"row": number, "neg": before}) + "\n")
            before = [before[1], *json.loads(line)["pos"]]
    tree = {
        "steps": 10,
        "data": {"sources": [{"files": [str(rows)]}], "cache": str(cache)},
        "batch": {"rows": 64},
    }
    config = from_tree(tree)
    tokenizer = read_checkpoint(BUNDLED).tokenizer
    report: dict[str, int] = {}

    def measured(name: str, work: Callable[[], Any]) -> Any:
        gc.collect()
        held, peak = own_memory(), Peak(own_memory, 0.01)
        peak.start()
        out = work()
        report[name] = peak.stop() - held
        return out

    def load() -> Examples:
        return Examples.load(config.data.sources, tokenizer, config.data, cache=cache)

    def train_on(examples: Examples) -> Collator:
        sampler = make_sampler(config, examples, scratch=folder, block=1 << 14)
        collator = Collator(examples, tokenizer, config.data, seed=0)
        for number in range(50):
            collator.batch(sampler.batch(number)[1], number)
        return collator

    measured("making", load)
    examples = measured("opening", load)
    measured("drawing", lambda: train_on(examples))
    measured("new negatives", lambda: read_negatives(examples, answer))
    measured("negatives again", lambda: read_negatives(examples, answer))
    print(json.dumps(report))


def rows_memory(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.trial:
        with tempfile.TemporaryDirectory(prefix="tercet-rows-") as scratch:
            count, negatives = options.trial
            rows_trial(count, negatives, Path(scratch))
        return None
    report: dict[str, Any] = {}
    for negatives in (0, 1):
        fewer, more = (
            answer_of(
                __file__,
                "rows",
                "--trial",
                count,
                negatives,
                MALLOC_MMAP_THRESHOLD_="65536",
                MALLOC_ARENA_MAX="1",
            )
            for count in (options.count // 3, options.count)
        )
        apart = options.count - options.count // 3
        report[f"{2 + negatives} texts a row"] = {
            name: round((more[name] - fewer[name]) / apart, 1) for name in more
        }
        print(f"{2 + negatives} texts a row, bytes a row: {report[f'{2 + negatives} texts a row']}")
    return report


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = options.add_subparsers(dest="part", required=True)
    part = parts.add_parser("split", help="gradients, memory and time of split batches")
    part.add_argument("--worker", choices=QUESTIONS)
    part.add_argument("--batch", type=int, default=64)
    part.add_argument("--rounds", type=int, default=5)
    part.set_defaults(do=split)
    part = parts.add_parser("compiled", help="a compiled trunk against a plain one")
    part.add_argument("--steps", type=int, default=30)
    part.set_defaults(do=compiled)
    part = parts.add_parser("padding", help="what length groups save")
    part.add_argument("--rows", type=Path, nargs="+", required=True)
    part.add_argument("--every", type=int, default=30)
    part.add_argument("--tokens", type=int, default=32_768)
    part.add_argument("--piece", type=int, default=16_384)
    part.add_argument("--steps", type=int, default=8)
    part.set_defaults(do=padding)
    part = parts.add_parser("largest", help="the largest batch that fits")
    part.add_argument("--trial", type=int, nargs=3, metavar=("BATCH", "LENGTH", "SPLIT"))
    part.add_argument("--limit", type=float, default=20.0, help="GB")
    part.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    part.set_defaults(do=largest)
    part = parts.add_parser("killed", help="a run killed again and again")
    part.add_argument("--kills", type=int, default=10)
    part.add_argument("--steps", type=int, default=40)
    part.add_argument("--seed", type=int, default=0)
    part.set_defaults(do=killed)
    part = parts.add_parser(
        "full-size", help="a full-size checkpoint trained, and loaded elsewhere"
    )
    part.add_argument("--model", type=Path, required=True)
    part.add_argument("--rows", type=Path, required=True)
    part.add_argument("--peers", type=Path, default=PEERS)
    part.add_argument("--scratch", type=Path, help="where 10 GB fit (default: temporary)")
    part.add_argument("--batch", type=int, default=8)
    part.set_defaults(do=full_size)
    part = parts.add_parser("rows", help="what rows take of memory")
    part.add_argument("--trial", type=int, nargs=2, metavar=("ROWS", "NEGATIVES"))
    part.add_argument("--count", type=int, default=300_000)
    part.set_defaults(do=rows_memory)
    for part in parts.choices.values():
        part.add_argument("--json", type=Path, help="write the figures here")
    given = options.parse_args()
    report = given.do(given)
    if report is not None:
        save(given.json, report)


if __name__ == "__main__":
    main()
