"""Training rows and a corpus as places in a text store, with the groups that exclude each other.

Texts are read one at a time and kept on disk. Knows nothing of models or scores.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.errors import InputError
from tercet.mining.texts import TextStore
from tercet.rows import Row, check_row, files_of, numbered_rows
from tercet.split import group_rows, text_key

Rows = Sequence[str | Path] | Sequence[Row]  # files or folders of them; or the rows themselves
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """M rows with positives over P candidate texts.

    texts: the candidates at places 0 ... P - 1, behind them the positives that are none. keys,
    sizes, groups (S,) of every text: its text_key, its number of shingles, and the group of the
    rows that have it as query or positive (below 0: of no row, or a heading of many). queries: one
    text a row; prompts put before. row (M,) number among all rows read; row_keys, row_groups (M,).
    Row m's positives are positives[bounds[m]:bounds[m + 1]], the keys of the negatives that it
    has already negatives[negative_bounds[m]:negative_bounds[m + 1]].
    """

    texts: TextStore
    candidates: int
    keys: Places
    sizes: Places
    groups: Places
    queries: TextStore
    prompts: dict[int, str]
    rows: int  # all that were read
    row: Places
    row_keys: Places
    row_groups: Places
    positives: Places
    bounds: Places
    negatives: Places
    negative_bounds: Places

    def __len__(self) -> int:
        return len(self.row)

    def positives_of(self, row: int) -> Places:
        """Places of the positives of one of the M rows."""
        return self.positives[self.bounds[row] : self.bounds[row + 1]]

    def negatives_of(self, row: int) -> Places:
        """Keys of the negatives that a row has already."""
        return self.negatives[self.negative_bounds[row] : self.negative_bounds[row + 1]]

    def close(self) -> None:
        """Closes the files of texts; nothing can be read any more."""
        self.texts.close()
        self.queries.close()

    def questions(self, prefix: str) -> Iterator[str]:
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
        given = len(texts) if corpus is not None else None
        read, prompts = 0, dict[int, str]()
        numbers, positives, negatives, keyed = array("q"), array("q"), array("q"), array("q")
        bounds, negative_bounds, ends = array("q", [0]), array("q", [0]), array("q", [0])
        bringing, brought = array("q"), array("q")  # rows with a group id, and the ids
        for where, row in each_row(rows):
            record = check_row(row, where)
            read += 1
            if record.raw:
                continue
            place = queries.add(record.query)
            if record.prompt is not None:
                prompts[place] = record.prompt
            if record.group is not None:
                bringing.append(place)
                brought.append(record.group)
            places = [texts.add(text) for text in record.pos]
            numbers.append(read - 1)
            positives.extend(places)
            bounds.append(len(positives))
            keyed.extend([queries.keys[place], *(texts.keys[place] for place in places)])
            ends.append(len(keyed))
            for text in record.neg:
                if given is None:
                    texts.add(text)
                negatives.append(text_key(text))
            negative_bounds.append(len(negatives))
        if not len(numbers):
            raise InputError(
                f"none of the {read} rows has a query with positives: there is nothing to mine for"
            )
        groups = group_rows(_array(keyed), _array(ends), (_array(bringing), _array(brought)))
        keys = _array(texts.keys)
        return Pool(
            texts=texts,
            candidates=len(texts) if given is None else given,
            keys=keys,
            sizes=_array(texts.sizes),
            groups=groups.of_texts(keys),
            queries=queries,
            prompts=prompts,
            rows=read,
            row=_array(numbers),
            row_keys=_array(queries.keys),
            row_groups=groups.rows,
            positives=_array(positives),
            bounds=_array(bounds),
            negatives=_array(negatives),
            negative_bounds=_array(negative_bounds),
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
    for source in map(Path, sources):
        for path in [source] if source.is_file() else _beir(source):
            for line, row in numbered_rows(path):
                where = f"{path}:{line}"
                if not isinstance(row.get("text"), str):
                    raise InputError(f"{where}: a text of the corpus needs a string in 'text'")
                title = _string(row, "title", where)
                yield f"{title}\n{row['text']}" if title else row["text"]


def _beir(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such file or folder")
    found = [path for path in files_of(folder) if path.name.partition(".")[0] == "corpus"]
    if not found:
        raise InputError(f"{folder}: no corpus.jsonl or corpus.jsonl.gz here: not a BEIR folder")
    return found[:1]


def _string(row: Row, name: str, where: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is a {type(value).__name__}, not a string")
    return value or ""


def _array(values: "array[int]") -> Places:
    return np.array(values, dtype=np.int64)
