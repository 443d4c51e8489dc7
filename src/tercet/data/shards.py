"""Work cut into parts that run anywhere, then joined; the result does not depend on the cut.

A part is a folder of files that appears whole or not at all, so that a killed run goes on where it
stopped. Parts may be made by processes of this machine, by hand on several (`--shard 2/8`) or by a
cluster. Knows nothing of what the work is.
"""

import hashlib
import heapq
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from tercet.errors import InputError
from tercet.rows import Row, numbered_rows, write_rows

BLOCK = 256  # neighbouring units that stay together: reading them stays sequential
MANIFEST = "part.json"
FREE = {"free": True}  # metadata of a field that changes how a job works, never what it makes
SUFFIX = ".parts"

Show = Callable[[int, int], None]  # parts that are made, and all


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

    @staticmethod
    def all(count: int) -> "list[Shard]":
        """The parts of a cut into so many."""
        return [Shard(number, count) for number in range(1, count + 1)]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
        """What its folder is called."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def has(self, unit: int) -> bool:
        """Whether a unit (a row, an article, a text), counted from 0, belongs to this part."""
        return unit // BLOCK % self.count == self.number - 1


class Job(Protocol):
    """Work that can be cut: a frozen dataclass whose fields are JSON values, paths as strings.

    Fields marked FREE may be anything, and differ between the parts of a target.
    """

    name: ClassVar[str]  # of the command

    @property
    def target(self) -> str:
        """The file or folder that is made."""

    def inputs(self) -> list[Path]:
        """The files read; parts made from others of the same names are not joined."""

    def part(self, shard: Shard, folder: Path) -> None:
        """Writes the part's files into a folder that is empty."""

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Writes the target from the folders of all parts in order; returns the report."""


AnyJob = TypeVar("AnyJob", bound=Job)


def parts_folder(target: Path) -> Path:
    """Where the parts of a target lie until they are joined."""
    return target.with_name(f"{target.name}{SUFFIX}")


def settings(job: Job) -> dict[str, Any]:
    """What all parts of a job must agree on: its command, options and the bytes of its inputs.

    The target is none of it: where a file is written does not change what is in it.
    """
    options = {name: getattr(job, name) for name in _compared(type(job))}
    found = {str(path): file_digest(path) for path in job.inputs()}
    tree: dict[str, Any] = json.loads(
        json.dumps({"command": job.name, "options": options, "inputs": found})
    )
    return tree


def _compared(kind: type[Job]) -> list[str]:
    """The fields of a job that parts must agree on."""
    every = fields(kind)  # type: ignore[arg-type]
    return [one.name for one in every if not one.metadata.get("free") and one.name != "target"]


def file_digest(path: Path) -> str:
    """A hash of a file's bytes; raises InputError where there is none."""
    try:
        stat = path.stat()
        return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (seen from {Path.cwd()})") from error


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, size: int, changed: int, inode: int) -> str:
    """A hash of a file's bytes, read once in a process while the file stays as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def run_part(job: Job, shard: Shard, wanted: dict[str, Any] | None = None) -> Path:
    """Makes one part, unless it is there already; returns its folder.

    wanted: the job's `settings`, where they are known. Raises InputError where the part that is
    there was made with others.
    """
    wanted = settings(job) if wanted is None else wanted
    folder = parts_folder(Path(job.target)) / shard.folder
    if folder.is_dir():
        _agree(folder, wanted)
        return folder
    for other in folder.parent.glob(f"?????-of-{shard.count:05d}"):
        _agree(other, wanted)  # what could not be joined is not begun
        break
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    scratch = Path(
        tempfile.mkdtemp(prefix=f"{_scratch_name(folder)}{os.getpid()}.", dir=folder.parent)
    )
    try:
        job.part(shard, scratch)
        _write_manifest(scratch, wanted)
        scratch.chmod(0o755)
        try:
            os.rename(scratch, folder)
        except OSError:
            if not folder.is_dir():
                raise
            _agree(folder, wanted)  # another process made it meanwhile, and the same
            shutil.rmtree(scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # where there are other parts
            folder.parent.rmdir()
        raise
    return folder


def _scratch_name(folder: Path) -> str:
    """How the folders begin in which this machine makes a part; the process follows."""
    boot = Path("/proc/sys/kernel/random/boot_id")  # two machines may have one name
    machine = f"{socket.gethostname()}-{boot.read_text()[:8] if boot.exists() else ''}"
    return f".{folder.name}.{machine}."


def _sweep(folder: Path) -> None:
    """Removes what processes of this machine that were killed left of a part."""
    start = _scratch_name(folder)
    for left in folder.parent.glob(f"{start}*"):
        maker = left.name.removeprefix(start).partition(".")[0]
        try:
            os.kill(int(maker), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def _write_manifest(folder: Path, wanted: dict[str, Any]) -> None:
    """The last file of a part: what it was made with, and how large its files are."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    facts = {**wanted, "files": files}
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")


def _manifest(folder: Path) -> dict[str, Any]:
    """What a part says of itself; raises InputError where it is not whole."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        sizes, _ = dict(facts["files"]), dict(facts["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no whole part: remove it and make it again") from error
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            what = "is torn" if path.is_file() else "is missing"
            raise InputError(f"{path} {what}: remove {folder} and make that part again")
    return facts


def _agree(folder: Path, wanted: dict[str, Any]) -> None:
    """Raises InputError where a part was made with other settings or from other files."""
    made = _manifest(folder)
    if made["command"] != wanted["command"]:
        raise InputError(
            f"{folder} was made by another command ({made['command']}): remove {folder.parent}, or "
            "choose another target"
        )
    for name, value in wanted["options"].items():
        if (before := made["options"].get(name)) != value:
            raise InputError(
                f"{folder} was made with other settings ({name}: {_short(before)}, now "
                f"{_short(value)}): remove {folder.parent} to start anew, or give the settings of "
                "before"
            )
    if made["inputs"] != wanted["inputs"]:
        names = {**made["inputs"], **wanted["inputs"]}
        other = [n for n in names if made["inputs"].get(n) != wanted["inputs"].get(n)]
        raise InputError(
            f"{folder} was made from other inputs: {other[0]} {_change(other[0], made, wanted)}: "
            f"remove {folder.parent} to start anew, or bring the file back"
        )


def _change(name: str, made: dict[str, Any], wanted: dict[str, Any]) -> str:
    if name not in made["inputs"]:
        return "is new"
    return "has changed since" if name in wanted["inputs"] else "is gone"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


@dataclass(frozen=True)
class Parts:
    """Parts of a target that somebody made: their number in all, and what the first one says."""

    count: int
    command: str
    options: dict[str, Any]

    @staticmethod
    def find(target: Path) -> "Parts":
        """Raises InputError where there are none, of different cuts, or one is not whole."""
        folder = parts_folder(target)
        names = sorted(path.name for path in folder.glob("?????-of-?????") if path.is_dir())
        if not names:
            raise InputError(
                f"no parts of {target}: {folder} {'holds none' if folder.is_dir() else 'is absent'}"
                "; make them with --shard"
            )
        counts = sorted({name.partition("-of-")[2] for name in names})
        if len(counts) > 1:
            cuts = " and ".join(f"{sum(n.endswith(c) for n in names)} of {int(c)}" for c in counts)
            raise InputError(
                f"{folder} holds parts of different cuts: {cuts}: remove those of all cuts but one"
            )
        facts = _manifest(folder / names[0])
        return Parts(int(counts[0]), facts["command"], facts["options"])

    def job(self, kind: type[AnyJob], target: Path) -> AnyJob:
        """The job that makes the target as these parts were made."""
        names = set(_compared(kind))
        if names != self.options.keys():
            odd = sorted(names ^ self.options.keys())
            raise InputError(
                f"{parts_folder(target)} was made by another version of Tercet, which has other "
                f"settings ({', '.join(odd)}): join the parts with that version"
            )
        options = {name: _as_tuple(value) for name, value in self.options.items()}
        made: Callable[..., AnyJob] = kind
        return made(target=str(target), **options)


def _as_tuple(value: Any) -> Any:
    """JSON has lists where a frozen dataclass has tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def merge(job: Job, count: int) -> dict[str, Any]:
    """Joins the parts 1 to `count` into the target and removes them; returns the report.

    Raises InputError where a part is missing or not whole, or was made with other settings or from
    other inputs.
    """
    target = Path(job.target)
    folders = [parts_folder(target) / shard.folder for shard in Shard.all(count)]
    if missing := [
        shard for shard, at in zip(Shard.all(count), folders, strict=True) if not at.is_dir()
    ]:
        named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise InputError(
            f"{parts_folder(target)}: {len(missing)} of {count} parts are missing: {named}: run "
            f"the command with --shard {missing[0]}"
        )
    wanted = settings(job)
    for folder in folders:
        _agree(folder, wanted)
    report = job.merge(folders)
    shutil.rmtree(parts_folder(target))
    return report


def run(job: Job, *, workers: int | None = None, show: Show | None = None) -> dict[str, Any]:
    """Makes all parts on this machine, one a process, and joins them; returns the report.

    workers: processes; None: one for each core that this one may use. Parts that are there are not
    made again. Raises what a part raises, the others being stopped.
    """
    count = workers or cores()
    if count == 1:
        run_part(job, Shard())
    else:
        from tercet.data.processes import run_parts

        run_parts(job, count, settings(job), show)
    return merge(job, count)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
