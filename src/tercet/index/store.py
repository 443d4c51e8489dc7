"""The rows of an index in plain append-only files: memory-mapped, crash-safe, one owner at a time.

Each file is one array (or, for payloads, JSON lines) that only grows. A manifest, replaced
atomically, says how many bytes of each file count: what a dying process wrote after it is cut off
when the store is opened again. A row is never changed: replacing an id appends a new row under a
new serial number and marks the old one dead; `compact` copies the living rows to a new
generation of files. Serials grow and are never used twice, so another store may refer to rows by
them. `columns.py` lists the files. Knows nothing of scores, queries or engines.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from tercet.errors import StoreError
from tercet.index.base import IndexSpec
from tercet.index.checks import Batch
from tercet.index.columns import Floats, columns_of, dequantize, quantize
from tercet.index.files import AppendFile, Lock, fsync_folder, read_json, write_json
from tercet.records import Scalar

FORMAT = 1
COMPACT_ABOVE = 0.1  # share of dead rows from which `compact` copies the others

Positions = npt.NDArray[np.int64]  # of rows in the files of this generation


class RowStore:
    """The rows of one index, owned by this object until `close`."""

    def __init__(self, path: Path, spec: IndexSpec) -> None:
        """Opens a store that `create` made; raises StoreError where it is damaged or in use."""
        self.path = path
        self.spec = spec
        self._lock = Lock(path)
        self._files: dict[str, AppendFile] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def create(path: Path, spec: IndexSpec) -> None:
        """Writes an empty store into an empty folder."""
        folder = path / _folder(1)
        folder.mkdir()
        for name in columns_of(spec):
            (folder / name).touch()
        fsync_folder(folder)
        write_json(path / "manifest.json", _manifest(1, 0, dict.fromkeys(columns_of(spec), 0)))

    def _open(self) -> None:
        where = self.path / "manifest.json"
        manifest = read_json(where, "index")
        columns = columns_of(self.spec)
        try:
            if manifest["format"] != FORMAT:
                raise StoreError(f"{where}: unknown format {manifest['format']}: rebuild the index")
            self._generation = int(manifest["generation"])
            self.next_serial = int(manifest["next_serial"])
            sizes = {name: int(manifest["bytes"][name]) for name in columns}
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{where} is damaged ({error!r}): rebuild the index") from error
        folder = self.path / _folder(self._generation)
        for name, column in columns.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else -1
            if found < sizes[name]:
                state = "missing" if found < 0 else f"cut short ({found} of {sizes[name]} bytes)"
                raise StoreError(f"{folder / name} is {state}: rebuild the index")
            self._files[name] = AppendFile(folder / name, column.dtype, column.width)
            if found > sizes[name]:  # left by a process that died before it committed
                self._files[name].cut(sizes[name])
        self._check(folder)
        for other in self.path.glob("rows-*"):
            if other != folder:  # left by a process that died while it compacted
                shutil.rmtree(other)
        self._reset()

    def _reset(self) -> None:
        self.live: npt.NDArray[np.bool_] = ~np.isin(self.serials, self._view("dead.bin"))
        self._places: dict[int, int] | None = None  # id -> position, made when first needed
        self._codes: dict[str, tuple[list[int], dict[str, int]]] = {}

    def _check(self, folder: Path) -> None:
        """Whether the files fit together; cheap, and it keeps later reads within their borders."""
        rows = self._files["serials.bin"].size // 8
        for name, column in columns_of(self.spec).items():
            file = self._files[name]
            step = np.dtype(column.dtype).itemsize * (column.width or 1)
            items, rest = divmod(file.size, step)
            wrong = rest != 0
            if not wrong and column.ends:
                borders = self._files[column.ends]
                wrong = borders.size != 8 * rows or items != (borders.view()[-1] if rows else 0)
            elif not wrong and not column.log:
                wrong = items != rows
            if not wrong and (name.endswith("_ends.bin") or name == "serials.bin"):
                steps = np.diff(file.view().astype(np.int64), prepend=np.int64(-1))
                wrong = bool((steps < (1 if name == "serials.bin" else 0)).any())
            if wrong:
                raise StoreError(f"{folder / name} is damaged: rebuild the index")

    # Reading: positions are rows of the files, dead ones included.

    def _view(self, name: str) -> npt.NDArray[Any]:
        return self._files[name].view()

    @property
    def serials(self) -> npt.NDArray[np.uint64]:
        """(N,), ascending."""
        return self._view("serials.bin")

    @property
    def ids(self) -> npt.NDArray[np.uint64]:
        """(N,), a dead row's id possibly among them again."""
        return self._view("ids.bin")

    def positions(self, serials: npt.NDArray[np.uint64]) -> Positions:
        """Where the living rows with these serials stand; unknown and dead ones are left out."""
        places = np.searchsorted(self.serials, serials)
        inside = places < len(self.serials)
        places, serials = places[inside], serials[inside]
        known = (self.serials[places] == serials) & self.live[places]
        return np.asarray(places[known], dtype=np.int64)

    def dense(self, positions: Positions) -> Floats:
        """(n, D)"""
        return self._floats(self._view("dense.bin")[positions], "dense_scales.bin", positions)

    def sparse(self, positions: Positions) -> sp.csr_array:
        """(n, V)"""
        picked, borders = _runs(self._view("term_ends.bin"), positions)
        terms = self._view("terms.bin")[picked]
        size = self.spec.vocabulary or 0
        if len(terms) and not 0 <= int(terms.min()) <= int(terms.max()) < size:
            raise StoreError(f"{self._files['terms.bin'].path} is damaged: rebuild the index")
        parts = (self._view("term_weights.bin")[picked], terms, borders)
        return sp.csr_array(parts, shape=(len(positions), size))

    def token_counts(self, positions: Positions) -> npt.NDArray[np.int64]:
        ends = self._view("multi_ends.bin")
        return np.asarray(ends[positions] - np.where(positions > 0, ends[positions - 1], 0))

    def tokens(self, positions: Positions) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """(sum T, M) float16 or float32 of some rows, and their (n + 1) offsets."""
        ends, counts = self._view("multi_ends.bin")[positions], self.token_counts(positions)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        vectors = self._view("multi.bin")
        # One copy of a long run per row: far cheaper than picking its vectors one by one.
        gathered = np.concatenate([vectors[span] for span in spans])
        if self.spec.dtype == "float16":
            return gathered, offsets
        scales = self._view("multi_scales.bin")
        return dequantize(gathered, np.concatenate([scales[span] for span in spans])), offsets

    def _floats(self, codes: npt.NDArray[Any], scales: str, positions: Positions) -> Floats:
        if self.spec.dtype == "float16":
            return torch.from_numpy(codes).float().numpy()
        return dequantize(codes, self._view(scales)[positions])

    def payload(self, position: int) -> dict[str, Scalar]:
        ends, data = self._view("payload_ends.bin"), self._view("payloads.jsonl")
        start = int(ends[position - 1]) if position else 0
        try:
            payload = json.loads(data[start : int(ends[position])].tobytes())
            if isinstance(payload, dict):
                return payload
            problem = "no object"
        except ValueError as error:
            problem = str(error)
        where = self._files["payloads.jsonl"].path
        raise StoreError(f"{where} is damaged at byte {start} ({problem}): rebuild the index")

    def matching(self, choices: dict[str, list[Scalar]]) -> npt.NDArray[np.bool_]:
        """(N,): the living rows whose payload has one of the choices under every key."""
        mask = self.live.copy()
        for key, values in choices.items():
            codes, names = self._codes.setdefault(key, ([], {}))
            for position in range(len(codes), len(self.live)):
                payload = self.payload(position)
                known = key in payload
                codes.append(
                    names.setdefault(json.dumps(payload[key]), len(names)) if known else -1
                )
            # Compared as JSON, since Python holds True and 1 for equal and a filter must not.
            wanted = [names[name] for name in map(json.dumps, values) if name in names]
            mask &= np.isin(np.array(codes, dtype=np.int64), wanted)
        return mask

    # Writing.

    def append(
        self, batch: Batch, then: Callable[[Positions], None] | None = None
    ) -> npt.NDArray[np.uint64]:
        """Adds rows; gives the serials of the rows that they replaced.

        `then` is called with the new rows' positions when they can be read but do not count
        yet. All of the batch is added or nothing: raises what `then` raises, and StoreError
        where the disk is full.
        """
        first, count = len(self.live), len(batch.ids)
        places = self._where()
        old = np.array([places[i] for i in batch.ids.tolist() if i in places], dtype=np.int64)
        dead = self.serials[old]
        parts = self._encode(batch)
        parts["dead.bin"] = dead
        before = {name: self._files[name].size for name in parts}
        self.next_serial += count  # even if this fails: `then` may have used them
        try:
            self._write(parts)
            if then is not None:
                then(np.arange(first, first + count, dtype=np.int64))
        except BaseException:
            for name, size in before.items():
                self._files[name].cut(size)
            raise
        self.live = np.concatenate((self.live, np.ones(count, dtype=np.bool_)))
        self.live[old] = False
        places.update(zip(batch.ids.tolist(), range(first, first + count), strict=True))
        return dead

    def remove(self, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Marks rows dead; gives their serials."""
        places = self._where()
        there = [i for i in dict.fromkeys(ids.tolist()) if i in places]
        old = np.array([places[i] for i in there], dtype=np.int64)
        dead = self.serials[old]
        size = self._files["dead.bin"].size
        try:
            self._write({"dead.bin": dead})
        except StoreError:
            self._files["dead.bin"].cut(size)
            raise
        self.live[old] = False
        for i in there:
            del places[i]
        return dead

    def _where(self) -> dict[int, int]:
        if self._places is None:
            living = np.flatnonzero(self.live)
            self._places = dict(zip(self.ids[living].tolist(), living.tolist(), strict=True))
        return self._places

    def _encode(self, batch: Batch) -> dict[str, npt.NDArray[Any] | bytes]:
        lines = [json.dumps(payload).encode() + b"\n" for payload in batch.payloads]
        parts: dict[str, npt.NDArray[Any] | bytes] = {
            "serials.bin": self.next_serial + np.arange(len(batch.ids), dtype=np.uint64),
            "ids.bin": batch.ids,
            "payloads.jsonl": b"".join(lines),
            "payload_ends.bin": self._ends("payloads.jsonl", [len(line) for line in lines]),
        }
        rows = batch.embeddings
        vectors = {"dense": rows.dense, "multi": rows.multi}
        for head, matrix in vectors.items():
            if matrix is None:
                continue
            if self.spec.dtype == "int8":
                parts[f"{head}.bin"], parts[f"{head}_scales.bin"] = quantize(matrix)
            else:
                parts[f"{head}.bin"] = matrix.astype(np.float16)
        if rows.offsets is not None:
            parts["multi_ends.bin"] = self._ends("multi.bin", np.diff(rows.offsets))
        if rows.sparse is not None:
            parts["terms.bin"], parts["term_weights.bin"] = rows.sparse.indices, rows.sparse.data
            parts["term_ends.bin"] = self._ends("terms.bin", np.diff(rows.sparse.indptr))
        return parts

    def _ends(self, name: str, counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return np.asarray(len(self._view(name)) + np.cumsum(counts), dtype=np.int64)

    def _write(self, parts: dict[str, npt.NDArray[Any] | bytes]) -> None:
        try:
            for name, values in parts.items():
                self._files[name].append(values)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot write ({error.strerror}); this batch was not stored, "
                "and what was there before is whole"
            ) from error

    def commit(self) -> None:
        """Makes everything written so far durable and countable."""
        try:
            self._save(self._generation, self._files)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot write ({error.strerror}); what was flushed before is whole"
            ) from error

    def _save(self, generation: int, files: dict[str, AppendFile]) -> None:
        for file in files.values():
            file.fsync()
        sizes = {name: file.size for name, file in files.items()}
        write_json(self.path / "manifest.json", _manifest(generation, self.next_serial, sizes))

    def compact(self) -> bool:
        """Copies the living rows to new files where many are dead; says whether it did."""
        if len(self.live) - int(self.live.sum()) <= COMPACT_ABOVE * len(self.live):
            return False
        generation = self._generation + 1
        folder = self.path / _folder(generation)
        if folder.exists():
            shutil.rmtree(folder)  # left by a compaction that found the disk full
        folder.mkdir()
        files = {
            name: AppendFile(folder / name, column.dtype, column.width)
            for name, column in columns_of(self.spec).items()
        }
        try:
            for first, last in _stretches(self.live):
                self._copy(first, last, files)
            fsync_folder(folder)
            self._save(generation, files)
        except OSError as error:
            for file in files.values():
                file.close()
            raise StoreError(
                f"{folder}: cannot write ({error.strerror}); the index is whole, but not compacted"
            ) from error
        old, self._files = self._files, files
        shrunk = self.path / _folder(self._generation)
        self._generation = generation
        for file in old.values():
            file.close()
        shutil.rmtree(shrunk)
        self._reset()
        return True

    def _copy(self, first: int, last: int, files: dict[str, AppendFile]) -> None:
        for name, column in columns_of(self.spec).items():
            view = self._view(name)
            if column.ends:
                ends = self._view(column.ends)
                files[name].append(view[int(ends[first - 1]) if first else 0 : int(ends[last - 1])])
            elif name.endswith("_ends.bin"):
                shift = int(files[name].view()[-1]) if files[name].size else 0
                shift -= int(view[first - 1]) if first else 0
                files[name].append(view[first:last] + shift)
            elif not column.log:
                files[name].append(view[first:last])

    def sizes(self) -> dict[str, int]:
        """Bytes by head, and "other"."""
        sizes = dict.fromkeys((*self.spec.heads, "other"), 0)
        owners = {"dense": "dense", "term": "sparse", "terms": "sparse", "multi": "multi"}
        for name, file in self._files.items():
            sizes[owners.get(name.split(".")[0].split("_")[0], "other")] += file.size
        return sizes

    def close(self) -> None:
        """Lets go of the files, without a commit."""
        for file in self._files.values():
            file.close()
        self._files = {}
        self._lock.release()


def _runs(
    ends: npt.NDArray[np.int64], positions: Positions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The items of some rows, one after the other, and the (n + 1) borders between them."""
    stops = ends[positions]
    counts = stops - np.where(positions > 0, ends[positions - 1], 0)
    borders = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return np.arange(borders[-1]) + np.repeat(stops - borders[1:], counts), borders


def _stretches(live: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and one past the last of every stretch of living rows, long ones cut up."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], live, [False])).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        for first in range(start, stop, 8192):
            yield first, min(stop, first + 8192)


def _folder(generation: int) -> str:
    return f"rows-{generation:06d}"


def _manifest(generation: int, next_serial: int, sizes: dict[str, int]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "generation": generation,
        "next_serial": next_serial,
        "bytes": sizes,
    }
