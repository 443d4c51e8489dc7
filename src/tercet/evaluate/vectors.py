"""What evaluation encodes, kept by content and model: embeddings, chunks, MaxSim of candidates.

What was encoded once is found again, in whatever suite it stands; a killed run goes on at its next
block of texts. Knows nothing of tasks, rankings or measures. Places are numbers of passages in
their corpus, rows are numbers of queries.
"""

import hashlib
import json
import shutil
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.cache import touch
from tercet.config import MAX_LENGTH, Head, Role
from tercet.documents.chunks import SPECIAL, Chunker, Chunking
from tercet.embeddings import Embeddings, EmbeddingsWriter
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError, StoreError
from tercet.evaluate.tasks import Corpus, Texts
from tercet.io import atomic_write
from tercet.scores import Places, Scores, maxsim_pairs

BLOCK = 1 << 14  # texts whose vectors are in memory at once, at most
CHARACTERS = 1 << 21  # of such a block, at most
FORMAT = 2
DAY = 86400  # seconds

Advance = Callable[[int], None]  # so many texts more are done
# (n, 4) of n chunks: number of its passage, characters of the heading, start, end. All count in the
# passage as it is read; heading 0: none stands before the chunk.
Spans = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodeOptions:
    """What decides the vectors of a text besides the model."""

    heads: tuple[Head, ...]
    max_length: int = MAX_LENGTH  # tokens
    role: Role = "passage"
    mcls: int | None = None


class Digest:
    """Names texts and their order, one text after another."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._hash = hashlib.sha256()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """One text more."""
        raw = text.encode(errors="surrogatepass")
        self._hash.update(len(raw).to_bytes(8, "little") + raw)

    def name(self) -> str:
        """In 64 hexadecimal digits."""
        return self._hash.hexdigest()


class VectorCache:
    """Embeddings of one model in a folder.

    vectors/KEY holds all of a corpus; while it is being made, blocks/KEY/NUMBER what is done.
    """

    def __init__(self, folder: Path, encoder: Encoder, block: int = BLOCK) -> None:
        self.folder, self.encoder, self.block = folder, encoder, block

    def encode(
        self, texts: Iterable[str], digest: Digest, options: EncodeOptions, advance: Advance
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
        for scratch in folder.parent.glob(".*"):  # of processes that were killed a day ago
            if time.time() - scratch.stat().st_mtime > DAY:
                shutil.rmtree(scratch, ignore_errors=True)
        try:
            with EmbeddingsWriter(folder) as writer:
                for number, part in enumerate(self.blocks(texts)):
                    writer.add(self._block(blocks / f"{number:06d}", part, options))
                    advance(len(part))
        except (InputError, OSError):
            if not folder.exists():  # else another process was quicker
                raise
        shutil.rmtree(blocks, ignore_errors=True)
        return Embeddings.load(folder)

    def _block(self, place: Path, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        vectors = _load(place)
        if vectors is None or len(vectors) != len(texts):
            vectors = self.once(texts, options)
            if not place.exists():
                vectors.save(place)
        return vectors

    def once(self, texts: Sequence[str], options: EncodeOptions) -> Embeddings:
        """Vectors that are not kept: of texts whose multi-vectors would fill the disk."""
        made = self.encoder.encode(texts, **asdict(options))
        for part in (made.dense, made.multi, None if made.sparse is None else made.sparse.data):
            if part is not None and not np.isfinite(part).all():
                raise ModelError(
                    "the model gives vectors that are not finite numbers: its weights are "
                    "damaged, or the training that made them went astray"
                )
        return made

    def key(self, digest: Digest, options: EncodeOptions) -> str:
        """Names the vectors of some texts."""
        model = [FORMAT, self.encoder.fingerprint, str(self.encoder.dtype)]
        return _hashed([model, asdict(options), digest.name()])

    def blocks(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Texts that are encoded at once."""
        part: list[str] = []
        characters = 0
        for text in texts:
            if part and (len(part) == self.block or characters + len(text) > CHARACTERS):
                yield part
                part, characters = [], 0
            part.append(text)
            characters += len(text)
        if part:
            yield part


def _hashed(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def _load(folder: Path) -> Embeddings | None:
    """What was kept; None where it is not there or damaged, and then it is removed."""
    if not folder.exists():
        return None
    try:
        return Embeddings.load(folder)
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise  # too many open files, say: nothing is wrong with these
        shutil.rmtree(folder)
        return None


def _load_array(path: Path) -> npt.NDArray[np.generic] | None:
    """An array that was kept; None where it is not there or damaged, and is to be made anew."""
    try:
        made: npt.NDArray[np.generic] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    touch(path)
    return made


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
    def make(of: Places, passages: int) -> "Owners":
        """From the passage of each chunk."""
        return Owners(of, np.searchsorted(of, np.arange(passages + 1)))

    def chunks(self, rows: Places, places: Places) -> tuple[Places, Places, Places]:
        """Pairs of rows and passages as pairs of rows and all their chunks, and where each starts.

        Returns rows (m,), chunks (m,) and starts (n,).
        """
        sizes = self.bounds[places + 1] - self.bounds[places]
        starts = np.cumsum(sizes) - sizes
        chunks = np.arange(sizes.sum()) + np.repeat(self.bounds[places] - starts, sizes)
        return np.repeat(rows, sizes), chunks, starts


@dataclass(frozen=True)
class Cut:
    """The chunks of a corpus in order: their texts, characters of each, and whose they are."""

    corpus: Corpus  # of chunks, each under the id of its passage
    lengths: "array[int]"
    digest: Digest
    owners: Owners


def cut_corpus(
    corpus: Corpus,
    digest: Digest,
    encoder: Encoder,
    chunking: Chunking,
    folder: Path,
    advance: Advance,
) -> Cut:
    """Cuts the passages that the digest names; `folder` keeps where.

    A passage that fits into a chunk stays as it is. Of others every chunk has the title before it,
    and with that at most so many tokens as `chunking` says.
    """
    titles = array("q", [] if corpus.titles is None else corpus.titles())
    tokenizer = hashlib.sha256(encoder.tokenizer.backend.to_str().encode()).hexdigest()
    named = hashlib.sha256(titles.tobytes()).hexdigest()
    facts = [1, tokenizer, encoder.max_length, asdict(chunking), digest.name(), named]
    path = folder / "chunks" / f"{_hashed(facts)}.npy"
    loaded = _load_array(path)
    if loaded is None or loaded.ndim != 2 or loaded.shape[1] != 4:
        chunker = Chunker(encoder.tokenizer.backend, chunking, encoder.max_length)
        flat = array("q")
        for number, (_, text) in enumerate(corpus.read()):
            for span in _spans(chunker, text, titles[number] if titles else 0):
                flat.extend((number, *span))
            advance(1)
        loaded = np.frombuffer(flat, np.int64).reshape(-1, 4)
        with atomic_write(path) as file:
            np.save(file, loaded)
    spans: Spans = loaded.astype(np.int64, copy=False)
    passages = int(spans[-1, 0]) + 1 if len(spans) else 0
    owners = Owners.make(np.ascontiguousarray(spans[:, 0]), passages)
    chunks = Corpus(corpus.name, lambda: _texts(corpus, spans, owners))
    of_chunks, lengths = Digest(), array("q")
    for _, text in chunks.read():
        of_chunks.add(text)
        lengths.append(len(text))
    return Cut(chunks, lengths, of_chunks, owners)


def _spans(chunker: Chunker, passage: str, title: int) -> Iterator[tuple[int, int, int]]:
    """Heading, start and end of the chunks of a passage whose first characters are a title."""
    if chunker.count(passage) <= chunker.chunking.chunk - SPECIAL:
        yield 0, 0, len(passage)
        return
    first = title + 1 if title else 0  # behind the title's newline
    if not (passage[:title].strip() and passage[first:].strip()):
        first = title = 0  # a title alone is a text, as it is in an index
    heading = len(chunker.heading(passage[:title]).removesuffix("\n"))
    for span in chunker.spans(passage[first:], passage[:title]):
        yield heading, first + span.start, first + span.end


def _texts(corpus: Corpus, spans: Spans, owners: Owners) -> Texts:
    for number, (identifier, passage) in enumerate(corpus.read()):
        own = spans[owners.bounds[number] : owners.bounds[number + 1], 1:]
        for heading, start, end in own.tolist():
            text = passage[start:end]
            yield identifier, f"{passage[:heading]}\n{text}" if heading else text


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
    asked = hashlib.sha256(queries.multi.tobytes() + queries.offsets.tobytes())

    def of_block(texts: list[str], rows: Places, places: Places) -> Scores:
        digest = asked.copy()
        digest.update(cache.key(Digest(texts), options).encode())
        digest.update(rows.tobytes() + places.tobytes())
        path = cache.folder / "maxsim" / f"{digest.hexdigest()[:40]}.npy"
        kept = _load_array(path)
        if kept is not None:
            return kept.astype(np.float32)
        scores = maxsim_pairs(queries, cache.once(texts, options), rows, places)
        with atomic_write(path) as file:
            np.save(file, scores)
        return scores

    def score(rows: Places, places: Places) -> Scores:
        out = np.empty(len(places), dtype=np.float32)
        candidates = np.unique(places)
        wanted = set(candidates.tolist())
        texts = (text for place, (_, text) in enumerate(corpus.read()) if place in wanted)
        first = 0
        for part in cache.blocks(texts):
            block = candidates[first : first + len(part)]
            pairs = np.flatnonzero(np.isin(places, block))
            out[pairs] = of_block(part, rows[pairs], np.searchsorted(block, places[pairs]))
            first += len(part)
            show(first)
        return out

    return score
