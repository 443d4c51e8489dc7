"""Work cut into parts that run anywhere, then joined; the result does not depend on the cut.

A part is a folder of files that appears whole or not at all, so that a killed run goes on where it
stopped. Parts may be made by processes of this machine, by hand on several (`--shard 2/8`) or by a
cluster. Knows nothing of what the work is.
"""

import heapq
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tercet.data.rows import Row, numbered_rows, write_rows
from tercet.errors import InputError

BLOCK = 256  # neighbouring units that stay together: reading them stays sequential
MANIFEST = "part.json"


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, counted from 1."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"no part {self.number} of {self.count}: parts count from 1, as in 2/8"
            )

    @staticmethod
    def parse(text: str) -> "Shard":
        """`2/8` -> Shard(2, 8)."""
        number, slash, count = text.partition("/")
        if not (slash and number.strip().isdecimal() and count.strip().isdecimal()):
            raise InputError(f"{text!r} is not a part such as 2/8")
        return Shard(int(number), int(count))

    def has(self, unit: int) -> bool:
        """Whether a unit (a row, an article, a text), counted from 0, belongs to this part."""
        return unit // BLOCK % self.count == self.number - 1


class Job(Protocol):
    """Work that can be cut: a frozen dataclass whose fields are JSON values, paths as strings."""

    name: ClassVar[str]  # of the command
    target: str  # the file or folder that is made

    def inputs(self) -> list[Path]:
        """The files read; parts made from others of the same names are not joined."""

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's files into a folder that is empty."""

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the target from the folders of all parts in order; returns the report."""


def parts_folder(target: Path) -> Path:
    """Where the parts of a target lie until they are joined."""
    return target.with_name(f"{target.name}.parts")


def settings(job: Job) -> dict[str, Any]:
    """What all parts of a job must agree on."""
    options = {field.name: getattr(job, field.name) for field in fields(job)}  # type: ignore[arg-type]
    found = {str(path): path.stat().st_size for path in job.inputs()}
    tree: dict[str, Any] = json.loads(
        json.dumps({"command": job.name, "options": options, "bytes": found})
    )
    return tree


def run_part(job: Job, shard: Shard) -> Path:
    """Makes one part, unless it is there already; returns its folder."""
    folder = parts_folder(Path(job.target)) / f"{shard.number:05d}-of-{shard.count:05d}"
    wanted = settings(job)
    if folder.is_dir():
        _agree(folder, wanted)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        job.part(shard, scratch)
        (scratch / MANIFEST).write_text(json.dumps(wanted, indent=1) + "\n")
        scratch.chmod(0o755)
        os.rename(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def merge(job: Job, count: int) -> dict[str, Any]:
    """Joins the parts 1 to `count` into the target and removes them; returns the report.

    Raises InputError where a part is missing or was made with other settings.
    """
    target = Path(job.target)
    names = [f"{number:05d}-of-{count:05d}" for number in range(1, count + 1)]
    folders = [parts_folder(target) / name for name in names]
    if missing := [folder.name for folder in folders if not folder.is_dir()]:
        raise InputError(
            f"{parts_folder(target)}: {len(missing)} of {count} parts are missing, first "
            f"{missing[0]}: run them with --shard"
        )
    wanted = settings(job)
    for folder in folders:
        _agree(folder, wanted)
    report = job.merge(folders)
    shutil.rmtree(parts_folder(target))
    return report


def run(job: Job, *, workers: int | None = None) -> dict[str, Any]:
    """Makes all parts on this machine, one a worker, and joins them; returns the report."""
    count = workers or os.cpu_count() or 1
    if count == 1:
        run_part(job, Shard())
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            waiting = [
                pool.submit(run_part, job, Shard(number, count)) for number in range(1, count + 1)
            ]
            for one in waiting:
                one.result()
    return merge(job, count)


def _agree(folder: Path, wanted: dict[str, Any]) -> None:
    """Raises InputError where a part was made with other settings or from other files."""
    try:
        made = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is no part of a run: remove it") from error
    for key, value in wanted.items():
        if made.get(key) != value:
            where, now = made.get(key), value
            if isinstance(where, dict) and isinstance(now, dict):
                names = [name for name in now if where.get(name) != now[name]]
                key = f"{key} {names[0]}" if names else key
            raise InputError(
                f"{folder} was made with other settings ({key}): remove {folder.parent} to start "
                "anew, or give the settings of before"
            )


NUMBER = "#"  # the field of a part's rows that holds their number in the whole


def write_part(path: Path, rows: Iterable[tuple[int, Row]]) -> int:
    """Writes numbered rows, ascending, into a part."""
    return write_rows(path, ({NUMBER: number, **row} for number, row in rows))


def part_rows(paths: Iterable[Path]) -> Iterator[tuple[int, Row]]:
    """The numbered rows of all parts in the order of the whole; an absent file has none."""
    streams = [_rows(path) for path in paths if path.exists()]
    yield from heapq.merge(*streams, key=lambda pair: pair[0])


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    for _, row in numbered_rows(path):
        yield row.pop(NUMBER), row


Runner = Callable[[Job], dict[str, Any]]  # `run`, or the same on a cluster
