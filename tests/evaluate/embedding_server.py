"""Embedding servers on 127.0.0.1 that run a checkpoint with transformers, well or with a defect.

They speak OpenAI's, text-embeddings-inference's and vLLM's interfaces. Nothing here uses our own
model: texts are tokenised, padded, run and read by other code.
"""

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from tests.chat_server import ChatServer, Reply, fails

SPECIAL = (0, 1, 2, 3)  # <s>, <pad>, </s>, <unk>


@dataclass(frozen=True)
class Defect:
    """What is done otherwise than M3 does it; the default is nothing."""

    limit: int = 510  # tokens
    left: bool = False  # cut at the start of a text
    change: Callable[[str], str] = lambda text: text
    before: tuple[int, ...] = (0,)
    behind: tuple[int, ...] = (2,)
    pool: str = "cls"
    unit: bool = True
    dims: int | None = None
    relu: bool = True
    log1p: bool = False
    summed: bool = False
    special: bool = False  # keeps the weights of special tokens
    first: int = 1  # first token whose multi-vector is given
    last: int = 0  # how many are dropped at the end
    unit_tokens: bool = True
    states: bool = False  # states in place of multi-vectors
    masked: bool = True
    positions: int = 2  # the first position id
    dtype: torch.dtype = torch.float32
    order: Callable[[list[Any]], list[Any]] = lambda rows: rows
    broken: float | None = None  # in place of every number of some vectors
    refuses: int | None = None  # tokens from which a text is refused
    name: str = "tiny"


class Model:
    """A checkpoint as transformers runs it; `random_heads` as if the head files were not found."""

    def __init__(self, folder: Path, *, random_heads: bool = False) -> None:
        from transformers import XLMRobertaModel

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.trunk = XLMRobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self._trunks: dict[torch.dtype, Any] = {}
        self._lock = threading.Lock()
        torch.manual_seed(5)
        self.heads: dict[str, Any] = {}
        for name in ("sparse_linear", "colbert_linear"):
            state = torch.load(folder / f"{name}.pt", weights_only=True)
            if random_heads:
                state = {key: torch.randn_like(value) * 0.2 for key, value in state.items()}
            self.heads[name] = (state["weight"], state["bias"])

    def ids(self, text: str, defect: Defect) -> list[int]:
        content = self.tokenizer.encode(defect.change(text), add_special_tokens=False).ids
        room = defect.limit - len(defect.before) - len(defect.behind)
        content = content[-room:] if defect.left else content[:room]
        return [*defect.before, *content, *defect.behind]

    @torch.inference_mode()
    def run(self, texts: list[str], defect: Defect) -> list[dict[str, Any]]:
        """Of each text: dense, weights by token, multi-vectors, ids."""
        rows = [self.ids(text, defect) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        counts = torch.tensor([len(row) for row in rows])
        real = (torch.arange(longest) < counts[:, None]).long()
        seen = real if defect.masked else torch.ones_like(real)
        places = None
        if defect.positions != 2:
            places = torch.arange(longest).expand_as(ids) + defect.positions
        with self._lock:
            if defect.dtype not in self._trunks:
                self._trunks[defect.dtype] = copy.deepcopy(self.trunk).to(defect.dtype)
        trunk = self._trunks[defect.dtype]
        states = trunk(ids, attention_mask=seen, position_ids=places).last_hidden_state
        return [
            self._read(row, part[: len(row)], defect, part)
            for row, part in zip(rows, states, strict=True)
        ]

    def _read(self, ids: list[int], states: Tensor, defect: Defect, all_: Tensor) -> dict[str, Any]:
        pooled = {
            "cls": states[0],
            "mean": (states if defect.masked else all_).mean(0),
            "last": states[-1],
        }[defect.pool].float()
        pooled = pooled[: defect.dims]
        dense = F.normalize(pooled, dim=-1) if defect.unit else pooled
        if defect.broken is not None and len(ids) % 3 == 0:
            dense = torch.full_like(dense, defect.broken)
        sparse, multi = (
            F.linear(states, weight.to(states.dtype), bias.to(states.dtype)).float()
            for weight, bias in self.heads.values()
        )
        logits = sparse.squeeze(-1)
        logits = F.relu(logits) if defect.relu else logits
        if defect.broken is not None and len(ids) % 3 == 0:
            logits = torch.full_like(logits, defect.broken)
        logits = torch.log1p(logits) if defect.log1p else logits
        vectors = states.float() if defect.states else multi
        vectors = vectors[defect.first : len(ids) - defect.last]
        return {
            "ids": ids,
            "dense": dense.tolist(),
            "weights": logits.tolist(),
            "multi": (F.normalize(vectors, dim=-1) if defect.unit_tokens else vectors).tolist(),
            "states": states.float().tolist(),
        }

    @staticmethod
    def lexical(found: dict[str, Any], defect: Defect) -> dict[int, float]:
        """The weights of a text by id."""
        out: dict[int, float] = {}
        for token, weight in zip(found["ids"], found["weights"], strict=True):
            if token in SPECIAL and not defect.special:
                continue
            if defect.summed:
                out[token] = out.get(token, 0.0) + weight
            else:
                out[token] = max(weight, out.get(token, -np.inf))
        return {token: weight for token, weight in out.items() if weight != 0}


class EmbeddingServer(ChatServer):
    """Serves a model through the interfaces named: openai, tei, vllm; or all at once as flag."""

    def __init__(
        self, model: Model, defect: Defect, apis: tuple[str, ...], *, served: str = ""
    ) -> None:
        super().__init__()
        self.model, self.defect, self.apis, self.served = model, defect, apis, served
        self.root = self.url.removesuffix("/v1")
        self.faults_of: dict[str, Reply] = {}  # by path, in place of an answer

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if path in self.faults_of:
            return self.faults_of[path]
        request = json.loads(body)
        with self._lock:
            self.requests.append(request)
        routes = {
            "/v1/embeddings": ("openai", self._openai),
            "/embed": ("tei", self._embed),
            "/embed_sparse": ("tei", self._embed_sparse),
            "/embed_all": ("tei", self._embed_all),
            "/pooling": ("vllm", self._pooling),
        }
        api, route = routes.get(path, ("", None))
        if route is None or api not in self.apis:
            return fails(404, f"Not Found: {path}")
        texts = request.get("input", request.get("inputs"))
        lengths = [len(self.model.ids(text, self.defect)) for text in texts]
        if not all(lengths):
            return fails(422, "`inputs` cannot be empty")
        if self.defect.refuses is not None and max(lengths) >= self.defect.refuses:
            return fails(400, f"maximum context length is {self.defect.refuses - 1} tokens")
        if "model" in request and self.served not in ("", request["model"]):
            return fails(404, f"The model `{request['model']}` does not exist.")
        return route(request, self.model.run(texts, self.defect))

    def _openai(self, request: dict[str, Any], found: list[dict[str, Any]]) -> Reply:
        vectors: list[Any] = [some["dense"] for some in found]
        if "flag" in self.apis:
            return Reply({"dense_vecs": vectors})
        data = [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(self.defect.order(vectors))
        ]
        data.reverse()  # `index` says the order
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return Reply({"object": "list", "data": data, "model": "tiny", "usage": usage})

    def _embed(self, request: dict[str, Any], found: list[dict[str, Any]]) -> Reply:
        return Reply(self.defect.order([some["dense"] for some in found]))

    def _embed_sparse(self, request: dict[str, Any], found: list[dict[str, Any]]) -> Reply:
        rows = [self.model.lexical(some, self.defect) for some in found]
        pairs = [[{"index": i, "value": w} for i, w in row.items()] for row in rows]
        return Reply(self.defect.order(pairs))

    def _embed_all(self, request: dict[str, Any], found: list[dict[str, Any]]) -> Reply:
        return Reply([some["states"] for some in found])

    def _pooling(self, request: dict[str, Any], found: list[dict[str, Any]]) -> Reply:
        if request["task"] == "token_embed":
            rows = [some["multi"] for some in found]
        else:
            rows = [[[weight] for weight in some["weights"][1:-1]] for some in found]
        return Reply({"data": [{"index": n, "data": row} for n, row in enumerate(rows)]})
