"""Qdrant Edge finds the candidates: HNSW for dense, an exact inverted index for sparse, filters.

The engine holds a copy of dense, sparse and payload under each row's serial number; the row
store beside it stays the truth, and every score is computed from it. So multi-vectors (nine
tenths of the bytes) are written once and never copied by the engine, its limit of 1,048,576
numbers per multi-vector does not apply, approximate or quantised scores never reach a hit, and
an engine folder that is lost or behind is made good from the rows.

Written for qdrant-edge-py 0.9, a beta, in one process at a time. It holds the GIL while it
searches (milliseconds) and while it optimises (minutes for 200,000 rows).
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import qdrant_edge as edge
import scipy.sparse as sp

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.errors import StoreError
from tercet.index.base import Choices, Index
from tercet.index.store import IndexSpec, Positions, Serials
from tercet.io import fsync
from tercet.records import Scalar

T = TypeVar("T")


@dataclass(frozen=True)
class EngineOptions:
    """How the engine is made and asked."""

    m: int = 16  # edges per node of the graph; the engine's default
    ef_construct: int = 100  # the engine's default
    # Nodes kept in view for each one asked for: of the 300 nearest of 40,000 rows the graph finds
    # 82% with 1 and 92% with 2, in 1.0 and 1.7 ms (measured on bags of trained token vectors).
    ef: int = 2
    full_scan_kb: int = 10_000  # below this much dense data a scan is as quick as the graph
    points: int = 1000  # in one update
    # The engine maps its files, so on a full disk the process would die of SIGBUS instead of being
    # told; opening a small one takes up to 20 MB (measured), an update a few more.
    free_bytes: int = 64 << 20


class QdrantEdgeIndex(Index):
    """An index whose first stage is an embedded Qdrant shard in the folder `engine`."""

    def __init__(
        self, path: Path, spec: IndexSpec, options: EngineOptions = EngineOptions()
    ) -> None:
        """Opens the index; raises StoreError where it is damaged or in use."""
        super().__init__(path, spec)
        self._options = options
        self._folder = path / "engine"
        self._made = path / "engine-made"  # exists when the folder is a whole engine
        self._mark = path / "engine-behind"  # exists while rows and engine may differ on disk
        self._shard: Any = None
        with ExitStack() as undo:
            undo.callback(self._store.close)
            undo.callback(self._release)
            self._check_room()
            if self._folder.exists() and self._made.exists():
                self._shard = self._run(lambda: edge.EdgeShard.load(str(self._folder)))
            else:
                self._make()
            if self._mark.exists() or self._count() != len(self):
                self._repair()
            undo.pop_all()

    def _make(self) -> None:
        """Makes an empty engine where there is none, or only half of one."""
        spec, options = self.spec, self._options
        dense = edge.EdgeVectorParams(
            spec.dense or 1, edge.Distance.Dot, datatype=edge.VectorStorageDatatype.Float16
        )
        config = edge.EdgeConfig(
            vectors={"dense": dense} if spec.dense else None,
            sparse_vectors={"sparse": edge.EdgeSparseVectorParams()} if spec.vocabulary else None,
            hnsw_config=edge.HnswIndexConfig(
                m=options.m,
                ef_construct=options.ef_construct,
                full_scan_threshold=options.full_scan_kb,
            ),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=options.full_scan_kb),
        )
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir()
        self._shard = self._run(lambda: edge.EdgeShard.create(str(self._folder), config))
        keyword = edge.PayloadSchemaType.Keyword
        self._update(edge.UpdateOperation.create_field_index("tags", keyword))
        self._run(self._shard.flush)
        _touch(self._made)

    def _repair(self) -> None:
        """Makes the engine hold the living rows and nothing else, then makes that durable."""
        self._changing()
        serials: list[int] = []
        offset: Any = None
        while True:
            page = edge.ScrollRequest(
                limit=10_000, offset=offset, with_payload=False, with_vector=False
            )
            points, offset = self._run(partial(self._shard.scroll, page))
            serials.extend(point.id for point in points)
            if offset is None:
                break
        engine = np.array(serials, dtype=np.uint64)
        living = np.flatnonzero(self._store.live)
        rows = self._store.serials[living]
        self._removed(np.setdiff1d(engine, rows))
        self._added(living[~np.isin(rows, engine)])
        self.flush()

    def _count(self) -> int:
        return int(self._run(lambda: self._shard.count(edge.CountRequest(exact=True))))

    # What Index calls.

    def _changing(self) -> None:
        super()._changing()
        if not self._mark.exists():
            _touch(self._mark)

    def _added(self, positions: Positions) -> None:
        for first in range(0, len(positions), self._options.points):
            points = list(self._points(positions[first : first + self._options.points]))
            self._update(edge.UpdateOperation.upsert_points(points))

    def _points(self, rows: Positions) -> Iterator[Any]:
        dense = self._store.dense(rows) if self.spec.dense else None
        sparse = self._store.sparse(rows) if self.spec.vocabulary else None
        for number, serial in enumerate(self._store.serials[rows].tolist()):
            vectors: dict[str, Any] = {}
            if dense is not None:
                vectors["dense"] = dense[number]
            if sparse is not None and (terms := _sparse(sparse, number)) is not None:
                vectors["sparse"] = terms
            payload = self._store.payload(int(rows[number]))
            yield edge.Point(serial, vectors, {"tags": [_tag(*item) for item in payload.items()]})

    def _removed(self, serials: Serials) -> None:
        if len(serials):
            self._update(edge.UpdateOperation.delete_points(serials.tolist()))

    def _commit(self) -> None:
        self._run(self._shard.flush)
        super()._commit()
        self._mark.unlink(missing_ok=True)

    def optimize(self) -> None:
        with self._open():
            super().optimize()
            if self._count() != len(self):
                self._repair()  # after a batch that the engine refused half-way
            self._check_room(sum(self._engine_sizes().values()))  # it makes a copy as it goes
            self._run(self._shard.optimize)
            self._run(self._shard.flush)

    def _release(self) -> None:
        if self._shard is not None:
            self._shard.close()

    def _candidates(
        self, queries: Embeddings, legs: Sequence[Head], count: int, choices: Choices
    ) -> list[Positions]:
        # Every key must equal one of its choices.
        must: list[Any] = [
            edge.FieldCondition("tags", match=edge.MatchAny([_tag(key, value) for value in values]))
            for key, values in choices.items()
        ]
        request = partial(
            edge.QueryRequest,
            limit=count,
            filter=edge.Filter(must=must) if must else None,
            with_payload=False,
            with_vector=False,
        )
        params = edge.SearchParams(hnsw_ef=self._options.ef * count)
        requests, owners = [], []
        for row in range(len(queries)):
            if "dense" in legs and queries.dense is not None:
                nearest = edge.Query.Nearest(queries.dense[row].tolist(), using="dense")
                requests.append(request(query=nearest, params=params))
                owners.append(row)
            if "sparse" in legs and queries.sparse is not None:
                terms = _sparse(queries.sparse, row)
                if terms is not None:
                    requests.append(request(query=edge.Query.Nearest(terms, using="sparse")))
                    owners.append(row)
        serials: list[list[int]] = [[] for _ in range(len(queries))]
        if requests:
            batch = edge.QueryBatchRequest(requests)
            answers = self._run(lambda: self._shard.query_batch(batch))
            for row, points in zip(owners, answers, strict=True):
                serials[row].extend(point.id for point in points)
        unions = (np.unique(np.array(union, dtype=np.uint64)) for union in serials)
        return [self._store.positions(union) for union in unions]

    def sizes(self) -> dict[str, int]:
        sizes = super().sizes()
        for head, size in self._engine_sizes().items():
            sizes[head] += size
        return sizes

    def _engine_sizes(self) -> dict[str, int]:
        sizes = dict.fromkeys((*self.spec.heads, "other"), 0)
        for file in self._folder.rglob("*"):
            if file.is_file():
                path = file.relative_to(self._folder).as_posix()
                head = next((head for head in self.spec.heads if f"-{head}/" in path), "other")
                facts = file.stat()  # in blocks, since the engine makes large sparse files
                sizes[head] += getattr(facts, "st_blocks", -(-facts.st_size // 512)) * 512
        return sizes

    def _check_room(self, more: int = 0) -> None:
        free, needed = shutil.disk_usage(self.path).free, self._options.free_bytes + more
        if free < needed:
            raise StoreError(
                f"{self.path}: the disk is full but for {free >> 20} MB, the engine needs "
                f"{needed >> 20}: make room; what was flushed is whole"
            )

    def _update(self, operation: Any) -> None:
        self._check_room()
        self._run(lambda: self._shard.update(operation))

    def _run(self, call: Callable[[], T]) -> T:
        """Calls the engine, which raises bare Exception for whatever went wrong, or panics."""
        try:
            return call()
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise  # an interrupt, not the engine
            raise StoreError(
                f"{self._folder}: the engine failed ({error}); if this happens again, delete that "
                "folder: it is made anew from the rows beside it when the index is opened"
            ) from error


def _sparse(rows: sp.csr_array, row: int) -> Any:
    """A row as the engine takes it; None where it is empty, which the engine does not take."""
    start, stop = rows.indptr[row : row + 2]
    if start == stop:
        return None
    terms: Any = rows.indices[start:stop].astype(np.uint32)  # the stubs know lists alone
    weights: Any = rows.data[start:stop].astype(np.float32)
    return edge.SparseVector(terms, weights)


def _tag(key: str, value: Scalar) -> str:
    """A payload entry as one keyword, so that one index serves every key and every kind.

    The engine's own matching takes True for 1, knows no equality of floats, reads a dot in a key
    as nesting, and wants an index per key.
    """
    return json.dumps([key, value])


def _touch(path: Path) -> None:
    """Makes an empty file, durably; raises StoreError where the disk is full."""
    try:
        path.touch()
        fsync(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot write ({error.strerror})") from error
