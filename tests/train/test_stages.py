"""The stages on a toy language: a bag learns, a trunk starts where it stopped, and learns on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.backbone import BackboneConfig
from tercet.config import Weights
from tercet.data.rows import write_rows
from tercet.errors import InputError
from tercet.model import Inputs, M3Model
from tercet.scores import dense_scores
from tercet.tokens import Tokenizer
from tercet.train.bag import Bag, grow
from tercet.train.dev import DevSet, check, dev_sets, ndcg_at_10, tune_weights
from tercet.train.encode import model_encoder
from tercet.train.pairs import Pairs, Sampler, is_parallel
from tercet.train.stages import (
    StageConfig,
    Teacher,
    UnifiedConfig,
    encode_rows,
    padded,
    train_bag,
    train_unified,
)
from tercet.train.teacher import TeacherVectors

TOPICS = [
    ("water sea ship river", "agua río luz mundo"),
    ("bread stone fire house", "casa año historia ciudad"),
    ("king queen law market", "Wasser Haus Buch Stadt"),
    ("tree bird horse garden", "Stadt Buch agua casa"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Pairs:
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    made = []
    for number in range(300):
        left, right = TOPICS[number % 4]
        query = " ".join(generator.permutation(left.split())[:3])
        passage = " ".join(generator.permutation(right.split())) + f" {number} {query[:5]}"
        lang = "es-en" if number % 2 else "en"
        made.append({"query": f"{query} {number}", "pos": [passage], "lang": lang, "source": lang})
    write_rows(folder / "toy.jsonl.gz", made)
    return Pairs.load([folder / "toy.jsonl.gz"], tokenizer)


def make_bag(tokenizer: Tokenizer) -> Bag:
    torch.manual_seed(0)
    return Bag(tokenizer.vocabulary, 32, 4, tokenizer.pad_id)


def stage(steps: int) -> StageConfig:
    return StageConfig(minutes=5, steps=steps, batch=32, lr=5e-3, report_every=steps)


def grown(bag: Bag, tokenizer: Tokenizer) -> M3Model:
    config = BackboneConfig(
        vocabulary=tokenizer.vocabulary,
        hidden=32,
        layers=2,
        heads=4,
        feed_forward=64,
        positions=130,
        dropout=0.0,
    )
    model = M3Model(config, tokenizer.weightless_ids.tolist(), sparse=True, multi=16)
    grow(bag, config, model, seed=1, cls_id=tokenizer.cls_id)
    return model.eval()


def test_rows_share_texts_and_know_their_languages(pairs: Pairs) -> None:
    assert len(pairs) == 300
    assert pairs.sources == ("toy/en", "toy/es-en")
    assert pairs.parallel.sum() == 150
    assert [is_parallel(tag) for tag in ("en", "zh-Hant", "de-en", "fuc-en")] == [
        False,
        False,
        True,
        True,
    ]


def test_a_step_is_a_function_of_seed_and_step(pairs: Pairs) -> None:
    one, two = (Sampler(pairs, 32, seed=5) for _ in range(2))
    assert np.array_equal(one.rows(7), two.rows(7))
    assert not np.array_equal(one.rows(7), one.rows(8))
    rows = one.rows(3)
    assert len(set(pairs.group[rows].tolist())) == len(rows)
    assert len(set(pairs.source[rows].tolist())) == 1


def test_a_trunk_starts_where_its_bag_stopped(pairs: Pairs, tokenizer: Tokenizer) -> None:
    bag = make_bag(tokenizer)
    before = check(dev_sets(pairs), bag_encoder(bag, pairs, tokenizer))
    train_bag(bag, pairs, tokenizer, stage(60), log=lambda facts: None)
    after = check(dev_sets(pairs), bag_encoder(bag, pairs, tokenizer))
    assert after["toy"]["dense"] > before["toy"]["dense"] + 2

    model = grown(bag, tokenizer)
    places = pairs.query[:50]
    with torch.inference_mode():
        expected = bag(padded(pairs, places, tokenizer, 64))
        found = model(Inputs.of(pairs.batch(places, tokenizer, 64)), ("dense",)).dense
    assert found is not None
    assert (expected * found).sum(-1).min() > 0.98
    assert (expected @ expected.T).min() < 0.9  # or all vectors would be alike


def bag_encoder(bag: Bag, pairs: Pairs, tokenizer: Tokenizer):
    from tercet.train.dev import dense_only

    def encode(places):
        with torch.inference_mode():
            return dense_only(bag(padded(pairs, places, tokenizer, 64)))

    return encode


def test_all_heads_learn_together(pairs: Pairs, tokenizer: Tokenizer) -> None:
    model = grown(make_bag(tokenizer), tokenizer)
    words = model.backbone.words.weight.detach().clone()
    sets = dev_sets(pairs)
    encode = model_encoder(model, pairs, tokenizer)
    before = check(sets, encode, Weights())["toy"]
    lines: list[dict[str, object]] = []
    steps = train_unified(
        model,
        pairs,
        tokenizer,
        UnifiedConfig(minutes=5, steps=40, batch=32, lr=3e-3, report_every=20, multi_columns=16),
        log=lines.append,
    )
    after = check(sets, encode, Weights())["toy"]
    assert steps == 40
    assert [line["step"] for line in lines] == [20, 40]
    assert torch.equal(words, model.backbone.words.weight)  # frozen unless a rate is given
    assert after["dense"] > before["dense"] + 2
    assert after["multi"] > before["multi"] + 2
    weights, found = tune_weights(sets, encode, grid=(0.0, 0.3, 1.0))
    assert found["toy"] >= check(sets, encode, weights)["toy"]["dense"] - 1e-6


def test_row_order_is_restored_and_batch_mates_do_not_matter(
    pairs: Pairs, tokenizer: Tokenizer
) -> None:
    model = grown(make_bag(tokenizer), tokenizer)
    rows = np.array([3, 50, 7, 120])
    with torch.inference_mode():
        batch, _ = encode_rows(
            model,
            pairs.batch(pairs.query[rows], tokenizer, 64),
            pairs.batch(pairs.passage[rows], tokenizer, 64),
            ("dense", "sparse", "multi"),
        )
        scores = batch.scores(slice(0, 4))
        encode = model_encoder(model, pairs, tokenizer)
        queries, passages = encode(pairs.query[rows]), encode(pairs.passage[rows])
    assert np.allclose(scores["dense"].numpy(), dense_scores(queries, passages), atol=1e-5)
    assert queries.sparse is not None
    assert passages.sparse is not None
    lexical = (queries.sparse @ passages.sparse.T).toarray()
    assert lexical.max() > 0
    assert np.allclose(scores["sparse"].numpy(), lexical, atol=1e-5)
    from tercet.scores import maxsim_scores

    assert np.allclose(scores["multi"].numpy(), maxsim_scores(queries, passages), atol=2e-3)


def test_a_translation_is_drawn_to_the_teachers_vector_of_its_english_side(pairs: Pairs) -> None:
    generator = np.random.default_rng(0)
    english = np.unique(pairs.keys[pairs.passage[pairs.parallel]])
    raw = generator.standard_normal((len(english), 24)).astype(np.float16)
    teacher = Teacher(pairs, TeacherVectors(english, raw), 8)
    row = int(np.flatnonzero(pairs.parallel)[0])
    assert teacher.query[row] == teacher.passage[row] >= 0
    alone = int(np.flatnonzero(~pairs.parallel)[0])
    assert teacher.query[alone] == -1


def test_ndcg_counts_ties_against_us() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]], dtype=np.float32)
    expected = (1 / np.log2(3) + 1 / np.log2(3)) / 2
    assert ndcg_at_10(scores, np.array([2, 0])) == pytest.approx(expected)
    assert DevSet("x", np.arange(2), np.arange(3), np.array([2, 0])).name == "x"


def test_no_rows_is_an_error_in_words(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no training row"):
        Pairs.load([tmp_path / "a.jsonl"], tokenizer)
