"""MIRACL: questions and judgements of miracl/miracl, passages of miracl/miracl-corpus.

M3 paper, table 2: the dev split of 18 languages, nDCG@10 and Recall@100. Passages are paragraphs
of Wikipedia under the titles of their articles.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders.files import Dataset
from tercet.evaluate.loaders.passages import corpus_of, judged_queries
from tercet.evaluate.tasks import PAPER, Task
from tercet.evaluate.trec import read_qrels

LANGUAGES = tuple("ar bn en es fa fi fr hi id ja ko ru sw te th zh de yo".split())
SPLITS = ("dev", "train")  # the test split has no published judgements
_DOCS = re.compile(r"docs-(\d+)\.jsonl\.gz")


def load(languages: Sequence[str], split: str, *, local: Path | None) -> list[Task]:
    """A task per language; raises InputError."""
    judged = Dataset("miracl/miracl", local)
    passages = Dataset("miracl/miracl-corpus", local)
    return [_task(judged, passages, language, split) for language in languages]


def _task(judged: Dataset, passages: Dataset, language: str, split: str) -> Task:
    base = f"miracl-v1.0-{language}"
    topics = f"{base}/topics/topics.{base}-{split}.tsv"
    judgements = f"{base}/qrels/qrels.{base}-{split}.tsv"
    docs = f"miracl-corpus-v1.0-{language}/docs-*.jsonl.gz"
    asked = judged.fetch(topics, judgements)
    found = passages.fetch(docs)
    files = found.matching(docs)
    numbers = [int(match[1]) for path in files if (match := _DOCS.fullmatch(path.name))]
    if numbers != list(range(len(files))):
        gap = next((n for n, number in enumerate(numbers) if n != number), len(numbers))
        raise InputError(f"{files[0].parent}: docs-{gap}.jsonl.gz is missing")
    qrels = read_qrels(asked.one(judgements))
    path = asked.one(topics)
    return Task(
        name=f"miracl/{language}" + ("" if split == SPLITS[0] else f"@{split}"),
        suite="miracl",
        language=language,
        corpus=corpus_of(f"miracl-corpus/{language}", files, ("docid", "title", "text")),
        queries=judged_queries(_topics(path), set(qrels), path),
        qrels=qrels,
        protocol=PAPER,
        source=f"{asked.source}, {found.source}",
    )


def _topics(path: Path) -> Iterator[tuple[str, str, str]]:
    """Queries of `id<tab>query` lines."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            key, tab, text = line.rstrip("\r").partition("\t")
            if not tab:
                raise InputError(f"{path}:{number}: no tab between the id and the query")
            yield f"{path}:{number}", key.strip(), text.strip()
