"""Texts told apart, rows grouped, and whole groups held out, the same ones every time."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tercet.errors import InputError
from tercet.rows import Row, read_rows, write_rows
from tercet.split import (
    COMMON_PARTNERS,
    DistinctTexts,
    Keys,
    RowKeys,
    group_rows,
    is_parallel,
    split,
    text_key,
)
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


def grouped(rows: list[list[int]], given: dict[int, int] | None = None) -> Keys:
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
    groups, expected = grouped(rows).tolist(), oracle(rows)
    alone = {group for group, name in zip(groups, expected, strict=True) if name is None}
    assert alone.isdisjoint(name for name in expected if name is not None)
    assert [None if group in alone else group for group in groups] == expected


@pytest.mark.parametrize("partners", [COMMON_PARTNERS - 1, COMMON_PARTNERS])
def test_a_heading_is_one_from_just_above_the_limit(partners: int) -> None:
    groups = grouped([[7, 100 + number] for number in range(partners)])
    # the heading is among its partners
    assert len(set(groups.tolist())) == (1 if partners < COMMON_PARTNERS else partners)


def test_given_ids_join_what_texts_do_not() -> None:
    rows = [[1, 2], [3, 4], [5, 6], [4, 9], [7, 8]]
    assert grouped(rows).tolist() == [1, 3, 5, 3, 7]
    assert grouped(rows, {0: -5, 1: -5, 4: 2**62}).tolist() == [1, 1, 5, 1, 7]
    many = [[2 * n, 2 * n + 1] for n in range(2 * COMMON_PARTNERS)]  # more than a heading may
    assert set(grouped(many, dict.fromkeys(range(len(many)), 3)).tolist()) == {0}


def test_rows_of_headings_alone_are_groups_by_their_texts_or_given_id() -> None:
    rows = [[7, 1000 + n] for n in range(COMMON_PARTNERS + 1)] + [[7], [7], [7, 7], [7], [7]]
    *others, first, second, twice, third, fourth = grouped(
        rows, {len(rows) - 1: 5, len(rows) - 2: 5}
    ).tolist()
    assert first == second
    assert third == fourth
    assert len({first, twice, third, *others}) == len(others) + 3
    assert min(others) >= 0


# what is no negative


def related(
    rows: list[list[int]], given: dict[int, int] | None = None, parallel: Sequence[int] = ()
) -> list[set[int]]:
    keys = RowKeys()
    for number, row in enumerate(rows):
        keys.add(row, (given or {}).get(number), "de-en" if number in parallel else "de")
    owners, found = keys.related().of(np.arange(len(rows)))
    texts = {key for row in rows for key in row}
    return [texts & set(found[owners == number].tolist()) for number in range(len(rows))]


def test_texts_of_rows_that_share_one_are_related_and_no_further() -> None:
    chain = [[10 * n, n, n + 1] for n in range(1, 6)]  # each row shares a positive with the next
    assert related(chain)[0] == {10, 20, 1, 2, 3}
    assert related(chain)[2] == {20, 30, 40, 2, 3, 4, 5}
    assert len(set(grouped(chain).tolist())) == 1  # which a split keeps together


def test_positives_of_a_query_are_related_in_one_row_or_several() -> None:
    listed = [[100, 1, 2], [200, 2, 3], [300, 3]]
    apart = [[100, 1], [100, 2], [200, 2], [200, 3], [300, 3]]
    assert related(listed)[0] == related(apart)[0] == related(apart)[1] == {100, 1, 2, 200, 3}


def test_translations_of_what_is_related_are_related() -> None:
    rows = [[100, 1], [1, 2], [3, 2], [400, 3], [500, 4]]  # 2 is the English side of 1 and 3
    assert related(rows, parallel=(1, 2))[0] == {100, 1, 2, 3}
    assert related(rows)[0] == {100, 1, 2}
    assert related(rows, parallel=(1, 2))[4] == {500, 4}


def test_given_ids_relate_and_headings_do_not() -> None:
    rows = [[100, 1], [200, 2], [300, 3]]
    assert related(rows, {0: 7, 2: 7}) == [{100, 1, 300, 3}, {200, 2}, {100, 1, 300, 3}]
    many = [[7, 1000 + n] for n in range(COMMON_PARTNERS + 1)]
    assert related(many)[:2] == [{7, 1000}, {7, 1001}]
    assert related([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_related_texts_are_those_of_merged_sets(seed: int) -> None:
    draw = random.Random(seed)
    rows = [[draw.randrange(40) for _ in range(draw.choice((1, 2, 3)))] for _ in range(60)]
    given = {n: draw.randrange(6) for n in range(60) if draw.random() < 0.2}
    parallel = [n for n in range(60) if draw.random() < 0.2]

    def same_query(some: set[int]) -> set[int]:
        return {n for n, row in enumerate(rows) if row[0] in {rows[m][0] for m in some}}

    def texts(some: set[int]) -> set[int]:
        return {key for n in some for key in rows[n]}

    def joined(some: set[int]) -> set[int]:
        ids = {given[n] for n in some if n in given}
        return {n for n, row in enumerate(rows) if texts(some) & {*row} or given.get(n) in ids}

    def expected(row: int) -> set[int]:
        near = same_query(joined(same_query({row})))
        return texts(near) | texts(joined(near) & {*parallel})

    assert related(rows, given, parallel) == [expected(row) for row in range(60)]


def test_the_share_that_rows_are_compared_with() -> None:
    keys = RowKeys()
    assert keys.related().compared() == 1.0
    for row in ([100, 1], [200, 1], [300, 3], [400, 4]):
        keys.add(row)
    # three positives: row 0 is compared with 3 and 4, row 2 with 1 and 4
    assert keys.related().compared() == 1.0
    keys.add([100, 3])  # now 1 and 3 are related
    assert keys.related().compared() == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1 + 1 / 2) / 5)
    alone = RowKeys()
    for number in range(4):
        alone.add([10 + number, number], group=1)
    assert alone.related().compared() == 0.0
    for rows in ([[1, 2]], [[1, 9], [2, 9], [3, 9]], [[1, 2], [1, 2]]):  # one passage in all
        same = RowKeys()
        for row in rows:
            same.add(row)
        assert same.related().compared() == 0.0


def test_tags_of_two_languages() -> None:
    one = ("en", "zh-Hant", "", "pt-br", "fr-CA")
    two = ("de-en", "fuc-en", "az-Latn-en", "fr-CA-en")
    assert [is_parallel(tag) for tag in (*one, *two)] == [False] * len(one) + [True] * len(two)


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
    rows = list(rows)
    write_rows(folder / "in" / "a.jsonl.gz", rows)
    report = split(folder / "in", folder / "out", share=0.2)
    train, dev = sides(folder / "out")
    assert (report.train, report.dev) == ({"a": len(train)}, {"a": len(dev)})
    assert sorted(map(str, train + dev)) == sorted(map(str, rows))
    return train, dev


def test_no_text_stands_on_both_sides_and_nothing_is_lost(tmp_path: Path) -> None:
    train, dev = split_rows(tmp_path, documents())
    assert len(train) + len(dev) == len(documents())
    assert 0.1 < len(dev) / len(documents()) < 0.3
    texts = [{str(row["query"]) for row in side} | {str(row["pos"]) for row in side}
             for side in (train, dev)]  # fmt: skip
    assert not texts[0] & texts[1]


def test_the_split_depends_on_the_texts_alone(tmp_path: Path) -> None:
    shuffled = documents()
    random.Random(3).shuffle(shuffled)
    first, second = (
        split_rows(tmp_path / name, rows)[1]
        for name, rows in (("one", documents()), ("two", shuffled))
    )
    assert sorted(first, key=str) == sorted(second, key=str)


@pytest.mark.parametrize(
    ("rows", "share", "words"),
    [
        (
            [{"query": f"q{n}", "pos": [f"p{n}", f"p{n + 1}"]} for n in range(40)],
            0.2,
            "40 rows are 1 ",
        ),
        (
            [{"query": f"q{n}", "pos": [f"p{n}"], "group": 3} for n in range(40)],
            0.2,
            "largest of 40:",
        ),
        (documents(3), 0.001, "no row would be held out"),
        (documents(3), 0.999, "every row would be held out"),
    ],
)
def test_a_side_without_rows_is_refused(
    tmp_path: Path, rows: list[Row], share: float, words: str
) -> None:
    write_as("jsonl", tmp_path, rows)
    with pytest.raises(InputError, match=words):
        split(tmp_path / "a.jsonl", tmp_path / "out", share=share)
    assert not (tmp_path / "out").exists()


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
