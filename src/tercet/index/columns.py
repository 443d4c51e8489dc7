"""The files of a row store, and how vectors stand in them.

index.json, manifest.json, lock          what was asked for; what counts; who has it open
rows-000001/serials.bin, ids.bin         (N,) u64
rows-000001/dense.bin [dense_scales.bin] (N, D) float16, or int8 with (N,) float16 scales
rows-000001/terms.bin, term_weights.bin  int32 and float32, row n ending at term_ends.bin[n]
rows-000001/multi.bin [multi_scales.bin] (sum T, M), row n ending at multi_ends.bin[n]
rows-000001/payloads.jsonl               row n ending at byte payload_ends.bin[n]
rows-000001/dead.bin                     serials that do not count any more
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tercet.index.base import IndexSpec

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Column:
    """One file: (N,) or (N, width), or, with `ends`, a run of items per row."""

    dtype: str
    width: int | None = None
    ends: str = ""  # the column that says where each row's items end
    log: bool = False  # no row order at all


def columns_of(spec: IndexSpec) -> dict[str, Column]:
    """The files of an index, by name."""
    columns = {
        "serials.bin": Column("<u8"),
        "ids.bin": Column("<u8"),
        "payload_ends.bin": Column("<i8"),
        "payloads.jsonl": Column("u1", ends="payload_ends.bin"),
        "dead.bin": Column("<u8", log=True),
    }
    vectors = "i1" if spec.dtype == "int8" else "<f2"
    if spec.dense:
        columns["dense.bin"] = Column(vectors, spec.dense)
        if spec.dtype == "int8":
            columns["dense_scales.bin"] = Column("<f2")
    if spec.vocabulary:
        columns["term_ends.bin"] = Column("<i8")
        columns["terms.bin"] = Column("<i4", ends="term_ends.bin")
        columns["term_weights.bin"] = Column("<f4", ends="term_ends.bin")
    if spec.multi:
        columns["multi_ends.bin"] = Column("<i8")
        columns["multi.bin"] = Column(vectors, spec.multi, ends="multi_ends.bin")
        if spec.dtype == "int8":
            columns["multi_scales.bin"] = Column("<f2", ends="multi_ends.bin")
    return columns


def quantize(matrix: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """(n, D) as int8 codes with one float16 scale a row: its largest value over 127, rounded up."""
    largest = np.abs(matrix).max(axis=1).astype(np.float32) / 127
    scales = largest.astype(np.float16)
    scales = np.where(scales < largest, np.nextafter(scales, np.float16(np.inf)), scales)
    scales = np.where(scales == 0, np.float16(1), scales).astype(np.float16)
    codes = np.rint(matrix.astype(np.float32) / scales.astype(np.float32)[:, None])
    return codes.astype(np.int8), scales


def dequantize(codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float16]) -> Floats:
    """(n, D) float32 of int8 codes and their rows' scales."""
    values = torch.from_numpy(np.ascontiguousarray(codes)).float()
    values *= torch.from_numpy(np.ascontiguousarray(scales)).float()[:, None]
    return values.numpy()
