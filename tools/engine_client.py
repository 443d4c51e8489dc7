"""Qdrant's own engine in place of a server: a client whose collections are shards in this process.

    pip install 'tercet[qdrant]' qdrant-edge-py
    python tools/qdrant_schema.py openapi.json --engine   # behind HTTP, as a server would be

`EngineClient` has those methods of QdrantClient that Tercet calls, and takes the same models. What
stands around the engine in a server (names, aliases, metadata) is the client's local mode.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import QdrantClient
from qdrant_client.http import models

# What a server takes where a request names nothing (config.yaml of Qdrant 1.16).
GRAPH = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}


class EngineClient:
    """Collections of one shard each, in a folder that is removed in the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tercet-engine-")
        self.folder = Path(self._folder.name)
        self._names: Any = QdrantClient(":memory:")  # collections without points
        self._shards: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._names, name)

    def shard(self, name: str) -> Any:
        """The shard of a collection or an alias."""
        aliases = {a.alias_name: a.collection_name for a in self.get_aliases().aliases}
        if shard := self._shards.get(aliases.get(name, name)):
            return shard
        raise ValueError(f"Collection {name} not found")

    def create_collection(
        self, name: str, vectors_config: Any, sparse_vectors_config: Any = None, **other: Any
    ) -> bool:
        named = vectors_config or {}
        named = {"": named} if isinstance(named, models.VectorParams) else named
        config = edge.EdgeConfig(
            vectors={head: vector_params(of) for head, of in named.items()},
            sparse_vectors={
                head: edge.EdgeSparseVectorParams() for head in sparse_vectors_config or {}
            },
            on_disk_payload=True,
        )
        made = self._names.create_collection(name, vectors_config, sparse_vectors_config, **other)
        self._shards[name] = edge.EdgeShard.create(str(self.folder / name), config)
        return bool(made)

    def delete_collection(self, name: str) -> bool:
        if name not in self._shards:
            return False
        self._shards.pop(name).close()
        shutil.rmtree(self.folder / name)
        return bool(self._names.delete_collection(name))

    def create_payload_index(self, name: str, field: str, kind: models.PayloadSchemaType) -> Any:
        schema = getattr(edge.PayloadSchemaType, kind.value.capitalize())
        return self._update(name, edge.UpdateOperation.create_field_index(field, schema))

    # Points

    def upsert(self, name: str, points: list[Any], wait: bool = True) -> Any:
        rows = [
            edge.Point(
                point.id, {head: value(v) for head, v in point.vector.items()}, point.payload
            )
            for point in points
        ]
        return self._update(name, edge.UpdateOperation.upsert_points(rows))

    def delete(self, name: str, gone: models.PointIdsList, wait: bool = True) -> Any:
        return self._update(name, edge.UpdateOperation.delete_points(gone.points))

    def _update(self, name: str, operation: Any) -> Any:
        self.shard(name).update(operation)
        return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    def retrieve(
        self, name: str, ids: list[int], with_payload: bool = True, with_vectors: bool = False
    ) -> list[Any]:
        records = self.shard(name).retrieve(ids, with_payload, with_vectors)
        return [_record(record) for record in records]

    def scroll(
        self,
        name: str,
        scroll_filter: Any = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Any = True,
        with_vectors: bool = False,
    ) -> tuple[list[Any], Any]:
        records, following = self.shard(name).scroll(
            edge.ScrollRequest(offset, limit, condition(scroll_filter), with_payload, with_vectors)
        )
        return [_record(record) for record in records], following

    def count(self, name: str, count_filter: Any = None, exact: bool = True) -> Any:
        asked = edge.CountRequest(exact, condition(count_filter))
        return models.CountResult(count=self.shard(name).count(asked))

    def query_batch_points(self, name: str, requests: list[models.QueryRequest]) -> list[Any]:
        asked = edge.QueryBatchRequest([query_request(request) for request in requests])
        return [
            models.QueryResponse(
                points=[
                    models.ScoredPoint(id=p.id, version=p.version, score=p.score, payload=p.payload)
                    for p in points
                ]
            )
            for points in self.shard(name).query_batch(asked)
        ]

    def query_points(self, name: str, **request: Any) -> Any:
        return self.query_batch_points(name, [models.QueryRequest(**request)])[0]

    def close(self) -> None:
        """Lets go of all shards."""
        for shard in self._shards.values():
            shard.close()
        self._shards = {}
        self._folder.cleanup()


# The client's models as the engine's


def vector_params(of: models.VectorParams) -> Any:
    datatype = (of.datatype or models.Datatype.FLOAT32).value.capitalize()
    graph = GRAPH | (of.hnsw_config.model_dump(exclude_none=True) if of.hnsw_config else {})
    maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    quantization: Any = of.quantization_config
    if isinstance(quantization, models.ScalarQuantization):
        scalar = quantization.scalar
        quantization = edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, scalar.quantile, scalar.always_ram
        )
    elif isinstance(quantization, models.BinaryQuantization):
        quantization = edge.BinaryQuantizationConfig(quantization.binary.always_ram)
    return edge.EdgeVectorParams(
        of.size,
        getattr(edge.Distance, of.distance.value),
        on_disk=of.on_disk,
        multivector_config=maxsim if of.multivector_config else None,
        datatype=getattr(edge.VectorStorageDatatype, datatype),
        quantization_config=quantization,
        hnsw_config=edge.HnswIndexConfig(**graph),
    )


def value(vector: Any) -> Any:
    """A dense, sparse or multi-vector."""
    if isinstance(vector, dict):
        vector = models.SparseVector(**vector)
    if isinstance(vector, models.SparseVector):
        return edge.SparseVector(vector.indices, vector.values)
    return vector


def condition(filter: Any) -> Any:
    """What Tercet's filters have: all of several conditions on ids or keywords."""
    if filter is None:
        return None
    return edge.Filter(
        must=[
            edge.HasIdCondition(set(of.has_id))
            if isinstance(of, models.HasIdCondition)
            else edge.FieldCondition(of.key, match=edge.MatchAny(of.match.any))
            for of in filter.must
        ]
    )


def query_request(of: models.QueryRequest) -> Any:
    payload = bool(of.with_payload)
    return edge.QueryRequest(limit=of.limit or 10, with_payload=payload, **_asked(of))


def _asked(of: Any) -> dict[str, Any]:
    """What a request and a prefetch share."""
    prefetch = of.prefetch or []
    query = of.query.nearest if isinstance(of.query, models.NearestQuery) else of.query
    if isinstance(query, models.FormulaQuery):
        query = edge.Formula(expression(query.formula), query.defaults)
    elif query is not None:
        query = edge.Query.Nearest(value(query), using=of.using)
    params = of.params and edge.SearchParams(
        hnsw_ef=of.params.hnsw_ef,
        exact=bool(of.params.exact),
        quantization=of.params.quantization
        and edge.QuantizationSearchParams(**of.params.quantization.model_dump(exclude_none=True)),
    )
    return {
        "query": query,
        "filter": condition(of.filter),
        "params": params,
        "prefetches": [
            edge.Prefetch(limit=part.limit or 10, **_asked(part))
            for part in (prefetch if isinstance(prefetch, list) else [prefetch])
        ],
    }


def expression(of: Any) -> Any:
    """A sum of products of constants and variables."""
    if isinstance(of, models.SumExpression):
        return edge.Expression.Sum([expression(part) for part in of.sum])
    if isinstance(of, models.MultExpression):
        return edge.Expression.Mult([expression(part) for part in of.mult])
    if isinstance(of, str):
        return edge.Expression.Variable(of)
    return edge.Expression.Constant(float(of))


def _record(record: Any) -> Any:
    vector = record.vector
    if isinstance(vector, dict):
        vector = {
            head: models.SparseVector(indices=v.indices, values=v.values)
            if isinstance(v, edge.SparseVector)
            else v
            for head, v in vector.items()
        }
    return models.Record(id=record.id, payload=record.payload, vector=vector)
