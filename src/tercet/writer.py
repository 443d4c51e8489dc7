"""Embeddings to one folder shard by shard: what never fits in memory can still be saved whole.

The folder is what `Embeddings.save` writes and `Embeddings.load` opens. Knows nothing of models,
texts or indexes.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tercet.embeddings import FORMAT, Embeddings
from tercet.errors import InputError

# Row boundaries: each shard's start at 0, so that they are shifted to follow the last shard's.
BOUNDARIES = ("offsets", "sparse_indptr")


class EmbeddingsWriter:
    """Appends Embeddings of one model and the same heads; the folder appears when the block ends.

    `with EmbeddingsWriter(folder) as writer: writer.add(shard)`. Nothing appears where the block
    raises. Holds no shard in memory.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError where the folder exists."""
        self.folder = Path(folder)
        if self.folder.exists():
            raise InputError(f"{self.folder} exists already: remove it or choose another folder")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(
            tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent)
        )
        self._columns: dict[str, _Column] = {}
        self._facts: dict[str, Any] = {}
        self._texts = 0

    def add(self, shard: Embeddings) -> None:
        """Appends the texts of a shard; raises InputError where it does not fit those before."""
        facts = {
            "heads": list(shard.heads),
            "vocabulary": None if shard.sparse is None else int(shard.sparse.shape[1]),
            "fingerprint": shard.fingerprint,
        }
        arrays = {name: getattr(shard, name) for name in ("dense", "multi", "offsets", "lengths")}
        arrays["truncated"] = shard.truncated
        if shard.sparse is not None:
            arrays["sparse_data"] = shard.sparse.data
            arrays["sparse_indices"] = shard.sparse.indices
            arrays["sparse_indptr"] = shard.sparse.indptr.astype(np.int64)
        arrays = {name: array for name, array in arrays.items() if array is not None}
        if not self._columns:
            self._facts = facts
            for name, array in arrays.items():
                self._columns[name] = _Column(self._scratch / f"{name}.npy", array)
        if facts != self._facts or arrays.keys() != self._columns.keys():
            raise InputError(f"cannot append Embeddings of {facts} to those of {self._facts}")
        for name, array in arrays.items():
            column = self._columns[name]
            if name in BOUNDARIES:
                column.append(array if not column.rows else array[1:] + column.last)
                column.last = column.last + int(array[-1])
            else:
                column.append(array)
        self._texts += len(shard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for column in self._columns.values():
                column.file.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _finish(self) -> None:
        if not self._columns:
            raise InputError(f"no embeddings to save in {self.folder}")
        for column in self._columns.values():
            column.finish()
        facts = {"format": FORMAT, "texts": self._texts, **self._facts}
        (self._scratch / "embeddings.json").write_text(json.dumps(facts, indent=1) + "\n")
        self._scratch.chmod(0o755)  # a temporary folder is its owner's alone
        os.rename(self._scratch, self.folder)


class _Column:
    """A .npy file that grows along its first axis."""

    def __init__(self, path: Path, like: npt.NDArray[Any]) -> None:
        self.dtype, self.tail = like.dtype, like.shape[1:]
        self.rows = 0
        self.last = 0  # for boundaries: where the last row ends
        self.file = path.open("wb")
        self._header()

    def _header(self) -> None:
        # NumPy pads the header so that a larger first axis takes no more room.
        facts = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.tail),
        }
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, facts)

    def append(self, array: npt.NDArray[Any]) -> None:
        if array.dtype != self.dtype or array.shape[1:] != self.tail:
            raise InputError(
                f"cannot append {array.dtype} rows of shape {array.shape[1:]} to {self.dtype} rows "
                f"of shape {self.tail}"
            )
        self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def finish(self) -> None:
        self._header()
        self.file.flush()
        os.fsync(self.file.fileno())
