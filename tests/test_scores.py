"""Scores agree with the formulas, and padding can never win."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config import Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.scores import (
    dense_scores,
    lexical_scores,
    maxsim_packed,
    maxsim_scores,
    weighted_sum,
)


def make(seed: int, counts: list[int]) -> Any:
    draw = np.random.default_rng(seed)
    sparse: Any = sp.random_array((len(counts), 30), density=0.3, rng=draw, format="csr")
    return Embeddings(
        dense=draw.normal(size=(len(counts), 6)).astype(np.float32),
        sparse=sp.csr_array(sparse.astype(np.float32)),
        multi=draw.normal(size=(sum(counts), 4)).astype(np.float16),
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
    )


QUERIES, PASSAGES = make(0, [2, 5, 1]), make(1, [7, 1, 3, 30])


def by_formula(queries: Any, passages: Any) -> np.ndarray:
    out = np.zeros((len(queries), len(passages)))
    for q in range(len(queries)):
        for p in range(len(passages)):
            similarity = queries.tokens(q).astype(float) @ passages.tokens(p).astype(float).T
            out[q, p] = similarity.max(axis=1).mean()
    return out


def test_each_score_is_its_formula() -> None:
    np.testing.assert_allclose(
        dense_scores(QUERIES, PASSAGES), QUERIES.dense @ PASSAGES.dense.T, rtol=1e-5
    )
    lexical = QUERIES.sparse.toarray() @ PASSAGES.sparse.toarray().T
    np.testing.assert_allclose(lexical_scores(QUERIES, PASSAGES), lexical, rtol=1e-5)
    np.testing.assert_allclose(
        maxsim_scores(QUERIES, PASSAGES), by_formula(QUERIES, PASSAGES), rtol=1e-4
    )
    for scores in (dense_scores, lexical_scores, maxsim_scores):
        assert scores(QUERIES, PASSAGES).dtype == np.float32


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_blocks_do_not_show(counts: list[int], block: int) -> None:
    passages = make(2, counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tercet.scores.TOKENS", block)
        got = maxsim_scores(QUERIES, passages)
    np.testing.assert_allclose(got, by_formula(QUERIES, passages), rtol=1e-4, atol=1e-5)


def test_padding_never_wins() -> None:
    negative = make(1, [7, 1, 3, 30])
    negative.multi[:] = -np.abs(negative.multi)  # so that a zero vector would win
    positive = make(0, [2, 5, 1])
    positive.multi[:] = np.abs(positive.multi)
    want = by_formula(positive, negative)
    assert (want < 0).all()
    np.testing.assert_allclose(maxsim_scores(positive, negative), want, rtol=1e-3)


def test_weighted_sum() -> None:
    parts: Any = {
        "dense": dense_scores(QUERIES, PASSAGES),
        "multi": maxsim_scores(QUERIES, PASSAGES),
    }
    got = weighted_sum(parts, Weights(0.5, 9.0, 2.0))
    np.testing.assert_allclose(got, 0.5 * parts["dense"] + 2.0 * parts["multi"], rtol=1e-6)


def test_what_cannot_be_scored() -> None:
    bare: Any = Embeddings(dense=QUERIES.dense)
    for scores in (lexical_scores, maxsim_scores):
        with pytest.raises(InputError, match="on both sides"):
            scores(bare, PASSAGES)
    with pytest.raises(InputError, match="dense"):
        dense_scores(Embeddings(sparse=QUERIES.sparse), PASSAGES)
    with pytest.raises(InputError, match="passage 1 has no token vector"):
        maxsim_packed(QUERIES.multi, PASSAGES.multi, np.array([0, 3, 3, 5]))
    with pytest.raises(InputError, match="no scores"):
        weighted_sum({}, Weights())
