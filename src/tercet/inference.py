"""A model of torch that encodes: batches of bounded size in, what the heads give out; devices.

`run_batches` is for those who work on tensors, `TorchRuntime` for `tercet.encoder`, which takes
arrays. Knows nothing of texts or files.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tercet.config import Head, Progress
from tercet.errors import InputError
from tercet.model import PADDING, Inputs, M3Model, Outputs
from tercet.runtime import CPU_BUDGET, GPU_BUDGET, Pass, Rows, batches
from tercet.tokenizer import TokenBatch


@dataclass(frozen=True)
class ModelBatch:
    """One pass: which texts (rows of what was given), their tokens, last states (N, H), outputs."""

    rows: Rows
    tokens: TokenBatch
    states: Tensor
    outputs: Outputs


def run_batches(
    model: M3Model,
    tokens: TokenBatch,
    heads: Sequence[Head] = (),
    *,
    budget: int | None = None,
    padding: float | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Iterator[ModelBatch]:
    """Passes of the model over B texts in batches of at most `budget` tokens, without gradients.

    Runs in evaluation mode and leaves the model in the mode that it was in. budget and padding (as
    in `Layout`) default to what suits the device; autocast is the dtype of products, where it is
    not the model's own. progress is called with the tokens done and their total.
    """
    model.check(heads)
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise InputError(
            f"the model is on {device}, which a forked process cannot use: load it in a process "
            "that was spawned"
        )
    if budget is None:
        budget = CPU_BUDGET if device.type == "cpu" else GPU_BUDGET
    if padding is None:
        # On CPU a call more costs little and padding costs its products; elsewhere the reverse.
        padding = 0.0 if device.type == "cpu" else PADDING
    done = 0
    for rows in batches(tokens.lengths, budget):
        batch = tokens.take(rows)
        inputs = Inputs.of(batch, device, padding=padding)
        cast: Any = nullcontext()
        if autocast not in (None, model.dtype):
            cast = torch.autocast(device.type, autocast)
        training = model.training
        if training:
            model.eval()
        with torch.inference_mode(), cast:
            states = model.backbone(inputs.ids, inputs.layout)
            outputs = model.represent(states, inputs, heads)
        if training:
            model.train()
        yield ModelBatch(rows, batch, states, outputs)
        done += len(batch.ids)
        if progress is not None:
            progress(done, len(tokens.ids))


class TorchRuntime:
    """Runs a model of torch where its weights are, as `tercet.runtime.Runtime` asks."""

    name = "torch"

    def __init__(
        self,
        model: M3Model,
        *,
        padding: float | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """padding and autocast as in `run_batches`."""
        self.model, self._padding, self._autocast = model, padding, autocast
        self.heads, self.dims = model.heads, model.dims
        self.config = model.backbone.config
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = str(model.device)
        self.budget = CPU_BUDGET if model.device.type == "cpu" else GPU_BUDGET

    def passes(
        self,
        tokens: TokenBatch,
        heads: Sequence[Head],
        *,
        budget: int | None = None,
        half: bool = True,
        states: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Pass]:
        """As `Runtime.passes`."""
        for batch in run_batches(
            self.model,
            tokens,
            heads,
            budget=budget,
            padding=self._padding,
            autocast=self._autocast,
            progress=progress,
        ):
            out, multi = batch.outputs, batch.outputs.multi
            if multi is not None and half:
                multi = multi.half()  # before it leaves the device
            yield Pass(
                batch.rows,
                batch.tokens,
                dense=_array(out.dense),
                weights=_array(out.weights),
                multi=_array(multi),
                states=_array(batch.states.float()) if states else None,
            )


def _array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.cpu().numpy()


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, a GPU where none is named; raises InputError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(f"device {str(name)!r} is not there: {first}") from error
    return device


def usable_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, by default the fastest of a device; raises InputError for others."""
    if name is None:
        fast = device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if dtype in (torch.float32, torch.bfloat16) or (
        dtype == torch.float16 and device.type != "cpu"
    ):
        return dtype
    raise InputError(f"dtype {name!r}: choose float32 or bfloat16 (on a GPU also float16)")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products: AMX or AVX512-BF16."""
    return any(
        check() for check in (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)
    )
