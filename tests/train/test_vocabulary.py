"""Pruning keeps what the corpus uses, every single character, and the places of special ids."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from tercet.errors import InputError, ModelError
from tercet.tokens import Tokenizer
from tercet.train import vocabulary
from tercet.train.vocabulary import document_frequency, prune_tokenizer, pruned

TEXTS = ["the river and the sea", "the river", "bread", "水山 river ☃ 日本", "de la ciudad"]


def singles(tokenizer: Tokenizer) -> int:
    return sum(len(piece.removeprefix("▁")) <= 1 for piece in tokenizer.backend.get_vocab())


def test_a_pruned_tokenizer_spells_out_what_it_lost(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river and the sea", "the river", "bread"])
    size = singles(tokenizer) + 5 + 2
    small, _ = prune_tokenizer(tokenizer, counts, size)
    assert small.vocabulary == size
    assert [small.cls_id, small.pad_id, small.eos_id, small.unk_id] == [0, 1, 2, 3]
    assert small.backend.token_to_id("<mask>") == small.vocabulary - 1
    pieces = [small.backend.id_to_token(i) for i in small.contents(["the river bread"])[0]]
    assert pieces == ["▁the", "▁river", "▁", "b", "r", "e", "a", "d"]


def test_the_corpus_itself_is_cut_as_before(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, TEXTS)
    small, rows = prune_tokenizer(tokenizer, counts, tokenizer.vocabulary)
    assert small.vocabulary == len(rows) < tokenizer.vocabulary
    for new, old in enumerate(rows.tolist()):
        assert small.backend.id_to_token(new) == tokenizer.backend.id_to_token(old)
    assert (np.diff(rows) > 0).all()  # so vectors by id keep their order
    for after, before in zip(small.contents(TEXTS), tokenizer.contents(TEXTS), strict=True):
        assert rows[after].tolist() == before
    other = small.contents(["mountain"])[0]
    assert rows[other].tolist() != tokenizer.contents(["mountain"])[0]


def test_documents_are_counted_once_in_any_block(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = document_frequency(tokenizer, TEXTS)
    place = tokenizer.backend.token_to_id
    assert counts[place("▁the")] == 2
    assert counts[place("▁river")] == 3
    for name, size in (("BLOCK", 2), ("CHARACTERS", 10)):
        monkeypatch.setattr(vocabulary, name, size)
        assert np.array_equal(document_frequency(tokenizer, TEXTS), counts)


def test_added_tokens_stay_behind_the_pieces(tokenizer: Tokenizer) -> None:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens([AddedToken("[QUERY]", normalized=False), AddedToken("▁the")])
    more = Tokenizer(backend)
    assert more.vocabulary == tokenizer.vocabulary + 1
    small, rows = prune_tokenizer(more, document_frequency(more, ["bread"]), more.vocabulary)
    assert small.backend.token_to_id("[QUERY]") == small.vocabulary - 1
    assert rows[-1] == more.vocabulary - 1
    assert small.backend.token_to_id("▁the") is not None
    text = ["[QUERY] bread"]
    assert rows[small.contents(text)[0]].tolist() == more.contents(text)[0]


def test_the_lowest_score_stays_for_the_unknowns_sake(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.backend.to_str())
    number = next(n for n, (piece, _) in enumerate(content["model"]["vocab"]) if piece == "▁queen")
    content["model"]["vocab"][number][1] = -50.0
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    kept = [piece for piece, _ in pruned(content, counts, 1000).content["model"]["vocab"]]
    assert "▁queen" in kept
    assert "▁king" not in kept


def test_what_cannot_be_pruned_is_refused(tokenizer: Tokenizer) -> None:
    counts = document_frequency(tokenizer, ["the river"])
    with pytest.raises(InputError, match="single characters"):
        prune_tokenizer(tokenizer, counts, 20)
    with pytest.raises(InputError, match="counts for a vocabulary"):
        prune_tokenizer(tokenizer, counts[:-1], 200)
    with pytest.raises(ModelError, match="only Unigram"):
        pruned({"model": {"type": "BPE"}}, counts, 200)
