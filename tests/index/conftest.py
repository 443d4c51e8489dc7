"""Random embeddings with clusters, and one index of every backend."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tercet.embeddings import Embeddings
from tercet.index import GraphOptions, Index, IndexSpec, VectorIndex, create_index, open_index
from tercet.index.qdrant import Address, QdrantIndex
from tercet.sparse import SparseRows

DIMS = {"dense": 16, "vocabulary": 300, "multi": 8}
MODEL = "model-a"
SMALL = GraphOptions(rows=20)  # a graph even for few rows

MakeIndex = Callable[..., VectorIndex]


def create(path: Path, backend: Any = "exact", **changed: Any) -> Index:
    """A new index of DIMS for vectors of MODEL, or as changed."""
    spec: dict[str, Any] = {"fingerprint": MODEL, "backend": backend, **DIMS}
    return create_index(path, IndexSpec(**(spec | changed)), options=SMALL)


def create_on(server: str, **changed: Any) -> QdrantIndex:
    """As `create`, on a Qdrant server and published under a new name."""
    spec: dict[str, Any] = {"fingerprint": MODEL, **DIMS, **changed}
    name = f"tercet-test-{secrets.token_hex(8)}"
    index = QdrantIndex.create(Address.parse(f"{server}/{name}"), IndexSpec(**spec))
    index.publish({})
    return index


def again(index: VectorIndex, **options: Any) -> VectorIndex:
    """Another index over what is there."""
    if isinstance(index, QdrantIndex):
        return QdrantIndex.open(index.address, **options)
    assert isinstance(index, Index)
    return open_index(index.path, **options)


def make_embeddings(
    count: int, seed: int = 0, empty_sparse: tuple[int, ...] = (), **changed: Any
) -> Embeddings:
    """Rows around 6 topics: a topic's rows are near in dense and multi and share tokens."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99)
    dense_topics = centres.standard_normal((6, DIMS["dense"]))
    multi_topics = centres.standard_normal((6, DIMS["multi"]))
    topics = rng.integers(0, 6, count)
    dense = _unit(dense_topics[topics] + rng.standard_normal((count, DIMS["dense"])))
    lengths = rng.integers(1, 12, count)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    noise = rng.standard_normal((int(offsets[-1]), DIMS["multi"]))
    multi = _unit(np.repeat(multi_topics[topics], lengths, axis=0) + noise)
    weights = np.zeros((count, DIMS["vocabulary"]), dtype=np.float32)
    for row in range(count):
        if row not in empty_sparse:
            terms = np.concatenate(
                (rng.integers(0, 30, 4), 30 + 40 * topics[row] + rng.integers(0, 40, 6))
            )
            weights[row, terms] = rng.uniform(0.05, 1.0, len(terms))
    facts: dict[str, Any] = {
        "dense": dense.astype(np.float32),
        "sparse": SparseRows.of(sp.csr_array(weights)),
        "multi": multi.astype(np.float16),
        "offsets": offsets,
        "fingerprint": MODEL,
    }
    return Embeddings(**(facts | changed))


def killed(index: Index, to: Path) -> Path:
    """The folder as a process killed right now would leave it."""
    return Path(shutil.copytree(index.path, to))


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module", params=["exact", "graph", "qdrant"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "qdrant":
        request.getfixturevalue("qdrant")
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> Iterator[MakeIndex]:
    """Makes indexes of the backend, each in a place of its own, and closes them at the end."""
    made: list[VectorIndex] = []

    def create_here(**changed: Any) -> VectorIndex:
        if backend == "qdrant":
            made.append(create_on(request.getfixturevalue("qdrant"), **changed))
        else:
            path = tmp_path / f"index-{len(made)}"
            made.append(create(path, **{"backend": backend, **changed}))
        return made[-1]

    yield create_here
    for index in made:
        index.close()
