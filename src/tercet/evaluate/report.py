"""A report as one HTML page: the verdict, tables, plots, and how its figures came about.

The page needs nothing but itself: no script, no font, no address, which its own policy forbids as
well. Looks are in `report.html.j2`. Knows nothing of how figures were made, and trusts no name in a
report.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
    Scale,
    bars,
    curves,
    interval,
    looks_of,
    ticks,
    words,
)
from tercet.evaluate.results import (
    Report,
    Section,
    average_rows,
    chunked,
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


# What the template knows how to write: blocks, in order.


@dataclass(frozen=True)
class Cell:
    """A cell of a table; with a scope it is the name of its row, its column or their group."""

    text: str
    css: str = ""
    scope: str = ""
    span: int = 1
    better: bool | None = None  # than the base by more than chance, or worse
    plot: Plot | None = None


@dataclass(frozen=True)
class Block:
    """A part of the page: kind is heading, p, key, table, plots, details or terms."""

    kind: str
    text: str = ""
    level: int = 3  # of a heading
    rows: Sequence[Sequence[Sequence[Cell]]] = ()  # of a table: its head, then its bodies
    plots: Sequence[tuple[Plot, ...]] = ()  # each a drawing, or names and panels side by side
    captions: Sequence[str] = ()  # of plots
    blocks: Sequence["Block"] = ()  # of details
    terms: Sequence[tuple[str, str, str]] = ()  # class of a swatch, term, description
    css: str = ""
    open: bool = False


def page(report: Report) -> str:
    """The page of a report that `results.report` made; the same report makes the same page.

    Raises MissingExtraError without Jinja2.
    """
    looks = looks_of(report["columns"])
    parts: list[tuple[str, list[Block]]] = []
    suites = suites_of(report)
    if summary := list(_summary(report, suites, looks)):
        parts.append(("At a glance", summary))
    parts += [(name, list(_suite(report, groups, looks))) for name, groups in suites.items()]
    parts.append(("How it was measured", list(_how(report))))
    if report["tasks"]:
        parts.append(("Tasks", list(_tasks(report["tasks"]))))
    if report["columns"]:
        parts.append(("The columns", list(_glossary(report, looks))))
    text = _template().render(
        subject=subject(report),
        verdicts=verdicts(report),
        lead=_lead(report),
        mind=list(_mind(report["tasks"])),
        parts=[(name, blocks) for name, blocks in parts if blocks],
        base=next((one["a"] for one in report["comparisons"]), ""),
        significant=f"{SIGNIFICANT:g}",
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


def subject(report: Report) -> str:
    """What is evaluated, for the title."""
    if report["model"]:
        return report["model"]["source"] or BUNDLED_NAME
    outside = [name for name in report["columns"] if name not in (*BASELINES, *OWN)]
    names = [name for name in report["columns"] if name in BASELINES] + outside
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "nothing"


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "query", "queries"), counted(1200, "task")
    ('1 query', '1,200 tasks')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


# Systems and their looks, suites and their tables


@dataclass(frozen=True)
class Group:
    """One suite at one maximum length, or by the best chunks of one size."""

    section: Section
    reading: str  # in words; "" where there is nothing to say
    tasks: Sequence[Mapping[str, Any]]
    averages: Mapping[str, Mapping[str, Any]]  # by measure
    comparisons: Sequence[Mapping[str, Any]]

    def marks(self, measure: str) -> dict[str, bool]:
        """Systems that differ from the base by more than chance: whether they are better."""
        return {
            one["b"]: one["difference"] > 0
            for one in self.comparisons
            if one["measure"] == measure and one["corrected"] < SIGNIFICANT
        }

    def base(self, measure: str) -> str | None:
        """What the systems are compared with."""
        return next((one["a"] for one in self.comparisons if one["measure"] == measure), None)

    def grid(self, measure: str, order: Iterable[str]) -> Grid:
        """Averages and tasks by system."""
        tasks = [
            {name: of[measure] for name, of in task["figures"].items() if measure in of}
            for task in self.tasks
        ]
        lead = average_rows(self.averages[measure], len(tasks))
        rows = [*lead, *zip(labels(self.tasks), tasks, strict=True)]
        marks = {0: self.marks(measure)} if lead or len(tasks) == 1 else {}
        base = self.base(measure)
        return Grid.of(rows, order, averages=len(lead), marks=marks, base=base)


def suites_of(report: Report) -> dict[str, list[Group]]:
    """Suite -> its groups, the shortest length first, chunks behind whole passages."""
    out: dict[str, list[Group]] = {}
    sections = list(dict.fromkeys(map(section_of, report["tasks"])))
    out |= {suite: [] for suite, _, _ in sections}
    for section in sorted(sections, key=lambda key: (key[2], key[1] or 0)):
        tasks, averages, compared = (
            [one for one in report[kind] if section_of(one) == section]
            for kind in ("tasks", "averages", "comparisons")
        )
        how = reading(tasks[0], chunked(report["tasks"]))
        by_measure = {average["measure"]: average for average in averages}
        out[section[0]].append(Group(section, how, tasks, by_measure, compared))
    return out


def labels(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of tasks without what all have in front, up to a slash.

    >>> labels([{"name": "miracl/sw"}, {"name": "miracl/yo"}])
    ['sw', 'yo']
    """
    names = [str(task["name"]) for task in tasks]
    front = {name.partition("/")[0] for name in names}
    if len(front) == 1 and all(name.partition("/")[2] for name in names):
        return [name.partition("/")[2] for name in names]
    return names


def best(values: Sequence[Number]) -> set[int]:
    """Places of the highest figure as a table shows it; none where all are the same."""
    shown = [None if value is None else round(100 * value, 1) for value in values]
    present = [value for value in shown if value is not None]
    if len(set(present)) < 2:
        return set()
    return {place for place, value in enumerate(shown) if value == max(present)}


def figures(caption: str, grid: Grid, looks: Mapping[str, Look]) -> Iterator[Block]:
    """A table of percent, and what its marks mean.

    Systems stand side by side; languages do where they are few (18 as in the M3 paper's tables 2
    and 4) and their names short.
    """
    names = grid.names[grid.averages :]
    across = len(grid.systems) <= len(names) <= 18 and max(map(len, names)) <= 4 and grid.averages
    groups = [looks[name].group for name in grid.systems]
    edges = {place for place in range(1, len(groups)) if groups[place] != groups[place - 1]}
    cells: list[list[Cell]] = []
    for number, row in enumerate(grid.values):
        highest, marks = best(row), grid.marks.get(number, {})
        cells.append([])
        for place, (value, system) in enumerate(zip(row, grid.systems, strict=True)):
            css = ["base"] if groups[place] == "Baselines" else []
            css += ["first"] if place in edges and not across else []
            css += ["best"] if place in highest else []
            css += ["avg"] if number < grid.averages else []
            cells[-1].append(Cell(percent(value), " ".join(css), better=marks.get(system)))
    averages = ["avg" if number < grid.averages else "" for number in range(len(grid.names))]
    runs = [(group, len(list(of))) for group, of in groupby(groups)]
    if across:
        head = [
            [Cell(""), *(Cell(n, css, "col") for n, css in zip(grid.names, averages, strict=True))]
        ]
        bodies, first = [], 0
        for group, size in runs:
            rows = [[Cell(group, "group", "rowgroup", len(grid.names) + 1)]] * (len(runs) > 1)
            for place in range(first, first + size):
                rows.append([Cell(grid.systems[place], "", "row"), *(of[place] for of in cells)])
            bodies.append(rows)
            first += size
    else:
        over = [Cell(g, "group first" if n else "group", "colgroup", size)
                for n, (g, size) in enumerate(runs)]  # fmt: skip
        head = [[Cell(""), *over]] * (len(runs) > 1)
        head += [[Cell(""), *(Cell(name, "first" if place in edges else "", "col")
                              for place, name in enumerate(grid.systems))]]  # fmt: skip
        named = zip(grid.names, averages, cells, strict=True)
        bodies = [[[Cell(name, css, "row"), *row] for name, css, row in named]]
    yield Block("table", caption, rows=[head, *bodies], css="figures")
    if len(grid.systems) > 1:
        yield Block("key", grid.base or "", css="" if any(grid.marks.values()) else "none")


def plain_table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()
) -> Block:
    """Any other table: the first cell of a row names it; columns in `words` are text."""
    css = ["words" if name in words else "" for name in head]
    heads = [Cell(name, of, "col") for name, of in zip(head, css, strict=True)]
    body = [
        [Cell(row[0], "", "row"), *(Cell(*pair) for pair in zip(row[1:], css[1:], strict=True))]
        for row in rows
    ]
    return Block("table", caption, rows=[[heads], body])


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
    for pattern, form in _MEASURES:
        if match := re.fullmatch(pattern, measure):
            return form.format(*match.groups())
    return ""


# The parts of the page


def _lead(report: Report) -> str:
    tasks = report["tasks"]
    text = f"Measured on {report['made']['when'][:10]}: "
    text += counted(len({task["name"] for task in tasks}), "task")
    if suites := list(dict.fromkeys(task["suite"] for task in tasks)):
        text += f" of {', '.join(suites)}"
    if languages := {task["language"] for task in tasks if task["language"]}:
        text += f", in {counted(len(languages), 'language')}"
    return (
        f"{text}. All figures are percent: 100 is the best there is, and each is a mean over the "
        "queries of a task."
    )


def _mind(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader of the figures should know of the tasks."""

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
) -> Iterator[Block]:
    """The averages of all suites and measures; nothing where one task's table says it all."""
    rows: list[tuple[str, Mapping[str, Number]]] = []
    marks: dict[int, Mapping[str, bool]] = {}
    for suite, groups in suites.items():
        whole = [group for group in groups if not group.section[2]]
        for group in whole[-1:] + [group for group in groups if group.section[2]]:
            for measure, average in group.averages.items():
                marks[len(rows)] = group.marks(measure)
                how = f", {group.reading}" if len(groups) > 1 else ""
                rows.append((f"{suite}: {measure}{how}", average["tasks"]))
    if not rows or (len(suites) == 1 and len(next(iter(suites.values()))[-1].tasks) == 1):
        return
    base = next((one["a"] for one in report["comparisons"]), None)
    yield Block(
        "p",
        "The average over the tasks of each suite: each task counts once, and a column has an "
        "average where all tasks of the suite have it."
        + (" Only the first measure of a suite was tested for significance." if base else ""),
    )
    grid = Grid.of(rows, report["columns"], marks=marks, base=base)
    yield from figures("Averages of all suites, percent", grid, looks)


def _suite(report: Report, groups: Sequence[Group], looks: Mapping[str, Look]) -> Iterator[Block]:
    last = groups[-1]
    if not last.averages:
        yield Block("p", "There are no figures.")
        return
    for measure in last.averages:
        if len(groups) == 1:
            yield Block("heading", measure)
            yield from _measure(last, measure, looks, plotted=measure == next(iter(last.averages)))
        else:
            yield Block("heading", f"{measure}{_differ(groups)}")
            yield from _lengths(groups, measure, looks)
    for group in groups if len(groups) > 1 and len(last.tasks) > 1 else ():
        inside: list[Block] = []
        for number, measure in enumerate(group.averages):
            inside.append(Block("heading", measure, level=4))
            plotted = group is last and number == 0
            inside += _measure(group, measure, looks, plotted=plotted)
        how = group.reading or "full length"
        before = "by" if group.section[2] else "read" if how.startswith("whole") else "at"
        title = f"All tasks {before} {how}"
        yield Block("details", title, blocks=inside, open=group is last)
    yield from _examples(report, groups)
    yield from _comparisons(groups)


def _differ(groups: Sequence[Group]) -> str:
    """How the groups of a suite differ, behind a measure's name."""
    kinds = {bool(group.section[2]) for group in groups}
    return ", whole and by best passage" if len(kinds) > 1 else " by length"


def _measure(
    group: Group, measure: str, looks: Mapping[str, Look], *, plotted: bool
) -> Iterator[Block]:
    """The table and the bars of a measure, and the same by language where that says more."""
    grid = group.grid(measure, looks)
    where = ", ".join(filter(None, (group.section[0], measure, group.reading)))
    if said := meaning(measure):
        yield Block("p", f"{said[0].upper()}{said[1:]}, in percent.")
    if not grid.systems:
        yield Block("p", "There are no figures.")
        return
    yield from figures(f"{where}, percent", grid, looks)
    drawn = list(_bars(where, measure, grid, looks))
    yield from (
        drawn if plotted or not drawn else [Block("details", f"{measure}, drawn", blocks=drawn)]
    )
    by_language = group.averages[measure]["by_language"]
    if 1 < len(by_language) < len(group.tasks):
        rows = [(language or "not said", of) for language, of in by_language.items()]
        languages = Grid.of(rows, looks)
        where += " by language"
        inside = [*figures(f"{where}, percent", languages, looks)]
        inside += _bars(where, measure, languages, looks)
        yield Block("details", f"{measure} by language", blocks=inside)


def _bars(where: str, measure: str, grid: Grid, looks: Mapping[str, Look]) -> Iterator[Block]:
    if sum(value is not None for row in grid.values for value in row) < 2:
        return
    about = f"{measure}, percent."
    if grid.base in grid.systems and len(grid.systems) > 1:
        about += f" The line across a bar is {grid.base}."
    yield Block("plots", plots=[bars(grid, looks, f"{where}, as bars")], captions=[about])


def _lengths(groups: Sequence[Group], measure: str, looks: Mapping[str, Look]) -> Iterator[Block]:
    """The averages by maximum length: a curve and its table."""
    groups = [group for group in groups if measure in group.averages]
    rows = [(g.reading or "full length", g.averages[measure]["tasks"]) for g in groups]
    marks = {number: group.marks(measure) for number, group in enumerate(groups)}
    grid = Grid.of(rows, looks, marks=marks, base=groups[-1].base(measure))
    chunks = [bool(group.section[2]) for group in groups]
    text = "Averages over tasks" if len(groups[-1].tasks) > 1 else "The task"
    text += "" if all(chunks) else " where passages are cut at so many tokens,"
    text += " in percent."
    if any(chunks):
        text += " By best passage, a document counts as its best chunk of so many tokens does."
    if BM25 in grid.systems:
        text += " BM25 reads documents whole, but for its columns called cut."
    yield Block("p", text)
    where = f"{groups[0].section[0]}, {measure}{_differ(groups)}"
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
            drawn = curves(lengths, lines, looks, where + which)
            yield Block("plots", plots=[(drawn,)], captions=[end])
    yield from figures(f"{where}, percent", grid, looks)


def _examples(report: Report, groups: Sequence[Group]) -> Iterator[Block]:
    """Questions that the best of what was compared won and lost, at the longest length."""
    section = groups[-1].section
    examples = [one for one in report.get("examples", ()) if section_of(one) == section]
    if not examples:
        return
    a, b, measure = (examples[0][name] for name in ("a", "b", "measure"))
    yield Block("heading", "Questions won and lost")
    yield Block("p", f"Where {b} is furthest ahead of {a}, then where it is furthest behind.")
    rows = [
        [one["text"], one["task"], percent(one["value_a"]), percent(one["value_b"])]
        for one in examples
    ]
    caption = f"{section[0]}, questions won and lost by {measure}, percent"
    yield plain_table(caption, ["Question", "Task", a, b], rows, ("Question", "Task"))


def _comparisons(groups: Sequence[Group]) -> Iterator[Block]:
    """Differences from one system with their intervals, as numbers and drawn."""
    pairs = [(group.reading, one) for group in groups for one in group.comparisons]
    if not pairs:
        return
    base, measure = pairs[0][1]["a"], pairs[0][1]["measure"]
    yield Block("heading", f"Compared with {base}")
    yield Block(
        "p",
        f"{measure}, paired by query: a randomisation test gives p, a bootstrap the interval; p is "
        "corrected (Holm) for all comparisons of the suite at one length.",
    )
    several = len({how for how, _ in pairs}) > 1
    ends = [100 * one[end] for _, one in pairs for end in ("low", "high")]
    marks = ticks(min(0.0, *ends), max(0.0, *ends), 4)
    scale = Scale(marks[0], marks[-1], 14, 246)
    axis = [
        words(f"{mark:+g}" if mark else "0", scale(mark), 12, "soft", "middle") for mark in marks
    ]
    names = [
        "Column",
        *(["Read"] if several else []),
        "Difference",
        f"{100 * CONFIDENCE:g}% interval",
    ]
    head = [Cell(name, "", "col") for name in names]
    head.append(Cell("Drawn", "drawn", "col", plot=Plot("", 260, 16, axis, hidden=True)))
    head += [Cell(n, "", "col") for n in ("p", "p corrected", "Significant", "Queries")]
    bodies = []
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        rows = []
        for how, one in group:
            middle, low, high = (100 * one[name] for name in ("difference", "low", "high"))
            sure = one["corrected"] < SIGNIFICANT
            row = [Cell(one["b"], "", "row"), *([Cell(how or "-")] if several else [])]
            row.append(Cell(f"{middle:+.1f}", "strong" if sure else ""))
            row.append(Cell(f"{low:+.1f} to {high:+.1f}"))
            said = f"{one['b']} less {base}: {middle:+.1f}, from {low:+.1f} to {high:+.1f}"
            drawn = interval(scale, marks, (low, middle, high), sure, said)
            row.append(Cell("", "drawn", plot=drawn))
            row += [Cell(probability(one["p"])), Cell(probability(one["corrected"]))]
            row += [Cell("yes" if sure else "no"), Cell(f"{one['queries']:,}")]
            rows.append(row)
        bodies.append(rows)
    caption = f"{measure}: every column less {base}, points of percent"
    yield Block("table", caption, rows=[[head], *bodies], css="compared")


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


def _how(report: Report) -> Iterator[Block]:
    model, made, settings = report["model"], report["made"], report["settings"]
    terms = [("Model", "none")]
    if model:
        terms = [
            (
                "Model",
                f"{model['source'] or BUNDLED_NAME}, {model['dtype']} on {model['device']}, heads "
                f"{', '.join(model['heads'])}, reads up to {model['max_length']:,} tokens",
            ),
            ("Fingerprint", model["fingerprint"]),
        ]
    machine = made["machine"]
    where = f"{machine['cpu']}, {counted(machine['threads'], 'thread')}"
    where = f"{machine['gpu']}; {where}" if machine["gpu"] else where
    terms.append(("Made", f"{made['when']} in {report['seconds']:,.0f} s"))
    terms.append(("Machine", f"{where}; {machine['system']}, Python {machine['python']}"))
    terms.append(("Versions", ", ".join(f"{name} {v}" for name, v in made["versions"].items())))
    if suites := settings.get("suites"):
        terms.append(("Asked for", ", ".join(suites)))
    defaults = asdict(EvaluateConfig())
    changed = [
        f"{_SETTINGS.get(name, name)}: {_said(value)}"
        for name, value in settings.items()
        if name not in ("suites", "tuned") and value != defaults.get(name)
    ]
    terms.append(("Settings", "; ".join(changed) or "all as they come"))
    if tuned := settings.get("tuned"):
        terms.append(
            (
                "Weights tuned",
                f"{', '.join(f'{value:g}' for value in tuned['weights'])} on "
                f"{', '.join(tuned['tasks'])}: nDCG@10 {percent(tuned['before'])} before, "
                f"{percent(tuned['after'])} after",
            )
        )
    yield Block("terms", terms=[("", *pair) for pair in terms], css="facts")
    rows = []
    for (two, three, source), names in weights_of(report["tasks"]).items():
        tasks = list(dict.fromkeys(names))
        of = counted(len(tasks), "task") if len(tasks) > 3 else ", ".join(tasks)
        rows.append([of, source, *(f"{value:g}" for value in (*two[:2], *three))])
    if rows:
        yield Block("heading", "Weights of the sums")
        head = ["Tasks", "From", "dense, in dense+sparse", "sparse, in dense+sparse"]
        head += [f"{name}, in all" for name in ("dense", "sparse", "multi")]
        yield plain_table("Weights", head, rows, ("From",))


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else "not set" if value is None else str(value)


def _tasks(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """Sizes, what was left out or cut, and notes; a column that says nothing is left out."""
    cells: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Suite": lambda task: task["suite"],
        "Language": lambda task: task["language"] or "-",
        "Tokens": _tokens,
        "Chunks": lambda task: f"{task['chunks']:,}" if task["chunk"] else "-",
        "Passages": lambda task: f"{task['passages']:,}",
        "Queries": lambda task: f"{task['queries']:,}",
        "Queries that count": lambda task: f"{task['judged']:,}",
        "Without a relevant passage": lambda task: f"{task['skipped']:,}",
        "Missing": lambda task: "; ".join(f"{n}: {c:,}" for n, c in task["missing"].items()) or "-",
        "Passages cut, %": lambda task: percent(task["cut"].get("passages")),
        "Queries cut, %": lambda task: percent(task["cut"].get("queries")),
        "Seconds": lambda task: f"{sum(task['seconds'].values()):,.1f}",
        "Notes": lambda task: (
            "; ".join(
                [
                    *(["translations: passages are pairs"] * (task["kind"] == "bitext")),
                    *task["notes"],
                ]
            )
            or "-"
        ),
    }
    columns = {name: [cell(task) for task in tasks] for name, cell in cells.items()}
    columns = {name: column for name, column in columns.items() if set(column) != {"-"}}
    told = {
        "Tokens": "Tokens: the most that was read of a passage. ",
        "Chunks": "Chunks: of all passages, where each is scored by its best one. ",
        "Missing": "Missing: queries that a run lacks, 0 each. ",
        "Seconds": "Seconds: wall time; what was encoded before is not encoded again.",
    }
    if note := "".join(text for name, text in told.items() if name in columns):
        yield Block("p", note)
    rows = [list(row) for row in zip([t["name"] for t in tasks], *columns.values(), strict=True)]
    yield plain_table("Tasks", ["Task", *columns], rows, ("Suite", "Language", "Missing", "Notes"))


def _tokens(task: Mapping[str, Any]) -> str:
    size = f"{task['max_length']:,}" if task["max_length"] else "-"
    return f"{size}, best passage" if task["chunk"] else size


def _glossary(report: Report, looks: Mapping[str, Look]) -> Iterator[Block]:
    """What each column is, in this evaluation."""
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
    kinds = {task["kind"] for task in report["tasks"]}
    if kinds == {"bitext"}:  # nothing is ranked again
        known = {name: text.partition(";")[0] for name, text in known.items()}
    other = "a run of another system, measured as it came"
    terms = [(look.css, name, known.get(name, other)) for name, look in looks.items()]
    yield Block("terms", terms=terms, css="columns")
    if "bitext" in kinds:
        yield Block(
            "p",
            "In tasks of translations every text is compared with all of the other side, by every "
            "column.",
        )
    if chunked(report["tasks"]):
        yield Block(
            "p",
            "By best passage: every document was cut into chunks of at most so many tokens, "
            "special ones and its title (where it has one, it stands before each) among them, and "
            "a column of the model scores a document by the best of its chunks: by the highest "
            "score of a head, by the highest sum that one chunk has. What is ranked again counts "
            "in documents, and all their chunks are scored. BM25 reads documents whole.",
        )
