"""The heads against their formulas in float64."""

import torch

from tercet.model import MultiHead, SparseHead, dense_vectors, mean_vectors

STATES = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def norm(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def test_dense_is_the_first_state_normalised() -> None:
    firsts = torch.tensor([0, 5, 6])
    got = dense_vectors(STATES.bfloat16(), firsts)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, norm(STATES.bfloat16().float()[firsts]), rtol=0, atol=1e-6)


def test_mean_vectors_have_the_direction_of_the_mean() -> None:
    positions, owners = torch.tensor([0, 1, 2, 7, 9]), torch.tensor([0, 0, 0, 1, 1])
    got = mean_vectors(STATES, positions, owners, 3)
    torch.testing.assert_close(got[0], norm(STATES[:3].mean(0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(got[1], norm(STATES[[7, 9]].mean(0)), rtol=0, atol=1e-6)
    assert not got[2].any()  # a row that owns nothing


def test_sparse_and_multi() -> None:
    torch.manual_seed(1)
    sparse, multi = SparseHead(8), MultiHead(8, 3)
    want = torch.clamp(STATES.double() @ sparse.weight[0].double() + sparse.bias.double(), min=0)
    got = sparse(STATES)
    assert got.shape == (12,)
    assert (got > 0).any()
    assert (got == 0).any()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)
    want = norm(STATES.double() @ multi.weight.double().T + multi.bias.double())
    torch.testing.assert_close(multi(STATES).double(), want, rtol=0, atol=1e-6)
    assert multi.bfloat16()(STATES.bfloat16()).dtype == torch.float32
