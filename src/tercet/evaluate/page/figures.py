"""The figures of a report as grids of tasks and columns, and how each column looks in all plots.

Knows nothing of HTML.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.evaluate.results import Section as Place
from tercet.evaluate.results import chunked, reading, section_of
from tercet.evaluate.significance import SIGNIFICANT
from tercet.evaluate.systems import BASELINES, OWN

GROUPS = {"base": "Baselines", "own": "Model", "run": "Other runs"}
_DASHES = ("", "6 3", "2 3", "8 3 2 3")

Task = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """A column's group, and its colour (a class), marker and dash, wherever it is drawn."""

    name: str
    group: str  # of GROUPS
    css: str
    marker: str
    dash: str


def looks(columns: Iterable[str]) -> dict[str, Look]:
    """Each column's look: that of its name for known ones, in order for outside runs."""
    markers = ("circle", "square", "triangle", "diamond", "disc")
    out, runs = {}, 0
    for name in columns:
        if name in BASELINES:
            at = BASELINES.index(name)
            out[name] = Look(name, "base", "c-base", "ring", _DASHES[at])
        elif name in OWN:
            at = OWN.index(name)
            out[name] = Look(name, "own", f"c-{at + 1}", markers[at], "")
        else:
            dash = _DASHES[(runs // 2 + 1) % len(_DASHES)]
            out[name] = Look(name, "run", f"c-run{runs % 2 + 1}", "cross", dash)
            runs += 1
    return out


@dataclass(frozen=True)
class Grid:
    """Shares of 0 to 1 by row and column, None where there is no figure."""

    names: tuple[str, ...]  # averages, then tasks or languages
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]  # one row for each name
    averages: int = 0  # of the rows
    languages: tuple[str, ...] = ()  # of each row that is no average

    @property
    def single(self) -> bool:
        """Whether there is but one row that is no average."""
        return len(self.names) - self.averages == 1

    def column(self, name: str) -> list[float | None]:
        """The figures of a column without the averages."""
        at = self.columns.index(name)
        return [row[at] for row in self.values[self.averages :]]


@dataclass(frozen=True)
class Section:
    """One suite at one maximum length, or by the best chunks of one size."""

    suite: str
    max_length: int | None
    chunk: int  # 0: whole passages
    reading: str  # both in words; "" where there is nothing to say
    tasks: tuple[Task, ...]
    averages: tuple[Mapping[str, Any], ...]  # one for each measure
    comparisons: tuple[Mapping[str, Any], ...]

    @property
    def measures(self) -> list[str]:
        return [average["measure"] for average in self.averages]

    def grid(self, measure: str, order: Sequence[str]) -> Grid:
        """Averages and tasks by column; columns that no task has are left out."""
        average = next(one for one in self.averages if one["measure"] == measure)
        found = [
            {name: of.get(measure) for name, of in task["figures"].items() if measure in of}
            for task in self.tasks
        ]
        columns = tuple(name for name in order if any(name in row for row in found))
        rows = [(label, row) for label, row in zip(labels(self.tasks), found, strict=True)]
        lead: list[tuple[str, Mapping[str, Any]]] = []
        if len(rows) > 1:
            lead.append(("average", average["tasks"]))
            if 1 < len(average["by_language"]) < len(rows):
                name = f"average of {len(average['by_language'])} languages"
                lead.append((name, average["languages"]))
        return _grid([*lead, *rows], columns, len(lead), [t["language"] for t in self.tasks])

    def by_language(self, measure: str, order: Sequence[str]) -> Grid | None:
        """Means by language where a language has several tasks; None where that says no more."""
        average = next(one for one in self.averages if one["measure"] == measure)
        found = average["by_language"]
        if not 1 < len(found) < len(self.tasks):
            return None
        columns = tuple(name for name in order if any(name in of for of in found.values()))
        rows = [(language or "not said", of) for language, of in found.items()]
        return _grid(rows, columns, 0, list(found))

    def marks(self, measure: str) -> dict[str, bool]:
        """Columns whose average differs from that of `base` by more than chance: whether better."""
        return {
            one["b"]: one["difference"] > 0
            for one in self.comparisons
            if one["measure"] == measure and one["corrected"] < SIGNIFICANT
        }

    def base(self, measure: str) -> str | None:
        """What the columns are compared with."""
        found = (one["a"] for one in self.comparisons if one["measure"] == measure)
        return next(found, None)


def _grid(
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    columns: tuple[str, ...],
    averages: int,
    languages: Sequence[str],
) -> Grid:
    values = tuple(tuple(row.get(column) for column in columns) for _, row in rows)
    return Grid(tuple(name for name, _ in rows), columns, values, averages, tuple(languages))


def sections(report: Mapping[str, Any]) -> dict[str, list[Section]]:
    """Suite -> its sections, the shortest length first, chunks behind whole passages."""
    out: dict[str, list[Section]] = {}
    keys = dict.fromkeys(map(section_of, report["tasks"]))
    for key in sorted(keys, key=lambda key: (key[2], key[1] or 0)):

        def of(kind: str, key: Place = key) -> tuple[Any, ...]:
            return tuple(one for one in report[kind] if section_of(one) == key)

        tasks = of("tasks")
        how = reading(tasks[0], chunked(report["tasks"]))
        made = Section(*key, how, tasks, of("averages"), of("comparisons"))
        out.setdefault(key[0], []).append(made)
    order = list(dict.fromkeys(key[0] for key in keys))
    return {suite: out[suite] for suite in order}


def labels(tasks: Sequence[Task]) -> list[str]:
    """Names of tasks without what all have in front, up to a slash.

    >>> labels([{"name": "miracl/sw"}, {"name": "miracl/yo"}])
    ['sw', 'yo']
    """
    names = [str(task["name"]) for task in tasks]
    front = {name.partition("/")[0] for name in names}
    if len(front) == 1 and all(name.partition("/")[2] for name in names):
        return [name.partition("/")[2] for name in names]
    return names


def best(values: Sequence[float | None]) -> set[int]:
    """Places of the highest figure as a table shows it; none where all are the same."""
    shown = [None if value is None else round(100 * value, 1) for value in values]
    there = [value for value in shown if value is not None]
    if len(set(there)) < 2:
        return set()
    return {at for at, value in enumerate(shown) if value == max(there)}


_MEASURES = (
    (r"nDCG@(\d+)", "how well the first {0} results are ordered"),
    (r"R(?:ecall)?@(\d+)", "the share of the relevant passages that are among the first {0}"),
    (r"AnswerRecall@(\d+)", "the share of queries with an answer in the text of the first {0}"),
    (r"RR", "one divided by the rank of the first relevant passage"),
    (r"RR@(\d+)", "one divided by the rank of the first relevant passage, 0 beyond {0}"),
    (r"AP(?:@\d+)?", "the mean precision at the ranks of the relevant passages"),
    (r"P@(\d+)", "the share of the first {0} that is relevant"),
    (r"Success@(\d+)", "the share of queries with a relevant passage among the first {0}"),
    (r"Accuracy left-right", "the share of left texts whose translation was found first"),
    (r"Accuracy right-left", "the share of right texts whose translation was found first"),
)


def meaning(measure: str) -> str:
    """What a measure is, in a few words; "" for one that is not common.

    >>> meaning("P@5")
    'the share of the first 5 that is relevant'
    """
    for pattern, words in _MEASURES:
        if match := re.fullmatch(pattern, measure):
            return words.format(*match.groups())
    return ""
