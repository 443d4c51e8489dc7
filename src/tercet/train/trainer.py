"""A whole run of one stage: batches, steps, schedule, evaluation, checkpoints, stop and resume.

The folder of a run holds config.json, metrics.jsonl, checkpoints/, refresh/ (negatives found while
training), best/ and model/ in the reference layout, and DONE at the end. Never sees an index: hard
negatives are found by a callable, or by another process that answers in refresh/.
"""

import json
import math
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tercet.checkpoint import TensorFiles
from tercet.config import HEADS
from tercet.errors import InputError, TercetError
from tercet.io import write_json
from tercet.layout import Settings, weight_files
from tercet.model import M3Model
from tercet.tokenizer import MASK, TokenBatch
from tercet.train.batches import Collator
from tercet.train.config import (
    ANSWER,
    CONFIG,
    DONE,
    FAILED,
    MODEL,
    READY,
    REFRESH,
    TEXT_STAGES,
    OptimiserConfig,
    TrainConfig,
    to_tree,
)
from tercet.train.dataset import Numbers, file_hash, read_negatives
from tercet.train.dev import MEASURE, DevChecks
from tercet.train.distributed import World
from tercet.train.gradcache import Representations, Side, backward
from tercet.train.losses import Facts, batch_loss, pull
from tercet.train.plan import Prepared, prepare, warnings
from tercet.train.retromae import RetroMAE, text_seeds
from tercet.train.runfolder import checkpoints, flat, load, save, tensorboard, write_model
from tercet.train.teacher import Targets, TeacherVectors

Log = Callable[[dict[str, Any]], None]
Mine = Callable[[Path], object]  # answers the request in a folder of refresh/
Show = Callable[[int, int, int], None]  # steps done, of all; tokens
SIGNALS = (signal.SIGTERM, signal.SIGINT)  # that save and stop
# Below these a head is taken for collapsed: all passages score alike, or hardly a token weighs.
SPREAD, TERMS = 1e-3, 0.5


class Stopped(TercetError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved a checkpoint."""

    number: int = signal.SIGTERM  # the signal that asked


# The run


def train(
    config: TrainConfig,
    *,
    resumed: bool = False,
    mine: Mine | None = None,
    log: Log = print,
    show: Show | None = None,
) -> Path:
    """Runs a stage to its end and returns the folder of the model it wrote.

    Raises InputError for a run that cannot be made, Stopped where a signal ended it, TercetError
    for a loss that is not finite or a disk that is full. Whatever ends it with an error, the steps
    that were done are saved first.
    """
    if not config.to:
        raise InputError("to names no folder: say where the run is kept (--to DIR)")
    world = World.start(config.device or None)
    try:
        folder = Path(config.to)
        if not resumed and (checkpoints(folder) or (folder / DONE).exists()):
            raise InputError(
                f"{folder} holds a run already: go on with --resume, or name another folder"
            )
        # a stranger may have made the run: what it names is taken from this machine alone
        ready = prepare(config, world, download=not resumed)
        return Trainer(ready, folder, mine=mine, log=log, show=show).run(resumed=resumed)
    finally:
        world.stop()


@dataclass
class BatchReport:
    """What one batch gave: facts of the loss, its tokens here and those that padding would add."""

    facts: Facts
    tokens: int
    padded: int
    rows: Numbers


def autocast(dtype: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype)


class Trainer:
    """Runs the steps of a stage; attributes tell how far it is.

    start is the step that the run began or goes on with, done and saved the steps that are done and
    in a checkpoint, best the best dev score, negatives the name and hash of the negatives in use,
    stopping the signal that asked to stop.
    """

    def __init__(
        self,
        ready: Prepared,
        folder: Path,
        *,
        mine: Mine | None = None,
        log: Log = print,
        show: Show | None = None,
    ) -> None:
        self.ready, self.config, self.world, self.folder = ready, ready.config, ready.world, folder
        self.mine, self.log, self.show = mine, log, show
        config, model = self.config, ready.checkpoint.model
        blends = config.blend < 1
        self.before = {n: t.clone() for n, t in model.state_dict().items()} if blends else {}
        self.retromae = make_retromae(ready) if config.stage == "retromae" else None
        self.trained: nn.Module = self.retromae or model  # everything that is trained
        self.targets = make_targets(ready) if config.teacher.path else None
        self.collator = Collator(
            ready.examples, ready.checkpoint.tokenizer, config.data, seed=config.seed
        )
        self.heads = config.heads
        self.context = autocast(ready.dtype, self.world.device)
        self.optimiser = make_optimiser(self.trained, config.optimiser)
        self.dev = DevChecks(ready) if config.data.dev else None
        self.board = tensorboard(folder) if config.run.tensorboard and self.world.first else None
        self.start = self.done = self.saved = 0
        self.best, self.negatives, self.stopping = -math.inf, "", 0
        self.whole = True  # not in the middle of an update of the weights
        self.seen: dict[str, list[float]] = {}  # since the last report
        self.tokens = self.padded = self.all_tokens = 0
        self.warned: set[str] = set()

    def run(self, *, resumed: bool = False) -> Path:
        """All steps from the start or the newest checkpoint on, and the model at the end."""
        if resumed:
            self.resume()
        elif self.world.first:
            # what a run left that came to nothing: its negatives are not this one's
            shutil.rmtree(self.folder / REFRESH, ignore_errors=True)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            write_json(self.folder / CONFIG, to_tree(self.config))
        self.world.wait()
        if self.config.compile:
            self.ready.checkpoint.model.backbone.compile(dynamic=True)
        if self.start == 0:
            for warning in warnings(self.ready):
                self.write({"step": 0, "warning": warning})
            self.evaluate()
        try:
            with self.signals():
                self.steps()
            if self.world.first:
                self.finish()
        finally:
            if self.board is not None:
                self.board.close()
        self.world.wait()
        return self.folder / MODEL

    def steps(self) -> None:
        """The steps; whatever ends them with an error, those that are done are saved first."""
        self.began = time.monotonic()
        try:
            for step in range(self.start, self.ready.steps):
                self.step(step)
        except Exception as error:
            if isinstance(error, Stopped):
                error.number = self.stopping or error.number
            whole = self.whole and all(bool(p.isfinite().all()) for p in self.trained.parameters())
            if whole and self.done > self.saved:
                try:
                    self.save()
                except TercetError as full:
                    error.add_note(str(full))
            raise

    def step(self, step: int) -> None:
        """New negatives where due, the gradients, the update, and what is due after it."""
        config, last = self.config, step + 1 == self.ready.steps
        if config.negatives.every and step and step % config.negatives.every == 0:
            self.negatives = self.refresh(step)
        distils = config.stage == "unified" and step >= self.ready.distil_from
        # all random numbers of a step on a device have one seed
        seed = np.random.SeedSequence((config.seed, step, self.world.rank))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        self.trained.train()
        self.optimiser.zero_grad(set_to_none=True)
        rows: list[int] = []
        for turn in range(config.batch.accumulate):
            report = self.gradients(step * config.batch.accumulate + turn, distil=distils)
            rows += report.rows.tolist()
            for name, value in report.facts.items():
                if not math.isfinite(value):
                    raise self.not_finite(step, f"{name} is {value}", rows)
                self.seen.setdefault(name, []).append(value)
            self.tokens, self.padded = self.tokens + report.tokens, self.padded + report.padded
            self.all_tokens += report.tokens

        parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.world.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimiser.clip or math.inf)
        if not torch.isfinite(norm):
            raise self.not_finite(step, f"the gradient is not finite ({norm.item()})", rows)
        share = rate(config.optimiser, step, self.ready.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = config.optimiser.lr * group["share"] * share
        self.whole = False
        self.optimiser.step()
        self.whole = True
        self.seen.setdefault("norm", []).append(float(norm))

        self.done = step + 1
        if self.show is not None:
            self.show(self.done, self.ready.steps, self.all_tokens * self.world.size)
        if last or self.done % config.run.report_every == 0:
            self.report()
        every = config.run.evaluate_every
        if last or (every and self.done % every == 0):
            self.evaluate()
        stop = self.stopping > 0
        if self.world.size > 1:  # a signal to any device
            stop = bool(self.world.sum(torch.tensor(float(stop), device=self.world.device)) > 0)
        if last or stop or self.done % config.run.save_every == 0:
            self.save()
            self.world.wait()
        if stop and not last:
            raise Stopped(f"stopped at step {self.done} of {self.ready.steps}: go on with --resume")

    # The gradients of a batch

    def gradients(self, number: int, *, distil: bool) -> BatchReport:
        """Adds the gradients of batch `number` of the run: its rows collated, encoded, scored."""
        config, world, ready = self.config, self.world, self.ready
        pool, everyone = ready.sampler.batch(number)
        rows = np.array_split(everyone, world.size)[world.rank]  # neighbours to a device
        facts: Facts = {}
        share = 1.0 / config.batch.accumulate
        sides: tuple[TokenBatch, ...]
        if config.stage in TEXT_STAGES:
            sides = (self.collator.texts(rows, number),)
        else:
            batch = self.collator.batch(rows, number)
            sides = (batch.queries, batch.passages)
        cut = [Side(side, most=ready.sub_batch, device=world.device) for side in sides]
        model = ready.checkpoint.model
        if self.retromae is not None:
            facts = self.rebuild(cut[0], rows, number)
        elif config.stage == "align":

            def align(texts: Representations) -> Tensor:
                assert self.targets is not None
                loss, parts = pull(self.targets, config.teacher, [(texts, rows)], world)
                parts["loss"] = loss.detach()
                summed = world.sum(torch.stack(list(parts.values()))).tolist()
                facts.update(zip(parts, summed, strict=True))
                return loss * share

            heads = [head for head in HEADS if head in model.heads]
            backward(model, cut, heads, align, context=self.context)
        else:
            source = config.data.sources[pool.source]
            named = source.heads or (config.data.parallel_heads if pool.parallel else HEADS)
            heads = [head for head in self.heads if head in named] or ["dense"]

            def compare(queries: Representations, passages: Representations) -> Tensor:
                loss, parts = batch_loss(
                    queries,
                    passages,
                    batch,
                    config.loss,
                    config.teacher,
                    world,
                    total=len(everyone),
                    distil=distil,
                    in_batch=source.in_batch_negatives,
                    targets=self.targets,
                )
                facts.update(parts)
                return loss * share

            backward(model, cut, heads, compare, context=self.context)
        tokens = sum(len(side.ids) for side in cut)
        padded = sum(len(side.counts) * (int(side.counts.max()) + 1) for side in cut)
        return BatchReport(facts, tokens, padded, rows)

    def rebuild(self, side: Side, texts: Numbers, number: int) -> Facts:
        """Adds the gradients of single texts that are masked and rebuilt (RetroMAE)."""
        assert self.retromae is not None
        model, device = self.retromae, self.world.device
        seeds = text_seeds(self.config.seed, number, texts)
        parts = [
            (micro.inputs, seeds[torch.from_numpy(micro.texts)]) for micro in side.micro_batches
        ]
        counts = torch.tensor([model.counts(*part) for part in parts]).sum(0).double()
        totals = self.world.sum(counts.to(device)).clamp(min=1)
        sums = torch.zeros(2)
        for inputs, drawn in parts:
            with self.context():
                losses = model(inputs, drawn)
            ((losses / totals.float()).sum() / self.config.batch.accumulate).backward()
            sums += losses.detach().cpu()
        encoder, decoder = (self.world.sum(sums.to(device)) / totals).tolist()
        return {"loss_encoder": encoder, "loss_decoder": decoder, "loss": encoder + decoder}

    # Reports

    def not_finite(self, step: int, what: str, rows: Sequence[int]) -> TercetError:
        """The error that names the rows of this step on this device, by file and line."""
        examples = self.ready.examples
        where = examples.where_text if self.config.stage in TEXT_STAGES else examples.where
        more = ", ..." if len(rows) > 8 else ""
        return TercetError(
            f"step {step + 1}: {what} on a batch of {', '.join(map(where, rows[:8]))}{more}: look"
            " at these rows, or lower optimiser.lr"
        )

    def report(self) -> None:
        """The means since the last report; says once when a head collapses."""
        line: dict[str, Any] = {"step": self.done, "of": self.ready.steps}
        line |= {name: round(float(np.mean(values)), 5) for name, values in self.seen.items()}
        self.seen.clear()
        seconds = max(time.monotonic() - self.began, 1e-9)
        line["lr"] = self.optimiser.param_groups[0]["lr"]
        line["tokens_per_s"] = round(self.tokens * self.world.size / seconds)
        line["padding"] = round(1 - self.tokens / max(self.padded, 1), 4)
        line["memory_mb"] = memory_mb(self.world.device)
        self.write(line)
        for name, value in line.items():
            kind, _, head = name.partition("_")
            low = {"spread": SPREAD, "terms": TERMS}.get(kind)
            if low is not None and value < low and name not in self.warned:
                self.warned.add(name)
                what = (
                    f"the {head} head gives nearly the same score to every passage"
                    if kind == "spread"
                    else f"a {head} has {value} sparse weights above 0"
                )
                self.write({"step": self.done, "warning": f"{what}: it may have collapsed"})
        self.began, self.tokens, self.padded = time.monotonic(), 0, 0

    def write(self, line: dict[str, Any]) -> None:
        """Appends to metrics.jsonl and TensorBoard, and tells the caller."""
        if not self.world.first:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None and "step" in line:
            for name, value in flat(line, "/").items():
                if isinstance(value, int | float) and name not in ("step", "of"):
                    self.board.add_scalar(name, float(value), line["step"])
        self.log(line)

    def evaluate(self) -> None:
        """Dev figures; the trained model with the best ones is kept in best/."""
        if self.dev is None:
            return
        began = time.monotonic()
        figures: dict[str, Any] = {}
        if self.world.first:
            self.trained.eval()
            figures = self.dev.run()
            self.write({"step": self.done, "dev": figures, "measure": MEASURE})
            if self.done and figures["score"] > self.best:
                write_model(self.folder / "best", self.ready.checkpoint, self.settings())
        if self.done:
            self.best = max(self.best, float(self.world.share(figures)["score"]))
            self.began += time.monotonic() - began

    # Checkpoints

    def save(self) -> None:
        """Writes a checkpoint of the steps that are done, without waiting for other devices."""
        if self.world.first:
            best = self.best if math.isfinite(self.best) else None
            facts = {"run": self.facts(), "best": best, "negatives": self.negatives}
            keep = self.config.run.keep
            save(self.folder, self.done, self.trained, self.optimiser, facts, keep=keep)
        self.saved = self.done

    def resume(self) -> None:
        """Brings the run to its newest checkpoint; raises TercetError where it is of another."""
        saved = checkpoints(self.folder)
        if not saved:
            raise TercetError(
                f"{self.folder} has no checkpoint to resume from: run without --resume"
            )
        facts = load(saved[-1], self.trained, self.optimiser, self.facts())
        self.start = self.done = self.saved = int(facts["step"])
        self.best = -math.inf if facts["best"] is None else float(facts["best"])
        self.negatives = str(facts["negatives"])
        if self.negatives:
            path = self.folder / REFRESH / self.negatives.partition(":")[0] / ANSWER
            if self.take(path) != self.negatives:
                raise InputError(f"{path} has changed since the checkpoint was written: restore it")

    def facts(self) -> dict[str, Any]:
        """What a resumed run must share with the one that it goes on from."""
        free = {"to", "model", "device", "dtype", "compile", "threads", "steps", "epochs", "run"}
        free |= {"data.cache", "data.dev", "data.sources"}  # these may change, or are below
        tree, ready = to_tree(self.config), self.ready
        kept = flat({name: value for name, value in tree.items() if name not in free})
        return {
            "the training data": ready.examples.fingerprint,
            "the number of devices": self.world.size,
            "the number of steps": ready.steps,
            "the dtype of products": str(ready.dtype).removeprefix("torch."),
            "the model at the start": ready.checkpoint.fingerprint,
            "the weights of the sources": [s["weight"] for s in tree["data"]["sources"]],
            **{name: value for name, value in kept.items() if name not in free},
        }

    # Signals

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Takes SIGTERM and Ctrl-C, which save and stop; a second Ctrl-C does not wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in previous.items():
            if handler is not None and handler != signal.SIG_IGN:
                signal.signal(number, self._stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                if handler is not None:
                    signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    # Hard negatives found while training (ANCE)

    def refresh(self, step: int, *, poll: float = 0.5) -> str:
        """Has new negatives found with the model as it is now; returns their name and hash.

        1. The model is written to refresh/step-s/model, then READY beside it.
        2. A miner, in this process or another, writes refresh/step-s/negatives.jsonl: for every
           training row, in order, {"row", "neg"}; where it cannot, the reason to FAILED.
        3. The trainer waits for it, looking every poll seconds, and uses it from this step on; its
           hash is in every checkpoint.

        Raises Stopped where the run is to stop while it waits, TercetError where the miner failed.
        """
        request = self.folder / REFRESH / f"step-{step:06d}"
        answer = request / ANSWER
        asks = self.world.first and not answer.exists()
        if asks:
            shutil.rmtree(request, ignore_errors=True)
        self.world.wait()  # nobody takes the failure of an earlier run for one of this
        if asks:
            request.mkdir(parents=True)
            self.trained.eval()
            write_model(request / MODEL, self.ready.checkpoint, self.settings())  # 1
            (request / READY).touch()
            if self.config.negatives.by == "self":  # 2
                if self.mine is None:
                    raise InputError("negatives.by = self needs a miner: run `tercet train`")
                self.mine(request)
            else:
                waits = f"for `tercet mine --follow {self.folder}`"
                self.write({"step": step, "waiting": waits})
        while not answer.exists():  # 3
            if (request / FAILED).exists():
                why = (request / FAILED).read_text(encoding="utf-8").strip()
                raise TercetError(f"{request}: no negatives were found: {why}")
            if self.stopping:
                raise Stopped(f"stopped before step {step + 1}: go on with --resume")
            time.sleep(poll)
        self.world.wait()
        if self.world.first:
            shutil.rmtree(request / MODEL, ignore_errors=True)
        return self.take(answer)

    def take(self, path: Path) -> str:
        """Puts negatives to use; returns their folder's name and hash."""
        if not self.world.first:
            self.world.wait()  # the first process makes the arrays, the others map them
        self.collator.negatives = read_negatives(self.ready.examples, path)
        self.collator.negative_scores = None
        if self.world.first:
            self.world.wait()
        return f"{path.parent.name}:{file_hash(path)}"

    # The model at the end

    def settings(self) -> Settings:
        """The model's settings with the prefixes that it is trained with."""
        data = self.config.data
        return replace(
            self.ready.checkpoint.settings,
            query_prefix=data.query_prefix,
            passage_prefix=data.passage_prefix,
        )

    def finish(self) -> None:
        """Blends, tunes the weights of the hybrid sum on dev, and writes model/ and DONE."""
        config, ready = self.config, self.ready
        ready.checkpoint.model.eval()
        if self.before:
            blend(ready.checkpoint.model, self.before, config.blend)
        settings = self.settings()
        facts: dict[str, Any] = {
            "stage": config.stage,
            "sources": [source.label for source in config.data.sources],
            "rows": len(ready.examples),
            "steps": ready.steps,
            "config": portable(to_tree(config)),
        }
        if self.dev is not None and config.stage == "unified":
            weights, figures = self.dev.tuned(anew=bool(self.before))
            facts["dev_ndcg_at_10"] = figures
            settings = replace(settings, weights=weights)
            self.write({"dev": figures, "measure": MEASURE, "weights": weights.as_tuple()})
        if before := ready.checkpoint.settings.training:
            facts["before"] = dict(before)
        settings = replace(settings, training=facts, min_score=None)
        write_model(self.folder / MODEL, ready.checkpoint, settings)
        (self.folder / DONE).touch()


def portable(tree: dict[str, Any]) -> dict[str, Any]:
    """A config as it is told to others: folders and files by their names alone."""
    data = {name: value for name, value in tree["data"].items() if name != "cache"}
    data["dev"] = [Path(name).name for name in data["dev"]]
    data["sources"] = [
        {**source, "files": [Path(name).name for name in source["files"]]}
        for source in data["sources"]
    ]
    teacher = {**tree["teacher"], "path": Path(tree["teacher"]["path"]).name}
    out = {**tree, "model": Path(tree["model"]).name, "teacher": teacher, "data": data}
    del out["to"]
    return out


@torch.no_grad()
def blend(model: M3Model, start: dict[str, torch.Tensor], share: float) -> None:
    """Moves a trained model back towards its start: share of the trained weights, rest the start's.

    A short run on little data gains on what it saw and forgets some of the rest; the mean keeps
    most of both. Source: Wortsman et al. 2022, arXiv 2109.01903 (weight-space ensembles).
    """
    for name, tensor in model.state_dict().items():
        tensor.copy_(share * tensor + (1 - share) * start[name])


def memory_mb(device: torch.device) -> int:
    """The most memory that was in use so far: of a GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


# What is trained, and how


def make_targets(ready: Prepared) -> Targets:
    """What the teacher of the config says of the run's texts."""
    config, model = ready.config, ready.checkpoint.model
    vectors = TeacherVectors.load(Path(config.teacher.path))
    by_token = len(vectors.tokens) and (config.teacher.tokens or config.teacher.rarity)
    if by_token and (config.data.query_prefix or config.data.passage_prefix):
        raise InputError(
            "the teacher's vectors of tokens are of texts without the model's prefixes: take a"
            " model that has none, or set teacher.tokens = 0 and teacher.rarity = 0"
        )
    multi = 0 if model.multi is None else model.multi.out_features
    return Targets(ready.examples, vectors, model.backbone.config.hidden, multi)


def make_retromae(ready: Prepared) -> RetroMAE:
    """The trunk with a decoder and a language head, the checkpoint's own where it has one."""
    checkpoint, config = ready.checkpoint, ready.config
    retro = RetroMAE(
        checkpoint.model.backbone,
        config.retromae,
        mask_id=checkpoint.tokenizer.backend.token_to_id(MASK),
        special_ids=checkpoint.tokenizer.weightless_ids.tolist(),
        seed=config.seed,
    )
    stored = TensorFiles(weight_files(checkpoint.folder), prefix="lm_head.")
    retro.head.load_published(stored)
    return retro.to(ready.world.device)


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW: matrices decay, norms and biases do not; word embeddings may have their own rate."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    words = {name for name in trained if name.endswith("word_embeddings.weight")}
    matrices = {name for name, p in trained.items() if p.ndim > 1} - words
    own = config.embedding_lr / config.lr if config.embedding_lr >= 0 else 1.0
    groups = (
        (matrices, 1.0, config.weight_decay),
        (set(trained) - matrices - words, 1.0, 0.0),
        (words, own, config.weight_decay),
    )
    return torch.optim.AdamW(
        [
            {
                "params": [p for name, p in trained.items() if name in names],
                "share": share,  # of the rate
                "weight_decay": decay,
            }
            for names, share, decay in groups
            if names
        ],
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
