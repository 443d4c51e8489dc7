"""Evaluates a model, BM25 and outside runs on tasks: texts to vectors to rankings to measures.

The join of encoder and evaluation. Knows nothing of suites' files or of how a report looks.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from tercet import bm25
from tercet.bm25 import Pieces, Words
from tercet.config import MAX_LENGTH, Head, Weights
from tercet.documents.chunks import Chunking
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.chunked import Cut, chunking_of, cut_corpus
from tercet.evaluate.columns import DEPTH, Owners, Scorers, both_ways, cut, rank
from tercet.evaluate.encoding import Cache, Digest, Settings, digest_of
from tercet.evaluate.measures import bitext_accuracy, check_measures, measure
from tercet.evaluate.pairscores import Streamed
from tercet.evaluate.results import BM25, BM25_PIECES, CUT, TaskResult
from tercet.evaluate.tasks import Bitext, Corpus, Protocol, Task
from tercet.evaluate.trec import Run, lacking
from tercet.evaluate.tuning import Candidates, Tuned, candidates, tune
from tercet.hybrid import Ranked, SparseRanker

Show = Callable[[str, int, int | None], None]  # what is done, how much, of how much
PROTOCOL = ("query_tokens", "passage_tokens", "rerank", "union")  # told in a report
TOKEN = 4  # characters of one, about: only to guess what multi-vectors and BM25 would take


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and how; None leaves it to the suite's protocol or to the model."""

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
        given = {
            "measures": self.measures,
            "query_tokens": self.query_length,
            "passage_tokens": self.max_length,
            "rerank": self.rerank,
            "union": self.union,
        }
        return replace(protocol, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


@dataclass
class _Passages:
    """A corpus as it was read last: ids, sizes, and what was made of its texts."""

    corpus: Corpus
    ids: list[str]
    lengths: "array[int]"  # characters of each passage
    digest: Digest
    vectors: dict[tuple[int, Settings], Embeddings]  # by chunk size
    cuts: dict[Chunking, Cut]
    baselines: dict[tuple[bool, int | None], bm25.Index]  # by pieces or words, and tokens read


class Evaluator:
    """Evaluates tasks one after another; a corpus that several share is encoded once."""

    def __init__(
        self,
        encoder: Encoder | None,
        config: EvaluateConfig,
        cache: Cache | None,
        show: Show = lambda what, done, of: None,
    ) -> None:
        """encoder None: BM25 and outside runs alone."""
        self.encoder, self.config, self.show = encoder, config, show
        self.cache = cache
        wanted = config.heads or (() if encoder is None else encoder.heads)
        if encoder is not None and (absent := [h for h in wanted if h not in encoder.heads]):
            raise InputError(
                f"the model has no {absent[0]} head: it has {', '.join(encoder.heads)}"
            )
        self.heads = () if encoder is None else wanted
        self._passages: _Passages | None = None

    def retrieval(
        self, task: Task, outside: Mapping[str, Run] | None = None
    ) -> tuple[TaskResult, dict[str, Run]]:
        """All columns of a task, measured, and their runs of up to 1,000 passages a query."""
        if not task.queries:
            raise InputError(f"{task.name} has no queries")
        if self.heads == ("multi",):
            raise InputError("multi alone finds no candidates: take dense or sparse with it")
        seconds: dict[str, float] = {}
        protocol = self.config.of(task.protocol)
        with _timed(seconds, "read"):
            passages = self._read(task.corpus)
        if not passages.ids:
            raise InputError(f"{task.name}: its corpus has no passages")
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
            weights, source = self._weights(protocol)
            result.weights = _told(weights, source)
            with _timed(seconds, "rank"):
                done = _Counter(self.show, f"{task.name}: ranking", 2 * len(task.queries))
                ranked |= rank(scorers, protocol, weights, done)
        if self.config.bm25:
            with _timed(seconds, "BM25"):
                ranked |= self._bm25(task, protocol, passages, result)
        if absent := lacking(task.qrels, passages.ids):
            result.notes.append(f"the corpus lacks relevant passages of {len(absent)} queries")
        runs = {
            name: Run.of(list(task.queries), passages.ids, cut(found, DEPTH), tag=_tag(name))
            for name, found in ranked.items()
        }
        with _timed(seconds, "measure"):
            result.found = measure(task, runs | dict(outside or {}), protocol.measures)
        return result, runs

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
        return candidates(task, scorers, passages.ids, protocol)

    def bitext(self, task: Bitext) -> TaskResult:
        """Accuracy in both directions of every column; every side is compared with every other."""
        seconds: dict[str, float] = {}
        if self.encoder is None:
            raise InputError(f"{task.name}: bitext needs a model, since BM25 cannot translate")
        limit = self._limit(self.config.max_length or MAX_LENGTH)
        settings = Settings(self.heads, limit, "plain")
        with _timed(seconds, "encode"):
            both = (task.left, task.right)
            sides = [self._encode(task.name, side, settings) for side in both]
        weights, source = self._weights(Protocol())
        with _timed(seconds, "rank"):
            columns = both_ways(sides[0], sides[1], weights)
            found = {name: bitext_accuracy(task, *places) for name, places in columns.items()}
        size = len(task.left)
        return TaskResult(
            name=task.name,
            suite=task.suite,
            language=task.language,
            kind="bitext",
            passages=size,
            queries=size,
            max_length=limit,
            found=found,
            weights=_told(weights, source),
            seconds=seconds,
        )

    def _read(self, corpus: Corpus) -> _Passages:
        if self._passages is None or self._passages.corpus is not corpus:
            ids, lengths, digest = [], array("q"), Digest()
            for identifier, text in corpus.read():
                ids.append(identifier)
                lengths.append(len(text))
                digest.add(text)
            self._passages = _Passages(corpus, ids, lengths, digest, {}, {}, {})
        return self._passages

    def _limit(self, tokens: int) -> int:
        assert self.encoder is not None
        return min(tokens, self.encoder.max_length)

    def _scorers(
        self, task: Task, protocol: Protocol, passages: _Passages, result: TaskResult
    ) -> Scorers:
        """The model's scores of a task; what they took and cut goes into the result."""
        assert self.encoder is not None
        encoder, heads, size_of_chunk = self.encoder, self.heads, self.config.chunk
        texts_of: _Passages | Cut = passages
        owners, limit = None, self._limit(protocol.passage_tokens)
        if size_of_chunk:
            with _timed(result.seconds, "cut"):
                texts_of = chunks = self._cut(task, passages)
            # what a model wants before a passage comes on top of a chunk
            owners, limit = chunks.owners, encoder.max_length
            result.chunk, result.chunks = size_of_chunk, len(chunks.lengths)
        kept = heads
        if "multi" in heads:
            tokens = np.minimum(np.frombuffer(texts_of.lengths, np.int64) / TOKEN, limit).sum()
            size = tokens * encoder.dims["multi"] * 2
            if size > 1e9 * self.config.multi_gb:
                kept = tuple(head for head in heads if head != "multi")
                result.notes.append("multi-vectors of candidates only, encoded again")
        settings = Settings(kept, limit, "passage", self.config.mcls)
        with _timed(result.seconds, "encode passages"):
            vectors = self._vectors(task, passages, texts_of, settings)
        asked = Settings(heads, self._limit(protocol.query_tokens), "query")
        texts = list(task.queries.values())
        if task.prompts:
            asked, prefix = replace(asked, role="plain"), encoder.settings.query_prefix
            texts = [task.prompts.get(query, prefix) + text for query, text in task.queries.items()]
        with _timed(result.seconds, "encode queries"):
            queries = self._encode(f"{task.name}: queries", texts, asked)
        multi = None
        if kept != heads:
            streamed = Streamed(self._cache(), texts_of.corpus, replace(settings, heads=("multi",)))
            multi = streamed.scorer(
                queries, lambda done: self.show(f"{task.name}: MaxSim", done, None)
            )
        result.max_length = size_of_chunk or limit
        result.cut = {
            "passages": _share_cut(vectors, owners),
            "queries": _share_cut(queries),
        }
        return Scorers.of(queries, vectors, encoder.device, multi, owners)

    def _cut(self, task: Task, passages: _Passages) -> Cut:
        assert self.encoder is not None
        chunking = chunking_of(self.config.chunk, self.encoder)
        if chunking not in passages.cuts:
            counter = _Counter(self.show, f"{task.name}: cutting", len(passages.ids))
            passages.cuts[chunking] = cut_corpus(
                passages.corpus,
                passages.digest,
                self.encoder,
                chunking,
                self._cache().folder,
                counter,
            )
        return passages.cuts[chunking]

    def _vectors(
        self, task: Task, passages: _Passages, texts_of: "_Passages | Cut", settings: Settings
    ) -> Embeddings:
        key = (self.config.chunk, settings)
        if key not in passages.vectors:
            texts = (text for _, text in texts_of.corpus.read())
            what = "chunks" if self.config.chunk else "passages"
            counter = _Counter(self.show, f"{task.name}: {what}", len(texts_of.lengths))
            found = self._cache().encode(texts, texts_of.digest, settings, counter)
            passages.vectors = {key: found}  # of other lengths no more
        return passages.vectors[key]

    def _encode(self, what: str, texts: Sequence[str], settings: Settings) -> Embeddings:
        counter = _Counter(self.show, what, len(texts))
        return self._cache().encode(texts, digest_of(texts), settings, counter)

    def _cache(self) -> Cache:
        assert self.cache is not None
        return self.cache

    def _weights(self, protocol: Protocol) -> tuple[tuple[Weights, Weights], str]:
        """Of dense+sparse and of all, and where they come from."""
        assert self.encoder is not None
        if self.config.weights is not None:
            three, source = self.config.weights, self.config.weights_from
        elif protocol.two is not None and protocol.three is not None:
            return (protocol.two, protocol.three), "the paper, for this kind of text"
        else:
            three = self.encoder.weights
            own = self.encoder.settings.weights is not None
            source = "the model" if own else "the paper, for MIRACL"
        two = three if three.dense or three.sparse else Weights(1, 1, 0)
        return (replace(two, multi=0.0), three), source

    def _bm25(
        self, task: Task, protocol: Protocol, passages: _Passages, result: TaskResult
    ) -> dict[str, Ranked]:
        """BM25 on words, on the model's pieces, and on what the model read where it read less."""
        tokenizer = None if self.encoder is None else self.encoder.tokenizer
        wanted: dict[str, tuple[bool, int | None]] = {BM25: (False, None)}
        if tokenizer is not None:
            wanted[BM25_PIECES] = (True, None)
            if result.cut.get("passages") and not self.config.chunk:
                limit = self._limit(protocol.passage_tokens)
                wanted |= {BM25 + CUT: (False, limit), BM25_PIECES + CUT: (True, limit)}
        out = {}
        for name, key in wanted.items():
            if key not in passages.baselines:
                self.show(f"{task.name}: {name}", 0, None)
                pieces, tokens = key
                terms = Pieces(tokenizer) if pieces and tokenizer else Words(tokenizer)
                texts = (text for _, text in passages.corpus.read())
                passages.baselines[key] = bm25.index(texts, terms, max_tokens=tokens)
            made = passages.baselines[key]
            asked = made.queries(task.queries.values())
            ranker = SparseRanker(asked, made.weights, len(passages.ids))
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
        found={},
        seconds=seconds,
        languages=task.languages,
        source=task.source,
        notes=list(task.notes),
    )


def _share_cut(vectors: Embeddings, owners: Owners | None = None) -> float:
    """Of texts, or of passages of which a chunk was cut."""
    if vectors.truncated is None:
        return 0.0
    if owners is None:
        return float(np.mean(vectors.truncated))
    return float(np.mean(np.logical_or.reduceat(vectors.truncated, owners.bounds[:-1])))


class _Counter:
    """Adds up what is done, for a progress bar."""

    def __init__(self, show: Show, what: str, total: int | None) -> None:
        self.show, self.what, self.total, self.done = show, what, total, 0

    def __call__(self, more: int) -> None:
        self.done += more
        self.show(self.what, self.done, self.total)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - began, 2)


def _tag(column: str) -> str:
    """A column's name as the last word of a run's line."""
    return f"tercet-{column.replace(' ', '-').replace('+', '-')}"


def _told(weights: tuple[Weights, Weights], source: str) -> dict[str, object]:
    return {"two": weights[0].as_tuple(), "three": weights[1].as_tuple(), "from": source}
