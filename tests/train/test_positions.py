"""A longer table of positions changes nothing within the old length."""

import copy

import torch

from tercet.checkpoint import read_checkpoint, write_checkpoint
from tercet.model import Layout, M3Model
from tercet.tokenizer import Tokenizer
from tercet.train.positions import extend_positions


def test_old_texts_keep_their_states_and_new_ones_are_read(tiny_model: M3Model) -> None:
    old = tiny_model.backbone
    new = copy.deepcopy(old)
    assert extend_positions(new, 8194)
    assert new.config.positions == 8194
    assert new.config.max_length == 8192
    lengths = [510, 3, 40]
    ids = torch.randint(5, old.config.vocabulary, (sum(lengths),))
    with torch.inference_mode():
        expected, found = old(ids, Layout(lengths)), new(ids, Layout(lengths))
        assert torch.equal(expected, found)
        long = new(torch.randint(5, old.config.vocabulary, (600,)), Layout([600]))
    assert long.isfinite().all()


def test_learned_rows_repeat_and_the_first_ones_do_not(tiny_model: M3Model) -> None:
    new = copy.deepcopy(tiny_model.backbone)
    old = new.position_embeddings.weight.clone()  # 512 rows: 0 and 1 (pad), then 510 learned ones
    extend_positions(new, 1300)
    table = new.position_embeddings.weight
    assert torch.equal(table[:512], old)
    assert torch.equal(table[512:1022], old[2:])
    assert torch.equal(table[1022:], old[2 : 2 + 278])
    assert table.requires_grad == old.requires_grad


def test_a_table_that_is_long_enough_stays(tiny_model: M3Model, tokenizer: Tokenizer) -> None:
    new = copy.deepcopy(tiny_model.backbone)
    table = new.position_embeddings.weight
    assert not extend_positions(new, 512)
    assert not extend_positions(new, 100)
    assert new.position_embeddings.weight is table


def test_an_extended_model_is_written_and_read(
    tiny_model: M3Model, tokenizer: Tokenizer, tmp_path
) -> None:
    new = copy.deepcopy(tiny_model)
    extend_positions(new.backbone, 1000)
    write_checkpoint(tmp_path / "long", new, tokenizer)
    read = read_checkpoint(tmp_path / "long")
    assert read.model.backbone.config.max_length == 998
    assert torch.equal(
        read.model.backbone.position_embeddings.weight, new.backbone.position_embeddings.weight
    )
