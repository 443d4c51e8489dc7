"""Bands find what is alike on both sides, and keys what is the same."""

import builtins
import random
from typing import Any

import numpy as np
import pytest

from tercet.curate.near_duplicates import (
    MISSED,
    bands_for,
    bands_of,
    compared,
    exact_repeats,
    jaccard,
    key_of,
    shingles,
    similarity,
)
from tercet.errors import MissingExtraError

LETTERS = "abcdefghijklmnopqrstuvwxyz      "


def text(draw: random.Random, size: int) -> str:
    return "".join(draw.choice(LETTERS) for _ in range(size))


def edited(draw: random.Random, original: str, edits: int) -> str:
    letters = list(original)
    for _ in range(edits):
        letters[draw.randrange(len(letters))] = draw.choice("0123456789")
    return "".join(letters)


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.9])
def test_bands_find_all_but_a_few_at_the_threshold(threshold: float) -> None:
    draw, count = random.Random(1), bands_for(threshold)
    found = pairs = 0
    while pairs < 300:
        query, positive = text(draw, 300), text(draw, 900)
        other = [edited(draw, query, 9), edited(draw, positive, 27)]
        sides = zip((query, positive), other, strict=True)
        alike = min(jaccard(shingles(one), shingles(two)) for one, two in sides)
        if alike < threshold:
            other = [edited(draw, query, 3), edited(draw, positive, 9)]
            sides = zip((query, positive), other, strict=True)
            alike = min(jaccard(shingles(one), shingles(two)) for one, two in sides)
        if alike < threshold:
            continue
        pairs += 1
        bands = bands_of([[query, positive], other], count)
        assert bands.shape == (2, count)
        found += bool((bands[0] == bands[1]).any())
    assert found >= 300 * (1 - MISSED) - 6  # three standard deviations below


def test_one_side_alike_is_no_candidate() -> None:
    draw = random.Random(2)
    passage = text(draw, 900)
    rows = [[text(draw, 60), passage] for _ in range(200)]
    bands = bands_of(rows, bands_for(0.8))
    shared = [len(np.unique(column)) for column in bands.T]
    assert min(shared) > 190


def test_bands_do_not_change_with_neighbours() -> None:
    rows = [["a b c", "one text"], ["水木"], ["", "x"], ["long " * 99, "two", "three"]]
    together = bands_of(rows, 16)
    for number, row in enumerate(rows):
        assert (bands_of([row], 16)[0] == together[number]).all()
    assert bands_of([], 16).shape == (0, 16)


def test_keys_are_of_folded_texts() -> None:
    assert key_of(["What  is it?", "A", "B"]) == key_of(["what is IT?", "b", "a"])
    different = [["a"], ["a", "b"], ["a b"], ["b", "a"], ["a", "b", "b"], ["C#"], ["C"], ["C++"]]
    assert len({key_of(one) for one in different}) == len(different)


def test_repeats_point_to_the_first() -> None:
    keys = np.array([5, 3, 5, 7, 3, 5], dtype=np.uint64)
    assert exact_repeats(keys).tolist() == [-1, -1, 0, -1, 1, 0]
    assert exact_repeats(keys[:0]).tolist() == []


def test_short_texts_are_alike_only_with_the_same_letters() -> None:
    for left, right, wanted in (
        ("Who won in 2010?", "who won, in 2010", 1.0),
        ("Who won in 2010?", "Who won in 2011?", 0.0),
        ("What is C++?", "What is C#?", 0.0),
        ("第一回の大会はどこで開かれましたか", "第二回の大会はどこで開かれましたか", 0.0),
    ):
        for sides in ([left], [left, "p"]), ([right], [right, "p"]):
            assert len(compared(sides[0])) == 1
            assert len(compared(sides[1])) == 2
        found = similarity(compared([left])[0], compared([right])[0])
        assert found == wanted
    long = "a sentence of some words that differs by its number, " * 12
    assert similarity(compared([long + "1"])[0], compared([long + "2"])[0]) > 0.8


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "rensa":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"tercet\[filter\]"):
        bands_of([["a", "b"]], 4)
