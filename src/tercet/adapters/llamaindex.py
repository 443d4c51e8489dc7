"""LlamaIndex: dense vectors, sparse functions for its Qdrant store, a retriever over a collection.

`pip install 'tercet[llamaindex]'`. Asynchronous methods run the others in a thread.
"""

from asyncio import to_thread
from collections.abc import Callable
from typing import Any

from tercet.adapters import SCORES, Model, dense_rows, encoder_of, facts, needs, sparse_rows
from tercet.collection import Collection
from tercet.config import Role
from tercet.encoder import Encoder

with needs("'tercet[llamaindex]'"):
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

Lists = tuple[list[list[int]], list[list[float]]]  # ids and weights of each text


class TercetEmbedding(BaseEmbedding):
    """Dense vectors, unit length."""

    _encoder: Encoder = PrivateAttr()

    def __init__(self, model: Model = None, **options: Any) -> None:
        """options are those of LlamaIndex's BaseEmbedding."""
        encoder = encoder_of(model)
        super().__init__(model_name=encoder.source or "tercet", **options)
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex writes it."""
        return "TercetEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return dense_rows(self._encoder, [query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return dense_rows(self._encoder, texts, "passage")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await to_thread(self._get_text_embeddings, texts)


def sparse_function(model: Model = None, role: Role = "passage") -> Callable[[list[str]], Lists]:
    """A sparse_doc_fn of QdrantVectorStore, or with the role "query" its sparse_query_fn."""
    encoder = encoder_of(model)

    def encode(texts: list[str]) -> Lists:
        rows = sparse_rows(encoder, texts, role)
        return [row["indices"] for row in rows], [row["values"] for row in rows]

    return encode


class TercetRetriever(BaseRetriever):
    """The k best documents of a collection, each with its best chunk's text as a node.

    The node's metadata holds the document's own, `document` (its id), where the chunk stands, and
    `score` with its parts, which language models are not shown.
    """

    def __init__(self, collection: Collection, k: int = 10, **options: Any) -> None:
        """options are those of `Collection.search`, as in mode="dense", chunks=True."""
        super().__init__()
        self.collection, self.k, self.options = collection, k, options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        (hits,) = self.collection.search([query_bundle.query_str], k=self.k, **self.options)
        nodes = [
            TextNode(
                text=hit.text,
                metadata=facts(hit),
                excluded_llm_metadata_keys=list(SCORES),
                excluded_embed_metadata_keys=list(SCORES),
            )
            for hit in hits
        ]
        return [NodeWithScore(node=n, score=hit.score) for n, hit in zip(nodes, hits, strict=True)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await to_thread(self._retrieve, query_bundle)
