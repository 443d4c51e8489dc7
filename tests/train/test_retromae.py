"""RetroMAE: what each position sees, that batch mates do not matter, and that it learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.errors import ModelError
from tercet.layout import BackboneConfig
from tercet.model import Backbone, Inputs, Layout
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.config import RetroConfig
from tercet.train.retromae import (
    Decoder,
    LanguageHead,
    RetroMAE,
    blockwise_cross_entropy,
    owners,
    seen,
    text_seeds,
)

TEXTS = [
    "the river and the mountain",
    "bread",
    "la ciudad de agua y la historia de la casa del mundo",
    "king and queen in the garden of the night, by the sea with a ship and a star",
    "",
    "water light music science people world language year house school",
]


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> BackboneConfig:
    return BackboneConfig(
        vocabulary=tokenizer.vocabulary,
        hidden=32,
        layers=1,
        heads=2,
        feed_forward=64,
        positions=130,
        dropout=0.0,
        attention_dropout=0.0,
    )


def make(config: BackboneConfig, tokenizer: Tokenizer, *, encoder_mask: float = 0.3) -> RetroMAE:
    torch.manual_seed(0)
    return RetroMAE(
        Backbone(config),
        RetroConfig(encoder_mask=encoder_mask),
        mask_id=tokenizer.backend.token_to_id("<mask>"),
        special_ids=tokenizer.weightless_ids.tolist(),
    )


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> TokenBatch:
    return tokenizer.encode(TEXTS)


@pytest.fixture(scope="module")
def seeds() -> Tensor:
    return text_seeds(1, 2, np.arange(len(TEXTS)))


# the loss over words


@pytest.mark.parametrize("block", [1, 4, 7, 100, None])
def test_blocks_have_the_loss_and_gradients_of_the_whole(block: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"states": (7, 5), "words": (11, 5), "bias": (11,)}
    made = {k: torch.randn(*s, generator=generator, dtype=torch.float64) for k, s in sizes.items()}
    targets = torch.randint(11, (7,), generator=generator)
    scale = torch.rand(7, generator=generator)

    def run(blockwise: bool) -> tuple[Tensor, list[Tensor]]:
        states, words, bias = (t.float().requires_grad_() for t in made.values())
        if blockwise:
            losses = blockwise_cross_entropy(states, words, bias, targets, block)
        else:
            losses = F.cross_entropy(states @ words.T + bias, targets, reduction="none")
        grads = torch.autograd.grad((losses * scale).sum(), (states, words, bias))
        return losses, list(grads)

    (losses, grads), (expected, wanted) = run(True), run(False)
    torch.testing.assert_close(losses, expected)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want)
        assert want.abs().max() > 0.01


def test_no_tokens_lose_nothing() -> None:
    words = torch.randn(5, 4, requires_grad=True)
    losses = blockwise_cross_entropy(
        torch.empty(0, 4), words, torch.zeros(5), torch.empty(0, dtype=torch.int64)
    )
    losses.sum().backward()
    assert losses.shape == (0,)
    assert words.grad is not None
    assert not words.grad.any()


def test_autocast_takes_its_products_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    states, words = torch.randn(50, 16), (0.3 * torch.randn(64, 16)).requires_grad_()
    targets, bias = torch.randint(64, (50,)), torch.zeros(64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = blockwise_cross_entropy(states, words, bias, targets, 8)
    losses.sum().backward()
    exact = F.cross_entropy(states @ words.T + bias, targets, reduction="none")
    assert words.grad is not None
    assert losses.dtype == words.grad.dtype == torch.float32
    assert 0 < (losses - exact).abs().max() < 0.1


# masks


def test_a_position_sees_its_own_part_of_the_others_and_never_itself() -> None:
    seeds = text_seeds(0, 0, np.arange(4))
    mask = seen(seeds, 0, 200, 200, 0.5)
    assert mask[..., 0].all()
    assert not mask.diagonal(dim1=1, dim2=2)[:, 1:].any()
    off = ~torch.eye(200, dtype=torch.bool)
    off[:, 0] = False
    for one in mask:
        assert 0.48 < one[off].float().mean() < 0.52
        rows = one[1:, 1:].float() - 0.5
        likeness = (rows @ rows.T / 49.75).fill_diagonal_(0)
        assert likeness.abs().max() < 0.4  # every row is a draw of its own: sd is 0.07
    assert (mask[0] ^ mask[1])[off].float().mean() > 0.45
    assert 0.18 < seen(seeds, 0, 200, 200, 0.8)[0][off].float().mean() < 0.22
    # a block of rows is those rows of the whole
    assert torch.equal(seen(seeds, 60, 30, 200, 0.5), mask[:, 60:90])


def test_special_tokens_are_neither_masked_nor_predicted(
    config: BackboneConfig, tokenizer: Tokenizer
) -> None:
    model = make(config, tokenizer, encoder_mask=0.9)
    batch = Inputs.of(tokenizer.encode([*TEXTS, "<s> </s> <mask> <pad> bread stone"]))
    seeds = text_seeds(0, 1, np.arange(len(TEXTS) + 1))
    masked, wanted = model.masked(batch, seeds)
    special = model.get_buffer("special")[batch.ids]
    assert not (wanted & special).any()
    assert torch.equal(masked[~wanted], batch.ids[~wanted])
    assert model.counts(batch, seeds) == (int(wanted.sum()), int((~special).sum()))
    assert int(wanted.sum()) > 0.6 * int((~special).sum())
    assert not model.get_buffer("special")[masked[wanted & (masked != model.mask_id)]].any()


def test_shares_of_what_is_masked(config: BackboneConfig, tokenizer: Tokenizer) -> None:
    model = make(config, tokenizer, encoder_mask=0.3)
    ids = [[int(number) for number in np.arange(100) + 4]] * 100
    batch = Inputs.of(tokenizer.frame(ids, max_length=120))
    masked, wanted = model.masked(batch, text_seeds(0, 0, np.arange(100)))
    assert 0.28 < wanted.float().sum() / 10_000 < 0.32
    changed = masked[wanted]
    hidden = (changed == model.mask_id).float().mean()
    kept = (changed == batch.ids[wanted]).float().mean()
    assert 0.77 < hidden < 0.83
    assert 0.08 < kept < 0.13
    other = model.masked(batch, text_seeds(0, 1, np.arange(100)))[1]
    assert (other ^ wanted).any()


def test_a_tokenizer_without_mask_is_refused(config: BackboneConfig) -> None:
    with pytest.raises(ModelError, match="<mask>"):
        RetroMAE(Backbone(config), RetroConfig(), mask_id=None, special_ids=[0])


# the decoder


@pytest.mark.parametrize("blocks", [1 << 22, 64])
def test_the_decoder_sees_cls_and_never_itself(config: BackboneConfig, blocks: int) -> None:
    torch.manual_seed(1)
    decoder = Decoder(config, 0.5, pairs=blocks).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layout = Layout([9, 12, 12, 5], padding=0.9)
    assert any(group.mask is not None for group in layout.groups)
    queries, keys = torch.randn(38, 32), torch.randn(38, 32)
    seeds = text_seeds(3, 0, np.arange(4))
    before = decoder(queries, keys, layout, seeds)
    text = owners(layout)
    reached = 0
    for place in range(38):
        moved = keys.clone()
        moved[place] += 1.0
        change = (decoder(queries, moved, layout, seeds) - before).abs().amax(1)
        others = text != text[place]
        assert not change[others].any()
        others[place] = place not in layout.firsts
        assert not change[others].any()
        same = (text == text[place]) & (torch.arange(38) != place)
        if place in layout.firsts:
            assert (change[same] > 1e-6).all()  # everyone sees [CLS]
        else:
            reached += int((change[same] > 1e-6).sum())
    possible = sum(n * (n - 1) for n in layout.lengths)
    assert 0.3 < reached / possible < 0.7  # and about half of the rest


def test_blocks_and_padding_change_nothing(config: BackboneConfig) -> None:
    torch.manual_seed(1)
    decoder = Decoder(config, 0.5)
    lengths = [9, 12, 12, 5, 30]
    queries, keys = torch.randn(68, 32), torch.randn(68, 32)
    seeds = text_seeds(3, 0, np.arange(5))
    found = []
    for padding, pairs in ((0.0, 1 << 22), (5.0, 1 << 22), (0.0, 40), (5.0, 200)):
        decoder.pairs = pairs
        decoder.zero_grad()
        out = decoder(queries, keys, Layout(lengths, padding=padding), seeds)
        (out * queries).sum().backward()
        grad = decoder.key_value.weight.grad
        assert grad is not None
        found.append((out, grad.clone()))
    for out, grad in found[1:]:
        torch.testing.assert_close(out, found[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(grad, found[0][1], rtol=0, atol=1e-4)
    assert found[0][1].abs().max() > 0.1


# the whole


def losses(model: RetroMAE, batch: TokenBatch, seeds: Tensor) -> Tensor:
    """The mean losses of encoder and decoder, (2,)."""
    inputs = Inputs.of(batch)
    out: Tensor = model(inputs, seeds) / torch.tensor(model.counts(inputs, seeds))
    return out


def gradients(model: RetroMAE) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_micro_batches_add_up_to_the_whole(
    config: BackboneConfig, tokenizer: Tokenizer, batch: TokenBatch, seeds: Tensor
) -> None:
    model = make(config, tokenizer)
    whole = losses(model, batch, seeds)
    whole.sum().backward()
    expected = gradients(model)
    model.zero_grad()
    totals = torch.tensor(model.counts(Inputs.of(batch), seeds))
    order, joined = np.array([5, 0, 3, 1, 4, 2]), torch.zeros(2)
    for texts in (order[:1], order[1:4], order[4:]):
        part = model(Inputs.of(batch.take(texts)), seeds[torch.from_numpy(texts)]) / totals
        part.sum().backward()
        joined += part.detach()
    torch.testing.assert_close(joined, whole.detach())
    found = gradients(model)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, want in expected.items():
        torch.testing.assert_close(found[name], want, rtol=0, atol=1e-5, msg=name)


def test_it_runs_under_autocast(
    config: BackboneConfig, tokenizer: Tokenizer, batch: TokenBatch, seeds: Tensor
) -> None:
    model = make(config, tokenizer)
    exact = losses(model, batch, seeds)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = losses(model, batch, seeds)
    rounded.sum().backward()
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    assert not torch.equal(rounded, exact)
    assert all(grad.isfinite().all() for grad in gradients(model).values())


def test_the_decoder_needs_the_texts_own_cls(
    config: BackboneConfig, tokenizer: Tokenizer, batch: TokenBatch, seeds: Tensor
) -> None:
    """The decoder's loss alone sends a gradient into the trunk's last norm: through [CLS]."""
    model = make(config, tokenizer)
    losses(model, batch, seeds)[1].backward()
    found = gradients(model)
    assert found["backbone.layers.0.norm2.weight"].abs().max() > 0


def test_a_published_language_head_is_taken_over(config: BackboneConfig) -> None:
    head = LanguageHead(config)
    tensors = {
        "dense.weight": torch.randn(32, 32),
        "dense.bias": torch.randn(32),
        "layer_norm.weight": torch.randn(32),
        "layer_norm.bias": torch.randn(32),
        "bias": torch.randn(config.vocabulary),
    }
    assert not head.load_published({})
    assert head.load_published(tensors)
    assert torch.equal(head.norm.weight, tensors["layer_norm.weight"])
    assert torch.equal(head.bias, tensors["bias"])
    with pytest.raises(ModelError, match=r"lm_head\.bias"):
        head.load_published(tensors | {"bias": torch.zeros(3)})
