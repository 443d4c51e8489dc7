"""Reads and writes checkpoints in the reference layout: an XLM-RoBERTa folder plus two heads.

A checkpoint is a local folder or a Hugging Face hub id. Read: config.json; model.safetensors,
shards with an index, or pytorch_model.bin; sparse_linear and colbert_linear as .pt or
.safetensors; tokenizer.json or sentencepiece.bpe.model; our own tercet.json where there is one.
Tensors are read one at a time, and nothing is unpickled but tensors (`weights_only=True`). Knows
nothing of texts, batches or training.
"""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tercet.config import MAX_LENGTH, Role, Weights
from tercet.errors import InputError, ModelError
from tercet.io import atomic_folder, json_bytes, write_json
from tercet.model import BackboneConfig, M3Model, from_published, to_published
from tercet.tokenizer import CLS, EOS, MASK, PAD, UNK, Tokenizer, read_sentencepiece

SETTINGS, FORMAT = "tercet.json", 1
SPARSE, MULTI = "sparse_linear", "colbert_linear"  # the reference's names of the two head files
# Of the float8 types the one that every transformers reads; it leaves out float8_e4m3fn (4.50 on).
EMBEDDINGS = torch.float8_e5m2
_TABLE = re.compile(r"(word|position)_embeddings\.weight$")
_SAMPLE, _STRIDE, _SMALL = 4096, 1 << 18, 1 << 26  # bytes; how large files are fingerprinted


@dataclass(frozen=True)
class Settings:
    """What tercet.json says of a model; the defaults are those of a foreign model without one."""

    weights: Weights | None = None  # of the hybrid sum, tuned on dev sets; None: the paper's
    query_prefix: str = ""
    passage_prefix: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)  # facts for people, JSON values

    def prefix(self, role: Role) -> str:
        """What is put before a text of this role."""
        return {"query": self.query_prefix, "passage": self.passage_prefix, "plain": ""}[role]


@dataclass(frozen=True)
class Checkpoint:
    """A model as read: ready to run in eval mode, with what belongs to it.

    fingerprint names the weights, tokenizer and prefixes; it does not depend on where the folder
    lies nor on the dtype that the model was loaded in.
    """

    model: M3Model
    tokenizer: Tokenizer
    settings: Settings
    fingerprint: str
    folder: Path


def read_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Loads a folder or a hub id, tensor by tensor into dtype.

    Raises ModelError naming the file and what is wrong with it, InputError for a revision of a
    folder.
    """
    folder = fetch(source, revision)
    config = read_config(folder / "config.json")
    tokenizer, tokenizer_file = read_tokenizer(folder)
    if tokenizer.vocabulary > config.vocabulary:
        raise ModelError(
            f"{tokenizer_file} has {tokenizer.vocabulary} ids, but config.json says"
            f" vocab_size {config.vocabulary}: they are not of one model"
        )
    settings = _read_settings(folder / SETTINGS)
    files = weight_files(folder)
    tensors = TensorFiles(files)
    sparse = read_head(folder, SPARSE, config.hidden, tensors)
    multi = read_head(folder, MULTI, config.hidden, tensors)
    if sparse is not None and sparse.tensors["weight"].shape[0] != 1:
        raise ModelError(
            f"{sparse.file}: weight is {tuple(sparse.tensors['weight'].shape)}, the sparse head"
            f" needs (1, {config.hidden})"
        )
    with torch.device("meta"):
        model = M3Model(
            config,
            tokenizer.weightless_ids.tolist(),
            sparse=sparse is not None,
            multi=None if multi is None else multi.tensors["weight"].shape[0],
        )
    expected = to_published(model.backbone.state_dict(), config.layers)
    tensors.check({name: tuple(tensor.shape) for name, tensor in expected.items()})
    state = from_published(tensors.reader(dtype, device), config.layers)
    model.backbone.load_state_dict(state, assign=True)
    for head, found in ((model.sparse, sparse), (model.multi, multi)):
        if head is not None and found is not None:
            parts = {name: t.to(device, dtype) for name, t in found.tensors.items()}
            head.load_state_dict(parts, assign=True)
    model.to(device)
    head_files = {found.file for found in (sparse, multi) if found is not None}
    fingerprint = _fingerprint(
        config, settings, [*files, *sorted(head_files - set(files)), tokenizer_file]
    )
    return Checkpoint(model.eval(), tokenizer, settings, fingerprint, folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent} has no {path.name}: not a checkpoint folder") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(facts, dict):
        raise ModelError(f"{path}: holds a {type(facts).__name__}, not a JSON object")
    return facts


def read_config(path: Path, *, model_type: str = "xlm-roberta") -> BackboneConfig:
    """The sizes in a config.json; raises ModelError where it is of another kind of model."""
    facts = _read_json(path)
    fixed = {
        "model_type": model_type,
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    }
    for name, only in fixed.items():
        got = facts.get(name, None if name == "model_type" else only)
        if got != only:
            raise ModelError(f"{path}: {name} is {got!r}; Tercet reads {only!r} only")
    names = {
        "vocabulary": "vocab_size",
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed_forward": "intermediate_size",
        "positions": "max_position_embeddings",
    }
    sizes: dict[str, Any] = {ours: facts.get(theirs) for ours, theirs in names.items()}
    sizes["pad_id"] = facts.get("pad_token_id", 1)
    for ours, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            theirs = names.get(ours, "pad_token_id")
            raise ModelError(f"{path}: {theirs} must be a whole number, got {size!r}")
    floats = {
        "norm_eps": "layer_norm_eps",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    defaults = BackboneConfig()
    for ours, theirs in floats.items():
        sizes[ours] = facts.get(theirs, getattr(defaults, ours))
        if not isinstance(sizes[ours], int | float):
            raise ModelError(f"{path}: {theirs} must be a number, got {sizes[ours]!r}")
    try:
        return BackboneConfig(**sizes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_tokenizer(folder: Path) -> tuple[Tokenizer, Path]:
    """The tokenizer of a checkpoint and its file, without the weights; raises ModelError."""
    path = folder / "tokenizer.json"
    if path.exists():
        return Tokenizer.from_file(path), path
    pieces = folder / "sentencepiece.bpe.model"
    if not pieces.exists():
        raise ModelError(f"{folder} has neither tokenizer.json nor sentencepiece.bpe.model")

    return Tokenizer(read_sentencepiece(pieces)), pieces


def _read_settings(path: Path) -> Settings:
    if not path.exists():
        return Settings()
    facts = _read_json(path)
    version = facts.pop("format", None)
    if version != FORMAT:
        raise ModelError(f"{path}: format {version!r}, this Tercet reads {FORMAT}")
    kinds = {"weights": dict, "query_prefix": str, "passage_prefix": str, "training": dict}
    for name, value in facts.items():
        if name not in kinds:
            raise ModelError(f"{path}: unknown setting {name!r}; known: {', '.join(kinds)}")
        if not isinstance(value, kinds[name]) and not (name == "weights" and value is None):
            raise ModelError(f"{path}: {name} is a {type(value).__name__}")
    try:
        if facts.get("weights") is not None:
            facts["weights"] = Weights(**facts["weights"])
    except (TypeError, InputError) as error:
        raise ModelError(f"{path}: weights: {error}") from error
    return Settings(**facts)


def set_weights(folder: Path, weights: Weights) -> Path:
    """Puts other weights of the hybrid sum into a checkpoint's tercet.json; returns that file.

    Raises ModelError where the file is damaged.
    """
    path = folder / SETTINGS
    settings = replace(_read_settings(path), weights=weights)
    write_json(path, {"format": FORMAT} | asdict(settings))
    return path


def _fingerprint(config: BackboneConfig, settings: Settings, files: list[Path]) -> str:
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


def write_checkpoint(
    folder: str | Path,
    model: M3Model,
    tokenizer: Tokenizer,
    *,
    settings: Settings | None = None,
    dtype: torch.dtype = torch.float32,
    embeddings: torch.dtype | None = None,
) -> None:
    """Writes the reference layout, weights stored in dtype; the folder appears whole or not at all.

    embeddings is the dtype of the word and position embeddings where it is another: EMBEDDINGS
    halves them once more. FlagEmbedding, transformers and sentence-transformers load it. Raises
    InputError where the folder exists already.
    """
    target = Path(folder)
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    with atomic_folder(target) as scratch:
        _write_weights(scratch, model, dtype, embeddings or dtype)
        _write_tokenizer(scratch, tokenizer, min(model.backbone.config.max_length, MAX_LENGTH))
        documents = _documents(model, settings or Settings())
        for name, facts in documents.items():
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(json_bytes(facts))


def _write_weights(
    folder: Path, model: M3Model, dtype: torch.dtype, embeddings: torch.dtype
) -> None:
    def stored(tensor: Tensor, dtype: torch.dtype = dtype) -> Tensor:
        return tensor.detach().to("cpu", dtype).contiguous()

    state = to_published(model.backbone.state_dict(), model.backbone.config.layers)
    tensors = {
        name: stored(tensor, embeddings if _TABLE.search(name) else dtype).clone()
        for name, tensor in state.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, head in ((SPARSE, model.sparse), (MULTI, model.multi)):
        if head is not None:
            # torch.save is what the reference reads; it and we load it with weights_only=True
            parts = {key: stored(tensor).clone() for key, tensor in head.state_dict().items()}
            torch.save(parts, folder / f"{name}.pt")


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend.from_str(tokenizer.backend.to_str())
    if backend.encode("").ids != [tokenizer.cls_id, tokenizer.eos_id]:
        backend.post_processor = TemplateProcessing(
            single=[CLS, "$A", EOS],
            pair=[CLS, "$A", EOS, EOS, "$B", EOS],
            special_tokens=[(CLS, tokenizer.cls_id), (EOS, tokenizer.eos_id)],
        )
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    special = {
        "bos_token": CLS,
        "cls_token": CLS,
        "eos_token": EOS,
        "sep_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
    }
    if tokenizer.backend.token_to_id(MASK) is not None:
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


def _documents(model: M3Model, settings: Settings) -> dict[str, Any]:
    """The JSON files that follow from the model's sizes and settings, by path in the folder."""
    config = model.backbone.config
    module = "sentence_transformers.models."
    return {
        "config.json": {
            "architectures": ["XLMRobertaModel"],
            "model_type": "xlm-roberta",
            "vocab_size": config.vocabulary,
            "hidden_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": config.feed_forward,
            "max_position_embeddings": config.positions,
            "type_vocab_size": 1,
            "pad_token_id": config.pad_id,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": config.norm_eps,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "position_embedding_type": "absolute",
            "initializer_range": 0.02,
            # what others compute in by default, whatever the stored dtype
            "torch_dtype": "float32",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": module + "Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": module + "Normalize"},
        ],
        "sentence_bert_config.json": {
            "max_seq_length": min(config.max_length, MAX_LENGTH),
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": settings.query_prefix, "document": settings.passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": config.hidden,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "2_Normalize/config.json": {},
        SETTINGS: {"format": FORMAT} | asdict(settings),
    }


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SMALL_FILES = [
    "config.json",
    "tercet.json",
    "tokenizer.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
    "sparse_linear.safetensors",
    "colbert_linear.safetensors",
]
_SAFETENSORS = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
]
_PIECES = ["sentencepiece.bpe.model"]
_BIN = ["pytorch_model.bin"]


def fetch(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model; raises ModelError in words where it cannot be had.

    revision pins a branch, tag or commit of a hub id; raises InputError where given for a folder.
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
    found = _download(source, revision, _SMALL_FILES + _SAFETENSORS)
    if not (found / "tokenizer.json").exists():
        found = _download(source, revision, _PIECES)
    if not any(found.glob("model*.safetensors*")):
        found = _download(source, revision, _BIN)
    return found


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        what = "the hub asks you to accept its terms and log in (hf auth login)"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        what, cause = "no such folder here and no such model on the hub (or it is private)", error
    except RevisionNotFoundError as error:
        what, cause = f"the hub has no revision {revision!r} of it", error
    except LocalEntryNotFoundError as error:
        what = "no such folder here, the hub cannot be reached, and its cache has no copy"
        cause = error
    except HFValidationError as error:
        what, cause = "neither a folder nor a hub id", error
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().split("\n", 1)[0]
        what, cause = f"the hub did not deliver it: {first}", error
    raise ModelError(f"{source}: {what}") from cause


# A memory-mapped file counts as resident once read: it is closed and opened again every so often.
REOPEN = 1 << 28  # bytes

_ANCHOR = "embeddings.word_embeddings.weight"  # what stands before it is the prefix of all names


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the trunk's weights, in a fixed order; raises ModelError where none."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            shards = sorted({folder / str(name) for name in names})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of shards: {error!r}") from error
        for shard in shards:
            if shard.parent != folder or not shard.exists():
                raise ModelError(f"{index} names {shard.name}, which is not in the folder")
        return shards
    binary = folder / "pytorch_model.bin"
    if binary.exists():
        return [binary]
    raise ModelError(
        f"{folder} has no weights: none of {single.name}, {index.name} and {binary.name}"
    )


class TensorFiles:
    """What one or more files hold: shapes, whether floats, and which file, by stored name."""

    def __init__(self, files: list[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.floats: dict[str, bool] = {}
        self.owner: dict[str, Path] = {}
        self.prefix = ""  # what the trunk's names begin with, such as `roberta.` or nothing
        self._files = files
        for path in files:
            self._scan(path)

    def _scan(self, path: Path) -> None:
        found: dict[str, tuple[tuple[int, ...], bool]] = {}
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    part = file.get_slice(name)
                    kind = str(part.get_dtype())
                    found[name] = (tuple(part.get_shape()), kind[0] in "FB" and kind != "BOOL")
        else:
            for name, tensor in load_torch(path).items():
                found[name] = (tuple(tensor.shape), tensor.is_floating_point())
        anchors = [name for name in found if name.endswith(_ANCHOR)]
        if anchors:
            self.prefix = min(anchors, key=len)[: -len(_ANCHOR)]
        for name, (shape, floats) in found.items():
            self.shapes[name], self.floats[name] = shape, floats
            self.owner[name] = path

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ModelError naming file and tensor where one is absent, misshapen or no float."""
        files = ", ".join(str(path) for path in self._files)
        for short, shape in expected.items():
            name = self.prefix + short
            if name not in self.shapes:
                raise ModelError(f"{files}: has no tensor {name!r}, which config.json asks for")
            if self.shapes[name] != shape:
                raise ModelError(
                    f"{self.owner[name]}: {name} is {self.shapes[name]}, but config.json says"
                    f" {shape}"
                )
            if not self.floats[name]:
                raise ModelError(f"{self.owner[name]}: {name} does not hold floating-point numbers")

    def reader(
        self,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        prefix: str | None = None,
    ) -> "TensorReader":
        """The tensors under a prefix (the trunk's), each converted as it is asked for."""
        return TensorReader(self, dtype, device, self.prefix if prefix is None else prefix)


class TensorReader(Mapping[str, Tensor]):
    """A lazy state dict: what is asked for is read, converted and not kept."""

    def __init__(
        self, files: TensorFiles, dtype: torch.dtype, device: torch.device | str, prefix: str
    ) -> None:
        self._files, self._dtype, self._device, self._prefix = files, dtype, device, prefix
        self._open: Any = None
        self._path: Path | None = None
        self._read = 0

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._files.shapes

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        return (name[len(prefix) :] for name in self._files.shapes if name.startswith(prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._prefix + name
        path = self._files.owner[stored]
        if path != self._path or self._read > REOPEN:
            self._open = None  # first drop the old mapping
            safe = path.suffix == ".safetensors"
            self._open = _opened(path) if safe else load_torch(path)
            self._path, self._read = path, 0
        held: Tensor = (
            self._open[stored] if isinstance(self._open, dict) else self._open.get_tensor(stored)
        )
        self._read += held.nbytes
        return held.to(self._device, self._dtype, copy=True)


@dataclass(frozen=True)
class HeadFile:
    """A linear head as found: weight (out, H), bias (out,), and the file it came from."""

    tensors: dict[str, Tensor]
    file: Path


def read_head(folder: Path, name: str, hidden: int, trunk: TensorFiles) -> HeadFile | None:
    """The head `name` from its own file or from the trunk's; None where there is none.

    Raises ModelError where it is corrupt, incomplete or not made for `hidden`.
    """
    path = folder / f"{name}.safetensors"
    if path.exists():
        with _opened(path) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    elif (path := folder / f"{name}.pt").exists():
        tensors = load_torch(path)
    elif f"{name}.weight" in trunk.owner:
        path = trunk.owner[f"{name}.weight"]
        tensors = dict(trunk.reader(torch.float32, prefix=f"{name}."))
    else:
        return None
    if set(tensors) != {"weight", "bias"}:
        raise ModelError(f"{path}: a head is a weight and a bias, this holds {sorted(tensors)}")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.ndim != 2 or weight.shape[1] != hidden or weight.shape[0] < 1:
        raise ModelError(
            f"{path}: weight is {tuple(weight.shape)}, but the trunk's states have {hidden} numbers"
        )
    if tuple(bias.shape) != (weight.shape[0],):
        raise ModelError(
            f"{path}: bias is {tuple(bias.shape)}, but weight is {tuple(weight.shape)}"
        )
    if not (weight.is_floating_point() and bias.is_floating_point()):
        raise ModelError(f"{path}: does not hold floating-point numbers")
    return HeadFile(tensors, path)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: corrupt or truncated safetensors: {error}") from error


def load_torch(path: Path) -> dict[str, Tensor]:
    """A state dict saved by torch, memory-mapped where its format allows; raises ModelError."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 is no zip
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is corrupt, or holds more than tensors, which Tercet does not load"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise ModelError(f"{path}: corrupt or truncated: {first}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(f"{path}: holds no state dict (names to tensors)")
    return state
