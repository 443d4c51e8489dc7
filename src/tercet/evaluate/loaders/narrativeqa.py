"""NarrativeQA: questions on whole books and film scripts, of deepmind/narrativeqa.

M3 paper, table 4 and figure 4: as in the MTEB task NarrativeQARetrieval, where jina-embeddings-v2
(whose set-up the paper names) put it: the 10,557 questions of the test split, each with one
relevant document of the 355 that the split has, without titles. Needs the extra `tercet[parquet]`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.loaders.files import Dataset
from tercet.evaluate.loaders.passages import Numbered, judged_queries, once_each
from tercet.evaluate.tasks import PAPER_LONG, Corpus, Task

SPLITS = ("test", "validation", "train")
ROWS = 32  # read at once: each has a whole book, a million characters at most


def load(split: str, *, local: Path | None) -> list[Task]:
    """The task; raises InputError."""
    pattern = f"data/{split}-*.parquet"
    found = Dataset("deepmind/narrativeqa", local).fetch(pattern)
    files = found.matching(pattern)
    queries: list[tuple[str, str, str]] = []
    qrels: dict[str, dict[str, int]] = {}
    for where, row in _rows(files, ["document.id", "question.text"]):
        key = str(len(queries))
        queries.append((where, key, row["question"]["text"] or ""))
        qrels[key] = {_document(row, where): 1}
    if not queries:
        raise InputError(f"{files[0]}: no question")

    def documents() -> Numbered:
        seen: set[str] = set()
        for where, row in _rows(files, ["document.id", "document.text"]):
            key = _document(row, where)
            if key not in seen:  # it comes with each of its questions
                seen.add(key)
                yield where, key, row["document"]["text"] or ""

    return [
        Task(
            name="narrativeqa" + ("" if split == SPLITS[0] else f"@{split}"),
            suite="narrativeqa",
            language="en",
            corpus=Corpus(f"narrativeqa/{split}", lambda: once_each(documents, "narrativeqa")),
            queries=judged_queries(iter(queries), set(qrels), files[0]),
            qrels=qrels,
            protocol=PAPER_LONG,
            source=found.source,
        )
    ]


def _document(row: dict[str, Any], where: str) -> str:
    key = row["document"]["id"]
    if not isinstance(key, str) or not key:
        raise InputError(f"{where}: a document without an id")
    return key


def _rows(files: Sequence[Path], columns: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of Parquet files with some of their nested columns."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "NarrativeQA comes as Parquet, which needs pyarrow: pip install 'tercet[parquet]'"
        ) from error
    for path in files:
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                there = set(file.schema.names) | {
                    file.schema.column(n).path for n in range(len(file.schema))
                }
                if absent := [column for column in columns if column not in there]:
                    raise InputError(f"{path}: no column {absent[0]}: not a file of NarrativeQA")
                for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{path}:{number}", row
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a whole Parquet file: {error}") from error
