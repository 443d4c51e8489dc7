"""Readers of files that are many documents, one a row: JSON lines, CSV, TSV, Parquet.

A row names its text (text, contents or body), id, title and language; its other plain values are
metadata. Rows are streamed. Knows nothing of chunks or indexes.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tercet.documents.base import Problem, Read, Unreadable, clean, clean_line, scalar, undecodable
from tercet.errors import MissingExtraError
from tercet.records import Document, Scalar

TEXT, ID, TITLE = ("text", "contents", "body"), ("id", "_id"), ("title",)
LANGUAGE = ("language", "lang")
LONGEST_VALUE = 1024  # characters of a metadata string
_FIELDS = (*TEXT, *ID, *TITLE, *LANGUAGE)


def read_jsonl(path: Path, label: str) -> Read:
    """JSON lines, an object a line; a line that is none is a Problem, the next ones are read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            source = f"{label}:{number}"
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                yield Problem(source, undecodable(error))
            except (ValueError, RecursionError) as error:
                yield Problem(source, f"not a line of JSON: {error}")
            else:
                if isinstance(row, dict):
                    yield from document_of(row, label, number)
                else:
                    kind = type(row).__name__
                    yield Problem(source, f"a JSON object was expected, this is a {kind}")


def read_csv(path: Path, label: str) -> Read:
    """Comma-separated values under a header line."""
    yield from _separated(path, label, ",")


def read_tsv(path: Path, label: str) -> Read:
    """Tab-separated values under a header line."""
    yield from _separated(path, label, "\t")


def _separated(path: Path, label: str, delimiter: str) -> Read:
    csv.field_size_limit(sys.maxsize)  # the default refuses fields above 128 KB
    with path.open("rb") as file:
        rows = csv.reader(_decoded_lines(file, label), delimiter=delimiter, strict=True)
        try:
            header = [clean_line(name).lower() for name in next(rows, [])]
            _check_columns(header, label)
            for row in rows:
                if len(row) > len(header):
                    source = f"{label}:{rows.line_num}"
                    yield Problem(source, f"{len(row)} fields where the header names {len(header)}")
                elif any(row):
                    yield from document_of(
                        dict(zip(header, row, strict=False)), label, rows.line_num
                    )
        except csv.Error as error:
            source = f"{label}:{rows.line_num}"
            raise Unreadable(source, f"not separated values: {error}") from error


def _decoded_lines(file: IO[bytes], label: str) -> Iterator[str]:
    """The lines of a UTF-8 file; raises Unreadable with the number of one that is not."""
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Unreadable(f"{label}:{number}", undecodable(error)) from error


def _check_columns(names: list[str], label: str) -> None:
    if not any(name in names for name in TEXT):
        found = ", ".join(name or '""' for name in names[:20]) or "none"
        raise Unreadable(label, f"no column named {', '.join(TEXT)}: the columns are {found}")


def read_parquet(path: Path, label: str) -> Read:
    """A Parquet file, read in batches of rows; needs the extra `tercet[parquet]`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "reading Parquet needs pyarrow: pip install 'tercet[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            fields = [field for field in file.schema_arrow if not pa.types.is_nested(field.type)]
            columns = [field.name for field in fields if not pa.types.is_binary(field.type)]
            _check_columns([name.lower() for name in columns], label)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    lowered = {clean_line(name).lower(): value for name, value in row.items()}
                    yield from document_of(lowered, label, number)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(label, f"not a whole Parquet file: {error}") from error


def document_of(row: Mapping[str, Any], label: str, number: int) -> Read:
    """The document that a row holds, or the Problem with it.

    Without an id of its own it is named after its place, as in "file.csv#12".
    """
    source = f"{label}:{number}"
    text = _first(row, TEXT)
    title = _first(row, TITLE)
    language = _first(row, LANGUAGE)
    name = _first(row, ID)
    for what, value in (("text", text), ("title", title), ("language", language), ("id", name)):
        if isinstance(value, list | dict):
            yield Problem(source, f"the {what} is a {type(value).__name__}, not a string")
            return
    if text is None and not any(key in row for key in TEXT):
        yield Problem(source, f"no field named {', '.join(TEXT)}")
        return
    own = clean_line(_string(name))
    yield Document(
        id=own or f"{label}#{number}",
        text=clean(_string(text)).strip(),
        title=clean_line(_string(title)),
        source=f"{label}#{number}",
        language=clean_line(_string(language)) or None,
        metadata=_metadata(row),
    )


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of the names that has one."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _string(value: Any) -> str:
    return "" if value is None else str(value)


def _metadata(row: Mapping[str, Any]) -> dict[str, Scalar]:
    """The plain values of the row that are no field of the document; dates as text.

    Strings too long to filter by are left out.
    """
    out: dict[str, Scalar] = {}
    for key, value in row.items():
        if key in _FIELDS or value is None:
            continue
        if hasattr(value, "isoformat"):
            value = value.isoformat()
        kept = scalar(value)
        if kept in (None, "") or (isinstance(kept, str) and len(kept) > LONGEST_VALUE):
            continue
        if kept is not None and (name := clean_line(key)):
            out[name] = kept
    return out
