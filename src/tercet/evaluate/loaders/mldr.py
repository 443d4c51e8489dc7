"""MLDR: whole long articles, one relevant to each question, of Shitao/MLDR.

M3 paper, table 3: the test split of 13 languages, nDCG@10. A passage is its text alone: the
published corpus has no titles.
"""

from collections.abc import Sequence
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders.files import Dataset
from tercet.evaluate.loaders.passages import corpus_of, identifier, judged_queries, string
from tercet.evaluate.tasks import PAPER_LONG, Task
from tercet.rows import numbered_rows

LANGUAGES = tuple("ar de en es fr hi it ja ko pt ru th zh".split())
SPLITS = ("test", "dev", "train")


def load(languages: Sequence[str], split: str, *, local: Path | None) -> list[Task]:
    """A task per language; raises InputError."""
    dataset = Dataset("Shitao/MLDR", local)
    return [_task(dataset, language, split) for language in languages]


def _task(dataset: Dataset, language: str, split: str) -> Task:
    folder = f"mldr-v1.0-{language}"
    questions, passages = f"{folder}/{split}.jsonl.gz", f"{folder}/corpus.jsonl.gz"
    found = dataset.fetch(questions, passages)
    path = found.one(questions)
    queries: list[tuple[str, str, str]] = []
    qrels: dict[str, dict[str, int]] = {}
    for line, row in numbered_rows(path):
        where = f"{path}:{line}"
        key = identifier(row, "query_id", where)
        queries.append((where, key, string(row, "query", where)))
        gains = qrels.setdefault(key, {})
        for field, gain in (("negative_passages", 0), ("positive_passages", 1)):
            some = row.get(field) or []
            if not isinstance(some, list) or not all(isinstance(one, dict) for one in some):
                raise InputError(f"{where}: {field!r} must be a list of objects")
            gains.update({identifier(one, "docid", where): gain for one in some})
    return Task(
        name=f"mldr/{language}" + ("" if split == SPLITS[0] else f"@{split}"),
        suite="mldr",
        language=language,
        corpus=corpus_of(f"mldr/{language}", [found.one(passages)], ("docid", None, "text")),
        queries=judged_queries(iter(queries), set(qrels), path),
        qrels=qrels,
        protocol=PAPER_LONG,
        source=found.source,
    )
