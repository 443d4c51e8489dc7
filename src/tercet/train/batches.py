"""Which rows make up the batch of a step, and its tokens: functions of (seed, step) alone.

Rows of one batch come from one pool: one source (and language, where asked), rows of one or of two
languages, and one length group, so that little is padded and devices wait little. A row draws its
positive, hard negatives and segments by (seed, step, row), whatever device it is on. Resuming needs
no replay. No order of rows is ever held: its numbers are computed when they are asked for. Knows
nothing of models. Shapes: N rows, Q queries, P passages (each query's positive, then its
negatives). Source: docs/method.md, "Efficient batching" (M3 paper, section 3.4).
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.config import TEXT_STAGES, DataConfig, SourceConfig, TrainConfig
from tercet.train.dataset import Examples, Ids, Numbers, Ragged

BLOCK = 1 << 18  # rows looked at at once
ROUNDS = 6  # of the Feistel network; four make a good shuffle (Luby & Rackoff 1988)

# The order of rows


def hashed(values: npt.NDArray[np.uint64], key: np.uint64) -> npt.NDArray[np.uint64]:
    """32 bits of each value that look random, other ones for another key (as SplitMix64 does)."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed >> np.uint64(32)


def shuffled(places: Numbers, size: int, name: Sequence[int]) -> Numbers:
    """What stands at these places of a shuffle of range(size) that follows from its name.

    A Feistel network shuffles the numbers below a power of 4; what lands at size or beyond is
    shuffled on until it does not. Source: Black & Rogaway 2002, "Ciphers with arbitrary finite
    domains" (cycle walking).
    """
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence(name).generate_state(ROUNDS, np.uint64)
    out = places.astype(np.uint64)
    beyond = np.arange(len(out))
    while len(beyond):
        left, right = out[beyond] >> half, out[beyond] & low
        for key in keys:
            left, right = right, left ^ (hashed(right, key) & low)
        out[beyond] = left << half | right
        beyond = beyond[out[beyond] >= size]
    return out.astype(np.int64)


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


class Sampler:
    """Batches of rows, epoch after epoch, each epoch in an order of its own.

    A pool's rows are a stream of shuffled passes, of which each epoch takes the next `batches`
    batches, so that no row is passed over when the last batch of a pass is not full.
    """

    def __init__(self, pools: Sequence[Pool], *, seed: int) -> None:
        self.pools, self.seed = list(pools), seed
        self._ends = np.cumsum([pool.batches for pool in self.pools])  # of their batches
        self.per_epoch = int(self._ends[-1])

    def batch(self, number: int) -> tuple[Pool, Numbers]:
        """The pool and the rows of batch `number`, counted from the start of the run."""
        epoch, turn = divmod(number, self.per_epoch)
        place = int(shuffled(np.array([turn]), self.per_epoch, (self.seed, 0, epoch))[0])
        index = int(np.searchsorted(self._ends, place, side="right"))
        pool = self.pools[index]
        first = (place - int(self._ends[index]) + (epoch + 1) * pool.batches) * pool.size
        passes, places = np.divmod(np.arange(first, first + pool.size), len(pool.rows))
        rows = [
            pool.rows[shuffled(places[passes == n], len(pool.rows), (self.seed, 1, index, n))]
            for n in range(int(passes[0]), int(passes[-1]) + 1)
        ]
        return pool, np.concatenate(rows)


# From examples to pools


def make_sampler(
    config: TrainConfig, examples: Examples, *, scratch: Path | None = None, block: int = BLOCK
) -> Sampler:
    """Pools by source, language (where asked), one or two languages a row, and length.

    The rows of the stages align and retromae are places of single texts: raw texts, the positives
    of pairs and, for align, all queries. Rows are read in blocks, first to count what is in each
    pool, then to list it in a file in the folder scratch that is memory-mapped and has no name. A
    length group smaller than its batch is one batch. Raises InputError where a source, or a
    language of its own, has a single row.
    """
    sources, batch, edges = config.data.sources, config.batch, len(config.batch.lengths)
    shape = (len(sources), len(examples.languages), 2, edges)
    counts, costs = np.zeros((2, int(np.prod(shape))))  # of rows and of their tokens
    for _, groups, tokens in _blocks(config, examples, block):
        counts += np.bincount(groups, minlength=len(counts))
        costs += np.bincount(groups, tokens, len(counts))
    by_part = counts.astype(np.int64).reshape(-1, 2 * edges)  # of sources and languages
    names = [
        f"{source.label}/{language}" if source.by_language else source.label
        for source in sources
        for language in examples.languages
    ]
    for part in np.flatnonzero(by_part.sum(1) == 1).tolist():
        field = "by_language" if sources[part // shape[1]].by_language else "files"
        rows = np.concatenate(
            [r[g // (2 * edges) == part] for r, g, _ in _blocks(config, examples, block)]
        )
        where = examples.where_text if config.stage in TEXT_STAGES else examples.where
        raise InputError(
            f"{where(int(rows[0]))}: the only row of {names[part]}; a batch needs at least 2: add"
            f" rows, or change data.sources {field}"
        )
    into = np.concatenate([part * 2 * edges + joined(own) for part, own in enumerate(by_part)])
    ids = np.unique(into[counts > 0])
    pool_of = np.searchsorted(ids, into)
    sizes = np.bincount(pool_of, counts, len(ids) + 1)[:-1].astype(np.int64)
    means = np.bincount(pool_of, costs, len(ids) + 1)[:-1] / sizes
    ends = np.cumsum(sizes)
    with tempfile.TemporaryFile(dir=scratch) as file:
        file.truncate(8 * int(ends[-1]))
        listed = np.asarray(np.memmap(file, np.int64, "r+", shape=(int(ends[-1]),)))
    free = ends - sizes
    for rows, groups, _ in _blocks(config, examples, block):
        order = np.argsort(pool_of[groups], kind="stable")
        first = 0
        for pool, count in zip(*np.unique(pool_of[groups], return_counts=True), strict=True):
            listed[free[pool] : free[pool] + count] = rows[order[first : first + count]]
            free[pool], first = free[pool] + count, first + count

    factors = temperature_weights(
        by_part.reshape(len(sources), -1).sum(1).tolist(), config.data.temperature
    )
    pools = []
    for group, end, count, tokens in zip(
        ids.tolist(), ends.tolist(), sizes.tolist(), means.tolist(), strict=True
    ):
        part, group = divmod(group, 2 * edges)
        number, length = part // shape[1], group % edges
        most = batch.sizes[length] if batch.sizes else batch.rows
        size = min(most or max(2, int(batch.tokens / tokens)), count)
        parallel = group >= edges
        pools.append(
            Pool(
                name=f"{names[part]}{' (parallel)' if parallel else ''} <= {batch.lengths[length]}",
                source=number,
                longest=batch.lengths[length],
                rows=listed[end - count : end],
                size=size,
                batches=max(1, round(sources[number].weight * factors[number] * count / size)),
                tokens=tokens,
                parallel=parallel,
            )
        )
    return Sampler(pools, seed=config.seed)


def joined(counts: Numbers) -> Numbers:
    """The group that the rows of each group go to, so that none has a single row.

    counts (2 G,): rows of one language in G length groups, then of two. A lone row of a kind goes
    with the other kind, one of a length group with the nearest that has more.
    """
    half = len(counts) // 2
    counts, into = counts.copy(), np.arange(len(counts))
    kinds = (slice(half), slice(half, None))
    one, two = (int(counts[kind].sum()) for kind in kinds)
    if 1 in (one, two) and one and two:
        few, many = kinds if two > 1 else kinds[::-1]
        into[few] = into[many]
        counts[many] += counts[few]
        counts[few] = 0
    for first in (0, half):
        own = counts[first : first + half]
        while 1 in own:
            lone = int(np.flatnonzero(own == 1)[0])
            others = [n for n in np.flatnonzero(own).tolist() if n != lone]
            nearest = min(others, key=lambda n: (own[n] == 1, abs(n - lone), -n))
            into[into == first + lone] = first + nearest
            own[nearest], own[lone] = own[nearest] + 1, 0
    return into


def temperature_weights(counts: Sequence[int], temperature: float) -> list[float]:
    """Factors that make sources of these sizes be drawn by rows ** temperature, as many in all."""
    sizes = np.array(counts, dtype=np.float64)
    wanted = sizes**temperature
    return list((wanted / wanted.sum() * sizes.sum() / sizes).tolist())


def _blocks(
    config: TrainConfig, examples: Examples, block: int
) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Rows, their groups (by source, language, kind and length) and the tokens that they draw."""
    edges = np.array(config.batch.lengths)
    for number, source in enumerate(config.data.sources):
        bounds = np.array((number, number + 1), dtype=examples.source.dtype)
        first, last = np.searchsorted(examples.source, bounds).tolist()
        read = _text_rows if config.stage in TEXT_STAGES else _pair_rows
        for rows, longest, cost in read(config, examples, source, range(first, last, block)):
            part = np.full(len(rows), number * len(examples.languages))
            kind = np.zeros_like(part)
            if config.stage not in TEXT_STAGES:
                kind += examples.parallel[rows]
                part += examples.language[rows] * source.by_language
            band = np.searchsorted(edges, longest).clip(max=len(edges) - 1)
            yield rows, (part * 2 + kind) * len(edges) + band, cost


def _text_rows(
    config: TrainConfig, examples: Examples, source: SourceConfig, starts: range
) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """The single texts of rows, and twice its tokens."""
    taken = np.zeros(len(examples.keys), dtype=np.bool_)
    for start in starts:
        rows = slice(start, min(start + starts.step, starts.stop))
        offsets = examples.positives.offsets[start : rows.stop + 1]
        query = examples.query[rows]
        taken[query if config.stage == "align" else query[np.diff(offsets) == 0]] = True
        taken[examples.positives.values[offsets[0] : offsets[-1]]] = True
    for start in range(0, len(taken), starts.step):
        places = start + np.flatnonzero(taken[start : start + starts.step])
        size = np.minimum(examples.lengths(places) + 2, config.data.passage_tokens)
        yield places, size, size


def _pair_rows(
    config: TrainConfig, examples: Examples, source: SourceConfig, starts: range
) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Rows, the tokens of each one's longest text, and of all that it draws, about.

    Raises InputError naming the first row that has nothing to be compared with.
    """
    data = config.data
    for start in starts:
        rows = np.arange(start, min(start + starts.step, starts.stop))
        longest = np.minimum(examples.lengths(examples.query[rows]) + 2, data.query_tokens)
        cost = longest.astype(np.float64)
        for name, lists, most in (
            ("pos", examples.positives, 1),
            ("neg", examples.negatives, data.negatives),
        ):
            offsets = lists.offsets[start : start + len(rows) + 1]
            counts = np.diff(offsets)
            if not counts.all() and (name == "pos" or not source.in_batch_negatives):
                where = examples.where(start + int(np.flatnonzero(counts == 0)[0]))
                raise InputError(
                    f"{where}: a raw text has no 'pos': it trains align and retromae alone"
                    if name == "pos"
                    else f"{where}: no 'neg', and source {source.label} has in_batch_negatives ="
                    " false: the positive has nothing to be compared with"
                )
            if not most:
                continue
            places = lists.values[offsets[0] : offsets[-1]]
            sizes = np.minimum(examples.lengths(places) + 2, data.passage_tokens)
            owners = np.repeat(np.arange(len(rows)), counts)
            np.maximum.at(longest, owners, sizes)
            drawn = np.minimum(counts, most) / np.maximum(counts, 1)
            cost += np.bincount(owners, weights=sizes, minlength=len(rows)) * drawn
        yield rows, longest, cost.astype(np.int64)


# From rows to tokens


@dataclass(frozen=True)
class Batch:
    """One device's part of a batch.

    positives (Q,) columns; owners (P,) the query of each passage; keys (P,) of the passages;
    related (R, 2) queries and the keys of texts that are none of their negatives; teacher (P,)
    outside scores, NaN where there are none; query_texts (Q,) and passage_texts (P,) are places in
    the examples.
    """

    queries: TokenBatch
    passages: TokenBatch
    positives: Numbers
    owners: Numbers
    keys: Numbers
    related: Numbers
    teacher: npt.NDArray[np.float32]
    query_texts: Numbers
    passage_texts: Numbers


class Collator:
    """Makes batches from examples; `negatives` may be replaced while training."""

    def __init__(
        self, examples: Examples, tokenizer: Tokenizer, config: DataConfig, *, seed: int
    ) -> None:
        self.examples, self.config, self.seed = examples, config, seed
        self.special = tokenizer.cls_id, tokenizer.eos_id
        self.negatives: Ragged = examples.negatives
        self.negative_scores: npt.NDArray[np.float32] | None = examples.negative_scores

    def batch(self, rows: Numbers, step: int) -> Batch:
        """Texts of these rows as drawn in this step.

        A negative that is related to its row, such as a translation of its positive, is left out.
        """
        examples, config = self.examples, self.config
        positives, negatives = examples.positives, self.negatives
        texts: list[int] = []
        scores: list[float] = []
        contents: list[Ids] = []
        firsts = []  # each query's positive
        queries, related = examples.related.of(rows)
        bounds = np.searchsorted(queries, np.arange(len(rows) + 1))
        for row, (first, last) in zip(rows.tolist(), pairwise(bounds.tolist()), strict=True):
            draw = np.random.default_rng((self.seed, step, row))
            firsts.append(len(texts))
            start, end = positives.offsets[row : row + 2].tolist()
            chosen = start + int(draw.integers(end - start))
            texts.append(int(positives.values[chosen]))
            scores.append(float(examples.positive_scores[chosen]))
            start, end = negatives.offsets[row : row + 2].tolist()
            if config.negatives and end > start:
                hard = negatives.values[start:end]
                others = np.flatnonzero(~np.isin(examples.keys[hard], related[first:last]))
                if len(others):
                    size = min(config.negatives, len(others))
                    picked = others[np.sort(draw.choice(len(others), size=size, replace=False))]
                    texts += hard[picked].tolist()
                    scores += (
                        [math.nan] * size
                        if self.negative_scores is None
                        else self.negative_scores[start + picked].tolist()
                    )
            contents += [self._content(place, draw) for place in texts[len(contents) :]]
        query_texts, passage_texts = examples.query[rows], np.array(texts, dtype=np.int64)
        own = np.array(firsts, dtype=np.int64)
        owners = np.repeat(np.arange(len(own)), np.diff(own, append=len(texts)))
        return Batch(
            queries=frame(
                list(map(examples.content, query_texts.tolist())),
                *self.special,
                config.query_tokens,
            ),
            passages=frame(contents, *self.special, config.passage_tokens),
            positives=own,
            owners=owners,
            keys=examples.keys[passage_texts],
            related=np.stack((queries, related), axis=1),
            teacher=np.array(scores, dtype=np.float32),
            query_texts=query_texts,
            passage_texts=passage_texts,
        )

    def texts(self, places: Numbers, step: int) -> TokenBatch:
        contents = [
            self._content(place, np.random.default_rng((self.seed, step, place)))
            for place in places.tolist()
        ]
        return frame(contents, *self.special, self.config.passage_tokens)

    def _content(self, place: int, draw: np.random.Generator) -> Ids:
        """A passage's ids; now and then cut in three, its parts in another order (M3, 3.4)."""
        ids = self.examples.content(place)
        if len(ids) < 3 or draw.random() >= self.config.shuffle_segments:
            return ids
        cuts = np.sort(draw.choice(np.arange(1, len(ids)), size=2, replace=False))
        parts = np.split(ids, cuts)
        while (order := draw.permutation(3).tolist()) == [0, 1, 2]:
            pass
        return np.concatenate([parts[number] for number in order])


def frame(contents: Sequence[Ids], cls_id: int, eos_id: int, most: int) -> TokenBatch:
    """[CLS] ids </s> for every text, at most so many tokens each."""
    cls, eos = np.array([cls_id], dtype=np.int32), np.array([eos_id], dtype=np.int32)
    parts = [part for content in contents for part in (cls, content[: most - 2], eos)]
    full = np.fromiter(map(len, contents), np.int64, len(contents)) + 2
    offsets = np.concatenate(([0], np.cumsum(np.minimum(full, most))))
    return TokenBatch(np.concatenate(parts), offsets, offsets[:-1].copy(), full > most)
