"""Runs evaluations: suites to tasks, texts to vectors to rankings to measures, results to a report.

The join of encoder and evaluation. Runs and judgements are written as each task is done, so that a
killed evaluation leaves what it found, and encodes nothing twice. Knows nothing of suites' files or
of how a report looks.
"""

import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tercet import bm25
from tercet.bm25 import Subwords, Words
from tercet.config import MAX_LENGTH, Head, Weights, default_cache
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.loaders import load
from tercet.evaluate.measures import bitext_accuracy, check_measures, check_task, measure
from tercet.evaluate.paired import write_values
from tercet.evaluate.results import TaskResult, file_name, report
from tercet.evaluate.systems import (
    BASELINES,
    BM25,
    BM25_PIECES,
    CUT,
    DEPTH,
    OWN,
    BlockSizes,
    Scorers,
    best_of,
    own_systems,
    rank,
)
from tercet.evaluate.tasks import Bitext, Corpus, Protocol, Task
from tercet.evaluate.trec import Run, read_run, write_qrels, write_run
from tercet.evaluate.tuning import Candidates, Tuned, candidates_of, least_score, tune
from tercet.evaluate.vectors import (
    EncodeOptions,
    Passages,
    VectorCache,
    chunking_of,
    cut_corpus,
    digest_of,
    streamed_maxsim,
)
from tercet.hybrid import Ranked, SparseRanker
from tercet.io import atomic_write

T = TypeVar("T")
Show = Callable[[str, int, int | None], None]  # what is done, how much, of how much
CHARACTERS = 4  # of a token, about: only to guess what multi-vectors and BM25 would take


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
    # a passage under the query's own id is no hit; False: of the tasks that are known for it alone
    ignore_identical_ids: bool = False
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
    min_score: bool = False  # learned on these as well
    outside: Mapping[str, Path] | None = None  # name -> a TREC run, or a folder of TASK.trec
    against: str | None = None  # the system that others are compared with; None: BM25
    to: Path | None = None  # folder for the report, runs and qrels
    cache: Path | None = None


class Evaluator:
    """Evaluates tasks one after another; a corpus that several share is encoded once."""

    def __init__(
        self,
        cache: VectorCache | None,
        config: EvaluateConfig,
        show: Show = lambda what, done, of: None,
        sizes: BlockSizes | None = None,
    ) -> None:
        """cache None: BM25 and outside runs alone, without a model."""
        self.cache, self.config, self.show, self.sizes = cache, config, show, sizes
        self.encoder = None if cache is None else cache.encoder
        self.heads: tuple[Head, ...] = ()
        if self.encoder is not None:
            self.heads = config.heads or self.encoder.heads
            self.encoder.check(self.heads)
        self._corpus: Corpus | None = None
        self._made: dict[Hashable, Any] = {}

    def _once(self, corpus: Corpus, key: Hashable, make: Callable[[], T]) -> T:
        """What is made of a corpus, and kept until the next one comes."""
        if self._corpus is not corpus:
            self._corpus, self._made = corpus, {}
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def _read(self, corpus: Corpus) -> Passages:
        return self._once(corpus, "passages", lambda: Passages.read(corpus))

    def _model(self) -> VectorCache:
        if self.cache is None:
            raise InputError("this needs a model: name one")
        return self.cache

    def retrieval(
        self, task: Task, outside: Mapping[str, Run] | None = None
    ) -> tuple[TaskResult, dict[str, Run]]:
        """All systems on a task, measured, and their runs of up to 1,000 passages a query."""
        if not task.queries:
            raise InputError(f"{task.name} has no queries")
        protocol, result = self.config.of(task.protocol), _result(task, len(task.queries))
        with _timed(result, "read"):
            passages = self._read(task.corpus)
        result.passages = len(passages.ids)
        if self.config.bm25:
            bm25.check_memory(sum(passages.lengths) // CHARACTERS, task.name)
        told = ("query_tokens", "passage_tokens", "rerank", "union")
        result.protocol = {name: getattr(protocol, name) for name in told}
        if self.config.chunk:
            chunking = chunking_of(self.config.chunk)
            result.protocol |= {"passage_tokens": chunking.chunk, "overlap": chunking.overlap}
        ranked: dict[str, Ranked] = {}
        if self.cache is not None:
            scorers = self._scorers(task, protocol, passages, result)
            weights = self._weights(protocol, result)
            with _timed(result, "rank"):
                done = self._counter(f"{task.name}: ranking", 2 * len(task.queries))
                ranked |= rank(scorers, protocol, weights, done)
        if self.config.bm25:
            with _timed(result, "BM25"):
                ranked |= self._bm25(task, protocol, passages, result)
        relevant = [[p for p, gain in of.items() if gain > 0] for of in task.qrels.values()]
        absent = {passage for of in relevant for passage in of}.difference(passages.ids)
        if lacking := sum(not absent.isdisjoint(of) for of in relevant):
            result.notes.append(f"the corpus lacks relevant passages of {lacking} queries")
        runs = {
            name: Run.of(list(task.queries), passages.ids, hits.cut(DEPTH))
            for name, hits in ranked.items()
        }
        measured = runs | dict(outside or {})
        own = set(task.queries).intersection(passages.ids)
        if task.ignore_identical_ids or self.config.ignore_identical_ids:
            measured = {name: run.without_own() for name, run in measured.items()}
            if own:
                result.notes.append(f"{len(own)} queries are passages too: no hits of themselves")
        elif same := _found_themselves(task, own):
            result.notes.append(
                f"{same} queries are passages too and find themselves: --ignore-identical-ids "
                "leaves these hits out"
            )
        with _timed(result, "measure"):
            result.values = measure(task, measured, protocol.measures)
        return result, {name: measured[name] for name in runs}

    def bitext(self, task: Bitext) -> TaskResult:
        """Accuracy in both directions of every system; each side is compared with all others."""
        encoder = self._model().encoder
        result = _result(task, len(task.left))
        result.passages = len(task.left)
        result.max_length = min(self.config.max_length or MAX_LENGTH, encoder.max_length)
        options = EncodeOptions(self.heads, result.max_length, "plain")
        with _timed(result, "encode"):
            left, right = (self._encode(task.name, of, options) for of in (task.left, task.right))
        weights = self._weights(Protocol(), result)
        with _timed(result, "rank"):
            to_right, to_left = best_of(left, right, weights), best_of(right, left, weights)
        result.values = {
            name: bitext_accuracy(task, to_right[name], to_left[name]) for name in to_right
        }
        return result

    def tune(self, *suites: Iterable[Task], min_score: bool = False) -> Tuned:
        """The weights best on suites of dev tasks, each counting alike, by nDCG@10 of all heads.

        min_score: with the least score of an answer, over all questions.
        """
        encoder = self._model().encoder
        if len(self.heads) < 2:
            raise InputError(f"{self.heads[0]} alone is evaluated: there is nothing to weigh")
        dev = [{task.name: self._candidates(task) for task in tasks} for tasks in suites]
        tuned = tune(dev, encoder.weights)
        if min_score:
            tasks = [task for suite in dev for task in suite.values()]
            least, refused = least_score(tasks, tuned.weights)
            tuned = replace(tuned, min_score=least, refused=refused)
        return tuned

    def _candidates(self, task: Task) -> Candidates:
        protocol, passages = self.config.of(task.protocol), self._read(task.corpus)
        scorers = self._scorers(task, protocol, passages, _result(task, 0))
        ignore = task.ignore_identical_ids or self.config.ignore_identical_ids
        task = replace(task, ignore_identical_ids=ignore)
        return candidates_of(task, scorers, passages.ids, protocol)

    def _scorers(
        self, task: Task, protocol: Protocol, passages: Passages, result: TaskResult
    ) -> Scorers:
        """The model's scores of a task; what they took and cut goes into the result."""
        cache = self._model()
        encoder = cache.encoder
        if self.heads == ("multi",):
            raise InputError("multi alone finds no candidates: take dense or sparse with it")
        corpus, chunk = task.corpus, self.config.chunk
        owners, limit = None, min(protocol.passage_tokens, encoder.max_length)
        if chunk:
            chunking = chunking_of(chunk, encoder)
            done = self._counter(f"{task.name}: cutting", len(passages.ids))
            with _timed(result, "cut"):
                cut = partial(cut_corpus, passages, encoder, chunking, cache.folder, done)
                passages, owners = self._once(corpus, chunking, cut)
            # what a model wants before a passage comes on top of a chunk
            limit = encoder.max_length
            result.chunk, result.chunks = chunk, len(passages.ids)
        stored = self.heads
        if "multi" in self.heads:
            tokens = np.minimum(np.frombuffer(passages.lengths, np.int64) / CHARACTERS, limit).sum()
            if tokens * encoder.dims["multi"] * 2 > 1e9 * self.config.multi_gb:
                stored = tuple(head for head in self.heads if head != "multi")
                result.notes.append("multi-vectors of candidates only, encoded again")
        options = EncodeOptions(stored, limit, "passage", self.config.mcls)
        what = f"{task.name}: {'chunks' if chunk else 'passages'}"
        done_passages = self._counter(what, len(passages.ids))
        with _timed(result, "encode passages"):
            texts = (text for _, text in passages.corpus.read())
            encode = partial(cache.encode, texts, passages.digest, options, done_passages)
            vectors = self._once(corpus, (chunk, options), encode)
        of_queries = EncodeOptions(
            self.heads, min(protocol.query_tokens, encoder.max_length), "query"
        )
        query_texts = list(task.queries.values())
        if task.prompts:
            of_queries, prefix = replace(of_queries, role="plain"), encoder.settings.query_prefix
            query_texts = [
                task.prompts.get(key, prefix) + text for key, text in task.queries.items()
            ]
        with _timed(result, "encode queries"):
            queries = self._encode(f"{task.name}: queries", query_texts, of_queries)
        multi = None
        if stored != self.heads:
            multi = streamed_maxsim(
                cache, passages.corpus, replace(options, heads=("multi",)), queries,
                lambda done: self.show(f"{task.name}: MaxSim", done, None),
            )  # fmt: skip
        result.max_length = chunk or limit
        result.cut = {"passages": _share_cut(vectors), "queries": _share_cut(queries)}
        if owners is not None and vectors.truncated is not None:  # passages with such a chunk
            of_passages = np.logical_or.reduceat(vectors.truncated, owners.bounds[:-1])
            result.cut["passages"] = float(np.mean(of_passages))
        return Scorers.of(queries, vectors, encoder.device, multi, owners, self.sizes)

    def _encode(self, what: str, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        done = self._counter(what, len(texts))
        return self._model().encode(texts, digest_of(texts), options, done)

    def _counter(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            self.show(what, done, total)

        return more

    def _weights(self, protocol: Protocol, result: TaskResult) -> tuple[Weights, Weights]:
        """Of dense+sparse and of all; the result tells them and where they come from."""
        encoder = self._model().encoder
        two = None
        if self.config.weights is not None:
            three, source = self.config.weights, self.config.weights_from
        elif protocol.three is not None:
            two, three = protocol.two, protocol.three
            source = "the paper, for this kind of text"
        else:
            own = encoder.settings.weights is not None
            three, source = encoder.weights, "the model" if own else "the paper, for MIRACL"
        if two is None:
            two = replace(three if three.dense or three.sparse else Weights(1, 1, 0), multi=0.0)
        result.weights = {"two": two.as_tuple(), "three": three.as_tuple(), "from": source}
        return two, three

    def _bm25(
        self, task: Task, protocol: Protocol, passages: Passages, result: TaskResult
    ) -> dict[str, Ranked]:
        """BM25 on words, on the model's subwords, and on what the model read where that is less."""
        terms: dict[str, bm25.Terms] = {BM25: Words()}
        limits: dict[str, int | None] = {"": None}
        if self.encoder is not None:
            tokenizer = self.encoder.tokenizer
            terms = {BM25: Words(tokenizer), BM25_PIECES: Subwords(tokenizer)}
            if result.cut.get("passages") and not self.config.chunk:
                limits[CUT] = min(protocol.passage_tokens, self.encoder.max_length)
        out = {}
        for behind, limit in limits.items():
            for name, of in terms.items():
                self.show(f"{task.name}: {name}{behind}", 0, None)
                texts = (text for _, text in passages.corpus.read())
                make = partial(bm25.index, texts, of, max_tokens=limit)
                index = self._once(passages.corpus, (name, limit), make)
                queries = index.queries(task.queries.values())
                ranker = SparseRanker(queries, index.weights, len(passages.ids))
                out[name + behind] = ranker.top(np.arange(len(task.queries)), DEPTH)
        return out


def _result(task: Task | Bitext, queries: int) -> TaskResult:
    result = TaskResult(task.name, task.suite, task.language, queries=queries)
    if isinstance(task, Bitext):
        result.kind = "bitext"
    else:
        result.languages, result.texts = task.languages, task.queries
        result.source, result.notes = task.source, list(task.notes)
    return result


def _found_themselves(task: Task, own: set[str]) -> int:
    """How many queries stand as passages under their own id, and are not judged relevant."""
    texts = {q: task.queries[q].split() for q in own if task.qrels.get(q, {}).get(q, 0) <= 0}
    passages = task.corpus.read() if texts else ()
    return sum(
        " ".join(texts[key]) in " ".join(text.split()) for key, text in passages if key in texts
    )


def _share_cut(vectors: Embeddings) -> float:
    return 0.0 if vectors.truncated is None else float(np.mean(vectors.truncated))


@contextmanager
def _timed(result: TaskResult, name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    result.seconds[name] = round(time.perf_counter() - began, 2)


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
    readings = _readings(encoder, plan, config)
    if plan.tune and len(readings) > 1:
        raise InputError("weights are tuned at one length or size of chunks: give one")
    tasks = [
        task
        for suite in plan.suites
        for task in load(suite, local=plan.local, languages=plan.languages)
    ]
    dev_suites = [_dev_tasks(suite, plan.local) for suite in plan.tune]
    dev = [task for suite in dev_suites for task in suite]
    for several in (tasks, dev):
        names = [task.name for task in several]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"two tasks are named {twice[0]}: rename a folder or file, or evaluate them apart"
            )
    _refuse_mixed(tasks, dev)
    outside = _outside_runs(plan.outside or {}, tasks)
    cache = None
    if encoder is not None:
        cache = VectorCache((plan.cache or default_cache()) / "evaluate", encoder)
    evaluator = Evaluator(cache, config, show)
    against = _check(evaluator, [*tasks, *dev], plan, chunked=bool(readings[0].chunk))
    tuned = None
    if dev:
        evaluator.config = readings[0]
        tuned = evaluator.tune(*dev_suites, min_score=plan.min_score)
        readings = [replace(readings[0], weights=tuned.weights, weights_from=str(tuned))]
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
                    _write_runs(plan.to, task, runs, _label(reading, readings))
            if plan.to is not None:
                write_values(plan.to, result)
            results.append(result)
            told(result)
        # what is measured so far stays, whatever happens to the next
        made = report(
            results,
            model=None if encoder is None else _facts(encoder),
            settings=_settings(readings, plan, tuned),
            against=against if task is tasks[-1] else None,
            seconds=time.monotonic() - began,
        )
        if plan.to is not None:
            _write_report(plan.to, made)
    return made


def _readings(
    encoder: Encoder | None, plan: EvaluatePlan, config: EvaluateConfig
) -> list[EvaluateConfig]:
    """Whole passages at each length, then chunks of each size."""
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
    evaluator: Evaluator, tasks: Sequence[Task | Bitext], plan: EvaluatePlan, *, chunked: bool
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
    for task in tasks:
        if isinstance(task, Task):
            check_task(task, config.of(task.protocol).measures)
        elif evaluator.encoder is None or chunked:
            raise InputError(
                f"{task.name}: translations need a model, and are not cut into chunks: ask for 0 "
                "tokens too"
            )
    return plan.against or (BM25 if config.bm25 else systems[0])


def _settings(
    readings: Sequence[EvaluateConfig], plan: EvaluatePlan, tuned: Tuned | None
) -> dict[str, Any]:
    settings = asdict(readings[0])
    del settings["weights_from"]
    weights = readings[0].weights
    settings["weights"] = None if weights is None else list(weights.as_tuple())
    lengths = [reading.max_length for reading in readings if not reading.chunk] or [None]
    chunks = list(dict.fromkeys(reading.chunk for reading in readings))
    settings["max_length"] = lengths if len(lengths) > 1 else lengths[0]
    settings["chunk"] = chunks if len(chunks) > 1 else chunks[0]
    made = tuned and asdict(tuned) | {"weights": settings["weights"]}
    return settings | {"suites": list(plan.suites), "tuned": made}


def _dev_tasks(suite: str, local: Path | None) -> list[Task]:
    out = []
    for task in load(suite, local=local):
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


def _outside_runs(
    outside: Mapping[str, Path], tasks: Sequence[Task | Bitext]
) -> dict[str, dict[str, Run]]:
    """Task -> name -> run. A file is of the only task; a folder holds TASK.trec or TASK.trec.gz."""
    names = [task.name for task in tasks if isinstance(task, Task)]
    out: dict[str, dict[str, Run]] = {task: {} for task in names}
    for name, path in outside.items():
        expected = ", ".join(f"{file_name(task)}.trec" for task in names[:3])
        if not path.is_dir():
            if len(names) != 1:
                raise InputError(
                    f"{path} is one run, but there are {len(names)} tasks: give a folder of "
                    f"{expected}"
                )
            out[names[0]][name] = read_run(path)
            continue
        for task in names:
            for file in (path / f"{file_name(task)}.trec", path / f"{file_name(task)}.trec.gz"):
                if file.exists():
                    out[task][name] = read_run(file)
        if not any(name in runs for runs in out.values()):
            raise InputError(f"{path} holds no run of any task: expected {expected} or the like")
    return out


def _write_runs(folder: Path, task: Task, runs: Mapping[str, Run], label: str) -> None:
    """Writes runs/SYSTEM/TASK.trec.gz and qrels/TASK.qrels."""
    name = file_name(task.name)
    for system, run in runs.items():
        path = folder / "runs" / f"{file_name(system)}{label}" / f"{name}.trec.gz"
        write_run(path, run, f"tercet-{file_name(system).replace('+', '-')}")
    if task.qrels:
        write_qrels(folder / "qrels" / f"{name}.qrels", task.qrels)


def _write_report(folder: Path, made: Mapping[str, Any]) -> None:
    from tercet.evaluate.report import page

    plain = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    for name, text in (("report.json", plain), ("report.html", page(made))):
        with atomic_write(folder / name) as file:
            file.write(text.encode("utf-8", "backslashreplace"))


def _facts(encoder: Encoder) -> dict[str, Any]:
    return {
        "source": encoder.source,
        "fingerprint": encoder.fingerprint,
        "heads": list(encoder.heads),
        "dtype": encoder.dtype,
        "device": encoder.device,
        "max_length": encoder.max_length,
    }
