"""Vectors of a teacher for the texts of training rows, computed once and kept in a folder.

A teacher is any Tercet model, or one of sentence-transformers. Of a text it gives a dense vector
and, where the student's tokens are asked for, a vector and a rarity for each of them. The trainer
draws the student to these, and a translation to the English side's vector (Reimers & Gurevych 2020,
arXiv 2004.09813). Shapes: N texts, D dense size, T tokens of a text with </s>, M multi-vector size.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.config import Head, Role
from tercet.embeddings import check_absent
from tercet.errors import InputError, MissingExtraError
from tercet.inference import multiplies_bfloat16, run_batches, usable_device
from tercet.io import atomic_write
from tercet.layout import fetch, read_tokenizer
from tercet.rows import numbered_rows, tagged_fields, text_files
from tercet.sparse import packed_positions
from tercet.split import text_key
from tercet.tokenizer import TokenBatch, Tokenizer
from tercet.train.dataset import Examples, open_arrays, write_arrays
from tercet.train.init import (
    DIRECTIONS,
    Pooling,
    language_directions,
    pooled_vectors,
    token_idf,
)
from tercet.train.prune_vocab import count_languages

Ids = npt.NDArray[np.int64]
BLOCK = 2048  # texts of a part that is kept
LONG_BLOCK = 128  # where whole texts are read: 4 MB each at most, as a rule
BATCH = 4096  # tokens
ARRAYS: dict[str, type] = {
    "keys": np.int64,
    "dense": np.float16,
    "token_offsets": np.int64,
    "tokens": np.float16,
    "rarity": np.float16,
}
FORMAT = "tercet teacher 1"


@dataclass(frozen=True)
class TeachConfig:
    """How a teacher reads texts."""

    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Pooling = "cls"
    max_length: int = 512  # tokens, special ones included
    windows: bool = False  # a longer text is read in windows of so many, not cut
    directions: int = DIRECTIONS  # that tell languages apart and are taken out of the vectors
    device: str = "cpu"


@dataclass(frozen=True)
class TeacherVectors:
    """What a folder holds, memory-mapped: texts by text_key, in ascending order.

    keys (N,); dense (N, D) unit rows; token_offsets (N + 1,), tokens (sum T, M) unit rows and
    rarity (sum T,) in 0 to 1, both empty where no student's tokens were asked for. All float16.
    """

    keys: Ids
    dense: npt.NDArray[np.float16]
    token_offsets: Ids
    tokens: npt.NDArray[np.float16]
    rarity: npt.NDArray[np.float16]

    def rows(self, keys: Ids) -> Ids:
        """Row number of each key, -1 where the teacher has not seen the text."""
        rows = np.searchsorted(self.keys, keys).clip(max=max(0, len(self.keys) - 1))
        return np.where(self.keys[rows] == keys, rows, -1)

    @staticmethod
    def load(path: Path) -> "TeacherVectors":
        """Opens what `teach` wrote; raises InputError where the folder is not that."""
        stored = open_arrays(path, FORMAT, ARRAYS)
        if stored is None:
            raise InputError(f"{path}: not a folder of `tercet data teach`, or damaged")
        arrays, facts = stored.arrays, stored.facts
        return TeacherVectors(
            arrays["keys"],
            arrays["dense"].reshape(len(arrays["keys"]), facts["dense"]),
            arrays["token_offsets"],
            arrays["tokens"].reshape(-1, max(1, facts["multi"])),
            arrays["rarity"],
        )


class Targets:
    """What a teacher says of the texts of examples, by their numbers.

    dense is the row of the vector that a text is drawn to: its own or, of a translation, that of
    its English side. own is the row of the text itself. Both are -1 where there is none.
    """

    def __init__(self, examples: Examples, vectors: TeacherVectors, dense: int, multi: int) -> None:
        """dense and multi are the sizes of the student's vectors; raises InputError if others."""
        if not len(vectors.keys):
            raise InputError("teacher: the folder holds no vectors")
        for head, size, given in (
            ("dense", dense, vectors.dense.shape[1]),
            ("multi-vector", multi, vectors.tokens.shape[1] if len(vectors.tokens) else multi),
        ):
            if given != size:
                raise InputError(
                    f"the teacher's vectors have {given} values, the model's {head} head {size}"
                )
        self.vectors = vectors
        self.own = vectors.rows(np.asarray(examples.keys))
        self.dense = self.own.copy()
        tags = [name.split("-") for name in examples.languages]
        first = np.array([tag[0] == "en" for tag in tags])[examples.language]
        last = np.array([tag[-1] == "en" for tag in tags])[examples.language]
        starts = examples.positives.offsets
        pairs = examples.parallel & (np.diff(starts) > 0)
        for rows, query_is_source in ((pairs & last, False), (pairs & first & ~last, True)):
            query, answer = examples.query[rows], examples.positives.values[starts[:-1][rows]]
            source, target = (query, answer) if query_is_source else (answer, query)
            known = self.own[source] >= 0
            self.dense[target[known]] = self.own[source[known]]

    def of(self, texts: Ids) -> tuple[Tensor, Tensor]:
        """Texts of these that have a dense target, and the targets, float32 unit rows."""
        targets = self.dense[texts]
        known = np.flatnonzero(targets >= 0)
        goal = self.vectors.dense[targets[known]].astype(np.float32)
        return torch.from_numpy(known), torch.from_numpy(goal)

    def tokens(self, texts: Ids, starts: Ids, counts: Ids) -> tuple[Tensor, Tensor, Tensor]:
        """Packed positions of tokens that have a target, the targets (K, M) and rarities (K,).

        Text b has the tokens starts[b] to starts[b] + counts[b], [CLS] left out, </s> the last one.
        A text that was cut for the student is compared as far as it goes.
        """
        rows = self.own[texts]
        known = np.flatnonzero(rows >= 0) if len(self.vectors.tokens) else np.empty(0, np.int64)
        rows, counts = rows[known], counts[known]
        first = self.vectors.token_offsets[rows]
        given = self.vectors.token_offsets[rows + 1] - first
        both = np.where(given == counts, counts, np.minimum(given, counts) - 1)  # without </s>
        source = packed_positions(first, both)
        return (
            torch.from_numpy(packed_positions(starts[known], both)),
            torch.from_numpy(self.vectors.tokens[source].astype(np.float32)),
            torch.from_numpy(self.vectors.rarity[source].astype(np.float32)),
        )


# Teaching


class RoleText(NamedTuple):
    """A text of the rows, its role and its language."""

    text: str
    role: Role
    language: str


def role_texts(files: Iterable[Path]) -> dict[int, RoleText]:
    """Every different text of the files by text_key, in the role and language it is first seen in.

    Raises InputError naming file and line where a row has no text.
    """
    out: dict[int, RoleText] = {}
    for path in files:
        for number, row in numbered_rows(path):
            for name, language, text in tagged_fields(row, f"{path}:{number}"):
                role: Role = "query" if name == "query" else "passage"
                out.setdefault(text_key(text), RoleText(text, role, language))
    return out


def teach(
    files: Sequence[Path],
    model: str | Path,
    target: Path,
    config: TeachConfig,
    *,
    student: str | Path | None = None,
    block: int | None = None,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encodes every text once and writes the folder target; returns the number of texts.

    student is a model whose tokens get a vector each: the teacher's token that covers a token's
    last character speaks for it. A run that is killed goes on where it stopped, with the same
    texts, model and config: what `block` texts gave is kept. Raises InputError where target exists
    or no text is found.
    """
    check_absent(target)
    by_key = role_texts(text_files(files))
    if not by_key:
        raise InputError(f"no text in {', '.join(str(path) for path in files)}")
    keys = sorted(by_key)
    texts = [by_key[key] for key in keys]
    tokenizer = None if student is None else read_tokenizer(fetch(student))[0]
    reader = _reader(model, config, tokenizer)
    parts = target.with_name(f".{target.name}.parts") / _name(keys, reader.name, config, tokenizer)
    block = block or (LONG_BLOCK if config.windows else BLOCK)

    def read(first: int) -> dict[str, Any]:
        """What a block of texts gave: from disk, or read by the teacher and kept."""
        path = parts / f"{first // block:06d}.npz"
        try:
            with np.load(path, allow_pickle=False) as part:
                return dict(part)
        except (OSError, ValueError, KeyError, BadZipFile):  # none yet, or a damaged one
            made = reader.read(texts[first : first + block])
        with atomic_write(path) as file:
            np.savez(file, **made)
        return made

    dense, lengths, multi = [], [], 0
    for first in range(0, len(texts), block):
        part = read(first)
        dense.append(part["dense"])
        lengths.append(part["lengths"])
        multi = part["tokens"].shape[1]
        watch(min(first + block, len(texts)), len(texts))
    vectors = _without_languages(np.concatenate(dense), texts, config.directions)
    sizes = np.concatenate(lengths)
    with write_arrays(target, FORMAT, ARRAYS) as writer:
        writer.facts |= {"dense": vectors.shape[1], "multi": multi, "model": str(model)}
        writer.extend("keys", np.array(keys, dtype=np.int64))
        writer.extend("dense", vectors.astype(np.float16).ravel())
        writer.extend("token_offsets", np.concatenate(([0], np.cumsum(sizes))))
        # from disk once more: the vectors of all tokens fill the memory
        for first in range(0, len(texts), block):
            writer.extend("tokens", read(first)["tokens"].ravel())
        if tokenizer is not None:
            writer.extend("rarity", _rarities(tokenizer, texts, sizes))
    shutil.rmtree(parts.parent)
    return len(texts)


def _name(keys: Sequence[int], model: str, config: TeachConfig, student: Tokenizer | None) -> str:
    digest = hashlib.sha256(np.array(keys, dtype=np.int64).tobytes())
    other = "" if student is None else student.backend.to_str()
    digest.update(f"{model} {config} {other}".encode())
    return digest.hexdigest()[:32]


def _without_languages(
    dense: npt.NDArray[np.float16], texts: Sequence[RoleText], count: int
) -> npt.NDArray[np.float32]:
    """Unit vectors without the directions in which the means of languages differ most."""
    vectors = torch.from_numpy(dense.astype(np.float32))
    languages = [text.language for text in texts]
    apart = language_directions(vectors, np.ones(len(texts), np.int64), languages, count)
    vectors -= (vectors @ apart.T) @ apart
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def _rarities(
    tokenizer: Tokenizer, texts: Sequence[RoleText], sizes: Ids
) -> npt.NDArray[np.float16]:
    """How rare each of the student's tokens is in its language, 0 at </s>, (sum T,)."""
    counts = count_languages(tokenizer, ((text.language, text.text) for text in texts))
    out = []
    for first in range(0, len(texts), BLOCK):
        part = texts[first : first + BLOCK]
        contents = tokenizer.contents([text.text for text in part])
        pairs = zip(contents, sizes[first : first + BLOCK].tolist(), strict=True)
        batch = TokenBatch.of([[*ids[: size - 1], tokenizer.eos_id] for ids, size in pairs])
        rarity = token_idf(counts, batch, [text.language for text in part])
        rarity[batch.offsets[1:] - 1] = 0.0
        out.append(rarity.astype(np.float16))
    return np.concatenate(out)


def _prefixed(texts: Sequence[RoleText], config: TeachConfig) -> list[str]:
    prefixes = {"query": config.query_prefix, "passage": config.passage_prefix}
    return [prefixes[text.role] + text.text for text in texts]


class _TercetReader:
    """A Tercet model that reads texts as a teacher."""

    def __init__(
        self, checkpoint: Checkpoint, config: TeachConfig, student: Tokenizer | None
    ) -> None:
        self.model, self.tokenizer = checkpoint.model, checkpoint.tokenizer
        self.name, self.config, self.student = checkpoint.fingerprint, config, student
        if student is not None and self.model.multi is None:
            raise InputError("the teacher has no multi-vector head to give vectors of tokens")
        self.model.to(usable_device(config.device))
        self.model.backbone.pack()
        self.limit = min(config.max_length, self.model.backbone.config.max_length)

    def read(self, texts: Sequence[RoleText]) -> dict[str, Any]:
        """dense (n, D), tokens (sum T, M), lengths (n,) of n texts."""
        full = [self.tokenizer.with_offsets(text) for text in _prefixed(texts, self.config)]
        windows = [self._windows(ids) for ids, _ in full]
        first = np.cumsum([0, *map(len, windows)])  # window of each text
        tokens = self.tokenizer.frame(
            [ids for own in windows for ids in own], max_length=self.limit
        )
        pooled = np.empty((len(tokens), self.model.dims["dense"]), dtype=np.float32)
        multi: list[Any] = [None] * len(tokens)
        heads: tuple[Head, ...] = ("dense",) if self.student is None else ("dense", "multi")
        for batch in run_batches(self.model, tokens, heads, budget=BATCH, padding=0.0):
            dense = batch.outputs.dense
            if self.config.pooling == "mean":
                dense = pooled_vectors(batch.states, batch.tokens)
            assert dense is not None
            pooled[batch.rows] = dense.cpu().numpy()
            if batch.outputs.multi is not None:
                vectors = batch.outputs.multi.half().cpu().numpy()
                of_texts = np.split(vectors, batch.tokens.offsets[1:-1])
                for row, states in zip(batch.rows, of_texts, strict=True):
                    multi[row] = states[1:]  # without [CLS], with </s>
        sums = np.add.reduceat(pooled, first[:-1])
        dense_rows = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
        of_tokens: list[Any] = [np.zeros((0, 0), np.float16)] * len(texts)
        for number, text in enumerate(texts if self.student is not None else ()):
            own = multi[first[number] : first[number + 1]]
            every = np.concatenate((*(states[:-1] for states in own), own[-1][-1:]))
            prefix = len(_prefixed([text], self.config)[0]) - len(text.text)
            ends = full[number][1][: len(every) - 1, 1] - prefix
            of_tokens[number] = every[self._covering(text.text, ends)]
        return {
            "dense": dense_rows.astype(np.float16),
            "tokens": np.concatenate(of_tokens),
            "lengths": np.array([len(rows) for rows in of_tokens], dtype=np.int64),
        }

    def _windows(self, ids: list[int]) -> list[list[int]]:
        """A text whole, cut later, or in windows that the teacher reads one by one."""
        size = self.tokenizer.content_limit(self.limit)
        if not self.config.windows or len(ids) <= size:
            return [ids]
        return [ids[first : first + size] for first in range(0, len(ids), size)]

    def _covering(self, text: str, ends: Ids) -> Ids:
        """The teacher's token for each of the student's tokens and for </s>, its last one."""
        assert self.student is not None
        _, spans = self.student.with_offsets(text)
        seen = spans[:, 1] <= (ends[-1] if len(ends) else 0)  # what the teacher's limit left
        covering = np.searchsorted(ends, spans[seen, 1], side="left")
        return np.append(covering.clip(max=max(0, len(ends) - 1)), len(ends))


class _SentenceTransformer:
    """A model of sentence-transformers as a teacher of dense vectors."""

    def __init__(self, model: str, config: TeachConfig) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtraError("this teacher needs `pip install tercet[teacher]`") from error
        self.model = SentenceTransformer(model, device=str(usable_device(config.device)))
        self.model.max_seq_length = config.max_length
        self.name, self.config = model, config

    def read(self, texts: Sequence[RoleText]) -> dict[str, Any]:
        dense = self.model.encode(
            _prefixed(texts, self.config),
            batch_size=64,
            convert_to_tensor=True,
            normalize_embeddings=True,
        )
        return {
            "dense": dense.float().cpu().numpy().astype(np.float16),
            "tokens": np.zeros((0, 0), np.float16),
            "lengths": np.zeros(len(texts), dtype=np.int64),
        }


def _reader(
    model: str | Path, config: TeachConfig, student: Tokenizer | None
) -> _TercetReader | _SentenceTransformer:
    """A Tercet checkpoint where the model is one, else a model of sentence-transformers."""
    folder = Path(model)
    ours = (folder / "tercet.json").exists() or any(folder.glob("*_linear.*"))
    if ours or (not folder.is_dir() and student is not None):
        fast = config.device != "cpu" or multiplies_bfloat16()
        dtype = torch.bfloat16 if fast else torch.float32
        return _TercetReader(read_checkpoint(model, dtype=dtype), config, student)
    if student is not None:
        raise InputError(f"{model} has no multi-vector head: --student needs a Tercet model")
    return _SentenceTransformer(str(model), config)
