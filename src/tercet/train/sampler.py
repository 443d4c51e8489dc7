"""Which rows make up the batch of a step: a function of (seed, step), on any number of devices.

Rows of one batch come from one pool: one source (and language, where asked) and one length group,
so that little is padded and devices wait little. Resuming needs no replay. Knows nothing of tokens
or models. Shapes: N rows. Source: method.md, "Efficient batching" (M3 paper, section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.train.config import BatchConfig

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Rows that may share a batch.

    size is the rows of its batches, batches their number in an epoch; tokens the mean of a row.
    """

    name: str
    source: int
    longest: int  # upper bound of the length group
    rows: Rows
    size: int
    batches: int
    tokens: float
    parallel: bool = False


@dataclass(frozen=True)
class PoolSpec:
    """What the sampler needs to know of a source's rows: a name, its number and its weight."""

    name: str
    source: int
    weight: float
    rows: Rows
    parallel: bool = False


def make_pools(
    specs: Sequence[PoolSpec], lengths: Rows, costs: Rows, config: BatchConfig
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
        found = [np.flatnonzero(band == number) for number in range(len(edges))]
        while any(len(rows) == 1 for rows in found):
            lone = next(number for number, rows in enumerate(found) if len(rows) == 1)
            others = [n for n, rows in enumerate(found) if n != lone and len(rows)]
            into = min(others, key=lambda n: (len(found[n]) == 1, abs(n - lone), -n))
            found[into] = np.sort(np.concatenate((found[lone], found[into])))
            found[lone] = found[lone][:0]
        for number, places in enumerate(found):
            if not len(places):
                continue
            rows = spec.rows[places]
            mean = float(costs[rows].mean())
            size = min(_size(config, number, mean), len(rows))
            batches = max(1, round(spec.weight * len(rows) / size))
            name = f"{spec.name} <= {edges[number]}"
            pools.append(
                Pool(
                    name, spec.source, int(edges[number]), rows, size, batches, mean, spec.parallel
                )
            )
    if not pools:
        raise InputError("there are no rows to train on")
    return pools


def _size(config: BatchConfig, group: int, mean: float) -> int:
    if config.sizes:
        return config.sizes[group]
    return config.rows or max(2, int(config.tokens / mean))


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

    def _shuffled(self, epoch: int) -> Rows:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(self.per_epoch)

    def _permuted(self, pool: int, number: int) -> Rows:
        draw = np.random.default_rng((self.seed, 1, pool, number))
        return draw.permutation(self.pools[pool].rows)

    def batch(self, number: int) -> tuple[Pool, Rows]:
        """The pool and the rows of batch `number`, counted from the start of the run."""
        epoch, at = divmod(number, self.per_epoch)
        place = int(self._order(epoch)[at])
        index = int(self._pool_of[place])
        pool = self.pools[index]
        first = (epoch * pool.batches + int(self._turn[place])) * pool.size
        rows: list[Rows] = []
        wanted = pool.size
        while wanted:
            run, start = divmod(first, len(pool.rows))
            part = self._pass(index, run)[start : start + wanted]
            rows.append(part)
            first, wanted = first + len(part), wanted - len(part)
        return pool, np.concatenate(rows)


def share_of(rows: Rows, rank: int, size: int) -> Rows:
    """The neighbouring rows of a batch that one of `size` devices takes."""
    if len(rows) < size:
        raise InputError(
            f"a batch of {len(rows)} rows cannot be shared by {size} devices: use larger batches or"
            " fewer devices"
        )
    return np.array_split(rows, size)[rank]
