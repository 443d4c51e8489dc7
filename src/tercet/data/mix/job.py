"""The work of `tercet data mix`: rows of many sources to files by length, in random order.

Two passes. The parts read every row, check and measure it, and count; when all are there, quotas
follow from the counts, and the rows that are drawn are scattered to their files. Whatever is random
happens in the second pass, in the order of the rows, so the cut changes nothing. Memory holds
counts and one file. Source of the groups: method.md, "Efficient batching".
"""

import gzip
import heapq
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tercet.curate.shards import BLOCK, Shard
from tercet.data.mix.lengths import BOUNDS, Groups, Unit
from tercet.data.mix.plan import Cell, Plan, Tally
from tercet.data.mix.scatter import Scatter
from tercet.data.mix.sources import Source, check_sources
from tercet.errors import InputError
from tercet.io import atomic_folder
from tercet.rows import Record, Row, check_row, line_of, numbered_rows, parts_of, write_lines

ROWS, COUNTS, REPORT = "rows.gz", "counts.json", "mix.json"
_LINES = 40  # bits of a row's number that are its line; the others are its file
_BATCH = 512  # rows measured at once, or
_CHARACTERS = 1 << 20  # as many as these


@dataclass(frozen=True)
class Mix:
    """What `tercet data mix` was asked for."""

    name: ClassVar[str] = "mix"

    target: str  # folder
    sources: tuple[dict[str, Any], ...]  # each as `Source.to_json`
    rows: int | None = None  # of the mix; or
    epochs: float = 1.0
    alpha: float = 1.0  # languages are drawn with p proportional to n ** alpha
    cap: int | None = None  # rows of a language at most
    caps: dict[str, int] = field(default_factory=dict)  # of some languages, instead of `cap`
    repeats: int | None = None  # how often a row is drawn at most
    unit: Unit = "characters"
    lengths: tuple[int, ...] = ()  # upper bounds of the length groups; none: the paper's
    model: str | None = None  # whose tokens are counted
    revision: str | None = None
    file_mb: float = 64.0  # of a file, unpacked, about; so much memory is needed
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError where settings are wrong or do not fit each other."""
        check_sources(self.parsed)
        for name, least in (("rows", 1), ("cap", 1), ("repeats", 1), ("alpha", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        for name in ("epochs", "file_mb"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.alpha <= 1:
            raise InputError(
                f"alpha lies between 0 (all languages alike) and 1 (as they are), got {self.alpha}"
            )
        for language, cap in self.caps.items():
            if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0:
                raise InputError(f"caps: {language} = {cap!r} is no number of rows")
        if self.unit not in BOUNDS:
            raise InputError(f"unit {self.unit!r}: choose from {', '.join(BOUNDS)}")
        if self.unit == "tokens" and self.model is None:
            raise InputError("to count tokens, say of which model")
        _ = self.groups

    @property
    def parsed(self) -> list[Source]:
        """The sources."""
        return [Source.of(facts) for facts in self.sources]

    @property
    def groups(self) -> Groups:
        """The length groups."""
        return Groups(self.unit, tuple(self.lengths) or BOUNDS[self.unit])

    def inputs(self) -> list[Path]:
        """The files on disk."""
        return [part for _, path in self._files() for part in parts_of(path)]

    def check_target(self) -> None:
        """Raises InputError where the target exists, before time is spent on making it."""
        if Path(self.target).exists():
            raise InputError(f"{self.target} exists already: remove it or choose another folder")

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's rows, each with its number, cell and group, and counts them."""
        self.check_target()
        tally = Tally(len(self.groups.bounds))
        with gzip.open(folder / ROWS, "wb", compresslevel=1) as file:
            for number, cell, group, line, raw in self._measured(shard):
                at = tally.add(cell, group, len(line), raw)
                file.write(b"%d\t%d\t%d\t%b" % (number, at, group, line))
        (folder / COUNTS).write_text(json.dumps(tally.to_json()) + "\n")

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Draws the rows and writes the folder; returns the report."""
        self.check_target()
        target = Path(self.target)
        tallies = [Tally.of(json.loads((folder / COUNTS).read_text())) for folder in folders]
        total = Tally.sum(tallies, len(self.groups.bounds))
        if not total.cells:
            raise InputError("the sources hold no rows: there is nothing to mix")
        plan = Plan.of(self, total)
        with atomic_folder(target) as scratch:
            report = self._write(_in_order(folders, tallies, total), plan, scratch)
            (scratch / REPORT).write_text(
                json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
        return report

    def _files(self) -> list[tuple[int, Path]]:
        """Every file of rows with the number of its source."""
        return [(at, path) for at, source in enumerate(self.parsed) for path in source.paths()]

    def _measured(self, shard: Shard) -> Iterator[tuple[int, Cell, int, bytes, bool]]:
        """Number, cell, group and line of each row of a part; whether it is a raw text."""
        tokenizer = None
        if self.unit == "tokens":
            from tercet.checkpoint import fetch, read_tokenizer

            assert self.model is not None
            tokenizer, _ = read_tokenizer(fetch(self.model, self.revision))
        groups = self.groups
        for some in _batches(self._rows(shard)):
            found = groups.of([record for _, _, record, _ in some], tokenizer)
            for (number, source, record, row), group in zip(some, found, strict=True):
                yield number, (source, record.lang), group, line_of(row), record.raw

    def _rows(self, shard: Shard) -> Iterator[tuple[int, int, Record, Row]]:
        """Number, source, fields and whole of each row of a part; raises InputError as training."""
        for at, (source, path) in enumerate(self._files()):
            for line, row in numbered_rows(path):
                # blocks of a file begin with another part than those of the file before
                if shard.has(at * BLOCK + line - 1):
                    yield at << _LINES | line, source, check_row(row, f"{path}:{line}"), row

    def _write(
        self, rows: Iterable[tuple[int, int, bytes]], plan: Plan, folder: Path
    ) -> dict[str, Any]:
        """Draws, scatters, and writes the files; returns the report."""
        draw = random.Random(self.seed)
        left, needed = plan.counts.copy(), plan.once.copy()  # of each cell: rows to come, to draw
        scatter = Scatter(folder)
        drawn = np.zeros(len(plan.files), dtype=np.int64)
        for cell, group, line in rows:
            copies = int(plan.times[cell])
            # of what is left, each row has the same chance (Knuth, The Art of Computer
            # Programming 2, section 3.4.2, algorithm S)
            if draw.random() * left[cell] < needed[cell]:
                copies += 1
                needed[cell] -= 1
            left[cell] -= 1
            for _ in range(copies):
                scatter.add(group, int(plan.files[group]), draw.random(), line)
            drawn[group] += copies
        written: dict[int, list[tuple[str, int]]] = {}
        for group, lines in scatter.files():
            some = written.setdefault(group, [])
            name = f".{group}-{len(some)}.gz"  # how many there are is known at the end
            write_lines(folder / name, lines)
            some.append((name, len(lines)))
        names = []
        for group, some in written.items():
            for number, (name, count) in enumerate(some, 1):
                final = f"{self.groups.name(group)}.{number:04d}-of-{len(some):04d}.jsonl.gz"
                os.rename(folder / name, folder / final)
                names.append({"name": final, "rows": count})
        return plan.report(self, drawn.tolist(), names)


def _batches(
    rows: Iterable[tuple[int, int, Record, Row]],
) -> Iterator[list[tuple[int, int, Record, Row]]]:
    some: list[tuple[int, int, Record, Row]] = []
    characters = 0
    for row in rows:
        some.append(row)
        record = row[2]
        characters += sum(map(len, (record.query, *record.pos, *record.neg)))
        if len(some) == _BATCH or characters >= _CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _in_order(
    folders: Sequence[Path], tallies: Sequence[Tally], total: Tally
) -> Iterator[tuple[int, int, bytes]]:
    """Cell, group and line of the rows of all parts in the order of the whole."""
    streams = []
    for folder, tally in zip(folders, tallies, strict=True):
        numbers = [total.cells[cell] for cell in tally.cells]
        streams.append(_part(folder / ROWS, numbers))
    for _, cell, group, line in heapq.merge(*streams, key=lambda row: row[0]):
        yield cell, group, line


def _part(path: Path, cells: Sequence[int]) -> Iterator[tuple[int, int, int, bytes]]:
    with gzip.open(path) as file:
        for raw in file:
            number, cell, group, line = raw.split(b"\t", 3)
            yield int(number), cells[int(cell)], int(group), line
