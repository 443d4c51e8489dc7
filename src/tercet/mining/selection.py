"""Candidates of every source asked for, and which of them become the negatives of a row.

    1. texts and queries are encoded once; the sources that rank the whole corpus (dense, sparse,
       BM25) are the first stage, multi-vectors and the sum of all heads rerank what they found
    2. the ranks asked for, of every source, are united
    3. out: the row's positives, their and the query's duplicates, what is related to the row, and
       the negatives that it has already
    4. out: what scores above the limit by any source that found it
    5. the rest is put in order: drawn at random by the seed, or the best ranks first
    6. in that order, until there are enough: out are near-duplicates of a positive, repeats of a
       text taken before, and what the scorer puts too near to the positives

What does not fit in memory lies in a folder, memory-mapped. Knows nothing of training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tercet import bm25
from tercet.config import HEADS, Head, Role, Weights
from tercet.curate.near_duplicates import jaccard
from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.errors import InputError
from tercet.hybrid import Ranked, Ranker, SparseRanker, rankers, union
from tercet.layout import Settings
from tercet.mining import MineConfig, Source
from tercet.mining.pool import Pool, shingles
from tercet.scorers import PAIRS, Scorer, scores_of
from tercet.scores import Places, Scores, weighted_sum

Advance = Callable[[int], None]  # so many texts more are done

# Texts of a corpus that "multi" ranks alone: MaxSim of a query with every text is about 100 times
# the work of an inner product.
EXHAUSTIVE = 20_000
EXAMPLES, SHOWN = 3, 160  # of each reason; characters of a text in one

REASONS = {
    "positive": "a positive of the row itself",
    "duplicate": "the query or a positive, but for case and white space",
    "group": "of a row that shares a text or a group id with it, or a translation of one",
    "listed": "a negative that the row has already",
    "limit": "scores too much of the positive's score",
    "blind": "found only where no positive scores above 0, so that there is no limit",
    "near": "nearly the same text as a positive",
    "repeat": "a text taken before, but for case and white space",
    "veto": "too near to the positives, says the scorer",
}


# Candidates


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
    """The rankers of single heads and of BM25, and how they make the sources asked for."""

    config: MineConfig
    rankers: dict[Source, Ranker]
    weights: Weights

    @staticmethod
    def prepare(
        pool: Pool, encoder: Encodes, config: MineConfig, folder: Path, advance: Advance
    ) -> "Candidates":
        """Encodes texts and queries into a folder; raises InputError for what cannot be asked."""
        heads = heads_needed(encoder, config, pool.candidates)
        by: dict[Source, Ranker] = {}

        def encode(texts: Iterable[str], name: str, role: Role, tokens: int) -> Embeddings:
            shards = encoder.stream(texts, heads=heads, max_length=tokens, role=role)
            return _write(shards, folder / name, advance)

        if heads:
            passages = encode(pool.texts, "passages", "passage", config.passage_tokens)
            prompted = pool.prompted_queries(encoder.settings.prefix("query"))
            queries = encode(prompted, "prompted", "plain", config.query_tokens)
            device = getattr(encoder, "device", "cpu")
            by.update(rankers(queries, passages, device, pool.candidates).items())
        if "bm25" in config.by:
            terms = bm25.Subwords(encoder.tokenizer, fold=True)
            index = bm25.index(pool.texts, terms, max_tokens=config.passage_tokens)
            counts = index.queries(pool.queries, max_tokens=config.query_tokens)
            by["bm25"] = SparseRanker(counts, index.weights, pool.candidates)
        return Candidates(config, by, config.weights or encoder.weights)

    def find(self, queries: Places) -> dict[Source, Ranked]:
        """The best texts of each source asked for, for these queries."""
        sources, count = self.config.by, self.config.last
        stage: list[Source] = [name for name in ("dense", "sparse", "bm25") if name in sources]
        if "all" in sources:
            stage = [name for name in ("dense", "sparse", "bm25") if name in {*stage, *self.heads}]
        ranked = {name: self.rankers[name].top(queries, count) for name in stage}
        if not ranked:
            return {"multi": self.rankers["multi"].top(queries, count)}
        again: list[Source] = [name for name in ("multi", "all") if name in sources]
        if again:
            rows, places = union(ranked.values())
            for name in again:
                scores = self.score(name, queries[rows], places)
                ranked[name] = Ranked.of(rows, places, scores, len(queries), count)
        return {name: ranked[name] for name in sources}

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that have a ranker."""
        return tuple(head for head in HEADS if head in self.rankers)

    def score(self, source: Source, queries: Places, places: Places) -> Scores:
        """Scores of n pairs by one source; the pairs of a query must be neighbours."""
        if source != "all":
            return self.rankers[source].score(queries, places)
        parts = {head: self.rankers[head].score(queries, places) for head in self.heads}
        return weighted_sum(parts, self.weights)


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


def _write(shards: Iterable[Embeddings], folder: Path, advance: Advance) -> Embeddings:
    """Writes embeddings to a folder and opens it memory-mapped."""
    with EmbeddingsWriter(folder) as writer:
        for shard in shards:
            shard.check_finite()
            writer.add(shard)
            advance(len(shard))
    return Embeddings.load(folder)


# Selection


@dataclass
class MineReport:
    """What was mined, dropped and kept."""

    rows: int  # read
    mined: int  # of them with positives
    texts: int  # candidates
    found: int = 0  # candidates in the ranks asked for, each once a row
    kept: int = 0
    kept_by: dict[str, int] = field(default_factory=dict)  # source -> how many of them it found
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    fewer: int = 0  # rows that got fewer than were wanted, those with none included
    none: int = 0
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # the first few
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}

    def table(self) -> str:
        """The report for people."""
        lines = [
            f"{self.mined} of {self.rows} rows have positives; {self.texts} texts to choose from",
            f"{self.kept} negatives kept of {self.found} candidates, in {self.seconds:.1f} s",
            f"{self.fewer} rows got fewer than wanted, {self.none} of them none",
            "",
            "kept, by what found them (one may be found by several)",
        ]
        lines += [f"  {count:>10,}  {source}" for source, count in self.kept_by.items()]
        lines += ["", "dropped (near, repeat and veto: of those that were drawn)"]
        for reason, count in self.dropped.items():
            lines.append(f"  {count:>10,}  {reason}: {REASONS[reason]}")
            for example in self.examples.get(reason, [])[:1]:
                scores = "".join(
                    f", {name.replace('_', ' ')} {example[name]}"
                    for name in ("source", "score", "positive_score")
                    if name in example
                )
                lines.append(f"              e.g. row {example['row']}: {example['query']!r}")
                lines.append(f"                   positive {example['positive']!r}")
                lines.append(f"                   dropped  {example['text']!r}{scores}")
        return "\n".join(lines)


@dataclass
class Chosen:
    """A row and its new negatives by place; with a scorer, its scores of them and the positives."""

    row: int  # among the pool's rows
    left: Iterator[int]  # places in the order in which they are taken
    finders: dict[int, int]  # place -> bits of the sources that found it
    places: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    positive_scores: list[float] = field(default_factory=list)


class Selector:
    """Chooses negatives for blocks of rows; what it did is in the report."""

    def __init__(
        self, pool: Pool, candidates: Candidates, config: MineConfig, scorer: Scorer | None = None
    ) -> None:
        self.pool, self.candidates, self.config = pool, candidates, config
        self.scorer = scorer
        self._shingles = lru_cache(maxsize=256)(lambda place: shingles(pool.texts[place]))
        kept_by: dict[str, int] = dict.fromkeys(config.by, 0)
        self.report = MineReport(pool.rows, len(pool), pool.candidates, kept_by=kept_by)

    def choose(self, rows: Places) -> list[Chosen]:
        """The negatives of these rows, in their order."""
        ranked = self.candidates.find(rows)
        lowest = {source: self._lowest(source, rows) for source in ranked}
        owners, keys = self.pool.related.of(rows)
        related = np.split(keys, np.searchsorted(owners, np.arange(1, len(rows))))
        out = [
            self._ordered(rows, number, ranked, lowest, own) for number, own in enumerate(related)
        ]
        report, number = self.report, self.config.number
        if self.scorer is None:
            for chosen in out:
                chosen.places = list(islice(chosen.left, number))
        else:
            self._judge(out, self.scorer)
        for chosen in out:
            report.kept += len(chosen.places)
            report.fewer += len(chosen.places) < number
            report.none += not chosen.places
            for bit, name in enumerate(self.config.by):
                report.kept_by[name] += sum(chosen.finders[p] >> bit & 1 for p in chosen.places)
        return out

    def _lowest(self, source: Source, rows: Places) -> Scores:
        """Each row's lowest score above 0 of its positives; infinity where there is none."""
        own = [self.pool.positives[row] for row in rows.tolist()]
        owners = np.repeat(np.arange(len(rows)), [len(places) for places in own])
        scores = self.candidates.score(source, rows[owners], np.concatenate(own))
        lowest = np.full(len(rows), np.inf, dtype=np.float32)
        np.minimum.at(lowest, owners, np.where(scores > 0, scores, np.inf))
        return lowest

    def _ordered(
        self,
        rows: Places,
        number: int,
        ranked: dict[Source, Ranked],
        lowest: dict[Source, Scores],
        related: Places,
    ) -> Chosen:
        """Steps 2 to 5 of one of the rows that were ranked."""
        pool, config, row = self.pool, self.config, int(rows[number])
        asked = slice(config.first - 1, config.last)
        parts, blind = [], 0
        # what is above the limit: by which source, its and the positive's score
        above: dict[int, tuple[Source, float, float]] = {}
        for bit, (source, of_rows) in enumerate(ranked.items()):
            limit, positive = config.limit_of(source), lowest[source][number]
            places, scores = of_rows.places[number, asked], of_rows.scores[number, asked]
            ranks = np.flatnonzero(places >= 0)
            high = scores[ranks] > limit * positive
            parts.append((places[ranks], ranks, np.full(len(ranks), 1 << bit), high))
            blind |= bool(np.isinf(positive) and np.isfinite(limit)) << bit
            for rank in ranks[high].tolist():
                above[int(places[rank])] = source, float(scores[rank]), float(positive)
        every, ranks, bits, high = (np.concatenate(part) for part in zip(*parts, strict=True))
        places, inverse = np.unique(every, return_inverse=True)
        best = np.full(len(places), config.last)
        np.minimum.at(best, inverse, ranks)
        finders = np.zeros(len(places), dtype=np.int64)
        np.bitwise_or.at(finders, inverse, bits)

        positives, keys = pool.positives[row], pool.keys[places]
        reasons = {
            "positive": _among(places, positives),
            "duplicate": _among(keys, np.append(pool.keys[positives], pool.row_keys[row])),
            "group": np.isin(keys, related),
            "listed": _among(keys, pool.negatives[row]) & config.keep,
            "limit": np.bincount(inverse, high, len(places)) > 0,
            "blind": (finders & ~blind) == 0,
        }
        self.report.found += len(places)
        left = np.ones(len(places), dtype=np.bool_)
        for reason, out in reasons.items():
            gone = places[out & left]
            left &= ~out
            if len(gone):
                place = int(gone[0])
                facts: dict[str, Any] = {}
                if reason == "limit":
                    source, score, lowest_score = above[place]
                    facts = {"source": source, "score": round(score, 4)}
                    facts["positive_score"] = round(lowest_score, 4)
                self._drop(reason, row, place, facts, count=len(gone))
        finders_of = dict(zip(places.tolist(), finders.tolist(), strict=True))
        places, best = places[left], best[left]
        if config.hardest:
            order = np.lexsort((places, best))
        else:
            seed = (config.seed, int(pool.row[row]))
            order = np.random.default_rng(seed).permutation(len(places))
        return Chosen(row, self._passing(row, places[order].tolist()), finders_of)

    def _passing(self, row: int, places: list[int]) -> Iterator[int]:
        """Step 6 without the scorer: the places that are no near-duplicates and no repeats."""
        positives = self.pool.positives[row].tolist()
        seen: set[int] = set()
        for place in places:
            key = int(self.pool.keys[place])
            if key in seen:
                self._drop("repeat", row, place)
            elif any(self._alike(place, positive) for positive in positives):
                self._drop("near", row, place)
            else:
                seen.add(key)
                yield place

    def _alike(self, place: int, positive: int) -> bool:
        left, right = int(self.pool.sizes[place]), int(self.pool.sizes[positive])
        # the similarity is at most the ratio of the sizes, which costs nothing
        if min(left, right) < self.config.near * max(left, right):
            return False
        return jaccard(self._shingles(place), self._shingles(positive)) >= self.config.near

    def _judge(self, rows: list[Chosen], scorer: Scorer) -> None:
        """Step 6 with the scorer: in rounds, so that no more is scored than is needed."""
        number, margin = self.config.number, self.config.margin

        def scored(pairs: list[tuple[Chosen, int]]) -> Iterator[tuple[Chosen, int, float]]:
            pool = self.pool
            for first in range(0, len(pairs), PAIRS):
                part = pairs[first : first + PAIRS]
                texts = [(pool.queries[chosen.row], pool.texts[place]) for chosen, place in part]
                for (chosen, place), score in zip(part, scores_of(scorer, texts), strict=True):
                    yield chosen, place, score

        positives = [
            (chosen, p) for chosen in rows for p in self.pool.positives[chosen.row].tolist()
        ]
        for chosen, _, score in scored(positives):
            chosen.positive_scores.append(score)
        waiting = rows
        while waiting:
            tried = [
                (chosen, place)
                for chosen in waiting
                for place in islice(chosen.left, number - len(chosen.places))
            ]
            for chosen, place, score in scored(tried):
                lowest = min(chosen.positive_scores)
                if margin is not None and score > lowest - margin:
                    facts = {"score": score, "positive_score": lowest}
                    self._drop("veto", chosen.row, place, facts)
                else:
                    chosen.places.append(place)
                    chosen.scores.append(score)
            going = {chosen.row for chosen, _ in tried}  # the others have nothing left
            waiting = [
                chosen for chosen in waiting if chosen.row in going and len(chosen.places) < number
            ]

    def _drop(
        self,
        reason: str,
        row: int,
        place: int,
        facts: Mapping[str, Any] | None = None,
        *,
        count: int = 1,
    ) -> None:
        """Counts what leaves; the first few become examples, with the facts that decided."""
        self.report.dropped[reason] += count
        examples = self.report.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            pool = self.pool
            texts = {
                "query": pool.queries[row],
                "positive": pool.texts[int(pool.positives[row][0])],
                "text": pool.texts[place],
            }
            short = {name: _short(text) for name, text in texts.items()}
            examples.append({"row": int(pool.row[row]), **short, **(facts or {})})


def _among(values: Places, few: Places) -> npt.NDArray[np.bool_]:
    """Which of the values are among a few; quicker for those than np.isin."""
    members: npt.NDArray[np.bool_] = (values[:, None] == few).any(axis=1)
    return members


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= SHOWN else folded[: SHOWN - 1] + "…"
