"""Embeddings of stored texts by a model in training: what dev checks and mining call.

Knows nothing of files. The encoder of the package does the same from texts, faster.
"""

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from tercet.embeddings import Embeddings
from tercet.model import Inputs, M3Model
from tercet.tokens import Tokenizer
from tercet.train.dev import Encode
from tercet.train.pairs import Pairs, Rows

TOKENS = 8192  # a batch


def model_encoder(
    model: M3Model, pairs: Pairs, tokenizer: Tokenizer, *, max_length: int = 258
) -> Encode:
    """A function from places in the store to Embeddings with every head that the model has."""

    @torch.inference_mode()
    def encode(places: Rows) -> Embeddings:
        lengths = np.minimum(pairs.lengths()[places], max_length)
        order = np.argsort(lengths, kind="stable")
        parts, first = [], 0
        while first < len(order):
            last = first + 1
            while last < len(order) and (last + 1 - first) * lengths[order[last]] <= TOKENS:
                last += 1
            batch = pairs.batch(places[order[first:last]], tokenizer, max_length)
            parts.append(embed(model, Inputs.of(batch), len(batch)))
            first = last
        return Embeddings.concatenate(parts)[np.argsort(order, kind="stable")]

    return encode


def embed(model: M3Model, inputs: Inputs, texts: int) -> Embeddings:
    """One batch through the model, as Embeddings."""
    outputs = model(inputs, model.heads)
    owners = torch.repeat_interleave(torch.arange(texts), torch.tensor(inputs.layout.lengths))
    dense, sparse, multi, offsets = outputs.dense.float().numpy(), None, None, None
    if outputs.weights is not None:
        found = outputs.weights > 0
        sparse = max_by_id(
            owners[found].numpy(),
            inputs.ids[found].numpy(),
            outputs.weights[found].float().numpy(),
            (texts, model.backbone.config.vocabulary),
        )
    if outputs.multi is not None:
        counts = torch.bincount(owners[outputs.kept], minlength=texts).numpy()
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        multi = outputs.multi[outputs.kept].half().numpy()
    return Embeddings(dense=dense, sparse=sparse, multi=multi, offsets=offsets)


def max_by_id(
    rows: Rows, ids: Rows, weights: npt.NDArray[np.float32], shape: tuple[int, int]
) -> sp.csr_array:
    """CSR of the largest weight per (text, id)."""
    order = np.lexsort((weights, ids, rows))
    rows, ids, weights = rows[order], ids[order], weights[order]
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1])
    return sp.csr_array(sp.coo_array((weights[last], (rows[last], ids[last])), shape=shape))
