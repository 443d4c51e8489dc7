"""A corpus of long documents in chunks, cut as an index cuts them: the best passage's evaluation.

Where chunks begin and end is kept by content, since cutting takes as long as a small model does.
Knows nothing of vectors, rankings or measures.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.documents.chunks import SPECIAL, Chunker, Chunking
from tercet.encoder import Encoder
from tercet.errors import InputError
from tercet.evaluate.columns import Owners
from tercet.evaluate.encoding import Advance, Digest
from tercet.evaluate.tasks import Corpus, Texts
from tercet.io import atomic_write

FORMAT = 1

# (n, 4) of n chunks: number of its passage, characters of the heading, start, end. All count in the
# passage as it is read; heading 0: none stands before the chunk.
Spans = npt.NDArray[np.int64]


def chunking_of(tokens: int, encoder: Encoder | None = None) -> Chunking:
    """How chunks of so many tokens are cut, with the overlap that an index has by itself.

    Raises InputError where that is too few, or more than the model reads.
    """
    made = Chunking(tokens, min(Chunking().overlap, tokens // 8))
    if encoder is not None and tokens > encoder.max_length:
        raise InputError(
            f"chunk is {tokens} tokens, the model {encoder.source or 'that is bundled'} reads "
            f"{encoder.max_length}: give at most that"
        )
    return made


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
    place = folder / "chunks" / f"{_key(digest, titles, encoder, chunking)}.npy"
    spans = _load(place)
    if spans is None:
        chunker = Chunker(encoder.tokenizer.backend, chunking, encoder.max_length)
        found = array("q")
        for number, (_, text) in enumerate(corpus.read()):
            for span in _spans(chunker, text, titles[number] if titles else 0):
                found.extend((number, *span))
            advance(1)
        spans = np.frombuffer(found, np.int64).reshape(-1, 4)
        with atomic_write(place) as file:
            np.save(file, spans)
    passages = int(spans[-1, 0]) + 1 if len(spans) else 0
    owners = Owners.make(np.ascontiguousarray(spans[:, 0]), passages)
    chunks = Corpus(corpus.name, lambda: _texts(corpus, spans, owners))
    named, lengths = Digest(), array("q")
    for _, text in chunks.read():
        named.add(text)
        lengths.append(len(text))
    return Cut(chunks, lengths, named, owners)


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
        mine = spans[owners.bounds[number] : owners.bounds[number + 1], 1:]
        for heading, start, end in mine.tolist():
            text = passage[start:end]
            yield identifier, f"{passage[:heading]}\n{text}" if heading else text


def _key(digest: Digest, titles: "array[int]", encoder: Encoder, chunking: Chunking) -> str:
    """Names all that decides where chunks begin and end."""
    tokenizer = hashlib.sha256(encoder.tokenizer.backend.to_str().encode()).hexdigest()
    named = hashlib.sha256(titles.tobytes()).hexdigest()
    facts = [FORMAT, tokenizer, encoder.max_length, asdict(chunking), digest.name(), named]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def _load(place: Path) -> Spans | None:
    """What was kept; None where it is not there or damaged."""
    try:
        found: Spans = np.load(place, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and found.shape[1] == 4 else None
