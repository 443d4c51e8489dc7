"""The texts of a file to a folder of Embeddings, in bounded memory, at once or in parts.

Texts are encoded block by block, and which texts are a block depends on the file and the model
alone: the cut changes nothing but who encodes a block. Knows nothing of indexes or documents.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from tercet.config import MAX_LENGTH, Head, Role
from tercet.curate.shards import BLOCK, FREE, Shard
from tercet.embeddings import Embeddings, EmbeddingsWriter, check_absent
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.tokenizer import text_shards

SUFFIXES = (".txt", ".jsonl")
VECTORS, FACTS = "embeddings", "facts.json"

Show = Callable[[int, int, int], None]  # bytes of the file that are encoded, of all; tokens


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
    texts: int = 1024  # of a block, at most
    device: str | None = field(default=None, metadata=FREE)
    show: Show | None = field(default=None, metadata=FREE, compare=False)

    def inputs(self) -> list[Path]:
        """The file."""
        return [Path(self.file)]

    def encode(self) -> dict[str, Any]:
        """Writes the target at once, without parts; returns the report."""
        start = time.monotonic()
        self._write(Shard(), Path(self.target))
        return self._report(time.monotonic() - start)

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the vectors of a part's blocks, if it has any, and how many texts each has."""
        check_absent(Path(self.target))
        start = time.monotonic()
        blocks = self._write(shard, folder / VECTORS)
        facts = {"blocks": blocks, "seconds": time.monotonic() - start}
        (folder / FACTS).write_text(json.dumps(facts) + "\n")

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the blocks of all parts in the order of the file.

        Raises InputError where parts were encoded by different models or heads.
        """
        check_absent(Path(self.target))
        parts = [json.loads((folder / FACTS).read_text()) for folder in folders]
        # the first part has the first block, and so is never empty
        stored = [
            Embeddings.load(folder / VECTORS)
            for folder, part in zip(folders, parts, strict=True)
            if part["blocks"]
        ]
        for folder, rows in zip(folders, stored, strict=False):
            for fact in ("fingerprint", "heads"):
                here, first = getattr(rows, fact), getattr(stored[0], fact)
                if here != first:
                    raise InputError(
                        f"{folder} was encoded by another model than {folders[0]} "
                        f"({fact}: {here}, not {first}): remove one of them and make it again"
                    )
        ends = [np.cumsum([0, *part["blocks"]]).tolist() for part in parts]
        with EmbeddingsWriter(self.target) as writer:
            for block in range(sum(len(part["blocks"]) for part in parts)):
                turn, part = divmod(block, len(parts))  # blocks go round
                writer.add(stored[part][ends[part][turn] : ends[part][turn + 1]])
        return self._report(sum(part["seconds"] for part in parts))

    def _report(self, seconds: float) -> dict[str, Any]:
        """What a run says in the end; seconds are those of all parts together."""
        rows = Embeddings.load(self.target)
        assert rows.lengths is not None
        assert rows.truncated is not None
        return {
            "out": self.target,
            "texts": len(rows),
            "tokens": int(rows.lengths.sum()),
            "truncated": int(rows.truncated.sum()),
            "heads": list(rows.heads),
            "fingerprint": rows.fingerprint,
            "seconds": round(seconds, 3),
        }

    def _write(self, shard: Shard, folder: Path) -> list[int]:
        """Encodes the blocks of a part into a folder; returns the texts of each.

        Where the part has none, there is no folder.
        """
        check_absent(folder)
        file = Path(self.file)
        with file.open("rb") as lines:  # said before a model is loaded
            if not lines.read(1):
                raise InputError(f"{file} is empty: there is nothing to encode")
        size, done, tokens = file.stat().st_size, 0, 0
        gpus = torch.cuda.device_count() if self.device in (None, "cuda") else 0
        # where there are several GPUs, part after part has the next one
        device = f"cuda:{(shard.number - 1) % gpus}" if gpus > 1 else self.device
        encoder = Encoder.load(self.model, revision=self.revision, device=device)
        blocks: list[int] = []
        with ExitStack() as stack:
            writer: EmbeddingsWriter | None = None
            sizes: deque[int] = deque()  # bytes of the lines that were read and are not done
            limit = min(self.max_length, encoder.max_length)
            shards = text_shards(read_texts(file, sizes), self.texts, limit)
            for block, texts in enumerate(shards):
                done += sum(sizes.popleft() for _ in texts)
                if not shard.has(block * BLOCK):  # each is far more work than reading past it
                    continue
                rows = encoder.encode(
                    texts,
                    heads=encoder.heads if self.heads is None else self.heads,
                    max_length=self.max_length,
                    role=self.role,
                    mcls=self.mcls,
                    multi_pool=self.multi_pool,
                    sparse_top=self.sparse_top,
                )
                writer = writer or stack.enter_context(EmbeddingsWriter(folder))
                writer.add(rows)
                blocks.append(len(rows))
                if self.show is not None and rows.lengths is not None:
                    tokens += int(rows.lengths.sum())
                    self.show(done, size, tokens)
        return blocks


def read_texts(path: Path, sizes: deque[int]) -> Iterator[str]:
    """The texts of a file, one a line; the bytes of each line are added to sizes.

    Raises InputError naming a line that holds no text.
    """
    rows = path.suffix.lower() == ".jsonl"
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8; "
                    f"convert the file to UTF-8"
                ) from error
            sizes.append(len(raw))
            yield _title_and_text(line, f"{path}:{number}") if rows else line


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
