"""Embeddings of stored texts by a model in training: what dev checks and mining call.

Knows nothing of files. `Encoder` does the same from texts, with layers packed for inference alone.
"""

from dataclasses import replace

import numpy as np
import torch

from tercet.batching import batches
from tercet.embeddings import Embeddings
from tercet.encoder import collect
from tercet.model import Inputs, M3Model
from tercet.reduce import RowCollector
from tercet.tokens import Tokenizer
from tercet.train.dev import Encode
from tercet.train.pairs import Pairs, Rows

TOKENS = 8192  # a batch


def model_encoder(
    model: M3Model, pairs: Pairs, tokenizer: Tokenizer, *, max_length: int = 258
) -> Encode:
    """A function from places in the store to Embeddings with every head that the model has."""
    config = model.backbone.config
    dims = {"dense": config.hidden, "vocabulary": config.vocabulary}
    if model.multi is not None:
        dims["multi"] = model.multi.out_features

    @torch.inference_mode()
    def encode(places: Rows) -> Embeddings:
        tokens = pairs.batch(places, tokenizer, max_length)
        rows = RowCollector(dims, model.heads, len(places))
        for some in batches(tokens.lengths, TOKENS):
            batch = tokens.take(some)
            outputs = model(Inputs.of(batch), model.heads)
            owners = np.repeat(np.arange(len(some)), batch.lengths)
            if outputs.multi is not None:
                outputs = replace(outputs, multi=outputs.multi[outputs.kept])
            kept = np.delete(owners, batch.cls)
            collect(rows, some, outputs, ids=batch.ids, owners=owners, multi_owners=kept)
        return rows.embeddings(tokens.lengths, tokens.truncated, "in training")

    return encode
