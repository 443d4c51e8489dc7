"""LangChain's interfaces give what the encoder and the collection give."""

import asyncio
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tercet.collection import Collection
from tercet.encoder import Encoder
from tercet.errors import MissingExtraError
from tests.adapters.conftest import QUESTION, TEXTS, cosines, encoded

pytest.importorskip("langchain_core")


@pytest.fixture
def embeddings(encoder: Encoder) -> Any:
    from tercet.adapters.langchain import TercetEmbeddings

    return TercetEmbeddings(encoder)


def test_dense_vectors_follow_roles(encoder: Encoder, embeddings: Any) -> None:
    passages, query = encoded(encoder).dense, encoded(encoder, "query").dense
    plain: Any = encoder.encode([QUESTION]).dense
    assert not np.allclose(query, plain)  # the model has a prefix for queries
    assert_allclose(embeddings.embed_documents(TEXTS), passages, atol=1e-6)
    assert_allclose(embeddings.embed_query(QUESTION), query[0], atol=1e-6)
    assert embeddings.embed_documents([]) == []

    async def both() -> tuple[Any, Any]:
        return await embeddings.aembed_documents(TEXTS), await embeddings.aembed_query(QUESTION)

    documents, question = asyncio.run(both())
    assert_allclose(documents, passages, atol=1e-6)
    assert_allclose(question, query[0], atol=1e-6)


def test_a_vector_store_takes_them(encoder: Encoder, embeddings: Any) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    found = store.similarity_search_with_score(QUESTION, k=4)
    scores = cosines(encoder)
    order = np.argsort(-scores)
    assert [document.page_content for document, _ in found] == [TEXTS[n] for n in order]
    assert_allclose([score for _, score in found], scores[order], atol=1e-5)


def test_the_retriever_gives_the_hits(collection: Collection) -> None:
    from tercet.adapters.langchain import TercetRetriever

    (hits,) = collection.search([QUESTION], k=3, mode="sparse")
    retriever = TercetRetriever(collection=collection, k=3, options={"mode": "sparse"})
    documents = retriever.invoke(QUESTION)
    assert [document.page_content for document in documents] == [hit.text for hit in hits]
    assert [document.metadata["score"] for document in documents] == [hit.score for hit in hits]
    assert [document.metadata["document"] for document in documents] == [hit.id for hit in hits]
    assert asyncio.run(retriever.ainvoke(QUESTION)) == documents
    every = TercetRetriever(collection=collection).invoke("river")
    (river,) = [document for document in every if document.metadata["document"] == "river"]
    assert river.metadata["source"] == "r.md"
    assert river.metadata["title"] == "water"
    assert river.metadata["year"] == 1
    assert river.metadata["start"] == 0
    assert {"dense", "sparse", "multi"} < river.metadata.keys()
    (casa,) = [document for document in every if document.metadata["document"] == "casa"]
    assert casa.metadata["language"] == "es"
    assert "title" not in casa.metadata


def test_qdrant_takes_both_vectors(encoder: Encoder, embeddings: Any) -> None:
    langchain_qdrant = pytest.importorskip("langchain_qdrant")
    from tercet.adapters.langchain_qdrant import TercetSparseEmbeddings

    sparse = TercetSparseEmbeddings(encoder)
    weights, asked = encoded(encoder).sparse, encoded(encoder, "query").sparse
    for row, vector in enumerate(sparse.embed_documents(TEXTS)):
        assert vector.indices == weights[[row]].indices.tolist()
        assert_allclose(vector.values, weights[[row]].data, rtol=1e-6)
    assert asyncio.run(sparse.aembed_query(QUESTION)).indices == asked.indices.tolist()
    assert sparse.embed_documents([""])[0].indices == []
    modes = langchain_qdrant.RetrievalMode
    expected = (weights @ asked.T).toarray()[:, 0]
    for mode in (modes.SPARSE, modes.HYBRID):
        store = langchain_qdrant.QdrantVectorStore.from_texts(
            TEXTS,
            embeddings,
            sparse_embedding=sparse,
            location=":memory:",
            collection_name="c",
            retrieval_mode=mode,
        )
        found = store.similarity_search_with_score(QUESTION, k=4)
        assert found
        if mode == modes.SPARSE:
            best = np.sort(expected[expected > 0])[::-1]
            assert_allclose([score for _, score in found], best, rtol=1e-5)


def test_a_missing_framework_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tercet.adapters.langchain", raising=False)
    monkeypatch.setitem(sys.modules, "langchain_core.callbacks", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[langchain\]'"):
        import tercet.adapters.langchain  # noqa: F401
