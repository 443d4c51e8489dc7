"""The two stages of a small model from nothing: a bag of tokens, then a trunk on top of it.

Knows nothing of files, indexes or evaluation suites: pairs in, a model out, and every so often a
line of what it sees (through `log`). The whole loop with resume, devices and split batches is not
here yet.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.errors import TercetError
from tercet.model import Inputs, M3Model
from tercet.scores import maxsim
from tercet.tokens import TokenBatch, Tokenizer
from tercet.train.bag import Bag, BagLoss, bag_loss
from tercet.train.losses import LossConfig, competitors, info_nce, lexical, unified
from tercet.train.pairs import Pairs, Rows, Sampler
from tercet.train.teacher import TeacherVectors

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class StageConfig:
    """How one stage runs; ends after `minutes` or `steps`, whichever comes first."""

    minutes: float
    steps: int
    batch: int  # rows a step
    lr: float
    warmup: float = 0.05  # share of the run
    query_tokens: int = 48
    passage_tokens: int = 96
    temperature: float = 0.6  # of the sampling over sources: rows ** temperature
    seed: int = 0
    report_every: int = 50


@dataclass(frozen=True)
class UnifiedConfig(StageConfig):
    """The second stage: all heads, InfoNCE, then self-distillation."""

    distil_from: float = 0.25  # share of the run before self-distillation starts
    embedding_lr: float = 0.0  # of the word embeddings: 0 keeps what the bag knows
    multi_columns: int = 128  # rows whose passages compete in one lexical and MaxSim matrix
    teacher: float = 1.0  # weight of the pull of the dense head to the outside teacher
    loss: LossConfig = field(default_factory=LossConfig)


class Teacher:
    """Where the outside teacher puts the texts of a Pairs, projected to the model's size."""

    def __init__(self, pairs: Pairs, vectors: TeacherVectors, size: int) -> None:
        """Projects onto the `size` strongest directions and normalises again."""
        raw = torch.from_numpy(vectors.vectors.astype(np.float32))
        sample = raw[torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[:50_000]]
        _, directions = torch.linalg.eigh(sample.T @ sample)
        basis = directions[:, -size:]
        self.vectors = torch.nn.functional.normalize(raw @ basis, dim=-1).half()
        at = vectors.rows(pairs.keys)
        english = at[pairs.passage]
        # a translation should land on its English side; a question on its own vector
        self.query = np.where(pairs.parallel, english, at[pairs.query])
        self.passage = english

    def target(self, vectors: Tensor, wanted: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors, rows known to the teacher, their teacher vectors)."""
        rows = np.flatnonzero(wanted >= 0)
        known = self.vectors[torch.from_numpy(wanted[rows])].float()
        return vectors, torch.from_numpy(rows), known

    def targets(self, queries: Tensor, passages: Tensor, rows: Rows) -> list[Any]:
        """Both sides' targets of a batch of rows; a side that the teacher never saw has none."""
        sides = ((queries, self.query[rows]), (passages, self.passage[rows]))
        return [self.target(v, wanted) for v, wanted in sides if (wanted >= 0).sum() > 1]


class Schedule:
    """Linear warm-up, then linear decay, over whichever of steps and minutes runs out first."""

    def __init__(self, config: StageConfig) -> None:
        self.config, self.start = config, time.monotonic()

    def progress(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        minutes = (time.monotonic() - self.start) / 60
        return max(step / self.config.steps, minutes / self.config.minutes)

    def rate(self, progress: float) -> float:
        """The share of the peak learning rate."""
        warm = min(1.0, (progress + 1e-3) / self.config.warmup)
        return warm * max(0.0, 1.0 - progress)


def padded(pairs: Pairs, places: Rows, tokenizer: Tokenizer, most: int) -> Tensor:
    """(B, T) ids of these texts, framed and padded."""
    batch = pairs.batch(places, tokenizer, most)
    ids = np.full((len(batch), int(batch.lengths.max())), tokenizer.pad_id, dtype=np.int64)
    ids[np.arange(ids.shape[1]) < batch.lengths[:, None]] = batch.ids
    return torch.from_numpy(ids)


def group_mask(pairs: Pairs, rows: Rows) -> Tensor:
    """(B, B) competitors of a batch of rows."""
    groups = torch.from_numpy(pairs.group[rows])
    return competitors(groups, groups, torch.arange(len(rows)))


def check_finite(loss: Tensor, step: int, pairs: Pairs, rows: Rows) -> None:
    """Stops with the batch's source where a loss is not finite."""
    if not torch.isfinite(loss):
        source = pairs.sources[int(pairs.source[rows[0]])]
        raise TercetError(f"step {step}: the loss is {loss.item()} on rows of {source}: {rows[:8]}")


def train_bag(
    bag: Bag,
    pairs: Pairs,
    tokenizer: Tokenizer,
    config: StageConfig,
    *,
    teacher: Teacher | None = None,
    loss_config: BagLoss | None = None,
    log: Log = print,
) -> int:
    """Trains a bag of tokens in place; returns the steps taken."""
    sampler = Sampler(pairs, config.batch, seed=config.seed, temperature=config.temperature)
    optimiser = torch.optim.Adam(bag.parameters(), lr=config.lr, betas=(0.9, 0.98), fused=True)
    schedule, weights = Schedule(config), loss_config or BagLoss()
    step, seen = 0, 0.0
    while (progress := schedule.progress(step)) < 1.0:
        rows = sampler.rows(step)
        queries = bag(padded(pairs, pairs.query[rows], tokenizer, config.query_tokens))
        passages = bag(padded(pairs, pairs.passage[rows], tokenizer, config.passage_tokens))
        targets = teacher.targets(queries, passages, rows) if teacher else []
        loss = bag_loss(queries, passages, group_mask(pairs, rows), targets, weights)
        check_finite(loss, step, pairs, rows)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * schedule.rate(progress)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step, seen = step + 1, seen + float(loss.detach())
        if step % config.report_every == 0:
            seen /= config.report_every
            log({"stage": "bag", "step": step, "done": round(progress, 3), "loss": round(seen, 4)})
            seen = 0.0
    return step


@dataclass(frozen=True)
class RowOutputs:
    """What the heads gave for a batch of rows: count queries, then count passages, packed.

    dense (2 count, H); ids, weights, kept (N,), multi (N, M) and owners (N,), the text of each
    token; a head not asked for is None.
    """

    count: int
    dense: Tensor
    weights: Tensor | None
    multi: Tensor | None
    kept: Tensor
    ids: Tensor
    owners: Tensor

    def scores(self, block: slice) -> dict[Head, Tensor]:
        """Score matrices of the queries of rows `block` against the passages of the same rows."""
        first, last = block.start, block.stop
        size = last - first
        queries, passages = self.dense[: self.count], self.dense[self.count :]
        picked: dict[Head, Tensor] = {"dense": queries[block] @ passages[block].T}
        sides = []
        for shift in (0, self.count):
            owners = self.owners - (first + shift)
            sides.append(((owners >= 0) & (owners < size), owners))
        if self.weights is not None:
            inside = [where.nonzero().squeeze(1) for where, _ in sides]
            at = torch.cat(inside)
            owner = torch.cat([sides[0][1][inside[0]], sides[1][1][inside[1]] + size])
            vectors = lexical(self.weights[at], self.ids[at], owner, 2 * size)
            picked["sparse"] = vectors[:size] @ vectors[size:].T
        if self.multi is not None:
            both = []
            for where, owners in sides:
                at = (where & self.kept).nonzero().squeeze(1)
                both.append(pad_tokens(self.multi[at], owners[at], size))
            picked["multi"] = maxsim(*both[0], *both[1])
        return picked


def encode_rows(
    model: M3Model, queries: TokenBatch, passages: TokenBatch, heads: tuple[Head, ...]
) -> tuple[RowOutputs, int]:
    """Encodes both sides in one pass, sorted by length, and puts the order back.

    Returns the outputs and the number of tokens.
    """
    joined = TokenBatch.join([queries, passages])
    order = np.argsort(joined.lengths, kind="stable")
    inputs = Inputs.of(joined.take(order))
    outputs = model(inputs, heads)
    counts = torch.tensor(inputs.layout.lengths)
    owners = torch.repeat_interleave(torch.from_numpy(order), counts)
    back = torch.argsort(owners, stable=True)  # tokens in row order
    place = torch.from_numpy(np.argsort(order, kind="stable"))
    ordered = RowOutputs(
        count=len(queries),
        dense=outputs.dense[place],
        weights=None if outputs.weights is None else outputs.weights[back],
        multi=None if outputs.multi is None else outputs.multi[back],
        kept=outputs.kept[back],
        ids=inputs.ids[back],
        owners=owners[back],
    )
    return ordered, inputs.layout.tokens


def pad_tokens(vectors: Tensor, owners: Tensor, texts: int) -> tuple[Tensor, Tensor]:
    """Packed token vectors (N, M) of texts -> ((texts, T, M), (texts, T) bool mask)."""
    counts = torch.bincount(owners, minlength=texts)
    mask = torch.arange(int(counts.max())) < counts[:, None]
    out = vectors.new_zeros(mask.numel(), vectors.shape[1])
    out = out.index_copy(0, mask.flatten().nonzero().squeeze(1), vectors)
    return out.view(*mask.shape, -1), mask


def train_unified(
    model: M3Model,
    pairs: Pairs,
    tokenizer: Tokenizer,
    config: UnifiedConfig,
    *,
    teacher: Teacher | None = None,
    log: Log = print,
    every: Callable[[int], None] | None = None,
    autocast: bool = False,
) -> int:
    """Trains all heads in place with in-batch negatives and self-distillation; returns the steps.

    Parallel text trains dense and multi-vector alone: its two sides share no tokens. `every` is
    called with the step after each report.
    """
    sampler = Sampler(pairs, config.batch, seed=config.seed, temperature=config.temperature)
    words = model.backbone.words.weight
    words.requires_grad_(config.embedding_lr > 0)
    others = [p for p in model.parameters() if p is not words]
    decayed = [{"params": [p for p in others if p.ndim > 1], "share": 1.0, "weight_decay": 0.01}]
    plain = [{"params": [p for p in others if p.ndim <= 1], "share": 1.0, "weight_decay": 0.0}]
    table = [{"params": [words], "share": config.embedding_lr / config.lr, "weight_decay": 0.0}]
    parameters = decayed + plain + (table if config.embedding_lr > 0 else [])
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.98), fused=True)
    schedule, seen, tokens, step = Schedule(config), dict[str, list[float]](), 0, 0
    began = time.monotonic()
    model.train()
    while (progress := schedule.progress(step)) < 1.0:
        rows = sampler.rows(step)
        count = len(rows)
        parallel = bool(pairs.parallel[rows[0]])
        heads: tuple[Head, ...] = ("dense", "multi") if parallel else HEADS
        queries = pairs.batch(pairs.query[rows], tokenizer, config.query_tokens)
        passages = pairs.batch(pairs.passage[rows], tokenizer, config.passage_tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, length = encode_rows(model, queries, passages, heads)
        mask = group_mask(pairs, rows)
        distil = progress >= config.distil_from
        losses, facts = [], dict[str, float]()
        for start in range(0, count - 1, config.multi_columns):
            block = slice(start, min(count, start + config.multi_columns))
            size = block.stop - block.start
            scores = outputs.scores(block)
            part, facts = unified(
                scores, torch.arange(size), mask[block, block], config.loss, distil=distil
            )
            losses.append(part)
        whole = info_nce(
            outputs.dense[:count] @ outputs.dense[count:].T,
            torch.arange(count),
            mask,
            config.loss.temperature,
        )
        loss = torch.stack(losses).mean() + whole
        if teacher:
            for vectors, places, wanted in teacher.targets(
                outputs.dense[:count], outputs.dense[count:], rows
            ):
                loss = loss + config.teacher * (1 - (vectors[places] * wanted).sum(-1)).mean()
        check_finite(loss, step, pairs, rows)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * group["share"] * schedule.rate(progress)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, tokens = step + 1, tokens + length
        facts |= {"loss": float(loss.detach()), "whole": float(whole.detach())}
        facts |= {"norm": float(norm), **sparsity(outputs)}
        for name, value in facts.items():
            seen.setdefault(name, []).append(value)
        if step % config.report_every == 0:
            means = {name: round(float(np.mean(values)), 4) for name, values in seen.items()}
            speed = round(tokens / (time.monotonic() - began))
            log(
                {"stage": "unified", "step": step, "done": round(progress, 3)}
                | means
                | {"tokens_per_s": speed}
            )
            seen.clear()
            if every is not None:
                every(step)
                model.train()
    model.eval()
    return step


def sparsity(outputs: RowOutputs) -> dict[str, float]:
    """Mean weight and share of non-zero weights: a sparse head that collapses shows here."""
    if outputs.weights is None:
        return {}
    weights = outputs.weights.detach()
    return {
        "sparse_mean": float(weights.mean()),
        "sparse_share": float((weights > 0).float().mean()),
    }
