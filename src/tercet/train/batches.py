"""Which rows make up the batch of a step, and its tokens: functions of (seed, step) alone.

Rows of one batch come from one pool: one source (and language, where asked), rows of one or of two
languages, and one length group, so that little is padded and devices wait little. A row draws its
positive, hard negatives and segments by (seed, step, row), whatever device it is on. Resuming needs
no replay. Knows nothing of models. Shapes: N rows, Q queries, P passages (each query's positive,
then its negatives). Source: docs/method.md, "Efficient batching" (M3 paper, section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.split import text_key
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.config import BatchConfig, DataConfig, SourceConfig, TrainConfig
from tercet.train.dataset import Examples, Ids, Numbers, Ragged

# Pools and the order of their rows


@dataclass(frozen=True)
class Pool:
    """Rows that may share a batch.

    size is the rows of its batches, batches their number in an epoch; tokens the mean of a row.
    """

    name: str
    source: int
    longest: int  # upper bound of the length group
    rows: Numbers
    size: int
    batches: int
    tokens: float
    parallel: bool = False


@dataclass(frozen=True)
class PoolSpec:
    """Rows of a source that may share a batch but for their lengths; weight: draws of a row."""

    name: str
    source: int
    weight: float
    rows: Numbers
    parallel: bool = False


def make_pools(
    specs: Sequence[PoolSpec], lengths: Numbers, costs: Numbers, config: BatchConfig
) -> list[Pool]:
    """Cuts every source's rows into length groups.

    lengths (N,) is a row's longest text, costs (N,) the tokens of all its texts. A lone row joins
    the nearest group of its source that has more; a group smaller than its batch is one batch.
    Raises InputError where a source has a single row.
    """
    edges = np.array(config.lengths)
    pools: list[Pool] = []
    for spec in specs:
        if len(spec.rows) < 2:
            raise InputError(
                f"{spec.name}: {len(spec.rows)} row; a batch needs at least 2: leave this source"
                " out, or add rows"
            )
        band = np.searchsorted(edges, lengths[spec.rows], side="left").clip(max=len(edges) - 1)
        groups = [np.flatnonzero(band == number) for number in range(len(edges))]
        while any(len(group) == 1 for group in groups):
            lone = next(number for number, group in enumerate(groups) if len(group) == 1)
            others = [n for n, group in enumerate(groups) if n != lone and len(group)]
            into = min(others, key=lambda n: (len(groups[n]) == 1, abs(n - lone), -n))
            groups[into] = np.sort(np.concatenate((groups[lone], groups[into])))
            groups[lone] = groups[lone][:0]
        for number, group in enumerate(groups):
            if not len(group):
                continue
            rows, longest = spec.rows[group], int(edges[number])
            mean = float(costs[rows].mean())
            size = config.sizes[number] if config.sizes else config.rows
            size = min(size or max(2, int(config.tokens / mean)), len(rows))
            batches = max(1, round(spec.weight * len(rows) / size))
            name = f"{spec.name} <= {longest}"
            pools.append(Pool(name, spec.source, longest, rows, size, batches, mean, spec.parallel))
    if not pools:
        raise InputError("there are no rows to train on")
    return pools


def temperature_weights(counts: Sequence[int], temperature: float) -> list[float]:
    """Factors that make sources of these sizes be drawn by rows ** temperature, as many in all."""
    sizes = np.array(counts, dtype=np.float64)
    wanted = sizes**temperature
    return list((wanted / wanted.sum() * sizes.sum() / sizes).tolist())


class Sampler:
    """Batches of rows, epoch after epoch, each epoch in an order of its own.

    A pool's rows are a stream of shuffled passes, of which each epoch takes the next `batches`
    batches, so that no row is passed over when the last batch of a pass is not full.
    """

    def __init__(self, pools: Sequence[Pool], *, seed: int) -> None:
        self.pools, self.seed = list(pools), seed
        counts = np.array([pool.batches for pool in self.pools])
        self.per_epoch = int(counts.sum())
        self._pool_of = np.repeat(np.arange(len(self.pools)), counts)
        self._turn = np.concatenate([np.arange(count) for count in counts])
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._pass = lru_cache(maxsize=2 * len(self.pools))(self._permuted)

    def _shuffled(self, epoch: int) -> Numbers:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(self.per_epoch)

    def _permuted(self, pool: int, number: int) -> Numbers:
        draw = np.random.default_rng((self.seed, 1, pool, number))
        return draw.permutation(self.pools[pool].rows)

    def batch(self, number: int) -> tuple[Pool, Numbers]:
        """The pool and the rows of batch `number`, counted from the start of the run."""
        epoch, turn = divmod(number, self.per_epoch)
        place = int(self._order(epoch)[turn])
        index = int(self._pool_of[place])
        pool = self.pools[index]
        first = (epoch * pool.batches + int(self._turn[place])) * pool.size
        rows: list[Numbers] = []
        missing = pool.size
        while missing:
            run, start = divmod(first, len(pool.rows))
            part = self._pass(index, run)[start : start + missing]
            rows.append(part)
            first, missing = first + len(part), missing - len(part)
        return pool, np.concatenate(rows)


def share_of(rows: Numbers, rank: int, size: int) -> Numbers:
    """The neighbouring rows of a batch that one of `size` devices takes."""
    if len(rows) < size:
        raise InputError(
            f"a batch of {len(rows)} rows cannot be shared by {size} devices: use larger batches or"
            " fewer devices"
        )
    return np.array_split(rows, size)[rank]


# From examples to pools


def make_sampler(config: TrainConfig, examples: Examples) -> Sampler:
    """Pools by source, language (where asked), one or two languages a row, and length.

    The rows of the stages align and retromae are places of single texts: raw texts, the positives
    of pairs and, for align, all queries.
    """
    counts = examples.positives.counts()
    specs: list[PoolSpec] = []
    if config.stage in ("align", "retromae"):
        longest = cost = np.minimum(examples.lengths() + 2, config.data.passage_tokens)
        owners = np.repeat(examples.source, counts)
        rows = [
            np.unique(
                np.concatenate(
                    (
                        examples.query[
                            (examples.source == at) & ((counts == 0) | (config.stage == "align"))
                        ],
                        examples.positives.values[owners == at],
                    )
                )
            )
            for at in range(len(config.data.sources))
        ]
    else:
        longest, cost = _row_sizes(config.data, examples)
        rows = [np.flatnonzero(examples.source == at) for at in range(len(config.data.sources))]
    sizes = [max(1, len(mine)) for mine in rows]
    factors = temperature_weights(sizes, config.data.temperature)
    for at, (source, mine) in enumerate(zip(config.data.sources, rows, strict=True)):
        weight = source.weight * factors[at]
        if config.stage in ("align", "retromae"):
            specs.append(PoolSpec(source.label, at, weight, mine))
        else:
            _check_rows(source, mine, examples, config.data)
            specs += _specs(at, source, mine, examples, weight)
    return Sampler(make_pools(specs, longest, cost, config.batch), seed=config.seed)


def _row_sizes(config: DataConfig, examples: Examples) -> tuple[Numbers, Numbers]:
    """(N,) tokens of each row's longest text, and of all texts that it draws in a step, about."""
    lengths = examples.lengths()
    query = np.minimum(lengths[examples.query] + 2, config.query_tokens)
    longest, cost = query.copy(), query.astype(np.float64)
    for lists, most in ((examples.positives, 1), (examples.negatives, config.negatives)):
        if not most:
            continue
        sizes = np.minimum(lengths[lists.values] + 2, config.passage_tokens)
        counts = lists.counts()
        rows = np.repeat(np.arange(len(examples)), counts)
        np.maximum.at(longest, rows, sizes)
        drawn = np.minimum(counts, most) / np.maximum(counts, 1)
        cost += np.bincount(rows, weights=sizes, minlength=len(examples)) * drawn
    return longest, cost.astype(np.int64)


def _check_rows(
    source: SourceConfig, rows: Numbers, examples: Examples, config: DataConfig
) -> None:
    """Raises InputError naming the first row that has nothing to be compared with."""
    bare = rows[examples.positives.counts()[rows] == 0]
    if len(bare):
        raise InputError(
            f"{examples.where(int(bare[0]))}: a raw text has no 'pos': it trains align and retromae"
            " alone"
        )
    if source.in_batch_negatives:
        return
    but = f"source {source.label} has in_batch_negatives = false"
    if not config.negatives:
        raise InputError(
            f"{but}, and data.negatives is 0: a positive has nothing to be compared with"
        )
    alone = rows[examples.negatives.counts()[rows] == 0]
    if len(alone):
        raise InputError(
            f"{examples.where(int(alone[0]))}: no 'neg', and {but}: the positive has nothing to be"
            " compared with"
        )


def _specs(
    at: int, source: SourceConfig, rows: Numbers, examples: Examples, weight: float
) -> list[PoolSpec]:
    """The parts of a source that never share a batch."""
    parts = [(source.label, rows)]
    if source.by_language:
        parts = [
            (f"{source.label}/{name}", rows[examples.language[rows] == number])
            for number, name in enumerate(examples.languages)
        ]
    specs = []
    for name, mine in parts:
        if len(mine) == 1:
            field = "by_language" if source.by_language else "files"
            raise InputError(
                f"{examples.where(int(mine[0]))}: the only row of {name}; a batch needs at least 2:"
                f" add rows, or change data.sources {field}"
            )
        two = examples.parallel[mine]
        if 1 in (two.sum(), (~two).sum()):  # a lone row goes with the other kind
            two = np.full(len(mine), two.sum() > 1)
        for parallel, kind in ((False, mine[~two]), (True, mine[two])):
            if len(kind):
                label = f"{name} (parallel)" if parallel else name
                specs.append(PoolSpec(label, at, weight, kind, parallel))
    return specs


# From rows to tokens


class Framing(Protocol):
    """The two special ids around every text."""

    cls_id: int
    eos_id: int


@dataclass(frozen=True)
class Batch:
    """One device's part of a batch.

    positives (Q,) columns; owners (P,) the query of each passage; a query and a passage that share
    a mark, (Q, 3) and (P, 3), are never each other's negatives; teacher (P,) outside scores, NaN
    where there are none; query_texts (Q,) and passage_texts (P,) are places in the examples.
    """

    queries: TokenBatch
    passages: TokenBatch
    positives: Numbers
    owners: Numbers
    query_marks: Numbers
    passage_marks: Numbers
    teacher: npt.NDArray[np.float32]
    query_texts: Numbers
    passage_texts: Numbers


@dataclass(frozen=True)
class HardNegatives:
    """The hard negatives in use: places of each row's and their outside scores (NaN: none).

    keys and groups (S + E,) are those of the S stored texts and of E extra ones, whose ids are in
    extra; places from S on mean these.
    """

    places: Ragged
    scores: npt.NDArray[np.float32]
    keys: Numbers
    groups: Numbers
    extra: tuple[Ids, ...] = ()

    @staticmethod
    def of_files(examples: Examples) -> "HardNegatives":
        """Those that the rows came with."""
        return HardNegatives(
            examples.negatives, examples.negative_scores, examples.keys, examples.text_group
        )._of_other_groups(examples)

    def _of_other_groups(self, examples: Examples) -> "HardNegatives":
        """Without those that belong to their row's group: another's positive, a translation."""
        counts = self.places.counts()
        rows = np.repeat(np.arange(len(counts)), counts)
        kept = self.groups[self.places.values] != examples.group[rows]
        left = np.bincount(rows[kept], minlength=len(counts))
        offsets = np.concatenate(([0], np.cumsum(left))).astype(np.int64)
        places = Ragged(self.places.values[kept], offsets)
        return replace(self, places=places, scores=self.scores[kept])

    @staticmethod
    def of_texts(
        examples: Examples, texts: Sequence[Sequence[str]], tokenizer: Tokenizer, config: DataConfig
    ) -> "HardNegatives":
        """New ones, a list for every row; raises InputError where their number differs."""
        if len(texts) != len(examples):
            raise InputError(f"negatives for {len(texts)} rows, but there are {len(examples)} rows")
        passages = np.unique(np.concatenate((examples.positives.values, examples.negatives.values)))
        stored = {int(examples.keys[place]): int(place) for place in passages}
        new: dict[int, tuple[int, str]] = {}
        places: list[int] = []
        offsets = [0]
        for some in texts:
            for text in some:
                key = text_key(text)
                if key not in stored and key not in new:
                    new[key] = (len(examples.keys) + len(new), text)
                places.append(stored[key] if key in stored else new[key][0])
            offsets.append(len(places))
        framed = [config.passage_prefix + text for _, text in new.values()]
        extra = tokenizer.contents(framed, limit=config.passage_tokens - 2) if new else []
        alone = -1 - np.arange(len(new))  # no row's group
        return HardNegatives(
            places=Ragged(np.array(places, dtype=np.int64), np.array(offsets, dtype=np.int64)),
            scores=np.full(len(places), np.nan, dtype=np.float32),
            keys=np.concatenate((examples.keys, np.array(list(new), dtype=np.int64))),
            groups=np.concatenate((examples.text_group, alone)),
            extra=tuple(np.array(ids, dtype=np.int32) for ids in extra),
        )._of_other_groups(examples)


class Collator:
    """Makes batches from examples; hard negatives may be replaced while training."""

    def __init__(
        self, examples: Examples, framing: Framing, config: DataConfig, *, seed: int
    ) -> None:
        self.examples, self.framing, self.config, self.seed = examples, framing, config, seed
        self.hard = HardNegatives.of_files(examples)

    def batch(self, rows: Numbers, step: int) -> Batch:
        """Texts of these rows as drawn in this step."""
        examples, config = self.examples, self.config
        texts: list[int] = []
        owners: list[int] = []
        scores: list[float] = []
        positives = np.empty(len(rows), dtype=np.int64)
        contents: list[Ids] = []
        for query, row in enumerate(rows.tolist()):
            draw = np.random.default_rng((self.seed, step, row))
            own, start = examples.positives[row], examples.positives.offsets[row]
            chosen = int(draw.integers(len(own)))
            positives[query] = len(texts)
            texts.append(int(own[chosen]))
            scores.append(float(examples.positive_scores[start + chosen]))
            hard, start = self.hard.places[row], self.hard.places.offsets[row]
            if len(hard) and config.negatives:
                size = min(config.negatives, len(hard))
                picked = np.sort(draw.choice(len(hard), size=size, replace=False))
                texts += hard[picked].tolist()
                scores += self.hard.scores[start + picked].tolist()
            owners += [query] * (len(texts) - len(owners))
            contents += [self._content(place, draw) for place in texts[len(contents) :]]
        passage_texts = np.array(texts, dtype=np.int64)
        query_texts = examples.query[rows]
        query_of = np.array(owners, dtype=np.int64)
        query_keys, keys = examples.keys[query_texts], self.hard.keys[passage_texts]
        groups = self.hard.groups[passage_texts]
        return Batch(
            queries=frame(
                [examples.content(place) for place in query_texts],
                self.framing,
                config.query_tokens,
            ),
            passages=frame(contents, self.framing, config.passage_tokens),
            positives=positives,
            owners=query_of,
            # one group; the same text as the positive; a passage of an equal query
            query_marks=np.stack((examples.group[rows], keys[positives], query_keys), axis=1),
            passage_marks=np.stack((groups, keys, query_keys[query_of]), axis=1),
            teacher=np.array(scores, dtype=np.float32),
            query_texts=query_texts,
            passage_texts=passage_texts,
        )

    def texts(self, places: Numbers, step: int) -> TokenBatch:
        """Single texts, for a stage without queries."""
        contents = [
            self._content(place, np.random.default_rng((self.seed, step, place)))
            for place in places.tolist()
        ]
        return frame(contents, self.framing, self.config.passage_tokens)

    def _content(self, place: int, draw: np.random.Generator) -> Ids:
        """A passage's ids; now and then cut in three, its parts in another order (M3, 3.4)."""
        stored = len(self.examples.keys)
        ids = self.hard.extra[place - stored] if place >= stored else self.examples.content(place)
        if len(ids) < 3 or draw.random() >= self.config.shuffle_segments:
            return ids
        first, second = np.sort(draw.choice(np.arange(1, len(ids)), size=2, replace=False))
        parts = [ids[:first], ids[first:second], ids[second:]]
        while (order := draw.permutation(3)).tolist() == [0, 1, 2]:
            pass
        return np.concatenate([parts[number] for number in order])


def frame(contents: Sequence[Ids], framing: Framing, most: int) -> TokenBatch:
    """[CLS] ids </s> for every text, at most so many tokens each."""
    room = most - 2
    kept = np.array([min(len(content), room) for content in contents], dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum(kept + 2))).astype(np.int64)
    ids = np.empty(int(offsets[-1]), dtype=np.int32)
    ids[offsets[:-1]] = framing.cls_id
    ids[offsets[1:] - 1] = framing.eos_id
    for start, size, content in zip(offsets.tolist(), kept.tolist(), contents, strict=False):
        ids[start + 1 : start + 1 + size] = content[:size]
    full = np.array([len(content) for content in contents], dtype=np.int64)
    return TokenBatch(ids=ids, offsets=offsets, cls=offsets[:-1].copy(), truncated=full > room)
