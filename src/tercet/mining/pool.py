"""What is mined from: training rows and a corpus as numbered texts, and what is related to rows.

Texts are read one at a time and kept on disk; what stays in memory of one is a few numbers. Knows
nothing of models or scores.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.rows import Row, check_row, files_of, numbered_rows, passage_text
from tercet.scores import Places
from tercet.split import DistinctTexts, Related, RowKeys, text_key

Rows = Sequence[str | Path] | Sequence[Row]  # files or folders of them; or the rows themselves
Shingles = npt.NDArray[np.uint64]

SHINGLE = 5  # characters; short enough for every script, long enough to be rare
# Odd, 2**64 / golden ratio (Knuth): spreads what it multiplies.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class TextStore:
    """Texts by place 0, 1, ... in a file, in the order of their first appearance."""

    def __init__(self, path: Path, *, unique: bool = True) -> None:
        """With unique=False every text has a place of its own, as often as it comes."""
        self._file = path.open("w+b")
        self._ends = array("q", [0])
        self._distinct = DistinctTexts() if unique else None
        self.keys = array("q")  # text_key of each
        self.sizes = array("q")  # number of its shingles; 0 where unique=False

    def add(self, text: str) -> int:
        """The place of a text, new or as it was."""
        raw = text.encode("utf-8", "surrogatepass")
        if self._distinct is not None and (place := self._distinct.add(raw)) < len(self):
            return place
        self.keys.append(text_key(text))
        self.sizes.append(0 if self._distinct is None else len(shingles(text)))
        self._file.write(raw)
        self._ends.append(self._ends[-1] + len(raw))
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        self._file.flush()
        start, end = self._ends[place], self._ends[place + 1]
        return os.pread(self._file.fileno(), end - start, start).decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def close(self) -> None:
        """Closes the file; the texts are gone."""
        self._file.close()


def shingles(text: str) -> Shingles:
    """Sorted hashes of all runs of 5 characters, case and white space folded; at least one."""
    folded = " ".join(text.split()).casefold()
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    count = len(codes) - SHINGLE + 1
    mixed = np.zeros(count, dtype=np.uint64)
    for shift in range(SHINGLE):
        mixed = (mixed + codes[shift : shift + count]) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


class Ragged:
    """Lists of numbers, one after the other."""

    def __init__(self) -> None:
        self._values, self._offsets = array("q"), array("q", [0])

    def append(self, numbers: Iterable[int]) -> None:
        """One more list."""
        self._values.extend(numbers)
        self._offsets.append(len(self._values))

    def __getitem__(self, row: int) -> Places:
        return np.array(self._values[self._offsets[row] : self._offsets[row + 1]], np.int64)


@dataclass(frozen=True)
class Pool:
    """M rows with positives over P candidate texts.

    texts: the candidates at places 0 ... P - 1, behind them the positives that are none. keys and
    sizes (S,) of every text: its text_key and its number of shingles. queries: one text a row;
    prompts put before. row (M,) number among all rows read; row_keys (M,); related: what is no
    negative of a row. positives: the places of each of the M rows; negatives: the keys of those it
    has already.
    """

    texts: TextStore
    candidates: int
    keys: Places
    sizes: Places
    queries: TextStore
    prompts: dict[int, str]
    rows: int  # all that were read
    row: Places
    row_keys: Places
    related: Related
    positives: Ragged
    negatives: Ragged

    def __len__(self) -> int:
        return len(self.row)

    def close(self) -> None:
        """Closes the files of texts; nothing can be read any more."""
        self.texts.close()
        self.queries.close()

    def prompted_queries(self, prefix: str) -> Iterator[str]:
        """The queries as they are encoded: a row's own "prompt", else the prefix, put before."""
        for row, text in enumerate(self.queries):
            yield self.prompts.get(row, prefix) + text

    @staticmethod
    def read(rows: Rows, folder: Path, corpus: Iterable[str] | None = None) -> "Pool":
        """Reads rows into files in a folder; candidates are the corpus, else the rows' own texts.

        Raises InputError naming file and line of a bad row, or where no row has a positive.
        """
        texts = TextStore(folder / "texts")
        queries = TextStore(folder / "queries", unique=False)
        for text in corpus or ():
            if text.strip():
                texts.add(text)
        corpus_size = len(texts)
        read, prompts = 0, dict[int, str]()
        numbers, positives, negatives, keys = array("q"), Ragged(), Ragged(), RowKeys()
        for where, row in each_row(rows):
            record = check_row(row, where)
            read += 1
            if record.raw:
                continue
            query = queries.add(record.query)
            if record.prompt is not None:
                prompts[query] = record.prompt
            places = [texts.add(text) for text in record.pos]
            if corpus is None:
                for text in record.neg:
                    texts.add(text)
            numbers.append(read - 1)
            positives.append(places)
            negatives.append(map(text_key, record.neg))
            keys.add(
                [queries.keys[query], *(texts.keys[p] for p in places)], record.group, record.lang
            )
        if not len(numbers):
            raise InputError(
                f"none of the {read} rows has a query with positives: there is nothing to mine for"
            )
        return Pool(
            texts=texts,
            candidates=len(texts) if corpus is None else corpus_size,
            keys=np.frombuffer(texts.keys, dtype=np.int64),
            sizes=np.frombuffer(texts.sizes, dtype=np.int64),
            queries=queries,
            prompts=prompts,
            rows=read,
            row=np.frombuffer(numbers, dtype=np.int64),
            row_keys=np.frombuffer(queries.keys, dtype=np.int64),
            related=keys.related(),
            positives=positives,
            negatives=negatives,
        )


def each_row(rows: Rows) -> Iterator[tuple[str, Row]]:
    """Every row with its place in words, in the order of files and lines."""
    if isinstance(rows, str | Path):
        raise InputError(f"give a list of files: [{str(rows)!r}]")
    for number, item in enumerate(rows, 1):
        if isinstance(item, str | Path):
            for path in files_of(Path(item)):
                for line, row in numbered_rows(path):
                    yield f"{path}:{line}", row
        else:
            yield f"row {number}", item


def read_corpus(sources: Sequence[str | Path]) -> Iterator[str]:
    """Texts of JSON lines {"text"} or {"_id", "title", "text"}, or of BEIR folders.

    A title, a line break and the text are one text (M3 paper). Raises InputError naming file and
    line.
    """
    for path in map(Path, sources):
        if not path.is_file():
            named = [file for file in files_of(path) if file.name.partition(".")[0] == "corpus"]
            if not named:
                raise InputError(f"{path}: no corpus.jsonl or corpus.jsonl.gz: not a BEIR folder")
            path = named[0]
        for line, row in numbered_rows(path):
            title, text = row.get("title") or "", row.get("text")
            if not isinstance(text, str) or not isinstance(title, str):
                raise InputError(f"{path}:{line}: a text of the corpus needs a string in 'text'")
            yield passage_text(title, text)
