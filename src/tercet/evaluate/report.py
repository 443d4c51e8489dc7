"""A report as one HTML page: the verdict, tables, plots, and how its figures came about.

The page needs nothing but itself: no script, no font, no address, which its own policy forbids as
well. Looks and the order of the page are in `report.html.j2`. Knows nothing of how figures were
made, and trusts no name in a report.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from tercet.evaluate.significance import CONFIDENCE, SIGNIFICANT
from tercet.evaluate.systems import BASELINES, BM25, BM25_PIECES, CUT, OWN
from tercet.evaluate.tasks import Protocol

if TYPE_CHECKING:
    from jinja2 import Template

# characters that no HTML may hold; half of a pair cannot even be written
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Cell:
    """A cell of a table; with a scope it is the name of its row, its column or their group."""

    text: str
    css: str = ""
    scope: str = ""
    span: int = 1
    better: bool | None = None  # than the base by more than chance, or worse
    svg: str = ""


@dataclass(frozen=True)
class Table:
    """A table and, where it has figures to compare, what its marks mean."""

    caption: str
    rows: Sequence[Sequence[Sequence[Cell]]]  # its head, then its bodies
    css: str = ""
    key: bool = False
    base: str = ""
    marked: bool = False


@dataclass
class Measured:
    """One measure of a suite: its table, plots before and behind it, the same by language."""

    title: str
    said: str
    table: Table | None = None
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
        several = [one for one in self.comparisons if one["measure"] == measure]
        sure = [one for one in several if one["corrected"] < SIGNIFICANT]
        base = next((one["a"] for one in several), None)
        return base, {one["b"]: one["difference"] > 0 for one in sure}


def page(report: Report) -> str:
    """The page of a report that `results.report` made; the same report makes the same page.

    Raises MissingExtraError without Jinja2.
    """
    looks, suites = looks_of(report["columns"]), _suites(report)
    parts: list[tuple[str, str, Any]] = []
    if summary := _summary(report, suites, looks):
        parts.append(("At a glance", "summary", summary))
    parts += [(name, "suite", _suite(report, of, looks)) for name, of in suites.items()]
    parts.append(("How it was measured", "how", (_facts(report), _weights(report["tasks"]))))
    if report["tasks"]:
        parts.append(("Tasks", "tasks", _tasks(report["tasks"])))
    if report["columns"]:
        parts.append(("The columns", "columns", _glossary(report, looks)))
    text = _template().render(
        subject=_subject(report),
        verdicts=verdicts(report),
        lead=_lead(report),
        mind=list(_mind(report["tasks"])),
        parts=parts,
        base=next((one["a"] for one in report["comparisons"]), ""),
        significant=f"{SIGNIFICANT:g}",
        kinds={task["kind"] for task in report["tasks"]},
        chunked=any(task["chunk"] for task in report["tasks"]),
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
            [one for one in report[kind] if section_of(one) == section]
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


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


# Tables


def best(values: Sequence[Number]) -> set[int]:
    """Places of the highest figure as a table shows it; none where all are the same."""
    shown = [None if value is None else round(100 * value, 1) for value in values]
    present = [value for value in shown if value is not None]
    if len(set(present)) < 2:
        return set()
    return {place for place, value in enumerate(shown) if value == max(present)}


def _figures(caption: str, grid: Grid, looks: Mapping[str, Look]) -> Table:
    """A table of percent.

    Systems stand side by side; languages do where they are few (18 as in the M3 paper's tables 2
    and 4) and their names short.
    """
    names = grid.names[grid.averages :]
    across = len(grid.systems) <= len(names) <= 18 and max(map(len, names)) <= 4 and grid.averages
    groups = [looks[name].group for name in grid.systems]
    edges = {place for place in range(1, len(groups)) if groups[place] != groups[place - 1]}
    averages = ["avg" if number < grid.averages else "" for number in range(len(grid.names))]
    first = ["first" if place in edges and not across else "" for place in range(len(groups))]
    cells: list[list[Cell]] = []
    for number, row in enumerate(grid.values):
        highest, marks = best(row), grid.marks.get(number, {})
        cells.append([])
        for place, (value, system) in enumerate(zip(row, grid.systems, strict=True)):
            css = ["base" if groups[place] == "Baselines" else "", first[place]]
            css += ["best" if place in highest else "", averages[number]]
            shown = " ".join(filter(None, css))
            cells[-1].append(Cell(percent(value), shown, better=marks.get(system)))
    runs = [(group, len(list(of))) for group, of in groupby(groups)]
    columns = [grid.names, averages] if across else [grid.systems, first]
    heads = [[Cell(""), *(Cell(n, css, "col") for n, css in zip(*columns, strict=True))]]
    if across:
        bodies, start = [], 0
        for group, size in runs:
            rows = [[Cell(group, "group", "rowgroup", len(grid.names) + 1)]] * (len(runs) > 1)
            for place in range(start, start + size):
                rows.append([Cell(grid.systems[place], "", "row"), *(of[place] for of in cells)])
            bodies.append(rows)
            start += size
    else:
        over = [Cell(group, "group first" if number else "group", "colgroup", size)
                for number, (group, size) in enumerate(runs)]  # fmt: skip
        heads = [[Cell(""), *over]] * (len(runs) > 1) + heads
        named = zip(grid.names, averages, cells, strict=True)
        bodies = [[[Cell(name, css, "row"), *row] for name, css, row in named]]
    marked = any(grid.marks.values())
    return Table(
        caption, [heads, *bodies], "figures", len(grid.systems) > 1, grid.base or "", marked
    )


def _plain_table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()
) -> Table:
    """Any other table: the first cell of a row names it; columns in `words` are text."""
    css = ["words" if name in words else "" for name in head]
    heads = [Cell(name, of, "col") for name, of in zip(head, css, strict=True)]
    body = [
        [Cell(row[0], "", "row"), *(Cell(*pair) for pair in zip(row[1:], css[1:], strict=True))]
        for row in rows
    ]
    return Table(caption, [[heads], body])


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
    """What is evaluated, for the title."""
    if report["model"]:
        return report["model"]["source"] or BUNDLED_NAME
    outside = [name for name in report["columns"] if name not in (*BASELINES, *OWN)]
    names = [name for name in report["columns"] if name in BASELINES] + outside
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"


def _lead(report: Report) -> str:
    tasks = report["tasks"]
    text = f"Measured on {report['made']['when'][:10]}: "
    text += _counted(len({task["name"] for task in tasks}), "task")
    if suites := list(dict.fromkeys(task["suite"] for task in tasks)):
        text += f" of {', '.join(suites)}"
    if languages := {task["language"] for task in tasks if task["language"]}:
        text += f", in {_counted(len(languages), 'language')}"
    return text


def _mind(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader of the figures should know of the tasks."""

    def several(part: Sequence[Mapping[str, Any]]) -> str:  # each once at whatever lengths
        return _counted(len({task["name"] for task in part}), "task")

    if not tasks:
        yield "No task was measured."
    if lacking := [task for task in tasks if task["missing"]]:
        runs = ", ".join(sorted({name for task in lacking for name in task["missing"]}))
        yield f"Queries are missing from {runs} in {several(lacking)}: each counts 0."
    if skipped := sum({task["name"]: task["skipped"] for task in tasks}.values()):
        have = _counted(skipped, "query has", "queries have")
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
) -> Table | None:
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
    base = next((one["a"] for one in report["comparisons"]), None)
    grid = Grid.of(rows, report["columns"], marks=marks, base=base)
    return _figures("Averages of all suites, percent", grid, looks)


def _suite(report: Report, groups: Sequence[Group], looks: Mapping[str, Look]) -> dict[str, Any]:
    """Measures, all tasks of each of several groups, questions won and lost, comparisons."""
    last, several = groups[-1], len(groups) > 1
    details = []
    for group in groups if several and len(last.tasks) > 1 and last.averages else ():
        how = group.reading or "full length"
        before = "by" if group.section[2] else "read" if how.startswith("whole") else "at"
        inside = [_measured(group, measure, looks, group is last) for measure in group.averages]
        details.append((f"All tasks {before} {how}", group is last, inside))
    of_measure = (
        _by_length(groups, measure, looks) if several else _measured(last, measure, looks, True)
        for measure in last.averages
    )
    compared = last.averages and [
        (group.reading, one) for group in groups for one in group.comparisons
    ]
    return {
        "measures": list(of_measure),
        "details": details,
        "examples": _examples(report, last.section) if last.averages else None,
        "compared": _compared(compared) if compared else None,
    }


def _differ(groups: Sequence[Group]) -> str:
    """How the groups of a suite differ, behind a measure's name."""
    kinds = {bool(group.section[2]) for group in groups}
    return ", whole and by best passage" if len(kinds) > 1 else " by length"


def _measured(group: Group, measure: str, looks: Mapping[str, Look], last: bool) -> Measured:
    """The table and the bars of a measure, and the same by language where that says more."""
    tasks = [
        {name: of[measure] for name, of in task["figures"].items() if measure in of}
        for task in group.tasks
    ]
    lead = average_rows(group.averages[measure], len(tasks))
    base, sure = group.compared(measure)
    marks = {0: sure} if lead or len(tasks) == 1 else {}
    rows = [*lead, *zip(labels(group.tasks), tasks, strict=True)]
    grid = Grid.of(rows, looks, averages=len(lead), marks=marks, base=base)
    where = ", ".join(filter(None, (group.section[0], measure, group.reading)))
    said = meaning(measure)
    out = Measured(measure, f"{said[0].upper()}{said[1:]}, in percent." if said else "")
    if not grid.systems:
        return out
    out.table = _figures(f"{where}, percent", grid, looks)
    out.bars, out.folded = (
        _bars(where, measure, grid, looks),
        not last or measure != next(iter(group.averages)),
    )
    by_language = group.averages[measure]["by_language"]
    if 1 < len(by_language) < len(group.tasks):
        grid = Grid.of([(name or "not said", of) for name, of in by_language.items()], looks)
        where += " by language"
        table = _figures(f"{where}, percent", grid, looks)
        inner = Measured(f"{measure} by language", "", table)
        inner.bars = _bars(where, measure, grid, looks)
        out.by_language = inner
    return out


def _bars(where: str, measure: str, grid: Grid, looks: Mapping[str, Look]) -> Plot | None:
    if sum(value is not None for row in grid.values for value in row) < 2:
        return None
    about = f"{measure}, percent."
    if grid.base in grid.systems and len(grid.systems) > 1:
        about += f" The line across a bar is {grid.base}."
    return bars(grid, looks, f"{where}, as bars", about)


def _by_length(groups: Sequence[Group], measure: str, looks: Mapping[str, Look]) -> Measured:
    """The averages by maximum length: a curve and its table."""
    groups = [group for group in groups if measure in group.averages]
    rows = [(g.reading or "full length", g.averages[measure]["tasks"]) for g in groups]
    marks = {number: group.compared(measure)[1] for number, group in enumerate(groups)}
    grid = Grid.of(rows, looks, marks=marks, base=groups[-1].compared(measure)[0])
    chunks = [bool(group.section[2]) for group in groups]
    text = "Averages over tasks" if len(groups[-1].tasks) > 1 else "The task"
    text += "" if all(chunks) else " where passages are cut at so many tokens,"
    text += " in percent."
    if any(chunks):
        text += " By best passage, a document counts as its best chunk of so many tokens does."
    if BM25 in grid.systems:
        text += " BM25 reads documents whole, but for its columns called cut."
    differ = _differ(groups)
    where = f"{groups[0].section[0]}, {measure}{differ}"
    out = Measured(f"{measure}{differ}", text, _figures(f"{where}, percent", grid, looks))
    for kind in (False, True):
        mine = [n for n, chunk in enumerate(chunks) if chunk == kind and groups[n].section[1]]
        lengths = [groups[number].section[1] or 0 for number in mine]
        lines = {
            name: [grid.values[number][place] for number in mine]
            for place, name in enumerate(grid.systems)
        }
        if len(lengths) > 1 and any(v is not None for line in lines.values() for v in line):
            which = f", {'best passage' if kind else 'whole'}" if len(mine) < len(groups) else ""
            end = f"{measure}, percent{', by best passage' if kind else ''}."
            out.curves.append(curves(lengths, lines, looks, where + which, end))
    return out


def _examples(report: Report, section: Section) -> dict[str, Any] | None:
    """Questions that the best of what was compared won and lost, at the longest length."""
    examples = [one for one in report.get("examples", ()) if section_of(one) == section]
    if not examples:
        return None
    a, b, measure = (examples[0][name] for name in ("a", "b", "measure"))
    rows = [
        [one["text"], one["task"], percent(one["value_a"]), percent(one["value_b"])]
        for one in examples
    ]
    caption = f"{section[0]}, questions won and lost by {measure}, percent"
    words = ("Question", "Task")
    return {"a": a, "b": b, "table": _plain_table(caption, [*words, a, b], rows, words)}


def _compared(pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Differences from one system with their intervals, as numbers and drawn."""
    base, measure = pairs[0][1]["a"], pairs[0][1]["measure"]
    several = len({how for how, _ in pairs}) > 1
    scale, marks, axis = interval_axis(
        [100 * one[end] for _, one in pairs for end in ("low", "high")]
    )
    names = ["Column", *["Read"] * several, "Difference", f"{100 * CONFIDENCE:g}% interval"]
    head = [Cell(name, "", "col") for name in names]
    head.append(Cell("Drawn", "drawn", "col", svg=axis))
    head += [Cell(n, "", "col") for n in ("p", "p corrected", "Significant", "Queries")]
    bodies = []
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        rows = []
        for how, one in group:
            middle, low, high = (100 * one[name] for name in ("difference", "low", "high"))
            sure = one["corrected"] < SIGNIFICANT
            said = f"{one['b']} less {base}: {middle:+.1f}, from {low:+.1f} to {high:+.1f}"
            cells = [f"{low:+.1f} to {high:+.1f}", probability(one["p"])]
            cells += [probability(one["corrected"]), "yes" if sure else "no", f"{one['queries']:,}"]
            row = [Cell(one["b"], "", "row"), *[Cell(how or "-")] * several]
            row.append(Cell(f"{middle:+.1f}", "strong" if sure else ""))
            row += map(Cell, cells)
            drawn = interval(scale, marks, low, middle, high, sure, said)
            row.insert(-4, Cell("", "drawn", svg=drawn))
            rows.append(row)
        bodies.append(rows)
    caption = f"{measure}: every column less {base}, points of percent"
    return {"a": base, "measure": measure, "table": Table(caption, [[head], *bodies], "compared")}


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


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """How the figures came about, in terms and what is to be said of them."""
    model, made, settings = report["model"], report["made"], report["settings"]
    if model:
        yield (
            "Model",
            (
                f"{model['source'] or BUNDLED_NAME}, {model['dtype']} on {model['device']}, heads "
                f"{', '.join(model['heads'])}, reads up to {model['max_length']:,} tokens"
            ),
        )
        yield "Fingerprint", model["fingerprint"]
    else:
        yield "Model", "none"
    machine = made["machine"]
    gpu = f"{machine['gpu']}; " if machine["gpu"] else ""
    threads = _counted(machine["threads"], "thread")
    yield "Made", f"{made['when']} in {report['seconds']:,.0f} s"
    yield (
        "Machine",
        (f"{gpu}{machine['cpu']}, {threads}; {machine['system']}, Python {machine['python']}"),
    )
    yield "Versions", ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    if suites := settings.get("suites"):
        yield "Asked for", ", ".join(suites)
    defaults = asdict(EvaluateConfig())
    changed = [
        f"{_SETTINGS.get(name, name)}: {_said(value)}"
        for name, value in settings.items()
        if name not in ("suites", "tuned") and value != defaults.get(name)
    ]
    yield "Settings", "; ".join(changed) or "all as they come"
    if tuned := settings.get("tuned"):
        yield (
            "Weights tuned",
            (
                f"{', '.join(f'{value:g}' for value in tuned['weights'])} on "
                f"{', '.join(tuned['tasks'])}: nDCG@10 {percent(tuned['before'])} before, "
                f"{percent(tuned['after'])} after"
            ),
        )


def _said(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not set"}[value]
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _weights(tasks: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = []
    for (two, three, source), names in weights_of(tasks).items():
        unique = list(dict.fromkeys(names))
        of = _counted(len(unique), "task") if len(unique) > 3 else ", ".join(unique)
        rows.append([of, source, *(f"{value:g}" for value in (*two[:2], *three))])
    head = ["Tasks", "From", "dense, in dense+sparse", "sparse, in dense+sparse"]
    head += [f"{name}, in all" for name in ("dense", "sparse", "multi")]
    return _plain_table("Weights", head, rows, ("From",)) if rows else None


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> Table:
    """Sizes, what was left out or cut, and notes; a column that says nothing is left out."""

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
    cells = [[of[name] for name in head] for of in rows]
    return _plain_table("Tasks", head, cells, ("Suite", "Language", "Missing", "Notes"))


def _glossary(report: Report, looks: Mapping[str, Look]) -> list[tuple[str, str, str]]:
    """What each column is, in this evaluation: class of its swatch, name, description."""
    settings, protocol = report["settings"], Protocol()
    systems = report["columns"]
    base = "dense" if "dense" in systems or "sparse" not in systems else "sparse"
    rerank = f"{settings.get('rerank') or protocol.rerank:,}"
    union = f"{settings.get('union') or protocol.union:,}"
    heads = [head for head in ("dense", "sparse", "multi") if head in systems]
    known = {
        BM25: "baseline: ranks by the words that query and passage share (pairs of characters in "
        "Chinese, Japanese and Thai)",
        BM25_PIECES: "baseline: the same on the pieces of words that the model reads",
        "dense": "one vector for a text; searches all passages",
        "sparse": "a weight for each token that a text holds; searches all passages",
        "multi": f"a vector for each token of a text; ranks the best {rerank} of {base} again",
        "dense+sparse": f"weighted sum of both; ranks the best {union} of each together",
        "all": f"weighted sum of {', '.join(heads)}; ranks the best {rerank} of {base} again",
    }
    for name in (BM25, BM25_PIECES):
        known[name + CUT] = f"baseline: {name} on as much of each passage as the model read"
    if {task["kind"] for task in report["tasks"]} == {"bitext"}:  # nothing is ranked again
        known = {name: text.partition(";")[0] for name, text in known.items()}
    other = "a run of another system, measured as it came"
    return [(look.css, name, known.get(name, other)) for name, look in looks.items()]
