"""Tercet's index on Qdrant's own engine, beside the index in a folder: bytes, seconds, recall.

    pip install '.[qdrant]' qdrant-edge-py
    python benchmarks/qdrant_engine.py
    python benchmarks/qdrant_engine.py --chunks 5000 --only float16 binary

`qdrant-edge-py` has the shard of a server, without the server: no HTTP, no cluster, one shard. The
collection is made as `tercet index --index qdrant://...` makes it, or stores its vectors otherwise;
rows are synthetic (`search.py`), of tercet-small's sizes. The graph is asked at whatever size,
where a server would scan fewer than 10,000 KB of vectors.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from qdrant_client.http import models
from search import SHARD, K, Source, Topics

from tercet.config import PAPER_WEIGHTS
from tercet.index import IndexSpec, VectorIndex, create_index
from tercet.index import qdrant as module
from tercet.index.qdrant import Address, QdrantIndex
from tercet.records import IndexHit

sys.path.insert(0, str(common.ROOT / "tools"))
import qdrant_engine

Vectors = dict[str, models.VectorParams]
BINARY = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
SCALAR = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
)


def changed(**heads: dict[str, Any]) -> Callable[[Vectors], Vectors]:
    """The vectors of a collection with other settings of some heads."""
    return lambda vectors: {
        head: of.model_copy(update=heads.get(head, {})) for head, of in vectors.items()
    }


STORED: dict[str, tuple[dict[str, Any], Callable[[Vectors], Vectors]]] = {
    "float16": ({}, changed()),
    "float16, exact": ({"backend": "exact"}, changed()),
    "int8": ({"dtype": "int8"}, changed()),
    "binary": ({}, changed(dense={"quantization_config": BINARY, "on_disk": True})),
    "binary, multi too": (
        {},
        changed(
            dense={"quantization_config": BINARY, "on_disk": True},
            multi={"quantization_config": BINARY},
        ),
    ),
    "multi int8": ({}, changed(multi={"quantization_config": SCALAR})),
    "float32": ({}, changed(dense={"datatype": None}, multi={"datatype": None})),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(STORED), default=list(STORED))
    options = parser.parse_args()
    topics = Topics(0, multi=128, dense=384)
    counts = [min(SHARD, options.chunks - first) for first in range(0, options.chunks, SHARD)]

    def shards() -> Any:
        return (topics.passages(count, number + 1)[0] for number, count in enumerate(counts))

    asked = topics.queries(options.queries, 1_000_000, topics.passages(counts[0], 1)[1])
    dims = {"dense": topics.dense, "vocabulary": topics.vocabulary, "multi": topics.multi}
    source = Source(shards, asked, dims, "synthetic", PAPER_WEIGHTS)
    report = {"chunks": options.chunks, "queries": options.queries, "stored": {}}
    qdrant_engine.GRAPH["full_scan_threshold"] = 10
    with tempfile.TemporaryDirectory(prefix="tercet-qdrant-") as scratch:
        spec = IndexSpec(fingerprint=source.fingerprint, **source.dims)  # type: ignore[arg-type]
        with create_index(Path(scratch) / "index", spec) as index:
            fill(index, source)
            exact = {
                mode: searched(index, source, mode=mode, candidates=None)[0]
                for mode in ("dense", "hybrid")
            }
            report["folder"] = {
                "bytes": {head: size // options.chunks for head, size in index.sizes().items()},
                **asking(index, source, exact),
            }
        print(report["folder"], flush=True)
        for name in options.only:
            report["stored"][name] = stored(name, spec, source, exact)
            print(name, report["stored"][name], flush=True)
    common.save(options.json, report)


def stored(name: str, spec: IndexSpec, source: Source, exact: dict[str, Any]) -> dict[str, Any]:
    """The figures of one way to store vectors."""
    more, change = STORED[name]
    client = qdrant_engine.EngineClient()
    make = client.create_collection
    client.create_collection = lambda name, vectors_config, *of, **kw: make(  # type: ignore[method-assign]
        name, change(vectors_config), *of, **kw
    )
    module.connect = lambda address: client
    index = QdrantIndex.create(Address.parse("qdrant://localhost/passages"), replace(spec, **more))
    index.publish({})
    seconds = {"add": fill(index, source)}
    shard, started = client.shard("passages"), time.perf_counter()
    shard.optimize()
    shard.flush()
    seconds["optimize"] = time.perf_counter() - started
    legs = {}
    for label, params in {
        "as asked": None,
        "no rescoring": models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=False)
        ),
    }.items():
        found, spent = [], []
        for query in source.queries.to_qdrant():
            started = time.perf_counter()
            answer = client.query_points(
                "passages", query=query["dense"], using="dense", limit=K, params=params
            )
            spent.append(time.perf_counter() - started)
            found.append([point.id for point in answer.points])
        ids = [[hit.id for hit in hits] for hits in exact["dense"]]
        legs[label] = {"recall": shared(found, ids), "p50_ms": 1000 * float(np.median(spent))}
    report = {
        "seconds": seconds,
        "bytes": sizes(client.folder / "passages-000001", len(index)),
        "dense leg": legs,
        **asking(index, source, exact),
    }
    index.close()
    return report


def fill(index: VectorIndex, source: Source) -> float:
    """Seconds to add all rows and make them durable, without making them."""
    spent, first = 0.0, 0
    for part in source.shards():
        ids, first = range(first, first + len(part)), first + len(part)
        started = time.perf_counter()
        index.add(ids, part, [{"tenth": id % 10} for id in ids])
        spent += time.perf_counter() - started
    started = time.perf_counter()
    index.flush()
    index.optimize()
    return spent + time.perf_counter() - started


def searched(index: VectorIndex, source: Source, **how: Any) -> tuple[list[list[IndexHit]], float]:
    """The hits of each query, asked alone, and the median of milliseconds."""
    hits, spent = [], []
    for row in range(len(source.queries)):
        started = time.perf_counter()
        hits += index.search(source.queries[row : row + 1], k=K, weights=source.weights, **how)
        spent.append(time.perf_counter() - started)
    return hits, 1000 * float(np.median(spent))


def asking(index: VectorIndex, source: Source, exact: dict[str, Any]) -> dict[str, Any]:
    """Shares of the exhaustive top ten that are found, how far scores are off, and milliseconds."""
    report: dict[str, Any] = {}
    for mode, best in exact.items():
        hits, median = searched(index, source, mode=mode)
        scores = {(n, hit.id): hit.score for n, row in enumerate(best) for hit in row}
        off = [
            abs(hit.score - scores[n, hit.id])
            for n, row in enumerate(hits)
            for hit in row
            if (n, hit.id) in scores
        ]
        same = shared([[hit.id for hit in row] for row in hits], [[h.id for h in r] for r in best])
        report[mode] = {"recall": same, "off": max(off), "p50_ms": median}
    report["filter"] = {"p50_ms": searched(index, source, filter={"tenth": 3})[1]}
    return report


def shared(found: list[list[int]], best: list[list[int]]) -> float:
    same = sum(len({*one} & {*other}) for one, other in zip(found, best, strict=True))
    return same / sum(map(len, best))


def sizes(folder: Path, rows: int) -> dict[str, int]:
    """Bytes a row of what the shard keeps, by the folders in a segment, and of the log beside."""
    out: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder).parts
            part = parts[2] if parts[0] == "segments" and len(parts) > 3 else parts[0]
            out[part] = out.get(part, 0) + path.stat().st_blocks * 512
    return {part: size // rows for part, size in sorted(out.items())}


if __name__ == "__main__":
    main()
