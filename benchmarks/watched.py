"""A command of Tercet's in processes of its own, its time and the memory of all of them together.

Shared pages are counted once; the memory is looked at five times a second. Linux only.
"""

import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a command said and used."""

    report: dict[str, Any]
    seconds: float
    processor: float  # seconds of all its processes: the others' load does not change it
    bytes: int


def watched(*arguments: str | Path) -> Run:
    """Runs `tercet ARGUMENTS --json` and reads the report."""
    command = [sys.executable, "-m", "tercet", *map(str, arguments), "--json"]
    begin, before = time.perf_counter(), _processor()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = TreePeak(process.pid)
        peak.start()
        out, _ = process.communicate()
        seconds = time.perf_counter() - begin
        most = peak.stop()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(json.loads(out), seconds, _processor() - before, most)


def _processor() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class TreePeak(threading.Thread):
    """The most memory that a process and its children have together."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.done = pid, 0, False

    def run(self) -> None:
        while not self.done:
            self.most = max(self.most, sum(map(_shared_once, _tree(self.pid))))
            time.sleep(0.2)

    def stop(self) -> int:
        """Ends it; the most bytes that were seen."""
        self.done = True
        self.join()
        return self.most


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _tree(int(child))
    except OSError:  # it has just ended
        return


def _shared_once(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line[:4] == "Pss:")
