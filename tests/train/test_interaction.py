"""Scores with gradients: equal to those of search, and to autograd on the plain formulas."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from tercet.embeddings import Embeddings
from tercet.scores import lexical_scores, maxsim_scores
from tercet.train import interaction
from tercet.train.interaction import lexical, maxsim

ASKED, GIVEN = np.array([3, 1, 4, 2, 5]), np.array([4, 9, 1, 3, 3, 7, 2])
SIZE, VOCABULARY = 8, 12


def owners(counts: Any) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.from_numpy(counts))


def starts(counts: Any) -> Any:
    return np.cumsum(counts) - counts


def vectors(counts: Any, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(int(counts.sum()), SIZE, generator=draw).requires_grad_()


def plain_maxsim(queries: Tensor, passages: Tensor) -> Tensor:
    rows = []
    for q, first in zip(ASKED, starts(ASKED), strict=True):
        own = queries[first : first + q]
        parts = [
            (own @ passages[s : s + n].T).max(1).values.mean()
            for s, n in zip(starts(GIVEN), GIVEN, strict=True)
        ]
        rows.append(torch.stack(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
def test_maxsim_and_its_gradient_are_those_of_the_formula(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interaction, "SIMILARITIES", block)
    monkeypatch.setattr(interaction, "GATHERED", block)
    queries, passages = vectors(ASKED, 0), vectors(GIVEN, 1)
    upstream = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    got = maxsim(queries, owners(ASKED), 5, passages, starts(GIVEN), GIVEN)
    want = plain_maxsim(queries, passages)
    torch.testing.assert_close(got, want)
    ours = torch.autograd.grad((got * upstream).sum(), (queries, passages))
    theirs = torch.autograd.grad((want * upstream).sum(), (queries, passages))
    for mine, formula in zip(ours, theirs, strict=True):
        assert formula.abs().max() > 0.1  # or nothing is compared
        torch.testing.assert_close(mine, formula)


def test_where_a_passage_lies_does_not_matter() -> None:
    queries, passages = vectors(ASKED, 0).detach(), vectors(GIVEN, 1).detach()
    order = np.random.default_rng(0).permutation(len(GIVEN))
    places = np.concatenate(
        [np.arange(starts(GIVEN)[p], starts(GIVEN)[p] + GIVEN[p]) for p in order]
    )
    moved = np.empty(len(GIVEN), dtype=np.int64)
    moved[order] = starts(GIVEN[order])
    got = maxsim(queries, owners(ASKED), 5, passages[places], moved, GIVEN)
    torch.testing.assert_close(got, plain_maxsim(queries, passages))


def tokens(counts: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Raw weights, some below 0, and ids, some twice in a text."""
    draw = torch.Generator().manual_seed(seed)
    raw = torch.randn(int(counts.sum()), generator=draw).requires_grad_()
    return raw, torch.randint(0, VOCABULARY, (int(counts.sum()),), generator=draw)


def plain_lexical(sides: list[tuple[Tensor, Tensor, Any]]) -> Tensor:
    rows = []
    for raw, ids, counts in sides:
        flat = torch.zeros(len(counts) * VOCABULARY)
        at = owners(counts) * VOCABULARY + ids
        rows.append(flat.scatter_reduce(0, at, raw.relu(), "amax").view(-1, VOCABULARY))
    return rows[0] @ rows[1].T


def test_lexical_scores_and_their_gradient_are_those_of_whole_vectors() -> None:
    (asked, asked_ids), (given, given_ids) = tokens(ASKED, 0), tokens(GIVEN, 1)
    shuffled = torch.randperm(len(given), generator=torch.Generator().manual_seed(3))
    got = lexical(
        asked.relu(), asked_ids, owners(ASKED), 5,
        given.relu()[shuffled], given_ids[shuffled], owners(GIVEN)[shuffled], 7,
    )  # fmt: skip
    want = plain_lexical([(asked, asked_ids, ASKED), (given, given_ids, GIVEN)])
    assert (want > 0).any()
    torch.testing.assert_close(got, want)
    upstream = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    ours = torch.autograd.grad((got * upstream).sum(), (asked, given))
    theirs = torch.autograd.grad((want * upstream).sum(), (asked, given))
    for mine, formula in zip(ours, theirs, strict=True):
        assert formula.abs().max() > 0.1
        torch.testing.assert_close(mine, formula)


def test_nothing_shared_scores_nothing_and_stays_in_the_graph() -> None:
    (asked, _), (given, _) = tokens(ASKED, 0), tokens(GIVEN, 1)
    for weights in (asked.relu(), asked.relu() * 0):
        ids = torch.zeros(len(asked), dtype=torch.int64), torch.ones(len(given), dtype=torch.int64)
        scores = lexical(weights, ids[0], owners(ASKED), 5, given.relu(), ids[1], owners(GIVEN), 7)
        assert scores.shape == (5, 7)
        assert not scores.any()
        torch.autograd.grad(scores.sum(), (asked, given), allow_unused=True)


def test_they_are_the_scores_that_search_computes() -> None:
    queries, passages = vectors(ASKED, 0).detach().half(), vectors(GIVEN, 1).detach().half()
    (asked, asked_ids), (given, given_ids) = tokens(ASKED, 0), tokens(GIVEN, 1)

    def stored(some: Tensor, raw: Tensor, ids: Tensor, counts: Any) -> Embeddings:
        flat = torch.zeros(len(counts) * VOCABULARY)
        at = owners(counts) * VOCABULARY + ids
        dense = flat.scatter_reduce(0, at, raw.detach().relu(), "amax").view(-1, VOCABULARY)
        return Embeddings(
            sparse=sp.csr_array(dense.numpy()),
            multi=some.numpy(),
            offsets=np.concatenate(([0], np.cumsum(counts))),
        )

    left, right = (
        stored(queries, asked, asked_ids, ASKED),
        stored(passages, given, given_ids, GIVEN),
    )
    multi = maxsim(queries.float(), owners(ASKED), 5, passages.float(), starts(GIVEN), GIVEN)
    np.testing.assert_allclose(multi.numpy(), maxsim_scores(left, right), rtol=1e-5, atol=1e-5)
    sparse = lexical(
        asked.relu(), asked_ids, owners(ASKED), 5, given.relu(), given_ids, owners(GIVEN), 7
    )
    np.testing.assert_allclose(sparse.detach().numpy(), lexical_scores(left, right), rtol=1e-5)
