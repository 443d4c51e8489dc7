"""The rows of an index in plain append-only files: crash-safe, one writer, any number of readers.

    index.json, manifest.json, lock          what was fixed; what counts; who writes
    rows-000001/serials.bin, ids.bin         (N,) u64
    rows-000001/dense.bin [dense_scales.bin] (N, D) float16, or int8 with (N,) float16 scales
    rows-000001/terms.bin, term_weights.bin  int32 and float32, row n ending at term_ends.bin[n]
    rows-000001/multi.bin [multi_scales.bin] (sum T, M), row n ending at multi_ends.bin[n]
    rows-000001/payloads.jsonl               row n ending at byte payload_ends.bin[n]
    rows-000001/dead.bin                     serials that do not count any more

The manifest, replaced atomically, says how many bytes of each file count, and their CRC-32: readers
map these bytes and no more, what a dying process wrote after them is cut off by the next writer. A
row is never changed: replacing an id appends a new row under a new serial number and marks the old
one dead; `compact` copies the living rows to a new generation of files. Serials grow and are never
used twice, so that a graph may refer to rows by them. Knows nothing of scores, queries or graphs.
"""

import json
import math
import os
import re
import shutil
import sys
import threading
import weakref
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, Head, check_count, check_heads
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.io import GrowingArray, fsync, read_json, write_json
from tercet.records import Scalar, Value
from tercet.scores import float32
from tercet.sparse import SparseRows, packed_positions

FORMAT = 1
MANIFEST = "manifest.json"
GRAPH = r"graph-\d{6}"  # names of folders
COMPACT_ABOVE = 0.1  # share of dead rows from which `compact` copies the others
COPIED = 1024  # rows that `compact` copies at once
PAYLOADS_AT_ONCE = 4096
REBUILD = "rebuild the index"

Backend = Literal["graph", "exact"]
Dtype = Literal["float16", "int8"]

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]  # of rows in the files of this generation
Serials = npt.NDArray[np.uint64]
Arrays = dict[str, npt.NDArray[Any]]
# Of a payload key: a code for each row, the codes of values as JSON, and the members of lists.
_Codes = tuple["array[int]", dict[str, int], dict[int, frozenset[str]]]


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """What is fixed when an index is created, and kept in its index.json."""

    fingerprint: str  # of the model whose vectors these are
    backend: Backend = "graph"
    heads: tuple[Head, ...] = HEADS  # what is stored; multi-vectors only rescore: they need dense
    dtype: Dtype = "float16"  # of dense and multi; sparse weights are float32
    dense: int | None = None  # D; None where the head is not stored
    vocabulary: int | None = None  # V, of sparse
    multi: int | None = None  # M

    def __post_init__(self) -> None:
        for name, choices in (("backend", Backend), ("dtype", Dtype)):
            if getattr(self, name) not in get_args(choices):
                names = ", ".join(get_args(choices))
                raise InputError(f"unknown {name} {getattr(self, name)!r}: choose from {names}")
        object.__setattr__(self, "heads", check_heads(self.heads))
        if "multi" in self.heads and "dense" not in self.heads:
            raise InputError("multi-vectors rescore dense's candidates: store dense beside them")
        for head, name in zip(HEADS, ("dense", "vocabulary", "multi"), strict=True):
            if head not in self.heads:
                object.__setattr__(self, name, None)
            else:
                check_count(name, getattr(self, name))

    @staticmethod
    def load(folder: Path) -> "IndexSpec":
        """Reads index.json; raises StoreError where it is missing or damaged."""
        facts = _read_json(folder / "index.json")
        if facts.get("backend") == "edge":  # of Tercet 0.1
            facts["backend"] = "graph"
        try:
            return IndexSpec(**facts)
        except (TypeError, InputError) as error:
            raise StoreError(f"{folder / 'index.json'} is damaged ({error}): {REBUILD}") from error


@dataclass(frozen=True)
class _Column:
    """One file: (N, *row), or, with `ends`, a run of items per row."""

    dtype: str
    row: tuple[int, ...] = ()
    ends: str = ""  # the column that says where each row's items end
    log: bool = False  # no row order at all
    head: Head | None = None  # whose bytes these are

    @property
    def bytes(self) -> int:
        """Of one item."""
        return np.dtype(self.dtype).itemsize * math.prod(self.row)

    def open(self, path: Path) -> GrowingArray:
        return GrowingArray(path, self.dtype, self.row, header=False, buffer=0)


def _columns(spec: IndexSpec) -> dict[str, _Column]:
    """The files of an index, by name."""
    columns = {
        "serials.bin": _Column("<u8"),
        "ids.bin": _Column("<u8"),
        "payload_ends.bin": _Column("<i8"),
        "payloads.jsonl": _Column("u1", ends="payload_ends.bin"),
        "dead.bin": _Column("<u8", log=True),
    }
    vectors = "i1" if spec.dtype == "int8" else "<f2"
    if spec.dense:
        columns["dense.bin"] = _Column(vectors, (spec.dense,), head="dense")
    if spec.vocabulary:
        columns["term_ends.bin"] = _Column("<i8", head="sparse")
        columns["terms.bin"] = _Column("<i4", ends="term_ends.bin", head="sparse")
        columns["term_weights.bin"] = _Column("<f4", ends="term_ends.bin", head="sparse")
    if spec.multi:
        columns["multi_ends.bin"] = _Column("<i8", head="multi")
        columns["multi.bin"] = _Column(vectors, (spec.multi,), "multi_ends.bin", head="multi")
    if spec.dtype == "int8":
        for name in ("dense", "multi"):
            if of := columns.get(f"{name}.bin"):
                columns[f"{name}_scales.bin"] = _Column("<f2", ends=of.ends, head=of.head)
    return columns


@dataclass(frozen=True)
class Manifest:
    """What counts of an index: the folder of its rows, how much of each file, and the graph."""

    generation: int
    next_serial: int
    bytes: dict[str, int]
    crc: dict[str, int]  # CRC-32 of these bytes; empty in an index of Tercet 0.1
    graphs: int  # how many were made; the last one's folder has this number
    graph: str  # its folder; empty where there is none

    @staticmethod
    def read(path: Path, columns: Iterable[str]) -> "Manifest":
        """Reads manifest.json; raises StoreError where it is missing or damaged."""
        facts = _read_json(path / MANIFEST)
        try:
            graph = str(facts.get("graph", ""))
            if graph and not re.fullmatch(GRAPH, graph):
                raise ValueError(f"graph is {graph!r}")
            return Manifest(
                int(facts["generation"]),
                int(facts["next_serial"]),
                {name: int(facts["bytes"][name]) for name in columns},
                {name: int(value) for name, value in facts.get("crc", {}).items()},
                int(facts.get("graphs", 0)),
                graph,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path / MANIFEST} is damaged ({error!r}): {REBUILD}") from error

    def write(self, path: Path) -> None:
        """Replaces manifest.json: from now on this counts."""
        write_json(path / MANIFEST, {"format": FORMAT, **asdict(self)})


class Rows:
    """The rows that counted when this was opened: read-only, and safe in many threads."""

    def __init__(self, path: Path, spec: IndexSpec, before: "Rows | None" = None) -> None:
        """Opens what counts now; before is an older state, of which what still holds is reused.

        Raises StoreError where a file is missing or damaged, or a writer has just replaced it.
        """
        self.path, self.spec, self._columns = path, spec, _columns(spec)
        self.manifest = Manifest.read(path, self._columns)
        self._arrays = {name: self._map(name) for name in self._columns}
        self._begin(before)

    def _map(self, name: str) -> npt.NDArray[Any]:
        column, size = self._columns[name], self.manifest.bytes[name]
        path = _generation(self.path, self.manifest.generation) / name
        self._check_size(path, size, column)
        shape = (size // column.bytes, *column.row)
        if not size:
            return np.empty(shape, column.dtype)
        try:
            mapped = np.memmap(path, column.dtype, "r", shape=shape)
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error}): {REBUILD}") from error
        return mapped.view(np.ndarray)  # np.memmap itself is slow to slice

    @staticmethod
    def _check_size(path: Path, size: int, column: _Column) -> int:
        """The bytes of a file; raises StoreError where they are fewer than count."""
        try:
            there = path.stat().st_size if path.is_file() else -1
        except FileNotFoundError:  # a writer has just removed it
            there = -1
        if not 0 <= size <= there or size % column.bytes:
            what = f"cut short ({there} of {size} bytes)" if there >= 0 else "missing"
            raise StoreError(f"{path} is {what}: {REBUILD}")
        return there

    def _begin(self, before: "Rows | None" = None) -> None:
        """Checks how the files fit together, and finds which rows are alive."""
        if before is not None and before.manifest.generation != self.manifest.generation:
            before = None
        first = 0 if before is None else len(before.live)
        self._check(first)
        # Codes of payload values by position: they never change while rows only come.
        self._codes: dict[str, _Codes] = before._codes if before else {}
        self._coding: Any = before._coding if before else threading.Lock()
        self.live: npt.NDArray[np.bool_] = np.ones(len(self.serials), dtype=np.bool_)
        if before is not None:
            self.live[:first] = before.live
        dead = self._view("dead.bin")
        self.live[self.positions(dead[before.dead if before else 0 :])] = False
        self.dead: int = len(dead)  # entries of dead.bin

    def _check(self, first: int) -> None:
        """Whether the files fit together from a row on; cheap, keeps reads within their borders."""
        for name, column in self._columns.items():
            values, expected = self._view(name), len(self._view("serials.bin"))
            if column.ends:
                borders = self._view(column.ends)
                expected = int(borders[-1]) if len(borders) else 0
            wrong = not column.log and len(values) != expected
            if name.endswith("_ends.bin") or name == "serials.bin":
                low, high = values[max(first - 1, 0) : -1], values[max(first, 1) :]
                falls = low >= high if name == "serials.bin" else low > high
                wrong = wrong or bool(falls.any()) or bool((values[:1] < 0).any())
            if wrong:
                raise self._damaged(name)

    def _damaged(self, name: str) -> StoreError:
        path = _generation(self.path, self.manifest.generation) / name
        return StoreError(f"{path} is damaged: {REBUILD}")

    def verify(self) -> None:
        """Reads every byte that counts; raises StoreError naming a file that has changed."""
        for name, crc in self.manifest.crc.items():
            if name in self._columns and checksum(self._view(name)) != crc:
                raise self._damaged(name)

    # Reading: positions are rows of the files, dead ones included.

    def _view(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    @property
    def serials(self) -> Serials:
        """(N,), ascending."""
        return self._view("serials.bin")

    @property
    def ids(self) -> Ids:
        """(N,), a dead row's id possibly among them again."""
        return self._view("ids.bin")

    def positions(self, serials: Serials) -> Positions:
        """Where the living rows with these serials stand; unknown and dead ones are left out."""
        places = np.searchsorted(self.serials, serials)
        inside = places < len(self.serials)
        places, serials = places[inside], serials[inside]
        known = (self.serials[places] == serials) & self.live[places]
        return np.asarray(places[known], dtype=np.int64)

    def dense(self, positions: Positions) -> Floats:
        """(n, D)"""
        codes = self._view("dense.bin")[positions]
        if self.spec.dtype == "float16":
            return float32(codes)
        return dequantize(codes, self._view("dense_scales.bin")[positions])

    def sparse(self, positions: Positions) -> SparseRows:
        """(n, V)"""
        starts, counts = self._spans("term_ends.bin", positions)
        picked = packed_positions(starts, counts)
        terms = self._view("terms.bin")[picked]
        size = self.spec.vocabulary or 0
        if len(terms) and not 0 <= int(terms.min()) <= int(terms.max()) < size:
            raise self._damaged("terms.bin")
        borders = np.concatenate(([0], np.cumsum(counts)))
        weights = self._view("term_weights.bin")[picked]
        return SparseRows(weights, terms, borders, (len(positions), size))

    def token_counts(self, positions: Positions) -> Positions:
        """(n,)"""
        return self._spans("multi_ends.bin", positions)[1]

    def tokens(self, positions: Positions) -> tuple[npt.NDArray[Any], Positions]:
        """(sum T, M) float16 or float32 of some rows, and their (n + 1) offsets."""
        starts, counts = self._spans("multi_ends.bin", positions)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        spans = [slice(first, first + size) for first, size in zip(starts, counts, strict=True)]
        vectors = self._view("multi.bin")
        # One copy of a long run per row: far cheaper than picking its vectors one by one.
        gathered = np.concatenate([vectors[span] for span in spans])
        if self.spec.dtype == "float16":
            return gathered, offsets
        scales = self._view("multi_scales.bin")
        return dequantize(gathered, np.concatenate([scales[span] for span in spans])), offsets

    def _spans(self, name: str, positions: Positions) -> tuple[Positions, Positions]:
        """Where the items of some rows begin, and how many they have."""
        ends = self._view(name)
        starts = np.where(positions > 0, ends[positions - 1], 0)
        return starts, ends[positions] - starts

    def _payloads(self, first: int, last: int) -> Iterator[dict[str, Value]]:
        """What `matching` looks at, of the rows from one to another."""
        ends, text = self._view("payload_ends.bin"), self._view("payloads.jsonl")
        for start in range(first, last, PAYLOADS_AT_ONCE):
            stop = min(start + PAYLOADS_AT_ONCE, last)
            lines = text[ends[start - 1] if start else 0 : ends[stop - 1]].tobytes()
            try:
                payloads = json.loads(b"[" + lines.rstrip().replace(b"\n", b",") + b"]")
                if len(payloads) != stop - start:
                    raise ValueError("a row has no line of its own")
            except (ValueError, RecursionError) as error:
                raise self._damaged("payloads.jsonl") from error
            yield from payloads

    def matching(self, choices: dict[str, list[Scalar]]) -> npt.NDArray[np.bool_]:
        """(N,): the living rows whose payload has one of the choices under every key."""
        mask = self.live.copy()
        for key, values in choices.items():
            with self._coding:
                codes, names, lists = self._codes.setdefault(key, (array("i"), {}, {}))
                for payload in self._payloads(len(codes), len(mask)):
                    name = json.dumps(payload[key]) if key in payload else None
                    codes.append(-1 if name is None else names.setdefault(name, len(names)))
                    if isinstance(members := payload.get(key), list):
                        lists[codes[-1]] = frozenset(map(json.dumps, members))
                of_rows = np.array(codes)[: len(mask)]
                # Compared as JSON, since Python holds True and 1 for equal and a filter must not.
                wanted = set(map(json.dumps, values))
                chosen = [names[name] for name in wanted if name in names]
                chosen += [code for code, parts in lists.items() if parts & wanted]
                passes = np.zeros(len(names) + 1, dtype=np.bool_)  # the last: rows without the key
                passes[chosen] = True
            mask &= passes[of_rows]
        return mask

    def sizes(self) -> dict[str, int]:
        """Bytes by head, and "other"."""
        sizes: dict[str, int] = dict.fromkeys((*self.spec.heads, "other"), 0)
        for name, column in self._columns.items():
            sizes[column.head or "other"] += self._view(name).nbytes
        return sizes


class RowStore(Rows):
    """The rows of one index and its writer, the only one until `close`; not for many threads."""

    def __init__(self, path: Path, spec: IndexSpec) -> None:
        """Opens a store that `create` made; raises StoreError where it is damaged or in use."""
        self.path, self.spec, self._columns = path, spec, _columns(spec)
        self._files: dict[str, GrowingArray] = {}
        self._lock = Lock(path)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._open()
            undo.pop_all()

    @staticmethod
    def create(path: Path, spec: IndexSpec) -> None:
        """Writes an empty store into an empty folder."""
        write_json(path / "index.json", {"format": FORMAT, **asdict(spec)})
        names = _columns(spec)
        folder = _generation(path, 1)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        Manifest(1, 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0), 0, "").write(path)

    def _open(self) -> None:
        self.manifest = Manifest.read(self.path, self._columns)
        self.graphs, self.graph = self.manifest.graphs, self.manifest.graph
        self.next_serial = self.manifest.next_serial
        folder = _generation(self.path, self.manifest.generation)
        for name, column in self._columns.items():
            size = self.manifest.bytes[name]
            there = self._check_size(folder / name, size, column)
            self._files[name] = column.open(folder / name)
            if there > size:  # left by a process that died before it committed
                self._files[name].cut(size // column.bytes)
        self._crc = {
            name: self.manifest.crc[name] if self.manifest.crc else checksum(self._view(name))
            for name in self._columns
        }
        self._begin()
        self.sweep()

    def sweep(self) -> None:
        """Removes older generations and graphs, whole or half made, that this store left."""
        current = {_generation(self.path, self.manifest.generation).name, self.graph}
        for other in self.path.iterdir():
            made = re.fullmatch(rf"rows-\d{{6}}|\.?({GRAPH})(\..*)?", other.name)
            if made and other.name not in current and other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)  # a reader may hold it, on Windows

    def _view(self, name: str) -> npt.NDArray[Any]:
        return self._files[name].view()

    # Writing.

    def append(self, ids: Ids, embeddings: Embeddings, payloads: list[dict[str, Value]]) -> None:
        """Adds checked rows, all or none: raises StoreError where the disk is full."""
        first, count = len(self.live), len(ids)
        old = self._positions_of(ids)
        dead = self.serials[old]
        self._write({**self._encode(ids, embeddings, payloads), "dead.bin": dead})
        self.next_serial += count
        self.live = np.concatenate((self.live, np.ones(count, dtype=np.bool_)))
        self.live[old] = False
        self._places.update(zip(ids.tolist(), range(first, first + count), strict=True))

    def remove(self, ids: Ids) -> int:
        """Marks rows dead; how many there were."""
        old = self._positions_of(np.unique(ids))
        self._write({"dead.bin": self.serials[old]})
        self.live[old] = False
        for id in self.ids[old].tolist():
            del self._places[id]
        return len(old)

    @cached_property
    def _places(self) -> dict[int, int]:
        """Living id -> position; made when rows first come or go."""
        living = np.flatnonzero(self.live)
        return dict(zip(self.ids[living].tolist(), living.tolist(), strict=True))

    def _positions_of(self, ids: Ids) -> Positions:
        places = self._places
        return np.array([places[id] for id in ids.tolist() if id in places], dtype=np.int64)

    def _encode(self, ids: Ids, rows: Embeddings, payloads: list[dict[str, Value]]) -> Arrays:
        lines = [json.dumps(payload).encode() + b"\n" for payload in payloads]
        parts: Arrays = {
            "serials.bin": self.next_serial + np.arange(len(ids), dtype=np.uint64),
            "ids.bin": ids,
            "payloads.jsonl": np.frombuffer(b"".join(lines), dtype=np.uint8),
        }
        lengths = {"payloads.jsonl": np.array([len(line) for line in lines], dtype=np.int64)}
        for name, matrix in (("dense", rows.dense), ("multi", rows.multi)):
            if matrix is not None and self.spec.dtype == "int8":
                parts[f"{name}.bin"], parts[f"{name}_scales.bin"] = quantize(matrix)
            elif matrix is not None:
                parts[f"{name}.bin"] = matrix.astype(np.float16)
        if rows.offsets is not None:
            lengths["multi.bin"] = np.diff(rows.offsets)
        if rows.sparse is not None:
            parts["terms.bin"], parts["term_weights.bin"] = rows.sparse.indices, rows.sparse.data
            lengths["terms.bin"] = np.diff(rows.sparse.indptr)
        for name, counts in lengths.items():
            ends = len(self._files[name]) + np.cumsum(counts, dtype=np.int64)
            parts[self._columns[name].ends] = ends
        return parts

    def _write(self, parts: Arrays) -> None:
        """Appends to files; where that fails, they are as before."""
        before = {name: (len(self._files[name]), self._crc[name]) for name in parts}
        try:
            with self._in_words("this batch was not stored, and what was there before is whole"):
                for name, values in parts.items():
                    self._crc[name] = _append(self._files[name], values, self._crc[name])
        except BaseException:
            for name, (rows, crc) in before.items():
                self._files[name].cut(rows)
                self._crc[name] = crc
            raise

    @contextmanager
    def _in_words(self, after: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write ({error.strerror}); {after}") from error

    def commit(self) -> None:
        """Makes everything written so far durable and countable."""
        with self._in_words("what was flushed before is whole"):
            self._save(self.manifest.generation, self._files, self._crc)

    def _save(self, generation: int, files: dict[str, GrowingArray], crc: dict[str, int]) -> None:
        for file in files.values():
            file.sync()
        sizes = {name: len(file) * self._columns[name].bytes for name, file in files.items()}
        manifest = Manifest(generation, self.next_serial, sizes, dict(crc), self.graphs, self.graph)
        manifest.write(self.path)
        self.manifest = manifest

    def compact(self) -> None:
        """Copies the living rows to new files where many are dead."""
        if len(self.live) - int(self.live.sum()) <= COMPACT_ABOVE * len(self.live):
            return
        old, number = self._files, self.manifest.generation + 1
        folder = _generation(self.path, number)
        shutil.rmtree(folder, ignore_errors=True)  # left by a compaction that found the disk full
        folder.mkdir()
        files = {name: column.open(folder / name) for name, column in self._columns.items()}
        crc = dict.fromkeys(files, 0)
        with ExitStack() as closing:
            for file in files.values():
                closing.callback(file.close)
            with self._in_words("the index is whole, but not compacted"):
                living = np.flatnonzero(self.live)
                for first in range(0, len(living), COPIED):
                    self._copy(living[first : first + COPIED], files, crc)
                fsync(folder)
                fsync(self.path)
                self._save(number, files, crc)
            closing.pop_all()
        self._files, self._crc = files, crc
        for file in old.values():
            file.close()
        self.__dict__.pop("_places", None)
        self._begin()
        self.sweep()

    def _copy(self, rows: Positions, files: dict[str, GrowingArray], crc: dict[str, int]) -> None:
        for name, column in self._columns.items():
            values = self._view(name)
            if column.ends:
                values = values[packed_positions(*self._spans(column.ends, rows))]
            elif name.endswith("_ends.bin"):
                before = int(files[name].view()[-1]) if len(files[name]) else 0
                values = before + np.cumsum(self._spans(name, rows)[1])
            else:
                values = values[:0] if column.log else values[rows]
            crc[name] = _append(files[name], values, crc[name])

    def close(self) -> None:
        """Lets go of the files, without a commit."""
        for file in self._files.values():
            file.close()
        self._files = {}
        self._lock.release()


def quantize(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """(n, D) as int8 codes with one float16 scale a row: its largest value over 127, rounded up."""
    largest = np.abs(matrix).max(axis=1).astype(np.float32) / 127
    scales = largest.astype(np.float16)
    scales = np.where(scales < largest, np.nextafter(scales, np.float16(np.inf)), scales)
    scales = np.where(scales == 0, np.float16(1), scales).astype(np.float16)
    codes = np.rint(matrix.astype(np.float32) / scales.astype(np.float32)[:, None])
    return codes.astype(np.int8), scales


def dequantize(codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> Floats:
    """(n, D) float32 of int8 codes and their rows' scales."""
    values = float32(codes)
    values *= float32(scales)[:, None]
    return values


def _append(file: GrowingArray, values: npt.NDArray[Any], crc: int) -> int:
    """Appends to a file; gives the CRC-32 of all of it, from that of what was there."""
    values = np.ascontiguousarray(values, file.dtype)
    file.append(values)
    return checksum(values, crc)


def checksum(values: npt.NDArray[Any], crc: int = 0) -> int:
    """CRC-32 of an array's bytes, after bytes with a given one."""
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, crc)


def _generation(path: Path, number: int) -> Path:
    return path / f"rows-{number:06d}"


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object without its format; raises StoreError where it is missing or damaged."""
    try:
        facts = dict(read_json(path))
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing: {path.parent} is no whole index") from error
    except (OSError, ValueError, TypeError) as error:  # UnicodeDecodeError is a ValueError too
        raise StoreError(f"{path} is damaged ({error}): {REBUILD}") from error
    if (form := facts.pop("format", None)) != FORMAT:
        raise StoreError(f"{path} has format {form}, this Tercet reads {FORMAT}: {REBUILD}")
    return facts


class Lock:
    """Holds a folder for this process (and this object alone) until `release`."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock; raises StoreError with the owner's process id where it is taken."""
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._file)
        except OSError as error:
            os.lseek(self._file, 0, os.SEEK_SET)
            owner = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            if not isinstance(error, BlockingIOError | PermissionError):  # no locks there at all
                raise
            here = " (this one)" if owner == str(os.getpid()) else ""
            raise StoreError(
                f"{folder} is open in process {owner}{here}: it has one owner at a time, "
                "so close it there first"
            ) from error
        _held.add(self)
        with suppress(OSError):  # a full disk has no room for it
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, f"{os.getpid()}\n".encode())

    def holds(self, folder: Path) -> bool:
        """Whether the folder is still the one whose lock was taken, at the same path."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(folder / "lock"))
        except OSError:
            return False

    def release(self, *, forked: bool = False) -> None:
        """Lets go, as the end of the process would; in a fork of its child alone."""
        if self in _held:
            _held.discard(self)
            if not forked:
                _unlock(self._file)  # whatever forks still have the file
            os.close(self._file)


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()  # of this process


def _forget_locks() -> None:
    """A forked child must not hold what its parent lets go."""
    for lock in list(_held):
        lock.release(forked=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # past the process id, so that others can read it
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
