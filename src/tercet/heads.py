"""The three heads on last hidden states: dense, sparse (lexical), multi-vector.

Knows nothing of the trunk or of texts. Norms and weights are computed in float32. Shapes: N tokens
of the batch, B texts, H hidden, M multi-vector size. Source: method.md, "One pass, three
representations" (M3 paper, section 3.2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dense_vectors(states: Tensor, firsts: Tensor) -> Tensor:
    """e = norm(H[0]): the states of each text's [CLS], (N, H) and (B,) -> (B, H) float32."""
    return F.normalize(states[firsts].float(), dim=-1)


def mean_vectors(states: Tensor, positions: Tensor, owners: Tensor, rows: int) -> Tensor:
    """norm of the mean of some states: (N, H), (K,) positions and the row of each -> (rows, H)."""
    sums = states.new_zeros(rows, states.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, owners, states[positions].float())
    return F.normalize(sums, dim=-1)  # the sum has the direction of the mean


class SparseHead(nn.Linear):
    """w_t = ReLU(W_lex . H[i]): one weight a token."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1)

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N,) float32, >= 0."""
        return F.relu(super().forward(states).float()).squeeze(-1)


class MultiHead(nn.Linear):
    """E = norm(W_mul H): one unit vector a token."""

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, M) float32 unit rows."""
        return F.normalize(super().forward(states).float(), dim=-1)
