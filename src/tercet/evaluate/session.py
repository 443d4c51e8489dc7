"""A whole evaluation: suites by name in, a report and its files out.

Runs and judgements are written as each task is done, so that a killed evaluation leaves what it
found, and encodes nothing twice. Knows nothing of how vectors or measures are made.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tercet import bm25
from tercet.config import Head, Weights, default_cache
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.chunked import chunking_of
from tercet.evaluate.encoding import Cache
from tercet.evaluate.measures import check_task
from tercet.evaluate.results import BASELINES, BM25, OWN, TaskResult, report
from tercet.evaluate.run import EvaluateConfig, Evaluator, Show
from tercet.evaluate.suites import PUBLISHED, Suite, load
from tercet.evaluate.tasks import Bitext, Task
from tercet.evaluate.trec import Run, read_run, write_qrels, write_run
from tercet.evaluate.tuning import Tuned
from tercet.io import atomic_write

REPORT, PAGE, RUNS, QRELS = "report.json", "report.html", "runs", "qrels"


@dataclass(frozen=True)
class Wanted:
    """What an evaluation is asked for besides the model and its settings."""

    suites: tuple[str, ...]
    local: Path | None = None  # copies of the published files
    languages: tuple[str, ...] = ()  # tasks of others are left out
    lengths: tuple[int, ...] = ()  # maximum lengths of passages, one report row for each
    chunks: tuple[int, ...] = ()  # tokens of chunks, one report row for each; 0: whole passages
    tune: tuple[str, ...] = ()  # dev suites
    outside: Mapping[str, Path] | None = None  # name -> a TREC run, or a folder of TASK.trec
    against: str | None = None  # the column that others are compared with; None: BM25
    to: Path | None = None  # folder for the report, runs and qrels
    cache: Path | None = None


def evaluate(
    encoder: Encoder | None,
    wanted: Wanted,
    config: EvaluateConfig | None = None,
    *,
    show: Show = lambda what, done, of: None,
    told: Callable[[TaskResult], None] = lambda result: None,
) -> dict[str, Any]:
    """The report of a model on suites, beside BM25 and outside runs; also written into `wanted.to`.

    `told` gets each task's result when it is there. Raises InputError for suites, files and
    settings that cannot be used, before anything is encoded where that can be seen.
    """
    began = time.monotonic()
    config = config or EvaluateConfig()
    readings = readings_of(encoder, wanted, config)
    if wanted.tune and len(readings) > 1:
        what = "by one size of chunks" if readings[-1].chunk else "at one maximum length"
        raise InputError(f"weights are tuned {what}: give one, or run twice")
    tasks = [
        task for suite in wanted.suites for task in load_suite(suite, wanted, wanted.languages)
    ]
    suites = [only_tasks(load_suite(suite, wanted, ())) for suite in wanted.tune]
    dev = [task for suite in suites for task in suite]
    refuse_twice(tasks)
    refuse_twice(dev)
    refuse_mixed(tasks, dev)
    outside = outside_runs(wanted.outside or {}, tasks)
    cache = None
    if encoder is not None:
        cache = Cache((wanted.cache or default_cache()) / "evaluate", encoder)
    evaluator = Evaluator(encoder, config, cache, show)
    against = check(evaluator, tasks, dev, wanted, whole=not readings[0].chunk)
    evaluator.config = readings[0].of(config)
    tuned = None
    if dev:
        tuned = evaluator.tune(*suites)
        weights = {"weights": tuned.weights, "weights_from": tuned_on(tuned)}
        config = replace(config, **weights)  # type: ignore[arg-type]
    model = None if encoder is None else facts(encoder)
    results: list[TaskResult] = []
    made: dict[str, Any] = {}
    for task in tasks:
        for reading in readings:
            evaluator.config = reading.of(config)
            if isinstance(task, Bitext):
                if reading.chunk:
                    continue  # translations are not cut
                result = evaluator.bitext(task)
            else:
                result, runs = evaluator.retrieval(task, outside.get(task.name))
                if wanted.to is not None:
                    write_found(wanted.to, task, runs, reading.label(readings))
            results.append(result)
            told(result)
        # what is found so far stays, whatever happens to the next
        last = task is tasks[-1]
        settings = settings_of(config, wanted, readings, tuned)
        made = report(
            results,
            model=model,
            settings=settings,
            against=against if last else None,
            seconds=time.monotonic() - began,
        )
        if wanted.to is not None:
            write_report(wanted.to, made)
    return made


@dataclass(frozen=True)
class Reading:
    """One way to read passages: whole up to a maximum length, or in chunks."""

    max_length: int | None = None
    chunk: int = 0

    def of(self, config: EvaluateConfig) -> EvaluateConfig:
        return replace(config, max_length=self.max_length, chunk=self.chunk)

    def label(self, among: Sequence["Reading"]) -> str:
        """Behind the name of a column's folder of runs, where there are several readings."""
        if self.chunk:
            return f".chunk-{self.chunk}" if len(among) > 1 else ""
        lengths = [reading.max_length for reading in among if not reading.chunk]
        return f".{self.max_length}" if len(lengths) > 1 else ""


def readings_of(encoder: Encoder | None, wanted: Wanted, config: EvaluateConfig) -> list[Reading]:
    """Whole passages at each length, then chunks of each size; raises InputError."""
    if encoder is None:
        return [Reading(config.max_length)]
    chunks = sorted(set(wanted.chunks or (config.chunk,)))
    for chunk in chunks:
        chunking_of(chunk, encoder)
    out: list[Reading] = []
    if 0 in chunks:
        lengths = dict.fromkeys(min(n, encoder.max_length) for n in wanted.lengths)
        out += [Reading(length) for length in lengths or (config.max_length,)]
    elif wanted.lengths or config.max_length is not None:
        raise InputError(
            "a maximum length is of whole passages, and there are only chunks: leave it out, or "
            "ask for chunks of 0 tokens too"
        )
    return out + [Reading(chunk=chunk) for chunk in chunks if chunk]


def check(
    evaluator: Evaluator,
    tasks: Sequence[Task | Bitext],
    dev: Sequence[Task],
    wanted: Wanted,
    *,
    whole: bool,
) -> str:
    """The column to compare with; raises InputError for what could not be measured in the end."""
    config, outside = evaluator.config, wanted.outside or {}
    own = expected(evaluator.heads)
    columns = [*(BASELINES if config.bm25 else ()), *own, *outside]
    if not columns:
        raise InputError("neither a model, nor BM25, nor a run: there is nothing to measure")
    if taken := [name for name in outside if name in (*BASELINES, *OWN)]:
        raise InputError(f"a run cannot be named {taken[0]!r}, as a column of ours is: rename it")
    if wanted.against is not None and wanted.against not in columns:
        raise InputError(f"no column {wanted.against!r}: choose from {', '.join(columns)}")
    if config.bm25:
        bm25.library()
    for task in (*tasks, *dev):
        if isinstance(task, Bitext):
            if evaluator.encoder is None:
                raise InputError(f"{task.name}: translations need a model")
            if not whole:
                raise InputError(
                    f"{task.name}: translations are not cut into chunks: ask for 0 tokens too"
                )
        else:
            check_task(task, config.of(task.protocol).measures)
    for task in dev:
        if not task.qrels:
            raise InputError(f"{task.name} has no judgements: weights are tuned on nDCG@10")
    return wanted.against or (BM25 if config.bm25 else columns[0])


def expected(heads: Sequence[Head]) -> list[str]:
    """The columns of a model with these heads."""
    both = ["dense+sparse"] if {"dense", "sparse"} <= set(heads) else []
    return [*heads, *both, *(["all"] if "multi" in heads and len(heads) > 1 else [])]


def settings_of(
    config: EvaluateConfig, wanted: Wanted, readings: Sequence[Reading], tuned: Tuned | None
) -> dict[str, Any]:
    """What was asked for, for the report."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("weights", "weights_from")}
    settings |= {"suites": list(wanted.suites), "weights": _weights(config.weights)}
    lengths = [reading.max_length for reading in readings if not reading.chunk]
    chunks = list(dict.fromkeys(reading.chunk for reading in readings))
    settings["max_length"] = lengths if len(lengths) > 1 else next(iter(lengths), None)
    settings["chunk"] = chunks if len(chunks) > 1 else chunks[0]
    settings["tuned"] = None if tuned is None else _tuned(tuned)
    return settings


def load_suite(name: str, wanted: Wanted, languages: Sequence[str]) -> list[Task | Bitext]:
    """The tasks of a suite by its name; copies are of published suites."""
    published = Suite.parse(name).kind in PUBLISHED
    return load(name, local=wanted.local if published else None, languages=languages)


def refuse_twice(tasks: Sequence[Task | Bitext]) -> None:
    """Raises InputError where two tasks have one name: their runs and figures would mix."""
    seen: dict[str, Task | Bitext] = {}
    for task in tasks:
        if task.name in seen:
            raise InputError(
                f"two tasks are named {task.name}: rename a folder or file, or evaluate them apart"
            )
        seen[task.name] = task


def only_tasks(dev: Sequence[Task | Bitext]) -> list[Task]:
    """Dev tasks; raises InputError for one of translations."""
    out = []
    for task in dev:
        if isinstance(task, Bitext):
            raise InputError(f"{task.name}: weights are tuned on retrieval, not on translations")
        out.append(task)
    return out


def refuse_mixed(tasks: Sequence[Task | Bitext], dev: Sequence[Task]) -> None:
    """Raises InputError where queries that are reported are among those weights are tuned on."""
    asked = {text for task in dev for text in task.queries.values()}
    for task in tasks:
        if isinstance(task, Task):
            both = sum(text in asked for text in task.queries.values())
            if both and both * 2 >= len(task.queries):
                raise InputError(
                    f"{task.name}: {both} of its {len(task.queries)} queries are among those that "
                    "weights are to be tuned on: tune on a dev split"
                )


def outside_runs(
    outside: Mapping[str, Path], tasks: Sequence[Task | Bitext]
) -> dict[str, dict[str, Run]]:
    """Task -> name -> run. A file is of the only task; a folder holds TASK.trec or TASK.trec.gz."""
    out: dict[str, dict[str, Run]] = {}
    retrieval = [task for task in tasks if isinstance(task, Task)]
    for name, path in outside.items():
        if not path.is_dir():
            if len(retrieval) != 1:
                raise InputError(
                    f"{path} is one run, but there are {len(retrieval)} tasks: give a folder of "
                    f"{file_name(retrieval[0].name) if retrieval else 'TASK'}.trec and so on"
                )
            out.setdefault(retrieval[0].name, {})[name] = read_run(path)
            continue
        found = 0
        for task in retrieval:
            for suffix in (".trec", ".trec.gz"):
                file = path / f"{file_name(task.name)}{suffix}"
                if file.exists():
                    out.setdefault(task.name, {})[name] = read_run(file)
                    found += 1
        if not found:
            names = ", ".join(f"{file_name(task.name)}.trec" for task in retrieval[:3])
            raise InputError(f"{path} holds no run of any task: expected {names} or the like")
    return out


def write_found(folder: Path, task: Task, runs: Mapping[str, Run], label: str) -> None:
    """Writes runs/COLUMN/TASK.trec.gz and qrels/TASK.qrels."""
    name = file_name(task.name)
    for column, run in runs.items():
        path = folder / RUNS / f"{file_name(column)}{label}" / f"{name}.trec.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_run(path, run)
    if task.qrels:
        (folder / QRELS).mkdir(parents=True, exist_ok=True)
        write_qrels(folder / QRELS / f"{name}.qrels", task.qrels)


def file_name(name: str) -> str:
    """A task or column as part of a path.

    >>> file_name("miracl/sw"), file_name("dense+sparse"), file_name("BM25 pieces")
    ('miracl-sw', 'dense+sparse', 'BM25-pieces')
    """
    return name.replace("/", "-").replace(" ", "-")


def write_report(folder: Path, made: Mapping[str, Any]) -> None:
    """Writes report.json and report.html."""
    from tercet.evaluate.page import page

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / REPORT, json.dumps(made, ensure_ascii=False, indent=1) + "\n")
    write_text(folder / PAGE, page(made))


def write_text(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def facts(encoder: Encoder) -> dict[str, Any]:
    """A model in a few words."""
    return {
        "source": encoder.source,
        "fingerprint": encoder.fingerprint,
        "heads": list(encoder.heads),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
        "max_length": encoder.max_length,
    }


def tuned_on(tuned: Tuned) -> str:
    """Where tuned weights come from, for the report."""
    names = ", ".join(tuned.tasks[:3]) + (", ..." if len(tuned.tasks) > 3 else "")
    return (
        f"tuning on {names} (nDCG@10 {100 * tuned.before:.1f} with the weights of before, "
        f"{100 * tuned.after:.1f} with these)"
    )


def _weights(weights: Weights | None) -> list[float] | None:
    return None if weights is None else list(weights.as_tuple())


def _tuned(tuned: Tuned) -> dict[str, Any]:
    return {
        "weights": _weights(tuned.weights),
        "before": tuned.before,
        "after": tuned.after,
        "tasks": list(tuned.tasks),
    }
