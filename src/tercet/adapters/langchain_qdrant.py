"""LangChain's Qdrant store: sparse weights beside the dense vectors of `tercet.adapters.langchain`.

`pip install 'tercet[langchain]' langchain-qdrant`.
"""

from tercet.adapters import Model, encoder_of, needs, sparse_rows

with needs("langchain-qdrant"):
    from langchain_qdrant import SparseEmbeddings, SparseVector


class TercetSparseEmbeddings(SparseEmbeddings):
    """Sparse weights by token id, each id once."""

    def __init__(self, model: Model = None) -> None:
        self.encoder = encoder_of(model)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """The weights of each text."""
        return [SparseVector(**row) for row in sparse_rows(self.encoder, texts, "passage")]

    def embed_query(self, text: str) -> SparseVector:
        """The weights of a question."""
        return SparseVector(**sparse_rows(self.encoder, [text], "query")[0])
