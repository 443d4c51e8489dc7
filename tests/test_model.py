"""The model: packing and padding change no state; attention, dropout, heads by their formulas."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercet.errors import InputError, ModelError
from tercet.layout import BackboneConfig
from tercet.model import (
    AttentionWithDropout,
    Backbone,
    Inputs,
    Layout,
    M3Model,
    MultiHead,
    PackedLayer,
    PackedLinear,
    SparseHead,
    attend_in_blocks,
    attend_plainly,
    attention,
    dense_vectors,
    from_published,
    mean_vectors,
    packs,
    to_published,
)
from tercet.tokenizer import Tokenizer

CONFIG = BackboneConfig(
    vocabulary=90, hidden=32, layers=3, heads=4, feed_forward=64, positions=130, dropout=0.1
)
LENGTHS = [3, 17, 17, 2, 60, 16, 128]
TEXTS = ["the river and the mountain", "", "<s> la <pad> ciudad </s> de agua ☃", "sea"]


@pytest.fixture(scope="module")
def trunk() -> Backbone:
    torch.manual_seed(1)
    backbone = Backbone(CONFIG)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.2)
    return backbone.eval()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(4, 90, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def states(backbone: Backbone, ids: Tensor, padding: float = 0.0) -> Tensor:
    out: Tensor = backbone(ids, Layout(LENGTHS, padding=padding))
    return out


def gradients(model: Backbone, ids: Tensor, padding: float = 0.0) -> list[Any]:
    model(ids, Layout(LENGTHS, padding=padding)).square().mean().backward()
    return [parameter.grad for parameter in model.parameters()]


# The trunk.


def test_batch_mates_and_padding_do_not_matter(trunk: Backbone, ids: Tensor) -> None:
    with torch.no_grad():
        want = torch.cat([trunk(part, Layout([len(part)])) for part in ids.split(LENGTHS)])
    assert want.std() > 0.5
    for padding in (0.0, 0.15, 100.0):
        torch.testing.assert_close(states(trunk, ids, padding), want, rtol=0, atol=1e-5)
    assert any(group.mask is not None for group in Layout(LENGTHS, padding=100.0).groups)
    assert all(group.mask is None for group in Layout(LENGTHS, padding=0.0).groups)


def test_gradients_pass_through_padding(trunk: Backbone, ids: Tensor) -> None:
    plain, padded = (gradients(copy.deepcopy(trunk), ids, padding) for padding in (0.0, 100.0))
    for left, right in zip(plain, padded, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)


def test_packed_layers_give_the_same_states(trunk: Backbone, ids: Tensor) -> None:
    if not packs(trunk.word_embeddings.weight):
        pytest.skip("no oneDNN here")
    packed = copy.deepcopy(trunk)
    packed.pack()
    assert all(isinstance(layer, PackedLayer) for layer in packed.layers)
    with torch.inference_mode():
        got = packed(ids, Layout(LENGTHS, padding=0.0))
    torch.testing.assert_close(got, states(trunk, ids), rtol=0, atol=1e-5)
    if packs(trunk.word_embeddings.weight.bfloat16()):
        half = copy.deepcopy(trunk).bfloat16()
        half.pack()
        with torch.inference_mode():
            got = half(ids, Layout(LENGTHS, padding=0.0)).float()
        assert torch.cosine_similarity(got, states(trunk, ids), dim=-1).min() > 0.995


def test_published_names_go_there_and_back(trunk: Backbone) -> None:
    state = trunk.state_dict()
    published = to_published(state, CONFIG.layers)
    assert all(tensor.is_contiguous() for tensor in published.values())
    back = from_published(published, CONFIG.layers)
    assert back.keys() == state.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name
    del published["encoder.layer.2.output.dense.bias"]
    with pytest.raises(ModelError, match=r"layer\.2\.output\.dense\.bias"):
        from_published(published, CONFIG.layers)


def test_transformers_gives_the_same_states(trunk: Backbone, ids: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.XLMRobertaConfig(
        vocab_size=90,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=CONFIG.norm_eps,
    )
    theirs = transformers.XLMRobertaModel(config, add_pooling_layer=False).eval()
    missing, unexpected = theirs.load_state_dict(to_published(trunk.state_dict(), 3), strict=False)
    assert not unexpected
    assert all("position_ids" in name or "token_type_ids" in name for name in missing)
    ours = states(trunk, ids, 0.15)
    with torch.no_grad():
        for part, mine in zip(ids.split(LENGTHS), ours.split(LENGTHS), strict=True):
            want = theirs(part[None], attention_mask=torch.ones(1, len(part))).last_hidden_state[0]
            torch.testing.assert_close(mine, want, rtol=0, atol=1e-5)


def test_what_a_trunk_cannot_take(trunk: Backbone) -> None:
    assert CONFIG.max_length == 128
    with pytest.raises(InputError, match="positions for 128"):
        trunk(torch.zeros(129, dtype=torch.int64), Layout([129]))
    for lengths in ([], [3, 0]):
        with pytest.raises(InputError):
            Layout(lengths)
    wrong: dict[str, Any] = {"layers": 0, "heads": 5, "attention_dropout": 1.0}
    for name, bad in wrong.items():
        with pytest.raises(ModelError, match=name):
            replace(CONFIG, **{name: bad})


# Attention, and dropout on its probabilities.


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(lengths: Sequence[int]) -> Tensor:
    """(texts, 1, 1, T) True where a token is."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[:, None, None, :]


def attended(split: Tensor, mask: Tensor | None = None) -> Tensor:
    """What torch's own attention gives."""
    return F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask)


def dropped(split: Tensor, mask: Tensor | None, share: float, scores: int, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    out: Tensor = AttentionWithDropout.apply(split, mask, share, scores)
    return out


ATTENTION: dict[str, Callable[..., Tensor]] = {
    "plain": lambda split, mask: attend_plainly(split, mask),
    "dropout of 0": lambda split, mask: dropped(split, mask, 0.0, 1 << 20),
    "dropout of 0, small blocks": lambda split, mask: dropped(split, mask, 0.0, 1),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_attention_with_its_gradient(name: str, masked: bool) -> None:
    split = drawn(3, 3, 2, 80, 8).requires_grad_()
    mask = seen([80, 9, 4]) if masked else None
    want = attended(split, mask)
    pull = drawn(*want.shape, seed=1)
    got = ATTENTION[name](split, mask)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    slopes = [torch.autograd.grad((out * pull).sum(), split)[0] for out in (got, want)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 4, 33, 8), (3, 1, 2, 1100, 16), (3, 700, 2, 5, 8)])
@pytest.mark.parametrize("scores", [1 << 20, 5000, 1])
def test_attention_in_blocks_is_attention(shape: tuple[int, ...], scores: int) -> None:
    split = drawn(*shape)
    want = attended(split)
    torch.testing.assert_close(attend_in_blocks(split, scores=scores), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scores", [1 << 20, 5000, 1])
def test_dropout_is_that_of_plain_attention(masked: bool, scores: int) -> None:
    share, tokens = 0.3, 80
    q, k, v = drawn(3, 3, 2, tokens, tokens)
    mask = seen([tokens, 70, 9]) if masked else None
    # values of one unit vector a token show the probabilities themselves
    unit = torch.eye(tokens).expand_as(v)
    stays = dropped(torch.stack((q, k, unit)), mask, share, scores) > 0
    split = torch.stack((q, k, v)).requires_grad_()
    q, k, v = split.unbind(0)
    weights = q @ k.transpose(-1, -2) * tokens**-0.5
    real = torch.ones(3, 1, 1, tokens, dtype=torch.bool) if mask is None else mask
    weights = weights.masked_fill(~real, -torch.inf).softmax(-1)
    want = (weights * stays / (1 - share)) @ v
    got = dropped(split, mask, share, scores)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    pull = drawn(*want.shape, seed=1)
    slopes = [torch.autograd.grad((out * pull).sum(), split)[0] for out in (got, want)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-3)
    # as many are dropped as the share says, evenly, and others with another seed
    chosen = real.expand_as(stays)
    assert stays[chosen].double().mean().item() == pytest.approx(1 - share, abs=0.01)
    assert (1 - stays.double().mean((0, 1, 2))[:9] - share).abs().max() < 0.1
    assert not torch.equal(dropped(split, mask, share, scores, seed=6), got)


@pytest.mark.parametrize("padding", [0.0, 100.0])
def test_with_dropout_a_text_still_sees_itself_alone(padding: float) -> None:
    layout = Layout(LENGTHS, padding=padding)
    qkv = drawn(layout.tokens, 96).requires_grad_()
    outs = attention(qkv, layout, 4, 0.5).split(LENGTHS)
    for text, out in enumerate(outs):
        (slope,) = torch.autograd.grad(out.square().sum(), qkv, retain_graph=True)
        moved = [bool(part.any()) for part in slope.split(LENGTHS)]
        assert moved == [other == text for other in range(len(LENGTHS))]


def test_dropout_is_of_training_alone(trunk: Backbone, ids: Tensor) -> None:
    model = copy.deepcopy(trunk)
    still = states(model, ids)
    model.set_dropout(0.0)
    assert torch.equal(states(model.train(), ids), still)  # none costs and changes nothing
    for kind in ("dropout", "attention_dropout"):
        for layer in model.layers:
            setattr(layer, kind, 0.3)
        assert torch.equal(states(model.eval(), ids), still)
        assert (states(model.train(), ids) - still).abs().max() > 0.01
        model.set_dropout(0.0)


def test_checkpointing_draws_the_same_dropout(trunk: Backbone, ids: Tensor) -> None:
    found = []
    for checkpointing in (False, True):
        model = copy.deepcopy(trunk).train()
        model.checkpointing = checkpointing
        torch.manual_seed(3)
        found.append(gradients(model, ids))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_what_dropout_keeps_for_the_backward_pass_grows_with_the_text() -> None:
    held = []
    for tokens in (500, 1000):
        split = drawn(3, 1, 2, tokens, 8).requires_grad_()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1],  # type: ignore[misc]
            lambda t: t,
        ):
            dropped(split, None, 0.1, 1 << 16)
        held.append(sum(sizes))
    assert held[0] > 0
    assert held[1] == 2 * held[0]


# The heads.

STATES = drawn(12, 8)


def norm(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=-1)


def test_heads_are_their_formulas() -> None:
    firsts = torch.tensor([0, 5, 6])
    got = dense_vectors(STATES.bfloat16(), firsts)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, norm(STATES.bfloat16().float()[firsts]), rtol=0, atol=1e-6)
    positions, owners = torch.tensor([0, 1, 2, 7, 9]), torch.tensor([0, 0, 0, 1, 1])
    got = mean_vectors(STATES, positions, owners, 3)
    torch.testing.assert_close(got[0], norm(STATES[:3].mean(0)), rtol=0, atol=1e-6)
    torch.testing.assert_close(got[1], norm(STATES[[7, 9]].mean(0)), rtol=0, atol=1e-6)
    assert not got[2].any()  # a row that owns nothing
    torch.manual_seed(1)
    sparse, multi = SparseHead(8), MultiHead(8, 3)
    want = torch.clamp(STATES.double() @ sparse.weight[0].double() + sparse.bias.double(), min=0)
    got = sparse(STATES)
    assert (got > 0).any()
    assert (got == 0).any()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)
    want = norm(STATES.double() @ multi.weight.double().T + multi.bias.double())
    torch.testing.assert_close(multi(STATES).double(), want, rtol=0, atol=1e-6)
    assert multi.bfloat16()(STATES.bfloat16()).dtype == torch.float32


def test_outputs(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS)
    inputs = Inputs.of(batch)
    with torch.inference_mode():
        outputs = tiny_model(inputs, ("dense", "sparse", "multi"))
        last = tiny_model.backbone(inputs.ids, inputs.layout)
    assert outputs.dense.shape == (4, 32)
    assert outputs.multi.shape == (len(batch.ids), 16)
    torch.testing.assert_close(outputs.dense, dense_vectors(last, inputs.layout.firsts))
    special = torch.isin(inputs.ids, torch.from_numpy(tokenizer.weightless_ids))
    assert special.sum() > 2 * len(TEXTS)  # literal special tokens and an unknown one
    assert not outputs.weights[special].any()
    assert (outputs.weights[~special] > 0).any()
    # the [CLS] that we put there is no vector; one that stands in the text is
    assert (~outputs.multi_mask).nonzero().squeeze(1).tolist() == batch.offsets[:-1].tolist()
    assert (inputs.ids[outputs.multi_mask] == tokenizer.cls_id).any()


def test_mcls_is_the_mean_of_every_cls_state(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS, mcls=2)
    assert len(batch.cls) > len(TEXTS)
    inputs = Inputs.of(batch)
    with torch.inference_mode():
        outputs = tiny_model(inputs, ("dense",))
        last = tiny_model.backbone(inputs.ids, inputs.layout)
    for row in range(len(TEXTS)):
        start, end = batch.offsets[row : row + 2]
        own = [c for c in batch.cls.tolist() if start <= c < end]
        torch.testing.assert_close(outputs.dense[row], norm(last[own].mean(0)), rtol=0, atol=1e-5)
    assert (~outputs.multi_mask).sum() == len(batch.cls)


def test_only_heads_that_are_there_and_asked_for(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    inputs = Inputs.of(tokenizer.encode(TEXTS))
    with torch.inference_mode():
        outputs = tiny_model(inputs, ("sparse",))
    assert outputs.dense is None
    assert outputs.multi is None
    assert outputs.weights is not None
    bare = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), sparse=False)
    assert bare.heads == ("dense",)
    with pytest.raises(ModelError, match="no sparse head"):
        bare(inputs, ("dense", "sparse"))


def test_every_parameter_learns(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    model = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), multi=16)
    outputs = model.train()(Inputs.of(tokenizer.encode(TEXTS)), model.heads)
    (outputs.dense[:, 0].sum() + outputs.weights.sum() + outputs.multi[:, 0].sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks the system for its memory")
def test_shapes_leave_no_memory_behind() -> None:
    """Without bounds on oneDNN's caches: one layout of the weight, 4 MB, for each shape."""
    linear = PackedLinear(nn.Linear(512, 2048))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

    with torch.inference_mode():
        linear(torch.ones(600, 512))
        before = resident()
        for tokens in range(1, 600):
            linear(torch.ones(tokens, 512))
    assert resident() - before < 800
