"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, packed or not.

The layout that the hub has, corpus/*.parquet, is read too. Knows nothing of what is measured.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders.files import Fetched
from tercet.evaluate.loaders.passages import corpus_of, identifier, judged_queries, string
from tercet.evaluate.tasks import Task
from tercet.evaluate.trec import read_qrels
from tercet.rows import Row, numbered_rows

SPLIT = "test"
PACKED = ("", ".gz", ".xz", ".zst")


def patterns(stem: str) -> tuple[str, ...]:
    """The names that a table of a BEIR folder may have."""
    return (*(f"{stem}.jsonl{packed}" for packed in PACKED), f"{stem}/*.parquet")


def load(path: Path, split: str = SPLIT) -> list[Task]:
    """The task of a BEIR folder, or those of all BEIR folders in a folder; raises InputError.

    The latter may lie one folder deeper, as those of CQADupStack do; those without the split are
    left out, and a note of the first task says so. Queries that the split does not judge are left
    out. `lang` of queries is their language.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    if _is_beir(path):
        return [_task(path, split, path.name)]
    folders = [found for inner in sorted(path.iterdir()) for found in _beneath(inner)]
    with_split = [folder for folder in folders if _qrels(folder, split)]
    if not with_split:
        what = f"qrels/{split}.tsv" if folders else "corpus.jsonl and queries.jsonl"
        raise InputError(f"{path}: neither a BEIR folder nor a folder of them: no {what} in it")
    tasks = [_task(folder, split, folder.relative_to(path).as_posix()) for folder in with_split]
    if left := [
        folder.relative_to(path).as_posix() for folder in folders if folder not in with_split
    ]:
        note = f"beside it without a qrels/{split}.tsv, and left out: {', '.join(left)}"
        tasks[0] = replace(tasks[0], notes=(note,))
    return tasks


def _beneath(folder: Path) -> list[Path]:
    """A BEIR folder, or those in it."""
    if _is_beir(folder):
        return [folder]
    return sorted(filter(_is_beir, folder.iterdir())) if folder.is_dir() else []


def _is_beir(folder: Path) -> bool:
    return all(
        any(any(folder.glob(pattern)) for pattern in patterns(stem))
        for stem in ("corpus", "queries")
    )


def _qrels(folder: Path, split: str) -> Path | None:
    names = (folder / "qrels" / f"{split}.tsv", folder / "qrels" / f"{split}.tsv.gz")
    return next((name for name in names if name.is_file()), None)


def _task(folder: Path, split: str, name: str) -> Task:
    judgements = _qrels(folder, split)
    if judgements is None:
        there = sorted(path.name for path in (folder / "qrels").glob("*.tsv*"))
        raise InputError(
            f"{folder}: no qrels/{split}.tsv: there is {', '.join(there) or 'no split'}"
        )
    qrels = read_qrels(judgements)
    fetched = Fetched(folder, str(folder))
    files = fetched.matching(*patterns("queries"))
    languages: dict[str, str] = {}

    def queries() -> Iterator[tuple[str, str, str]]:
        for path in files:
            for line, row in numbered_rows(path):
                where = f"{path}:{line}"
                key = identifier(row, "_id", where)
                if language := _language(row, where):
                    languages[key] = language
                yield where, key, string(row, "text", where)

    kept = judged_queries(queries(), set(qrels), files[0])
    of = {query: languages[query] for query in kept if query in languages}
    different = set(of.values())
    alone = len(different) == 1 and len(of) == len(kept)
    return Task(
        name=f"beir/{name}" + ("" if split == SPLIT else f"@{split}"),
        suite="beir",
        language=different.pop() if alone else "",
        corpus=corpus_of(
            str(folder), fetched.matching(*patterns("corpus")), ("_id", "title", "text")
        ),
        queries=kept,
        qrels=qrels,
        languages={} if alone else of,
        source=str(folder),
    )


def _language(row: Row, where: str) -> str:
    """The language that a query names, "" where none."""
    return string(row, "lang", where, default="")
