"""What is fixed when a collection is made, and the checks of what a caller wants against it.

Knows nothing of documents' texts, vectors or SQLite.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tercet.config import Head, check_heads
from tercet.documents.chunks import Chunking
from tercet.errors import InputError, StoreError
from tercet.index.base import Backend, Dtype, IndexSpec
from tercet.ingest import Encodes

REMADE = ("backend", "heads", "dtype")  # what may change when the index is made again
FIRST_INDEX = "index-000001"


def how_to_rebuild(path: Path) -> str:
    """The way out for an index that is damaged or of another model, as part of a sentence."""
    return (
        f"`tercet index --rebuild --to {path}` or Collection.open({str(path)!r}, rebuild=True) "
        f"encodes its documents anew"
    )


@dataclass(frozen=True)
class Settings:
    """What is recorded when a collection is made."""

    source: str | None  # where its model is loaded from; None: the one that comes with Tercet
    fingerprint: str  # of that model
    backend: Backend
    heads: tuple[Head, ...]
    dtype: Dtype
    chunk: int
    overlap: int
    late_chunking: bool
    index: str  # the folder of its vectors

    @property
    def chunking(self) -> Chunking:
        return Chunking(self.chunk, self.overlap, self.late_chunking)

    @staticmethod
    def new(encoder: Encodes, wanted: Mapping[str, Any]) -> "Settings":
        """The settings of a collection that is made now; raises InputError for a bad one."""
        chunking = Chunking(min(Chunking().chunk, encoder.max_length))
        defaults: dict[str, Any] = {
            "backend": "edge",
            "heads": encoder.heads,
            "dtype": "float16",
            "chunk": chunking.chunk,
            "overlap": min(chunking.overlap, wanted.get("chunk", chunking.chunk) // 8),
            "late_chunking": chunking.late,
        }
        made = Settings(
            source=encoder.source,
            fingerprint=encoder.fingerprint,
            index=FIRST_INDEX,
            **{**defaults, **wanted},
        )
        made.check_heads(encoder)
        made.spec(encoder)
        if made.chunking.chunk > encoder.max_length:
            raise InputError(
                f"chunk is {made.chunk} tokens, the model {encoder.source or 'that is bundled'} "
                f"reads {encoder.max_length}: give at most that"
            )
        return made

    def check_heads(self, encoder: Encodes) -> None:
        """Raises InputError where the model lacks a head that is to be stored."""
        lacking = [head for head in self.heads if head not in encoder.heads]
        if lacking:
            raise InputError(
                f"the model {encoder.source or 'that comes with Tercet'} has no {lacking[0]} head: "
                f"store {', '.join(encoder.heads)}"
            )

    def spec(self, encoder: Encodes) -> IndexSpec:
        """What an index of these settings is; raises InputError where there can be none."""
        dims = encoder.dims
        return IndexSpec(
            backend=self.backend,
            heads=self.heads,
            dense=dims.get("dense"),
            vocabulary=dims.get("vocabulary"),
            multi=dims.get("multi"),
            dtype=self.dtype,
            fingerprint=encoder.fingerprint,
        )

    @staticmethod
    def from_json(facts: Any, path: Path) -> "Settings":
        """Reads what `vars` gave; raises StoreError where it cannot be that."""
        if not isinstance(facts, dict) or set(facts) != {field.name for field in fields(Settings)}:
            raise StoreError(f"{path}: its settings are of no known form: index the documents anew")
        return Settings(**{**facts, "heads": check_heads(tuple(facts["heads"]))})

    def checked(self, path: Path, wanted: Mapping[str, Any], *, remade: bool) -> "Settings":
        """These, or with the changes that making the index again allows; raises InputError."""
        changed = {name: value for name, value in wanted.items() if value != getattr(self, name)}
        for name, value in changed.items():
            if not (remade and name in REMADE):
                raise InputError(
                    f"{path} was made with {name} = {getattr(self, name)!r}, not {value!r}: leave "
                    f"the option out, or make another collection"
                )
        return replace(self, **changed)

    def check_model(self, path: Path, encoder: Encodes) -> None:
        """Raises StoreError where the vectors are another model's."""
        if encoder.fingerprint != self.fingerprint:
            raise StoreError(
                f"{path} holds vectors of another model ({self.source or 'the bundled one'}, "
                f"{self.fingerprint}) than {encoder.source or 'the bundled one'} "
                f"({encoder.fingerprint}): open it with that model, or {how_to_rebuild(path)}"
            )


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is and holds."""

    path: str
    documents: int
    chunks: int
    settings: Settings
    bytes: dict[str, int]  # on disk: by head, "other" of the index, and "documents"
