"""Benchmarks and own data by name, such as `miracl:sw,yo` or `beir:FOLDER`, to tasks.

Reads published files from a local copy or the hub, and own files. Knows nothing of models or of
what is measured.
"""

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

from tercet.errors import InputError
from tercet.evaluate.measures import plain
from tercet.evaluate.tasks import PAPER, PAPER_LONG, Bitext, Corpus, Protocol, Rows, Task
from tercet.evaluate.trec import numbered_lines, read_qrels
from tercet.io import name_of
from tercet.rows import PACKED, SUFFIXES, Record, Row, check_row, files_of, numbered_rows, stem_of

Numbered = Iterator[tuple[str, str, str]]  # file and line, id, text
Located = Iterator[tuple[str, str, str, str]]  # file and line, id, title, text
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
# BEIR sets whose queries stand in the corpus themselves: published figures leave these hits out
IN_CORPUS = ("arguana", "quora")
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

    @staticmethod
    def parse(text: str) -> "Suite":
        """`mldr:de,fr@dev` -> mldr, ("de", "fr"), dev; raises InputError on what is no suite.

        A path that has an @ and exists is taken as it is.
        """
        head, split = text.strip(), None
        match = re.fullmatch(r"(.*)@([A-Za-z][\w-]*)", head)
        if match and not Path(head.partition(":")[2] or head).exists():
            head, split = match.groups()
        kind, colon, rest = head.partition(":")
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
        _refuse_unknown(kind, "language", languages, LANGUAGES[kind])
        _refuse_unknown(kind, "split", [split] if split else [], SPLITS[kind])
        return Suite(kind, languages=tuple(dict.fromkeys(languages)), split=split)


def _refuse_unknown(name: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for value in given:
        if value not in known:
            raise InputError(f"{name} has no {what} {value!r}: it has {', '.join(known)}")


def load(
    text: str, *, local: Path | None = None, languages: Sequence[str] = ()
) -> list[Task | Bitext]:
    """The tasks of a suite by its name, see FORMS; raises InputError.

    local: a folder with a copy of the published files, instead of the hub. languages: tasks, and
    queries, of others are left out.
    """
    suite = Suite.parse(text)
    tasks: list[Task | Bitext]
    if suite.kind in LANGUAGES:
        chosen = suite.languages or LANGUAGES[suite.kind]
        _refuse_unknown(text, "language", languages, chosen)
        chosen = tuple(name for name in chosen if not languages or name in languages)
        if suite.kind == "mkqa":
            return [*load_mkqa(chosen, local)]
        loaders = {"miracl": load_miracl, "mldr": load_mldr, "narrativeqa": load_narrativeqa}
        split = suite.split or SPLITS[suite.kind][0]
        return [loaders[suite.kind](language, split, local) for language in chosen]
    if suite.kind == "beir":
        tasks = [*load_beir(Path(suite.path), suite.split or "test")]
    elif suite.kind == "bitext":
        tasks = [*load_bitext(Path(suite.path))]
    else:
        tasks = [load_pairs(Path(suite.path))]
    if languages:
        several = (task.languages.values() if isinstance(task, Task) else () for task in tasks)
        present = {name for names in several for name in names} | {t.language for t in tasks}
        _refuse_unknown(text, "language", languages, sorted(present - {""}))
        parts = (task.of_languages(languages) for task in tasks)
        tasks = [task for task in parts if task is not None]
    return tasks


# Rows as passages and queries


def _string(row: Row, name: str, where: str, default: str | None = None) -> str:
    value = default if row.get(name) is None else row[name]
    if not isinstance(value, str):
        said = json.dumps(value, default=str) if name in row else "none"
        raise InputError(f"{where}: {name!r} must be a string, this row has {said:.40}")
    return value


def _identifier(row: Any, name: str, where: str) -> str:
    if not isinstance(row, dict):
        raise InputError(f"{where}: an object with {name!r} is expected, this is {row!r:.40}")
    value = row.get(name)
    key = str(value) if type(value) is int else _string(row, name, where)
    if not key.strip():
        raise InputError(f"{where}: {name!r} is empty")
    return key


def _rows_in(files: Iterable[Path]) -> Iterator[tuple[str, Row]]:
    for path in files:
        for line, row in numbered_rows(path):
            yield f"{path}:{line}", row


def _corpus(
    name: str, files: Sequence[Path], key: str, *, change: Callable[[str], str] = str
) -> Corpus:
    """A corpus in files of rows {key, "title"?, "text"}."""

    def rows() -> Located:
        for where, row in _rows_in(files):
            title, text = _string(row, "title", where, ""), _string(row, "text", where)
            yield where, _identifier(row, key, where), change(title), change(text)

    return Corpus(name, lambda: once_each(rows, name))


def once_each(rows: Callable[[], Located], name: str) -> Rows:
    """Ids, titles and texts; raises InputError at the end for an id that came twice, or none.

    Keeps 8 bytes an id. Where two have the same hash, the rows are read again to find them.
    """
    hashes = array("q")
    for _, key, title, text in rows():
        hashes.append(hash(key))
        yield key, title, text
    if not hashes:
        raise InputError(f"{name}: no passage")
    if len(np.unique(np.frombuffer(hashes, np.int64))) < len(hashes):
        first: dict[str, str] = {}
        for where, key, _, _ in rows():
            if key in first:
                raise InputError(f"{where}: the id {key!r} has a passage already, in {first[key]}")
            first[key] = where


def _judged_queries(
    queries: Iterable[tuple[str, str, str]], judged: Iterable[str]
) -> dict[str, str]:
    """Of (where, id, text), the judged ones, each of which must come once and not be empty."""
    absent = set(judged)
    out: dict[str, str] = {}
    where = "no file"
    for where, key, text in queries:
        if key in out:
            raise InputError(f"{where}: query {key!r} is here a second time")
        if key in absent:
            if not text.strip():
                raise InputError(f"{where}: query {key!r} is empty")
            out[key] = text
            absent.remove(key)
    if absent:
        raise InputError(
            f"{where}: {len(absent)} queries are judged but not here, the first {min(absent)!r}"
        )
    return out


def _language_of(languages: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a Task that say its language, or those of its queries."""
    names = {query: languages[query] for query in queries if query in languages}
    if len(set(names.values())) == 1 and len(names) == len(queries):
        return {"language": next(iter(names.values()))}
    return {"language": "", "languages": names}


# Published files


def _matching(folder: Path, pattern: str) -> list[Path]:
    """The files of the first alternative of `a.jsonl|b/*.parquet` that has any.

    docs-2 stands before docs-10.
    """
    for alternative in pattern.split("|"):
        if files := [path for path in folder.glob(alternative) if path.is_file()]:
            return sorted(files, key=_numbers_as_such)
    return []


def _numbers_as_such(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _fetch(repo: str, local: Path | None, *patterns: str) -> tuple[Path, str]:
    """A dataset's folder with files for each pattern, and what to call it: itself, or repo@commit.

    A copy lies in `local` itself or in a folder there named as the dataset is; without, files come
    from the hub. Raises InputError naming the files that are missing, and how to get them.
    """
    names = [pattern.replace("|", " or ") for pattern in patterns]
    advice = (
        f"fetch {', '.join(names)} of huggingface.co/datasets/{repo} elsewhere and give their "
        "folder with --local DIR"
    )
    if local is None:
        folders = [_download(repo, "|".join(patterns).split("|"), advice)]
    else:
        folders = [local, local / repo.rsplit("/", maxsplit=1)[-1]]
    absent = [[p for p in patterns if not _matching(folder, p)] for folder in folders]
    best = min(range(len(folders)), key=lambda number: len(absent[number]))
    if absent[best]:
        files = ", no ".join(absent[best]).replace("|", " or ")
        raise InputError(f"{folders[best]}: no {files}; {advice}")
    folder = folders[best]
    return folder, f"{repo}@{folder.name}" if local is None else str(folder)


def _download(repo: str, patterns: list[str], advice: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type="dataset", allow_patterns=patterns))
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        cause = " ".join(str(error).split())
        raise InputError(
            f"dataset {repo}: the hub did not deliver it: {cause}; {advice}"
        ) from error


def _published(
    suite: str,
    language: str,
    split: str,
    corpus: Corpus,
    queries: Iterable[tuple[str, str, str]],
    protocol: Protocol,
    source: str,
    qrels: Qrels | None = None,
    answers: dict[str, tuple[str, ...]] | None = None,
) -> Task:
    name = suite if suite == "narrativeqa" else f"{suite}/{language}"
    name += "" if split == SPLITS[suite][0] else f"@{split}"
    judged = _judged_queries(queries, qrels or answers or ())
    return Task(
        name, suite, language, corpus, judged, qrels or {}, answers, protocol, source=source
    )


def load_miracl(language: str, split: str, local: Path | None) -> Task:
    """MIRACL: questions of miracl/miracl, paragraphs of Wikipedia of miracl/miracl-corpus.

    M3 paper, table 2: the dev split of 18 languages, nDCG@10 and Recall@100.
    """
    base = f"miracl-v1.0-{language}"
    topics = f"{base}/topics/topics.{base}-{split}.tsv"
    judgements = f"{base}/qrels/qrels.{base}-{split}.tsv"
    docs = f"miracl-corpus-v1.0-{language}/docs-*.jsonl.gz"
    judged, source = _fetch("miracl/miracl", local, topics, judgements)
    passages, docs_source = _fetch("miracl/miracl-corpus", local, docs)
    files = _matching(passages, docs)
    for part, file in enumerate(files):
        if file.name != f"docs-{part}.jsonl.gz":
            raise InputError(f"{file.parent}: docs-{part}.jsonl.gz is missing")
    qrels = read_qrels(judged / judgements)

    def queries() -> Numbered:
        for where, line in numbered_lines(judged / topics):
            key, tab, text = line.partition("\t")
            if line.strip() and not tab:
                raise InputError(f"{where}: no tab between the id and the query")
            yield where, key.strip(), text.strip()

    corpus = _corpus(f"miracl-corpus/{language}", files, "docid")
    source = f"{source}, {docs_source}"
    return _published("miracl", language, split, corpus, queries(), PAPER, source, qrels)


def load_mldr(language: str, split: str, local: Path | None) -> Task:
    """MLDR: whole long articles without titles, one relevant to each question, of Shitao/MLDR.

    M3 paper, table 3: the test split of 13 languages, nDCG@10.
    """
    base = f"mldr-v1.0-{language}"
    questions, passages = f"{base}/{split}.jsonl.gz", f"{base}/corpus.jsonl.gz"
    folder, source = _fetch("Shitao/MLDR", local, questions, passages)
    queries: list[tuple[str, str, str]] = []
    qrels: Qrels = {}
    for where, row in _rows_in([folder / questions]):
        key = _identifier(row, "query_id", where)
        queries.append((where, key, _string(row, "query", where)))
        gains = qrels.setdefault(key, {})
        for field, gain in (("negative_passages", 0), ("positive_passages", 1)):
            for passage in row.get(field) or ():
                gains[_identifier(passage, "docid", where)] = gain
    corpus = _corpus(f"mldr/{language}", [folder / passages], "docid")
    return _published("mldr", language, split, corpus, queries, PAPER_LONG, source, qrels)


ZIP = "MKQA_test-data.zip"


def load_mkqa(languages: Sequence[str], local: Path | None) -> list[Task]:
    """MKQA: questions in 25 languages, whose answers stand in English Wikipedia passages.

    As the M3 paper measures it (table 4; its evaluation scripts): the 6,619 questions whose answer
    is an entity, date, number or phrase, with the English answers and their aliases, of
    Shitao/bge-m3-data; the passages of NQ as BEIR has them, lower-cased and with plain quotes and
    dashes, 512 tokens at most. The measure is whether an answer string occurs in the best 20 or 100
    passages, which the paper calls Recall.
    """
    folder, source = _fetch("Shitao/bge-m3-data", local, ZIP)
    nq, nq_source = _fetch("BeIR/nq", local, _table("corpus"))
    corpus = _corpus("nq, lower case", _matching(nq, _table("corpus")), "_id", change=plain)
    protocol = replace(PAPER, measures=("AnswerRecall@100", "AnswerRecall@20"), passage_tokens=512)
    tasks = []
    for language in languages:
        queries: list[tuple[str, str, str]] = []
        answers: dict[str, tuple[str, ...]] = {}
        for where, row in _zipped(folder / ZIP, f"{language}.jsonl"):
            key, strings = _identifier(row, "id", where), row.get("answers")
            if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
                raise InputError(f"{where}: 'answers' must be a list of strings")
            queries.append((where, key, _string(row, "question", where)))
            answers[key] = tuple(text for text in dict.fromkeys(strings) if text.strip())
        named = (language, "test", corpus, queries, protocol, f"{source}, {nq_source}")
        tasks.append(_published("mkqa", *named, answers=answers))
    return tasks


def _zipped(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """Rows of a file in a zip, in whatever folder."""
    where = str(path)
    try:
        with zipfile.ZipFile(path) as packed:
            member = next((m for m in packed.namelist() if m.split("/")[-1] == name), None)
            if member is None:
                raise InputError(f"{path}: no {name} in it")
            with packed.open(member) as raw:
                for number, line in enumerate(io.TextIOWrapper(raw, encoding="utf-8"), 1):
                    where = f"{path}/{member}:{number}"
                    yield where, json.loads(line)
    except (zipfile.BadZipFile, ValueError) as error:
        raise InputError(f"{where}: not a whole zip file of JSON lines: {error}") from error


def load_narrativeqa(language: str, split: str, local: Path | None) -> Task:
    """NarrativeQA: questions on whole books and film scripts, of deepmind/narrativeqa.

    M3 paper, table 4 and figure 4: as in the MTEB task NarrativeQARetrieval, where
    jina-embeddings-v2 (whose set-up the paper names) put it: the 10,557 questions of the test
    split, each with one relevant document of the 355 that the split has, without titles.
    """
    pattern = f"data/{split}-*.parquet"
    folder, source = _fetch("deepmind/narrativeqa", local, pattern)
    files = _matching(folder, pattern)

    def rows() -> Iterator[tuple[str, str, str, str]]:  # where, document's id and text, question
        for where, row in _rows_in(files):
            try:
                document, question = row["document"], row["question"]["text"]
                yield where, document["id"], document["text"], question
            except (KeyError, TypeError) as error:
                raise InputError(f"{where}: no {error}: not the columns of NarrativeQA") from error

    queries: list[tuple[str, str, str]] = []
    qrels: Qrels = {}
    for where, document, _, question in rows():
        key = str(len(queries))
        queries.append((where, key, question))
        qrels[key] = {document: 1}

    def documents() -> Located:
        seen: set[str] = set()
        for where, document, text, _ in rows():
            if document not in seen:  # it comes with each of its questions
                seen.add(document)
                yield where, document, "", text

    corpus = Corpus(f"narrativeqa/{split}", lambda: once_each(documents, "narrativeqa"))
    return _published("narrativeqa", language, split, corpus, queries, PAPER_LONG, source, qrels)


# Own files


def _table(stem: str) -> str:
    """The names that a table of a BEIR folder may have; the last is the hub's layout."""
    packed = [f"{stem}.jsonl{suffix}" for suffix in ("", *PACKED)]
    return "|".join([*packed, f"{stem}/*.parquet"])


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
        return [_beir_task(path, split, name_of(path))]
    folders: list[Path] = []
    for inner in sorted(filter(Path.is_dir, path.iterdir())):
        folders += [inner] if _is_beir(inner) else sorted(filter(_is_beir, inner.iterdir()))
    names = {folder: folder.relative_to(path).as_posix() for folder in folders}
    judged = [folder for folder in folders if _matching(folder, _qrels(split))]
    if not judged:
        lacks = f"qrels/{split}.tsv" if folders else "corpus.jsonl and queries.jsonl"
        raise InputError(f"{path}: neither a BEIR folder nor a folder of them: no {lacks} in it")
    tasks = [_beir_task(folder, split, names[folder]) for folder in judged]
    if skipped := [names[folder] for folder in folders if folder not in judged]:
        note = f"beside it without a qrels/{split}.tsv, and left out: {', '.join(skipped)}"
        tasks[0] = replace(tasks[0], notes=(note,))
    return tasks


def _is_beir(folder: Path) -> bool:
    return all(_matching(folder, _table(stem)) for stem in ("corpus", "queries"))


def _qrels(split: str) -> str:
    return f"qrels/{split}.tsv|qrels/{split}.tsv.gz"


def _beir_task(folder: Path, split: str, name: str) -> Task:
    judgements = _matching(folder, _qrels(split))
    if not judgements:
        present = ", ".join(path.name for path in _matching(folder, "qrels/*.tsv*"))
        raise InputError(f"{folder}: no qrels/{split}.tsv: there is {present or 'no split'}")
    qrels = read_qrels(judgements[0])
    languages: dict[str, str] = {}

    def queries() -> Numbered:
        for where, row in _rows_in(_matching(folder, _table("queries"))):
            key = _identifier(row, "_id", where)
            if language := _string(row, "lang", where, ""):
                languages[key] = language
            yield where, key, _string(row, "text", where)

    judged = _judged_queries(queries(), qrels)
    return Task(
        name=f"beir/{name}" + ("" if split == "test" else f"@{split}"),
        suite="beir",
        corpus=_corpus(str(folder), _matching(folder, _table("corpus")), "_id"),
        queries=judged,
        qrels=qrels,
        source=str(folder),
        ignore_identical_ids=name_of(folder).lower() in IN_CORPUS,
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
        key = _hash(row.query if row.prompt is None else f"{row.prompt}\0{row.query}")
        queries[key] = row.query
        qrels.setdefault(key, {}).update({_hash(text): 1 for text in row.pos})
        if row.lang:
            languages[key] = row.lang
        if row.prompt is not None:
            prompts[key] = row.prompt
    if not queries:
        raise InputError(f"{path}: no row")

    def passages() -> Located:
        seen: set[str] = set()
        for where, row in _pair_rows(files):
            for text in (*row.pos, *row.neg):
                key = _hash(text)
                if key not in seen:
                    seen.add(key)
                    yield where, key, "", text

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


def _hash(text: str) -> str:
    """The id of a text: the same wherever it stands."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _pair_rows(files: list[Path]) -> Iterator[tuple[str, Record]]:
    for where, row in _rows_in(files):
        record = check_row(row, where)
        if record.raw:
            raise InputError(f'{where}: a text alone: evaluation needs "query" and "pos"')
        yield where, record


def load_bitext(path: Path) -> list[Bitext]:
    """Translations of a file or folder of rows: a Bitext for each "lang"; raises InputError.

    A row is {"src", "en"}, {"src", "tgt"} or {"query", "pos": [one]}.
    """
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise InputError(
            f"{path}: not {', '.join(SUFFIXES)}: make rows of aligned text with `tercet data pairs`"
        )
    pairs: dict[str, list[tuple[str, str]]] = {}
    for where, row in _rows_in(files_of(path)):
        match row:
            case {"query": str(left), "pos": [str(right)]}:
                pass
            case {"src": str(left), "en": str(right)} | {"src": str(left), "tgt": str(right)}:
                pass
            case _:
                raise InputError(
                    f'{where}: a pair is {{"src", "en"}}, {{"src", "tgt"}} or {{"query", "pos": '
                    "[one]}, all strings"
                )
        if not (left.strip() and right.strip()):
            raise InputError(f"{where}: an empty side of a pair")
        pairs.setdefault(_string(row, "lang", where, ""), []).append((left, right))
    if not pairs:
        raise InputError(f"{path}: no pair")
    name = name_of(path.parent if path.is_file() else path)
    tasks = []
    for language, of_language in sorted(pairs.items()):
        lefts, rights = zip(*of_language, strict=True)
        label = f"{name}/{language}" if language else name
        tasks.append(Bitext(label, "bitext", language, lefts, rights))
    return tasks
