"""The recipe of tercet-mini: from training rows to a small model in the reference layout.

1. prune the XLM-RoBERTa vocabulary to the rows; 2. train a bag of tokens; 3. grow a trunk from it,
train all heads together, and average with the start; 4. choose the weights of the hybrid sum on the
dev rows; 5. write the folder. Knows nothing of indexes or of the open evaluation sets.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.backbone import BackboneConfig
from tercet.checkpoint import Settings, write_checkpoint
from tercet.data.rows import files_of, read_rows
from tercet.data.split import text_key, texts_of
from tercet.encoder import multiplies_bfloat16
from tercet.errors import InputError
from tercet.model import M3Model
from tercet.tokens import Tokenizer
from tercet.train.bag import Bag, grow
from tercet.train.dev import check, dense_only, dev_sets, tune_weights
from tercet.train.encode import model_encoder
from tercet.train.pairs import Pairs, Rows
from tercet.train.stages import (
    Log,
    StageConfig,
    Teacher,
    UnifiedConfig,
    padded,
    train_bag,
    train_unified,
)
from tercet.train.teacher import TeacherVectors
from tercet.train.vocabulary import document_frequency, prune

CHARACTERS = 800  # of each text, read when pieces are counted


@dataclass(frozen=True)
class MiniConfig:
    """Sizes and stages of tercet-mini; the defaults are those of the bundled model."""

    vocabulary: int = 65_536
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    multi: int = 64
    positions: int = 8194
    seed: int = 0
    trained_share: float = 0.7  # of the trained weights in their mean with the start; see `blend`
    bag: StageConfig = field(
        default_factory=lambda: StageConfig(
            minutes=12, steps=10_000, batch=1024, lr=5e-3, passage_tokens=80
        )
    )
    unified: UnifiedConfig = field(
        default_factory=lambda: UnifiedConfig(
            minutes=30, steps=10_000, batch=256, lr=1e-3, passage_tokens=112, report_every=25
        )
    )

    def backbone(self, vocabulary: int) -> BackboneConfig:
        """The trunk's sizes with the vocabulary that pruning gave."""
        return BackboneConfig(
            vocabulary=vocabulary,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            feed_forward=self.feed_forward,
            positions=self.positions,
            dropout=0.0,  # one pass over little data, from a good start
        )


@torch.no_grad()
def blend(model: M3Model, start: Mapping[str, Tensor], share: float) -> None:
    """Moves a trained model back towards its start: share of the trained weights, rest the start's.

    A short run on little data gains on what it saw and forgets some of the rest; the mean keeps
    most of both. Source: Wortsman et al. 2022, arXiv 2109.01903 (weight-space ensembles).
    """
    for name, tensor in model.state_dict().items():
        tensor.copy_(share * tensor + (1 - share) * start[name])


def unique_texts(files: Iterable[Path]) -> Iterator[str]:
    """The beginning of every different text of the rows."""
    seen: set[int] = set()
    for path in files:
        for number, row in enumerate(read_rows(path), 1):
            for text in texts_of(row, f"{path}:{number}"):
                if (key := text_key(text)) not in seen:
                    seen.add(key)
                    yield text[:CHARACTERS]


def make_tokenizer(source: Path, files: list[Path], size: int, target: Path) -> Tokenizer:
    """Writes the pruned tokenizer.json where it is not there yet; returns it."""
    if not target.exists():
        counts = document_frequency(Tokenizer.from_file(source), unique_texts(files))
        scratch = target.with_name(f".{target.name}.part")
        content = prune(source, counts, size)
        scratch.write_text(
            json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
        )
        os.replace(scratch, target)
    return Tokenizer.from_file(target)


def pair_files(folder: Path) -> list[Path]:
    """The files of a side whose rows are pairs (raw texts have no query)."""
    found = [path for path in files_of(folder) if "query" in next(read_rows(path), {})]
    if not found:
        raise InputError(f"{folder}: no file with rows of query and pos")
    return found


def train_mini(
    data: Path,
    tokenizer: Path,
    target: Path,
    *,
    work: Path,
    teachers: list[Path] | None = None,
    config: MiniConfig | None = None,
    log: Log = print,
) -> None:
    """Trains on data/train, chooses on data/dev (`tercet data split`), writes target.

    work keeps the pruned tokenizer and the bag, so that a second run starts behind them. Raises
    InputError where the rows cannot train.
    """
    settings = config or MiniConfig()
    torch.manual_seed(settings.seed)
    work.mkdir(parents=True, exist_ok=True)
    pruned = make_tokenizer(
        tokenizer, files_of(data / "train"), settings.vocabulary, work / "tokenizer.json"
    )
    pairs = Pairs.load(pair_files(data / "train"), pruned)
    held_out = Pairs.load(pair_files(data / "dev"), pruned)
    teacher = None
    if teachers:
        vectors = TeacherVectors.join([TeacherVectors.load(path) for path in teachers])
        teacher = Teacher(pairs, vectors, settings.hidden)
    sets = dev_sets(held_out)

    bag = Bag(pruned.vocabulary, settings.hidden, settings.heads, pruned.pad_id)
    kept = work / "bag.pt"
    if kept.exists():
        bag.load_state_dict(torch.load(kept, weights_only=True))
    else:
        train_bag(bag, pairs, pruned, settings.bag, teacher=teacher, log=log)
        torch.save(bag.state_dict(), kept)

    @torch.inference_mode()
    def bag_vectors(places: Rows) -> Any:
        blocks = [places[at : at + 256] for at in range(0, len(places), 256)]
        return dense_only(torch.cat([bag(padded(held_out, b, pruned, 258)) for b in blocks]))

    log({"stage": "bag", "dev": check(sets, bag_vectors)})

    trunk = settings.backbone(pruned.vocabulary)
    model = M3Model(trunk, pruned.weightless_ids.tolist(), sparse=True, multi=settings.multi)
    grow(bag, trunk, model, seed=settings.seed, cls_id=pruned.cls_id)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    began = time.monotonic()
    steps = train_unified(
        model,
        pairs,
        pruned,
        settings.unified,
        teacher=teacher,
        log=log,
        autocast=multiplies_bfloat16(),
    )
    blend(model, start, settings.trained_share)
    encode = model_encoder(model, held_out, pruned)
    weights, found = tune_weights(sets, encode)
    report = check(sets, encode, weights)
    log({"stage": "unified", "dev": report, "weights": asdict(weights)})
    facts = {
        "recipe": "tercet.train.mini",
        "sources": list(pairs.sources),
        "rows": len(pairs),
        "steps": steps,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "teacher": "all-MiniLM-L6-v2" if teacher else None,
        "config": asdict(settings),
        "dev_ndcg_at_10": report,
        "dev_tuned": {name: round(value, 1) for name, value in found.items()},
    }
    write_checkpoint(
        target,
        model,
        pruned,
        settings=Settings(weights=weights, training=facts),
        dtype=torch.float16,
    )
