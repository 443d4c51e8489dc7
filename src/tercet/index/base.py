"""An index: candidates of each leg, their union, exact scores from the rows, ranks.

It keeps rows of Embeddings under u64 ids with a small payload each, and answers queries that are
Embeddings too. A graph finds the candidates among the rows that it was built over; the newest rows,
and all of a small index, are scored one by one. Every score comes from the rows. One process
writes, any number read: a reader sees the last flush. Knows nothing of texts, documents or models.
"""

import math
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from tercet.config import MODES, PAPER_WEIGHTS, Head, Mode, Weights, check_count
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.hybrid import highest
from tercet.index.graph import Graph, GraphOptions, Progress, build_graph, verify_graph
from tercet.index.store import MANIFEST, Floats, Ids, IndexSpec, Positions, Rows, RowStore
from tercet.records import IndexHit, Payload, Scalar, Value
from tercet.scores import TORCH, float32, matmul, maxsim_packed, threads, weighted_sum

# Rows per first-stage leg. Of the ten best by the whole sum over 120,000 chunks, 98%
# were found with 200, 95% with 100, 99% with 300 (benchmarks/search.py; the time grows in step).
DEFAULT_CANDIDATES = 200

# A graph is asked for dense candidates where it holds so many eligible rows for each one it gives.
EXACT_ABOVE = 10
ROWS_AT_ONCE = 4096  # of dense and sparse: a few MB
TOKENS_AT_ONCE = 1 << 12  # of multi: a float32 copy of them stays in a core's cache
ROWS_PER_TASK = 64  # fewer are not worth a second thread

INTEGERS = range(-(1 << 63), 1 << 63)  # that a payload can hold

LEGS: dict[Mode, tuple[Head, ...]] = {
    "dense": ("dense",),
    "sparse": ("sparse",),
    "multi": ("dense",),
    "hybrid": ("dense", "sparse"),
}

Filter = Mapping[str, Scalar | Sequence[Scalar]]
Choices = dict[str, list[Scalar]]
Parts = dict[Head, Floats]
T = TypeVar("T")


@dataclass(frozen=True)
class _View:
    """A state of the rows, and the graph over those that it has."""

    rows: Rows
    graph: Graph | None = None
    places: Positions | None = None  # of the graph's serials among the rows, -1 where gone
    generation: int = 0  # of the rows that the places are of

    @staticmethod
    def of(rows: Rows, name: str, options: GraphOptions, before: "_View | None" = None) -> "_View":
        """The view of some rows; raises StoreError where the graph is damaged."""
        if not name:
            return _View(rows)
        generation = rows.manifest.generation
        graph = before.graph if before else None
        if graph is None or graph.folder.name != name:
            graph = Graph(rows.path / name, rows.spec, options)
        elif before and before.generation == generation:
            return replace(before, rows=rows)
        places = np.searchsorted(rows.serials, graph.serials)
        places[places == len(rows.serials)] = -1
        if len(rows.serials):
            places[rows.serials[places] != graph.serials] = -1
        return _View(rows, graph, places, generation)

    def inside(self, eligible: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(n,): which of the graph's rows are eligible, given (N,) of all rows."""
        if self.places is None or not len(eligible):
            return np.zeros(0 if self.graph is None else len(self.graph), dtype=np.bool_)
        return eligible[self.places] & (self.places >= 0)

    def eligible(self, choices: Choices) -> "_Eligible":
        """The rows that a filter lets pass."""
        mask = self.rows.matching(choices)
        first = 0
        if self.graph is not None:
            first = int(np.searchsorted(self.rows.serials, self.graph.serials[-1], "right"))
        inside = self.inside(mask)
        return _Eligible(inside, int(inside.sum()), first + np.flatnonzero(mask[first:]))

    @cached_property
    def living(self) -> "_Eligible":
        """All rows, of a view whose rows never change."""
        return self.eligible({})


@dataclass(frozen=True)
class _Eligible:
    """Rows that may be hits: (n,) which of the graph's, how many, and positions of the others."""

    inside: npt.NDArray[np.bool_]
    count: int
    others: Positions


class Index:
    """Rows of dense, sparse and multi-vectors under u64 ids, searched by any of them or all.

    What `add` and `delete` did is seen by `search` at once and is durable when `flush` returns; a
    process that dies before that loses only what came after the last flush. Calls from several
    threads wait for each other. Opened read_only, it writes nothing, sees the last flush of
    whoever writes, waits for nobody, and threads search side by side.
    """

    def __init__(
        self,
        path: Path,
        spec: IndexSpec,
        *,
        read_only: bool = False,
        options: GraphOptions | None = None,
    ) -> None:
        """Use `create_index` or `open_index`."""
        self.path, self.spec, self.read_only = path, spec, read_only
        self._options = options = options or GraphOptions()
        self._turn = threading.RLock()
        self._closed, self._pid = False, os.getpid()
        self._changed = False  # since the last flush
        self._store: RowStore | None = None
        if read_only:
            self._view, self._stamp = self._flushed(self._newest)
            return
        self._store = RowStore(path, spec)
        with ExitStack() as undo:
            undo.callback(self._store.close)
            try:
                self._view = _View.of(self._store, self._store.graph, options)
            except StoreError:  # damaged: rows are whole, and the graph is made again
                self._store.graph, self._view = "", _View(self._store)
                self.optimize()
            undo.pop_all()

    def _flushed(self, read: Callable[[], T]) -> tuple[T, tuple[int, ...]]:
        """What is read of the last flush, and the stamp of its manifest.

        It is read again where a writer flushed meanwhile, who removes what it replaced.
        """
        tries = 5
        while True:
            stamp = _stamp(self.path / MANIFEST)
            try:
                return read(), stamp
            except StoreError:
                tries -= 1
                if not tries or stamp == _stamp(self.path / MANIFEST):
                    raise

    def _newest(self, before: _View | None = None) -> _View:
        rows = Rows(self.path, self.spec, before.rows if before else None)
        return _View.of(rows, rows.manifest.graph, self._options, before)

    @contextmanager
    def _reading(self) -> Iterator[_View]:
        """The state that a call reads: the last flush, or with the writer what it has done."""
        if not self.read_only:
            with self._writing():
                yield self._view
            return
        self._check_open()
        stamp = _stamp(self.path / MANIFEST)
        # without a manifest the folder was removed, and what is mapped here is still whole
        if stamp not in ((), self._stamp) and self._turn.acquire(blocking=False):
            try:  # meanwhile the others read on
                self._view, self._stamp = self._flushed(lambda: self._newest(self._view))
            except StoreError:
                if _stamp(self.path / MANIFEST):
                    raise
            finally:
                self._turn.release()
        yield self._view

    # What callers see.

    def add(
        self,
        ids: Iterable[int],
        embeddings: Embeddings,
        payloads: Sequence[Payload] | None = None,
    ) -> None:
        """Stores one row per id, replacing a row of that id; all of the batch or nothing of it.

        embeddings must hold every head of the index (others are left out) and come from its
        model. Raises InputError where an id, a vector or a payload cannot be stored, StoreError
        where the embeddings are another model's or the disk is full.
        """
        checked = _check_ids(ids)
        payloads = [{}] * len(checked) if payloads is None else payloads
        different = len(np.unique(checked))
        if {different, len(embeddings), len(payloads)} != {len(checked)}:
            raise InputError(
                f"{len(embeddings)} embeddings and {len(payloads)} payloads for {len(checked)} "
                f"ids, {different} of them different: give one of each"
            )
        if lacking := [head for head in self.spec.heads if head not in embeddings.heads]:
            raise InputError(f"the index stores {lacking[0]}, which these embeddings lack")
        rows = _check_vectors(self.spec, embeddings)
        plain = [{key: _plain_value(key, value) for key, value in row.items()} for row in payloads]
        with self._writing() as store:
            if len(checked):
                store.append(checked, rows, plain)
                self._changed = True

    def delete(self, ids: Iterable[int]) -> int:
        """Removes rows and returns how many there were; ids that are not there are no error."""
        checked = _check_ids(ids)
        with self._writing() as store:
            removed = store.remove(checked)
            self._changed = self._changed or removed > 0
            return removed

    def search(
        self,
        queries: Embeddings,
        *,
        k: int | None = 10,
        mode: Mode = "hybrid",
        weights: Weights | Iterable[float] = PAPER_WEIGHTS,
        candidates: int | None = DEFAULT_CANDIDATES,
        filter: Filter | None = None,
    ) -> list[list[IndexHit]]:
        """The k best rows (None: all that were scored) for each query, best first, ties by id.

        dense, sparse: that leg alone, its raw score. multi: MaxSim over dense's candidates.
        hybrid: the weighted sum of the raw scores of all stored parts over the union of dense's
        and sparse's candidates, every part computed for every row of the union. A row that
        shares no token with the query is no sparse hit. candidates is per leg (at least k is
        taken); None scores every row. filter: payload key -> a value, or a list of which one
        must equal; every key must match; bool, number and string never equal each other.
        Raises InputError for a mode whose head is not stored or not in the queries.
        """
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
        k, weights = k if k is None else check_count("k", k), Weights.of(weights)
        if candidates is not None:
            candidates = check_count("candidates", candidates)
        choices = _check_filter(filter)
        used = _check_vectors(self.spec, queries)
        legs = tuple(head for head in LEGS[mode] if head in used.heads)
        scored = used.heads if mode == "hybrid" else tuple(dict.fromkeys((*legs, mode)))
        for head in (*LEGS[mode], mode) if mode != "hybrid" else ():
            if head not in self.spec.heads:
                raise InputError(
                    f"mode {mode} needs {head}, which this index does not store: choose another "
                    f"mode, or rebuild it with {head}"
                )
            if head not in used.heads:
                raise InputError(f"mode {mode} needs {head}, which the queries lack")
        if not legs:
            raise InputError("a hybrid search needs dense or sparse queries")
        with self._reading() as view:
            if candidates is None:
                positions = [np.flatnonzero(view.rows.matching(choices))] * len(used)
            else:
                positions = self._candidates(view, used, legs, max(k or 1, candidates), choices)
            hits = []
            for number, rows in enumerate(positions):
                parts = score_rows(view.rows, used, number, scored, rows)
                hits.append(_hits(view.rows, rows, parts, mode, weights, k))
            return hits

    def _candidates(
        self, view: _View, queries: Embeddings, legs: Sequence[Head], count: int, choices: Choices
    ) -> list[Positions]:
        """For each query the union of the `count` best rows of each leg, in any order."""
        rows, graph, places = view.rows, view.graph, view.places
        own = view.living if self.read_only and not choices else view.eligible(choices)
        out = []
        for number in range(len(queries)):
            scores = score_rows(rows, queries, number, legs, own.others)
            union = [_best(scores, own.others, count)]
            if graph is not None and places is not None and own.count:
                if "sparse" in legs:
                    terms, weights = _terms(queries, number)
                    union.append(places[graph.sparse(terms, weights, count, own.inside)])
                if "dense" in legs and queries.dense is not None:
                    size = count * len(graph) // own.count  # so that `count` are eligible, about
                    if size * EXACT_ABOVE < own.count:
                        near = graph.dense(queries.dense[number], size)
                        near = near[own.inside[near]][:count]
                    else:
                        near = places[:0]
                    if len(near) < min(count, own.count):  # few pass: each is scored
                        within = places[own.inside]
                        scores = score_rows(rows, queries, number, ("dense",), within)
                        union.append(_best(scores, within, count))
                    union.append(places[near])
            out.append(np.unique(np.concatenate(union)))
        return out

    def __len__(self) -> int:
        with self._reading() as view:
            return int(view.rows.live.sum())

    def stored(self, ids: Iterable[int]) -> tuple[list[int], Embeddings]:
        """Those of these ids that are there, and what is stored of each, in the same order."""
        checked = _check_ids(ids)
        with self._reading() as view:
            rows, heads = view.rows, self.spec.heads
            positions = np.flatnonzero(np.isin(rows.ids, checked) & rows.live)
            multi = offsets = None
            if "multi" in heads and len(positions):
                multi, offsets = rows.tokens(positions)
            return rows.ids[positions].tolist(), Embeddings(
                dense=rows.dense(positions) if "dense" in heads else None,
                sparse=rows.sparse(positions) if "sparse" in heads else None,
                multi=multi,
                offsets=offsets,
                fingerprint=self.spec.fingerprint,
            )

    def ids(self) -> Ids:
        """The ids of all rows, ascending."""
        with self._reading() as view:
            return np.sort(view.rows.ids[view.rows.live])

    def flush(self) -> None:
        """Makes all that was added and deleted durable (fsync) before it returns."""
        with self._writing() as store:
            if self._changed:
                store.commit()
                self._changed = False

    def optimize(self, *, growth: float = 0.0, progress: Progress | None = None) -> None:
        """Builds what makes search fast and drops what was deleted; flushes first and last.

        A graph is made where the rows outside it are more than are scored one by one as quickly,
        and than `growth` of those inside; anew where a quarter of its rows is gone. progress(rows
        done, of all).
        """
        with self._writing() as store:
            self.flush()
            store.compact()
            self._view = view = _View.of(store, store.graph, self._options, self._view)
            count, alive = int(store.live.sum()), int(view.inside(store.live).sum())
            worn = view.graph is not None and alive < 0.75 * len(view.graph)
            damaged = store.graph != store.manifest.graph
            least = max(self._options.rows, growth * alive)
            new = count - alive > least or worn or damaged
            if self.spec.backend == "graph" and new:
                store.graphs += 1
                name = f"graph-{store.graphs:06d}" if count > self._options.rows else ""
                before = None if worn else view.graph
                try:
                    if name:
                        build_graph(self.path / name, store, self._options, before, progress)
                except (OSError, RuntimeError) as error:
                    raise StoreError(
                        f"{self.path}: cannot write a graph ({error}); the index is whole, "
                        "and slower"
                    ) from error
                store.graph = name
                store.commit()
                store.sweep()
                self._view = _View.of(store, name, self._options)

    def verify(self) -> None:
        """Reads every byte of the last flush; raises StoreError naming what has changed on disk."""

        def read() -> None:
            rows = Rows(self.path, self.spec)
            rows.verify()
            if rows.manifest.graph:
                verify_graph(self.path / rows.manifest.graph)

        self._flushed(read)

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by head, and "other" (ids, payloads, logs)."""
        with self._reading() as view:
            sizes = view.rows.sizes()
            if view.graph is not None:
                for head in self.spec.heads:
                    sizes[head] += view.graph.sizes.get(head, 0)
            return sizes

    def close(self) -> None:
        """Flushes and lets go of the folder; a second call does nothing."""
        if self._pid != os.getpid():  # a fork has neither the lock nor what waits to be flushed
            return
        with self._turn:
            if self._closed:
                return
            try:
                if self._store is not None:
                    self.flush()
            finally:
                self._closed = True
                if self._store is not None:
                    self._store.close()

    @contextmanager
    def _writing(self) -> Iterator[RowStore]:
        """The writer, for one caller at a time; raises StoreError where this is a reader."""
        with self._turn:
            self._check_open()
            if self._store is None:
                raise StoreError(f"{self.path} is open for reading alone")
            yield self._store

    def _check_open(self) -> None:
        """Raises StoreError after `close`, and in a process that was forked since."""
        if self._closed:
            raise StoreError(f"{self.path}: this index was closed; open it again")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.path} was opened in process {self._pid}, and this is a fork: open it here"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _stamp(path: Path) -> tuple[int, ...]:
    """Differs where a file was replaced; empty where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)


# Scores of one query with chosen rows


def _hits(
    rows: Rows, positions: Positions, parts: Parts, mode: Mode, weights: Weights, k: int | None
) -> list[IndexHit]:
    """The k best of some rows by their scores, (n,) a part."""
    if not parts or (mode != "hybrid" and mode not in parts):
        return []  # no row to score, or an empty sparse query
    total = weighted_sum(parts, weights) if mode == "hybrid" else parts[mode]
    best = highest(total, len(total) if k is None else k)
    if mode == "sparse":  # a row that shares no token is no answer
        best = best[total[best] > 0]
    ids = rows.ids[positions[best]]
    best = best[np.lexsort((ids, -total[best]))][:k]
    return [
        IndexHit(
            id=int(rows.ids[positions[row]]),
            score=float(total[row]),
            **{head: float(part[row]) for head, part in parts.items()},
        )
        for row in best
    ]


def _best(parts: Parts, positions: Positions, count: int) -> Positions:
    """The `count` rows of the highest scores of each part; of equals the first ones."""
    union = [np.empty(0, dtype=np.int64)]
    for head, scores in parts.items():
        best = highest(scores, count)
        best = best[np.argsort(-scores[best], kind="stable")][:count]
        union.append(positions[best[scores[best] > 0] if head == "sparse" else best])
    return np.concatenate(union)


def _terms(queries: Embeddings, number: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Token ids of a query's sparse row, and their weights."""
    assert queries.sparse is not None
    span = slice(*queries.sparse.indptr[number : number + 2])
    return queries.sparse.indices[span], queries.sparse.data[span]


def score_rows(
    store: Rows, queries: Embeddings, number: int, heads: Sequence[Head], positions: Positions
) -> Parts:
    """Raw scores of one query with rows by some of its heads, (n,) a part.

    An empty sparse query has no sparse part.
    """
    if not len(positions):
        return {}
    score: dict[Head, Callable[[Positions], Floats]] = {}
    if "dense" in heads and queries.dense is not None:
        vector = float32(queries.dense[number])
        score["dense"] = lambda rows: matmul(store.dense(rows), vector)
    if "sparse" in heads and len((terms := _terms(queries, number))[0]):
        weights = np.zeros(store.spec.vocabulary or 0, dtype=np.float32)
        weights[terms[0]] = terms[1]
        score["sparse"] = lambda rows: store.sparse(rows) @ weights
    if "multi" in heads:
        vectors = queries.tokens(number)
        score["multi"] = lambda rows: maxsim_packed(vectors, *store.tokens(rows))
    workers = _workers()
    pieces = max(1, min(workers.count, len(positions) // ROWS_PER_TASK))
    blocks = np.array_split(positions, max(pieces, -(-len(positions) // ROWS_AT_ONCE)))
    tasks: list[tuple[Head, Positions]] = []
    for head in score:
        tasks += [(head, rows) for rows in blocks if head != "multi"]
    if "multi" in score:
        tokens = np.cumsum(store.token_counts(positions)) // TOKENS_AT_ONCE
        blocks = np.split(positions, np.flatnonzero(np.diff(tokens)) + 1)
        tasks += [("multi", rows) for rows in blocks]
    scores = workers.run(lambda task: score[task[0]](task[1]), tasks)
    parts: Parts = {}
    for head in score:
        part = [part for part, (of, _) in zip(scores, tasks, strict=True) if of == head]
        parts[head] = np.concatenate(part)
        if not bool(np.isfinite(parts[head]).all()):
            raise StoreError(f"{store.path}: the {head} vectors are damaged: rebuild the index")
    return parts


class _Workers:
    """As many threads as torch would use, each running its own kernels on one core; else one.

    One OpenMP region over all cores is quick on an idle machine, but waits at its barrier for
    the slowest core: on a busy one MaxSim of 2,000 rows took 80 ms in one region over both cores
    and 16 ms here. Threads that share no barrier lose only what the other load takes.
    """

    def __init__(self) -> None:
        self.count = threads() if TORCH else 1  # NumPy's threads are those of the process
        if self.count == 1:
            return
        import torch

        started = threading.Barrier(self.count)

        def settle() -> None:
            torch.set_num_threads(1)  # of this thread, and the default of threads made later
            torch.get_num_threads()  # settles this thread's number before the default is put back
            started.wait()

        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="tercet-index")
        list(self._pool.map(lambda _: settle(), range(self.count)))
        torch.set_num_threads(self.count)

    def run(
        self, work: Callable[[tuple[Head, Positions]], Floats], tasks: list[tuple[Head, Positions]]
    ) -> list[Floats]:
        return list(map(work, tasks) if self.count == 1 else self._pool.map(work, tasks))


_started = cache(_Workers)
_starting = threading.Lock()  # the first searches of several threads start them once


def _workers() -> _Workers:
    with _starting:
        return _started()


def _forget_workers() -> None:
    """A forked child has none of its parent's threads."""
    global _starting
    _starting = threading.Lock()
    _started.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


# Checks


def _check_ids(ids: Iterable[int]) -> Ids:
    try:
        return np.array([operator.index(id) for id in ids], dtype=np.uint64)
    except (TypeError, OverflowError) as error:
        raise InputError(f"ids are integers of 0 to 2**64 - 1: {error}") from error


def _check_vectors(spec: IndexSpec, embeddings: Embeddings) -> Embeddings:
    """The stored heads of embeddings, sparse rows sorted and without zeros.

    Raises StoreError for another model's vectors, InputError for wrong sizes, values that are not
    finite (or not in float16's range), negative weights, and texts without a token vector.
    """
    if embeddings.fingerprint != spec.fingerprint:
        raise StoreError(
            f"the index holds vectors of the model {spec.fingerprint!r}, not of "
            f"{embeddings.fingerprint!r}: use that model, or rebuild the index with this one"
        )
    dense = embeddings.dense if spec.dense else None
    sparse = embeddings.sparse if spec.vocabulary else None
    multi = embeddings.multi if spec.multi else None
    offsets = embeddings.offsets if spec.multi else None
    sizes = (("dense", dense, spec.dense), ("multi", multi, spec.multi))
    for head, matrix, size in (*sizes, ("sparse", sparse, spec.vocabulary)):
        if matrix is not None and matrix.shape[1] != size:
            raise InputError(f"{head} of size {matrix.shape[1]}: the index stores {size}")
    for head, matrix, _ in sizes:
        if matrix is not None and not _fits_float16(matrix):
            raise InputError(f"a {head} vector holds a value that is not finite in float16")
    if offsets is not None and (np.diff(offsets) < 1).any():
        raise InputError(f"text {int(np.diff(offsets).argmin())} has no token vector")
    if sparse is not None:
        if not bool(np.isfinite(sparse.data).all()) or bool((sparse.data < 0).any()):
            raise InputError("a sparse row holds a weight that is negative or not finite")
        sparse = sparse.copy()
        sparse.sum_duplicates()
        sparse.eliminate_zeros()
    return Embeddings(
        dense=dense, sparse=sparse, multi=multi, offsets=offsets, fingerprint=spec.fingerprint
    )


def _fits_float16(matrix: npt.NDArray[Any]) -> bool:
    if matrix.dtype == np.float16:  # by its bits: NumPy's float16 arithmetic is slow
        return bool(((matrix.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.abs(matrix).max(initial=0.0) < 65520.0)  # what rounds to at most 65504; no NaN


def _plain_value(key: str, value: object) -> Value:
    """As `_plain`, of a list each member."""
    return [_plain(key, part) for part in value] if isinstance(value, list) else _plain(key, value)


def _plain(key: str, value: object) -> Scalar:
    """A payload value in the form that filters compare: a float that is whole becomes an int."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer() and int(value) in INTEGERS:
        value = int(value)
    if isinstance(value, bool | str) or (isinstance(value, int) and value in INTEGERS):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InputError(f"{key!r} is {value!r}: no text, finite number of 64 bits, or bool")


def _check_filter(filter: Filter | None) -> Choices:
    """A filter with every key's choices as a list; raises InputError for an empty choice."""
    choices: Choices = {}
    for key, given in (filter or {}).items():
        values = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
        if not values:
            raise InputError(f"the filter on {key!r} names no value")
        choices[key] = [_plain(key, value) for value in values]
    return choices
