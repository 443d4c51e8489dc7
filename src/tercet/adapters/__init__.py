"""Tercet behind the interfaces of other frameworks: a module each, none of which knows another.

Each needs its framework (docs/adapters.md). Texts that are stored have the role passage, questions
the role query.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tercet.config import Role
from tercet.encoder import Encoder
from tercet.errors import MissingExtraError
from tercet.records import Hit

Model = Encoder | str | Path | None  # None: the model that comes with Tercet
Sparse = dict[str, list[Any]]  # of a text: `indices`, token ids that increase, and `values`

SCORES = ("score", "dense", "sparse", "multi")  # of a hit's facts


@contextmanager
def needs(packages: str) -> Iterator[None]:
    """Around a framework's imports: raises MissingExtraError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{error}: pip install {packages}") from error


def encoder_of(model: Model) -> Encoder:
    """The encoder itself, or a model that is loaded now."""
    return model if isinstance(model, Encoder) else Encoder.load(model)


def dense_rows(encoder: Encoder, texts: Sequence[str], role: Role) -> list[list[float]]:
    """B texts -> B unit vectors."""
    encoded = encoder.encode(texts, heads=("dense",), role=role)
    return [row["dense"] for row in encoded.to_qdrant()]


def sparse_rows(encoder: Encoder, texts: Sequence[str], role: Role) -> list[Sparse]:
    """B texts -> the weights of each."""
    encoded = encoder.encode(texts, heads=("sparse",), role=role)
    return [sparse_of(row) for row in encoded.to_qdrant()]


def sparse_of(row: Mapping[str, Any]) -> Sparse:
    """The weights in a text's row of `Embeddings.to_qdrant`, which leaves out empty ones."""
    return row.get("sparse") or {"indices": [], "values": []}


def facts(hit: Hit) -> dict[str, Any]:
    """What is known of a hit but its text: its document's metadata, where it stands, its scores."""
    own = {name: getattr(hit, name) for name in ("title", "source", "language", "page", *SCORES)}
    own |= {"document": hit.id, "start": hit.span.start, "headings": list(hit.headings)}
    return {**hit.metadata, **{name: v for name, v in own.items() if v not in (None, "", [])}}
