"""Our numbers beside those that FlagEmbedding gave, as stored by benchmarks/make_golden.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from make_reference import Shape, digests
from parity_texts import cases

from tercet.embeddings import Embeddings
from tercet.encoder import Encoder

GOLDEN = Path(__file__).parent.parent / "golden" / "encoder.npz"
ABSOLUTE, RELATIVE, SPARSE = 1e-5, 1e-4, 1e-4
CASES = cases()
TEXTS = [case.text for case in CASES]
SHORT = [row for row, text in enumerate(TEXTS) if len(text) < 4000]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def encoder(reference: tuple[Path, Shape]) -> Encoder:
    return Encoder.load(reference[0], device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def encoded(encoder: Encoder) -> Embeddings:
    return encoder.encode(TEXTS)


def test_the_stored_numbers_belong_to_this_checkpoint_and_these_texts(
    golden: dict[str, np.ndarray], reference: tuple[Path, Shape]
) -> None:
    stored = json.loads(str(golden["provenance"]))
    now = digests(reference[1], TEXTS)
    assert {name: stored[name] for name in now} == now, "run benchmarks/make_golden.py again"


def test_texts_lie_a_hundred_tolerances_apart(
    golden: dict[str, np.ndarray], encoder: Encoder
) -> None:
    dense, ids = golden["dense"], encoder.tokenizer.contents(TEXTS)
    pairs = [(i, j) for i in range(len(ids)) for j in range(i) if ids[i] != ids[j]]
    apart = [np.abs(dense[i] - dense[j]).max() for i, j in pairs]
    assert len(apart) > 1000
    assert min(apart) >= 100 * ABSOLUTE


def test_dense_vectors_are_equal(golden: dict[str, np.ndarray], encoded: Embeddings) -> None:
    assert encoded.dense is not None
    errors = encoded.dense - golden["dense"]
    assert np.abs(errors).max() <= ABSOLUTE
    assert np.linalg.norm(errors, axis=1).max() <= RELATIVE


def test_sparse_weights_are_equal(golden: dict[str, np.ndarray], encoded: Embeddings) -> None:
    assert encoded.sparse is not None
    ours = encoded.sparse.to_scipy()
    parts = (golden["sparse_data"], golden["sparse_indices"], golden["sparse_indptr"])
    theirs = sp.csr_array(parts, shape=ours.shape)
    assert abs(ours - theirs).max() <= SPARSE
    for one, other in ((ours, theirs), (theirs, ours)):
        loud = {(row, id) for row, id in zip(*one.nonzero(), strict=True) if one[row, id] > SPARSE}
        assert len(loud) > 1000
        assert loud <= set(zip(*other.nonzero(), strict=True))


def test_multi_vectors_are_equal_before_they_are_stored(
    golden: dict[str, np.ndarray], encoder: Encoder
) -> None:
    for row in SHORT:
        tokens = encoder.tokenizer.encode([TEXTS[row]])
        (out,) = encoder.runtime.passes(tokens, ("multi",), half=False)
        assert out.multi is not None
        multi = np.delete(out.multi, tokens.cls, axis=0)
        start, stop = golden["offsets"][row : row + 2]
        assert len(multi) == stop - start
        mine = (golden["tokens"] >= start) & (golden["tokens"] < stop)
        found = multi[golden["tokens"][mine] - start]
        errors = found - golden["multi"][mine]
        assert np.abs(errors).max() <= ABSOLUTE
        assert np.linalg.norm(errors, axis=1).max() <= RELATIVE


def test_stored_multi_vectors_are_equal_to_float16(
    golden: dict[str, np.ndarray], encoded: Embeddings
) -> None:
    assert encoded.multi is not None
    assert encoded.offsets is not None
    assert encoded.offsets.tolist() == golden["offsets"].tolist()
    stored = encoded.multi[golden["tokens"]].astype(np.float32)
    np.testing.assert_allclose(stored, golden["multi"], rtol=2**-10, atol=ABSOLUTE)


def test_lengths_and_truncation(golden: dict[str, np.ndarray], encoded: Embeddings) -> None:
    assert encoded.lengths is not None
    assert encoded.truncated is not None
    assert encoded.lengths.tolist() == (np.diff(golden["offsets"]) + 1).tolist()
    cut = [case.name for case, was in zip(CASES, encoded.truncated, strict=True) if was]
    assert cut == ["fills the length", "fills the length, other order"]


def test_bfloat16_stays_close(golden: dict[str, np.ndarray], reference: tuple[Path, Shape]) -> None:
    encoder = Encoder.load(reference[0], device="cpu", dtype=torch.bfloat16)
    found = encoder.encode([TEXTS[row] for row in SHORT])
    assert found.dense is not None
    cosines = (found.dense * golden["dense"][SHORT]).sum(1)
    assert cosines.min() >= 0.999
    assert cosines.min() < 1 - 1e-7, "not bfloat16 at all"
    for place, row in enumerate(SHORT):
        start, stop = golden["offsets"][row : row + 2]
        mine = (golden["tokens"] >= start) & (golden["tokens"] < stop)
        theirs = golden["multi"][mine]
        ours = found.tokens(place)[golden["tokens"][mine] - start].astype(np.float32)
        assert (ours * theirs).sum(1).min() >= 0.99
