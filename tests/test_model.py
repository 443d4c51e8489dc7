"""The model: heads that are there, [CLS] under MCLS, ids that never weigh."""

import pytest
import torch

from tercet.errors import ModelError
from tercet.model import Inputs, M3Model, dense_vectors
from tercet.tokenizer import Tokenizer

TEXTS = ["the river and the mountain", "", "<s> la <pad> ciudad </s> de agua ☃", "sea"]


def test_outputs(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS)
    inputs = Inputs.of(batch)
    with torch.inference_mode():
        outputs = tiny_model(inputs, ("dense", "sparse", "multi"))
        states = tiny_model.backbone(inputs.ids, inputs.layout)
    assert outputs.dense.shape == (4, 32)
    assert outputs.multi.shape == (len(batch.ids), 16)
    torch.testing.assert_close(outputs.dense, dense_vectors(states, inputs.layout.firsts))
    special = torch.isin(inputs.ids, torch.from_numpy(tokenizer.weightless_ids))
    assert special.sum() > 2 * len(TEXTS)  # literal special tokens and an unknown one
    assert not outputs.weights[special].any()
    assert (outputs.weights[~special] > 0).any()
    # the [CLS] that we put there is no vector; one that stands in the text is
    assert (~outputs.multi_mask).nonzero().squeeze(1).tolist() == batch.offsets[:-1].tolist()
    assert (inputs.ids[outputs.multi_mask] == tokenizer.cls_id).any()


def test_only_what_was_asked(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    with torch.inference_mode():
        outputs = tiny_model(Inputs.of(tokenizer.encode(TEXTS)), ("sparse",))
    assert outputs.dense is None
    assert outputs.multi is None
    assert outputs.weights is not None


def test_mcls_is_the_mean_of_every_cls_state(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode(TEXTS, mcls=2)
    assert len(batch.cls) > len(TEXTS)
    inputs = Inputs.of(batch)
    with torch.inference_mode():
        outputs = tiny_model(inputs, ("dense",))
        states = tiny_model.backbone(inputs.ids, inputs.layout)
    for row in range(len(TEXTS)):
        start, end = batch.offsets[row : row + 2]
        mine = [c for c in batch.cls.tolist() if start <= c < end]
        want = torch.nn.functional.normalize(states[mine].mean(0), dim=-1)
        torch.testing.assert_close(outputs.dense[row], want, rtol=0, atol=1e-5)
    assert (~outputs.multi_mask).sum() == len(batch.cls)


def test_lacking_heads(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    bare = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), sparse=False)
    assert bare.heads == ("dense",)
    with pytest.raises(ModelError, match="no sparse head"):
        bare(Inputs.of(tokenizer.encode(["sea"])), ("dense", "sparse"))


def test_every_parameter_learns(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    model = M3Model(tiny_model.backbone.config, tokenizer.weightless_ids.tolist(), multi=16)
    outputs = model.train()(Inputs.of(tokenizer.encode(TEXTS)), model.heads)
    (outputs.dense[:, 0].sum() + outputs.weights.sum() + outputs.multi[:, 0].sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
