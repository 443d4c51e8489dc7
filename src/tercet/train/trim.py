"""Prunes a checkpoint's vocabulary to the text that it will see, and shows that nothing changed.

Every layer, head and setting stays; rows of the word embeddings go. One model at a time is in
memory. Knows nothing of training.
"""

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from safetensors import safe_open

from tercet.checkpoint import (
    EMBEDDINGS,
    Checkpoint,
    fetch,
    load_torch,
    read_checkpoint,
    weight_files,
    write_checkpoint,
)
from tercet.config import HEADS, Head
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.model import M3Model
from tercet.rows import tagged_texts, text_files
from tercet.scores import dense_scores, lexical_scores, maxsim_scores
from tercet.tokenizer import Tokenizer
from tercet.train.counts import token_counts
from tercet.train.vocabulary import (
    ALPHA,
    Counts,
    LanguageCounter,
    Scores,
    balanced,
    probabilities,
    prune_tokenizer,
)

SAMPLE, LENGTH = 100, 256  # texts encoded by both models, tokens of each: a minute on a CPU

Rows = npt.NDArray[np.int64]
Watch = Callable[[str, int], None]  # what is being done, texts so far


@dataclass(frozen=True)
class Sizes:
    """Of a checkpoint: ids, and bytes of the files with the trunk's weights."""

    vocabulary: int
    bytes: int


@dataclass(frozen=True)
class TrimReport:
    """What was taken away, and what the text's scores say.

    texts were read, of which `changed` are cut into other pieces than before; `compared` of a
    sample, cut as before, were encoded by both models. values: the largest difference of any number
    in a head's representations; scores: of any score of one text against another.
    """

    before: Sizes
    after: Sizes
    texts: int
    changed: int
    compared: int
    values: dict[Head, float]
    scores: dict[Head, float]


def trim(
    source: str | Path,
    target: Path,
    files: Sequence[Path],
    *,
    vocabulary: int | None = None,
    balance: bool = False,
    revision: str | None = None,
    sample: int = SAMPLE,
    watch: Watch = lambda what, count: None,
) -> TrimReport:
    """Writes a checkpoint with only the pieces that the files' texts use; see `TrimReport`.

    1. Count the pieces of all texts, behind each prefix that the model puts before them.
    2. Prune the tokenizer. The texts that it cuts otherwise are those with a piece that went.
    3. Encode a sample, replace the word embeddings by the kept rows, write, load, encode again.

    vocabulary bounds the number of ids; then rare pieces go too, and texts change. Rare is what few
    texts have or, with balance, what is rare in languages that weigh (their tokens) ** ALPHA.
    Raises InputError where target exists or there is no text, ModelError where the model cannot be
    read.
    """
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    found = text_files(files)
    folder = fetch(source, revision)
    checkpoint = read_checkpoint(folder)
    old = checkpoint.tokenizer
    prefixes = {checkpoint.settings.query_prefix, checkpoint.settings.passage_prefix}
    chosen = Sample(sample)

    def asked() -> Iterator[tuple[str, str]]:
        """Every text behind every prefix, with its language."""
        for number, (language, text) in enumerate(tagged_texts(found)):
            chosen.add(number, text)
            if number % 1000 == 0:
                watch("counting", number)
            yield from ((language, prefix + text) for prefix in sorted(prefixes))

    with tempfile.TemporaryFile() as file:
        ids = TextIds(file) if vocabulary is not None else None  # else all that is used stays
        ranks = rank_ids(old, asked(), balance=balance, ids=ids)  # 1
        if not chosen.seen:
            raise InputError(f"no text in {', '.join(str(path) for path in found)}")
        new, rows = prune_tokenizer(  # 2
            old, ranks, vocabulary or old.vocabulary, name=f"the tokenizer of {folder}"
        )
        gone = np.ones(old.vocabulary, dtype=np.bool_)
        gone[rows] = False
        changed = 0 if ids is None else ids.texts_with(gone, len(prefixes))
    prefix = checkpoint.settings.passage_prefix
    marks = _same(old, new, rows, [prefix + text for text in chosen.texts])
    same = [text for text, mark in zip(chosen.texts, marks, strict=True) if mark]

    before = _encode(checkpoint, same)  # 3
    sizes = [Sizes(checkpoint.model.backbone.config.vocabulary, _bytes(folder))]
    dtype, embeddings = stored_dtypes(folder)
    settings = checkpoint.settings
    model = with_rows(checkpoint.model, rows, new)
    del checkpoint  # and with it the old table
    write_checkpoint(target, model, new, settings=settings, dtype=dtype, embeddings=embeddings)
    del model
    after = read_checkpoint(target)
    sizes.append(Sizes(len(rows), _bytes(target)))
    values, scores = compare(before, _encode(after, same), rows)
    return TrimReport(sizes[0], sizes[1], chosen.seen, changed, len(same), values, scores)


class Sample:
    """A fixed number of texts drawn evenly from a stream of unknown length; the same every time."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self.texts: list[str] = []
        self._draw = random.Random(0)

    def add(self, number: int, text: str) -> None:
        """Text `number`, counted from 0."""
        self.seen = number + 1
        if len(self.texts) < self.size:
            self.texts.append(text)
        elif (place := self._draw.randrange(self.seen)) < self.size:
            self.texts[place] = text


def with_rows(model: M3Model, rows: Rows, tokenizer: Tokenizer) -> M3Model:
    """The model with these rows of its word embeddings alone, all else shared with the old one."""
    config = replace(model.backbone.config, vocabulary=len(rows))
    if config.pad_id != tokenizer.pad_id:  # positions count from there
        raise ModelError(
            f"the model's <pad> is id {config.pad_id}, in XLM-RoBERTa's order of special ids it is"
            f" {tokenizer.pad_id}: its vocabulary cannot be trimmed"
        )
    with torch.device("meta"):
        small = M3Model(
            config,
            tokenizer.weightless_ids.tolist(),
            sparse=model.sparse is not None,
            multi=None if model.multi is None else model.multi.out_features,
        )
    state = model.state_dict()
    name = "backbone.word_embeddings.weight"
    state[name] = state[name][torch.from_numpy(rows)]
    small.load_state_dict(state, assign=True)
    return small.eval()


def compare(
    before: Embeddings | None, after: Embeddings | None, rows: Rows
) -> tuple[dict[Head, float], dict[Head, float]]:
    """Largest differences of two models' representations of the same texts, and of their scores."""
    values: dict[Head, float] = {}
    scores: dict[Head, float] = {}
    if before is None or after is None:
        return values, scores
    if before.dense is not None and after.dense is not None:
        values["dense"] = _largest(before.dense, after.dense)
    if before.sparse is not None and after.sparse is not None:
        values["sparse"] = float(abs(before.sparse[:, rows] - after.sparse).max())
    if before.multi is not None and after.multi is not None:
        values["multi"] = _largest(before.multi, after.multi)
    functions = {"dense": dense_scores, "sparse": lexical_scores, "multi": maxsim_scores}
    for head in HEADS:
        if head in values:
            both = [functions[head](some, some) for some in (before, after)]
            scores[head] = _largest(*both)
    return values, scores


def stored_dtypes(folder: Path) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtypes that hold a checkpoint's weights as they are, as `write_checkpoint` takes them.

    The first is that of all weights, float32 where they do not share one; the second that of the
    embeddings where these are in float8.
    """
    kinds: set[str] = set()
    heads = [path for path in folder.glob("*_linear.*") if path.suffix in (".pt", ".safetensors")]
    for path in [*weight_files(folder), *heads]:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                kinds |= {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        else:
            kinds |= {str(tensor.dtype) for tensor in load_torch(path).values()}
    embeddings = EMBEDDINGS if "F8_E5M2" in kinds else None
    kinds.discard("F8_E5M2")
    for dtype, names in (
        (torch.float16, {"F16", "torch.float16"}),
        (torch.bfloat16, {"BF16", "torch.bfloat16"}),
    ):
        if kinds and kinds <= names:
            return dtype, embeddings
    return torch.float32, None


def _largest(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> float:
    if not left.size:
        return 0.0
    return float(np.abs(left.astype(np.float32) - right.astype(np.float32)).max())


def _encode(checkpoint: Checkpoint, texts: Sequence[str]) -> Embeddings | None:
    encoder = Encoder(checkpoint)
    return encoder.encode(texts, heads=encoder.heads, max_length=LENGTH) if texts else None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))


def rank_ids(
    tokenizer: Tokenizer,
    tagged: Iterable[tuple[str, str]],
    *,
    balance: bool = False,
    ids: "TextIds | None" = None,
) -> Counts | Scores:
    """What the ids of (language, text) pairs are ranked by, (V,); each text's go to `ids`, too."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    languages = LanguageCounter(tokenizer.vocabulary)
    texts = languages.named(tagged) if balance else (text for _, text in tagged)
    for block in token_counts(tokenizer, texts):
        counts += np.bincount(block.indices, minlength=len(counts))
        if ids is not None:
            ids.add(block)
        if balance:
            languages.add(block)
    if not balance:
        return counts
    return balanced(languages.found(), probabilities(tokenizer), alpha=ALPHA, prior=0.0)


class TextIds:
    """The different ids of each text, in an open file: 4 bytes each."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._blocks = 0

    def add(self, block: sp.csr_array) -> None:
        """Those of the next texts, from a block of `token_counts`."""
        np.save(self._file, block.indptr)
        np.save(self._file, block.indices.astype(np.int32))
        self._blocks += 1

    def texts_with(self, gone: npt.NDArray[np.bool_], each: int) -> int:
        """How many texts, of so many rows each, have any of the ids that are marked, (V,)."""
        self._file.seek(0)
        marks = np.zeros(0, dtype=np.bool_)
        for _ in range(self._blocks):
            ends, ids = np.load(self._file), np.load(self._file)
            before = np.concatenate(([0], np.cumsum(gone[ids])))
            marks = np.concatenate((marks, before[ends[1:]] > before[ends[:-1]]))
        return int(marks.reshape(-1, each).any(axis=1).sum())


def _same(old: Tokenizer, new: Tokenizer, rows: Rows, texts: Sequence[str]) -> list[bool]:
    """Whether each text is cut into the same pieces by both tokenizers."""
    return [
        left == rows[right].tolist()
        for left, right in zip(old.contents(texts), new.contents(texts), strict=True)
    ]
