"""What is given to files: which are read, in which order, as what kind.

Knows nothing of what is in them.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tercet.data.pairs.base import PACKED, Problem, unpacked_name
from tercet.data.pairs.languages import of_text_file
from tercet.errors import InputError
from tercet.rows import is_dataset

# Kinds by the suffix of a name; packed files are read only of the kinds in STREAMED.
SUFFIXES = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".rst": "restructuredtext",
    ".jsonl": "records",
    ".ndjson": "records",
    ".parquet": "records",
    ".tmx": "tmx",
    ".po": "po",
    ".py": "python",
    ".js": "code",
    ".mjs": "code",
    ".cjs": "code",
    ".jsx": "code",
    ".ts": "code",
    ".tsx": "code",
    ".java": "code",
    ".go": "code",
    ".rs": "code",
}
# That can be asked for; of code the suffix says the language.
KINDS = (*(kind for kind in dict.fromkeys(SUFFIXES.values()) if kind != "code"), "text")
STREAMED = ("records", "tmx", "text")  # whose units are cut into parts; others are cut by file
_DOCUMENTS = ("heading-section", "title-body", "title-abstract", "question-answer")
GIVES = {  # what can be made of a kind, the default first; of rows it depends on their fields
    "markdown": _DOCUMENTS,
    "html": _DOCUMENTS,
    "restructuredtext": _DOCUMENTS,
    "records": (*_DOCUMENTS, "instruction-output", "code-docstring", "translations"),
    "tmx": ("translations",),
    "po": ("translations",),
    "text": ("translations",),
    "python": ("code-docstring",),
    "code": ("code-docstring",),
}
_EXTRACT = re.compile(r"wiki_\d+")  # as wikiextractor names its files


@dataclass(frozen=True)
class File:
    """A file, or some that are aligned, that is read as one kind."""

    kind: str
    paths: tuple[Path, ...]
    label: str  # in ids and messages
    source: str  # in rows
    tags: tuple[str, ...] = ()  # languages of files that are aligned


@dataclass(frozen=True)
class Sources:
    """Files in a fixed order, what is wrong with others, and what was passed over."""

    files: tuple[File, ...]
    problems: tuple[Problem, ...]
    passed_over: dict[str, int]  # files by suffix


@dataclass(frozen=True)
class Wanted:
    """Which files are read."""

    kind: str = ""  # of all files, whatever their names
    structures: tuple[str, ...] = ()
    source: str = ""  # the name in the rows; "": by the names of what is given
    exclude: tuple[str, ...] = ()  # patterns of names and of paths below what is given
    directions: tuple[tuple[str, str], ...] = ()
    never: frozenset[str] = frozenset()  # absolute paths: what is written

    def kind_of(self, path: Path) -> str:
        """What a file is read as, "" where it is not."""
        kind = self.kind or _kind(path)
        packed = path.suffix in PACKED and kind not in STREAMED
        made = not self.structures or set(self.structures) & set(GIVES.get(kind, ()))
        return kind if made and not packed else ""


def _kind(path: Path) -> str:
    name = unpacked_name(path).lower()
    return "records" if _EXTRACT.fullmatch(name) else SUFFIXES.get(Path(name).suffix, "")


class _Text(NamedTuple):
    path: Path
    label: str
    source: str
    folder: bool  # whether it was found in one


def find(given: Sequence[str], wanted: Wanted) -> Sources:
    """The files of what is given, each once; text files are paired by their names.

    Raises InputError where something is not there, or is of no kind that is read.
    """
    files: list[File] = []
    texts: list[_Text] = []
    problems: list[Problem] = []
    passed_over: Counter[str] = Counter()
    seen: set[str] = set()
    aligned = wanted.kind == "text" or "translations" in wanted.structures
    for name in dict.fromkeys(given):
        root = Path(name)
        source = wanted.source or _name(root)
        if not root.exists():
            raise InputError(f"{root}: no such file or folder")
        folder = root.is_dir() and not is_dataset(root)
        for item in _walk(root, wanted.never) if folder else [root]:
            if isinstance(item, Problem):
                problems.append(item)
                continue
            label = item.relative_to(root).as_posix() if folder else item.name
            if any(fnmatch(label, one) or fnmatch(item.name, one) for one in wanted.exclude):
                continue
            if (place := os.path.abspath(item)) in seen:
                continue
            seen.add(place)
            kind = "records" if item.is_dir() else wanted.kind_of(item)
            if not kind and aligned and (not folder or all(of_text_file(item))):
                kind = "text"
            if kind == "text":
                texts.append(_Text(item, label, source, folder))
            elif kind:
                files.append(File(kind, (item,), label, source))
            elif folder:
                passed_over[item.suffix.lower() or item.name] += 1
            else:
                raise InputError(_refusal(item, wanted))
    files += _aligned(texts, wanted, passed_over)
    if not files:
        raise InputError(
            f"{', '.join(given)}: no file that gives {' or '.join(wanted.structures) or 'pairs'}: "
            f"looked for {' '.join(SUFFIXES)} and wiki_00"
        )
    return Sources(tuple(files), tuple(problems), dict(passed_over))


def _refusal(path: Path, wanted: Wanted) -> str:
    kind = wanted.kind or _kind(path)
    if path.name.endswith(".json"):
        return (
            f"{path}: rows are read a line each: give --kind records if it holds them so, else "
            f"make it so with `jq -c .[] {path.name} > {path.stem}.jsonl`"
        )
    if kind and path.suffix in PACKED and kind not in STREAMED:
        return f"{path}: packed files of this kind are not read: unpack it"
    if kind:
        made = " or ".join(wanted.structures)
        return f"{path}: {kind} gives {', '.join(GIVES[kind])}, not {made}"
    return (
        f"{path}: not a kind of file that is read: name it with --kind ({', '.join(KINDS)}); "
        "aligned text files need --as translations"
    )


def _name(root: Path) -> str:
    """What a source is called: its folder, or its file without suffixes."""
    path = Path(os.path.abspath(root))
    return path.name if path.is_dir() else Path(unpacked_name(path)).stem


def _walk(folder: Path, never: frozenset[str]) -> Iterator[Path | Problem]:
    """The files below a folder, sorted; hidden ones and links to folders are passed over."""
    closed: list[Problem] = []

    def remember(error: OSError) -> None:
        closed.append(Problem(str(error.filename), f"cannot be read: {error.strerror}"))

    for where, folders, names in os.walk(folder, onerror=remember):
        datasets = [name for name in folders if _is_saved(Path(where, name))]
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in datasets
            and os.path.abspath(Path(where, name)) not in never
        )
        for name in sorted((*names, *datasets)):
            path = Path(where, name)
            if name.startswith(".") or os.path.abspath(path) in never:
                continue
            if path.is_file() or name in datasets:
                yield path
            elif path.is_symlink():
                yield Problem(str(path), "cannot be read: a link to nothing")
        yield from closed
        closed.clear()
    yield from closed


def _is_saved(folder: Path) -> bool:
    """Whether a folder is a saved dataset; one that is closed to us is told of later."""
    try:
        return is_dataset(folder)
    except PermissionError:
        return False


def _aligned(texts: Sequence[_Text], wanted: Wanted, passed_over: Counter[str]) -> list[File]:
    """Text files that are translations of each other, the first being the source language.

    Two files are a pair whatever their names; more are put together by their names without the
    language. Raises InputError where a language is not known or a file is alone.
    """
    groups: dict[tuple[str, ...], list[_Text]] = {}
    for text in texts:
        folder, stem = str(text.path.parent), of_text_file(text.path)[1]
        groups.setdefault((folder, stem) if len(texts) > 2 else (), []).append(text)
    made = []
    for group in groups.values():
        paths = tuple(text.path for text in group)
        if len(group) < 2 and group[0].folder:
            passed_over[paths[0].suffix.lower()] += 1
            continue
        if len(group) < 2:
            raise InputError(
                f"{paths[0]}: no other file is aligned with it: aligned files have the same name "
                "but for the language, as news.de and news.en"
            )
        tags = tuple(of_text_file(path)[0] for path in paths)
        if len(group) == 2 and len(set(tags) - {""}) < 2 and len(wanted.directions) == 1:
            tags = wanted.directions[0]
        if "" in tags:
            raise InputError(
                f"{paths[tags.index('')]}: its language is not said by its name: name it news.de, "
                "or give two files and, in their order, --direction de-en"
            )
        if len(set(tags)) < len(tags):
            raise InputError(f"{paths[0]}: two files of this name are in the same language")
        made.append(File("text", paths, group[0].label, group[0].source, tags))
    return made
