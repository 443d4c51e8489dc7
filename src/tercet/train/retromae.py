"""RetroMAE: a trunk learns to put a whole text into its [CLS] state, and new positions with it.

1. A part of a text's tokens is masked; the trunk encodes the text and predicts them.
2. Its [CLS] state feeds a one-layer decoder, which rebuilds every token from that state and a
   random part of the other tokens' embeddings, never the token's own (enhanced decoding).

One language head serves both; it and the decoder are thrown away after training. What is masked
follows from a seed for every text, never from what else is in the batch or from the device. Knows
nothing of files or loops. Shapes: B texts, N tokens, T tokens of a group's longest text, H hidden,
A attention heads, V vocabulary. Source: docs/method.md, "RetroMAE pre-training"; Xiao et al. 2022,
arXiv 2205.12035.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from tercet.errors import ModelError
from tercet.layout import BackboneConfig
from tercet.model import Backbone, Group, Inputs, Layout
from tercet.train.batches import hashed
from tercet.train.config import RetroConfig

INIT = 0.02  # standard deviation of fresh weights: XLM-RoBERTa's initializer_range

# Of the tokens to be predicted, the encoder sees most as <mask>, the rest as another token or as
# they are: BERT's choice (Devlin et al. 2019, section 3.1), which RetroMAE's code makes too
# (src/pretrain/data.py masks by transformers' torch_mask_tokens). Single tokens are drawn, not
# whole words: what a word is, no rule says for all languages.
AS_MASK, AS_OTHER = 0.8, 0.1

# Every random number is a mix of a text's seed and these: what for, position, other position.
_PREDICT, _FATE, _OTHER, _SEE = 1, 2, 3, 4
_STEP = -1640531527  # 2 ** 32 / golden ratio, as int32: neighbouring places end up far apart


def text_seeds(seed: int, step: int, places: npt.NDArray[np.int64]) -> Tensor:
    """A seed of each text, (B,) int32, from the run's seed, the step and the text's number."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]
    mixed = hashed(places.astype(np.uint64), state)
    return torch.from_numpy(mixed.astype(np.uint32).view(np.int32))


def mix(x: Tensor) -> Tensor:
    """Scrambles int32 numbers so that each bit depends on all (the end of MurmurHash3)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)


def draw(seeds: Tensor, purpose: int, places: Tensor) -> Tensor:
    """Numbers spread evenly over int32 from seeds, a purpose and places that broadcast, int32."""
    return mix(mix(seeds + purpose) + places.to(torch.int32) * _STEP)


def below(share: float) -> int:
    """The bound under which that share of the drawn numbers lies."""
    return min(round((share - 0.5) * 2**32), 2**31 - 1)


def seen(seeds: Tensor, first: int, rows: int, tokens: int, masked: float) -> Tensor:
    """Which keys the queries at first, first + 1 ... see: (n, rows, tokens) bool.

    Everyone sees [CLS], which comes first, and each of the others with probability 1 - masked; no
    one sees itself.
    """
    at = torch.arange(first, first + rows, device=seeds.device)
    keys = torch.arange(tokens, device=seeds.device)
    own = draw(seeds[:, None], _SEE, at)  # (n, rows)
    out = mix(own[..., None] + keys.to(torch.int32) * _STEP) >= below(masked)
    out &= at[:, None] != keys
    out[..., 0] = True
    return out


# Our names of the language head's tensors to those that stand behind `lm_head.` in a checkpoint.
_HEAD_NAMES = {
    "dense.weight": "dense.weight",
    "dense.bias": "dense.bias",
    "norm.weight": "layer_norm.weight",
    "norm.bias": "layer_norm.bias",
    "bias": "bias",
}


class LanguageHead(nn.Module):
    """XLM-RoBERTa's: a dense layer, GELU, a norm, then the words' own embeddings and a bias."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def load_published(self, tensors: Mapping[str, Tensor]) -> bool:
        """Takes the tensors that a checkpoint has under `lm_head.`; False where they are absent.

        Raises ModelError where one is of another size.
        """
        if not all(theirs in tensors for theirs in _HEAD_NAMES.values()):
            return False
        state = {ours: tensors[theirs] for ours, theirs in _HEAD_NAMES.items()}
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape:
                raise ModelError(
                    f"the checkpoint's lm_head.{_HEAD_NAMES[name]} is {tuple(state[name].shape)},"
                    f" its trunk needs {tuple(own.shape)}"
                )
        self.load_state_dict(state)
        return True

    def forward(self, states: Tensor, words: Tensor, targets: Tensor) -> Tensor:
        """Loss of each token: (n, H) states, (V, H) words, (n,) targets -> (n,) float32."""
        states = self.norm(F.gelu(self.dense(states)))
        return blockwise_cross_entropy(states, words, self.bias, targets)


class Decoder(nn.Module):
    """One post-norm transformer layer whose queries do not come from its keys."""

    def __init__(self, config: BackboneConfig, masked: float, *, pairs: int = 1 << 22) -> None:
        """masked is the share of the other tokens that a position does not see.

        pairs are the (query, key) pairs whose mask exists at once: 16 MB of float32.
        """
        super().__init__()
        self.heads, self.dropout, self.masked = config.heads, config.dropout, masked
        self.pairs = pairs
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key_value = nn.Linear(config.hidden, 2 * config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)
        self.norm1 = nn.LayerNorm(config.hidden, config.norm_eps)
        self.up = nn.Linear(config.hidden, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.hidden)
        self.norm2 = nn.LayerNorm(config.hidden, config.norm_eps)

    def forward(self, queries: Tensor, keys: Tensor, layout: Layout, seeds: Tensor) -> Tensor:
        """(N, H) queries and keys of packed texts, (B,) seeds -> (N, H)."""
        parts = [group.tokens for group in layout.groups]
        texts = [group.texts for group in layout.groups]
        mixed = [
            self._attend(group, q, kv, drawn)
            for group, q, kv, drawn in zip(
                layout.groups,
                torch.split(self.query(queries), parts),
                torch.split(self.key_value(keys), parts),
                torch.split(seeds, texts),
                strict=True,
            )
        ]
        x = queries + F.dropout(self.out(torch.cat(mixed)), self.dropout, self.training)
        x = self.norm1(x)
        fed = self.down(F.gelu(self.up(x)))
        out: Tensor = self.norm2(x + F.dropout(fed, self.dropout, self.training))
        return out

    def _attend(self, group: Group, q: Tensor, kv: Tensor, seeds: Tensor) -> Tensor:
        """Attention of a group's texts in blocks whose masks are made, used and dropped."""
        texts, tokens = group.texts, group.longest
        if group.slots is not None:
            size = texts * tokens
            q = q.new_zeros(size, q.shape[1]).index_copy(0, group.slots, q)
            kv = kv.new_zeros(size, kv.shape[1]).index_copy(0, group.slots, kv)
        q = q.view(texts, tokens, self.heads, -1).transpose(1, 2)  # (texts, A, T, H / A)
        k, v = kv.view(texts, tokens, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        step = max(1, self.pairs // (tokens * tokens))
        rows = min(tokens, max(1, self.pairs // tokens))
        done = []
        for start in range(0, texts, step):
            some = slice(start, start + step)
            real = None if group.mask is None else group.mask[some, 0]  # (n, 1, T)
            blocks = [
                checkpoint(
                    self._block,
                    q[some, :, first : first + rows],
                    k[some],
                    v[some],
                    seeds[some],
                    first,
                    real,
                    use_reentrant=False,
                    preserve_rng_state=False,  # nothing in it is random but by the seeds
                )
                for first in range(0, tokens, rows)
            ]
            done.append(torch.cat(blocks, 2))
        out = torch.cat(done).transpose(1, 2).reshape(texts * tokens, -1)
        return out if group.slots is None else out[group.slots]

    def _block(
        self, q: Tensor, k: Tensor, v: Tensor, seeds: Tensor, first: int, real: Tensor | None
    ) -> Tensor:
        mask = seen(seeds, first, q.shape[2], k.shape[2], self.masked)
        if real is not None:
            mask &= real
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


class RetroMAE(nn.Module):
    """A trunk with what trains it: the language head and the decoder."""

    def __init__(
        self,
        backbone: Backbone,
        config: RetroConfig,
        *,
        mask_id: int | None,
        special_ids: Sequence[int],
        seed: int = 0,
    ) -> None:
        """special_ids (cls, eos, pad, unk) are neither masked nor predicted.

        Raises ModelError where the tokenizer has no <mask>.
        """
        super().__init__()
        if mask_id is None:
            raise ModelError("RetroMAE hides tokens behind <mask>, which this tokenizer lacks")
        self.backbone, self.config, self.mask_id = backbone, config, mask_id
        self.head = LanguageHead(backbone.config)
        self.decoder = Decoder(backbone.config, config.decoder_mask)
        generator = torch.Generator().manual_seed(seed)
        for module in (*self.head.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT, generator=generator)
                nn.init.zeros_(module.bias)
        special = torch.zeros(backbone.config.vocabulary, dtype=torch.bool)
        special[[*special_ids, mask_id]] = True
        self.register_buffer("special", special, persistent=False)
        self.register_buffer("ordinary", (~special).nonzero().squeeze(1), persistent=False)

    def masked(self, inputs: Inputs, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Ids as the encoder sees them (N,), and which tokens it must predict (N,) bool."""
        ids, at = inputs.ids, inputs.layout.positions
        seeds = seeds[owners(inputs.layout)]
        wanted = draw(seeds, _PREDICT, at) < below(self.config.encoder_mask)
        wanted &= ~self.get_buffer("special")[ids]
        fate = draw(seeds, _FATE, at)
        ordinary = self.get_buffer("ordinary")
        other = ordinary[(draw(seeds, _OTHER, at) & 0x7FFFFFFF) % len(ordinary)]
        changed = torch.where(fate < below(AS_MASK), self.mask_id, other)
        return torch.where(wanted & (fate < below(AS_MASK + AS_OTHER)), changed, ids), wanted

    def counts(self, inputs: Inputs, seeds: Tensor) -> tuple[int, int]:
        """The tokens that encoder and decoder must predict, without a pass."""
        _, wanted = self.masked(inputs, seeds.to(inputs.ids.device))
        return int(wanted.sum()), int((~self.get_buffer("special")[inputs.ids]).sum())

    def forward(self, inputs: Inputs, seeds: Tensor) -> Tensor:
        """(2,) the sums of the encoder's and of the decoder's loss over the tokens of B texts.

        seeds (B,) int32 from `text_seeds`. Divided by the numbers of tokens of a whole batch
        (`counts`, summed), those of micro-batches and devices add up to the means of the whole.
        """
        ids, layout, trunk = inputs.ids, inputs.layout, self.backbone
        seeds = seeds.to(ids.device)
        masked, wanted = self.masked(inputs, seeds)
        states = trunk(masked, layout)  # 1
        cls = states[layout.firsts]  # (B, H)
        embedded = trunk.embed(ids, layout)  # 2
        keys = embedded.index_copy(0, layout.firsts, cls.to(embedded.dtype))
        queries = cls[owners(layout)] + trunk.position_embeddings(trunk.rows(ids, layout))
        rebuilt = self.decoder(queries, keys, layout, seeds)
        content = ~self.get_buffer("special")[ids]
        words = trunk.word_embeddings.weight
        encoder = self.head(states[wanted], words, ids[wanted])
        decoder = self.head(rebuilt[content], words, ids[content])
        return torch.stack((encoder.sum(), decoder.sum()))


def owners(layout: Layout) -> Tensor:
    """The text of each token, (N,)."""
    counts = torch.diff(layout.offsets.long())
    return torch.repeat_interleave(
        torch.arange(len(counts), device=counts.device), counts, output_size=layout.tokens
    )


# Cross entropy over a large vocabulary


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
