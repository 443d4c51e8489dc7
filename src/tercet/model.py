"""The M3 model: a packed batch of token ids in, three representations out, from one trunk pass.

Joins backbone and heads; knows nothing of texts or files. A head that the checkpoint lacks is
None, and asking for it is the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tercet.backbone import PADDING, Backbone, BackboneConfig, Layout
from tercet.config import Head
from tercet.errors import ModelError
from tercet.heads import MultiHead, SparseHead, dense_vectors, mean_vectors
from tercet.tokens import TokenBatch


@dataclass(frozen=True)
class Inputs:
    """A TokenBatch as tensors: ids (N,), the layout, and the positions of every [CLS] (C,)."""

    ids: Tensor
    layout: Layout
    cls: Tensor

    @staticmethod
    def of(
        batch: TokenBatch, device: torch.device | str = "cpu", *, padding: float = PADDING
    ) -> "Inputs":
        """Moves a token batch to a device; padding as in `Layout`."""
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(device)
        cls = torch.from_numpy(batch.cls).to(device)
        return Inputs(ids, Layout(batch.lengths.tolist(), device, padding=padding), cls)


@dataclass(frozen=True)
class Outputs:
    """What the heads give for B texts of N tokens; a head not asked for is None.

    dense (B, H) unit rows; weights (N,) sparse weight of every token, 0 at ids that never weigh;
    multi (N, M) unit rows, of which those at a [CLS] are not part of the representation (kept
    marks the others). All float32.
    """

    dense: Tensor | None
    weights: Tensor | None
    multi: Tensor | None
    kept: Tensor  # (N,) bool


class M3Model(nn.Module):
    """Trunk plus the heads that the checkpoint has."""

    def __init__(
        self,
        config: BackboneConfig,
        weightless_ids: Sequence[int],
        *,
        sparse: bool = True,
        multi: int | None = None,
    ) -> None:
        """multi is the multi-vector size; None leaves that head out, as sparse=False does."""
        super().__init__()
        self.backbone = Backbone(config)
        self.sparse = SparseHead(config.hidden) if sparse else None
        self.multi = MultiHead(config.hidden, multi) if multi else None
        # on the CPU even where the parameters are made on the meta device, to be filled later
        weightless = torch.zeros(config.vocabulary, dtype=torch.bool, device="cpu")
        weightless[list(weightless_ids)] = True
        self.register_buffer("weightless", weightless, persistent=False)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that this model has."""
        found: list[Head] = ["dense"]
        if self.sparse is not None:
            found.append("sparse")
        if self.multi is not None:
            found.append("multi")
        return tuple(found)

    def forward(self, inputs: Inputs, heads: Sequence[Head]) -> Outputs:
        """One trunk pass and the asked heads; raises ModelError for a head that is not there."""
        self.check(heads)
        return self.represent(self.backbone(inputs.ids, inputs.layout), inputs, heads)

    def check(self, heads: Sequence[Head]) -> None:
        """Raises ModelError for a head that is not there."""
        absent = [head for head in heads if head not in self.heads]
        if absent:
            raise ModelError(
                f"this model has no {absent[0]} head: ask for {', '.join(self.heads)} only, or load"
                " a checkpoint with its sparse_linear and colbert_linear files"
            )

    def represent(self, states: Tensor, inputs: Inputs, heads: Sequence[Head]) -> Outputs:
        """The asked heads on the trunk's last states, (N, H)."""
        kept = torch.ones_like(inputs.ids, dtype=torch.bool)
        kept[inputs.cls] = False
        weights = multi = None
        if "sparse" in heads and self.sparse is not None:
            weightless = self.get_buffer("weightless")[inputs.ids]
            weights = self.sparse(states).masked_fill(weightless, 0.0)
        if "multi" in heads and self.multi is not None:
            multi = self.multi(states)
        dense = self.dense(states, inputs) if "dense" in heads else None
        return Outputs(dense, weights, multi, kept)

    @staticmethod
    def dense(states: Tensor, inputs: Inputs) -> Tensor:
        """(B, H): the [CLS] state, or the mean of all [CLS] states under MCLS, normalised."""
        if len(inputs.cls) == len(inputs.layout.lengths):
            return dense_vectors(states, inputs.layout.firsts)
        ends = inputs.layout.offsets[1:].to(torch.int64)
        owners = torch.searchsorted(ends, inputs.cls, right=True)  # (C,) text of each [CLS]
        return mean_vectors(states, inputs.cls, owners, len(ends))
