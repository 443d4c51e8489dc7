"""Two evaluations of the same tasks, query by query: how far each system is apart, and how sure.

Values of queries are kept beside a report. Knows nothing of models, files of suites or pages.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet.errors import InputError
from tercet.evaluate.measures import Values
from tercet.evaluate.results import (
    TaskResult,
    averages,
    comparisons,
    file_name,
    percent,
    probability,
    section_of,
)
from tercet.evaluate.significance import SIGNIFICANT, holm
from tercet.evaluate.systems import BASELINES
from tercet.evaluate.trec import numbered_lines
from tercet.io import write_json

SIDES = ("A", "B")


def _path(folder: Path, result: TaskResult) -> Path:
    return folder / f"values/{file_name(result.name)}.{result.max_length}.{result.chunk}.json"


def write_values(folder: Path, result: TaskResult) -> None:
    """Writes values/TASK.LENGTH.CHUNK.json: the queries, and their values by system and measure."""
    values: dict[str, dict[str, list[float]]] = {}
    queries: tuple[str, ...] = ()
    for system, measures in result.values.items():
        values[system] = {name: of.values.tolist() for name, of in measures.items()}
        queries = next((of.queries for of in measures.values()), queries)
    write_json(_path(folder, result), {"queries": queries, "values": values})


def read_results(report: Path) -> list[TaskResult]:
    """The results of a report.json that lies where it was written, with the values of its queries.

    Raises InputError naming file and line of what is no such report.
    """
    out = []
    path = report
    try:
        for task in _read_json(report)["tasks"]:
            names = ("name", "suite", "language", "kind", "passages", "max_length", "chunk")
            result = TaskResult(**{name: task[name] for name in names})
            path = _path(report.parent, result)
            if not path.exists():
                raise InputError(
                    f"{path} is missing: two reports are compared by the values of their queries, "
                    "which `tercet evaluate --to` writes beside report.json"
                )
            stored = _read_json(path)
            queries = tuple(map(str, stored["queries"]))
            for system, measures in stored["values"].items():
                for name, of in measures.items():
                    values = Values(name, queries, np.array(of, dtype=np.float64))
                    if values.values.shape != (len(queries),):
                        raise ValueError(f"{len(queries)} queries, but {len(of)} values")
                    result.values.setdefault(system, {})[name] = values
            out.append(result)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{path}: not as `tercet evaluate --to` writes it ({error}): evaluate again"
        ) from error
    return out


def _read_json(path: Path) -> Any:
    """Raises InputError naming file and line of what is no JSON, or a number that is not finite."""
    lines = [line for _, line in numbered_lines(path)]

    def number(text: str) -> float:
        if math.isfinite(float(text)):
            return float(text)
        where = next(n for n, line in enumerate(lines, 1) if text in line)
        raise InputError(f"{path}:{where}: {text} is no finite number: evaluate again")

    try:
        return json.loads("\n".join(lines), parse_float=number, parse_constant=number)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error


def compared(a: Sequence[TaskResult], b: Sequence[TaskResult]) -> list[dict[str, Any]]:
    """B less A for each system and suite, on the suite's first measure, corrected for all (Holm).

    Of tasks that both have. Raises InputError where there are none, and where a task has other
    passages or queries.
    """
    pairs = list(_pairs(a, b))
    shared = [
        system
        for system in dict.fromkeys(name for one, _ in pairs for name in one.values)
        if any(system in other.values for _, other in pairs)
    ]
    shared = [name for name in shared if name not in BASELINES] or shared
    out: list[dict[str, Any]] = []
    for system in shared:
        joined = [
            replace(
                pair[0],
                values={
                    side: result.values[system]
                    for side, result in zip(SIDES, pair, strict=True)
                    if system in result.values
                },
            )
            for pair in pairs
        ]
        means = {(section_of(of), of["measure"]): of["tasks"] for of in averages(joined, SIDES)}
        out += (
            of | {"system": system, "means": means[section_of(of), of["measure"]]}
            for of in comparisons(joined, SIDES, SIDES[0])
        )
    if not out:
        raise InputError("A and B share no system on any task: there is nothing to compare")
    for of, p in zip(out, holm([of["p"] for of in out]), strict=True):
        of["corrected"] = p
    return out


def _pairs(
    a: Sequence[TaskResult], b: Sequence[TaskResult]
) -> Iterator[tuple[TaskResult, TaskResult]]:
    """The results of the same task, at the same place among its lengths or sizes of chunks."""

    def keyed(results: Sequence[TaskResult]) -> dict[tuple[str, int, int], TaskResult]:
        out: dict[tuple[str, int, int], TaskResult] = {}
        for result in results:
            of_task = sum(key[:2] == (result.name, result.chunk) for key in out)
            out[result.name, result.chunk, of_task] = result
        return out

    left, right = keyed(a), keyed(b)
    if not (both := [key for key in left if key in right]):
        names = (", ".join(dict.fromkeys(of.name for of in side)) or "nothing" for side in (a, b))
        raise InputError("A and B share no task: there are {} and {}".format(*names))
    for key in both:
        one, other = left[key], right[key]
        queries = [
            sorted(next((v.queries for of in side.values.values() for v in of.values()), ()))
            for side in (one, other)
        ]
        if one.passages != other.passages or queries[0] != queries[1]:
            raise InputError(
                f"{one.name} is not the same task in A ({one.passages} passages, {len(queries[0])} "
                f"judged queries) and B ({other.passages}, {len(queries[1])}), or has other queries"
            )
        yield one, other


def text(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table for a terminal."""
    out = ["B less A, 95% interval, p corrected (Holm)"]
    width = max(len(f"{of['suite']} {of['system']}") for of in lines)
    for of in lines:
        name = f"{of['suite']} {of['system']}".ljust(width)
        means = ", ".join(f"{side} {percent(of['means'][side])}" for side in SIDES)
        difference, low, high = (100 * of[part] for part in ("difference", "low", "high"))
        sure = "" if of["corrected"] < SIGNIFICANT else "  not significant"
        chunk = f", best passage of {of['chunk']:,} tokens" if of["chunk"] else ""
        out.append(
            f"  {name}  {of['measure']}{chunk}: {means}: {difference:+.1f}  [{low:+.1f}, "
            f"{high:+.1f}]  p {probability(of['corrected'])}{sure}"
        )
    return "\n".join(out)
