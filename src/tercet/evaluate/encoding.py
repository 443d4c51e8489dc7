"""Embeddings of any number of texts, kept by content and model.

What was encoded once is found again, in whatever suite it stands; a killed run goes on at its next
block of texts. Knows nothing of tasks, rankings or measures.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tercet.config import MAX_LENGTH, Head, Role
from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, StoreError

TEXTS, CHARACTERS = 1 << 14, 1 << 21  # of a block, at most: its vectors are in memory at once
FORMAT = 2
DAY = 86400  # seconds

Advance = Callable[[int], None]  # so many texts more are done


@dataclass(frozen=True)
class Settings:
    """What decides the vectors of a text besides the model."""

    heads: tuple[Head, ...]
    max_length: int = MAX_LENGTH  # tokens
    role: Role = "passage"
    mcls: int | None = None


def digest_of(texts: Iterable[str]) -> "Digest":
    """What names texts and their order."""
    out = Digest()
    for text in texts:
        out.add(text)
    return out


class Digest:
    """Names texts and their order, one text after another."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, text: str) -> None:
        """One text more."""
        raw = text.encode(errors="surrogatepass")
        self._hash.update(len(raw).to_bytes(8, "little") + raw)

    def name(self) -> str:
        """In 64 hexadecimal digits."""
        return self._hash.hexdigest()


class Cache:
    """Embeddings of one model in a folder.

    vectors/KEY holds all of a corpus; while it is being made, blocks/KEY/NUMBER what is done.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.folder, self.encoder = folder, encoder

    def encode(
        self, texts: Iterable[str], digest: Digest, settings: Settings, advance: Advance
    ) -> Embeddings:
        """Vectors of the texts that the digest names, memory-mapped; from the folder if there.

        Raises ModelError where the model gives what is no finite number.
        """
        key = self.key(digest, settings)
        place, blocks = self.folder / "vectors" / key, self.folder / "blocks" / key
        found = _load(place)
        if found is None:
            _sweep(place.parent)
            try:
                with EmbeddingsWriter(place) as writer:
                    for number, some in enumerate(_blocks(texts)):
                        writer.add(self._block(blocks / f"{number:06d}", some, settings))
                        advance(len(some))
            except (InputError, OSError):
                if not place.exists():  # else another process was quicker
                    raise
            found = Embeddings.load(place)
            shutil.rmtree(blocks, ignore_errors=True)
        else:
            advance(len(found))
        return found

    def _block(self, place: Path, texts: Sequence[str], settings: Settings) -> Embeddings:
        found = _load(place)
        if found is None or len(found) != len(texts):
            found = self.once(texts, settings)
            if not place.exists():
                found.save(place)
        return found

    def once(self, texts: Sequence[str], settings: Settings) -> Embeddings:
        """Vectors that are not kept: of texts whose multi-vectors would fill the disk."""
        found = self.encoder.encode(texts, **asdict(settings))
        for part in (found.dense, found.multi, None if found.sparse is None else found.sparse.data):
            if part is not None and not np.isfinite(part).all():
                raise ModelError(
                    "the model gives vectors that are not finite numbers: its weights are "
                    "damaged, or the training that made them went astray"
                )
        return found

    def key(self, digest: Digest, settings: Settings) -> str:
        """Names the vectors of some texts."""
        model = [FORMAT, self.encoder.fingerprint, str(self.encoder.dtype)]
        facts = json.dumps([model, asdict(settings), digest.name()])
        return hashlib.sha256(facts.encode()).hexdigest()[:40]


def _load(place: Path) -> Embeddings | None:
    """What was kept; None where it is not there or damaged, and then it is removed."""
    if not place.exists():
        return None
    try:
        return Embeddings.load(place)
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise  # too many open files, say: nothing is wrong with these
        shutil.rmtree(place)
        return None


def _sweep(folder: Path) -> None:
    """Removes what killed processes left a day ago or longer."""
    for scratch in folder.glob(".*"):
        if time.time() - scratch.stat().st_mtime > DAY:
            shutil.rmtree(scratch, ignore_errors=True)


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
