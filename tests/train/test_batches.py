"""Batches follow from (seed, step) alone, keep to their pools, and pass no row over."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError
from tercet.train.batches import PoolSpec, Sampler, make_pools, share_of, temperature_weights
from tercet.train.config import BatchConfig


def pools(count: int = 97, rows: int = 8, weight: float = 1.0, **batch: Any) -> Any:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 100, size=2 * count)
    specs = [
        PoolSpec("first", 0, weight, np.arange(count)),
        PoolSpec("second", 1, 1.0, np.arange(count, 2 * count)),
    ]
    config = BatchConfig(**{"lengths": (25, 50, 100), "rows": rows, **batch})
    return make_pools(specs, lengths, 3 * lengths, config), lengths


def test_a_batch_has_one_source_and_one_length_group() -> None:
    made, lengths = pools()
    sampler = Sampler(made, seed=1)
    bounds = {25: (1, 25), 50: (26, 50), 100: (51, 100)}
    for number in range(3 * sampler.per_epoch):
        pool, rows = sampler.batch(number)
        low, high = bounds[pool.longest]
        assert len(rows) == 8
        assert ((rows >= 97) == bool(pool.source)).all()
        assert ((lengths[rows] >= low) & (lengths[rows] <= high)).all()


def test_a_step_needs_no_replay() -> None:
    made, _ = pools()
    walked = Sampler(made, seed=1)
    forward = [walked.batch(number)[1].tolist() for number in range(40)]
    assert Sampler(made, seed=1).batch(39)[1].tolist() == forward[39]
    assert [Sampler(made, seed=1).batch(n)[1].tolist() for n in (3, 30)] == [
        forward[3],
        forward[30],
    ]
    assert Sampler(made, seed=2).batch(39)[1].tolist() != forward[39]


@given(st.integers(20, 120), st.integers(2, 30), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_rows_are_drawn_as_often_as_their_weight_says(count: int, size: int, weight: float) -> None:
    made, _ = pools(count, size, weight)
    sampler = Sampler(made, seed=0)
    drawn: Counter[int] = Counter()
    for number in range(sampler.per_epoch * 4):
        drawn.update(sampler.batch(number)[1].tolist())
    for pool in made:
        counts = [drawn[int(row)] for row in pool.rows]
        assert max(counts) - min(counts) <= 1  # whole passes, none passed over
        assert sum(counts) == 4 * pool.batches * pool.size
        rows = weight * len(pool.rows) if pool.source == 0 else len(pool.rows)
        assert abs(pool.batches * pool.size - rows) <= pool.size


def test_sizes_and_token_budgets() -> None:
    made, _ = pools(400, rows=0, sizes=(9, 5, 2))
    assert {(pool.longest, pool.size) for pool in made} == {(25, 9), (50, 5), (100, 2)}
    made, _ = pools(400, rows=0, tokens=900)
    for pool in made:
        assert pool.size == int(900 / pool.tokens)
        assert pool.size * pool.tokens <= 900


def test_a_lone_row_joins_its_neighbours_and_a_small_group_is_one_batch() -> None:
    lengths = np.array([10, 10, 10, 10, 99, 30, 30])
    spec = PoolSpec("few", 0, 1.0, np.arange(7))
    config = BatchConfig(lengths=(25, 50, 100), rows=64)
    made = make_pools([spec], lengths, lengths, config)
    assert {(pool.longest, pool.size, len(pool.rows)) for pool in made} == {(25, 4, 4), (50, 3, 3)}
    assert sorted(int(row) for pool in made for row in pool.rows) == list(range(7))
    with pytest.raises(InputError, match="few: 1 row; a batch needs at least 2"):
        make_pools([PoolSpec("few", 0, 1.0, np.arange(1))], lengths, lengths, config)
    with pytest.raises(InputError, match="no rows"):
        make_pools([], lengths, lengths, config)


def test_devices_share_a_batch_without_gaps() -> None:
    rows = np.arange(11)
    parts = [share_of(rows, rank, 4) for rank in range(4)]
    assert np.concatenate(parts).tolist() == rows.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(InputError, match="3 rows cannot be shared by 4 devices"):
        share_of(np.arange(3), 0, 4)


def test_temperature_evens_sources_out() -> None:
    assert temperature_weights([10, 1000], 1.0) == pytest.approx([1.0, 1.0])
    small, large = temperature_weights([10, 1000], 0.0)
    assert small * 10 == pytest.approx(large * 1000)
    assert small * 10 + large * 1000 == pytest.approx(1010)
