"""Gradients of any batch in the memory of a sub-batch: the exact two-pass method.

1. Encode every sub-batch without a graph and keep its representations and the random states that it
   started from.
2. Compute the loss of the whole batch on those representations, and its gradient with respect to
   them.
3. Encode every sub-batch again with the same random states, now with a graph, and send its
   part of that gradient through.

The gradients equal those of one plain pass, dropout included. Source: method.md, "Efficient
batching"; GradCache (Gao et al. 2021, arXiv 2101.06983), here for three heads at once. Knows
nothing of losses or files. Shapes: B texts, N tokens, K tokens that are not [CLS].
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.config import Head
from tercet.model import Inputs, M3Model
from tercet.tokenizer import TokenBatch

Numbers = npt.NDArray[np.int64]
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Encoded:
    """What the heads gave for B texts, tokens packed in the order in which they were encoded.

    dense (B, H) in the texts' own order; ids, owners and weights (N,); multi (K, M) with
    multi_owners (K,). starts and counts (B,) say where the vectors of a text lie. A head not
    asked for is None.
    """

    dense: Tensor | None
    weights: Tensor | None
    ids: Tensor
    owners: Tensor
    multi: Tensor | None
    multi_owners: Tensor
    starts: Numbers
    counts: Numbers

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class Piece:
    """A sub-batch: texts of similar length, and its inputs."""

    texts: Numbers
    inputs: Inputs


class Batch:
    """The texts of one side of a step, sorted by length and cut into sub-batches."""

    def __init__(
        self, tokens: TokenBatch, *, most: int | None, device: torch.device | str = "cpu"
    ) -> None:
        """most is the tokens of a sub-batch (a longer text is one alone); None cuts nothing."""
        lengths = tokens.lengths
        self.size, self.tokens = len(lengths), int(tokens.offsets[-1])
        order = np.argsort(lengths, kind="stable")
        self.pieces = [
            Piece(some, Inputs.of(tokens.take(some), device)) for some in cut(lengths, order, most)
        ]
        self.order = order
        counts = np.diff(tokens.offsets) - np.bincount(
            np.searchsorted(tokens.offsets[1:], tokens.cls, side="right"), minlength=self.size
        )
        ends = np.cumsum(counts[order])
        self.starts = np.empty(self.size, dtype=np.int64)
        self.starts[order] = ends - counts[order]
        self.counts = counts
        every = torch.from_numpy(order).to(device)
        self.owners = torch.repeat_interleave(every, torch.from_numpy(lengths[order]).to(device))
        self.multi_owners = torch.repeat_interleave(
            every, torch.from_numpy(counts[order]).to(device)
        )
        self.ids = torch.cat([piece.inputs.ids for piece in self.pieces])
        self.back = torch.from_numpy(np.argsort(order, kind="stable")).to(device)

    def encoded(self, kept: "Kept") -> Encoded:
        """What `encode` or `Leaves` has for all pieces, one after the other."""
        return Encoded(
            dense=None if kept.dense is None else kept.dense[self.back],
            weights=kept.weights,
            ids=self.ids,
            owners=self.owners,
            multi=kept.multi,
            multi_owners=self.multi_owners,
            starts=self.starts,
            counts=self.counts,
        )


@dataclass(frozen=True)
class Kept:
    """Representations of pieces: dense (b, H), weights (n,), multi (k, M); [CLS] is left out."""

    dense: Tensor | None
    weights: Tensor | None
    multi: Tensor | None

    @property
    def tensors(self) -> list[Tensor]:
        """Those of the heads that were asked for."""
        return [t for t in (self.dense, self.weights, self.multi) if t is not None]


class Leaves:
    """Representations of a whole side, written piece by piece, that collect a gradient."""

    def __init__(self, side: Batch) -> None:
        self.side = side
        self.rows = (side.size, side.tokens, int(side.counts.sum()))
        self.whole: list[Tensor | None] = [None, None, None]
        self.filled = [0, 0, 0]
        self.spans: list[list[slice]] = []

    def add(self, part: Kept) -> None:
        spans = []
        for at, tensor in enumerate((part.dense, part.weights, part.multi)):
            if tensor is None:
                continue
            whole = self.whole[at]
            if whole is None:
                whole = self.whole[at] = tensor.new_empty(self.rows[at], *tensor.shape[1:])
            span = slice(self.filled[at], self.filled[at] + len(tensor))
            whole[span] = tensor
            self.filled[at] = span.stop
            spans.append(span)
        self.spans.append(spans)

    def encoded(self) -> Encoded:
        """The whole side, its gradients to be collected."""
        for whole in self.whole:
            if whole is not None:
                whole.requires_grad_()
        return self.side.encoded(Kept(*self.whole))

    def gradients(self, piece: int) -> list[Tensor | None]:
        """The gradients of the representations of a piece, in the order of `Kept.tensors`."""
        present = [whole for whole in self.whole if whole is not None]
        return [
            None if whole.grad is None else whole.grad[span]
            for whole, span in zip(present, self.spans[piece], strict=True)
        ]


def cut(lengths: Numbers, order: Numbers, most: int | None) -> list[Numbers]:
    """Runs of texts in this order with at most so many tokens, at least one text each."""
    if most is None:
        return [order]
    pieces: list[Numbers] = []
    first = total = 0
    for at, length in enumerate(lengths[order].tolist()):
        if at > first and total + length > most:
            pieces.append(order[first:at])
            first, total = at, 0
        total += length
    pieces.append(order[first:])
    return pieces


def encode(model: M3Model, piece: Piece, heads: Sequence[Head], context: Context) -> Kept:
    """One pass of the model over a sub-batch, under `context` (autocast)."""
    with context():
        outputs = model(piece.inputs, heads)
    multi = outputs.multi
    return Kept(
        outputs.dense, outputs.weights, None if multi is None else multi[outputs.multi_mask]
    )


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
    sides: Sequence[Batch],
    heads: Sequence[Head],
    loss_of: Callable[..., Tensor],
    *,
    context: Context = nullcontext,
) -> Tensor:
    """Adds the gradients of loss_of(*sides encoded) to the parameters; returns the loss, detached.

    With more than one piece in all, by the two passes above; else plainly.
    """
    if all(len(side.pieces) == 1 for side in sides):
        encoded = [side.encoded(encode(model, side.pieces[0], heads, context)) for side in sides]
        loss = loss_of(*encoded)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    device = sides[0].ids.device
    leaves = [Leaves(side) for side in sides]
    states: list[RandomStates] = []
    with torch.no_grad():  # 1
        for side, mine in zip(sides, leaves, strict=True):
            for piece in side.pieces:
                states.append(RandomStates(device))
                mine.add(encode(model, piece, heads, context))
    after = RandomStates(device)

    loss = loss_of(*(mine.encoded() for mine in leaves))  # 2
    loss.backward()  # type: ignore[no-untyped-call]

    replay = iter(states)
    for side, mine in zip(sides, leaves, strict=True):  # 3
        for number, piece in enumerate(side.pieces):
            next(replay).restore()
            outputs = encode(model, piece, heads, context).tensors
            found = zip(outputs, mine.gradients(number), strict=True)
            reached = [(out, grad) for out, grad in found if grad is not None]
            if reached:
                torch.autograd.backward([out for out, _ in reached], [grad for _, grad in reached])
    after.restore()
    return loss.detach()
