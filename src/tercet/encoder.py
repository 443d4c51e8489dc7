"""Texts in, Embeddings out: the one place where tokenizer, batches and model meet.

Reads no files but the checkpoint; knows nothing of indexes, documents or training.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tercet.backbone import PADDING
from tercet.batching import Rows, batches
from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.config import HEADS, MAX_LENGTH, PAPER_WEIGHTS, ROLES, Head, Role, check_heads
from tercet.embeddings import Embeddings
from tercet.errors import InputError, ModelError
from tercet.heads import mean_vectors
from tercet.model import Inputs, M3Model, Outputs
from tercet.reduce import RowCollector
from tercet.tokens import READ, TokenBatch

log = logging.getLogger("tercet")

BUNDLED = Path(__file__).parent / "models" / "small"
CPU_BUDGET, GPU_BUDGET = 4096, 1 << 16  # tokens of a batch; measured on CPU
SHARD_CHARACTERS = 1 << 20  # of text that `stream` holds at once, about

Progress = Callable[[int, int], None]


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
        table = self._model.backbone.words.weight
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
                    outputs = replace(outputs, multi=outputs.multi[outputs.kept])
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
        room = tokenizer.room(max_length)
        contents, owners, firsts, lasts = [], [], [], []
        for number, (text, inside) in enumerate(zip(texts, spans, strict=True)):
            ids, places = tokenizer.places(text)
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
