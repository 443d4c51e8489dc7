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
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from tercet.checkpoint import Checkpoint, read_checkpoint
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
from tercet.embeddings import Embeddings, packed_positions
from tercet.errors import InputError, ModelError
from tercet.model import PADDING, Inputs, M3Model, Outputs, mean_vectors
from tercet.tokenizer import SHARD_CHARACTERS, TokenBatch, text_shards

log = logging.getLogger("tercet")

Ints = npt.NDArray[np.integer]
Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

BUNDLED = Path(__file__).parent / "models" / "small"
CPU_BUDGET, GPU_BUDGET = 4096, 1 << 16  # tokens of a batch; measured on CPU
# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
POOL_RUN = 512


def batches(lengths: Ints, budget: int) -> Iterator[Rows]:
    """Row numbers from the longest text to the shortest, at most `budget` tokens or one text each.

    Equal ones keep their order. Longest first: what does not fit in memory shows at once, and time
    left is never told too low. Raises InputError where the budget is below 1.
    """
    budget = check_count("token_budget, the tokens of a batch,", budget)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    ends = np.cumsum(lengths[order], dtype=np.int64)
    first, used = 0, 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(ends, used + budget, side="right")))
        yield order[first:last]
        first, used = last, int(ends[last - 1])


def default_budget(device: torch.device) -> int:
    """Tokens of a batch: on CPU what stays in its caches, elsewhere what keeps the device busy."""
    return CPU_BUDGET if device.type == "cpu" else GPU_BUDGET


@dataclass(frozen=True)
class ModelBatch:
    """One pass: which texts (rows of what was given), their tokens, last states (N, H), outputs."""

    rows: Rows
    tokens: TokenBatch
    states: Tensor
    outputs: Outputs

    @property
    def owners(self) -> Rows:
        """(N,) the text of each token, counted within the batch."""
        return np.repeat(np.arange(len(self.rows)), self.tokens.lengths)


def run_batches(
    model: M3Model,
    tokens: TokenBatch,
    heads: Sequence[Head] = (),
    *,
    budget: int | None = None,
    padding: float | None = None,
    autocast: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Iterator[ModelBatch]:
    """Passes of the model over B texts in batches of at most `budget` tokens, without gradients.

    Runs in evaluation mode and leaves the model in the mode that it was in. budget and padding (as
    in `Layout`) default to what suits the device; autocast is the dtype of products, where it is
    not the model's own. progress is called with the tokens done and their total.
    """
    model.check(heads)
    device = model.device
    if device.type == "cuda" and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise InputError(
            f"the model is on {device}, which a forked process cannot use: load it in a process "
            "that was spawned"
        )
    if budget is None:
        budget = default_budget(device)
    if padding is None:
        # On CPU a call more costs little and padding costs its products; elsewhere the reverse.
        padding = 0.0 if device.type == "cpu" else PADDING
    done = 0
    for rows in batches(tokens.lengths, budget):
        batch = tokens.take(rows)
        inputs = Inputs.of(batch, device, padding=padding)
        cast: Any = nullcontext()
        if autocast not in (None, model.dtype):
            cast = torch.autocast(device.type, autocast)
        training = model.training
        if training:
            model.eval()
        with torch.inference_mode(), cast:
            states = model.backbone(inputs.ids, inputs.layout)
            outputs = model.represent(states, inputs, heads)
        if training:
            model.train()
        yield ModelBatch(rows, batch, states, outputs)
        done += len(batch.ids)
        if progress is not None:
            progress(done, len(tokens.ids))


def encode_tokens(
    model: M3Model,
    tokens: TokenBatch,
    heads: Sequence[Head],
    *,
    budget: int | None = None,
    padding: float | None = None,
    autocast: torch.dtype | None = None,
    multi_pool: int | None = None,
    sparse_top: int | None = None,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> Embeddings:
    """Embeddings of B tokenised texts, in their order, as `run_batches` gives them.

    multi_pool merges a text's vectors to about one for so many, sparse_top keeps so many of its
    largest weights.
    """
    rows = RowCollector(model.dims, heads, len(tokens), multi_pool, sparse_top)
    for batch in run_batches(
        model, tokens, heads, budget=budget, padding=padding, autocast=autocast, progress=progress
    ):
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


class Encoder:
    """A model that is ready to encode, in any thread; in a forked process with one thread.

    Pickled or copied it is a recipe to load it again from where it was loaded.

    Attributes: source (None: the bundled model), model, fingerprint, weights (of the hybrid sum:
    the model's own, else the paper's), heads, dims (dense, vocabulary, multi), tokenizer, settings,
    max_length (tokens that the model has positions for), dtype, device.
    """

    def __init__(self, checkpoint: Checkpoint, *, source: str | None = None) -> None:
        """Wraps a checkpoint as it is, in its dtype and on its device; see `load`."""
        self.model = checkpoint.model
        self.source = source
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.settings
        self.fingerprint = checkpoint.fingerprint
        self.weights = checkpoint.settings.weights or PAPER_WEIGHTS
        self.min_score = checkpoint.settings.min_score
        self.heads, self.dims = self.model.heads, self.model.dims
        self.max_length = self.model.backbone.config.max_length
        self.dtype, self.device = self.model.dtype, self.model.device
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
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        download: bool = True,
    ) -> "Encoder":
        """Loads a folder or a hub id; no source is the model that comes with Tercet.

        download: False takes a hub id from the hub's local cache alone and asks nobody.
        device defaults to a GPU where there is one. dtype defaults to bfloat16 on a GPU and on
        CPUs that multiply it (AMX, AVX512-BF16), else to float32. Raises ModelError for what
        cannot be loaded, InputError for a device or dtype that is not there.
        """
        if source is None and not BUNDLED.is_dir():
            raise ModelError(
                f"this installation has no bundled model ({BUNDLED} is absent): give a model's"
                " folder or hub id"
            )
        usable = usable_device(device)
        checkpoint = read_checkpoint(
            BUNDLED if source is None else source,
            revision=revision,
            dtype=_dtype(dtype, usable),
            device=usable,
            download=download,
        )
        checkpoint.model.backbone.pack()
        if source is not None and Path(source).is_dir():
            source = Path(source).resolve()
        encoder = Encoder(checkpoint, source=None if source is None else str(source))
        encoder._recipe = (encoder.source, device, dtype, revision, download)
        return encoder

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
        self.model.check(heads)
        return encode_tokens(
            self.model,
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
    ) -> Embeddings:
        """Late chunking: one pass over each text, one row per span of characters [start, end).

        The dense vector is the mean of the states of the span's tokens, normalised; the sparse
        weights and multi-vectors are those of its tokens. A span without a token (empty, or behind
        the cut at max_length, and then marked as truncated) has the text's [CLS] state, no weight
        and the vector of </s>. Source: Günther et al. 2024, arXiv 2409.04701.
        """
        heads = check_heads(heads)
        self.model.check(heads)
        limit = self._limit(max_length)
        tokens, text_of, first, last = self._locate(texts, spans, limit, role)
        truncated = last > limit - 1  # </s> is no token of a span
        first, last = np.minimum(first, limit - 1), np.minimum(last, limit - 1)
        row_of = np.empty(len(tokens), dtype=np.int64)  # of a text in the batch, or -1
        collector = RowCollector(self.dims, heads, len(last))
        for batch in run_batches(
            self.model,
            tokens,
            [head for head in heads if head != "dense"],
            budget=token_budget,
            progress=progress,
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
            out, positions = batch.outputs, torch.from_numpy(counted).to(self.device)
            if "dense" in heads:
                of, tokens_of = (torch.from_numpy(i).to(self.device) for i in (owners, pooled))
                collector.add_dense(rows, mean_vectors(batch.states, tokens_of, of, len(rows)))
            weights = None if out.weights is None else out.weights[positions]
            collector.add_sparse(rows, owners, batch.tokens.ids[counted], weights)
            collector.add_multi(rows, owners, None if out.multi is None else out.multi[positions])
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


def _load_again(fingerprint: str, source: str | None, *given: Any) -> Encoder:
    """What a pickled encoder becomes; raises ModelError where its model is another one now."""
    options = dict(zip(("device", "dtype", "revision", "download"), given, strict=True))
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
        self._pool, self._top, self._half = multi_pool or 1, sparse_top, half
        self._dense = np.empty((count if "dense" in heads else 0, dims["dense"]), dtype=np.float32)
        none, shape = np.zeros(0, dtype=np.int64), (0, dims["vocabulary"])
        self._sparse_rows = [none]
        self._sparse = [max_by_id(none, none, none.astype(np.float32), shape)]
        self._multi: list[tuple[Rows, npt.NDArray[Any]]] = []
        self._counts = np.zeros(count, dtype=np.int64)  # vectors of each row

    def add(self, batch: ModelBatch) -> None:
        """The representations of a batch's texts."""
        out, owners = batch.outputs, batch.owners
        self.add_dense(batch.rows, out.dense)
        self.add_sparse(batch.rows, owners, batch.tokens.ids, out.weights)
        multi = None if out.multi is None else out.multi[out.multi_mask]
        self.add_multi(batch.rows, np.delete(owners, batch.tokens.cls), multi)

    def add_dense(self, rows: Rows, vectors: Tensor | None) -> None:
        """A batch's (B, D) vectors of these rows, if any."""
        if vectors is not None:
            self._dense[rows] = vectors.cpu().numpy()

    def add_sparse(self, rows: Rows, owners: Rows, ids: Ints, weights: Tensor | None) -> None:
        """A batch's (N,) token ids and weights, if any; owners (N,) index `rows`."""
        if weights is not None:
            shape = (len(rows), self._dims["vocabulary"])
            self._sparse_rows.append(rows)
            self._sparse.append(max_by_id(owners, ids, weights.cpu().numpy(), shape, top=self._top))

    def add_multi(self, rows: Rows, owners: Rows, vectors: Tensor | None) -> None:
        """A batch's (N, M) token vectors, if any; owners (N,) index `rows` and do not decrease."""
        if vectors is None:
            return
        counts = np.bincount(owners, minlength=len(rows))
        if self._pool > 1:
            texts = np.split(vectors.cpu().numpy(), np.cumsum(counts)[:-1])
            pooled = [pool_tokens(text, self._pool) for text in texts]
            counts = np.array([len(text) for text in pooled])
            vectors = torch.from_numpy(np.concatenate(pooled))
        self._counts[rows] = counts
        self._multi.append((rows, (vectors.half() if self._half else vectors).cpu().numpy()))

    def embeddings(
        self, lengths: Ints, truncated: npt.NDArray[np.bool_], fingerprint: str
    ) -> Embeddings:
        """All rows, in order; what was collected is used up.

        Raises ModelError where a number is nan or infinite.
        """
        sparse = multi = offsets = None
        if "sparse" in self._heads:
            order = np.argsort(np.concatenate(self._sparse_rows))
            sparse = sp.csr_array(sp.vstack(self._sparse, format="csr"))[order]
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            dtype: Any = np.float16 if self._half else np.float32
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=dtype)
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


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> sp.csr_array:
    """(N,) weights of tokens -> (B, V): the largest weight of each id in each text, ids increasing.

    owners (N,) is each token's text; shape is (B, V). Weights of 0 and below are left out. With
    top, only so many of the largest weights of a text stay.
    """
    positive = np.flatnonzero(~(weights <= 0))  # nan stays, to be seen
    keys = owners[positive].astype(np.int64) * shape[1] + ids[positive]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[positive[order]]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)])
    best = np.maximum.reduceat(weights, starts) if len(starts) else weights
    rows, columns = np.divmod(keys[starts], shape[1])
    if top is not None:
        ranked = np.lexsort((-best, rows))
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # the same with rows[ranked]
        stay = np.sort(ranked[rank < top])
        rows, columns, best = rows[stay], columns[stay], best[stay]
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=shape[0]))))
    return sp.csr_array((best.astype(np.float32), columns.astype(np.int32), indptr), shape=shape)


def pool_tokens(vectors: Vectors, factor: int, *, run: int = POOL_RUN) -> Vectors:
    """Merges the most alike of a text's unit vectors: (T, M) -> (about T / factor, M) unit rows.

    Ward's clustering, the mean of each cluster, normalised, in the order of their first tokens;
    texts over `run` tokens in runs of that many. Source: Clavié, Chaffin and Adams 2024, arXiv
    2409.14683 ("hierarchical" pooling).
    """
    if factor == 1 or len(vectors) <= 1:
        return vectors
    from scipy.cluster.hierarchy import fcluster, ward

    parts = []
    for start in range(0, len(vectors), run):
        block = vectors[start : start + run]
        clusters = -(-len(block) // factor)
        labels = np.zeros(len(block), dtype=np.int32)
        if clusters > 1:
            labels = fcluster(ward(block), clusters, criterion="maxclust")
        _, firsts, cluster_of = np.unique(labels, return_index=True, return_inverse=True)
        sums = np.zeros((len(firsts), block.shape[1]), dtype=np.float32)
        np.add.at(sums, cluster_of, block)
        parts.append(sums[np.argsort(firsts)])
    pooled = np.concatenate(parts)
    # opposite vectors, which clustering does not join, could cancel out
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    out: Vectors = pooled / np.maximum(norms, 1e-12)
    return out


def _log_truncated(truncated: npt.NDArray[np.bool_], limit: int) -> None:
    if truncated.any():
        count, of = int(truncated.sum()), len(truncated)
        log.warning("%d of %d texts were cut: they have more than %d tokens", count, of, limit)


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device of that name, a GPU where none is named; raises InputError if it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(f"device {str(name)!r} is not there: {first}") from error
    return device


def _dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if name is None:
        fast = device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if dtype in (torch.float32, torch.bfloat16) or (
        dtype == torch.float16 and device.type != "cpu"
    ):
        return dtype
    raise InputError(f"dtype {name!r}: choose float32 or bfloat16 (on a GPU also float16)")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products: AMX or AVX512-BF16."""
    return any(
        check() for check in (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)
    )
