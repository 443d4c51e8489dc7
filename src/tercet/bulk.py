"""The texts of a file to a folder of Embeddings, in bounded memory, at once or in parts.

Texts are encoded block by block, and which texts are a block depends on the file and the model
alone: the cut changes nothing but who encodes a block. A block that is encoded is kept until all
are, whatever ends the run. Knows nothing of indexes or documents.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tercet.config import MAX_LENGTH, Head, Role
from tercet.curate.shards import BLOCK, FREE, Shard, parts_folder
from tercet.embeddings import Embeddings, EmbeddingsWriter, check_absent
from tercet.encoder import Encoder, gpu_count
from tercet.errors import InputError
from tercet.index.store import Lock
from tercet.io import atomic_write
from tercet.rows import TEXTS, field_of, kind_of, numbered_rows, passage_text, text_lines
from tercet.tokenizer import text_shards

SUFFIXES = (".txt", ".jsonl")  # of what is read, packed or not
VECTORS, FACTS, JOURNAL = "embeddings", "facts.json", "blocks.jsonl"

Show = Callable[[int, int, int], None]  # characters that are encoded, of all; tokens


@dataclass(frozen=True)
class EncodeJob:
    """The texts of a file, and how they are encoded."""

    name: ClassVar[str] = "encode"

    target: str  # folder of Embeddings
    file: str  # .txt, a text a line, or .jsonl with "text" and maybe "title"; maybe packed
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

    @property
    def partial(self) -> Path:
        """The folder of what is encoded, until all is."""
        return Path(f"{self.target}.partial")

    def inputs(self) -> list[Path]:
        """The file."""
        return [Path(self.file)]

    def encode(self) -> dict[str, Any]:
        """Writes the target at once, without parts; returns the report."""
        start = time.monotonic()
        self._write(Shard(), Path(self.target), self.partial)
        return self._report(time.monotonic() - start)

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the vectors of a part's blocks, if it has any, and how many texts each has."""
        check_absent(Path(self.target))
        start = time.monotonic()
        partial = parts_folder(Path(self.target)) / f"{shard.folder}.partial"
        blocks = self._write(shard, folder / VECTORS, partial)
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

    def _write(self, shard: Shard, folder: Path, partial: Path) -> list[int]:
        """Encodes the blocks of a part into a folder; returns the texts of each.

        Where the part has none, there is no folder. What a run that ended too soon left in
        `partial` is gone on with, as far as texts, model and options are the same.
        """
        check_absent(folder)
        file = Path(self.file)
        size, done, tokens = sum(map(len, read_texts(file))), 0, 0  # before a model is loaded
        gpus = gpu_count() if self.device in (None, "cuda") else 0
        # where there are several GPUs, part after part has the next one
        device = f"cuda:{(shard.number - 1) % gpus}" if gpus > 1 else self.device
        encoder = Encoder.load(self.model, revision=self.revision, device=device)
        options: dict[str, Any] = {
            "heads": encoder.heads if self.heads is None else self.heads,
            "max_length": self.max_length,
            "role": self.role,
            "mcls": self.mcls,
            "multi_pool": self.multi_pool,
            "sparse_top": self.sparse_top,
        }
        blocks: list[int] = []
        partial.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(Lock(partial).release)
            stack.callback(lambda: None if blocks and not folder.exists() else _remove(partial))
            journal = _Journal(partial / JOURNAL, [encoder.fingerprint, str(shard), options])
            writer: EmbeddingsWriter | None = None

            def opened() -> EmbeddingsWriter:
                journal.cut(len(blocks))
                texts, arrays = sum(blocks), partial / VECTORS
                if not texts:
                    _remove(arrays)
                return stack.enter_context(EmbeddingsWriter(folder, partial=arrays, texts=texts))

            limit = min(self.max_length, encoder.max_length)
            for number, texts in enumerate(text_shards(read_texts(file), self.texts, limit)):
                done += sum(map(len, texts))
                if not shard.has(number * BLOCK):  # each is far more work than reading past it
                    continue
                entry = [_digest(texts), len(texts)]
                if writer is not None or journal.entries[len(blocks) :][:1] != [entry]:
                    writer = writer or opened()
                    rows = encoder.encode(texts, **options)
                    writer.add(rows)
                    writer.sync()
                    journal.append(entry)
                    assert rows.lengths is not None
                    tokens += int(rows.lengths.sum())
                blocks.append(len(texts))
                if self.show is not None:
                    self.show(done, size, tokens)
            if writer is None and blocks:
                opened()
        return blocks


class _Journal:
    """What was encoded under some settings, and is on the disk: a digest and a count a block."""

    def __init__(self, path: Path, settings: Any) -> None:
        self._path, self._first = path, json.dumps(settings)
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        same = lines[:1] == [self._first]  # a line that was cut short is not ended
        self.entries: list[Any] = [json.loads(line) for line in lines[1:]] if same else []

    def cut(self, count: int) -> None:
        """Forgets all but the first blocks."""
        self.entries = self.entries[:count]
        with atomic_write(self._path) as file:
            lines = [self._first, *map(json.dumps, self.entries)]
            file.write("".join(f"{line}\n" for line in lines).encode())

    def append(self, entry: Any) -> None:
        """Adds a block, durably."""
        with self._path.open("ab") as file:
            file.write(f"{json.dumps(entry)}\n".encode())
            file.flush()
            os.fsync(file.fileno())


def _digest(texts: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=16).hexdigest()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file: of .txt each line, of .jsonl each row, title and text as in the paper.

    Raises InputError naming a line that holds no text, and for a file that is empty.
    """
    empty = True
    for _, text in _row_texts(path) if kind_of(path) == ".jsonl" else text_lines(path):
        empty = False
        yield text
    if empty:
        raise InputError(f"{path} is empty: there is nothing to encode")


def _row_texts(path: Path) -> Iterator[tuple[int, str]]:
    for number, row in numbered_rows(path):
        try:
            if not any(name in row for name in TEXTS):
                raise InputError(f"no field named {', '.join(TEXTS)}")
            title, text = field_of(row, ("title",)), field_of(row, TEXTS)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
        yield number, passage_text(title, text)
