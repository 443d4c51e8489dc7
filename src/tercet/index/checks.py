"""The checks that rows, filters and queries pass before any backend sees them.

An engine that is given a bad batch may keep half of it, so nothing is left to it to find. Knows
nothing of files or engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.config import MODES, Mode
from tercet.embeddings import Embeddings
from tercet.errors import InputError, StoreError
from tercet.index.base import Filter, Ids, IndexSpec
from tercet.records import Payload, Scalar


@dataclass(frozen=True)
class Batch:
    """Rows that passed every check: ready to be stored as they are."""

    ids: npt.NDArray[np.uint64]
    embeddings: Embeddings  # only the heads of the index; sparse sorted, without zeros
    payloads: list[dict[str, Scalar]]


def check_ids(ids: Ids) -> npt.NDArray[np.uint64]:
    """Ids as a u64 array; raises InputError naming the first that is no integer of [0, 2**64)."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "u" and ids.ndim == 1:
        return ids.astype(np.uint64)
    for place, value in enumerate(ids):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 0 <= int(value) < 1 << 64:
            raise InputError(f"id {value!r} at place {place}: ids are integers of 0 to 2**64 - 1")
    return np.array([int(value) for value in ids], dtype=np.uint64)


def check_batch(
    spec: IndexSpec, ids: Ids, embeddings: Embeddings, payloads: Sequence[Payload] | None
) -> Batch:
    """Checks a whole batch before any of it is stored; raises what `Index.add` promises."""
    whole = check_ids(ids)
    if len(np.unique(whole)) != len(whole):
        values, counts = np.unique(whole, return_counts=True)
        raise InputError(f"id {values[counts.argmax()]} stands twice in one batch")
    if len(whole) != len(embeddings):
        raise InputError(f"{len(whole)} ids for {len(embeddings)} embeddings")
    if payloads is not None and len(payloads) != len(whole):
        raise InputError(f"{len(payloads)} payloads for {len(whole)} ids")
    missing = [head for head in spec.heads if head not in embeddings.heads]
    if missing:
        raise InputError(f"the index stores {missing[0]}, which these embeddings lack")
    kept = check_vectors(spec, embeddings)
    if kept.offsets is not None and len(whole) and int(np.diff(kept.offsets).min()) < 1:
        place = int(np.diff(kept.offsets).argmin())
        raise InputError(f"id {whole[place]} has no token vector: an empty text still has one")
    plain = [
        {} if payloads is None else check_payload(payloads[place], int(whole[place]))
        for place in range(len(whole))
    ]
    return Batch(whole, kept, plain)


def check_vectors(spec: IndexSpec, embeddings: Embeddings) -> Embeddings:
    """The stored heads of embeddings, sparse rows sorted and without zeros.

    Raises StoreError for another model's vectors, InputError for wrong sizes, values that are
    not finite (or not in float16's range), and negative or repeated sparse entries.
    """
    if embeddings.fingerprint != spec.fingerprint:
        raise StoreError(
            f"the index holds vectors of the model {spec.fingerprint!r}, not of "
            f"{embeddings.fingerprint!r}: use that model, or rebuild the index with this one"
        )
    dense = embeddings.dense if spec.dense else None
    multi = embeddings.multi if spec.multi else None
    for head, matrix, width in (("dense", dense, spec.dense), ("multi", multi, spec.multi)):
        if matrix is None:
            continue
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise InputError(f"{head} vectors of shape {matrix.shape}: the index stores {width}")
        if not _fits_float16(matrix):
            raise InputError(f"a {head} vector holds a value that is not finite in float16")
    sparse = embeddings.sparse if spec.vocabulary else None
    if sparse is not None:
        if sparse.shape[1] != spec.vocabulary:
            raise InputError(
                f"sparse rows over {sparse.shape[1]} tokens: the index stores {spec.vocabulary}"
            )
        if not bool(np.isfinite(sparse.data).all()) or bool((sparse.data < 0).any()):
            raise InputError("a sparse row holds a weight that is negative or not finite")
        sparse = sparse.copy()
        sparse.eliminate_zeros()
        sparse.sort_indices()
        ends = sparse.indptr[1:-1]
        repeated = np.diff(sparse.indices) == 0
        repeated[ends[(ends > 0) & (ends < len(sparse.indices))] - 1] = False  # row borders
        if bool(repeated.any()):
            raise InputError("a sparse row names one token twice: add its weights up first")
    return Embeddings(
        dense=dense,
        sparse=sparse,
        multi=multi,
        offsets=None if multi is None else embeddings.offsets,
        fingerprint=embeddings.fingerprint,
    )


def check_payload(payload: Payload, owner: int) -> dict[str, Scalar]:
    """A payload as plain scalars; raises InputError naming the id and the key it cannot store."""
    plain: dict[str, Scalar] = {}
    for key, value in payload.items():
        if not isinstance(key, str) or not key or not _is_text(key):
            raise InputError(f"id {owner}: payload key {key!r} is no text")
        try:
            plain[key] = plain_scalar(value)
        except InputError as error:
            raise InputError(f"id {owner}: payload {key!r}: {error}") from error
    return plain


def plain_scalar(value: object) -> Scalar:
    """A value in the form filters compare: a float that is whole becomes an int."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and _is_text(value):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 63:
        value = int(value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    raise InputError(f"{value!r} is no text, finite number of 64 bits, or bool")


def _fits_float16(matrix: npt.NDArray[Any]) -> bool:
    if matrix.dtype == np.float16:  # by its bits: NumPy's float16 arithmetic is slow
        return bool(((matrix.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.abs(matrix).max(initial=0.0) < 65520.0)  # what rounds to at most 65504; no NaN


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)  # lone surrogates have no bytes


def check_filter(filter: Filter | None) -> dict[str, list[Scalar]]:
    """A filter with every key's choices as a list; raises InputError for an empty choice."""
    choices: dict[str, list[Scalar]] = {}
    for key, wanted in (filter or {}).items():
        several = isinstance(wanted, Sequence) and not isinstance(wanted, str)
        values = list(wanted) if several else [wanted]  # type: ignore[arg-type]
        if not values:
            raise InputError(f"the filter on {key!r} names no value")
        try:
            choices[key] = [plain_scalar(value) for value in values]
        except InputError as error:
            raise InputError(f"the filter on {key!r}: {error}") from error
    return choices


def check_search(
    spec: IndexSpec, queries: Embeddings, k: int, mode: Mode, candidates: int | None
) -> Embeddings:
    """The queries' parts that this search uses; raises InputError for what cannot be searched."""
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    for name, value in (("k", k), ("candidates", candidates)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    needed: tuple[str, ...] = {"hybrid": (), "multi": ("dense", "multi")}.get(mode, (mode,))
    for head in needed:
        if head not in spec.heads:
            raise InputError(
                f"mode {mode} needs {head}, which this index does not store "
                f"(it has {', '.join(spec.heads)}): choose another mode, or rebuild it with {head}"
            )
        if head not in queries.heads:
            raise InputError(f"mode {mode} needs {head}, which the queries lack")
    used = check_vectors(spec, queries)
    if mode == "hybrid" and used.dense is None and used.sparse is None:
        raise InputError("a hybrid search needs dense or sparse queries")
    if used.offsets is not None and len(used) and int(np.diff(used.offsets).min()) < 1:
        raise InputError(f"query {int(np.diff(used.offsets).argmin())} has no token vector")
    return used
