"""A trained tokenizer has XLM-RoBERTa's special ids and every character of its text."""

import pytest

from tercet.errors import InputError
from tercet.tokens import Tokenizer
from tercet.train.unigram import assemble, train_unigram
from tests.conftest import WORDS

TEXTS = [" ".join(WORDS[at % 90 : at % 90 + 9]) + f" {at} 水山 Ⅳ" for at in range(400)]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_unigram(TEXTS, 120)


def test_special_ids_are_xlm_robertas(trained: Tokenizer) -> None:
    assert [trained.cls_id, trained.pad_id, trained.eos_id, trained.unk_id] == [0, 1, 2, 3]
    assert trained.backend.token_to_id("<mask>") == trained.vocabulary - 1
    assert trained.vocabulary <= 120
    batch = trained.encode(["the river"])
    assert (batch.ids[0], batch.ids[-1]) == (0, 2)


def test_every_character_seen_has_a_piece(trained: Tokenizer) -> None:
    ids = trained.contents(["".join(TEXTS[at : at + 3]) for at in range(0, 400, 3)])
    assert trained.unk_id not in [number for some in ids for number in some]
    assert trained.unk_id in trained.contents(["☃"])[0]
    # and text is normalised: a Roman number is its letters
    assert trained.contents(["Ⅳ"]) == trained.contents(["IV"])
    assert trained.backend.decode(trained.contents(["the river"])[0]) == "the river"


def test_frequent_words_become_pieces(trained: Tokenizer) -> None:
    text = TEXTS[5]
    assert len(trained.contents([text])[0]) < 0.7 * len(text)


def test_it_is_the_same_every_time(trained: Tokenizer) -> None:
    assert train_unigram(TEXTS, 120).backend.to_str() == trained.backend.to_str()


def test_characters_come_before_longer_pieces() -> None:
    made = assemble({"▁the": -1.0, "ab": -2.0, "a": -3.0}, {"▁", "a", "b"}, 4)
    vocab = made.backend.get_vocab()
    assert sorted(vocab, key=lambda piece: vocab[piece])[4:-1] == ["▁the", "a", "b", "▁"]


def test_too_few_ids_and_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="different characters"):
        train_unigram(TEXTS, 20)
    with pytest.raises(InputError, match="there is none"):
        train_unigram([" "], 100)
    assert train_unigram(["lone \ud800 surrogate"], 100).vocabulary > 5
