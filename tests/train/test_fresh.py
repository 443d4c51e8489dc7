"""Fresh models: sizes, tokenizers and starts, written so that they load and train on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.checkpoint import read_checkpoint
from tercet.data.rows import write_rows
from tercet.errors import InputError, ModelError
from tercet.model import Inputs
from tercet.tokens import Tokenizer
from tercet.train import fresh
from tercet.train.bag_training import BagConfig
from tercet.train.config import SourceConfig
from tercet.train.fresh import FreshConfig, make_fresh
from tercet.train.teacher import TeacherVectors
from tests.conftest import WORDS

SMALL = FreshConfig(hidden=32, layers=2, heads=2, feed_forward=48, multi=8, positions=66)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> SourceConfig:
    generator = np.random.default_rng(0)
    made = []
    for number in range(100):
        words = generator.choice(WORDS[:40], 6, replace=False).tolist()
        made.append({"query": " ".join(words[:3]), "pos": [" ".join(words) + f" {number}"]})
    path = tmp_path_factory.mktemp("rows") / "toy.jsonl.gz"
    write_rows(path, made)
    return SourceConfig((str(path),))


def test_random_weights_of_the_sizes_asked(source: Path, tmp_path: Path) -> None:
    made = make_fresh(tmp_path / "a", SMALL, tokenizer=source)
    read = read_checkpoint(tmp_path / "a")
    config = read.model.backbone.config
    assert (config.hidden, config.layers, config.heads, config.feed_forward) == (32, 2, 2, 48)
    assert config.max_length == 64
    assert read.model.heads == ("dense", "sparse", "multi")
    assert read.model.multi is not None
    assert read.model.multi.out_features == 8
    assert read.settings.training["recipe"] == "tercet init"
    words = read.model.backbone.words.weight
    assert words.std().item() == pytest.approx(0.02, rel=0.05)
    assert not words[config.pad_id].any()
    for (name, want), got in zip(
        made.state_dict().items(), read.model.state_dict().values(), strict=True
    ):
        assert torch.equal(want, got), name
    norms = [p for n, p in made.named_parameters() if "norm" in n and n.endswith("weight")]
    assert all((norm == 1).all() for norm in norms)


def test_a_seed_is_a_start(source: Path, tmp_path: Path) -> None:
    one = make_fresh(tmp_path / "a", SMALL, tokenizer=source)
    same = make_fresh(tmp_path / "b", SMALL, tokenizer=source)
    other = make_fresh(tmp_path / "c", replace(SMALL, seed=1), tokenizer=source)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.backbone.words.weight, other.backbone.words.weight)


def test_a_tokenizer_is_taken_over_pruned_or_trained(
    source: Path, rows: SourceConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def ids(name: str, vocabulary: int | None, file: Path | None) -> Tokenizer:
        config = replace(SMALL, vocabulary=vocabulary)
        make_fresh(tmp_path / name, config, tokenizer=file, rows=[rows])
        read = read_checkpoint(tmp_path / name)
        assert read.model.backbone.config.vocabulary == read.tokenizer.vocabulary
        return read.tokenizer

    assert ids("whole", None, source).vocabulary == tokenizer.vocabulary
    few = ids("pruned", 200, source)
    assert few.vocabulary < tokenizer.vocabulary
    assert few.backend.token_to_id("▁river") is not None
    assert few.backend.token_to_id("▁Wasser") is None
    trained = ids("trained", 60, None)
    assert trained.vocabulary <= 60
    assert trained.backend.token_to_id("<mask>") == trained.vocabulary - 1


def test_embeddings_start_from_a_bag(source: Path, rows: SourceConfig, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = []
    bag = BagConfig(minutes=0, steps=4, rows=32, report_every=2)
    made = make_fresh(
        tmp_path / "a", SMALL, tokenizer=source, rows=[rows], bag=bag, log=lines.append
    )
    assert [line["step"] for line in lines] == [2, 4]
    read = read_checkpoint(tmp_path / "a")
    assert read.settings.training["bag"]["steps"] == 4
    assert read.settings.training["bag"]["rows"] == 100
    assert made.backbone.words.weight.std() > 0.04  # the bag's start, not the trunk's
    with torch.inference_mode():
        out = read.model(Inputs.of(read.tokenizer.encode(["the river"])), read.model.heads)
    assert out.dense is not None
    assert out.dense.isfinite().all()


def test_a_bag_takes_a_teacher(source: Path, rows: SourceConfig, tmp_path: Path) -> None:
    from tercet.data.rows import read_rows
    from tercet.data.split import text_key

    keys = np.array(sorted({text_key(row["query"]) for row in read_rows(Path(rows.files[0]))}))
    raw = np.random.default_rng(0).standard_normal((len(keys), 40)).astype(np.float16)
    TeacherVectors(keys, raw).save(tmp_path / "teacher.npz")
    bag = BagConfig(minutes=0, steps=2, rows=32)
    both = [
        make_fresh(tmp_path / name, SMALL, tokenizer=source, rows=[rows], bag=bag, teachers=files)
        for name, files in (("a", []), ("b", [tmp_path / "teacher.npz"]))
    ]
    assert not torch.equal(both[0].backbone.words.weight, both[1].backbone.words.weight)


def test_much_text_is_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"text {number}" for number in range(2000)))
    files = [tmp_path / "a.txt"]
    assert len(list(fresh.thinned(files))) == 2000
    monkeypatch.setattr(fresh, "TRAINED", 4000)
    some = list(fresh.thinned(files))
    assert 300 < len(some) < 600
    assert some == list(fresh.thinned(files))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multi": 64}, "multi-vector"),
        ({"heads": 3}, "multiple of 3 heads"),
        ({"vocabulary": 20}, "single characters"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    source: Path, rows: SourceConfig, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    bag = BagConfig(minutes=0, steps=1)
    with pytest.raises((InputError, ModelError), match=message):
        make_fresh(
            tmp_path / "a", replace(SMALL, **changes), tokenizer=source, rows=[rows], bag=bag
        )
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained on rows"):
        make_fresh(tmp_path / "a", SMALL, tokenizer=source, bag=BagConfig())
    with pytest.raises(InputError, match="most ids"):
        make_fresh(tmp_path / "a", SMALL)
    with pytest.raises(ModelError, match="cannot be read"):
        make_fresh(tmp_path / "a", SMALL, tokenizer=tmp_path / "absent.json")
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="exists already"):
        make_fresh(tmp_path / "a", SMALL, tokenizer=source)


def test_a_sentencepiece_model_is_a_tokenizer_too(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"not of the XLM-RoBERTa family|not a whole"):
        fresh.read_tokenizer(tmp_path / "sentencepiece.bpe.model")
