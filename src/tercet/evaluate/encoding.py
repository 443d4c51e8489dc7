"""Embeddings of any number of texts, in blocks that are kept by content and model.

What was encoded once is found again, in whatever suite it stands; a killed run goes on at its next
block. Knows nothing of tasks, rankings or measures.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tercet.config import MAX_LENGTH, Head, Role
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import ModelError, StoreError

TEXTS, CHARACTERS = 1 << 14, 1 << 21  # of a block, at most: its vectors are in memory at once
FORMAT = 1

Advance = Callable[[int], None]  # so many texts more are done


@dataclass(frozen=True)
class Settings:
    """What decides the vectors of a text besides the model."""

    heads: tuple[Head, ...]
    max_length: int = MAX_LENGTH  # tokens
    role: Role = "passage"
    mcls: int | None = None


@dataclass
class Vectors:
    """Embeddings of P texts as blocks, memory-mapped; `firsts` are the places they start at."""

    blocks: list[Embeddings] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    size: int = 0
    encoded: int = 0  # texts that were not in the cache

    def add(self, block: Embeddings) -> None:
        """Appends a block behind the others."""
        self.firsts.append(self.size)
        self.blocks.append(block)
        self.size += len(block)

    @property
    def truncated(self) -> int:
        """How many texts were cut to the maximum length."""
        return sum(int(np.sum(b.truncated)) for b in self.blocks if b.truncated is not None)

    @property
    def tokens(self) -> int:
        """Tokens of all texts, special ones included, as encoded."""
        return sum(int(np.sum(b.lengths)) for b in self.blocks if b.lengths is not None)

    def whole(self) -> Embeddings:
        """All blocks as one, in memory: for queries."""
        return Embeddings.concatenate(self.blocks)


class Cache:
    """Blocks of embeddings of one model in a folder."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.folder, self.encoder = folder, encoder

    def encode(self, texts: Iterable[str], settings: Settings, advance: Advance) -> Vectors:
        """Vectors of the texts, taken from the folder or encoded and put there.

        Raises ModelError where the model gives what is no finite number.
        """
        out = Vectors()
        for some in _blocks(texts):
            place = self.folder / "vectors" / self.key(some, settings)
            if (found := _load(place)) is None:
                found = self._encode(some, settings)
                found.save(place)
                found = Embeddings.load(place)
                out.encoded += len(some)
            out.add(found)
            advance(len(some))
        return out

    def once(self, texts: Sequence[str], settings: Settings) -> Embeddings:
        """Vectors that are not kept: of texts whose multi-vectors would fill the disk."""
        return self._encode(texts, settings)

    def _encode(self, texts: Sequence[str], settings: Settings) -> Embeddings:
        found = self.encoder.encode(texts, **asdict(settings))
        for part in (found.dense, found.multi, None if found.sparse is None else found.sparse.data):
            if part is not None and not np.isfinite(part).all():
                raise ModelError(
                    "the model gives vectors that are not finite numbers: its weights are "
                    "damaged, or the training that made them went astray"
                )
        return found

    def key(self, texts: Sequence[str], settings: Settings) -> str:
        """Names the vectors of these texts."""
        model = [FORMAT, self.encoder.fingerprint, str(self.encoder.dtype)]
        digest = hashlib.sha256(json.dumps([model, asdict(settings)]).encode())
        for text in texts:
            raw = text.encode(errors="surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.hexdigest()[:40]


def _load(place: Path) -> Embeddings | None:
    """A block of before; one that is damaged is made anew."""
    if not place.exists():
        return None
    try:
        return Embeddings.load(place)
    except StoreError:
        shutil.rmtree(place)
        return None


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    characters = 0
    for text in texts:
        if some and (len(some) == TEXTS or characters + len(text) > CHARACTERS):
            yield some
            some, characters = [], 0
        some.append(text)
        characters += len(text)
    if some:
        yield some
