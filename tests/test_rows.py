"""Rows: every kind of file gives the same, and what is wrong is named by file and line."""

import builtins
import bz2
import datetime as dt
import gzip
import json
import lzma
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tercet.errors import InputError, MissingExtraError
from tercet.rows import (
    Record,
    check_row,
    files_of,
    line_of,
    numbered_rows,
    open_packed,
    read_rows,
    stem_of,
    tagged_texts,
    text_files,
)
from tercet.split import split
from tests.kinds import KINDS, TABLES, write_as

ROWS: list[dict[str, Any]] = [
    {
        "query": f"question {n} 水",
        "pos": [f"answer {n}", f"é {n}"],
        "neg": [],
        "lang": "en",
        "group": n,
    }
    | ({"pos_scores": [0.5, -1.25]} if n % 2 else {})
    for n in range(7)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    path = write_as(kind, tmp_path / "in", ROWS)
    assert list(read_rows(path)) == ROWS
    assert [number for number, _ in numbered_rows(path)] == [1, 2, 3, 4, 5, 6, 7]
    assert files_of(tmp_path / "in") == files_of(path) == [path]
    assert stem_of(path) == "a"
    report = split(tmp_path / "in", tmp_path / "out", share=0.5)
    sides = [list(read_rows(tmp_path / "out" / side / "a.jsonl.gz")) for side in ("train", "dev")]
    assert report.train["a"] + report.dev["a"] == len(ROWS)
    assert sorted(row["query"] for side in sides for row in side) == [r["query"] for r in ROWS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_is_refused(tmp_path: Path, kind: str) -> None:
    many = [{"query": f"q{n}", "pos": [str(n * 7919 % 1000) * 9]} for n in range(500)]
    path = write_as(kind, tmp_path, many)
    part = path
    if path.is_dir():
        part = max(path.rglob("data-00001*.arrow"))
    part.write_bytes(part.read_bytes()[: -part.stat().st_size // 3])
    for content in (part.read_bytes(), b"\x1f\x8b\x08 this is none of them" * 9):
        part.write_bytes(content)
        with pytest.raises(InputError, match=rf"{part.name}") as caught:
            list(read_rows(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pointer_of_git_lfs_is_called_that(tmp_path: Path, kind: str) -> None:
    path = write_as(kind, tmp_path, ROWS)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064}\nsize 9\n"
    for part in path.rglob("*.arrow") if path.is_dir() else [path]:
        part.write_text(pointer)
    with pytest.raises(InputError, match=rf"{path.name}.* is a Git LFS pointer.*git lfs pull"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["../a.arrow", "/etc/passwd", "..", "", "a\0b", 5])
def test_a_dataset_names_its_own_files_alone(tmp_path: Path, name: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(InputError):
        list(read_rows(tmp_path / "a"))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}\n' + b'{"a": 0}\n' * 3000 + b"\xff\n")
    rows = numbered_rows(path)
    assert [next(rows), next(rows)] == [(1, {"a": 1}), (4, {"a": 2})]
    with pytest.raises(InputError, match=r"a\.jsonl:3005: byte 0xff is not UTF-8"):
        list(rows)


@pytest.mark.parametrize("line", ["{", "[1]", "3", "[" * 100_000, '{"n": 1' + "0" * 5000 + "}"])
def test_bad_lines_are_passed_over_where_asked(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + line + '\n{"a": 3}\n')
    problems: list[InputError] = []
    rows = list(numbered_rows(path, skip=problems.append))
    assert rows == [(1, {"a": 1}), (3, {"a": 3})]
    (problem,) = problems
    assert str(problem).startswith(f"{path}:2: ")
    with pytest.raises(InputError, match=r"a\.jsonl:2: "):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["b.jsonl", "b.jsonl.gz", "b.parquet"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_no_file_of_a_folder_is_passed_over(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    make(tmp_path / name)
    assert files_of(tmp_path) == [tmp_path / "a.jsonl", tmp_path / name]
    with pytest.raises(InputError, match=rf"{name}( is not a regular|: no such) file"):
        list(read_rows(tmp_path / name))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.zst", "a.parquet"):
        with pytest.raises(InputError, match=f"{name}: no such file"):
            list(read_rows(tmp_path / name))
        with pytest.raises(InputError, match=f"{name}: no such file"):
            files_of(tmp_path / name)
    with pytest.raises(InputError, match=r"no \.jsonl.*\.parquet file here"):
        files_of(tmp_path)
    with pytest.raises(InputError, match=r"state\.json"):
        list(read_rows(tmp_path))


def test_a_damaged_datasets_folder_is_named(tmp_path: Path) -> None:
    path = write_as("splits", tmp_path, ROWS)
    (path / "train").rename(path / "dev")
    with pytest.raises(InputError, match="no split 'train'"):
        list(read_rows(path))
    path = write_as("dataset", tmp_path, ROWS, name="b")
    (path / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow: no such file"):
        list(read_rows(path))
    for state in ("{", "[]", '{"_data_files": [3]}'):
        (path / "state.json").write_text(state)
        with pytest.raises(InputError, match=r"state\.json"):
            list(read_rows(path))


@pytest.mark.parametrize(
    ("kind", "extra"), [("jsonl.zst", "zstd"), *((k, "parquet") for k in TABLES)]
)
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, extra: str
) -> None:
    path = write_as(kind, tmp_path, ROWS)
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("zstandard", "pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=rf"pip install 'tercet\[{extra}\]'"):
        list(read_rows(path))


# fields

GOOD: dict[str, Any] = {"query": "q", "pos": ["p", "r"], "neg": ["n"]}


def test_the_rows_of_flag_embedding_are_right() -> None:
    row = {
        "query": "q",
        "pos": ["p"],
        "neg": ["n", "m"],
        "pos_scores": [1],
        "neg_scores": [-0.5, 0.25],
        "prompt": "Represent this: ",
        "type": "normal",
        "pos_id": [3],
    }
    assert check_row(row, "a:1") == Record(
        "q", ("p",), ("n", "m"), (1.0,), (-0.5, 0.25), prompt="Represent this: "
    )
    bare = {"query": "q", "pos": ["p"], "neg": None, "pos_scores": None}
    assert check_row(bare, "a:1") == Record("q", ("p",))
    raw = check_row({"text": "t", "lang": "de", "source": "s"}, "a:1")
    assert raw == Record("t", lang="de", source="s")
    assert raw.raw


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": None}, "'query' is missing"),
        ({"query": None, "text": "t"}, "'query' is missing"),
        ({"query": " \n"}, "'query' is empty"),
        ({"query": 3}, "'query' must be a string, not a number"),
        ({"pos": None}, "'pos' is missing"),
        ({"pos": []}, "'pos' is empty"),
        ({"pos": "p"}, "'pos' must be a list of strings, not a string"),
        ({"pos": ["p", ""]}, "entry 2 of 'pos' is empty"),
        ({"pos": [None, "p"]}, "entry 1 of 'pos' is null"),
        ({"neg": [" "]}, "entry 1 of 'neg' is empty"),
        ({"pos_scores": [0.5]}, "'pos_scores' has 1 entries, 'pos' has 2"),
        ({"neg_scores": []}, "'neg_scores' has 0 entries, 'neg' has 1"),
        ({"neg_scores": 0.5}, "'neg_scores' must be a list of numbers"),
        ({"neg_scores": [True]}, "entry 1 of 'neg_scores' is true or false"),
        ({"pos_scores": [0.1, float("nan")]}, "entry 2 of 'pos_scores' is not finite"),
        ({"neg_scores": [10**400]}, "entry 1 of 'neg_scores' is not finite"),
        ({"neg_scores": [1e300]}, "entry 1 of 'neg_scores' is not finite"),
        ({"group": 7.0}, "'group' must be a whole number"),
        ({"group": True}, "'group' must be a whole number"),
        ({"group": 2**63}, "'group' must be a whole number of 64 bits"),
        ({"lang": 3}, "'lang' must be a string"),
        ({"source": []}, "'source' must be a string"),
        ({"prompt": False}, "'prompt' must be a string"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], says: str) -> None:
    assert check_row(GOOD, "f.jsonl:9")
    with pytest.raises(InputError) as caught:
        check_row(GOOD | change, "f.jsonl:9")
    assert str(caught.value).startswith("f.jsonl:9: ")
    assert says in str(caught.value)


def test_a_date_of_a_table_and_a_lone_surrogate_are_written() -> None:
    assert line_of({"day": dt.date(2024, 1, 2)}) == b'{"day": "2024-01-02"}\n'
    assert json.loads(line_of({"text": "\ud800"})) == {"text": "\ud800"}


def test_a_raw_text_must_not_be_empty() -> None:
    with pytest.raises(InputError, match="a:1: 'text' is empty"):
        check_row({"text": ""}, "a:1")
    with pytest.raises(InputError, match="a:1: 'query' is missing"):
        check_row({}, "a:1")


# texts alone


def test_rows_and_lines_give_their_texts_with_the_language_of_their_side(tmp_path: Path) -> None:
    pair: dict[str, object] = {"query": "q", "pos": ["p", "r"], "neg": ["n"]}
    tags = {"pt-en": ("pt", "en"), "az-Latn-en": ("az-Latn", "en"), "af-pt-BR": ("af", "pt-BR")}
    tags |= {"zh-Hant": ("zh-Hant", "zh-Hant"), "009-en": ("009", "en"), "": ("", "")}
    rows = [{**pair, "lang": tag} for tag in tags] + [{"text": "t", "title": "h", "lang": "de"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lines.txt").write_text("one\n\n  two \n")
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "most.txt.xz").write_bytes(lzma.compress(b"four"))
    expected = [("", text) for text in ("one", "two", "three", "four")]
    for first, second in tags.values():
        expected += [(first, "q"), *((second, text) for text in "prn")]
    expected += [("de", "h"), ("de", "t")]
    files = text_files([tmp_path])
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert list(tagged_texts(files)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"id": 3}\n', r"a\.jsonl:2: a row needs a text .* has id"),
        ("a.jsonl", b'{"query": 3}\n', r"a\.jsonl:1: 'query' holds a number"),
        ("a.jsonl", b'{"query": "x", "pos": [[]]}\n', r"a\.jsonl:1: 'pos' holds a list"),
        ("a.jsonl", b'{"text": "x", "lang": ["de"]}\n', r"a\.jsonl:1: 'lang' must be a string"),
        ("a.txt", b"one\n\xff\xfe\n", r"a\.txt:2: byte 0xff is not UTF-8"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz:1: not readable"),
    ],
)
def test_files_without_texts_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(tagged_texts([tmp_path / name]))


def test_no_files_of_text_are_refused(tmp_path: Path) -> None:
    for sources in ([], [tmp_path / "absent"], [tmp_path]):
        with pytest.raises(InputError):
            text_files(sources)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", [name for name in PACK if name])
def test_a_packed_file_is_read_to_its_end_or_called_cut(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    whole = PACK[suffix](b'{"a": 1}\n' * 100) * 2  # packed in two parts
    path.write_bytes(whole)
    assert len(list(read_rows(path))) == 200
    path.write_bytes(whole[:-3])
    with pytest.raises(InputError, match=rf"a\.jsonl{suffix}:\d+: not readable"):
        list(read_rows(path))


@pytest.mark.parametrize("suffix", PACK)
def test_a_line_and_what_is_unpacked_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    line = b'{"text": "word"}\n'
    path.write_bytes(PACK[suffix](line + b'{"text": "' + b"a" * (1 << 20) + b'"}\n'))
    assert len(list(read_rows(path))) == 2
    monkeypatch.setenv("TERCET_LONGEST_LINE", "1")
    with pytest.raises(InputError, match=r"a\.jsonl.*:2: a line of more than 1 MB: .*LONGEST_LINE"):
        list(read_rows(path))
    monkeypatch.setattr("tercet.rows._UNPACKED", 1 << 18)
    path.write_bytes(PACK[suffix](line + b"\n" * (1 << 14)))  # which take the time of 2 ** 19 bytes
    if suffix:
        with pytest.raises(InputError, match="unpacks to more than 250 times its size"):
            list(read_rows(path))
    else:
        assert list(read_rows(path)) == [{"text": "word"}]
    monkeypatch.setenv("TERCET_LONGEST_LINE", "much")
    with pytest.raises(InputError):
        list(read_rows(path))


def test_a_piece_of_zstandard_is_small_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(bytes(1 << 27)))  # 4 KB
    tracemalloc.start()
    with open_packed(path) as file:
        assert file.read(9) == bytes(9)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_wide_encodings_are_called_that(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "Käse"}\n'.encode(encoding))
    with pytest.raises(InputError, match=r"a\.jsonl: not UTF-8 but UTF-16 or UTF-32: convert"):
        list(read_rows(path))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_that_python_cannot_hold_are_named(tmp_path: Path, unit: str) -> None:
    times = pa.array([0, -(2**62) + 1], pa.int64()).cast(pa.timestamp(unit))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "when": times}), path)
    with pytest.raises(InputError, match=r"a\.parquet: column 'when', of timestamp"):
        list(read_rows(path))
