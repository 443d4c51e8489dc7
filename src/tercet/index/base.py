"""An index: candidates of each leg, their union, exact scores from the rows, ranks.

It keeps rows of Embeddings under u64 ids with a small payload each, and answers queries that are
Embeddings too. A graph finds the candidates among the rows that it was built over; the newest rows,
and all of a small index, are scored one by one. Every score comes from the rows. One process
writes, any number read: a reader sees the last flush. Knows nothing of texts, documents or models.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.hybrid import highest
from tercet.index.contract import (
    Asked,
    Choices,
    Parts,
    Payloads,
    Progress,
    Records,
    VectorIndex,
    check_ids,
)
from tercet.index.graph import Graph, GraphOptions, build_graph, verify_graph
from tercet.index.store import MANIFEST, Floats, Ids, IndexSpec, Positions, Rows, RowStore
from tercet.scores import TORCH, float32, matmul, maxsim_packed, threads

# A graph is asked for dense candidates where it holds so many eligible rows for each one it gives.
EXACT_ABOVE = 10
ROWS_AT_ONCE = 4096  # of dense and sparse: a few MB
TOKENS_AT_ONCE = 1 << 12  # of multi: a float32 copy of them stays in a core's cache
FILTERS = 16  # whose rows are kept: a byte for each of the graph, 8 for each other that passes
ROWS_PER_TASK = 64  # fewer are not worth a second thread

T = TypeVar("T")


@dataclass(frozen=True)
class _View:
    """A state of the rows, and the graph over those that it has."""

    rows: Rows
    graph: Graph | None = None
    places: Positions | None = None  # of the graph's serials among the rows, -1 where gone
    generation: int = 0  # of the rows that the places are of
    passing: dict[str, "_Eligible"] = field(init=False, default_factory=dict)  # by filter

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
        """The rows that a filter lets pass, kept for the next query with it."""
        name = json.dumps(choices, sort_keys=True)
        known = self.passing.get(name)
        if known is None:
            mask = self.rows.matching(choices)
            first = 0
            if self.graph is not None:
                first = int(np.searchsorted(self.rows.serials, self.graph.serials[-1], "right"))
            inside = self.inside(mask)
            known = _Eligible(inside, int(inside.sum()), first + np.flatnonzero(mask[first:]))
            if len(self.passing) >= FILTERS:
                self.passing.clear()
            self.passing[name] = known
        return known


@dataclass(frozen=True)
class _Eligible:
    """Rows that may be hits: (n,) which of the graph's, how many, and positions of the others."""

    inside: npt.NDArray[np.bool_]
    count: int
    others: Positions


class Index(VectorIndex):
    """Rows in a folder; a process that dies loses only what came after the last flush.

    Calls from several threads wait for each other. Opened read_only, it writes nothing, sees the
    last flush of whoever writes, waits for nobody, and threads search side by side.
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
        super().__init__(path, read_only=read_only)
        self.path, self.name, self.spec = path, path.name, spec
        self._options = options = options or GraphOptions()
        self._turn = threading.RLock()
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

    def _add(self, ids: Ids, rows: Embeddings, payloads: Payloads, records: Records) -> None:
        with self._writing() as store:
            if len(ids):
                store.append(ids, rows, payloads)
                self._changed = True
                self._view.passing.clear()

    def delete(self, ids: Iterable[int]) -> int:
        checked = check_ids(ids)
        with self._writing() as store:
            removed = store.remove(checked)
            self._changed = self._changed or removed > 0
            self._view.passing.clear()
            return removed

    def _scored(self, asked: Asked) -> list[tuple[Ids, Parts]]:
        with self._reading() as view:
            if asked.count is None:
                every = np.flatnonzero(view.rows.matching(asked.choices))
                positions = [every] * len(asked.queries)
            else:
                positions = self._candidates(view, asked, asked.count)
            return [
                (view.rows.ids[rows], score_rows(view.rows, asked.queries, n, asked.heads, rows))
                for n, rows in enumerate(positions)
            ]

    def _candidates(self, view: _View, asked: Asked, count: int) -> list[Positions]:
        """For each query the union of the `count` best rows of each leg, in any order."""
        rows, graph, places = view.rows, view.graph, view.places
        queries, legs, own = asked.queries, asked.legs, view.eligible(asked.choices)
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
                    if graph.has_dense and size * EXACT_ABOVE < own.count:
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
        checked = check_ids(ids)
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
        with self._reading() as view:
            return np.sort(view.rows.ids[view.rows.live])

    @property
    def advice(self) -> str:
        with self._reading() as view:
            return "" if view.graph is None else view.graph.advice

    def flush(self) -> None:
        """Makes all that was added and deleted durable (fsync) before it returns."""
        with self._writing() as store:
            if self._changed:
                store.commit()
                self._changed = False

    def optimize(self, *, growth: float = 0.0, progress: Progress | None = None) -> None:
        """Builds what makes search fast and drops what was deleted; flushes first and last.

        A graph is made where the rows outside it are more than are scored one by one as quickly,
        and than `growth` of those inside, or where it was made without usearch, which is here now;
        anew where a quarter of its rows is gone. progress(rows done, of all).
        """
        with self._writing() as store:
            self.flush()
            store.compact()
            self._view = view = _View.of(store, store.graph, self._options, self._view)
            count, alive = int(store.live.sum()), int(view.inside(store.live).sum())
            worn = view.graph is not None and alive < 0.75 * len(view.graph)
            damaged = store.graph != store.manifest.graph
            least = max(self._options.rows, growth * alive)
            lacking = view.graph is not None and view.graph.lacks_dense
            new = count - alive > least or worn or damaged or lacking
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
            self._check_open(writing=True)
            assert self._store is not None
            yield self._store


def _stamp(path: Path) -> tuple[int, ...]:
    """Differs where a file was replaced; empty where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return ()
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)


# Scores of one query with chosen rows


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
