"""How long does a search take in four processes while another process adds 100,000 chunks?

Each reader asks a question every 50 ms and notes how long the answer took: first with nothing
else going on; then beside a process that only computes, which shows what sharing the cores costs;
then beside a writer that adds documents in its usual batches, commits them and builds graphs.
Readers see each commit. Words are hashed to vectors, so that the index is measured and no model.

    python benchmarks/readers.py                         20,000 documents, then 100,000 more
    python benchmarks/readers.py --start 2000 --add 5000
"""

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import common
import numpy as np
from hashed import HashedEncoder

from tercet.collection import Collection
from tercet.records import Document

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hashed", "tercet.collection"])
PAUSE = 0.05  # s between two questions of a reader
Sample = tuple[float, float, int]  # when, seconds, documents that the reader saw


def documents(first: int, count: int) -> Iterator[Document]:
    """Documents of 30 to 60 words of 20,000, by Zipf's law."""
    for number in range(first, first + count):
        draw = random.Random(number)
        words = [f"w{int(20_000 ** draw.random())}" for _ in range(draw.randrange(30, 60))]
        yield Document(f"d{number}", " ".join(words))


def read(path: Path, seed: int, ready: Any, stop: Event, samples: Any) -> None:
    """Asks until told to stop, then hands over its samples."""
    draw = random.Random(seed)
    out: list[Sample] = []
    with Collection.open(path, HashedEncoder(), read_only=True) as collection:
        collection.search(["w1"])
        ready.wait()
        while not stop.is_set():
            question = " ".join(f"w{int(20_000 ** draw.random())}" for _ in range(6))
            started = time.perf_counter()
            collection.search([question], k=10)
            out.append((time.time(), time.perf_counter() - started, len(collection)))
            time.sleep(PAUSE)
    samples.put(out)


def compute(stop: Event) -> None:
    """Takes a core."""
    while not stop.is_set():
        sum(range(100_000))


def write(path: Path, first: int, count: int) -> None:
    """Adds documents as `tercet index` does."""
    with Collection.open(path, HashedEncoder()) as collection:
        collection.add(documents(first, count))


def measured(arguments: argparse.Namespace, path: Path, beside: str) -> dict[str, Any]:
    """Searches of all readers beside nothing, a computing process, or a writer."""
    ready, stop = CONTEXT.Barrier(arguments.readers + 1), CONTEXT.Event()
    samples = CONTEXT.Queue()
    for seed in range(arguments.readers):
        CONTEXT.Process(target=read, args=(path, seed, ready, stop, samples), daemon=True).start()
    ready.wait()
    started = time.perf_counter()
    if beside == "writer":
        work = CONTEXT.Process(target=write, args=(path, arguments.start, arguments.add))
        work.start()
        work.join()
        if work.exitcode:
            raise SystemExit("the writer failed: see its message above")
    elif beside == "computing":
        CONTEXT.Process(target=compute, args=(stop,), daemon=True).start()
        time.sleep(arguments.seconds)
    else:
        time.sleep(arguments.seconds)
    seconds = time.perf_counter() - started
    stop.set()
    searches = [sample for _ in range(arguments.readers) for sample in samples.get()]
    times = 1e3 * np.array([sample[1] for sample in searches])
    return {
        "beside": beside,
        "seconds": round(seconds, 1),
        "searches": len(times),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p99_ms": round(float(np.percentile(times, 99)), 1),
        "max_ms": round(float(times.max()), 1),
        "states_seen": len({sample[2] for sample in searches}),
    }


def main() -> None:
    """Measures and prints a table."""
    parser = common.parser(__doc__)
    parser.add_argument("--start", type=int, default=20_000, help="documents before")
    parser.add_argument("--add", type=int, default=100_000)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the runs without a writer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection"
        with Collection.open(path, HashedEncoder()) as collection:
            collection.add(documents(0, arguments.start))
        rows = [measured(arguments, path, kind) for kind in ("nothing", "computing", "writer")]
        rows.append(measured(arguments, path, "nothing") | {"beside": "nothing, afterwards"})
    print(
        f"{arguments.readers} readers; {arguments.start:,} documents, then {arguments.add:,} more\n"
    )
    print("| beside | seconds | searches | p50 ms | p99 ms | longest ms | states seen |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    common.save(arguments.json, {"rows": rows})


if __name__ == "__main__":
    main()
