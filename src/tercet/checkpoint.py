"""Checkpoints in the reference layout as models of torch, read and written.

Weights are model.safetensors, shards with an index, or pytorch_model.bin; the heads sparse_linear
and colbert_linear as .pt or .safetensors. Tensors are read one at a time, and nothing is unpickled
but tensors (`weights_only=True`). Knows nothing of texts, batches or training.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tercet.config import MAX_LENGTH
from tercet.embeddings import check_absent
from tercet.errors import ModelError, TercetError
from tercet.inference import TorchRuntime, usable_device, usable_dtype
from tercet.io import atomic_folder, check_file, json_bytes
from tercet.layout import (
    FORMAT,
    MULTI,
    SETTINGS,
    SPARSE,
    TYPES,
    BackboneConfig,
    Settings,
    fetch,
    fingerprint_of,
    first_line,
    published_shapes,
    published_sizes,
    read_beside,
    weight_files,
    write_tokenizer,
)
from tercet.model import M3Model, from_published, to_published
from tercet.tokenizer import Tokenizer

# Of the float8 types the one that every transformers reads; it leaves out float8_e4m3fn (4.50 on).
EMBEDDINGS = torch.float8_e5m2
_TABLE = re.compile(r"(word|position)_embeddings\.weight$")


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

    @property
    def runtime(self) -> TorchRuntime:
        """What runs it."""
        return TorchRuntime(self.model)


def read_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Checkpoint:
    """Loads a folder or a hub id, tensor by tensor into dtype; see `fetch`.

    Raises ModelError naming the file and what is wrong with it, InputError for a revision of a
    folder.
    """
    folder = fetch(source, revision, download=download)
    config, tokenizer, settings, tokenizer_file = read_beside(folder)
    files = weight_files(folder)
    trunk = TensorFiles(files, dtype, device)
    trunk.check(config)  # before anything is built
    sparse = _read_head(folder, SPARSE, config.hidden, trunk, size=1)
    multi = _read_head(folder, MULTI, config.hidden, trunk)
    size = None if multi is None else multi.shape("weight")[0]
    with torch.device("meta"):  # in which older safetensors read nothing
        ids = tokenizer.weightless_ids.tolist()
        model = M3Model(config, ids, sparse=sparse is not None, multi=size)
    model.backbone.load_state_dict(from_published(trunk, config.layers), assign=True)
    others: set[Path] = set()
    for head, tensors in ((model.sparse, sparse), (model.multi, multi)):
        if head is not None and tensors is not None:
            head.load_state_dict(tensors, assign=True)
            others |= set(tensors.files) - set(files)
    model.to(device)
    fingerprint = fingerprint_of(config, settings, [*files, *sorted(others), tokenizer_file])
    return Checkpoint(model.eval(), tokenizer, settings, fingerprint, folder)


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
    InputError where the folder exists already, TercetError where it cannot be written.
    """
    target = check_absent(folder)
    longest = min(model.backbone.config.max_length, MAX_LENGTH)
    documents = _documents(model, settings or Settings())
    try:
        with atomic_folder(target) as scratch:
            _write_weights(scratch, model, dtype, embeddings or dtype)
            write_tokenizer(scratch, tokenizer, longest)
            for name, facts in documents.items():
                (scratch / name).parent.mkdir(exist_ok=True)
                (scratch / name).write_bytes(json_bytes(facts))
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk, of torch and Rust too
        what = first_line(error)
        raise TercetError(f"{target}: the model cannot be written: {what}") from error


def load_checkpoint(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    download: bool = True,
) -> Checkpoint:
    """A checkpoint made ready for inference alone, on the fastest device and dtype there are.

    Raises what `read_checkpoint` does, InputError for a device or dtype that is not there.
    """
    usable = usable_device(device)
    checkpoint = read_checkpoint(
        source,
        revision=revision,
        dtype=usable_dtype(dtype, usable),
        device=usable,
        download=download,
    )
    checkpoint.model.backbone.pack()
    return checkpoint


def _write_weights(
    folder: Path, model: M3Model, dtype: torch.dtype, embeddings: torch.dtype
) -> None:
    def stored(tensor: Tensor, dtype: torch.dtype = dtype) -> Tensor:
        return tensor.detach().to("cpu", dtype, copy=True).contiguous()

    state = to_published(model.backbone.state_dict(), model.backbone.config.layers)
    tensors = {
        name: stored(tensor, embeddings if _TABLE.search(name) else dtype)
        for name, tensor in state.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, head in ((SPARSE, model.sparse), (MULTI, model.multi)):
        if head is not None:
            # torch.save is what the reference reads; it and we load it with weights_only=True
            parts = {key: stored(tensor) for key, tensor in head.state_dict().items()}
            torch.save(parts, folder / f"{name}.pt")


def _documents(model: M3Model, settings: Settings) -> dict[str, Any]:
    """The JSON files that follow from the model's sizes and settings, by path in the folder."""
    config = model.backbone.config
    module = "sentence_transformers.models."
    return {
        "config.json": {
            "architectures": ["XLMRobertaModel"],
            "model_type": "xlm-roberta",
            **published_sizes(config),
            "type_vocab_size": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": "gelu",
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


# A memory-mapped file counts as resident once read: it is closed and opened again every so often.
REOPEN = 1 << 28  # bytes

_ANCHOR = "embeddings.word_embeddings.weight"  # what stands before it is the prefix of all names


def stored_dtypes(folder: Path) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtypes that hold a checkpoint's weights as they are, as `write_checkpoint` takes them.

    The first is that of all weights, float32 where they do not share one; the second that of the
    embeddings where these are in float8.
    """
    kinds: set[str] = set()
    for path in [*weight_files(folder), *folder.glob("*_linear.*")]:
        if path.suffix == ".safetensors":
            with _opened(path) as file:
                kinds |= {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        else:
            kinds |= {str(tensor.dtype) for tensor in load_torch(path).values()}
    half = {"F16": torch.float16, "BF16": torch.bfloat16}
    half |= {str(dtype): dtype for dtype in half.values()}
    dtypes = {half.get(kind, torch.float32) for kind in kinds - {"F8_E5M2"}}
    if len(dtypes) != 1 or torch.float32 in dtypes:
        return torch.float32, None
    return dtypes.pop(), EMBEDDINGS if "F8_E5M2" in kinds else None


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of one or more files, by their names behind a prefix.

    What is asked for is read, converted to dtype on a device, and not kept. The prefix, such as
    `roberta.` or nothing, is by default that of a trunk's word embeddings.
    """

    def __init__(
        self,
        files: Sequence[Path],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        prefix: str | None = None,
    ) -> None:
        self.files, self.dtype, self.device = list(files), dtype, device
        self._owner: dict[str, Path] = {}  # by stored name
        self._kinds: dict[str, tuple[tuple[int, ...], bool]] = {}  # shape, whether floats
        self._loaded: dict[Path, dict[str, Tensor]] = {}  # torch's files, memory-mapped
        self._open: Any = None
        self._path: Path | None = None
        self._read = 0
        for path in files:
            check_file(path, ModelError)
            if path.suffix == ".safetensors":
                with _opened(path) as file:
                    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                    kinds = {
                        name: (tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
                        for name, part in parts.items()
                    }
            else:
                self._loaded[path] = load_torch(path)
                kinds = {
                    name: (tuple(tensor.shape), tensor.is_floating_point())
                    for name, tensor in self._loaded[path].items()
                }
            self._kinds |= kinds
            self._owner |= dict.fromkeys(kinds, path)
        if prefix is None:
            anchors = sorted(self.prefixes(_ANCHOR)) or [_ANCHOR]
            if len(anchors) > 1:
                raise ModelError(f"{files[0]}: has several models: {', '.join(anchors)}")
            prefix = anchors[0][: -len(_ANCHOR)]
        self._prefix = prefix

    def prefixes(self, part: str) -> set[str]:
        """What stored names begin with up to this part of them, such as `module.sparse_linear.`."""
        found = (re.match(rf"(?:.*\.)?{re.escape(part)}", name) for name in self._owner)
        return {match[0] for match in found if match}

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._owner

    def __iter__(self) -> Iterator[str]:
        size = len(self._prefix)
        return (name[size:] for name in self._owner if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._prefix + name
        path = self._owner[stored]
        if path in self._loaded:
            return self._converted(stored, self._loaded[path][stored])
        if path != self._path or self._read > REOPEN:
            self._open = None  # first drop the old mapping
            self._open, self._path, self._read = _opened(path), path, 0
        tensor: Tensor = self._open.get_tensor(stored)
        self._read += tensor.nbytes
        return self._converted(stored, tensor)

    def _converted(self, stored: str, tensor: Tensor) -> Tensor:
        tensor = tensor.to(self.device, self.dtype, copy=True)
        check_finite(tensor, f"{self._owner[stored]}: {stored}")
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a stored tensor; raises ModelError where it does not hold floats."""
        stored = self._prefix + name
        shape, floats = self._kinds[stored]
        if not floats:
            raise ModelError(
                f"{self._owner[stored]}: {stored} does not hold floating-point numbers"
            )
        return shape

    def check(self, config: BackboneConfig, *, types: bool = True) -> None:
        """Raises ModelError naming file and tensor where the trunk is not that of config.json.

        With types=False there may be several token types.
        """
        for name, expected in published_shapes(config):
            stored = self._prefix + name
            if name not in self:
                files = ", ".join(map(str, self.files))
                raise ModelError(f"{files}: has no tensor {stored!r}, which config.json asks for")
            shape = self.shape(name)
            if shape != expected and (types or name != TYPES or shape[1:] != expected[1:]):
                path = self._owner[stored]
                raise ModelError(f"{path}: {name} is {shape}, but config.json says {expected}")
        if any(name.startswith(f"encoder.layer.{config.layers}.") for name in self):
            raise ModelError(
                f"{', '.join(map(str, self.files))}: has more layers than the {config.layers} that"
                " config.json says"
            )


def _read_head(
    folder: Path, name: str, hidden: int, trunk: TensorFiles, *, size: int | None = None
) -> TensorFiles | None:
    """The head `name` from its own file or from the trunk's; None where there is none.

    Raises ModelError where it is corrupt, incomplete or not made for `hidden`.
    """
    own = [folder / f"{name}.safetensors", folder / f"{name}.pt"]
    file = next((path for path in own if os.path.lexists(path)), None)  # a broken link is an error
    if file is not None:
        head = TensorFiles([file], trunk.dtype, trunk.device, prefix="")
    else:
        prefixes = trunk.prefixes(f"{name}.")
        if not prefixes:
            return None
        if len(prefixes) > 1:
            raise ModelError(f"{trunk.files[0]}: has several heads: {', '.join(sorted(prefixes))}")
        head = TensorFiles(trunk.files, trunk.dtype, trunk.device, prefix=prefixes.pop())
    where = ", ".join(map(str, head.files))
    if set(head) != {"weight", "bias"}:
        raise ModelError(f"{where}: a head is a weight and a bias, this holds {sorted(head)}")
    weight, bias = head.shape("weight"), head.shape("bias")
    rows = size or next(iter(weight), 1) or 1
    if weight != (rows, hidden) or bias != (rows,):
        raise ModelError(
            f"{where}: weight is {weight} and bias is {bias}, but this trunk needs "
            f"{(rows, hidden)} and {(rows,)}"
        )
    return head


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises ModelError where a tensor holds nan or infinity."""
    if not all(bool(bound.isfinite()) for bound in tensor.aminmax()):
        raise ModelError(
            f"{name} holds values that are not finite in {tensor.dtype}: the file is damaged, or"
            " the training that made it went astray"
        )


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: corrupt or truncated safetensors: {error}") from error


def load_torch(path: Path) -> dict[str, Tensor]:
    """A state dict saved by torch, memory-mapped where its format allows; raises ModelError."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 is no zip
        if mapped:
            with zipfile.ZipFile(path) as file:
                if any(entry.compress_type for entry in file.infolist()):
                    raise ValueError("its tensors are packed, torch stores them as they are")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is corrupt, or holds more than tensors, which Tercet does not load"
        ) from error
    except Exception as error:  # whatever bytes make of torch's own reader
        raise ModelError(f"{path}: corrupt or truncated: {first_line(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(f"{path}: holds no state dict (names to tensors)")
    for name, tensor in state.items():
        if not isinstance(name, str) or tensor.layout != torch.strided or tensor.is_meta:
            raise ModelError(f"{path}: {name} is no plain tensor: save it dense, on the CPU")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ModelError(f"{path}: {name} is larger than the numbers that are stored for it")
    return state
