"""Cuts a job into parts, makes them, and joins them; the result does not depend on the cut.

A part is a folder that appears whole or not at all, so that a run that was killed keeps the parts
that are whole. Parts are made by processes of this machine, by hand on several (`--shard 2/8`), or
as tasks of a Ray cluster over a folder that all its nodes see. Knows nothing of what the work is.
"""

import hashlib
import heapq
import json
import logging
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from tercet.config import Progress, cores
from tercet.errors import InputError, MissingExtraError, TercetError
from tercet.io import atomic_folder, read_json, write_json
from tercet.rows import Row, numbered_rows, write_rows

BLOCK = 256  # neighbouring units that stay together: reading them stays sequential
MANIFEST = "part.json"
NUMBER = "#"  # the field of a part's rows that holds their number in the whole
FREE = {"free": True}  # metadata of a field that changes how a job works, never what it makes
SUFFIX = ".parts"


class PartError(TercetError):
    """A part was lost with its process or node, or no cluster answers; whole parts are kept."""


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
        numbers = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if numbers is None:
            raise InputError(f"{text!r} is not a part such as 2/8")
        return Shard(int(numbers[1]), int(numbers[2]))

    @staticmethod
    def all(count: int) -> "list[Shard]":
        return [Shard(number, count) for number in range(1, count + 1)]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder(self) -> str:
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
T = TypeVar("T")


def parts_folder(target: Path) -> Path:
    """Where the parts of a target lie until they are joined."""
    return target.with_name(f"{target.name}{SUFFIX}")


def settings(job: Job) -> dict[str, Any]:
    """What all parts of a job must agree on: its command, options and the bytes of its inputs.

    The target is none of it: where a file is written does not change what is in it.
    """
    facts = {
        "command": job.name,
        "options": {name: getattr(job, name) for name in _option_names(type(job))},
        "inputs": {str(path): file_digest(path) for path in job.inputs()},
    }
    tree: dict[str, Any] = json.loads(json.dumps(facts, default=asdict))
    return tree


def _option_names(kind: type[Job]) -> list[str]:
    every = fields(kind)  # type: ignore[arg-type]
    return [f.name for f in every if not f.metadata.get("free") and f.name != "target"]


def file_digest(path: Path) -> str:
    """A hash of a file's bytes; raises InputError where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (seen from {Path.cwd()})") from error
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, *_: int) -> str:
    """Reads a file once in a process, as long as its size, time and inode stay as they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# Parts: made, checked, joined


def run_part(job: Job, shard: Shard, facts: dict[str, Any] | None = None) -> Path:
    """Makes one part, unless it is there already; returns its folder.

    facts: the job's `settings`, where they are known. Raises InputError where a part that is there
    was made with others.
    """
    facts = facts or settings(job)
    folder = parts_folder(Path(job.target)) / shard.folder
    if folder.is_dir():
        _check_same(folder, facts)
        return folder
    for other in sorted(folder.parent.glob(f"?????-of-{shard.count:05d}"))[:1]:
        _check_same(other, facts)  # what could not be joined is not begun
    try:
        with atomic_folder(folder) as scratch:
            job.part(shard, scratch)
            write_json(scratch / MANIFEST, {**facts, "files": _sizes(scratch)})
    except OSError:
        if not folder.is_dir():
            raise
        _check_same(folder, facts)  # another process made it meanwhile
    finally:
        with suppress(OSError):  # not empty, but where the first part of all failed
            folder.parent.rmdir()
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _manifest(folder: Path) -> dict[str, Any]:
    """What a part says of itself; raises InputError where it is not whole, as a copy may be."""
    try:
        facts: dict[str, Any] = dict(read_json(folder / MANIFEST))
    except (OSError, ValueError, TypeError):
        facts = {}
    if facts.get("files") != _sizes(folder):
        raise InputError(f"{folder} is not whole: remove it and make that part again")
    return facts


def _check_same(folder: Path, facts: dict[str, Any]) -> None:
    """Raises InputError where a part was made by another command, with other options or inputs."""
    made = _manifest(folder)
    for kind in ("command", "options", "inputs"):
        before, now = made[kind], facts[kind]
        if before == now:
            continue
        difference = f"{before}, now {now}"
        if kind != "command":
            name = next(n for n in {**before, **now} if before.get(n) != now.get(n))
            old, new = (json.dumps(tree.get(name), ensure_ascii=False) for tree in (before, now))
            difference = f"{name}: {old:.60}, now {new:.60}"
        raise InputError(
            f"{folder} was made with other {kind} ({difference}): remove {folder.parent} to start "
            f"anew, or give the {kind} of before"
        )


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
        names = sorted(path.name for path in folder.glob("?????-of-?????"))
        counts = sorted({int(name.partition("-of-")[2]) for name in names})
        if not counts:
            raise InputError(f"no parts of {target} in {folder}: make them with --shard")
        if len(counts) > 1:
            raise InputError(
                f"{folder} holds parts of different cuts, of {' and of '.join(map(str, counts))}: "
                "remove those of all cuts but one"
            )
        facts = _manifest(folder / names[0])
        return Parts(counts[0], facts["command"], facts["options"])

    def job(self, kind: type[AnyJob], target: Path) -> AnyJob:
        """The job that makes the target as these parts were made."""
        if odd := sorted(set(_option_names(kind)) ^ self.options.keys()):
            raise InputError(
                f"{parts_folder(target)} was made by another version of Tercet, which has other "
                f"options ({', '.join(odd)}): join the parts with that version"
            )
        options = {  # JSON has lists where a frozen dataclass has tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.options.items()
        }
        make: Callable[..., AnyJob] = kind
        return make(target=str(target), **options)


def merge(job: Job, count: int) -> dict[str, Any]:
    """Joins the parts 1 to `count` into the target and removes them; returns the report.

    Raises InputError where a part is missing or not whole, or was made with other settings or from
    other inputs.
    """
    parts, facts = parts_folder(Path(job.target)), settings(job)
    missing = [str(shard) for shard in Shard.all(count) if not (parts / shard.folder).is_dir()]
    if missing:
        raise InputError(
            f"{parts}: {len(missing)} of {count} parts are missing: {', '.join(missing):.80}: run "
            f"the command with --shard {missing[0]}"
        )
    folders = [parts / shard.folder for shard in Shard.all(count)]
    for folder in folders:
        _check_same(folder, facts)
    report = job.merge(folders)
    # the parts with their journals, what killed runs had begun, the evaluation index of a filter
    own = rf"\.?(\d{{5}}-of-{count:05d}|evaluation-).*"
    for part in list(parts.iterdir()):
        if re.fullmatch(own, part.name) and part.is_dir():
            shutil.rmtree(part)
        elif re.fullmatch(own, part.name):
            part.unlink()
    with suppress(OSError):  # what else lies there is not of these parts
        parts.rmdir()
    return report


def batches(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Neighbouring items of about this size together."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def by_count(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts for a report: the most first, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def write_part(path: Path, rows: Iterable[tuple[int, Row]]) -> int:
    """Writes numbered rows, ascending, into a part."""
    return write_rows(path, ({NUMBER: number, **row} for number, row in rows))


def part_rows(paths: Iterable[Path]) -> Iterator[tuple[int, Row]]:
    """The numbered rows of all parts in the order of the whole."""

    def of_part(path: Path) -> Iterator[tuple[int, Row]]:
        for _, row in numbered_rows(path):
            yield row.pop(NUMBER), row

    return heapq.merge(*map(of_part, paths), key=lambda pair: pair[0])


# Where parts are made


def run(
    job: Job,
    *,
    workers: int | None = None,
    ray: str | None = None,
    gpus: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Makes all parts and joins them here; returns the report. Parts that are there are kept.

    workers: processes of this machine, or parts on a cluster; None: one for each core. ray: the
    address of a cluster, as `ray.init` takes it, or `local` for one that is started here. gpus:
    parts on a cluster that has GPUs get one each, and are as many. Raises what a part raises, the
    others being stopped; PartError where one is lost; MissingExtraError without Ray.
    """
    if ray is not None:
        return merge(job, _run_on_ray(job, ray, workers, gpus, progress))
    count = workers or cores()
    if count == 1:
        run_part(job, Shard())
    else:
        _run_in_processes(job, count, progress)
    return merge(job, count)


def _run_in_processes(job: Job, count: int, progress: Progress | None) -> None:
    facts = settings(job)
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(
        count,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(max(1, cores() // count),),
    ) as pool:
        try:
            with _without_ctrl_c():
                parts = [pool.submit(_run_in_worker, job, s, facts) for s in Shard.all(count)]
            for done, part in enumerate(as_completed(parts), 1):
                part.result()
                if progress is not None:
                    progress(done, count)
        except BaseException as error:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise PartError(
                    "a process was ended from outside, perhaps for want of memory; whole parts are "
                    "kept: run the same again, with fewer --workers if need be"
                ) from error
            raise


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes started within do not get Ctrl-C, not even before they can say so; it waits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(threads: int) -> None:
    """Prepares a process before the job, and torch or tokenizers with it, is loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleans up
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _run_in_worker(job: Job, shard: Shard, facts: dict[str, Any]) -> None:
    try:
        run_part(job, shard, facts)
    except SystemExit as end:
        os._exit(int(end.code or 0))  # the pool would catch it and begin the next part


RETRIES = 5  # of a part whose worker or node died
CONNECT = 10.0  # seconds to wait for a cluster's answer
STORE = 80 << 20  # bytes of shared memory: results are names of folders, and Ray wants 75 MiB


def _run_on_ray(
    job: Job, address: str, parts: int | None, gpus: bool, progress: Progress | None
) -> int:
    """Makes all parts as tasks of a cluster; returns their number."""
    facts = settings(job)
    with _cluster(address, parts) as ray:
        resources = ray.cluster_resources()
        unit = "GPU" if gpus and resources.get("GPU", 0) >= 1 else "CPU"
        count = parts or max(1, int(resources.get(unit, 1)))
        task = ray.remote(_run_part_on_node).options(
            num_cpus=1, num_gpus=int(unit == "GPU"), max_retries=RETRIES, name=f"tercet {job.name}"
        )
        common = ray.put((job, facts, str(Path.cwd()), version("tercet")))
        waiting = [task.remote(common, shard) for shard in Shard.all(count)]
        while waiting:
            ready, waiting = ray.wait(waiting)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, TercetError | OSError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                raise PartError(
                    f"a part was lost {RETRIES + 1} times ({_one_line(error)}); whole parts are "
                    "kept: run the same again, with more parts if memory is short"
                ) from error
            if progress is not None:
                progress(count - len(waiting), count)
    return count


def _run_part_on_node(common: tuple[Job, dict[str, Any], str, str], shard: Shard) -> None:
    job, facts, folder, made_by = common
    if (here := version("tercet")) != made_by:
        raise InputError(f"a node of the cluster has Tercet {here}, and here is {made_by}")
    if not Path(folder).is_dir():
        raise InputError(f"a node of the cluster does not see {folder}: work where all nodes do")
    os.chdir(folder)  # paths may be relative to it
    run_part(job, shard, facts)


@contextmanager
def _cluster(address: str, parts: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster for the time of the block."""
    local = address == "local"
    environment = {  # Ray reads these when it is loaded; set by hand, another value stays
        "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told that it runs
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # nothing of the working folder is uploaded
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU hides none
    }
    if local and not {"RAY_AUTH_MODE", "ray"} & {*os.environ, *sys.modules}:
        # other users of this machine are kept out; a Ray that is loaded would not know the token
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise MissingExtraError("--ray needs Ray: pip install 'tercet[ray]'") from error
    options: dict[str, Any] = {"address": address}
    with ExitStack() as stack:
        if local:
            # sockets lie in it, so its name must be short
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="tercet-", dir="/tmp"))
            options |= {"num_cpus": parts or cores(), "include_dashboard": False}
            options |= {"object_store_memory": STORE, "_node_ip_address": "127.0.0.1"}
            options |= {"_temp_dir": short}
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # where nobody answers, Ray would try for minutes
                socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise PartError(f"no Ray cluster at {address}: {_one_line(error)}") from error
        stack.callback(ray.shutdown)
        yield ray


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
