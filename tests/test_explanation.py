"""Explanations: their sums are the scores, and their spans hold what they say."""

import json
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tercet
from tercet import Encoder, Explanation, Span, explain
from tercet.checkpoint import Checkpoint
from tercet.config import HEADS, Weights
from tercet.errors import InputError
from tercet.explanation import WORD_START, Tokens, marks
from tercet.layout import BUNDLED, BackboneConfig, Settings
from tercet.model import M3Model
from tercet.scores import SCORES, weighted_sum
from tercet.tokenizer import Tokenizer

QUERY = "which river has the oldest stone bridge"
PASSAGE = "The stone bridge is old. A river is wide and the bridge of stone stands for years."
SCRIPTS = {
    "de": ("Wo gehört der Bioabfall hin?", "Zur Mülltrennung gehört der Bioabfall, größtenteils."),
    "ar": ("أين يعيش الجمل؟", "يعيش الجمل في الصحراء ويشرب الماء."),
    "zh": ("蜜蜂如何交流？", "蜜蜂用舞蹈互相交流。它们很聪明。"),
    "hi": ("मानसून कब आता है?", "मानसून एक जून के आसपास केरल पहुँचता है।"),
    "emoji": ("what is 𝒳 😀", "A 😀🎉 face, 𝒳 and 👨‍👩‍👧 stand here 😀."),
    "decomposed": ("Mu\u0308ll im Cafe\u0301", "Das Cafe\u0301 trennt den Mu\u0308ll (A\u030a)."),
    "th": ("ช้างกินอะไร", "ช้างป่าอยู่กันเป็นโขลง กินหญ้า ใบไม้"),
    "ko": ("한국어", "한국어 문장입니다. \u1112\u1161\u11ab\u1100\u1173\u11af"),
    "forms": ("ﬁne ½ ㎏", "A ﬁne text of ½ ㎏, ﷺ, and soft\u00adhyphens."),
}


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    """Three heads of random weights, and a prefix of queries."""
    return made(tokenizer, weights=Weights(1.0, 0.5, 0.8), query_prefix="the ")


@pytest.fixture(scope="module")
def multilingual() -> Encoder:
    """The bundled model's tokenizer before a trunk of random weights."""
    return made(Tokenizer.from_file(BUNDLED / "tokenizer.json"))


def made(
    tokenizer: Tokenizer, *, sparse: bool = True, multi: int | None = 8, **settings: Any
) -> Encoder:
    config = BackboneConfig(
        vocabulary=tokenizer.vocabulary,
        hidden=16,
        layers=1,
        heads=2,
        feed_forward=16,
        positions=514,
    )
    torch.manual_seed(0)
    model = M3Model(config, tokenizer.weightless_ids.tolist(), sparse=sparse, multi=multi)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0.0, 0.3)
        if model.sparse is not None:
            model.sparse.bias.fill_(5.0)  # so that every token has a weight
    return Encoder(Checkpoint(model.eval(), tokenizer, Settings(**settings), "made", Path()))


def of(text: str, span: Span) -> str:
    assert 0 <= span.start < span.end <= len(text)
    return text[span.start : span.end]


def check(encoder: Encoder, told: Explanation, indexed: str) -> None:
    """All that must hold of any explanation."""
    asked = encoder.encode([told.query], heads=encoder.heads, role="query")
    given = encoder.encode([indexed], heads=encoder.heads)
    scores = {head: SCORES[head](asked, given) for head in encoder.heads}
    for head in HEADS:
        expected = float(scores[head][0, 0]) if head in scores else None
        assert getattr(told.scores, head) == expected
    assert told.scores.hybrid == weighted_sum(scores, encoder.weights)[0, 0]
    products = [shared.product for shared in told.shared]
    assert products == sorted(products, reverse=True)
    assert sum(products) == pytest.approx(told.scores.sparse or 0, rel=1e-5)
    if "multi" in encoder.heads:
        met = [token.met.similarity for token in told.tokens if token.met]
        assert len(met) == len(told.tokens) == len(asked.tokens(0))
        assert np.mean(met) == pytest.approx(told.scores.multi, rel=1e-5)
        similar = asked.tokens(0).astype(np.float32) @ given.tokens(0).astype(np.float32).T
        highest = similar.max(axis=0)
        before = len(highest) - 1 - len(told.heat)  # tokens of a title, and marks of words
        heat = np.array([part.value for part in told.heat], dtype=np.float32)
        assert set(heat.tolist()) <= set(highest.tolist())
        assert before or heat.tolist() == highest[:-1].tolist()
    for shared in told.shared:
        assert shared.product == pytest.approx(shared.query_weight * shared.passage_weight)
        for text, spans in (
            (told.query, shared.query_spans),
            (told.passage, shared.passage_spans),
        ):
            for span in spans:
                assert shared.text in unicodedata.normalize("NFKC", of(text, span))
    for token in told.tokens:
        assert token.span is None or of(told.query, token.span) == token.text
        if token.met and token.met.span:
            assert of(told.passage, token.met.span) == token.met.text


@pytest.mark.parametrize("title", ["", "The river", "the " * 200])
def test_the_parts_sum_up_to_the_scores(encoder: Encoder, title: str) -> None:
    told = explain(encoder, QUERY, PASSAGE, title)
    heading = (
        f"{title[:-1][: 128 * 4].rstrip()}\n" if len(title) > 99 else f"{title}\n" * bool(title)
    )
    check(encoder, told, heading + PASSAGE)
    assert (told.query, told.passage, told.title) == (QUERY, PASSAGE, title)
    assert told.weights == encoder.weights == Weights(1.0, 0.5, 0.8)
    words = {shared.text for shared in told.shared}
    assert {"stone", "bridge", "river"} <= words
    assert len({told.scores.dense, told.scores.sparse, told.scores.multi}) == 3


@pytest.mark.parametrize("lacking", ["sparse", "multi", "both"])
def test_a_model_that_lacks_a_head_is_explained_by_the_others(
    tokenizer: Tokenizer, lacking: str
) -> None:
    encoder = made(tokenizer, sparse=lacking == "multi", multi=8 if lacking == "sparse" else None)
    told = explain(encoder, QUERY, PASSAGE)
    check(encoder, told, PASSAGE)
    assert bool(told.shared) == (lacking == "multi")
    assert bool(told.heat) == (lacking == "sparse")
    assert (told.sentence is None) == (lacking == "both")
    assert all((token.weight is None) == (lacking != "multi") for token in told.tokens)
    assert all((token.met is None) == (lacking != "sparse") for token in told.tokens)


@pytest.mark.parametrize("name", SCRIPTS)
def test_spans_hold_their_subwords_in_any_script(multilingual: Encoder, name: str) -> None:
    query, passage = SCRIPTS[name]
    told = explain(multilingual, query, passage, "Ein Titel")
    check(multilingual, told, f"Ein Titel\n{passage}")
    for text, spans in (
        (query, [token.span for token in told.tokens if token.span]),
        (passage, [Span(part.start, part.end) for part in told.heat]),
    ):
        covered = {place for span in spans for place in range(span.start, span.end)}
        assert covered == {place for place, char in enumerate(text) if not char.isspace()}
    backend, normal = multilingual.tokenizer.backend, unicodedata.normalize
    ids = multilingual.tokenizer.contents([query])[0]
    for id, token in zip(ids, told.tokens, strict=False):
        subword = (backend.id_to_token(id) or "").replace(WORD_START, "")
        assert subword in normal("NFKC", token.text) or not subword


def test_spans_are_those_of_words(multilingual: Encoder) -> None:
    told = explain(multilingual, *SCRIPTS["decomposed"])
    words = {of(told.passage, span) for shared in told.shared for span in shared.passage_spans}
    assert "fe\u0301" in words
    told = explain(multilingual, *SCRIPTS["emoji"])
    spans = {s.text: [of(told.passage, span) for span in s.passage_spans] for s in told.shared}
    assert spans["😀"] == ["😀", "😀"]


def test_a_prefix_has_no_place_in_the_query(encoder: Encoder) -> None:
    told = explain(encoder, "river", "the river")
    assert [(token.text, token.span) for token in told.tokens] == [
        ("the", None),
        ("river", Span(0, 5)),
        ("</s>", None),
    ]


def test_the_title_is_met_and_has_no_place_in_the_passage(encoder: Encoder) -> None:
    told = explain(encoder, "stone", "bridge of", title="stone stone")
    assert [Span(part.start, part.end) for part in told.heat] == [Span(0, 6), Span(7, 9)]
    (stone,) = [shared for shared in told.shared if shared.text == "stone"]
    assert stone.passage_spans == ()
    assert stone.query_spans == (Span(0, 5),)


def test_a_query_equal_to_the_passage_meets_itself(tokenizer: Tokenizer) -> None:
    encoder = made(tokenizer)
    text = "a river of stone and water"
    told = explain(encoder, text, text)
    assert told.scores.dense == pytest.approx(1, abs=1e-5)
    assert told.scores.multi == pytest.approx(1, abs=1e-3)
    for token in told.tokens:
        assert token.met is not None
        assert (token.met.span, token.met.text) == (token.span, token.text)
    assert all(shared.query_spans == shared.passage_spans for shared in told.shared)


def test_nothing_shared(tokenizer: Tokenizer) -> None:
    told = explain(made(tokenizer), "river water", "Haus Stadt Buch")
    assert told.shared == ()
    assert told.scores.sparse == 0
    assert told.sentence == Span(0, 15)  # by MaxSim
    assert explain(made(tokenizer, multi=None), "river water", "Haus Stadt Buch").sentence is None


@pytest.mark.parametrize("multi", [None, 8])
def test_the_best_sentence_is_the_one_that_scores_best_alone(
    tokenizer: Tokenizer, multi: int | None
) -> None:
    encoder = made(tokenizer, multi=multi)
    parts = ["Music of the people?", "The city light and history.", "A stone bridge on the river!"]
    query, text = "stone bridge river", " ".join(parts)
    best = 2
    if multi:
        asked, given = encoder.encode([query], role="query"), encoder.encode([text])
        similar = asked.tokens(0).astype(np.float32) @ given.tokens(0).astype(np.float32).T
        counts = [len(ids) for ids in encoder.tokenizer.contents(parts)]
        columns = np.split(similar, np.cumsum(counts), axis=1)[:-1]  # without </s>
        best = int(np.argmax([part.max(axis=1).mean() for part in columns]))
    told = explain(encoder, query, text)
    assert told.sentence is not None
    assert of(text, told.sentence) == parts[best]


def test_only_what_was_read_of_long_texts(tokenizer: Tokenizer) -> None:
    encoder = made(tokenizer)
    words = ["river", "stone", "water", "bridge"] * 200
    text = " ".join(words)
    told = explain(encoder, "river", text, title="Haus")
    assert len(told.heat) == encoder.max_length - 3  # [CLS], the title and </s>
    assert told.heat[-1].end == len(" ".join(words[: len(told.heat)]))
    check(encoder, told, f"Haus\n{text}")
    assert explain(encoder, text, "river").tokens[-1].text == "</s>"


def marked(tokenizer: Tokenizer, text: str, products: dict[str, float]) -> list[str]:
    ids = {tokenizer.backend.token_to_id(subword): value for subword, value in products.items()}
    assert None not in ids
    tokens = Tokens.of(tokenizer, "", text)
    return [of(text, span) for span in marks(text, tokens, ids, 0.4)]  # type: ignore[arg-type]


def test_marks_are_whole_words(multilingual: Encoder) -> None:
    tokenizer = multilingual.tokenizer
    products = {"▁Blu": 1.0, "t": 0.1, "pende": 0.9, "▁S": 0.1, "▁und": 0.3}
    text = "Blut: (Spende) und Blutkörperchen"  # of the last one less than half is shared
    assert marked(tokenizer, text, products) == ["Blut", "Spende"]
    assert marked(tokenizer, "绿茶和红茶。", {"绿": 1.0, "茶": 0.5, "和": 0.1}) == ["绿茶", "茶"]
    assert marked(tokenizer, "मानसून आता", {"▁मान": 1.0, "स": 0.1, "ून": 0.5}) == ["मानसून"]
    assert marked(tokenizer, "Was und wo", {"▁und": 0.3}) == []


def test_it_is_json_of_the_documented_form(encoder: Encoder) -> None:
    facts = asdict(explain(encoder, QUERY, PASSAGE, "Title"))
    assert json.loads(json.dumps(facts, allow_nan=False)) == json.loads(json.dumps(facts))
    assert list(facts) == [
        *("query", "passage", "title", "scores", "weights", "shared", "tokens", "heat", "sentence")
    ]
    assert set(facts["scores"]) == {*HEADS, "hybrid"}
    assert set(facts["weights"]) == set(HEADS)
    assert set(facts["shared"][0]) == {
        *("text", "query_weight", "passage_weight", "product", "query_spans", "passage_spans")
    }
    assert set(facts["tokens"][0]) == {"text", "span", "weight", "met"}
    assert set(facts["tokens"][0]["met"]) == {"span", "text", "similarity"}
    assert set(facts["heat"][0]) == {"start", "end", "value"}
    assert set(facts["sentence"]) == {"start", "end"}


def test_lone_surrogates_move_no_span(encoder: Encoder) -> None:
    told = explain(encoder, "river \ud83d", "a \udc00\ud83d\ude00 river")
    (river,) = [shared for shared in told.shared if shared.text == "river"]
    assert [of(told.passage, span) for span in river.passage_spans] == ["river"]
    json.dumps(asdict(told)).encode()
    told.passage.encode()


@pytest.mark.parametrize("given", [("", "text"), ("text", " \n"), (None, "text"), ("text", 3)])
def test_an_empty_text_is_refused(encoder: Encoder, given: Any) -> None:
    with pytest.raises(InputError, match=r"the (query|passage) is .*: give a text to explain"):
        explain(encoder, *given)


def test_the_name_stays_a_function() -> None:
    assert tercet.explain is explain
    assert not hasattr(tercet.explain, "__path__")
