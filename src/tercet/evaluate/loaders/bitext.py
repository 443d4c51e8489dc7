"""Pairs of translations: rows of JSON, or two text files whose lines belong together.

Rows: {"src", "en"} (as Tatoeba's are kept here), {"src", "tgt"}, or {"query", "pos"}; "lang" parts
them into languages. Files: LEFT,RIGHT, or a folder of NAME.XX-YY.XX and NAME.XX-YY.YY. Knows
nothing of what is measured.
"""

import gzip
import re
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders.passages import string
from tercet.evaluate.tasks import Bitext
from tercet.rows import SUFFIXES, Row, files_of, numbered_rows

_ALIGNED = re.compile(r"(.*\.)?([^.-]+)-([^.-]+)\.([^.]+)(\.gz)?")  # tatoeba.deu-eng.deu


def load(what: str) -> list[Bitext]:
    """A Bitext per language of rows, or per pair of files; raises InputError.

    what: a file of rows, a folder of them or of aligned files, or LEFT,RIGHT.
    """
    path = Path(what)
    if not path.exists() and what.count(",") == 1:
        left, right = (Path(part) for part in what.split(","))
        return [_files(left, right, f"bitext/{left.name},{right.name}", "")]
    if path.is_dir() and (aligned := _aligned(path)):
        return [_files(a, b, f"{path.name}/{name}", name) for name, a, b in aligned]
    return _rows(path)


def _rows(path: Path) -> list[Bitext]:
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise InputError(
            f"{path}: not {', '.join(SUFFIXES)}: of text files give both, as in bitext:{path},OTHER"
        )
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for file in files_of(path):
        for line, row in numbered_rows(file):
            where = f"{file}:{line}"
            left, right = _pair(row, where)
            language = string(row, "lang", where, default="")
            lefts, rights = pairs.setdefault(language, ([], []))
            lefts.append(_text(left, where))
            rights.append(_text(right, where))
    if not pairs:
        raise InputError(f"{path}: no pair")
    name = path.parent.name if path.is_file() else path.name
    return [
        Bitext(f"{name}/{language}" if language else name, "bitext", language,
               tuple(lefts), tuple(rights))
        for language, (lefts, rights) in sorted(pairs.items())
    ]  # fmt: skip


def _pair(row: Row, where: str) -> tuple[str, str]:
    for left, right in (("src", "en"), ("src", "tgt")):
        if left in row and right in row:
            return string(row, left, where), string(row, right, where)
    positives = row.get("pos")
    if "query" in row and isinstance(positives, list) and len(positives) == 1:
        return string(row, "query", where), string({"pos": positives[0]}, "pos", where)
    raise InputError(
        f'{where}: a pair is {{"src", "en"}}, {{"src", "tgt"}} or {{"query", "pos": [one]}}'
    )


def _aligned(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, left file and right file of every NAME.XX-YY whose two sides are there."""
    sides: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (match := _ALIGNED.fullmatch(path.name)) and match[4] in (match[2], match[3]):
            sides.setdefault((match[1] or "", match[2], match[3]), {})[match[4]] = path
    out = []
    for (_, left, right), files in sides.items():
        if left not in files or right not in files:
            there = next(iter(files.values()))
            raise InputError(f"{there}: the other side of {left}-{right} is missing")
        out.append((f"{left}-{right}", files[left], files[right]))
    return out


def _files(left: Path, right: Path, name: str, language: str) -> Bitext:
    lefts, rights = _lines(left), _lines(right)
    if len(lefts) != len(rights):
        raise InputError(
            f"{left} has {len(lefts)} lines, {right} has {len(rights)}: lines of the same number "
            "are pairs"
        )
    for number, (a, b) in enumerate(zip(lefts, rights, strict=True), 1):
        _text(a, f"{left}:{number}")
        _text(b, f"{right}:{number}")
    return Bitext(name, "bitext", language, tuple(lefts), tuple(rights))


def _text(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: an empty side of a pair")
    return text


def _lines(path: Path) -> list[str]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = raw.decode("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    except (EOFError, OSError) as error:
        raise InputError(f"{path}: not readable: {error}") from error
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path}: empty")
    return [line.rstrip("\r") for line in lines]
