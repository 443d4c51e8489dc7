"""A report as one HTML page: the verdict, tables, plots, and how its figures came about.

The page needs nothing but itself: no script, no font, no address, which its own policy forbids as
well. Looks, order and most words are in `report.html.j2`. Knows nothing of how figures were made,
and trusts no name in a report.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tercet.config import BUNDLED_NAME
from tercet.errors import MissingExtraError
from tercet.evaluate.plots import (
    Grid,
    Look,
    Number,
    Plot,
    bars,
    curves,
    interval,
    interval_axis,
    looks_of,
)
from tercet.evaluate.results import (
    Report,
    Section,
    average_rows,
    percent,
    probability,
    reading,
    section_of,
    verdicts,
    weights_of,
)
from tercet.evaluate.runner import EvaluateConfig
from tercet.evaluate.significance import SIGNIFICANT
from tercet.evaluate.systems import BASELINES, BM25, OWN
from tercet.evaluate.tasks import Protocol

if TYPE_CHECKING:
    from jinja2 import Template

# characters that no HTML may hold; half of a pair cannot even be written
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass
class Measured:
    """One measure of a suite: its figures, plots before and behind them, the same by language."""

    title: str
    said: str = ""
    caption: str = ""
    grid: Grid | None = None
    curves: list[Plot] = field(default_factory=list)
    bars: Plot | None = None
    folded: bool = False  # the bars
    by_language: "Measured | None" = None


@dataclass(frozen=True)
class Group:
    """One suite at one maximum length, or by the best chunks of one size."""

    section: Section
    reading: str  # in words; "" where there is nothing to say
    tasks: Sequence[Mapping[str, Any]]
    averages: Mapping[str, Mapping[str, Any]]  # by measure
    comparisons: Sequence[Mapping[str, Any]]

    def compared(self, measure: str) -> tuple[str | None, dict[str, bool]]:
        """The base; systems that differ from it by more than chance: whether they are better."""
        several = [
            comparison for comparison in self.comparisons if comparison["measure"] == measure
        ]
        sure = [comparison for comparison in several if comparison["corrected"] < SIGNIFICANT]
        base = next((comparison["a"] for comparison in several), None)
        return base, {comparison["b"]: comparison["difference"] > 0 for comparison in sure}


def page(report: Report) -> str:
    """The page of a report that `results.report` made; the same report makes the same page.

    Raises MissingExtraError without Jinja2.
    """
    looks, suites, tasks = looks_of(report["columns"]), _suites(report), report["tasks"]
    parts: list[tuple[str, str, Any]] = []
    if summary := _summary(report, suites, looks):
        parts.append(("At a glance", "summary", summary))
    parts += [(name, "suite", _suite(report, of, looks)) for name, of in suites.items()]
    parts.append(("How it was measured", "how", _changed(report["settings"])))
    if tasks:
        parts.append(("Tasks", "tasks", _tasks(tasks)))
    if looks:
        parts.append(("The columns", "columns", looks))
    protocol = asdict(Protocol()) | {k: v for k, v in report["settings"].items() if v is not None}
    text = _template().render(
        report=report,
        parts=parts,
        subject=_subject(report),
        verdicts=verdicts(report),
        mind=list(_mind(tasks)),
        weights=_weights(tasks),
        base=next((comparison["a"] for comparison in report["comparisons"]), ""),
        kinds=sorted({task["kind"] for task in tasks}),
        chunked=any(task["chunk"] for task in tasks),
        protocol=protocol,
        significant=SIGNIFICANT,
        bundled=BUNDLED_NAME,
        counted=counted,
        percent=percent,
        probability=probability,
        best=best,
    )
    return _REFUSED.sub("\ufffd", text)


@cache
def _template() -> "Template":
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(
            "the report page needs Jinja2: pip install 'tercet[evaluate]'"
        ) from error
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    source = files("tercet.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _suites(report: Report) -> dict[str, list[Group]]:
    """Suite -> its groups, the shortest length first, chunks behind whole passages."""
    sections = list(dict.fromkeys(map(section_of, report["tasks"])))
    out: dict[str, list[Group]] = {suite: [] for suite, _, _ in sections}
    for section in sorted(sections, key=lambda key: (key[2], key[1] or 0)):
        tasks, averages, compared = (
            [part for part in report[kind] if section_of(part) == section]
            for kind in ("tasks", "averages", "comparisons")
        )
        by_measure = {average["measure"]: average for average in averages}
        how = reading(tasks[0], report)
        out[section[0]].append(Group(section, how, tasks, by_measure, compared))
    return out


def labels(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of tasks without what all have in front, up to a slash.

    >>> labels([{"name": "miracl/sw"}, {"name": "miracl/yo"}])
    ['sw', 'yo']
    """
    names = [str(task["name"]) for task in tasks]
    fronts = {name.partition("/")[0] for name in names}
    backs = [name.partition("/")[2] for name in names]
    return backs if len(fronts) == 1 and all(backs) else names


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def best(values: Sequence[Number]) -> set[str]:
    """The highest figure as a table shows it; none where all are the same."""
    shown = {percent(value): value for value in values if value is not None}
    return {max(shown, key=lambda text: shown[text])} if len(shown) > 1 else set()


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
    matches = ((re.fullmatch(pattern, measure), form) for pattern, form in _MEASURES)
    return next((form.format(*match.groups()) for match, form in matches if match), "")


# The parts of the page


def _subject(report: Report) -> str:
    if report["model"]:
        return report["model"]["source"] or BUNDLED_NAME
    outside = [name for name in report["columns"] if name not in (*BASELINES, *OWN)]
    names = [name for name in report["columns"] if name in BASELINES] + outside
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"


def _mind(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    def several(part: Sequence[Mapping[str, Any]]) -> str:  # each once at whatever lengths
        return counted(len({task["name"] for task in part}), "task")

    if not tasks:
        yield "No task was measured."
    if lacking := [task for task in tasks if task["missing"]]:
        runs = ", ".join(sorted({name for task in lacking for name in task["missing"]}))
        yield f"Queries are missing from {runs} in {several(lacking)}: each counts 0."
    if skipped := sum({task["name"]: task["skipped"] for task in tasks}.values()):
        have = counted(skipped, "query has", "queries have")
        yield f"{have} no relevant passage and {'does' if skipped == 1 else 'do'} not count."
    if cut := [task for task in tasks if task["cut"].get("passages")]:
        most = percent(max(task["cut"]["passages"] for task in cut))
        yield (
            f"Passages longer than the model read were cut in {several(cut)}, at most {most}% of "
            "a task's. The columns called cut are BM25 on the same shortened passages."
        )
    if empty := [task for task in tasks if not task["judged"]]:
        yield f"No query counts in {several(empty)}."


def _summary(
    report: Report, suites: Mapping[str, Sequence[Group]], looks: Mapping[str, Look]
) -> Grid | None:
    """The averages of all suites and measures; nothing where one task's table says it all."""
    rows: list[tuple[str, Mapping[str, Number]]] = []
    marks: dict[int, Mapping[str, bool]] = {}
    for suite, groups in suites.items():
        whole = [group for group in groups if not group.section[2]]
        for group in whole[-1:] + [group for group in groups if group.section[2]]:
            for measure, average in group.averages.items():
                marks[len(rows)] = group.compared(measure)[1]
                how = f", {group.reading}" if len(groups) > 1 else ""
                rows.append((f"{suite}: {measure}{how}", average["tasks"]))
    if not rows or (len(suites) == 1 and len(next(iter(suites.values()))[-1].tasks) == 1):
        return None
    base = next((comparison["a"] for comparison in report["comparisons"]), None)
    return Grid(rows, looks, marks=marks, base=base)


def _suite(report: Report, groups: Sequence[Group], looks: Mapping[str, Look]) -> dict[str, Any]:
    """Measures, all tasks of each of several groups, questions won and lost, comparisons."""
    last, several = groups[-1], len(groups) > 1
    details = []
    for group in groups if several and len(last.tasks) > 1 and last.averages else ():
        how = group.reading or "full length"
        before = "by" if group.section[2] else "read" if how.startswith("whole") else "at"
        inside = [_measured(group, measure, looks, group is last) for measure in group.averages]
        details.append((f"All tasks {before} {how}", group is last, inside))
    measured = [
        _by_length(groups, measure, looks) if several else _measured(last, measure, looks, True)
        for measure in last.averages
    ]
    examples = [
        example for example in report.get("examples", ()) if section_of(example) == last.section
    ]
    pairs = [(group.reading, comparison) for group in groups for comparison in group.comparisons]
    return {
        "name": last.section[0],
        "measured": measured,
        "details": details,
        "examples": examples if measured else [],
        "compared": _compared(pairs) if measured and pairs else None,
    }


def _differ(groups: Sequence[Group]) -> str:
    """How the groups of a suite differ, behind a measure's name."""
    kinds = {bool(group.section[2]) for group in groups}
    return ", whole and by best passage" if len(kinds) > 1 else " by length"


def _measured(group: Group, measure: str, looks: Mapping[str, Look], last: bool) -> Measured:
    """The table and the bars of a measure, and the same by language where that says more."""
    average = group.averages[measure]
    tasks = [
        {name: of[measure] for name, of in task["figures"].items() if measure in of}
        for task in group.tasks
    ]
    lead = average_rows(average, len(tasks))
    base, sure = group.compared(measure)
    marks = {0: sure} if lead or len(tasks) == 1 else {}
    rows = [*lead, *zip(labels(group.tasks), tasks, strict=True)]
    where = ", ".join(filter(None, (group.section[0], measure, group.reading)))
    out = _drawn(measure, where, measure, Grid(rows, looks, len(lead), marks, base))
    if said := meaning(measure):
        out.said = f"{said[0].upper()}{said[1:]}, in percent."
    out.folded = not last or measure != next(iter(group.averages))
    if 1 < len(average["by_language"]) < len(tasks):
        by_language = [(name or "not said", of) for name, of in average["by_language"].items()]
        title, where = f"{measure} by language", f"{where} by language"
        out.by_language = _drawn(title, where, measure, Grid(by_language, looks))
    return out


def _drawn(title: str, where: str, measure: str, grid: Grid) -> Measured:
    """A table and, where it has more than one figure, its bars."""
    if not grid.systems:
        return Measured(title)
    out = Measured(title, "", f"{where}, percent", grid)
    if sum(value is not None for _, row in grid.rows for value in row.values()) > 1:
        about = f"{measure}, percent."
        if grid.base in grid.systems and len(grid.systems) > 1:
            about += f" The line across a bar is {grid.base}."
        out.bars = bars(grid, f"{where}, as bars", about)
    return out


def _by_length(groups: Sequence[Group], measure: str, looks: Mapping[str, Look]) -> Measured:
    """The averages by maximum length: a curve and its table."""
    groups = [group for group in groups if measure in group.averages]
    rows = [(g.reading or "full length", g.averages[measure]["tasks"]) for g in groups]
    marks = {number: group.compared(measure)[1] for number, group in enumerate(groups)}
    grid = Grid(rows, looks, marks=marks, base=groups[-1].compared(measure)[0])
    chunks = [bool(group.section[2]) for group in groups]
    text = "Averages over tasks" if len(groups[-1].tasks) > 1 else "The task"
    text += "" if all(chunks) else " where passages are cut at so many tokens,"
    text += " in percent."
    if any(chunks):
        text += " By best passage, a document counts as its best chunk of so many tokens does."
    if BM25 in grid.systems:
        text += " BM25 reads documents whole, but for its columns called cut."
    title = f"{measure}{_differ(groups)}"
    where = f"{groups[0].section[0]}, {title}"
    out = Measured(title, text, f"{where}, percent", grid)
    for kind in (False, True):
        mine = [n for n, chunk in enumerate(chunks) if chunk == kind and groups[n].section[1]]
        lengths = [groups[number].section[1] or 0 for number in mine]
        lines = {name: [rows[number][1].get(name) for number in mine] for name in grid.systems}
        if len(lengths) > 1 and any(v is not None for line in lines.values() for v in line):
            which = f", {'best passage' if kind else 'whole'}" if len(mine) < len(groups) else ""
            end = f"{measure}, percent{', by best passage' if kind else ''}."
            out.curves.append(curves(lengths, lines, looks, where + which, end))
    return out


def _compared(pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Differences from one system and their intervals, drawn on one axis."""
    ends = [100 * comparison[end] for _, comparison in pairs for end in ("low", "high")]
    scale, marks, axis = interval_axis(ends)

    def drawn(comparison: Mapping[str, Any]) -> str:
        low, middle, high = (100 * comparison[name] for name in ("low", "difference", "high"))
        names = f"{comparison['b']} less {comparison['a']}"
        said = f"{names}: {middle:+.1f}, from {low:+.1f} to {high:+.1f}"
        sure = comparison["corrected"] < SIGNIFICANT
        return interval(scale, marks, (low, middle, high), sure, said)

    groups = [
        (how, [(comparison, drawn(comparison)) for _, comparison in group])
        for how, group in groupby(pairs, key=lambda pair: pair[0])
    ]
    first = pairs[0][1]
    return {"a": first["a"], "measure": first["measure"], "axis": axis, "groups": groups}


_SETTINGS = {  # others are shown under their own names
    "heads": "Heads",
    "bm25": "BM25",
    "max_length": "Tokens of a passage",
    "chunk": "Tokens of a chunk, 0 for whole passages",
    "query_length": "Tokens of a query",
    "mcls": "Tokens for each [CLS] (MCLS)",
    "rerank": "Candidates of multi and all",
    "union": "Candidates of dense+sparse, of each head",
    "measures": "Measures",
    "multi_gb": "Disk for multi-vectors, GB",
    "weights": "Weights of dense, sparse, multi",
}


def _changed(settings: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(said, value))
        if value is None or isinstance(value, bool | str):
            words: dict[Any, str] = {True: "yes", False: "no", None: "not set"}
            return words.get(value, str(value))
        return f"{value:g}" if isinstance(value, float) else f"{value:,}"

    defaults = asdict(EvaluateConfig())
    changed = [
        f"{_SETTINGS.get(name, name)}: {said(value)}"
        for name, value in settings.items()
        if name not in ("suites", "tuned") and value != defaults.get(name)
    ]
    return "; ".join(changed) or "all as they come"


def _weights(tasks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of tasks, where their weights are from, two of dense+sparse and three of all."""
    rows = []
    for (two, three, source), names in weights_of(tasks).items():
        unique = list(dict.fromkeys(names))
        of = counted(len(unique), "task") if len(unique) > 3 else ", ".join(unique)
        rows.append([of, source, *(f"{value:g}" for value in (*two[:2], *three))])
    return rows


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A head, then what is to be said of each task, without columns that say nothing."""

    def row(task: Mapping[str, Any]) -> dict[str, str]:
        tokens = f"{task['max_length']:,}" if task["max_length"] else "-"
        missing = (f"{name}: {count:,}" for name, count in task["missing"].items())
        pairs = ["translations: passages are pairs"] * (task["kind"] == "bitext")
        return {
            "Task": task["name"],
            "Suite": task["suite"],
            "Language": task["language"] or "-",
            "Tokens": f"{tokens}, best passage" if task["chunk"] else tokens,
            "Chunks": f"{task['chunks']:,}" if task["chunk"] else "-",
            "Passages": f"{task['passages']:,}",
            "Queries": f"{task['queries']:,}",
            "Queries that count": f"{task['judged']:,}",
            "Without a relevant passage": f"{task['skipped']:,}",
            "Missing": "; ".join(missing) or "-",
            "Passages cut, %": percent(task["cut"].get("passages")),
            "Queries cut, %": percent(task["cut"].get("queries")),
            "Seconds": f"{sum(task['seconds'].values()):,.1f}",
            "Notes": "; ".join([*pairs, *task["notes"]]) or "-",
        }

    rows = [row(task) for task in tasks]
    head = [name for name in rows[0] if any(of[name] != "-" for of in rows)]
    return [head, *([of[name] for name in head] for of in rows)]
