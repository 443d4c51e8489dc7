"""`tercet data`: rows a second, peak memory, and what the filter finds of planted defects.

    python benchmarks/curation.py --rows ROWS/*.jsonl.xz --against EVALUATION_SETS

The rows are real ones from --rows, then near-copies and copies of them until there are --count.
`pairs` gets them as articles (JSON lines of title and text), `mix` and `filter` as they are. All
steps of the filter run on all rows, each step alone on every fifth; --workers processes. Memory is
that of all processes of a command together (watched.py). Planted defects and decoys (planted.py)
lie among --sample real rows that the filter has left.
"""

import argparse
import json
import os
import platform
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from planted import changed, copied_cases, near_cases
from watched import Run, watched

from tercet.curate.decontamination import read_evaluation
from tercet.curate.filter import STEPS
from tercet.rows import read_rows, write_rows

Row = dict[str, Any]
EACH = 300  # planted rows of each kind


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


def filtered(source: Path, work: Path, *options: str) -> Run:
    """Runs `tercet data filter`."""
    return watched("data", "filter", source, "--to", work / "filtered.jsonl", *options)


def articles_of(rows: Iterable[Row]) -> Iterator[Row]:
    """What `data pairs` is to make rows of: a title and a text each."""
    for row in rows:
        text = "\n\n".join(row["pos"])
        yield {"title": row["query"], "text": text, "lang": row.get("lang", "und")}


def pairs(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows a second and memory of `tercet data pairs` on articles."""
    source, target = work / "articles.jsonl", work / "pairs.jsonl.gz"
    titled = [path for path in arguments.rows if _pairs(path)]
    count = write_rows(source, articles_of(rows_of(titled, arguments.count)))
    options = ["--as", "title-body", "--workers", str(arguments.workers)]
    run = watched("data", "pairs", source, "--to", target, *options)
    return told("pairs", run, count, source)


def mix(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The same of `tercet data mix`, lengths in characters and in tokens."""
    source = work / "rows.jsonl"
    count = write_rows(source, rows_of(arguments.rows, arguments.count))
    out = {}
    for unit in ("characters", "tokens"):
        options = ["--unit", unit, "--workers", str(arguments.workers)]
        run = watched("data", "mix", source, "--to", work / f"mix-{unit}", *options)
        out[unit] = told(f"mix by {unit}", run, count, source)
    return out


def told(name: str, run: Run, rows: int, source: Path) -> dict[str, Any]:
    """Prints the figures of a command, and gives them."""
    print(
        f"{name}: {rows:,} rows ({source.stat().st_size / 1e6:,.0f} MB) in {run.seconds:.1f} s, "
        f"{rows / run.seconds:,.0f} rows/s, {run.processor:.1f} s of processor, "
        f"peak {run.bytes / 1e6:,.0f} MB",
        flush=True,
    )
    return {**asdict(run), "report": None, "rows": rows}


def _pairs(path: Path) -> bool:
    return "pos" in next(iter(read_rows(path)))


def filters(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows a second and memory of `tercet data filter`, for all steps and for each."""
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


PARTS = {"pairs": pairs, "mix": mix, "filter": filters, "planted": planted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="files of rows")
    parser.add_argument("--against", type=Path, help="evaluation sets")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    out: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for name, part in PARTS.items():
            if arguments.only in (None, name):
                out[name] = part(arguments, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
