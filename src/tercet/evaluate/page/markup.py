"""Elements of HTML and SVG, escaped by construction.

A plain string becomes text wherever it goes in; only what `el` made is markup. Knows nothing of
reports.
"""

import re
from collections.abc import Iterable
from html import escape

EMPTY = frozenset(("meta", "br", "col"))
SHAPES = frozenset(("circle", "line", "path", "polyline", "rect"))  # of SVG: <rect/> is whole
# characters that no HTML may hold; half of a pair cannot even be written
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Markup: what went into it is escaped."""

    __slots__ = ()


def text(content: object) -> Html:
    """Content as text of a page; characters that a page cannot hold become U+FFFD."""
    return Html(escape(_REFUSED.sub("\ufffd", str(content))))


def el(name: str, /, *content: object, **attributes: object) -> Html:
    """An element: strings are escaped, iterables are taken apart, None is nothing.

    Attributes that are None or False are left out; `class_` is class, `aria_label` aria-label.

    >>> el("td", "a < b", class_="n", title='"')
    '<td class="n" title="&quot;">a &lt; b</td>'
    """
    opening = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opening.append(key if value is True else f'{key}="{text(value)}"')
    if name in EMPTY:
        return Html(f"<{' '.join(opening)}>")
    inside = join(content)
    if name in SHAPES and not inside:
        return Html(f"<{' '.join(opening)}/>")
    return Html(f"<{' '.join(opening)}>{inside}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Parts one after another."""
    return Html("".join(_one(part) for part in content))


def _one(part: object) -> str:
    if part is None:
        return ""
    if isinstance(part, Html):
        return part
    if isinstance(part, str | int | float):
        return text(part)
    if isinstance(part, Iterable):
        return join(part)
    raise TypeError(f"no content of a page: {part!r}")


def name_of(content: str) -> Html:
    """A name from a report, in whichever direction its script runs."""
    return el("bdi", content)


def hidden(content: str) -> Html:
    """Text for screen readers, where a sign says it to the eye."""
    return el("span", content, class_="vh")
