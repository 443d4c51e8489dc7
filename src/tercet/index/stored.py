"""What the embedded backends share: rows in a RowStore; find candidates, rescore, rank.

A backend says how the first stage finds rows and what else must happen when rows come, go, are
flushed or optimised. Every score comes from the row store, so every backend gives the same one.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from tercet.config import PAPER_WEIGHTS, Head, Mode, Weights
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index.base import DEFAULT_CANDIDATES, Filter, Ids, IndexSpec
from tercet.index.checks import check_batch, check_filter, check_ids, check_search
from tercet.index.rescore import Parts, rank, score
from tercet.index.store import Positions, RowStore
from tercet.records import IndexHit, Payload, Scalar
from tercet.scores import weighted_sum

Serials = npt.NDArray[np.uint64]
Choices = dict[str, list[Scalar]]


class StoredIndex:
    """An `Index` over a RowStore; calls from several threads wait for each other."""

    def __init__(self, path: Path, spec: IndexSpec) -> None:
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

    # The protocol, as documented in base.Index.

    def add(
        self, ids: Ids, embeddings: Embeddings, payloads: Sequence[Payload] | None = None
    ) -> None:
        batch = check_batch(self.spec, ids, embeddings, payloads)
        with self._turn:
            self._check_open()
            if len(batch.ids):
                self._changing()
                self._removed(self._store.append(batch, self._added))

    def delete(self, ids: Ids) -> int:
        wanted = check_ids(ids)
        with self._turn:
            self._check_open()
            self._changing()
            serials = self._store.remove(wanted)
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
        used = check_search(self.spec, queries, k, mode, candidates)
        choices = check_filter(filter)
        legs, scored = _plan(mode, used.heads)
        with self._turn:
            self._check_open()
            if candidates is None:
                every = np.flatnonzero(self._store.matching(choices))
                rows = [every] * len(used)
            else:
                rows = self._candidates(used, legs, max(k, candidates), choices)
            return [
                self._hits(only(used[place : place + 1], scored), positions, mode, weights, k)
                for place, positions in enumerate(rows)
            ]

    def _hits(
        self, query: Embeddings, positions: Positions, mode: Mode, weights: Weights, k: int
    ) -> list[IndexHit]:
        parts: Parts = score(self._store, query, positions) if len(positions) else {}
        if not parts or (mode != "hybrid" and mode not in parts):
            return []  # no row to score, or an empty sparse query
        if mode == "sparse":  # a row that shares no token is no answer
            shared = parts["sparse"] > 0
            positions, parts = positions[shared], {"sparse": parts["sparse"][shared]}
        total = weighted_sum(parts, weights) if mode == "hybrid" else parts[mode]
        return rank(self._store.ids[positions], parts, total, k)

    def __len__(self) -> int:
        with self._turn:
            self._check_open()
            return int(self._store.live.sum())

    def ids(self) -> npt.NDArray[np.uint64]:
        with self._turn:
            self._check_open()
            return np.sort(self._store.ids[self._store.live])

    def flush(self) -> None:
        with self._turn:
            self._check_open()
            if self._changed:
                self._before_commit()
                self._store.commit()
                self._after_commit()
                self._changed = False

    def optimize(self) -> None:
        with self._turn:
            self.flush()
            self._store.compact()

    def sizes(self) -> dict[str, int]:
        with self._turn:
            self._check_open()
            return self._store.sizes()

    def close(self) -> None:
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


def _plan(mode: Mode, heads: Sequence[Head]) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """Which heads find rows, and which score them."""
    if mode == "hybrid":
        return tuple(head for head in heads if head != "multi"), tuple(heads)
    if mode == "multi":
        return ("dense",), ("dense", "multi")
    return (mode,), (mode,)


def only(query: Embeddings, heads: Sequence[Head]) -> Embeddings:
    """A query with some of its heads."""
    return Embeddings(
        dense=query.dense if "dense" in heads else None,
        sparse=query.sparse if "sparse" in heads else None,
        multi=query.multi if "multi" in heads else None,
        offsets=query.offsets if "multi" in heads else None,
        fingerprint=query.fingerprint,
    )
