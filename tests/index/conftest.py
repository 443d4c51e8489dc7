"""Random embeddings with clusters, and one index of every backend."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tercet.embeddings import Embeddings
from tercet.index import GraphOptions, Index, IndexSpec, create_index

DIMS = {"dense": 16, "vocabulary": 300, "multi": 8}
MODEL = "model-a"
SMALL = GraphOptions(rows=20)  # a graph even for few rows

MakeIndex = Callable[..., Index]


def create(path: Path, backend: Any = "exact", **changed: Any) -> Index:
    """A new index of DIMS for vectors of MODEL, or as changed."""
    spec: dict[str, Any] = {"fingerprint": MODEL, "backend": backend, **DIMS}
    return create_index(path, IndexSpec(**(spec | changed)), options=SMALL)


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
        "sparse": sp.csr_array(weights),
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


@pytest.fixture(scope="module", params=["exact", "graph"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path, backend: str) -> Iterator[MakeIndex]:
    """Makes indexes of the backend in folders of their own, and closes them at the end."""
    made: list[Index] = []

    def create_here(**changed: Any) -> Index:
        path = tmp_path / f"index-{len(made)}"
        made.append(create(path, **{"backend": backend, **changed}))
        return made[-1]

    yield create_here
    for index in made:
        index.close()
