"""Indexes of Embeddings: `create_index` and `open_index` in a folder; `qdrant` for a server.

`VectorIndex` says what every index does. Takes Embeddings and gives IndexHits; knows nothing of
texts, documents or models.
"""

from pathlib import Path

from tercet.errors import StoreError
from tercet.index.base import Index
from tercet.index.contract import DEFAULT_CANDIDATES, Filter, VectorIndex
from tercet.index.graph import GraphOptions
from tercet.index.store import IndexSpec, RowStore
from tercet.io import atomic_folder

__all__ = [
    "DEFAULT_CANDIDATES",
    "Filter",
    "GraphOptions",
    "Index",
    "IndexSpec",
    "VectorIndex",
    "create_index",
    "open_index",
]


def create_index(
    path: str | Path, spec: IndexSpec, *, options: GraphOptions | None = None
) -> Index:
    """Makes an empty index in a folder that does not exist or is empty, and opens it.

    Raises StoreError for a folder in use.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists and is not empty: open it, or choose another folder")
    try:
        with atomic_folder(target) as scratch:
            RowStore.create(scratch, spec)
    except OSError as error:
        raise StoreError(f"cannot make an index in {target}: {error.strerror}") from error
    return open_index(target, options=options)


def open_index(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    read_only: bool = False,
    options: GraphOptions | None = None,
) -> Index:
    """Opens an index, to write or only to read.

    Raises StoreError where it is missing, damaged, another model's, or, to write, open elsewhere.
    """
    source = Path(path)
    if not source.is_dir():
        raise StoreError(f"{source} is no index: there is no such folder")
    spec = IndexSpec.load(source)
    if fingerprint not in (None, spec.fingerprint):
        raise StoreError(
            f"{source} holds vectors of the model {spec.fingerprint!r}, not of {fingerprint!r}: "
            f"open it with that, or rebuild it"
        )
    return Index(source, spec, read_only=read_only, options=options)
