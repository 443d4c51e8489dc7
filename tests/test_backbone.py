"""The trunk: padding, grouping and packing never change a state; the reference agrees."""

import copy

import pytest
import torch

from tercet.errors import InputError, ModelError
from tercet.model import (
    Backbone,
    BackboneConfig,
    Layout,
    PackedLayer,
    attend_in_blocks,
    attend_plainly,
    from_published,
    packs,
    to_published,
)

CONFIG = BackboneConfig(
    vocabulary=90, hidden=32, layers=3, heads=4, feed_forward=64, positions=130, dropout=0.1
)
LENGTHS = [3, 17, 17, 2, 60, 16, 128]


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
def ids() -> torch.Tensor:
    return torch.randint(4, 90, (sum(LENGTHS),), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def states(backbone: Backbone, ids: torch.Tensor, padding: float) -> torch.Tensor:
    out: torch.Tensor = backbone(ids, Layout(LENGTHS, padding=padding))
    return out


def test_batch_mates_and_padding_do_not_matter(trunk: Backbone, ids: torch.Tensor) -> None:
    with torch.no_grad():
        want = torch.cat([trunk(part, Layout([len(part)])) for part in ids.split(LENGTHS)])
    assert want.std() > 0.5
    for padding in (0.0, 0.15, 100.0):
        torch.testing.assert_close(states(trunk, ids, padding), want, rtol=0, atol=1e-5)
    assert any(group.mask is not None for group in Layout(LENGTHS, padding=100.0).groups)
    assert all(group.mask is None for group in Layout(LENGTHS, padding=0.0).groups)


def test_gradients_pass_through_padding(trunk: Backbone, ids: torch.Tensor) -> None:
    grads = []
    for padding in (0.0, 100.0):
        model = copy.deepcopy(trunk)
        model(ids, Layout(LENGTHS, padding=padding)).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)


def test_dropout_is_of_training_alone(trunk: Backbone, ids: torch.Tensor) -> None:
    model = copy.deepcopy(trunk)
    still = states(model, ids, 0.0)
    torch.testing.assert_close(states(model, ids, 0.0), still)
    moving = states(model.train(), ids, 0.0)
    assert (moving - still).abs().max() > 0.01


def test_packed_layers_give_the_same_states(trunk: Backbone, ids: torch.Tensor) -> None:
    if not packs(trunk.word_embeddings.weight):
        pytest.skip("no oneDNN here")
    packed = copy.deepcopy(trunk)
    packed.pack()
    assert all(isinstance(layer, PackedLayer) for layer in packed.layers)
    with torch.inference_mode():
        got = packed(ids, Layout(LENGTHS, padding=0.0))
    torch.testing.assert_close(got, states(trunk, ids, 0.0), rtol=0, atol=1e-5)
    if packs(trunk.word_embeddings.weight.bfloat16()):
        half = copy.deepcopy(trunk).bfloat16()
        half.pack()
        with torch.inference_mode():
            got = half(ids, Layout(LENGTHS, padding=0.0)).float()
        alike = torch.cosine_similarity(got, states(trunk, ids, 0.0), dim=-1)
        assert alike.min() > 0.995


@pytest.mark.parametrize("shape", [(3, 2, 4, 33, 8), (3, 1, 2, 1100, 16), (3, 700, 2, 5, 8)])
def test_attention_in_blocks_is_attention(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    q, k, v = split.unbind(0)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    for scores in (1 << 20, 5000, 1):
        monkeypatch.setattr("tercet.model.SCORES", scores)
        torch.testing.assert_close(attend_in_blocks(split), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_is_attention_with_its_gradient(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    split = torch.randn(3, 3, 2, 17, 8, generator=generator).requires_grad_()
    q, k, v = split.unbind(0)
    lengths = torch.tensor([17, 9, 4])
    seen = (torch.arange(17) < lengths[:, None])[:, None, None, :]
    mask = seen if masked else None
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    pull = torch.randn(want.shape, generator=generator)
    (wanted,) = torch.autograd.grad((want * pull).sum(), split)
    got = attend_plainly(split, mask)
    (found,) = torch.autograd.grad((got * pull).sum(), split)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


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


def test_transformers_gives_the_same_states(trunk: Backbone, ids: torch.Tensor) -> None:
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
    with pytest.raises(InputError, match="129 tokens; this model has positions for 128"):
        trunk(torch.zeros(129, dtype=torch.int64), Layout([129]))
    for lengths in ([], [3, 0]):
        with pytest.raises(InputError, match="at least one"):
            Layout(lengths)
    with pytest.raises(ModelError, match="layers must be at least 1, got 0"):
        BackboneConfig(layers=0)
    with pytest.raises(ModelError, match="not a multiple of 5"):
        BackboneConfig(heads=5)
