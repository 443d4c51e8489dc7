"""The files of a checkpoint, read without a library of tensors: where it is, what its files say.

A checkpoint is a local folder or a Hugging Face hub id, in the reference layout: an XLM-RoBERTa
folder plus two heads. Read here: sizes, tokenizer, our own tercet.json, which files hold weights,
the fingerprint. Knows nothing of what runs a model.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from tercet.config import Role, Weights
from tercet.errors import InputError, ModelError
from tercet.io import check_file, inner_path, json_bytes, read_json, write_json
from tercet.tokenizer import CLS, EOS, MASK, PAD, UNK, Tokenizer, framing

BUNDLED = Path(__file__).parent / "models" / "small"  # the model that comes with Tercet
SETTINGS, FORMAT = "tercet.json", 1
EXPORT_FACTS = "export.json"  # in the folder of a model that was exported as a graph
SPARSE, MULTI = "sparse_linear", "colbert_linear"  # the reference's names of the two head files
_PREFIX = 4096  # characters: a text must fit behind it
_SAMPLE, _STRIDE, _SMALL = 4096, 1 << 18, 1 << 26  # bytes; how large files are fingerprinted


@dataclass(frozen=True)
class BackboneConfig:
    """The sizes of a trunk; the defaults are XLM-RoBERTa large with M3's positions."""

    vocabulary: int = 250_002
    hidden: int = 1024
    layers: int = 24
    heads: int = 16
    feed_forward: int = 4096
    positions: int = 8194  # rows of the table: the longest text + pad_id + 1
    pad_id: int = 1
    norm_eps: float = 1e-5
    dropout: float = 0.1  # of hidden states, in training
    attention_dropout: float = 0.1  # of attention probabilities, in training

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if "dropout" in name and not 0 <= value < 1:
                raise ModelError(f"{name} is a share below 1, got {value}")
            if name == "norm_eps" and not 0 < value < 1:
                raise ModelError(f"{name} must be above 0 and below 1, got {value}")
            if isinstance(value, int) and name != "pad_id" and value < 1:
                raise ModelError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.pad_id < min(self.vocabulary, self.positions - 1):
            raise ModelError(
                f"pad_id must be an id, and a row of the positions before their last, got"
                f" {self.pad_id} of {self.vocabulary} ids and {self.positions} positions"
            )
        if self.hidden % self.heads:
            raise ModelError(f"hidden size {self.hidden} is not a multiple of {self.heads} heads")

    @property
    def max_length(self) -> int:
        """The longest text in tokens: position ids start at pad_id + 1."""
        return self.positions - self.pad_id - 1


@dataclass(frozen=True)
class Settings:
    """What tercet.json says of a model; the defaults are those of a foreign model without one."""

    weights: Weights | None = None  # of the hybrid sum, tuned on dev sets; None: the paper's
    query_prefix: str = ""
    passage_prefix: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)  # facts for people, JSON values
    # of the hybrid sum with these weights: on dev sets 99% of questions find their answer above it
    min_score: float | None = None

    def prefix(self, role: Role) -> str:
        """What is put before a text of this role."""
        return {"query": self.query_prefix, "passage": self.passage_prefix, "plain": ""}[role]


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# First the small files and safetensors; the others only where one of those is lacking.
_FILES = [
    "config.json",
    SETTINGS,
    "tokenizer.json",
    *(f"{head}.{kind}" for head in (SPARSE, MULTI) for kind in ("pt", "safetensors")),
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
]


def fetch(source: str | Path, revision: str | None = None, *, download: bool = True) -> Path:
    """The local folder of a model; raises ModelError in words where it cannot be had.

    revision pins a branch, tag or commit of a hub id; raises InputError where given for a folder.
    download: False takes a hub id from the cache alone and asks nobody.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{folder} is a folder: a revision is for hub ids only")
        return folder
    if folder.exists():
        raise ModelError(f"{folder} is a file: give the folder of a checkpoint, or a hub id")
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise ModelError(f"{source}: no such folder")
    folder = _download(source, revision, _FILES, download)
    if not (folder / "tokenizer.json").exists():
        folder = _download(source, revision, ["sentencepiece.bpe.model"], download)
    if not any(folder.glob("model*.safetensors*")):
        folder = _download(source, revision, ["pytorch_model.bin"], download)
    return folder


def _download(source: str, revision: str | None, patterns: list[str], download: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    sentences: dict[type[Exception], str] = {  # the first that fits
        errors.GatedRepoError: "the hub asks you to accept its terms and log in (hf auth login)",
        errors.RepositoryNotFoundError: "no such folder here and no such model on the hub (or it "
        "is private)",
        errors.RevisionNotFoundError: f"the hub has no revision {revision!r} of it",
        errors.LocalEntryNotFoundError: "no such folder here, "
        f"{'the hub cannot be reached, and its' if download else 'and the hub was not asked: its'} "
        "cache has no copy",
        errors.HFValidationError: "neither a folder nor a hub id",
    }
    try:
        return Path(
            snapshot_download(
                source, revision=revision, allow_patterns=patterns, local_files_only=not download
            )
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        what = f"the hub did not deliver it: {first_line(error)}"
        what = next((told for kind, told in sentences.items() if isinstance(error, kind)), what)
        raise ModelError(f"{source}: {what}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; raises ModelError where it is none."""
    check_file(path, ModelError)
    try:
        facts = read_json(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} has no {path.name}: not a checkpoint folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ModelError(f"{path}: holds a {type(facts).__name__}, not a JSON object")
    return facts


_CONFIG = {  # our sizes: their names, and what they are
    "vocabulary": ("vocab_size", int),
    "hidden": ("hidden_size", int),
    "layers": ("num_hidden_layers", int),
    "heads": ("num_attention_heads", int),
    "feed_forward": ("intermediate_size", int),
    "positions": ("max_position_embeddings", int),
    "pad_id": ("pad_token_id", int),
    "norm_eps": ("layer_norm_eps", float),
    "dropout": ("hidden_dropout_prob", float),
    "attention_dropout": ("attention_probs_dropout_prob", float),
}


_OPTIONAL = ("pad_id", "norm_eps", "dropout", "attention_dropout")


def read_config(path: Path, *, model_type: str = "xlm-roberta") -> BackboneConfig:
    """The sizes in a config.json; raises ModelError where it is of another kind of model."""
    facts = {"hidden_act": "gelu", "position_embedding_type": "absolute"} | read_object(path)
    fixed = (
        ("model_type", model_type),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
    )
    for name, only in fixed:
        if facts.get(name) != only:
            raise ModelError(f"{path}: {name} is {facts.get(name)!r}; Tercet reads {only!r} only")
    sizes: dict[str, Any] = {}
    for ours, (theirs, kind) in _CONFIG.items():
        if theirs not in facts and ours in _OPTIONAL:
            continue
        value = facts.get(theirs)
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            what = "a whole number" if kind is int else "a number"
            raise ModelError(f"{path}: {theirs} must be {what}, got {value!r}")
        sizes[ours] = value
    try:
        return BackboneConfig(**sizes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def published_sizes(config: BackboneConfig) -> dict[str, Any]:
    """The sizes by their names in config.json."""
    return {theirs: getattr(config, ours) for ours, (theirs, _) in _CONFIG.items()}


# Our names to the published ones (Hugging Face XLMRobertaModel).
TYPES = "embeddings.token_type_embeddings.weight"


TOP_NAMES = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}


_LAYER_NAMES = {  # qkv is three of theirs
    "qkv": [f"attention.self.{name}" for name in ("query", "key", "value")],
    "out": ["attention.output.dense"],
    "norm1": ["attention.output.LayerNorm"],
    "up": ["intermediate.dense"],
    "down": ["output.dense"],
    "norm2": ["output.LayerNorm"],
}


def layer_names(layers: int) -> Iterator[tuple[str, list[str]]]:
    for number in range(layers):
        for kind in ("weight", "bias"):
            for ours, theirs in _LAYER_NAMES.items():
                names = [f"encoder.layer.{number}.{name}.{kind}" for name in theirs]
                yield f"layers.{number}.{ours}.{kind}", names


def published_shapes(config: BackboneConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Published names and shapes of a trunk's tensors, one by one: sizes in files may be absurd."""
    hidden, wide = config.hidden, config.feed_forward
    yield TOP_NAMES["word_embeddings.weight"], (config.vocabulary, hidden)
    yield TOP_NAMES["position_embeddings.weight"], (config.positions, hidden)
    yield from ((TOP_NAMES[f"norm.{kind}"], (hidden,)) for kind in ("weight", "bias"))
    yield TYPES, (1, hidden)
    square: tuple[int, ...] = (hidden, hidden)
    weights = {"qkv": square, "out": square, "up": (wide, hidden), "down": (hidden, wide)}
    for ours, theirs in layer_names(config.layers):
        _, _, part, kind = ours.split(".")
        shape = weights.get(part, (hidden,))
        yield from ((name, shape if kind == "weight" else shape[:1]) for name in theirs)


def read_tokenizer(folder: Path) -> tuple[Tokenizer, Path]:
    """The tokenizer of a checkpoint and its file, without the weights; raises ModelError."""
    path = folder / "tokenizer.json"
    if path.exists():
        return Tokenizer.from_file(path), path
    path = folder / "sentencepiece.bpe.model"
    if not path.exists():
        raise ModelError(f"{folder} has neither tokenizer.json nor sentencepiece.bpe.model")
    return Tokenizer.from_file(path), path


def read_beside(folder: Path) -> tuple[BackboneConfig, Tokenizer, Settings, Path]:
    """What stands in a folder beside weights, and the tokenizer's file; raises ModelError."""
    config = read_config(folder / "config.json")
    tokenizer, file = read_tokenizer(folder)
    check_vocabulary(tokenizer, config, file)
    return config, tokenizer, read_settings(folder / SETTINGS), file


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """The tokenizer and its settings, as transformers and tokenizers.js read them."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    if backend.encode("").ids != [tokenizer.cls_id, tokenizer.eos_id]:
        backend.post_processor = framing(tokenizer.cls_id, tokenizer.eos_id)
    (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    special = {"bos_token": CLS, "cls_token": CLS, "eos_token": EOS, "sep_token": EOS}
    special |= {"pad_token": PAD, "unk_token": UNK}
    if backend.token_to_id(MASK) is not None:
        special["mask_token"] = MASK
    (folder / "special_tokens_map.json").write_bytes(json_bytes(special))
    facts = {
        # the class that takes tokenizer.json as it is, in transformers 4 and 5
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_bytes(json_bytes(facts | special))


def check_vocabulary(tokenizer: Tokenizer, config: BackboneConfig, file: Path) -> None:
    """Raises ModelError naming the token whose id the model has no row for."""
    if (last := tokenizer.vocabulary - 1) >= config.vocabulary:
        raise ModelError(
            f"{file}: {tokenizer.backend.id_to_token(last)!r} is id {last}, but the model has"
            f" {config.vocabulary} ids: they are not of one model"
        )


def read_settings(path: Path) -> Settings:
    if not path.exists():
        return Settings()
    facts = read_object(path)
    version = facts.pop("format", None)
    if version != FORMAT:
        raise ModelError(f"{path}: format {version!r}, this Tercet reads {FORMAT}")
    try:
        if facts.get("weights") is not None:
            facts["weights"] = Weights(**facts["weights"])
        settings = Settings(**facts)
    except (TypeError, InputError) as error:  # an unknown setting, or weights that are none
        raise ModelError(f"{path}: {error}") from error
    least = settings.min_score
    if least is not None and (type(least) not in (int, float) or not math.isfinite(least)):
        raise ModelError(f"{path}: min_score is {least!r:.60}, not a finite number")
    for name, kind in (("query_prefix", str), ("passage_prefix", str), ("training", dict)):
        if not isinstance(getattr(settings, name), kind):
            what = "a string" if kind is str else "an object"
            raise ModelError(f"{path}: {name} is {getattr(settings, name)!r:.60}, not {what}")
        if kind is str and len(getattr(settings, name)) > _PREFIX:
            raise ModelError(f"{path}: {name} has more than {_PREFIX:,} characters")
    return settings


def set_weights(folder: Path, weights: Weights, min_score: float | None = None) -> Path:
    """Puts other weights of the hybrid sum into a checkpoint's tercet.json; returns that file.

    min_score belongs to the weights: the least score of an answer with them, None where unknown.
    Raises ModelError where the file is damaged.
    """
    path = folder / SETTINGS
    settings = replace(read_settings(path), weights=weights, min_score=min_score)
    write_json(path, {"format": FORMAT} | asdict(settings))
    return path


def fingerprint_of(config: BackboneConfig, settings: Settings, files: list[Path]) -> str:
    """Hashes sizes, prefixes and file contents; of files over 64 MB, 4 KB of every 256 KB."""
    facts = asdict(config) | {"prefixes": [settings.query_prefix, settings.passage_prefix]}
    del facts["dropout"], facts["attention_dropout"]  # of training only
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in files:
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            if size <= _SMALL:
                digest.update(file.read())
                continue
            for start in range(0, size, _STRIDE):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the trunk's weights, in a fixed order; raises ModelError where none."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(read_object(index)["weight_map"].values())
            shards = sorted(inner_path(folder, name) for name in names)
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ModelError(f"{index}: not an index of shards: {error}") from error
        for shard in shards:
            if shard.suffix != ".safetensors" or not shard.exists():
                raise ModelError(f"{index} names {shard.name}, no safetensors file of the folder")
        if not shards:
            raise ModelError(f"{index}: names no shards")
        return shards
    binary = folder / "pytorch_model.bin"
    if binary.exists():
        return [binary]
    raise ModelError(
        f"{folder} has no weights: none of {single.name}, {index.name} and {binary.name}"
    )


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
