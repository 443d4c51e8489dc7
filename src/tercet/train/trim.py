"""Prunes a checkpoint's vocabulary to the text that it will see, and shows that nothing changed.

Every layer, head and setting stays; rows of the word embeddings go. One model at a time is in
memory. Knows nothing of training.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from tercet.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tercet.config import HEADS, Head
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.hub import fetch
from tercet.model import M3Model
from tercet.scores import dense_scores, lexical_scores, maxsim_scores
from tercet.tensorfiles import load_torch, weight_files
from tercet.tokens import Tokenizer
from tercet.train.texts import text_files, texts_in
from tercet.train.vocabulary import document_frequency, prune_tokenizer

SAMPLE, LENGTH = 100, 256  # texts encoded by both models, tokens of each: a minute on a CPU
BLOCK = 4096  # texts tokenised at once, or
CHARACTERS = 1 << 20  # as many as these

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
    revision: str | None = None,
    sample: int = SAMPLE,
    watch: Watch = lambda what, count: None,
) -> TrimReport:
    """Writes a checkpoint with only the pieces that the files' texts use; see `TrimReport`.

    1. Count the pieces of all texts, behind each prefix that the model puts before them.
    2. Prune the tokenizer; cut all texts again and count those that came out differently.
    3. Encode a sample, replace the word embeddings by the kept rows, write, load, encode again.

    vocabulary bounds the number of ids; then rare pieces go too, and texts change. Raises
    InputError where target exists or there is no text, ModelError where the model cannot be read.
    """
    if target.exists():
        raise InputError(f"{target} exists already: remove it or choose another folder")
    found = text_files(files)
    folder = fetch(source, revision)
    checkpoint = read_checkpoint(folder)
    old = checkpoint.tokenizer
    prefixes = {checkpoint.settings.query_prefix, checkpoint.settings.passage_prefix}
    chosen = Sample(sample)

    def asked(what: str) -> Iterator[str]:
        """Every text behind every prefix."""
        for number, text in enumerate(texts_in(found)):
            if what == "counting":
                chosen.add(number, text)
            if number % 1000 == 0:
                watch(what, number)
            yield from (prefix + text for prefix in sorted(prefixes))

    counts = document_frequency(old, asked("counting"))  # 1
    if not chosen.seen:
        raise InputError(f"no text in {', '.join(str(path) for path in found)}")
    new, rows = prune_tokenizer(  # 2
        old, counts, vocabulary or old.vocabulary, name=f"the tokenizer of {folder}"
    )
    changed = sum(
        any(mark for mark in some)
        for some in _each(_changed(old, new, rows, asked("checking")), len(prefixes))
    )
    prefix = checkpoint.settings.passage_prefix
    same = [t for t in chosen.texts if not next(_changed(old, new, rows, [prefix + t]))]

    before = _encode(checkpoint, same)  # 3
    sizes = [Sizes(checkpoint.model.backbone.config.vocabulary, _bytes(folder))]
    dtype = stored_dtype(folder)
    settings = checkpoint.settings
    model = with_rows(checkpoint.model, rows, new)
    del checkpoint  # and with it the old table
    write_checkpoint(target, model, new, settings=settings, dtype=dtype)
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
    name = "backbone.words.weight"
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


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype that holds every weight of a checkpoint as it is: its own, if all share one."""
    kinds: set[str] = set()
    heads = [path for path in folder.glob("*_linear.*") if path.suffix in (".pt", ".safetensors")]
    for path in [*weight_files(folder), *heads]:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                kinds |= {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        else:
            kinds |= {str(tensor.dtype) for tensor in load_torch(path).values()}
    for dtype, names in (
        (torch.float16, {"F16", "torch.float16"}),
        (torch.bfloat16, {"BF16", "torch.bfloat16"}),
    ):
        if kinds and kinds <= names:
            return dtype
    return torch.float32


def _largest(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> float:
    if not left.size:
        return 0.0
    return float(np.abs(left.astype(np.float32) - right.astype(np.float32)).max())


def _encode(checkpoint: Checkpoint, texts: Sequence[str]) -> Embeddings | None:
    encoder = Encoder(checkpoint)
    return encoder.encode(texts, heads=encoder.heads, max_length=LENGTH) if texts else None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(folder))


def _changed(old: Tokenizer, new: Tokenizer, rows: Rows, texts: Iterable[str]) -> Iterator[bool]:
    """Whether each text is cut into other pieces by the new tokenizer."""
    for block in _blocks(texts):
        for left, right in zip(old.contents(block), new.contents(block), strict=True):
            yield not np.array_equal(
                np.array(left, dtype=np.int64), rows[np.array(right, dtype=np.int64)]
            )


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if len(some) == BLOCK or size > CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some


def _each(marks: Iterator[bool], size: int) -> Iterator[tuple[bool, ...]]:
    """The marks of each text, one for each prefix."""
    return zip(*[marks] * size, strict=True)
