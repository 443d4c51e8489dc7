"""An encoder without a model, and a collection of it in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hashed import HashedEncoder

from tercet.collection import Collection


@pytest.fixture
def encoder() -> HashedEncoder:
    return HashedEncoder()


@pytest.fixture
def collection(memory: Path, encoder: HashedEncoder) -> Iterator[Collection]:
    """An exact one, empty."""
    with Collection.open(memory / "c", encoder, backend="exact") as opened:
        yield opened
