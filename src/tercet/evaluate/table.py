"""A report as text for a terminal.

Knows nothing of how figures were made.
"""

from collections.abc import Sequence
from typing import Any

SIGNIFICANT = 0.05


def text(report: dict[str, Any]) -> str:
    """Tables of every suite and measure, then what was compared, cut, weighed and how long."""
    lines: list[str] = []
    for average in report["averages"]:
        some = [
            task
            for task in report["tasks"]
            if (task["suite"], task["max_length"]) == (average["suite"], average["max_length"])
        ]
        measure = average["measure"]
        rows = [
            (task, {name: found.get(measure) for name, found in task["figures"].items()})
            for task in some
        ]
        columns = [name for name in report["columns"] if any(name in found for _, found in rows)]
        limit = average["max_length"]
        lines += [f"{average['suite']}: {measure}" + (f", {limit:,} tokens" if limit else "")]
        lines += _table(rows, columns, average)
        lines.append("")
    several = len({average["max_length"] for average in report["averages"]}) > 1
    lines += _comparisons(report["comparisons"], several)
    lines += _facts(report, several)
    return "\n".join(lines)


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


def _named(name: str, max_length: int | None, several: bool) -> str:
    return f"{name}, {max_length:,} tokens" if several and max_length else name


def _comparisons(found: Sequence[dict[str, Any]], several: bool) -> list[str]:
    if not found:
        return []
    lines: list[str] = []
    said = None
    names = [_named(f"{one['suite']} {one['b']}", one["max_length"], several) for one in found]
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


def _facts(report: dict[str, Any], several: bool) -> list[str]:
    lines = []
    for task in report["tasks"]:
        cut = [f"{percent(share)}% of {what} cut" for what, share in task["cut"].items() if share]
        missing = [f"{name} lacks {n} queries" for name, n in task["missing"].items()]
        left = [f"{task['skipped']} queries without a relevant passage"] if task["skipped"] else []
        if said := [*cut, *missing, *left, *task["notes"]]:
            name = _named(task["name"], task["max_length"], several)
            lines.append(f"{name}: {'; '.join(said)}")
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
            f"model {model['source'] or 'tercet-mini'} ({model['fingerprint'][:12]}), "
            f"{model['dtype']} on {model['device']}"
        )
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    versions = " ".join(f"{name} {number}" for name, number in report["made"]["versions"].items())
    lines.append(f"{report['seconds']:,.0f} s on {where}; {versions}")
    return lines
