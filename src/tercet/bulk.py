"""The texts of a file to a folder of Embeddings, in bounded memory, at once or in parts.

Texts are encoded block by block, and which texts are a block depends on the file and the model
alone: the cut changes nothing but who encodes a block. Knows nothing of indexes or documents.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from tercet.config import MAX_LENGTH, Head, Role
from tercet.curate.shards import BLOCK, FREE, Shard
from tercet.embeddings import Embeddings, EmbeddingsWriter, check_absent
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.tokenizer import text_shards

SUFFIXES = (".txt", ".jsonl")
TEXTS = 1024  # of a block
VECTORS, FACTS = "embeddings", "facts.json"

Show = Callable[[int, int, int], None]  # bytes of the file that are encoded, of all; tokens


@dataclass
class Facts:
    """What was encoded: texts in each block, in order, and sums."""

    blocks: list[int] = field(default_factory=list)
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    heads: tuple[Head, ...] = ()
    fingerprint: str = ""

    def add(self, block: Embeddings) -> None:
        """Counts a block."""
        self.blocks.append(len(block))
        self.tokens += 0 if block.lengths is None else int(block.lengths.sum())
        self.truncated += 0 if block.truncated is None else int(block.truncated.sum())
        self.heads, self.fingerprint = block.heads, block.fingerprint

    def report(self, target: str) -> dict[str, Any]:
        """What a run says in the end; seconds are those of all parts together."""
        told = {"tokens": self.tokens, "truncated": self.truncated, "heads": list(self.heads)}
        told |= {"fingerprint": self.fingerprint, "seconds": round(self.seconds, 3)}
        return {"out": target, "texts": sum(self.blocks), **told}


@dataclass(frozen=True)
class EncodeJob:
    """The texts of a file, and how they are encoded."""

    name: ClassVar[str] = "encode"

    target: str  # folder of Embeddings
    file: str  # .txt, a text a line, or .jsonl with "text" and maybe "title"
    heads: tuple[Head, ...] | None = None  # None: all of the model
    max_length: int = MAX_LENGTH
    mcls: int | None = None
    role: Role = "passage"
    multi_pool: int | None = None
    sparse_top: int | None = None
    model: str | None = None
    revision: str | None = None
    device: str | None = field(default=None, metadata=FREE)
    show: Show | None = field(default=None, metadata=FREE, compare=False)

    def inputs(self) -> list[Path]:
        """The file."""
        return [Path(self.file)]

    def encode(self) -> dict[str, Any]:
        """Writes the target at once, without parts; returns the report."""
        return self._write(Shard(), Path(self.target)).report(self.target)

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the vectors of a part's blocks, if it has any, and what they are."""
        check_absent(Path(self.target))
        facts = self._write(shard, folder / VECTORS)
        (folder / FACTS).write_text(json.dumps(asdict(facts)) + "\n")

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the blocks of all parts in the order of the file.

        Raises InputError where parts were encoded by different models or heads.
        """
        check_absent(Path(self.target))
        parts = [Facts(**json.loads((folder / FACTS).read_text())) for folder in folders]
        made = [at for at, part in enumerate(parts) if part.blocks]
        for at in made:
            for what in ("fingerprint", "heads"):
                here, there = (getattr(parts[one], what) for one in (at, made[0]))
                if here != there:
                    raise InputError(
                        f"{folders[at]} was encoded by another model than {folders[made[0]]} "
                        f"({what}: {here}, not {there}): remove one of them and make it again"
                    )
        stored = {at: _Stored(folders[at] / VECTORS) for at in made}
        total = Facts()
        with EmbeddingsWriter(self.target) as writer:
            for number in range(sum(len(part.blocks) for part in parts)):
                turn, at = divmod(number, len(parts))  # blocks go round
                block = stored[at].next(parts[at].blocks[turn])
                writer.add(block)
                total.add(block)
        total.seconds = sum(part.seconds for part in parts)
        return total.report(self.target)

    def _write(self, shard: Shard, folder: Path) -> Facts:
        """Encodes the blocks of a part into a folder; where it has none, there is no folder."""
        check_absent(folder)
        texts = Texts(Path(self.file))  # says that it cannot be read before a model is loaded
        device = self._device(shard)
        encoder = Encoder.load(self.model, revision=self.revision, device=device)
        facts, start = Facts(), time.monotonic()
        with ExitStack() as stack:
            writer: EmbeddingsWriter | None = None
            for block in self._blocks(encoder, texts, shard):
                if writer is None:
                    writer = stack.enter_context(EmbeddingsWriter(folder))
                writer.add(block)
                facts.add(block)
                if self.show is not None:
                    self.show(texts.done, texts.size, facts.tokens)
        facts.seconds = time.monotonic() - start
        return facts

    def _device(self, shard: Shard) -> str | None:
        """The device of a part: where there are several GPUs, part after part has the next one."""
        gpus = torch.cuda.device_count() if self.device in (None, "cuda") else 0
        return f"cuda:{(shard.number - 1) % gpus}" if gpus > 1 else self.device

    def _blocks(self, encoder: Encoder, texts: "Texts", shard: Shard) -> Iterator[Embeddings]:
        """The blocks of a part, encoded."""
        limit = min(self.max_length, encoder.max_length)
        for number, some in enumerate(text_shards(texts, TEXTS, limit)):
            texts.pass_by(len(some))
            if shard.has(number * BLOCK):  # each is far more work than reading past it
                yield encoder.encode(
                    some,
                    heads=encoder.heads if self.heads is None else self.heads,
                    max_length=self.max_length,
                    role=self.role,
                    mcls=self.mcls,
                    multi_pool=self.multi_pool,
                    sparse_top=self.sparse_top,
                )


class _Stored:
    """A folder of Embeddings that is read from its start to its end, some rows at a time.

    Not `Embeddings.load`: of a sparse matrix with very many entries scipy makes a copy in memory.
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "embeddings.json").read_text())
        self._vocabulary, self._fingerprint = facts["vocabulary"], facts["fingerprint"]
        self._arrays: dict[str, npt.NDArray[Any]] = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
            for path in folder.glob("*.npy")
        }
        self._at = 0

    def next(self, rows: int) -> Embeddings:
        """The next so many rows."""
        start, stop = self._at, self._at + rows
        self._at = stop
        found: dict[str, Any] = {
            name: self._arrays[name][start:stop]
            for name in ("dense", "lengths", "truncated")
            if name in self._arrays
        }
        if "multi" in self._arrays:
            found["offsets"], found["multi"] = self._ragged("offsets", start, stop, "multi")
        if "sparse_data" in self._arrays:
            indptr, data, indices = self._ragged(
                "sparse_indptr", start, stop, "sparse_data", "sparse_indices"
            )
            shape = (rows, self._vocabulary)
            found["sparse"] = sp.csr_array((data, indices, indptr), shape=shape)
        return Embeddings(**found, fingerprint=self._fingerprint)

    def _ragged(self, ends: str, start: int, stop: int, *names: str) -> list[npt.NDArray[Any]]:
        """Boundaries of rows, from 0, and what lies between them."""
        bounds = self._arrays[ends][start : stop + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        return [bounds - first, *(self._arrays[name][first:last] for name in names)]


class Texts:
    """The texts of a file, one a line, and how many bytes of it are done."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file has no line, OSError where it cannot be read."""
        self.path = path
        with path.open("rb") as lines:
            if not lines.read(1):
                raise InputError(f"{path} is empty: there is nothing to encode")
        self.size = path.stat().st_size
        self.done = 0  # bytes of the texts that were passed by
        self._waiting: deque[int] = deque()  # bytes of the texts that were read, not yet passed by

    def __iter__(self) -> Iterator[str]:
        parse = _title_and_text if self.path.suffix.lower() == ".jsonl" else _line
        with self.path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self.path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8; "
                        f"convert the file to UTF-8"
                    ) from error
                text = parse(line.rstrip("\r\n"), f"{self.path}:{number}")
                self._waiting.append(len(raw))
                yield text

    def pass_by(self, texts: int) -> None:
        """So many more texts are done."""
        self.done += sum(self._waiting.popleft() for _ in range(texts))


def _line(line: str, where: str) -> str:
    return line


def _title_and_text(line: str, where: str) -> str:
    """Title, line break, text, as in the paper; raises InputError naming the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f"{where}: give an object with a string in 'text', as in {{'text': '…'}}")
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise InputError(f"{where}: 'title' is a {type(title).__name__}, not a string")
    return f"{title}\n{row['text']}" if title else str(row["text"])
