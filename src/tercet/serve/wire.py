"""The shapes of requests and answers on the wire, and nothing else.

What others have published keeps its names and takes fields that it does not know; the server's own
requests refuse them. Sources: the APIs of OpenAI, Cohere, Jina, vLLM, Ollama, text-embeddings-
inference 1.9 and SIE 0.10, by their published schemas.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Texts = Annotated[list[str], Meta(min_length=1)]
# A text, texts, token ids, or lists of these; `routes.as_list` refuses what is mixed.
Inputs = str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
OutputType = Literal["dense", "sparse", "multivector"]
Vector = list[float]


class Request(Struct, forbid_unknown_fields=True):
    """A request of our own."""


class Foreign(Struct):
    """A request in somebody else's shape."""


class Answer(Struct, omit_defaults=False):
    """What is answered."""


# OpenAI


class EmbeddingRequest(Foreign):
    """OpenAI's embeddings: a text, texts, token ids, or lists of token ids."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None
    input_type: str | None = None  # as some servers take it: "query" or "passage"


class Embedding(Answer):
    """One vector; in base64 little-endian float32."""

    index: int
    embedding: Vector | str
    object: str = "embedding"


class Usage(Answer):
    """Tokens that were read, special ones included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """OpenAI's answer."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: str = "list"


class ModelCard(Answer):
    """The model that is served."""

    id: str
    created: int = 0
    object: str = "model"
    owned_by: str = "tercet"


class ModelList(Answer):
    """OpenAI's list of models."""

    data: list[ModelCard]
    object: str = "list"


# Cohere, Jina, vLLM, Ollama


class RerankDocument(Foreign):
    """A passage with fields; its text counts."""

    text: str


class RerankRequest(Foreign):
    """Cohere's and Jina's rerank."""

    query: Text
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1)]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = False


class RerankResult(Answer):
    """A passage's place in the request and its score: the hybrid sum."""

    index: int
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class TotalTokens(Answer):
    """Tokens that were read."""

    total_tokens: int


class RerankResponse(Answer):
    """Best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: TotalTokens


class CohereEmbedRequest(Foreign):
    """Cohere's embed of version 2, for texts."""

    texts: Texts
    model: str | None = None
    input_type: Literal["search_document", "search_query", "classification", "clustering"] = (
        "search_document"
    )
    embedding_types: list[Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]] = field(
        default_factory=lambda: ["float"]
    )
    output_dimension: Count | None = None
    truncate: Literal["NONE", "START", "END"] = "END"


class CohereEmbedResponse(Answer):
    """Vectors by their type."""

    id: str
    embeddings: dict[str, list[Any]]
    texts: list[str]
    meta: dict[str, Any]
    response_type: str = "embeddings_by_type"


class ScoreRequest(Foreign):
    """vLLM's score: one text against one or many, or pairs."""

    queries: str | Texts | UnsetType = UNSET
    documents: str | Texts | UnsetType = UNSET
    text_1: str | Texts | UnsetType = UNSET
    text_2: str | Texts | UnsetType = UNSET
    model: str | None = None


class PairScore(Answer):
    """The hybrid sum of a pair."""

    index: int
    score: float
    object: str = "score"


class ScoreList(Answer):
    """vLLM's answer."""

    id: str
    created: int
    model: str
    data: list[PairScore]
    usage: Usage
    object: str = "list"


class OllamaRequest(Foreign):
    """Ollama's embed."""

    input: str | list[str]
    model: str | None = None
    truncate: bool | None = None
    dimensions: Count | None = None


class OllamaResponse(Answer):
    """Durations in nanoseconds."""

    model: str
    embeddings: list[Vector]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


# text-embeddings-inference

Direction = Literal["Left", "Right", "left", "right"]


class EmbedRequest(Foreign):
    """Dense vectors (/embed) or one for each token (/embed_all)."""

    inputs: Inputs
    truncate: bool | None = False
    truncation_direction: Direction | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: Count | None = None


class SparseValue(Answer):
    """A token's weight."""

    index: int
    value: float


class TeiRerankRequest(Foreign):
    """Texts by their score with a query; Jina's `documents` are taken as well."""

    query: Text
    texts: Texts | UnsetType = UNSET
    documents: Annotated[list[str | RerankDocument], Meta(min_length=1)] | UnsetType = UNSET
    raw_scores: bool | None = False
    return_text: bool | None = False
    truncate: bool | None = False
    truncation_direction: Direction | None = None
    top_n: Count | None = None
    model: str | None = None


class TeiRank(Answer):
    """Best first; the score is the hybrid sum."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class SimilarityInput(Foreign):
    """A sentence, and those it is compared with."""

    source_sentence: Text
    sentences: Texts


class SimilarityParameters(Foreign):
    """How texts are read."""

    truncate: bool | None = False
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class SimilarityRequest(Foreign):
    """Cosines of dense vectors."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


class TokenizeRequest(Foreign):
    """Texts to tokens."""

    inputs: str | Texts
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class Token(Answer):
    """A token and the characters that it stands for; special ones stand for none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(Foreign):
    """Token ids to texts."""

    ids: Annotated[list[int | list[int]], Meta(min_length=1)]
    skip_special_tokens: bool | None = None


# Our own


class EncodeItem(Request):
    """A text, and an id that is given back."""

    text: str
    id: str | None = None


class EncodeOptions(Request):
    """is_query puts the model's prefix of queries before a text, where it has one."""

    is_query: bool = False


class EncodeParams(Request):
    """Which representations, and in which numbers."""

    output_types: Annotated[list[OutputType], Meta(min_length=1)] = field(
        default_factory=lambda: ["dense", "sparse", "multivector"]
    )
    output_dtype: Literal["float32", "float16", "int8"] = "float32"
    encoding: Literal["float", "base64"] = "float"
    max_length: Annotated[int, Meta(ge=3)] | None = None
    truncate: bool = True
    options: EncodeOptions = field(default_factory=EncodeOptions)


class EncodeRequest(Request):
    """Any of the three representations of texts, from one pass."""

    items: Annotated[list[EncodeItem], Meta(min_length=1)]
    params: EncodeParams = field(default_factory=EncodeParams)
    model: str = ""


class DenseValues(Answer):
    """A unit vector; int8 values times scale are its numbers."""

    dims: int
    dtype: str
    values: Any
    scale: float | UnsetType = UNSET


class SparseValues(Answer):
    """Weights (values) of tokens (indices, increasing) in a vocabulary of dims."""

    dims: int
    dtype: str
    indices: Any
    values: Any


class MultiValues(Answer):
    """num_tokens unit vectors of token_dims, in base64 one after the other; int8: times scales."""

    token_dims: int
    num_tokens: int
    dtype: str
    values: Any
    scales: Any = UNSET


class EncodedItem(Answer):
    """The representations of one text."""

    id: str | None
    num_tokens: int
    truncated: bool
    dense: DenseValues | UnsetType = UNSET
    sparse: SparseValues | UnsetType = UNSET
    multivector: MultiValues | UnsetType = UNSET


class EncodeResponse(Answer):
    """Items in the order of the request; times in milliseconds."""

    model: str
    items: list[EncodedItem]
    usage: TotalTokens
    timing: dict[str, float]


class WeightsGiven(Request):
    """Weights of the raw scores in the hybrid sum."""

    dense: float
    sparse: float
    multi: float


class PassagesRequest(Request):
    """A query against passages."""

    query: Text
    passages: Texts
    weights: WeightsGiven | None = None
    truncate: bool = True


class PassageScores(Answer):
    """The hybrid sum and its raw parts; a part that the model lacks is null."""

    index: int
    score: float
    dense: float | None
    sparse: float | None
    multi: float | None


class PassagesResponse(Answer):
    """In the order of the request."""

    scores: list[PassageScores]
    weights: dict[str, float]
    usage: TotalTokens


Scalar = str | int | float | bool


class SearchRequest(Request):
    """A question to the index."""

    query: Text
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    mode: Literal["hybrid", "dense", "sparse", "multi"] = "hybrid"
    weights: WeightsGiven | None = None
    filter: dict[str, Scalar | list[Scalar]] = field(default_factory=dict)
    chunks: bool = False
    min_score: float | None = None
    candidates: Annotated[int, Meta(ge=0, le=100_000)] | None = None


class SearchResponse(Answer):
    """Hits, best first: raw parts, the passage, its place, its best sentence, matched words."""

    query: str
    weights: dict[str, float]
    hits: list[dict[str, Any]]
    took_ms: float


class ExplainRequest(Request):
    """Why a passage answers a query."""

    query: Text
    passage: Text
    title: str = ""


class DocumentGiven(Request):
    """A document: its id stays the same when its text changes."""

    id: Annotated[str, Meta(min_length=1, max_length=1024)]
    text: str
    title: str = ""
    source: str = ""
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class DocumentsRequest(Request):
    """Documents to add or replace."""

    documents: Annotated[list[DocumentGiven], Meta(min_length=1)]


class DocumentsReport(Answer):
    """What was done, durable when it is told; counts are of documents, but for chunks."""

    added: int
    updated: int
    unchanged: int
    removed: int
    chunks: int
    truncated: int
    skipped: list[dict[str, str]]
    notes: list[dict[str, str]]


class Removed(Answer):
    """How many documents were removed."""

    removed: int


class DocumentFacts(Answer):
    """A document without its text."""

    id: str
    title: str
    source: str
    language: str | None
    metadata: dict[str, Any]


class DocumentPage(Answer):
    """Documents by their ids; `next` is where the next page begins, null behind the last."""

    documents: list[DocumentFacts]
    next: str | None


class ErrorBody(Answer):
    """What is wrong, and how to mend it."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorResponse(Answer):
    """An error in OpenAI's shape."""

    error: ErrorBody


class TeiError(Answer):
    """An error in the shape of text-embeddings-inference."""

    error: str
    error_type: str
