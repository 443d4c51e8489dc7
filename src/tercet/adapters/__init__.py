"""Tercet behind the interfaces of other frameworks: a module each, none of which knows another.

Each needs its framework (docs/adapters.md). Texts that are stored have the role passage, questions
the role query.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tercet.config import Role
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import MissingExtraError
from tercet.records import Hit

Model = Encoder | str | Path | None  # None: the model that comes with Tercet
Pairs = list[tuple[list[int], list[float]]]  # of each text: token ids, increasing, and weights

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
    dense = encoder.encode(texts, heads=("dense",), role=role).dense
    assert dense is not None
    rows: list[list[float]] = dense.tolist()
    return rows


def sparse_rows(encoder: Encoder, texts: Sequence[str], role: Role) -> Pairs:
    """B texts -> the token ids and weights of each."""
    return pairs(encoder.encode(texts, heads=("sparse",), role=role))


def pairs(encoded: Embeddings) -> Pairs:
    """The token ids and weights of each text."""
    sparse = encoded.sparse
    assert sparse is not None
    bounds = zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True)
    return [(sparse.indices[a:b].tolist(), sparse.data[a:b].tolist()) for a, b in bounds]


def facts(hit: Hit) -> dict[str, Any]:
    """What is known of a hit but its text: its document's metadata, where it stands, its scores."""
    own = {name: getattr(hit, name) for name in ("title", "source", "language", "page", *SCORES)}
    own |= {"document": hit.id, "start": hit.span.start, "headings": list(hit.headings)}
    return {**hit.metadata, **{name: v for name, v in own.items() if v not in (None, "", [])}}
