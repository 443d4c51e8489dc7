"""Texts in, Embeddings out: the one place where tokenizer, batches and model meet.

Tokens are cut into batches of a bounded number of tokens, longest texts first; what the model
gives for tokens becomes rows in the order of the texts. Reads no files but the checkpoint; knows
nothing of indexes, documents or training. Shapes: N tokens of a batch, B texts, V vocabulary,
H hidden, M multi-vector size.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
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
    check_heads,
)
from tercet.embeddings import Embeddings, packed_positions
from tercet.errors import InputError, ModelError
from tercet.model import PADDING, Inputs, M3Model, Outputs, mean_vectors
from tercet.tokenizer import READ, TokenBatch, Tokenizer, check_texts

log = logging.getLogger("tercet")

Ints = npt.NDArray[np.integer]
Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

BUNDLED = Path(__file__).parent / "models" / "small"
CPU_BUDGET, GPU_BUDGET = 4096, 1 << 16  # tokens of a batch; measured on CPU
SHARD_CHARACTERS = 1 << 20  # of text that `stream` holds at once, about
# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
POOL_RUN = 512


def batches(lengths: Ints, budget: int) -> Iterator[Rows]:
    """Row numbers from the longest text to the shortest, at most `budget` tokens or one text each.

    Equal ones keep their order. Longest first: what does not fit in memory shows at once, and time
    left is never told too low. Raises InputError where the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"a batch needs a budget of at least 1 token, got {budget}")
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
    collector = RowCollector(model.dims, heads, len(tokens), multi_pool, sparse_top)
    passes = run_batches(
        model, tokens, heads, budget=budget, padding=padding, autocast=autocast, progress=progress
    )
    for one in passes:
        out, owners = one.outputs, one.owners
        collector.add_dense(one.rows, out.dense)
        collector.add_sparse(one.rows, owners, one.tokens.ids, out.weights)
        multi = None if out.multi is None else out.multi[out.multi_mask]
        collector.add_multi(one.rows, np.delete(owners, one.tokens.cls), multi)
    return collector.embeddings(tokens.lengths, tokens.truncated, fingerprint)


class Encoder:
    """A model that is ready to encode.

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
        self.heads, self.dims = self.model.heads, self.model.dims
        self.max_length = self.model.backbone.config.max_length
        self.dtype, self.device = self.model.dtype, self.model.device

    @staticmethod
    def load(
        source: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
    ) -> "Encoder":
        """Loads a folder or a hub id; no source is the model that comes with Tercet.

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
        )
        checkpoint.model.backbone.pack()
        if source is not None and Path(source).is_dir():
            source = Path(source).resolve()
        return Encoder(checkpoint, source=None if source is None else str(source))

    def encode(
        self,
        texts: Sequence[str],
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
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        heads = self.checked_heads(heads)
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
        if shard < 1:
            raise InputError(f"a shard holds at least 1 text, got {shard}")
        limit = min(max_length, self.max_length)
        for some in text_shards(texts, shard, limit, characters=shard_characters):
            yield self.encode(some, max_length=max_length, **options)

    def encode_spans(
        self,
        texts: Sequence[str],
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
        heads = self.checked_heads(heads)
        limit = min(max_length, self.max_length)
        shift = len(self.settings.prefix(role))
        table = _SpanTable.of(self.tokenizer, self._prefixed(texts, role), spans, limit, shift)
        collector = RowCollector(self.dims, heads, len(table.texts))
        passes = run_batches(
            self.model,
            table.tokens,
            [head for head in heads if head != "dense"],
            budget=token_budget,
            progress=progress,
        )
        for one in passes:
            rows, owners, pooled, counted = table.within(one)
            out, positions = one.outputs, torch.from_numpy(counted).to(self.device)
            if "dense" in heads:
                collector.add_dense(
                    rows,
                    mean_vectors(
                        one.states,
                        torch.from_numpy(pooled).to(self.device),
                        torch.from_numpy(owners).to(self.device),
                        len(rows),
                    ),
                )
            weights = None if out.weights is None else out.weights[positions]
            collector.add_sparse(rows, owners, one.tokens.ids[counted], weights)
            collector.add_multi(rows, owners, None if out.multi is None else out.multi[positions])
        _log_truncated(table.truncated, limit)
        return collector.embeddings(table.last - table.first, table.truncated, self.fingerprint)

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        max_length: int = MAX_LENGTH,
        role: Role = "passage",
        mcls: int | None = None,
    ) -> TokenBatch:
        """Token ids of B texts with their role's prefix, cut to what the model reads (logged)."""
        limit = min(max_length, self.max_length)
        tokens = self.tokenizer.encode(self._prefixed(texts, role), max_length=limit, mcls=mcls)
        _log_truncated(tokens.truncated, limit)
        return tokens

    def checked_heads(self, heads: Sequence[Head]) -> tuple[Head, ...]:
        """The heads in their fixed order; raises InputError or, where one lacks, ModelError."""
        ordered = check_heads(tuple(heads))
        self.model.check(ordered)
        return ordered

    def _prefixed(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        if role not in ROLES:
            raise InputError(f"unknown role {role!r}: choose from {', '.join(ROLES)}")
        if isinstance(texts, str):
            raise InputError(f"encode takes a list of texts: give [{texts[:20]!r}]")
        check_texts(texts)
        prefix = self.settings.prefix(role)
        return [prefix + text for text in texts] if prefix else texts


@dataclass(frozen=True)
class _SpanTable:
    """Where the tokens of character spans lie in tokenised texts; R spans in all."""

    tokens: TokenBatch
    texts: Rows  # (R,) text of each span, in order
    first: Rows  # (R,) its first token, counted in the text with [CLS]
    last: Rows  # (R,) one past its last token; first == last where it has none
    truncated: npt.NDArray[np.bool_]  # (R,)

    @staticmethod
    def of(
        tokenizer: Tokenizer,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        max_length: int,
        shift: int,
    ) -> "_SpanTable":
        """shift is the length of the prefix that stands before each text."""
        if len(texts) != len(spans):
            raise InputError(f"{len(texts)} texts, but spans of {len(spans)}")
        contents, bounds = [], [np.zeros((0, 3), dtype=np.int64)]
        for row, (text, inside) in enumerate(zip(texts, spans, strict=True)):
            ids, offsets = tokenizer.with_offsets(text)
            contents.append(ids)
            start, end = np.array(inside, dtype=np.int64).reshape(-1, 2).T + shift
            if ((start < shift) | (end < start)).any():
                raise InputError(f"text {row}: a span must be 0 <= start <= end, got {inside}")
            first = np.searchsorted(offsets[:, 1], start, side="right")
            last = np.searchsorted(offsets[:, 0], end, side="left")
            last = np.where(start < end, np.maximum(first, last), first)
            bounds.append(np.stack((np.full(len(first), row), first, last), axis=1))
        text_of, first, last = np.concatenate(bounds).T
        limit = tokenizer.content_limit(max_length)
        return _SpanTable(
            tokens=tokenizer.frame(contents, max_length=max_length),
            texts=text_of,
            first=np.minimum(first, limit) + 1,
            last=np.minimum(last, limit) + 1,
            truncated=last > limit,
        )

    def within(self, batch: ModelBatch) -> tuple[Rows, Rows, Rows, Rows]:
        """The spans of a batch's texts, and of each token in them: span (0 ...), two positions.

        The positions in the batch are those that the dense vector is pooled from and those of
        weights and vectors. They differ for a span without a token: [CLS] and </s>.
        """
        place = np.full(len(self.tokens), -1)
        place[batch.rows] = np.arange(len(batch.rows))
        rows = np.flatnonzero(place[self.texts] >= 0)
        text = place[self.texts[rows]]
        start, end = batch.tokens.offsets[text], batch.tokens.offsets[text + 1]
        first, counts = self.first[rows], self.last[rows] - self.first[rows]
        empty = counts == 0
        counts = np.where(empty, 1, counts)
        counted = packed_positions(np.where(empty, end - 1, start + first), counts)
        pooled = packed_positions(np.where(empty, start, start + first), counts)
        return rows, np.repeat(np.arange(len(rows)), counts), pooled, counted


@dataclass(frozen=True)
class SparseRows:
    """Sparse rows as they are collected: counts (B,) of each row, then ids and weights, packed."""

    counts: Ints
    ids: npt.NDArray[np.int32]
    weights: Vectors


class RowCollector:
    """Takes what batches give, in any order, and gives Embeddings in the order of the rows."""

    def __init__(
        self,
        dims: Mapping[str, int],
        heads: Sequence[Head],
        count: int,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
    ) -> None:
        """dims as in `Encoder.dims`; count is the number of rows."""
        self._dims, self._heads, self._count = dims, heads, count
        self._pool, self._top = multi_pool or 1, sparse_top
        self._dense = np.empty((count if "dense" in heads else 0, dims["dense"]), dtype=np.float32)
        self._sparse: list[tuple[Rows, SparseRows]] = []
        self._multi: list[tuple[Rows, npt.NDArray[np.float16]]] = []
        self._counts = np.zeros(count, dtype=np.int64)  # vectors of each row

    def add_dense(self, rows: Rows, vectors: Tensor | None) -> None:
        """A batch's (B, D) vectors of these rows, if any."""
        if vectors is not None:
            self._dense[rows] = vectors.cpu().numpy()

    def add_sparse(self, rows: Rows, owners: Rows, ids: Ints, weights: Tensor | None) -> None:
        """A batch's (N,) token ids and weights, if any; owners (N,) index `rows`."""
        if weights is not None:
            shape = (len(rows), self._dims["vocabulary"])
            packed = max_by_id(owners, ids, weights.cpu().numpy(), shape, top=self._top)
            self._sparse.append((rows, packed))

    def add_multi(self, rows: Rows, owners: Rows, vectors: Tensor | None) -> None:
        """A batch's (N, M) token vectors, if any; owners (N,) index `rows` and do not decrease."""
        if vectors is None:
            return
        counts = np.bincount(owners, minlength=len(rows))
        if self._pool > 1:
            texts = np.split(vectors.cpu().numpy(), np.cumsum(counts)[:-1])
            pooled = [pool_tokens(text, self._pool) for text in texts]
            counts = np.array([len(text) for text in pooled])
            half = np.concatenate(pooled).astype(np.float16)
        else:
            half = vectors.half().cpu().numpy()
        self._counts[rows] = counts
        self._multi.append((rows, half))

    def embeddings(
        self, lengths: Ints, truncated: npt.NDArray[np.bool_], fingerprint: str
    ) -> Embeddings:
        """All rows, in order; what was collected is used up."""
        multi = offsets = None
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=np.float16)
            while self._multi:  # each part is let go, so that they are not all held twice
                rows, vectors = self._multi.pop()
                multi[packed_positions(offsets[rows], self._counts[rows])] = vectors
        return Embeddings(
            dense=self._dense if "dense" in self._heads else None,
            sparse=self._sparse_matrix() if "sparse" in self._heads else None,
            multi=multi,
            offsets=offsets,
            lengths=lengths.astype(np.int32),
            truncated=truncated,
            fingerprint=fingerprint,
        )

    def _sparse_matrix(self) -> sp.csr_array:
        counts = np.zeros(self._count, dtype=np.int64)
        for rows, part in self._sparse:
            counts[rows] = part.counts
        indptr = np.concatenate(([0], np.cumsum(counts)))
        ids = np.empty(int(indptr[-1]), dtype=np.int32)
        weights = np.empty(int(indptr[-1]), dtype=np.float32)
        for rows, part in self._sparse:
            positions = packed_positions(indptr[rows], part.counts)
            ids[positions], weights[positions] = part.ids, part.weights
        return sp.csr_array((weights, ids, indptr), shape=(self._count, self._dims["vocabulary"]))


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> SparseRows:
    """(N,) weights of tokens -> the largest weight of each id in each text, ids increasing.

    owners (N,) is each token's text; shape is (B, V). Weights of 0 and below are left out. With
    top, only so many of the largest weights of a text stay.
    """
    positive = np.flatnonzero(weights > 0)
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
    return SparseRows(
        np.bincount(rows, minlength=shape[0]), columns.astype(np.int32), best.astype(np.float32)
    )


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


def text_shards(
    texts: Iterable[str], size: int, limit: int, *, characters: int = SHARD_CHARACTERS
) -> Iterator[list[str]]:
    """Texts encoded together: at most `size`, or so many characters (of `limit` tokens a text)."""
    if isinstance(texts, str):
        raise InputError(f"stream takes texts: give [{texts[:20]!r}]")
    shard: list[str] = []
    used = 0
    for text in texts:
        shard.append(text)
        used += min(READ * limit, len(text)) if isinstance(text, str) else 0
        if len(shard) == size or used >= characters:
            yield shard
            shard, used = [], 0
    if shard:
        yield shard


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
    except (RuntimeError, AssertionError, NotImplementedError) as error:
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
