"""The training data of tercet-small, made again from the repositories that sources.toml names.

`python build_data.py CLONES --to DIR` reads CLONES/owner+name (or CLONES/name), a clone of each
repository at the commit that is named, and writes DIR/FILE.jsonl.gz for each kind of rows (qa_all,
pairs_unsup, parallel_ntrex, parallel_docs, parallel_misc, raw_paragraphs, long_docs) and
DIR/report.json. `--only` makes some files or sources; `--against` leaves out what stands in
evaluation sets.

It is not the script that made the folder which the model was trained on; that one was not ours.
What may differ:

- which rows are taken where a source gives more than it may: here those of the lowest hash
- what is left of markup, such as references and entities in the manuals of Python and PHP
- where paragraphs, verses and lines are joined or cut, and so how many there are
- headings in catalogues of python-docs, which do not mark them: here they are told by their form
- what counts as shared with an evaluation set: here what `tercet data filter` calls so

On an empty CLONES it tells the commands that fill it. A parser yields the pages of a format; the
file that a take is for says what becomes of them. What is known of a source stands in sources.toml.
Knows nothing of models.
"""

import argparse
import csv
import io
import json
import random
import re
import subprocess
import tempfile
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from xml.etree import ElementTree as ET

import click
from selectolax.lexbor import LexborHTMLParser

from tercet.curate.decontamination import MinOverlap, OverlapIndex, read_evaluation
from tercet.curate.pairs_documents import (
    Outline,
    document_pairs,
    is_around,
    markdown_outline,
    restructured_outline,
)
from tercet.curate.pairs_sources import (
    Pair,
    PairOptions,
    SourceFile,
    clean,
    one_line,
    read_bytes,
    shorten,
)
from tercet.curate.pairs_translations import read_aligned, read_po
from tercet.documents.base import Unreadable, decode
from tercet.errors import InputError, TercetError
from tercet.io import atomic_write
from tercet.rows import Row, write_rows
from tercet.split import text_key

SOURCES = Path(__file__).with_name("sources.toml")
ENGLISH = "en"
QUESTIONS, TEXTS, DOCUMENTS = "qa_all", "raw_paragraphs", "long_docs"
SHORTEST = 2  # characters of a query
LONGEST, LONGEST_DOCUMENT = 6000, 32000  # characters of a text
LEAD = 500  # characters of a long document's query: its title and how it begins
BATCH = 2000  # rows looked up in the evaluation sets at once
# What became of the items of a source: too many for its limit, shared with evaluation sets.
COUNTED = ("rows", "read", "short", "repeated", "over", "shared")
T = TypeVar("T")

# ------------------------------------------------------------------ sources.toml and the clones


@dataclass(frozen=True)
class Repository:
    """A [[repository]] of sources.toml."""

    name: str  # owner/name
    commit: str  # its first 12 hex digits
    licence: str
    lang: str = ""
    tree: str = ""  # the commit with the files, where `commit` is on a branch without them
    note: str = ""


@dataclass(frozen=True)
class Take:
    """A [[take]] of sources.toml: what a source gives to one file."""

    source: str  # as the rows name it
    file: str
    kind: str  # of parser
    repositories: tuple[str, ...]
    paths: tuple[str, ...]  # globs in a repository; "a.zip!b" is b in an archive
    held_out: tuple[str, ...] = ()  # files that name what is for tests
    lang: str = ""
    drop: str = ""  # a regular expression of what is no part of a document
    documents: int = 0  # of numbered documents those below; 0: all
    draws: int = 0  # pairs of languages other than English that a line gives
    most: int = 0  # rows; 0: all
    most_per_language: int = 0
    least: int = 4  # characters of a text
    rows: int = 0  # that the model's own folder has
    note: str = ""


@dataclass(frozen=True)
class Clone:
    """A repository that lies here."""

    repository: Repository
    folder: Path

    def name(self, path: Path) -> str:
        """A file's path in the repository."""
        return path.relative_to(self.folder).as_posix()


@dataclass
class Job:
    """A take with the clones that it reads, and what could not be read."""

    take: Take
    clones: list[Clone]
    languages: Mapping[str, str]  # tags, by what repositories call languages
    skipped: list[str] = field(default_factory=list)

    @property
    def parallel(self) -> bool:
        """Whether it is for a file of translations."""
        return self.take.file.startswith("parallel_")

    def tag(self, code: str) -> str:
        """The tag of a language by its code in a repository: `aze-Latn` is az-Latn."""
        language, mark, rest = code.partition("-")
        return self.languages.get(code) or self.languages.get(language, language) + mark + rest

    def files(self, patterns: Sequence[str]) -> list[tuple[Clone, Path]]:
        """The files of all clones; raises InputError where there are none of a pattern."""
        found: dict[tuple[Clone, Path], None] = {}
        for pattern in patterns:
            outer = pattern.partition("!")[0]
            own = [(one, path) for one in self.clones for path in sorted(one.folder.glob(outer))]
            if not own:
                names = ", ".join(one.repository.name for one in self.clones)
                raise InputError(
                    f"{self.take.source}: {names} has no {outer}: check what is checked out"
                )
            found |= dict.fromkeys(own)
        return [*found]

    def texts(self) -> Iterator[tuple[Clone, str, str]]:
        """Names and texts of the files, in archives too; what is not UTF-8 is skipped."""
        for clone, path in self.files(self.take.paths):
            for name, raw in _contents(path, clone.name(path), self.take.paths):
                try:
                    yield clone, name, decode(raw, f"{clone.repository.name}/{name}")
                except Unreadable as error:
                    self.skipped.append(str(error))

    def held_out(self) -> Iterator[tuple[str, str]]:
        """Names and texts of the files that name what is for tests; all of them can be read."""
        for clone, path in self.files(self.take.held_out):
            for name, raw in _contents(path, clone.name(path), self.take.held_out):
                yield name, decode(raw, f"{clone.repository.name}/{name}")

    def xml(self, name: str, text: str) -> ET.Element:
        """The root of a file, without the entities that its DTD would define; empty if broken."""
        try:
            return ET.fromstring(_DOCTYPE.sub("", _ENTITY.sub("", text)).lstrip())
        except ET.ParseError as error:
            self.skipped.append(f"{name}: not XML: {error}")
            return ET.Element("broken")


_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\w+);)[\w.:-]+;")
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)


def _contents(path: Path, name: str, patterns: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """A file's name and bytes, or those of the files in an archive that patterns ask for."""
    if path.suffix != ".zip":
        yield name, read_bytes(path, name)
        return
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            if any(fnmatch(member, pattern.partition("!")[2]) for pattern in patterns):
                yield f"{name}!{member}", archive.read(member)


def lowest(found: Sequence[T], most: int, text: Callable[[T], str]) -> list[T]:
    """At most so many, those of the lowest hash, in the order they came."""
    numbers = sorted(range(len(found)), key=lambda number: text_key(text(found[number])))[:most]
    return [found[number] for number in sorted(numbers)]


# ------------------------------------------------------------------ parsers: files to pages


class Page(NamedTuple):
    """A title with what stands below it; pages of one key are versions in other languages."""

    lang: str
    title: str  # or a question; "": none
    parts: Sequence[str]  # paragraphs, verses or lines
    key: str = ""


def squad(job: Job) -> Iterator[Page]:
    """A question, or the title of the article, and its paragraph; those of tests are left out."""
    tests = {one[1] for name, text in job.held_out() for one in _paragraphs(job, name, text)}
    for _, name, text in job.texts():
        for title, context, questions in _paragraphs(job, name, text):
            if context not in tests:
                titles = questions if job.take.file == QUESTIONS else [title]
                yield from (Page(job.take.lang, one_line(one), [context]) for one in titles)


def _paragraphs(job: Job, name: str, text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Title, paragraph and questions: SQuAD's JSON, lines of JSON, or squad2-fi's HTML."""
    if name.endswith(".html"):
        yield from _numbered(text, job.take.documents)
    elif name.endswith(".jsonl"):
        for row in map(json.loads, text.splitlines()):
            yield row.get("title") or "", one_line(row["context"]), [row["question"]]
    else:
        for article in json.loads(text)["data"]:
            found = article["paragraphs"]  # AmQA has articles with one that is in no list
            for paragraph in [found] if isinstance(found, dict) else found:
                questions = [one["question"] for one in paragraph["qas"]]
                yield article.get("title") or "", one_line(paragraph["context"]), questions


def _numbered(text: str, documents: int) -> Iterator[tuple[str, str, list[str]]]:
    """Bold lines number what follows: a document (underlined too), its texts, their questions."""
    context, questions, expected = "", list[str](), ""
    for node in LexborHTMLParser(text).css("body > p"):
        said = one_line(node.text())
        if node.css_first("b") is None:
            if expected == "text":
                context = said
            elif expected == "question":
                questions.append(said)
            expected = ""
            continue
        expected = "text" if re.search("numero|number", said) else "question"
        if node.css_first("u") is not None:
            expected = "document"
        if expected != "question":
            if context:
                yield "", context, questions
            context, questions = "", []
        if expected == "document" and documents and int(re.sub(r"\D", "", said)) >= documents:
            return
    if context:
        yield "", context, questions


def afriqa(job: Job) -> Iterator[Page]:
    """A question, its translation, and the English or French paragraph that answers both."""
    for _, name, text in job.texts():
        language, pivot = name.split(".")[-4:-2]  # gold_span_passages.afriqa.bem.en.train.json
        for row in filter(lambda one: one["context"], map(json.loads, text.splitlines())):
            context = [one_line(row["context"])]
            yield Page(f"{job.tag(language)}-{pivot}", one_line(row["question_lang"]), context)
            yield Page(pivot, one_line(row["question_translated"]), context)


def medquad(job: Job) -> Iterator[Page]:
    """A question and its answer; those that LiveQA-Med judged, the last words there, are out."""
    told = (one.split() for _, text in job.held_out() for one in text.splitlines())
    judged = {words[-1] for words in told if words}
    for _, name, text in job.texts():
        root = job.xml(name, text)
        for pair in root.iter("QAPair"):
            question, answer = (
                one_line(pair.findtext(one) or "") for one in ("Question", "Answer")
            )
            if f"{root.get('source')}_{root.get('id')}_Sec{pair.get('pid')}.txt" not in judged:
                yield Page(job.take.lang, question, [answer])


def pubmedqa(job: Job) -> Iterator[Page]:
    """A question and the abstract without its conclusion."""
    for _, _, text in job.texts():
        for row in json.loads(text).values():
            yield Page(
                job.take.lang, one_line(row["QUESTION"]), [one_line(" ".join(row["CONTEXTS"]))]
            )


_ROLE = re.compile(r":[\w:+-]+:`(?:([^`<]+?)\s*<[^`>]*>|[!~]?([^`]*))`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}")
_LITERAL = re.compile(r"``([^`]+)``|`([^`]+)`_{0,2}")
_NO_HEADING = re.compile(r"[.!:;,)…]$|^[*(\[-]|^[a-z](?!.* --- )|::")


def plain(text: str) -> str:
    """A message of Sphinx without its marks, on one line.

    >>> plain("See :func:`~gc.enable` and `the tutorial <https://docs.python.org>`_: ``x``.")
    'See gc.enable and the tutorial: x.'
    """
    for marks in (_ROLE, _LINK, _LITERAL):
        text = marks.sub(lambda match: next(filter(None, match.groups()), ""), text)
    return one_line(text)


@cache
def messages(path: Path, name: str, lang: str) -> tuple[tuple[str, str], ...]:
    """English messages of a catalogue and their translations, in order; fuzzy ones are left out."""
    plan = PairOptions(
        directions=((ENGLISH, lang),), min_translation=1, max_query_chars=LONGEST_DOCUMENT
    )
    file = SourceFile("po", (path,), name, name)
    found = (one for _, unit in read_po(file, plan, lambda _: True) for one in unit)
    return tuple((plain(one.query), plain(one.pos[0])) for one in found if isinstance(one, Pair))


def po(job: Job) -> Iterator[Page]:
    """A catalogue and its English, or each heading (that asks, for qa_all) with what is below."""
    for clone, path in job.files(job.take.paths):
        name, lang = f"{clone.repository.name}/{clone.name(path)}", clone.repository.lang
        try:
            found = messages(path, name, lang)
        except Unreadable as error:
            job.skipped.append(str(error))
            continue
        if not found:
            continue
        if job.parallel:
            yield Page(ENGLISH, "", [english for english, _ in found], name)
            yield Page(lang, "", [other for _, other in found], name)
        elif job.take.file in (TEXTS, DOCUMENTS):
            yield Page(lang, found[0][1], [other for _, other in found[1:]])
        else:
            for english, heading, below in _headed(found):
                if english.endswith("?") or job.take.file != QUESTIONS:
                    yield Page(lang, heading, below)


def _headed(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, list[str]]]:
    """Headings, English and translated, with the paragraphs below: short, and no sentences."""
    english, heading, below = "", "", list[str]()
    for message, translated in found:
        if len(message) > 100 or _NO_HEADING.search(message):
            below.append(translated)
            continue
        if heading:
            yield english, heading, below
        english, heading, below = message, translated, []
    if heading:
        yield english, heading, below


BLOCKS = frozenset("para simpara title refpurpose question answer".split())
CODE = frozenset("programlisting screen synopsis methodsynopsis constructorsynopsis".split())


def docbook(job: Job) -> Iterator[Page]:
    """A page of PHP's manual; for qa_all what its FAQ asks and answers."""
    for clone, name, text in job.texts():
        root, lang = job.xml(f"{clone.repository.name}/{name}", text), clone.repository.lang
        if job.take.file == QUESTIONS:
            for node in _all(root, "qandaentry"):
                question, answer = (
                    [said for inner in _all(node, tag) for said in _blocks(inner) if said]
                    for tag in ("question", "answer")
                )
                yield Page(lang, " ".join(question), answer)
            continue
        title, *parts = _blocks(root) or [""]
        for function in _all(root, "refname")[:1]:  # what is first is its purpose
            title = f"{_said(function)}: {title}"
        yield Page(lang, title, parts, name)


def _all(root: ET.Element, tag: str) -> list[ET.Element]:
    """The nodes of a tag, in any namespace."""
    return [node for node in root.iter() if node.tag.rpartition("}")[2] == tag]


def _blocks(root: ET.Element) -> list[str]:
    """Paragraphs and titles, empty ones too, so that versions of a page can be aligned."""
    return [_said(node) for node in root.iter() if node.tag.rpartition("}")[2] in BLOCKS]


def _said(node: ET.Element) -> str:
    """The text in a node on one line, without code and the blocks within it."""

    def parts(node: ET.Element) -> Iterator[str]:
        yield node.text or ""
        for inner in node:
            yield from () if inner.tag.rpartition("}")[2] in BLOCKS | CODE else parts(inner)
            yield inner.tail or ""

    return one_line("".join(parts(node)))


def lines(job: Job) -> Iterator[Page]:
    """Files that are aligned line by line, news.afr.txt; English is the first of `paths`."""
    files = [path for _, path in job.files(job.take.paths)]
    tags = [job.tag(path.name.split(".")[-2]) for path in files]
    plan = PairOptions(directions=tuple((tag, ENGLISH) for tag in tags[1:]), min_translation=1)
    columns: dict[str, list[str]] = {tag: [] for tag in tags}
    aligned = SourceFile("text", tuple(files), job.take.source, job.take.source, tuple(tags))
    for _, unit in read_aligned(aligned, plan, lambda _: True):
        found = [one for one in unit if isinstance(one, Pair)]
        texts = {one.lang.removesuffix(f"-{ENGLISH}"): one_line(one.query) for one in found}
        texts[ENGLISH] = one_line(found[0].pos[0]) if found else ""
        for tag, column in columns.items():
            column.append(texts.get(tag, ""))
    yield from (Page(tag, "", column) for tag, column in columns.items())


def table(job: Job) -> Iterator[Page]:
    """A table with a column for each language."""
    for _, name, text in job.texts():
        rows = list(csv.DictReader(io.StringIO(text)))
        for column in filter(job.languages.__contains__, rows[0] if rows else ()):
            yield Page(job.tag(column), "", [one_line(row[column]) for row in rows], name)


def bible(job: Job) -> Iterator[Page]:
    """The verses of each Bible, bibles/*.xml, and of the World English Bible, json/*.json."""
    english: dict[str, str] = defaultdict(str)
    found: list[tuple[str, dict[str, str]]] = []
    for _, name, text in job.texts():
        if name.endswith(".json"):
            for part in filter(lambda one: "verseNumber" in one, json.loads(text)):
                place = f"{part['chapterNumber']}.{part['verseNumber']}"
                english[f"b.{_book(Path(name).stem)}.{place}"] += part["value"]
            continue
        root = job.xml(name, text)
        segments = [node for node in root.iter("seg") if node.get("type") == "verse"]
        verses = {node.get("id", ""): one_line(node.text or "") for node in segments}
        codes = (job.tag(node.get("iso639", "")) for node in root.iter("language"))
        found.extend((code, verses) for code in codes)
    if job.parallel:
        yield Page(ENGLISH, "", [one_line(english[key]) for key in english])
    for tag, verses in found:
        keys = english if job.parallel else verses
        yield Page(tag, "", [verses.get(key, "") for key in keys])


def _book(name: str) -> str:
    """What the Corpus Encoding Standard calls a book: 1samuel is 1SA."""
    return {"judges": "JDG", "philemon": "PHM"}.get(name, name[:3].upper())


def tldr(job: Job) -> Iterator[Page]:
    """What a command is for, and its examples: pages.pt_BR/common/tar.md."""
    for _, name, text in job.texts():
        folder, _, key = name.partition("/")
        rows = [one_line(row.replace("`", "")) for row in text.splitlines()]
        described = [row[2:] for row in rows if row.startswith("> ") and "http" not in row]
        examples = [row[2:].rstrip(":：") for row in rows if row.startswith("- ")]
        tag, command = job.tag(folder.partition(".")[2] or ENGLISH), rows[0].removeprefix("# ")
        if described and examples and job.parallel:
            yield Page(tag, described[0], examples, key)
        elif described and len(examples) > 1:  # with one it is the alias of another command
            yield Page(tag, described[0], [f"{command}. {'; '.join(examples)}"])


def stories(job: Job) -> Iterator[Page]:
    """Storybooks, one part a page: af/0031_name.md; those for non-commercial use are skipped."""
    for clone, name, text in job.texts():
        folder, _, file = name.rpartition("/")
        title, *parts = (one_line(part) for part in re.split(r"(?m)^##[ \t]*$", text))
        licence = re.search(r"(?m)^\* License: *(.*)$", text)
        if licence is None or "NC" in licence[1]:
            job.skipped.append(f"{clone.repository.name}/{name}: {licence and licence[1]}")
        else:
            yield Page(job.tag(folder), title.removeprefix("# "), parts[:-1], file.split("_")[0])


_HEADER = re.compile(r"(?:[A-Z][\w-]*:[^\n]*\n(?:[ \t]+[^\n]*\n)*)+\n")  # of a PEP
_NUMBER = re.compile(r"^§+ ?\d+\w* +")  # of a law's paragraph


@cache
def outline(path: Path, name: str, drop: str) -> Outline:
    """The outline of a file of Markdown or reStructuredText, titled by its header or name."""
    text = clean(decode(read_bytes(path, name), name))
    header = _HEADER.match(text)
    title = re.search(r"(?m)^Title: *(.+)$", header[0]) if header else None
    text = text[header.end() :] if header else text
    text = re.sub(drop, "", text) if drop else text
    made = restructured_outline(text, name) if path.suffix == ".rst" else markdown_outline(text)
    made.title = title[1].strip() if title else made.title
    made.fallback = re.sub(r"^\d+-", "", path.stem).replace("-", " ")
    return made


def markup(job: Job) -> Iterator[Page]:
    """A document with its sections as parts, or each section under its title and heading."""
    plan = PairOptions(min_chars=job.take.least, max_chars=LONGEST)
    for clone, path in job.files(job.take.paths):
        name = f"{clone.repository.name}/{clone.name(path)}"
        try:
            found = outline(path, name, job.take.drop)
        except Unreadable as error:
            job.skipped.append(str(error))
            continue
        if job.take.file == DOCUMENTS:
            yield _document(found, job.take.lang)
            continue
        for one in document_pairs(found, plan, name, ["heading-section"]):
            if isinstance(one, Pair):
                heading = _NUMBER.sub("", one.query)
                title = f"{one.path[0]}: {heading}" if len(one.path) > 1 else heading
                yield Page(job.take.lang, title, [one_line(one.pos[0])])


def _document(found: Outline, lang: str) -> Page:
    parts: list[str] = []
    for path, section in found.paths():
        if section.blocks and not is_around(found.title, path[1:]):
            headed = parts and section.heading
            mark = f"{'#' * max(2, section.level)} {section.heading}\n\n" if headed else ""
            parts.append(mark + section.text)
    return Page(lang, found.title, parts)


def tei(job: Job) -> Iterator[Page]:
    """The paragraphs of a novel."""
    for clone, name, text in job.texts():
        root = job.xml(f"{clone.repository.name}/{name}", text)
        found = [_said(node) for body in _all(root, "body") for node in _all(body, "p")]
        yield Page(job.take.lang, "", found)


PARSERS: dict[str, Callable[[Job], Iterator[Page]]] = {
    "squad": squad, "afriqa": afriqa, "medquad": medquad, "pubmedqa": pubmedqa, "po": po,
    "docbook": docbook, "lines": lines, "csv": table, "bible": bible, "tldr": tldr,
    "stories": stories, "markup": markup, "tei": tei,
}  # fmt: skip

# ------------------------------------------------------------------ pages to rows


class Item(NamedTuple):
    """A row in the making; a raw text has no query."""

    query: str
    text: str
    lang: str


def items(job: Job) -> Iterator[Item]:
    """What a take gives to its file; raises InputError where files are not of the kind's form."""
    found = PARSERS[job.take.kind](job)
    try:
        yield from _translations(found, job.take.draws) if job.parallel else _items(job.take, found)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{job.take.source}: its files are not what {job.take.kind!r} reads ({error!r}): "
            "check what is checked out"
        ) from error


def _items(take: Take, found: Iterable[Page]) -> Iterator[Item]:
    """Raw texts, long documents, or titles and questions with what is below them."""
    for page in found:
        parts = [part for part in page.parts if part]
        if take.file == TEXTS:
            for text in _joined(parts, take.least):
                yield Item("", shorten(text, LONGEST), page.lang)
        elif take.file == DOCUMENTS:
            lead = f"{page.title.rstrip('.')}. {one_line(parts[0])}" if parts else page.title
            body = "\n\n".join(parts[1:])
            yield Item(shorten(lead, LEAD), shorten(body, LONGEST_DOCUMENT), page.lang)
        else:
            yield Item(page.title, shorten(" ".join(parts), LONGEST), page.lang)


def _joined(texts: Iterable[str], least: int) -> Iterator[str]:
    """Neighbours joined until they have so many characters; what is left over is dropped."""
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        if sum(map(len, parts)) >= least:
            yield " ".join(parts)
            parts = []


def _translations(found: Iterable[Page], draws: int) -> Iterator[Item]:
    """Titles and parts of a page and its English, where it has as many, and pairs of others."""
    versions: dict[str, list[Page]] = defaultdict(list)
    for page in found:
        versions[page.key].append(page)
    for pages in versions.values():
        texts = {page.lang: [page.title, *page.parts] for page in pages}
        english = texts.get(ENGLISH, [])
        others = [page for page in pages if page.lang != ENGLISH]
        for page in others:
            own = [page.title, *page.parts]
            for other, text in zip(own, english, strict=True) if len(own) == len(english) else ():
                yield Item(other, text, f"{page.lang}-{ENGLISH}")
        for number in range(len(english) if draws and len(others) > 1 else 0):
            draw = random.Random(number)
            for _ in range(draws):
                one, two = draw.sample(others, 2)
                row = texts[one.lang][number], texts[two.lang][number]
                yield Item(*row, f"{one.lang}-{two.lang}")


def rows_of(
    job: Job, seen: set[int], against: OverlapIndex | None, count: Counter[str]
) -> Iterator[Row]:
    """The rows of a take, counted; `seen` has the keys of the rows that its file has already."""
    take, raw = job.take, job.take.file == TEXTS
    kept: list[Item] = []
    for item in items(job):
        count["read"] += 1
        key = text_key(f"{item.query}\n{item.text}")
        if len(item.text) < take.least or (not raw and len(item.query) < SHORTEST):
            count["short"] += 1
        elif key in seen or item.query == item.text:
            count["repeated"] += 1
        else:
            seen.add(key)
            kept.append(item)
    chosen = _chosen(kept, take)
    count["over"] = len(kept) - len(chosen)
    for first in range(0, len(chosen), BATCH):
        batch = chosen[first : first + BATCH]
        for item, shared in zip(batch, _shared(batch, against), strict=True):
            count["shared"] += shared
            count["rows"] += not shared
            about = {"lang": item.lang, "source": take.source}
            if raw and not shared:
                yield {"text": item.text} | about
            elif not shared:
                yield {"query": item.query, "pos": [item.text], "neg": []} | about


def _chosen(kept: list[Item], take: Take) -> list[Item]:
    """As many as the take allows, by language and in all."""
    if take.most_per_language:
        languages: dict[str, list[Item]] = defaultdict(list)
        for item in kept:
            languages[item.lang].append(item)
        groups = [lowest(one, take.most_per_language, "\n".join) for one in languages.values()]
        kept = [item for group in groups for item in group]
    return lowest(kept, take.most, "\n".join) if take.most else kept


def _shared(batch: list[Item], against: OverlapIndex | None) -> list[bool]:
    """Whether the query or the text of each is in the evaluation sets."""
    if against is None:
        return [False] * len(batch)
    queries = against.find([item.query for item in batch])
    texts = against.find([item.text for item in batch])
    return [one is not None or two is not None for one, two in zip(queries, texts, strict=True)]


# ------------------------------------------------------------------ the whole


def read_sources(path: Path) -> tuple[dict[str, Repository], list[Take], dict[str, str]]:
    """Repositories by name, takes and tags of sources.toml; raises InputError naming the entry."""
    try:
        facts = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    repositories = [_entry(Repository, one, path) for one in facts.get("repository", ())]
    takes = [_entry(Take, one, path) for one in facts.get("take", ())]
    names = {one.name for one in repositories}
    for take in takes:
        if take.kind not in PARSERS:
            raise InputError(
                f"{path}: {take.source}: {take.kind!r} is none of {', '.join(PARSERS)}"
            )
        if unknown := [name for name in take.repositories if name not in names]:
            raise InputError(f"{path}: {take.source}: no [[repository]] {', '.join(unknown)}")
    return {one.name: one for one in repositories}, takes, facts.get("languages", {})


def _entry(kind: type[T], entry: dict[str, Any], path: Path) -> T:
    values = {name: tuple(one) if isinstance(one, list) else one for name, one in entry.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{path}: {entry}: {error}") from error


def opened(repository: Repository, folder: Path, any_commit: bool) -> Clone | str:
    """The clone of a repository, or what is wrong and the command that mends it."""
    name, wanted = repository.name, repository.tree or repository.commit
    places = [folder / name.replace("/", "+"), folder / name.rpartition("/")[2]]
    place = next((one for one in places if (one / ".git").exists()), None)
    if place is None:
        return (
            f"no clone of {name}: git clone https://github.com/{name} {places[0]} && "
            f"git -C {places[0]} checkout {wanted}"
        )
    git = ["git", "-C", str(place), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=False)
    if head.returncode:
        return f"{place}: git tells no commit: {head.stderr.strip()}"
    if not any_commit and not head.stdout.startswith(wanted):
        return (
            f"{place} is at {head.stdout[:12]}, not at {wanted}: git -C {place} checkout {wanted} "
            "(or go on with --any-commit)"
        )
    return Clone(repository, place)


def build(
    folder: Path,
    to: Path,
    *,
    only: Sequence[str] = (),
    against: Path | None = None,
    any_commit: bool = False,
    sources: Path = SOURCES,
) -> list[dict[str, Any]]:
    """Writes the files and report.json; raises InputError naming every clone that is not right."""
    repositories, takes, languages = read_sources(sources)
    names = dict.fromkeys(name for take in takes for name in (take.file, take.source))
    if unknown := [name for name in only if name not in names]:
        raise InputError(f"no file or source {', '.join(unknown)}; there are {', '.join(names)}")
    takes = [take for take in takes if not only or {take.file, take.source} & {*only}]
    wanted = dict.fromkeys(name for take in takes for name in take.repositories)
    found = {name: opened(repositories[name], folder, any_commit) for name in wanted}
    if wrong := [one for one in found.values() if isinstance(one, str)]:
        raise InputError("\n".join(wrong))
    clones = {name: one for name, one in found.items() if isinstance(one, Clone)}
    report: list[dict[str, Any]] = []

    def rows(file: str, overlap: OverlapIndex | None) -> Iterator[Row]:
        seen: set[int] = set()
        for take in takes:
            if take.file == file:
                job = Job(take, [clones[name] for name in take.repositories], languages)
                count = Counter(dict.fromkeys(COUNTED, 0))
                yield from rows_of(job, seen, overlap, count)
                about = {"file": file, "source": take.source, "model": take.rows}
                report.append(about | count | {"skipped": job.skipped})

    with tempfile.TemporaryDirectory() as scratch:
        if against is not None:
            OverlapIndex.build(read_evaluation(against), MinOverlap(), Path(scratch))
        overlap = None if against is None else OverlapIndex(Path(scratch))
        for file in dict.fromkeys(take.file for take in takes):
            write_rows(to / f"{file}.jsonl.gz", rows(file, overlap))
    with atomic_write(to / "report.json") as out:
        out.write(json.dumps(report, indent=1, ensure_ascii=False).encode())
    return report


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=text)
    options.add_argument("folder", type=Path, metavar="CLONES", help="owner+name, or name, each")
    options.add_argument("--to", type=Path, required=True, help="folder of the files")
    options.add_argument("--only", nargs="+", default=[], metavar="NAME", help="files or sources")
    options.add_argument("--against", type=Path, help="folder of evaluation sets (BEIR)")
    options.add_argument("--any-commit", action="store_true", help="whatever is checked out")
    try:
        report = build(**vars(options.parse_args()))
    except TercetError as error:
        raise SystemExit(str(error)) from error
    for one in report:
        left = ", ".join(f"{one[name]:,} {name}" for name in COUNTED[2:])
        click.echo(
            f"{one['file']} {one['source']}: {one['rows']:,} rows of {one['read']:,} (the model's "
            f"folder has {one['model']:,}); left out: {left}, {len(one['skipped']):,} files"
        )


if __name__ == "__main__":
    main()
