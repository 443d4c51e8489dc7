"""Runs evaluations: suites to tasks, texts to vectors to rankings to measures, results to a report.

The join of encoder and evaluation. Runs and judgements are written as each task is done, so that a
killed evaluation leaves what it found, and encodes nothing twice. Knows nothing of suites' files or
of how a report looks.
"""

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet import bm25
from tercet.bm25 import Subwords, Words
from tercet.config import MAX_LENGTH, Head, Weights, default_cache
from tercet.documents.chunks import Chunking
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.loaders import Suite, load
from tercet.evaluate.measures import bitext_accuracy, check_measures, check_task, measure
from tercet.evaluate.results import TaskResult, report
from tercet.evaluate.systems import (
    BASELINES,
    BM25,
    BM25_PIECES,
    CUT,
    DEPTH,
    OWN,
    BlockSizes,
    Scorers,
    both_ways,
    own_systems,
    rank,
)
from tercet.evaluate.tasks import Bitext, Corpus, Protocol, Task
from tercet.evaluate.trec import Run, lacking, read_run, write_qrels, write_run
from tercet.evaluate.tuning import Candidates, Tuned, candidates_of, tune
from tercet.evaluate.vectors import (
    Cut,
    Digest,
    EncodeOptions,
    VectorCache,
    chunking_of,
    cut_corpus,
    streamed_maxsim,
)
from tercet.hybrid import Ranked, SparseRanker
from tercet.io import atomic_write

REPORT, PAGE, RUNS, QRELS = "report.json", "report.html", "runs", "qrels"

Show = Callable[[str, int, int | None], None]  # what is done, how much, of how much
PROTOCOL = ("query_tokens", "passage_tokens", "rerank", "union")  # told in a report
TOKEN = 4  # characters of one, about: only to guess what multi-vectors and BM25 would take


@dataclass(frozen=True)
class EvaluateConfig:
    """How tasks are evaluated; None leaves it to the suite's protocol or to the model."""

    heads: tuple[Head, ...] | None = None  # None: all that the model has
    bm25: bool = True
    max_length: int | None = None  # tokens of a passage
    chunk: int = 0  # tokens of a chunk; a passage counts as its best one does. 0: whole passages
    query_length: int | None = None
    mcls: int | None = None  # tokens for each [CLS] of a passage
    rerank: int | None = None  # candidates of dense for multi and all
    union: int | None = None  # candidates of dense and of sparse for dense+sparse
    weights: Weights | None = None  # of all sums
    weights_from: str = "given"  # said in the report
    measures: tuple[str, ...] | None = None
    multi_gb: float = 8.0  # on disk, for the multi-vectors of a corpus; beyond, of candidates only

    def __post_init__(self) -> None:
        for name in ("max_length", "query_length", "rerank", "union", "mcls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if chunking_of(self.chunk).chunk and self.max_length is not None:
            raise InputError("max_length is of whole passages, chunk of their parts: give one")
        if self.measures is not None:
            check_measures(self.measures)

    def of(self, protocol: Protocol) -> Protocol:
        """A suite's protocol with what is set here in its place."""
        given: dict[str, Any] = {
            "measures": self.measures,
            "query_tokens": self.query_length,
            "passage_tokens": self.max_length,
            "rerank": self.rerank,
            "union": self.union,
        }
        return replace(protocol, **{k: v for k, v in given.items() if v is not None})


@dataclass(frozen=True)
class EvaluatePlan:
    """What is evaluated, and where it goes."""

    suites: tuple[str, ...]
    local: Path | None = None  # copies of the published files
    languages: tuple[str, ...] = ()  # tasks of others are left out
    lengths: tuple[int, ...] = ()  # maximum lengths of passages, one report row for each
    chunks: tuple[int, ...] = ()  # tokens of chunks, one report row for each; 0: whole passages
    tune: tuple[str, ...] = ()  # dev suites
    outside: Mapping[str, Path] | None = None  # name -> a TREC run, or a folder of TASK.trec
    against: str | None = None  # the system that others are compared with; None: BM25
    to: Path | None = None  # folder for the report, runs and qrels
    cache: Path | None = None


@dataclass
class _Passages:
    """A corpus as it was read last: ids, sizes, and what was made of its texts."""

    corpus: Corpus
    ids: list[str]
    lengths: "array[int]"  # characters of each passage
    digest: Digest
    vectors: dict[tuple[int, EncodeOptions], Embeddings]  # by chunk size
    cuts: dict[Chunking, Cut]
    baselines: dict[tuple[bool, int | None], bm25.TermIndex]  # by terms, and tokens read


class Evaluator:
    """Evaluates tasks one after another; a corpus that several share is encoded once."""

    def __init__(
        self,
        encoder: Encoder | None,
        config: EvaluateConfig,
        cache: VectorCache | None,
        show: Show = lambda what, done, of: None,
        sizes: BlockSizes | None = None,
    ) -> None:
        """encoder None: BM25 and outside runs alone."""
        self.encoder, self.config, self.show = encoder, config, show
        self.cache, self.sizes = cache, sizes
        self.heads = () if encoder is None else config.heads or encoder.heads
        if encoder is not None:
            encoder.model.check(self.heads)
        self._passages: _Passages | None = None

    def retrieval(
        self, task: Task, outside: Mapping[str, Run] | None = None
    ) -> tuple[TaskResult, dict[str, Run]]:
        """All systems on a task, measured, and their runs of up to 1,000 passages a query."""
        if not task.queries:
            raise InputError(f"{task.name} has no queries")
        if self.heads == ("multi",):
            raise InputError("multi alone finds no candidates: take dense or sparse with it")
        seconds: dict[str, float] = {}
        protocol = self.config.of(task.protocol)
        with _timed(seconds, "read"):
            passages = self._read(task.corpus)
        if self.config.bm25:
            bm25.check_memory(sum(passages.lengths) // TOKEN, task.name)
        result = _new(task, passages, seconds)
        result.protocol = {name: getattr(protocol, name) for name in PROTOCOL}
        if self.config.chunk:
            chunking = chunking_of(self.config.chunk)
            result.protocol |= {"passage_tokens": chunking.chunk, "overlap": chunking.overlap}
        ranked: dict[str, Ranked] = {}
        if self.encoder is not None:
            scorers = self._scorers(task, protocol, passages, result)
            weights, source = self._weights(self.encoder, protocol)
            result.weights = _told(weights, source)
            with _timed(seconds, "rank"):
                done = self._counter(f"{task.name}: ranking", 2 * len(task.queries))
                ranked |= rank(scorers, protocol, weights, done)
        if self.config.bm25:
            with _timed(seconds, "BM25"):
                ranked |= self._bm25(task, protocol, passages, result)
        if absent := lacking(task.qrels, passages.ids):
            result.notes.append(f"the corpus lacks relevant passages of {len(absent)} queries")
        runs = {
            name: Run.of(list(task.queries), passages.ids, hits.cut(DEPTH), tag=_tag(name))
            for name, hits in ranked.items()
        }
        with _timed(seconds, "measure"):
            result.values = measure(task, runs | dict(outside or {}), protocol.measures)
        return result, runs

    def bitext(self, task: Bitext) -> TaskResult:
        """Accuracy in both directions of every system; each side is compared with all others."""
        seconds: dict[str, float] = {}
        if self.encoder is None:
            raise InputError(f"{task.name}: translations need a model, since BM25 cannot translate")
        limit = min(self.config.max_length or MAX_LENGTH, self.encoder.max_length)
        options = EncodeOptions(self.heads, limit, "plain")
        with _timed(seconds, "encode"):
            left = self._encode(task.name, task.left, options)
            right = self._encode(task.name, task.right, options)
        weights, source = self._weights(self.encoder, Protocol())
        with _timed(seconds, "rank"):
            systems = both_ways(left, right, weights)
            values = {name: bitext_accuracy(task, *places) for name, places in systems.items()}
        return TaskResult(
            name=task.name,
            suite=task.suite,
            language=task.language,
            kind="bitext",
            passages=len(task.left),
            queries=len(task.left),
            max_length=limit,
            values=values,
            weights=_told(weights, source),
            seconds=seconds,
        )

    def tune(self, *suites: Iterable[Task]) -> Tuned:
        """The weights best on suites of dev tasks, each counting alike, by nDCG@10 of all heads."""
        if self.encoder is None:
            raise InputError("weights are tuned for a model: name one")
        dev = [{task.name: self._candidates(task) for task in tasks} for tasks in suites]
        if not all(dev):
            raise InputError("there is no dev task to tune weights on")
        return tune(dev, self.encoder.weights)

    def _candidates(self, task: Task) -> Candidates:
        """What weights are tried on."""
        protocol, passages = self.config.of(task.protocol), self._read(task.corpus)
        scorers = self._scorers(task, protocol, passages, _new(task, passages, {}))
        return candidates_of(task, scorers, passages.ids, protocol)

    def _read(self, corpus: Corpus) -> _Passages:
        if self._passages is None or self._passages.corpus is not corpus:
            ids, lengths, digest = [], array("q"), Digest()
            for identifier, text in corpus.read():
                ids.append(identifier)
                lengths.append(len(text))
                digest.add(text)
            if not ids:
                raise InputError(f"{corpus.name}: no passage")
            self._passages = _Passages(corpus, ids, lengths, digest, {}, {}, {})
        return self._passages

    def _scorers(
        self, task: Task, protocol: Protocol, passages: _Passages, result: TaskResult
    ) -> Scorers:
        """The model's scores of a task; what they took and cut goes into the result."""
        assert self.encoder is not None
        encoder, chunk = self.encoder, self.config.chunk
        texts: _Passages | Cut = passages
        owners, limit = None, min(protocol.passage_tokens, encoder.max_length)
        if chunk:
            with _timed(result.seconds, "cut"):
                texts = chunks = self._cut(encoder, task, passages)
            # what a model wants before a passage comes on top of a chunk
            owners, limit = chunks.owners, encoder.max_length
            result.chunk, result.chunks = chunk, len(chunks.lengths)
        stored = self.heads
        if "multi" in self.heads:
            tokens = np.minimum(np.frombuffer(texts.lengths, np.int64) / TOKEN, limit).sum()
            if tokens * encoder.dims["multi"] * 2 > 1e9 * self.config.multi_gb:
                stored = tuple(head for head in self.heads if head != "multi")
                result.notes.append("multi-vectors of candidates only, encoded again")
        options = EncodeOptions(stored, limit, "passage", self.config.mcls)
        with _timed(result.seconds, "encode passages"):
            vectors = self._vectors(task, passages, texts, options)
        asked = EncodeOptions(self.heads, min(protocol.query_tokens, encoder.max_length), "query")
        asking = list(task.queries.values())
        if task.prompts:
            asked, prefix = replace(asked, role="plain"), encoder.settings.query_prefix
            asking = [task.prompts.get(key, prefix) + text for key, text in task.queries.items()]
        with _timed(result.seconds, "encode queries"):
            queries = self._encode(f"{task.name}: queries", asking, asked)
        multi = None
        if stored != self.heads:
            options = replace(options, heads=("multi",))
            multi = streamed_maxsim(
                self._cache(), texts.corpus, options, queries,
                lambda done: self.show(f"{task.name}: MaxSim", done, None),
            )  # fmt: skip
        result.max_length = chunk or limit
        result.cut = {"passages": _share_cut(vectors), "queries": _share_cut(queries)}
        if owners is not None and vectors.truncated is not None:  # passages with such a chunk
            of_passages = np.logical_or.reduceat(vectors.truncated, owners.bounds[:-1])
            result.cut["passages"] = float(np.mean(of_passages))
        return Scorers.of(queries, vectors, encoder.device, multi, owners, self.sizes)

    def _cut(self, encoder: Encoder, task: Task, passages: _Passages) -> Cut:
        chunking = chunking_of(self.config.chunk, encoder)
        if chunking not in passages.cuts:
            done = self._counter(f"{task.name}: cutting", len(passages.ids))
            folder = self._cache().folder
            passages.cuts[chunking] = cut_corpus(
                passages.corpus, passages.digest, encoder, chunking, folder, done
            )
        return passages.cuts[chunking]

    def _vectors(
        self, task: Task, passages: _Passages, texts: "_Passages | Cut", options: EncodeOptions
    ) -> Embeddings:
        key = (self.config.chunk, options)
        if key not in passages.vectors:
            what = "chunks" if self.config.chunk else "passages"
            done = self._counter(f"{task.name}: {what}", len(texts.lengths))
            read = (text for _, text in texts.corpus.read())
            made = self._cache().encode(read, texts.digest, options, done)
            passages.vectors = {key: made}  # of other lengths no more
        return passages.vectors[key]

    def _encode(self, what: str, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        done = self._counter(what, len(texts))
        return self._cache().encode(texts, Digest(texts), options, done)

    def _cache(self) -> VectorCache:
        assert self.cache is not None
        return self.cache

    def _counter(self, what: str, total: int) -> Callable[[int], None]:
        """Adds up what is done, for a progress bar."""
        done = 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            self.show(what, done, total)

        return more

    def _weights(self, encoder: Encoder, protocol: Protocol) -> tuple[tuple[Weights, Weights], str]:
        """Of dense+sparse and of all, and where they come from."""
        if self.config.weights is not None:
            three, source = self.config.weights, self.config.weights_from
        elif protocol.two is not None and protocol.three is not None:
            return (protocol.two, protocol.three), "the paper, for this kind of text"
        else:
            three = encoder.weights
            own = encoder.settings.weights is not None
            source = "the model" if own else "the paper, for MIRACL"
        two = three if three.dense or three.sparse else Weights(1, 1, 0)
        return (replace(two, multi=0.0), three), source

    def _bm25(
        self, task: Task, protocol: Protocol, passages: _Passages, result: TaskResult
    ) -> dict[str, Ranked]:
        """BM25 on words, on the model's subwords, and on what the model read where that is less."""
        tokenizer = None if self.encoder is None else self.encoder.tokenizer
        systems: dict[str, tuple[bool, int | None]] = {BM25: (False, None)}
        if self.encoder is not None:
            systems[BM25_PIECES] = (True, None)
            if result.cut.get("passages") and not self.config.chunk:
                limit = min(protocol.passage_tokens, self.encoder.max_length)
                systems |= {BM25 + CUT: (False, limit), BM25_PIECES + CUT: (True, limit)}
        out = {}
        for name, key in systems.items():
            if key not in passages.baselines:
                self.show(f"{task.name}: {name}", 0, None)
                subwords, tokens = key
                terms = Subwords(tokenizer) if subwords and tokenizer else Words(tokenizer)
                texts = (text for _, text in passages.corpus.read())
                passages.baselines[key] = bm25.index(texts, terms, max_tokens=tokens)
            index = passages.baselines[key]
            queries = index.queries(task.queries.values())
            ranker = SparseRanker(queries, index.weights, len(passages.ids))
            out[name] = ranker.top(np.arange(len(task.queries)), DEPTH)
        return out


def _new(task: Task, passages: _Passages, seconds: dict[str, float]) -> TaskResult:
    return TaskResult(
        name=task.name,
        suite=task.suite,
        language=task.language,
        kind="retrieval",
        passages=len(passages.ids),
        queries=len(task.queries),
        max_length=None,
        values={},
        seconds=seconds,
        languages=task.languages,
        texts=task.queries,
        source=task.source,
        notes=list(task.notes),
    )


def _share_cut(vectors: Embeddings) -> float:
    return 0.0 if vectors.truncated is None else float(np.mean(vectors.truncated))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - began, 2)


def _tag(system: str) -> str:
    """A system's name as the last word of a run's line."""
    return f"tercet-{system.replace(' ', '-').replace('+', '-')}"


def _told(weights: tuple[Weights, Weights], source: str) -> dict[str, object]:
    return {"two": weights[0].as_tuple(), "three": weights[1].as_tuple(), "from": source}


# A whole evaluation


def evaluate(
    encoder: Encoder | None,
    plan: EvaluatePlan,
    config: EvaluateConfig | None = None,
    *,
    show: Show = lambda what, done, of: None,
    told: Callable[[TaskResult], None] = lambda result: None,
) -> dict[str, Any]:
    """The report of a model on suites, beside BM25 and outside runs; also written into `plan.to`.

    `told` gets each task's result when it is there. Raises InputError for suites, files and
    settings that cannot be used, before anything is encoded where that can be seen.
    """
    began = time.monotonic()
    config = config or EvaluateConfig()
    readings = readings_of(encoder, plan, config)
    if plan.tune and len(readings) > 1:
        raise InputError("weights are tuned at one length or size of chunks: give one")
    tasks = [task for suite in plan.suites for task in load_suite(suite, plan, plan.languages)]
    dev_suites = [_dev_tasks(suite, plan) for suite in plan.tune]
    dev = [task for suite in dev_suites for task in suite]
    for several in (tasks, dev):
        names = [task.name for task in several]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"two tasks are named {twice[0]}: rename a folder or file, or evaluate them apart"
            )
    _refuse_mixed(tasks, dev)
    outside = outside_runs(plan.outside or {}, tasks)
    cache = None
    if encoder is not None:
        cache = VectorCache((plan.cache or default_cache()) / "evaluate", encoder)
    evaluator = Evaluator(encoder, config, cache, show)
    against = _check(evaluator, tasks, dev, plan, whole=not readings[0].chunk)
    tuned = None
    if dev:
        evaluator.config = readings[0]
        tuned = evaluator.tune(*dev_suites)
        found = {"weights": tuned.weights, "weights_from": str(tuned)}
        readings = [replace(reading, **found) for reading in readings]  # type: ignore[arg-type]
    results: list[TaskResult] = []
    made: dict[str, Any] = {}
    for task in tasks:
        for reading in readings:
            evaluator.config = reading
            if isinstance(task, Bitext):
                if reading.chunk:
                    continue  # translations are not cut
                result = evaluator.bitext(task)
            else:
                result, runs = evaluator.retrieval(task, outside.get(task.name))
                if plan.to is not None:
                    write_runs(plan.to, task, runs, _label(reading, readings))
            results.append(result)
            told(result)
        # what is found so far stays, whatever happens to the next
        made = report(
            results,
            model=None if encoder is None else facts(encoder),
            settings=settings_of(readings, plan, tuned),
            against=against if task is tasks[-1] else None,
            seconds=time.monotonic() - began,
        )
        if plan.to is not None:
            write_report(plan.to, made)
    return made


def readings_of(
    encoder: Encoder | None, plan: EvaluatePlan, config: EvaluateConfig
) -> list[EvaluateConfig]:
    """Whole passages at each length, then chunks of each size; raises InputError."""
    if encoder is None:
        return [config]
    chunks = sorted(set(plan.chunks or (config.chunk,)))
    for chunk in chunks:
        chunking_of(chunk, encoder)
    out: list[EvaluateConfig] = []
    if 0 in chunks:
        lengths = dict.fromkeys(min(length, encoder.max_length) for length in plan.lengths)
        whole = replace(config, chunk=0)
        out += [replace(whole, max_length=n) for n in lengths or (config.max_length,)]
    elif plan.lengths or config.max_length is not None:
        raise InputError(
            "a maximum length is of whole passages, and there are only chunks: leave it out, or "
            "ask for chunks of 0 tokens too"
        )
    return out + [replace(config, max_length=None, chunk=chunk) for chunk in chunks if chunk]


def _label(reading: EvaluateConfig, readings: Sequence[EvaluateConfig]) -> str:
    """Behind the name of a system's folder of runs, where there are several readings."""
    if reading.chunk:
        return f".chunk-{reading.chunk}" if len(readings) > 1 else ""
    return f".{reading.max_length}" if sum(not one.chunk for one in readings) > 1 else ""


def _check(
    evaluator: Evaluator,
    tasks: Sequence[Task | Bitext],
    dev: Sequence[Task],
    plan: EvaluatePlan,
    *,
    whole: bool,
) -> str:
    """The system to compare with; raises InputError for what could not be measured in the end."""
    config, outside = evaluator.config, plan.outside or {}
    systems = [*(BASELINES if config.bm25 else ()), *own_systems(evaluator.heads), *outside]
    if not systems:
        raise InputError("neither a model, nor BM25, nor a run: there is nothing to measure")
    if taken := [name for name in outside if name in (*BASELINES, *OWN)]:
        raise InputError(f"a run cannot be named {taken[0]!r}, as a system of ours is: rename it")
    if plan.against is not None and plan.against not in systems:
        raise InputError(f"no column {plan.against!r}: choose from {', '.join(systems)}")
    for task in (*tasks, *dev):
        if isinstance(task, Bitext):
            if evaluator.encoder is None or not whole:
                raise InputError(
                    f"{task.name}: translations need a model, and are not cut into chunks: ask for "
                    "0 tokens too"
                )
        else:
            check_task(task, config.of(task.protocol).measures)
    return plan.against or (BM25 if config.bm25 else systems[0])


def settings_of(
    readings: Sequence[EvaluateConfig], plan: EvaluatePlan, tuned: Tuned | None
) -> dict[str, Any]:
    """What was asked for, for the report."""
    settings = asdict(readings[0])
    del settings["weights_from"]
    weights = readings[0].weights
    settings |= {"weights": None if weights is None else list(weights.as_tuple())}
    lengths = [reading.max_length for reading in readings if not reading.chunk]
    chunks = list(dict.fromkeys(reading.chunk for reading in readings))
    settings["max_length"] = lengths if len(lengths) > 1 else next(iter(lengths), None)
    settings["chunk"] = chunks if len(chunks) > 1 else chunks[0]
    settings |= {"suites": list(plan.suites), "tuned": None}
    if tuned is not None:
        settings["tuned"] = {**asdict(tuned), "weights": settings["weights"]}
    return settings


def load_suite(name: str, plan: EvaluatePlan, languages: Sequence[str]) -> list[Task | Bitext]:
    """The tasks of a suite by its name; copies are of published suites."""
    local = plan.local if Suite.parse(name).published else None
    return load(name, local=local, languages=languages)


def _dev_tasks(suite: str, plan: EvaluatePlan) -> list[Task]:
    """Dev tasks of a suite; raises InputError for what weights cannot be tuned on."""
    out = []
    for task in load_suite(suite, plan, ()):
        if isinstance(task, Bitext) or not task.qrels:
            raise InputError(f"{task.name} has no judgements: weights are tuned on nDCG@10")
        out.append(task)
    return out


def _refuse_mixed(tasks: Sequence[Task | Bitext], dev: Sequence[Task]) -> None:
    """Raises InputError where queries that are reported are among those weights are tuned on."""
    tuned = {text for task in dev for text in task.queries.values()}
    for task in tasks:
        if isinstance(task, Task):
            both = sum(text in tuned for text in task.queries.values())
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
    names = [task.name for task in tasks if isinstance(task, Task)]
    for name, path in outside.items():
        files = {}
        if not path.is_dir():
            if len(names) != 1:
                raise InputError(
                    f"{path} is one run, but there are {len(names)} tasks: give a folder of "
                    f"TASK.trec, with {', '.join(map(file_name, names[:3]))} as TASK"
                )
            files[names[0]] = path
        for task in names if path.is_dir() else ():
            for file in (path / f"{file_name(task)}.trec", path / f"{file_name(task)}.trec.gz"):
                if file.exists():
                    files[task] = file
        if not files:
            expected = ", ".join(f"{file_name(task)}.trec" for task in names[:3])
            raise InputError(f"{path} holds no run of any task: expected {expected} or the like")
        for task, file in files.items():
            out.setdefault(task, {})[name] = read_run(file)
    return out


def write_runs(folder: Path, task: Task, runs: Mapping[str, Run], label: str) -> None:
    """Writes runs/SYSTEM/TASK.trec.gz and qrels/TASK.qrels."""
    name = file_name(task.name)
    for system, run in runs.items():
        write_run(folder / RUNS / f"{file_name(system)}{label}" / f"{name}.trec.gz", run)
    if task.qrels:
        write_qrels(folder / QRELS / f"{name}.qrels", task.qrels)


def file_name(name: str) -> str:
    """A task or system as part of a path.

    >>> file_name("miracl/sw"), file_name("dense+sparse"), file_name("BM25 pieces")
    ('miracl-sw', 'dense+sparse', 'BM25-pieces')
    """
    return name.replace("/", "-").replace(" ", "-")


def write_report(folder: Path, made: Mapping[str, Any]) -> None:
    """Writes report.json and report.html, each whole or not at all."""
    from tercet.evaluate.report import page

    texts = {REPORT: json.dumps(made, ensure_ascii=False, indent=1) + "\n", PAGE: page(made)}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
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
