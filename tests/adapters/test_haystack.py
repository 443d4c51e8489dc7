"""Haystack's components give what the encoder and the collection give, also from a file."""

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tercet.collection import Collection
from tercet.encoder import Encoder
from tercet.errors import InputError
from tests.adapters.conftest import QUESTION, TEXTS, cosines, encoded

haystack = pytest.importorskip("haystack")  # brings openai, posthog, networkx
LOADS = haystack.Pipeline.loads
# Haystack 3 reads components of others where their module is allowed
ALLOWED: dict[str, Any] = {"allowed_modules": ["tercet.adapters.haystack"]}
ALLOWED = ALLOWED if "allowed_modules" in signature(LOADS).parameters else {}


@pytest.fixture
def options(tiny_checkpoint: Path) -> dict[str, Any]:
    return {"model": str(tiny_checkpoint), "dtype": "float32"}


def test_one_pass_gives_both_vectors(encoder: Encoder, options: dict[str, Any]) -> None:
    from tercet.adapters.haystack import TercetDocumentEmbedder, TercetTextEmbedder

    expected: Any = encoder.encode(["water\nthe river", TEXTS[1]])
    documents = [
        haystack.Document(content="the river", meta={"title": "water"}),
        haystack.Document(content=TEXTS[1], meta={"other": 1}),
    ]
    embedder = TercetDocumentEmbedder(**options, meta_fields_to_embed=["title"])
    found = embedder.run(documents)["documents"]
    assert [document.id for document in found] == [document.id for document in documents]
    for row, document in enumerate(found):
        assert_allclose(document.embedding, expected.dense[row], atol=1e-6)
        assert document.sparse_embedding.indices == expected.sparse[[row]].indices.tolist()
        assert_allclose(document.sparse_embedding.values, expected.sparse[[row]].data, rtol=1e-6)
    assert documents[0].embedding is None
    asked = encoded(encoder, "query")
    question = TercetTextEmbedder(**options).run(QUESTION)
    assert_allclose(question["embedding"], asked.dense[0], atol=1e-6)
    assert len(question["sparse_embedding"].indices) == asked.sparse.nnz
    assert TercetTextEmbedder(**options, heads=["sparse"]).run(QUESTION).keys() == {
        "sparse_embedding"
    }
    with pytest.raises(InputError, match="multi"):
        TercetTextEmbedder(heads=["multi"])


def test_pipelines_are_written_and_read(encoder: Encoder, options: dict[str, Any]) -> None:
    from haystack.components.retrievers import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from tercet.adapters.haystack import TercetDocumentEmbedder, TercetTextEmbedder

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    into = haystack.Pipeline()
    into.add_component("embed", TercetDocumentEmbedder(**options))
    into.add_component("write", DocumentWriter(store))
    into.connect("embed.documents", "write.documents")
    into.run({"embed": {"documents": [haystack.Document(content=text) for text in TEXTS]}})
    ask = haystack.Pipeline()
    ask.add_component("embed", TercetTextEmbedder(**options, heads=["dense"]))
    ask.add_component("find", InMemoryEmbeddingRetriever(store, top_k=4, scale_score=False))
    ask.connect("embed.embedding", "find.query_embedding")
    scores = cosines(encoder)
    found = ask.run({"embed": {"text": QUESTION}})["find"]["documents"]
    assert [document.content for document in found] == [TEXTS[n] for n in np.argsort(-scores)]
    again = LOADS(into.dumps(), **ALLOWED).get_component("embed")
    assert isinstance(again, TercetDocumentEmbedder)
    assert (again.model, again.heads, again.dtype) == (
        options["model"],
        ["dense", "sparse"],
        "float32",
    )
    assert_allclose(
        again.run([haystack.Document(content=TEXTS[0])])["documents"][0].embedding,
        encoded(encoder).dense[0],
        atol=1e-6,
    )


def test_the_retriever_gives_the_hits(collection: Collection) -> None:
    from tercet.adapters.haystack import TercetRetriever

    (hits,) = collection.search([QUESTION], k=3, mode="sparse")
    pipeline = haystack.Pipeline()
    pipeline.add_component(
        "find", TercetRetriever(str(collection.path), options={"mode": "sparse"})
    )
    again = LOADS(pipeline.dumps(), **ALLOWED)
    found = again.run({"find": {"query": QUESTION, "top_k": 3}})["find"]["documents"]
    assert [document.content for document in found] == [hit.text for hit in hits]
    assert_allclose([document.score for document in found], [hit.score for hit in hits], atol=0.02)
    assert [document.meta["document"] for document in found] == [hit.id for hit in hits]
