"""From examples to the pools of the sampler: by source, language, kind of row and length.

Knows nothing of models.
"""

from typing import Any

import numpy as np

from tercet.errors import InputError
from tercet.train.config import SourceConfig, TrainConfig
from tercet.train.examples import Examples
from tercet.train.sampler import PoolSpec, Sampler, make_pools, temperature_weights


def make_sampler(config: TrainConfig, examples: Examples) -> Sampler:
    """Pools by source, language (where asked), one or two languages a row, and length."""
    if config.stage in ("align", "retromae"):
        return _text_sampler(config, examples)
    lengths = examples.lengths()
    query = np.minimum(lengths[examples.query] + 2, config.data.query_tokens)
    longest, cost = query.copy(), query.astype(np.float64)
    for some, most in ((examples.positives, 1), (examples.negatives, config.data.negatives)):
        if not most:
            continue
        sizes = np.minimum(lengths[some.values] + 2, config.data.passage_tokens)
        counts = np.diff(some.offsets)
        rows = np.repeat(np.arange(len(examples)), counts)
        np.maximum.at(longest, rows, sizes)
        drawn = np.minimum(counts, most) / np.maximum(counts, 1)
        cost += np.bincount(rows, weights=sizes, minlength=len(examples)) * drawn
    specs: list[PoolSpec] = []
    totals = [int((examples.source == at).sum()) for at in range(len(config.data.sources))]
    factors = temperature_weights([max(1, n) for n in totals], config.data.temperature)
    for at, source in enumerate(config.data.sources):
        specs += _specs(at, source, examples, source.weight * factors[at], config)
    return Sampler(
        make_pools(specs, longest, cost.astype(np.int64), config.batch), seed=config.seed
    )


def _text_sampler(config: TrainConfig, examples: Examples) -> Sampler:
    """Pools of texts, whose rows are places: raw texts and the positives of pairs; align: all."""
    sizes = np.minimum(examples.lengths() + 2, config.data.passage_tokens)
    counts = np.diff(examples.positives.offsets)
    owners = np.repeat(np.arange(len(examples)), counts)
    specs = []
    queries = config.stage == "align"
    found = [
        np.unique(
            np.concatenate(
                (
                    examples.query[(examples.source == at) & ((counts == 0) | queries)],
                    examples.positives.values[examples.source[owners] == at],
                )
            )
        )
        for at in range(len(config.data.sources))
    ]
    factors = temperature_weights([max(1, len(x)) for x in found], config.data.temperature)
    for at, (source, places) in enumerate(zip(config.data.sources, found, strict=True)):
        specs.append(PoolSpec(source.label, at, source.weight * factors[at], places))
    return Sampler(make_pools(specs, sizes, sizes, config.batch), seed=config.seed)


def _specs(
    at: int, source: SourceConfig, examples: Examples, weight: float, config: TrainConfig
) -> list[PoolSpec]:
    """The parts of a source that never share a batch."""
    mine = examples.source == at
    pairs = np.diff(examples.positives.offsets) > 0
    bare = np.flatnonzero(mine & ~pairs)
    if len(bare):
        raise InputError(
            f"{examples.where(int(bare[0]))}: a raw text has no 'pos': it trains align and retromae"
            " alone"
        )
    if not source.in_batch_negatives:
        if not config.data.negatives:
            raise InputError(
                f"source {source.label} has in_batch_negatives = false, and data.negatives is 0:"
                " there is nothing to compare a positive with"
            )
        alone = np.flatnonzero(mine & (np.diff(examples.negatives.offsets) == 0))
        if len(alone):
            raise InputError(
                f"{examples.where(int(alone[0]))}: no 'neg', and source {source.label} has"
                " in_batch_negatives = false: there is nothing to compare the positive with"
            )
    parts: list[tuple[str, np.ndarray[Any, Any]]] = [(source.label, mine)]
    if source.by_language:
        parts = [
            (f"{source.label}/{name}", mine & (examples.language == number))
            for number, name in enumerate(examples.languages)
        ]
    found = []
    for name, rows in parts:
        kinds = [np.flatnonzero(rows & (examples.parallel == two)) for two in (False, True)]
        if len(kinds[0]) + len(kinds[1]) == 1:
            row = int(np.concatenate(kinds)[0])
            field = "by_language" if source.by_language else "files"
            raise InputError(
                f"{examples.where(row)}: the only row of {name}; a batch needs at least 2: add"
                f" rows, or change data.sources {field}"
            )
        if 1 in (len(kinds[0]), len(kinds[1])):  # a lone row goes with the other kind
            larger = int(len(kinds[1]) > len(kinds[0]))
            kinds[larger] = np.sort(np.concatenate(kinds))
            kinds[1 - larger] = kinds[0][:0]
        for parallel, places in ((False, kinds[0]), (True, kinds[1])):
            if len(places):
                label = f"{name} (parallel)" if parallel else name
                found.append(PoolSpec(label, at, weight, places, parallel))
    return found
