"""The XLM-RoBERTa trunk on packed tokens: ids in, last hidden states out, no padding kept.

Any depth, width and vocabulary; learned absolute positions counted from padding index + 1. Knows
nothing of heads, files or texts. Shapes: N tokens of the batch, B texts, T tokens of the longest,
H hidden, A attention heads, F feed-forward size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercet.errors import InputError, ModelError

# Texts attended to together may be padded by at most this share (only queries, keys and values
# are ever padded, and only on CPU).
PADDING = 0.15


@dataclass(frozen=True)
class BackboneConfig:
    """The sizes of a trunk; the defaults are XLM-RoBERTa large with M3's positions."""

    vocabulary: int = 250_002
    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    positions: int = 8194  # rows of the table: the longest text + pad_id + 1
    pad_id: int = 1
    norm_eps: float = 1e-5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "vocabulary",
            "hidden",
            "layers",
            "heads",
            "feed_forward",
            "positions",
        ):
            if getattr(self, name) < 1:
                raise ModelError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.hidden % self.heads:
            raise ModelError(
                f"hidden size {self.hidden} is not a multiple of {self.heads} heads"
            )

    @property
    def max_length(self) -> int:
        """The longest text in tokens: position ids start at pad_id + 1."""
        return self.positions - self.pad_id - 1


class Layout:
    """Where each text's tokens lie in a packed batch, and how texts are grouped for attention."""

    def __init__(
        self, lengths: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.lengths = [int(length) for length in lengths]
        if not self.lengths or min(self.lengths) < 1:
            raise InputError("a batch needs at least one text of at least one token")
        counts = torch.tensor(self.lengths)
        self.longest = max(self.lengths)
        self.tokens = int(counts.sum())
        offsets = torch.zeros(len(counts) + 1, dtype=torch.int64)
        torch.cumsum(counts, 0, out=offsets[1:])
        self.positions = (
            torch.arange(self.tokens) - torch.repeat_interleave(offsets[:-1], counts)
        ).to(device)  # (N,) from 0
        self.firsts = offsets[:-1].to(
            device
        )  # (B,) packed position of each text's first token
        self.offsets = offsets.to(device, torch.int32)  # (B + 1,)
        self.groups = [] if self.firsts.is_cuda else self._group(offsets.tolist())

    def _group(self, offsets: list[int]) -> "list[Group]":
        groups, first = [], 0
        while first < len(self.lengths):
            low = high = total = self.lengths[first]
            last = first + 1
            while last < len(self.lengths):
                length = self.lengths[last]
                tallest = max(high, length)
                if tallest * (last + 1 - first) > (1 + PADDING) * (total + length):
                    break
                low, high, total, last = (
                    min(low, length),
                    tallest,
                    total + length,
                    last + 1,
                )
            groups.append(Group(offsets[first : last + 1], high, padded=low != high))
            first = last
        return groups


class Group:
    """Neighbouring texts of similar length that attend in one call."""

    def __init__(self, offsets: list[int], longest: int, *, padded: bool) -> None:
        self.start, self.stop = offsets[0], offsets[-1]
        self.texts, self.longest = len(offsets) - 1, longest
        self.slots: Tensor | None = (
            None  # (tokens,) place of each token in (texts * longest)
        )
        self.mask: Tensor | None = None  # (texts, 1, 1, longest) True where a token is
        if padded:
            counts = torch.tensor(offsets).diff()
            seen = torch.arange(longest) < counts[:, None]
            self.slots = seen.flatten().nonzero().squeeze(1)
            self.mask = seen[:, None, None, :]

    def attend(self, part: Tensor, heads: int) -> Tensor:
        """Attention of the group's texts: (tokens of group, 3H) -> (tokens of group, H)."""
        if self.slots is not None:
            padded = part.new_zeros(self.texts * self.longest, part.shape[1])
            part = padded.index_copy(0, self.slots, part)
        q, k, v = part.view(self.texts, self.longest, 3, heads, -1).permute(
            2, 0, 3, 1, 4
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        out = out.transpose(1, 2).reshape(self.texts * self.longest, -1)
        return out if self.slots is None else out[self.slots]


def attention(qkv: Tensor, layout: Layout, heads: int) -> Tensor:
    """Each token attends to its own text: (N, 3H) queries, keys, values -> (N, H)."""
    if qkv.is_cuda:
        from torch.nn.attention.varlen import varlen_attn  # torch >= 2.10

        q, k, v = qkv.view(qkv.shape[0], 3, heads, -1).unbind(1)
        longest = layout.longest
        out = varlen_attn(q, k, v, layout.offsets, layout.offsets, longest, longest)
        return out.reshape(qkv.shape[0], -1)  # type: ignore[union-attr]
    # split, not slices: the gradient of a split is one concatenation
    parts = qkv.split([group.stop - group.start for group in layout.groups])
    outs = [group.attend(part, heads) for group, part in zip(layout.groups, parts, strict=True)]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


class Layer(nn.Module):
    """One post-norm transformer layer, queries, keys and values in one product."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm1 = nn.LayerNorm(config.hidden, config.norm_eps)
        self.up = nn.Linear(config.hidden, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden, config.norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        mixed = self.out(attention(self.qkv(x), layout, self.heads))
        x = self.norm1(x + F.dropout(mixed, self.dropout, self.training))
        fed = self.down(F.gelu(self.up(x)))
        out: Tensor = self.norm2(x + F.dropout(fed, self.dropout, self.training))
        return out


class Backbone(nn.Module):
    """XLM-RoBERTa without pooler or language-model head."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.hidden)
        self.places = nn.Embedding(config.positions, config.hidden)
        self.kind = nn.Parameter(
            torch.zeros(config.hidden)
        )  # token type 0, the only one
        self.norm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def embed(self, ids: Tensor, layout: Layout) -> Tensor:
        """Sums of word, position and type embeddings, normalised: (N,) -> (N, H)."""
        places = self.places(layout.positions + (self.config.pad_id + 1))
        x: Tensor = self.norm(self.words(ids) + places + self.kind)
        return F.dropout(x, self.config.dropout, self.training)

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
            x = layer(x, layout)
        return x


# Our names to the published ones (Hugging Face XLMRobertaModel), layer by layer.
_LAYER_NAMES = {
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_TOP_NAMES = {
    "words.weight": "embeddings.word_embeddings.weight",
    "places.weight": "embeddings.position_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_KIND = "embeddings.token_type_embeddings.weight"
_QKV = ("query", "key", "value")


def from_published(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Renames a published state dict (no prefix) to ours; raises ModelError naming what is missing."""

    def take(name: str) -> Tensor:
        if name not in tensors:
            raise ModelError(f"the checkpoint has no tensor {name!r}")
        return tensors[name]

    state = {ours: take(theirs) for ours, theirs in _TOP_NAMES.items()}
    state["kind"] = take(_KIND)[0]
    for number in range(layers):
        theirs_at = f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            parts = [take(f"{theirs_at}.attention.self.{name}.{kind}") for name in _QKV]
            state[f"layers.{number}.qkv.{kind}"] = torch.cat(parts)
            for ours, theirs in _LAYER_NAMES.items():
                state[f"layers.{number}.{ours}.{kind}"] = take(
                    f"{theirs_at}.{theirs}.{kind}"
                )
    return state


def to_published(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of from_published."""
    tensors = {theirs: state[ours] for ours, theirs in _TOP_NAMES.items()}
    tensors[_KIND] = state["kind"][None]
    for number in range(layers):
        theirs_at = f"encoder.layer.{number}"
        for kind in ("weight", "bias"):
            fused = state[f"layers.{number}.qkv.{kind}"].chunk(3)
            for name, part in zip(_QKV, fused, strict=True):
                tensors[f"{theirs_at}.attention.self.{name}.{kind}"] = part
            for ours, theirs in _LAYER_NAMES.items():
                tensors[f"{theirs_at}.{theirs}.{kind}"] = state[
                    f"layers.{number}.{ours}.{kind}"
                ]
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
