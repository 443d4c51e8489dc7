"""Indexes of Embeddings: `create_index` and `open_index`; `Index` says what an index does.

Takes Embeddings and gives IndexHits; knows nothing of texts, documents or models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tercet.config import HEADS
from tercet.errors import StoreError
from tercet.index.base import DEFAULT_CANDIDATES, Filter, Index
from tercet.index.store import Backend, Dtype, IndexSpec, RowStore
from tercet.io import atomic_folder

__all__ = ["DEFAULT_CANDIDATES", "Filter", "Index", "IndexSpec", "create_index", "open_index"]


def create_index(
    path: str | Path,
    backend: Backend = "edge",
    *,
    heads: Sequence[str] = HEADS,
    dims: Mapping[str, int],
    dtype: Dtype = "float16",
    fingerprint: str,
) -> Index:
    """Makes an empty index in a folder that does not exist or is empty, and opens it.

    dims holds the sizes of what is stored: dense (D), vocabulary (V), multi (M); sizes of other
    heads are not looked at. dtype is that of dense and multi-vectors. fingerprint names the
    model. Raises InputError for parameters that do not fit, StoreError for a folder in use.
    """
    target = Path(path)
    spec = IndexSpec.of(backend, heads, dims, dtype, fingerprint)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists and is not empty: open it, or choose another folder")
    try:
        with atomic_folder(target) as scratch:
            RowStore.create(scratch, spec)
            spec.save(scratch)
    except OSError as error:
        raise StoreError(f"cannot make an index in {target}: {error.strerror}") from error
    return open_index(target)


def open_index(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    heads: Sequence[str] | None = None,
    dims: Mapping[str, int] | None = None,
    dtype: Dtype | None = None,
) -> Index:
    """Opens an index; what is given of its parameters must be what it was created with.

    Raises StoreError where it is missing, damaged, open elsewhere, or was made otherwise.
    """
    source = Path(path)
    if not source.is_dir():
        raise StoreError(f"{source} is no index: there is no such folder")
    spec = IndexSpec.load(source)
    given = {"heads": None if heads is None else tuple(heads), "dtype": dtype, **(dims or {})}
    for name, value in {"fingerprint": fingerprint, **given}.items():
        stored = getattr(spec, name, None)
        if value is not None and stored is not None and value != stored:
            raise StoreError(
                f"{source} was made with {name} {stored!r}, not {value!r}: open it with that, or "
                f"rebuild it"
            )
    if spec.backend == "exact":
        from tercet.index.exact import ExactIndex

        return ExactIndex(source, spec)
    from tercet.index.qdrant_edge import QdrantEdgeIndex

    return QdrantEdgeIndex(source, spec)
