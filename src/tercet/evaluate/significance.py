"""Whether one run is better than another on the same queries: paired tests, corrected for many.

Randomisation (the sign of each query's difference is as likely one way as the other) gives p,
the bootstrap an interval; both as Smucker, Allan and Carterette (2007) compare them. Holm (1979)
corrects for the number of comparisons. Takes values per query; knows nothing of what they measure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError

Array = npt.NDArray[np.float64]

EXACT = 14  # queries that differ: all 2^14 signs are tried, more precise than 10,000 of them
CONFIDENCE = 0.95
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """Run `b` less run `a`: the difference of their means, its interval, and how sure it is.

    p is two-sided and for this comparison alone; `corrected` is p after Holm's correction for all
    comparisons made together. `exact`: p is over all signs, not over a sample of them.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    queries: int
    exact: bool


def compare(
    runs: Mapping[str, Sequence[Array]],
    against: str,
    *,
    weights: Sequence[float] | None = None,
    trials: int = 10_000,
    seed: int = 0,
    block: int = 1 << 22,
) -> list[Comparison]:
    """Compares every other run with the run `against`.

    runs: name -> one array of values per task, (Q of the task,), Q above 0, the same queries in the
    same order in every run. A mean is that of the tasks' means, as suites are reported, each task
    with its weight (1 each where none are given); queries are drawn within their task. `block`
    signs or draws are in memory at once. Raises InputError where the queries differ in number.
    """
    names = [name for name in runs if name != against]
    sizes = [len(task) for task in runs[against]]
    if any([len(task) for task in values] != sizes for values in runs.values()):
        raise InputError("runs have values of different queries: they cannot be paired")
    if not names:
        return []
    counts = np.array([1.0] * len(sizes) if weights is None else weights, dtype=np.float64)
    # each query's part of the difference of means: what follows are sums
    share = np.repeat(counts / (np.array(sizes) * counts.sum()), sizes)
    base = np.concatenate(runs[against])
    parts = np.stack([(np.concatenate(runs[name]) - base) * share for name in names], axis=1)
    totals = parts.sum(axis=0).tolist()
    exact = (np.count_nonzero(parts, axis=0) <= EXACT).tolist()
    p = _sampled(parts, trials, np.random.default_rng(seed), block).tolist()
    p = [_exact(parts[:, i]) if exact[i] else p[i] for i in range(len(names))]
    low, high = _interval(parts, sizes, trials, np.random.default_rng((seed, 1)), block)
    columns = zip(names, totals, low.tolist(), high.tolist(), p, holm(p), exact, strict=True)
    return [
        Comparison(against, name, difference, start, end, p, corrected, sum(sizes), of_all)
        for name, difference, start, end, p, corrected, of_all in columns
    ]


def _tolerance(parts: Array) -> Array:
    """By how much equal sums may differ by rounding."""
    return np.asarray(1e-12 * np.abs(parts).sum(axis=0))


def _exact(parts: Array) -> float:
    """The share of all signs whose sum is at least as far from 0 as the one seen."""
    moved = parts[parts != 0]
    bits = np.arange(1 << len(moved))[:, None] >> np.arange(len(moved)) & 1
    sums = np.abs((1.0 - 2.0 * bits) @ moved)
    return float(np.mean(sums >= abs(moved.sum()) - _tolerance(moved)))


def _sampled(parts: Array, trials: int, rng: np.random.Generator, size: int) -> Array:
    """The same over random signs, of all C columns at once; what was seen counts as a trial."""
    seen = np.abs(parts.sum(axis=0)) - _tolerance(parts)
    beyond = np.zeros(parts.shape[1], dtype=np.int64)
    queries = len(parts)
    block = max(1, size // queries)
    for first in range(0, trials, block):
        count = min(block, trials - first)
        bits = np.frombuffer(rng.bytes(-(-count * queries // 8)), dtype=np.uint8)
        signs = 1.0 - 2.0 * np.unpackbits(bits)[: count * queries].reshape(count, queries)
        beyond += (np.abs(signs @ parts) >= seen).sum(axis=0)
    return np.asarray((beyond + 1) / (trials + 1))


def _interval(
    parts: Array, sizes: Sequence[int], trials: int, rng: np.random.Generator, block_size: int
) -> tuple[Array, Array]:
    """The percentile interval of sums over queries drawn again within their tasks."""
    totals = np.zeros((trials, parts.shape[1]))
    start = 0
    for size in sizes:
        block = max(1, block_size // size)
        for first in range(0, trials, block):
            count = min(block, trials - first)
            drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
            totals[first : first + count] += times @ parts[start : start + size]
        start += size
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(totals, [tail, 1 - tail], axis=0)
    return low, high


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected so that all comparisons together err as rarely as one: Holm's step-down.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    out = [0.0] * len(p)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        out[place] = least
    return out
