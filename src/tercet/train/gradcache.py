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
    """Texts of similar length, by their numbers, and their inputs."""

    texts: Numbers
    inputs: Inputs


class Side:
    """The texts of one side of a step, sorted by length and cut into micro-batches."""

    def __init__(
        self, tokens: TokenBatch, *, most: int | None, device: torch.device | str = "cpu"
    ) -> None:
        """most is the tokens of a micro-batch (a longer text is one alone); None cuts nothing.

        Every text begins with its one [CLS], which has no multi-vector.
        """
        lengths = tokens.lengths
        order = self.order = np.argsort(lengths, kind="stable")
        self.counts: Numbers = lengths - 1
        self.starts: Numbers = np.empty_like(self.counts)
        self.starts[order] = np.cumsum(self.counts[order]) - self.counts[order]
        cuts, total = [], 0
        for turn, length in enumerate(lengths[order].tolist() if most is not None else ()):
            total += length
            if turn and total > most:
                cuts.append(turn)
                total = length
        self.micro_batches = [
            MicroBatch(texts, Inputs.of(tokens.take(texts), device))
            for texts in np.split(order, cuts)
        ]
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
        outputs = [encode(model, side.micro_batches[0], heads, context) for side in sides]
        loss = loss_of(*(s.representations(out) for s, out in zip(sides, outputs, strict=True)))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    device = sides[0].ids.device
    gpus = [device] if device.type == "cuda" else []
    kept: list[dict[Head, Tensor]] = []  # of each side
    states: list[list[Tensor]] = []  # of each micro-batch
    with torch.no_grad():  # 1
        for side in sides:
            rows = (len(side.counts), len(side.ids), len(side.multi_owners))
            whole, ends = dict[Head, Tensor](), dict.fromkeys(HEADS, 0)
            for micro in side.micro_batches:
                states.append([torch.get_rng_state(), *map(torch.cuda.get_rng_state, gpus)])
                for head, part in encode(model, micro, heads, context).items():
                    if head not in whole:
                        size = rows[HEADS.index(head)]
                        whole[head] = part.new_empty(size, *part.shape[1:])
                    whole[head][ends[head] : ends[head] + len(part)] = part
                    ends[head] += len(part)
            kept.append(whole)

    for whole in kept:  # 2
        for tensor in whole.values():
            tensor.requires_grad_()
    loss = loss_of(*(side.representations(whole) for side, whole in zip(sides, kept, strict=True)))
    loss.backward()  # type: ignore[no-untyped-call]

    replay = iter(states)
    with torch.random.fork_rng(gpus):  # 3
        for side, whole in zip(sides, kept, strict=True):
            ends = dict.fromkeys(HEADS, 0)
            for micro in side.micro_batches:
                on_cpu, *on_gpus = next(replay)
                torch.set_rng_state(on_cpu)
                for gpu, state in zip(gpus, on_gpus, strict=True):
                    torch.cuda.set_rng_state(state, gpu)
                reached, gradients = list[Tensor](), list[Tensor]()
                for head, output in encode(model, micro, heads, context).items():
                    gradient = whole[head].grad
                    if gradient is not None:  # the loss reaches it
                        reached.append(output)
                        gradients.append(gradient[ends[head] : ends[head] + len(output)])
                    ends[head] += len(output)
                if reached:
                    torch.autograd.backward(reached, gradients)
    return loss.detach()
