"""Embeddings: slicing, joining and saving keep every row whole."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.errors import InputError, RowError, StoreError

ROWS, DENSE, VOCABULARY, MULTI = 7, 5, 50, 3


def make(seed: int = 0, rows: int = ROWS, **changes: Any) -> Any:
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 6, rows)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    sparse: Any = sp.random_array((rows, VOCABULARY), density=0.2, rng=draw, format="csr")
    parts: dict[str, Any] = {
        "dense": draw.normal(size=(rows, DENSE)).astype(np.float32),
        "sparse": sp.csr_array(sparse.astype(np.float32)),
        "multi": draw.normal(size=(int(offsets[-1]), MULTI)).astype(np.float16),
        "offsets": offsets,
        "lengths": (counts + 1).astype(np.int32),
        "truncated": draw.integers(0, 2, rows).astype(bool),
        "fingerprint": "f",
    }
    return Embeddings(**(parts | changes))


def assert_same(left: Any, right: Any) -> None:
    assert left.heads == right.heads
    assert left.fingerprint == right.fingerprint
    for name in ("dense", "multi", "offsets", "lengths", "truncated"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    if left.sparse is not None:
        assert left.sparse.shape == right.sparse.shape
        np.testing.assert_array_equal(left.sparse.toarray(), right.sparse.toarray())


@given(
    st.one_of(
        st.slices(ROWS),
        st.integers(-ROWS, ROWS - 1),
        st.lists(st.integers(-ROWS, ROWS - 1), max_size=9),
        st.lists(st.integers(0, ROWS - 1), max_size=9).map(lambda rows: np.array(rows, np.uint8)),
        st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array),
    )
)
@settings(max_examples=100, deadline=None)
def test_slices_hold_the_rows_asked_for(rows: Any) -> None:
    whole = make()
    picked = whole[rows]
    chosen = np.array(rows, dtype=int) if isinstance(rows, list) else rows
    numbers = np.atleast_1d(np.arange(ROWS)[chosen])
    assert len(picked) == len(numbers)
    for place, number in enumerate(numbers.tolist()):
        np.testing.assert_array_equal(picked.dense[place], whole.dense[number])
        np.testing.assert_array_equal(picked.tokens(place), whole.tokens(number))
        np.testing.assert_array_equal(
            picked.sparse[[place]].toarray(), whole.sparse[[number]].toarray()
        )
        assert picked.lengths[place] == whole.lengths[number]
        assert picked.truncated[place] == whole.truncated[number]


@given(st.lists(st.integers(0, ROWS), max_size=4).map(sorted))
@settings(max_examples=30, deadline=None)
def test_parts_join_to_the_whole(cuts: list[int]) -> None:
    whole = make()
    bounds = [0, *cuts, ROWS]
    parts = [whole[a:b] for a, b in pairwise(bounds)]
    assert_same(Embeddings.concatenate(parts), whole)


@pytest.mark.parametrize("without", [(), ("sparse",), ("multi", "offsets"), ("dense",)])
def test_saved_is_loaded_the_same(tmp_path: Path, without: tuple[str, ...]) -> None:
    absent: dict[str, Any] = dict.fromkeys(without)
    whole = make(**absent)
    whole.save(tmp_path / "out")
    loaded: Any = Embeddings.load(tmp_path / "out")
    assert_same(loaded, whole)
    if "dense" not in without:
        assert isinstance(loaded.dense, np.memmap)
    assert_same(loaded[2:5], whole[2:5])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_printing_says_sizes_not_arrays() -> None:
    whole = make()
    tokens = len(whole.multi)
    said = (
        f"Embeddings(7 texts, dense 5, sparse {whole.sparse.nnz} of 50 ids, multi {tokens} tokens"
        " of 3, model f)"
    )
    assert repr(whole) == said
    assert repr(Embeddings(dense=whole.dense)) == "Embeddings(7 texts, dense 5, model unknown)"


def test_no_rows(tmp_path: Path) -> None:
    none = make()[[]]
    assert len(none) == 0
    none.save(tmp_path / "none")
    assert_same(Embeddings.load(tmp_path / "none"), none)


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def facts(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "embeddings.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def truncate(folder: Path) -> None:
    path = folder / "multi.npy"
    path.write_bytes(path.read_bytes()[:-7])


def array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Another array under this name."""

    def write(folder: Path) -> None:
        path = folder / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return write


def put(place: int, value: int) -> Callable[[Any], Any]:
    """Changes one number."""

    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


def cast(dtype: Any) -> Callable[[Any], Any]:
    return lambda values: values.astype(dtype)


def pipe(folder: Path) -> None:
    (folder / "dense.npy").unlink()
    os.mkfifo(folder / "dense.npy")


LIES = [  # what would be read outside of its memory, or fail later without a word
    *(
        array(name, put(place, value))
        for name in ("offsets", "sparse_indptr")
        for place, value in ((0, 1), (0, -1), (1, -5), (2, 10**9), (2, -(2**62) - 1), (-1, 10**9))
    ),
    *(array("sparse_indices", put(0, value)) for value in (-1, VOCABULARY, 2**31 - 1)),
    array("sparse_indices", lambda ids: ids.astype(np.int64) - 2**40),
    *(
        array(name, cast(dtype))
        for name, dtype in (
            ("dense", "U3"),
            ("dense", np.int32),
            ("dense", np.complex64),
            ("dense", ">f4"),
            ("offsets", np.float64),
            ("sparse_indices", np.float32),
            ("sparse_data", np.bool_),
            ("lengths", np.float32),
            ("truncated", np.int8),
        )
    ),
    *(
        array(name, lambda values: values[:-1])
        for name in ("sparse_data", "sparse_indices", "sparse_indptr", "lengths", "truncated")
    ),
    array("dense", lambda values: values[None]),
    array("lengths", lambda values: values[None]),
    facts(vocabulary=-1),
    facts(vocabulary=1),
    facts(vocabulary=10**30),
    facts(vocabulary="many"),
    facts(texts=10**30),
    facts(heads=5),
    lambda folder: np.save(folder / "other.npy", np.zeros(3)),
    lambda folder: (folder / "embeddings.json").write_text("[" * 10**6),
    lambda folder: (folder / "embeddings.json").write_text("[]"),
    pipe,
    lambda folder: (folder / "dense.npy").write_text("version https://git-lfs.github.com/spec/v1"),
]


@pytest.mark.parametrize("lie", LIES)
def test_arrays_that_lie_are_refused_when_opened(
    tmp_path: Path, lie: Callable[[Path], object]
) -> None:
    make().save(tmp_path / "out")
    lie(tmp_path / "out")
    with pytest.raises(StoreError):
        Embeddings.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("embeddings.json"), "not a whole folder"),
        (drop("dense.npy"), "do not match"),
        (drop("offsets.npy"), "go together"),
        (drop("sparse_data.npy"), "not a whole folder"),
        (truncate, "not a whole folder"),
        (facts(format=9), "format 9, this Tercet reads 1"),
        (facts(texts=3), "folder of embeddings|do not match"),
        (lambda folder: (folder / "embeddings.json").write_text("{"), "not a whole folder"),
    ],
)
def test_damage_is_said_in_words(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    make().save(tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(StoreError, match=words):
        Embeddings.load(tmp_path / "out")


def test_what_does_not_belong_together() -> None:
    with pytest.raises(InputError, match="go together"):
        make(offsets=None)
    with pytest.raises(InputError):
        make(dense=np.zeros((2, DENSE), dtype=np.float32))
    with pytest.raises(InputError):
        Embeddings()
    with pytest.raises(InputError, match="no boundaries"):
        make(multi=np.zeros((2, MULTI), dtype=np.float16))
    with pytest.raises(InputError):
        Embeddings.concatenate([])
    with pytest.raises(InputError):
        Embeddings.concatenate([make(), make(fingerprint="g")])
    with pytest.raises(InputError):
        Embeddings.concatenate([make(), make(sparse=None)])
    with pytest.raises(InputError):
        make(multi=None, offsets=None).tokens(0)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        -ROWS - 1,
        [0, ROWS],
        1.5,
        1.0,
        [1.5],
        None,
        "1",
        ["1"],
        True,
        [[0], [0, 1]],
        [[0]],
        np.array([True, False]),
        np.zeros(0, dtype=bool),
        np.ones((ROWS, 1), dtype=bool),
        slice(0.5),
        slice(0, 2, 0),
        (slice(1), 0),
        {0},
        np.array([2**64 - 1], dtype=np.uint64),
    ],
)
def test_what_are_no_rows_is_refused(rows: Any) -> None:
    with pytest.raises(RowError):
        make()[rows]


def test_texts_one_by_one() -> None:
    whole = make()
    rows = list(whole)
    assert_same(Embeddings.concatenate(rows), whole)
    for number in range(-ROWS, ROWS):
        np.testing.assert_array_equal(whole.tokens(number), rows[number].tokens(0))
    wrong: tuple[Any, ...] = (ROWS, -ROWS - 1, 0.5, [0, 1], [], [0], np.arange(ROWS) == 1)
    for row in wrong:
        with pytest.raises(RowError):
            whole.tokens(row)


@pytest.mark.parametrize(
    "changes",
    [
        {"dense": [[1.0]]},
        {"dense": np.ones(ROWS, np.float32)},
        {"dense": np.ones((ROWS, 2), int)},
        {"sparse": np.ones((ROWS, 2))},
        {"offsets": np.array([], int)},
        {"offsets": np.r_[0, 2, 1, np.full(ROWS - 2, 3)]},
        {"offsets": np.r_[0, -1, np.full(ROWS - 1, 3)]},
        {"offsets": np.r_[1, np.full(ROWS, 3)]},
        {"offsets": np.arange(ROWS + 1.0)},
        {"offsets": list(range(ROWS + 1))},
        {"lengths": np.ones(ROWS - 1, np.int32)},
        {"truncated": np.ones(ROWS + 1, bool)},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make(**changes)


def test_what_are_no_embeddings_is_not_joined() -> None:
    wrong: tuple[Any, ...] = ("ab", [make(), None], [])
    for parts in wrong:
        with pytest.raises(InputError, match="nothing to concatenate"):
            Embeddings.concatenate(parts)


def test_a_folder_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        make().save(tmp_path)
    assert (tmp_path / "kept").read_text() == "mine"


@pytest.mark.parametrize("cuts", [[7], [1, 2, 7], [3, 3, 5, 7]])
def test_shards_make_the_whole(tmp_path: Path, cuts: list[int]) -> None:
    whole = make()
    with EmbeddingsWriter(tmp_path / "out") as writer:
        for start, stop in pairwise([0, *cuts]):
            writer.add(whole[start:stop])
    loaded = Embeddings.load(tmp_path / "out")
    assert_same(loaded, whole)
    assert isinstance(loaded.dense, np.memmap)
    assert {loaded.offsets.dtype, whole.offsets.dtype} == {np.dtype(np.int64)}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "shards", [[], [make(), make(fingerprint="b")], [make(), make(dense=None)]]
)
def test_shards_that_make_no_whole_leave_nothing(tmp_path: Path, shards: list[Any]) -> None:
    with (
        pytest.raises(InputError),
        EmbeddingsWriter(tmp_path / "out") as writer,
    ):
        for shard in shards:
            writer.add(shard)
    assert list(tmp_path.iterdir()) == []


def test_vectors_in_the_forms_of_databases() -> None:
    rows = make(
        sparse=sp.csr_array(np.array([[0, 0.5, 0, 0.25], [0, 0, 0, 0]], np.float32)), rows=2
    )
    forms = (rows.to_qdrant(), rows.to_milvus(), rows.to_vespa(), rows.to_elasticsearch())
    for number, (qdrant, milvus, vespa, elastic) in enumerate(zip(*forms, strict=True)):
        tokens, dense = rows.tokens(number).tolist(), rows.dense[number].tolist()
        assert qdrant["dense"] == milvus["dense"] == vespa["dense"] == elastic["dense"] == dense
        assert qdrant["multi"] == elastic["multi"] == tokens
        assert milvus["multi"] == [{"vector": token} for token in tokens]
        assert vespa["multi"] == {str(place): token for place, token in enumerate(tokens)}
        json.dumps([qdrant, milvus, vespa, elastic])  # plain numbers
    assert rows.to_qdrant()[0]["sparse"] == {"indices": [1, 3], "values": [0.5, 0.25]}
    assert rows.to_milvus()[0]["sparse"] == {1: 0.5, 3: 0.25}
    assert rows.to_vespa()[0]["sparse"] == {"1": 0.5, "3": 0.25}
    assert rows.to_elasticsearch()[0]["sparse"] == {"1": 0.5, "3": 0.25}
    assert all("sparse" not in form()[1] for form in (rows.to_qdrant, rows.to_milvus))
    dense = make(sparse=None, multi=None, offsets=None)
    assert [row.keys() for row in dense.to_milvus()] == [{"dense"}] * ROWS
