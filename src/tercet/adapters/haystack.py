"""Haystack: embedders that give dense and sparse vectors in one pass, and a retriever.

`pip install 'tercet[haystack]'`. What a component was made with is in its attributes, of which
Haystack writes pipelines to files and makes them again; models and indexes are opened at warm-up.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tercet.adapters import facts, needs, sparse_of
from tercet.collection import Collection
from tercet.config import Head, Role, check_heads
from tercet.encoder import Encoder
from tercet.errors import InputError

with needs("'tercet[haystack]'"):
    from haystack import Document, component
    from haystack.dataclasses import SparseEmbedding


class _Embedder:
    """What both embedders have: a model by its name, and the heads that are asked for."""

    def __init__(
        self,
        model: str | None = None,
        heads: Sequence[Head] = ("dense", "sparse"),
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        """model, device and dtype are those of `Encoder.load`; heads: dense, sparse or both."""
        if "multi" in check_heads(heads):
            raise InputError("Haystack's documents hold no multi-vectors: leave out that head")
        self.model, self.heads, self.device, self.dtype = model, list(heads), device, dtype
        self._encoder: Encoder | None = None

    def warm_up(self) -> None:
        """Loads the model."""
        if self._encoder is None:
            self._encoder = Encoder.load(self.model, device=self.device, dtype=self.dtype)

    def _encode(self, texts: Sequence[str], role: Role) -> list[dict[str, Any]]:
        """Of each text its `embedding` and `sparse_embedding`, of the heads asked for."""
        self.warm_up()
        assert self._encoder is not None
        rows = self._encoder.encode(texts, heads=self.heads, role=role).to_qdrant()
        out: list[dict[str, Any]] = [{} for _ in rows]
        for vectors, row in zip(out, rows, strict=True):
            if "dense" in self.heads:
                vectors["embedding"] = row["dense"]
            if "sparse" in self.heads:
                vectors["sparse_embedding"] = SparseEmbedding(**sparse_of(row))
        return out


@component
class TercetTextEmbedder(_Embedder):
    """The vectors of a question."""

    @component.output_types(embedding=list[float], sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, Any]:
        """A text to its `embedding` and `sparse_embedding`."""
        return self._encode([text], "query")[0]


@component
class TercetDocumentEmbedder(_Embedder):
    """Documents with the vectors of their contents."""

    def __init__(
        self,
        model: str | None = None,
        heads: Sequence[Head] = ("dense", "sparse"),
        device: str | None = None,
        dtype: str | None = None,
        meta_fields_to_embed: Sequence[str] = (),
    ) -> None:
        """meta_fields_to_embed are put before the content, a line each, as in ["title"]."""
        # `component` makes another class of this one, which super() does not know
        _Embedder.__init__(self, model, heads, device, dtype)
        self.meta_fields_to_embed = list(meta_fields_to_embed)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The same documents, their `embedding` and `sparse_embedding` filled."""
        texts = [
            "\n".join([*self._fields(document), document.content or ""]) for document in documents
        ]
        rows = self._encode(texts, "passage")
        return {"documents": [replace(d, **row) for d, row in zip(documents, rows, strict=True)]}

    def _fields(self, document: Document) -> list[str]:
        values = (document.meta.get(field) for field in self.meta_fields_to_embed)
        return [str(value) for value in values if value is not None]


@component
class TercetRetriever:
    """The best documents of a collection, each with its best chunk's text.

    meta holds the document's own, `document` (its id), where the chunk stands, and `score` with its
    parts.
    """

    def __init__(self, index: str, top_k: int = 10, options: dict[str, Any] | None = None) -> None:
        """index is the collection's folder, options are those of `Collection.search`."""
        self.index, self.top_k, self.options = index, top_k, options
        self._collection: Collection | None = None

    def warm_up(self) -> None:
        """Opens the collection, to read."""
        if self._collection is None:
            self._collection = Collection.open(self.index, read_only=True)

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, Any]:
        """A question to the top_k best `documents`."""
        self.warm_up()
        assert self._collection is not None
        k = self.top_k if top_k is None else top_k
        (hits,) = self._collection.search([query], k=k, **self.options or {})
        found = [Document(content=hit.text, meta=facts(hit), score=hit.score) for hit in hits]
        return {"documents": found}
