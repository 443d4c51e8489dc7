"""Groups in arrays: those of `split.group_keys`, given ids joined, headings left out."""

import random
from collections import defaultdict

import numpy as np
import pytest

from tercet.data.groups import Groups, group_rows
from tercet.data.split import COMMON_PARTNERS, group_keys, hash_of_keys


def grouped(rows: list[list[int]], given: dict[int, int] | None = None) -> Groups:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    keys = np.array([key for row in rows for key in row], dtype=np.int64)
    at, ids = (
        np.array(list(some), np.int64) for some in ((given or {}).keys(), (given or {}).values())
    )
    return group_rows(keys, offsets, (at, ids))


@pytest.mark.parametrize("seed", range(30))
def test_they_are_those_of_the_plain_function(seed: int) -> None:
    draw = random.Random(seed)
    pool = [draw.getrandbits(63) for _ in range(draw.choice((5, 60, 900, 3000)))]
    headings = [draw.getrandbits(63) for _ in range(3)]
    rows = []
    for _ in range(draw.choice((0, 1, 20, 1500))):
        keys = [draw.choice(pool) for _ in range(draw.choice((1, 2, 2, 5)))]
        if draw.random() < 0.5:
            keys.append(draw.choice(headings))
        if draw.random() < 0.02:
            keys = [draw.choice(headings)] * draw.choice((1, 2))
        rows.append(keys)
    if seed % 5 == 0 and len(rows) > 1:
        rows[0] = [draw.getrandbits(63) for _ in range(COMMON_PARTNERS + 50)]
    assert grouped(rows).rows.tolist() == group_keys(rows)


def test_a_heading_is_one_from_just_above_the_limit() -> None:
    for partners in (COMMON_PARTNERS - 1, COMMON_PARTNERS):  # and the heading itself
        rows = [[7, 100 + number] for number in range(partners)]
        found = grouped(rows)
        assert found.rows.tolist() == group_keys(rows)
        assert len(set(found.rows.tolist())) == (1 if partners < COMMON_PARTNERS else partners)


def test_given_ids_join_what_texts_do_not() -> None:
    rows = [[1, 2], [3, 4], [5, 6], [4, 9], [7, 8]]
    alone = grouped(rows).rows.tolist()
    assert alone == [1, 3, 5, 3, 7]
    joined = grouped(rows, {0: -5, 1: -5, 4: 2**62}).rows.tolist()
    assert joined == [1, 1, 5, 1, 7]


def test_a_given_id_may_join_more_rows_than_a_heading() -> None:
    rows = [[2 * n, 2 * n + 1] for n in range(2 * COMMON_PARTNERS)]
    assert set(grouped(rows, dict.fromkeys(range(len(rows)), 3)).rows.tolist()) == {0}


def test_rows_of_headings_alone() -> None:
    rows = [[7, 1000 + n] for n in range(COMMON_PARTNERS + 1)] + [[7], [7], [7, 7], [7], [7]]
    found = grouped(rows, {len(rows) - 1: 5, len(rows) - 2: 5}).rows.tolist()
    assert found[-5:-2] == [hash_of_keys([7]), hash_of_keys([7]), hash_of_keys([7, 7])]
    assert found[-1] == found[-2]
    assert found[-1] not in found[:-2]
    assert min(found) >= 0


def test_texts_have_the_group_of_their_rows_or_one_of_their_own() -> None:
    rows = [[1, 2], [2, 3], [4, 5], *([7, 1000 + n] for n in range(COMMON_PARTNERS + 1))]
    found = grouped(rows)
    of = found.of_texts(np.array([3, 1, 5, 7, 99, 98, 99, 7], dtype=np.int64)).tolist()
    assert of[:3] == [1, 1, 4]
    members = defaultdict(list)
    for place, group in enumerate(of[3:]):
        assert group < 0
        members[group].append(place)
    assert sorted(members.values()) == [[0, 4], [1, 3], [2]]
    none = grouped([])
    assert none.of_texts(np.array([3, 3, 1], dtype=np.int64)).tolist() == [-2, -2, -1]
