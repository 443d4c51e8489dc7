"""A document as headings with what stands under each, and the pairs that this gives.

Readers of markup build an Outline; it knows nothing of their formats, nor which headings repeat
in other documents: pairs bring the path of headings for that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tercet.data.pairs.base import (
    Found,
    Left,
    Pair,
    Plan,
    Structure,
    clean,
    has_word,
    line,
    shorten,
)
from tercet.data.pairs.headings import ABSTRACTS, is_around, is_question, is_version, normal

LINKED = 0.7  # a section with more of its characters in links leads elsewhere
# "Source", "Edit this page": a short block with more of it in links is about the page.
ASIDE, ASIDE_LINKED = 40, 0.4
EXAMPLE = 200  # characters of a text that was left out


@dataclass
class Section:
    """What stands under one heading, up to the next."""

    heading: str
    level: int  # 1 is the highest
    line: int  # of the heading, from 1; 0: not known
    blocks: list[str] = field(default_factory=list)  # and what is between them
    characters: int = 0
    linked: int = 0  # of the characters, those in links

    @property
    def text(self) -> str:
        """The blocks with empty lines or line breaks between them."""
        return "".join(self.blocks).strip()

    @property
    def leads_elsewhere(self) -> bool:
        """Whether there is hardly anything but links."""
        return self.linked > LINKED * self.characters


class Outline:
    """Takes headings and blocks in the order of the document."""

    def __init__(self, title: str = "", lang: str = "", *, fallback: str = "") -> None:
        """title: of the document, where it is said; fallback: where no heading is the title."""
        self.title, self.lang, self.fallback = line(title), lang, line(fallback)
        self.sections = [Section("", 0, 0)]
        self._listed = False

    def heading(self, level: int, text: str, number: int = 0) -> None:
        """Opens a section; number is its line, from 1."""
        self.sections.append(Section(line(text), level, number))
        self._listed = False

    def block(self, text: str, *, listed: bool = False, linked: int = 0) -> None:
        """A paragraph, or (listed) an item of a list or a row of a table, next to its like.

        linked is how many of its characters are in links.
        """
        text = clean(text).strip("\n")
        aside = not listed and len(text) <= ASIDE and linked > ASIDE_LINKED * len(text)
        if aside or not text.strip():
            return
        section = self.sections[-1]
        if section.blocks:
            section.blocks.append("\n" if listed and self._listed else "\n\n")
        section.blocks.append(text)
        section.characters += len(text)
        section.linked += min(linked, len(text))
        self._listed = listed

    def paths(self) -> Iterator[tuple[tuple[str, ...], Section]]:
        """Every section with its headings from the title down; the title is known by then.

        A first heading that stands alone on its level, with none above it, is the title unless
        there is one already; then one that stands before all text repeats it. What is under that
        of the title, or else before the first heading, is the lead, whose path is the title alone.
        """
        first = self.sections[1] if len(self.sections) > 1 else None
        top = first is not None and all(
            section.level > first.level for section in self.sections[2:]
        )
        if not self.title and first is not None and top:
            self.title = first.heading
        self.title = self.title or self.fallback
        if first is not None and self.sections[0].blocks:
            top = top and first.heading == self.title
        above: list[Section] = []
        # badges and breadcrumbs stand before a title that has a lead below it
        sections = self.sections[1:] if first and top and first.blocks else self.sections
        for section in sections:
            if section.level == 0 or (section is first and top):
                yield ((self.title,) if self.title else ()), section
                continue
            above = [one for one in above if one.level < section.level] + [section]
            path = tuple(one.heading for one in above if one.heading)
            yield ((self.title, *path) if self.title else path), section


def pairs(outline: Outline, plan: Plan, label: str, default: Structure) -> Iterator[Found]:
    """The rows that a document gives, of the default structure where none is asked for."""
    sections = list(outline.paths())
    lang = plan.lang or outline.lang
    kept: list[tuple[tuple[str, ...], Section]] = []
    left: list[Left] = []
    for path, section in sections:
        where = f"{label}:{section.line}" if section.line else label
        reason = _why_not(outline.title, path, section)
        if reason:
            if section.blocks or section.level:
                left.append(Left(reason, where, _example(path, section)))
        else:
            kept.append((path, section))
    wanted = plan.structures or (default,)
    if "heading-section" in wanted:
        yield from left
        yield from _sections("heading-section", kept, plan, label, lang)
    if "question-answer" in wanted:
        asked = [(path, section) for path, section in kept if is_question(section.heading)]
        yield from _sections("question-answer", asked, plan, label, lang)
    if "title-body" in wanted:
        texts = [_with_heading(section, outline.title) for _, section in kept]
        yield _whole("title-body", outline.title, texts, plan, label, lang)
    if "title-abstract" in wanted:
        yield _whole("title-abstract", outline.title, _abstract(kept), plan, label, lang)


def _whole(
    structure: Structure, title: str, texts: list[str], plan: Plan, label: str, lang: str
) -> Found:
    """The pair of a title and what is said below it."""
    body = shorten("\n\n".join(texts), plan.max_chars)
    if not title:
        return Left("a document without a title", label, body[:EXAMPLE])
    if len(body) < plan.min_chars:
        return Left("a body shorter than asked", label, f"{title}: {body}"[:EXAMPLE])
    return Pair(structure, title, (body,), label, lang, (title,))


def _why_not(title: str, path: tuple[str, ...], section: Section) -> str:
    """Why a section is of no use in any structure, "" where it is."""
    if is_around(title, path[1:] if title else path):
        return "a section around the text (references, licence, contents and the like)"
    if not section.blocks:
        return "an empty section"
    if section.leads_elsewhere:
        return "a section of links"
    return ""


def _sections(
    structure: Structure,
    kept: list[tuple[tuple[str, ...], Section]],
    plan: Plan,
    label: str,
    lang: str,
) -> Iterator[Found]:
    for path, section in kept:
        where = f"{label}:{section.line}" if section.line else label
        text = section.text
        if not path or not has_word(path[-1]) or is_version(path[-1]):
            yield Left("a heading without words", where, _example(path, section))
        elif len(text) < plan.min_chars:
            yield Left("a body shorter than asked", where, _example(path, section))
        else:
            body = shorten(text, plan.max_chars)
            yield Pair(structure, path[-1], (body,), where, lang, path)


def _with_heading(section: Section, title: str) -> str:
    own = section.heading if section.heading != title else ""
    return f"{own}\n{section.text}" if own else section.text


def _abstract(kept: list[tuple[tuple[str, ...], Section]]) -> list[str]:
    """The section that is called an abstract, else the lead."""
    named = [section.text for _, section in kept if normal(section.heading) in ABSTRACTS]
    return named[:1] or [section.text for path, section in kept if len(path) <= 1]


def _example(path: tuple[str, ...], section: Section) -> str:
    return f"{' > '.join(path)}: {section.text}"[:EXAMPLE]
