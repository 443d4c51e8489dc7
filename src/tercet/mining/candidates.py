"""Candidates of every kind asked for: encodes the texts once, then ranks them for some queries.

Joins encoder and ranking. What does not fit in memory lies in a folder, memory-mapped. Knows
nothing of which candidates may be negatives.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tercet import bm25
from tercet.checkpoint import Settings
from tercet.config import HEADS, Head, Role, Weights
from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.errors import InputError, ModelError
from tercet.hybrid import DenseRanker, MultiRanker, Ranked, Ranker, SparseRanker
from tercet.mining.config import EXHAUSTIVE, MineConfig, Source
from tercet.mining.pool import Places, Pool
from tercet.scores import Scores, weighted_sum

Advance = Callable[[int], None]  # so many texts more are done


class Encodes(Protocol):
    """What mining needs of an encoder; `tercet.encoder.Encoder` is one, in eval mode."""

    heads: tuple[Head, ...]
    weights: Weights
    tokenizer: Any
    settings: Settings

    def stream(
        self,
        texts: Iterable[str],
        *,
        heads: Sequence[Head] = ...,
        max_length: int = ...,
        role: Role = ...,
    ) -> Iterator[Embeddings]:
        """Embeddings of the texts in their order, shard by shard."""


@dataclass(frozen=True)
class Candidates:
    """The rankers of everything that has a score, and how they make the sources asked for."""

    config: MineConfig
    rankers: dict[Source, Ranker]  # those of single heads and of BM25
    weights: Weights
    count: int  # ranks

    @staticmethod
    def prepare(
        pool: Pool, encoder: Encodes, config: MineConfig, folder: Path, advance: Advance
    ) -> "Candidates":
        """Encodes texts and queries into a folder; raises InputError for what cannot be asked."""
        heads = heads_needed(encoder, config, pool.candidates)
        rankers: dict[Source, Ranker] = {}
        if heads:
            options: dict[str, Any] = {"heads": heads, "advance": advance}
            passages = encode(
                encoder,
                pool.texts,
                folder / "passages",
                "passage",
                config.passage_tokens,
                **options,
            )
            queries = encode(
                encoder,
                pool.questions(encoder.settings.prefix("query")),
                folder / "asked",
                "plain",
                config.query_tokens,
                **options,
            )
            if passages.dense is not None and queries.dense is not None:
                device = torch.device(getattr(encoder, "device", "cpu"))
                rankers["dense"] = DenseRanker(
                    queries.dense, passages.dense, pool.candidates, device
                )
            if passages.sparse is not None and queries.sparse is not None:
                rankers["sparse"] = SparseRanker(queries.sparse, passages.sparse, pool.candidates)
            if passages.multi is not None:
                rankers["multi"] = MultiRanker(queries, passages, pool.candidates)
        if "bm25" in config.by:
            terms = bm25.Pieces(encoder.tokenizer, fold=True)
            made = bm25.index(pool.texts, terms, max_tokens=config.passage_tokens)
            counts = made.queries(pool.queries, max_tokens=config.query_tokens)
            rankers["bm25"] = SparseRanker(counts, made.weights, pool.candidates)
        return Candidates(config, rankers, config.weights or encoder.weights, config.last)

    def find(self, queries: Places) -> dict[Source, Ranked]:
        """The best texts of each source asked for, for these queries."""
        first = [name for name in ("dense", "sparse", "bm25") if name in self._first()]
        found: dict[Source, Ranked] = {
            name: self.rankers[name].top(queries, self.count) for name in first
        }
        again = [name for name in ("multi", "all") if name in self.config.by]
        if first and again:
            codes = np.unique(np.concatenate([_codes(found[name].places) for name in first]))
            rows, places = codes // _ROW, codes % _ROW
            for name in again:
                scores = self.score(name, queries[rows], places)
                found[name] = Ranked.of(rows, places, scores, len(queries), self.count)
        elif again:
            found["multi"] = self.rankers["multi"].top(queries, self.count)
        return {name: found[name] for name in self.config.by}

    def _first(self) -> set[Source]:
        """What ranks the whole corpus: the sources asked for, and the heads that "all" needs."""
        heads: set[Source] = {"dense", "sparse"}
        asked = set(self.config.by)
        return asked | heads & set(self.rankers) if "all" in asked else asked

    def score(self, source: Source, queries: Places, places: Places) -> Scores:
        """Scores of n pairs by one source; the pairs of a query must be neighbours."""
        if source != "all":
            return self.rankers[source].score(queries, places)
        parts = {
            head: self.rankers[head].score(queries, places)
            for head in HEADS
            if head in self.rankers
        }
        return weighted_sum(parts, self.weights)


_ROW = np.int64(1 << 40)  # a pair of row and place as one number


def _codes(places: Places) -> Places:
    codes: Places = np.arange(len(places))[:, None] * _ROW + places
    return codes[places >= 0]


def heads_needed(encoder: Encodes, config: MineConfig, candidates: int) -> tuple[Head, ...]:
    """The heads that the sources rest on; raises InputError where they cannot be had."""
    lacking = [name for name in config.by if name in HEADS and name not in encoder.heads]
    if lacking:
        raise InputError(
            f"the model has no {lacking[0]} head: take candidates from "
            f"{', '.join([*encoder.heads, 'bm25'])}"
        )
    if "all" in config.by:
        if len(encoder.heads) < 2:
            raise InputError(
                f"the model has but one head, {encoder.heads[0]}: 'all' would be the same as it"
            )
        return encoder.heads
    if config.by == ("multi",) and candidates > EXHAUSTIVE:
        raise InputError(
            f"multi alone would compare every query with {candidates} texts token by token (at "
            f"most {EXHAUSTIVE}): name dense or sparse too, whose candidates it then ranks again"
        )
    return tuple(head for head in HEADS if head in config.by)


def encode(
    encoder: Encodes,
    texts: Iterable[str],
    folder: Path,
    role: Role,
    max_length: int,
    *,
    heads: tuple[Head, ...],
    advance: Advance,
) -> Embeddings:
    """Encodes texts into a folder, shard by shard, and opens it memory-mapped."""
    with EmbeddingsWriter(folder) as writer:
        for shard in encoder.stream(texts, heads=heads, max_length=max_length, role=role):
            for part in (
                shard.dense,
                shard.multi,
                None if shard.sparse is None else shard.sparse.data,
            ):
                if part is not None and not np.isfinite(part).all():
                    raise ModelError(
                        "the model gives vectors that are not finite numbers: its weights are "
                        "damaged, or the training that made them went astray"
                    )
            writer.add(shard)
            advance(len(shard))
    return Embeddings.load(folder)
