"""What an evaluation measured, task by task, and the report made of it: plain data, or text.

Knows nothing of models, rankings or pages.
"""

import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from tercet.config import BUNDLED_NAME
from tercet.encoder import gpu_count
from tercet.evaluate.measures import Values
from tercet.evaluate.significance import SIGNIFICANT, compare
from tercet.evaluate.systems import BASELINES, OWN
from tercet.scores import threads

FORMAT = 1
EXAMPLES = 5  # queries won, and as many lost, that a report shows of a suite

Report = Mapping[str, Any]
Section = tuple[str, int | None, int]  # suite, maximum length, chunk: what is averaged together


@dataclass
class TaskResult:
    """One task at one maximum length, or by the best chunk of so many tokens.

    Shares are of passages or queries, seconds of wall time.
    """

    name: str
    suite: str
    language: str
    kind: str = "retrieval"  # or "bitext"
    passages: int = 0
    queries: int = 0
    max_length: int | None = None  # tokens of a passage; None where no model is evaluated
    values: dict[str, dict[str, Values]] = field(default_factory=dict)  # system -> measure
    cut: dict[str, float] = field(default_factory=dict)  # "passages", "queries": share truncated
    weights: dict[str, Any] = field(default_factory=dict)  # "two", "three", "from"
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    languages: Mapping[str, str] = field(default_factory=dict)  # of queries, where they differ
    texts: Mapping[str, str] = field(default_factory=dict)  # of queries, by id
    protocol: dict[str, int] = field(default_factory=dict)  # lengths and depths, as used
    source: str = ""  # where the files came from
    chunk: int = 0  # tokens of a chunk: the model's systems score a passage by its best one; 0: not
    chunks: int = 0  # of all passages

    @property
    def section(self) -> Section:
        return self.suite, self.max_length, self.chunk

    def means(self, system: str, measure: str) -> list[tuple[str, float]]:
        """The mean of each language of the task, "" where it is not known."""
        values = self.values[system][measure]
        if not (self.languages and values.queries):
            return [(self.language, values.mean)]
        of: dict[str, list[float]] = {}
        for query, value in zip(values.queries, values.values.tolist(), strict=True):
            of.setdefault(self.languages.get(query, ""), []).append(value)
        return [(language, float(np.mean(several))) for language, several in sorted(of.items())]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: means in place of the values of each query."""
        skipped = ("values", "languages", "texts")
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        out["figures"] = {
            system: {name: _rounded(values.mean) for name, values in measures.items()}
            for system, measures in self.values.items()
        }
        # of the first measure: all have the same queries
        first = {system: next(iter(of.values())) for system, of in self.values.items() if of}
        values = next(iter(first.values()), None)
        out["judged"] = 0 if values is None else len(values.queries)
        out["skipped"] = 0 if values is None else values.skipped
        out["missing"] = {system: of.missing for system, of in first.items() if of.missing}
        return out


def file_name(name: str) -> str:
    """A task or system as part of a path.

    >>> file_name("miracl/sw"), file_name("dense+sparse"), file_name("BM25 pieces")
    ('miracl-sw', 'dense+sparse', 'BM25-pieces')
    """
    return name.replace("/", "-").replace(" ", "-")


def _rounded(value: float) -> float | None:
    """A number that JSON has; NaN is none."""
    return None if np.isnan(value) else round(float(value), 6)


def _mean(values: Iterable[float]) -> float | None:
    counted = [value for value in values if not np.isnan(value)]
    return _rounded(float(np.mean(counted))) if counted else None


def report(
    results: Sequence[TaskResult],
    *,
    model: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    against: str | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """The whole report; `against` names the system that all others are compared with."""
    present = {system for result in results for system in result.values}
    known = [*BASELINES, *OWN]
    systems = [name for name in known if name in present] + sorted(present - set(known))
    compared = [] if against is None else list(comparisons(results, systems, against))
    return {
        "format": FORMAT,
        "made": {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "versions": _versions(),
        },
        "model": None if model is None else dict(model),
        "settings": dict(settings),
        "columns": systems,
        "tasks": [result.as_dict() for result in results],
        "averages": averages(results, systems),
        "comparisons": compared,
        "examples": list(_examples(results, compared)),
        "seconds": round(seconds, 1),
    }


def _sections(results: Iterable[TaskResult]) -> dict[Section, list[TaskResult]]:
    out: dict[Section, list[TaskResult]] = {}
    for result in results:
        out.setdefault(result.section, []).append(result)
    return out


def section_of(part: Mapping[str, Any]) -> Section:
    """Where a task, an average, a comparison or an example of a report belongs."""
    return part["suite"], part["max_length"], part["chunk"]


def _named(section: Section, measure: str) -> dict[str, Any]:
    suite, length, chunk = section
    return {"suite": suite, "max_length": length, "chunk": chunk, "measure": measure}


def _measures(results: Sequence[TaskResult]) -> list[str]:
    return list(dict.fromkeys(m for r in results for of in r.values.values() for m in of))


def averages(results: Sequence[TaskResult], systems: Sequence[str]) -> list[dict[str, Any]]:
    """Means over tasks and over languages of each suite, for systems that all its tasks have.

    A task where no query counts is left out.
    """
    out = []
    for section, group in _sections(results).items():
        for measure in _measures(group):
            line: dict[str, Any] = _named(section, measure)
            line |= {"tasks": {}, "languages": {}, "by_language": {}}
            for system in systems:
                if any(measure not in result.values.get(system, {}) for result in group):
                    continue
                line["tasks"][system] = _mean(r.values[system][measure].mean for r in group)
                of: dict[str, list[float]] = {}
                for language, mean in (p for r in group for p in r.means(system, measure)):
                    if language and not np.isnan(mean):
                        of.setdefault(language, []).append(mean)
                by_language = {name: float(np.mean(means)) for name, means in sorted(of.items())}
                line["languages"][system] = _mean(by_language.values())
                for language, mean in by_language.items():
                    line["by_language"].setdefault(language, {})[system] = _rounded(mean)
            out.append(line)
    return out


def comparisons(
    results: Sequence[TaskResult], systems: Sequence[str], against: str
) -> Iterator[dict[str, Any]]:
    """Every system against one, on each suite's first measure; corrected for all of a suite.

    Queries of the same ids in several tasks are not independent: the same question in 25 languages
    (MKQA) is drawn once, as one query. Ids that merely look the same (those of two sets that count
    from 0) make a test that is no less careful.
    """
    for section, group in _sections(results).items():
        for measure in _measures(group)[:1]:
            shared = [s for s in systems if all(measure in r.values.get(s, {}) for r in group)]
            if against not in shared or len(shared) == 1:
                continue
            parallel: dict[frozenset[str], list[TaskResult]] = {}
            for result in group:
                ids = frozenset(result.values[against][measure].queries)
                parallel.setdefault(ids, []).append(result)
            if frozenset() in parallel:
                continue
            values = {
                system: [
                    np.mean([_in_order(r.values[system][measure]) for r in alike], axis=0)
                    for alike in parallel.values()
                ]
                for system in shared
            }
            for comparison in compare(values, against, weights=[*map(len, parallel.values())]):
                yield _named(section, measure) | asdict(comparison)


def _in_order(values: Values) -> Any:
    return values.values[sorted(range(len(values.queries)), key=values.queries.__getitem__)]


def _examples(
    results: Sequence[TaskResult], compared: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Queries that the best of what is compared won and lost by most, a few of each suite."""
    groups = _sections(results)
    for section, comparison in _best_compared(compared).items():
        measure, pairs = comparison["measure"], []
        for result in groups[section]:
            base, other = (result.values[comparison[side]][measure] for side in ("a", "b"))
            for query, low, high in zip(base.queries, base.values, other.values, strict=True):
                if text := result.texts.get(query):
                    pairs.append((high - low, result.name, query, text, low, high))
        for sign in (1, -1):
            order = sorted(pairs, key=lambda pair: (-sign * pair[0], *pair[1:3]))
            for difference, task, query, text, low, high in order[:EXAMPLES]:
                if sign * difference > 0:
                    yield _named(section, measure) | {
                        "task": task, "query": query, "text": text[:300],
                        "a": comparison["a"], "b": comparison["b"],
                        "value_a": _rounded(low), "value_b": _rounded(high),
                    }  # fmt: skip


def _best_compared(compared: Sequence[Mapping[str, Any]]) -> dict[Section, Mapping[str, Any]]:
    """Of each section that of the best system; of a baseline only where there is no other."""
    order = sorted(
        compared, key=lambda of: (of["b"] not in BASELINES, of["difference"]), reverse=True
    )
    best = {section_of(comparison): comparison for comparison in reversed(order)}
    return {section: best[section] for section in map(section_of, compared)}


def _machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    gpu = None
    if gpu_count():
        import torch

        gpu = torch.cuda.get_device_name()
    return {
        "cpu": name,
        "threads": threads(),
        "gpu": gpu,
        "system": platform.system(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _versions() -> dict[str, str]:
    out = {}
    for library in ("tercet", "torch", "onnxruntime", "numpy", "ir_measures"):
        with suppress(PackageNotFoundError):
            out[library] = version(library)
    return out


# A report as text for a terminal.


def text(report: Report) -> str:
    """The verdict, tables of every suite and measure, what was compared, cut, weighed, how long."""
    lines = [*verdicts(report), ""] if report["comparisons"] else []
    for average in report["averages"]:
        how = reading(average, report)
        lines += [f"{average['suite']}: {average['measure']}" + (f", {how}" if how else "")]
        lines += [*_table(report, average), ""]
    return "\n".join([*lines, *_compared(report), *_facts(report)])


def verdicts(report: Report) -> list[str]:
    """A sentence for each suite that was compared, at its longest length: which system won, by
    how much, how sure.
    """
    best = _best_compared(report["comparisons"])
    longest = {suite: comparison for (suite, _, _), comparison in best.items()}
    return [_verdict(report, comparison) for comparison in longest.values()]


def _verdict(report: Report, comparison: Mapping[str, Any]) -> str:
    suite, measure, difference = (comparison[name] for name in ("suite", "measure", "difference"))
    winner, loser, p = (comparison[name] for name in ("b", "a", "corrected"))
    if difference < 0:
        winner, loser, difference = loser, winner, -difference
    (means,) = (
        average["tasks"]
        for average in report["averages"]
        if section_of(average) == section_of(comparison) and average["measure"] == measure
    )
    sure = p < SIGNIFICANT
    return (
        f"{_behind(report, suite, comparison)}: {winner} {'wins' if sure else 'is ahead'} with "
        f"{measure} {percent(means[winner])}, {100 * difference:.1f} points more than {loser}: "
        f"{'significant' if sure else 'not significant'} (p {probability(p)})"
    )


def probability(p: float) -> str:
    """p to four places; what is less than they show is said to be less."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def reading(part: Mapping[str, Any], report: Report) -> str:
    """What of a passage a model's systems score; "whole" where others count by best chunks."""
    if part["chunk"]:
        return f"best passage of {part['chunk']:,} tokens"
    if not part["max_length"]:
        return ""
    whole = "whole, to " if any(task["chunk"] for task in report["tasks"]) else ""
    return f"{whole}{part['max_length']:,} tokens"


def percent(value: float | None) -> str:
    """As tables have it: percent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def _table(report: Report, average: Mapping[str, Any]) -> list[str]:
    tasks = [task for task in report["tasks"] if section_of(task) == section_of(average)]
    measure = average["measure"]
    rows = [{name: of.get(measure) for name, of in t["figures"].items()} for t in tasks]
    systems = [name for name in report["columns"] if any(name in row for row in rows)]
    body = [["", "passages", "queries", *systems]]
    for task, row in zip(tasks, rows, strict=True):
        sizes = [task["name"], f"{task['passages']:,}", f"{task['judged']:,}"]
        body.append(sizes + [percent(row.get(name)) for name in systems])
    for name, means in average_rows(average, len(tasks)):
        body.append([name, "", ""] + [percent(means.get(system)) for system in systems])
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    out = []
    for first, *cells in body:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        out.append("  " + "  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return out


def average_rows(
    average: Mapping[str, Any], tasks: int
) -> list[tuple[str, Mapping[str, float | None]]]:
    """Rows of a table that are averages, where they say more than the tasks'."""
    rows = [("average", average["tasks"])] if tasks > 1 else []
    languages = len(average["by_language"])
    if languages > 1 and languages != tasks:
        rows.append((f"average of {languages} languages", average["languages"]))
    return rows


def _compared(report: Report) -> list[str]:
    compared = report["comparisons"]
    names = [_behind(report, f"{of['suite']} {of['b']}", of) for of in compared]
    width = max(map(len, names), default=0)
    lines: list[str] = []
    measure = None
    for comparison, name in zip(compared, names, strict=True):
        if measure != comparison["measure"]:
            measure = comparison["measure"]
            lines.append(f"less {comparison['a']}, {measure}, 95% interval, p corrected (Holm)")
        difference, low, high = (100 * comparison[of] for of in ("difference", "low", "high"))
        p = comparison["corrected"]
        mark = "" if p < SIGNIFICANT else "  not significant"
        figures = f"{difference:+6.1f}  [{low:+.1f}, {high:+.1f}]  p {probability(p)}{mark}"
        lines.append(f"  {name.ljust(width)}  {figures}")
    return [*lines, ""] if lines else []


def _behind(report: Report, name: str, part: Mapping[str, Any]) -> str:
    """A name, and how passages were read where that was done in several ways."""
    several = len({section_of(average)[1:] for average in report["averages"]}) > 1
    how = reading(part, report) if several else ""
    return f"{name}, {how}" if how else name


def weights_of(tasks: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[str]]:
    """Weights of two and of three heads and where they come from -> names of tasks."""
    out: dict[tuple[Any, ...], list[str]] = {}
    for task in tasks:
        if weights := task["weights"]:
            key = (tuple(weights["two"]), tuple(weights["three"]), weights["from"])
            out.setdefault(key, []).append(task["name"])
    return out


def _facts(report: Report) -> list[str]:
    lines = []
    for task in report["tasks"]:
        told = []
        if task["chunk"]:
            told.append(f"each scored by the best of its chunks, {task['chunks']:,} in all")
        told += [f"{percent(share)}% of {what} cut" for what, share in task["cut"].items() if share]
        told += [f"{name} lacks {n} queries" for name, n in task["missing"].items()]
        if task["skipped"]:
            told.append(f"{task['skipped']} queries without a relevant passage")
        if told := [*told, *task["notes"]]:
            lines.append(f"{_behind(report, task['name'], task)}: {'; '.join(told)}")
    for two, three, source in weights_of(report["tasks"]):
        of_all = ", ".join(f"{value:g}" for value in three)
        lines.append(
            f"weights of dense, sparse, multi: {of_all} in all, {two[0]:g}, {two[1]:g} in "
            f"dense+sparse; from {source}"
        )
    model, made = report["model"], report["made"]
    if model:
        lines.append(
            f"model {model['source'] or BUNDLED_NAME} ({model['fingerprint'][:12]}), "
            f"{model['dtype']} on {model['device']}"
        )
    gpu, cpu, threads = (made["machine"][name] for name in ("gpu", "cpu", "threads"))
    libraries = " ".join(f"{name} {number}" for name, number in made["versions"].items())
    lines.append(f"{report['seconds']:,.0f} s on {gpu or f'{cpu}, {threads} threads'}; {libraries}")
    return lines
