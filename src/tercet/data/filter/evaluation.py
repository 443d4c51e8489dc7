"""The texts of evaluation sets: BEIR folders, training rows that were held out, translations.

What is left out counts as much as what is read: queries judged in qrels/train.tsv are for training,
and a passage that no judged query needs may stand in a corpus that training shares. Knows nothing
of how texts are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tercet.errors import InputError
from tercet.rows import SUFFIXES, Row, numbered_rows, stem_of

Passages = Literal["relevant", "all", "none"]
PASSAGES: tuple[Passages, ...] = get_args(Passages)
TRAIN = "train"  # the name of the judgements that are for training
# fields of a row of translations that hold no text
_NO_TEXT = frozenset({"lang", "id", "_id", "source", "direction", "group", "prompt"})
_ROW_FIELDS = ("query", "pos", "text")


@dataclass(frozen=True)
class EvaluationText:
    """A text that a model is measured on, and where it stands."""

    text: str
    name: str  # of the set
    path: str
    line: int


def evaluation_files(source: Path) -> list[Path]:
    """The files of a set, or of the sets in a folder; raises InputError where there are none."""
    if source.is_file():
        if not source.name.endswith(SUFFIXES):
            raise InputError(f"{source}: not a file of rows ({', '.join(SUFFIXES)})")
        return [source]
    if not source.is_dir():
        raise InputError(f"{source}: no such evaluation set")
    if files := _own_files(source):
        return files
    found = [path for folder in sorted(source.iterdir()) for path in _own_files(folder)]
    if not found:
        raise InputError(
            f"{source}: no evaluation set here: a set is a folder with queries.jsonl (or .gz) and "
            "corpus.jsonl, one with pairs.jsonl, or a file of rows"
        )
    return found


def read_evaluation(source: Path, *, passages: Passages = "relevant") -> Iterator[EvaluationText]:
    """The texts of a set or of the sets in a folder; raises InputError naming file and line.

    Of a BEIR folder: its queries and, of its corpus, the passages that are judged to be relevant,
    all or none. Without qrels all queries count, and no passage is known to be relevant.
    """
    for folder in _sets(source):
        if folder.is_file():
            yield from _read_rows(folder, stem_of(folder))
            continue
        queries, corpus = (_one(folder, name) for name in ("queries", "corpus"))
        if queries is None:
            for path in _own_files(folder):
                yield from _read_rows(path, folder.name)
            continue
        judged, relevant = _read_qrels(folder)
        yield from _read_texts(queries, folder.name, judged)
        if corpus is not None and passages != "none":
            yield from _read_texts(corpus, folder.name, None if passages == "all" else relevant)


def _sets(source: Path) -> list[Path]:
    """The folders, or the file, of a source's sets."""
    files = evaluation_files(source)
    return files if source.is_file() else list(dict.fromkeys(path.parent for path in files))


def _own_files(folder: Path) -> list[Path]:
    """The files of the set that a folder is; none where it is none."""
    queries = _one(folder, "queries")
    if queries is not None:
        corpus = _one(folder, "corpus")
        return [queries, *([corpus] if corpus else [])]
    pairs = _one(folder, "pairs")
    return [pairs] if pairs is not None else []


def _one(folder: Path, name: str) -> Path | None:
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in found if path.is_file()), None)


def _read_qrels(folder: Path) -> tuple[set[str] | None, set[str]]:
    """Ids of the queries (None: all) and of the relevant passages of all judgements but train."""
    files = sorted((folder / "qrels").glob("*.tsv"))
    if not files:
        return None, set()
    queries: set[str] = set()
    passages: set[str] = set()
    for path in files:
        if path.stem == TRAIN:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or (number == 1 and "query-id" in line):
                continue
            fields = line.split("\t")
            try:
                query, passage, gain = fields[0], fields[-2], float(fields[-1])
            except (IndexError, ValueError):
                raise InputError(
                    f"{path}:{number}: expected query id, passage id and gain, parted by tabs, got "
                    f"{line[:60]!r}"
                ) from None
            queries.add(query)
            if gain > 0:
                passages.add(passage)
    return queries, passages


def _read_texts(path: Path, name: str, wanted: set[str] | None) -> Iterator[EvaluationText]:
    """Texts of queries.jsonl or corpus.jsonl, those of wanted ids."""
    for number, row in numbered_rows(path):
        key, text = row.get("_id"), row.get("text")
        if not isinstance(key, str | int) or not isinstance(text, str):
            raise InputError(f"{path}:{number}: an evaluation text needs '_id' and 'text'")
        if text.strip() and (wanted is None or str(key) in wanted):
            yield EvaluationText(text, name, str(path), number)


def _read_rows(path: Path, name: str) -> Iterator[EvaluationText]:
    """Texts of training rows, raw texts or translations."""
    for number, row in numbered_rows(path):
        texts = _texts_of(row)
        if not texts:
            raise InputError(
                f"{path}:{number}: no text: an evaluation row has 'query' and 'pos', 'text', or "
                "translations"
            )
        for text in texts:
            yield EvaluationText(text, name, str(path), number)


def _texts_of(row: Row) -> Sequence[str]:
    if any(field in row for field in _ROW_FIELDS):
        values = [row.get("query"), row.get("text"), *(_list(row.get("pos")))]
    else:
        values = [value for field, value in row.items() if field not in _NO_TEXT]
    return [value for value in values if isinstance(value, str) and value.strip()]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
