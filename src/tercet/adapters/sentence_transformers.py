"""A checkpoint as three models of sentence-transformers 6: dense, sparse and multi-vector.

    DIR/dense    for SentenceTransformer; a checkpoint of Tercet, too
    DIR/sparse   for SparseEncoder(..., trust_remote_code=True): lexical_weights.py is its head
    DIR/multi    for MultiVectorEncoder

The weights and the tokenizer are one file each, under three names. Does not need
sentence-transformers.
"""

import os
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from tercet.checkpoint import Checkpoint, read_checkpoint, stored_dtypes, write_checkpoint
from tercet.config import Head
from tercet.embeddings import check_absent
from tercet.io import atomic_folder, json_bytes
from tercet.layout import BUNDLED
from tercet.tokenizer import CLS

# What the three models share, by their names in DIR/dense.
SHARED = (
    "config.json",
    "model.safetensors",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
MODULES = "sentence_transformers.base.modules."
Module = tuple[str, dict[str, Any], nn.Linear | None]  # its class, settings and weights


@dataclass(frozen=True)
class Exported:
    """What was written: the heads that have a folder each, whether these share one file of weights
    (where the file system has no links, each has a copy), and the bytes of all on the disk.
    """

    heads: tuple[Head, ...]
    linked: bool
    bytes: int


def export(
    source: str | Path | None, folder: str | Path, *, revision: str | None = None
) -> Exported:
    """Writes a model for each head of a checkpoint; the folder appears whole or not at all.

    source is a folder or a hub id, None the bundled model. Weights keep the dtype in which they
    are stored. Raises InputError where the folder exists, ModelError for a source that cannot be
    read, TercetError or OSError where it cannot be written.
    """
    target = check_absent(folder)
    checkpoint = read_checkpoint(BUNDLED if source is None else source, revision=revision)
    dtype, embeddings = stored_dtypes(checkpoint.folder)
    linked = True
    with atomic_folder(target) as scratch:
        dense = scratch / "dense"
        write_checkpoint(
            dense,
            checkpoint.model,
            checkpoint.tokenizer,
            settings=checkpoint.settings,
            dtype=dtype,
            embeddings=embeddings,
        )
        for head in checkpoint.model.heads[1:]:
            (scratch / head).mkdir()
            for name in SHARED:
                linked &= _link(dense / name, scratch / head / name)
            _write_modules(scratch / head, checkpoint, head)
        sizes = {(p.stat().st_ino, p.stat().st_size) for p in scratch.rglob("*") if p.is_file()}
    return Exported(checkpoint.model.heads, linked, sum(size for _, size in sizes))


def _link(source: Path, target: Path) -> bool:
    """Gives a file a second name, or where that cannot be a copy; whether it is the former."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True


def _write_modules(folder: Path, checkpoint: Checkpoint, head: Head) -> None:
    """What of a sparse or multi-vector model comes behind the transformer."""
    model, settings = checkpoint.model, checkpoint.settings
    modules: list[Module]
    if head == "sparse":
        kind, similarity = "SparseEncoder", "dot"
        code = files("tercet.adapters").joinpath("lexical_weights.py").read_bytes()
        (folder / "lexical_weights.py").write_bytes(code)
        sizes = {"hidden": model.dims["dense"], "vocabulary": model.dims["vocabulary"]}
        weightless = {"weightless_ids": checkpoint.tokenizer.weightless_ids.tolist()}
        modules = [("lexical_weights.LexicalWeights", sizes | weightless, model.sparse)]
    else:
        kind, similarity = "MultiVectorEncoder", "meanmaxsim"
        tokens = {"module_input_name": "token_embeddings"}
        sizes = {"in_features": model.dims["dense"], "out_features": model.dims["multi"]}
        linear = {"activation_function": "torch.nn.modules.linear.Identity"}
        mask = {"skiplist_words": [CLS], "skiplist_tasks": ["query", "document"]}
        modules = [
            (MODULES + "Dense", tokens | sizes | linear, model.multi),
            ("sentence_transformers.multi_vector_encoder.modules.MultiVectorMask", mask, None),
            (MODULES + "Normalize", tokens, None),
        ]
    listed = [{"idx": 0, "name": "0", "path": "", "type": MODULES + "Transformer"}]
    for number, (name, facts, layer) in enumerate(modules, 1):
        path = f"{number}_{name.rpartition('.')[2]}"
        listed.append({"idx": number, "name": str(number), "path": path, "type": name})
        (folder / path).mkdir()
        (folder / path / "config.json").write_bytes(json_bytes(facts))
        if layer is not None:
            state = {f"linear.{key}": tensor for key, tensor in layer.state_dict().items()}
            save_file(state, folder / path / "model.safetensors")
    (folder / "modules.json").write_bytes(json_bytes(listed))
    facts = {
        "model_type": kind,
        "prompts": {"query": settings.query_prefix, "document": settings.passage_prefix},
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }
    (folder / "config_sentence_transformers.json").write_bytes(json_bytes(facts))
