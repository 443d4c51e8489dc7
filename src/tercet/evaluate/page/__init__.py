"""A report as one HTML page: tables, plots, and how its figures came about.

The page needs nothing but itself: no script, no font, no address, which its own policy forbids as
well. Knows nothing of how figures were made, and trusts no name in a report.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from tercet.config import BUNDLED_NAME
from tercet.evaluate.page.facts import facts, lead, the_columns
from tercet.evaluate.page.figures import Grid, Look, Section, looks, meaning, sections
from tercet.evaluate.page.markup import Html, el, join, name_of
from tercet.evaluate.page.plots import against, bars, curves
from tercet.evaluate.page.tables import Marks, box, compared, figures, key
from tercet.evaluate.systems import BASELINES, BM25, OWN

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Mapping[str, Any]) -> str:
    """The page of a report that `results.report` made; the same report makes the same page."""
    of_suites = sections(report)
    seen = looks(report["columns"])
    parts: list[tuple[str, Html]] = []
    if summary := _summary(of_suites, report["columns"], seen):
        parts.append(("At a glance", summary))
    if report["columns"]:
        parts.append(("The columns", the_columns(report)))
    for suite, some in of_suites.items():
        parts.append((suite, join(_suite(some, report["columns"], seen))))
    parts += facts(report)
    title = f"Evaluation of {subject(report)}"
    links = [
        el("li", el("a", name_of(name), href=f"#part-{at}"))
        for at, (name, _) in enumerate(parts, 1)
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html(files(__name__).joinpath("page.css").read_text(encoding="utf-8"))),
    )
    body = el(
        "body",
        el("header", el("h1", "Evaluation of ", name_of(subject(report))), lead(report)),
        el("nav", el("ul", links), aria_label="Contents") if len(parts) > 1 else None,
        el(
            "main",
            [
                el(
                    "section",
                    el("h2", name_of(name), id=f"part-{at}"),
                    made,
                    aria_labelledby=f"part-{at}",
                )
                for at, (name, made) in enumerate(parts, 1)
            ],
        ),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def subject(report: Mapping[str, Any]) -> str:
    """What is evaluated, for the title."""
    if report["model"]:
        return report["model"]["source"] or BUNDLED_NAME
    outside = [name for name in report["columns"] if name not in (*BASELINES, *OWN)]
    shown = [name for name in report["columns"] if name in BASELINES] + outside
    return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "") or "nothing"


def _summary(
    of_suites: Mapping[str, Sequence[Section]], order: Sequence[str], seen: Mapping[str, Look]
) -> Html | None:
    """The averages of all suites and measures; None where one task's table says it all."""
    last = [section for some in of_suites.values() for section in _widest(some)]
    rows: list[tuple[str, Mapping[str, float | None]]] = []
    marks: dict[int, Mapping[str, bool]] = {}
    bases: set[str | None] = set()
    for section in last:
        for average in section.averages:
            measure = average["measure"]
            if found := section.marks(measure):
                marks[len(rows)] = found
            bases.add(section.base(measure))
            name = f"{section.suite}: {measure}"
            if len(of_suites[section.suite]) > 1:
                name += f", {section.reading}"
            rows.append((name, average["tasks"]))
    if not rows or (len(of_suites) == 1 and len(last[0].tasks) == 1):
        return None
    columns = tuple(name for name in order if any(name in row for _, row in rows))
    values = tuple(tuple(row.get(name) for name in columns) for _, row in rows)
    grid = Grid(tuple(name for name, _ in rows), columns, values)
    base = next(iter(sorted(bases - {None}, key=str)), None)
    said = (
        "The average over the tasks of each suite: each task counts once, and a column has an "
        "average where all tasks of the suite have it."
    )
    if base is not None:
        said += " Only the first measure of a suite was tested for significance."
    return join(
        (
            el("p", said),
            figures("Averages of all suites, percent", grid, seen, marks, base),
            key(grid, marks, base),
        )
    )


def _widest(some: Sequence[Section]) -> list[Section]:
    """Of a suite's sections the one at the longest length, and those by best chunks."""
    whole = [section for section in some if not section.chunk]
    return whole[-1:] + [section for section in some if section.chunk]


def _suite(
    some: Sequence[Section], order: Sequence[str], seen: Mapping[str, Look]
) -> Iterator[Html]:
    longest = some[-1]
    if not longest.measures:
        yield el("p", "There are no figures.")
    elif len(some) == 1:
        for at, measure in enumerate(longest.measures):
            yield el("h3", measure)
            yield join(_measure(longest, measure, order, seen, plotted=at == 0))
    else:
        for measure in longest.measures:
            yield el("h3", f"{measure}{_by(some)}")
            yield join(_lengths(some, measure, order, seen))
        for section in some if len(longest.tasks) > 1 else ():
            inside = [
                (
                    el("h4", measure),
                    _measure(section, measure, order, seen, plotted=section is longest and at == 0),
                )
                for at, measure in enumerate(section.measures)
            ]
            title = el("summary", _all_tasks(section))
            yield el("details", title, inside, open=section is longest)
    if longest.measures:
        yield from _pairs(longest, longest.measures[0], seen)
    if any(section.comparisons for section in some):
        one = next(one for section in some for one in section.comparisons)
        yield el("h3", "Compared with ", name_of(one["a"]))
        yield el(
            "p",
            f"{one['measure']}, paired by query: a randomisation test gives p, a bootstrap "
            "the interval; p is corrected (Holm) for all comparisons of the suite at one length.",
        )
        yield compared(some)


def _by(some: Sequence[Section]) -> str:
    """How the sections of a suite differ, behind a measure's name."""
    kinds = {bool(section.chunk) for section in some}
    return ", whole and by best passage" if len(kinds) > 1 else " by length"


def _all_tasks(section: Section) -> str:
    how = section.reading or "full length"
    before = "by" if section.chunk else "read" if how.startswith("whole") else "at"
    return f"All tasks {before} {how}"


def _measure(
    section: Section, measure: str, order: Sequence[str], seen: Mapping[str, Look], plotted: bool
) -> Iterator[Html]:
    """The table and the bars of a measure, and the same by language where that says more."""
    grid = section.grid(measure, order)
    base = section.base(measure)
    marks: Marks = {0: section.marks(measure)} if grid.averages or grid.single else {}
    where = f"{section.suite}, {measure}"
    where += f", {section.reading}" if section.reading else ""
    if said := meaning(measure):
        yield el("p", f"{said[0].upper()}{said[1:]}, in percent.")
    if not grid.columns:
        yield el("p", "There are no figures.")
        return
    yield figures(f"{where}, percent", grid, seen, marks, base)
    yield key(grid, marks, base) or Html()
    shown = _bars(where, measure, grid, seen, base)
    yield shown if plotted else el("details", el("summary", f"{measure}, drawn"), shown)
    if grouped := section.by_language(measure, order):
        yield el(
            "details",
            el("summary", f"{measure} by language"),
            figures(f"{where} by language, percent", grouped, seen, {}, None),
            _bars(f"{where} by language", measure, grouped, seen, base),
        )


def _bars(where: str, measure: str, grid: Grid, seen: Mapping[str, Look], base: str | None) -> Html:
    if sum(value is not None for row in grid.values for value in row) < 2:
        return Html("")
    base = base if base is not None and len(grid.columns) > 1 else None
    about = "A bar for each figure of the table above."
    margin, panels = bars(grid, dict(seen), base, f"{where}, as bars", about)
    said: list[object] = [f"{measure}, percent."]
    if base is not None:
        said += [" The line across a bar is ", name_of(base), "."]
    return el(
        "figure",
        box(f"{where}, as bars", margin, panels, css="box panels"),
        el("figcaption", said),
    )


def _lengths(
    some: Sequence[Section], measure: str, order: Sequence[str], seen: Mapping[str, Look]
) -> Iterator[Html]:
    """The averages by maximum length: a curve and its table."""
    kept = [section for section in some if measure in section.measures]
    found = [
        next(average["tasks"] for average in section.averages if average["measure"] == measure)
        for section in kept
    ]
    columns = tuple(name for name in order if any(name in of for of in found))
    values = tuple(tuple(of.get(name) for name in columns) for of in found)
    names = tuple(section.reading or "full length" for section in kept)
    grid = Grid(names, columns, values)
    marks = {at: section.marks(measure) for at, section in enumerate(kept)}
    said = "Averages over tasks" if len(some[-1].tasks) > 1 else "The task"
    if not all(section.chunk for section in kept):
        said += " where passages are cut at so many tokens,"
    said += " in percent."
    if any(section.chunk for section in kept):
        said += " By best passage, a document counts as its best chunk of so many tokens does."
    if BM25 in columns:
        said += " BM25 reads documents whole, but for its columns called cut."
    yield el("p", said)
    where = f"{some[0].suite}, {measure}{_by(kept)}"
    sized = list(zip(kept, values, strict=True))
    for chunks in (False, True):
        mine = [(s.max_length, row) for s, row in sized if s.max_length and bool(s.chunk) == chunks]
        lengths = [length for length, _ in mine]
        lines = {name: [row[at] for _, row in mine] for at, name in enumerate(columns)}
        if len(lengths) > 1 and any(v is not None for line in lines.values() for v in line):
            about = "A line for each column of the table below."
            what = where
            if len(mine) < len(kept):
                what += f", {'best passage' if chunks else 'whole'}"
            plot = curves(lengths, lines, seen, what, about)
            drawn = box(f"{what}, as curves", plot, css="box plot")
            end = f"{measure}, percent{', by best passage' if chunks else ''}."
            yield el("figure", drawn, el("figcaption", end))
    base = some[-1].base(measure)
    yield figures(f"{where}, percent", grid, seen, marks, base)
    yield key(grid, marks, base) or Html()


def _pairs(section: Section, measure: str, seen: Mapping[str, Look]) -> Iterator[Html]:
    """Columns against each other, task by task."""
    grid = section.grid(measure, list(seen))
    plots = []
    for x, y in rivals(grid.columns, section.base(measure)):
        across, up = grid.column(x), grid.column(y)
        both = [(a, b) for a, b in zip(across, up, strict=True) if a is not None and b is not None]
        if len(both) < 2:
            continue
        rounded = [(round(100 * a, 1), round(100 * b, 1)) for a, b in both]
        ahead, behind = sum(b > a for a, b in rounded), sum(b < a for a, b in rounded)
        even = len(both) - ahead - behind
        title = f"{section.suite}, {measure}: {y} against {x}"
        about = f"A point for each of {len(both)} tasks; {y} is ahead on {ahead}."
        names = grid.names[grid.averages :]
        said = el(
            "figcaption",
            name_of(y),
            f" is ahead on {ahead} of {len(both)} tasks, ",
            name_of(x),
            f" on {behind}{f'; even on {even}' if even else ''}.",
        )
        plots.append(el("figure", against(names, across, up, (x, y), title, about), said))
    if plots:
        yield el("h3", "Head against head")
        yield el(
            "p",
            f"{measure} in percent, a point for each task; above the diagonal "
            "(filled) the column named at the side is ahead.",
        )
        yield el("div", plots, class_="pairs")


def rivals(columns: Sequence[str], base: str | None) -> list[tuple[str, str]]:
    """Which columns to set against which: dense and sparse, and the best sum against the rest."""
    own = [name for name in columns if name in OWN]
    baselines = [name for name in columns if name in BASELINES]
    if base is None or base not in columns:
        base = baselines[0] if baselines else None
    wanted = [("dense", "sparse")]
    top = own[-1] if own else base  # OWN ends with the widest sum
    if base is not None:
        wanted.append((base, top or base))
    outside = [name for name in columns if name not in (*BASELINES, *OWN)]
    wanted += [(name, top) for name in outside[:2] if top]
    kept = [(x, y) for x, y in wanted if x != y and x in columns and y in columns]
    return list(dict.fromkeys(kept))
