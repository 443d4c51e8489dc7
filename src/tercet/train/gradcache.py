"""Gradients of any batch in the memory of a micro-batch: the exact two-pass method.

1. Encode every micro-batch without a graph and keep its representations and the random states that
   it started from.
2. Compute the loss of the whole batch on those representations, and its gradient with respect to
   them.
3. Encode every micro-batch again with the same random states, now with a graph, and send its
   part of that gradient through.

The gradients equal those of one plain pass, dropout included. Source: docs/method.md, "Efficient
batching"; GradCache (Gao et al. 2021, arXiv 2101.06983), here for three heads at once. Knows
nothing of losses or files. Shapes: B texts, N tokens, K tokens that are not [CLS].
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.config import HEADS, Head
from tercet.model import Inputs, M3Model
from tercet.tokenizer import TokenBatch

Numbers = npt.NDArray[np.int64]
Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Representations:
    """What the heads gave for B texts, tokens packed in the order in which they were encoded.

    dense (B, H) in the texts' own order; ids, owners and weights (N,); multi (K, M) with
    multi_owners (K,). starts and counts (B,) say where the vectors of a text lie. A head not
    asked for is None.
    """

    dense: Tensor | None
    weights: Tensor | None
    multi: Tensor | None
    ids: Tensor
    owners: Tensor
    multi_owners: Tensor
    starts: Numbers
    counts: Numbers

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class MicroBatch:
    """Texts of similar length and their inputs; spans are their rows of each head's whole side."""

    texts: Numbers
    inputs: Inputs
    spans: dict[Head, slice]


class Side:
    """The texts of one side of a step, sorted by length and cut into micro-batches."""

    def __init__(
        self, tokens: TokenBatch, *, most: int | None, device: torch.device | str = "cpu"
    ) -> None:
        """most is the tokens of a micro-batch (a longer text is one alone); None cuts nothing."""
        lengths = tokens.lengths
        self.size, self.tokens = len(lengths), int(tokens.offsets[-1])
        order = self.order = np.argsort(lengths, kind="stable")
        cls = np.searchsorted(tokens.offsets[1:], tokens.cls, side="right")
        self.counts: Numbers = lengths - np.bincount(cls, minlength=self.size)
        self.rows: dict[Head, int] = {
            "dense": self.size,
            "sparse": self.tokens,
            "multi": int(self.counts.sum()),
        }
        self.micro_batches: list[MicroBatch] = []
        filled = dict.fromkeys(HEADS, 0)
        for texts in cut(lengths, order, most):
            sizes = (len(texts), int(lengths[texts].sum()), int(self.counts[texts].sum()))
            spans = {h: slice(filled[h], filled[h] + n) for h, n in zip(HEADS, sizes, strict=True)}
            filled = {head: span.stop for head, span in spans.items()}
            inputs = Inputs.of(tokens.take(texts), device)
            self.micro_batches.append(MicroBatch(texts, inputs, spans))
        self.starts: Numbers = np.empty(self.size, dtype=np.int64)
        self.starts[order] = np.cumsum(self.counts[order]) - self.counts[order]
        every = torch.from_numpy(order).to(device)
        self.owners = every.repeat_interleave(torch.from_numpy(lengths[order]).to(device))
        self.multi_owners = every.repeat_interleave(torch.from_numpy(self.counts[order]).to(device))
        self.ids = torch.cat([micro.inputs.ids for micro in self.micro_batches])
        self._back = torch.from_numpy(np.argsort(order, kind="stable")).to(device)

    def representations(self, heads: dict[Head, Tensor]) -> Representations:
        """Those of the whole side, from each head's output for all micro-batches in turn."""
        dense = heads.get("dense")
        return Representations(
            dense=None if dense is None else dense[self._back],
            weights=heads.get("sparse"),
            multi=heads.get("multi"),
            ids=self.ids,
            owners=self.owners,
            multi_owners=self.multi_owners,
            starts=self.starts,
            counts=self.counts,
        )


def cut(lengths: Numbers, order: Numbers, most: int | None) -> list[Numbers]:
    """Runs of texts in this order with at most so many tokens, at least one text each."""
    if most is None:
        return [order]
    runs: list[Numbers] = []
    first = total = 0
    for turn, length in enumerate(lengths[order].tolist()):
        if turn > first and total + length > most:
            runs.append(order[first:turn])
            first, total = turn, 0
        total += length
    runs.append(order[first:])
    return runs


def encode(
    model: M3Model, micro: MicroBatch, heads: Sequence[Head], context: Context = nullcontext
) -> dict[Head, Tensor]:
    """Each head's output for a micro-batch, under `context` (autocast); [CLS] has no multi-vector.

    dense (b, H), sparse (n,), multi (k, M).
    """
    with context():
        outputs = model(micro.inputs, heads)
    multi = None if outputs.multi is None else outputs.multi[outputs.multi_mask]
    every = zip(HEADS, (outputs.dense, outputs.weights, multi), strict=True)
    return {head: tensor for head, tensor in every if tensor is not None}


class RandomStates:
    """The random states of the CPU and of a GPU, to be taken up again."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


def backward(
    model: M3Model,
    sides: Sequence[Side],
    heads: Sequence[Head],
    loss_of: Callable[..., Tensor],
    *,
    context: Context = nullcontext,
) -> Tensor:
    """Adds the gradients of loss_of(*sides' representations) to the parameters; returns the loss.

    With more than one micro-batch on a side, by the two passes above; else plainly.
    """
    if all(len(side.micro_batches) == 1 for side in sides):
        whole = [
            side.representations(encode(model, side.micro_batches[0], heads, context))
            for side in sides
        ]
        loss = loss_of(*whole)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    device = sides[0].ids.device
    kept: list[dict[Head, Tensor]] = []
    states: list[RandomStates] = []
    with torch.no_grad():  # 1
        for side in sides:
            kept.append({})
            for micro in side.micro_batches:
                states.append(RandomStates(device))
                for head, part in encode(model, micro, heads, context).items():
                    if head not in kept[-1]:
                        kept[-1][head] = part.new_empty(side.rows[head], *part.shape[1:])
                    kept[-1][head][micro.spans[head]] = part
    after = RandomStates(device)

    for tensors in kept:  # 2
        for tensor in tensors.values():
            tensor.requires_grad_()
    loss = loss_of(
        *(side.representations(tensors) for side, tensors in zip(sides, kept, strict=True))
    )
    loss.backward()  # type: ignore[no-untyped-call]

    replay = iter(states)
    for side, tensors in zip(sides, kept, strict=True):  # 3
        for micro in side.micro_batches:
            next(replay).restore()
            outputs = encode(model, micro, heads, context)
            gradients = {head: tensor.grad for head, tensor in tensors.items()}
            reached = [head for head in outputs if gradients[head] is not None]
            if reached:
                torch.autograd.backward(
                    [outputs[head] for head in reached],
                    [gradients[head][micro.spans[head]] for head in reached],  # type: ignore[index]
                )
    after.restore()
    return loss.detach()
