"""Batches follow from (seed, step) alone, keep to their pools, and pass no row over."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import InputError
from tercet.tokenizer import Tokenizer
from tercet.train.batches import (
    Collator,
    Pool,
    Sampler,
    joined,
    make_sampler,
    shuffled,
    temperature_weights,
)
from tercet.train.config import TrainConfig, from_tree
from tercet.train.dataset import Examples, Ragged, read_negatives

Row = dict[str, Any]


def rows_of(lengths: list[int], word: str, **more: Any) -> list[Row]:
    """Rows with a passage of so many tokens."""
    return [
        {"query": f"{word} {n}", "pos": [" ".join([word] * length)], **more}
        for n, length in enumerate(lengths)
    ]


@pytest.fixture
def load(tokenizer: Tokenizer, tmp_path: Path) -> Any:
    def make(*sources: list[Row], **tree: Any) -> tuple[TrainConfig, Examples]:
        tables = [dict(table) for table in tree.pop("sources", [{}] * len(sources))]
        for number, (rows, table) in enumerate(zip(sources, tables, strict=True)):
            path = tmp_path / f"source{number}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            table["files"] = [str(path)]
        tree = {"steps": 5, "batch": {"lengths": [25, 50, 100], "rows": 8}, **tree}
        tree["data"] = {"sources": tables, **tree.get("data", {})}
        config = from_tree(tree)
        cache = tmp_path / "cache"
        return config, Examples.load(config.data.sources, tokenizer, config.data, cache=cache)

    return make


@given(st.integers(1, 300), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_shuffle_has_every_number_once_at_places_of_its_own(size: int, name: int) -> None:
    whole = shuffled(np.arange(size), size, (name, 1))
    assert sorted(whole.tolist()) == list(range(size))
    some = np.arange(0, size, 3)
    assert shuffled(some, size, (name, 1)).tolist() == whole[some].tolist()
    if size > 50:
        assert shuffled(np.arange(size), size, (name, 2)).tolist() != whole.tolist()


def test_a_shuffle_is_even_and_neighbours_part() -> None:
    size, names = 20, 4000
    counts = np.zeros((size, size))
    for name in range(names):
        counts[np.arange(size), shuffled(np.arange(size), size, (name,))] += 1
    expected = names / size
    assert ((counts - expected) ** 2 / expected).sum() < 1.25 * (size - 1) ** 2
    large = shuffled(np.arange(100_000), 100_000, (1,))
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.02


def test_a_batch_has_one_source_and_one_length_group_and_needs_no_replay(load: Any) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, size=194).tolist()
    config, examples = load(rows_of(lengths[:97], "sea"), rows_of(lengths[97:], "star"))
    sampler = make_sampler(config, examples)
    bounds = {25: (1, 25), 50: (26, 50), 100: (51, 100)}
    found = []
    for number in range(3 * sampler.per_epoch):
        pool, rows = sampler.batch(number)
        low, high = bounds[pool.longest]
        sizes = np.maximum(
            examples.lengths(examples.positives.values[rows]),
            examples.lengths(examples.query[rows]),
        )
        assert len(rows) == 8
        assert (examples.source[rows] == pool.source).all()
        assert ((sizes + 2 >= low) & (sizes + 2 <= high)).all()
        found.append(rows.tolist())
    again = make_sampler(config, examples, block=7)  # rows looked at in small blocks
    assert [again.batch(number)[1].tolist() for number in (39, 3)] == [found[39], found[3]]
    assert Sampler(sampler.pools, seed=1).batch(39)[1].tolist() != found[39]
    assert not any(pool.rows.flags.owndata for pool in sampler.pools)  # mapped, not held
    assert {p.size for p in sampler.pools} == {8}
    for batch, size in (
        ({"sizes": [9, 5, 2]}, lambda pool: {25: 9, 50: 5, 100: 2}[pool.longest]),
        ({"tokens": 200}, lambda pool: max(2, int(200 / pool.tokens))),
    ):
        config, _ = load(rows_of(lengths, "sea"), batch={"lengths": [25, 50, 100], **batch})
        assert all(p.size == size(p) for p in make_sampler(config, examples).pools)


@pytest.mark.parametrize("stage", ["align", "retromae"])
def test_single_texts_are_in_the_length_group_of_their_tokens(load: Any, stage: str) -> None:
    lengths = [20, 23, 24, 47, 48, 49, 50, 80] * 4  # 2 tokens more with the special ones
    rows = [{**row, "query": "sea"} for row in rows_of(lengths, "star")]
    teacher = {"path": "absent" if stage == "align" else ""}
    data = {"shuffle_segments": 0.0}
    config, examples = load(rows, stage=stage, teacher=teacher, data=data)
    pools = make_sampler(config, examples).pools
    low = {25: 0, 50: 26, 100: 51}
    for pool in pools:
        sizes = examples.lengths(pool.rows) + 2
        assert ((sizes >= low[pool.longest]) & (sizes <= pool.longest)).all()
    texts = {*examples.positives.values, *(examples.query if stage == "align" else ())}
    assert sorted(int(row) for pool in pools for row in pool.rows) == sorted(texts)


@given(st.integers(20, 120), st.integers(2, 30), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_no_row_is_drawn_twice_before_all_are_drawn(count: int, size: int, weight: float) -> None:
    size = min(size, count)
    batches = max(1, round(weight * count / size))
    pools = [
        Pool("a", 0, 9, np.arange(count), size, batches, 1.0),
        Pool("b", 1, 9, np.arange(count, count + 33), 8, 4, 1.0),
    ]
    sampler = Sampler(pools, seed=0)
    drawn: Counter[int] = Counter()
    for number in range(sampler.per_epoch * 4):
        drawn.update(sampler.batch(number)[1].tolist())
    for pool in pools:
        counts = [drawn[int(row)] for row in pool.rows]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == 4 * pool.batches * pool.size


def test_weights_and_temperature_say_how_often_rows_are_drawn(load: Any) -> None:
    sources = rows_of([5] * 10, "sea"), rows_of([5] * 90, "star")
    config, examples = load(*sources, sources=[{"weight": 3.0}, {}], batch={"rows": 2})
    assert [pool.batches for pool in make_sampler(config, examples).pools] == [15, 45]
    assert temperature_weights([10, 1000], 1.0) == pytest.approx([1.0, 1.0])
    small, large = temperature_weights([10, 1000], 0.0)
    assert small * 10 == pytest.approx(large * 1000)
    assert small * 10 + large * 1000 == pytest.approx(1010)


@pytest.mark.parametrize(
    ("counts", "into"),
    [
        ([5, 3, 0, 0], [0, 1, 2, 3]),
        ([5, 1, 4, 0, 0, 0], [0, 2, 2, 3, 4, 5]),  # as near, and longer
        ([5, 0, 1, 0, 0, 0], [0, 1, 0, 3, 4, 5]),
        ([1, 1, 0, 0], [1, 1, 2, 3]),
        ([5, 0, 1, 0], [0, 1, 0, 1]),  # a lone row of two languages
        ([1, 0, 4, 5], [2, 3, 2, 3]),
        ([0, 1, 3, 0], [2, 2, 2, 2]),
    ],
)
def test_a_lone_row_joins_the_nearest_group(counts: list[int], into: list[int]) -> None:
    assert joined(np.array(counts)).tolist() == into


def test_a_small_group_is_one_batch(load: Any) -> None:
    rows = rows_of([8, 8, 8, 8, 90, 30, 30], "sea")
    config, examples = load(rows, batch={"lengths": [25, 50, 100], "rows": 64})
    pools = make_sampler(config, examples).pools
    assert [(pool.longest, pool.size, len(pool.rows)) for pool in pools] == [(25, 4, 4), (50, 3, 3)]
    assert sorted(int(row) for pool in pools for row in pool.rows) == list(range(7))


def test_a_batch_has_one_language_where_asked(load: Any) -> None:
    rows = [row for lang in ("en", "de", "de-en") for row in rows_of([5] * 9, lang, lang=lang)]
    config, examples = load(rows, sources=[{"by_language": True}], batch={"rows": 4})
    sampler = make_sampler(config, examples)
    names = set()
    for number in range(sampler.per_epoch):
        pool, chosen = sampler.batch(number)
        (language,) = {examples.languages[n] for n in examples.language[chosen].tolist()}
        assert pool.name.startswith(f"source0/{language}")
        assert pool.parallel == (language == "de-en")
        names.add(language)
    assert names == {"en", "de", "de-en"}
    config, examples = load(
        [*rows, {"query": "q", "pos": ["p"], "lang": "it"}], sources=[{"by_language": True}]
    )
    said = r"source0\.jsonl:28: the only row of source0/it; .*by_language"
    with pytest.raises(InputError, match=said):
        make_sampler(config, examples)


def test_what_has_nothing_to_be_compared_with_is_named(load: Any) -> None:
    rows = rows_of([5, 5], "sea", neg=["star"])
    apart = {"sources": [{"in_batch_negatives": False}]}
    make_sampler(*load(rows, **apart))
    for bad, tree, said in (
        ([*rows, *rows_of([5], "s")], apart, r"source0\.jsonl:3: no 'neg'"),
        ([*rows, {"text": "sea"}], {}, r"source0\.jsonl:3: a raw text has no 'pos'"),
        (rows, {**apart, "data": {"negatives": 0}}, "negatives is 0 and source"),
        (rows[:1], {}, r"source0\.jsonl:1: the only row of source0; .*files"),
    ):
        with pytest.raises(InputError, match=said):
            make_sampler(*load(bad, **tree))


def test_negatives_of_the_rows_own_group_are_left_out(
    load: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = [
        {"query": "the river", "pos": ["water"], "neg": ["light", "stone fire"]},
        {"query": "the river", "pos": ["light"]},
        {"query": "city", "pos": ["house"], "neg": ["water"]},
    ]
    config, examples = load(rows, data={"negatives": 7})
    collator = Collator(examples, tokenizer, config.data, seed=0)
    assert np.bincount(collator.batch(np.arange(3), 0).owners).tolist() == [2, 1, 2]
    answer = tmp_path / "negatives.jsonl"
    mined = [["light", "Stone  fire"], ["water", "house"], ["light"]]
    answer.write_text("".join(json.dumps({"row": n, "neg": t}) + "\n" for n, t in enumerate(mined)))
    collator.negatives, collator.negative_scores = read_negatives(examples, answer, block=2), None
    batch = collator.batch(np.arange(3), 0)
    assert np.bincount(batch.owners).tolist() == [2, 2, 2]
    texts = [tokenizer.backend.decode(examples.content(n).tolist()) for n in batch.passage_texts]
    assert texts == ["water", "stone fire", "light", "house", "house", "light"]
    assert np.isnan(batch.teacher).all()


def test_drawn_texts_follow_from_seed_and_step(load: Any, tokenizer: Tokenizer) -> None:
    rows = rows_of([5, 6, 7, 8], "sea", neg=[f"star {n}" for n in range(20)])
    config, examples = load(rows, data={"negatives": 3, "shuffle_segments": 1.0})
    collator = Collator(examples, tokenizer, config.data, seed=0)
    one, two = (collator.batch(np.arange(4), step) for step in (0, 1))
    parts = [collator.batch(np.arange(4)[half], 0) for half in (slice(0, 1), slice(1, 4))]
    drawn = [p.passage_texts.tolist() for p in parts]  # on two devices
    assert [*drawn[0], *drawn[1]] == one.passage_texts.tolist() != two.passage_texts.tolist()
    for place, (start, end) in zip(
        one.passage_texts,
        np.stack((one.passages.offsets[:-1], one.passages.offsets[1:]), 1),
        strict=True,
    ):
        content, ids = examples.content(int(place)).tolist(), one.passages.ids[start:end].tolist()
        assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.eos_id)
        assert sorted(ids[1:-1]) == sorted(content)
    assert one.queries.lengths.tolist() == (examples.lengths(one.query_texts) + 2).tolist()
    short = Collator(examples, tokenizer, config.data.__class__(passage_tokens=4), seed=0)
    cut = short.batch(np.arange(4), 0).passages
    assert cut.lengths.max() == 4
    assert cut.truncated.any()


def test_lists_of_different_lengths() -> None:
    lists = Ragged(np.array([5, 6, 7]), np.array([0, 2, 2, 3]))
    assert [lists[row].tolist() for row in range(len(lists))] == [[5, 6], [], [7]]
