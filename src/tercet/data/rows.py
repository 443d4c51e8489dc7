"""Training rows, {"query", "pos", "neg", ...} as JSON lines: read and written, errors with lines.

Knows nothing of tokens or models. Plain, .gz and .xz files.
"""

import contextlib
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tercet.errors import InputError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")


def open_text(path: Path) -> TextIO:
    """Opens a plain, .gz or .xz file as UTF-8 text."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the objects of a JSON-lines file; raises InputError naming file and line."""
    number = 0
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{path}:{number}: expected a JSON object, got {line[:40]!r}")
                yield row
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (
        json.JSONDecodeError,
        RecursionError,
        UnicodeDecodeError,
        EOFError,
        OSError,
        lzma.LZMAError,
    ) as error:
        raise InputError(f"{path}:{number}: not readable as JSON lines: {error}") from error


def pair_of(row: Row, where: str) -> tuple[str, list[str]]:
    """The query and the positives of a row; raises InputError where a field is missing or empty."""
    query, positives = row.get("query"), row.get("pos")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"{where}: a row needs a non-empty string in 'query'")
    if (
        not isinstance(positives, list)
        or not positives
        or not all(isinstance(text, str) and text.strip() for text in positives)
    ):
        raise InputError(f"{where}: a row needs a list of non-empty strings in 'pos'")
    return query, positives


def files_of(source: Path) -> list[Path]:
    """The JSON-lines files of a folder (or the one file given), sorted by name."""
    if source.is_file():
        return [source]
    found = sorted(path for path in source.glob("*") if path.name.endswith(SUFFIXES))
    if not found:
        raise InputError(f"{source}: no {', '.join(SUFFIXES)} file here")
    return found


def stem_of(path: Path) -> str:
    """The file's name without its JSON-lines suffix."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows as .jsonl.gz under a temporary name, then renames; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    count = 0
    try:
        # mtime 0 and no name in the header: the same rows give the same bytes.
        with (
            os.fdopen(handle, "wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=3, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8") as file,
        ):
            for row in rows:
                count += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
    return count
