"""What every index is: candidates of each leg, their union, exact scores from the rows, ranks.

An index keeps rows of Embeddings under u64 ids with a small payload each, and answers queries that
are Embeddings too. A backend says how the first stage finds rows; every score comes from the row
store, so every backend gives the same one. Rows, filters and queries pass every check before a
backend sees them: an engine that is given a bad batch may keep half of it. Knows nothing of texts,
tokens, documents or models.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from tercet.config import HEADS, MODES, PAPER_WEIGHTS, Head, Mode, Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.hybrid import highest
from tercet.index.store import (
    BACKENDS,
    DTYPES,
    Backend,
    Batch,
    Dtype,
    Floats,
    IndexSpec,
    Positions,
    RowStore,
    Serials,
)
from tercet.records import IndexHit, Payload, Scalar
from tercet.scores import maxsim_packed, weighted_sum

__all__ = ["BACKENDS", "DEFAULT_CANDIDATES", "DTYPES", "Backend", "Dtype", "Filter", "Index"]

# Rows per first-stage leg. Of the ten best by the whole sum over 120,000 chunks, 98%
# were found with 200, 95% with 100, 99% with 300 (benchmarks/search.py; the time grows in step).
DEFAULT_CANDIDATES = 200

ROWS_AT_ONCE = 4096  # of dense and sparse: a few MB
TOKENS_AT_ONCE = 1 << 12  # of multi: a float32 copy of them stays in a core's cache
ROWS_PER_TASK = 64  # fewer are not worth a second thread

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
Filter = Mapping[str, Scalar | Sequence[Scalar]]
Choices = dict[str, list[Scalar]]
Parts = dict[Head, Floats]


class Index:
    """Rows of dense, sparse and multi-vectors under u64 ids, searched by any of them or all.

    What `add` and `delete` did is seen by `search` at once and is durable when `flush` returns; a
    process that dies before that loses only what came after the last flush. Calls from several
    threads wait for each other.
    """

    def __init__(self, path: Path, spec: IndexSpec) -> None:
        """Use `create_index` or `open_index`."""
        self.path = path
        self.spec = spec
        self._store = RowStore(path, spec)
        self._turn = threading.RLock()
        self._closed = False
        self._changed = False  # since the last flush

    # What a backend adds.

    def _candidates(
        self, queries: Embeddings, legs: Sequence[Head], count: int, choices: Choices
    ) -> list[Positions]:
        """For each query the union of the `count` best rows of each leg, in any order."""
        raise NotImplementedError

    def _changing(self) -> None:
        """Called before rows come or go."""
        self._changed = True

    def _added(self, positions: Positions) -> None:
        """Called with new rows that do not count yet; raising refuses the batch."""

    def _removed(self, serials: Serials) -> None:
        """Called with rows that do not count any more."""

    def _before_commit(self) -> None:
        """Called before what changed is made to count."""

    def _after_commit(self) -> None:
        """Called when it is durable."""

    def _release(self) -> None:
        """Called once, before the folder is let go."""

    # What callers see.

    def add(
        self, ids: Ids, embeddings: Embeddings, payloads: Sequence[Payload] | None = None
    ) -> None:
        """Stores one row per id, replacing a row of that id; all of the batch or nothing of it.

        embeddings must hold every head of the index (others are left out) and come from its
        model. Raises InputError where an id, a vector or a payload cannot be stored, StoreError
        where the embeddings are another model's or the disk is full.
        """
        batch = _check_batch(self.spec, ids, embeddings, payloads)
        with self._turn:
            self._check_open()
            if len(batch.ids):
                self._changing()
                self._removed(self._store.append(batch, self._added))

    def delete(self, ids: Ids) -> int:
        """Removes rows and returns how many there were; ids that are not there are no error."""
        checked = _check_ids(ids)
        with self._turn:
            self._check_open()
            self._changing()
            serials = self._store.remove(checked)
            self._removed(serials)
            return len(serials)

    def search(
        self,
        queries: Embeddings,
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        weights: Weights = PAPER_WEIGHTS,
        candidates: int | None = DEFAULT_CANDIDATES,
        filter: Filter | None = None,
    ) -> list[list[IndexHit]]:
        """The k best rows for each query, best first, ties by the smaller id.

        dense, sparse: that leg alone, its raw score. multi: MaxSim over dense's candidates.
        hybrid: the weighted sum of the raw scores of all stored parts over the union of dense's
        and sparse's candidates, every part computed for every row of the union. A row that
        shares no token with the query is no sparse hit. candidates is per leg (at least k is
        taken); None scores every row. filter: payload key -> a value, or a list of which one
        must equal; every key must match; bool, number and string never equal each other.
        Raises InputError for a mode whose head is not stored or not in the queries.
        """
        used = _check_search(self.spec, queries, k, mode, candidates)
        choices = _check_filter(filter)
        legs: tuple[Head, ...] = tuple(head for head in used.heads if head != "multi")
        scored: tuple[Head, ...] = tuple(used.heads)
        if mode != "hybrid":
            legs = ("dense",) if mode == "multi" else (mode,)
            scored = ("dense", "multi") if mode == "multi" else (mode,)
        with self._turn:
            self._check_open()
            if candidates is None:
                found = [np.flatnonzero(self._store.matching(choices))] * len(used)
            else:
                found = self._candidates(used, legs, max(k, candidates), choices)
            return [
                self._hits(part_of(used, row, scored), positions, mode, weights, k)
                for row, positions in enumerate(found)
            ]

    def _hits(
        self, query: Embeddings, positions: Positions, mode: Mode, weights: Weights, k: int
    ) -> list[IndexHit]:
        """The k best of some rows, scored again by every part."""
        parts = score_rows(self._store, query, positions) if len(positions) else {}
        if not parts or (mode != "hybrid" and mode not in parts):
            return []  # no row to score, or an empty sparse query
        total = weighted_sum(parts, weights) if mode == "hybrid" else parts[mode]
        best = highest(total, k)
        if mode == "sparse":  # a row that shares no token is no answer
            best = best[total[best] > 0]
        ids = self._store.ids[positions[best]]
        best = best[np.lexsort((ids, -total[best]))][:k]
        return [
            IndexHit(
                id=int(self._store.ids[positions[row]]),
                score=float(total[row]),
                **{head: float(part[row]) for head, part in parts.items()},
            )
            for row in best
        ]

    def __len__(self) -> int:
        with self._turn:
            self._check_open()
            return int(self._store.live.sum())

    def ids(self) -> npt.NDArray[np.uint64]:
        """The ids of all rows, ascending."""
        with self._turn:
            self._check_open()
            return np.sort(self._store.ids[self._store.live])

    def flush(self) -> None:
        """Makes all that was added and deleted durable (fsync) before it returns."""
        with self._turn:
            self._check_open()
            if self._changed:
                self._before_commit()
                self._store.commit()
                self._after_commit()
                self._changed = False

    def optimize(self) -> None:
        """Builds what makes search fast and drops what was deleted; flushes first and last."""
        with self._turn:
            self.flush()
            self._store.compact()

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by head, and "other" (ids, payloads, logs)."""
        with self._turn:
            self._check_open()
            return self._store.sizes()

    def close(self) -> None:
        """Flushes and lets go of the folder; a second call does nothing."""
        with self._turn:
            if self._closed:
                return
            try:
                self.flush()
            finally:
                self._closed = True
                self._release()
                self._store.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: this index was closed; open it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def part_of(queries: Embeddings, row: int, heads: Sequence[Head]) -> Embeddings:
    """One query with some of its heads."""
    query = queries[row : row + 1]
    multi = "multi" in heads
    return replace(
        query,
        dense=query.dense if "dense" in heads else None,
        sparse=query.sparse if "sparse" in heads else None,
        multi=query.multi if multi else None,
        offsets=query.offsets if multi else None,
    )


# Scores of one query with chosen rows


def score_rows(store: RowStore, query: Embeddings, positions: Positions) -> Parts:
    """Raw scores of one query (B = 1) with rows, (n,) a part; only the parts both sides have."""
    heads = [head for head in HEADS if head in query.heads]
    if query.sparse is not None and query.sparse.nnz == 0:
        heads.remove("sparse")
    workers = _workers()
    pieces = max(1, min(workers.count, len(positions) // ROWS_PER_TASK))
    tasks = [
        lambda rows=rows, head=head: _SCORE[head](store, query, rows)
        for head in heads
        for rows in np.array_split(positions, pieces)
    ]
    done = workers.run(tasks)
    parts: Parts = {}
    for place, head in enumerate(heads):
        part = np.concatenate(done[place * pieces : (place + 1) * pieces])
        if not bool(np.isfinite(part).all()):
            raise StoreError(f"{store.path}: the {head} vectors are damaged: rebuild the index")
        parts[head] = part
    return parts


def _dense(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    assert query.dense is not None
    vector = torch.from_numpy(np.array(query.dense[0], dtype=np.float32))
    scores = [
        torch.mv(torch.from_numpy(store.dense(rows)), vector).numpy() for rows in _split(positions)
    ]
    return np.concatenate([np.empty(0, np.float32), *scores])


def _sparse(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    assert query.sparse is not None
    weights = query.sparse[[0]].toarray()[0].astype(np.float32)  # (V,)
    scores = [store.sparse(rows) @ weights for rows in _split(positions)]
    return np.concatenate([np.empty(0, np.float32), *scores])


def _multi(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    vectors = query.tokens(0)
    block = np.cumsum(store.token_counts(positions)) // TOKENS_AT_ONCE
    blocks = np.split(positions, np.flatnonzero(np.diff(block)) + 1)
    scores = [maxsim_packed(vectors, *store.tokens(rows)) for rows in blocks if len(rows)]
    return np.concatenate([np.empty(0, np.float32), *scores])


_SCORE = {"dense": _dense, "sparse": _sparse, "multi": _multi}


def _split(positions: Positions) -> list[Positions]:
    starts = range(0, len(positions), ROWS_AT_ONCE)
    return [positions[first : first + ROWS_AT_ONCE] for first in starts]


class _Workers:
    """As many threads as torch would use, each running its own kernels on one core.

    One OpenMP region over all cores is quick on an idle machine, but waits at its barrier for
    the slowest core: on a busy one MaxSim of 2,000 rows took 80 ms in one region over both cores
    and 16 ms here. Threads that share no barrier lose only what the other load takes.
    """

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        if self.count == 1:
            return
        started = threading.Barrier(self.count)

        def settle() -> None:
            torch.set_num_threads(1)  # of this thread, and the default of threads made later
            torch.get_num_threads()  # settles this thread's number before the default is put back
            started.wait()

        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="tercet-index")
        list(self._pool.map(lambda _: settle(), range(self.count)))
        torch.set_num_threads(self.count)

    def run(self, tasks: Sequence[Callable[[], Floats]]) -> list[Floats]:
        if self.count == 1:
            return [task() for task in tasks]
        return list(self._pool.map(lambda task: task(), tasks))


@cache
def _workers() -> _Workers:
    return _Workers()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_workers.cache_clear)


# Checks


def _check_ids(ids: Ids) -> npt.NDArray[np.uint64]:
    """Ids as a u64 array; raises InputError naming the first that is no integer of [0, 2**64)."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "u" and ids.ndim == 1:
        return ids.astype(np.uint64)
    for place, value in enumerate(ids):
        integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not integer or not 0 <= int(value) < 1 << 64:
            raise InputError(f"id {value!r} at place {place}: ids are integers of 0 to 2**64 - 1")
    return np.array([int(value) for value in ids], dtype=np.uint64)


def _check_batch(
    spec: IndexSpec, ids: Ids, embeddings: Embeddings, payloads: Sequence[Payload] | None
) -> Batch:
    """Checks a whole batch before any of it is stored; raises what `Index.add` promises."""
    checked = _check_ids(ids)
    values, counts = np.unique(checked, return_counts=True)
    if len(values) != len(checked):
        raise InputError(f"id {values[counts.argmax()]} stands twice in one batch")
    payloads = [{}] * len(checked) if payloads is None else payloads
    for name, given in (("embeddings", embeddings), ("payloads", payloads)):
        if len(given) != len(checked):
            raise InputError(f"{len(given)} {name} for {len(checked)} ids")
    missing = [head for head in spec.heads if head not in embeddings.heads]
    if missing:
        raise InputError(f"the index stores {missing[0]}, which these embeddings lack")
    stored = _check_vectors(spec, embeddings, "row")
    plain = []
    for owner, payload in zip(checked.tolist(), payloads, strict=True):
        for key in payload:
            if not isinstance(key, str) or not key or not _is_text(key):
                raise InputError(f"id {owner}: payload key {key!r} is no text")
        plain.append({k: _plain(v, f"id {owner}: payload {k!r}") for k, v in payload.items()})
    return Batch(checked, stored, plain)


def _check_vectors(spec: IndexSpec, embeddings: Embeddings, what: str) -> Embeddings:
    """The stored heads of embeddings, sparse rows sorted and without zeros.

    Raises StoreError for another model's vectors, InputError for wrong sizes, values that are not
    finite (or not in float16's range), negative or repeated sparse entries, and texts without a
    token vector.
    """
    if embeddings.fingerprint != spec.fingerprint:
        raise StoreError(
            f"the index holds vectors of the model {spec.fingerprint!r}, not of "
            f"{embeddings.fingerprint!r}: use that model, or rebuild the index with this one"
        )
    dense = embeddings.dense if spec.dense else None
    multi = embeddings.multi if spec.multi else None
    offsets = embeddings.offsets if spec.multi else None
    for head, matrix, width in (("dense", dense, spec.dense), ("multi", multi, spec.multi)):
        if matrix is None:
            continue
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise InputError(f"{head} vectors of shape {matrix.shape}: the index stores {width}")
        if not _fits_float16(matrix):
            raise InputError(f"a {head} vector holds a value that is not finite in float16")
    if offsets is not None and len(offsets) > 1 and int(np.diff(offsets).min()) < 1:
        raise InputError(f"{what} {int(np.diff(offsets).argmin())} has no token vector")
    sparse = embeddings.sparse if spec.vocabulary else None
    if sparse is not None:
        if sparse.shape[1] != spec.vocabulary:
            raise InputError(
                f"sparse rows over {sparse.shape[1]} tokens: the index stores {spec.vocabulary}"
            )
        if not bool(np.isfinite(sparse.data).all()) or bool((sparse.data < 0).any()):
            raise InputError("a sparse row holds a weight that is negative or not finite")
        sparse = sparse.copy()
        sparse.eliminate_zeros()
        sparse.sort_indices()
        ends = sparse.indptr[1:-1]
        repeated = np.diff(sparse.indices) == 0
        repeated[ends[(ends > 0) & (ends < len(sparse.indices))] - 1] = False  # row borders
        if bool(repeated.any()):
            raise InputError("a sparse row names one token twice: add its weights up first")
    return Embeddings(
        dense=dense, sparse=sparse, multi=multi, offsets=offsets, fingerprint=spec.fingerprint
    )


def _fits_float16(matrix: npt.NDArray[Any]) -> bool:
    if matrix.dtype == np.float16:  # by its bits: NumPy's float16 arithmetic is slow
        return bool(((matrix.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.abs(matrix).max(initial=0.0) < 65520.0)  # what rounds to at most 65504; no NaN


def _plain(value: object, what: str) -> Scalar:
    """A value in the form filters compare: a float that is whole becomes an int."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or (isinstance(value, str) and _is_text(value)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        value = int(value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    raise InputError(f"{what}: {value!r} is no text, finite number of 64 bits, or bool")


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)  # lone surrogates have no bytes


def _check_filter(filter: Filter | None) -> Choices:
    """A filter with every key's choices as a list; raises InputError for an empty choice."""
    choices: Choices = {}
    for key, given in (filter or {}).items():
        several = isinstance(given, Sequence) and not isinstance(given, str)
        values: list[Any] = list(given) if several else [given]  # type: ignore[arg-type]
        if not values:
            raise InputError(f"the filter on {key!r} names no value")
        choices[key] = [_plain(value, f"the filter on {key!r}") for value in values]
    return choices


def _check_search(
    spec: IndexSpec, queries: Embeddings, k: int, mode: Mode, candidates: int | None
) -> Embeddings:
    """The queries' parts that this search uses; raises InputError for what cannot be searched."""
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    for name, value in (("k", k), ("candidates", candidates)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    needed: tuple[str, ...] = {"hybrid": (), "multi": ("dense", "multi")}.get(mode, (mode,))
    for head in needed:
        if head not in spec.heads:
            raise InputError(
                f"mode {mode} needs {head}, which this index does not store "
                f"(it has {', '.join(spec.heads)}): choose another mode, or rebuild it with {head}"
            )
        if head not in queries.heads:
            raise InputError(f"mode {mode} needs {head}, which the queries lack")
    used = _check_vectors(spec, queries, "query")
    if mode == "hybrid" and used.dense is None and used.sparse is None:
        raise InputError("a hybrid search needs dense or sparse queries")
    return used
