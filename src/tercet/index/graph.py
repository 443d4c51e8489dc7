"""Files that find candidates quickly: an HNSW graph over dense vectors, postings of sparse terms.

    graph-000001/serials.npy                (n,) u64 ascending: the rows that it was built over
    graph-000001/dense.usearch              the graph, made where usearch is installed; its keys are
                                            serials
    graph-000001/starts.npy                 (V + 1,) int64: term t has postings starts[t:t + 1]
    graph-000001/rows.npy, weights.npy      int32 places among the serials, float32
    graph-000001/peaks.npy                  (V,) float32, the highest weight of each term; older
                                            graphs lack it
    graph-000001/checksums.json             of all of these

A folder never changes after it has its name, so any number of processes may read it: a larger one
takes its place. Candidates only: every score that anybody sees is computed from the rows. Without
usearch the postings alone are made and read, and a graph that is there is left as it is.
"""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from tercet.config import Head
from tercet.embeddings import borders_fit
from tercet.errors import StoreError
from tercet.hybrid import highest
from tercet.index.contract import Progress
from tercet.index.store import Floats, IndexSpec, Positions, RowStore, Serials
from tercet.io import atomic_folder, check_file, inner_path, read_json, write_json
from tercet.scores import threads

log = logging.getLogger("tercet")

HNSW = find_spec("usearch") is not None
DENSE = "dense.usearch"
ADVISED = 100_000  # rows whose dense vectors take so long to score that a graph is recommended
CHECKSUMS = "checksums.json"
ROUNDING = 1.001  # more than sums that are rounded to float32 differ
LOOK_UP = 64  # postings that are added up in the time of looking one row up
ROWS_AT_ONCE = 1 << 17  # their sums stay in a core's cache
VERIFY_BELOW = 256 << 20  # bytes that are verified whenever a graph is opened: 0.2 s


@dataclass(frozen=True)
class GraphOptions:
    """How the graph is made and searched."""

    edges: int = 16  # of a node
    ef_construction: int = 100
    # Nodes kept in view for each row that is asked for.
    ef: int = 2
    rows: int = 10_000  # as many are scored one by one as quickly as a graph finds the best
    at_once: int = 4096  # rows added between two looks at signals


def _hnsw() -> Any:
    """usearch's graph, loaded when the first one is opened or made.

    ONNX Runtime comes first: imported behind usearch it ends the process (1.32 behind 2.26).
    """
    import onnxruntime  # noqa: F401
    from usearch.index import Index as Hnsw

    return Hnsw


class Graph:
    """The graph and the postings over the rows with some serials; safe in many threads."""

    def __init__(self, folder: Path, spec: IndexSpec, options: GraphOptions) -> None:
        """Opens a folder; raises StoreError where it is missing or damaged."""
        self.folder, self._options = folder, options
        try:
            files = {name: (folder / name).stat().st_size for name in _checksums(folder)}
            if sum(files.values()) <= VERIFY_BELOW:
                verify_graph(folder)
            self.sizes: dict[Head, int] = {"dense": 0, "sparse": 0}  # bytes on disk
            for name in files.keys() - {"serials.npy"}:
                self.sizes["dense" if name.startswith("dense") else "sparse"] += files[name]
            self.serials: Serials = _mapped(folder / "serials.npy", np.uint64)
            fits = len(self) > 0 and not bool((self.serials[1:] <= self.serials[:-1]).any())
            self._hnsw: Any = None
            self.advice = ""
            if spec.dense and not HNSW and len(self) > ADVISED:
                self.advice = (
                    f"every search scores {len(self):,} dense vectors: pip install 'tercet[hnsw]' "
                    "and index again for a graph"
                )
                log.warning("%s: %s", folder.parent, self.advice)
            if spec.dense and HNSW and (folder / DENSE).exists():
                check_file(folder / DENSE, StoreError)
                self._hnsw = _hnsw().restore(str(folder / DENSE), view=True)
                fits &= self._hnsw is not None and self._hnsw.ndim == spec.dense
                fits &= self._hnsw is not None and len(self._hnsw) == len(self)
            self.has_dense = self._hnsw is not None  # whether it finds dense candidates
            self.lacks_dense = bool(spec.dense) and HNSW and not self.has_dense
            if spec.vocabulary:
                self._starts = np.array(_mapped(folder / "starts.npy", np.int64))
                self._rows = _mapped(folder / "rows.npy", np.int32)
                self._weights = _mapped(folder / "weights.npy", np.float32)
                fits &= len(self._starts) == spec.vocabulary + 1
                fits &= len(self._rows) == len(self._weights)
                fits &= borders_fit(self._starts, len(self._rows))
                if fits and "peaks.npy" not in files:
                    self._peaks = _peaks(self._starts, self._weights)
                elif fits:
                    self._peaks = np.array(_mapped(folder / "peaks.npy", np.float32))
                    fits &= len(self._peaks) == spec.vocabulary
            if not fits:
                raise ValueError("its files do not fit together")
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(folder, error) from error

    def __len__(self) -> int:
        return len(self.serials)

    def dense(self, query: Floats, count: int) -> Positions:
        """Places among the serials of about `count` of the highest inner products, best first.

        query (D,).
        """
        assert self._hnsw is not None
        size = min(self._options.ef * count, len(self))  # so many are kept in view
        nearest: Any = self._hnsw.search(query, size, threads=1)
        keys: Serials = nearest.keys[:count]
        places = np.searchsorted(self.serials, keys)
        if (places == len(self)).any():
            raise _damaged(self.folder, f"{DENSE} names rows that are not there")
        return places

    def sparse(
        self,
        terms: npt.NDArray[np.int32],
        weights: Floats,
        count: int,
        allowed: npt.NDArray[np.bool_],
    ) -> Positions:
        """Places of the `count` highest sums over terms shared with a query, highest first.

        Exact; of equals the first. terms and weights (T,) are the query's, allowed (n,) what may
        be given. Rows come block by block, terms by the most that each can add (MaxScore, Turtle
        and Flood 1995): terms that cannot lift a row among the best of the blocks before are
        looked up for the rows that the others lift near to these.
        """
        there = self._starts[terms + 1] > self._starts[terms]
        bounds = (weights * self._peaks[terms])[there]
        order = np.argsort(-bounds, kind="stable")
        left = np.append(np.cumsum(bounds[order][::-1])[::-1], 0)  # the most from a term on
        lists = [slice(*self._starts[term : term + 2]) for term in terms[there][order]]
        weights = weights[there][order]
        edges = np.append(np.arange(0, len(self), ROWS_AT_ONCE), len(self))
        cuts = [span.start + np.searchsorted(self._rows[span], edges) for span in lists]
        for cut, span in zip(cuts, lists, strict=True):
            cut[0], cut[-1] = span.start, span.stop  # whatever the rows say
        places, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        lowest = 0.0  # a score that is not among the best
        for block, first in enumerate(edges[:-1].tolist()):
            size = int(edges[block + 1]) - first
            parts = [slice(*cut[block : block + 2]) for cut in cuts]
            needed = int((left >= lowest).sum()) if lowest else len(parts)
            sums = self._sums(parts[:needed], weights, first, size)
            near = np.flatnonzero(sums > max(lowest - left[needed], 0))
            others = sum(part.stop - part.start for part in parts[needed:])
            if LOOK_UP * len(near) > others > 0:  # as quickly added up
                sums += self._sums(parts[needed:], weights[needed:], first, size)
                needed = len(parts)
                near = np.flatnonzero(sums > lowest)
            near = near[allowed[first + near]]
            total = sums[near]
            near += first
            for part, weight in zip(parts[needed:], weights[needed:], strict=True):
                if part.start < part.stop:
                    rows = self._rows[part]
                    found = np.minimum(np.searchsorted(rows, near), len(rows) - 1)
                    more = weight * self._weights[part][found]
                    total += np.where(rows[found] == near, more, 0)
            places = np.concatenate((places, near))
            scores = np.concatenate((scores, total.astype(np.float32)))
            if len(places) > count:
                best = highest(scores, count)
                best = np.sort(best[np.argsort(-scores[best], kind="stable")[:count]])
                places, scores = places[best], scores[best]
                lowest = float(scores.min()) / ROUNDING
        return places[np.argsort(-scores, kind="stable")][:count]

    def _sums(
        self, parts: Sequence[slice], weights: Floats, first: int, size: int
    ) -> npt.NDArray[np.float64]:
        """(size,) of a block of rows the weighted sums over parts of the postings."""
        rows = np.concatenate([np.empty(0, np.int64), *(self._rows[part] for part in parts)])
        rows -= first
        if rows.view(np.uint64).max(initial=0) >= size:  # a negative one is very large
            raise _damaged(self.folder, "rows.npy names rows that are not there")
        products = [self._weights[p] * weight for p, weight in zip(parts, weights, strict=False)]
        sums = np.bincount(rows, np.concatenate([weights[:0], *products]), size)
        return sums.astype(np.float64, copy=False)


def _peaks(starts: npt.NDArray[np.int64], weights: Floats) -> Floats:
    """(V,) the highest weight of each term; 0 of one without postings."""
    out = np.zeros(len(starts) - 1, dtype=np.float32)
    used = starts[1:] > starts[:-1]
    if used.any():
        out[used] = np.maximum.reduceat(weights, starts[:-1][used])
    return out


def build_graph(
    folder: Path,
    store: RowStore,
    options: GraphOptions,
    before: Graph | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a graph over all living rows to a folder that does not exist yet.

    Nodes that `before` has are taken over from it, those of dead rows too. Waits for nobody and
    keeps nobody waiting: the graph is made outside the interpreter's lock.
    """
    positions = np.flatnonzero(store.live)
    serials = living = store.serials[positions]
    if before is not None and before.has_dense:  # its nodes stay, so that their keys do, too
        serials = np.union1d(before.serials, living)
    with atomic_folder(folder) as scratch:
        np.save(scratch / "serials.npy", serials)
        if store.spec.vocabulary:
            _write_postings(scratch, store, positions, np.searchsorted(serials, living))
        if store.spec.dense and HNSW:
            _write_hnsw(scratch / DENSE, store, positions, options, before, progress)
        files = sorted(path for path in scratch.iterdir() if path.is_file())
        write_json(scratch / CHECKSUMS, {path.name: _checksum(path) for path in files})


def _write_hnsw(
    path: Path,
    store: RowStore,
    positions: Positions,
    options: GraphOptions,
    before: Graph | None,
    progress: Progress | None,
) -> None:
    graph = _hnsw()(
        ndim=store.spec.dense or 0,
        metric="ip",
        dtype="bf16",  # as near as float16 here, and quicker where a CPU multiplies it
        connectivity=options.edges,
        expansion_add=options.ef_construction,
        enable_key_lookups=False,
    )
    if before is not None and before.has_dense:
        graph.load(str(before.folder / DENSE))
        positions = positions[store.serials[positions] > before.serials[-1]]
    for first in range(0, len(positions), options.at_once):
        some = positions[first : first + options.at_once]
        graph.add(store.serials[some], store.dense(some), threads=threads())
        if progress is not None:
            progress(first + len(some), len(positions))
    graph.save(str(path))


def _write_postings(folder: Path, store: RowStore, positions: Positions, places: Positions) -> None:
    """Counts the postings of every term, then writes them block by block, rows ascending.

    places (n,) are those of the positions among the serials.
    """
    blocks = np.array_split(positions, max(1, len(positions) // 16_384))
    counts = np.zeros(store.spec.vocabulary or 0, dtype=np.int64)
    peaks = np.zeros(len(counts), dtype=np.float32)
    for block in blocks:
        terms = store.sparse(block)
        counts += np.bincount(terms.indices, minlength=len(counts))
        np.maximum.at(peaks, terms.indices, terms.data)
    np.save(folder / "peaks.npy", peaks)
    starts = np.concatenate(([0], np.cumsum(counts)))
    np.save(folder / "starts.npy", starts)
    size = (int(starts[-1]),)
    rows = open_memmap(folder / "rows.npy", "w+", np.int32, size)
    weights = open_memmap(folder / "weights.npy", "w+", np.float32, size)
    filled, first = starts[:-1].copy(), 0
    for block in blocks:
        postings = store.sparse(block).transposed()
        lengths = np.diff(postings.indptr)
        targets = np.repeat(filled - postings.indptr[:-1], lengths) + np.arange(postings.nnz)
        rows[targets] = places[postings.indices + first]
        weights[targets] = postings.data
        filled += lengths
        first += len(block)
    rows.flush()
    weights.flush()


def verify_graph(folder: Path) -> None:
    """Reads every byte of a graph; raises StoreError naming a file that is not as written."""
    for name, expected in _checksums(folder).items():
        try:
            same = _checksum(folder / name) == expected
        except OSError as error:
            raise _damaged(folder, error) from error
        if not same:
            raise _damaged(folder, f"{name} is not as it was written")


def _checksums(folder: Path) -> dict[str, int]:
    try:
        listed = dict(read_json(folder / CHECKSUMS))
        for name in listed:
            check_file(inner_path(folder, name), StoreError)
        return listed
    except (OSError, ValueError, TypeError, StoreError) as error:
        raise _damaged(folder, error) from error


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _mapped(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    check_file(path, StoreError)
    array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{path.name} is {array.dtype} of {array.ndim} dimensions")
    return array


def _damaged(folder: Path, what: object) -> StoreError:
    return StoreError(f"{folder} is damaged ({what}): it is made anew from the rows beside it")
