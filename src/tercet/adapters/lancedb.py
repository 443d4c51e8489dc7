"""LanceDB: dense vectors, by a function whose name and model LanceDB keeps with a table.

`pip install 'tercet[lancedb]'`. A program that opens such a table imports this module first.
"""

from functools import cached_property
from typing import Any

from tercet.adapters import dense_rows, needs
from tercet.encoder import Encoder

with needs("'tercet[lancedb]'"):
    from lancedb.embeddings import TextEmbeddingFunction, register


@register("tercet")
class TercetEmbeddingFunction(TextEmbeddingFunction):
    """Dense vectors, unit length; model is what `Encoder.load` loads, empty the bundled one."""

    name: str = ""

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder.load(self.name or None)

    def ndims(self) -> int:
        """The size of a vector."""
        return self._encoder.dims["dense"]

    def generate_embeddings(self, texts: Any) -> list[list[float]]:
        """A vector for each text."""
        return dense_rows(self._encoder, list(texts), "passage")

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[Any]:
        """A list of the question's vector."""
        return dense_rows(self._encoder, [query], "query")
