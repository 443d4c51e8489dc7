"""BM25: Lucene's formula, two ways to cut texts into terms, and texts cut as the model's are."""

from typing import Any
from unicodedata import normalize

import bm25s
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tercet.bm25 import Subwords, TermIndex, Terms, Words, first_tokens, index, words
from tercet.tokenizer import Tokenizer
from tests.conftest import WORDS

PASSAGES = ["red red stone", "a green stone by the river", "", "red sea"]


def scores(made: TermIndex, *queries: str) -> np.ndarray:
    out: np.ndarray = np.stack(list(made.weights.products(made.queries(queries))))
    return out


def test_weights_are_those_of_bm25s() -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(0, 40))) for _ in range(200)]
    made = index([*PASSAGES, *texts], Words())
    numbers: dict[str, int] = {}
    corpus = [
        [numbers.setdefault(word, len(numbers)) for word in text.lower().split()]
        for text in [*PASSAGES, *texts]
    ]
    reference: Any = bm25s.BM25(k1=0.9, b=0.4, method="lucene", csc_backend="scipy")
    vocabulary = {number: number for number in numbers.values()}
    reference.index((corpus, vocabulary), create_empty_token=False, show_progress=False)
    parts = tuple(reference.scores[name] for name in ("data", "indices", "indptr"))
    want = sp.csc_array(parts, shape=made.weights.shape)
    np.testing.assert_array_equal(made.weights.toarray(), want.toarray())


def test_a_term_counts_as_often_as_the_query_has_it() -> None:
    made = index(PASSAGES, Words())
    single, double, red = scores(made, "red stone", "red RED stone", "red")
    assert red.any()
    np.testing.assert_allclose(double, single + red, rtol=1e-6)
    assert not scores(made, "unheard", "?!", "").any()
    np.testing.assert_allclose(scores(made, "unheard red")[0], red)


def test_words_and_pairs_of_characters() -> None:
    assert words("東京タワーは1958年") == ["東京", "京タ", "タワ", "ワー", "ーは", "1958", "年"]
    assert words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]  # marks stay with their letters
    assert words("ที่นี่")[0] == "ที"
    assert words(" … ") == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ประเทศไทยมีกรุงเทพมหานคร", "กรุงเทพ"),
        ("ປະເທດລາວມີນະຄອນຫຼວງວຽງຈັນ", "ວຽງຈັນ"),
        ("ប្រទេសកម្ពុជាមានទីក្រុងភ្នំពេញ", "ភ្នំពេញ"),
        ("မြို့တော်သည်နေပြည်တော်ဖြစ်သည်", "နေပြည်တော်"),
        ("ꦲꦏ꧀ꦱꦫꦗꦮ", "ꦱꦫꦗꦮ"),
        ("ᬩᬮᬶᬅᬓ᭄ᬱᬭ", "ᬅᬓ᭄ᬱᬭ"),
        ("ᮘᮞᮞᮥᮔ᮪ᮓ", "ᮞᮥᮔ᮪ᮓ"),
        ("ᨽᩣᩈᩣᩃ᩶ᩣᨶᨶᩣ", "ᩃ᩶ᩣᨶᨶᩣ"),
        ("ᥖᥭᥰᥖᥬᥲᥑᥨᥒᥰ", "ᥑᥨᥒᥰ"),
        ("ꪎꪳꪼꪕꪒꪾ", "ꪼꪕꪒꪾ"),
        ("ꀀꀁꀂꀃ", "ꀂꀃ"),
        ("\U00011700\U00011701\U00011702\U00011703", "\U00011702\U00011703"),  # Ahom
        ("𠮷野家𨭎𨨏", "𨭎𨨏"),
        ("\U00031350\U00031351\U00031352", "\U00031351\U00031352"),  # Han of plane 3
        ("人々の国", "人々"),
        ("葛\U000e0100城市", "葛城"),  # a variation selector
        ("ﾄｳｷｮｳﾀﾜｰ", "タワー"),
        ("東京⽔道", "水道"),  # a radical in place of the character
        (normalize("NFD", "서울에서 한국어를 배운다"), "한국어"),
        (normalize("NFD", "Đường phố Hà Nội"), "Hà Nội"),
        ("Donau\u00addampf\u200bschiff", "Donaudampfschiff"),
        ("e\u00ad\u0301t", "ét"),
        ("第１２３条", "123"),
        ("ﬁnal 5㎏", "FINAL 5kg"),
        ("iPhone™ don´t", "iphone t"),
    ],
)
def test_a_word_of_a_text_is_found_in_it(text: str, word: str) -> None:
    assert words(word)
    assert set(words(word)) <= set(words(text))


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
    without = index(["", ""], terms())
    assert without.weights.shape[0] == 2
    assert not scores(without, "red").any()


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
    cut = [
        first_tokens(tokenizer, text, length - 2) if truncated else text
        for text, truncated in zip(texts, batch.truncated, strict=True)
    ]
    expected = index(cut, Words())
    np.testing.assert_allclose(limited.weights.toarray(), expected.weights.toarray(), rtol=1e-6)
    queries = limited.queries(texts, max_tokens=length)
    np.testing.assert_array_equal(queries.toarray(), expected.queries(cut).toarray())


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
    start = tokenizer.backend.token_to_id("▁")  # of a word whose first subword was left out
    expected = ids[:limit] if ids[limit - 1] != start else ids[: limit - 1]
    assert tokenizer.contents([short])[0] == expected


def test_subwords_keep_case_unless_folded(tokenizer: Tokenizer) -> None:
    assert not scores(index(["Water"], Subwords(tokenizer)), "water").all()
    assert scores(index(["Water"], Subwords(tokenizer, fold=True)), "WATER").all()
