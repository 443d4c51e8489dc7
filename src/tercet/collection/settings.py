"""How a collection is made: its model, its chunks and its index, as recorded in its documents.

Knows nothing of folders, rows or queries.
"""

import re
from dataclasses import dataclass
from typing import Any, get_args

from tercet.collection.published import PublishedDocuments
from tercet.collection.store import DocumentStore
from tercet.collection.sync import Encodes
from tercet.config import Head, check_heads
from tercet.documents.chunks import Chunking
from tercet.errors import InputError, StoreError
from tercet.index.store import Backend, Dtype, IndexSpec

INDEX = r"index-\d{6}"  # names of folders


@dataclass(frozen=True)
class CollectionSettings:
    """What is recorded when a collection is made."""

    source: str | None  # where its model is loaded from; None: the one that comes with Tercet
    fingerprint: str  # of that model
    backend: Backend
    heads: tuple[Head, ...]
    dtype: Dtype
    chunk: int
    overlap: int
    late_chunking: bool
    multi_pool: int = 1  # multi-vectors of a chunk are merged to about one for so many
    index: str = "index-000001"  # the folder of its vectors

    @property
    def chunking(self) -> Chunking:
        return Chunking(self.chunk, self.overlap, self.late_chunking)

    def spec(self, encoder: Encodes) -> IndexSpec:
        """Of an index of these; raises InputError where the model has no such vectors."""
        if lacking := [head for head in self.heads if head not in encoder.heads]:
            raise InputError(
                f"the model {named(encoder.source)} has no {lacking[0]} head: store "
                f"{', '.join(encoder.heads)}"
            )
        return IndexSpec(
            fingerprint=encoder.fingerprint,
            backend=self.backend,
            heads=self.heads,
            dtype=self.dtype,
            **encoder.dims,
        )


def new_settings(encoder: Encodes, options: dict[str, Any]) -> CollectionSettings:
    """The settings of a collection that is made now; raises InputError for bad options."""
    usual = Chunking()
    chunk = options.get("chunk", min(usual.chunk, encoder.max_length))
    defaults: dict[str, Any] = {
        "backend": "graph",
        "heads": encoder.heads,
        "dtype": "float16",
        "chunk": chunk,
        "overlap": min(usual.overlap, chunk // 8),
        "late_chunking": usual.late,
    }
    settings = CollectionSettings(encoder.source, encoder.fingerprint, **{**defaults, **options})
    if settings.chunking.chunk > encoder.max_length:
        raise InputError(
            f"chunk is {settings.chunk} tokens, the model {named(encoder.source)} reads "
            f"{encoder.max_length}: give at most that"
        )
    settings.spec(encoder)
    return settings


_RECORDED: dict[str, Any] = {
    "source": str | None,
    "fingerprint": str,
    "backend": str,
    "heads": list,
    "dtype": str,
    "chunk": int,
    "overlap": int,
    "late_chunking": bool,
    "multi_pool": int,
    "index": str,
}


def recorded_settings(store: DocumentStore | PublishedDocuments) -> CollectionSettings:
    """What was recorded last; raises StoreError where it is of no known form."""
    facts = store.fact("settings")
    if isinstance(facts, dict):
        facts.setdefault("multi_pool", 1)  # Tercet 0.1 merged none
    wrong = StoreError(f"{store.path}: its settings are of no known form: index the documents anew")
    if not isinstance(facts, dict) or set(facts) != set(_RECORDED):
        raise wrong
    if facts["backend"] == "edge":  # of Tercet 0.1
        facts["backend"] = "graph"
    if (
        not all(isinstance(facts[name], kind) for name, kind in _RECORDED.items())
        or not re.fullmatch(INDEX, facts["index"])
        or facts["backend"] not in get_args(Backend)
        or facts["dtype"] not in get_args(Dtype)
        or facts["multi_pool"] < 1
    ):
        raise wrong
    try:
        settings = CollectionSettings(**{**facts, "heads": check_heads(facts["heads"])})
        _ = settings.chunking
    except InputError as error:
        raise wrong from error
    return settings


def named(source: str | None) -> str:
    """A model in a sentence."""
    return source or "that comes with Tercet"
