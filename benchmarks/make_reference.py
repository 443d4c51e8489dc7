"""Writes a random checkpoint in the reference layout, so that two implementations can be compared.

The weights are random but reproducible to the bit: they come from the raw stream of NumPy's
PCG64, which NumPy promises not to change, one stream per tensor name. They are scaled so that the
outputs depend strongly on which tokens a text has and where they stand; with the usual small
initial weights all texts would look alike and a comparison would prove nothing.

Knows nothing of Tercet: it writes the layout from its description, independently of our writer.
"""

import argparse
import hashlib
import json
import math
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from parity_texts import SENTENCES
from safetensors.numpy import save_file

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a random checkpoint; `multi` is the multi-vector dimension."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    multi: int
    positions: int = 8194


SMALL = Shape(layers=3, hidden=64, heads=4, ffn=128, vocabulary=0, multi=48)
FULL = Shape(layers=24, hidden=1024, heads=16, ffn=4096, vocabulary=250_002, multi=1024)

SEED = 20240205
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def random_tensor(seed: int, name: str, shape: tuple[int, ...], std: float) -> Floats:
    """A float32 tensor, uniform with mean 0 and the given standard deviation."""
    stream = np.random.PCG64([seed, zlib.crc32(name.encode())])
    count = math.prod(shape)
    flat = np.empty(count, dtype=np.float32)
    block = 1 << 24
    for start in range(0, count, block):
        stop = min(count, start + block)
        raw = stream.random_raw(stop - start) >> np.uint64(40)  # 24 bits: exact in float32
        flat[start:stop] = raw.astype(np.float32)
    flat -= np.float32(2**23 - 0.5)
    flat *= np.float32(std * math.sqrt(12.0) / 2**24)
    return flat.reshape(shape)


def trunk_weights(shape: Shape, seed: int) -> dict[str, Floats]:
    """All tensors of an XLM-RoBERTa trunk, under the names of a bare `XLMRobertaModel`."""
    h = shape.hidden
    tensors: dict[str, Floats] = {}

    def add(name: str, size: tuple[int, ...], std: float, mean: float = 0.0) -> None:
        tensors[name] = random_tensor(seed, name, size, std)
        if mean:
            tensors[name] += np.float32(mean)

    def linear(name: str, out: int, into: int, gain: float) -> None:
        add(f"{name}.weight", (out, into), gain / math.sqrt(into))
        add(f"{name}.bias", (out,), 0.05)

    def norm(name: str) -> None:
        add(f"{name}.weight", (h,), 0.1, 1.0)
        add(f"{name}.bias", (h,), 0.02)

    add("embeddings.word_embeddings.weight", (shape.vocabulary, h), 1.0)
    add("embeddings.position_embeddings.weight", (shape.positions, h), 0.5)
    add("embeddings.token_type_embeddings.weight", (1, h), 0.1)
    norm("embeddings.LayerNorm")
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        # Attention logits of standard deviation 1.5. With 4, 24 random layers are chaotic: cosines
        # of bfloat16 with float32 fall to 0.67; here they stay above 0.999.
        linear(f"{layer}.attention.self.query", h, h, math.sqrt(1.5))
        linear(f"{layer}.attention.self.key", h, h, math.sqrt(1.5))
        linear(f"{layer}.attention.self.value", h, h, 1.0)
        linear(f"{layer}.attention.output.dense", h, h, 0.5)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", shape.ffn, h, 1.0)
        linear(f"{layer}.output.dense", h, shape.ffn, 0.5)
        # GELU's mean on unit normals is 0.2821; unless it is taken out, every layer adds the same
        # vector to all tokens and texts come to look alike.
        down = f"{layer}.output.dense"
        tensors[f"{down}.bias"] -= np.float32(0.2821) * tensors[f"{down}.weight"].sum(
            1, dtype=np.float64
        ).astype(np.float32)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", h, h, 1.0)
    return tensors


def head_weights(shape: Shape, seed: int) -> dict[str, dict[str, Floats]]:
    """The sparse and the multi-vector head, by the stem of their file."""
    sizes = {"sparse_linear": 1, "colbert_linear": shape.multi}
    return {
        name: {
            "weight": random_tensor(
                seed, f"{name}.weight", (out, shape.hidden), 1 / math.sqrt(shape.hidden)
            ),
            "bias": random_tensor(seed, f"{name}.bias", (out,), 0.1),
        }
        for name, out in sizes.items()
    }


def small_vocabulary() -> list[tuple[str, float]]:
    """Unigram pieces cut from the comparison sentences: n-grams of words, longer ones preferred.

    The last ten characters seen only once are left out, so that unknown tokens occur.
    """
    counts: dict[str, int] = {}
    for text in SENTENCES:
        for word in text.split():
            marked = "▁" + word
            for size in range(1, 7):
                for start in range(len(marked) - size + 1):
                    piece = marked[start : start + size]
                    counts[piece] = counts.get(piece, 0) + 1
    once = sorted(piece for piece, n in counts.items() if len(piece) == 1 and n == 1)
    for piece in once[-10:]:
        del counts[piece]
    kept = sorted(piece for piece, n in counts.items() if len(piece) == 1 or n > 2)
    total = sum(counts[piece] for piece in kept)
    return [(piece, round(math.log(counts[piece] / total), 6)) for piece in kept]


def small_tokenizer() -> dict[str, object]:
    """A `tokenizer.json` of the XLM-R kind: same steps, same special ids, a small vocabulary."""
    pieces: list[tuple[str, float]] = [(token, 0.0) for token in SPECIAL]
    pieces += [*small_vocabulary(), ("<mask>", 0.0)]
    mask = len(pieces) - 1
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": token == "<mask>",
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, token in [*enumerate(SPECIAL), (mask, "<mask>")]
    ]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }


def config(shape: Shape) -> dict[str, object]:
    """The `config.json` of an XLM-RoBERTa encoder of this shape."""
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-05,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "XLMRobertaTokenizer",
    "model_max_length": 8192,
    "clean_up_tokenization_spaces": True,
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def write_reference(
    folder: Path, shape: Shape, *, seed: int = SEED, tokenizer: Path | None = None
) -> Shape:
    """Writes the checkpoint and returns its shape, with the vocabulary size filled in.

    `tokenizer` is a folder with XLM-R's tokenizer files, copied as they are; without it a small
    vocabulary is built and decides the vocabulary size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        content = small_tokenizer()
        vocabulary = len(content["model"]["vocab"])  # type: ignore[index]
        (folder / "tokenizer.json").write_text(
            json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        shape = Shape(**{**asdict(shape), "vocabulary": vocabulary})
    else:
        for name in ("tokenizer.json", "sentencepiece.bpe.model"):
            if (tokenizer / name).exists():
                shutil.copyfile(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    for stem, head in head_weights(shape, seed).items():
        torch.save({k: torch.from_numpy(v) for k, v in head.items()}, folder / f"{stem}.pt")
    save_file(trunk_weights(shape, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return shape


def digests(shape: Shape, texts: list[str], *, seed: int = SEED) -> dict[str, str]:
    """What stored results depend on: weights, the small tokenizer, and the texts encoded."""
    weights = hashlib.sha256()
    tensors = trunk_weights(shape, seed)
    for stem, head in head_weights(shape, seed).items():
        tensors |= {f"{stem}.{name}": tensor for name, tensor in head.items()}
    for name in sorted(tensors):
        weights.update(name.encode() + tensors[name].tobytes())
    parts = {"tokenizer": small_tokenizer(), "texts": texts}
    found = {k: hashlib.sha256(json.dumps(v).encode()).hexdigest() for k, v in parts.items()}
    return found | {"weights": weights.hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the checkpoint")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--tokenizer", type=Path, help="folder with XLM-R's tokenizer files")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    shape = SMALL if args.size == "small" else FULL
    if args.size == "full" and args.tokenizer is None:
        parser.error("--size full needs --tokenizer: a folder with tokenizer.json")
    if args.layers:
        shape = Shape(**{**asdict(shape), "layers": args.layers})
    written = write_reference(args.folder, shape, seed=args.seed, tokenizer=args.tokenizer)
    print(f"{args.folder}: {written}")


if __name__ == "__main__":
    main()
