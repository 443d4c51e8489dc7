"""What a training run is: one tree of frozen dataclasses, read from TOML, any field set by name.

Knows nothing of models or data; conflicts are refused by the name of the field when the tree is
built, and an unknown key is an error.
"""

import dataclasses
import json
import math
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tercet.config import HEADS, MAX_LENGTH, Head
from tercet.errors import InputError
from tercet.train.losses import LossConfig

# Upper bounds of the length groups, in tokens. Source: M3 paper, table 8 (method.md).
LENGTHS = (500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8192)
# Names in the folder of a run, by which a trainer and `tercet mine --follow` talk to each other.
CONFIG, DONE, REFRESH = "config.json", "DONE", "refresh"
MODEL, READY, ANSWER, FAILED = "model", "READY", "negatives.jsonl", "FAILED"
MANY = 1e12  # as good as no bound
PARTS = ("words", "positions", "layers", "sparse", "multi")  # of a model, that may be frozen
STAGES = ("align", "retromae", "contrastive", "unified")
# Fields of which exactly one says how long a run or how large a batch is.
EITHER = (("steps", "epochs"), ("batch.sizes", "batch.rows", "batch.tokens"))


@dataclass(frozen=True)
class SourceConfig:
    """Rows of one kind: their files, and how they take part."""

    files: tuple[str, ...]  # .jsonl(.gz, .xz, .zst), .parquet, or a Hugging Face datasets folder
    name: str = ""  # in reports; the first file's name without suffixes if empty
    weight: float = 1.0  # how often a row is drawn in an epoch
    heads: tuple[Head, ...] = ()  # trained on it; none named: all, but no sparse for parallel text
    in_batch_negatives: bool = True  # False: a query meets its own negatives alone
    by_language: bool = False  # one language in each batch

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError("data.sources: a source needs files")
        if not all(self.files):
            raise InputError("data.sources: files holds an empty name")
        _within("data.sources: ", self, weight=(1e-6, MANY))
        _known_heads("data.sources: heads", self.heads)

    @property
    def label(self) -> str:
        """The name, or the first file's."""
        return self.name or Path(self.files[0]).name.partition(".")[0]


@dataclass(frozen=True)
class DataConfig:
    """Where rows come from and how much of a text is read."""

    sources: tuple[SourceConfig, ...] = ()
    dev: tuple[str, ...] = ()  # files of held-out rows, for evaluation while training
    cache: str = ""  # folder of tokenised rows; empty: in the user's cache folder
    query_tokens: int = 512  # special tokens counted (paper: queries up to 512)
    passage_tokens: int = MAX_LENGTH  # paper: passages up to 8,192
    query_prefix: str = ""  # put before every query; M3 has none
    passage_prefix: str = ""
    negatives: int = 7  # hard negatives drawn for a query (paper); 0: none
    shuffle_segments: float = 0.002  # share of passages cut in three and reordered (paper)
    temperature: float = 1.0  # sources are drawn by rows ** temperature; 1 keeps proportions

    def __post_init__(self) -> None:
        _within(
            "data.",
            self,
            query_tokens=(3, MANY),  # [CLS] and </s> count
            passage_tokens=(3, MANY),
            negatives=(0, MANY),
            shuffle_segments=(0, 1),
            temperature=(0, 1),
        )


@dataclass(frozen=True)
class BatchConfig:
    """Length groups and the rows of a batch in each, over all devices."""

    lengths: tuple[int, ...] = LENGTHS  # upper bounds of a row's longest text
    sizes: tuple[int, ...] = ()  # rows, one for each length; or
    rows: int = 0  # the same rows for all; or
    tokens: int = 0  # a token budget from which the rows of a group follow
    accumulate: int = 1  # batches of one optimiser step, each with its own negatives
    sub_batch_tokens: int = 0  # tokens encoded at once; 0: from memory_gb
    memory_gb: float = 0.0  # for activations, from which sub_batch_tokens follow; 0: no split
    checkpointing: bool = False  # recompute each layer in the backward pass

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise InputError(f"batch.lengths must rise, got {list(self.lengths)}")
        given = [name for name in ("sizes", "rows", "tokens") if getattr(self, name)]
        if len(given) != 1:
            raise InputError(
                "batch: set exactly one of sizes, rows and tokens"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if self.sizes and len(self.sizes) != len(self.lengths):
            raise InputError(
                f"batch.sizes has {len(self.sizes)} entries, batch.lengths {len(self.lengths)}"
            )
        if min((*self.sizes, *([self.rows] if self.rows else [])), default=2) < 2:
            raise InputError("batch: a batch needs at least 2 rows, to be each other's negatives")
        _within(
            "batch.",
            self,
            rows=(0, MANY),
            tokens=(0, MANY),
            accumulate=(1, MANY),
            sub_batch_tokens=(0, MANY),
            memory_gb=(0, MANY),
        )


def frozen_layers(part: str) -> range:
    """The layers, from 0, that a part such as "layers 5-12" names, counted from 1 as people do."""
    found = re.fullmatch(r"layers (\d+)-(\d+)", part)
    return range(int(found[1]) - 1, int(found[2])) if found and int(found[1]) else range(0)


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and its schedule."""

    lr: float = 1e-5  # paper, fine-tuning
    embedding_lr: float = -1.0  # of the word embeddings; 0 freezes them, below 0 is lr
    frozen: tuple[str, ...] = ()  # parts that stay as they are: any of PARTS, or layers 5-12
    weight_decay: float = 0.01  # of matrices; norms and biases have none
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.1  # share of the steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip: float = 1.0  # largest norm of the gradient; 0: none

    def __post_init__(self) -> None:
        _within(
            "optimiser.",
            self,
            lr=(1e-12, MANY),
            embedding_lr=(-MANY, MANY),
            weight_decay=(0, MANY),
            eps=(1e-12, 1),
            warmup=(0, 0.999),
            clip=(0, MANY),
        )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optimiser.betas lie between 0 and 1, got {list(self.betas)}")
        for part in self.frozen:
            if part not in PARTS and not frozen_layers(part):
                raise InputError(
                    f"optimiser.frozen: {part!r} is none of {', '.join(PARTS)}, and no layers such"
                    " as 'layers 5-12'"
                )
        if self.schedule not in ("linear", "cosine", "constant"):
            raise InputError(
                f"optimiser.schedule is linear, cosine or constant, got {self.schedule!r}"
            )


@dataclass(frozen=True)
class RetroConfig:
    """The masks of RetroMAE (Xiao et al. 2022)."""

    encoder_mask: float = 0.3
    decoder_mask: float = 0.5
    positions: int = 8194  # rows that the position table is extended to, where it has fewer

    def __post_init__(self) -> None:
        _within("retromae.", self, encoder_mask=(0.01, 0.99), decoder_mask=(0.01, 0.99))
        _within("retromae.", self, positions=(3, MANY))


@dataclass(frozen=True)
class NegativesConfig:
    """Hard negatives found again while training (ANCE)."""

    every: int = 0  # steps between two refreshes; 0: the files' own negatives
    by: Literal["self", "other"] = "self"  # mined in this process, or by `tercet mine --follow`
    number: int = 15  # kept for a query
    first: int = 2  # the range of ranks from which they are drawn
    last: int = 200
    heads: tuple[Head, ...] = ("dense",)  # whose candidates are united
    limit: float = 0.95  # a negative scores at most so much of the positive's score

    def __post_init__(self) -> None:
        _within("negatives.", self, every=(0, MANY), number=(1, MANY), first=(1, MANY))
        _within("negatives.", self, last=(self.first, MANY), limit=(0.01, 1))
        if not self.heads:
            raise InputError("negatives.heads names no head to find them by")
        _known_heads("negatives.heads", self.heads)


@dataclass(frozen=True)
class TeacherConfig:
    """What is learned from the vectors of a teacher (`tercet data teach`), beside the stage's loss.

    Each part has a weight. Stage align learns from the teacher alone.
    """

    path: str = ""  # folder of `tercet data teach`; empty: no teacher
    dense: float = 1.0  # cosine distance of dense vectors to the teacher's
    tokens: float = 1.0  # the same of multi-vectors, where the folder has tokens
    rarity: float = 0.0  # squared distance of sparse weights to how rare a token is
    scores: float = 0.0  # cross entropy of each head's scores in the batch with the teacher's,
    # heads weighted as in the loss
    relations: float = 0.0  # cross entropy of a text's likeness to all of the batch, as the teacher
    # has it, which weighs what tells texts apart more than what all have in common
    temperature: float = 0.02  # of the teacher's scores and relations
    margin: float = -1.0  # passages that the teacher scores above the positive's score less this
    # are no negatives (GIST, Solatorio 2024, arXiv 2402.16829); below 0: all stay

    def __post_init__(self) -> None:
        _within("teacher.", self, dense=(0, MANY), tokens=(0, MANY), rarity=(0, MANY))
        _within("teacher.", self, scores=(0, MANY), relations=(0, MANY), margin=(-1, 2))
        _within("teacher.", self, temperature=(1e-6, MANY))


@dataclass(frozen=True)
class RunConfig:
    """How the run is watched and kept."""

    report_every: int = 10  # steps between two lines of metrics.jsonl
    evaluate_every: int = 0  # steps between two evaluations on data.dev; 0: at the end alone
    save_every: int = 500  # steps between two checkpoints
    keep: int = 2  # checkpoints kept, the newest ones
    dev_queries: int = 500  # of each dev file
    tensorboard: bool = False  # needs tercet[tensorboard]

    def __post_init__(self) -> None:
        _within("run.", self, report_every=(1, MANY), save_every=(1, MANY), keep=(1, MANY))
        _within("run.", self, evaluate_every=(0, MANY), dev_queries=(2, MANY))


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training."""

    stage: Literal["align", "retromae", "contrastive", "unified"] = "unified"
    model: str = ""  # folder or hub id that it starts from; empty: the bundled model
    to: str = ""  # folder of the run: checkpoints, metrics, and the model at the end
    steps: int = 0  # optimiser steps; or
    epochs: float = 0.0  # passes over the rows
    seed: int = 0
    device: str = ""  # empty: a GPU where there is one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of products; weights are float32
    compile: bool = False  # torch.compile of the trunk; benchmarks/compiled.py shows if it pays
    threads: int = 0  # of the CPU; 0: torch's choice
    multi: int = 0  # size of a fresh multi-vector head, where the model lacks one; 0: H
    dropout: float = -1.0  # of the trunk; below 0: what the checkpoint says
    blend: float = 1.0  # share of the trained weights in their mean with the start's, at the end
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(rows=32))
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    retromae: RetroConfig = field(default_factory=RetroConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    teacher: TeacherConfig = field(default_factory=lambda: TeacherConfig())
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage is one of {', '.join(STAGES)}, got {self.stage!r}")
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError("set either steps or epochs, above 0")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype is auto, float32 or bfloat16, got {self.dtype!r}")
        _within("", self, steps=(0, MANY), epochs=(0, MANY), seed=(0, 2**63), threads=(0, 4096))
        _within("", self, multi=(0, MANY), dropout=(-1, 0.99), blend=(0.01, 1))
        if self.stage == "align" and not self.teacher.path:
            raise InputError("stage align learns from a teacher: set teacher.path")
        if self.teacher.path and self.teacher.tokens and self.data.shuffle_segments:
            raise InputError(
                "teacher.tokens needs texts in their order: set data.shuffle_segments = 0"
            )
        if self.negatives.every and self.stage != "unified":
            raise InputError(f"negatives.every: the stage {self.stage} has no hard negatives")
        if self.steps:
            self.loss.start(self.steps)


def _within(where: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raises InputError for a field that is not finite or outside its bounds, both allowed."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not math.isfinite(value) or not low <= value <= high:
            upper = "" if high == MANY else f" and at most {high:g}"
            raise InputError(f"{where}{name} is at least {low:g}{upper}, got {value}")


def _known_heads(where: str, heads: Sequence[str]) -> None:
    unknown = [head for head in heads if head not in HEADS]
    if unknown:
        raise InputError(f"{where}: {unknown[0]!r} is none of {', '.join(HEADS)}")


def read_tree(path: Path) -> dict[str, Any]:
    """The fields of a TOML file, for `from_tree`; raises InputError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, and no recipe of that name") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error


def from_tree(
    tree: Mapping[str, Any], settings: Sequence[str] = (), *, where: str = "config"
) -> TrainConfig:
    """Builds a config from nested mappings, with fields set as "a.b=value"."""
    joined: dict[str, Any] = json.loads(json.dumps(tree, default=str))  # a copy; dates as text
    named = {setting.partition("=")[0].strip() for setting in settings}
    for group in EITHER:
        if named & set(group):  # one that is set takes the place of the tree's other
            for other in set(group) - named:
                *above, last = other.split(".")
                table = joined.get(above[0]) if above else joined
                if isinstance(table, dict):
                    table.pop(last, None)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value, got {setting!r}")
        put(joined, name.strip().split("."), parse_value(text.strip()), setting)
    config: TrainConfig = build(TrainConfig, joined, where)
    return config


def parse_value(text: str) -> Any:
    """A TOML value; what is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def put(tree: dict[str, Any], names: Sequence[str], value: Any, setting: str) -> None:
    """Sets a field of nested mappings; a number picks an entry of a list."""
    here: Any = tree
    for name in names[:-1]:
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                raise InputError(f"--set {setting}: no entry {name} (there are {len(here)})")
            here = here[int(name)]
        else:
            here = here.setdefault(name, {})
        if not isinstance(here, dict | list):
            raise InputError(f"--set {setting}: {name} has no fields")
    if isinstance(here, list):
        raise InputError(f"--set {setting}: name an entry and its field")
    here[names[-1]] = value


def build(kind: Any, value: Any, where: str) -> Any:
    """A value of a field's type from what TOML has; raises InputError naming the field."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table, got {value!r}")
        hints = get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise InputError(
                f"{where}: unknown field {unknown[0]!r} (there are {', '.join(hints)})"
            )
        parts = {name: build(hints[name], part, f"{where}: {name}") for name, part in value.items()}
        try:
            return kind(**parts)  # type: ignore[operator]
        except TypeError as error:
            raise InputError(f"{where}: {error}") from error
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    origin, options = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, got {value!r}")
        if options[-1] is Ellipsis:
            return tuple(build(options[0], part, where) for part in value)
        if len(value) != len(options):
            raise InputError(f"{where}: expected {len(options)} values, got {value!r}")
        return tuple(build(o, part, where) for o, part in zip(options, value, strict=True))
    if origin is Literal:
        if value not in options:
            named = ", ".join(str(option) for option in options)
            raise InputError(f"{where}: expected one of {named}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        for option in options:
            try:
                return build(option, value, where)
            except InputError:
                continue
        raise InputError(f"{where}: {value!r} is not of the right type")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def to_tree(config: TrainConfig) -> dict[str, Any]:
    """Nested mappings and lists of every field: what `from_tree` reads."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return tree
