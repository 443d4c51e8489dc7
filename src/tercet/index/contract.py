"""What every index does: rows of Embeddings under ids go in, exact scores and ranks come out.

The checks of what goes in and the ranking of what was scored are here; where rows are kept and how
candidates are found, in `base` (a folder) and `qdrant` (a server). Knows nothing of texts,
documents or models.
"""

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from tercet.config import MODES, PAPER_WEIGHTS, Head, Mode, Weights, check_count
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.hybrid import highest
from tercet.index.store import Floats, Ids, IndexSpec
from tercet.records import IndexHit, Payload, Scalar, Value
from tercet.scores import weighted_sum

# Rows per first-stage leg. Of the ten best by the whole sum over 120,000 chunks, 98%
# were found with 200, 95% with 100, 99% with 300 (benchmarks/search.py; the time grows in step).
DEFAULT_CANDIDATES = 200

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
Payloads = list[dict[str, Value]]
Records = Sequence[Mapping[str, Any]] | None
Progress = Callable[[int, int], None]  # rows done, of all


@dataclass(frozen=True)
class Asked:
    """What a search scores: the union of the best rows of each leg, under every head."""

    queries: Embeddings
    legs: tuple[Head, ...]
    heads: tuple[Head, ...]
    count: int | None  # rows of a leg; None: all there are
    choices: Choices


class VectorIndex(ABC):
    """Rows of dense, sparse and multi-vectors under u64 ids, searched by any of them or all.

    What `add` and `delete` did is seen by `search` at once and is durable when `flush` returns.
    """

    name: str  # of a folder or collection; a rebuilt one has another
    spec: IndexSpec
    keeps_records: ClassVar[bool] = False  # whether what is found can be told by the index alone

    def __init__(self, place: object, *, read_only: bool) -> None:
        self._place, self.read_only = place, read_only
        self._closed, self._pid = False, os.getpid()

    def _check_open(self, *, writing: bool = False) -> None:
        """Raises StoreError after `close`, in a fork, and for a change where it is read-only."""
        if self._closed:
            raise StoreError(f"{self._place}: this index was closed; open it again")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self._place} was opened in process {self._pid}, and this is a fork: open it here"
            )
        if writing and self.read_only:
            raise StoreError(f"{self._place} is open for reading alone")

    def add(
        self,
        ids: Iterable[int],
        embeddings: Embeddings,
        payloads: Sequence[Payload] | None = None,
        records: Records = None,
    ) -> None:
        """Stores one row per id, replacing a row of that id; all of the batch or nothing of it.

        embeddings must hold every head of the index (others are left out) and come from its
        model. payloads are what filters see; records, JSON objects, what an index that
        keeps_records can be asked for. Raises InputError where an id, a vector or a payload cannot
        be stored, StoreError where the embeddings are another model's or the disk is full.
        """
        checked = check_ids(ids)
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
        self._add(checked, rows, plain, records)

    @abstractmethod
    def delete(self, ids: Iterable[int]) -> int:
        """Removes rows and returns how many there were; ids that are not there are no error."""

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
        choices = check_filter(filter)
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
        count = None if candidates is None else max(k or 1, candidates)
        return [
            _hits(ids, parts, mode, weights, k)
            for ids, parts in self._scored(Asked(used, legs, scored, count, choices))
        ]

    @abstractmethod
    def _add(self, ids: Ids, rows: Embeddings, payloads: Payloads, records: Records) -> None:
        """Stores rows that were checked."""

    @abstractmethod
    def _scored(self, asked: Asked) -> list[tuple[Ids, Parts]]:
        """For each query ids (n,) and raw scores (n,) a head, those of which there are any."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def stored(self, ids: Iterable[int]) -> tuple[list[int], Embeddings]:
        """Those of these ids that are there, and what is stored of each, in the same order."""

    @abstractmethod
    def ids(self) -> Ids:
        """The ids of all rows, ascending."""

    @property
    def advice(self) -> str:
        """What would make its searches faster; empty where nothing is known."""
        return ""

    @abstractmethod
    def flush(self) -> None:
        """Makes all that was added and deleted durable before it returns."""

    @abstractmethod
    def optimize(self, *, growth: float = 0.0, progress: Progress | None = None) -> None:
        """Builds what makes search fast, and drops what was deleted."""

    @abstractmethod
    def verify(self) -> None:
        """Raises StoreError where something is damaged."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes by head, and "other" (ids, payloads, logs); empty where they are not known."""

    @abstractmethod
    def close(self) -> None:
        """Flushes and lets go; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _hits(ids: Ids, parts: Parts, mode: Mode, weights: Weights, k: int | None) -> list[IndexHit]:
    """The k best of some rows by their scores, (n,) a part."""
    if not parts or (mode != "hybrid" and mode not in parts):
        return []  # no row to score, or an empty sparse query
    total = weighted_sum(parts, weights) if mode == "hybrid" else parts[mode]
    best = highest(total, len(total) if k is None else k)
    if mode == "sparse":  # a row that shares no token is no answer
        best = best[total[best] > 0]
    best = best[np.lexsort((ids[best], -total[best]))][:k]
    return [
        IndexHit(
            id=int(ids[row]),
            score=float(total[row]),
            **{head: float(part[row]) for head, part in parts.items()},
        )
        for row in best
    ]


# Checks


def check_ids(ids: Iterable[int]) -> Ids:
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
        sparse = sparse.canonical()
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


def check_filter(filter: Filter | None) -> Choices:
    """A filter with every key's choices as a list; raises InputError for an empty choice."""
    choices: Choices = {}
    for key, given in (filter or {}).items():
        values = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
        if not values:
            raise InputError(f"the filter on {key!r} names no value")
        choices[key] = [_plain(key, value) for value in values]
    return choices
