"""Plots of a report as SVG: bars, curves, intervals; and how each system looks in all of them.

Sizes are CSS pixels at the size of the text, so that a plot that is too wide scrolls and never
shrinks. Colours are classes of `report.html.j2`. No figure is told by colour alone. Knows nothing
of reports: it draws numbers.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from itertools import groupby
from typing import Any
from unicodedata import combining, east_asian_width

from tercet.evaluate.results import percent
from tercet.evaluate.systems import BASELINES, OWN

Number = float | None
Scale = Callable[[float], float]

CHARACTER = 6.6  # about, of the 12 px font; wide ones are twice that
ROW, BAR = 18, 10
HEAD, FOOT = 24, 22  # over and under the rows of bars
FIGURE = 38  # room for the figure in front of a bar


@dataclass(frozen=True)
class Look:
    """A system's group, and its colour (a class), marker and dash, wherever it is drawn."""

    group: str
    css: str
    marker: str
    dash: str


def looks_of(systems: Iterable[str]) -> dict[str, Look]:
    """Each system's look: that of its name for known ones, in order for outside runs."""
    markers = ("circle", "square", "triangle", "diamond", "disc")
    dashes = ("", "6 3", "2 3", "8 3 2 3")
    out, runs = {}, 0
    for name in systems:
        if name in BASELINES:
            out[name] = Look("Baselines", "c-base", "ring", dashes[BASELINES.index(name)])
        elif name in OWN:
            place = OWN.index(name)
            out[name] = Look("Model", f"c-{place + 1}", markers[place], "")
        else:
            dash = dashes[(runs // 2 + 1) % len(dashes)]
            out[name] = Look("Other runs", f"c-run{runs % 2 + 1}", "cross", dash)
            runs += 1
    return out


@dataclass(frozen=True)
class Grid:
    """Shares of 0 to 1 by row and system, None where there is no figure."""

    rows: Sequence[tuple[str, Mapping[str, Number]]]  # averages, then tasks or languages
    looks: Mapping[str, Look]  # of all systems, in order
    averages: int = 0  # of the rows
    # row -> system -> whether it is better than the base by more than chance, or worse
    marks: Mapping[int, Mapping[str, bool]] = field(default_factory=dict)
    base: str | None = None  # what systems are compared with

    @cached_property
    def systems(self) -> list[str]:
        """Those that any row has."""
        return [name for name in self.looks if any(name in row for _, row in self.rows)]

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """Neighbouring systems of a group, under its name."""
        several = groupby(self.systems, lambda name: self.looks[name].group)
        return [(group, list(names)) for group, names in several]

    @property
    def across(self) -> bool:
        """Whether languages stand side by side, not systems: where they are few (18 as in the M3
        paper's tables 2 and 4) and their names short.
        """
        names = [name for name, _ in self.rows[self.averages :]]
        few = len(self.systems) <= len(names) <= 18 and max(map(len, names)) <= 4
        return bool(few and self.averages)


@dataclass(frozen=True)
class Plot:
    """A drawing under its name: an svg element, or the names of rows and panels side by side."""

    title: str
    svg: str
    caption: str = ""
    panels: bool = False


def tag(element: str, css: str | None, *inner: str, title: str = "", **attrs: Any) -> str:
    """An element with markup in it; `title` is told where the pointer rests."""
    pairs = {"class": css} | {key.replace("_", "-"): value for key, value in attrs.items()}
    given = [f' {key}="{escape(str(v))}"' for key, v in pairs.items() if v is not None]
    name = f"<title>{escape(title)}</title>" if title else ""
    return f"<{element}{''.join(given)}>{name}{''.join(inner)}</{element}>"


def drawing(
    width: float, height: float, shapes: Sequence[str], title: str = "", about: str = ""
) -> str:
    """An svg element; without a title it is hidden from screen readers."""
    w, h = round(width), round(height)
    css, role, hidden = (None, "img", None) if title else ("names", None, "true")
    desc = [tag("desc", None, escape(about))] if about else []
    size = {"width": str(w), "height": str(h), "viewBox": f"0 0 {w} {h}"}
    told = {"role": role, "aria_hidden": hidden}
    return tag("svg", css, *desc, *shapes, title=title, **(size | told))


def scaled(low: float, high: float, first: float, last: float) -> Scale:
    """From numbers (low to high) to pixels (first to last)."""
    return lambda value: round(first + (value - low) / (high - low) * (last - first), 1)


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
    return [round(place * step, 6) for place in range(first, last + 1)]


def extent(text: str) -> float:
    """About how many pixels a text takes."""
    wide = sum(1 + (east_asian_width(c) in "WF") for c in text if not combining(c))
    return CHARACTER * wide


def fitted(text: str, width: float) -> str:
    """A text that takes about so many pixels, with its end left out where it is longer."""
    if extent(text) <= width:
        return text
    while len(text) > 1 and extent(text) + CHARACTER > width:
        text = text[:-1]
    return f"{text.rstrip()}\N{HORIZONTAL ELLIPSIS}"


def words(text: str, x: float, y: float, css: str | None = None, anchor: str = "start") -> str:
    """Text in a plot."""
    return tag("text", css, escape(text), x=round(x, 1), y=y, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return tag("line", css, x1=x1, y1=y1, x2=x2, y2=y2)


def bars(grid: Grid, title: str, caption: str) -> Plot:
    """The names of the rows, and panels of bars side by side; the base is a line in each.

    Panels are systems and rows are tasks, or the other way where there are fewer tasks.
    """
    turned = len(grid.rows) < len(grid.systems)
    rows, panels = [name for name, _ in grid.rows], grid.systems
    if turned:
        rows, panels = panels, rows
    shares = [value for _, row in grid.rows for value in row.values() if value is not None]
    marks = ticks(0, max(1.0, 100 * max(shares, default=0.0)), 2, (1, 2, 3, 4, 5, 10))
    tops, y = [], float(HEAD)
    for place, name in enumerate(rows):  # a gap behind averages, or between groups of systems
        parts = place == grid.averages
        if turned:
            parts = grid.looks[rows[place - 1]].group != grid.looks[name].group
        y += 8 if place and parts else 0
        tops.append(y)
        y += ROW
    label = min(190.0, max(map(extent, rows))) + 12
    pitch = min(200.0, max(100.0, (1200 - label) / len(panels)))
    shapes: list[str] = []
    for number, panel in enumerate(panels):
        left = round(number * pitch + 6, 1)
        scale = scaled(0, marks[-1], left + FIGURE, left + pitch - 16)
        shapes.append(words(fitted(panel, pitch - 8), left + 6, 14, "head"))
        for mark in marks:
            shapes.append(line(scale(mark), HEAD - 3, scale(mark), y + 3, "grid"))
            shapes.append(words(f"{mark:g}", scale(mark), y + 16, "soft", "middle"))
        for place, top in enumerate(tops):
            row, system = grid.rows[number if turned else place], rows[place] if turned else panel
            value, base = row[1].get(system), row[1].get(grid.base or "")
            shapes.append(words(percent(value), left + FIGURE - 5, top + 13, "n", "end"))
            if value is None:
                continue
            width = round(scale(100 * value) - scale(0), 1)
            said = f"{row[0]}, {system}: {percent(value)}"
            x, middle = left + FIGURE, top + (ROW - BAR) / 2
            css = grid.looks[system].css
            shapes.append(tag("rect", css, title=said, x=x, y=middle, width=width, height=BAR))
            if base is not None and system != grid.base:
                x = scale(100 * base) - 1
                shapes.append(tag("rect", "line", x=x, y=top + 2, width=2, height=ROW - 4))
    names = [
        words(fitted(name, 190), label - 6, top + 13, anchor="end")
        for name, top in zip(rows, tops, strict=True)
    ]
    about = "A bar for each figure of the table above."
    svg = drawing(label, y + FOOT, names)
    svg += drawing(len(panels) * pitch + 6, y + FOOT, shapes, title, about)
    return Plot(title, svg, caption, panels=True)


def curves(
    lengths: Sequence[int],
    lines: Mapping[str, Sequence[Number]],
    looks: Mapping[str, Look],
    title: str,
    caption: str,
) -> Plot:
    """A line for each system over the lengths (a logarithmic axis), named at its end."""
    left, right, top, bottom = 44, 400, 12, 250
    every = [100 * v for values in lines.values() for v in values if v is not None]
    marks = ticks(min(every), max(every))
    down = scaled(marks[0], marks[-1], bottom, top)
    across = scaled(math.log2(lengths[0]), math.log2(lengths[-1]), left + 12, right)
    shapes: list[str] = []
    for mark in marks:
        shapes.append(line(left, down(mark), right + 10, down(mark), "grid"))
        shapes.append(words(f"{mark:g}", left - 6, down(mark) + 4, "soft n", "end"))
    written = -math.inf
    for length in lengths:
        x, shown = across(math.log2(length)), f"{length:,}"
        shapes.append(line(x, bottom, x, bottom + 4, "grid"))
        if x - extent(shown) / 2 > written:
            shapes.append(words(shown, x, bottom + 18, "soft n", "middle"))
            written = x + extent(shown) / 2 + 4
    shapes.append(words("tokens of a passage", (left + right) / 2, bottom + 36, "soft", "middle"))
    ends = []
    for name, values in lines.items():
        points = [
            (across(math.log2(length)), down(100 * value), f"{length:,} tokens: {percent(value)}")
            for length, value in zip(lengths, values, strict=True)
            if value is not None
        ]
        if points:
            look, way = looks[name], " ".join(f"{x},{y}" for x, y, _ in points)
            dash = look.dash or "none"
            shapes.append(tag("polyline", f"way {look.css}", points=way, stroke_dasharray=dash))
            shapes += [marker(look, x, y, f"{name}, {said}") for x, y, said in points]
            ends.append((points[-1][1], points[-1][0], name))
    height = bottom + 44.0
    ends.sort()
    for y, (end, x, name) in zip(spread([end[0] for end in ends]), ends, strict=True):
        shapes.append(line(x + 6, end, right + 22, y, "lead"))
        shapes.append(marker(looks[name], right + 30, y, name))
        shapes.append(words(fitted(name, 150), right + 40, y + 4))
        height = max(height, y + 12)
    about = "A line for each column of the table below."
    return Plot(title, drawing(right + 200, height, shapes, title, about), caption)


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
    return [start(crowd) + apart * number for crowd in crowds for number in range(len(crowd))]


def marker(look: Look, x: float, y: float, said: str) -> str:
    """A point of a curve; each group and head has its own shape."""
    paths = {
        "square": f"M{x - 4} {y - 4}h8v8h-8z",
        "triangle": f"M{x} {y - 5}l5 9h-10z",
        "diamond": f"M{x} {y - 5.5}l5.5 5.5l-5.5 5.5l-5.5-5.5z",
        "cross": f"M{x - 4} {y - 4}l8 8m0-8l-8 8",
    }
    css = f"{look.marker} {look.css}"
    if look.marker in paths:
        return tag("path", css, title=said, d=paths[look.marker])
    return tag("circle", css, title=said, cx=x, cy=y, r=5.5 if look.marker == "disc" else 4)


INTERVAL = 260  # pixels


def interval_axis(ends: Sequence[float]) -> tuple[Scale, list[float], str]:
    """The scale of intervals with these ends, its ticks, and how they are written over them."""
    marks = ticks(min(0.0, *ends), max(0.0, *ends), 4)
    scale = scaled(marks[0], marks[-1], 14, INTERVAL - 14)
    texts = [f"{mark:+g}" if mark else "0" for mark in marks]
    axis = [words(t, scale(m), 12, "soft", "middle") for t, m in zip(texts, marks, strict=True)]
    return scale, marks, drawing(INTERVAL, 16, axis)


def interval(
    scale: Scale, marks: Sequence[float], values: tuple[float, float, float], sure: bool, said: str
) -> str:
    """A difference (low, middle, high); filled where it is significant."""
    low, middle, high = map(scale, values)
    shapes = [line(scale(m), 0, scale(m), 24, "even" if m == 0 else "grid") for m in marks]
    shapes.append(line(low, 12, high, 12, "span"))
    shapes += [line(x, 8, x, 16, "span") for x in (low, high)]
    shapes.append(tag("circle", "sure" if sure else "unsure", cx=middle, cy=12, r=4.5))
    return drawing(INTERVAL, 24, shapes, said)
