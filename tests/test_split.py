"""Texts told apart, rows grouped, and whole groups held out, the same ones every time."""

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tercet.errors import InputError
from tercet.rows import Row, read_rows, write_rows
from tercet.split import COMMON_PARTNERS, DistinctTexts, Groups, group_rows, split, text_key
from tests.kinds import write_as


def test_distinct_texts_are_numbered_as_a_dictionary_does() -> None:
    draw = random.Random(1)
    texts = [str(draw.randrange(4000)).encode() for _ in range(12_000)]
    store, expected = DistinctTexts(slots=2), dict[bytes, int]()
    for text in texts:
        assert store.get(text) == expected.get(text)
        assert store.add(text) == expected.setdefault(text, len(expected))
    assert len(store) == len(expected)
    assert [store.get(text) for text in texts] == [expected[text] for text in texts]
    assert store.get(b"never added") is None


# groups


def grouped(rows: list[list[int]], given: dict[int, int] | None = None) -> Groups:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    keys = np.array([key for row in rows for key in row], dtype=np.int64)
    some = given or {}
    bringing, ids = np.array(list(some), np.int64), np.array(list(some.values()), np.int64)
    return group_rows(keys, offsets, (bringing, ids))


def oracle(rows: list[list[int]]) -> list[int | None]:
    """The smallest key of each row's group by merging sets; None for a row of headings alone."""
    partners: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        for key in row:
            partners[key].update(row)
    names = {key: key for key in partners}

    def joining(row: list[int]) -> list[int]:
        return [key for key in row if len(partners[key]) <= COMMON_PARTNERS]

    changed = True
    while changed:
        changed = False
        for row in rows:
            own = joining(row)
            smallest = min((names[key] for key in own), default=0)
            for key in own:
                changed |= names[key] != smallest
                names[key] = smallest
    return [names[joining(row)[0]] if joining(row) else None for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_those_of_merged_sets(seed: int) -> None:
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
    groups, expected = grouped(rows).rows.tolist(), oracle(rows)
    alone = {group for group, name in zip(groups, expected, strict=True) if name is None}
    assert alone.isdisjoint(name for name in expected if name is not None)
    assert [None if group in alone else group for group in groups] == expected


@pytest.mark.parametrize("partners", [COMMON_PARTNERS - 1, COMMON_PARTNERS])
def test_a_heading_is_one_from_just_above_the_limit(partners: int) -> None:
    groups = grouped([[7, 100 + number] for number in range(partners)]).rows
    # the heading is among its partners
    assert len(set(groups.tolist())) == (1 if partners < COMMON_PARTNERS else partners)


def test_given_ids_join_what_texts_do_not() -> None:
    rows = [[1, 2], [3, 4], [5, 6], [4, 9], [7, 8]]
    assert grouped(rows).rows.tolist() == [1, 3, 5, 3, 7]
    assert grouped(rows, {0: -5, 1: -5, 4: 2**62}).rows.tolist() == [1, 1, 5, 1, 7]
    many = [[2 * n, 2 * n + 1] for n in range(2 * COMMON_PARTNERS)]  # more than a heading may
    assert set(grouped(many, dict.fromkeys(range(len(many)), 3)).rows.tolist()) == {0}


def test_rows_of_headings_alone_are_groups_by_their_texts_or_given_id() -> None:
    rows = [[7, 1000 + n] for n in range(COMMON_PARTNERS + 1)] + [[7], [7], [7, 7], [7], [7]]
    *others, first, second, twice, third, fourth = grouped(
        rows, {len(rows) - 1: 5, len(rows) - 2: 5}
    ).rows.tolist()
    assert first == second
    assert third == fourth
    assert len({first, twice, third, *others}) == len(others) + 3
    assert min(others) >= 0


def test_texts_have_the_group_of_their_rows_or_one_of_their_own() -> None:
    rows = [[1, 2], [2, 3], [4, 5], *([7, 1000 + n] for n in range(COMMON_PARTNERS + 1))]
    keys = np.array([3, 1, 5, 7, 99, 98, 99, 7], dtype=np.int64)
    groups = grouped(rows).of_texts(keys).tolist()
    assert groups[:3] == [1, 1, 4]
    assert max(groups[3:]) < 0
    members = defaultdict(list)
    for place, group in enumerate(groups[3:]):
        members[group].append(place)
    assert sorted(members.values()) == [[0, 4], [1, 3], [2]]
    assert grouped([]).of_texts(np.array([3, 3, 1], np.int64)).tolist() == [-2, -2, -1]


# the held-out part


def documents(count: int = 400) -> list[Row]:
    """Each passage has a question in two languages; every tenth question repeats in a neighbour."""
    made: list[Row] = []
    for number in range(count):
        passage = f"passage {number} tells of river {number * 7}"
        made.append({"query": f"what of river {number}?", "pos": [passage]})
        made.append({"query": f"¿qué del río {number}?", "pos": [passage]})
        if number % 10 == 0:
            made.append({"query": f"what of river {number}?", "pos": [f"another text {number}"]})
    return made


def sides(folder: Path) -> tuple[list[Row], list[Row]]:
    train, dev = (list(read_rows(folder / side / "a.jsonl.gz")) for side in ("train", "dev"))
    return train, dev


def split_rows(folder: Path, rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    write_rows(folder / "in" / "a.jsonl.gz", rows)
    report = split(folder / "in", folder / "out", share=0.2)
    train, dev = sides(folder / "out")
    assert (report.train, report.dev) == ({"a": len(train)}, {"a": len(dev)})
    assert report.groups == len({row["group"] for row in train + dev})
    return train, dev


def test_no_text_stands_on_both_sides_and_nothing_is_lost(tmp_path: Path) -> None:
    train, dev = split_rows(tmp_path, documents())
    assert len(train) + len(dev) == len(documents())
    assert 0.1 < len(dev) / len(documents()) < 0.3
    texts = [{str(row["query"]) for row in side} | {str(row["pos"]) for row in side}
             for side in (train, dev)]  # fmt: skip
    assert not texts[0] & texts[1]
    assert len({row["group"] for row in train + dev}) == 400


def test_the_split_depends_on_the_texts_alone(tmp_path: Path) -> None:
    shuffled = documents()
    random.Random(3).shuffle(shuffled)
    first, second = (
        split_rows(tmp_path / name, rows)[1]
        for name, rows in (("one", documents()), ("two", shuffled))
    )
    assert sorted(first, key=str) == sorted(second, key=str)


def test_two_files_of_one_name_are_not_split_into_one(tmp_path: Path) -> None:
    write_as("jsonl", tmp_path, documents(3))
    write_as("parquet", tmp_path, documents(3))
    with pytest.raises(InputError, match=r"a\.jsonl: another file here is named 'a'"):
        split(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "a", "pos": []}', "'pos'"),
        ('{"query": "a", "pos": "b"}', "'pos'"),
        ("{broken", "JSON lines"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "q", "pos": ["p"]}\n' + line + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2") as caught:
        split(path, tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_keys_fold_white_space_and_case() -> None:
    assert text_key(" Straße  am\nFluss ") == text_key("STRASSE am fluss") != text_key("am Fluss")
