"""Kills a process that indexes, again and again, and checks that nothing it reported is lost.

A child adds, updates and deletes documents without end and says what was reported to it; it is
killed (SIGKILL) at a random moment, opening and recovery included. Then the collection is opened
and compared with what was said: everything reported as added is there, in that version or a later
one, and is found by search; everything reported as removed is gone; the index holds the rows of
the documents that are there and nothing else. Meanwhile readers search without end, and one is
killed with every second child: none may fail, wait, or see a text of another version than it says.
Prints a summary as JSON; exits 1 on any difference.

    python benchmarks/crash.py                        50 kills, the bundled model, 2 readers
    python benchmarks/crash.py --encoder hashed       no model: minutes less, more steps per kill
"""

import argparse
import json
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import common
import numpy as np
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.collection.sync import BatchSize, Change, Encodes
from tercet.records import Document

# Children are forked from a process that has imported everything and done nothing.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["hashed", "tercet.collection"])
WORDS = "river mountain water light history music science people bread stone winter bird".split()
BATCH = 1 << 14  # bytes
SOON = 0.5  # s after opening begins: a third of the kills, so that recovery is hit too
ASKED = 25  # documents that are searched for after a kill; all of them at the end


def encoder_of(name: str) -> Encodes | None:
    """hashed, bundled (None: the collection loads it), or a folder or hub id."""
    if name == "hashed":
        return HashedEncoder()
    if name == "bundled":
        return None
    from tercet.encoder import Encoder

    return Encoder.load(name)


def document(number: int, version: int) -> Document:
    """A document of 20 to 150 words that no other number or version has."""
    draw = random.Random(f"{number} {version}")
    words = [draw.choice(WORDS) for _ in range(draw.choice([20, 40, 150]))]
    text = f"Number {number} of {version}. {' '.join(words)}."
    return Document(f"d{number}", text, metadata={"version": version})


def leaving(documents: int, version: int) -> list[str]:
    """The documents that are deleted at the end of a version: one in twenty."""
    return [f"d{number}" for number in range(documents) if number % 20 == version % 20]


def work(arguments: argparse.Namespace, path: Path, start: int, pipe: Connection) -> None:
    """The child: changes the collection until it is killed, and says what was reported."""

    def say(kind: str, id: str = "", version: int = 0) -> None:
        pipe.send((kind, id, version))  # written at once: it outlives the child

    encoder = encoder_of(arguments.encoder)
    say("opening")
    with Collection.open(path, encoder) as collection:
        collection.batch = BatchSize(bytes=BATCH)  # so that a few seconds see many batches
        for version in count(start):
            say("version", version=version)

            def report(change: Change, version: int = version) -> None:
                say(change.kind, change.id, version)

            numbers = list(range(arguments.documents))
            random.Random(version).shuffle(numbers)
            collection.add((document(number, version) for number in numbers), report=report)
            ids = leaving(arguments.documents, version)
            for id in ids:
                say("leaving", id, version)
            collection.delete(ids)
            for id in ids:
                say("removed", id, version)


def read(arguments: argparse.Namespace, path: Path, seed: int, pipe: Connection) -> None:
    """A reader: searches until it is killed, and says how long each search took, or what failed."""
    draw = random.Random(seed)
    try:
        with Collection.open(path, encoder_of(arguments.encoder), read_only=True) as collection:
            while True:
                query = f"Number {draw.randrange(arguments.documents)} {draw.choice(WORDS)}"
                started = time.perf_counter()
                [hits] = collection.search([query], k=10)
                if hits:
                    pipe.send(time.perf_counter() - started)
                for hit in hits:
                    version = int(str(hit.metadata["version"]))
                    if hit.text not in document(int(hit.id[1:]), version).text:
                        pipe.send(f"{hit.id} of version {version} has another's text")
    except BaseException as error:  # whatever it is, it is a fault
        pipe.send(repr(error))
        raise


class Readers:
    """Reader processes, and what they said."""

    def __init__(self, arguments: argparse.Namespace, path: Path) -> None:
        self.arguments, self.path = arguments, path
        self.seconds: list[float] = []
        self.faults: list[str] = []
        self.killed = 0
        self._running = [self._start(number) for number in range(arguments.readers)]

    def _start(self, seed: int) -> tuple[BaseProcess, threading.Thread]:
        ears, mouth = SERVER.Pipe(duplex=False)
        reader = SERVER.Process(target=read, args=(self.arguments, self.path, seed, mouth))
        reader.start()
        mouth.close()

        def listen() -> None:
            try:
                while True:
                    line = ears.recv()
                    (self.faults if isinstance(line, str) else self.seconds).append(line)
            except (EOFError, OSError):
                return

        listener = threading.Thread(target=listen)
        listener.start()
        return reader, listener

    def kill(self, number: int) -> None:
        """Kills a reader."""
        reader, listener = self._running[number]
        reader.kill()
        reader.join()
        listener.join()
        self.killed += 1

    def replace(self, number: int, seed: int) -> None:
        """Kills a reader and starts another one."""
        self.kill(number)
        self._running[number] = self._start(seed)


@dataclass
class Said:
    """What the children said, all together."""

    version: int = 0  # the last one begun
    there: dict[str, int] = field(default_factory=dict)  # id -> the last version reported
    gone: dict[str, int] = field(default_factory=dict)
    unsure: dict[str, int] = field(default_factory=dict)  # a deletion began, its end was not told
    reported: int = 0

    def hear(self, kind: str, id: str, version: int) -> None:
        """Takes a line of a child."""
        if kind == "version":
            self.version = version
        states = {"added": self.there, "updated": self.there, "leaving": self.unsure}
        states["removed"] = self.gone
        if kind in states:
            self.reported += states[kind] is self.there
            for state in states.values():
                state.pop(id, None)
            states[kind][id] = version


@dataclass
class Faults:
    """What should all be empty."""

    lost: list[str] = field(default_factory=list)
    phantoms: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)


def check(collection: Collection, said: Said, faults: Faults, asked: int | None) -> None:
    """Compares the collection with what was said; searches for some documents (None: for all)."""
    hits = collection.search(["any"], k=10**6, mode="dense", candidates=None)[0]
    stored = {hit.id: int(str(hit.metadata["version"])) for hit in hits}
    if len(stored) != len(hits) or len(stored) != len(collection):
        faults.phantoms.append(f"{len(collection)} documents, {len(hits)} hits")
    for id, version in said.there.items():
        if stored.get(id, -1) < version:
            faults.lost.append(f"{id}: reported in version {version}, is {stored.get(id)}")
    for id, version in said.gone.items():
        if id in stored and stored[id] <= version:  # a later one was added, but not reported yet
            faults.phantoms.append(f"{id}: removed in version {version}, is {stored[id]}")
    for id, version in stored.items():
        if version > said.version:
            faults.phantoms.append(f"{id}: version {version} was never added")
    with closing(
        sqlite3.connect(f"file:{collection.path}/documents.sqlite?mode=ro", uri=True)
    ) as db:
        rows = [
            row for (row,) in db.execute("SELECT row FROM chunks JOIN documents ON document = key")
        ]
    if not np.array_equal(np.sort(collection.index.ids()), np.array(sorted(rows), np.uint64)):
        faults.phantoms.append("the index does not hold the rows of the documents")
    asking = sorted(hits, key=lambda hit: hit.id)
    if asked is not None:
        asking = random.Random(said.reported).sample(asking, min(asked, len(asking)))
    for hit in asking:
        expected = document(int(hit.id[1:]), stored[hit.id])
        if hit.text not in expected.text:
            faults.phantoms.append(f"{hit.id}: has the text of another version")
        found = collection.search([hit.text], k=10)[0]
        if hit.id not in [other.id for other in found]:
            faults.not_found.append(f"{hit.id} in version {stored[hit.id]}")


def kill_once(arguments: argparse.Namespace, path: Path, draw: random.Random, said: Said) -> None:
    """Starts a child, kills it at a random moment, hears what it said."""
    ears, mouth = SERVER.Pipe(duplex=False)
    child = SERVER.Process(target=work, args=(arguments, path, said.version, mouth))
    child.start()
    mouth.close()
    soon = draw.random() < 1 / 3
    delay = draw.uniform(0, SOON if soon else arguments.span)
    begun = threading.Event()
    lines: list[tuple[str, str, int]] = []

    def listen() -> None:  # all the time: a full pipe would stop the child in its report
        try:
            while True:
                lines.append(ears.recv())
                if soon or lines[-1][0] in ("added", "updated"):
                    begun.set()
        except (EOFError, OSError):  # what was cut off half-way was not reported
            begun.set()

    listener = threading.Thread(target=listen)
    listener.start()
    begun.wait()
    time.sleep(delay)
    ended = not child.is_alive()
    child.kill()
    child.join()
    listener.join()
    for line in lines:
        said.hear(*line)
    if ended:
        raise SystemExit("a child ended by itself: see its message above")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Kills, checks, and the summary."""
    draw, said, faults = random.Random(arguments.seed), Said(), Faults()
    encoder = encoder_of(arguments.encoder)
    path = arguments.folder / "collection"
    Collection.open(path, encoder, chunk=64, backend=arguments.backend).close()
    started, checks = time.monotonic(), 0
    readers = Readers(arguments, path)
    for number in range(arguments.kills):
        kill_once(arguments, path, draw, said)
        if arguments.readers and number % 2:
            readers.replace(draw.randrange(arguments.readers), arguments.readers + number)
        if number % 2 or number == arguments.kills - 1:  # else the next child has to recover
            with Collection.open(path, encoder) as collection:
                asked = ASKED if number < arguments.kills - 1 else arguments.ask
                check(collection, said, faults, asked)
                encoder = collection.encoder
            checks += 1
            print(f"kill {number + 1}: {said.reported} reported", file=sys.stderr)
    for number in range(arguments.readers):
        readers.kill(number)
    kinds = vars(faults) | {"readers_failed": readers.faults}
    p50, p99 = np.percentile(readers.seconds or [0.0], [50, 99])
    return {
        "kills": arguments.kills,
        "readers_killed": readers.killed,
        "searches": len(readers.seconds),
        "search_ms": {"p50": round(1e3 * p50, 1), "p99": round(1e3 * p99, 1)},
        "checks": checks,
        "encoder": arguments.encoder,
        "backend": arguments.backend,
        "documents": arguments.documents,
        "versions": said.version + 1,
        "reported": said.reported,
        **{name: len(examples) for name, examples in kinds.items()},
        "examples": [example for examples in kinds.values() for example in examples[:5]],
        "seconds": round(time.monotonic() - started, 1),
    }


def parse(options: list[str] | None = None) -> argparse.Namespace:
    """The options, by default those of the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--readers", type=int, default=2, help="processes that search meanwhile")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--encoder", default="bundled", help="bundled, hashed, a folder or hub id")
    parser.add_argument("--backend", choices=("graph", "exact"), default="graph")
    parser.add_argument(
        "--span", type=float, default=3.0, help="s from a report to a kill, at most"
    )
    parser.add_argument("--ask", type=int, help="documents searched for at the end; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where; default: a temporary folder")
    return parser.parse_args(options)


def main() -> int:
    """Runs and prints the summary."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = arguments.folder or Path(folder)
        summary = run(arguments)
    print(json.dumps(summary, indent=1))
    common.save(arguments.json, summary)
    return int(bool(summary["examples"]))


if __name__ == "__main__":
    sys.exit(main())
