"""The files that `data pairs` is given, their kinds and languages, and what readers of them yield.

Knows nothing of what is in a file of any kind.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from tercet.documents import base
from tercet.documents.base import Problem, Unreadable, problem_of
from tercet.documents.files import leads_out
from tercet.errors import InputError, MissingExtraError
from tercet.io import check_file
from tercet.rows import PACKED, is_dataset, raw_lines


@dataclass(frozen=True)
class Kind:
    """A kind of source: how its files end, and what is made of it, the default first."""

    suffixes: tuple[str, ...]
    structures: tuple[str, ...]
    streamed: bool = False  # cut into parts by its units, and read packed; others: by files
    needs: str = ""  # an optional library


DOCUMENT = ("heading-section", "title-body", "title-abstract", "question-answer")
KINDS = {
    "markdown": Kind((".md", ".markdown"), DOCUMENT),
    "html": Kind((".html", ".htm", ".xhtml"), DOCUMENT),
    "restructuredtext": Kind((".rst",), DOCUMENT, needs="docutils"),
    "records": Kind(  # what is made depends on the fields
        (".jsonl", ".ndjson", ".parquet"),
        (*DOCUMENT, "instruction-output", "code-docstring", "translations"),
        streamed=True,
    ),
    "tmx": Kind((".tmx",), ("translations",), streamed=True),
    "po": Kind((".po",), ("translations",), needs="polib"),
    "text": Kind((), ("translations",), streamed=True),  # aligned line by line
    "python": Kind((".py",), ("code-docstring",)),
    "code": Kind(
        (".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".java", ".go", ".rs"),
        ("code-docstring",),
        needs="tree_sitter",
    ),
}
SUFFIXES = {suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes}
READ_AS = tuple(name for name in KINDS if name != "code")  # of code the suffix says the language
STRUCTURES = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.structures))


@dataclass(frozen=True)
class PairOptions:
    """What readers are told, the same for all of them."""

    structures: tuple[str, ...] = ()  # none: what the kind of source suggests
    lang: str = ""  # of everything; "": what the source says
    directions: tuple[tuple[str, str], ...] = ()  # of translations; none: as the source lies
    both: bool = False  # directions are turned round too
    fields: dict[str, str] = field(default_factory=dict)  # of rows: role to name of the field
    min_chars: int = 40  # of a positive
    min_translation: int = 10  # characters of a translation's longer side
    max_chars: int = 8000  # of a positive: prose and code are cut there
    max_query_chars: int = 1000


@dataclass(frozen=True)
class Pair:
    """A query and what answers it; `path` holds the headings from the title down to the query."""

    structure: str
    query: str
    pos: tuple[str, ...]
    where: str  # the unit it is from: file and line, or an id of its own
    lang: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """Something that gave no row, and why; reasons are few, so that they can be counted."""

    reason: str
    where: str
    text: str = ""  # of it, as an example


Outcome = Pair | Skipped | Problem
Has = Callable[[int], bool]  # whether a unit, counted from 0, is to be read
Units = Iterator[tuple[int, list[Outcome]]]  # the units that are, and what each gave


def first_reason(*checks: tuple[bool, str]) -> str:
    """The reason of the first check that holds, "" where none does."""
    return next((reason for holds, reason in checks if holds), "")


def need(module: str) -> None:
    """Raises MissingExtraError where an optional library is not there."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        names = [name for name, kind in KINDS.items() if kind.needs == module]
        raise MissingExtraError(
            f"reading {names[0] if names else 'code'} needs {module}: pip install 'tercet[pairs]'"
        ) from error


# Texts

_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with one kind of line break, without control characters and lone surrogates."""
    if _UNCLEAN.search(text) is None:
        return text  # most: one pass instead of four
    return _CONTROLS.sub(" ", base.clean(text))


def one_line(text: str) -> str:
    """The text as one line."""
    return " ".join(clean(text).split())


def has_word(text: str) -> bool:
    """Whether there is a word: two letters in a row, or one of a script of Asia."""
    return any(
        char.isalpha() and (char >= "\u0900" or previous.isalpha())
        for previous, char in pairwise(f" {text}")
    )


def shorten(text: str, most: int) -> str:
    """At most so many characters, cut after a paragraph, a line, a sentence or a word.

    >>> shorten("One thing. Another thing.", 14)
    'One thing.'
    """
    if len(text) <= most:
        return text
    head = text[:most]
    for mark in ("\n\n", "\n", ". ", "。", " "):
        end = head.rfind(mark)
        if end >= most // 2:
            return head[: end + len(mark)].rstrip()
    return head


# Languages

TWO_LETTERS = frozenset(  # ISO 639-1, and "sh", which Wikipedia and parallel corpora still use
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy "
    "da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu "
    "hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb "
    "lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om "
    "or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv "
    "sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh "
    "zu".split()
)
_TAG = re.compile(  # language, script, region; a variant behind "@" says nothing here
    r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|\d{3}))?(?:@\w+)?"
)
_TWO_TAGS = re.compile(r"[a-z]{2,3}-[a-z]{2,3}")
_PLAIN = (".txt", ".text", ".raw", ".tok", ".snt", ".sgm")


def parse_tag(text: str) -> str:
    """A tag as BCP 47 writes it: `pt_br` -> `pt-BR`, `zh_hant` -> `zh-Hant`, `sr@latin` -> `sr`.

    Raises InputError where it is no tag, or its two letters are no language.
    """
    match = _TAG.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a language tag such as de, pt-BR or ckb")
    language, script, region = match[1].lower(), match[2], match[3]
    if len(language) == 2 and language not in TWO_LETTERS:
        raise InputError(f"{text!r} is not a language of ISO 639-1, such as cs, el, ja or zh")
    return "-".join(filter(None, (language, script and script.title(), region and region.upper())))


def tag_or_none(text: str | None) -> str:
    """The tag in its usual form, "" where it is none."""
    try:
        return parse_tag(text) if text else ""
    except InputError:
        return ""


def parse_direction(text: str) -> tuple[str, str]:
    """`de-en` -> ("de", "en"), `pt-BR:en` -> ("pt-BR", "en"); raises InputError."""
    first, mark, second = text.partition(":" if ":" in text else "-")
    if not mark or not second or parse_tag(first) == parse_tag(second):
        raise InputError(f"{text!r} is not a direction such as de-en (or pt-BR:en)")
    return parse_tag(first), parse_tag(second)


def covers(tag: str, other: str) -> bool:
    """Whether a tag that was asked for covers another: `de` covers `de-AT`."""
    return other == tag or other.startswith(f"{tag}-")


def language_of_name(path: Path) -> tuple[str, str]:
    """The language in a name and the name without it: `news.de-en.de.gz` -> ("de", "news.de-en").

    Also `de.txt`, `news.deu.txt` and Moses' `news.de`; ("", the name) where there is none. Three
    letters at the very end of a name are the suffix of a format rather.
    """
    parts = path.name.split(".")
    while len(parts) > 1 and f".{parts[-1].lower()}" in (*PACKED, *_PLAIN):
        parts.pop()
    *stem, last = parts
    in_pair = bool(stem and _TWO_TAGS.fullmatch(stem[-1]))
    is_format = len(last) == 3 and path.name.endswith(last) and not in_pair
    language = "" if is_format or (stem and _TWO_TAGS.fullmatch(last)) else tag_or_none(last)
    return (language, ".".join(stem)) if language else ("", path.name)


# Files


LARGEST = 64 << 20  # bytes that are parsed as a whole


def read_bytes(path: Path, label: str) -> bytes:
    """A whole file; raises Unreadable where it is too large to be parsed as a whole."""
    size = path.stat().st_size
    if size > LARGEST:
        raise Unreadable(label, f"{size >> 20} MB are too much for one file: split it")
    return path.read_bytes()


def numbered_lines(path: Path, label: str, has: Has) -> Iterator[tuple[int, bytes]]:
    """The lines that are to be read with their numbers, counted from 0, without line breaks.

    Only "\\n" ends a line: files that are aligned line by line may hold other breaks. Raises
    Unreadable where a file is damaged, or a line too long.
    """
    try:
        for number, raw in raw_lines(path, "lines"):
            if has(number - 1):
                yield number - 1, raw.rstrip(b"\r\n")
    except InputError as error:
        problem = problem_of(error, label, path)
        raise Unreadable(problem.source, problem.reason) from error


@dataclass(frozen=True)
class SourceFile:
    """A file, or some that are aligned, that is read as one kind."""

    kind: str
    paths: tuple[Path, ...]
    label: str  # in ids and messages
    source: str  # in rows
    tags: tuple[str, ...] = ()  # languages of files that are aligned


@dataclass
class Sources:
    """Files in a fixed order, what is wrong with others, and what is of no kind that is read."""

    files: list[SourceFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)  # by suffix


def find_sources(
    given: Sequence[str],
    options: PairOptions,
    *,
    kind: str = "",
    source: str = "",
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    written: frozenset[str] = frozenset(),
) -> Sources:
    """The files of what is given, each once; text files are paired by their names.

    kind: of all files, whatever their names; source: their name in the rows; exclude: patterns of
    names and of paths below what is given; follow_links: those that lead out of a folder are read,
    and those to folders; written: absolute paths that are never read. Raises
    InputError where something is not there, or is of no kind that is read.
    """
    sources, seen = Sources(), set[str]()
    texts: list[SourceFile] = []
    aligned = kind == "text" or "translations" in options.structures
    made = " or ".join(options.structures) or "pairs"
    for root in map(Path, given):
        if not root.exists():
            raise InputError(f"{root}: no such file or folder")
        if not root.is_dir():
            check_file(root)
        folder = root.is_dir() and not is_dataset(root)
        real = os.path.realpath(root)
        for path in _walk(root, written, follow_links) if folder else [root]:
            if isinstance(path, Problem):
                sources.problems.append(path)
                continue
            if folder and not follow_links and leads_out(path, real):
                sources.passed_over["links out of the folder (--follow-links)"] += 1
                continue
            label = path.relative_to(root).as_posix() if folder else path.name
            absolute = os.path.abspath(path)
            names = (label, path.name)
            if absolute in seen or any(fnmatch(n, pattern) for n in names for pattern in exclude):
                continue
            seen.add(absolute)
            read_as = _kind(path, kind, options.structures)
            if not read_as and aligned and (not folder or all(language_of_name(path))):
                read_as = "text"
            if read_as:
                file = SourceFile(read_as, (path,), label, source or _stem(root))
                (texts if read_as == "text" else sources.files).append(file)
            elif folder:
                sources.passed_over[path.suffix.lower() or path.name] += 1
            else:
                raise InputError(
                    f"{path}: not a file that gives {made}: --kind says how to read it "
                    f"({', '.join(READ_AS)}; packed files only as records, tmx and text), "
                    "`jq -c .[]` makes lines of a JSON array, and aligned text files need --as "
                    "translations"
                )
    for group in _grouped(texts):
        path = group[0].paths[0]
        if len(group) == 1 and str(path) not in given:
            sources.passed_over[path.suffix.lower()] += 1
        else:
            sources.files.append(_aligned(group, options))
    if not sources.files:
        raise InputError(
            f"{', '.join(given)}: no file that gives {made}: looked for {' '.join(SUFFIXES)} "
            "and wiki_00"
        )
    return sources


def _walk(folder: Path, written: frozenset[str], follow: bool) -> Iterator[Path | Problem]:
    """The files and saved datasets below a folder, sorted; hidden ones are passed over."""
    closed: list[OSError] = []
    entered: set[str] = set()  # links can go round
    for where, folders, names in os.walk(folder, onerror=closed.append, followlinks=follow):
        if follow and (real := os.path.realpath(where)) in entered:
            folders.clear()
            continue
        if follow:
            entered.add(real)
        if is_dataset(Path(where)):
            folders.clear()
            yield Path(where)
            continue
        shown = [name for name in sorted((*folders, *names)) if not name.startswith(".")]
        paths = {n: Path(where, n) for n in shown if os.path.abspath(f"{where}/{n}") not in written}
        folders[:] = [name for name in paths if name in folders]
        for path in paths.values():
            if path.is_file():
                yield path
            elif not path.exists():
                yield Problem(str(path), "cannot be read: a link to nothing")
            elif not path.is_dir():
                yield Problem(str(path), "not a regular file but a pipe, socket or device")
    for error in closed:
        yield problem_of(error, str(error.filename), folder)


def _unpacked_name(path: Path) -> str:
    return path.name[: -len(path.suffix)] if path.suffix in PACKED else path.name


def _stem(root: Path) -> str:
    """What a source is called: its folder, or its file without suffixes."""
    path = Path(os.path.abspath(root))
    return path.name if path.is_dir() else Path(_unpacked_name(path)).stem


def _kind(path: Path, kind: str, structures: Sequence[str]) -> str:
    """What a file is read as, "" where it is not."""
    if path.is_dir():
        return "records"  # a saved dataset
    name = _unpacked_name(path).lower()
    is_extract = re.fullmatch(r"wiki_\d+", name)  # as wikiextractor names its files
    name = kind or ("records" if is_extract else SUFFIXES.get(Path(name).suffix, ""))
    if not name or (path.suffix in PACKED and not KINDS[name].streamed):
        return ""
    return name if not structures or set(structures) & set(KINDS[name].structures) else ""


def _grouped(texts: Sequence[SourceFile]) -> list[list[SourceFile]]:
    """Text files that belong together: two whatever their names, more by the name's rest."""
    groups: dict[tuple[str, ...], list[SourceFile]] = {}
    for text in texts:
        folder, stem = str(text.paths[0].parent), language_of_name(text.paths[0])[1]
        groups.setdefault((folder, stem) if len(texts) > 2 else (), []).append(text)
    return list(groups.values())


def _aligned(group: Sequence[SourceFile], options: PairOptions) -> SourceFile:
    """Text files that are translations of each other as one, the first in the source language.

    Raises InputError where a language is not known or a file is alone.
    """
    paths = tuple(text.paths[0] for text in group)
    tags = tuple(language_of_name(path)[0] for path in paths)
    if len(group) == 2 and len(set(tags) - {""}) < 2 and len(options.directions) == 1:
        tags = options.directions[0]
    if len(group) < 2:
        wrong = "no other file is aligned with it"
    elif "" in tags or len(set(tags)) < len(tags):
        wrong = "not every name says a language of its own"
    else:
        return SourceFile("text", paths, group[0].label, group[0].source, tags)
    raise InputError(
        f"{' '.join(map(str, paths))}: {wrong}: aligned files have the same name but for the "
        "language, as news.de and news.en; or give two and, in their order, --direction de-en"
    )
