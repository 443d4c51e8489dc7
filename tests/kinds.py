"""Writes the same rows as a file of every kind that is read."""

import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

KINDS = ("jsonl", "jsonl.gz", "jsonl.xz", "jsonl.zst", "parquet", "dataset", "splits")
TABLES = ("parquet", "dataset", "splits")


def write_as(kind: str, folder: Path, rows: Sequence[dict[str, Any]], name: str = "a") -> Path:
    """A file (or a folder as Hugging Face datasets saves it) of one of KINDS; its path."""
    path = folder / (name if kind in ("dataset", "splits") else f"{name}.{kind}")
    if kind == "parquet":
        pq.write_table(table_of(rows), path, row_group_size=3)
        return path
    if kind == "splits":
        path.mkdir()
        (path / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
        save_dataset(path / "test", [{"query": "wrong split", "pos": ["x"]}])
        save_dataset(path / "train", rows)
        return path
    if kind == "dataset":
        save_dataset(path, rows)
        return path
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "jsonl.gz":
        data = gzip.compress(data)
    elif kind == "jsonl.xz":
        data = lzma.compress(data)
    elif kind == "jsonl.zst":  # two frames, as appending to a file makes them
        half = data.index(b"\n") // 2
        data = b"".join(zstandard.compress(part) for part in (data[:half], data[half:]))
    path.write_bytes(data)
    return path


def save_dataset(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The layout of `save_to_disk` of datasets 5.2, in two files of small batches."""
    folder.mkdir()
    table = table_of(rows)
    half = (len(rows) + 1) // 2
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (table[:half], table[half:]), strict=True):
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(part, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A table with a column for every field that any row has."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
