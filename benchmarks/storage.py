"""What each way to store vectors costs in bytes, and in nDCG@10 of every part of the sum.

    python benchmarks/storage.py data/arcd-ar data/pira-pt --cache encodings --json out.json

Passages of BEIR folders are encoded once, to 512 tokens, and kept in `--cache`. Each way is an
index of its own that scores every row, so that nothing but the stored numbers changes: float16,
int8 codes with a scale a row, token vectors merged to one of two or four (`multi_pool`), the
largest sparse weights alone (`sparse_top`), parts left out. "binary" is no storage of the index:
vectors are rounded to their signs and kept as float16, and the bytes are those that bits would
take. Bytes are of a passage, on disk, without the document store.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import numpy as np

from tercet.config import HEADS, Head, Mode
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder, pool_tokens
from tercet.evaluate.loaders import load_beir
from tercet.evaluate.measures import measure
from tercet.evaluate.tasks import Task
from tercet.evaluate.trec import Run
from tercet.index import IndexSpec, create_index

TOKENS = 512
MEASURE = "nDCG@10"


@dataclass(frozen=True)
class Way:
    """What is stored: vectors after a change, in a dtype, of some parts."""

    dtype: Any = "float16"
    pool: int = 1  # token vectors merged to one
    top: int | None = None  # sparse weights kept
    heads: tuple[Head, ...] = HEADS
    binary: bool = False


WAYS = {
    "float16": Way(),
    "int8": Way("int8"),
    "binary dense and multi": Way(binary=True),
    "float16, tokens by 2": Way(pool=2),
    "float16, tokens by 4": Way(pool=4),
    "int8, tokens by 2": Way("int8", pool=2),
    "int8, tokens by 4": Way("int8", pool=4),
    "int8, tokens by 2, 64 terms": Way("int8", pool=2, top=64),
    "int8, dense and sparse": Way("int8", heads=("dense", "sparse")),
    "int8, dense alone": Way("int8", heads=("dense",)),
}


def changed(rows: Embeddings, way: Way) -> Embeddings:
    """The passages as they are stored."""
    dense, sparse, multi, offsets = rows.dense, rows.sparse, rows.multi, rows.offsets
    assert dense is not None
    assert sparse is not None
    assert multi is not None
    assert offsets is not None
    if way.pool > 1:
        texts = [pool_tokens(rows.tokens(n).astype(np.float32), way.pool) for n in range(len(rows))]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
        multi = np.concatenate(texts).astype(np.float16)
    if way.binary:
        dense = (np.sign(dense) / dense.shape[1] ** 0.5).astype(np.float32)
        multi = (np.sign(multi) / multi.shape[1] ** 0.5).astype(np.float16)
    if way.top is not None:
        kept = []
        for start, end in zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True):
            best = np.sort(np.argsort(-sparse.data[start:end], kind="stable")[: way.top])
            kept.append(best + start)
        sparse = sparse.kept(np.concatenate(kept))
    stored = replace(rows, dense=dense, sparse=sparse, multi=multi, offsets=offsets)
    left_out: dict[str, Any] = {head: None for head in HEADS if head not in way.heads}
    if "multi" in left_out:
        left_out["offsets"] = None
    return replace(stored, **left_out)


def quality(task: Task, ids: list[str], way: Way, passages: Embeddings, queries: Embeddings,
            encoder: Encoder) -> tuple[dict[str, float], float]:  # fmt: skip
    """nDCG@10 by mode, and bytes of a passage."""
    stored = changed(passages, way)
    names = {"dense": "dense", "sparse": "vocabulary", "multi": "multi"}
    dims: dict[str, Any] = {names[head]: encoder.dims[names[head]] for head in way.heads}
    spec = IndexSpec(
        fingerprint=stored.fingerprint, backend="exact", heads=way.heads, dtype=way.dtype, **dims
    )
    with tempfile.TemporaryDirectory() as folder, create_index(Path(folder) / "i", spec) as index:
        rows = np.arange(len(ids), dtype=np.uint64)
        index.add(rows, stored, [{}] * len(ids))
        index.flush()
        size = sum(index.sizes().values())
        if way.binary:
            bits = {h: getattr(stored, h).size for h in ("dense", "multi")}
            size -= sum(2 * count - count // 8 for count in bits.values())
        values: dict[str, float] = {}
        modes: tuple[Mode, ...] = (*way.heads, "hybrid")
        for mode in modes:
            found = index.search(queries, k=10, mode=mode, weights=encoder.weights, candidates=None)
            run = Run.from_scores(
                {
                    query: {ids[hit.id]: hit.score for hit in hits}
                    for query, hits in zip(task.queries, found, strict=True)
                }
            )
            (of,) = measure(task, {"run": run}, [MEASURE])["run"].values()
            values["all" if mode == "hybrid" else mode] = of.mean
    return values, size / len(ids)


def encoded(make: Callable[[], Embeddings], folder: Path | None) -> Embeddings:
    """From the cache, made first where it is not there."""
    if folder is None:
        return make()
    if not folder.exists():
        make().save(folder)
    return Embeddings.load(folder)


def main() -> None:
    """Prints a table of the means over the sets."""
    options = common.parser(__doc__)
    options.add_argument("sets", type=Path, nargs="+", help="BEIR folders")
    options.add_argument("--model", help="checkpoint, export or hub id (default: the bundled one)")
    options.add_argument("--cache", type=Path, help="folder for encodings")
    args = options.parse_args()
    encoder = Encoder.load(args.model)
    rows: dict[str, list[tuple[dict[str, float], float]]] = {name: [] for name in WAYS}
    passages_in_all = 0
    for path in args.sets:
        (task,) = load_beir(path)
        ids, texts = map(list, zip(*task.corpus.read(), strict=True))
        cache = None if args.cache is None else args.cache / f"{path.name}-{encoder.fingerprint}"

        def vectors(
            part: str, given: list[str], role: Any, cache: Path | None = cache
        ) -> Embeddings:
            def make() -> Embeddings:
                return encoder.encode(given, max_length=TOKENS, role=role)

            return encoded(make, None if cache is None else cache / part)

        passages = vectors("passages", texts, "passage")
        queries = vectors("queries", list(task.queries.values()), "query")
        passages_in_all += len(ids)
        for name, way in WAYS.items():
            rows[name].append(quality(task, ids, way, passages, queries, encoder))
            print(path.name, name, rows[name][-1], flush=True)
    report: dict[str, Any] = {"sets": [path.name for path in args.sets], "ways": {}}
    modes = [*HEADS, "all"]
    print(f"\n{passages_in_all} passages; means of {len(args.sets)} sets, {MEASURE}")
    print("| stored | bytes a passage | " + " | ".join(modes) + " |")
    print("|---|---:|" + "---:|" * len(modes))
    for name, of in rows.items():
        means = {m: float(np.mean([v[m] for v, _ in of])) for m in modes if m in of[0][0]}
        size = float(np.mean([size for _, size in of]))
        report["ways"][name] = {"bytes": round(size), **means}
        shown = " | ".join(f"{100 * means[m]:.1f}" if m in means else "" for m in modes)
        print(f"| {name} | {size:,.0f} | {shown} |")
    common.save(args.json, report)


if __name__ == "__main__":
    main()
