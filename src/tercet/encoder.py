"""Texts in, Embeddings out: the one place where tokenizer, batches and model meet.

Tokens are cut into batches of a bounded number of tokens, longest texts first; what the model
gives for tokens becomes rows in the order of the texts. Reads no files but the checkpoint; knows
nothing of indexes, documents or training. Shapes: N tokens of a batch, B texts, V vocabulary,
H hidden, M multi-vector size.
"""

import atexit
import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tercet.config import (
    HEADS,
    MAX_LENGTH,
    PAPER_WEIGHTS,
    ROLES,
    Head,
    Progress,
    Role,
    check_count,
    check_heads,
    strings,
)
from tercet.embeddings import Embeddings
from tercet.errors import InputError, ModelError
from tercet.layout import BUNDLED, EXPORT_FACTS, Settings
from tercet.runtime import Ints, Pass, Rows, Runtime, Vectors, check_asked
from tercet.sparse import SparseRows, packed_positions
from tercet.tokenizer import SHARD_CHARACTERS, TokenBatch, Tokenizer, text_shards

if TYPE_CHECKING:
    import torch

log = logging.getLogger("tercet")

BACKENDS = ("torch", "onnx")
# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
POOL_RUN = 512


def encode_tokens(
    runtime: Runtime,
    tokens: TokenBatch,
    heads: Sequence[Head],
    *,
    budget: int | None = None,
    multi_pool: int | None = None,
    sparse_top: int | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> Embeddings:
    """Embeddings of B tokenised texts, in their order, in batches of at most `budget` tokens.

    multi_pool merges a text's vectors to about one for so many, sparse_top keeps so many of its
    largest weights.
    """
    rows = RowCollector(runtime.dims, heads, len(tokens), multi_pool, sparse_top)
    for batch in runtime.passes(tokens, heads, budget=budget, progress=progress):
        rows.add(batch)
    return rows.embeddings(tokens.lengths, tokens.truncated, fingerprint)


# Libraries that encode run threads of their own, and let go of Python's lock meanwhile.


@dataclass
class _Process:
    """What this process may do: threads that encode now, whether it ends, whether it is a fork."""

    threads: set[int] = field(default_factory=set)
    ends: bool = False
    fork: bool = False
    torn: bool = False  # forked while another thread encoded, whose locks nobody lets go


_process = _Process()


@contextmanager
def encoding() -> Iterator[None]:
    """Marks this thread as one that encodes; makes a forked process able to.

    Raises InputError in a process that was forked while another thread encoded.
    """
    thread = threading.get_ident()
    if _process.torn:
        raise InputError(
            "this process was forked while another thread encoded: load the encoder in a process "
            "that was spawned, and open it there"
        )
    if _process.fork:  # who asks the parent's pools of threads waits for ever
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _process.fork = False
    outer = thread not in _process.threads
    _process.threads.add(thread)
    try:
        if _process.ends and threading.current_thread() is not threading.main_thread():
            raise SystemExit
        yield
    finally:
        if outer:
            _process.threads.discard(thread)


@atexit.register
def _end_threads(seconds: float = 10.0) -> None:
    """Stops daemon threads that encode: Python ends threads in C++ code by ending the process."""
    _process.ends = True
    own, told = threading.get_ident(), set[int]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        encode = _process.threads - {own}
        for thread in encode - told:
            stop = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), stop)
        told |= encode
        if not encode and not told & {thread.ident for thread in threading.enumerate()}:
            break
        time.sleep(0.005)


def _after_fork() -> None:
    others = _process.threads - {threading.get_ident()}
    _process.torn, _process.fork = _process.torn or bool(others), True
    _process.threads -= others


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Loaded(Protocol):
    """A checkpoint that is ready to run; `tercet.checkpoint.Checkpoint` is one."""

    @property
    def runtime(self) -> Runtime:
        """What runs it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of its tokens."""

    @property
    def settings(self) -> Settings:
        """What its tercet.json says."""

    @property
    def fingerprint(self) -> str:
        """Names weights, tokenizer and prefixes."""


class Encoder:
    """A model that is ready to encode, in any thread; in a forked process with one thread.

    Pickled or copied it is a recipe to load it again from where it was loaded.

    Attributes: source (None: the bundled model), runtime (what runs it), fingerprint, weights (of
    the hybrid sum: the model's own, else the paper's), heads, dims (dense, vocabulary, multi),
    tokenizer, settings, max_length (tokens that the model has positions for), dtype and device (by
    name).
    """

    def __init__(self, checkpoint: Loaded, *, source: str | None = None) -> None:
        """Wraps a checkpoint as it is, in its dtype and on its device; see `load`."""
        self.runtime: Runtime = checkpoint.runtime
        self.source = source
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.settings
        self.fingerprint = checkpoint.fingerprint
        self.weights = checkpoint.settings.weights or PAPER_WEIGHTS
        self.min_score = checkpoint.settings.min_score
        self.heads, self.dims = self.runtime.heads, dict(self.runtime.dims)
        self.max_length = self.runtime.config.max_length
        self.dtype, self.device = self.runtime.dtype, self.runtime.device
        self._recipe: tuple[Any, ...] | None = None  # what `load` was given

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is None:
            raise InputError(
                "an Encoder that was made of a checkpoint in memory cannot be pickled or copied: "
                "write it to a folder and use Encoder.load"
            )
        return _load_again, (self.fingerprint, *self._recipe), {"weights": self.weights}

    @staticmethod
    def load(
        source: str | Path | None = None,
        *,
        backend: str | None = None,
        device: "str | torch.device | None" = None,
        dtype: "str | torch.dtype | None" = None,
        revision: str | None = None,
        download: bool = True,
    ) -> "Encoder":
        """Loads a folder or a hub id; no source is the model that comes with Tercet.

        download: False takes a hub id from the hub's local cache alone and asks nobody.
        backend is torch or onnx (ONNX Runtime), by default torch where it is installed; the folder
        of an export (`tercet export`) has its own. device defaults to a GPU where there is one.
        dtype defaults to bfloat16 on a GPU and on CPUs that multiply it (AMX, AVX512-BF16), else to
        float32; ONNX Runtime computes in float32 on the CPU. Raises ModelError for what cannot be
        loaded, InputError for a backend, device or dtype that is not there, MissingExtraError for a
        library that is not installed.
        """
        if source is None and not BUNDLED.is_dir():
            raise ModelError(
                f"this installation has no bundled model ({BUNDLED} is absent): give a model's"
                " folder or hub id"
            )
        folder = BUNDLED if source is None else source
        given: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "download": download,
        }
        checkpoint: Loaded
        if (Path(folder) / EXPORT_FACTS).exists():
            from tercet.exports import load_export

            checkpoint = load_export(folder, backend, device=device, dtype=dtype)
        elif chosen_backend(backend) == "torch":
            from tercet.checkpoint import load_checkpoint

            checkpoint = load_checkpoint(folder, **given)
        else:
            from tercet.onnx import load_onnx

            checkpoint = load_onnx(folder, **given)
        if source is not None and Path(source).is_dir():
            source = Path(source).resolve()
        encoder = Encoder(checkpoint, source=None if source is None else str(source))
        encoder._recipe = (encoder.source, {"backend": backend, **given})
        return encoder

    def check(self, heads: Sequence[Head]) -> None:
        """Raises ModelError for a head that the model lacks."""
        check_asked(heads, self.heads)

    @encoding()
    def encode(
        self,
        texts: Iterable[str],
        *,
        heads: Sequence[Head] = HEADS,
        max_length: int = MAX_LENGTH,
        role: Role = "passage",
        mcls: int | None = None,
        token_budget: int | None = None,
        progress: Progress | None = None,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
    ) -> Embeddings:
        """Encodes B texts; one row each, in their order.

        max_length counts the special tokens; what is cut off is marked in `truncated` and logged.
        role chooses the prefix that the model's settings have, if any. mcls puts a [CLS] before
        every so many tokens and averages them (M3 paper, section 3.4: 256). token_budget bounds
        the tokens of a batch. multi_pool merges a text's vectors to about one for so many,
        sparse_top keeps so many of its largest weights. progress is called with the tokens done
        and their total. Raises InputError for a bad text or option, ModelError for a head that
        the model lacks.
        """
        for name, value in (("multi_pool", multi_pool), ("sparse_top", sparse_top)):
            if value is not None:
                check_count(name, value)
        heads = check_heads(heads)
        self.check(heads)
        return encode_tokens(
            self.runtime,
            self.tokenize(texts, max_length=max_length, role=role, mcls=mcls),
            heads,
            budget=token_budget,
            multi_pool=multi_pool,
            sparse_top=sparse_top,
            fingerprint=self.fingerprint,
            progress=progress,
        )

    def stream(
        self,
        texts: Iterable[str],
        *,
        shard: int = 1024,
        shard_characters: int = SHARD_CHARACTERS,
        max_length: int = MAX_LENGTH,
        **options: Any,
    ) -> Iterator[Embeddings]:
        """Encodes any number of texts in their order, at most `shard` at a time, as `encode` does.

        A shard is also closed after about a million characters, so memory stays bounded. options
        are those of `encode`.
        """
        shard = check_count("shard", shard)
        limit = self._limit(max_length)
        for part in text_shards(texts, shard, limit, characters=shard_characters):
            yield self.encode(part, max_length=max_length, **options)

    @encoding()
    def encode_spans(
        self,
        texts: Iterable[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        *,
        heads: Sequence[Head] = HEADS,
        max_length: int = MAX_LENGTH,
        role: Role = "passage",
        token_budget: int | None = None,
        progress: Progress | None = None,
        multi_pool: int | None = None,
    ) -> Embeddings:
        """Late chunking: one pass over each text, one row per span of characters [start, end).

        The dense vector is the mean of the states of the span's tokens, normalised; the sparse
        weights and multi-vectors are those of its tokens. A span without a token (empty, or behind
        the cut at max_length, and then marked as truncated) has the text's [CLS] state, no weight
        and the vector of </s>. multi_pool as in `encode`. Source: Günther et al. 2024, arXiv
        2409.04701.
        """
        heads = check_heads(heads)
        self.check(heads)
        limit = self._limit(max_length)
        tokens, text_of, first, last = self._locate(texts, spans, limit, role)
        truncated = last > limit - 1  # </s> is no token of a span
        first, last = np.minimum(first, limit - 1), np.minimum(last, limit - 1)
        row_of = np.empty(len(tokens), dtype=np.int64)  # of a text in the batch, or -1
        if multi_pool is not None:
            check_count("multi_pool", multi_pool)
        collector = RowCollector(self.dims, heads, len(last), multi_pool)
        others = [head for head in heads if head != "dense"]
        for batch in self.runtime.passes(
            tokens, others, budget=token_budget, states="dense" in heads, progress=progress
        ):
            row_of[:] = -1
            row_of[batch.rows] = np.arange(len(batch.rows))
            rows = np.flatnonzero(row_of[text_of] >= 0)
            start, end = (batch.tokens.offsets[row_of[text_of[rows]] + side] for side in (0, 1))
            counts = (last - first)[rows]
            empty, starts = counts == 0, start + first[rows]
            counts = np.maximum(counts, 1)
            owners = np.repeat(np.arange(len(rows)), counts)
            pooled = packed_positions(np.where(empty, start, starts), counts)
            counted = packed_positions(np.where(empty, end - 1, starts), counts)
            if batch.states is not None:
                sums = np.add.reduceat(batch.states[pooled], np.cumsum(counts) - counts, axis=0)
                collector.add_dense(rows, unit_rows(sums))
            weights = None if batch.weights is None else batch.weights[counted]
            collector.add_sparse(rows, owners, batch.tokens.ids[counted], weights)
            collector.add_multi(rows, owners, None if batch.multi is None else batch.multi[counted])
        _log_truncated(truncated, limit)
        return collector.embeddings(last - first, truncated, self.fingerprint)

    def _locate(
        self,
        texts: Iterable[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        max_length: int,
        role: Role,
    ) -> tuple[TokenBatch, Rows, Rows, Rows]:
        """Tokens of B texts; of each span its text, its first token and one past its last, (R,).

        Tokens are counted in the text with its [CLS], and behind a cut as well.
        """
        texts = self._prefixed(texts, role)
        if len(texts) != len(spans):
            raise InputError(f"{len(texts)} texts, but spans of {len(spans)}")
        shift = len(self.settings.prefix(role))
        contents, bounds = [], [np.zeros((0, 3), dtype=np.int64)]
        for row, (text, inside) in enumerate(zip(texts, spans, strict=True)):
            ids, offsets = self.tokenizer.with_offsets(text)
            contents.append(ids)
            try:
                given = np.array(inside if len(inside) else np.zeros((0, 2), dtype=np.int64))
            except (TypeError, ValueError):  # no list, or of several lengths
                given = np.zeros(0)
            if given.ndim != 2 or given.shape[1] != 2 or given.dtype.kind not in "iu":
                raise InputError(f"text {row}: spans are pairs (start, end), got {inside!r}")
            start, end = given.astype(np.int64).T + shift
            if ((start < shift) | (end < start)).any():
                raise InputError(f"text {row}: a span must be 0 <= start <= end, got {inside}")
            first = np.searchsorted(offsets[:, 1], start, side="right")
            last = np.searchsorted(offsets[:, 0], end, side="left")
            last = np.where(start < end, np.maximum(first, last), first)
            bounds.append(np.stack((np.full(len(first), row), first + 1, last + 1), axis=1))
        text_of, first, last = np.concatenate(bounds).T
        return self.tokenizer.frame(contents, max_length=max_length), text_of, first, last

    @encoding()
    def tokenize(
        self,
        texts: Iterable[str],
        *,
        max_length: int = MAX_LENGTH,
        role: Role = "passage",
        mcls: int | None = None,
    ) -> TokenBatch:
        """Token ids of B texts with their role's prefix, cut to what the model reads (logged)."""
        limit = self._limit(max_length)
        tokens = self.tokenizer.encode(self._prefixed(texts, role), max_length=limit, mcls=mcls)
        _log_truncated(tokens.truncated, limit)
        return tokens

    def _limit(self, max_length: int) -> int:
        return min(
            check_count("max_length, [CLS] and </s> included,", max_length, 3), self.max_length
        )

    def _prefixed(self, texts: Iterable[str], role: Role) -> list[str]:
        if role not in ROLES:
            raise InputError(f"unknown role {role!r}: choose from {', '.join(ROLES)}")
        prefix = self.settings.prefix(role)
        return [prefix + text for text in strings(texts)]


def _load_again(fingerprint: str, source: str | None, options: dict[str, Any]) -> Encoder:
    """What a pickled encoder becomes; raises ModelError where its model is another one now."""
    encoder = Encoder.load(source, **options)
    if encoder.fingerprint != fingerprint:
        raise ModelError(
            f"{source or 'the bundled model'} is {encoder.fingerprint} here, and was {fingerprint} "
            "where the encoder was pickled: load the same model in both"
        )
    return encoder


class RowCollector:
    """Takes what batches give, in any order, and gives Embeddings in the order of the rows."""

    def __init__(
        self,
        dims: Mapping[str, int],
        heads: Sequence[Head],
        count: int,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
        *,
        half: bool = True,
    ) -> None:
        """dims as in `Encoder.dims`; count is the number of rows.

        half=False keeps multi-vectors in float32.
        """
        self._dims, self._heads = dims, heads
        self._pool, self._top = multi_pool or 1, sparse_top
        self._dtype: Any = np.float16 if half else np.float32
        self._dense = np.empty((count if "dense" in heads else 0, dims["dense"]), dtype=np.float32)
        none, shape = np.zeros(0, dtype=np.int64), (0, dims["vocabulary"])
        self._sparse_rows = [none]
        self._sparse = [max_by_id(none, none, none.astype(np.float32), shape)]
        self._multi: list[tuple[Rows, npt.NDArray[Any]]] = []
        self._counts = np.zeros(count, dtype=np.int64)  # vectors of each row

    def add(self, batch: Pass) -> None:
        """The representations of a batch's texts."""
        owners, cls = batch.owners, batch.tokens.cls
        self.add_dense(batch.rows, batch.dense)
        self.add_sparse(batch.rows, owners, batch.tokens.ids, batch.weights)
        multi = None if batch.multi is None else np.delete(batch.multi, cls, axis=0)
        self.add_multi(batch.rows, np.delete(owners, cls), multi)

    def add_dense(self, rows: Rows, vectors: Vectors | None) -> None:
        """A batch's (B, D) vectors of these rows, if any."""
        if vectors is not None:
            self._dense[rows] = vectors

    def add_sparse(self, rows: Rows, owners: Rows, ids: Ints, weights: Vectors | None) -> None:
        """A batch's (N,) token ids and weights, if any; owners (N,) index `rows`."""
        if weights is not None:
            shape = (len(rows), self._dims["vocabulary"])
            self._sparse_rows.append(rows)
            self._sparse.append(max_by_id(owners, ids, weights, shape, top=self._top))

    def add_multi(self, rows: Rows, owners: Rows, vectors: npt.NDArray[Any] | None) -> None:
        """A batch's (N, M) token vectors, if any; owners (N,) index `rows` and do not decrease."""
        if vectors is None:
            return
        counts = np.bincount(owners, minlength=len(rows))
        if self._pool > 1:
            texts = np.split(vectors.astype(np.float32), np.cumsum(counts)[:-1])
            pooled = [pool_tokens(text, self._pool) for text in texts]
            counts = np.array([len(text) for text in pooled])
            vectors = np.concatenate(pooled)
        self._counts[rows] = counts
        self._multi.append((rows, vectors.astype(self._dtype, copy=False)))

    def embeddings(
        self, lengths: Ints, truncated: npt.NDArray[np.bool_], fingerprint: str
    ) -> Embeddings:
        """All rows, in order; what was collected is used up.

        Raises ModelError where a number is nan or infinite.
        """
        sparse = multi = offsets = None
        if "sparse" in self._heads:
            order = np.argsort(np.concatenate(self._sparse_rows))
            sparse = SparseRows.stacked(self._sparse)[order]
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=self._dtype)
            while self._multi:  # each part is let go, so that they are not all held twice
                rows, vectors = self._multi.pop()
                multi[packed_positions(offsets[rows], self._counts[rows])] = vectors
        made = Embeddings(
            dense=self._dense if "dense" in self._heads else None,
            sparse=sparse,
            multi=multi,
            offsets=offsets,
            lengths=lengths.astype(np.int32),
            truncated=truncated,
            fingerprint=fingerprint,
        )
        made.check_finite()
        return made


def gpu_count() -> int:
    """GPUs that torch can use."""
    if not find_spec("torch"):
        return 0
    import torch

    return torch.cuda.device_count()


def chosen_backend(name: str | None) -> str:
    """The backend of that name, by default torch where it is installed; raises InputError."""
    if name not in (None, *BACKENDS):
        raise InputError(f"backend {name!r}: choose from {', '.join(BACKENDS)}")
    return name or ("torch" if find_spec("torch") else "onnx")


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> SparseRows:
    """(N,) weights of tokens -> (B, V): the largest weight of each id in each text, ids increasing.

    owners (N,) is each token's text; shape is (B, V). Weights of 0 and below are left out. With
    top, only so many of the largest weights of a text stay.
    """
    positive = np.flatnonzero(~(weights <= 0))  # nan stays, to be seen
    made = SparseRows.from_pairs(
        owners[positive], ids[positive], weights[positive], shape, np.maximum
    )
    if top is None:
        return made
    rows = made.rows
    ranked = np.lexsort((-made.data, rows))
    rank = np.arange(made.nnz) - made.indptr[rows]  # the same with rows[ranked]
    return made.kept(np.sort(ranked[rank < top]))


def pool_tokens(vectors: Vectors, factor: int, *, run: int = POOL_RUN) -> Vectors:
    """Merges the most alike of a text's unit vectors: (T, M) -> (about T / factor, M) unit rows.

    Ward's clustering, the mean of each cluster, normalised, in the order of their first tokens;
    texts over `run` tokens in runs of that many. Source: Clavié, Chaffin and Adams 2024, arXiv
    2409.14683 ("hierarchical" pooling).
    """
    if factor == 1 or len(vectors) <= 1:
        return vectors
    parts = []
    for start in range(0, len(vectors), run):
        block = vectors[start : start + run]
        firsts, cluster_of = np.unique(
            ward_clusters(block, -(-len(block) // factor)), return_inverse=True
        )
        sums = np.zeros((len(firsts), block.shape[1]), dtype=np.float32)
        np.add.at(sums, cluster_of, block)
        parts.append(sums)
    pooled = np.concatenate(parts)
    return unit_rows(pooled)  # opposite ones, which clustering does not join, could cancel out


def ward_clusters(vectors: Vectors, count: int) -> Rows:
    """(T,) the first vector of the cluster of each, in about `count` clusters by Ward's method.

    What lies no further apart than the last two that were joined is joined as well, as by scipy's
    `fcluster(ward(vectors), count, "maxclust")`, but for ties. Time and memory grow with T squared.
    """
    points = vectors.astype(np.float64)
    norms = np.einsum("tm,tm->t", points, points)
    gaps = (norms[:, None] + norms) / 2 - points @ points.T  # what joining two adds to variance
    np.fill_diagonal(gaps, np.inf)
    left, highest = len(points), 1e-12  # equal vectors differ by rounding
    sizes, first = np.ones(left), np.arange(left)
    near = gaps.argmin(axis=1)
    least = gaps[first, near]
    while left > 1:
        a = int(least.argmin())
        b, gap = int(near[a]), least[a]
        if left <= count and gap > highest:
            break
        left, highest = left - 1, max(highest, gap)
        merged = sizes * (gaps[a] + gaps[b] - gap) + sizes[a] * gaps[a] + sizes[b] * gaps[b]
        sizes[a] += sizes[b]
        gaps[a] = gaps[:, a] = merged / (sizes + sizes[a])
        gaps[b] = gaps[:, b] = least[b] = np.inf
        first[b], near[b] = a, -1
        stale = np.flatnonzero((near == a) | (near == b))  # nothing came nearer to the others
        near[stale] = nearest = gaps[stale].argmin(axis=1)
        least[stale] = gaps[stale, nearest]
    while (first != first[first]).any():
        first = first[first]
    return first


def unit_rows(vectors: Vectors) -> Vectors:
    """(N, M) rows of length 1; zeros stay."""
    out: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return out


def _log_truncated(truncated: npt.NDArray[np.bool_], limit: int) -> None:
    if truncated.any():
        count, of = int(truncated.sum()), len(truncated)
        log.warning("%d of %d texts were cut: they have more than %d tokens", count, of, limit)
