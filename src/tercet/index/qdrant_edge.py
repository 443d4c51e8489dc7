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
        try:
            self._open()
        except BaseException:
            self._closed = True
            self._release()
            self._store.close()
            raise

    def _open(self) -> None:
        self._check_room()
        if self._folder.exists() and self._made.exists():
            self._shard = self._run(lambda: edge.EdgeShard.load(str(self._folder)))
        else:
            self._make()
        if self._mark.exists() or self._count() != len(self):
            self._repair()

    def _make(self) -> None:
        """Makes an empty engine where there is none, or only half of one."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir()
        config = self._config()
        self._shard = self._run(lambda: edge.EdgeShard.create(str(self._folder), config))
        keyword = edge.PayloadSchemaType.Keyword
        self._update(edge.UpdateOperation.create_field_index("tags", keyword))
        self._run(self._shard.flush)
        _touch(self._made)

    def _config(self) -> Any:
        spec, options = self.spec, self._options
        dense = edge.EdgeVectorParams(
            spec.dense or 1, edge.Distance.Dot, datatype=edge.VectorStorageDatatype.Float16
        )
        return edge.EdgeConfig(
            vectors={"dense": dense} if spec.dense else None,
            sparse_vectors={"sparse": edge.EdgeSparseVectorParams()} if spec.vocabulary else None,
            hnsw_config=edge.HnswIndexConfig(
                m=options.m,
                ef_construct=options.ef_construct,
                full_scan_threshold=options.full_scan_kb,
            ),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=options.full_scan_kb),
        )

    def _repair(self) -> None:
        """Makes the engine hold the living rows and nothing else, then makes that durable."""
        self._changing()
        held = self._serials()
        living = np.flatnonzero(self._store.live)
        serials = self._store.serials[living]
        self._removed(np.setdiff1d(held, serials))
        self._added(living[~np.isin(serials, held)])
        self.flush()

    def _serials(self) -> Serials:
        held: list[int] = []
        more: dict[str, Any] = {"limit": 10_000, "with_payload": False, "with_vector": False}
        while True:
            request = edge.ScrollRequest(**more)
            points, offset = self._run(partial(self._shard.scroll, request))
            held.extend(point.id for point in points)
            if offset is None:
                return np.array(held, dtype=np.uint64)
            more["offset"] = offset

    def _count(self) -> int:
        return int(self._run(lambda: self._shard.count(edge.CountRequest(exact=True))))

    # What Index calls.

    def _changing(self) -> None:
        super()._changing()
        if not self._mark.exists():
            _touch(self._mark)

    def _added(self, positions: Positions) -> None:
        for first in range(0, len(positions), self._options.points):
            rows = positions[first : first + self._options.points]
            points = list(self._points(rows))
            self._update(edge.UpdateOperation.upsert_points(points))

    def _points(self, rows: Positions) -> Iterator[Any]:
        serials = self._store.serials[rows].tolist()
        dense = self._store.dense(rows) if self.spec.dense else None
        sparse = self._store.sparse(rows) if self.spec.vocabulary else None
        for place, serial in enumerate(serials):
            vectors: dict[str, Any] = {}
            if dense is not None:
                vectors["dense"] = dense[place]
            if sparse is not None and sparse.indptr[place + 1] > sparse.indptr[place]:
                vectors["sparse"] = _sparse(sparse, place)  # never an empty one
            payload = self._store.payload(int(rows[place]))
            yield edge.Point(serial, vectors, {"tags": [_tag(*item) for item in payload.items()]})

    def _removed(self, serials: Serials) -> None:
        if len(serials):
            self._update(edge.UpdateOperation.delete_points(serials.tolist()))

    def _before_commit(self) -> None:
        self._run(self._shard.flush)

    def _after_commit(self) -> None:
        if self._mark.exists():
            self._mark.unlink()

    def optimize(self) -> None:
        with self._turn:
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
        where = _filter(choices) if choices else None
        requests, owners = [], []
        for row in range(len(queries)):
            for leg in legs:
                request = self._request(leg, queries, row, count, where)
                if request is not None:
                    requests.append(request)
                    owners.append(row)
        found: list[list[int]] = [[] for _ in range(len(queries))]
        if requests:
            batch = edge.QueryBatchRequest(requests)
            answers = self._run(lambda: self._shard.query_batch(batch))
            for row, points in zip(owners, answers, strict=True):
                found[row].extend(point.id for point in points)
        unions = (np.unique(np.array(serials, dtype=np.uint64)) for serials in found)
        return [self._store.positions(serials) for serials in unions]

    def _request(self, leg: Head, queries: Embeddings, row: int, limit: int, where: Any) -> Any:
        """The engine's request for one leg of one query; None where the leg is empty."""
        if leg == "dense":
            assert queries.dense is not None
            query = edge.Query.Nearest(queries.dense[row].tolist(), using="dense")
            params = edge.SearchParams(hnsw_ef=self._options.ef * limit)
        else:
            assert queries.sparse is not None
            if queries.sparse.indptr[row + 1] == queries.sparse.indptr[row]:
                return None
            query = edge.Query.Nearest(_sparse(queries.sparse, row), using="sparse")
            params = None
        return edge.QueryRequest(
            limit=limit,
            query=query,
            filter=where,
            params=params,
            with_payload=False,
            with_vector=False,
        )

    def sizes(self) -> dict[str, int]:
        with self._turn:
            sizes = super().sizes()
            for head, size in self._engine_sizes().items():
                sizes[head] += size
            return sizes

    def _engine_sizes(self) -> dict[str, int]:
        sizes = dict.fromkeys((*self.spec.heads, "other"), 0)
        for file in self._folder.rglob("*"):
            if file.is_file():
                parts = "/".join(file.relative_to(self._folder).parts)
                head = next((h for h in self.spec.heads if f"-{h}/" in parts), "other")
                sizes[head] += _allocated(file)
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
    start, stop = rows.indptr[row : row + 2]
    terms: Any = rows.indices[start:stop].astype(np.uint32)  # the stubs know lists alone
    weights: Any = rows.data[start:stop].astype(np.float32)
    return edge.SparseVector(terms, weights)


def _filter(choices: Choices) -> Any:
    """The engine's form of a checked filter: every key must equal one of its choices."""
    must: list[Any] = [
        edge.FieldCondition("tags", match=edge.MatchAny([_tag(key, value) for value in values]))
        for key, values in choices.items()
    ]
    return edge.Filter(must=must)


def _tag(key: str, value: Scalar) -> str:
    """A payload entry as one keyword, so that one index serves every key and every kind.

    The engine's own matching takes True for 1, knows no equality of floats, reads a dot in a key
    as nesting, and wants an index per key.
    """
    return json.dumps([key, value])


def _allocated(file: Path) -> int:
    """Bytes on disk: the engine makes large sparse files."""
    facts = file.stat()
    return getattr(facts, "st_blocks", -(-facts.st_size // 512)) * 512


def _touch(path: Path) -> None:
    """Makes an empty file, durably; raises StoreError where the disk is full."""
    try:
        path.touch()
        fsync(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot write ({error.strerror})") from error
