"""The routes whose shapes others have published: OpenAI, Cohere, Jina, vLLM, Ollama and TEI.

Each is a few lines over the same calls of the model, which stand first; `routes` has the table.
Knows nothing of models or indexes.
"""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType

from tercet.config import Head, Role, Weights
from tercet.embeddings import Embeddings
from tercet.serve import wire
from tercet.serve.app import BYTES_PER_TOKEN, HttpError, Server

T = TypeVar("T")
Made = Callable[[], T]  # an answer that another thread makes


def as_list(given: str | list[Any], name: str = "input") -> Any:
    """Inputs as a list of texts or of token ids; raises HttpError where they are mixed or empty."""
    if isinstance(given, str):
        return [given]
    rows = [given] if isinstance(given[0], int) else given
    kinds = {type(row) for row in rows}
    ids = [token for row in rows if isinstance(row, list) for token in row]
    if len(kinds) > 1 or [] in rows or not all(type(token) is int for token in ids):
        raise HttpError(
            422, "invalid_request", f"{name}: give texts, or lists of token ids, not both or empty"
        )
    return rows


def base64_of(vector: npt.NDArray[Any], kind: str = "<f4") -> str:
    """Numbers as base64 of little-endian bytes."""
    return base64.b64encode(vector.astype(kind).tobytes()).decode()


def as_lists(vectors: npt.NDArray[Any]) -> list[list[float]]:
    """Rows of numbers as lists, one at a time, as threads take turns between calls."""
    return [row.tolist() for row in vectors]


def read_tokens(embeddings: Embeddings) -> int:
    """Tokens that the model read."""
    assert embeddings.lengths is not None
    return int(embeddings.lengths.sum())


def dense_of(embeddings: Embeddings) -> npt.NDArray[np.float32]:
    """The (B, D) dense vectors."""
    assert embeddings.dense is not None
    return embeddings.dense


def check_dimensions(server: Server, size: int | None) -> int | None:
    """The size that vectors are cut to, None: whole; raises HttpError for one not trained."""
    whole = server.model.facts["dims"]["dense"]
    trained = server.model.facts["sizes"]
    if size is None or size == whole:
        return None
    if size not in trained:
        sizes = ", ".join(map(str, (*trained, whole)))
        raise HttpError(
            422, "dimensions", f"dimensions: the model was trained for {sizes}, not for {size}"
        )
    return size


def check_right(direction: str | None) -> None:
    """Raises HttpError where texts should be cut at their beginning."""
    if direction is not None and direction.lower() != "right":
        raise HttpError(422, "truncation", "texts are cut at their end: truncate on the right")


def role_of(name: str | None) -> Role:
    """The role that a prompt's name stands for; raises HttpError where there is none."""
    roles: dict[str | None, Role] = {
        None: "plain",
        "": "plain",
        "query": "query",
        "passage": "passage",
        "document": "passage",
    }
    if name not in roles:
        raise HttpError(422, "prompt", f"no prompt {name!r}: choose query or document")
    return roles[name]


async def dense_vectors(
    server: Server,
    inputs: Any,
    *,
    role: Role,
    dimensions: int | None = None,
    truncate: bool = True,
) -> tuple[npt.NDArray[np.float32], int]:
    """(B, D) unit vectors, and the tokens that were read."""
    size = check_dimensions(server, dimensions)
    embeddings = await server.encode(inputs, ("dense",), role=role, truncate=truncate)
    vectors = dense_of(embeddings)
    if size is not None:
        vectors = vectors[:, :size]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors, read_tokens(embeddings)


async def pair_scores(
    server: Server,
    query: str,
    passages: Sequence[str],
    *,
    weights: Weights | None = None,
    truncate: bool = True,
) -> dict[str, Any]:
    """Scores of a query with passages: `scores` (the hybrid sum), each head's, `tokens` read."""
    async with server.admitted([len(text.encode()) for text in (query, *passages)]):
        parts: dict[str, Any] = await server.model.call(
            "score", query, list(passages), weights=weights, truncate=truncate
        )
        return parts


def weights_of(given: wire.WeightsGiven | None) -> Weights | None:
    """Weights as the library has them."""
    return None if given is None else Weights(given.dense, given.sparse, given.multi)


# OpenAI


async def embeddings(server: Server, request: wire.EmbeddingRequest) -> Made[wire.EmbeddingList]:
    vectors, tokens = await dense_vectors(
        server,
        as_list(request.input),
        role=role_of(request.input_type) if request.input_type else "passage",
        dimensions=request.dimensions,
        truncate=False,
    )

    def made() -> wire.EmbeddingList:
        packed = request.encoding_format == "base64"
        rows = [base64_of(row) if packed else row.tolist() for row in vectors]
        data = [wire.Embedding(number, row) for number, row in enumerate(rows)]
        return wire.EmbeddingList(data, server.model_id, wire.Usage(tokens, tokens))

    return made


async def models(server: Server) -> wire.ModelList:
    return wire.ModelList([wire.ModelCard(server.model_id)])


# Cohere, Jina, vLLM, Ollama


def text_of(document: str | wire.RerankDocument) -> str:
    return document if isinstance(document, str) else document.text


async def rerank(server: Server, request: wire.RerankRequest) -> wire.RerankResponse:
    passages = [text_of(document) for document in request.documents]
    parts = await pair_scores(server, request.query, passages)
    scores = parts["scores"]
    order = sorted(range(len(scores)), key=lambda row: -scores[row])[: request.top_n]
    shown = request.return_documents
    results = [
        wire.RerankResult(row, scores[row], wire.RerankDocument(passages[row]) if shown else UNSET)
        for row in order
    ]
    usage = wire.TotalTokens(parts["tokens"])
    return wire.RerankResponse(uuid.uuid4().hex, server.model_id, results, usage)


def scaled(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Numbers of -1 to 1 as -127 to 127."""
    return np.clip(np.rint(vectors * 127), -127, 127).astype(np.int8)


def as_cohere(vectors: npt.NDArray[np.float32], kind: str) -> list[Any]:
    """Vectors in one of Cohere's types."""
    if kind == "float":
        return as_lists(vectors)
    if kind == "base64":
        return [base64_of(row) for row in vectors]
    if kind == "int8":
        return list(scaled(vectors).tolist())
    if kind == "uint8":
        return list((scaled(vectors).astype(np.int16) + 128).tolist())
    bits = np.packbits(vectors > 0, axis=1)  # a bit a number, the first one highest
    return list((bits if kind == "ubinary" else (bits ^ 128).view(np.int8)).tolist())


async def cohere_embed(
    server: Server, request: wire.CohereEmbedRequest
) -> Made[wire.CohereEmbedResponse]:
    if request.truncate == "START":
        check_right("left")
    vectors, tokens = await dense_vectors(
        server,
        request.texts,
        role="query" if request.input_type == "search_query" else "passage",
        dimensions=request.output_dimension,
        truncate=request.truncate == "END",
    )
    return lambda: wire.CohereEmbedResponse(
        uuid.uuid4().hex,
        {kind: as_cohere(vectors, kind) for kind in request.embedding_types or ["float"]},
        request.texts,
        {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
    )


async def score_pairs(server: Server, request: wire.ScoreRequest) -> wire.ScoreList:
    left = request.queries if request.text_1 is UNSET else request.text_1
    right = request.documents if request.text_2 is UNSET else request.text_2
    if isinstance(left, UnsetType) or isinstance(right, UnsetType):
        raise HttpError(422, "invalid_request", "give queries and documents (or text_1 and text_2)")
    lefts, rights = as_list(left), as_list(right)
    if len(lefts) == 1:
        parts = await pair_scores(server, lefts[0], rights)
        scores, tokens = parts["scores"], parts["tokens"]
    elif len(lefts) != len(rights):
        raise HttpError(
            422,
            "invalid_request",
            f"{len(lefts)} queries, {len(rights)} documents: give one query, or as many",
        )
    else:
        async with server.admitted([len(text.encode()) for text in (*lefts, *rights)]):
            pairs = zip(lefts, rights, strict=True)
            calls = [server.model.call("score", left, [right]) for left, right in pairs]
            several = await asyncio.gather(*calls)
        scores = [parts["scores"][0] for parts in several]
        tokens = sum(parts["tokens"] for parts in several)
    data = [wire.PairScore(row, score) for row, score in enumerate(scores)]
    usage = wire.Usage(tokens, tokens)
    return wire.ScoreList(uuid.uuid4().hex, int(time.time()), server.model_id, data, usage)


async def ollama_embed(server: Server, request: wire.OllamaRequest) -> Made[wire.OllamaResponse]:
    start = time.perf_counter_ns()
    inputs = as_list(request.input) if request.input else []
    vectors = np.empty((0, 0), np.float32)
    tokens = 0
    if inputs:
        vectors, tokens = await dense_vectors(
            server,
            inputs,
            role="plain",
            dimensions=request.dimensions,
            truncate=request.truncate is not False,
        )

    def made() -> wire.OllamaResponse:
        rows, took = as_lists(vectors), time.perf_counter_ns() - start
        return wire.OllamaResponse(request.model or server.model_id, rows, took, 0, tokens)

    return made


# text-embeddings-inference


async def tei_embed(server: Server, request: wire.EmbedRequest) -> Made[list[list[float]]]:
    check_right(request.truncation_direction)
    if request.normalize is False:
        raise HttpError(422, "normalize", "the model's vectors are unit vectors: normalize them")
    vectors, _ = await dense_vectors(
        server,
        as_list(request.inputs),
        role=role_of(request.prompt_name),
        dimensions=request.dimensions,
        truncate=bool(request.truncate),
    )
    return lambda: as_lists(vectors)


async def _tei_rows(server: Server, request: wire.EmbedRequest, head: Head) -> Embeddings:
    check_right(request.truncation_direction)
    return await server.encode(
        as_list(request.inputs),
        (head,),
        role=role_of(request.prompt_name),
        truncate=bool(request.truncate),
    )


async def tei_sparse(
    server: Server, request: wire.EmbedRequest
) -> Made[list[list[wire.SparseValue]]]:
    rows = (await _tei_rows(server, request, "sparse")).sparse
    assert rows is not None

    def weights(first: int, last: int) -> list[wire.SparseValue]:
        pairs = zip(rows.indices[first:last].tolist(), rows.data[first:last].tolist(), strict=True)
        return [wire.SparseValue(index, value) for index, value in pairs]

    return lambda: [weights(first, last) for first, last in pairwise(rows.indptr.tolist())]


async def tei_all(server: Server, request: wire.EmbedRequest) -> Made[list[list[list[float]]]]:
    rows = await _tei_rows(server, request, "multi")
    return lambda: [rows.tokens(row).tolist() for row in range(len(rows))]


async def tei_rerank(server: Server, request: wire.TeiRerankRequest) -> Any:
    check_right(request.truncation_direction)
    if not isinstance(request.documents, UnsetType):  # Jina's request at the same path
        return await rerank(
            server, wire.RerankRequest(request.query, request.documents, top_n=request.top_n)
        )
    if isinstance(request.texts, UnsetType):
        raise HttpError(422, "invalid_request", "give texts")
    parts = await pair_scores(server, request.query, request.texts, truncate=bool(request.truncate))
    scores = parts["scores"]
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    shown = request.return_text
    return [wire.TeiRank(row, scores[row], request.texts[row] if shown else UNSET) for row in order]


async def similarity(server: Server, request: wire.SimilarityRequest) -> list[float]:
    how = request.parameters or wire.SimilarityParameters()
    check_right(how.truncation_direction)
    vectors, _ = await dense_vectors(
        server,
        [request.inputs.source_sentence, *request.inputs.sentences],
        role=role_of(how.prompt_name),
        truncate=bool(how.truncate),
    )
    return list((vectors[1:] @ vectors[0]).tolist())


async def tokenize(server: Server, request: wire.TokenizeRequest) -> list[list[wire.Token]]:
    role_of(request.prompt_name)
    texts = as_list(request.inputs)
    async with server.admitted([len(text.encode()) for text in texts]):
        rows = await server.model.call("tokenize", request.add_special_tokens is not False, texts)
    return [[wire.Token(*token) for token in tokens] for tokens in rows]


async def decode(server: Server, request: wire.DecodeRequest) -> list[str]:
    rows = as_list(request.ids)
    async with server.admitted([BYTES_PER_TOKEN * len(row) for row in rows]):
        texts: list[str] = await server.model.call(
            "decode", request.skip_special_tokens is not False, rows
        )
        return texts
