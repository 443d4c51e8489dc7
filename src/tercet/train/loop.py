"""The loop of every stage: steps, schedule, reports, evaluation, checkpoints, stop and resume.

Knows nothing of losses, and of data only what a step needs; evaluation and the refresh of negatives
come in as callables.
"""

import json
import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from tercet.errors import TercetError
from tercet.train import state
from tercet.train.config import OptimiserConfig, TrainConfig
from tercet.train.distributed import World
from tercet.train.steps import BatchReport, Step

Log = Callable[[dict[str, Any]], None]
# Below these a head is taken for collapsed: all passages score alike, or hardly a token weighs.
SPREAD, TERMS = 1e-3, 0.5


SIGNALS = (signal.SIGTERM, signal.SIGINT)  # that save and stop


class Stopped(TercetError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved a checkpoint."""

    number: int = signal.SIGTERM  # the signal that asked


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW: matrices decay, norms and biases do not, word embeddings have a rate of their own."""
    words: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("word_embeddings.weight"):
            words.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else others).append(parameter)
    rate = config.embedding_lr / config.lr if config.embedding_lr >= 0 else 1.0
    groups = [
        {"params": matrices, "share": 1.0, "weight_decay": config.weight_decay},
        {"params": others, "share": 1.0, "weight_decay": 0.0},
        {"params": words, "share": rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate in a step counted from 0."""
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1.0, steps - warm)
    if config.schedule == "linear":
        return 1 - done
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all random numbers of a step on a device."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Loop:
    """Runs steps of a stage from `start` (resumed) to the end."""

    config: TrainConfig
    steps: int
    folder: Path
    world: World
    model: nn.Module  # everything trained: the M3 model, and RetroMAE's decoder
    optimiser: torch.optim.Optimizer
    step: Step
    facts: Mapping[str, Any]  # kept in checkpoints, compared on resume
    evaluate: Callable[[], dict[str, Any]] | None = None  # {"score": ..., ...}
    keep_best: Callable[[], None] | None = None
    refresh: Callable[[int], str] | None = None  # step -> hash of the negatives from now on
    log: Log = print
    show: Callable[[int, int, int], None] = lambda done, total, tokens: None
    start: int = 0
    best: float = -math.inf
    negatives: str = ""
    stopping: int = 0  # the signal that asked to stop
    seen: dict[str, list[float]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)  # of the step that runs

    def run(self) -> None:
        """All steps from start on; raises Stopped, or TercetError where a loss is not finite.

        A second Ctrl-C does not wait for the end of a step.
        """
        config, batch = self.config, self.config.batch
        distil_from = config.loss.start(self.steps) if config.stage == "unified" else self.steps
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        if _main_thread():
            for number, handler in previous.items():
                if handler is not None and handler != signal.SIG_IGN:
                    signal.signal(number, self._stop)
        began, tokens, padded, done_tokens = time.monotonic(), 0, 0, 0
        warned: set[str] = set()
        try:
            for step in range(self.start, self.steps):
                every = config.negatives.every
                if self.refresh is not None and every and step and step % every == 0:
                    try:
                        self.negatives = self.refresh(step)
                    except Stopped:
                        self.save(step)
                        raise
                    except Exception:  # whatever the miner raised goes on to the caller
                        self._store(step)  # the other devices may not get as far
                        raise
                torch.manual_seed(step_seed(config.seed, step, self.world.rank))
                self.model.train()
                self.optimiser.zero_grad(set_to_none=True)
                self.rows = []
                for turn in range(batch.accumulate):
                    report = self.step.run(
                        step * batch.accumulate + turn, distil=step >= distil_from
                    )
                    self.rows += report.rows.tolist()
                    self._check(step, report)
                    tokens, padded = tokens + report.tokens, padded + report.padded
                    done_tokens += report.tokens
                    for name, value in report.facts.items():
                        self.seen.setdefault(name, []).append(value)
                norm = self._update(step)
                self.seen.setdefault("norm", []).append(norm)
                self.show(step + 1, self.steps, done_tokens * self.world.size)
                last = step + 1 == self.steps
                if (step + 1) % config.run.report_every == 0 or last:
                    line = self._report(step, tokens, padded, time.monotonic() - began)
                    began, tokens, padded = time.monotonic(), 0, 0
                    self._warn(step, line, warned)
                if self._due(step, config.run.evaluate_every) or last:
                    self._evaluate(step)
                    began = time.monotonic()
                stop = self._stopping()
                if self._due(step, config.run.save_every) or last or stop:
                    self.save(step + 1)
                    began = time.monotonic()
                if stop and not last:
                    raise Stopped(
                        f"stopped at step {step + 1} of {self.steps}: go on with --resume"
                    )
        except Stopped as stop:
            stop.number = self.stopping or stop.number
            raise
        finally:
            if _main_thread():
                for number, handler in previous.items():
                    if handler is not None:
                        signal.signal(number, handler)

    def save(self, step: int) -> None:
        """Writes a checkpoint after so many steps; devices wait for each other."""
        self._store(step)
        self.world.wait()

    def _store(self, step: int) -> None:
        if self.world.first:
            best = self.best if math.isfinite(self.best) else None
            facts = {"run": self.facts, "best": best, "negatives": self.negatives}
            folder = self.folder / "checkpoints"
            state.save(folder, step, self.model, self.optimiser, facts, keep=self.config.run.keep)

    def _update(self, step: int) -> float:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.world.sum_gradients(parameters)
        clip = self.config.optimiser.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        if not torch.isfinite(norm):
            raise TercetError(
                f"step {step + 1}: the gradient is not finite ({norm.item()}) on a batch of"
                f" {self._named()}; {self._advice()}"
            )
        share = rate(self.config.optimiser, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.optimiser.lr * group["share"] * share
        self.optimiser.step()
        return float(norm)

    def _check(self, step: int, report: BatchReport) -> None:
        bad = [name for name, value in report.facts.items() if not math.isfinite(value)]
        if bad:
            raise TercetError(
                f"step {step + 1}: {bad[0]} is {report.facts[bad[0]]} on a batch of"
                f" {self._named()}; {self._advice()}"
            )

    def _named(self) -> str:
        """The rows of this step on this device, by file and line."""
        named = ", ".join(self.step.where(row) for row in self.rows[:8])
        return f"{named}, ..." if len(self.rows) > 8 else named

    def _advice(self) -> str:
        found = state.checkpoints(self.folder / "checkpoints")
        last = f"the last good checkpoint is {found[-1].name}" if found else "nothing is saved yet"
        return f"{last}: look at these rows, or lower optimiser.lr"

    def _report(self, step: int, tokens: int, padded: int, seconds: float) -> dict[str, Any]:
        line: dict[str, Any] = {"step": step + 1, "of": self.steps}
        line |= {name: round(float(np.mean(values)), 5) for name, values in self.seen.items()}
        self.seen.clear()
        line["lr"] = self.optimiser.param_groups[0]["lr"]
        line["tokens_per_s"] = round(tokens * self.world.size / max(seconds, 1e-9))
        line["padding"] = round(1 - tokens / max(padded, 1), 4)
        line["memory_mb"] = memory_mb(self.world.device)
        self._write(line)
        return line

    def _write(self, line: dict[str, Any]) -> None:
        if self.world.first:
            self.log(line)

    def _warn(self, step: int, line: dict[str, Any], warned: set[str]) -> None:
        """Says once when a head collapses."""
        for name, value in line.items():
            kind, _, head = name.partition("_")
            low = {"spread": SPREAD, "terms": TERMS}.get(kind)
            if low is not None and value < low and name not in warned:
                warned.add(name)
                what = (
                    f"the {head} head gives nearly the same score to every passage"
                    if kind == "spread"
                    else f"a {head} has {value} sparse weights above 0"
                )
                self._write({"step": step + 1, "warning": f"{what}: it may have collapsed"})

    def _evaluate(self, step: int) -> None:
        if self.evaluate is None:
            return
        found: dict[str, Any] = {}
        if self.world.first:
            self.model.eval()
            found = self.evaluate()
            self._write({"step": step + 1, "dev": found})
            if found["score"] > self.best and self.keep_best is not None:
                self.keep_best()
        found = self.world.share(found)
        self.best = max(self.best, float(found["score"]))

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and (step + 1) % every == 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def _stopping(self) -> bool:
        if self.world.size == 1:
            return bool(self.stopping)
        flag = torch.tensor(float(self.stopping > 0), device=self.world.device)
        return bool(self.world.sum(flag) > 0)


def resume(loop: Loop) -> None:
    """Brings a loop to its newest checkpoint; raises TercetError where it is of another run."""
    found = state.checkpoints(loop.folder / "checkpoints")
    if not found:
        raise TercetError(f"{loop.folder} has no checkpoint to resume from: run without --resume")
    newest = found[-1]
    facts = state.read_facts(newest)
    for name, wanted in loop.facts.items():
        was = facts["run"].get(name)
        if json.loads(json.dumps(wanted)) != was:
            raise TercetError(
                f"{newest}: {name} was {_short(was)}, now it is {_short(wanted)}: resume with what"
                " it was, or start a new run in another folder"
            )
    facts = state.load(newest, loop.model, loop.optimiser)
    loop.start = int(facts["step"])
    loop.best = -math.inf if facts["best"] is None else float(facts["best"])
    loop.negatives = str(facts["negatives"])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def memory_mb(device: torch.device) -> int:
    """The most memory that was in use so far: of a GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
