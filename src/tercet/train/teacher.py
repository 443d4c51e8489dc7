"""Vectors of an outside teacher for the English texts of the training rows, computed once.

A small dense teacher carries semantics that a small corpus cannot teach; a text's translations
should land where the teacher puts the English side. Needs the extra `tercet[teacher]`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tercet.data.rows import pair_of, read_rows
from tercet.data.split import text_key
from tercet.errors import InputError, MissingExtraError
from tercet.train.collate import Collated
from tercet.train.examples import Examples
from tercet.whole import whole_file


@dataclass(frozen=True)
class TeacherVectors:
    """Unit vectors (N, D) float16 of N texts, found by text_key in the sorted keys (N,)."""

    keys: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]

    def rows(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Row number of each key, -1 where the teacher has not seen the text."""
        at = np.searchsorted(self.keys, keys).clip(max=max(0, len(self.keys) - 1))
        return np.where(self.keys[at] == keys, at, -1)

    def save(self, path: Path) -> None:
        """Writes one .npz; it appears whole or not at all."""
        with whole_file(path) as file:
            np.savez(file, keys=self.keys, vectors=self.vectors)

    @staticmethod
    def join(parts: "Sequence[TeacherVectors]") -> "TeacherVectors":
        """The vectors of several files, each key once."""
        keys = np.concatenate([part.keys for part in parts])
        unique, first = np.unique(keys, return_index=True)
        return TeacherVectors(unique, np.concatenate([part.vectors for part in parts])[first])

    @staticmethod
    def load(path: Path) -> "TeacherVectors":
        """Reads what save() wrote; raises InputError where the file is not that."""
        try:
            with np.load(path, allow_pickle=False) as data:
                return TeacherVectors(data["keys"], data["vectors"])
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise InputError(f"{path}: not a file of teacher vectors: {error}") from error


class Targets:
    """Where the outside teacher puts the texts of the examples, projected to the model's size."""

    def __init__(self, examples: Examples, vectors: TeacherVectors, size: int) -> None:
        """Projects onto the `size` strongest directions and normalises again."""
        if not len(vectors.keys):
            raise InputError("teacher: the file holds no vectors")
        raw = torch.from_numpy(vectors.vectors.astype(np.float32))
        sample = raw[torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[:50_000]]
        if size < raw.shape[1]:
            _, directions = torch.linalg.eigh(sample.T @ sample)
            raw = raw @ directions[:, -size:]
        elif size > raw.shape[1]:
            raise InputError(
                f"the teacher's vectors have {raw.shape[1]} values, the model's dense head {size}"
            )
        self.vectors = F.normalize(raw, dim=-1).half()
        self.at = vectors.rows(np.asarray(examples.keys))
        self.parallel = examples.parallel

    def of(self, collated: Collated) -> list[tuple[Tensor, Tensor]]:
        """(rows known to the teacher, their vectors) of the queries and of the passages.

        A translation should land on its English side, a question on its own vector. Passages that
        came with a refresh of the negatives are not known.
        """
        known = len(self.at)
        places = collated.passage_places
        passages = np.where(places < known, self.at[places.clip(max=known - 1)], -1)
        queries = np.where(
            self.parallel[collated.rows],
            passages[collated.positives],
            self.at[collated.query_places],
        )
        return [self._target(queries), self._target(passages)]

    def _target(self, wanted: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        rows = np.flatnonzero(wanted >= 0)
        return torch.from_numpy(rows), self.vectors[torch.from_numpy(wanted[rows])].float()


def english_texts(files: Iterable[Path]) -> Iterator[str]:
    """Every text of the training rows that is English by its row's language tag."""
    for path in files:
        for number, row in enumerate(read_rows(path), 1):
            if "query" not in row:
                continue
            query, positives = pair_of(row, f"{path}:{number}")
            side = str(row.get("lang", "")).rpartition("-")
            if side[2] == "en":
                yield from positives
                if not side[0]:
                    yield query


def teach(files: Sequence[Path], model: str, target: Path, *, max_length: int = 64) -> int:
    """Encodes every English text once with a sentence-transformers model; returns their number."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("a teacher needs `pip install tercet[teacher]`") from error
    texts = {text_key(text): text for text in english_texts(files)}
    if not texts:
        raise InputError(
            f"no English text, by its language tag, in {[str(path) for path in files]}"
        )
    teacher = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": "bfloat16"})
    teacher.max_seq_length = max_length
    keys = sorted(texts)
    vectors = teacher.encode(
        [texts[key] for key in keys],
        batch_size=64,
        convert_to_tensor=True,
        normalize_embeddings=True,
        show_progress_bar=True,
    )
    TeacherVectors(np.array(keys, dtype=np.int64), vectors.float().numpy().astype(np.float16)).save(
        target
    )
    return len(keys)
