"""A fresh small model in the reference layout: a tokenizer, sizes, and weights to start from.

1. The tokenizer is taken over, pruned to the rows, or trained from their texts.
2. Weights are random, or grown from a bag of tokens that was trained on the rows.

Knows nothing of the stages that train the model afterwards.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tercet.backbone import BackboneConfig
from tercet.checkpoint import Settings, write_checkpoint
from tercet.data.split import text_key
from tercet.errors import InputError
from tercet.model import M3Model
from tercet.sentencepiece import read_sentencepiece
from tercet.tokens import Tokenizer
from tercet.train.bag import Bag, grow
from tercet.train.bag_training import BagConfig, Log, train_bag
from tercet.train.config import SourceConfig
from tercet.train.examples import Examples
from tercet.train.teacher import Targets, TeacherVectors
from tercet.train.texts import beginnings, text_files, texts_in
from tercet.train.unigram import train_unigram
from tercet.train.vocabulary import document_frequency, prune_tokenizer

INIT = 0.02  # standard deviation of random weights: XLM-RoBERTa's initializer_range

# Characters that a tokenizer is trained from: more take long (about 20 s a million on one core) and
# change little. A larger text is thinned out evenly.
TRAINED = 10_000_000


@dataclass(frozen=True)
class FreshConfig:
    """The sizes of a fresh model; the defaults are those of tercet-mini."""

    vocabulary: int | None = None  # ids at most; None: the tokenizer as it is
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    multi: int = 64  # size of a multi-vector
    positions: int = 8194  # the longest text + 2
    seed: int = 0

    def backbone(self, tokenizer: Tokenizer) -> BackboneConfig:
        """The trunk's sizes; raises ModelError where they do not fit together."""
        return BackboneConfig(
            vocabulary=tokenizer.vocabulary,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            feed_forward=self.feed_forward,
            positions=self.positions,
            pad_id=tokenizer.pad_id,
        )


def make_fresh(
    target: Path,
    config: FreshConfig,
    *,
    tokenizer: Path | None = None,
    rows: Sequence[SourceConfig] = (),
    bag: BagConfig | None = None,
    teachers: Sequence[Path] = (),
    log: Log = print,
) -> M3Model:
    """Writes a fresh model to the folder target and returns it.

    tokenizer is a tokenizer.json or sentencepiece.bpe.model: with config.vocabulary it is pruned to
    the rows' texts, else taken over; None trains one from them. Raises InputError where target
    exists or rows are needed and not given.
    """
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    files = [Path(name) for source in rows for name in source.files]
    if bag is not None and not rows:
        raise InputError("a bag of tokens is trained on rows: give some")
    if bag is not None and config.multi > config.hidden:
        raise InputError(
            f"from a bag of tokens, a multi-vector ({config.multi}) is at most as large as a state"
            f" ({config.hidden})"
        )
    made = make_tokenizer(tokenizer, files, config.vocabulary)
    trunk = config.backbone(made)
    model = M3Model(trunk, made.weightless_ids.tolist(), sparse=True, multi=config.multi or None)
    facts: dict[str, Any] = {"recipe": "tercet init", "config": asdict(config)}
    if bag is None:
        start_random(model, seed=config.seed)
    else:
        learned, facts["bag"] = _train_bag(made, config, rows, bag, teachers, log)
        grow(learned, trunk, model, seed=config.seed, cls_id=made.cls_id)
    write_checkpoint(target, model, made, settings=Settings(training=facts))
    return model


def _train_bag(
    tokenizer: Tokenizer,
    config: FreshConfig,
    rows: Sequence[SourceConfig],
    bag: BagConfig,
    teachers: Sequence[Path],
    log: Log,
) -> tuple[Bag, dict[str, Any]]:
    """A trained bag of the model's sizes, and facts of its training."""
    torch.manual_seed(config.seed)
    model = Bag(tokenizer.vocabulary, config.hidden, config.heads, tokenizer.pad_id)
    names = [source.label for source in rows]
    # so few tokens of a text are read that no later stage could use what is cached
    with tempfile.TemporaryDirectory(prefix="tercet-") as cache:
        examples = Examples.load(rows, tokenizer, bag.data(), cache=Path(cache))
        targets = None
        if teachers:
            vectors = TeacherVectors.join([TeacherVectors.load(path) for path in teachers])
            targets = Targets(examples, vectors, config.hidden)
        steps = train_bag(
            model, examples, names, tokenizer, bag, seed=config.seed, targets=targets, log=log
        )
        facts = {"sources": names, "rows": len(examples), "steps": steps, "config": asdict(bag)}
    return model, facts


def make_tokenizer(source: Path | None, files: Sequence[Path], vocabulary: int | None) -> Tokenizer:
    """Takes over, prunes or trains a tokenizer; see `make_fresh`."""
    if source is None:
        if vocabulary is None:
            raise InputError("a tokenizer is trained to a size: give the most ids it may have")
        return train_unigram(thinned(text_files(files)), vocabulary)
    found = read_tokenizer(source)
    if vocabulary is None:
        return found
    counts = document_frequency(found, beginnings(texts_in(text_files(files))))
    return prune_tokenizer(found, counts, vocabulary, name=str(source))[0]


def read_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer.json or a sentencepiece.bpe.model; raises ModelError."""
    return (
        Tokenizer(read_sentencepiece(path))
        if path.suffix == ".model"
        else Tokenizer.from_file(path)
    )


def thinned(files: Sequence[Path]) -> Iterator[str]:
    """The beginnings of the files' texts; of more than TRAINED characters, an even part."""
    total = sum(len(text) for text in beginnings(texts_in(files)))
    share = min(1.0, TRAINED / max(1, total))
    for text in beginnings(texts_in(files)):
        if text_key(text) % 10_000 < share * 10_000:
            yield text


@torch.no_grad()
def start_random(model: M3Model, *, seed: int) -> None:
    """Random weights as XLM-RoBERTa starts: normal of INIT, norms as they are, biases and pad 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, INIT, generator=generator)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
    trunk = model.backbone
    trunk.kind.normal_(0.0, INIT, generator=generator)
    for table in (trunk.words, trunk.places):
        table.weight[trunk.config.pad_id] = 0.0
