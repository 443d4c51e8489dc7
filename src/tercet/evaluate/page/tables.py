"""Tables of a report as HTML, each in a box of its own that scrolls.

Knows nothing of where figures come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from tercet.evaluate.page.figures import GROUPS, Grid, Look, Section, best
from tercet.evaluate.page.markup import Html, el, hidden, join, name_of
from tercet.evaluate.page.plots import interval, interval_head, interval_scale
from tercet.evaluate.results import percent
from tercet.evaluate.significance import CONFIDENCE, SIGNIFICANT

ACROSS = 18  # languages that stand side by side, as in the M3 paper's Tables 2 and 4; more go down
SHORT = 4  # characters of their names

Marks = Mapping[int, Mapping[str, bool]]  # row -> column -> significantly better, or worse


def box(caption: str, *content: object, css: str = "box") -> Html:
    """Something wide that scrolls by itself, by keyboard too."""
    return el("div", content, class_=css, role="group", aria_label=caption, tabindex=0)


def figures(
    caption: str, grid: Grid, looks: Mapping[str, Look], marks: Marks, base: str | None
) -> Html:
    """A table of percent: columns side by side, or languages where there are few."""
    names = grid.names[grid.averages :]
    across = (
        len(grid.columns) <= len(names) <= ACROSS
        and max(map(len, names)) <= SHORT
        and bool(grid.averages)
    )
    cells = [
        _cells(row, grid.columns, looks, marks.get(at, {}), base)
        for at, row in enumerate(grid.values)
    ]
    made = _across(grid, looks, cells) if across else _down(grid, looks, cells)
    return box(caption, el("table", el("caption", caption), made, class_="figures"))


def _cells(
    row: Sequence[float | None],
    columns: Sequence[str],
    looks: Mapping[str, Look],
    marks: Mapping[str, bool],
    base: str | None,
) -> list[tuple[str, Html]]:
    """The class and content of each cell of one task."""
    highest, out = best(row), []
    for at, (value, column) in enumerate(zip(row, columns, strict=True)):
        css = [looks[column].group]
        if at and looks[columns[at - 1]].group != looks[column].group:
            css.append("first")
        if at in highest:
            css.append("best")
        sign = None
        if column in marks:
            better = marks[column]
            said = f" significantly {'better' if better else 'worse'} than {base}: "
            shown = el(
                "span",
                "▲" if better else "▼",
                class_="up" if better else "down",
                aria_hidden="true",
            )
            sign = join((shown, hidden(said)))
        out.append((" ".join(css), join((sign, percent(value)))))
    return out


def _down(
    grid: Grid, looks: Mapping[str, Look], cells: Sequence[Sequence[tuple[str, Html]]]
) -> Html:
    groups = [
        (key, len(list(some)))
        for key, some in groupby(grid.columns, lambda name: looks[name].group)
    ]
    over = None
    if len(groups) > 1:
        over = el(
            "tr",
            el("td"),
            [
                el(
                    "th",
                    GROUPS[key],
                    colspan=count,
                    scope="colgroup",
                    class_="group first" if at else "group",
                )
                for at, (key, count) in enumerate(groups)
            ],
        )
    edges = {
        name
        for at, name in enumerate(grid.columns)
        if at and looks[grid.columns[at - 1]].group != looks[name].group
    }
    names = [
        el("th", name_of(name), scope="col", class_="first" if name in edges else None)
        for name in grid.columns
    ]
    head = el("thead", over, el("tr", el("td"), names))
    body = [
        el(
            "tr",
            el("th", name_of(name), scope="row"),
            [
                el("td", content, class_=css.replace("own", "").strip() or None)
                for css, content in row
            ],
            class_="avg" if at < grid.averages else None,
        )
        for at, (name, row) in enumerate(zip(grid.names, cells, strict=True))
    ]
    return join((head, el("tbody", body)))


def _across(
    grid: Grid, looks: Mapping[str, Look], cells: Sequence[Sequence[tuple[str, Html]]]
) -> Html:
    heads = [
        el("th", name_of(name), scope="col", class_="avg" if at < grid.averages else None)
        for at, name in enumerate(grid.names)
    ]
    head = el("thead", el("tr", el("td"), heads))
    bodies = []
    several = len({looks[name].group for name in grid.columns}) > 1
    for key, some in groupby(range(len(grid.columns)), lambda at: looks[grid.columns[at]].group):
        rows = []
        if several:
            group = el(
                "th",
                el("span", GROUPS[key]),
                colspan=len(grid.names) + 1,
                scope="rowgroup",
                class_="group",
            )
            rows.append(el("tr", group))
        for at in some:
            found = []
            for number, row in enumerate(cells):
                css, content = row[at]
                kept = [word for word in css.split() if word in ("base", "best")]
                kept += ["avg"] if number < grid.averages else []
                found.append(el("td", content, class_=" ".join(kept) or None))
            rows.append(el("tr", el("th", name_of(grid.columns[at]), scope="row"), found))
        bodies.append(el("tbody", rows))
    return join((head, bodies))


def key(grid: Grid, marks: Marks, base: str | None) -> Html | None:
    """What the marks of a table mean; None where there can be none."""
    if len(grid.columns) < 2:
        return None
    said: list[object] = [
        el("b", "Bold"),
        ": the highest of what is compared, and all that show the same. ",
    ]
    if base is not None:
        said += [
            el("span", "▲", class_="up"),
            " ",
            el("span", "▼", class_="down"),
            " better, worse than ",
            name_of(base),
            f" by more than chance explains (p below {SIGNIFICANT:g}, corrected).",
            "" if any(marks.values()) else " Here none is.",
        ]
    return el("p", said, class_="key")


def compared(sections: Sequence[Section]) -> Html:
    """Differences from one column with their intervals, as numbers and drawn."""
    rows = [(section.reading, one) for section in sections for one in section.comparisons]
    several = len({reading for reading, _ in rows}) > 1
    base, measure = rows[0][1]["a"], rows[0][1]["measure"]
    scale, marks = interval_scale(
        [100 * one["low"] for _, one in rows], [100 * one["high"] for _, one in rows]
    )
    head = [
        el("th", "Read", scope="col") if several else None,
        el("th", "Difference", scope="col"),
        el("th", f"{100 * CONFIDENCE:g}% interval", scope="col"),
        el("th", hidden("Drawn"), interval_head(scale, marks), scope="col", class_="drawn"),
        el("th", "p", scope="col"),
        el("th", "p corrected", scope="col"),
        el("th", "Significant", scope="col"),
        el("th", "Queries", scope="col"),
    ]

    def row(reading: str, one: Mapping[str, Any]) -> Html:
        middle, low, high = (100 * one[name] for name in ("difference", "low", "high"))
        sure = one["corrected"] < SIGNIFICANT
        said = f"{one['b']} less {base}: {middle:+.1f}, from {low:+.1f} to {high:+.1f}"
        return el(
            "tr",
            el("th", name_of(one["b"]), scope="row"),
            el("td", reading or "-") if several else None,
            el("td", f"{middle:+.1f}", class_="strong" if sure else None),
            el("td", f"{low:+.1f} to {high:+.1f}"),
            el("td", interval(scale, marks, middle, low, high, sure, said), class_="drawn"),
            el("td", probability(one["p"])),
            el("td", probability(one["corrected"])),
            el("td", "yes" if sure else "no"),
            el("td", f"{one['queries']:,}"),
        )

    bodies = [
        el("tbody", [row(section.reading, one) for one in section.comparisons])
        for section in sections
    ]
    caption = f"{measure}: every column less {base}, points of percent"
    return box(
        caption,
        el(
            "table",
            el("caption", caption),
            el("thead", el("tr", el("th", "Column", scope="col"), head)),
            bodies,
            class_="compared",
        ),
    )


def probability(p: float) -> str:
    """p to four places; what is less than they show is said to be less."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def plain(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    words: Sequence[str] = (),
    last: Sequence[object] | None = None,
) -> Html:
    """Any other table: the first cell of a row names it; columns in `words` are text."""

    def line(row: Sequence[object], css: str | None = None) -> Html:
        cells = [
            el("td", cell, class_="words" if name in words else None)
            for name, cell in zip(head[1:], row[1:], strict=True)
        ]
        return el("tr", el("th", row[0], scope="row"), cells, class_=css)

    heads = [
        el("th", name, scope="col", class_="words" if name in words else None) for name in head
    ]
    body = [line(row) for row in rows]
    if last is not None:
        body.append(line(last, "sum"))
    return box(
        caption,
        el("table", el("caption", caption), el("thead", el("tr", heads)), el("tbody", body)),
    )
