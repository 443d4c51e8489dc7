"""What every index is: one protocol and the parameters it is created with.

An index keeps rows of Embeddings under u64 ids with a small payload each, and answers queries
that are Embeddings too. Knows nothing of texts, tokens, documents or models.

The protocol, in short (`Index` below says the rest):

    create_index(path, backend="edge", *, heads, dims, dtype="float16", fingerprint) -> Index
    open_index(path, *, fingerprint=None, heads=None, dims=None, dtype=None) -> Index
    index.add(ids, embeddings, payloads=None) -> None            an id that is there is replaced
    index.delete(ids) -> int                                     how many were there
    index.search(queries, *, k=10, mode="hybrid", weights=PAPER_WEIGHTS,
                 candidates=DEFAULT_CANDIDATES, filter=None) -> list[list[IndexHit]]
    len(index); index.ids(); index.flush(); index.optimize(); index.close(); index.sizes()

`candidates` is the number of rows each first-stage leg (dense, sparse) brings; None scores every
row on every part. What `add` and `delete` did is seen by `search` at once and is durable when
`flush` returns; a process that dies before that loses only what came after the last flush.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, PAPER_WEIGHTS, Head, Mode, Weights, check_heads
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.records import IndexHit, Payload, Scalar

FORMAT = 1
# Rows per first-stage leg. Of the ten best by the whole sum over 120,000 chunks, 98%
# were found with 200, 95% with 100, 99% with 300 (benchmarks/search.py; the time grows in step).
DEFAULT_CANDIDATES = 200

Backend = Literal["edge", "exact"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Dtype = Literal["float16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
Filter = Mapping[str, Scalar | Sequence[Scalar]]


class Index(Protocol):
    """Rows of dense, sparse and multi-vectors under u64 ids, searched by any of them or all."""

    @property
    def spec(self) -> "IndexSpec":
        """What was fixed when the index was created."""
        ...

    @property
    def path(self) -> Path:
        """The folder of the index."""
        ...

    def add(
        self,
        ids: Ids,
        embeddings: Embeddings,
        payloads: Sequence[Payload] | None = None,
    ) -> None:
        """Stores one row per id, replacing a row of that id; all of the batch or nothing of it.

        embeddings must hold every head of the index (others are left out) and come from its
        model. Raises InputError where an id, a vector or a payload cannot be stored, StoreError
        where the embeddings are another model's or the disk is full.
        """
        ...

    def delete(self, ids: Ids) -> int:
        """Removes rows and returns how many there were; ids that are not there are no error."""
        ...

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
        ...

    def __len__(self) -> int: ...

    def ids(self) -> npt.NDArray[np.uint64]:
        """The ids of all rows, ascending."""
        ...

    def flush(self) -> None:
        """Makes all that was added and deleted durable (fsync) before it returns."""
        ...

    def optimize(self) -> None:
        """Builds what makes search fast and drops what was deleted; flushes first and last."""
        ...

    def close(self) -> None:
        """Flushes and lets go of the folder; a second call does nothing."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes on disk by head, and "other" (ids, payloads, logs)."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class IndexSpec:
    """What is fixed when an index is created, and kept in its index.json."""

    backend: Backend
    heads: tuple[Head, ...]  # what is stored; multi-vectors only rescore, so they need dense
    dense: int | None  # D, where dense is stored
    vocabulary: int | None  # V, where sparse is stored
    multi: int | None  # M, where multi is stored
    dtype: Dtype  # of dense and multi; sparse weights are float32
    fingerprint: str  # of the model whose vectors these are

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"unknown backend {self.backend!r}: choose from {', '.join(BACKENDS)}")
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}: choose from {', '.join(DTYPES)}")
        object.__setattr__(self, "heads", check_heads(tuple(self.heads)))
        if "multi" in self.heads and "dense" not in self.heads:
            raise InputError("multi-vectors rescore dense's candidates: store dense beside them")
        for head, name in zip(HEADS, ("dense", "vocabulary", "multi"), strict=True):
            size = getattr(self, name)
            if head not in self.heads:
                object.__setattr__(self, name, None)
            elif not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(f"storing {head} needs its size: give dims[{name!r}] >= 1")

    @staticmethod
    def of(
        backend: Backend,
        heads: Sequence[str],
        dims: Mapping[str, int],
        dtype: Dtype,
        fingerprint: str,
    ) -> "IndexSpec":
        """From the sizes of what a model gives; those of heads that are not stored do not count."""
        dense, vocabulary, multi = (dims.get(name) for name in ("dense", "vocabulary", "multi"))
        return IndexSpec(
            backend, check_heads(tuple(heads)), dense, vocabulary, multi, dtype, fingerprint
        )

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "heads": list(self.heads)}

    @staticmethod
    def from_json(facts: Any, where: Path) -> "IndexSpec":
        """Reads what `to_json` gave; raises StoreError naming the file where it cannot be that."""
        if not isinstance(facts, dict) or "format" not in facts:
            raise StoreError(f"{where} does not describe an index: rebuild the index")
        if facts["format"] != FORMAT:
            raise StoreError(
                f"{where}: index format {facts['format']}, this Tercet reads {FORMAT}: rebuild it"
            )
        try:
            return IndexSpec(**{key: value for key, value in facts.items() if key != "format"})
        except (TypeError, InputError) as error:
            raise StoreError(f"{where} is damaged ({error}): rebuild the index") from error
