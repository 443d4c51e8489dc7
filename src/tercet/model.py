"""The M3 model: a packed batch of token ids in, three representations out, from one trunk pass.

An XLM-RoBERTa trunk of any size on packed tokens (no padding kept; learned absolute positions
counted from padding index + 1), and three heads on its last hidden states. A head that the
checkpoint lacks is None. Knows nothing of texts or files. Source: docs/method.md, "One pass, three
representations" (M3 paper, section 3.2).

Shapes: N tokens of the batch, B texts, T tokens of the longest, H hidden, M multi-vector size.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tercet.config import HEADS, Head
from tercet.errors import InputError, ModelError
from tercet.layout import TOP_NAMES, TYPES, BackboneConfig, layer_names
from tercet.runtime import check_asked
from tercet.tokenizer import TokenBatch

# oneDNN keeps a compiled product for each shape of matrices, and torch a weight's order for each.
# Batches have no padding and so a new shape each time, and 1,024 entries, the default of
# both, come to some GB. They are read at the first product. Measured: benchmarks/memory.py.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")

# In training, texts attended to together may be padded by at most this share (only queries, keys
# and values are ever padded, and only without variable-length kernels).
PADDING = 0.15

# Attention scores worked on at once on CPU: 2 MB in bfloat16, which stay in cache. Measured.
SCORES = 1 << 20

# The longest texts that attend by plain products in training on CPU in bfloat16: scores are kept
# for the backward pass. Measured.
PLAIN = 512


class Layout:
    """Where each text's tokens lie in a packed batch, and how texts are grouped for attention.

    padding is the share by which neighbouring texts may be padded to attend together; 0 groups
    texts of equal length only, so nothing is padded and what else is in the batch cannot matter.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        padding: float = PADDING,
    ) -> None:
        self.lengths = [int(length) for length in lengths]
        if not self.lengths or min(self.lengths) < 1:
            raise InputError("a batch needs at least one text of at least one token")
        counts = torch.tensor(self.lengths)
        self.longest = max(self.lengths)
        self.padding = padding
        offsets = F.pad(counts.cumsum(0), (1, 0))
        self.tokens = int(offsets[-1])
        places = torch.arange(self.tokens) - torch.repeat_interleave(offsets[:-1], counts)
        self.positions = places.to(device)  # (N,) from 0
        self.firsts = offsets[:-1].to(device)  # (B,) packed position of each text's first token
        self.offsets = offsets.to(device, torch.int32)  # (B + 1,)

    @cached_property
    def groups(self) -> "list[Group]":
        """Runs of neighbouring texts of similar length; varlen kernels do without."""
        groups, first = [], 0
        while first < len(self.lengths):
            longest = total = self.lengths[first]
            last = first + 1
            while last < len(self.lengths):
                longest = max(longest, self.lengths[last])
                total += self.lengths[last]
                if longest * (last + 1 - first) > (1 + self.padding) * total:
                    break
                last += 1
            groups.append(Group(self.lengths[first:last], self.offsets.device))
            first = last
        return groups


class Group:
    """Neighbouring texts of similar length that attend in one call."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.texts, self.longest, self.tokens = len(lengths), max(lengths), sum(lengths)
        self.slots: Tensor | None = None  # (tokens,) place of each token in (texts * longest)
        self.mask: Tensor | None = None  # (texts, 1, 1, longest) True where a token is
        if self.tokens < self.texts * self.longest:
            seen = torch.arange(self.longest) < torch.tensor(lengths)[:, None]
            self.slots = seen.flatten().nonzero().squeeze(1).to(device)
            self.mask = seen[:, None, None, :].to(device)

    def attend(self, part: Tensor, heads: int, dropout: float) -> Tensor:
        """Attention of the group's texts: (tokens of group, 3H) -> (tokens of group, H)."""
        if self.slots is not None:
            padded = part.new_zeros(self.texts * self.longest, part.shape[1])
            part = padded.index_copy(0, self.slots, part)
        split = part.view(self.texts, self.longest, 3, heads, -1).permute(2, 0, 3, 1, 4)
        on_cpu, half = part.device.type == "cpu", part.dtype == torch.bfloat16
        if on_cpu and dropout:
            out: Tensor = AttentionWithDropout.apply(split, self.mask, dropout)  # type: ignore[no-untyped-call]
        elif on_cpu and half and torch.is_grad_enabled() and self.longest <= PLAIN:
            out = attend_plainly(split, self.mask)
        elif on_cpu and half and self.mask is None and not torch.is_grad_enabled():
            out = attend_in_blocks(split)
        else:
            q, k, v = split.unbind(0)
            out = F.scaled_dot_product_attention(q, k, v, self.mask, dropout)
        out = out.transpose(1, 2).reshape(self.texts * self.longest, -1)
        return out if self.slots is None else out[self.slots]


def attend_plainly(split: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by plain products with a gradient, (3, texts, heads, T, d) -> (texts, heads, T, d).

    mask (texts, 1, 1, T) is True where a token is. On CPU in bfloat16 torch's fused kernel takes
    several times as long in its backward pass; this keeps scores of texts * heads * T * T.
    """
    _, texts, heads, tokens, size = split.shape
    q, k, v = split.reshape(3, texts * heads, tokens, size)
    scores = torch.bmm(q * size**-0.5, k.transpose(1, 2))
    if mask is not None:
        by_text = scores.view(texts, heads, tokens, tokens)
        by_text = by_text.masked_fill(~mask, torch.finfo(scores.dtype).min)
        scores = by_text.view_as(scores)
    return torch.bmm(scores.softmax(-1), v).view(texts, heads, tokens, size)


class AttentionWithDropout(torch.autograd.Function):
    """Attention on CPU with dropout on its probabilities, whose backward pass computes them anew.

    (3, texts, heads, T, d), mask (texts, 1, 1, T) True where a token is, share -> (texts, heads, T,
    d). torch's own would keep T x T probabilities of every head and layer: 9.7 GB a layer for 8,192
    tokens and 16 heads. Here blocks of about `scores` of them are held, and the same dropout is
    drawn again from one seed of the default generator. Its share is exact to 1/65,536.
    """

    @staticmethod
    def forward(
        ctx: Any, split: Tensor, mask: Tensor | None, share: float, scores: int = SCORES
    ) -> Tensor:
        ctx.save_for_backward(split, mask)
        ctx.share, ctx.scores = share, scores
        ctx.seed = int(torch.randint(1 << 62, ()))
        q, k, v = split.flatten(1, 2)
        out = torch.empty_like(v)
        for part, rows, shares, keep in _dropped_blocks(ctx, q, k, mask):
            shares *= keep
            out[part, rows] = _product(shares, v[part], 1 / _kept(share))
        return out.view(split.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        split, mask = ctx.saved_tensors
        q, k, v = split.flatten(1, 2)
        grad = grad.flatten(0, 1)
        whole = torch.zeros(split.shape, dtype=torch.float32)
        to_q, to_k, to_v = whole.flatten(1, 2)
        scale, up = q.shape[-1] ** -0.5, 1 / _kept(ctx.share)
        for part, rows, shares, keep in _dropped_blocks(ctx, q, k, mask):
            own = grad[part, rows]
            to_shares = _product(own, v[part].transpose(1, 2), up).mul_(keep)
            to_scores = torch.ops.aten._softmax_backward_data(to_shares, shares, -1, shares.dtype)
            to_v[part] += _product((shares * keep).transpose(1, 2), own, up)
            to_q[part, rows] = _product(to_scores, k[part], scale)
            to_k[part] += _product(to_scores.transpose(1, 2), q[part, rows], scale)
        return whole.to(split.dtype), None, None, None


def _dropped_blocks(
    ctx: Any, q: Tensor, k: Tensor, mask: Tensor | None
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """(n, T, d) queries and keys -> blocks: heads of texts, queries, probabilities, what stays."""
    generator = torch.Generator().manual_seed(ctx.seed)
    by_head = None
    if mask is not None:
        by_head = ~mask.expand(-1, len(q) // len(mask), -1, -1).flatten(0, 1)  # (n, 1, T)
    for part, rows in _blocks(len(q), q.shape[1], ctx.scores):
        shares = _product(q[part, rows], k[part].transpose(1, 2), q.shape[-1] ** -0.5)
        if by_head is not None:
            shares.masked_fill_(by_head[part], torch.finfo(shares.dtype).min)
        shares = shares.softmax(-1)
        # four draws of 16 bits in each of these; torch's own bernoulli takes eight times as long
        bits = torch.empty(-(-shares.numel() // 4), dtype=torch.int64)
        bits.random_(-(1 << 63), None, generator=generator)
        drawn = bits.view(torch.int16)[: shares.numel()].view(shares.shape)
        yield part, rows, shares, drawn >= round(ctx.share * 65536) - 32768


def _kept(share: float) -> float:
    """The share that stays, as 16 bits have it."""
    return 1 - round(share * 65536) / 65536


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * a @ b, scaled before rounding."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)  # beta = 0: never read


def _blocks(count: int, tokens: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Heads of texts and their queries, about `scores` scores at a time."""
    step = max(1, scores // (tokens * tokens))
    rows = min(tokens, max(64, scores // tokens))
    for first in range(0, count, step):
        for row in range(0, tokens, rows):
            yield slice(first, first + step), slice(row, row + rows)


def attend_in_blocks(split: Tensor, *, scores: int = SCORES) -> Tensor:
    """Unmasked attention by plain products, (3, texts, heads, T, d) -> (texts, heads, T, d).

    On CPU in bfloat16 about 1.6 times as fast as torch's fused kernel, as long as a block of scores
    stays in cache; scores are rounded to bfloat16, sums run in float32. Not differentiable.
    """
    _, texts, heads, tokens, size = split.shape
    q, k, v = split.reshape(3, texts * heads, tokens, size)
    if len(q) * tokens * tokens <= scores:  # the general case with one block, without its copies
        shares = _product(q, k.transpose(1, 2), size**-0.5).softmax(-1)
        return torch.bmm(shares, v).view(texts, heads, tokens, size)
    out = torch.empty_like(q)
    for part, rows in _blocks(len(q), tokens, scores):
        shares = _product(q[part, rows], k[part].transpose(1, 2), size**-0.5).softmax(-1)
        out[part, rows] = torch.bmm(shares, v[part])
    return out.view(texts, heads, tokens, size)


def attention(qkv: Tensor, layout: Layout, heads: int, dropout: float = 0.0) -> Tensor:
    """Each token attends to its own text: (N, 3H) queries, keys, values -> (N, H).

    dropout is the share of attention probabilities that are set to 0.
    """
    # the kernel for packed texts has no dropout
    if qkv.is_cuda and qkv.dtype in (torch.bfloat16, torch.float16) and not dropout:
        try:
            from torch.nn.attention.varlen import varlen_attn  # torch >= 2.10
        except ImportError:
            pass
        else:
            q, k, v = qkv.view(len(qkv), 3, heads, -1).unbind(1)
            ends, longest = layout.offsets, layout.longest
            mixed = varlen_attn(q, k, v, ends, ends, longest, longest)
            return mixed.reshape(len(qkv), -1)  # type: ignore[union-attr]
    # split, not slices: the gradient of a split is one concatenation
    parts = torch.split(qkv, [group.tokens for group in layout.groups])
    pairs = zip(layout.groups, parts, strict=True)
    outs = [group.attend(part, heads, dropout) for group, part in pairs]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


class Layer(nn.Module):
    """One post-norm transformer layer, queries, keys and values in one product."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm1 = nn.LayerNorm(config.hidden, config.norm_eps)
        self.up = nn.Linear(config.hidden, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden, config.norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        mixed = self.out(attention(self.qkv(x), layout, self.heads, dropout))
        x = self.norm1(x + F.dropout(mixed, self.dropout, self.training))
        fed = self.down(F.gelu(self.up(x)))
        out: Tensor = self.norm2(x + F.dropout(fed, self.dropout, self.training))
        return out


class PackedLayer(nn.Module):
    """A Layer for inference on CPU: weights in oneDNN's own order, GELU and residuals fused in."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = layer.heads, layer.norm1, layer.norm2
        self.qkv, self.out = PackedLinear(layer.qkv), PackedLinear(layer.out)
        self.up, self.down = PackedLinear(layer.up), PackedLinear(layer.down)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = self.norm1(self.out.added_to(x, attention(self.qkv(x), layout, self.heads)))
        out: Tensor = self.norm2(self.down.added_to(x, self.up(x, "gelu")))
        return out


class PackedLinear:
    """A linear layer with a weight that oneDNN has reordered once instead of at every call."""

    def __init__(self, linear: nn.Linear) -> None:
        weight, self.bias = linear.weight.detach(), linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)

    def __call__(self, x: Tensor, after: str = "none") -> Tensor:
        """(N, in) -> (N, out), then nothing or "gelu"."""
        op = torch.ops.mkldnn._linear_pointwise
        out: Tensor = op(x, self.weight, self.bias, after, [], "none")
        return out

    def added_to(self, other: Tensor, x: Tensor) -> Tensor:
        """other + linear(x), added before rounding."""
        op = torch.ops.mkldnn._linear_pointwise.binary
        out: Tensor = op(x, other, self.weight, self.bias, "add")
        return out


def packs(tensor: Tensor) -> bool:
    """Whether layers with such weights can be packed: on CPU, where oneDNN can multiply them."""
    ops = torch.ops.mkldnn
    if tensor.device.type != "cpu" or not hasattr(ops, "_reorder_linear_weight"):
        return False
    if tensor.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    return tensor.dtype == torch.float32


class AddedRows(torch.autograd.Function):
    """Rows of a table whose gradient is added to table.grad in place, once there is one.

    Autograd would make a gradient as large as the table at each backward pass, and add that: 1 GB
    for 250,002 words of 1,024, many times a step where a batch is split. Good for `backward()`
    alone: `torch.autograd.grad` sees no gradient here.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        (ids,) = ctx.saved_tensors
        table = ctx.table
        if not table.requires_grad:
            return None, None
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, ids, grad.to(table.grad.dtype))
        return None, None


class Backbone(nn.Module):
    """XLM-RoBERTa without pooler or language-model head."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.type_embedding = nn.Parameter(torch.zeros(config.hidden))  # token type 0, the only one
        self.norm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.checkpointing = False  # in training: compute each layer anew in the backward pass
        self.adds_rows = False  # in training: see `AddedRows`

    def pack(self) -> None:
        """Makes this trunk faster and good for inference alone, where the machine allows it."""
        self.requires_grad_(False)
        if packs(self.word_embeddings.weight):
            for number, layer in enumerate(self.layers):
                if isinstance(layer, Layer):
                    self.layers[number] = PackedLayer(layer)

    def set_dropout(self, share: float) -> None:
        """Another dropout than the checkpoint's, of states and attention probabilities alike."""
        self.config = replace(self.config, dropout=share, attention_dropout=share)
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.dropout = layer.attention_dropout = share

    def embed(self, ids: Tensor, layout: Layout) -> Tensor:
        """Sums of word, position and type embeddings, normalised: (N,) -> (N, H)."""
        positions = self.position_embeddings(self.rows(ids, layout))
        if self.adds_rows:
            words = AddedRows.apply(self.word_embeddings.weight, ids)  # type: ignore[no-untyped-call]
        else:
            words = self.word_embeddings(ids)
        x: Tensor = self.norm(words + positions + self.type_embedding)
        return F.dropout(x, self.config.dropout, self.training)

    def rows(self, ids: Tensor, layout: Layout) -> Tensor:
        """Rows of the position table, (N,): pad_id + 1 and on, counted within each text.

        A text may hold a literal <pad>: as in the reference it takes row pad_id and is not counted.
        """
        real = (ids != self.config.pad_id).long()
        seen = torch.cumsum(real, 0)
        firsts = torch.arange(len(ids), device=ids.device) - layout.positions
        return self.config.pad_id + real * (seen - seen[firsts] + real[firsts])

    def forward(self, ids: Tensor, layout: Layout) -> Tensor:
        """Last hidden states of a packed batch, (N,) ids -> (N, H).

        Raises InputError where a text has more tokens than the model has positions.
        """
        if layout.longest > self.config.max_length:
            raise InputError(
                f"a text of {layout.longest} tokens; this model has positions for"
                f" {self.config.max_length}"
            )
        x = self.embed(ids, layout)
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, layout, use_reentrant=False)
            else:
                x = layer(x, layout)
        return x


def dense_vectors(states: Tensor, firsts: Tensor) -> Tensor:
    """e = norm(H[0]): the states of each text's [CLS], (N, H) and (B,) -> (B, H) float32."""
    return F.normalize(states[firsts].float(), dim=-1)


def mean_vectors(states: Tensor, positions: Tensor, owners: Tensor, rows: int) -> Tensor:
    """norm of the mean of some states: (N, H), (K,) positions and the row of each -> (rows, H)."""
    sums = states.new_zeros(rows, states.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, owners, states[positions].float())
    return F.normalize(sums, dim=-1)  # the sum has the direction of the mean


class SparseHead(nn.Linear):
    """w_t = ReLU(W_lex . H[i]): one weight a token."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1)

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N,) float32, >= 0."""
        return F.relu(super().forward(states).float()).squeeze(-1)


class MultiHead(nn.Linear):
    """E = norm(W_mul H): one unit vector a token."""

    def forward(self, states: Tensor) -> Tensor:
        """(N, H) -> (N, M) float32 unit rows."""
        return F.normalize(super().forward(states).float(), dim=-1)


@dataclass(frozen=True)
class Inputs:
    """A TokenBatch as tensors: ids (N,), the layout, and the positions of every [CLS] (C,)."""

    ids: Tensor
    layout: Layout
    cls: Tensor

    @staticmethod
    def of(
        batch: TokenBatch, device: torch.device | str = "cpu", *, padding: float = PADDING
    ) -> "Inputs":
        """Moves a token batch to a device; padding as in `Layout`."""
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(device)
        cls = torch.from_numpy(batch.cls).to(device)
        return Inputs(ids, Layout(batch.lengths.tolist(), device, padding=padding), cls)


@dataclass(frozen=True)
class Outputs:
    """What the heads give for B texts of N tokens; a head not asked for is None.

    dense (B, H) unit rows; weights (N,) sparse weight of every token, 0 at ids that never weigh;
    multi (N, M) unit rows, of which those at a [CLS] are not part of the representation
    (multi_mask marks the others). All float32.
    """

    dense: Tensor | None
    weights: Tensor | None
    multi: Tensor | None
    multi_mask: Tensor  # (N,) bool


class M3Model(nn.Module):
    """Trunk plus the heads that the checkpoint has."""

    def __init__(
        self,
        config: BackboneConfig,
        weightless_ids: Sequence[int],
        *,
        sparse: bool = True,
        multi: int | None = None,
    ) -> None:
        """multi is the multi-vector size; None leaves that head out, as sparse=False does."""
        super().__init__()
        self.backbone = Backbone(config)
        self.sparse = SparseHead(config.hidden) if sparse else None
        self.multi = MultiHead(config.hidden, multi) if multi else None
        # on the CPU even where the parameters are made on the meta device, to be filled later
        weightless = torch.zeros(config.vocabulary, dtype=torch.bool, device="cpu")
        weightless[list(weightless_ids)] = True
        self.register_buffer("weightless", weightless, persistent=False)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that this model has."""
        own = {"dense": True, "sparse": self.sparse is not None, "multi": self.multi is not None}
        return tuple(head for head in HEADS if own[head])

    @property
    def dims(self) -> dict[str, int]:
        """Sizes of the representations: dense, vocabulary, and multi where there is that head."""
        config = self.backbone.config
        dims = {"dense": config.hidden, "vocabulary": config.vocabulary}
        return dims if self.multi is None else dims | {"multi": self.multi.out_features}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.word_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are."""
        return self.backbone.word_embeddings.weight.dtype

    def forward(self, inputs: Inputs, heads: Sequence[Head]) -> Outputs:
        """One trunk pass and the asked heads; raises ModelError for a head that is not there."""
        self.check(heads)
        return self.represent(self.backbone(inputs.ids, inputs.layout), inputs, heads)

    def check(self, heads: Sequence[Head]) -> None:
        """Raises ModelError for a head that is not there."""
        check_asked(heads, self.heads)

    def represent(self, states: Tensor, inputs: Inputs, heads: Sequence[Head]) -> Outputs:
        """The asked heads on the trunk's last states, (N, H)."""
        multi_mask = torch.ones_like(inputs.ids, dtype=torch.bool)
        multi_mask[inputs.cls] = False
        dense = weights = multi = None
        if "dense" in heads and len(inputs.cls) == len(inputs.layout.lengths):
            dense = dense_vectors(states, inputs.layout.firsts)
        elif "dense" in heads:  # MCLS: the mean of all [CLS] states
            ends = inputs.layout.offsets[1:].to(torch.int64)
            owners = torch.searchsorted(ends, inputs.cls, right=True)  # (C,) text of each [CLS]
            dense = mean_vectors(states, inputs.cls, owners, len(ends))
        if "sparse" in heads and self.sparse is not None:
            weightless = self.get_buffer("weightless")[inputs.ids]
            weights = self.sparse(states).masked_fill(weightless, 0.0)
        if "multi" in heads and self.multi is not None:
            multi = self.multi(states)
        return Outputs(dense, weights, multi, multi_mask)


def from_published(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Renames a published state dict (no prefix) to ours; raises ModelError for what is missing."""

    def take(name: str) -> Tensor:
        if name not in tensors:
            raise ModelError(f"the checkpoint has no tensor {name!r}")
        return tensors[name]

    state = {ours: take(theirs) for ours, theirs in TOP_NAMES.items()}
    state["type_embedding"] = take(TYPES)[0]
    for ours, theirs in layer_names(layers):
        parts = [take(name) for name in theirs]
        state[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state


def to_published(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of from_published."""
    tensors = {theirs: state[ours] for ours, theirs in TOP_NAMES.items()}
    tensors[TYPES] = state["type_embedding"][None]
    for ours, theirs in layer_names(layers):
        tensors |= zip(theirs, state[ours].chunk(len(theirs)), strict=True)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


_OLD_NAME = re.compile(r"(^|\.)(words|places|kind)(\.weight)?(/|$)")
_NEW_NAME = {"words": "word_embeddings", "places": "position_embeddings", "kind": "type_embedding"}


def current_name(name: str) -> str:
    """A parameter's name of today from one that an older run saved; "/moment" may follow."""
    return _OLD_NAME.sub(lambda m: f"{m[1]}{_NEW_NAME[m[2]]}{m[3] or ''}{m[4]}", name)
