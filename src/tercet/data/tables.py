"""Rows of Parquet files and of folders that Hugging Face datasets saved, with row numbers.

Reads with pyarrow alone, a few rows at a time. Knows nothing of what a row means.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tercet.errors import InputError, MissingExtraError

STATE, SPLITS = "state.json", "dataset_dict.json"  # as `save_to_disk` names them
SPLIT = "train"
_BLOCK = 256  # rows made Python objects at once

Rows = Iterator[tuple[int, dict[str, Any]]]


def parquet_rows(path: Path) -> Rows:
    """Rows of a Parquet file, counted from 1; raises InputError where it is not a whole one."""
    pa = _pyarrow("reading Parquet")
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield from _numbered(file.iter_batches(batch_size=_BLOCK))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole Parquet file: {error}") from error


def is_dataset(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` of Hugging Face datasets writes."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def dataset_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved dataset, in order; of several splits those of "train".

    Raises InputError where the folder is none, or has no such split.
    """
    if (folder / SPLITS).is_file():
        splits = _read_json(folder / SPLITS).get("splits")
        if not isinstance(splits, list) or SPLIT not in splits:
            raise InputError(
                f"{folder}: no split {SPLIT!r} in {SPLITS} ({splits}): give the folder of one split"
            )
        folder = folder / SPLIT
    if not (folder / STATE).is_file():
        raise InputError(f"{folder}: no {STATE} here: not a folder that datasets saved")
    listed = _read_json(folder / STATE).get("_data_files")
    if not isinstance(listed, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in listed
    ):
        raise InputError(f"{folder / STATE}: names no '_data_files': save the dataset again")
    return [folder / entry["filename"] for entry in listed]


def dataset_rows(folder: Path) -> Rows:
    """Rows of a saved dataset, counted from 1 over all its files."""
    pa = _pyarrow("reading a datasets folder")
    number = 0
    for path in dataset_files(folder):
        before = number
        try:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as batches:
                for number, row in _numbered(batches, after=before):
                    yield number, row
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file, but {STATE} names it") from error
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a whole Arrow stream: {error}") from error


def _numbered(batches: Any, *, after: int = 0) -> Rows:
    """Rows of Arrow batches as dictionaries; a field without a value is left out."""
    number = after
    for batch in batches:
        for start in range(0, batch.num_rows, _BLOCK):
            for row in batch.slice(start, _BLOCK).to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{what} needs pyarrow: pip install 'tercet[parquet]'") from error
    return pa


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path}: holds no JSON object")
    return facts
