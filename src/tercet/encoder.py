"""Texts in, Embeddings out: the one place where tokenizer, batches and model meet.

Tokens are cut into batches of a bounded number of tokens, longest texts first; what the model
gives for tokens becomes rows in the order of the texts. Reads no files but the checkpoint; knows
nothing of indexes, documents or training. Shapes: N tokens of a batch, B texts, V vocabulary,
M multi-vector size.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.config import HEADS, MAX_LENGTH, PAPER_WEIGHTS, ROLES, Head, Role, check_heads
from tercet.embeddings import Embeddings
from tercet.errors import InputError, ModelError
from tercet.model import PADDING, Inputs, M3Model, Outputs, mean_vectors
from tercet.tokenizer import READ, TokenBatch

Ints = npt.NDArray[np.integer]
Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

log = logging.getLogger("tercet")

BUNDLED = Path(__file__).parent / "models" / "small"
CPU_BUDGET, GPU_BUDGET = 4096, 1 << 16  # tokens of a batch; measured on CPU
SHARD_CHARACTERS = 1 << 20  # of text that `stream` holds at once, about

Progress = Callable[[int, int], None]


def by_length(lengths: npt.NDArray[np.integer]) -> Rows:
    """Row numbers from the longest text to the shortest, equal ones in their order.

    Longest first: what does not fit in memory shows at once, and time left is never too low.
    """
    return np.argsort(-lengths.astype(np.int64), kind="stable")


def batches(lengths: npt.NDArray[np.integer], budget: int) -> Iterator[Rows]:
    """Row numbers in length order, cut into batches of at most `budget` tokens, or of one text.

    Raises InputError where the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"a batch needs a budget of at least 1 token, got {budget}")
    order = by_length(lengths)
    ends = np.cumsum(lengths[order], dtype=np.int64)
    first, used = 0, 0
    while first < len(order):
        last = max(first + 1, int(np.searchsorted(ends, used + budget, side="right")))
        yield order[first:last]
        first, used = last, int(ends[last - 1])


def inverse(order: Rows) -> Rows:
    """Where each row went: `sorted_rows[inverse(order)]` are the rows in their first order."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order), dtype=order.dtype)
    return back


# Tokens clustered together: the distances of a run take 2 MB, and time grows linearly with a text.
RUN = 512


@dataclass(frozen=True)
class Weighted:
    """Sparse rows as they are collected: counts (B,) of each row, then ids and weights, packed."""

    counts: Ints
    ids: npt.NDArray[np.int32]
    weights: Vectors


def max_by_id(
    owners: Ints, ids: Ints, weights: Vectors, shape: tuple[int, int], *, top: int | None = None
) -> Weighted:
    """(N,) weights of tokens -> the largest weight of each id in each text, ids increasing.

    owners (N,) is each token's text; shape is (B, V). Weights of 0 and below are left out. With
    top, only so many of the largest weights of a text stay.
    """
    found = np.flatnonzero(weights > 0)
    keys = owners[found].astype(np.int64) * shape[1] + ids[found]
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[found[order]]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)])
    best = np.maximum.reduceat(weights, starts) if len(starts) else weights
    rows, kept = np.divmod(keys[starts], shape[1])
    if top is not None:
        ranked = np.lexsort((-best, rows))
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # the same with rows[ranked]
        stay = np.sort(ranked[rank < top])
        rows, kept, best = rows[stay], kept[stay], best[stay]
    return Weighted(
        np.bincount(rows, minlength=shape[0]), kept.astype(np.int32), best.astype(np.float32)
    )


def pool_tokens(vectors: Vectors, factor: int) -> Vectors:
    """Merges the most alike of a text's unit vectors: (T, M) -> (about T / factor, M) unit rows.

    Ward's clustering, the mean of each cluster, normalised, in the order of their first tokens;
    texts over 512 tokens in runs of that many. Source: Clavié, Chaffin and Adams 2024, arXiv
    2409.14683 ("hierarchical" pooling).
    """
    if factor == 1 or len(vectors) <= 1:
        return vectors
    from scipy.cluster.hierarchy import fcluster, ward

    parts = []
    for first in range(0, len(vectors), RUN):
        run = vectors[first : first + RUN]
        wanted = -(-len(run) // factor)
        one = np.zeros(len(run), dtype=np.int32)
        labels = fcluster(ward(run), wanted, criterion="maxclust") if wanted > 1 else one
        _, firsts, which = np.unique(labels, return_index=True, return_inverse=True)
        sums = np.zeros((len(firsts), run.shape[1]), dtype=np.float32)
        np.add.at(sums, which, run)
        parts.append(sums[np.argsort(firsts)])
    pooled = np.concatenate(parts)
    # opposite vectors, which clustering does not join, could cancel out
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    out: Vectors = pooled / np.maximum(norms, 1e-12)
    return out


class RowCollector:
    """Takes what batches give, in any order, and gives Embeddings in the order of the rows."""

    def __init__(
        self,
        dims: Mapping[str, int],
        heads: tuple[Head, ...],
        count: int,
        *,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
    ) -> None:
        """dims as in `Encoder.dims`; count is the number of rows."""
        self._dims, self._heads, self._count = dims, heads, count
        self._pool, self._top = multi_pool or 1, sparse_top
        self._dense = np.empty((count if "dense" in heads else 0, dims["dense"]), dtype=np.float32)
        self._sparse: list[tuple[Rows, Weighted]] = []
        self._multi: list[tuple[Rows, npt.NDArray[np.float16]]] = []
        self._counts = np.zeros(count, dtype=np.int64)  # vectors of each row

    @property
    def pools(self) -> bool:
        """Whether multi-vectors are pooled, and so wanted in float32."""
        return self._pool > 1

    def add_dense(self, rows: Rows, vectors: Vectors) -> None:
        """A batch's (B, D) vectors of these rows."""
        self._dense[rows] = vectors

    def add_sparse(self, rows: Rows, owners: Rows, ids: Ints, weights: Vectors) -> None:
        """A batch's (N,) token ids and weights; owners (N,) index `rows`."""
        shape = (len(rows), self._dims["vocabulary"])
        self._sparse.append((rows, max_by_id(owners, ids, weights, shape, top=self._top)))

    def add_multi(
        self, rows: Rows, owners: Rows, vectors: Vectors | npt.NDArray[np.float16]
    ) -> None:
        """A batch's (N, M) token vectors; owners (N,) index `rows` and do not decrease."""
        counts = np.bincount(owners, minlength=len(rows))
        if self.pools:
            texts = np.split(vectors, np.cumsum(counts)[:-1])
            pooled = [pool_tokens(text.astype(np.float32), self._pool) for text in texts]
            counts = np.array([len(text) for text in pooled])
            vectors = np.concatenate(pooled)
        self._counts[rows] = counts
        self._multi.append((rows, vectors.astype(np.float16, copy=False)))

    def embeddings(
        self, lengths: Ints, truncated: npt.NDArray[np.bool_], fingerprint: str
    ) -> Embeddings:
        """All rows, in order; what was collected is used up."""
        multi = offsets = None
        sparse: sp.csr_array | None = None
        if "multi" in self._heads:
            offsets = np.concatenate(([0], np.cumsum(self._counts)))
            multi = np.empty((int(offsets[-1]), self._dims["multi"]), dtype=np.float16)
            while self._multi:  # each part is let go, so that they are not all held twice
                rows, vectors = self._multi.pop()
                multi[_places(offsets, rows, self._counts[rows])] = vectors
        if "sparse" in self._heads:
            counts = np.zeros(self._count, dtype=np.int64)
            for rows, part in self._sparse:
                counts[rows] = part.counts
            indptr = np.concatenate(([0], np.cumsum(counts)))
            ids = np.empty(int(indptr[-1]), dtype=np.int32)
            weights = np.empty(int(indptr[-1]), dtype=np.float32)
            for rows, part in self._sparse:
                places = _places(indptr, rows, part.counts)
                ids[places], weights[places] = part.ids, part.weights
            shape = (self._count, self._dims["vocabulary"])
            sparse = sp.csr_array((weights, ids, indptr), shape=shape)
        return Embeddings(
            dense=self._dense if "dense" in self._heads else None,
            sparse=sparse,
            multi=multi,
            offsets=offsets,
            lengths=lengths.astype(np.int32),
            truncated=truncated,
            fingerprint=fingerprint,
        )


def _places(starts: Ints, rows: Rows, counts: Ints) -> Rows:
    """Where the packed parts of these rows belong: row r's from starts[r] on, counts of them."""
    before = np.cumsum(counts) - counts
    out: Rows = np.arange(int(counts.sum())) + np.repeat(starts[rows] - before, counts)
    return out


class Encoder:
    """A model that is ready to encode.

    Attributes: source (None: the bundled model), fingerprint, weights (of the hybrid sum: the
    model's own, else the paper's), heads, dims (dense, vocabulary, multi), tokenizer, settings,
    max_length (tokens that the model has positions for), dtype, device.
    """

    def __init__(self, checkpoint: Checkpoint, *, source: str | None = None) -> None:
        """Wraps a checkpoint as it is, in its dtype and on its device; see `load`."""
        self._model = checkpoint.model
        self.source = source
        self.tokenizer = checkpoint.tokenizer
        self.settings = checkpoint.settings
        self.fingerprint = checkpoint.fingerprint
        self.weights = checkpoint.settings.weights or PAPER_WEIGHTS
        self.heads = self._model.heads
        config = self._model.backbone.config
        self.max_length = config.max_length
        self.dims = {"dense": config.hidden, "vocabulary": config.vocabulary}
        if self._model.multi is not None:
            self.dims["multi"] = self._model.multi.out_features
        table = self._model.backbone.word_embeddings.weight
        self.dtype, self.device = table.dtype, table.device

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
        where = usable_device(device)
        checkpoint = read_checkpoint(
            BUNDLED if source is None else source,
            revision=revision,
            dtype=_dtype(dtype, where),
            device=where,
        )
        checkpoint.model.backbone.pack()
        if source is not None and Path(source).is_dir():
            source = Path(source).resolve()
        return Encoder(checkpoint, source=None if source is None else str(source))

    @property
    def model(self) -> M3Model:
        """The model itself, for what a token has rather than a text."""
        return self._model

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
        asked = self._check(heads, role, multi_pool, sparse_top)
        limit = min(max_length, self.max_length)
        tokens = self.tokenizer.encode(self._prefixed(texts, role), max_length=limit, mcls=mcls)
        rows = RowCollector(
            self.dims, asked, len(tokens), multi_pool=multi_pool, sparse_top=sparse_top
        )
        done = 0
        for some in batches(tokens.lengths, self._budget(token_budget)):
            batch = tokens.take(some)
            inputs = self._inputs(batch)
            with torch.inference_mode():
                outputs = self._model(inputs, asked)
                if outputs.multi is not None:
                    outputs = replace(outputs, multi=outputs.multi[outputs.multi_mask])
            owners = np.repeat(np.arange(len(some)), batch.lengths)
            kept = np.delete(owners, batch.cls)
            collect(rows, some, outputs, ids=batch.ids, owners=owners, multi_owners=kept)
            done += len(batch.ids)
            if progress is not None:
                progress(done, len(tokens.ids))
        _log_truncated(tokens.truncated, limit)
        return rows.embeddings(tokens.lengths, tokens.truncated, self.fingerprint)

    def stream(
        self,
        texts: Iterable[str],
        *,
        shard: int = 1024,
        heads: Sequence[Head] = HEADS,
        max_length: int = MAX_LENGTH,
        role: Role = "passage",
        mcls: int | None = None,
        token_budget: int | None = None,
        multi_pool: int | None = None,
        sparse_top: int | None = None,
    ) -> Iterator[Embeddings]:
        """Encodes any number of texts in their order, at most `shard` at a time, as `encode` does.

        A shard is also closed after about a million characters, so memory stays bounded.
        """
        if shard < 1:
            raise InputError(f"a shard holds at least 1 text, got {shard}")
        for some in text_shards(texts, shard, min(max_length, self.max_length)):
            yield self.encode(
                some,
                heads=heads,
                max_length=max_length,
                role=role,
                mcls=mcls,
                token_budget=token_budget,
                multi_pool=multi_pool,
                sparse_top=sparse_top,
            )

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
        asked = self._check(heads, role, None, None)
        limit = min(max_length, self.max_length)
        found = _Spans.find(self, self._prefixed(texts, role), spans, limit, role)
        rows = RowCollector(self.dims, asked, len(found.texts))
        done = 0
        for some in batches(found.tokens.lengths, self._budget(token_budget)):
            batch = found.tokens.take(some)
            inputs = self._inputs(batch)
            mine, owners, pooled, counted = found.within(some, batch)
            with torch.inference_mode():
                states = self._model.backbone(inputs.ids, inputs.layout)
                outputs = self._model.represent(states, inputs, [h for h in asked if h != "dense"])
                at = torch.from_numpy(counted).to(self.device)
                dense = None
                if "dense" in asked:
                    places = torch.from_numpy(pooled).to(self.device)
                    whose = torch.from_numpy(owners).to(self.device)
                    dense = mean_vectors(states, places, whose, len(mine))
                outputs = replace(
                    outputs,
                    dense=dense,
                    weights=None if outputs.weights is None else outputs.weights[at],
                    multi=None if outputs.multi is None else outputs.multi[at],
                )
            ids = batch.ids[counted]
            collect(rows, mine, outputs, ids=ids, owners=owners, multi_owners=owners)
            done += len(batch.ids)
            if progress is not None:
                progress(done, len(found.tokens.ids))
        _log_truncated(found.truncated, limit)
        return rows.embeddings(found.lengths, found.truncated, self.fingerprint)

    def _check(
        self, heads: Sequence[Head], role: Role, multi_pool: int | None, sparse_top: int | None
    ) -> tuple[Head, ...]:
        asked = check_heads(tuple(heads))
        self._model.check(asked)
        if role not in ROLES:
            raise InputError(f"unknown role {role!r}: choose from {', '.join(ROLES)}")
        for name, value in (("multi_pool", multi_pool), ("sparse_top", sparse_top)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        return asked

    def _prefixed(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        if isinstance(texts, str):
            raise InputError(f"encode takes a list of texts: give [{texts[:20]!r}]")
        prefix = self.settings.prefix(role)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {number} is a {type(text).__name__}, not a string")
        return [prefix + text for text in texts] if prefix else texts

    def _budget(self, asked: int | None) -> int:
        if asked is not None:
            return asked
        return CPU_BUDGET if self.device.type == "cpu" else GPU_BUDGET

    def _inputs(self, batch: TokenBatch) -> Inputs:
        # On CPU a call more costs little and padding costs its products; elsewhere the reverse.
        padding = 0.0 if self.device.type == "cpu" else PADDING
        return Inputs.of(batch, self.device, padding=padding)


@dataclass(frozen=True)
class _Spans:
    """Where the tokens of character spans lie in tokenised texts; R spans in all."""

    tokens: TokenBatch
    texts: Rows  # (R,) text of each span, in order
    first: Rows  # (R,) its first token, counted in the text with [CLS]
    last: Rows  # (R,) one past its last token; first == last where it has none
    truncated: npt.NDArray[np.bool_]  # (R,)

    @property
    def lengths(self) -> Rows:
        """(R,) tokens of each span."""
        return self.last - self.first

    @staticmethod
    def find(
        encoder: Encoder,
        texts: Sequence[str],
        spans: Sequence[Sequence[tuple[int, int]]],
        max_length: int,
        role: Role,
    ) -> "_Spans":
        if len(texts) != len(spans):
            raise InputError(f"{len(texts)} texts, but spans of {len(spans)}")
        tokenizer, shift = encoder.tokenizer, len(encoder.settings.prefix(role))
        room = tokenizer.content_limit(max_length)
        contents, owners, firsts, lasts = [], [], [], []
        for number, (text, inside) in enumerate(zip(texts, spans, strict=True)):
            ids, places = tokenizer.with_offsets(text)
            contents.append(ids)
            wanted = np.array(inside, dtype=np.int64).reshape(-1, 2) + shift
            if len(wanted) and ((wanted[:, 0] < shift) | (wanted[:, 1] < wanted[:, 0])).any():
                raise InputError(f"text {number}: a span must be 0 <= start <= end, got {inside}")
            owners.append(np.full(len(wanted), number))
            firsts.append(np.searchsorted(places[:, 1], wanted[:, 0], side="right"))
            ends = np.searchsorted(places[:, 0], wanted[:, 1], side="left")
            lasts.append(np.where(wanted[:, 0] < wanted[:, 1], ends, 0))
        texts_of = np.concatenate(owners) if owners else np.zeros(0, dtype=np.int64)
        first = np.concatenate(firsts) if firsts else np.zeros(0, dtype=np.int64)
        last = np.concatenate(lasts) if lasts else np.zeros(0, dtype=np.int64)
        last = np.maximum(first, last)
        return _Spans(
            tokens=tokenizer.frame(contents, max_length=max_length),
            texts=texts_of,
            first=np.minimum(first, room) + 1,
            last=np.minimum(last, room) + 1,
            truncated=last > room,
        )

    def within(self, some: Rows, batch: TokenBatch) -> tuple[Rows, Rows, Rows, Rows]:
        """The spans of a batch's texts, and of each token in them: span (0 ...), places.

        Two packed places in the batch: where the dense vector is pooled from and where weight and
        vector are. They differ for a span without a token: [CLS] and </s>.
        """
        place = np.full(len(self.tokens), -1)
        place[some] = np.arange(len(some))
        mine = np.flatnonzero(place[self.texts] >= 0)
        text = place[self.texts[mine]]
        start, end = batch.offsets[text], batch.offsets[text + 1]
        empty = self.first[mine] == self.last[mine]
        counts = np.where(empty, 1, self.lengths[mine])
        counted = _ranges(np.where(empty, end - 1, start + self.first[mine]), counts)
        pooled = _ranges(np.where(empty, start, start + self.first[mine]), counts)
        return mine, np.repeat(np.arange(len(mine)), counts), pooled, counted


def collect(
    rows: RowCollector,
    numbers: Rows,
    outputs: Outputs,
    *,
    ids: npt.NDArray[np.int32],
    owners: Rows,
    multi_owners: Rows,
) -> None:
    """Brings a batch's outputs to NumPy and into the rows."""
    if outputs.dense is not None:
        rows.add_dense(numbers, outputs.dense.cpu().numpy())
    if outputs.weights is not None:
        rows.add_sparse(numbers, owners, ids, outputs.weights.cpu().numpy())
    if outputs.multi is not None:
        vectors = outputs.multi if rows.pools else outputs.multi.half()
        rows.add_multi(numbers, multi_owners, vectors.cpu().numpy())


def _ranges(starts: Rows, counts: Rows) -> Rows:
    """start, start + 1, ... for each start, so many of each, all in one array."""
    before = np.cumsum(counts) - counts
    out: Rows = np.arange(int(counts.sum())) + np.repeat(starts - before, counts)
    return out


def text_shards(texts: Iterable[str], size: int, limit: int) -> Iterator[list[str]]:
    """Texts that are encoded together: at most `size`, read to about `limit` tokens each."""
    if isinstance(texts, str):
        raise InputError(f"stream takes texts: give [{texts[:20]!r}]")
    some: list[str] = []
    characters = 0
    for text in texts:
        some.append(text)
        characters += min(READ * limit, len(text)) if isinstance(text, str) else 0
        if len(some) == size or characters >= SHARD_CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _log_truncated(truncated: npt.NDArray[np.bool_], limit: int) -> None:
    if truncated.any():
        count, of = int(truncated.sum()), len(truncated)
        log.warning("%d of %d texts were cut: they have more than %d tokens", count, of, limit)


def usable_device(wanted: str | torch.device | None) -> torch.device:
    """The device of that name, a GPU where none is named; raises InputError if it is not there."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise InputError(f"device {str(wanted)!r} is not there: {first}") from error
    return device


def _dtype(wanted: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if wanted is None:
        fast = device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, wanted, None) if isinstance(wanted, str) else wanted
    if dtype in (torch.float32, torch.bfloat16) or (
        dtype == torch.float16 and device.type != "cpu"
    ):
        return dtype
    raise InputError(f"dtype {wanted!r}: choose float32 or bfloat16 (on a GPU also float16)")


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products: AMX or AVX512-BF16."""
    return any(
        check() for check in (torch.cpu._is_amx_tile_supported, torch.cpu._is_avx512_bf16_supported)
    )
