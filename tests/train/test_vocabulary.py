"""Pruning keeps what the corpus uses, every single character, and the places of special ids."""

import json
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.tokens import Tokenizer
from tercet.train.vocabulary import document_frequency, prune


@pytest.fixture
def source(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    return path


def test_a_pruned_tokenizer_spells_out_what_it_lost(source: Path, tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river and the sea", "the river", "bread"])
    singles = sum(len(piece.removeprefix("▁")) <= 1 for piece in tokenizer.backend.get_vocab())
    content = prune(source, counts, singles + 5 + 2)
    source.write_text(json.dumps(content), encoding="utf-8")
    small = Tokenizer.from_file(source)
    assert small.vocabulary == singles + 5 + 2
    assert [small.cls_id, small.pad_id, small.eos_id, small.unk_id] == [0, 1, 2, 3]
    assert small.backend.token_to_id("<mask>") == small.vocabulary - 1
    pieces = [small.backend.id_to_token(i) for i in small.contents(["the river bread"])[0]]
    assert pieces == ["▁the", "▁river", "▁", "b", "r", "e", "a", "d"]


def test_too_small_a_vocabulary_is_refused(source: Path, tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river"])
    with pytest.raises(InputError, match="single characters"):
        prune(source, counts, 20)
