"""Tercet's index on Qdrant's own engine, beside the index in a folder: bytes, seconds, recall.

    pip install '.[qdrant]' qdrant-edge-py
    python benchmarks/qdrant_engine.py
    python benchmarks/qdrant_engine.py --cache encodings --chunks 10000 --only float16 binary

`qdrant-edge-py` is the engine of a server in one process: one shard, no HTTP, no cluster. The
collection is as `tercet index --index qdrant://...` makes it, or stores vectors otherwise. Rows are
synthetic, or from the `--cache` of `search.py`. A graph is asked however small it is, where a
server would score all rows of less than 10,000 KB one by one.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from qdrant_client.http import models
from search import K, Source, encoded, synthetic

from tercet.index import IndexSpec, VectorIndex, create_index
from tercet.index import qdrant as module
from tercet.index.qdrant import Address, QdrantIndex

sys.path.insert(0, str(common.ROOT / "tools"))
import engine_client

BINARY = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
INT8 = models.ScalarQuantization(
    scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
)
CODES = {"quantization_config": BINARY, "on_disk": True}
# Of each way to store vectors: changes of IndexSpec, and of the parameters of heads.
STORED: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "float16": ({}, {}),
    "float16, no graph": ({"backend": "exact"}, {}),
    "int8": ({"dtype": "int8"}, {}),
    "binary": ({}, {"dense": CODES}),
    "binary dense and multi": ({}, {"dense": CODES, "multi": CODES}),
    "int8 dense and multi": ({"dtype": "int8"}, {"multi": {"quantization_config": INT8}}),
    "float32": ({}, {"dense": {"datatype": None}, "multi": {"datatype": None}}),
}


def search_params(**codes: Any) -> models.SearchParams:
    """How codes of quantised vectors are used."""
    return models.SearchParams(quantization=models.QuantizationSearchParams(**codes))


ASKED = {
    "as Tercet asks": None,
    "by the codes alone": search_params(rescore=False),
    "4 times as many by the codes": search_params(rescore=True, oversampling=4.0),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="encodings that search.py made")
    parser.add_argument("--multi", type=int, default=128, help="synthetic multi-vector size")
    parser.add_argument("--only", nargs="+", choices=list(STORED), default=list(STORED))
    parser.set_defaults(seed=0, texts=None)
    options = parser.parse_args()
    source = encoded(options) if options.cache else synthetic(options)
    spec = IndexSpec(fingerprint=source.fingerprint, **source.dims)  # type: ignore[arg-type]
    engine_client.GRAPH["full_scan_threshold"] = 10
    with (
        tempfile.TemporaryDirectory(prefix="tercet-qdrant-") as folder,
        create_index(Path(folder) / "index", spec) as index,
    ):
        seconds = fill(index, source)
        best = {mode: ask(index, source, mode, None)[0] for mode in ("dense", "hybrid")}
        bytes = {head: size // len(index) for head, size in index.sizes().items()}
        report = {"folder": {"seconds": seconds, "bytes": bytes} | both(index, source, best)}
    show("folder", report["folder"])
    for name in options.only:
        report[name] = stored(name, spec, source, best)
        show(name, report[name])
    common.save(options.json, {"chunks": options.chunks, **report})


def stored(name: str, spec: IndexSpec, source: Source, best: dict[str, Any]) -> dict[str, Any]:
    """The figures of one way to store vectors."""
    changes, heads = STORED[name]

    class Client(engine_client.EngineClient):
        def create_collection(self, name: str, vectors_config: Any, *of: Any, **other: Any) -> bool:
            changed = {
                head: params.model_copy(update=heads.get(head, {}))
                for head, params in vectors_config.items()
            }
            return super().create_collection(name, changed, *of, **other)

    client = Client()
    module.connect = lambda address: client
    address = Address.parse("qdrant://localhost/passages")
    with QdrantIndex.create(address, replace(spec, **changes)) as index:
        index.publish({})
        seconds, started = fill(index, source), time.perf_counter()
        client.shard("passages").optimize()
        client.shard("passages").flush()
        report: dict[str, Any] = {"seconds": seconds, "optimize": time.perf_counter() - started}
        report["bytes"] = sizes(client.folder / "passages-000001", len(index))
        quantised = "dtype" in changes or heads.get("dense") is CODES
        for label, params in list(ASKED.items())[: None if quantised else 1]:
            found, spent = [], []
            for query in source.queries.to_qdrant():
                started, vector = time.perf_counter(), query["dense"]
                answer = client.query_points(
                    "passages", query=vector, using="dense", limit=K, params=params
                )
                spent.append(time.perf_counter() - started)
                found.append({point.id: point.score for point in answer.points})
            report[f"graph, {label}"] = compared(found, best["dense"], spent)
        return report | both(index, source, best)


def fill(index: VectorIndex, source: Source) -> float:
    """Seconds to add all rows, without making them; in a folder those of the graph too."""
    spent, first = 0.0, 0
    for part in source.shards(0):
        ids, first = range(first, first + len(part)), first + len(part)
        started = time.perf_counter()
        index.add(ids, part, [{"tenth": id % 10} for id in ids])
        spent += time.perf_counter() - started
    started = time.perf_counter()
    index.optimize()
    index.flush()
    return spent + time.perf_counter() - started


def ask(index: VectorIndex, source: Source, mode: Any, candidates: int | None = 200) -> Any:
    """The scores by id of the hits of each query, asked alone, and the seconds."""
    found, spent = [], []
    for row in range(len(source.queries)):
        one, started = source.queries[row : row + 1], time.perf_counter()
        options: Any = {"k": K, "mode": mode, "weights": source.weights, "candidates": candidates}
        found.append({hit.id: hit.score for hit in index.search(one, **options)[0]})
        spent.append(time.perf_counter() - started)
    return found, spent


def both(index: VectorIndex, source: Source, best: dict[str, Any]) -> dict[str, Any]:
    """How dense and hybrid search find what exhaustive search finds."""
    report = {}
    for mode, hits in best.items():
        found, spent = ask(index, source, mode)
        report[mode] = compared(found, hits, spent)
    return report


def compared(found: Any, best: Any, spent: Sequence[float]) -> dict[str, float]:
    """The share of the best ids that was found, how far a score is off, median milliseconds."""
    pairs = list(zip(found, best, strict=True))
    off = [abs(one[id] - other[id]) for one, other in pairs for id in one.keys() & other.keys()]
    same = sum(len(one.keys() & other.keys()) for one, other in pairs)
    share = same / sum(map(len, best))
    return {"recall": share, "off": max(off, default=0.0), "p50_ms": 1e3 * float(np.median(spent))}


def sizes(folder: Path, rows: int) -> dict[str, int]:
    """Bytes a row that a shard takes on the disk, by folders of its segments, and of its log."""
    out: dict[str, int] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            parts = path.relative_to(folder).parts
            part = parts[2] if parts[0] == "segments" and len(parts) > 3 else parts[0]
            out[part] = out.get(part, 0) + path.stat().st_blocks * 512
    return {part: size // rows for part, size in sorted(out.items())}


def show(name: str, figures: dict[str, Any]) -> None:
    print(name)
    for label, value in figures.items():
        shown = value if isinstance(value, dict) else {"": value}
        print(f"  {label:<42}", *(f"{key} {number:.4g} " for key, number in shown.items()))


if __name__ == "__main__":
    main()
