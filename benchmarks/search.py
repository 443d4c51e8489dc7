"""How fast and how exact search is: build time, bytes, latency, overlap with the exhaustive sum.

    python benchmarks/search.py --texts a.jsonl.xz b.jsonl.xz --cache encodings --json
    python benchmarks/search.py --texts beir-folder --cache encodings --model some/checkpoint
    python benchmarks/search.py --synthetic --chunks 20000
    python benchmarks/search.py --synthetic --chunks 1000000 --dtype int8 --index grown

Texts are JSON lines ("text", or "query" with a list "pos"), or BEIR folders; long ones are cut at
`--characters`. Encodings are kept in `--cache`, so that a second run measures the index alone.
With `--synthetic` rows come from a seeded generator and no model is needed: topics with their own
words, so that the three scores of a passage agree about as loosely as a model's do. An index given
by `--index` is kept: the next run adds what `--chunks` has more, or measures it as it is.

"Exact" is the index asked with candidates=None, which scores every row on all three parts.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tercet.config import HEADS, PAPER_WEIGHTS, Weights
from tercet.embeddings import Embeddings
from tercet.index import DEFAULT_CANDIDATES, Index, IndexSpec, create_index, open_index
from tercet.rows import read_rows
from tercet.sparse import SparseRows

K = 10
SHARD = 5000  # chunks encoded, or made, and added at once


@dataclass
class Source:
    """What is indexed and asked, and by which weights the parts are summed."""

    shards: Callable[[int], Iterator[Embeddings]]  # from a shard on
    queries: Embeddings
    dims: dict[str, int]
    fingerprint: str
    weights: Weights


def main() -> None:
    options = parse()
    source = synthetic(options) if options.synthetic else encoded(options)
    with tempfile.TemporaryDirectory(prefix="tercet-search-", dir=options.scratch) as folder:
        index, report = build(source, options, options.index or Path(folder) / "index")
        with index:
            report |= measure(index, source, options)
    report["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(report, indent=1) if options.json else table(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--texts", nargs="+", type=Path, help="JSONL(.gz, .xz) files, BEIR folders")
    parser.add_argument("--model", help="checkpoint folder or hub id (default: the bundled model)")
    parser.add_argument("--cache", type=Path, help="folder for encodings, kept for the next run")
    parser.add_argument("--synthetic", action="store_true", help="seeded rows instead of texts")
    parser.add_argument("--multi", type=int, default=64, help="synthetic multi-vector size")
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--oracle-queries", type=int, default=100, help="compared with exhaustive")
    parser.add_argument("--characters", type=int, default=600, help="length of a chunk")
    parser.add_argument("--candidates", type=int, nargs="+", default=[50, 100, 200, 300, 500, 1000])
    parser.add_argument("--backend", choices=["graph", "exact"], default="graph")
    parser.add_argument("--dtype", choices=["float16", "int8"], default="float16")
    parser.add_argument("--scratch", type=Path, help="where the index is made (default: temporary)")
    parser.add_argument("--index", type=Path, help="an index to make, or to add to, and keep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.synthetic and not options.cache:
        parser.error("give --synthetic, or --cache with --texts to fill it")
    return options


# Texts and their encodings.


def encoded(options: argparse.Namespace) -> Source:
    """Encodings from the cache, made first where it lacks them."""
    cache: Path = options.cache
    if not (cache / "cache.json").exists():
        if not options.texts:
            sys.exit(f"{cache} holds no encodings yet: give --texts")
        encode(options, cache)
    facts = json.loads((cache / "cache.json").read_text())
    if facts["chunks"] < options.chunks:
        sys.exit(f"{cache} holds {facts['chunks']} chunks, fewer than {options.chunks}")

    def shards(start: int) -> Iterator[Embeddings]:
        left = options.chunks - start * SHARD
        for folder in sorted(cache.glob("shard-*"))[start:]:
            part = Embeddings.load(folder)[:left]
            left -= len(part)
            if len(part):
                yield part

    queries = Embeddings.load(cache / "queries")[: options.queries]
    weights = Weights(*facts["weights"])
    return Source(shards, queries, facts["dims"], queries.fingerprint, weights)


def encode(options: argparse.Namespace, cache: Path) -> None:
    """Encodes chunks and queries into the cache; cache.json comes last, when all is there."""
    from tercet.encoder import Encoder

    encoder = Encoder.load(options.model)
    chunks, questions = read(options)
    if len(chunks) < options.chunks:
        sys.exit(f"the texts give {len(chunks)} chunks, fewer than {options.chunks}")
    cache.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for number, first in enumerate(range(0, options.chunks, SHARD)):
        part = chunks[first : min(first + SHARD, options.chunks)]
        folder = cache / f"shard-{number:05d}"
        if not folder.exists():
            encoder.encode(part, role="passage").save(folder)
        done, spent = first + len(part), time.perf_counter() - started
        print(f"encoded {done} of {options.chunks} chunks, {spent:.0f} s", file=sys.stderr)
    if not (cache / "queries").exists():
        encoder.encode(questions, role="query").save(cache / "queries")
    facts = {
        "chunks": options.chunks,
        "dims": encoder.dims,
        "weights": encoder.weights.as_tuple(),
        "seconds": time.perf_counter() - started,
    }
    (cache / "cache.json").write_text(json.dumps(facts) + "\n")


def read(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Different chunks and evenly drawn queries of all the texts given."""
    chunks: dict[str, None] = {}
    questions: dict[str, None] = {}
    for path in options.texts:
        for texts, question in rows(path):
            for text in texts:
                chunks.update(dict.fromkeys(cut(text, options.characters)))
            if question and len(question) <= 200:
                questions[question] = None
    if not questions:  # nothing but passages: ask for some by their beginnings
        questions = dict.fromkeys(chunk[:80] for chunk in chunks)
    rng = np.random.default_rng(options.seed)
    texts_in_order, asked = list(chunks), list(questions)
    order = rng.permutation(len(texts_in_order))
    drawn = rng.permutation(len(asked))[: options.queries]
    return [texts_in_order[place] for place in order], [asked[place] for place in drawn]


def rows(path: Path) -> Iterator[tuple[list[str], str]]:
    """Passages and the query, if any, of each row of a file or a BEIR folder."""
    if path.is_dir():
        for name in ("corpus", "queries"):
            file = next(iter(sorted(path.glob(f"{name}.jsonl*"))), None)
            if file is None:
                sys.exit(f"{path} has no {name}.jsonl: it is no BEIR folder")
            for row in read_rows(file):
                text = " ".join(filter(None, (row.get("title"), row["text"])))
                yield ([text], "") if name == "corpus" else ([], row["text"])
        return
    for row in read_rows(path):
        texts = row.get("pos") or [row.get("text", "")]
        yield [text for text in texts if text], row.get("query", "")


def cut(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters, cut at a space where there is one."""
    text = text.strip()
    while len(text) > size:
        space = text.rfind(" ", size // 2, size)
        stop = space if space > 0 else size
        yield text[:stop].strip()
        text = text[stop:].strip()
    if text:
        yield text


# Rows without texts.


class Topics:
    """Passages as bags of words of a topic: every head is made from the same words."""

    def __init__(self, seed: int, multi: int, vocabulary: int = 60_000, dense: int = 256) -> None:
        rng = np.random.default_rng(seed)
        self.dense, self.multi, self.vocabulary = dense, multi, vocabulary
        self.words = unit(rng.standard_normal((vocabulary, dense)))  # what a word means
        self.to_multi = rng.standard_normal((dense, multi)).astype(np.float32) / dense**0.5
        self.tokens = self.words @ self.to_multi
        self.count = 2000  # topics
        self.own = np.array(
            [500 + rng.permutation(vocabulary - 500)[:300] for _ in range(self.count)]
        )
        # Words grow rarer as 1 / rank (Zipf); rare ones weigh more, as a trained head has them.
        self.rarity = np.log1p(np.arange(vocabulary)).astype(np.float32) / np.log(vocabulary)

    def passages(self, count: int, seed: int) -> tuple[Embeddings, list[npt.NDArray[np.int64]]]:
        """Rows of 60 to 180 words, and the words of each."""
        rng = np.random.default_rng(seed)
        topics = rng.integers(60, 180, count), rng.integers(0, self.count, count)
        words = [self._draw(rng, int(t), int(n)) for n, t in zip(*topics, strict=True)]
        return self._embed(rng, words), words

    def queries(self, count: int, seed: int, of: list[npt.NDArray[np.int64]]) -> Embeddings:
        """Rows of 8 to 20 words: half from a passage (rarer ones first), half from its topic."""
        rng = np.random.default_rng(seed)
        picked: list[npt.NDArray[np.int64]] = []
        for place in range(count):
            words = of[place % len(of)]
            length = int(rng.integers(8, 20))
            shared = rng.choice(words, size=max(2, length // 3), replace=False)
            other = self._draw(rng, int(rng.integers(0, self.count)), length - len(shared))
            picked.append(np.concatenate((shared, other)))
        return self._embed(rng, picked)

    def _draw(self, rng: np.random.Generator, topic: int, length: int) -> npt.NDArray[np.int64]:
        """Words by Zipf's law: two in five from the 300 of the topic, the others from all."""
        ranks = np.exp(rng.random(length) * np.log(self.vocabulary)).astype(np.int64) - 1
        own = rng.random(length) < 0.4
        local = np.exp(rng.random(length) * np.log(300)).astype(np.int64)
        ranks[own] = self.own[topic, local[own]]
        return np.asarray(np.clip(ranks, 0, self.vocabulary - 1))

    def _embed(self, rng: np.random.Generator, rows: list[npt.NDArray[np.int64]]) -> Embeddings:
        counts = np.array([len(words) for words in rows])
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        flat = np.concatenate(rows)
        words = sp.csr_array((self.rarity[flat], flat, offsets), shape=(len(rows), self.vocabulary))
        gist = words @ self.words
        noise = 0.1 * np.linalg.norm(gist, axis=1, keepdims=True)
        gist = unit(gist + noise * unit(rng.standard_normal((len(rows), self.dense))))
        context = np.repeat(0.7 * gist @ self.to_multi, counts, axis=0)
        noise = 0.1 * rng.standard_normal((len(flat), self.multi), dtype=np.float32)
        multi = unit(self.tokens[flat] + context + noise)
        weights = self.rarity[flat] * rng.uniform(0.3, 0.6, len(flat)).astype(np.float32)
        weights[weights < 0.15] = 0
        shape = (len(rows), self.vocabulary)
        sparse = SparseRows(weights, flat.astype(np.int32), offsets, shape).canonical()
        return Embeddings(
            dense=gist.astype(np.float32),
            sparse=sparse,
            multi=multi.astype(np.float16),
            offsets=offsets,
            fingerprint="synthetic",
        )


def unit(matrix: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)


def synthetic(options: argparse.Namespace) -> Source:
    topics = Topics(options.seed, options.multi)

    def shards(start: int) -> Iterator[Embeddings]:
        for first in range(start * SHARD, options.chunks, SHARD):
            count = min(SHARD, options.chunks - first)
            yield topics.passages(count, seed=options.seed + 1 + first // SHARD)[0]

    first = topics.passages(min(SHARD, options.chunks), seed=options.seed + 1)[1]
    queries = topics.queries(options.queries, options.seed + 1_000_000, first)
    dims = {"dense": topics.dense, "vocabulary": topics.vocabulary, "multi": topics.multi}
    return Source(shards, queries, dims, "synthetic", PAPER_WEIGHTS)


# What is measured.


def build(source: Source, options: argparse.Namespace, path: Path) -> tuple[Index, dict[str, Any]]:
    """Fills an index; reports the chunks added, the time of each step and the bytes of a chunk."""
    spec = IndexSpec(
        fingerprint=source.fingerprint,
        backend=options.backend,
        heads=HEADS,
        dtype=options.dtype,
        **source.dims,
    )
    index = (
        open_index(path, fingerprint=spec.fingerprint)
        if path.exists()
        else create_index(path, spec)
    )
    before = len(index)
    if before % SHARD or before > options.chunks:
        sys.exit(f"{path} has {before} chunks: give at least as many, in steps of {SHARD}")
    added = dict.fromkeys(("chunks", "tokens", "terms"), 0)
    clock = {"add": 0.0, "flush": 0.0, "optimize": 0.0}
    for part in source.shards(before // SHARD):
        started = time.perf_counter()
        ids = np.arange(len(index), len(index) + len(part), dtype=np.uint64)
        index.add(ids, part, [{"tenth": int(i % 10)} for i in ids])
        clock["add"] += time.perf_counter() - started
        added["chunks"] += len(part)
        added["tokens"] += 0 if part.offsets is None else int(part.offsets[-1])
        added["terms"] += 0 if part.sparse is None else part.sparse.nnz
        print(f"added {len(index)} chunks, {clock['add']:.0f} s", file=sys.stderr)
    for step in ("flush", "optimize"):
        started = time.perf_counter()
        getattr(index, step)()
        clock[step] = time.perf_counter() - started
        print(f"{step}: {clock[step]:.1f} s", file=sys.stderr)
    count = len(index)
    return index, {
        "chunks": count,
        "backend": options.backend,
        "dtype": options.dtype,
        "dims": source.dims,
        "weights": source.weights.as_tuple(),
        "added": added,
        "build_seconds": {step: round(spent, 1) for step, spent in clock.items()},
        "bytes_per_chunk": {head: round(n / count) for head, n in index.sizes().items()},
    }


def measure(index: Index, source: Source, options: argparse.Namespace) -> dict[str, Any]:
    queries, weights = source.queries, source.weights

    def timed(**how: Any) -> dict[str, float]:
        spent = []
        for row in range(len(queries)):
            one = queries[row : row + 1]
            started = time.perf_counter()
            index.search(one, k=K, weights=weights, **how)
            spent.append((time.perf_counter() - started) * 1000)
        p50, p99 = np.percentile(spent, [50, 99])
        return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}

    index.search(queries, k=K, weights=weights)  # warms the page cache as a running server has it
    modes = {mode: timed(mode=mode) for mode in ("dense", "sparse", "multi", "hybrid")}
    modes["hybrid, 10% filter"] = timed(filter={"tenth": 3})
    asked = queries[: options.oracle_queries]
    started = time.perf_counter()
    exact = index.search(asked, k=K, weights=weights, candidates=None)
    print(f"exhaustive: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    best = [{hit.id for hit in hits} for hits in exact]
    sweep = {}
    for count in sorted({*options.candidates, DEFAULT_CANDIDATES}):
        found = index.search(asked, k=K, weights=weights, candidates=count)
        ids = [{hit.id for hit in hits} for hits in found]
        same = sum(len(ours & theirs) for ours, theirs in zip(ids, best, strict=True))
        overlap = {"overlap": round(same / (K * len(asked)), 4)}
        sweep[str(count)] = overlap | timed(candidates=count)
    return {
        "queries": len(queries),
        "oracle_queries": len(asked),
        "default_candidates": DEFAULT_CANDIDATES,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "modes": modes,
        "candidates": sweep,
    }


def table(report: dict[str, Any]) -> str:
    """The report as plain lines."""
    lines = [
        f"{report['chunks']} chunks, {report['backend']}, {report['dtype']}, "
        f"weights {report['weights']}, {report['cores']} cores, load {report['load']}",
        f"added            {pairs(report['added'])}",
        f"build seconds    {pairs(report['build_seconds'])}",
        f"bytes per chunk  {pairs(report['bytes_per_chunk'])}",
    ]
    lines += [f"{mode:<20} {pairs(figures)}" for mode, figures in report["modes"].items()]
    for count, figures in report["candidates"].items():
        lines.append(f"hybrid, {count:>4} per leg {pairs(figures)}")
    return "\n".join([*lines, f"peak resident memory {report['peak_rss_mb']} MB"])


def pairs(figures: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in figures.items())


if __name__ == "__main__":
    main()
