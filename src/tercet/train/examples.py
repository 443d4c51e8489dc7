"""Training rows as arrays: every text tokenised once, rows pointing into the store.

The arrays lie in a cache folder that is named after what they were made from, and are memory-mapped
from there. Knows nothing of models or batches. Shapes: N rows over S texts of T tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.rows import files_of, parts_of
from tercet.tokenizer import Tokenizer
from tercet.train.arrays import Arrays, open_arrays
from tercet.train.config import DataConfig, SourceConfig
from tercet.train.tokenise import ARRAYS, Progress, Roles, write_examples

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
FORMAT = 1  # of the cache: what another version of it wrote is made again

# Tags of one language and a region that are written in small letters (see `is_parallel`).
REGIONS = frozenset(
    "en-us en-gb en-au en-nz en-in es-mx pt-br zh-cn zh-hk zh-sg zh-tw zh-yue".split()
)


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: row n owns values[offsets[n]:offsets[n + 1]]."""

    values: Rows
    offsets: Rows

    def __getitem__(self, row: int) -> Rows:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Examples:
    """N rows over S texts; the arrays may be memory-mapped.

    ids (sum T,) and offsets (S + 1,): content tokens of every text, no special ones, cut to its
    role's limit. A text is stored once for a prefix. keys (S,): text_key of the text without
    prefix. text_group (S,): the group of the rows that have the text as query or positive; of a
    negative alone, and of a common heading, a number below 0 of its own.

    query (N,): place of the query, or of a raw row's text, which has no positives. positives and
    negatives: places; positive_scores and negative_scores go with their values, NaN where there is
    none. group (N,), 0 or more. source (N,): index into the SourceConfigs given; language (N,):
    index into languages; parallel (N,): the two sides are in different languages; file and line
    (N,): where a row stands. fingerprint: the key of the cache.
    """

    ids: npt.NDArray[np.int32]
    offsets: Rows
    keys: Rows
    text_group: Rows
    query: Rows
    positives: Ragged
    positive_scores: Scores
    negatives: Ragged
    negative_scores: Scores
    group: Rows
    source: npt.NDArray[np.int32]
    language: npt.NDArray[np.int32]
    parallel: npt.NDArray[np.bool_]
    file: npt.NDArray[np.int32]
    line: Rows
    languages: tuple[str, ...]
    files: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.query)

    def content(self, place: int) -> npt.NDArray[np.int32]:
        """(T,) content tokens of a text."""
        return self.ids[self.offsets[place] : self.offsets[place + 1]]

    def lengths(self) -> Rows:
        """(S,) content tokens of each text."""
        return np.diff(self.offsets)

    def where(self, row: int) -> str:
        """File and line of a row."""
        return f"{self.files[self.file[row]]}:{self.line[row]}"

    @staticmethod
    def load(
        sources: Sequence[SourceConfig],
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        cache: Path,
        progress: Progress | None = None,
    ) -> "Examples":
        """Opens the rows of sources from the cache folder, where they are made on first use.

        What is made depends on the bytes of the files, the tokenizer, prefixes and lengths, not on
        where files lie. progress(bytes of files that are done, bytes of all, tokens) is called now
        and then. Raises InputError naming file and line of a row that cannot train, a source
        without rows, or a cache folder that cannot be written.
        """
        inputs = [[path for name in s.files for path in files_of(Path(name))] for s in sources]
        if not inputs:
            raise InputError("there are no sources of rows")
        roles = Roles.of(config, tokenizer)
        key = cache_key(inputs, tokenizer, roles)
        folder = cache / f"rows-{key}"
        found = open_arrays(folder, key, ARRAYS)
        if found is None:
            labels = [source.label for source in sources]
            try:
                write_examples(folder, key, inputs, labels, tokenizer, roles, progress)
            except OSError as error:
                raise InputError(
                    f"{cache}: tokenised rows cannot be written: {error.strerror or error}: make"
                    " room, or name another folder in data.cache or TERCET_CACHE"
                ) from error
            found = open_arrays(folder, key, ARRAYS)
        if found is None:
            raise InputError(f"{folder}: what was just written is not whole: check the disk")
        return _examples(found, tuple(str(path) for paths in inputs for path in paths), key)


def _examples(found: Arrays, files: tuple[str, ...], key: str) -> Examples:
    arrays = dict(found.arrays)
    languages = tuple(found.facts["languages"])
    parallel = np.array([is_parallel(language) for language in languages], dtype=np.bool_)
    return Examples(
        positives=Ragged(arrays.pop("positives"), arrays.pop("positive_offsets")),
        negatives=Ragged(arrays.pop("negatives"), arrays.pop("negative_offsets")),
        parallel=parallel[arrays["language"]],
        languages=languages,
        files=files,
        fingerprint=key,
        **arrays,
    )


def cache_key(inputs: Sequence[Sequence[Path]], tokenizer: Tokenizer, roles: Roles) -> str:
    """Names what follows from files (of each source), tokenizer, prefixes and lengths."""
    facts = {
        "format": FORMAT,
        "roles": [[role.prefix, role.limit] for role in (roles.query, roles.passage)],
        "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
        "sources": [[[_hash(part) for part in parts_of(p)] for p in paths] for paths in inputs],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def is_parallel(language: str) -> bool:
    """Whether a tag names two languages: "de-en" does, "zh-Hant" (a script) does not.

    Nor does "pt-br": regions in small letters are known where the language is never meant; others
    need the usual capitals ("fr-CA").
    """
    head, _, tail = language.rpartition("-")
    if not head or len(tail) not in (2, 3) or not tail.islower():
        return False
    return head != tail and language not in REGIONS
