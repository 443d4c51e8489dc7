"""The tiny model, and a collection of it that is open."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tercet.collection import Collection
from tercet.config import Role
from tercet.encoder import Encoder
from tercet.records import Document

DOCUMENTS = [
    Document("river", "the river and the mountain", "water", source="r.md", metadata={"year": 1}),
    Document("music", "music history of the king", metadata={"score": "taken"}),
    Document("casa", "la casa del mundo", language="es"),
    Document("stadt", "die Stadt und das Wasser", language="de"),
]
TEXTS = [document.text for document in DOCUMENTS]
QUESTION = "history music"


@pytest.fixture(scope="session")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, dtype="float32")


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Collection.open(tmp_path / "c", encoder) as opened:
        opened.add(DOCUMENTS)
        yield opened


def encoded(encoder: Encoder, role: Role = "passage") -> Any:
    """What the encoder gives for the texts, or for the question."""
    return encoder.encode([QUESTION] if role == "query" else TEXTS, role=role)


def cosines(encoder: Encoder) -> Any:
    """Of the question and each text."""
    return encoded(encoder).dense @ encoded(encoder, "query").dense[0]
