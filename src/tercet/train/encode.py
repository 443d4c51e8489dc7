"""Embeddings of stored texts by a model in training: what dev checks call.

Knows nothing of files. `Encoder` does the same from texts, with layers packed for inference alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.encoder import RowCollector, batches, collect
from tercet.model import Inputs, M3Model
from tercet.train.collate import Framing, frame
from tercet.train.dev import Encode, Rows
from tercet.train.examples import Examples

TOKENS = 8192  # a batch


def model_encoder(
    model: M3Model,
    examples: Examples,
    framing: Framing,
    *,
    heads: Sequence[Head],
    dtype: torch.dtype = torch.float32,
    max_length: int = 514,
) -> Encode:
    """A function from places of stored texts to Embeddings, products in dtype."""
    config = model.backbone.config
    dims = {"dense": config.hidden, "vocabulary": config.vocabulary}
    if model.multi is not None:
        dims["multi"] = model.multi.out_features
    device = model.backbone.word_embeddings.weight.device
    most = min(max_length, config.max_length)

    @torch.inference_mode()
    def encode(places: Rows) -> Embeddings:
        tokens = frame([examples.content(place) for place in places.tolist()], framing, most)
        rows = RowCollector(dims, tuple(heads), len(places))
        was = model.training
        model.eval()
        for some in batches(tokens.lengths, TOKENS):
            batch = tokens.take(some)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                outputs = model(Inputs.of(batch, device), heads)
            owners = np.repeat(np.arange(len(some)), batch.lengths)
            if outputs.multi is not None:
                outputs = replace(outputs, multi=outputs.multi[outputs.multi_mask])
            kept = np.delete(owners, batch.cls)
            collect(rows, some, outputs, ids=batch.ids, owners=owners, multi_owners=kept)
        model.train(was)
        return rows.embeddings(tokens.lengths, tokens.truncated, "in training")

    return encode
