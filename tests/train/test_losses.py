"""Losses against their formulas, and what masks, teachers and several devices must keep."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tercet.config import Head
from tercet.errors import InputError
from tercet.train.config import LossConfig
from tercet.train.losses import (
    Columns,
    competitors,
    contrast,
    distillation,
    flops,
    info_nce,
    log_probs,
    unified,
)

TAU = 0.1
COUNT = 6


def matrices(columns: int = COUNT) -> dict[Head, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    heads: tuple[Head, ...] = ("dense", "sparse", "multi")
    return {head: [torch.rand(COUNT, columns, generator=generator)] for head in heads}


def square(mask: Tensor | None = None) -> Columns:
    own = torch.eye(COUNT, dtype=torch.bool)
    mask = torch.ones_like(own) if mask is None else mask
    return Columns(torch.arange(COUNT), mask, own, None, COUNT)


def with_negatives(teacher: Tensor | None = None) -> Columns:
    """Each query has its positive and one negative: columns 2q and 2q + 1."""
    own = torch.repeat_interleave(torch.eye(COUNT, dtype=torch.bool), 2, dim=1)
    known = None if teacher is None else teacher[None, :].expand(COUNT, -1)
    return Columns(torch.arange(COUNT) * 2, torch.ones_like(own), own, known, COUNT)


def nce(scores: Tensor, columns: Columns) -> Tensor:
    return info_nce(log_probs(scores, columns.mask, TAU), columns)


def soft(scores: Tensor, teacher: Tensor, columns: Columns) -> Tensor:
    target = log_probs(teacher, columns.mask, TAU).exp()
    return distillation(log_probs(scores, columns.mask, TAU), target, columns)


def both(scores: Tensor, columns: Columns, config: LossConfig) -> Tensor:
    return contrast(scores, log_probs(scores, columns.mask, TAU), columns, config)


def test_info_nce_is_its_formula_over_the_columns_that_compete() -> None:
    scores = matrices()["dense"][0]
    groups = torch.tensor([1, 1, 2, 3, 4, 5])  # rows 0 and 1 are one group
    own = torch.eye(COUNT, dtype=torch.bool)
    related = torch.stack((torch.arange(COUNT), groups), dim=1)
    columns = square(competitors(related, groups, own))
    expected = []
    for row in range(COUNT):
        kept = [c for c in range(COUNT) if c == row or groups[c] != groups[row]]
        exps = torch.exp(scores[row, kept] / TAU)
        expected.append(-torch.log(torch.exp(scores[row, row] / TAU) / exps.sum()))
    assert torch.allclose(nce(scores, columns), torch.stack(expected).mean())
    changed = scores.clone()
    changed[0, 1] = 99.0  # a member of the same group is no negative
    assert torch.equal(nce(changed, columns), nce(scores, columns))


def test_related_columns_are_taken_out_but_never_the_own_ones() -> None:
    related = torch.tensor([[0, 5], [0, 7], [1, 7], [1, 99]])  # no column has 99
    own = torch.tensor([[True, False, False, False], [False, True, False, False]])
    expected = [[True, False, True, False], [True, True, True, False]]
    assert competitors(related, torch.tensor([5, 7, 3, 7]), own).tolist() == expected


def test_the_unified_loss_is_the_papers_sum() -> None:
    scores, columns, config = matrices(), square(), LossConfig(temperature=TAU)
    plain = {head: some[0] for head, some in scores.items()}
    inter = plain["dense"] + 0.3 * plain["sparse"] + plain["multi"]
    each = {head: nce(matrix, columns) for head, matrix in plain.items()}
    warm = each["dense"] + 0.1 * each["sparse"] + each["multi"] + nce(inter, columns)
    taught = {head: soft(matrix, inter, columns) for head, matrix in plain.items()}
    distilled = (taught["dense"] + 0.1 * taught["sparse"] + taught["multi"]) / 3
    assert torch.allclose(unified(scores, columns, config, distil=False)[0], warm / 4)
    assert torch.allclose(
        unified(scores, columns, config, distil=True)[0], (warm / 4 + distilled) / 2
    )


def test_one_head_alone_is_its_info_nce() -> None:
    scores, columns = matrices(), square()
    loss, facts = unified(
        {"dense": scores["dense"]}, columns, LossConfig(temperature=TAU), distil=False
    )
    assert torch.equal(loss, nce(scores["dense"][0], columns))
    assert set(facts) == {"dense"}


def test_leading_sizes_are_averaged_into_their_head_alone() -> None:
    scores, columns, config = matrices(), square(), LossConfig(temperature=TAU)
    smaller = torch.rand(COUNT, COUNT, generator=torch.Generator().manual_seed(9))
    whole, before = unified(scores, columns, config, distil=False)
    more, after = unified(
        {**scores, "dense": [*scores["dense"], smaller]}, columns, config, distil=False
    )
    added = nce(smaller, columns)
    assert torch.allclose(after["dense"], (before["dense"] + added) / 2)
    assert torch.allclose(more - whole, (after["dense"] - before["dense"]) / 4, atol=1e-6)
    assert torch.equal(after["inter"], before["inter"])


def test_distillation_is_least_where_student_equals_teacher_and_has_no_teacher_gradient() -> None:
    scores = matrices()["dense"][0].requires_grad_()
    teacher = matrices()["multi"][0].requires_grad_()
    soft(scores, teacher, square()).backward()
    assert teacher.grad is None
    assert scores.grad is not None
    assert scores.grad.abs().max() > 0
    same = soft(teacher, teacher, square())
    assert same < soft(scores, teacher, square())


def test_outside_scores_add_the_references_kl_div() -> None:
    teacher = torch.rand(2 * COUNT, generator=torch.Generator().manual_seed(1))
    scores = matrices(2 * COUNT)["dense"][0]
    columns, config = with_negatives(teacher), LossConfig(temperature=TAU)
    expected = torch.zeros(())
    for row in range(COUNT):
        some = slice(2 * row, 2 * row + 2)
        target = torch.softmax(teacher[some], 0)
        expected = expected - (target * torch.log_softmax(scores[row, some] / TAU, 0)).sum()
    added = both(scores, columns, config) - nce(scores, columns)
    assert torch.allclose(added, expected / COUNT, atol=1e-5)


def test_m3_kd_takes_the_place_of_info_nce_as_in_the_reference() -> None:
    teacher = torch.rand(2 * COUNT, generator=torch.Generator().manual_seed(1))
    scores = matrices(2 * COUNT)["dense"][0]
    config = LossConfig(temperature=TAU, teacher="m3_kd")
    targets = torch.softmax(teacher.view(COUNT, 2), 1)
    labels, mask = torch.arange(COUNT) * 2, torch.zeros_like(scores)
    expected = torch.zeros(())
    for turn in range(2):  # FlagEmbedding's loop, in our words
        losses = torch.nn.functional.cross_entropy(
            scores / TAU + mask, labels + turn, reduction="none"
        )
        expected = expected + (targets[:, turn] * losses).mean()
        mask[torch.arange(COUNT), labels + turn] = torch.finfo(torch.float32).min
    assert torch.allclose(both(scores, with_negatives(teacher), config), expected, atol=1e-5)


@pytest.mark.parametrize("teacher", ["kl_div", "m3_kd"])
def test_a_query_without_outside_scores_keeps_its_info_nce(teacher: Any) -> None:
    known = torch.full((2 * COUNT,), float("nan"))
    known[:2] = torch.tensor([0.9, 0.1])  # of the first query alone
    scores = matrices(2 * COUNT)["dense"][0].requires_grad_()
    config = LossConfig(temperature=TAU, teacher=teacher)
    taught = torch.autograd.grad(both(scores, with_negatives(known), config), scores)[0]
    plain = torch.autograd.grad(nce(scores, with_negatives()), scores)[0]
    assert torch.allclose(taught[1:], plain[1:], atol=1e-6)
    assert not torch.allclose(taught[0], plain[0], atol=1e-3)


def test_losses_of_two_halves_add_up() -> None:
    scores, whole, config = matrices(), square(), LossConfig(temperature=TAU)
    loss, _ = unified(scores, whole, config, distil=True)
    total = torch.zeros(())
    for half in (slice(0, 4), slice(4, 6)):
        part = Columns(whole.positives[half], whole.mask[half], whole.own[half], None, COUNT)
        some = {head: [matrix[half] for matrix in found] for head, found in scores.items()}
        total = total + unified(some, part, config, distil=True)[0]
    assert torch.allclose(total, loss, atol=1e-6)


def test_flops_is_the_sum_of_squared_mean_weights() -> None:
    weights, ids = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([5, 5, 8])
    assert float(flops(weights, ids, 2)) == pytest.approx((4 / 2) ** 2 + (2 / 2) ** 2)


def test_the_start_of_distillation() -> None:
    assert LossConfig().start(400) == 100
    assert LossConfig().start(100_000) == 6000
    assert LossConfig(distil_from=7).start(8) == 7
    assert LossConfig(distillation=False, distil_from=9).start(8) == 8
    with pytest.raises(InputError, match="distil_from = 8, but the run has 8 steps"):
        LossConfig(distil_from=8).start(8)
