"""What the scripts share: their options, processes of their own, and the memory of processes.

Uses the standard library alone: it runs in the peers' environment too. Memory needs Linux.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers/bin/python"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of a script, which its module's docstring describes; `--json` is one."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, help="write the figures here")
    return made


def save(path: Path | None, report: Any) -> None:
    """Writes the figures where `--json` says, if it does."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")


def answer_of(
    script: str, *arguments: Any, python: str | Path = sys.executable, **environment: str
) -> Any:
    """The JSON in the last line that a script prints in a process of its own."""
    done = subprocess.run(
        [str(python), script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    if done.returncode:
        sys.exit(f"{Path(script).name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def train_command(stage: str, options: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """`tercet train STAGE` with options and `--set` settings."""
    command = [sys.executable, "-m", "tercet", "train", stage]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    return command


# Memory


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak(threading.Thread):
    """The most memory in a while: of this process, looked at 500 times a second."""

    def __init__(self, size: Callable[[], int] = resident, every: float = 0.002) -> None:
        super().__init__(daemon=True)
        self.size, self.every = size, every
        self.most, self.done = 0, False

    def run(self) -> None:
        while not self.done:
            self.most = max(self.most, self.size())
            time.sleep(self.every)

    def stop(self) -> int:
        """Ends it; the most bytes that were seen."""
        self.done = True
        self.join()
        return self.most


@dataclass(frozen=True)
class Run:
    """What a command said and used."""

    report: dict[str, Any]
    seconds: float
    processor: float  # seconds of all its processes: the others' load does not change it
    bytes: int


def watched(*arguments: Any) -> Run:
    """Runs `tercet ARGUMENTS --json`; the memory is that of all its processes together."""
    command = [sys.executable, "-m", "tercet", *map(str, arguments), "--json"]
    begin, before = time.perf_counter(), _processor()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(lambda: sum(map(_shared_once, tree(process.pid))), 0.2)
        peak.start()
        out, _ = process.communicate()
        seconds = time.perf_counter() - begin
        most = peak.stop()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return Run(json.loads(out), seconds, _processor() - before, most)


def _processor() -> float:
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from tree(int(child))
    except OSError:  # it has just ended
        return


def _shared_once(pid: int) -> int:
    """Bytes of a process, pages that it shares with others in parts."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line[:4] == "Pss:")
