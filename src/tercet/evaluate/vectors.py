"""What evaluation encodes, kept by content and model: embeddings, chunks, MaxSim of candidates.

What was encoded once is read again, in whatever suite it stands; a killed run goes on at its next
block of texts. Knows nothing of tasks, rankings or measures. Places are numbers of passages in
their corpus, rows are numbers of queries.
"""

import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.cache import touch
from tercet.config import MAX_LENGTH, Head, Role
from tercet.documents.chunks import SPECIAL, Chunker, Chunking
from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.encoder import Encoder
from tercet.errors import InputError, StoreError
from tercet.evaluate.tasks import Corpus, Rows
from tercet.io import atomic_write
from tercet.rows import passage_text
from tercet.scores import Places, Scores, maxsim_pairs
from tercet.sparse import packed_positions

BLOCK = 1 << 14  # texts whose vectors are in memory at once, at most
CHARACTERS = 1 << 21  # of such a block, at most
FORMAT = 2

Advance = Callable[[int], None]  # so many texts more are done


@dataclass(frozen=True)
class EncodeOptions:
    """What decides the vectors of a text besides the model."""

    heads: tuple[Head, ...]
    max_length: int = MAX_LENGTH  # tokens
    role: Role = "passage"
    mcls: int | None = None


@dataclass(frozen=True)
class Passages:
    """A corpus as it was read: ids, characters of each text, and the name of all texts."""

    corpus: Corpus
    ids: list[str]
    lengths: "array[int]"
    digest: str

    @staticmethod
    def read(corpus: Corpus) -> "Passages":
        """Reads it once."""
        ids: list[str] = []
        lengths = array("q")

        def texts() -> Iterator[str]:
            for key, text in corpus.read():
                ids.append(key)
                lengths.append(len(text))
                yield text

        return Passages(corpus, ids, lengths, digest_of(texts()))


def digest_of(texts: Iterable[str]) -> str:
    """Names texts and their order, in 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode(errors="surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _key(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


class VectorCache:
    """Embeddings of one model in a folder.

    vectors/KEY holds all of a corpus; while it is being made, blocks/KEY/NUMBER what is done.
    """

    def __init__(self, folder: Path, encoder: Encoder, block: int = BLOCK) -> None:
        self.folder, self.encoder, self.block = folder, encoder, block

    def encode(
        self, texts: Iterable[str], digest: str, options: EncodeOptions, advance: Advance
    ) -> Embeddings:
        """Vectors of the texts that the digest names, memory-mapped; from the folder if there.

        Raises ModelError where the model gives what is no finite number.
        """
        key = self.key(digest, options)
        folder, blocks = self.folder / "vectors" / key, self.folder / "blocks" / key
        vectors = _load(folder)
        if vectors is not None:
            touch(folder)
            advance(len(vectors))
            return vectors
        try:
            with EmbeddingsWriter(folder) as writer:
                for number, block in enumerate(self.blocks(texts)):
                    writer.add(self._block(blocks / f"{number:06d}", block, options))
                    advance(len(block))
        except (InputError, OSError):
            if not folder.exists():  # else another process was quicker
                raise
        shutil.rmtree(blocks, ignore_errors=True)
        return Embeddings.load(folder)

    def _block(self, folder: Path, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        vectors = _load(folder)
        if vectors is None or len(vectors) != len(texts):
            vectors = self.once(texts, options)
            if not folder.exists():
                vectors.save(folder)
        return vectors

    def once(self, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        """Vectors that are not kept: of texts whose multi-vectors would fill the disk."""
        made = self.encoder.encode(texts, **asdict(options))
        made.check_finite()
        return made

    def key(self, digest: str, options: EncodeOptions) -> str:
        """Names the vectors of some texts."""
        encoder = self.encoder
        model = [FORMAT, encoder.fingerprint, encoder.runtime.name, encoder.dtype]
        return _key([model, asdict(options), digest])

    def blocks(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Texts that are encoded at once."""
        block: list[str] = []
        characters = 0
        for text in texts:
            if block and (len(block) == self.block or characters + len(text) > CHARACTERS):
                yield block
                block, characters = [], 0
            block.append(text)
            characters += len(text)
        if block:
            yield block


def _load(folder: Path) -> Embeddings | None:
    """What was kept; None where it is not there or damaged, and then it is removed."""
    if not folder.exists():
        return None
    try:
        return Embeddings.load(folder)
    except StoreError:
        shutil.rmtree(folder)
        return None


def _load_array(
    path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """An array that was kept, -1 for any length; None where it is another or damaged, or absent."""
    try:
        made: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if made.dtype != dtype or made.reshape(shape).shape != made.shape:
            return None
    except (OSError, ValueError, EOFError, ArithmeticError):
        return None
    touch(path)
    return made


def _save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


# Best passages: a corpus of long documents in chunks, cut as an index cuts them. Where chunks begin
# and end is kept, since cutting takes as long as a small model does.


def chunking_of(tokens: int, encoder: Encoder | None = None) -> Chunking:
    """How chunks of so many tokens are cut, with the overlap that an index has by itself.

    Raises InputError where that is too few, or more than the model reads.
    """
    chunking = Chunking(tokens, min(Chunking().overlap, tokens // 8))
    if encoder is not None and tokens > encoder.max_length:
        raise InputError(
            f"chunk is {tokens} tokens, the model {encoder.source or 'that is bundled'} reads "
            f"{encoder.max_length}: give at most that"
        )
    return chunking


@dataclass(frozen=True)
class Owners:
    """Which passage each of n chunks is of: P passages have theirs in a row, one at least."""

    of: Places  # (n,), sorted
    bounds: Places  # (P + 1,): chunks bounds[p] to bounds[p + 1] are of passage p

    @staticmethod
    def make(of: Places) -> "Owners":
        """From the passage of each chunk."""
        return Owners(of, np.searchsorted(of, np.arange(of[-1] + 2)))

    def chunks(self, rows: Places, places: Places) -> tuple[Places, Places, Places]:
        """Pairs of rows and passages as pairs of rows and all their chunks, and where each starts.

        Returns rows (m,), chunks (m,) and starts (n,).
        """
        sizes = self.bounds[places + 1] - self.bounds[places]
        chunks = packed_positions(self.bounds[places], sizes)
        return np.repeat(rows, sizes), chunks, np.cumsum(sizes) - sizes


def cut_corpus(
    passages: Passages, encoder: Encoder, chunking: Chunking, folder: Path, advance: Advance
) -> tuple[Passages, Owners]:
    """The chunks of passages, each under the id of its passage; `folder` keeps where they are.

    A passage that fits into a chunk stays as it is. Of others every chunk has the title before it,
    and with that at most so many tokens as `chunking` says.
    """
    corpus = passages.corpus
    tokenizer = hashlib.sha256(encoder.tokenizer.backend.to_str().encode()).hexdigest()
    titles = digest_of(title for _, title, _ in corpus.rows())
    facts = [3, tokenizer, encoder.max_length, asdict(chunking), passages.digest, titles]
    path = folder / "chunks" / f"{_key(facts)}.npy"
    chunker = Chunker(encoder.tokenizer.backend, chunking, encoder.max_length)
    # (n, 3): number of the passage, start and end in its text; end -1: the passage as it is
    spans = _load_array(path, np.int64, (-1, 3))
    if spans is None or not _owned(spans[:, 0], len(passages.ids)):
        flat = array("q")
        for number, (_, title, text) in enumerate(corpus.rows()):
            for span in _spans(chunker, *_parts(title, text)):
                flat.extend((number, *span))
            advance(1)
        spans = np.frombuffer(flat, np.int64).reshape(-1, 3)
        _save_array(path, spans)
    owners = Owners.make(np.array(spans[:, 0], dtype=np.int64))

    def chunks() -> Rows:
        for number, (key, title, text) in enumerate(corpus.rows()):
            title, text = _parts(title, text)
            for start, end in spans[owners.bounds[number] : owners.bounds[number + 1], 1:].tolist():
                whole = end < 0
                chunk = (
                    passage_text(title, text) if whole else chunker.heading(title) + text[start:end]
                )
                yield key, "", chunk

    return Passages.read(Corpus(corpus.name, chunks)), owners


def _owned(of: Places, count: int) -> bool:
    """Whether numbers (n,) count up from 0, over each of so many passages."""
    steps = np.diff(of, prepend=-1, append=count)
    return bool(((steps == 0) | (steps == 1)).all()) and of[0] == 0


def _parts(title: str, text: str) -> tuple[str, str]:
    """Title and text; a title alone is a text, as it is in an index."""
    return (title, text) if title.strip() and text.strip() else ("", passage_text(title, text))


def _spans(chunker: Chunker, title: str, text: str) -> Iterable[tuple[int, int]]:
    if chunker.count(passage_text(title, text)) <= chunker.chunking.chunk - SPECIAL:
        return [(0, -1)]
    return ((span.start, span.end) for span in chunker.spans(text, title))


def streamed_maxsim(
    cache: VectorCache,
    corpus: Corpus,
    options: EncodeOptions,
    queries: Embeddings,
    show: Callable[[int], None],
) -> Callable[[Places, Places], Scores]:
    """A function of pairs, sorted by row, to their MaxSim, where multi-vectors would fill the disk.

    Passages are encoded, scored and let go, in one reading of the corpus; scores are kept by
    content, so that a killed run goes on. `show` is told the passages done.
    """
    assert queries.multi is not None
    assert queries.offsets is not None
    of_queries = hashlib.sha256(queries.multi.tobytes() + queries.offsets.tobytes())

    def of_block(texts: list[str], rows: Places, places: Places) -> Scores:
        digest = of_queries.copy()
        digest.update(cache.key(digest_of(texts), options).encode())
        digest.update(rows.tobytes() + places.tobytes())
        path = cache.folder / "maxsim" / f"{digest.hexdigest()[:40]}.npy"
        loaded = _load_array(path, np.float32, places.shape)
        if loaded is not None:
            return loaded.astype(np.float32)
        scores = maxsim_pairs(queries, cache.once(texts, options), rows, places)
        _save_array(path, scores)
        return scores

    def score(rows: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        candidates = np.unique(places)
        among = set(candidates.tolist())
        texts = (text for place, (_, text) in enumerate(corpus.read()) if place in among)
        first = 0
        for block in cache.blocks(texts):
            these = candidates[first : first + len(block)]
            pairs = np.flatnonzero(np.isin(places, these))
            out[pairs] = of_block(block, rows[pairs], np.searchsorted(these, places[pairs]))
            first += len(block)
            show(first)
        return out

    return score
