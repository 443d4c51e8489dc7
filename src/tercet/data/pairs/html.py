"""HTML into an Outline: headings, and what a reader of the page sees under them.

Knows nothing of pairs.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.data.pairs.base import clean, decode, known_encoding, line, read_bytes
from tercet.data.pairs.languages import known
from tercet.data.pairs.outline import Outline

_UNREAD = frozenset(
    "script style template noscript svg iframe object select button head nav aside footer input "
    "textarea canvas audio video math".split()
)
_BLOCKS = frozenset(
    "address article blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure form header hgroup hr legend li main menu ol p pre search section summary "
    "table tbody tfoot thead tr ul".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_AROUND = frozenset(("navigation", "search", "banner", "contentinfo", "complementary", "menu"))
_BOXES = frozenset(("div", "section", "ul", "header", "span", "p", "details", "form"))
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_ANCHORS = " \t\n¶§#🔗⚓"  # what links to a heading itself shows
_SITE = re.compile(r"\s+[—–|·»-]\s+")  # between the name of a page and that of its site


def read_html(path: Path, label: str) -> Outline:
    """The outline of a page; raises Unreadable where it is not in the encoding that it names."""
    raw = read_bytes(path, label)
    match = _CHARSET.search(raw, 0, 4096)
    page = LexborHTMLParser(
        clean(decode(raw, label, known_encoding(match[1].decode()) if match else None))
    )
    root, title = page.css_first("html"), page.css_first("head title")
    language = known(root.attributes.get("lang")) if root is not None else ""
    name = _SITE.split(line(title.text(deep=True)))[0] if title is not None else ""
    outline = Outline(lang=language, fallback=name)
    body = page.body
    if body is not None:
        articles = body.css("article")
        main = body.css_first("main, [role=main]") or (articles[0] if len(articles) == 1 else None)
        add_html(outline, body if main is None or not main.text(strip=True) else main)
    return outline


def add_html(outline: Outline, root: LexborNode) -> None:
    """Adds what is in a node to an outline."""
    _Feed(outline).read(root)


def fragment(text: str) -> LexborNode | None:
    """The body of a piece of HTML."""
    return LexborHTMLParser(text).body


class _Feed:
    """Collects the text of inline nodes until a block begins or ends."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.parts: list[str] = []
        self.linked = 0
        self.links = self.preformatted = self.items = self.cells = 0  # that are open
        self.around: list[int] = []  # the cells that are open around each open table

    def read(self, root: LexborNode) -> None:
        """Goes through the nodes below a root."""
        for kind, tag, content in _walk(root):
            if kind == "text":
                self.text(content)
            elif tag in _HEADINGS:
                if kind == "open":
                    self.flush()
                else:
                    self.outline.heading(_HEADINGS[tag], " ".join(self.take()).strip(_ANCHORS))
            elif tag == "a":
                self.links += 1 if kind == "open" else -1
            elif tag == "br":
                self.parts.append("\n" if kind == "open" and not self.cells else " ")
            elif tag in ("td", "th"):
                self.cells += 1 if kind == "open" else -1
                self.parts.append(" | " if kind == "close" else "")
            elif tag in _BLOCKS:
                self.block(tag, kind == "open")
        self.flush()

    def text(self, content: str) -> None:
        """A text node; outside <pre> a line break in it is a space."""
        self.parts.append(content if self.preformatted else content.replace("\n", " "))
        if self.links:
            self.linked += len(content.strip())

    def block(self, tag: str, opens: bool) -> None:
        """A block begins or ends; in a cell of a table most are but a space."""
        if self.cells and tag not in ("pre", "table", "tr"):
            self.parts.append(" ")
            return
        self.flush()
        if tag == "pre":
            self.preformatted += 1 if opens else -1
        elif tag in ("li", "dt", "dd"):
            self.items += 1 if opens else -1
        elif tag == "table" and opens:  # maybe in a cell of another, which is there for the layout
            self.around.append(self.cells)
            self.cells = 0
        elif tag == "table":
            self.cells = self.around.pop()

    def take(self) -> list[str]:
        """The lines that were collected."""
        text, self.parts, self.linked = "".join(self.parts), [], 0
        lines = (" ".join(part.split()) for part in text.split("\n"))
        return [part for part in lines if part]

    def flush(self) -> None:
        """Ends the block."""
        linked = self.linked
        if self.preformatted:
            text, self.parts, self.linked = "".join(self.parts), [], 0
        else:
            text = "\n".join(self.take()).strip(" |").removesuffix("¶")
        row = " | " in text
        self.outline.block(text, listed=bool(self.items) or row, linked=linked)


def _hidden(node: LexborNode) -> bool:
    """Whether a box is about the site, or is not shown."""
    facts = node.attributes
    return facts.get("role") in _AROUND or "hidden" in facts or facts.get("aria-hidden") == "true"


def _walk(root: LexborNode) -> Iterator[tuple[str, str, str]]:
    """(open, close or text; tag; content) in document order; pages may nest without end."""
    node: LexborNode | None = root
    end = root.mem_id  # comparing nodes would compare their HTML
    while node is not None:
        tag = node.tag or ""
        if node.is_text_node:
            yield "text", "", node.text_content or ""
        elif tag not in _UNREAD and not (tag in _BOXES and _hidden(node)):
            yield "open", tag, ""
            child = node.first_child
            if child is not None:
                node = child
                continue
            yield "close", tag, ""
        while node is not None and node.mem_id != end and node.next is None:
            node = node.parent
            if node is not None:
                yield "close", node.tag or "", ""
        node = None if node is None or node.mem_id == end else node.next
