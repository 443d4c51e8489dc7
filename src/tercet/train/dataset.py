"""Training rows as arrays: every text tokenised once, rows pointing into the store.

The arrays are made in one pass over the files, lie in a cache folder that is named after what they
were made from, and are memory-mapped from there. Knows nothing of models or batches. Shapes: N rows
over S texts of T tokens.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tercet.cache import touch
from tercet.errors import InputError
from tercet.io import GrowingArray, write_json
from tercet.rows import Record, check_row, files_of, numbered_rows, parts_of
from tercet.split import DistinctTexts, group_rows, text_key
from tercet.tokenizer import Tokenizer
from tercet.train.config import DataConfig, SourceConfig

Numbers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]
Progress = Callable[[int, int, int], None]  # bytes of files that are done, of all; tokens
FORMAT = 1  # of the cache: what another version of it wrote is made again
ARRAYS: dict[str, type] = {
    "ids": np.int32,
    "offsets": np.int64,
    "keys": np.int64,
    "text_group": np.int64,
    "query": np.int64,
    "positives": np.int64,
    "positive_offsets": np.int64,
    "positive_scores": np.float32,
    "negatives": np.int64,
    "negative_offsets": np.int64,
    "negative_scores": np.float32,
    "group": np.int64,
    "source": np.int32,
    "language": np.int32,
    "file": np.int32,
    "line": np.int64,
}
# Tags of one language and a region that are written in small letters (see `is_parallel`).
REGIONS = frozenset(
    "en-us en-gb en-au en-nz en-in es-mx pt-br zh-cn zh-hk zh-sg zh-tw zh-yue".split()
)


# Arrays of one folder


LIST = "cache.json"


@dataclass(frozen=True)
class Arrays:
    """What a folder holds: arrays by name, and the facts beside them."""

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]


class ArraysWriter:
    """Columns of a folder that grow together: `with ArraysWriter(folder, key, {...}) as writer`.

    The folder appears under its name when all is written. Where the block raises, or the process
    dies, nothing is under its name.
    """

    def __init__(
        self, folder: Path, key: str, dtypes: Mapping[str, type], *, buffer: int = 1 << 16
    ) -> None:
        """buffer is the number of values of a column that wait to be written."""
        self.folder, self.key = folder, key
        self.facts: dict[str, Any] = {}
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        self._buffer = buffer
        self._columns = {
            name: GrowingArray(self._scratch / f"{name}.npy", dtype)
            for name, dtype in dtypes.items()
        }
        self._waiting: dict[str, list[Any]] = {name: [] for name in dtypes}

    def extend(self, name: str, values: Iterable[Any]) -> None:
        """Appends to a column."""
        if isinstance(values, np.ndarray):
            self._write(name)
            self._columns[name].append(values)
            return
        self._waiting[name].extend(values)
        if len(self._waiting[name]) >= self._buffer:
            self._write(name)

    def _write(self, name: str) -> None:
        self._columns[name].append(self._waiting[name])
        self._waiting[name].clear()

    def written(self, name: str) -> npt.NDArray[Any]:
        """A column so far, memory-mapped."""
        self._write(name)
        return self._columns[name].view()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for column in self._columns.values():
                with contextlib.suppress(OSError):  # of a full disk, told already
                    column.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _finish(self) -> None:
        listed = {}
        for name, column in self._columns.items():
            self._write(name)
            column.sync()
            listed[name] = [column.dtype.str, len(column), column.path.stat().st_size]
        write_json(self._scratch / LIST, {"key": self.key, "arrays": listed, **self.facts})
        self._scratch.chmod(0o755)  # a temporary folder is its owner's alone
        _publish(self._scratch, self.folder, self.key, list(self._columns))


def _publish(scratch: Path, folder: Path, key: str, names: list[str]) -> None:
    """Gives a folder its name; one that is whole and there already stays, a damaged one goes."""
    for last in (False, False, True):
        try:
            os.rename(scratch, folder)
        except OSError:
            if last or not folder.exists():
                raise
        else:
            return
        if open_arrays(folder, key, names) is not None:
            return  # another process was first
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):  # another process took it away
            os.rename(folder, aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)


def open_arrays(folder: Path, key: str, names: Iterable[str]) -> Arrays | None:
    """The arrays of a folder, memory-mapped; None where one is missing or not as it was listed."""
    try:
        facts = json.loads((folder / LIST).read_text(encoding="utf-8"))
        listed = facts.pop("arrays")
        if facts.pop("key") != key or set(listed) != set(names):
            return None
        arrays = {}
        for name, (dtype, count, size) in listed.items():
            path = folder / f"{name}.npy"
            if path.stat().st_size != size:
                return None
            # np.memmap itself is slow to slice
            arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            if arrays[name].dtype.str != dtype or arrays[name].shape != (count,):
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return Arrays(arrays, facts)


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

    def counts(self) -> Numbers:
        """(N,) the length of each list."""
        return np.diff(self.offsets)


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

    ids: Ids
    offsets: Numbers
    keys: Numbers
    text_group: Numbers
    query: Numbers
    positives: Ragged
    positive_scores: Scores
    negatives: Ragged
    negative_scores: Scores
    group: Numbers
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

    def lengths(self) -> Numbers:
        """(S,) content tokens of each text."""
        return np.diff(self.offsets)

    def where(self, row: int) -> str:
        """File and line of a row."""
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
        progress: Progress | None = None,
        block: int = 4096,
    ) -> "Examples":
        """Opens the rows of sources from the cache folder, where they are made on first use.

        What is made depends on the bytes of the files, the tokenizer, prefixes and lengths, not on
        where files lie. progress(bytes of files that are done, bytes of all, tokens) is called now
        and then; block texts are tokenised at once. Raises InputError naming file and line of a row
        that cannot train, a source without rows, or a cache folder that cannot be written.
        """
        inputs = [[path for name in s.files for path in files_of(Path(name))] for s in sources]
        if not inputs:
            raise InputError("there are no sources of rows")
        roles = Roles.of(config, tokenizer)
        key = _cache_key(inputs, tokenizer, roles)
        folder = cache / f"rows-{key}"
        stored = open_arrays(folder, key, ARRAYS)
        if stored is None:
            labels = [source.label for source in sources]
            try:
                with ArraysWriter(folder, key, ARRAYS) as writer:
                    _RowWriter(writer, tokenizer, roles, block).read(inputs, labels, progress)
            except OSError as error:
                raise InputError(
                    f"{cache}: tokenised rows cannot be written: {error.strerror or error}: make"
                    " room, or name another folder in data.cache or TERCET_CACHE"
                ) from error
            stored = open_arrays(folder, key, ARRAYS)
        if stored is None:
            raise InputError(f"{folder}: what was just written is not whole: check the disk")
        touch(folder)
        arrays, languages = dict(stored.arrays), tuple(stored.facts["languages"])
        parallel = np.array([is_parallel(language) for language in languages], dtype=np.bool_)
        return Examples(
            positives=Ragged(arrays.pop("positives"), arrays.pop("positive_offsets")),
            negatives=Ragged(arrays.pop("negatives"), arrays.pop("negative_offsets")),
            parallel=parallel[arrays["language"]],
            languages=languages,
            files=tuple(str(path) for paths in inputs for path in paths),
            fingerprint=key,
            **arrays,
        )


def is_parallel(language: str) -> bool:
    """Whether a tag names two languages: "de-en" does, "zh-Hant" (a script) does not.

    Nor does "pt-br": regions in small letters are known where the language is never meant; others
    need the usual capitals ("fr-CA").
    """
    head, _, tail = language.rpartition("-")
    if not head or len(tail) not in (2, 3) or not tail.islower():
        return False
    return head != tail and language not in REGIONS


# Files to arrays


@dataclass(frozen=True)
class Role:
    """What is put before the texts of a role, and the content tokens that are read of one."""

    prefix: str
    limit: int


@dataclass(frozen=True)
class Roles:
    """Queries and passages; raw texts are passages."""

    query: Role
    passage: Role

    @staticmethod
    def of(config: DataConfig, tokenizer: Tokenizer) -> "Roles":
        """The roles of a config."""
        return Roles(
            Role(config.query_prefix, tokenizer.content_limit(config.query_tokens)),
            Role(config.passage_prefix, tokenizer.content_limit(config.passage_tokens)),
        )


def _cache_key(inputs: Sequence[Sequence[Path]], tokenizer: Tokenizer, roles: Roles) -> str:
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


class _RowWriter:
    """Columns of the rows, and the groups when all are there."""

    def __init__(
        self, writer: ArraysWriter, tokenizer: Tokenizer, roles: Roles, block: int
    ) -> None:
        self.texts, self.roles, self.count = _TextWriter(writer, tokenizer, roles, block), roles, 0
        self._writer = writer
        self._languages: dict[str, int] = {}
        self._ends = {"positive": 0, "negative": 0}
        self._given = array("q"), array("q")  # rows that bring a group id, and the ids
        for name in self._ends:
            writer.extend(f"{name}_offsets", (0,))

    def read(
        self, inputs: Sequence[Sequence[Path]], labels: Sequence[str], progress: Progress | None
    ) -> None:
        """All rows of the files of every source; raises InputError on what cannot train."""
        sizes = {
            path: sum(p.stat().st_size for p in parts_of(path)) for ps in inputs for path in ps
        }
        total = sum(sizes[path] for paths in inputs for path in paths)
        done = shown = file = 0
        for source, paths in enumerate(inputs):
            before = self.count
            for path in paths:
                for line, row in numbered_rows(path):
                    self._add(check_row(row, f"{path}:{line}"))
                    for name, value in (("source", source), ("file", file), ("line", line)):
                        self._writer.extend(name, (value,))
                    if progress is not None and self.texts.tokens > shown:
                        shown = self.texts.tokens
                        progress(done, total, shown)
                file, done = file + 1, done + sizes[path]
            if self.count == before:
                names = ", ".join(str(path) for path in paths)
                raise InputError(f"source {labels[source]}: no rows in {names}")
        self._finish()

    def _add(self, record: Record) -> None:
        """One row; a positive that is also among the negatives is left out of these."""
        role = self.roles.passage if record.raw else self.roles.query
        prefix = role.prefix if record.prompt is None or record.raw else record.prompt
        query = self.texts.place(record.query, prefix, role.limit)
        self._writer.extend("query", (query,))
        positives = self._list("positive", record.pos, record.pos_scores, ())
        refused = {self.texts.keys[place] for place in positives}
        self._list("negative", record.neg, record.neg_scores, refused)
        language = self._languages.setdefault(record.lang, len(self._languages))
        self._writer.extend("language", (language,))
        if record.group is not None:
            self._given[0].append(self.count)
            self._given[1].append(record.group)
        self.count += 1

    def _list(
        self,
        name: str,
        texts: Sequence[str],
        scores: Sequence[float] | None,
        refused: Container[int],
    ) -> list[int]:
        """Appends a row's positives or negatives and returns their places."""
        role = self.roles.passage
        places, known = [], []
        for turn, text in enumerate(texts):
            place = self.texts.place(text, role.prefix, role.limit, refused)
            if place is not None:
                places.append(place)
                known.append(math.nan if scores is None else scores[turn])
        self._writer.extend(f"{name}s", places)
        self._writer.extend(f"{name}_scores", known)
        self._ends[name] += len(places)
        self._writer.extend(f"{name}_offsets", (self._ends[name],))
        return places

    def _finish(self) -> None:
        """The rest: text keys, and groups through them."""
        self.texts.flush()
        keys = np.array(self.texts.keys, dtype=np.int64)
        self._writer.extend("keys", keys)
        query, positives = self._writer.written("query"), self._writer.written("positives")
        offsets = self._writer.written("positive_offsets") + np.arange(self.count + 1)
        of_rows = np.empty(int(offsets[-1]), dtype=np.int64)  # each row's query, then positives
        is_query = np.zeros(len(of_rows), dtype=np.bool_)
        is_query[offsets[:-1]] = True
        of_rows[is_query], of_rows[~is_query] = keys[query], keys[positives]
        rows, ids = (np.array(given, dtype=np.int64) for given in self._given)
        groups = group_rows(of_rows, offsets, (rows, ids))
        self._writer.extend("group", groups.rows)
        self._writer.extend("text_group", groups.of_texts(keys))
        self._writer.facts["languages"] = list(self._languages)


class _TextWriter:
    """Different texts in the order of their first appearance, by place 0, 1, ..."""

    def __init__(
        self,
        writer: ArraysWriter,
        tokenizer: Tokenizer,
        roles: Roles,
        block: int,
        *,
        characters: int = 1 << 20,
    ) -> None:
        """block texts are tokenised at once, or as many as have so many characters."""
        self.keys = array("q")  # text_key of each
        self.tokens = 0
        self._writer, self._tokenizer, self._block = writer, tokenizer, (block, characters)
        self._different = DistinctTexts()
        self._waiting: list[tuple[str, int]] = []  # texts to be tokenised, and their limits
        self._characters = 0
        self._limits = sorted((roles.query.limit, roles.passage.limit))
        writer.extend("offsets", (0,))

    def place(self, text: str, prefix: str, limit: int, refused: Container[int] = ()) -> int | None:
        """The place of a text behind a prefix; None where its text_key is among the refused.

        A query and a passage share a place, unless one may be cut and the other not.
        """
        least, most = self._limits
        if len(prefix) + len(text) <= least:
            limit = most
        exact = f"{limit} {len(prefix)} {prefix}{text}".encode("utf-8", "surrogatepass")
        place = self._different.get(exact)
        key = text_key(text) if place is None else self.keys[place]
        if key in refused:
            return None
        if place is None:
            place = self._different.add(exact)
            self.keys.append(key)
            self._waiting.append((prefix + text, limit))
            self._characters += len(prefix) + len(text)
            block, characters = self._block
            if len(self._waiting) >= block or self._characters >= characters:
                self.flush()
        return place

    def flush(self) -> None:
        """Tokenises what waits."""
        contents: list[list[int]] = [[]] * len(self._waiting)
        for limit in set(self._limits):
            own = [at for at, (_, its) in enumerate(self._waiting) if its == limit]
            texts = [self._waiting[at][0] for at in own]
            for at, ids in zip(own, self._tokenizer.contents(texts, limit=limit), strict=True):
                contents[at] = ids
        for ids in contents:
            self.tokens += len(ids)
            self._writer.extend("ids", ids)
            self._writer.extend("offsets", (self.tokens,))
        self._waiting.clear()
        self._characters = 0
