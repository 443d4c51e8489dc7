"""A bag of tokens learns on a toy language, and a trunk starts where it stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tercet.backbone import BackboneConfig
from tercet.data.rows import read_rows, write_rows
from tercet.data.split import text_key
from tercet.errors import InputError, TercetError
from tercet.model import Inputs, M3Model
from tercet.tokens import Tokenizer
from tercet.train.bag import Bag, grow
from tercet.train.bag_training import BagConfig, bag_sampler, padded, train_bag
from tercet.train.config import SourceConfig
from tercet.train.examples import Examples
from tercet.train.teacher import Targets, TeacherVectors

TOPICS = [
    ("water sea ship river", "agua río luz mundo"),
    ("bread stone fire house", "casa año historia ciudad"),
    ("king queen law market", "Wasser Haus Buch Stadt"),
    ("tree bird horse garden", "night star winter summer"),
]
STEPS = BagConfig(minutes=0, steps=60, rows=32, report_every=20)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    made: list[dict[str, object]] = []
    for number in range(240):
        left, right = TOPICS[number % 4]
        query = " ".join(generator.permutation(left.split())[:3])
        passage = " ".join(generator.permutation(right.split()))
        lang = "es-en" if number % 2 else "en"
        made.append(
            {"query": f"{query} {number}", "pos": [f"{passage} {number}", passage], "lang": lang}
        )
    made.append({"text": "a raw text, which a bag has no use for"})
    write_rows(folder / "toy.jsonl.gz", made)
    return folder / "toy.jsonl.gz"


@pytest.fixture(scope="module")
def examples(
    rows: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Examples:
    cache = tmp_path_factory.mktemp("cache")
    return Examples.load([SourceConfig((str(rows),))], tokenizer, STEPS.data(), cache=cache)


def make_bag(tokenizer: Tokenizer) -> Bag:
    torch.manual_seed(0)
    return Bag(tokenizer.vocabulary, 32, 4, tokenizer.pad_id)


def vectors(bag: Bag, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    with torch.inference_mode():
        out: Tensor = bag(padded(tokenizer.encode(texts, max_length=64), tokenizer.pad_id))
    return out


def margin(bag: Bag, tokenizer: Tokenizer) -> float:
    """How much nearer a topic's own other half is than the others' are."""
    left = vectors(bag, tokenizer, [one for one, _ in TOPICS])
    right = vectors(bag, tokenizer, [other for _, other in TOPICS])
    scores = left @ right.T
    return float(scores.diagonal().mean() - scores[~torch.eye(4, dtype=torch.bool)].mean())


def test_a_trunk_starts_where_its_bag_stopped(examples: Examples, tokenizer: Tokenizer) -> None:
    bag = make_bag(tokenizer)
    assert margin(bag, tokenizer) < 0.3
    lines: list[dict[str, object]] = []
    assert train_bag(bag, examples, ["toy"], tokenizer, STEPS, log=lines.append) == 60
    assert margin(bag, tokenizer) > 0.5
    assert [line["step"] for line in lines] == [20, 40, 60]

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
    texts = [text for both in TOPICS for text in both]
    expected = vectors(bag, tokenizer, texts)
    with torch.inference_mode():
        found = model.eval()(Inputs.of(tokenizer.encode(texts)), ("dense",)).dense
    assert (expected * found).sum(-1).min() > 0.98
    assert (expected @ expected.T).min() < 0.9  # or all vectors would be alike


def test_the_same_seed_gives_the_same_bag(examples: Examples, tokenizer: Tokenizer) -> None:
    few = BagConfig(minutes=0, steps=3, rows=32)
    found = []
    for seed in (1, 1, 2):
        bag = make_bag(tokenizer)
        train_bag(bag, examples, ["toy"], tokenizer, few, seed=seed, log=lambda line: None)
        found.append(bag.words.weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_raw_texts_take_no_part(examples: Examples, tokenizer: Tokenizer) -> None:
    sampler = bag_sampler(examples, ["toy"], STEPS, seed=0)
    drawn = np.concatenate([sampler.batch(number)[1] for number in range(3 * sampler.per_epoch)])
    assert set(drawn.tolist()) == set(range(240))
    assert len(examples) == 241


def test_a_teacher_draws_texts_to_its_vectors(
    examples: Examples, rows: Path, tokenizer: Tokenizer
) -> None:
    corners = np.random.default_rng(0).standard_normal((4, 40)).astype(np.float16)
    known = {
        text_key(text): corners[number % 4]
        for number, row in enumerate(read_rows(rows))
        for text in ([row["query"], *row["pos"]] if "pos" in row else [])
    }
    keys = np.array(sorted(known))
    raw = np.stack([known[key] for key in keys.tolist()])
    targets = Targets(examples, TeacherVectors(keys, raw), 32)
    places = np.arange(60)
    wanted = targets.vectors[torch.from_numpy(targets.at[places])].float()
    contents = [examples.content(int(place)).tolist() for place in places]
    ids = padded(tokenizer.frame(contents, max_length=64), tokenizer.pad_id)

    def distance(bag: Bag) -> float:
        with torch.inference_mode():
            return float((1 - (bag(ids) * wanted).sum(-1)).mean())

    taught, alone = make_bag(tokenizer), make_bag(tokenizer)
    train_bag(taught, examples, ["toy"], tokenizer, STEPS, targets=targets, log=lambda line: None)
    train_bag(alone, examples, ["toy"], tokenizer, STEPS, log=lambda line: None)
    assert distance(taught) < 0.3
    assert distance(alone) > 0.7


def test_no_pairs_is_an_error_in_words(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_rows(tmp_path / "raw.jsonl.gz", [{"text": "water"}, {"text": "bread"}])
    sources = [SourceConfig((str(tmp_path / "raw.jsonl.gz"),))]
    examples = Examples.load(sources, tokenizer, STEPS.data(), cache=tmp_path)
    with pytest.raises(InputError, match="'query' and 'pos'"):
        train_bag(make_bag(tokenizer), examples, ["raw"], tokenizer, STEPS)


def test_a_loss_that_is_not_finite_names_its_rows(examples: Examples, tokenizer: Tokenizer) -> None:
    bag = make_bag(tokenizer)
    with torch.no_grad():
        bag.words.weight[tokenizer.eos_id] = float("nan")
    with pytest.raises(TercetError, match=r"step 0: .*toy\.jsonl\.gz:\d+"):
        train_bag(bag, examples, ["toy"], tokenizer, STEPS)


def test_a_bag_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="minutes or steps"):
        BagConfig(minutes=0, steps=0)
    assert BagConfig(minutes=2, steps=10).progress(5, 30.0) == 0.5
    assert BagConfig(minutes=1, steps=10).progress(5, 45.0) == 0.75
