"""Cross entropy over a large vocabulary in the memory of a block of tokens.

Takes states and the table of words, never models. Shapes: N tokens, H hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits that exist at once: 256 MB in float32, twice that while gradients are computed.
LOGITS = 1 << 26


def blockwise_cross_entropy(
    states: Tensor, words: Tensor, bias: Tensor, targets: Tensor, block: int | None = None
) -> Tensor:
    """-log softmax(states . words^T + bias) at the targets, for every token by itself.

    states (N, H), words (V, H), bias (V,), targets (N,) -> (N,) float32. `block` tokens at once, so
    that (N, V) never exists: forward keeps one number of a token, backward computes its logits
    again. Under autocast products are in its dtype; softmax and sums are in float32.
    """
    kind = states.device.type
    dtype = states.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    size = max(1, LOGITS // len(words)) if block is None else block
    out: Tensor = _Blockwise.apply(states, words, bias, targets, size, dtype)  # type: ignore[no-untyped-call]
    return out


def _logits(states: Tensor, words: Tensor, bias: Tensor) -> Tensor:
    return (states @ words.T).float().add_(bias.float())


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        words: Tensor,
        bias: Tensor,
        targets: Tensor,
        size: int,
        dtype: torch.dtype,
    ) -> Tensor:
        count = len(states)
        sums = states.new_empty(count, dtype=torch.float32)  # log of the sum of exp(logits)
        losses = torch.empty_like(sums)
        with torch.autocast(states.device.type, enabled=False):
            table = words.to(dtype)
            for first in range(0, count, size):
                some = slice(first, first + size)
                logits = _logits(states[some].to(dtype), table, bias)
                wanted = logits.gather(1, targets[some, None]).squeeze(1)
                most = logits.amax(1)  # in place: logsumexp would make the block twice more
                sums[some] = logits.sub_(most[:, None]).exp_().sum(1).log_().add_(most)
                losses[some] = sums[some] - wanted
        ctx.save_for_backward(states, words, bias, targets, sums)
        ctx.size, ctx.dtype = size, dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, words, bias, targets, sums = ctx.saved_tensors
        grad = grads[0].float()
        for_states, for_words, for_bias = ctx.needs_input_grad[:3]
        to_states = torch.empty_like(states) if for_states else None
        to_words = torch.zeros_like(words, dtype=torch.float32) if for_words else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if for_bias else None
        with torch.autocast(states.device.type, enabled=False):
            table = words.to(ctx.dtype)
            for first in range(0, len(states), ctx.size):
                some = slice(first, first + ctx.size)
                part = states[some].to(ctx.dtype)
                shares = _logits(part, table, bias).sub_(sums[some, None]).exp_()
                # minus 1 at the target: d(-log p) / d logits
                at = targets[some, None]
                shares.scatter_add_(1, at, shares.new_full(at.shape, -1.0)).mul_(grad[some, None])
                if to_bias is not None:
                    to_bias += shares.sum(0)
                shares = shares.to(ctx.dtype)
                if to_states is not None:
                    to_states[some] = shares @ table
                if to_words is not None and ctx.dtype == torch.float32:
                    to_words.addmm_(shares.T, part)
                elif to_words is not None:
                    to_words += shares.T @ part
        return (
            to_states,
            None if to_words is None else to_words.to(words.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
        )
