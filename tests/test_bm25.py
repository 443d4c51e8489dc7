"""BM25: Lucene's formula, two ways to cut texts into terms, and texts cut as the model's are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.bm25 import Subwords, TermIndex, Terms, Words, first_tokens, index, words
from tercet.tokenizer import Tokenizer
from tests.conftest import WORDS

PASSAGES = ["red red stone", "a green stone by the river", "", "red sea"]


def scores(made: TermIndex, *queries: str, once: bool = False) -> np.ndarray:
    found: np.ndarray = (made.queries(queries, once=once) @ made.weights.T).toarray()
    return found


def test_the_formula_is_lucenes() -> None:
    lengths = [len(passage.split()) for passage in PASSAGES]
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))  # "red" is in 2 of 4
    norm = [0.9 * (0.6 + 0.4 * n / (sum(lengths) / 4)) for n in lengths]
    expected = [idf * 2 / (2 + norm[0]), 0.0, 0.0, idf * 1 / (1 + norm[3])]
    made = index(PASSAGES, Words())
    np.testing.assert_allclose(scores(made, "Red")[0], expected, rtol=1e-5)


def test_a_term_counts_as_often_as_the_query_has_it_unless_once() -> None:
    made = index(PASSAGES, Words())
    single, double = scores(made, "red stone", "red RED stone")
    red = scores(made, "red")[0]
    np.testing.assert_allclose(double, single + red, rtol=1e-6)
    np.testing.assert_allclose(scores(made, "red RED stone", once=True)[0], single, rtol=1e-6)
    assert red.any()


def test_terms_that_no_passage_has_add_nothing() -> None:
    made = index(PASSAGES, Words())
    assert not scores(made, "unheard", "?!", "").any()
    np.testing.assert_allclose(scores(made, "unheard red"), scores(made, "red"))


def test_words_and_pairs_of_characters() -> None:
    assert words("東京タワーは1958年") == ["東京", "京タ", "タワ", "ワー", "ーは", "1958", "年"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # marks stay with their letters
    assert words("ที่นี่")[0] == "ที"
    assert words(" … ") == []


@pytest.mark.parametrize("kind", ["words", "subwords"])
def test_order_and_blocks_change_no_score(kind: str, tokenizer: Tokenizer) -> None:
    def terms() -> Terms:
        return Words() if kind == "words" else Subwords(tokenizer)

    texts = [f"the {a} {b} of {a}" for a, b in zip(WORDS[:30], WORDS[5:35], strict=True)]
    texts *= 150  # more than are tokenised at once
    queries = ["the river", "water of the city", WORDS[3]]
    expected = scores(index(texts, terms()), *queries)
    turned = scores(index(texts[::-1], terms()), *queries)
    np.testing.assert_allclose(turned[:, ::-1], expected, rtol=1e-6)
    assert len(np.unique(expected)) > 5


def test_a_corpus_without_terms(tokenizer: Tokenizer) -> None:
    for terms in (Words(), Subwords(tokenizer)):
        made = index(["", "…" if isinstance(terms, Words) else ""], terms)
        assert made.weights.shape[0] == 2
        assert not scores(made, "red").any()


@pytest.mark.parametrize("length", [3, 5, 9, 100])
def test_a_limit_reads_what_the_model_reads(length: int, tokenizer: Tokenizer) -> None:
    texts = ["the water of the river", "stone", "zzz the city of light and fire 水山河", ""]
    batch = tokenizer.encode(texts, max_length=length)
    made = index(texts, Subwords(tokenizer), max_tokens=length)
    assert made.longer == batch.truncated.sum() == (0 if length == 100 else 2 - (length == 9))
    for number in range(len(texts)):
        read = batch.ids[batch.offsets[number] + 1 : batch.offsets[number + 1] - 1]
        assert set(made.weights[[number]].indices.tolist()) == set(read.tolist())
    limited = index(texts, Words(tokenizer), max_tokens=length)
    assert limited.longer == made.longer
    kept = [
        first_tokens(tokenizer, text, length - 2) if cut else text
        for text, cut in zip(texts, batch.truncated, strict=True)
    ]
    expected = index(kept, Words())
    np.testing.assert_allclose(limited.weights.toarray(), expected.weights.toarray(), rtol=1e-6)
    asked = limited.queries(texts, max_tokens=length)
    np.testing.assert_array_equal(asked.toarray(), expected.queries(kept).toarray())


@given(st.lists(st.sampled_from([*WORDS, "水", "가", "a-b"]), min_size=2, max_size=30), st.data())
def test_the_first_tokens_are_a_prefix(
    tokenizer: Tokenizer, some: list[str], data: st.DataObject
) -> None:
    text = " ".join(some)
    ids = tokenizer.contents([text])[0]
    limit = data.draw(st.integers(1, len(ids) - 1))
    short = first_tokens(tokenizer, text, limit, read=1, margin=8)  # read in parts
    assert short == first_tokens(tokenizer, text, limit)
    assert text.startswith(short)
    start = tokenizer.backend.token_to_id("▁")  # of a word whose first subword was not kept
    kept = ids[:limit] if ids[limit - 1] != start else ids[: limit - 1]
    assert tokenizer.contents([short])[0] == kept


def test_subwords_keep_case_unless_folded(tokenizer: Tokenizer) -> None:
    assert not scores(index(["Water"], Subwords(tokenizer)), "water").all()
    assert scores(index(["Water"], Subwords(tokenizer, fold=True)), "WATER").all()
