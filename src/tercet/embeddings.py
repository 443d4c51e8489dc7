"""Three representations of a list of texts in one object: packed, sliceable, saved as plain files.

Knows nothing of models, tokens or indexes. Rows are texts. Shapes: B texts, D dense size,
V vocabulary, M multi-vector size, sum T the token vectors of all texts together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tercet.config import HEADS, Head
from tercet.errors import InputError, ModelError, RowError, StoreError
from tercet.io import GrowingArray, atomic_folder, check_file, json_bytes, read_json, write_json
from tercet.sparse import SparseRows, packed_positions

FORMAT = 1
# boundaries of rows, and what they divide
BOUNDARIES = (("offsets", "multi"), ("sparse_indptr", "sparse_data"))


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Dense, sparse and multi-vector representations of B texts; a head not asked for is None.

    dense (B, D) float32, unit rows. sparse (B, V) float32, weights > 0; a CSR matrix of scipy's is
    taken too. multi (sum T, M) float16, unit rows, text b owning rows offsets[b]:offsets[b + 1].
    lengths (B,) int32 is the number of tokens each text was encoded with, special ones included;
    truncated (B,) bool marks the texts that were cut to the maximum length. fingerprint names the
    model.
    """

    dense: npt.NDArray[np.float32] | None = None
    sparse: SparseRows | None = None
    multi: npt.NDArray[np.float16] | None = None
    offsets: npt.NDArray[np.int64] | None = None
    lengths: npt.NDArray[np.int32] | None = None
    truncated: npt.NDArray[np.bool_] | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if (self.multi is None) != (self.offsets is None):
            raise InputError("multi and offsets go together: give both or neither")
        if self.sparse is not None:
            object.__setattr__(self, "sparse", SparseRows.of(self.sparse))
        arrays = {name: getattr(self, name) for name in _OWN if getattr(self, name) is not None}
        try:
            _check_arrays(arrays)
        except ValueError as error:
            raise InputError(str(error)) from error
        sizes = {name: size for name, size in self._sizes() if size is not None}
        if len(set(sizes.values())) > 1:
            raise InputError(f"representations of different numbers of texts: {sizes}")
        if not self.heads:
            raise InputError("Embeddings need at least one of dense, sparse and multi")

    def _sizes(self) -> Iterator[tuple[str, int | None]]:
        yield "dense", None if self.dense is None else int(self.dense.shape[0])
        yield "sparse", None if self.sparse is None else int(self.sparse.shape[0])
        yield "multi", None if self.offsets is None else int(self.offsets.shape[0]) - 1
        yield "lengths", None if self.lengths is None else len(self.lengths)
        yield "truncated", None if self.truncated is None else len(self.truncated)

    def __repr__(self) -> str:
        parts = [f"{len(self)} texts"]
        if self.dense is not None:
            parts.append(f"dense {self.dense.shape[1]}")
        if self.sparse is not None:
            parts.append(f"sparse {self.sparse.nnz} of {self.sparse.shape[1]} ids")
        if self.multi is not None:
            parts.append(f"multi {self.multi.shape[0]} tokens of {self.multi.shape[1]}")
        return f"Embeddings({', '.join(parts)}, model {self.fingerprint[:12] or 'unknown'})"

    @property
    def heads(self) -> tuple[Head, ...]:
        """The representations present, in the order dense, sparse, multi."""
        return tuple(head for head in HEADS if getattr(self, head) is not None)

    def __len__(self) -> int:
        return next(size for _, size in self._sizes() if size is not None)

    def check_finite(self) -> None:
        """Raises ModelError where a number is nan or infinite."""
        for numbers in (self.dense, self.multi, None if self.sparse is None else self.sparse.data):
            if numbers is not None and not np.isfinite(numbers).all():
                raise ModelError(
                    "the model gives vectors that are not finite numbers: its weights are damaged, "
                    "or the training that made them went astray"
                )

    def tokens(self, row: int) -> npt.NDArray[np.float16]:
        """The (T, M) multi-vectors of one text.

        Raises InputError where there are none, RowError where there is no such text.
        """
        if self.multi is None or self.offsets is None:
            raise InputError("these Embeddings hold no multi-vectors")
        places = self._places(row)
        if np.ndim(row) or not len(places):
            raise RowError(f"the vectors of one text are asked for by its number, got {row!r}")
        row = int(places[0])
        return self.multi[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def _places(self, rows: Any) -> npt.NDArray[np.int64]:
        """Rows from 0 of a number, a list of numbers or a mask; negative ones count from the end.

        Raises RowError for all else.
        """
        size = len(self)
        try:
            given = np.asarray(rows)
        except ValueError as error:  # lists of several lengths
            raise RowError(f"{rows!r} are no rows: {error}") from error
        if given.dtype == np.bool_ and given.shape == (size,):
            return np.flatnonzero(given)
        if given.dtype == np.float64 and given.shape == (0,):  # of an empty list
            given = given.astype(np.int64)
        given = np.atleast_1d(given)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise RowError(
                f"rows of {size} texts are numbers, a slice or a mask of {size}, got {rows!r}"
            )
        if given.size and not -size <= int(given.min()) <= int(given.max()) < size:
            raise RowError(f"there is no such row among {size} texts: {rows!r}")
        places: npt.NDArray[np.int64] = given.astype(np.int64)
        return np.where(places < 0, places + size, places)

    def __getitem__(self, rows: int | slice | Sequence[int] | npt.NDArray[Any]) -> "Embeddings":
        """The texts of a row number, a slice, a list of numbers or a boolean mask, in that order.

        Negative numbers count from the end. Raises RowError for what is none of these, for a
        number that is out of range, and for a mask of another length.
        """
        chosen: Any
        multi = offsets = None
        if isinstance(rows, slice):
            try:
                start, stop, step = rows.indices(len(self))
            except (TypeError, ValueError) as error:
                raise RowError(f"{rows} is no slice of texts: {error}") from error
            chosen = slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
        else:
            chosen = self._places(rows)
        if self.multi is not None and self.offsets is not None:
            if isinstance(chosen, slice):  # of neighbours nothing is copied
                ends = self.offsets[chosen.start : chosen.stop + 1]
                multi = self.multi[int(ends[0]) : int(ends[-1])]
                offsets = ends - ends[0]
            else:
                counts = np.diff(self.offsets)[chosen]
                offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
                multi = self.multi[packed_positions(self.offsets[chosen], counts)]
        return replace(
            self,
            dense=None if self.dense is None else self.dense[chosen],
            sparse=None if self.sparse is None else self.sparse[chosen],
            multi=multi,
            offsets=offsets,
            lengths=None if self.lengths is None else self.lengths[chosen],
            truncated=None if self.truncated is None else self.truncated[chosen],
        )

    # For vector databases: a dict per text of the heads that are there, in plain Python. A text
    # without sparse weights has no "sparse": databases refuse an empty vector.

    def to_qdrant(self) -> list[dict[str, Any]]:
        """The named vectors of each text, as in `PointStruct(id=n, vector=vectors)`.

        dense: a list. sparse: `indices` and `values`. multi: a list of lists.
        """
        return self._plain(lambda ids, weights: {"indices": ids, "values": weights})

    def to_milvus(self) -> list[dict[str, Any]]:
        """The vector fields of each text, for a row of `MilvusClient.insert`.

        dense: a list. sparse: id -> weight. multi: structs with a field `vector`.
        """
        return self._plain(
            lambda ids, weights: dict(zip(ids, weights, strict=True)),
            lambda tokens: [{"vector": token} for token in tokens],
        )

    def to_vespa(self) -> list[dict[str, Any]]:
        """The tensor fields of each text, in the short forms of Vespa's JSON.

        dense: `tensor(x[D])`. sparse: `tensor(token{})`. multi: `tensor(t{}, x[M])`.
        """
        return self._plain(
            _named_weights, lambda tokens: {str(n): token for n, token in enumerate(tokens)}
        )

    def to_elasticsearch(self) -> list[dict[str, Any]]:
        """The vector fields of each text, for a document of `_bulk`.

        dense: `dense_vector`. sparse: `sparse_vector`, id -> weight. multi: `rank_vectors`.
        """
        return self._plain(_named_weights)

    def _plain(
        self,
        sparse: Callable[[list[int], list[float]], Any],
        multi: Callable[[list[list[float]]], Any] = lambda tokens: tokens,
    ) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = [{} for _ in range(len(self))]
        for number, row in enumerate(out):
            if self.dense is not None:
                row["dense"] = self.dense[number].tolist()
            if self.sparse is not None:
                span = slice(*self.sparse.indptr[number : number + 2])
                if span.start < span.stop:
                    ids, weights = self.sparse.indices[span], self.sparse.data[span]
                    row["sparse"] = sparse(ids.tolist(), weights.tolist())
            if self.multi is not None:
                row["multi"] = multi(self.tokens(number).tolist())
        return out

    @staticmethod
    def concatenate(parts: Iterable["Embeddings"]) -> "Embeddings":
        """Joins Embeddings of one model and the same heads, in order."""
        items = list(parts)
        if not items or not all(isinstance(item, Embeddings) for item in items):
            raise InputError(
                f"nothing to concatenate: a list of Embeddings is needed, got {parts!r:.80}"
            )
        first = items[0]
        if len(items) == 1:
            return first
        for item in items[1:]:
            if item.heads != first.heads:
                raise InputError(f"cannot join heads {first.heads} with {item.heads}")
            if item.fingerprint != first.fingerprint:
                raise InputError(
                    f"cannot join vectors of two models: {first.fingerprint}, {item.fingerprint}"
                )

        def join(name: str) -> Any:
            arrays = [getattr(item, name) for item in items]
            return None if any(array is None for array in arrays) else np.concatenate(arrays)

        sparse = offsets = None
        if first.sparse is not None:
            sparse = SparseRows.stacked([item.sparse for item in items if item.sparse is not None])
        if first.offsets is not None:
            ends: Any = [item.offsets for item in items]
            counts = np.concatenate([np.diff(end) for end in ends])
            offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        arrays = {name: join(name) for name in ("dense", "multi", "lengths", "truncated")}
        return replace(first, sparse=sparse, offsets=offsets, **arrays)

    def save(self, folder: str | Path) -> None:
        """Writes one .npy per array and embeddings.json; the folder appears whole or not at all."""
        with EmbeddingsWriter(folder) as writer:
            writer.add(self)

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _OWN}
        if self.sparse is not None:
            arrays["sparse_data"] = self.sparse.data
            arrays["sparse_indices"] = self.sparse.indices
            arrays["sparse_indptr"] = self.sparse.indptr
        return {name: array for name, array in arrays.items() if array is not None}

    @staticmethod
    def load(folder: str | Path) -> "Embeddings":
        """Opens a saved folder, arrays memory-mapped; raises StoreError where it is not whole."""
        source = Path(folder)
        try:
            facts = read_json(source / "embeddings.json")
            if facts["format"] != FORMAT:
                raise StoreError(f"{source}: format {facts['format']}, this Tercet reads {FORMAT}")
            arrays = {}
            for path in source.glob("*.npy"):
                check_file(path, StoreError)
                arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_arrays(arrays)
            sparse = None
            if "sparse" in facts["heads"]:
                _check_ids(arrays["sparse_indices"], facts["vocabulary"])
                parts = {n: arrays.pop(f"sparse_{n}") for n in ("data", "indices", "indptr")}
                sparse = SparseRows(**parts, shape=(facts["texts"], facts["vocabulary"]))
            loaded = Embeddings(sparse=sparse, fingerprint=facts["fingerprint"], **arrays)
        except (OSError, ArithmeticError, ValueError, LookupError, TypeError, InputError) as error:
            raise StoreError(f"{source} is not a whole folder of embeddings: {error}") from error
        if list(loaded.heads) != facts["heads"] or len(loaded) != facts["texts"]:
            raise StoreError(f"{source}: the arrays do not match embeddings.json; encode again")
        return loaded


class EmbeddingsWriter:
    """Embeddings of one model and the same heads to one folder, shard by shard.

    `with EmbeddingsWriter(folder) as writer: writer.add(shard)`. The folder is the one that
    `Embeddings.load` opens, and appears when the block ends without an error. Holds no shard in
    memory. What was written to a folder `partial` stays there when the block fails: another writer
    goes on from its first `texts`, which were synced.
    """

    def __init__(self, folder: str | Path, *, partial: Path | None = None, texts: int = 0) -> None:
        """Raises InputError where the folder exists."""
        self.folder, self._partial = check_absent(folder), partial
        self._stack = ExitStack()
        self._arrays: dict[str, GrowingArray] = {}
        self._facts: dict[str, Any] = {}
        self._texts = texts

    def __enter__(self) -> Self:
        folder = atomic_folder(self.folder, partial=self._partial)
        self._scratch = self._stack.enter_context(folder)
        self._stack.push(self._finish)
        if self._texts:
            self._go_on()
        return self

    def _go_on(self) -> None:
        """Opens what is there, cut to the texts that were synced."""
        arrays = {path.stem: GrowingArray.continued(path) for path in self._scratch.glob("*.npy")}
        sizes = dict.fromkeys(arrays, self._texts)
        for ends, packed in (*BOUNDARIES, ("sparse_indptr", "sparse_indices")):
            if ends in arrays:
                sizes[ends] = self._texts + 1
                sizes[packed] = int(arrays[ends].view()[self._texts])
        for name, array in arrays.items():
            array.cut(sizes[name])
        facts = read_json(self._scratch / "embeddings.json")
        self._arrays = arrays
        self._facts = {name: facts[name] for name in ("heads", "vocabulary", "fingerprint")}

    def sync(self) -> None:
        """Brings all that was added to the disk."""
        for array in self._arrays.values():
            array.sync()
        write_json(self._scratch / "embeddings.json", self._written())

    def _written(self) -> dict[str, Any]:
        return {"format": FORMAT, "texts": self._texts, **self._facts}

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, shard: Embeddings) -> None:
        """Appends the texts of a shard; raises InputError where it does not fit those before."""
        facts = {
            "heads": list(shard.heads),
            "vocabulary": None if shard.sparse is None else int(shard.sparse.shape[1]),
            "fingerprint": shard.fingerprint,
        }
        arrays = shard._arrays()
        if not self._arrays:
            self._facts = facts
            for name, array in arrays.items():
                path = self._scratch / f"{name}.npy"
                self._arrays[name] = GrowingArray(path, array.dtype, array.shape[1:])
        kinds = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        if facts != self._facts or kinds != {n: (a.dtype, a.row) for n, a in self._arrays.items()}:
            raise InputError(f"cannot append Embeddings of {facts} to those of {self._facts}")
        # boundaries of rows start at 0 in each shard, and go on where the last shard's end
        before = {name: len(self._arrays[packed]) for name, packed in BOUNDARIES if name in arrays}
        for name, array in arrays.items():
            if name in before:
                array = array[min(len(self._arrays[name]), 1) :] + before[name]
            self._arrays[name].append(array)
        self._texts += len(shard)

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        for array in self._arrays.values():
            array.close()
        if error is not None:
            return
        if not self._arrays:
            raise InputError(f"no embeddings to save in {self.folder}")
        (self._scratch / "embeddings.json").write_bytes(json_bytes(self._written()))


def _named_weights(ids: list[int], weights: list[float]) -> dict[str, float]:
    return {str(id): weight for id, weight in zip(ids, weights, strict=True)}


_OWN = ("dense", "multi", "offsets", "lengths", "truncated")  # arrays as they are
_STORED = {  # kind of numbers, and dimensions
    "dense": ("f", 2),
    "sparse_data": ("f", 1),
    "sparse_indices": ("i", 1),
    "sparse_indptr": ("i", 1),
    "multi": ("f", 2),
    "offsets": ("i", 1),
    "lengths": ("i", 1),
    "truncated": ("b", 1),
}


def _check_arrays(arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Raises ValueError or KeyError where reading them could leave their memory."""
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is a {type(array).__name__}, not an array")
        kind = (array.dtype.kind, array.ndim)
        if kind != _STORED[name] or not array.dtype.isnative:
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
    for name, packed in BOUNDARIES:
        if name in arrays and not borders_fit(arrays[name], len(arrays[packed])):
            raise ValueError(f"{name} are no boundaries of {len(arrays[packed])} {packed}")


def _check_ids(ids: npt.NDArray[np.integer], vocabulary: int) -> None:
    """Raises ValueError for ids beyond a vocabulary; a negative one is very large."""
    if len(ids) and int(ids.view(f"u{ids.itemsize}").max()) >= vocabulary:
        raise ValueError(f"sparse_indices beyond the vocabulary of {vocabulary}")


def borders_fit(borders: npt.NDArray[np.integer], size: int) -> bool:
    """Whether boundaries of rows start at 0, never fall and end within `size`."""
    if not len(borders) or borders[0] != 0 or borders[-1] > size:
        return False
    return not bool((borders[1:] < borders[:-1]).any())


def check_absent(folder: str | Path) -> Path:
    """The folder's path; raises InputError where it exists, before time is spent on making it."""
    path = Path(folder)
    if path.exists():
        raise InputError(f"{path} exists already: remove it or choose another folder")
    return path
