"""Losses against their formulas, and what masks and in-batch lexical vectors must keep."""

import pytest
import torch

from tercet.config import Head
from tercet.errors import InputError
from tercet.train.losses import (
    LossConfig,
    competitors,
    distillation,
    info_nce,
    lexical,
    unified,
)

TAU = 0.1


def matrices(count: int = 6) -> dict[Head, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads: tuple[Head, ...] = ("dense", "sparse", "multi")
    return {head: torch.rand(count, count, generator=generator) for head in heads}


def test_info_nce_is_its_formula_over_the_columns_that_compete() -> None:
    scores = matrices()["dense"]
    groups = torch.tensor([1, 1, 2, 3, 4, 5])  # rows 0 and 1 are one group
    own = torch.arange(6)
    mask = competitors(groups, groups, own)
    expected = []
    for row in range(6):
        columns = [c for c in range(6) if c == row or groups[c] != groups[row]]
        exps = torch.exp(scores[row, columns] / TAU)
        expected.append(-torch.log(torch.exp(scores[row, row] / TAU) / exps.sum()))
    assert torch.allclose(info_nce(scores, own, mask, TAU), torch.stack(expected).mean())
    changed = scores.clone()
    changed[0, 1] = 99.0  # a member of the same group is no negative
    assert torch.equal(info_nce(changed, own, mask, TAU), info_nce(scores, own, mask, TAU))


def test_the_unified_loss_is_the_papers_sum() -> None:
    scores, own = matrices(), torch.arange(6)
    mask = torch.ones(6, 6, dtype=torch.bool)
    config = LossConfig(temperature=TAU)
    inter = scores["dense"] + 0.3 * scores["sparse"] + scores["multi"]
    each = {head: info_nce(matrix, own, mask, TAU) for head, matrix in scores.items()}
    warm = each["dense"] + 0.1 * each["sparse"] + each["multi"] + info_nce(inter, own, mask, TAU)
    soft = {head: distillation(matrix, inter, mask, TAU) for head, matrix in scores.items()}
    both = (warm / 4 + (soft["dense"] + 0.1 * soft["sparse"] + soft["multi"]) / 3) / 2
    assert torch.allclose(unified(scores, own, mask, config, distil=False)[0], warm / 4)
    assert torch.allclose(unified(scores, own, mask, config, distil=True)[0], both)


def test_distillation_is_least_where_student_equals_teacher_and_has_no_teacher_gradient() -> None:
    scores = matrices()["dense"].requires_grad_()
    teacher = matrices()["multi"].requires_grad_()
    mask = torch.ones(6, 6, dtype=torch.bool)
    distillation(scores, teacher, mask, TAU).backward()
    assert teacher.grad is None
    assert scores.grad is not None
    assert scores.grad.abs().max() > 0
    same = distillation(teacher, teacher, mask, TAU)
    assert same < distillation(scores, teacher, mask, TAU)


def test_in_batch_lexical_vectors_keep_the_max_of_each_id_and_its_gradient() -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0], requires_grad=True)
    ids = torch.tensor([7, 7, 9, 9, 7])
    owners = torch.tensor([0, 0, 0, 1, 1])
    vectors = lexical(weights, ids, owners, 3)
    assert vectors.tolist() == [[2.0, 1.0], [3.0, 0.25], [0.0, 0.0]]
    (vectors[0] @ vectors[1]).backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [0.0, 3.0, 0.25, 1.0, 2.0]


def test_a_temperature_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="temperature"):
        LossConfig(temperature=0.0)
