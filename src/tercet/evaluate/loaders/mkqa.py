"""MKQA: questions in 25 languages, whose answers stand in English Wikipedia passages.

As the M3 paper measures it (table 4; its evaluation scripts): the 6,619 questions whose answer is
an entity, date, number or phrase; the English answers with their aliases; the passages of NQ as
BEIR has them, lower-cased and with plain quotes and dashes, 512 tokens at most; the measure is
whether an answer string occurs in the best 20 or 100 passages, which the paper calls Recall.

The questions are read from MKQA_test-data.zip of Shitao/bge-m3-data, or its unpacked files, or
from mkqa.jsonl(.gz) of apple/ml-mkqa on GitHub, which gives the same.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.evaluate.answers import plain
from tercet.evaluate.loaders.beir import patterns
from tercet.evaluate.loaders.files import Dataset
from tercet.evaluate.loaders.passages import corpus_of, identifier, judged_queries, string
from tercet.evaluate.tasks import PAPER, Task
from tercet.rows import Row, numbered_rows

# all but English, in the order of the paper's evaluation
LANGUAGES = tuple(
    "ar fi ja ko ru es sv he th da de fr it nl pl pt hu vi ms km no tr zh_cn zh_hk zh_tw".split()
)
ZIP = "MKQA_test-data.zip"
LEFT_OUT = ("unanswerable", "binary", "long_answer")  # kinds of answers
PROTOCOL = replace(PAPER, measures=("AnswerRecall@100", "AnswerRecall@20"), passage_tokens=512)

Questions = list[tuple[str, str, str, tuple[str, ...]]]  # where, id, question, answers


def load(languages: Sequence[str], *, local: Path | None) -> list[Task]:
    """A task per language, all over one corpus; raises InputError."""
    questions, source = _questions(languages, local)
    nq = Dataset("BeIR/nq", local).fetch("|".join(patterns("corpus")))
    files = nq.matching(*patterns("corpus"))
    corpus = corpus_of("nq, lower case", files, ("_id", "title", "text"), change=plain)
    tasks = []
    for language in languages:
        some = questions[language]
        answers = {key: given for _, key, _, given in some}
        texts = ((where, key, text) for where, key, text, _ in some)
        tasks.append(
            Task(
                name=f"mkqa/{language}",
                suite="mkqa",
                language=language,
                corpus=corpus,
                queries=judged_queries(texts, set(answers), source),
                answers=answers,
                protocol=PROTOCOL,
                source=f"{source}, {nq.source}",
            )
        )
    return tasks


def _questions(languages: Sequence[str], local: Path | None) -> tuple[dict[str, Questions], str]:
    if local is not None:
        for name in ("mkqa.jsonl", "mkqa.jsonl.gz"):
            if (path := local / name).is_file():
                return _published(path, languages), str(path)
        if all((local / f"{language}.jsonl").is_file() for language in languages):
            rows = {
                language: [
                    (f"{local / f'{language}.jsonl'}:{line}", row)
                    for line, row in numbered_rows(local / f"{language}.jsonl")
                ]
                for language in languages
            }
            return {language: _prepared(some) for language, some in rows.items()}, str(local)
    fetched = Dataset("Shitao/bge-m3-data", local).fetch(ZIP)
    path = fetched.one(ZIP)
    try:
        with zipfile.ZipFile(path) as packed:
            return {
                language: _prepared(_zipped(packed, path, language)) for language in languages
            }, fetched.source
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a whole zip file: {error}") from error


def _zipped(packed: zipfile.ZipFile, path: Path, language: str) -> Iterator[tuple[str, Row]]:
    """Rows of LANGUAGE.jsonl in the zip, in whatever folder."""
    name = f"{language}.jsonl"
    member = next((one for one in packed.namelist() if one.split("/")[-1] == name), None)
    if member is None:
        raise InputError(f"{path}: no {name} in it")
    with packed.open(member) as raw:
        for number, line in enumerate(io.TextIOWrapper(raw, encoding="utf-8"), 1):
            where = f"{path}/{member}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not a line of JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{where}: not a JSON object")
            yield where, row


def _prepared(rows: Iterator[tuple[str, Row]] | list[tuple[str, Row]]) -> Questions:
    """Questions of the M3 evaluation's files: {"id", "question", "answers"}, none to be dropped."""
    return [
        (
            where,
            identifier(row, "id", where),
            string(row, "question", where),
            _strings(row.get("answers"), where),
        )
        for where, row in rows
    ]


def _published(path: Path, languages: Sequence[str]) -> dict[str, Questions]:
    """The same of the published file: {"example_id", "queries", "answers"}."""
    out: dict[str, Questions] = {language: [] for language in languages}
    for line, row in numbered_rows(path):
        where = f"{path}:{line}"
        queries, answers = row.get("queries"), row.get("answers")
        english = answers.get("en") if isinstance(answers, dict) else None
        if not isinstance(queries, dict) or not isinstance(english, list) or not english:
            raise InputError(f"{where}: no 'queries' and 'answers' of languages: not MKQA")
        given = _english(english, where)
        if given is None:
            continue
        key = identifier(row, "example_id", where)
        for language in languages:
            out[language].append((where, key, string(queries, language, where), given))
    return out


def _english(answers: list[Any], where: str) -> tuple[str, ...] | None:
    """English answer strings, None for a question that is left out.

    Of several answers the kind of the last decides, as in Contriever's script, from which the
    6,619 questions come.
    """
    out: list[str] = []
    kept = False
    for answer in answers:
        if not isinstance(answer, dict):
            raise InputError(f"{where}: an answer is no object")
        kept = answer.get("type") not in LEFT_OUT
        if kept:
            out += _strings([*(answer.get("aliases") or []), answer.get("text") or ""], where)
    return tuple(out) if kept else None


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: 'answers' must be a list of strings")
    return tuple(text for text in dict.fromkeys(value) if text.strip())
