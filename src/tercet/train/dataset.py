"""Training rows as arrays: every text tokenised once, rows pointing into the store.

The arrays are made in one pass over the files, lie in a cache folder that is named after what they
were made from, and are memory-mapped from there. To make them takes 161 bytes of memory for a pair
of two different texts and 62 for each further text (measured: benchmarks/training.py rows), so the
largest set for 24 GB is about 145 million pairs. Knows nothing of models or batches. Shapes: N rows
over S texts of T tokens.
"""

import hashlib
import json
import math
import shutil
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tercet.cache import touch
from tercet.errors import InputError
from tercet.io import GrowingArray, atomic_folder, read_json, write_json
from tercet.rows import Record, check_row, files_of, numbered_rows, parts_of
from tercet.split import DistinctTexts, Related, is_parallel, text_key
from tercet.tokenizer import Tokenizer
from tercet.train.config import DataConfig, SourceConfig

Numbers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]
CHARACTERS = 1 << 20  # tokenised at once, at most
FORMAT = 2  # of the cache: what another version of it wrote is made again
ARRAYS: dict[str, type] = {
    "ids": np.int32,
    "offsets": np.int64,
    "keys": np.int64,
    "query": np.int64,
    "positives": np.int64,
    "positive_offsets": np.int64,
    "positive_scores": np.float32,
    "negatives": np.int64,
    "negative_offsets": np.int64,
    "negative_scores": np.float32,
    "source": np.int32,
    "language": np.int32,
    "file": np.int32,
    "line": np.int64,
    "row_keys": np.int64,
    "row_offsets": np.int64,
    "shared": np.int64,
    "starts": np.int64,
    "holders": np.int64,
}
# Arrays of one folder


LIST = "cache.json"
BUFFER = 1 << 16  # values of a column that wait to be written


@dataclass(frozen=True)
class Arrays:
    """What a folder holds: arrays by name, and the facts beside them."""

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]


class Columns:
    """Arrays that grow together in a folder, and facts to be kept beside them."""

    def __init__(self, folder: Path, dtypes: Mapping[str, type]) -> None:
        self.facts: dict[str, Any] = {}
        self.arrays = {n: GrowingArray(folder / f"{n}.npy", dtype) for n, dtype in dtypes.items()}
        self._waiting: dict[str, list[Any]] = {name: [] for name in dtypes}

    def extend(self, name: str, values: Iterable[Any]) -> None:
        waiting = self._waiting[name]
        if isinstance(values, np.ndarray):
            self.written(name)
            self.arrays[name].append(values)
            return
        waiting.extend(values)
        if len(waiting) >= BUFFER:
            self.written(name)

    def written(self, name: str) -> GrowingArray:
        """A column, with all that was appended so far."""
        self.arrays[name].append(self._waiting[name])
        self._waiting[name].clear()
        return self.arrays[name]


@contextmanager
def write_arrays(folder: Path, key: str, dtypes: Mapping[str, type]) -> Iterator[Columns]:
    """A folder of columns that appears under its name when the block ends without an error.

    One that is there and whole stays: another process was first. A damaged one goes.
    """
    if folder.exists() and open_arrays(folder, key, dtypes) is None:
        shutil.rmtree(folder)
    try:
        with atomic_folder(folder) as scratch, ExitStack() as stack:
            columns = Columns(scratch, dtypes)
            for array in columns.arrays.values():
                stack.callback(array.close)
            yield columns
            listed = {}
            for name in dtypes:
                array = columns.written(name)
                array.flush()
                listed[name] = [array.dtype.str, len(array), array.path.stat().st_size]
            write_json(scratch / LIST, {"key": key, "arrays": listed, **columns.facts})
    except OSError:
        if open_arrays(folder, key, dtypes) is None:
            raise


def open_arrays(folder: Path, key: str, names: Iterable[str]) -> Arrays | None:
    """The arrays of a folder, memory-mapped; None where one is missing or not as it was listed."""
    try:
        facts = read_json(folder / LIST)
        listed = facts.pop("arrays")
        if facts.pop("key") != key or set(listed) != set(names):
            return None
        arrays = {}
        for name, (dtype, count, size) in listed.items():
            path = folder / f"{name}.npy"
            # np.memmap itself is slow to slice
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            now = (arrays[name].dtype.str, arrays[name].shape, path.stat().st_size)
            if now != (dtype, (count,), size):
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return Arrays(arrays, facts)


def made_arrays(
    folder: Path, key: str, dtypes: Mapping[str, type], make: Callable[[Columns], None]
) -> Arrays:
    """The arrays of a folder, filled by `make` on first use; InputError where damaged."""
    stored = open_arrays(folder, key, dtypes)
    if stored is None:
        with write_arrays(folder, key, dtypes) as columns:
            make(columns)
        stored = open_arrays(folder, key, dtypes)
    if stored is None:
        raise InputError(f"{folder}: what was just written is not whole: check the disk")
    return stored


# Rows over texts


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths: row n owns values[offsets[n]:offsets[n + 1]]."""

    values: Numbers
    offsets: Numbers

    def __getitem__(self, row: int) -> Numbers:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Examples:
    """N rows over S texts; the arrays may be memory-mapped.

    ids (sum T,) and offsets (S + 1,): content tokens of every text, no special ones, cut to its
    role's limit. A text is stored once for a prefix. keys (S,): text_key of the text without
    prefix. related: by these keys, what is no negative of a row.

    query (N,): place of the query, or of a raw row's text, which has no positives. positives and
    negatives: places; positive_scores and negative_scores go with their values, NaN where there is
    none. source (N,): index into the SourceConfigs given; language (N,): index into languages;
    parallel (N,): the two sides are in different languages; file and line (N,): where a row stands.
    fingerprint: the key of the cache.
    """

    ids: Ids
    offsets: Numbers
    keys: Numbers
    query: Numbers
    positives: Ragged
    positive_scores: Scores
    negatives: Ragged
    negative_scores: Scores
    related: Related
    source: npt.NDArray[np.int32]
    language: npt.NDArray[np.int32]
    parallel: npt.NDArray[np.bool_]
    file: npt.NDArray[np.int32]
    line: Numbers
    languages: tuple[str, ...]
    files: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.query)

    def content(self, place: int) -> Ids:
        """(T,) content tokens of a text."""
        return self.ids[self.offsets[place] : self.offsets[place + 1]]

    def lengths(self, places: Numbers) -> Numbers:
        """Content tokens of each of these texts."""
        return self.offsets[places + 1] - self.offsets[places]

    def where(self, row: int) -> str:
        return f"{self.files[self.file[row]]}:{self.line[row]}"

    def where_text(self, place: int) -> str:
        """File and line of the first row that has a text as its query or a positive."""
        rows = np.flatnonzero(self.query == place)
        if not len(rows):
            first = np.flatnonzero(self.positives.values == place)[:1]
            rows = np.searchsorted(self.positives.offsets, first, side="right") - 1
        return self.where(int(rows[0]))

    @staticmethod
    def load(
        sources: Sequence[SourceConfig],
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        cache: Path,
        block: int = 4096,
    ) -> "Examples":
        """Opens the rows of sources from the cache folder, where they are made on first use.

        What is made depends on the bytes of the files, the tokenizer, prefixes and lengths, not on
        where files lie; block texts are tokenised at once. Raises InputError naming file and line
        of a row that cannot train, a source without rows, or a cache folder that cannot be written.
        """
        inputs = [[path for name in s.files for path in files_of(Path(name))] for s in sources]
        if not inputs:
            raise InputError("there are no sources of rows")
        roles = (
            Role(config.query_prefix, tokenizer.content_limit(config.query_tokens)),
            Role(config.passage_prefix, tokenizer.content_limit(config.passage_tokens)),
        )
        hashes = [[[file_hash(part) for part in parts_of(p)] for p in paths] for paths in inputs]
        made_from = {
            "format": FORMAT,
            "roles": roles,
            "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
            "sources": hashes,
        }
        key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
        folder = cache / f"rows-{key}"

        def make(columns: Columns) -> None:
            labels = [source.label for source in sources]
            _Builder(columns, tokenizer, *roles, block).read(inputs, labels)

        try:
            stored = made_arrays(folder, key, ARRAYS, make)
        except OSError as error:
            raise InputError(
                f"{cache}: tokenised rows cannot be written: {error.strerror or error}: make room,"
                " or name another folder in data.cache or TERCET_CACHE"
            ) from error
        touch(folder)
        arrays, languages = dict(stored.arrays), tuple(stored.facts["languages"])
        of_languages = np.array([is_parallel(language) for language in languages], dtype=np.bool_)
        parallel = of_languages[arrays["language"]]
        joins = (arrays.pop(name) for name in ("shared", "starts", "holders"))
        return Examples(
            related=Related(arrays.pop("row_keys"), arrays.pop("row_offsets"), parallel, *joins),
            parallel=parallel,
            positives=Ragged(arrays.pop("positives"), arrays.pop("positive_offsets")),
            negatives=Ragged(arrays.pop("negatives"), arrays.pop("negative_offsets")),
            languages=languages,
            files=tuple(str(path) for paths in inputs for path in paths),
            fingerprint=key,
            **arrays,
        )


# Files to arrays


class Role(NamedTuple):
    """What is put before the texts of a role, and the content tokens that are read of one."""

    prefix: str
    limit: int


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes; raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Builder:
    """Fills the columns in one pass over the files; raw texts are passages.

    In memory stay the hashes of the texts (`DistinctTexts`) and a key of each.
    """

    def __init__(
        self, columns: Columns, tokenizer: Tokenizer, query: Role, passage: Role, block: int
    ) -> None:
        self.columns, self.tokenizer = columns, tokenizer
        self.query, self.passage, self.block = query, passage, block
        self.count = self.tokens = 0
        self.distinct = DistinctTexts()
        self.keys = array("q")  # text_key of each text
        self.waiting: list[tuple[str, int]] = []  # texts to be tokenised, and their limits
        self.characters = 0  # of these
        self.languages: dict[str, int] = {}
        self.ends = {"positive": 0, "negative": 0}
        self.given = array("q"), array("q")  # rows that bring a group id, and the ids
        for name in ("offsets", "positive_offsets", "negative_offsets"):
            columns.extend(name, (0,))

    def read(self, inputs: Sequence[Sequence[Path]], labels: Sequence[str]) -> None:
        """All rows of the files of every source; raises InputError on what cannot train."""
        file = 0
        for source, paths in enumerate(inputs):
            before = self.count
            for path in paths:
                for line, row in numbered_rows(path):
                    self._add(check_row(row, f"{path}:{line}"))
                    for name, value in (("source", source), ("file", file), ("line", line)):
                        self.columns.extend(name, (value,))
                file += 1
            if self.count == before:
                names = ", ".join(str(path) for path in paths)
                raise InputError(f"source {labels[source]}: no rows in {names}")
        self._tokenise()
        self.distinct = DistinctTexts()  # what follows needs the room
        self._relate()

    def _add(self, record: Record) -> None:
        """One row; a positive that is also among the negatives is left out of these."""
        role = self.passage if record.raw else self.query
        if record.prompt is not None and not record.raw:
            role = Role(record.prompt, role.limit)
        self.columns.extend("query", (self._place(record.query, role, ()),))
        refused: set[int] = set()
        for name, texts, scores in (
            ("positive", record.pos, record.pos_scores),
            ("negative", record.neg, record.neg_scores),
        ):
            places = [self._place(text, self.passage, refused) for text in texts]
            known = [place for place in places if place is not None]
            self.columns.extend(f"{name}s", known)
            self.columns.extend(
                f"{name}_scores",
                [math.nan] * len(known)
                if scores is None
                else [x for x, place in zip(scores, places, strict=True) if place is not None],
            )
            self.ends[name] += len(known)
            self.columns.extend(f"{name}_offsets", (self.ends[name],))
            refused = {self.keys[place] for place in known}
        self.columns.extend(
            "language", (self.languages.setdefault(record.lang, len(self.languages)),)
        )
        if record.group is not None:
            self.given[0].append(self.count)
            self.given[1].append(record.group)
        self.count += 1

    def _place(self, text: str, role: Role, refused: Container[int]) -> int | None:
        """The number of a text behind a prefix; None where its text_key is among the refused.

        A query and a passage share a number, unless one may be cut and the other not.
        """
        prefix, limit = role
        shorter, longer = sorted((self.query.limit, self.passage.limit))
        if len(prefix) + len(text) <= shorter:
            limit = longer
        exact = f"{limit} {len(prefix)} {prefix}{text}".encode("utf-8", "surrogatepass")
        place = self.distinct.get(exact)
        key = text_key(text) if place is None else self.keys[place]
        if key in refused:
            return None
        if place is None:
            place = self.distinct.add(exact)
            self.keys.append(key)
            self.waiting.append((prefix + text, limit))
            self.characters += len(prefix) + len(text)
            if len(self.waiting) >= self.block or self.characters >= CHARACTERS:
                self._tokenise()
        return place

    def _tokenise(self) -> None:
        contents: list[list[int]] = [[]] * len(self.waiting)
        for limit in {self.query.limit, self.passage.limit}:
            own = [number for number, (_, its) in enumerate(self.waiting) if its == limit]
            texts = [self.waiting[number][0] for number in own]
            ids = self.tokenizer.contents(texts, limit=limit)
            for number, content in zip(own, ids, strict=True):
                contents[number] = content
        for content in contents:
            self.tokens += len(content)
            self.columns.extend("ids", content)
            self.columns.extend("offsets", (self.tokens,))
        self.waiting.clear()
        self.characters = 0

    def _relate(self) -> None:
        """The keys of texts and of rows, and what they join."""
        keys = np.frombuffer(self.keys, dtype=np.int64)
        self.columns.extend("keys", keys)
        query, positives, offsets = (
            self.columns.written(name).view() for name in ("query", "positives", "positive_offsets")
        )
        offsets = offsets + np.arange(self.count + 1)
        of_rows = np.empty(int(offsets[-1]), dtype=np.int64)  # each row's query, then positives
        is_query = np.zeros(len(of_rows), dtype=np.bool_)
        is_query[offsets[:-1]] = True
        of_rows[is_query], of_rows[~is_query] = keys[query], keys[positives]
        rows, ids = (np.array(given, dtype=np.int64) for given in self.given)
        related = Related.make(of_rows, offsets, (rows, ids), np.zeros(0, dtype=np.bool_))
        self.columns.extend("row_keys", related.keys)
        self.columns.extend("row_offsets", related.offsets)
        for name in ("shared", "starts", "holders"):
            self.columns.extend(name, getattr(related, name))
        self.columns.facts["languages"] = list(self.languages)


# New negatives


def read_negatives(examples: Examples, path: Path, *, block: int = 4096) -> Ragged:
    """The negatives that a miner gave, {"row", "neg"} of every row in order, memory-mapped.

    They are kept as numbers of texts in a folder beside the file, which is made by the first that
    asks; it takes about 22 bytes a passage. Raises InputError naming file and line where a row is
    another, or a negative no passage of the rows.
    """
    key = f"{examples.fingerprint} {file_hash(path)}"

    def make(columns: Columns) -> None:
        is_passage = np.zeros(len(examples.keys), dtype=np.bool_)
        is_passage[examples.positives.values] = True
        is_passage[examples.negatives.values] = True
        passages = np.flatnonzero(is_passage)
        passages = passages[np.argsort(examples.keys[passages], kind="stable")]
        keys = examples.keys[passages]
        columns.extend("offsets", (0,))
        numbered, count, end = numbered_rows(path), 0, 0
        while rows := list(islice(numbered, block)):
            texts: list[str] = []
            for line, row in rows:
                if row.get("row") != count or not isinstance(row.get("neg"), list):
                    raise InputError(f"{path}:{line}: expected row {count} with its 'neg'")
                texts += row["neg"]
                columns.extend("offsets", (end + len(texts),))
                count += 1
            of_texts = np.array([text_key(text) for text in texts], dtype=np.int64)
            nearest = np.searchsorted(keys, of_texts, side="right") - 1
            for number in np.flatnonzero(keys[nearest] != of_texts)[:1].tolist():
                line = next(line for line, row in rows if texts[number] in row["neg"])
                raise InputError(
                    f"{path}:{line}: {texts[number]!r:.60} is no passage of the training rows"
                )
            columns.extend("places", passages[nearest])
            end += len(texts)
        if count != len(examples):
            raise InputError(f"{path}: negatives for {count} of {len(examples)} rows")

    dtypes = {"places": np.int64, "offsets": np.int64}
    arrays = made_arrays(path.with_suffix(""), key, dtypes, make).arrays
    return Ragged(arrays["places"], arrays["offsets"])
