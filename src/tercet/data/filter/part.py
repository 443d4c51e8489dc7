"""One part of the rows through the steps that look at a row at a time.

A part is a folder of what is kept and of what is needed to compare it with other parts:

    lines.jsonl     the rows, as they will be written
    rows.bin        for each of them ROW: where it came from, where its line is, its key
    band-NN.bin     for each of them a hash of 64 bits: rows that share one are candidates
    dropped.jsonl   what was dropped, if that is asked for, by place
    tally.json      what was counted

Memory does not grow with the number of rows. Knows nothing of other parts.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from tercet.curate.shards import BLOCK, NUMBER, Shard, file_digest, parts_folder
from tercet.data.filter.config import FilterConfig, Step
from tercet.data.filter.evaluation import evaluation_files, read_evaluation
from tercet.data.filter.items import Item, Objection, Tally, place_of, where
from tercet.data.filter.overlap import Overlap
from tercet.data.filter.shingles import bands_for, bands_of, key_of, minhash_version
from tercet.data.filter.steps import Judge, steps_of
from tercet.errors import InputError
from tercet.rows import Row, check_row, files_of, line_of, numbered_rows

LINES, ROWS, DROPPED, TALLY = "lines.jsonl", "rows.bin", "dropped.jsonl", "tally.json"
ROW = np.dtype([("place", "<i8"), ("start", "<i8"), ("size", "<i8"), ("key", "<u8")])


def band_name(band: int) -> str:
    """The file of a band."""
    return f"band-{band:02d}.bin"


def sources_of(config: FilterConfig) -> list[Path]:
    """The files of rows, in order; raises InputError where one is not there or is the result."""
    found = [path for source in config.sources for path in files_of(Path(source))]
    written = {os.path.abspath(config.target), os.path.abspath(config.dropped or config.target)}
    for path in found:
        if os.path.abspath(path) in written:
            raise InputError(f"{path} is read and would be written: give another --to")
    return found


def run_part(config: FilterConfig, shard: Shard, folder: Path) -> None:
    """Filters the rows of a part into an empty folder."""
    tally = Tally()
    files = [str(path) for path in sources_of(config)]
    overlap = _overlap(config) if config.has("evaluation") else None
    steps = steps_of(config, tally, overlap)
    with contextlib.closing(_Part(config, folder, tally, files)) as part:
        block: list[Item] = []
        for item in _items(files, shard, part):
            block.append(item)
            if len(block) == BLOCK:
                part.take(block, steps)
                block = []
        part.take(block, steps)
    facts: dict[str, Any] = tally.to_json()
    if config.has("near"):
        facts["minhash"] = minhash_version()
    (folder / TALLY).write_text(json.dumps(facts))


def _items(files: Sequence[str], shard: Shard, part: "_Part") -> Iterator[Item]:
    """The rows of a part; those that are none are handed to it."""
    for number, file in enumerate(files):

        def refuse(error: InputError, number: int = number, file: str = file) -> None:
            if shard.has(part.unit):
                line, _, reason = str(error).removeprefix(f"{file}:").partition(": ")
                part.refuse(place_of(number, int(line)), reason, None)

        for line, row in numbered_rows(Path(file), skip=refuse):
            mine = shard.has(part.unit)
            part.unit += 1
            if not mine:
                continue
            place = place_of(number, line)
            try:
                record = check_row(row, file)
            except InputError as error:
                part.refuse(place, str(error).removeprefix(f"{file}: "), row)
            else:
                texts = [record.query, *record.pos]
                yield Item(place, row, texts, f"{file}:{line}", record.lang)


class _Part:
    """The files of a part while they are written."""

    def __init__(
        self, config: FilterConfig, folder: Path, tally: Tally, files: Sequence[str]
    ) -> None:
        self.unit = 0  # rows met so far, those of other parts too
        self._tally, self._files = tally, files
        self._bands = bands_for(config.near) if config.has("near") else 0
        self._stack = contextlib.ExitStack()
        self._lines = self._open(folder / LINES)
        self._rows = self._open(folder / ROWS)
        self._band_files = [self._open(folder / band_name(band)) for band in range(self._bands)]
        self._dropped = self._open(folder / DROPPED) if config.dropped is not None else None
        self._at = 0
        # dropped rows of a block, by place: a step drops what an earlier one left standing
        self._waiting: list[tuple[int, bytes]] = []

    def _open(self, path: Path) -> IO[bytes]:
        return self._stack.enter_context(path.open("wb"))

    def close(self) -> None:
        """Closes the files."""
        self._flush()
        self._stack.close()

    def take(self, items: Sequence[Item], steps: Iterable[tuple[Step, Judge]]) -> None:
        """Puts a block of rows through the steps and writes what is left."""
        self._tally.rows += len(items)
        standing = list(items)
        for name, judge in steps:
            if standing:
                gone = self._apply(name, judge(standing))
                standing = [item for item in standing if item.place not in gone]
        self._keep(standing)
        self._flush()

    def refuse(self, place: int, reason: str, row: Row | None) -> None:
        """A line that holds no row."""
        self._tally.rows += 1
        tally = self._tally.step("fields")
        tally.rows += 1
        tally.example(place, reason, "" if row is None else json.dumps(row, default=str))
        self._tell("fields", place, reason, row)

    def _apply(self, name: Step, objections: Iterable[Objection]) -> set[int]:
        """The places of the rows that a step drops."""
        tally = self._tally.step(name)
        gone: set[int] = set()
        against: dict[int, list[Objection]] = {}
        for one in objections:
            against.setdefault(one.item.place, []).append(one)
        for place, found in sorted(against.items()):
            item = found[0].item
            taken = {one.at for one in found}
            if 0 in taken or taken.issuperset(item.left):
                first = next((one for one in found if one.at == 0), found[0])
                gone.add(place)
                tally.rows += 1
                row = item.finish()
                self._tell(name, place, first.reason, row)
            else:
                first = found[0]
                tally.positives += len(taken)
                row = {"query": item.texts[0], "pos": [item.texts[at] for at in sorted(taken)]}
                self._tell(name, place, first.reason, row, positives=True)
                item.left = [at for at in item.left if at not in taken]
            tally.groups.update([first.group] if first.group else [])
            tally.example(place, first.reason, item.texts[first.at])
        return gone

    def _keep(self, items: Sequence[Item]) -> None:
        if not items:
            return
        self._tally.kept += len(items)
        standing = [item.standing() for item in items]
        lines = [line_of(item.finish()) for item in items]
        rows = np.zeros(len(items), dtype=ROW)
        rows["place"] = [item.place for item in items]
        rows["size"] = [len(line) for line in lines]
        rows["start"] = self._at + np.cumsum(rows["size"]) - rows["size"]
        rows["key"] = np.array([key_of(texts) for texts in standing], dtype=np.uint64)
        self._lines.writelines(lines)
        self._at += int(rows["size"].sum())
        self._rows.write(rows.tobytes())
        if self._bands:
            columns = bands_of(standing, self._bands).T
            for file, column in zip(self._band_files, columns, strict=True):
                file.write(column.astype("<u8").tobytes())

    def _tell(
        self, step: str, place: int, reason: str, row: Row | None, *, positives: bool = False
    ) -> None:
        if self._dropped is None:
            return
        file, line = where(place, self._files)
        entry = dropped_entry(step, reason, file, line, row, positives=positives)
        self._waiting.append((place, line_of({NUMBER: place, **entry})))

    def _flush(self) -> None:
        if self._dropped is not None:
            self._waiting.sort(key=lambda entry: entry[0])
            self._dropped.writelines(line for _, line in self._waiting)
        self._waiting.clear()


def dropped_entry(
    step: str, reason: str, file: str, line: int, row: Row | None, *, positives: bool = False
) -> Row:
    """A line of the file of what was dropped; with positives, they alone left the row."""
    what = "positives" if positives else "row"
    entry: Row = {"step": step, "dropped": what, "reason": reason, "file": file, "line": line}
    return entry if row is None else {**entry, "row": row}


def _overlap(config: FilterConfig) -> Overlap:
    """The index of the evaluation sets, made once for all parts of this machine.

    It lies beside the parts, in a folder named for the bytes that it was made of.
    """
    sources = [Path(source) for source in config.against]
    read = {str(path): file_digest(path) for one in sources for path in evaluation_files(one)}
    shares = config.shares
    facts = [read, config.passages, shares.words, shares.characters]
    name = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    beside = parts_folder(Path(config.target))
    beside.mkdir(parents=True, exist_ok=True)
    folder = beside / f"evaluation-{name}"
    with (beside / f".{folder.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: several make the same
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _build_overlap(config, sources, folder)
    return Overlap(folder)


def _build_overlap(config: FilterConfig, sources: Sequence[Path], folder: Path) -> None:
    """Makes the index in a folder that appears whole."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        texts = (text for one in sources for text in read_evaluation(one, passages=config.passages))
        Overlap.build(texts, config.shares, scratch)
        scratch.chmod(0o755)  # a temporary folder is its owner's alone
        with contextlib.suppress(OSError):  # another part was quicker: what it made is the same
            os.rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
