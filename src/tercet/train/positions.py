"""More positions for a trunk: a table of 514 rows becomes one of 8,194, say.

Knows nothing of files or of training.
"""

from dataclasses import replace

import torch
from torch import nn

from tercet.model import Backbone


@torch.no_grad()
def extend_positions(backbone: Backbone, positions: int) -> bool:
    """Makes the table of a trunk `positions` rows long, in place; False where it has as many.

    Rows up to pad_id are kept, the learned ones after them repeat until the table is full: old
    texts keep their states, and near neighbours keep the offsets that attention has learned, except
    where a copy meets the next. Source: Longformer (Beltagy et al. 2020, arXiv 2004.05150, section
    5), which found this start far better than random rows.
    """
    config = backbone.config
    if positions <= config.positions:
        return False
    old = backbone.position_embeddings.weight
    first = config.pad_id + 1
    rows = torch.arange(positions, device=old.device)
    learned = first + (rows - first) % (config.positions - first)
    table = nn.Embedding(positions, config.hidden, device="meta")
    table.weight = nn.Parameter(
        old[torch.where(rows < first, rows, learned)], requires_grad=old.requires_grad
    )
    backbone.position_embeddings = table
    backbone.config = replace(config, positions=positions)
    return True
