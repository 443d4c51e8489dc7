"""What a checkpoint's trunk gives for token sequences, before any head decides; also distorted.

The distortions are those of implementations: position ids that start elsewhere, and rounding to a
narrower number type, which is simulated so that it is the same on every machine. Knows nothing of
texts, endpoints or causes. Shapes: T tokens, H hidden, M multi-vector size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercet.encoder import batches
from tercet.model import Layout, M3Model

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

Precision = Literal["float16", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # from fine to coarse
POOLS = ("cls", "mean", "content", "last", "max")  # rows of `Raw.pools`
TOKENS = 1024  # of a sequence; of longer ones the vectors of tokens are not kept
BUDGET = 4096  # tokens of a batch


@dataclass(frozen=True)
class Raw:
    """One sequence: ids (T,), pools (5, H) of its states, and per token, where kept, the rest.

    pools: the first state, the mean of all, the mean of those between the first and the last, the
    last, the largest of each dimension. logits (T,) of the sparse head, before its ReLU. multi
    (T, M) of the multi-vector head, before its norm. states (T, H). None: no such head, or too
    long.
    """

    ids: Ids
    pools: Floats
    logits: Floats | None
    multi: Floats | None
    states: Floats | None


@dataclass(frozen=True)
class Distortion:
    """How the trunk is changed; the default is not at all."""

    positions: int | None = None  # the first position id, where it is not padding index + 1
    precision: Precision | None = None


class Trunk:
    """Runs sequences through a model in float32; what was run once is not run again."""

    def __init__(self, model: M3Model) -> None:
        """The model must be on its device, in float32 and not packed."""
        self.model = model
        self._known: dict[tuple[bytes, Distortion], Raw] = {}

    def run(self, sequences: Sequence[Ids], distortion: Distortion = Distortion()) -> list[Raw]:
        """One Raw a sequence, in their order."""
        keys = [(ids.tobytes(), distortion) for ids in sequences]
        new = {key: ids for key, ids in zip(keys, sequences, strict=True) if key not in self._known}
        if new:
            with torch.inference_mode(), ExitStack() as stack:
                if distortion.positions is not None:
                    stack.enter_context(_positions_from(self.model, distortion.positions))
                if distortion.precision is not None:
                    stack.enter_context(_rounded(self.model, ROUNDING[distortion.precision]))
                names, ids = list(new), list(new.values())
                lengths = np.array([len(some) for some in ids])
                for rows in batches(lengths, BUDGET):
                    found = self._batch([ids[row] for row in rows], distortion.precision)
                    self._known |= dict(zip((names[row] for row in rows), found, strict=True))
        return [self._known[key] for key in keys]

    def _batch(self, sequences: list[Ids], precision: Precision | None) -> list[Raw]:
        model = self.model
        device = model.backbone.word_embeddings.weight.device
        rounds = (lambda x: x) if precision is None else ROUNDING[precision].outputs
        ids = torch.from_numpy(np.concatenate(sequences).astype(np.int64)).to(device)
        lengths = [len(some) for some in sequences]
        states = model.backbone(ids, Layout(lengths, device, padding=0.0))
        out = []
        for ids_of, mine in zip(sequences, states.split(lengths), strict=True):
            keeps = len(ids_of) <= TOKENS
            out.append(
                Raw(
                    ids=ids_of,
                    pools=_numpy(_pools(mine)),
                    logits=_head(model.sparse, mine, rounds, True, flat=True),
                    multi=_head(model.multi, mine, rounds, keeps),
                    states=_numpy(mine) if keeps else None,
                )
            )
        return out


def _head(
    head: nn.Linear | None,
    states: Tensor,
    rounds: Callable[[Tensor], Tensor],
    keeps: bool,
    *,
    flat: bool = False,
) -> Floats | None:
    """The head's linear layer alone: without ReLU or norm."""
    if head is None or not keeps:
        return None
    out = rounds(F.linear(states, head.weight, head.bias))
    return _numpy(out.squeeze(-1) if flat else out)


def _pools(states: Tensor) -> Tensor:
    """(T, H) -> (5, H), as POOLS names them."""
    content = states[1:-1] if len(states) > 2 else states
    rows = (states[0], states.mean(0), content.mean(0), states[-1], states.amax(0))
    return torch.stack(rows)


def _numpy(x: Tensor) -> Floats:
    out: Floats = x.float().cpu().numpy().copy()  # a view would keep the whole batch
    return out


@contextmanager
def _positions_from(model: M3Model, first: int) -> Iterator[None]:
    """Position ids that start at `first` instead of padding index + 1."""
    places = model.backbone.position_embeddings
    kept = places.weight
    shift = model.backbone.config.pad_id + 1 - first
    places.weight = nn.Parameter(torch.roll(kept, shift, 0), requires_grad=False)
    try:
        yield
    finally:
        places.weight = kept


@dataclass(frozen=True)
class Rounding:
    """Functions that round weights, inputs and outputs of these modules."""

    weights: Callable[[Tensor], Tensor]
    inputs: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor]
    modules: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm)


def _to(dtype: torch.dtype) -> Rounding:
    def rounded(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    return Rounding(rounded, rounded, rounded)


def _int8_weights(w: Tensor) -> Tensor:
    """One scale a tensor, symmetric."""
    scale = w.abs().amax().clamp_min(1e-12) / 127
    return (w / scale).round() * scale


def _int8_inputs(x: Tensor) -> Tensor:
    """256 steps between the smallest and the largest value of the batch, one of them 0."""
    low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
    scale = (high - low).clamp_min(1e-12) / 255
    zero = (-low / scale).round()
    return ((x / scale + zero).round().clamp(0, 255) - zero) * scale


# int8 as ONNX Runtime's dynamic quantisation does it: scales of whole tensors, sums in float32.
ROUNDING: dict[Precision, Rounding] = {
    "float16": _to(torch.float16),
    "bfloat16": _to(torch.bfloat16),
    "int8": Rounding(_int8_weights, _int8_inputs, lambda x: x, (nn.Linear,)),
}


@contextmanager
def _rounded(model: M3Model, rounding: Rounding) -> Iterator[None]:
    """Layers whose weights, inputs and outputs are rounded.

    Weights are rounded at each call: a copy of them would double the memory.
    """
    kept = []

    def replaced(module: nn.Module) -> Callable[..., Tensor]:
        plain = module.forward

        def forward(x: Tensor) -> Tensor:
            weight: Any = module.weight
            module.weight = nn.Parameter(rounding.weights(weight), requires_grad=False)
            try:
                is_ids = not x.is_floating_point()
                out: Tensor = plain(x if is_ids else rounding.inputs(x))
            finally:
                module.weight = weight
            return rounding.outputs(out)

        return forward

    for module in model.backbone.modules():
        if isinstance(module, rounding.modules):
            kept.append(module)
            module.forward = replaced(module)
    try:
        yield
    finally:
        for module in kept:
            del module.forward  # the method of its class is there again
