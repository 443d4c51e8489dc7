"""LangChain: dense vectors for its vector stores, and a retriever over a collection.

`pip install 'tercet[langchain]'`. The asynchronous methods are LangChain's own, which run these in
a thread.
"""

from typing import Any

from tercet.adapters import Model, dense_rows, encoder_of, facts, needs
from tercet.collection import Collection

with needs("'tercet[langchain]'"):
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever


class TercetEmbeddings(Embeddings):
    """Dense vectors, unit length."""

    def __init__(self, model: Model = None) -> None:
        self.encoder = encoder_of(model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        return dense_rows(self.encoder, texts, "passage")

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return dense_rows(self.encoder, [text], "query")[0]


class TercetRetriever(BaseRetriever):
    """The k best documents of a collection, each with its best chunk's text.

    metadata holds the document's own, `document` (its id), where the chunk stands, and `score` with
    its parts. options are those of `Collection.search`, as in {"mode": "dense", "chunks": True}.
    """

    collection: Collection
    k: int = 10
    options: dict[str, Any] | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        (hits,) = self.collection.search([query], k=self.k, **self.options or {})
        return [Document(page_content=hit.text, metadata=facts(hit)) for hit in hits]
