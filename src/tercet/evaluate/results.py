"""What an evaluation found, task by task, and the report that is made of it: plain data for JSON.

Knows nothing of models, rankings or pages.
"""

import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.evaluate.measures import Values, average
from tercet.evaluate.significance import compare

FORMAT = 1
LIBRARIES = ("tercet", "torch", "numpy", "bm25s", "ir_measures")
BM25, BM25_PIECES = "BM25", "BM25 pieces"
CUT = " cut"  # behind the name of a BM25 that read what the model read, no more
BASELINES = (BM25, BM25_PIECES, BM25 + CUT, BM25_PIECES + CUT)
OWN = ("dense", "sparse", "multi", "dense+sparse", "all")

Found = dict[str, dict[str, Values]]  # column -> measure -> values


@dataclass
class TaskResult:
    """One task at one maximum length, or by the best chunk of so many tokens.

    Shares are of passages or queries, seconds of wall time.
    """

    name: str
    suite: str
    language: str
    kind: str  # "retrieval" or "bitext"
    passages: int
    queries: int
    max_length: int | None  # tokens of a passage; None where no model is evaluated
    found: Found
    cut: dict[str, float] = field(default_factory=dict)  # "passages", "queries": share truncated
    weights: dict[str, Any] = field(default_factory=dict)  # "two", "three", "from"
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    languages: Mapping[str, str] = field(default_factory=dict)  # of queries, where they differ
    protocol: dict[str, int] = field(default_factory=dict)  # lengths and depths, as used
    source: str = ""  # where the files came from
    chunk: int = 0  # tokens of a chunk: the model's columns score a passage by its best one; 0: not
    chunks: int = 0  # of all passages
    # a report is made after every task: `means` of those before are kept
    _means: dict[tuple[str, str], list[tuple[str, float]]] = field(default_factory=dict, repr=False)

    def means(self, column: str, measure: str) -> list[tuple[str, float]]:
        """The mean of each language of the task."""
        if (column, measure) not in self._means:
            values = self.found[column][measure]
            by_language = values.mean_by(self.languages) if self.languages else {}
            self._means[column, measure] = list(by_language.items()) or [
                (self.language, values.mean)
            ]
        return self._means[column, measure]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: means in place of the values of each query."""
        left_out = ("found", "languages", "_means")
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        out["figures"] = {
            column: {name: number(values.mean) for name, values in measures.items()}
            for column, measures in self.found.items()
        }
        first = next(iter(next(iter(self.found.values()), {}).values()), None)
        out["judged"] = 0 if first is None else len(first.queries)
        out["skipped"] = 0 if first is None else first.skipped
        out["missing"] = {
            column: next(iter(measures.values())).missing
            for column, measures in self.found.items()
            if measures and next(iter(measures.values())).missing
        }
        return out


def number(value: float) -> float | None:
    """A number that JSON has; NaN is none."""
    return None if value != value else round(float(value), 6)


def columns_of(results: Iterable[TaskResult]) -> list[str]:
    """All columns, baselines first, in a fixed order; outside runs last."""
    seen = {column for result in results for column in result.found}
    known = [*BASELINES, *OWN]
    return [name for name in known if name in seen] + sorted(seen - set(known))


def report(
    results: Sequence[TaskResult],
    *,
    model: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    against: str | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """The whole report; `against` names the column that all others are compared with."""
    columns = columns_of(results)
    return {
        "format": FORMAT,
        "made": {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
        },
        "model": None if model is None else dict(model),
        "settings": dict(settings),
        "columns": columns,
        "tasks": [result.as_dict() for result in results],
        "averages": averages(results, columns),
        "comparisons": comparisons(results, columns, against),
        "seconds": round(seconds, 1),
    }


Place = tuple[str, int | None, int]  # suite, maximum length, chunk


def _sections(results: Sequence[TaskResult]) -> dict[Place, list[TaskResult]]:
    out: dict[Place, list[TaskResult]] = {}
    for result in results:
        out.setdefault((result.suite, result.max_length, result.chunk), []).append(result)
    return out


def place_of(part: Mapping[str, Any]) -> Place:
    """Where a task, an average or a comparison of a report belongs."""
    return part["suite"], part["max_length"], part["chunk"]


def _measures(results: Sequence[TaskResult]) -> list[str]:
    return list(dict.fromkeys(m for r in results for found in r.found.values() for m in found))


def averages(results: Sequence[TaskResult], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Means over tasks and over languages of each suite, for columns that all its tasks have."""
    out = []
    for (suite, length, chunk), some in _sections(results).items():
        for measure in _measures(some):
            line: dict[str, Any] = {"suite": suite, "max_length": length, "chunk": chunk}
            line |= {"measure": measure, "tasks": {}, "languages": {}, "by_language": {}}
            for column in columns:
                values = [r.found.get(column, {}).get(measure) for r in some]
                if any(value is None for value in values):
                    continue
                mean = average(("", v.mean) for v in values if v is not None)
                line["tasks"][column] = number(mean.tasks)
                named = (pair for r in some for pair in r.means(column, measure) if pair[0])
                mean = average(named)
                line["languages"][column] = number(mean.languages)
                for language, value in mean.by_language.items():
                    line["by_language"].setdefault(language, {})[column] = number(value)
            out.append(line)
    return out


def comparisons(
    results: Sequence[TaskResult], columns: Sequence[str], against: str | None
) -> list[dict[str, Any]]:
    """Every column against one, on each suite's first measure; corrected for all of a suite."""
    out = []
    for (suite, length, chunk), some in _sections(results).items():
        for measure in _measures(some)[:1]:
            shared = [
                column
                for column in columns
                if all(measure in r.found.get(column, {}) for r in some)
            ]
            if against not in shared or not all(
                len(r.found[against][measure].queries) for r in some
            ):
                continue
            groups = parallel([r.found[against][measure].queries for r in some])
            found = {
                column: [
                    np.mean([in_order(some[at].found[column][measure]) for at in group], axis=0)
                    for group in groups
                ]
                for column in shared
            }
            pairs = [(against, column) for column in shared if column != against]
            where = {"suite": suite, "max_length": length, "chunk": chunk, "measure": measure}
            sizes = [len(group) for group in groups]
            compared = compare(found, pairs=pairs, weights=sizes) if pairs else []
            out += [where | asdict(one) for one in compared]
    return out


def parallel(queries: Sequence[tuple[str, ...]]) -> list[list[int]]:
    """Numbers of tasks with the same query ids, together: their queries are not independent.

    The same question in 25 languages (MKQA) is drawn once, as one query. Ids that merely look the
    same (those of two sets that count from 0) make a test that is no less careful.
    """
    groups: dict[frozenset[str], list[int]] = {}
    for number, ids in enumerate(queries):
        groups.setdefault(frozenset(ids), []).append(number)
    return list(groups.values())


def in_order(values: Values) -> npt.NDArray[np.float64]:
    """The values in the order of their queries' ids."""
    order = sorted(range(len(values.queries)), key=values.queries.__getitem__)
    return values.values[order]


def machine() -> dict[str, Any]:
    """The processor and the system."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    import torch

    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that figures depend on, of those that are installed."""
    out = {}
    for library in LIBRARIES:
        try:
            out[library] = version(library)
        except PackageNotFoundError:
            continue
    return out
