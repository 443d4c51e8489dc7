"""Benchmarks and own data by name, such as `miracl:sw,yo` or `beir:FOLDER`, to tasks.

Reads published files from a local copy or the hub, and own files. Knows nothing of models or of
what is measured.
"""

import gzip
import io
import json
import re
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from tercet.errors import InputError, MissingExtraError
from tercet.evaluate.measures import plain
from tercet.evaluate.tasks import PAPER, PAPER_LONG, Bitext, Corpus, Task, Texts
from tercet.evaluate.trec import read_qrels
from tercet.rows import (
    SUFFIXES,
    Record,
    Row,
    check_row,
    files_of,
    numbered_rows,
    stem_of,
)

Numbered = Iterator[tuple[str, str, str]]  # file and line, id, text
Qrels = dict[str, dict[str, int]]

# Of the published benchmarks; the first split is the one that is reported. MIRACL's test split has
# no published judgements; MKQA's languages stand in the order of the paper's evaluation.
LANGUAGES = {
    "miracl": tuple("ar bn en es fa fi fr hi id ja ko ru sw te th zh de yo".split()),
    "mkqa": tuple(
        "ar fi ja ko ru es sv he th da de fr it nl pl pt hu vi ms km no tr zh_cn zh_hk "
        "zh_tw".split()
    ),
    "mldr": tuple("ar de en es fr hi it ja ko pt ru th zh".split()),
    "narrativeqa": ("en",),
}
SPLITS = {
    "miracl": ("dev", "train"),
    "mkqa": ("test",),
    "mldr": ("test", "dev", "train"),
    "narrativeqa": ("test", "validation", "train"),
}
OWN = ("beir", "bitext", "pairs")
FORMS = (
    "miracl, mkqa, mldr (all languages, or some as in mldr:de,fr), narrativeqa, beir:FOLDER, "
    "bitext:FILE, pairs:FILE; @SPLIT behind it is another split, as in mldr:de@dev"
)


@dataclass(frozen=True)
class Suite:
    """A suite as its name says."""

    kind: str  # a key of LANGUAGES, or one of OWN
    languages: tuple[str, ...] = ()  # of published ones: none means all
    path: str = ""  # of OWN
    split: str | None = None  # None: the one that is reported

    @property
    def published(self) -> bool:
        return self.kind in LANGUAGES

    @staticmethod
    def parse(text: str) -> "Suite":
        """`mldr:de,fr@dev` -> mldr, ("de", "fr"), dev; raises InputError on what is no suite.

        A path that has an @ and exists is taken as it is.
        """
        kind, colon, rest = text.strip().partition(":")
        split = None
        if not (kind in OWN and rest and Path(rest).exists()):
            head = rest if colon else kind
            if match := re.fullmatch(r"(.*)@([A-Za-z][\w-]*)", head):
                head, split = match.groups()
            kind, rest = (kind, head) if colon else (head, "")
        if kind in OWN:
            if not rest:
                raise InputError(f"{kind} needs a path, as in {kind}:FOLDER")
            if split is not None and kind != "beir":
                raise InputError(f"{rest}@{split}: no such file, and {kind} has no splits")
            return Suite(kind, path=rest, split=split)
        if kind not in LANGUAGES:
            raise InputError(f"no suite {kind!r}: there are {FORMS}")
        languages = tuple(filter(None, (part.strip() for part in rest.split(","))))
        if colon and not languages:
            raise InputError(f"{text!r}: name languages behind the colon, as in {kind}:de,fr")
        refuse_unknown(kind, "language", languages, LANGUAGES[kind])
        refuse_unknown(kind, "split", [split] if split else [], SPLITS[kind])
        return Suite(kind, languages=tuple(dict.fromkeys(languages)), split=split)


def refuse_unknown(name: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError for the first that is not known."""
    for value in given:
        if value not in known:
            raise InputError(f"{name} has no {what} {value!r}: it has {', '.join(known)}")


def load(
    text: str, *, local: Path | None = None, languages: Sequence[str] = ()
) -> list[Task | Bitext]:
    """The tasks of a suite by its name, see FORMS; raises InputError.

    local: a folder with a copy of the published files, instead of the hub. languages: tasks of
    others are left out; behind the name of a suite they mean the same.
    """
    suite = Suite.parse(text)
    if not suite.published:
        tasks: list[Task | Bitext] = []
        if suite.kind == "beir":
            tasks += load_beir(Path(suite.path), suite.split or "test")
        elif suite.kind == "bitext":
            tasks += load_bitext(suite.path)
        else:
            tasks.append(load_pairs(Path(suite.path)))
        return _of_languages(text, tasks, languages) if languages else tasks
    chosen = suite.languages or LANGUAGES[suite.kind]
    refuse_unknown(text, "language", languages, chosen)
    chosen = tuple(name for name in chosen if not languages or name in languages)
    split = suite.split or SPLITS[suite.kind][0]
    if suite.kind == "miracl":
        return [load_miracl(language, split, local) for language in chosen]
    if suite.kind == "mldr":
        return [load_mldr(language, split, local) for language in chosen]
    if suite.kind == "mkqa":
        return [*load_mkqa(chosen, local)]
    return [load_narrativeqa(split, local)]


def _of_languages(
    text: str, tasks: list[Task | Bitext], languages: Sequence[str]
) -> list[Task | Bitext]:
    """The tasks of these languages; of one in several languages, their queries alone."""
    present = {task.language for task in tasks if isinstance(task, Bitext) or not task.languages}
    for task in tasks:
        present.update(task.languages.values() if isinstance(task, Task) else ())
    refuse_unknown(text, "language", languages, sorted(present))
    parts = (task.of_languages(languages) for task in tasks)
    return [task for task in parts if task is not None]


# Rows as passages and queries


def passage_text(title: str, text: str) -> str:
    """Title, newline, text; the text alone where there is no title (docs/method.md, scores)."""
    return f"{title}\n{text}" if title else text


def string(row: Row, name: str, where: str, *, default: str | None = None) -> str:
    """A field of a row that is a string; raises InputError. A null one is absent."""
    value = row.get(name)
    if value is None:
        if default is not None:
            return default
        raise InputError(f"{where}: a row needs {name!r}, this one has {', '.join(row) or 'none'}")
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} must be a string, not {value!r:.40}")
    return value


def identifier(row: Row, name: str, where: str) -> str:
    """An id, which some files write as a number."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name_of_text = string(row, name, where)
    if not name_of_text.strip():
        raise InputError(f"{where}: {name!r} is empty")
    return name_of_text


def rows_in(files: Iterable[Path]) -> Iterator[tuple[str, Row]]:
    """Each row, and the file and line it stands in."""
    for path in files:
        for line, row in numbered_rows(path):
            yield f"{path}:{line}", row


def corpus_of(
    name: str,
    files: Sequence[Path],
    fields: tuple[str, str | None, str],
    *,
    change: Callable[[str], str] = str,
) -> Corpus:
    """A corpus in files of rows; fields are those of id, title (None: there is none) and text."""
    key, title, text = fields

    def head(row: Row, where: str) -> str:
        return "" if title is None else string(row, title, where, default="")

    def rows() -> Numbered:
        for where, row in rows_in(files):
            passage = passage_text(head(row, where), string(row, text, where))
            yield where, identifier(row, key, where), change(passage)

    def titles() -> Iterator[int]:
        return (len(change(head(row, where))) for where, row in rows_in(files))

    return Corpus(name, lambda: once_each(rows, name), None if title is None else titles)


def once_each(rows: Callable[[], Numbered], name: str) -> Texts:
    """The ids and texts; when all are read, raises InputError for an id that came twice, or none.

    Keeps 8 bytes an id. Where two have the same hash, the rows are read again to find them.
    """
    hashes = array("q")
    for _, key, text in rows():
        hashes.append(hash(key))
        yield key, text
    if not hashes:
        raise InputError(f"{name}: no passage")
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    doubtful = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    first: dict[str, str] = {}
    for where, key, _ in rows() if doubtful else ():
        if hash(key) in doubtful and (other := first.setdefault(key, where)) != where:
            raise InputError(f"{where}: the id {key!r} has a passage already, in {other}")


def judged_queries(queries: Iterable[tuple[str, str, str]], judged: set[str]) -> dict[str, str]:
    """Of (where, id, text), the judged ones; raises InputError naming what is wrong with one.

    A judged query that is empty, comes twice or does not come at all is wrong.
    """
    out: dict[str, str] = {}
    where = "no file"
    for where, key, text in queries:
        if key not in judged:
            continue
        if key in out:
            raise InputError(f"{where}: query {key!r} is here a second time")
        if not text.strip():
            raise InputError(f"{where}: query {key!r} is empty")
        out[key] = text
    if absent := sorted(judged - out.keys()):
        raise InputError(
            f"{where}: {len(absent)} queries are judged but not here, the first {absent[0]!r}"
        )
    return out


def _language_of(languages: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a Task that say its language, or those of its queries."""
    names = {query: languages[query] for query in queries if query in languages}
    if len(set(names.values())) == 1 and len(names) == len(queries):
        return {"language": next(iter(names.values()))}
    return {"language": "", "languages": names}


# Published files


@dataclass(frozen=True)
class Fetched:
    """The folder of a dataset's files; `source` says which: dataset@commit, or the local folder."""

    folder: Path
    source: str

    def matching(self, *patterns: str) -> list[Path]:
        """The files of the first pattern that has any, docs-2 before docs-10."""
        for pattern in patterns:
            if files := [path for path in self.folder.glob(pattern) if path.is_file()]:
                return sorted(files, key=_numbers_first)
        raise InputError(f"{self.folder}: no file {' or '.join(patterns)}")


def fetch(repo: str, local: Path | None, *patterns: str) -> Fetched:
    """A dataset's folder, with a file that fits each pattern ("a.jsonl|b/*.parquet": either).

    A copy lies in `local` itself or in a folder there named as the dataset is; without, files come
    from the hub. Raises InputError naming the files that are missing, and how to get them.
    """
    sets = [alternatives.split("|") for alternatives in patterns]
    advice = (
        f"fetch {', '.join(' or '.join(names) for names in sets)} of "
        f"huggingface.co/datasets/{repo} elsewhere and give their folder with --local DIR"
    )
    if local is None:
        folder = _download(repo, [name for names in sets for name in names], advice)
        candidates, source = [folder], f"{repo}@{folder.name}"
    elif local.is_dir():
        candidates, source = [local, local / repo.rsplit("/", maxsplit=1)[-1]], ""
    else:
        raise InputError(f"{local}: no such folder")
    missing: list[list[str]] = []
    for folder in candidates:
        absent = [" or ".join(names) for names in sets if not any(map(_has(folder), names))]
        if not absent:
            return Fetched(folder, source or str(folder))
        missing.append(absent)
    fewest = min(missing, key=lambda names: len(names))
    raise InputError(f"{candidates[0]}: no {', no '.join(fewest)}; {advice}")


def _has(folder: Path) -> Callable[[str], bool]:
    return lambda pattern: any(path.is_file() for path in folder.glob(pattern))


def _download(repo: str, patterns: list[str], advice: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=patterns))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        cause = f"the hub did not deliver it: {str(error).strip().splitlines()[0]}"
        if isinstance(error, errors.GatedRepoError):
            cause = "the hub asks you to accept its terms and log in (hf auth login)"
        elif isinstance(error, errors.RepositoryNotFoundError):
            cause = "the hub has no such dataset, or it is private"
        elif isinstance(error, errors.LocalEntryNotFoundError):
            cause = "the hub cannot be reached, and its cache has no copy"
        raise InputError(f"dataset {repo}: {cause}; {advice}") from error


def _numbers_first(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def load_miracl(language: str, split: str, local: Path | None) -> Task:
    """MIRACL: questions of miracl/miracl, paragraphs of Wikipedia of miracl/miracl-corpus.

    M3 paper, table 2: the dev split of 18 languages, nDCG@10 and Recall@100.
    """
    base = f"miracl-v1.0-{language}"
    topics = f"{base}/topics/topics.{base}-{split}.tsv"
    judgements = f"{base}/qrels/qrels.{base}-{split}.tsv"
    docs = f"miracl-corpus-v1.0-{language}/docs-*.jsonl.gz"
    judged = fetch("miracl/miracl", local, topics, judgements)
    passages = fetch("miracl/miracl-corpus", local, docs)
    files = passages.matching(docs)
    present = {path.name for path in files}
    for part in range(len(files)):
        if f"docs-{part}.jsonl.gz" not in present:
            raise InputError(f"{files[0].parent}: docs-{part}.jsonl.gz is missing")
    (path,) = judged.matching(topics)
    qrels = read_qrels(judged.matching(judgements)[0])

    def queries() -> Numbered:
        for number, line in enumerate(text_lines(path), 1):
            key, tab, text = line.partition("\t")
            if line.strip() and not tab:
                raise InputError(f"{path}:{number}: no tab between the id and the query")
            yield f"{path}:{number}", key.strip(), text.strip()

    return Task(
        name=_split_name(f"miracl/{language}", "miracl", split),
        suite="miracl",
        language=language,
        corpus=corpus_of(f"miracl-corpus/{language}", files, ("docid", "title", "text")),
        queries=judged_queries(queries(), set(qrels)),
        qrels=qrels,
        protocol=PAPER,
        source=f"{judged.source}, {passages.source}",
    )


def _split_name(name: str, suite: str, split: str) -> str:
    return name if split == SPLITS[suite][0] else f"{name}@{split}"


def load_mldr(language: str, split: str, local: Path | None) -> Task:
    """MLDR: whole long articles without titles, one relevant to each question, of Shitao/MLDR.

    M3 paper, table 3: the test split of 13 languages, nDCG@10.
    """
    folder = f"mldr-v1.0-{language}"
    questions, passages = f"{folder}/{split}.jsonl.gz", f"{folder}/corpus.jsonl.gz"
    fetched = fetch("Shitao/MLDR", local, questions, passages)
    queries: list[tuple[str, str, str]] = []
    qrels: Qrels = {}
    for where, row in rows_in(fetched.matching(questions)):
        key = identifier(row, "query_id", where)
        queries.append((where, key, string(row, "query", where)))
        gains = qrels.setdefault(key, {})
        for field, gain in (("negative_passages", 0), ("positive_passages", 1)):
            judged = row.get(field) or []
            if not isinstance(judged, list) or not all(isinstance(part, dict) for part in judged):
                raise InputError(f"{where}: {field!r} must be a list of objects")
            gains.update({identifier(part, "docid", where): gain for part in judged})
    files = fetched.matching(passages)
    return Task(
        name=_split_name(f"mldr/{language}", "mldr", split),
        suite="mldr",
        language=language,
        corpus=corpus_of(f"mldr/{language}", files, ("docid", None, "text")),
        queries=judged_queries(queries, set(qrels)),
        qrels=qrels,
        protocol=PAPER_LONG,
        source=fetched.source,
    )


ZIP = "MKQA_test-data.zip"


def load_mkqa(languages: Sequence[str], local: Path | None) -> list[Task]:
    """MKQA: questions in 25 languages, whose answers stand in English Wikipedia passages.

    As the M3 paper measures it (table 4; its evaluation scripts): the 6,619 questions whose answer
    is an entity, date, number or phrase; the English answers with their aliases; the passages of NQ
    as BEIR has them, lower-cased and with plain quotes and dashes, 512 tokens at most. The measure
    is whether an answer string occurs in the best 20 or 100 passages, which the paper calls Recall.

    The questions are read from MKQA_test-data.zip of Shitao/bge-m3-data, or its unpacked files, or
    from mkqa.jsonl(.gz) of apple/ml-mkqa on GitHub, which gives the same.
    """
    questions, source = _mkqa_questions(languages, local)
    nq = fetch("BeIR/nq", local, "|".join(_table_names("corpus")))
    files = nq.matching(*_table_names("corpus"))
    corpus = corpus_of("nq, lower case", files, ("_id", "title", "text"), change=plain)
    protocol = replace(PAPER, measures=("AnswerRecall@100", "AnswerRecall@20"), passage_tokens=512)
    tasks = []
    for language in languages:
        answers = {key: given for _, key, _, given in questions[language]}
        texts = ((where, key, text) for where, key, text, _ in questions[language])
        tasks.append(
            Task(
                name=f"mkqa/{language}",
                suite="mkqa",
                language=language,
                corpus=corpus,
                queries=judged_queries(texts, set(answers)),
                answers=answers,
                protocol=protocol,
                source=f"{source}, {nq.source}",
            )
        )
    return tasks


Questions = list[tuple[str, str, str, tuple[str, ...]]]  # where, id, question, answers


def _mkqa_questions(
    languages: Sequence[str], local: Path | None
) -> tuple[dict[str, Questions], str]:
    if local is not None:
        for name in ("mkqa.jsonl", "mkqa.jsonl.gz"):
            if (path := local / name).is_file():
                return _mkqa_published(path, languages), str(path)
        unpacked = {language: local / f"{language}.jsonl" for language in languages}
        if all(path.is_file() for path in unpacked.values()):
            rows = {language: rows_in([path]) for language, path in unpacked.items()}
            return {language: _mkqa_prepared(of) for language, of in rows.items()}, str(local)
    fetched = fetch("Shitao/bge-m3-data", local, ZIP)
    (path,) = fetched.matching(ZIP)
    try:
        with zipfile.ZipFile(path) as packed:
            rows = {language: _zipped(packed, f"{language}.jsonl") for language in languages}
            return {language: _mkqa_prepared(of) for language, of in rows.items()}, fetched.source
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: not a whole zip file: {error}") from error


def _zipped(packed: zipfile.ZipFile, name: str) -> Iterator[tuple[str, Row]]:
    """Rows of a file in a zip, in whatever folder."""
    member = next((path for path in packed.namelist() if path.split("/")[-1] == name), None)
    if member is None:
        raise InputError(f"{packed.filename}: no {name} in it")
    with packed.open(member) as raw:
        for number, line in enumerate(io.TextIOWrapper(raw, encoding="utf-8"), 1):
            where = f"{packed.filename}/{member}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not a line of JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{where}: not a JSON object")
            yield where, row


def _mkqa_prepared(rows: Iterator[tuple[str, Row]]) -> Questions:
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


def _mkqa_published(path: Path, languages: Sequence[str]) -> dict[str, Questions]:
    """The same of the published file: {"example_id", "queries", "answers"}.

    Of several answers the kind of the last decides whether a question counts, as in Contriever's
    script, from which the 6,619 questions come.
    """
    out: dict[str, Questions] = {language: [] for language in languages}
    for where, row in rows_in([path]):
        queries, answers = row.get("queries"), row.get("answers")
        english = answers.get("en") if isinstance(answers, dict) else None
        if not isinstance(queries, dict) or not isinstance(english, list) or not english:
            raise InputError(f"{where}: no 'queries' and 'answers' of languages: not MKQA")
        strings: list[str] = []
        counts = False
        for answer in english:
            if not isinstance(answer, dict):
                raise InputError(f"{where}: an answer is no object")
            counts = answer.get("type") not in ("unanswerable", "binary", "long_answer")
            if counts:
                strings += [*(answer.get("aliases") or []), answer.get("text") or ""]
        if counts:
            key, given = identifier(row, "example_id", where), _strings(strings, where)
            for language in languages:
                out[language].append((where, key, string(queries, language, where), given))
    return out


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: 'answers' must be a list of strings")
    return tuple(text for text in dict.fromkeys(value) if text.strip())


def load_narrativeqa(split: str, local: Path | None) -> Task:
    """NarrativeQA: questions on whole books and film scripts, of deepmind/narrativeqa.

    M3 paper, table 4 and figure 4: as in the MTEB task NarrativeQARetrieval, where
    jina-embeddings-v2 (whose set-up the paper names) put it: the 10,557 questions of the test
    split, each with one relevant document of the 355 that the split has, without titles.
    """
    pattern = f"data/{split}-*.parquet"
    fetched = fetch("deepmind/narrativeqa", local, pattern)
    files = fetched.matching(pattern)
    queries: list[tuple[str, str, str]] = []
    qrels: Qrels = {}
    for where, document, row in _parquet_rows(files, ["document.id", "question.text"]):
        key = str(len(queries))
        queries.append((where, key, row["question"]["text"] or ""))
        qrels[key] = {document: 1}

    def documents() -> Numbered:
        seen: set[str] = set()
        for where, key, row in _parquet_rows(files, ["document.id", "document.text"]):
            if key not in seen:  # it comes with each of its questions
                seen.add(key)
                yield where, key, row["document"]["text"] or ""

    return Task(
        name=_split_name("narrativeqa", "narrativeqa", split),
        suite="narrativeqa",
        language="en",
        corpus=Corpus(f"narrativeqa/{split}", lambda: once_each(documents, "narrativeqa")),
        queries=judged_queries(queries, set(qrels)),
        qrels=qrels,
        protocol=PAPER_LONG,
        source=fetched.source,
    )


def _parquet_rows(
    files: Sequence[Path], columns: list[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where a row stands, its document's id, and the row with some of its nested columns.

    32 rows are read at once: each has a whole book, a million characters at most.
    """
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
                present = {file.schema.column(place).path for place in range(len(file.schema))}
                refuse_unknown(str(path), "column", columns, sorted(present))
                for batch in file.iter_batches(batch_size=32, columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        key = row["document"]["id"]
                        if not isinstance(key, str) or not key:
                            raise InputError(f"{path}:{number}: a document without an id")
                        yield f"{path}:{number}", key, row
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a whole Parquet file: {error}") from error


# Own files


def _table_names(stem: str) -> tuple[str, ...]:
    """The names that a table of a BEIR folder may have; the last is the hub's layout."""
    return (
        *(f"{stem}.jsonl{packed}" for packed in ("", ".gz", ".xz", ".zst")),
        f"{stem}/*.parquet",
    )


def load_beir(path: Path, split: str = "test") -> list[Task]:
    """The task of a BEIR folder, or those of all BEIR folders in a folder; raises InputError.

    A BEIR folder has corpus.jsonl, queries.jsonl (packed or not, or the hub's corpus/*.parquet) and
    qrels/SPLIT.tsv. Those of a folder may lie one folder deeper, as CQADupStack's do; those without
    the split are left out, and a note of the first task says so. Queries that the split does not
    judge are left out. `lang` of queries is their language.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    if _is_beir(path):
        return [_beir_task(path, split, path.name)]
    inner = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    deeper = [[f] if _is_beir(f) else sorted(filter(_is_beir, f.iterdir())) for f in inner]
    folders = [folder for several in deeper for folder in several]
    judged = [folder for folder in folders if _qrels_file(folder, split)]
    if not judged:
        lacks = f"qrels/{split}.tsv" if folders else "corpus.jsonl and queries.jsonl"
        raise InputError(f"{path}: neither a BEIR folder nor a folder of them: no {lacks} in it")
    names = {folder: folder.relative_to(path).as_posix() for folder in folders}
    tasks = [_beir_task(folder, split, names[folder]) for folder in judged]
    if skipped := [names[folder] for folder in folders if folder not in judged]:
        note = f"beside it without a qrels/{split}.tsv, and left out: {', '.join(skipped)}"
        tasks[0] = replace(tasks[0], notes=(note,))
    return tasks


def _is_beir(folder: Path) -> bool:
    return all(any(map(_has(folder), _table_names(stem))) for stem in ("corpus", "queries"))


def _qrels_file(folder: Path, split: str) -> Path | None:
    names = (folder / "qrels" / f"{split}.tsv", folder / "qrels" / f"{split}.tsv.gz")
    return next((name for name in names if name.is_file()), None)


def _beir_task(folder: Path, split: str, name: str) -> Task:
    judgements = _qrels_file(folder, split)
    if judgements is None:
        present = ", ".join(sorted(path.name for path in (folder / "qrels").glob("*.tsv*")))
        raise InputError(f"{folder}: no qrels/{split}.tsv: there is {present or 'no split'}")
    qrels = read_qrels(judgements)
    fetched = Fetched(folder, str(folder))
    languages: dict[str, str] = {}

    def queries() -> Numbered:
        for where, row in rows_in(fetched.matching(*_table_names("queries"))):
            key = identifier(row, "_id", where)
            if language := string(row, "lang", where, default=""):
                languages[key] = language
            yield where, key, string(row, "text", where)

    judged = judged_queries(queries(), set(qrels))
    files = fetched.matching(*_table_names("corpus"))
    return Task(
        name=f"beir/{name}" + ("" if split == "test" else f"@{split}"),
        suite="beir",
        corpus=corpus_of(str(folder), files, ("_id", "title", "text")),
        queries=judged,
        qrels=qrels,
        source=str(folder),
        **_language_of(languages, judged),
    )


def load_pairs(path: Path) -> Task:
    """Own rows {"query", "pos", "neg"?} of a file or folder: all their texts are searched.

    Passages and queries that come in several rows are one; a "prompt" makes another query.
    """
    files = files_of(path)
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    languages: dict[str, str] = {}
    prompts: dict[str, str] = {}
    for _, row in _pair_rows(files):
        key = hash_of(row.query if row.prompt is None else f"{row.prompt}\0{row.query}")
        queries[key] = row.query
        qrels.setdefault(key, {}).update({hash_of(text): 1 for text in row.pos})
        if row.lang:
            languages[key] = row.lang
        if row.prompt is not None:
            prompts[key] = row.prompt
    if not queries:
        raise InputError(f"{path}: no row")

    def passages() -> Numbered:
        seen: set[str] = set()
        for where, row in _pair_rows(files):
            for text in (*row.pos, *row.neg):
                key = hash_of(text)
                if key not in seen:
                    seen.add(key)
                    yield where, key, text

    return Task(
        name=f"pairs/{stem_of(path)}",
        suite="pairs",
        corpus=Corpus(str(path), lambda: once_each(passages, str(path))),
        queries=queries,
        qrels=qrels,
        prompts=prompts,
        source=str(path),
        **_language_of(languages, queries),
    )


def hash_of(text: str) -> str:
    """The id of a text: the same wherever it stands."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _pair_rows(files: list[Path]) -> Iterator[tuple[str, Record]]:
    for where, row in rows_in(files):
        record = check_row(row, where)
        if record.raw:
            raise InputError(f'{where}: a text alone: evaluation needs "query" and "pos"')
        yield where, record


def load_bitext(source: str) -> list[Bitext]:
    """Translations: a Bitext per language of rows, or per pair of files; raises InputError.

    source: a file or folder of rows ({"src", "en"}, {"src", "tgt"} or {"query", "pos"}, which
    "lang" parts into languages); LEFT,RIGHT, two files whose lines belong together; or a folder of
    such files, NAME.XX-YY.XX and NAME.XX-YY.YY.
    """
    path = Path(source)
    if not path.exists() and source.count(",") == 1:
        left, right = (Path(part) for part in source.split(","))
        return [_aligned_bitext(left, right, f"bitext/{left.name},{right.name}", "")]
    if path.is_dir() and (aligned := _aligned_files(path)):
        return [_aligned_bitext(a, b, f"{path.name}/{name}", name) for name, a, b in aligned]
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise InputError(
            f"{path}: not {', '.join(SUFFIXES)}: of text files give both, as in bitext:{path},OTHER"
        )
    pairs: dict[str, list[tuple[str, str]]] = {}
    for where, row in rows_in(files_of(path)):
        pair = _pair(row, where)
        pairs.setdefault(string(row, "lang", where, default=""), []).append(pair)
    if not pairs:
        raise InputError(f"{path}: no pair")
    name = path.parent.name if path.is_file() else path.name
    return [
        _bitext(f"{name}/{language}" if language else name, language, of)
        for language, of in sorted(pairs.items())
    ]


def _bitext(name: str, language: str, pairs: Sequence[tuple[str, str]]) -> Bitext:
    left, right = zip(*pairs, strict=True)
    return Bitext(name, "bitext", language, left, right)


def _pair(row: Row, where: str) -> tuple[str, str]:
    positives = row.get("pos")
    if "query" in row and isinstance(positives, list) and len(positives) == 1:
        row = {"src": row["query"], "tgt": positives[0]}
    for right in ("en", "tgt"):
        if "src" in row and right in row:
            return _both((string(row, "src", where), string(row, right, where)), where)
    raise InputError(
        f'{where}: a pair is {{"src", "en"}}, {{"src", "tgt"}} or {{"query", "pos": [one]}}'
    )


def _both(pair: tuple[str, str], where: str) -> tuple[str, str]:
    if not (pair[0].strip() and pair[1].strip()):
        raise InputError(f"{where}: an empty side of a pair")
    return pair


def _aligned_files(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, left file and right file of every NAME.XX-YY, such as tatoeba.deu-eng.deu."""
    sides: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"(.*\.)?([^.-]+)-([^.-]+)\.([^.]+)(\.gz)?", path.name)
        if match and match[4] in (match[2], match[3]):
            sides.setdefault((match[1] or "", match[2], match[3]), {})[match[4]] = path
    out = []
    for (_, left, right), files in sides.items():
        if left not in files or right not in files:
            present = next(iter(files.values()))
            raise InputError(f"{present}: the other side of {left}-{right} is missing")
        out.append((f"{left}-{right}", files[left], files[right]))
    return out


def _aligned_bitext(left: Path, right: Path, name: str, language: str) -> Bitext:
    lefts, rights = text_lines(left), text_lines(right)
    if len(lefts) != len(rights) or not lefts:
        raise InputError(
            f"{left} has {len(lefts)} lines, {right} has {len(rights)}: lines of the same number "
            "are pairs"
        )
    both = enumerate(zip(lefts, rights, strict=True), 1)
    return _bitext(name, language, [_both(pair, f"{right}:{number}") for number, pair in both])


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, plain or .gz, without their ends; raises InputError naming it."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    except (EOFError, OSError) as error:
        raise InputError(f"{path}: not readable: {error}") from error
    return [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
