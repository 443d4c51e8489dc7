"""Chroma: dense vectors, by a function whose name and model Chroma keeps with a collection.

`pip install 'tercet[chroma]'`. A program that opens such a collection imports this module first.
"""

from typing import Any

from tercet.adapters import needs
from tercet.config import Role
from tercet.encoder import Encoder

with needs("'tercet[chroma]'"):
    from chromadb import Documents, EmbeddingFunction, Embeddings
    from chromadb.api.types import Space
    from chromadb.utils.embedding_functions import register_embedding_function


@register_embedding_function
class TercetEmbeddingFunction(EmbeddingFunction[Documents]):
    """Dense vectors, unit length."""

    def __init__(self, model: str | None = None) -> None:
        """model is what `Encoder.load` loads."""
        self.model, self.encoder = model, Encoder.load(model)

    def __call__(self, input: Documents) -> Embeddings:
        """A vector for each document."""
        return self._vectors(input, "passage")

    def embed_query(self, input: Documents) -> Embeddings:
        """A vector for each question."""
        return self._vectors(input, "query")

    def _vectors(self, texts: Documents, role: Role) -> Embeddings:
        dense = self.encoder.encode(texts, heads=("dense",), role=role).dense
        assert dense is not None
        return list(dense)

    @staticmethod
    def name() -> str:
        """Under which Chroma keeps it."""
        return "tercet"

    def default_space(self) -> Space:
        """Of a collection that is made without one."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """What it is made of again."""
        return {"model": self.model}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "TercetEmbeddingFunction":
        """Makes it of `get_config`."""
        return TercetEmbeddingFunction(**config)
