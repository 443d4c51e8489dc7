"""Embeddings of stored texts by a model in training: what dev checks call.

Knows nothing of files. `Encoder` does the same from texts, with layers packed for inference alone.
"""

from collections.abc import Sequence

import torch

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.encoder import encode_tokens
from tercet.model import PADDING, M3Model
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
    most = min(max_length, model.backbone.config.max_length)

    def encode(places: Rows) -> Embeddings:
        tokens = frame([examples.content(place) for place in places.tolist()], framing, most)
        return encode_tokens(
            model,
            tokens,
            heads,
            budget=TOKENS,
            padding=PADDING,
            autocast=dtype,
            fingerprint="in training",
        )

    return encode
