"""The interfaces of embedding servers: what is sent to which path, and how answers are read.

OpenAI's /v1/embeddings (vLLM, infinity, llama.cpp, SGLang and many more); text-embeddings-inference
(TEI) with /embed, /embed_sparse and /embed_all; vLLM's /pooling for sparse weights and
multi-vectors. Knows nothing of connections, verdicts or causes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.evaluate.doctor.answers import read_sparse, read_value, token_weights
from tercet.evaluate.doctor.readings import Answer, Kind, Sparse


@dataclass(frozen=True)
class Text:
    """A text, the token ids that the checkpoint makes of it, and those that never weigh."""

    text: str
    ids: Sequence[int]
    weightless: Sequence[int] = ()


@dataclass(frozen=True)
class Route:
    """One path of a server: what is sent there, and how its answer is read."""

    path: str
    kind: Kind
    body: Callable[[list[str], str], dict[str, Any]]
    rows: Callable[[Any], Any]  # one value a text
    read: Callable[[Any, Text], Answer] = lambda value, text: read_value(value)

    def __str__(self) -> str:
        task = self.body([], "").get("task")
        return f"/{self.path}" + (f" ({task})" if task else "")


def tei_route(path: str, kind: Kind) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"inputs": texts, "truncate": True}

    if kind == "sparse":
        return Route(
            path, kind, body, lambda answer: answer, lambda value, text: read_sparse(value)
        )
    return Route(path, kind, body, lambda answer: answer)


def openai(path: str) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "input": texts, "encoding_format": "float"}

    return Route(path, "dense", body, lambda answer: _ordered(answer["data"], "embedding"))


def _pooling(task: str, kind: Kind, read: Callable[[Any, Text], Answer]) -> Route:
    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "task": task, "input": texts}

    return Route("pooling", kind, body, lambda answer: _ordered(answer["data"], "data"), read)


def _by_token(value: Any, text: Text) -> Answer:
    """Who asks for the weights of tokens is to leave special ones out."""
    found = token_weights(value, text.ids)
    weighs = ~np.isin(found.ids, text.weightless)
    return Sparse(found.ids[weighs], found.weights[weighs])


def _plugin() -> Route:
    """vLLM with a plugin for M3's sparse weights, which gives ids too."""

    def body(texts: list[str], name: str) -> dict[str, Any]:
        return {"model": name, "task": "plugin", "data": {"input": texts}}

    def rows(answer: Any) -> Any:
        return _ordered(answer["data"]["data"], "sparse_embedding")

    return Route("pooling", "sparse", body, rows, lambda value, text: read_sparse(value))


TEI = [
    tei_route("embed", "dense"),
    tei_route("embed_sparse", "sparse"),
    tei_route("embed_all", "states"),
]
POOLING = [
    _pooling("token_classify", "sparse", _by_token),
    _plugin(),
    _pooling("token_embed", "multi", lambda value, text: read_value(value)),
]


def _ordered(data: list[Any], name: str) -> list[Any]:
    """The values in the order of the texts, which `index` tells."""
    places = [item.get("index") for item in data]
    if sorted(map(str, places)) == sorted(map(str, range(len(data)))):
        data = [
            item for _, item in sorted(zip(places, data, strict=True), key=lambda both: both[0])
        ]
    return [item[name] for item in data]
