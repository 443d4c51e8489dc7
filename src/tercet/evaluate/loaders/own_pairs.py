"""Own rows {"query", "pos", "neg"?}: every text of "pos" and "neg" is a passage that all search.

Passages and queries that come in several rows are one; a "prompt" makes another query.
Knows nothing of what is measured.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders.passages import Numbered, once_each
from tercet.evaluate.tasks import Corpus, Task
from tercet.rows import Record, check_row, files_of, numbered_rows, stem_of


def load(path: Path) -> list[Task]:
    """One task of a file of rows, or of all files in a folder; raises InputError."""
    files = files_of(path)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    languages: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for _, row in _rows(files):
        key = name_of(row.query if row.prompt is None else f"{row.prompt}\0{row.query}")
        queries[key] = row.query
        gains = qrels.setdefault(key, {})
        gains.update({name_of(text): 1 for text in row.pos})
        if row.lang:
            languages[key] = row.lang
        if row.prompt is not None:
            prompts[key] = row.prompt
    if not queries:
        raise InputError(f"{path}: no row")

    def passages() -> Numbered:
        seen: set[str] = set()
        for where, row in _rows(files):
            for text in (*row.pos, *row.neg):
                key = name_of(text)
                if key not in seen:
                    seen.add(key)
                    yield where, key, text

    different = set(languages.values())
    alone = len(different) == 1 and len(languages) == len(queries)
    return [
        Task(
            name=f"pairs/{stem_of(path)}",
            suite="pairs",
            language=different.pop() if alone else "",
            corpus=Corpus(str(path), lambda: once_each(passages, str(path))),
            queries=queries,
            qrels=qrels,
            languages={} if alone else languages,
            prompts=prompts,
            source=str(path),
        )
    ]


def name_of(text: str) -> str:
    """The id of a text: the same wherever it stands."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _rows(files: list[Path]) -> Iterator[tuple[str, Record]]:
    """Each row, and where it stands."""
    for path in files:
        for line, row in numbered_rows(path):
            where = f"{path}:{line}"
            record = check_row(row, where)
            if record.raw:
                raise InputError(f'{where}: a text alone: evaluation needs "query" and "pos"')
            yield where, record
