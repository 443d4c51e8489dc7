"""Examples: the same from every kind of file, made once, grouped, never half made."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from tercet.config import default_cache
from tercet.errors import InputError
from tercet.split import text_key
from tercet.tokenizer import Tokenizer
from tercet.train.config import DataConfig, SourceConfig
from tercet.train.dataset import Examples
from tests.kinds import KINDS, write_as

Row = dict[str, Any]
ROWS: list[Row] = [
    {"query": "the river", "pos": ["water of the river", "a city"], "neg": ["the stone"]},
    {"query": "casa", "pos": ["la casa de la ciudad"], "neg": [], "lang": "es", "prompt": "el "},
    {"query": "el río", "pos": ["the river"], "lang": "es-en"},
    {"query": "bread", "pos": ["the bread"], "neg": ["fire", "The  BREAD", "the sea"]}
    | {"pos_scores": [2.5], "neg_scores": [0.5, 9.0, -1.0], "lang": "en", "group": -3},
    {"text": "a star in the winter night " * 3, "lang": "en"},
    {"query": "night", "pos": ["the night"], "neg": ["fire"], "group": -3},
]
ARRAYS = (
    "ids offsets keys query positive_scores negative_scores source language parallel file line"
).split()


def load(
    tokenizer: Tokenizer, cache: Path, *files: Path | Sequence[Path], **options: Any
) -> Examples:
    listed = [[some] if isinstance(some, Path) else some for some in files]
    sources = [SourceConfig(files=tuple(map(str, some))) for some in listed]
    return Examples.load(sources, tokenizer, DataConfig(**options), cache=cache)


def make(tokenizer: Tokenizer, folder: Path, rows: Sequence[Row], **options: Any) -> Examples:
    return load(tokenizer, folder / "cache", write_as("jsonl", folder, rows), **options)


def assert_equal(left: Examples, right: Examples) -> None:
    for name in ARRAYS:
        mine, yours = getattr(left, name), getattr(right, name)
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours, err_msg=name)
    for mine, yours in ((left.positives, right.positives), (left.negatives, right.negatives)):
        np.testing.assert_array_equal(mine.values, yours.values)
        np.testing.assert_array_equal(mine.offsets, yours.offsets)
    assert left.languages == right.languages


def texts(examples: Examples, tokenizer: Tokenizer, places: Any) -> list[str]:
    return [tokenizer.backend.decode(examples.content(int(place)).tolist()) for place in places]


# what is in them


def test_every_row_finds_its_texts_and_their_scores(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = make(tokenizer, tmp_path, ROWS)
    assert len(found) == len(ROWS)
    for number, row in enumerate(ROWS):
        asked = row.get("prompt", "") + row["query"] if "query" in row else row["text"].strip()
        assert texts(found, tokenizer, [found.query[number]]) == [asked]
        assert texts(found, tokenizer, found.positives[number]) == row.get("pos", [])
        kept = [text for text in row.get("neg", []) if "BREAD" not in text]
        assert texts(found, tokenizer, found.negatives[number]) == kept
        assert found.languages[found.language[number]] == row.get("lang", "")
        assert found.where(number) == f"{tmp_path / 'a.jsonl'}:{number + 1}"
    assert found.parallel.tolist() == [False, False, True, False, False, False]
    assert found.content(0).tolist() == tokenizer.contents(["the river"])[0]
    own = {text_key(row["query"] if "query" in row else row["text"]) for row in ROWS}
    assert own <= set(found.keys.tolist())
    assert len(found.offsets) - 1 == len(found.keys)
    start, end = found.negatives.offsets[3:5]
    assert found.negative_scores[start:end].tolist() == [0.5, -1.0]  # of the positive's copy: gone
    assert found.positive_scores[found.positives.offsets[3]] == 2.5
    assert np.isnan(np.delete(found.positive_scores, found.positives.offsets[3])).all()
    assert len(found.negative_scores) == len(found.negatives.values)


def test_a_text_is_stored_once_for_a_prefix(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [{"query": "river", "pos": ["sea"]}, {"query": "sea", "pos": ["river", "River"]}]
    one = make(tokenizer, tmp_path, rows)
    assert len(one.keys) == 3
    assert one.query.tolist() == [0, 1]
    assert one.positives.values.tolist() == [1, 0, 2]
    assert one.keys[2] == one.keys[0]
    two = make(tokenizer, tmp_path, rows, query_prefix="the ")
    assert len(two.keys) == 5
    assert set(two.keys.tolist()) == set(one.keys.tolist())
    assert texts(two, tokenizer, two.query) == ["the river", "the sea"]
    assert texts(two, tokenizer, two.positives.values) == ["sea", "river", "River"]
    # the same tokens, but another text behind another prefix
    rows = [{"query": "river", "pos": ["the river"]}]
    three = make(tokenizer, tmp_path, rows, query_prefix="the ")
    assert three.keys[0] != three.keys[1]


def test_texts_are_cut_to_their_role(tokenizer: Tokenizer, tmp_path: Path) -> None:
    long = "star sea ship " * 40
    rows: list[Row] = [
        {"query": long, "pos": [long, "sea"]},
        {"text": long},
        {"query": "sea", "pos": ["b"]},
    ]
    found = make(tokenizer, tmp_path, rows, query_tokens=10, passage_tokens=50)
    assert found.lengths(found.query).tolist() == [8, 48, 1]
    assert found.lengths(found.positives[0]).tolist() == [48, 1]
    assert found.query[1] == found.positives[0][0]
    assert found.query[2] == found.positives[0][1]
    whole = tokenizer.contents([long])[0]
    assert found.content(int(found.query[0])).tolist() == whole[:8]
    assert found.content(int(found.query[1])).tolist() == whole[:48]


def test_many_texts_are_the_same_in_blocks(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [
        {"query": f"river {n}", "pos": ["sea " * n], "neg": [f"{n} stone"]} for n in range(1, 60)
    ]
    whole = make(tokenizer, tmp_path, rows)
    sources = [SourceConfig(files=(str(tmp_path / "a.jsonl"),))]
    cache = tmp_path / "other"
    assert_equal(whole, Examples.load(sources, tokenizer, DataConfig(), cache=cache, block=7))


def test_sources_files_and_lines(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = write_as("jsonl", tmp_path, ROWS[:2], name="first")
    second = write_as("parquet", tmp_path, ROWS[2:4], name="second")
    first.write_text("\n" + first.read_text())
    found = Examples.load(
        [SourceConfig(files=(str(first), str(second))), SourceConfig(files=(str(second),))],
        tokenizer,
        DataConfig(),
        cache=tmp_path / "cache",
    )
    assert found.source.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.file.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.line.tolist() == [2, 3, 1, 2, 1, 2]
    assert found.where(1) == f"{first}:3"
    assert found.where(5) == f"{second}:2"


# groups


def test_what_is_related_to_rows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows: list[Row] = [
        {"query": "q1", "pos": ["p1"]},
        {"query": "q2", "pos": ["p0", " P1 "]},  # a positive of row 0, but for case and space
        {"query": "Q2", "pos": ["p2"]},  # the query of row 1
        {"query": "p2", "pos": ["p3"], "lang": "de-en"},  # the other side of parallel text
        {"query": "q4", "pos": ["p4"], "neg": ["p1", "n"]},  # a negative joins nothing
        {"query": "q5", "pos": ["p5"], "group": 9},
        {"query": "q6", "pos": ["p6"], "group": 9},
        {"query": "q7", "pos": ["p6"], "group": 10, "prompt": "the "},
        {"text": "p5"},
    ]
    expected = [
        "q1 q2 p0 p1 p2 p3", "q1 q2 p0 p1 p2 p3", "q1 q2 p0 p1 p2 p3", "q2 p0 p1 p2 p3", "q4 p4",
        "q5 q6 p5 p6", "q5 q6 q7 p5 p6", "q6 q7 p6", "q5 p5",
    ]  # fmt: skip
    names = {text_key(f"{kind}{n}"): f"{kind}{n}" for kind in "pq" for n in range(9)}

    def named(examples: Examples, numbers: list[int]) -> list[set[str]]:
        owners, keys = examples.related.of(np.array(numbers))
        found = [set[str]() for _ in numbers]
        for owner, key in zip(owners.tolist(), keys.tolist(), strict=True):
            found[owner] |= {names[key]} if key in names else set()  # else it is that of an id
        return found

    found = make(tokenizer, tmp_path, rows)
    assert [" ".join(sorted(some)) for some in named(found, list(range(9)))] == [
        " ".join(sorted(some.split())) for some in expected
    ]
    # through files, whatever their order
    parts = [
        write_as("jsonl.gz", tmp_path, rows[6:], name="b"),
        write_as("jsonl.gz", tmp_path, rows[:6][::-1], name="c"),
    ]
    other = load(tokenizer, tmp_path / "cache", *parts)
    assert named(other, [*range(8, 2, -1), 0, 1, 2]) == named(found, list(range(9)))


# the cache


class Counting(Tokenizer):
    """Counts the texts that it is given."""

    count = 0

    def contents(self, texts: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        self.count += len(texts)
        return super().contents(texts, limit=limit)


@pytest.fixture
def counting(tokenizer: Tokenizer) -> Counting:
    return Counting(Backend.from_str(tokenizer.backend.to_str()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same(tokenizer: Tokenizer, tmp_path: Path, kind: str) -> None:
    plain = make(tokenizer, tmp_path, ROWS)
    path = write_as(kind, tmp_path, ROWS, name="b")
    assert_equal(plain, load(tokenizer, tmp_path / "other", path))
    bad = write_as(kind, tmp_path, [*ROWS, {"query": "q", "pos": []}], name="bad")
    with pytest.raises(InputError, match=r":7: 'pos' is empty") as caught:
        load(tokenizer, tmp_path / "bad-cache", bad)
    assert str(caught.value).startswith(str(bad))
    assert list((tmp_path / "bad-cache").iterdir()) == []


def test_what_is_there_is_used_again(counting: Counting, tmp_path: Path) -> None:
    first = make(counting, tmp_path, ROWS)
    assert counting.count == len(first.keys)
    again = make(counting, tmp_path, ROWS)
    (tmp_path / "a.jsonl").rename(tmp_path / "moved.jsonl")
    moved = load(counting, tmp_path / "cache", tmp_path / "moved.jsonl")
    assert counting.count == len(first.keys)
    assert_equal(first, again)
    assert first.fingerprint == again.fingerprint == moved.fingerprint
    assert moved.where(0) == f"{tmp_path / 'moved.jsonl'}:1"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    ids = again.ids
    while ids.base is not None and not isinstance(ids, np.memmap):
        ids = ids.base
    assert isinstance(ids, np.memmap)
    assert not again.ids.flags.writeable


def test_another_input_is_another_cache(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_as("jsonl", tmp_path, ROWS)
    other = Backend.from_str(tokenizer.backend.to_str().replace("▁river", "▁rivet"))
    cache = tmp_path / "cache"
    prints = [
        load(tokenizer, cache, path).fingerprint,
        load(Tokenizer(other), cache, path).fingerprint,
        load(tokenizer, cache, path, query_prefix="q").fingerprint,
        load(tokenizer, cache, path, passage_prefix="q").fingerprint,
        load(tokenizer, cache, path, query_tokens=100).fingerprint,
        load(tokenizer, cache, path, passage_tokens=100).fingerprint,
        load(tokenizer, cache, path, path).fingerprint,
        load(tokenizer, cache, [path, path]).fingerprint,
    ]
    # what does not change the arrays does not change the key
    assert load(tokenizer, cache, path, negatives=3, temperature=0.5).fingerprint == prints[0]
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"stone", b"stove"))
    prints.append(load(tokenizer, cache, path).fingerprint)
    assert len(set(prints)) == len(prints) == len(list(cache.iterdir()))


@pytest.mark.parametrize("damage", ["shorter", "longer", "gone", "header", "list", "no list"])
def test_a_damaged_cache_is_made_again(counting: Counting, tmp_path: Path, damage: str) -> None:
    good = make(counting, tmp_path, ROWS)
    made = counting.count
    (folder,) = (tmp_path / "cache").iterdir()
    good = Examples(**{**vars(good), **{name: getattr(good, name).copy() for name in ARRAYS}})
    ids, listed = folder / "ids.npy", folder / "cache.json"
    raw = ids.read_bytes()
    if damage == "gone":
        ids.unlink()
    elif damage == "no list":
        listed.unlink()
    elif damage == "list":
        listed.write_text(listed.read_text()[:-20])
    else:
        changed = {
            "shorter": raw[:-4],
            "longer": raw + bytes(4),
            "header": raw.replace(b"<i4", b"<f4"),
        }
        ids.unlink()  # not in place: it is mapped
        ids.write_bytes(changed[damage])
    for _ in range(2):  # made again once
        assert_equal(good, make(counting, tmp_path, ROWS))
        assert counting.count == 2 * made
        assert list((tmp_path / "cache").iterdir()) == [folder]


CHILD = """
import os, signal, sys
from pathlib import Path
from tercet.tokenizer import Tokenizer
from tercet.train.config import DataConfig, SourceConfig
from tercet.train.dataset import Examples
tokenizer = Tokenizer.from_file(Path(sys.argv[1]) / "tokenizer.json")
if sys.argv[4] == "kill":
    Tokenizer.contents = lambda *texts, limit: os.kill(os.getpid(), signal.SIGKILL)
found = Examples.load([SourceConfig(files=(sys.argv[2],))], tokenizer, DataConfig(),
                      cache=Path(sys.argv[3]), block=2)
print(len(found), found.fingerprint)
"""


def child(tiny_checkpoint: Path, path: Path, cache: Path, how: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", CHILD, str(tiny_checkpoint), str(path), str(cache), how]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_under_the_name(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    path = write_as("jsonl", tmp_path, ROWS)
    cache = tmp_path / "cache"
    with child(tiny_checkpoint, path, cache, "kill") as process:
        process.wait(timeout=120)
    assert process.returncode == -signal.SIGKILL
    left = list(cache.iterdir())
    assert left, "it was killed before it began"
    assert all(folder.name.startswith(".") for folder in left)
    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    assert len(load(tokenizer, cache, path)) == len(ROWS)


def test_two_processes_may_build_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = write_as("jsonl", tmp_path, ROWS * 50)
    both = [child(tiny_checkpoint, path, tmp_path / "cache", "go") for _ in range(2)]
    outputs = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(outputs) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_second_of_two_takes_what_the_first_made(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_as("jsonl", tmp_path, ROWS)
    rename, made = os.rename, list[Examples]()

    def late(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        made.append(load(tokenizer, tmp_path / "cache", path))
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    found = load(tokenizer, tmp_path / "cache", path)
    assert_equal(found, made[0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TERCET_CACHE", "~/own")
    for name, folder in (
        ("TERCET_CACHE", tmp_path / "own"),
        ("XDG_CACHE_HOME", tmp_path / "xdg" / "tercet"),
        ("HOME", tmp_path / ".cache" / "tercet"),
    ):
        assert default_cache() == folder
        if name != "HOME":
            monkeypatch.delenv(name)


def test_what_cannot_be_made_is_named(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write_as("jsonl", tmp_path, ROWS), tmp_path / "cache"
    (tmp_path / "none.jsonl").write_text("\n")
    for files, said in (
        ([path, tmp_path / "none.jsonl"], r"source none: no rows in .*none\.jsonl"),
        ([tmp_path / "gone.jsonl"], "no such file"),
        ([], "no sources"),
    ):
        with pytest.raises(InputError, match=said):
            load(tokenizer, cache, *files)
    with pytest.raises(InputError, match=r"none\.jsonl: .*TERCET_CACHE"):  # a file, no folder
        load(tokenizer, tmp_path / "none.jsonl", path)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device: make room"):
        load(tokenizer, cache, path)
    assert list(cache.iterdir()) == []
