"""Scores agree with their formulas, in both layouts and with gradients; blocks never show."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tercet.config import Weights
from tercet.embeddings import Embeddings
from tercet.errors import InputError
from tercet.hybrid import rankers
from tercet.scores import (
    dense_scores,
    float32,
    lexical_scores,
    maxsim_packed,
    maxsim_pairs,
    maxsim_scores,
    weighted_sum,
)
from tercet.sparse import SparseRows
from tercet.train.scores import Blocks, lexical, maxsim

VOCABULARY, SIZE = 30, 4


def make(seed: int, counts: list[int]) -> Any:
    draw = np.random.default_rng(seed)
    sparse: Any = sp.random_array((len(counts), VOCABULARY), density=0.3, rng=draw, format="csr")
    return Embeddings(
        dense=draw.normal(size=(len(counts), 6)).astype(np.float32),
        sparse=SparseRows.of(sparse),
        multi=draw.normal(size=(sum(counts), SIZE)).astype(np.float16),
        offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
    )


QUERIES, PASSAGES = make(0, [2, 5, 1]), make(1, [7, 1, 3, 30])


def owners(side: Any) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(side)), torch.from_numpy(np.diff(side.offsets)))


def formula(queries: Tensor, passages: Tensor, asked: Any, given: Any) -> Tensor:
    """MaxSim text by text, with autograd."""
    rows = [
        torch.stack([(q @ p.T).amax(1).mean() for p in passages.split(np.diff(given).tolist())])
        for q in queries.split(np.diff(asked).tolist())
    ]
    return torch.stack(rows)


def by_formula(queries: Any, passages: Any) -> np.ndarray:
    asked, given = (torch.from_numpy(side.multi).float() for side in (queries, passages))
    return formula(asked, given, queries.offsets, passages.offsets).numpy()


@pytest.mark.parametrize("function", [dense_scores, lexical_scores, maxsim_scores, rankers])
def test_vectors_of_two_models_have_no_scores(function: Any) -> None:
    one, same, other = (replace(QUERIES, fingerprint=name) for name in "aab")
    function(one, same)
    function(one, QUERIES)  # of an unknown model
    wider = replace(QUERIES, dense=np.ones((3, 7), dtype=np.float32))
    for passages in (other, wider):
        with pytest.raises(InputError):
            function(one, passages)


def test_every_float16_is_converted_as_numpy_does() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 64)
    for some in (finite, finite[::2], finite[:0]):
        np.testing.assert_array_equal(float32(some).view(int), some.astype("f4").view(int))
    for odd in every[~np.isfinite(every)]:
        np.testing.assert_equal(
            float32(np.array([1, odd], np.float16)), np.array([1, odd], np.float16).astype("f4")
        )


def test_each_score_is_its_formula() -> None:
    dense = QUERIES.dense @ PASSAGES.dense.T
    sparse = QUERIES.sparse.toarray() @ PASSAGES.sparse.toarray().T
    for function, want in ((dense_scores, dense), (lexical_scores, sparse)):
        assert function(QUERIES, PASSAGES).dtype == np.float32
        np.testing.assert_allclose(function(QUERIES, PASSAGES), want, rtol=1e-4, atol=1e-5)
    parts: Any = {"dense": dense, "multi": sparse}
    for weights in (Weights(0.5, 9.0, 2.0), (0.5, 9, 2.0), np.array([0.5, 9, 2], np.float32)):
        total = weighted_sum(parts, weights)
        np.testing.assert_allclose(total, 0.5 * dense + 2.0 * sparse, rtol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        (np.nan, 1, 1),
        (1, -1, 1),
        (1, np.inf, 1),
        (1e300, 1, 1),
        (1, 10**400, 1),
        (1, 1, 1e-300),
        (0, 0, 0),
        (1, 1),
        (1, 1, 1, 1),
        (),
        None,
        1.0,
        "111",
        {"dense": 1, "sparse": 1, "multi": 1},
        {1, 2, 3},
        b"abc",
        (1, None, 1),
        [[1, 1, 1]],
    ],
)
def test_what_are_no_weights_is_refused(weights: Any) -> None:
    with pytest.raises(InputError):
        Weights.of(weights)


def test_weights_are_floats() -> None:
    assert json.dumps(Weights.of(np.array([1, 0.5, 2], np.float32)).as_tuple()) == "[1.0, 0.5, 2.0]"


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.sampled_from([1, 7, 60]),
    st.sampled_from([1, 40, 1 << 20]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_layout_gives_the_formula_whatever_the_blocks(
    counts: list[int], tokens: int, similarities: int, negative: bool, with_torch: bool
) -> None:
    passages, queries = make(2, counts), make(0, [2, 5, 1])
    if negative:  # so that a zero vector would win if padding counted
        passages.multi[:], queries.multi[:] = -np.abs(passages.multi), np.abs(queries.multi)
    want = by_formula(queries, passages)
    assert not negative or (want < 0).all()
    blocks = Blocks(tokens, similarities, similarities)
    rows, places = np.nonzero(np.ones_like(want))
    packed = passages.multi, passages.offsets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tercet.scores.CONVERTED", similarities)
        patch.setattr("tercet.scores.SIMILARITIES", similarities)
        patch.setattr("tercet.scores.TORCH", with_torch)
        searched = [
            maxsim_scores(queries, passages),
            np.stack([maxsim_packed(queries.tokens(q), *packed) for q in range(3)]),
            maxsim_pairs(queries, passages, rows, places).reshape(want.shape),
        ]
    got = [
        *searched,
        maxsim(
            torch.from_numpy(queries.multi), owners(queries), 3, torch.from_numpy(passages.multi),
            passages.offsets[:-1], np.diff(passages.offsets), blocks=blocks,
        ).numpy(),
    ]  # fmt: skip
    for scores in got:
        np.testing.assert_allclose(scores, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 40, 1 << 24])
def test_the_gradient_of_maxsim_is_that_of_the_formula(size: int) -> None:
    queries, passages = (
        torch.from_numpy(side.multi).float().requires_grad_() for side in (QUERIES, PASSAGES)
    )
    # passages may lie in any order
    order = np.array([2, 0, 3, 1])
    starts, counts = PASSAGES.offsets[:-1][order], np.diff(PASSAGES.offsets)[order]
    got = maxsim(
        queries, owners(QUERIES), 3, passages, starts, counts, blocks=Blocks(size, size, size)
    )
    want = formula(queries, passages, QUERIES.offsets, PASSAGES.offsets)[:, order]
    torch.testing.assert_close(got, want)
    compare_gradients(got, want, queries, passages)


def compare_gradients(got: Tensor, want: Tensor, *leaves: Tensor) -> None:
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((got * upstream).sum(), leaves)
    theirs = torch.autograd.grad((want * upstream).sum(), leaves)
    for mine, expected in zip(ours, theirs, strict=True):
        assert expected.abs().max() > 0.1  # or nothing is compared
        torch.testing.assert_close(mine, expected)


def side(seed: int, texts: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Raw weights, some below 0, ids, some twice in a text, and owners."""
    draw = torch.Generator().manual_seed(seed)
    raw = torch.randn(tokens, generator=draw).requires_grad_()
    ids = torch.randint(0, 12, (tokens,), generator=draw)
    return raw, ids, torch.randint(0, texts, (tokens,), generator=draw)


def vectors(raw: Tensor, ids: Tensor, owner: Tensor, texts: int) -> Tensor:
    flat = torch.zeros(texts * VOCABULARY)
    return flat.scatter_reduce(0, owner * VOCABULARY + ids, raw.relu(), "amax").view(texts, -1)


def test_lexical_scores_and_their_gradient_are_those_of_whole_vectors() -> None:
    asked, given = side(0, 5, 15), side(1, 7, 29)
    got = lexical(asked[0].relu(), *asked[1:], 5, given[0].relu(), *given[1:], 7)
    want = vectors(*asked, 5) @ vectors(*given, 7).T
    assert (want > 0).any()
    torch.testing.assert_close(got, want)
    compare_gradients(got, want, asked[0], given[0])
    stored = [
        Embeddings(sparse=SparseRows.of(sp.csr_array(vectors(*text, count).detach().numpy())))
        for text, count in ((asked, 5), (given, 7))
    ]
    np.testing.assert_allclose(got.detach().numpy(), lexical_scores(*stored), rtol=1e-5)


@pytest.mark.parametrize("factor", [0, 1])
def test_nothing_shared_scores_nothing_and_stays_in_the_graph(factor: int) -> None:
    (asked, _, q), (given, _, p) = side(0, 5, 15), side(1, 7, 29)
    zeros, ones = torch.zeros(15, dtype=torch.int64), torch.ones(29, dtype=torch.int64)
    scores = lexical(asked.relu() * factor, zeros, q, 5, given.relu(), ones, p, 7)
    assert scores.shape == (5, 7)
    assert not scores.any()
    torch.autograd.grad(scores.sum(), (asked, given), allow_unused=True)


def test_what_cannot_be_scored() -> None:
    bare: Any = Embeddings(dense=QUERIES.dense)
    empty = Embeddings(multi=PASSAGES.multi, offsets=np.array([0, 3, 3, 41]))
    for scores, queries, passages in (
        (lexical_scores, bare, PASSAGES),
        (maxsim_scores, bare, PASSAGES),
        (maxsim_scores, QUERIES, empty),
        (dense_scores, Embeddings(sparse=QUERIES.sparse), PASSAGES),
    ):
        with pytest.raises(InputError):
            scores(queries, passages)
    with pytest.raises(InputError, match="text 1"):
        maxsim_packed(QUERIES.multi, PASSAGES.multi, np.array([0, 3, 3, 5]))
    with pytest.raises(InputError):
        weighted_sum({}, Weights())


@pytest.mark.parametrize(
    "score",
    [
        dense_scores,
        lexical_scores,
        maxsim_scores,
        lambda queries, passages: maxsim_pairs(
            queries, passages, np.zeros(1, int), np.zeros(1, int)
        ),
        rankers,
    ],
)
def test_vectors_of_two_models_are_not_compared(score: Any) -> None:
    queries, passages = (replace(side, fingerprint="a") for side in (QUERIES, PASSAGES))
    score(queries, passages)
    score(queries, replace(passages, fingerprint=""))  # not known
    with pytest.raises(InputError, match="two models cannot be compared: a and b"):
        score(queries, replace(passages, fingerprint="b"))
