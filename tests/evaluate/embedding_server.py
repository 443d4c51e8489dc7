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
    unit: bool = True  # vectors of length 1
    dims: int | None = None
    activation: Callable[[Tensor], Tensor] = torch.relu
    summed: bool = False
    special: bool = False  # keeps the weights of special tokens
    first: int = 1  # first token whose multi-vector is given
    last: int = 0  # how many are dropped at the end
    states: bool = False  # states in place of multi-vectors
    masked: bool = True
    dtype: torch.dtype = torch.float32
    order: Callable[[list[Any]], list[Any]] = lambda rows: rows
    broken: bool = False  # NaN in place of every number of some vectors
    refuses: int = 1 << 20  # tokens from which a text is refused


class Model:
    """A checkpoint as transformers runs it; `random_heads` as if the head files were not found."""

    def __init__(self, folder: Path, *, random_heads: bool = False) -> None:
        from transformers import XLMRobertaModel

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.trunk = XLMRobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self._lock = threading.Lock()
        torch.manual_seed(5)
        self.heads: list[tuple[Tensor, Tensor]] = []
        for name in ("sparse_linear", "colbert_linear"):
            state = torch.load(folder / f"{name}.pt", weights_only=True)
            if random_heads:
                state = {key: torch.randn_like(value) * 0.2 for key, value in state.items()}
            self.heads.append((state["weight"], state["bias"]))

    def ids(self, text: str, defect: Defect) -> list[int]:
        content = self.tokenizer.encode(defect.change(text), add_special_tokens=False).ids
        free = defect.limit - len(defect.before) - len(defect.behind)
        content = content[-free:] if defect.left else content[:free]
        return [*defect.before, *content, *defect.behind]

    @torch.inference_mode()
    def run(self, texts: list[str], defect: Defect) -> list[dict[str, Any]]:
        """Of each text: ids, dense vector, weights by token, multi-vectors, states."""
        rows = [self.ids(text, defect) for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        mask = torch.arange(longest) < torch.tensor(list(map(len, rows)))[:, None]
        with self._lock:
            trunk = self.trunk
            if defect.dtype != torch.float32:
                trunk = copy.deepcopy(self.trunk).to(defect.dtype)
        mask = mask if defect.masked else torch.ones_like(mask)
        states = trunk(ids, attention_mask=mask.long()).last_hidden_state
        return [self._read(row, part, defect) for row, part in zip(rows, states, strict=True)]

    def _read(self, ids: list[int], padded: Tensor, defect: Defect) -> dict[str, Any]:
        states = padded[: len(ids)]
        mean = (states if defect.masked else padded).mean(0)
        dense = {"cls": states[0], "mean": mean, "last": states[-1]}[defect.pool].float()
        sparse, multi = (
            F.linear(states, weight.to(states.dtype), bias.to(states.dtype)).float()
            for weight, bias in self.heads
        )
        vectors = states.float() if defect.states else multi
        scale: Callable[..., Tensor] = F.normalize if defect.unit else lambda x, dim: x
        made = {
            "dense": scale(dense[: defect.dims], dim=-1),
            "weights": defect.activation(sparse[:, 0]),
            "multi": scale(vectors[defect.first : len(ids) - defect.last], dim=-1),
            "states": states.float(),
        }
        nan = float("nan") if defect.broken and len(ids) % 3 == 0 else 1.0
        return {"ids": ids} | {name: (x * nan).tolist() for name, x in made.items()}


def lexical(made: dict[str, Any], defect: Defect) -> dict[int, float]:
    """The weights of a text by id."""
    out: dict[int, float] = {}
    for token, weight in zip(made["ids"], made["weights"], strict=True):
        if token in SPECIAL and not defect.special:
            continue
        before = out.get(token, 0.0 if defect.summed else -np.inf)
        out[token] = before + weight if defect.summed else max(weight, before)
    return {token: weight for token, weight in out.items() if weight != 0}


class EmbeddingServer(ChatServer):
    """Serves a model through the interfaces named: openai, tei, vllm."""

    def __init__(
        self, model: Model, defect: Defect, apis: tuple[str, ...], *, served: str = ""
    ) -> None:
        super().__init__()
        self.model, self.defect, self.apis, self.served = model, defect, apis, served
        self.root = self.url.removesuffix("/v1")
        self.fault: Reply | None = None  # in place of every answer
        self.unknown: Reply | None = None  # on other paths than those of the interfaces

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if self.fault is not None:
            return self.fault
        request = json.loads(body)
        with self._lock:
            self.requests.append(request)
        api = {"/v1/embeddings": "openai", "/pooling": "vllm"}.get(path, "tei")
        if api not in self.apis:
            return self.unknown or fails(404, f"Not Found: {path}")
        texts = request.get("input", request.get("inputs"))
        lengths = [len(self.model.ids(text, self.defect)) for text in texts]
        if not all(lengths):
            return fails(422, "`inputs` cannot be empty")
        if max(lengths) >= self.defect.refuses:
            return fails(400, f"maximum context length is {self.defect.refuses - 1} tokens")
        if "model" in request and self.served not in ("", request["model"]):
            return fails(404, f"The model `{request['model']}` does not exist.")
        made = self.model.run(texts, self.defect)
        if path == "/embed_all":
            return Reply([row["states"] for row in made])
        if path == "/embed_sparse":
            weights = [lexical(row, self.defect).items() for row in made]
            return Reply(
                self.defect.order([[{"index": i, "value": w} for i, w in row] for row in weights])
            )
        if path == "/embed":
            return Reply(self.defect.order([row["dense"] for row in made]))
        name = "embedding" if api == "openai" else "data"
        kind = {"token_embed": "multi", "token_classify": "weights"}.get(
            request.get("task"), "dense"
        )
        values = [row[kind] for row in made]
        if kind == "weights":
            values = [[[weight] for weight in row[1:-1]] for row in values]
        data = [{"index": n, name: row} for n, row in enumerate(self.defect.order(values))]
        return Reply(
            {"object": "list", "data": data[::-1], "model": "tiny"}
        )  # `index` says the order
