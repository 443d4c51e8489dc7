"""A report as text for a terminal.

Knows nothing of how figures were made.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tercet.config import BUNDLED_NAME
from tercet.evaluate.results import place_of

SIGNIFICANT = 0.05
Name = Callable[[str, Mapping[str, Any]], str]  # with how a part of the report was read behind it


def text(report: dict[str, Any]) -> str:
    """Tables of every suite and measure, then what was compared, cut, weighed and how long."""
    lines: list[str] = []
    named = chunked(report["tasks"])
    for average in report["averages"]:
        some = [task for task in report["tasks"] if place_of(task) == place_of(average)]
        measure = average["measure"]
        rows = [
            (task, {name: found.get(measure) for name, found in task["figures"].items()})
            for task in some
        ]
        columns = [name for name in report["columns"] if any(name in found for _, found in rows)]
        how = reading(average, named)
        lines += [f"{average['suite']}: {measure}" + (f", {how}" if how else "")]
        lines += _table(rows, columns, average)
        lines.append("")
    several = len({place_of(average)[1:] for average in report["averages"]}) > 1

    def name(said: str, part: Mapping[str, Any]) -> str:
        how = reading(part, named) if several else ""
        return f"{said}, {how}" if how else said

    lines += _comparisons(report["comparisons"], name)
    lines += _facts(report, name)
    return "\n".join(lines)


def chunked(tasks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any was scored by best chunks, so that others are to be called whole."""
    return any(task["chunk"] for task in tasks)


def reading(part: Mapping[str, Any], named: bool = False) -> str:
    """What of a passage a model's columns score, in words; `named`: whole ones are called so."""
    if part["chunk"]:
        return f"best passage of {part['chunk']:,} tokens"
    if not part["max_length"]:
        return ""
    return f"{'whole, to ' if named else ''}{part['max_length']:,} tokens"


def percent(value: float | None) -> str:
    """As tables have it: percent with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def _table(
    rows: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    columns: Sequence[str],
    average: dict[str, Any],
) -> list[str]:
    head = ["", "passages", "queries", *columns]
    body = [
        [task["name"], f"{task['passages']:,}", f"{task['judged']:,}"]
        + [percent(found.get(name)) for name in columns]
        for task, found in rows
    ]
    if len(rows) > 1:
        body.append(["average", "", ""] + [percent(average["tasks"].get(c)) for c in columns])
    languages = sum(bool(name) for name in average["by_language"])
    if languages > 1 and languages != len(rows):
        name = f"average of {languages} languages"
        body.append([name, "", ""] + [percent(average["languages"].get(c)) for c in columns])
    widths = [max(len(row[at]) for row in [head, *body]) for at in range(len(head))]
    out = []
    for row in [head, *body]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        out.append("  " + "  ".join(cells).rstrip())
    return out


def _comparisons(found: Sequence[dict[str, Any]], named: Name) -> list[str]:
    if not found:
        return []
    lines: list[str] = []
    said = None
    names = [named(f"{one['suite']} {one['b']}", one) for one in found]
    width = max(map(len, names))
    for one, name in zip(found, names, strict=True):
        if said != one["measure"]:
            said = one["measure"]
            lines.append(f"less {one['a']}, {said}, 95% interval, p corrected (Holm)")
        mark = "" if one["corrected"] < SIGNIFICANT else "  not significant"
        low, high = 100 * one["low"], 100 * one["high"]
        lines.append(
            f"  {name.ljust(width)}  {100 * one['difference']:+6.1f}  [{low:+.1f}, {high:+.1f}]"
            f"  p {one['corrected']:.4f}{mark}"
        )
    return [*lines, ""]


def _facts(report: dict[str, Any], named: Name) -> list[str]:
    lines = []
    for task in report["tasks"]:
        cut = [f"{percent(share)}% of {what} cut" for what, share in task["cut"].items() if share]
        missing = [f"{name} lacks {n} queries" for name, n in task["missing"].items()]
        left = [f"{task['skipped']} queries without a relevant passage"] if task["skipped"] else []
        best = [f"each scored by the best of its chunks, {task['chunks']:,} in all"]
        if said := [*(best if task["chunk"] else []), *cut, *missing, *left, *task["notes"]]:
            lines.append(f"{named(task['name'], task)}: {'; '.join(said)}")
    weights = {
        (tuple(t["weights"]["two"]), tuple(t["weights"]["three"]), t["weights"]["from"])
        for t in report["tasks"]
        if t["weights"]
    }
    for two, three, source in sorted(weights):
        of_all = ", ".join(f"{value:g}" for value in three)
        lines.append(
            f"weights of dense, sparse, multi: {of_all} in all, {two[0]:g}, {two[1]:g} in "
            f"dense+sparse; from {source}"
        )
    model, machine = report["model"], report["made"]["machine"]
    if model:
        lines.append(
            f"model {model['source'] or BUNDLED_NAME} ({model['fingerprint'][:12]}), "
            f"{model['dtype']} on {model['device']}"
        )
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    versions = " ".join(f"{name} {number}" for name, number in report["made"]["versions"].items())
    lines.append(f"{report['seconds']:,.0f} s on {where}; {versions}")
    return lines
