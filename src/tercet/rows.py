"""Training rows, {"query", "pos", "neg", ...}: read from files of several kinds, checked, written.

JSON lines, plain or packed (.gz, .bz2, .xz, .zst), Parquet, and folders that Hugging Face datasets
saved; plain lines of text too, where only texts are wanted. Knows nothing of tokens or models.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError, MissingExtraError
from tercet.io import atomic_write, check_file, check_pointer, inner_path, name_of, read_json

Row = dict[str, Any]
NumberedRows = Iterator[tuple[int, Row]]

PACKED = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = (".jsonl", *(f".jsonl{packed}" for packed in PACKED), ".parquet")
LINES = (".txt", *(f".txt{packed}" for packed in PACKED))  # one text a line
LARGEST = 3.4028234663852886e38  # float32: scores are kept in it
SINGLE, LISTED = ("query", "title", "text"), ("pos", "neg")  # fields of a row that hold texts
TEXTS = ("text", "contents", "body")  # what a row of documents may call its text

LONGEST = "TERCET_LONGEST_LINE"  # names the MB of a line that are read, at most
_MB = 32  # where it is not set: 30 books
# What unpacks to so many bytes, and to so many times its size, is no text but made to fill memory
# or time; JSON lines seldom reach 30 times.
_UNPACKED, _TIMES = 1 << 27, 250
_WIDE = (
    codecs.BOM_UTF16_LE,
    codecs.BOM_UTF16_BE,
    codecs.BOM_UTF32_BE,
)  # UTF-32-LE begins as UTF-16
_CHUNK = 1 << 16  # bytes of a .zst file held unpacked
_PIECE = 1 << 10  # bytes of a .zst file unpacked at once: 4 of them may hold 128 KB
_BLOCK = 256  # rows of a table made Python objects at once
_STATE, _SPLITS = "state.json", "dataset_dict.json"  # as `save_to_disk` of datasets names them
_SPLIT = "train"  # the one that is read where there are several
# Between the two languages of parallel text; scripts and regions are capitals or digits: az-Latn-en
_SECOND = re.compile(r"-(?=[a-z])")


# Reading


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file; raises InputError naming file and line."""
    for _, row in numbered_rows(path):
        yield row


def numbered_rows(path: Path, *, skip: Callable[[InputError], None] | None = None) -> NumberedRows:
    """Yields every row with its line, from 1 and blank lines counted; rows are counted in tables.

    A line that is no JSON object raises InputError naming file and line or, given `skip`, is handed
    to it and passed over. A file that cannot be read, or ends too soon, raises in any case.
    """
    if path.is_dir() or path.suffix == ".parquet":
        yield from enumerate(_table_rows(path), 1)
        return
    for number, raw in raw_lines(path, "JSON lines"):
        try:
            line = raw.decode()
            row = json.loads(line) if line.strip() else None
            if not isinstance(row, dict | None):
                raise ValueError(f"expected a JSON object, got {line[:40]!r}")
        except (ValueError, RecursionError) as error:
            problem = InputError(f"{path}:{number}: {_reason(error)}")
            if skip is None:
                raise problem from error
            skip(problem)
        else:
            if row is not None:
                yield number, row


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file from 1, empty ones too; raises InputError naming file and line."""
    for number, raw in raw_lines(path, "lines of text"):
        try:
            yield number, raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: {_reason(error)}") from error


def raw_lines(path: Path, what: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, maybe packed, with their ends and counted from 1.

    Raises InputError, "FILE:LINE: REASON", where it cannot be read or a line is longer than LONGEST
    says.
    """
    check_file(path)
    most, number, unpacked = _longest(), 0, 0
    try:
        bound = math.inf
        if path.suffix.lower() in PACKED:
            bound = max(_UNPACKED, _TIMES * path.stat().st_size)
        with open_packed(path) as lines:
            for number, raw in enumerate(iter(lambda: lines.readline(most), b""), 1):
                unpacked += len(raw) + 32  # for the time that a line takes, however short
                if len(raw) == most:
                    raise InputError(
                        f"{path}:{number}: a line of more than {most >> 20} MB: break it up, or set"
                        f" {LONGEST} to the MB that a line may have"
                    )
                if unpacked > bound:
                    raise InputError(
                        f"{path}:{number}: unpacks to more than {_TIMES} times its size, as no text"
                        " does: unpack it first if it is one"
                    )
                if number == 1:
                    if raw.startswith(_WIDE) or b"\0" in raw[:4]:
                        raise InputError(
                            f"{path}: not UTF-8 but UTF-16 or UTF-32: convert it to UTF-8"
                        )
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                yield number, raw
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}:{number + 1}: not readable as {what}: {error}") from error


def _longest() -> int:
    """Bytes of a line that are read."""
    text = os.environ.get(LONGEST, str(_MB))
    if not text.isdecimal() or not 0 < int(text) < 1 << 20:
        raise InputError(f"{LONGEST} is a number of MB, such as {_MB}, not {text!r}")
    return int(text) << 20


def kind_of(path: Path | str) -> str:
    """The suffix that tells the format of a file: that before the one of its packing, if any.

    >>> kind_of("a.TXT"), kind_of("b.jsonl.gz"), kind_of("c.gz")
    ('.txt', '.jsonl', '')
    """
    name = Path(path)
    return (name.with_suffix("") if name.suffix.lower() in PACKED else name).suffix.lower()


def field_of(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of some fields that is not empty; raises InputError for lists and objects."""
    for name in names:
        if (value := row.get(name)) not in (None, ""):
            if isinstance(value, list | dict):
                raise InputError(f"'{name}' is a {type(value).__name__}, not a string")
            return str(value)
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} is not UTF-8; convert the file to UTF-8"
    if isinstance(error, json.JSONDecodeError):  # which counts lines from the start of this one
        return f"not readable as JSON lines: {error.msg} at column {error.colno}"
    return f"not readable as JSON lines: {error}"


def _table_rows(source: Path) -> Iterator[Row]:
    """Rows of a Parquet file or a saved dataset; a field without a value is left out."""
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading {source} needs pyarrow: pip install 'tercet[parquet]'"
        ) from error
    for path in parts_of(source):
        check_file(path)
        try:
            with pa.OSFile(str(path)) as file:
                if source.is_dir():
                    batches = ipc.open_stream(file)
                else:
                    batches = parquet.ParquetFile(file).iter_batches(batch_size=_BLOCK)
                for batch in batches:
                    for start in range(0, batch.num_rows, _BLOCK):
                        for row in _values(batch.slice(start, _BLOCK)):
                            yield {name: value for name, value in row.items() if value is not None}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a whole file of rows: {error}") from error
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error


def _values(batch: Any) -> list[Row]:
    """The rows of a table as Python objects; raises ValueError naming a column that has none."""
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError):  # a time before year 1 or after 9999, say
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            try:
                column.to_pylist()
            except (ValueError, OverflowError) as error:
                kind = f"column {name!r}, of {column.type}, has a value that Python cannot hold"
                raise ValueError(f"{kind} ({error}): write it as text, or leave it out") from error
        raise
    return rows


def is_dataset(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` of Hugging Face datasets writes."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def _dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved dataset, in order; of several splits those of "train"."""
    part = folder / _SPLIT if (folder / _SPLITS).is_file() else folder
    path = part / _STATE
    try:
        return [inner_path(part, entry["filename"]) for entry in read_json(path)["_data_files"]]
    except FileNotFoundError as error:
        where = folder if part == folder else f"{folder} has no split {_SPLIT!r}"
        raise InputError(
            f"{where}: no {_STATE} here: give a folder that datasets saved, of one split"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: names no '_data_files' ({error}): save the dataset again"
        ) from error


def open_packed(path: Path) -> io.BufferedIOBase:
    """Opens a file, plain or PACKED, for its unpacked bytes; InputError for a LFS pointer."""
    check_pointer(path)
    packing = path.suffix.lower()
    if packing == ".gz":
        return gzip.open(path)
    if packing == ".bz2":
        return bz2.open(path)
    if packing == ".xz":
        return lzma.open(path)
    if packing == ".zst":
        return io.BufferedReader(_Unpacked(path), _CHUNK)
    return path.open("rb")


class _Unpacked(io.RawIOBase):
    """The bytes in a .zst file, of all its frames; OSError or EOFError where one is not whole.

    zstandard's own reader takes a file that was cut for one that ends.
    """

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "reading .zst files needs zstandard: pip install 'tercet[zstd]'"
            ) from error
        self._error = zstandard.ZstdError
        # the largest window: files packed with `zstd --long` are read too
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._file = path.open("rb")
        self._chunks = self._unpack()
        self._ready = memoryview(b"")

    def _unpack(self) -> Iterator[bytes]:
        frame: Any = None
        packed = b""
        while packed := packed or self._file.read(_PIECE):
            frame = frame or self._unpacker.decompressobj()
            try:
                yield frame.decompress(packed)
            except self._error as error:
                raise OSError(str(error)) from error
            packed = b""
            if frame.eof:
                packed, frame = frame.unused_data, None
        if frame is not None:
            raise EOFError("the file ends in the middle of a frame")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._ready = memoryview(chunk)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


# Checking


@dataclass(frozen=True)
class Record:
    """A row whose fields are right; a raw text has no positives and stands in `query`."""

    query: str
    pos: tuple[str, ...] = ()
    neg: tuple[str, ...] = ()
    pos_scores: tuple[float, ...] | None = None  # of an outside teacher, one for each of pos
    neg_scores: tuple[float, ...] | None = None
    prompt: str | None = None  # put before the query; None: the run's prefix
    lang: str = ""  # a tag, or two of parallel text as in "de-en"
    source: str = ""
    group: int | None = None

    @property
    def raw(self) -> bool:
        """Whether the row is a text alone."""
        return not self.pos


def check_row(row: Row, where: str) -> Record:
    """The fields of a row that trains: {"query", "pos"} and more, or {"text"}.

    "neg" may be absent or empty; what has no meaning here is passed over. Raises InputError naming
    the field, `where` (file and line) before it.
    """
    raw = row.get("text") is not None and not any(
        row.get(name) is not None for name in ("query", "pos", "neg")
    )
    query = _string(row, "text" if raw else "query", where)
    if query is None:
        raise InputError(f'{where}: \'query\' is missing: a row needs "query" and "pos"')
    if not query.strip():
        raise InputError(f"{where}: '{'text' if raw else 'query'}' is empty")
    pos = () if raw else _texts(row, "pos", where)
    neg = () if raw else _texts(row, "neg", where)
    if not raw and not pos:
        raise InputError(f"{where}: 'pos' is {'missing' if row.get('pos') is None else 'empty'}")
    group = row.get("group")
    if group is not None and (
        isinstance(group, bool) or not isinstance(group, int) or not -(2**63) <= group < 2**63
    ):
        raise InputError(f"{where}: 'group' must be a whole number of 64 bits, got {group!r:.40}")
    return Record(
        query=query,
        pos=pos,
        neg=neg,
        pos_scores=None if raw else _scores(row, "pos", len(pos), where),
        neg_scores=None if raw else _scores(row, "neg", len(neg), where),
        prompt=_string(row, "prompt", where),
        lang=_string(row, "lang", where) or "",
        source=_string(row, "source", where) or "",
        group=group,
    )


def _string(row: Row, name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{where}: '{name}' must be a string, not {_kind(value)}")
    return value


def _list(
    row: Row, name: str, where: str, what: str, wrong: Callable[[Any], str | None]
) -> list[Any] | None:
    """A field that is a list, each entry of which `wrong` finds nothing wrong with."""
    values = row.get(name)
    if values is None:
        return None
    if not isinstance(values, list):
        raise InputError(f"{where}: '{name}' must be a list of {what}, not {_kind(values)}")
    for number, value in enumerate(values, 1):
        if (reason := wrong(value)) is not None:
            raise InputError(f"{where}: entry {number} of '{name}' is {reason}")
    return values


def _texts(row: Row, name: str, where: str) -> tuple[str, ...]:
    def wrong(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{_kind(value)}, not a string"
        return None if value.strip() else "empty: leave it out"

    return tuple(_list(row, name, where, "strings", wrong) or ())


def _scores(row: Row, of: str, count: int, where: str) -> tuple[float, ...] | None:
    def wrong(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{_kind(value)}, not a number"
        return None if -LARGEST <= value <= LARGEST else f"not finite: {value!r:.40}"  # nor is NaN

    scores = _list(row, f"{of}_scores", where, "numbers", wrong)
    if scores is None:
        return None
    if len(scores) != count:
        raise InputError(f"{where}: '{of}_scores' has {len(scores)} entries, '{of}' has {count}")
    return tuple(map(float, scores))


def _kind(value: Any) -> str:
    """What a JSON value is called."""
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list"}
    names |= {int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), f"a {type(value).__name__}")


# Files


def files_of(source: Path) -> list[Path]:
    """The files of rows in a folder (or the one given), sorted by name.

    A folder that Hugging Face datasets saved counts as one file.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if not source.is_dir() or is_dataset(source):
        return [source]
    files = sorted(
        path
        for path in source.glob("*")
        if is_dataset(path) or (path.name.endswith(SUFFIXES) and not path.is_dir())
    )
    if not files:
        raise InputError(f"{source}: no {', '.join(SUFFIXES)} file here")
    return files


def parts_of(path: Path) -> list[Path]:
    """The files on disk that hold the rows of one of `files_of`."""
    return _dataset_files(path) if path.is_dir() else [path]


def stem_of(path: Path) -> str:
    """The file's name without the suffix of its kind."""
    name = name_of(path)
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name if path.is_dir() else Path(name).stem


def passage_text(title: str, text: str) -> str:
    """Title, newline, text; the text alone where there is no title (docs/method.md, scores)."""
    return f"{title}\n{text}" if title else text


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Writes rows as JSON lines, see `write_lines`; returns their number."""
    return write_lines(path, map(line_of, rows))


def check_name(path: Path | str) -> None:
    """Raises InputError where rows would be written under the name of another kind of file."""
    if not str(path).endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: the result must end in .jsonl or .jsonl.gz")


def line_of(row: Row) -> bytes:
    """A row as a line of JSON; a lone surrogate becomes its escape."""
    text = json.dumps(row, ensure_ascii=False, default=str) + "\n"
    return text.encode("utf-8", "backslashreplace")


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Writes lines, packed where the name ends in .gz; returns their number.

    The file appears whole or not at all; the same lines give the same bytes.
    """
    count = 0
    with atomic_write(path) as file:
        for line in lines:
            file.write(line)
            count += 1
    return count


# Texts alone


def text_files(sources: Sequence[Path]) -> list[Path]:
    """The files given, with those of rows or of lines in the folders given.

    Raises InputError where there are none.
    """
    if not sources:
        raise InputError("no files of text were given")
    files: list[Path] = []
    for path in sources:
        lines = sorted(entry for entry in path.glob("*") if entry.name.endswith(LINES))
        files += lines
        if not lines or any(entry.name.endswith(SUFFIXES) for entry in path.glob("*")):
            files += files_of(path)
    return files


def tagged_texts(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(language, text) of every text of the files, "" for a language that is not told.

    Of a row whose "lang" names two, as pt-en or az-Latn-en, the query is in the first and all else
    in the second. Raises InputError naming file and line where a row has no text.
    """
    for path in files:
        if path.name.endswith(LINES):
            yield from (("", text.strip()) for _, text in text_lines(path) if text.strip())
            continue
        for number, row in numbered_rows(path):
            yield from ((tag, text) for _, tag, text in tagged_fields(row, f"{path}:{number}"))


def tagged_fields(row: Row, where: str) -> Iterator[tuple[str, str, str]]:
    """(field, language, text) of every text of a row; see `tagged_texts`."""
    tag = _string(row, "lang", where) or ""
    first, *others = _SECOND.split(tag, 1)
    second = others[0] if others else first
    count = 0
    for name in (*SINGLE, *LISTED):
        value = row.get(name)
        if value is None:
            continue
        for text in value if name in LISTED and isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise InputError(f"{where}: '{name}' holds {_kind(text)}, not a text")
            count += 1
            yield name, first if name == "query" else second, text
    if not count:
        raise InputError(
            f"{where}: a row needs a text in one of {', '.join((*SINGLE, *LISTED))};"
            f" this has {', '.join(row) or 'nothing'}"
        )
