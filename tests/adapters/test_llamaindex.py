"""LlamaIndex's interfaces give what the encoder and the collection give."""

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tercet.collection import Collection
from tercet.encoder import Encoder
from tests.adapters.conftest import QUESTION, TEXTS, cosines, encoded

pytest.importorskip("llama_index.core")  # brings NLTK, SQLAlchemy, aiohttp, pandas' kin


@pytest.fixture
def embedding(encoder: Encoder) -> Any:
    from tercet.adapters.llamaindex import TercetEmbedding

    return TercetEmbedding(encoder)


def test_dense_vectors_follow_roles(encoder: Encoder, embedding: Any) -> None:
    passages, query = encoded(encoder).dense, encoded(encoder, "query").dense
    assert_allclose(embedding.get_text_embedding_batch(TEXTS), passages, atol=1e-6)
    assert_allclose(embedding.get_text_embedding(TEXTS[1]), passages[1], atol=1e-6)
    assert_allclose(embedding.get_query_embedding(QUESTION), query[0], atol=1e-6)

    async def both() -> tuple[Any, Any]:
        return (
            await embedding.aget_text_embedding_batch(TEXTS),
            await embedding.aget_query_embedding(QUESTION),
        )

    documents, question = asyncio.run(both())
    assert_allclose(documents, passages, atol=1e-6)
    assert_allclose(question, query[0], atol=1e-6)
    assert embedding.class_name() == "TercetEmbedding"


def test_an_index_takes_it(encoder: Encoder, embedding: Any) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=4).retrieve(QUESTION)
    scores = cosines(encoder)
    order = np.argsort(-scores)
    assert [node.get_content() for node in found] == [TEXTS[n] for n in order]
    assert_allclose([node.score or 0 for node in found], scores[order], atol=1e-5)


def test_qdrant_takes_both_vectors(encoder: Encoder, embedding: Any) -> None:
    qdrant = pytest.importorskip("llama_index.vector_stores.qdrant")
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from qdrant_client import QdrantClient

    from tercet.adapters.llamaindex import sparse_function

    documents, queries = sparse_function(encoder), sparse_function(encoder, "query")
    ids, values = documents(TEXTS)
    weights, asked = encoded(encoder).sparse, encoded(encoder, "query").sparse
    assert np.concatenate(ids).tolist() == weights.indices.tolist()
    assert_allclose(np.concatenate(values), weights.data, rtol=1e-6)
    assert queries([QUESTION])[0] == [asked.indices.tolist()]
    store = qdrant.QdrantVectorStore(
        "c",
        client=QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=documents,
        sparse_query_fn=queries,
    )
    index = VectorStoreIndex(
        [TextNode(text=text) for text in TEXTS],
        embed_model=embedding,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    retriever = index.as_retriever(vector_store_query_mode="sparse", sparse_top_k=4)
    found = retriever.retrieve(QUESTION)
    best = np.sort((weights @ asked.T).toarray()[:, 0])[::-1]
    assert_allclose([node.score or 0 for node in found], best[best > 0][: len(found)], rtol=1e-5)
    hybrid = index.as_retriever(vector_store_query_mode="hybrid").retrieve(QUESTION)
    assert hybrid


def test_the_retriever_gives_the_hits(collection: Collection) -> None:
    from llama_index.core.schema import MetadataMode

    from tercet.adapters.llamaindex import TercetRetriever

    (hits,) = collection.search([QUESTION], k=3, mode="multi")
    retriever = TercetRetriever(collection, 3, mode="multi")
    nodes = retriever.retrieve(QUESTION)
    assert [(node.get_content(), node.score) for node in nodes] == [(h.text, h.score) for h in hits]
    assert [node.metadata["document"] for node in nodes] == [hit.id for hit in hits]
    again = asyncio.run(retriever.aretrieve(QUESTION))
    assert [node.get_content() for node in again] == [hit.text for hit in hits]
    assert "score" not in nodes[0].node.get_content(MetadataMode.LLM)
    assert hits[0].id in nodes[0].node.get_content(MetadataMode.LLM)
