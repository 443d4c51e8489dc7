"""What a training run is: one tree of frozen dataclasses, read from TOML, any field set by name.

Every field carries a line that explains it, and its bounds. The stages of the paper are three named
recipes at the end. Knows nothing of models or data.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from tercet.config import HEADS, LENGTHS, MAX_LENGTH, Head
from tercet.errors import InputError

# Names in the folder of a run, by which a trainer and `tercet mine --follow` talk to each other.
CONFIG, DONE, REFRESH = "config.json", "DONE", "refresh"
MODEL, READY, ANSWER, FAILED = "model", "READY", "negatives.jsonl", "FAILED"
TEXT_STAGES = ("align", "retromae")  # that take single texts for rows, without queries
MANY = 1e12  # as good as no bound
PARTS = ("words", "positions", "layers", "sparse", "multi")  # of a model, that may be frozen
# Fields of which exactly one says how long a run or how large a batch is.
EITHER = (("steps", "epochs"), ("batch.sizes", "batch.rows", "batch.tokens"))


def option(default: Any, text: str, low: float | None = None, high: float = MANY) -> Any:
    """A field with the line that explains it; a number lies between low and high, both allowed."""
    return field(default=default, metadata={"text": text, "low": low, "high": high})


@dataclass(frozen=True)
class _Table:
    """Refuses a field outside its bounds by its name."""

    TABLE: ClassVar[str] = ""  # name in the tree, with a dot

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for known in dataclasses.fields(self):
            name, value, kind = known.name, getattr(self, known.name), hints[known.name]
            low, high = known.metadata.get("low"), known.metadata.get("high", MANY)
            if low is not None and not low <= value <= high:  # nor is NaN
                upper = "" if high == MANY else f" and at most {high:g}"
                raise self.wrong(f"{name} is at least {low:g}{upper}, got {value}")
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise self.wrong(f"{name} is one of {', '.join(get_args(kind))}, got {value!r}")
            if name.endswith("heads") and not set(value) <= set(HEADS):
                raise self.wrong(f"{name} are any of {', '.join(HEADS)}, got {list(value)}")

    def wrong(self, text: str) -> InputError:
        return InputError(f"{self.TABLE}{text}")


@dataclass(frozen=True)
class SourceConfig(_Table):
    """Rows of one kind: their files, and how they take part."""

    TABLE = "data.sources: "
    files: tuple[str, ...] = option(
        (), ".jsonl(.gz, .bz2, .xz, .zst), .parquet, or a Hugging Face datasets folder"
    )
    name: str = option("", "in reports; empty: the first file's name without suffixes")
    weight: float = option(1.0, "how often a row is drawn in an epoch", 1e-6)
    heads: tuple[Head, ...] = option((), "trained on these rows; none named: those of the stage")
    in_batch_negatives: bool = option(True, "false: a query meets its own negatives alone")
    by_language: bool = option(False, "one language in each batch")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files or not all(self.files):
            raise self.wrong("a source needs files, none with an empty name")

    @property
    def label(self) -> str:
        return self.name or Path(self.files[0]).name.partition(".")[0]


@dataclass(frozen=True)
class DataConfig(_Table):
    """Where rows come from and how much of a text is read."""

    TABLE = "data."
    sources: tuple[SourceConfig, ...] = option((), "files of rows")
    dev: tuple[str, ...] = option((), "files of held-out rows, for evaluation while training")
    cache: str = option("", "folder of tokenised rows; empty: in the user's cache folder")
    query_tokens: int = option(512, "read of a query, special ones counted (paper: 512)", 3)
    passage_tokens: int = option(MAX_LENGTH, "read of a passage (paper: 8,192)", 3)
    query_prefix: str = option("", "put before every query; empty: the model's own (M3: none)")
    passage_prefix: str = option("", "put before every passage; empty: the model's own (M3: none)")
    negatives: int = option(7, "hard negatives drawn for a query (paper: 7); 0: none", 0)
    parallel_heads: tuple[Head, ...] = option(
        HEADS, "trained on rows of two languages, where their source names none (paper: all)"
    )
    shuffle_segments: float = option(
        0.002, "share of passages cut in three and reordered (paper: 0.002)", 0, 1
    )
    temperature: float = option(
        1.0, "sources are drawn by rows ** temperature; 1 keeps proportions", 0, 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parallel_heads:
            raise self.wrong("parallel_heads names no head")
        for source in self.sources:
            if not (self.negatives or source.in_batch_negatives):
                raise self.wrong(
                    f"negatives is 0 and source {source.label} has in_batch_negatives = false: a"
                    " positive has nothing to be compared with"
                )


@dataclass(frozen=True)
class BatchConfig(_Table):
    """Length groups and the rows of a batch in each, over all devices."""

    TABLE = "batch."
    lengths: tuple[int, ...] = option(LENGTHS, "upper bounds of a row's longest text, in tokens")
    sizes: tuple[int, ...] = option((), "rows of a batch, one for each of lengths; or set rows")
    rows: int = option(0, "rows of a batch, the same for all lengths; or set tokens", 0)
    tokens: int = option(0, "tokens of a batch, from which its rows follow", 0)
    accumulate: int = option(1, "batches of one step, each with its own negatives", 1)
    sub_batch_tokens: int = option(0, "tokens encoded at once; 0: from memory_gb", 0)
    memory_gb: float = option(
        0.0, "for activations, from which sub_batch_tokens follow; 0: no split", 0
    )
    checkpointing: bool = option(False, "recompute each layer in the backward pass")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise self.wrong(f"lengths must rise, got {list(self.lengths)}")
        given = [name for name in ("sizes", "rows", "tokens") if getattr(self, name)]
        if len(given) != 1:
            but = f", not {' and '.join(given)}" if given else ""
            raise InputError(f"batch: set exactly one of sizes, rows and tokens{but}")
        if self.sizes and len(self.sizes) != len(self.lengths):
            raise self.wrong(f"sizes has {len(self.sizes)} entries, lengths {len(self.lengths)}")
        if 1 in (*self.sizes, self.rows) or min(self.sizes, default=2) < 2:
            raise InputError("batch: a batch needs at least 2 rows, to be each other's negatives")


@dataclass(frozen=True)
class LossConfig(_Table):
    """Weights and temperatures of the unified loss; the defaults are the paper's."""

    TABLE = "loss."
    temperature: float = option(0.02, "of every score, tau (reference configuration)", 1e-9)
    dense: float = option(1.0, "w1, of dense in the sum of scores (paper v4)", 0)
    sparse: float = option(0.3, "w2", 0)
    multi: float = option(1.0, "w3", 0)
    dense_loss: float = option(1.0, "lambda1, of the dense loss (paper v4)", 0)
    sparse_loss: float = option(0.1, "lambda2: a fresh sparse head scores badly at first", 0)
    multi_loss: float = option(1.0, "lambda3", 0)
    distillation: bool = option(True, "self-distillation, from distil_from on")
    distil_from: int | Literal["auto"] = option(
        "auto", "step; auto: 6,000 (paper), or a quarter of the steps if that is less"
    )
    teacher: Literal["kl_div", "m3_kd"] = option(
        "kl_div", "rows' outside scores: beside InfoNCE, or (m3_kd) in its place"
    )
    teacher_weight: float = option(1.0, "of the outside scores' loss (reference: 1)", 0)
    teacher_temperature: float = option(1.0, "of the outside scores (reference: 1)", 1e-9)
    dense_sizes: tuple[int, ...] = option(
        (), "Matryoshka: leading sizes trained beside the whole vector"
    )
    multi_sizes: tuple[int, ...] = option((), "the same of the multi-vector head")
    flops: float = option(
        0.0, "weight of the sparse head's FLOPS term (SPLADE, arXiv 2107.05720)", 0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.dense_sizes + self.multi_sizes, default=1) < 1:
            raise self.wrong("dense_sizes and multi_sizes hold sizes of at least 1")

    def start(self, steps: int) -> int:
        """The step from which the loss has self-distillation, `steps` where it never has.

        Raises InputError where the configured step is at or beyond the end.
        """
        if not self.distillation:
            return steps
        if self.distil_from == "auto":
            return min(6000, steps // 4)
        if not 0 <= self.distil_from < steps:
            raise self.wrong(
                f"distil_from = {self.distil_from}, but the run has {steps} steps: set an earlier"
                ' one, "auto", or loss.distillation = false'
            )
        return self.distil_from


def frozen_layers(part: str) -> range:
    """The layers, from 0, that a part such as "layers 5-12" names, counted from 1 as people do."""
    match = re.fullmatch(r"layers (\d+)-(\d+)", part)
    return range(int(match[1]) - 1, int(match[2])) if match and int(match[1]) else range(0)


@dataclass(frozen=True)
class OptimiserConfig(_Table):
    """AdamW and its schedule."""

    TABLE = "optimiser."
    lr: float = option(1e-5, "learning rate at its peak (paper, fine-tuning: 1e-5)", 1e-12)
    embedding_lr: float = option(
        -1.0, "of the word embeddings; 0 freezes them, below 0 is lr", -MANY
    )
    frozen: tuple[str, ...] = option(
        (), f"parts that stay as they are: any of {', '.join(PARTS)}, or such as layers 5-12"
    )
    weight_decay: float = option(
        0.01, "of matrices, word embeddings too; norms and biases have none", 0
    )
    betas: tuple[float, float] = option((0.9, 0.999), "of AdamW")
    eps: float = option(1e-8, "of AdamW", 1e-12, 1)
    warmup: float = option(0.1, "share of the steps in which the rate rises", 0, 0.999)
    schedule: Literal["linear", "cosine", "constant"] = option("linear", "after the warm-up")
    clip: float = option(1.0, "largest norm of the gradient; 0: none", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise self.wrong(f"betas lie between 0 and 1, got {list(self.betas)}")
        for part in self.frozen:
            if part not in PARTS and not frozen_layers(part):
                raise self.wrong(
                    f"frozen: {part!r} is none of {', '.join(PARTS)}, and no layers such as"
                    " 'layers 5-12'"
                )


@dataclass(frozen=True)
class RetroConfig(_Table):
    """The masks of RetroMAE (Xiao et al. 2022)."""

    TABLE = "retromae."
    encoder_mask: float = option(0.3, "share of tokens hidden from the encoder", 0.01, 0.99)
    decoder_mask: float = option(0.5, "share of tokens hidden from the decoder", 0.01, 0.99)
    positions: int = option(
        8194, "rows that the position table is extended to, where it has fewer", 3
    )


@dataclass(frozen=True)
class NegativesConfig(_Table):
    """Hard negatives found again while training (ANCE)."""

    TABLE = "negatives."
    every: int = option(0, "steps between two refreshes; 0: the files' own negatives", 0)
    by: Literal["self", "other"] = option(
        "self", "mined in this process, or (other) by `tercet mine --follow`"
    )
    number: int = option(15, "kept for a query", 1)
    first: int = option(2, "the range of ranks from which they are drawn", 1)
    last: int = option(200, "its end", 1)
    heads: tuple[Head, ...] = option(("dense",), "whose candidates are united")
    limit: float = option(
        0.95, "a negative scores at most so much of the positive's score", 0.01, 1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last < self.first:
            raise self.wrong(f"last is at least first ({self.first}), got {self.last}")
        if not self.heads:
            raise self.wrong("heads names no head to find them by")


@dataclass(frozen=True)
class TeacherConfig(_Table):
    """What is learned from the vectors of a teacher, each part with a weight."""

    TABLE = "teacher."
    path: str = option("", "folder of `tercet data teach`; empty: no teacher")
    dense: float = option(1.0, "weight of the cosine distance of dense vectors to the teacher's", 0)
    tokens: float = option(1.0, "the same of multi-vectors, where the folder has tokens", 0)
    rarity: float = option(
        0.0, "weight of the squared distance of sparse weights to how rare a token is", 0
    )
    scores: float = option(
        0.0, "weight of the cross entropy of each head's scores in the batch with the teacher's", 0
    )
    relations: float = option(
        0.0, "weight of the cross entropy of a text's likeness to all of the batch", 0
    )
    temperature: float = option(0.02, "of the teacher's scores and relations", 1e-6)
    margin: float = option(
        -1.0,
        "passages that the teacher scores above the positive's score less this are no negatives"
        " (GIST, arXiv 2402.16829); below 0: all stay",
        -1,
        2,
    )


@dataclass(frozen=True)
class RunConfig(_Table):
    """How the run is watched and kept."""

    TABLE = "run."
    report_every: int = option(10, "steps between two lines of metrics.jsonl", 1)
    evaluate_every: int = option(
        0, "steps between two evaluations on data.dev; 0: at the start and the end alone", 0
    )
    save_every: int = option(500, "steps between two checkpoints", 1)
    keep: int = option(2, "checkpoints kept, the newest ones", 1)
    dev_queries: int = option(500, "questions of each dev file", 2)
    tensorboard: bool = option(False, "needs tercet[tensorboard]")


@dataclass(frozen=True)
class TrainConfig(_Table):
    """One stage of training."""

    stage: Literal["align", "retromae", "contrastive", "unified"] = option(
        "unified", "align (to a teacher), retromae, contrastive or unified"
    )
    model: str = option("", "folder or hub id that it starts from; empty: the bundled model")
    to: str = option("", "folder of the run: checkpoints, metrics, and the model at the end")
    steps: int = option(0, "optimiser steps; or set epochs", 0)
    epochs: float = option(0.0, "passes over the rows", 0)
    seed: int = option(0, "of all that is drawn", 0, 2**63)
    device: str = option("", "empty: a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "of products; weights are float32"
    )
    compile: bool = option(False, "torch.compile of the trunk; benchmarks/training.py: if it pays")
    threads: int = option(0, "of the CPU; 0: torch's choice", 0, 4096)
    multi: int = option(0, "size of a fresh multi-vector head; 0: as the dense one", 0)
    dropout: float = option(-1.0, "of the trunk; below 0: what the checkpoint says", -1, 0.99)
    blend: float = option(
        1.0, "share of the trained weights in their mean with the start's, at the end", 0.01, 1
    )
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=lambda: BatchConfig(rows=32))
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    retromae: RetroConfig = field(default_factory=RetroConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError("set either steps or epochs, above 0")
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

    @property
    def heads(self) -> tuple[Head, ...]:
        return HEADS if self.stage in ("align", "unified") else ("dense",)


# Trees and TOML


def read_tree(path: Path) -> dict[str, Any]:
    """The fields of a TOML file, or of a run's config.json; raises InputError naming the file."""
    kind, loads = ("JSON", json.loads) if path.suffix == ".json" else ("TOML", tomllib.loads)
    try:
        tree: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, and no recipe of that name") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as {kind}: {error}") from error
    return tree


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
        _put(joined, name.strip().split("."), _parsed(text.strip()), setting)
    config: TrainConfig = build(TrainConfig, joined, where)
    return config


def _parsed(text: str) -> Any:
    """A TOML value; what is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], names: Sequence[str], value: Any, setting: str) -> None:
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
    origin, options = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table, got {value!r}")
        hints = get_type_hints(kind)
        names = [each.name for each in dataclasses.fields(kind)]
        if unknown := sorted(set(value) - set(names)):
            raise InputError(
                f"{where}: unknown field {unknown[0]!r} (there are {', '.join(names)})"
            )
        parts = {name: build(hints[name], part, f"{where}: {name}") for name, part in value.items()}
        try:
            return kind(**parts)  # type: ignore[operator]
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, got {value!r}")
        kinds = [options[0]] * len(value) if options[-1] is Ellipsis else options
        if len(value) != len(kinds):
            raise InputError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(build(o, part, where) for o, part in zip(kinds, value, strict=True))
    if origin is Literal:
        if value not in options:
            raise InputError(f"{where}: expected one of {', '.join(options)}, got {value!r}")
        return value
    if origin in (Union, type(int | str)):
        for choice in options:
            try:
                return build(choice, value, where)
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


def to_toml(config: TrainConfig) -> str:
    """The whole config as TOML, each field under the line that explains it."""
    return "\n".join(_toml_lines(config, "")).strip() + "\n"


def _toml_lines(table: _Table, name: str) -> Iterator[str]:
    inner: list[tuple[str, str, Any]] = []
    for each in dataclasses.fields(table):
        value = getattr(table, each.name)
        path = f"{name}.{each.name}".lstrip(".")
        if isinstance(value, _Table):
            inner.append((f"[{path}]", path, value))
        elif each.name == "sources":
            inner += [(f"[[{path}]]", path, source) for source in value]
        else:
            plain = list(value) if isinstance(value, tuple) else value
            yield f"# {each.metadata['text']}"
            yield tomli_w.dumps({each.name: plain}).rstrip()
    for header, path, value in inner:
        yield f"\n{header}"
        yield from _toml_lines(value, path)


# Recipes: the stages of the paper as named functions. A variant changes fields of one (`tercet
# train unified --set batch.rows=64`). The same lie in recipes/*.toml; a test keeps them equal.
# Source: docs/method.md, "Training" and "Efficient batching" (M3 paper, section 3, table 8 and
# appendix; arXiv 2402.03216 v4).

# Rows of a batch over all devices for each of LENGTHS (table 8); 3000-5000 is one range there.
CONTRASTIVE_ROWS = (67_200, 54_720, 37_248, 27_648, 21_504, 17_280, 15_072, 12_288, 9_984)
UNIFIED_ROWS = (1_152, 768, 480, 432, 336, 336, 288, 240, 192)


def retromae() -> TrainConfig:
    """Stage 1: RetroMAE on raw text, which also learns the new positions."""
    return TrainConfig(
        stage="retromae",
        steps=20_000,
        data=DataConfig(shuffle_segments=0.0),
        # 32 GPUs, 32 texts each, 16 batches accumulated
        batch=BatchConfig(rows=1_024, accumulate=16, memory_gb=16, checkpointing=True),
        optimiser=OptimiserConfig(lr=7e-5),  # warm-up: ours, the paper names none
    )


def contrastive() -> TrainConfig:
    """Stage 2: the dense head on unlabelled pairs, in-batch negatives alone."""
    return TrainConfig(
        stage="contrastive",
        steps=25_000,
        data=DataConfig(negatives=0),
        batch=BatchConfig(sizes=CONTRASTIVE_ROWS, memory_gb=16, checkpointing=True),
        optimiser=OptimiserConfig(lr=5e-5),
    )


def unified() -> TrainConfig:
    """Stage 3: all heads, warm-up, then self-distillation; 7 hard negatives."""
    return TrainConfig(
        stage="unified",
        epochs=1.0,
        batch=BatchConfig(sizes=UNIFIED_ROWS, memory_gb=16, checkpointing=True),
        run=RunConfig(evaluate_every=500),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "retromae": retromae,
    "contrastive": contrastive,
    "unified": unified,
}


def recipe(name: str) -> TrainConfig:
    """The config of a named recipe; raises InputError for another name."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose from {', '.join(RECIPES)}")
    return RECIPES[name]()
