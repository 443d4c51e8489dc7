"""A Tercet model as a model object of mteb 2 (`pip install 'tercet[mteb]'`).

Dense is an encoder, good for every kind of task. Multi-vectors, sparse weights and the weighted sum
of all are search models, good for retrieval and re-ranking: mteb hands them a corpus and queries,
and scores are computed here, as everywhere in Tercet, over the whole corpus. A passage is title,
newline, text (docs/method.md, scores). Knows nothing of tasks or measures.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.config import (
    BUNDLED_NAME,
    HEADS,
    MAX_LENGTH,
    MODES,
    Head,
    Mode,
    Role,
    Weights,
    check_count,
    strings,
)
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.tasks import Protocol
from tercet.io import name_of
from tercet.layout import published_shapes
from tercet.rows import passage_text
from tercet.scores import SCORES, Scores, dense_scores, weighted_sum

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

QUERY_TOKENS = Protocol().query_tokens
KINDS = {  # mode: mteb's kind of model and its name of the similarity
    "dense": ("dense", "COSINE"),
    "sparse": ("sparse", "DOT_PRODUCT"),
    "multi": ("late-interaction", "MAX_SIM"),
    "hybrid": ("hybrid", "CUSTOM"),
}

Batch = Mapping[str, Sequence[str]]
Vectors = npt.NDArray[np.float32]
Results = dict[str, dict[str, float]]  # query id -> passage id -> score


class MtebModel:
    """What both kinds of model have: an encoder, lengths in tokens, and what mteb calls meta."""

    def __init__(
        self,
        encoder: Encoder,
        mode: Mode,
        *,
        name: str | None = None,
        max_length: int = MAX_LENGTH,
        query_length: int = QUERY_TOKENS,
    ) -> None:
        """name as `organisation/model`, by default of where the model was loaded and the mode."""
        self.encoder, self.max_length, self.query_length = encoder, max_length, query_length
        self._mode, self._name = mode, name

    @cached_property
    def mteb_model_meta(self) -> "ModelMeta":
        """What mteb wants to know, and may set; it keeps results by name, revision and mode."""
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise MissingExtraError("mteb is not installed: pip install 'tercet[mteb]'") from error
        encoder, mode, source = self.encoder, self._mode, self.encoder.source
        kind, similarity = KINDS[mode]
        hidden = encoder.dims["dense"]
        trunk = sum(math.prod(shape) for _, shape in published_shapes(encoder.runtime.config))
        rows = encoder.dims.get("multi", 0) + ("sparse" in encoder.heads)

        def load(model_name: str, *, revision: str | None = None, **options: Any) -> Any:
            return mteb_model(source, name=model_name, **options)

        return ModelMeta(
            loader=load,
            name=self._name or f"{_name(source)}-{mode}",
            revision=encoder.fingerprint,
            release_date=None,
            languages=None,
            n_parameters=trunk + rows * (hidden + 1),
            n_embedding_parameters=encoder.dims["vocabulary"] * encoder.dims["dense"],
            memory_usage_mb=None,
            max_tokens=min(self.max_length, encoder.max_length),
            embed_dim=encoder.dims["multi" if mode == "multi" else "dense"],
            license=None,
            open_weights=True,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch", "safetensors"],
            similarity_fn_name=getattr(ScoringFunction, similarity),
            use_instructions=bool(encoder.settings.query_prefix or encoder.settings.passage_prefix),
            training_datasets=None,
            model_type=[kind],
            experiment_kwargs={
                "mode": mode,
                "max_length": self.max_length,
                "query_length": self.query_length,
            },
        )


class MtebDense(MtebModel):
    """Dense vectors for mteb's encoder tasks: retrieval, classification, clustering, pairs."""

    def __init__(self, encoder: Encoder, **options: Any) -> None:
        """options are those of `MtebModel`."""
        super().__init__(encoder, "dense", **options)

    def encode(
        self,
        inputs: Iterable[Batch],
        *,
        prompt_type: Any = None,
        precision: str | None = None,
        **unused: Any,
    ) -> Vectors:
        """(B, D) unit rows of the texts of all batches.

        The role, and so the model's prefix and the maximum length, follow from prompt_type. Texts
        are batched by tokens, whatever batch_size says. Raises InputError for another precision.
        """
        if precision not in (None, "float32"):
            raise InputError(f"precision {precision!r}: vectors are given in float32")
        prompt = getattr(prompt_type, "value", prompt_type)
        roles: dict[Any, Role] = {"query": "query", "document": "passage", None: "plain"}
        if prompt not in roles:
            raise InputError(f"unknown prompt type {prompt!r}: query, document or none")
        length = self.query_length if prompt == "query" else self.max_length
        texts = (text for batch in inputs for text in _texts(batch, roles[prompt]))
        parts = [np.zeros((0, self.encoder.dims["dense"]), dtype=np.float32)]
        for part in self.encoder.stream(
            texts, heads=("dense",), max_length=length, role=roles[prompt]
        ):
            assert part.dense is not None
            parts.append(part.dense)
        return np.concatenate(parts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of all pairs, which are inner products of unit rows."""
        one, other = (np.atleast_2d(side) for side in (embeddings1, embeddings2))
        return torch.from_numpy(dense_scores(Embeddings(dense=one), Embeddings(dense=other)))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of row i and row i."""
        one, other = (np.atleast_2d(side) for side in (embeddings1, embeddings2))
        return torch.from_numpy(np.einsum("nd,nd->n", one, other))


class MtebSearch(MtebModel):
    """Multi-vectors (MaxSim), sparse weights or the weighted sum of all for mteb's retrieval."""

    def __init__(
        self,
        encoder: Encoder,
        mode: Mode = "multi",
        *,
        weights: Weights | Iterable[float] | None = None,
        block: int = 4096,
        **options: Any,
    ) -> None:
        """weights are those of `hybrid`, by default the model's own; `block` passages are encoded
        and scored at once; options are those of `MtebModel`.
        """
        super().__init__(encoder, mode, **options)
        self.weights = encoder.weights if weights is None else Weights.of(weights)
        self.block = check_count("block", block)
        self.heads: tuple[Head, ...] = HEADS if mode == "hybrid" else (mode,)
        encoder.check(self.heads)
        self._corpus: Any = None

    def index(self, corpus: Any, **unused: Any) -> None:
        """Takes the corpus, rows of id, title and text; it is encoded when it is searched."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **unused: Any,
    ) -> Results:
        """The best top_k passages of each query; with top_ranked, of those candidates alone.

        Equal scores go by their place in the corpus. Raises InputError where nothing was indexed.
        """
        if self._corpus is None:
            raise InputError("there is nothing to search: call index first")
        names = [str(row["id"]) for row in queries]
        texts = [_query_text(row) for row in queries]
        encoded = self.encoder.encode(
            texts, heads=self.heads, max_length=self.query_length, role="query"
        )
        ids = [str(row["id"]) for row in self._corpus]
        place = {passage: number for number, passage in enumerate(ids)}
        chosen = top_ranked or {}
        candidates = [[place[i] for i in chosen.get(name, ()) if i in place] for name in names]
        best = np.zeros((len(names), 0), dtype=np.float32)
        places = np.zeros((len(names), 0), dtype=np.int64)
        first = 0
        titles = strings((row.get("title") or "" for row in self._corpus), "title")
        bodies = strings((row["text"] for row in self._corpus), "text")
        passages = map(passage_text, titles, bodies)
        for part in self.encoder.stream(
            passages, shard=self.block, heads=self.heads, max_length=self.max_length
        ):
            block = np.arange(first, first + len(part))
            scores = self._scores(encoded, part)
            if top_ranked is not None:
                outside = np.array([~np.isin(block, own) for own in candidates])
                scores = np.where(outside, np.float32(-np.inf), scores)
            best = np.concatenate((best, scores), axis=1)
            places = np.concatenate((places, np.tile(block, (len(names), 1))), axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :top_k]
            best = np.take_along_axis(best, order, axis=1)
            places = np.take_along_axis(places, order, axis=1)
            first += len(part)
        self._corpus = None
        return {
            name: {ids[p]: float(s) for p, s in zip(row, own, strict=True) if s > -np.inf}
            for name, row, own in zip(names, places, best, strict=True)
        }

    def _scores(self, queries: Embeddings, passages: Embeddings) -> Scores:
        parts = {head: SCORES[head](queries, passages) for head in self.heads}
        return weighted_sum(parts, self.weights) if len(parts) > 1 else parts[self.heads[0]]


def mteb_model(
    source: str | Path | Encoder | None = None,
    mode: Mode = "dense",
    *,
    device: str | None = None,
    revision: str | None = None,
    **options: Any,
) -> MtebDense | MtebSearch:
    """A model for `mteb.evaluate(model, tasks)`: a folder, a hub id or an encoder.

    mode is dense, sparse, multi or hybrid (all three, weighted); options are those of `MtebModel`.
    Raises MissingExtraError without mteb, ModelError for a model that cannot be loaded or has no
    such head.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    if not isinstance(source, Encoder):
        source = Encoder.load(source, device=device, revision=revision)
    model = MtebDense(source, **options) if mode == "dense" else MtebSearch(source, mode, **options)
    _ = model.mteb_model_meta  # so that an mteb that is missing is told now
    return model


def register(meta: "ModelMeta") -> None:
    """Makes `mteb.get_model(meta.name)` find a model, for the rest of this process."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    MODEL_REGISTRY[str(meta.name)] = meta


def _texts(batch: Batch, role: Role) -> Sequence[str]:
    """The texts of a batch; of passages with a title and a body, both with a newline between."""
    if role != "passage" or "body" not in batch or "title" not in batch:
        return batch["text"]
    titles = strings([title or "" for title in batch["title"]], "title")
    both = zip(titles, strings(batch["body"], "body"), strict=True)
    return [passage_text(title, body) for title, body in both]


def _query_text(row: Mapping[str, Any]) -> str:
    text = row["text"]
    if not isinstance(text, str):
        raise InputError(f"query {row['id']!r} is a {type(text).__name__}: only texts are searched")
    return f"{text} {row['instruction']}" if row.get("instruction") else text


def _name(source: str | None) -> str:
    """`organisation/model`, as mteb wants it."""
    if source is None:
        return f"tercet/{BUNDLED_NAME}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        return source
    return f"local/{name_of(source)}"
