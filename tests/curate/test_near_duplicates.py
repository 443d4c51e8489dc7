"""Bands find what is alike on both sides, and keys what is the same."""

import random

import numpy as np
import pytest

from tercet.curate.near_duplicates import (
    MISSED,
    Side,
    bands_for,
    bands_of,
    exact_repeats,
    fold,
    jaccard,
    key_of,
)

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
        sides = [text(draw, 300), text(draw, 900)]
        edits = draw.choice([(3, 9), (9, 27)])
        other = [edited(draw, side, n) for side, n in zip(sides, edits, strict=True)]
        alike = min(
            jaccard(Side(one, 0).shingles, Side(two, 0).shingles)
            for one, two in zip(sides, other, strict=True)
        )
        if alike < threshold:
            continue
        pairs += 1
        bands = bands_of([sides, other], count)
        assert bands.shape == (2, count)
        found += bool((bands[0] == bands[1]).any())
    assert found >= 300 * (1 - MISSED) - 6  # three standard deviations below


def test_bands_do_not_change_with_neighbours() -> None:
    rows = [["a b c", "one text"], ["水木"], ["", "x"], ["long " * 99, "two", "three"]]
    together = bands_of(rows, 16)
    for number, row in enumerate(rows):
        assert (bands_of([row], 16)[0] == together[number]).all()
    assert bands_of([], 16).shape == (0, 16)


def test_keys_are_of_folded_texts() -> None:
    assert key_of(["What  is it?", "A", "B"]) == key_of(["what is IT?", "b", "a"])
    different = [["a"], ["a", "b"], ["a b"], ["b", "a"], ["a", "b", "b"], ["C#"], ["C"], ["C++"]]
    assert len({key_of(texts) for texts in different}) == len(different)
    assert fold("  What is\nC＋＋ ?") == "what is c++ ?"


def test_repeats_point_to_the_first() -> None:
    keys = np.array([5, 3, 5, 7, 3, 5], dtype=np.uint64)
    assert exact_repeats(keys).tolist() == [-1, -1, 0, -1, 1, 0]
    assert exact_repeats(keys[:0]).tolist() == []
