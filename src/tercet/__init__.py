"""Tercet: dense, sparse and multi-vector embeddings of a text from one encoder pass.

`from tercet import Encoder, Collection`. Names are loaded when they are first asked for: importing
tercet alone loads no torch.
"""

from importlib import import_module

TYPE_CHECKING = False  # typing takes a while to load
if TYPE_CHECKING:
    from typing import Any

    from tercet.collection import Collection
    from tercet.config import Weights
    from tercet.embeddings import Embeddings
    from tercet.encoder import Encoder
    from tercet.errors import TercetError
    from tercet.explanation import Explanation, explain
    from tercet.records import Document, Hit, Span

__all__ = [
    "Collection",
    "Document",
    "Embeddings",
    "Encoder",
    "Explanation",
    "Hit",
    "Span",
    "TercetError",
    "Weights",
    "explain",
]

_HOMES = {
    "Collection": "collection",
    "Document": "records",
    "Embeddings": "embeddings",
    "Encoder": "encoder",
    "Explanation": "explanation",
    "Hit": "records",
    "Span": "records",
    "TercetError": "errors",
    "Weights": "config",
    "explain": "explanation",
}


def __getattr__(name: str) -> "Any":
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tercet' has no attribute {name!r}")
    return getattr(import_module(f"tercet.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
