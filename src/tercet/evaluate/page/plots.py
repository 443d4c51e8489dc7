"""Plots as SVG: bars, curves, one column against another, intervals.

Sizes are CSS pixels at the size of the text, so that a plot that is too wide scrolls and never
shrinks. Colours are classes of page.css. No figure is told by colour alone. Knows nothing of
reports: it draws numbers in percent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

from tercet.evaluate.page.figures import Grid, Look
from tercet.evaluate.page.markup import Html, el

CHARACTER = 6.6  # about, of the 12 px font; wide ones are twice that
WIDTH = 1200  # a plot of bars, where the panels can be as narrow as that
ROW, BAR = 18, 10
HEAD, FOOT = 24, 22  # over and under the rows of bars
FIGURE = 38  # room for the figure in front of a bar

Number = float | None


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)


def ticks(
    low: float, high: float, count: int = 5, steps: Sequence[int] = (1, 2, 5, 10)
) -> list[float]:
    """Round numbers around a range, about so many of them.

    >>> ticks(3, 47)
    [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    if high - low < 1e-3:  # far less than a figure shows
        low, high = low - 1, high + 1
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in steps if (high - low) / (step * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 6) for at in range(first, last + 1)]


def fitted(text: str, width: float) -> str:
    """A text that takes about so many pixels, with its end left out where it is longer."""
    room = width / CHARACTER
    for at, character in enumerate(text):
        room -= 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        if room < 0:
            return f"{text[: max(1, at - 1)].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    return text


def extent(text: str) -> float:
    """About how many pixels a text takes."""
    wide = sum(east_asian_width(character) in "WF" for character in text)
    return CHARACTER * (len(text) + wide)


def tick(value: float) -> str:
    return f"{value:g}"


def words(content: str, x: float, y: float, css: str = "", anchor: str | None = None) -> Html:
    """Text in a plot."""
    return el("text", content, x=x, y=y, class_=css or None, text_anchor=anchor)


def drawing(width: float, height: float, title: str, about: str, *content: object) -> Html:
    """A plot with its name and description for those who do not see it."""
    size = {"width": round(width), "height": round(height)}
    view = f"0 0 {round(width)} {round(height)}"
    described = (el("title", title), el("desc", about))
    return el("svg", *described, *content, viewBox=view, role="img", **size)


def bars(
    grid: Grid, looks: Mapping[str, Look], base: str | None, title: str, about: str
) -> tuple[Html, Html]:
    """The names of the rows, and panels of bars side by side; `base` is a line in each.

    Panels are columns and rows are tasks, or the other way where there are fewer tasks.
    """
    turned = len(grid.names) < len(grid.columns)
    rows, panels = (grid.columns, grid.names) if turned else (grid.names, grid.columns)
    at_base = grid.columns.index(base) if base in grid.columns else None
    shares = (value for row in grid.values for value in row if value is not None)
    marks = ticks(0, max(1.0, 100 * max(shares, default=0.0)), 2, (1, 2, 3, 4, 5, 10))
    # a gap behind averages, or between groups of columns
    tops, y = [], float(HEAD)
    for at, name in enumerate(rows):
        parts = looks[rows[at - 1]].group != looks[name].group if turned else at == grid.averages
        y += 8 if at and parts else 0
        tops.append(y)
        y += ROW
    label = min(190.0, max(extent(name) for name in rows)) + 12
    gap = 16
    pitch = min(200.0, max(100.0, (WIDTH - label) / len(panels)))
    scale = Scale(0, marks[-1], FIGURE, pitch - gap)
    drawn = []
    for number, panel in enumerate(panels):
        parts_of = [words(fitted(panel, pitch - 8), 6, 14, "head")]
        for mark in marks:
            x = scale(mark)
            parts_of.append(el("line", x1=x, x2=x, y1=HEAD - 3, y2=y + 3, class_="grid"))
            parts_of.append(words(tick(mark), x, y + 16, "soft", "middle"))
        for at, top in enumerate(tops):
            row, column = (number, at) if turned else (at, number)
            look = looks[grid.columns[column]]
            line = None if at_base in (None, column) else grid.values[row][at_base or 0]
            said = f"{grid.names[row]}, {look.name}"
            parts_of += _bar(scale, top, grid.values[row][column], line, look.css, said)
        drawn.append(el("g", parts_of, transform=f"translate({round(number * pitch + 6, 1)} 0)"))
    height = y + FOOT
    names = [
        words(fitted(name, 190), round(label - 6, 1), tops[at] + 13, anchor="end")
        for at, name in enumerate(rows)
    ]
    margin = el(
        "svg", names, width=round(label), height=round(height), aria_hidden="true", class_="names"
    )
    return margin, drawing(len(panels) * pitch + 6, height, title, about, *drawn)


def _bar(
    scale: Scale, y: float, value: Number, base: Number, css: str, said: str
) -> Iterator[Html]:
    """A figure, its bar, and a line across where `base` is."""
    shown = "-" if value is None else f"{100 * value:.1f}"
    yield words(shown, FIGURE - 5, y + 13, "n", "end")
    if value is None:
        return
    title, width = el("title", f"{said}: {shown}"), round(scale(100 * value) - FIGURE, 1)
    yield el("rect", title, x=FIGURE, y=y + (ROW - BAR) / 2, width=width, height=BAR, class_=css)
    if base is not None:
        x = scale(100 * base) - 1
        yield el("rect", x=x, y=y + 2, width=2, height=ROW - 4, class_="line")


def curves(
    lengths: Sequence[int],
    lines: Mapping[str, Sequence[Number]],
    looks: Mapping[str, Look],
    title: str,
    about: str,
) -> Html:
    """A line for each column over the lengths (a logarithmic axis), named at its end."""
    left, right, top, bottom = 44, 400, 12, 250
    every = [100 * v for values in lines.values() for v in values if v is not None]
    marks = ticks(min(every), max(every))
    down = Scale(marks[0], marks[-1], bottom, top)
    across = Scale(math.log2(lengths[0]), math.log2(lengths[-1]), left + 12, right)
    drawn = []
    for mark in marks:
        y = down(mark)
        drawn.append(el("line", x1=left, x2=right + 10, y1=y, y2=y, class_="grid"))
        drawn.append(words(tick(mark), left - 6, y + 4, "soft n", "end"))
    written = -math.inf
    for length in lengths:
        x, shown = across(math.log2(length)), f"{length:,}"
        drawn.append(el("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="grid"))
        if x - extent(shown) / 2 > written:
            drawn.append(words(shown, x, bottom + 18, "soft n", "middle"))
            written = x + extent(shown) / 2 + 4
    drawn.append(words("tokens of a passage", (left + right) / 2, bottom + 36, "soft", "middle"))
    ends = []
    for name, values in lines.items():
        points = [
            (across(math.log2(length)), down(100 * value), length, value)
            for length, value in zip(lengths, values, strict=True)
            if value is not None
        ]
        if not points:
            continue
        look = looks[name]
        way = " ".join(f"{x},{y}" for x, y, _, _ in points)
        shape = [el("polyline", points=way, class_="way", stroke_dasharray=look.dash or None)]
        for x, y, length, value in points:
            said = f"{name}, {length:,} tokens: {100 * value:.1f}"
            shape.append(marker(look.marker, x, y, said))
        drawn.append(el("g", shape, class_=look.css))
        ends.append((points[-1][1], points[-1][0], name))
    height = bottom + 44.0
    for y, (at, x, name) in zip(
        spread([end[0] for end in sorted(ends)]), sorted(ends), strict=True
    ):
        look = looks[name]
        lead = el("line", x1=x + 6, x2=right + 22, y1=at, y2=y, class_="lead")
        drawn.append(el("g", lead, marker(look.marker, right + 30, y, name), class_=look.css))
        drawn.append(words(fitted(name, 150), right + 40, y + 4))
        height = max(height, y + 12)
    return drawing(right + 200, height, title, about, *drawn)


def spread(places: Sequence[float], apart: float = 16, first: float = 10) -> list[float]:
    """Sorted places moved so far apart: those that crowd stand around their mean.

    >>> spread([20, 30, 90])
    [17.0, 33.0, 90.0]
    """
    crowds: list[list[float]] = []

    def start(crowd: list[float]) -> float:
        return max(first, sum(crowd) / len(crowd) - apart * (len(crowd) - 1) / 2)

    for place in places:
        crowds.append([place])
        while len(crowds) > 1 and start(crowds[-2]) + apart * len(crowds[-2]) > start(crowds[-1]):
            crowds[-2:] = [crowds[-2] + crowds[-1]]
    return [start(crowd) + apart * at for crowd in crowds for at in range(len(crowd))]


def marker(kind: str, x: float, y: float, said: str) -> Html:
    """A point of a curve; each group and head has its own shape."""
    paths = {
        "square": f"M{x - 4} {y - 4}h8v8h-8z",
        "triangle": f"M{x} {y - 5}l5 9h-10z",
        "diamond": f"M{x} {y - 5.5}l5.5 5.5l-5.5 5.5l-5.5-5.5z",
        "cross": f"M{x - 4} {y - 4}l8 8m0-8l-8 8",
    }
    title = el("title", said)
    if kind in paths:
        return el("path", title, d=paths[kind], class_=kind)
    return el("circle", title, cx=x, cy=y, r=5.5 if kind == "disc" else 4, class_=kind)


def against(
    names: Sequence[str],
    across: Sequence[Number],
    up: Sequence[Number],
    axes: tuple[str, str],
    title: str,
    about: str,
) -> Html:
    """A point for each task, one column across and another up, with the diagonal.

    Tasks far from it are named where there is room. Where `up` is ahead the point is filled.
    """
    left, right, top, bottom = 42, 276, 10, 244  # as wide as the narrowest screen
    both = zip(names, across, up, strict=True)
    points = [(n, 100 * x, 100 * y) for n, x, y in both if x is not None and y is not None]
    every = [value for _, x, y in points for value in (x, y)]
    marks = ticks(min(every), max(every))
    h, v = Scale(marks[0], marks[-1], left, right), Scale(marks[0], marks[-1], bottom, top)
    drawn = []
    for mark in marks:
        x, y = h(mark), v(mark)
        drawn.append(el("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        drawn.append(el("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        drawn.append(words(tick(mark), left - 6, y + 4, "soft n", "end"))
        drawn.append(words(tick(mark), x, bottom + 16, "soft n", "middle"))
    drawn.append(el("line", x1=left, y1=bottom, x2=right, y2=top, class_="even"))
    drawn.append(words(fitted(axes[0], 240), (left + right) / 2, bottom + 34, "head", "middle"))
    turn = f"translate(12 {(top + bottom) / 2}) rotate(-90)"
    drawn.append(el("g", words(fitted(axes[1], 240), 0, 0, "head", "middle"), transform=turn))
    for name, x, y in points:
        said = f"{name}: {axes[0]} {x:.1f}, {axes[1]} {y:.1f}"
        ahead = "up" if y > x else "down"
        drawn.append(el("circle", el("title", said), cx=h(x), cy=v(y), r=4, class_=ahead))
    far = sorted(points, key=lambda point: -abs(point[1] - point[2]))
    spots = [(name, h(x), v(y)) for name, x, y in far]
    drawn += _named(spots, left, right)
    return drawing(right + 12, bottom + 42, title, about, *drawn)


def _named(spots: Sequence[tuple[str, float, float]], left: float, right: float) -> Iterator[Html]:
    """Names beside the first of the points, where they hide neither a point nor a name."""
    taken: list[tuple[float, float, float]] = []
    for name, x, y in spots[:8]:
        shown = fitted(name, 120)
        width = extent(shown)
        for start in (x + 8, x - 8 - width):
            end = start + width
            free = left <= start and end <= right and len(taken) < 4
            free &= not any(abs(y - at) < 14 and start < e and s < end for s, e, at in taken)
            free &= not any(abs(y - b) < 9 and start - 4 < a < end + 4 for _, a, b in spots)
            if free:
                taken.append((start, end, y))
                yield words(shown, round(start, 1), y + 4, "name")
                break


def interval_scale(lows: Sequence[float], highs: Sequence[float]) -> tuple[Scale, list[float]]:
    """A scale for intervals of differences, 0 among them, and its ticks."""
    marks = ticks(min(0.0, *lows), max(0.0, *highs), 4)
    return Scale(marks[0], marks[-1], 14, 246), marks


def interval_head(scale: Scale, marks: Sequence[float]) -> Html:
    """The axis over a column of intervals."""
    drawn = [
        words(f"{mark:+g}" if mark else "0", scale(mark), 12, "soft", "middle") for mark in marks
    ]
    return el("svg", drawn, width=260, height=16, aria_hidden="true")


def interval(
    scale: Scale,
    marks: Sequence[float],
    middle: float,
    low: float,
    high: float,
    sure: bool,
    said: str,
) -> Html:
    """A difference and its interval; filled where it is significant."""
    drawn = [
        el("line", x1=scale(m), x2=scale(m), y1=0, y2=24, class_="even" if m == 0 else "grid")
        for m in marks
    ]
    drawn.append(el("line", x1=scale(low), x2=scale(high), y1=12, y2=12, class_="span"))
    drawn += [el("line", x1=scale(x), x2=scale(x), y1=8, y2=16, class_="span") for x in (low, high)]
    drawn.append(el("circle", cx=scale(middle), cy=12, r=4.5, class_="sure" if sure else "unsure"))
    return el("svg", el("title", said), drawn, width=260, height=24, role="img")
