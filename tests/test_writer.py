"""What is written shard by shard is what saving it at once would have written."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.errors import InputError


def make(texts: int, seed: int, *, fingerprint: str = "a") -> Embeddings:
    """Random Embeddings with all heads, every fifth text with an empty sparse row."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 9, texts)
    weights = random.random((texts, 50)) * (random.random((texts, 50)) < 0.2)
    weights[::5] = 0.0
    return Embeddings(
        dense=random.standard_normal((texts, 6)).astype(np.float32),
        sparse=sp.csr_array(weights.astype(np.float32)),
        multi=random.standard_normal((int(counts.sum()), 4)).astype(np.float16),
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        lengths=counts.astype(np.int32),
        truncated=counts > 6,
        fingerprint=fingerprint,
    )


@pytest.mark.parametrize("cuts", [[20], [1, 2, 20], [7, 7, 13, 20]])
def test_shards_make_the_whole(tmp_path: Path, cuts: list[int]) -> None:
    whole, start = make(20, 0), 0
    with EmbeddingsWriter(tmp_path / "out") as writer:
        for stop in cuts:
            writer.add(whole[start:stop])
            start = stop
    whole.save(tmp_path / "saved")
    got, want = Embeddings.load(tmp_path / "out"), Embeddings.load(tmp_path / "saved")
    assert got.heads == ("dense", "sparse", "multi")
    for name in ("dense", "multi", "offsets", "lengths", "truncated"):
        left, right = getattr(got, name), getattr(want, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    assert got.sparse is not None
    assert want.sparse is not None
    np.testing.assert_array_equal(got.sparse.toarray(), want.sparse.toarray())
    assert got.fingerprint == want.fingerprint
    assert isinstance(got.dense, np.memmap)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), EmbeddingsWriter(tmp_path / "out") as writer:
        writer.add(make(3, 0))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [make(3, 1, fingerprint="b"), Embeddings(dense=make(3, 1).dense, fingerprint="a")],
    ids=["another model", "other heads"],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, other: Embeddings) -> None:
    with pytest.raises(InputError, match="cannot append"), EmbeddingsWriter(tmp_path / "o") as out:
        out.add(make(3, 0))
        out.add(other)
    assert list(tmp_path.iterdir()) == []


def test_empty_and_existing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no embeddings"), EmbeddingsWriter(tmp_path / "out"):
        pass
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        EmbeddingsWriter(tmp_path / "out")
