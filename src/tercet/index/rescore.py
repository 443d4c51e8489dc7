"""Scores of one query against chosen rows of a store, on this process's cores.

Knows nothing of how the rows were chosen. Sums run in float32.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from tercet.config import HEADS, Head
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index.columns import Floats
from tercet.index.store import Positions, RowStore
from tercet.records import IndexHit
from tercet.scores import maxsim_packed

ROWS_AT_ONCE = 4096  # of dense and sparse: a few MB
TOKENS_AT_ONCE = 1 << 12  # of multi: a float32 copy of them stays in a core's cache
ROWS_PER_TASK = 64  # fewer are not worth a second thread

Parts = dict[Head, Floats]


def score(store: RowStore, query: Embeddings, positions: Positions) -> Parts:
    """Raw scores of one query (B = 1) with rows, (n,) a part; only the parts both sides have."""
    heads = [head for head in HEADS if head in query.heads]
    if query.sparse is not None and query.sparse.nnz == 0:
        heads.remove("sparse")
    workers = _workers()
    pieces = max(1, min(workers.count, len(positions) // ROWS_PER_TASK))
    tasks = [
        lambda rows=rows, head=head: _PARTS[head](store, query, rows)
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


def rank(ids: npt.NDArray[np.uint64], parts: Parts, total: Floats, k: int) -> list[IndexHit]:
    """The k best rows as hits, ties by the smaller id."""
    if len(total) > 4 * k:  # leave out what cannot be among them; equals of the last one stay
        floor = np.partition(total, len(total) - k)[len(total) - k]
        kept = np.flatnonzero(total >= floor)
        ids, total = ids[kept], total[kept]
        parts = {head: part[kept] for head, part in parts.items()}
    best = np.lexsort((ids, -total))[:k]
    return [
        IndexHit(
            id=int(ids[row]),
            score=float(total[row]),
            **{head: float(part[row]) for head, part in parts.items()},
        )
        for row in best
    ]


def top(scores: Floats, count: int) -> npt.NDArray[np.int64]:
    """Places of the `count` highest scores, in no order; of equals the first ones."""
    if len(scores) <= count:
        return np.arange(len(scores))
    floor = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > floor)
    return np.concatenate((above, np.flatnonzero(scores == floor)[: count - len(above)]))


def _dense(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    assert query.dense is not None
    vector = torch.from_numpy(np.array(query.dense[0], dtype=np.float32))
    blocks = _split(positions, ROWS_AT_ONCE)
    scores = [torch.mv(torch.from_numpy(store.dense(rows)), vector).numpy() for rows in blocks]
    return np.concatenate([np.empty(0, np.float32), *scores])


def _sparse(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    assert query.sparse is not None
    weights = query.sparse[[0]].toarray()[0].astype(np.float32)  # (V,)
    blocks = _split(positions, ROWS_AT_ONCE)
    scores = [store.sparse(rows) @ weights for rows in blocks]
    return np.concatenate([np.empty(0, np.float32), *scores])


def _multi(store: RowStore, query: Embeddings, positions: Positions) -> Floats:
    vectors = query.tokens(0)
    block = np.cumsum(store.token_counts(positions)) // TOKENS_AT_ONCE
    blocks = np.split(positions, np.flatnonzero(np.diff(block)) + 1)
    scores = [maxsim_packed(vectors, *store.tokens(rows)) for rows in blocks if len(rows)]
    return np.concatenate([np.empty(0, np.float32), *scores])


_PARTS = {"dense": _dense, "sparse": _sparse, "multi": _multi}


def _split(positions: Positions, count: int) -> list[Positions]:
    return [positions[first : first + count] for first in range(0, len(positions), count)]


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
