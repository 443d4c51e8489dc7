"""An encoder, random texts and a task over random documents, for every test of evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tercet.encoder import Encoder
from tercet.evaluate.tasks import Corpus, Protocol, Task
from tests.conftest import WORDS

CHUNK, DOCUMENTS, QUERIES = 32, 25, 9
VOCABULARY = list(dict.fromkeys(WORDS))
Titled = Sequence[tuple[str, str, str]]  # id, title, text


@pytest.fixture(scope="session")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32", device="cpu")


def texts(count: int, seed: int, length: int) -> list[str]:
    """Of three words at least, and fewer than `length`."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(VOCABULARY, draw.integers(3, length))) for _ in range(count)]


def documents(seed: int = 0) -> Titled:
    """Sentences and paragraphs of a few words to ten chunks, every other with a title."""
    draw = np.random.default_rng(seed)

    def prose(words: int) -> str:
        ends = draw.choice([" ", ". ", ".\n\n"], size=words, p=[0.85, 0.1, 0.05]).tolist()
        chosen = draw.choice(VOCABULARY, size=words).tolist()
        return "".join(a + b for a, b in zip(chosen, ends, strict=True)).strip()

    lengths = draw.integers(5, 10 * CHUNK, DOCUMENTS).tolist()
    titles = [" ".join(prose(3).split()) if n % 2 else "" for n in range(DOCUMENTS)]
    titles[5] = " ".join(prose(CHUNK).split())  # one that is cut
    return [(f"d{n:02d}", titles[n], prose(length)) for n, length in enumerate(lengths)]


def task_of(rows: Titled, asked: Sequence[str] | None = None) -> Task:
    """A task that ranks all documents again; three random ones are relevant to each query."""

    corpus = Corpus("c", lambda: iter(rows))
    queries = {f"q{n}": text for n, text in enumerate(asked or texts(QUERIES, 1, 6))}
    draw = np.random.default_rng(2)
    qrels = {q: {rows[p][0]: int(1 + p % 2) for p in draw.choice(len(rows), 3)} for q in queries}
    protocol = Protocol(rerank=len(rows), union=len(rows))
    return Task("own/long", "own", "en", corpus, queries, qrels, protocol=protocol)
