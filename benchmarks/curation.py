"""`tercet data filter`: rows a second, peak memory, and what it finds of planted defects.

    python benchmarks/curation.py --rows ROWS/*.jsonl.xz --against EVALUATION_SETS

The rows are real ones from --rows, then near-copies and copies of them until there are --count.
All steps run on all of them, each step alone on every fifth; --workers processes. Memory is that of
all processes of the command together (shared pages counted once), looked at five times a second.
Planted defects and decoys (planted.py) lie among --sample real rows that the filter has left.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planted import changed, copied_cases, near_cases

from tercet.data.filter.config import STEPS
from tercet.data.filter.evaluation import read_evaluation
from tercet.data.rows import read_rows, write_rows

Row = dict[str, Any]
EACH = 300  # planted rows of each kind


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


def rows_of(paths: Sequence[Path], count: int) -> Iterator[Row]:
    """Real rows, then near-copies and copies of them."""
    draw = random.Random(0)
    left, again = count, 0
    while left:
        for path in paths:
            for row in read_rows(path):
                yield row if not again else varied(draw, row)
                left -= 1
                if not left:
                    return
        again += 1


def varied(draw: random.Random, row: Row) -> Row:
    """The same row, or one with some words of its passages changed."""
    share = draw.choice([0.0, 0.02, 0.1, 0.5])
    if share == 0.0:
        return row
    if "text" in row:
        return {**row, "text": changed(draw, row["text"], share)}
    return {**row, "pos": [changed(draw, text, share) for text in row["pos"]]}


@dataclass(frozen=True)
class Run:
    """What `tercet data filter` said and used."""

    report: dict[str, Any]
    seconds: float
    processor: float  # seconds of all its processes: the others' load does not change it
    bytes: int


def filtered(source: Path, work: Path, *options: str) -> Run:
    """Runs the command."""
    target = work / "filtered.jsonl"
    command = [sys.executable, "-m", "tercet", "data", "filter", str(source), "--to", str(target)]
    begin, before = time.perf_counter(), _processor()
    with subprocess.Popen(
        [*command, "--json", *options], stdout=subprocess.PIPE, text=True
    ) as process:
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


def throughput(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows a second and memory, for all steps and for each."""
    source, part = work / "rows.jsonl", work / "part.jsonl"
    count = write_rows(source, rows_of(arguments.rows, arguments.count))
    write_rows(part, (row for at, row in enumerate(read_rows(source)) if at % 5 == 0))
    against = ["--against", str(arguments.against)] if arguments.against else []
    workers = ["--workers", str(arguments.workers)]
    out: dict[str, Any] = {}
    table = f"{'steps':<14}{'rows':>11}{'dropped':>10}{'seconds':>9}{'rows/s':>9}"
    table += f"{'processor s':>13}{'MB':>8}"
    print(f"{source.stat().st_size / 1e6:.0f} MB in {count:,} rows\n{table}")
    single = [name for name in STEPS if name not in ("fields", "relevance")]
    for name in ["all", "none", *single]:
        if name == "evaluation" and not against:
            continue
        options = [] if name == "all" else ["--steps", "fields" if name == "none" else name]
        options += against if name in ("all", "evaluation") else []
        run = filtered(source if name == "all" else part, work, *options, *workers)
        rows = run.report["rows"]
        dropped = rows - run.report["kept"]
        steps = {step: of["rows"] for step, of in run.report["steps"].items()}
        out[name] = {**asdict(run), "report": None, "rows": rows, "dropped": dropped}
        out[name]["steps"] = steps
        print(
            f"{name:<14}{rows:>11,}{dropped:>10,}{run.seconds:>9.1f}{rows / run.seconds:>9,.0f}"
            f"{run.processor:>13.1f}{run.bytes / 1e6:>8,.0f}",
            flush=True,
        )
    print("all:", out["all"]["steps"])
    return out


def sample(paths: Sequence[Path], count: int) -> list[Row]:
    """Rows from all through the files, some of each."""
    out = []
    for path in paths:
        rows = list(read_rows(path))
        out += rows[:: max(1, len(rows) * len(paths) // count)]
    return out


def found(
    step: str,
    rows: Sequence[Row],
    cases: Iterable[tuple[Row, bool | None]],
    work: Path,
    *options: str,
) -> dict[str, Any]:
    """How many planted rows of each kind a step drops, and its precision and recall."""
    source, target = work / "planted.jsonl", work / "dropped.jsonl"
    wanted: dict[str, bool | None] = {}
    planted = []
    for row, bad in cases:
        wanted[row["planted"]] = bad
        planted.append(row)
    write_rows(source, [*rows, *planted])
    filtered(source, work, "--steps", step, "--dropped", str(target), "--workers", "1", *options)
    dropped: dict[str, int] = defaultdict(int)
    for entry in read_rows(target):
        if entry["dropped"] == "row" and entry["step"] == step:
            dropped[entry["row"].get("planted", "real")] += 1
    kinds: dict[str, Any] = {"real": {"rows": len(rows), "dropped": dropped["real"], "bad": False}}
    for name, bad in wanted.items():
        total = sum(row["planted"] == name for row in planted)
        kinds[name] = {"rows": total, "dropped": dropped[name], "bad": bad}
    hits = sum(kind["dropped"] for kind in kinds.values() if kind["bad"])
    every = sum(kind["dropped"] for kind in kinds.values() if kind["bad"] is not None)
    recall = hits / sum(kind["rows"] for kind in kinds.values() if kind["bad"])
    print(f"\n{step}: precision {hits / every:.4f}, recall {recall:.4f}")
    for name, kind in kinds.items():
        told = {True: "should go", False: "should stay", None: "either"}[kind["bad"]]
        print(f"  {name:<42}{told:<13}{kind['dropped']:>6} of {kind['rows']:,} dropped")
    return {"precision": hits / every, "recall": recall, "kinds": kinds}


def planted(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Precision and recall of the steps near and evaluation."""
    draw = random.Random(1)
    source = work / "sample.jsonl"
    write_rows(source, sample(arguments.rows, arguments.sample))
    against = ["--against", str(arguments.against)] if arguments.against else []
    filtered(source, work, *against)
    rows = list(read_rows(work / "filtered.jsonl"))
    out = {"near": found("near", rows, near_cases(rows, draw, EACH), work)}
    if arguments.against:
        known = [one.text for one in read_evaluation(arguments.against)]
        cases = copied_cases(rows, known, draw, EACH)
        out["evaluation"] = found("evaluation", rows, cases, work, *against)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="files of rows")
    parser.add_argument("--against", type=Path, help="evaluation sets")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=("throughput", "planted"))
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    out: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        if arguments.only != "planted":
            out["throughput"] = throughput(arguments, Path(folder))
        if arguments.only != "throughput":
            out["planted"] = planted(arguments, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
