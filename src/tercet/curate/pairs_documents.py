"""Documents into pairs of headings and what stands below them.

Markdown, HTML, reStructuredText and articles in plain text become an Outline. Knows nothing of
which headings repeat in other documents: pairs bring the path of headings for that.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from selectolax.lexbor import LexborNode

from tercet.curate.pairs_sources import (
    Has,
    Outcome,
    Pair,
    PairOptions,
    Skipped,
    SourceFile,
    Units,
    clean,
    first_reason,
    has_word,
    need,
    one_line,
    read_bytes,
    shorten,
    tag_or_none,
)
from tercet.documents.base import Unreadable, decode
from tercet.documents.encodings import html_encoding
from tercet.documents.readers import front_matter, markdown_blocks, parse_html, walk_html

# Headings. The words of the lists are in some large languages only; what is common elsewhere shows
# itself by repeating.

MARK = " > "  # between a title and a heading
Headings = tuple[str, ...]  # headings from the title down
LONGEST_PATH = 3  # headings joined: the title and the innermost ones


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.split("|"))


# Whole pages of this kind, by their title; a page may well be about "References".
PAGES = _phrases(
    """
    license | licence | licensing | copyright | changelog | change log | changes | release notes |
    authors | contributors | credits | acknowledgements | acknowledgments | index | contents |
    table of contents | indices and tables | search | search page | page not found | redirecting |
    lizenz | licencia | licenza | licença
    """
)
CONTENTS = _phrases(
    "contents | table of contents | toc | on this page | in this section | navigation | "
    "inhaltsverzeichnis | table des matières | índice | 目次"
)
# Sections around a text: what is below them answers nothing.
APPARATUS = (
    PAGES
    | CONTENTS
    | _phrases(
        """
    references | external links | see also | further reading | notes | footnotes | bibliography |
    citations | notes and references | works cited | related pages | related links | breadcrumbs |
    this page | links | copyright notice | copyright and license | license and copyright | thanks |
    sponsors | backers | history of changes | badges | gallery | footer | share this |
    leave a comment | related posts | related articles | subscribe | newsletter | donate |
    einzelnachweise | weblinks | siehe auch | literatur | quellen | anmerkungen | fußnoten |
    belege | danksagung | références | voir aussi | liens externes | notes et références |
    bibliographie | annexes | articles connexes | referencias | véase también | enlaces externos |
    bibliografía | notas | voci correlate | collegamenti esterni | altri progetti | bibliografia |
    referências | ver também | ligações externas | referenties | zie ook | externe links | bronnen |
    przypisy | zobacz też | linki zewnętrzne | источники | примечания | литература | ссылки |
    см. также | примітки | посилання | див. також | джерела | 脚注 | 関連項目 | 外部リンク |
    参考文献 | 出典 | 注釈 | 参见 | 參見 | 外部链接 | 外部連結 | 参考资料 | 參考資料 | 参考来源 |
    注释 | 註釋 | 相关条目 | 각주 | 같이 보기 | 외부 링크 | 참고 문헌 | kaynakça |
    dış bağlantılar | ayrıca bakınız | مراجع | وصلات خارجية | انظر أيضا | المراجع | انظر أيضًا |
    منابع | پیوند به بیرون | הערות שוליים | קישורים חיצוניים | ראו גם | सन्दर्भ |
    इन्हें भी देखें | บรรณานุกรม | อ้างอิง | ดูเพิ่ม | tham khảo | liên kết ngoài | referensi |
    pranala luar | lihat pula
    """
    )
)
# Sections that say something, under headings that do not say of what.
COMMON = _phrases(
    """
    introduction | overview | description | summary | abstract | background | motivation |
    history | usage | basic usage | advanced usage | how to use | getting started | get started |
    quick start | quickstart | installation | install | installing | setup | requirements |
    prerequisites | dependencies | configuration | options | parameters | arguments | returns |
    return value | properties | methods | attributes | fields | example | examples | features |
    about | api | api reference | documentation | development | contributing | testing | tests |
    support | help | faq | frequently asked questions | troubleshooting | known issues |
    limitations | caveats | warning | warnings | important | tip | tips | details | general |
    misc | miscellaneous | other | results | discussion | conclusion | conclusions |
    methods and materials | rationale | specification | implementation | security considerations |
    backwards compatibility | design | goals | non-goals | status | roadmap | todo | appendix |
    preface | foreword | biography | life | early life | career | personal life | legacy |
    reception | plot | cast | production | geography | demographics | climate | economy |
    etymology | education | definition | types | methodology | readme | home | welcome |
    main page | untitled | default | what's new | next steps | syntax | einleitung | einführung |
    überblick | beschreibung | zusammenfassung | geschichte | leben | werke | beispiel |
    beispiele | verwendung | hintergrund | allgemeines | leben und werk | résumé | présentation |
    histoire | description générale | biographie | exemple | exemples | utilisation | contexte |
    introducción | resumen | descripción | historia | biografía | ejemplo | ejemplos |
    introduzione | storia | descrizione | biografia e carriera | esempio | introdução | história |
    resumo | descrição | inleiding | geschiedenis | введение | история | биография | описание |
    пример | примеры | обзор | 概要 | はじめに | 歴史 | 概説 | 来歴 | 例 | 简介 | 簡介 | 概述 |
    历史 | 歷史 | 介绍 | 示例 | 개요 | 역사 | 소개 | giriş | tarihçe | مقدمة | تاريخ | resources |
    note | comments | more information | additional information | faqs | how it works | purpose |
    scope | terminology | glossary | notation | instructions | steps |
    references and further reading
    """
)
ABSTRACTS = frozenset(
    "abstract zusammenfassung résumé resumen resumo riassunto аннотация 摘要 要旨 초록".split()
)
_PAGE = re.compile(
    r"(?:.+ )?licen[cs]e(?:,? (?:version )?[\d.]+)?|.*\b(?:changelog|release notes)\b.*"
)
_NUMBER = re.compile(r"(?:\d+(?:\.\d+)*[.)]?|[ivx]+[.)]|[a-z][.)])\s+")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".replace(" ", "|")
_VERSION = re.compile(  # [1.2.0] - 2024-05-01, Release 0.23 (May 2026), changes for v2.0rc1
    rf"(?i)(?:\w+\s+){{0,2}}\W*v?\d+(?:\.\d+)+\w*(?:\W+(?:\d+\w*|(?:{_MONTHS})\w*|unreleased))*\W*"
)


def normal(heading: str) -> str:
    """The heading as it is compared: small letters, no number before it, no mark after it."""
    text = " ".join(heading.casefold().split())
    return _NUMBER.sub("", text, count=1).strip(" .:;!?-–—*_`'\"()[]¶#") if text else ""


def is_around(title: str, inner: Sequence[str]) -> bool:
    """Whether what stands under a title and headings is about a text rather than part of it.

    A list of contents ends at the next heading, whatever its level.
    """
    *above, own = map(normal, inner or ("",))
    page = normal(title)
    return (
        page in PAGES
        or _PAGE.fullmatch(page) is not None
        or own in APPARATUS
        or any(name in APPARATUS and name not in CONTENTS for name in above)
    )


def is_common(heading: str) -> bool:
    """Whether it does not say what is meant without the title."""
    return normal(heading) in COMMON


def is_question(heading: str) -> bool:
    """Whether it ends as questions do."""
    return heading.rstrip(" *_\"'»”)").endswith(("?", "？", "؟", "՞", "፧"))


def is_vague(heading: str) -> bool:
    """Whether it is one word, or four characters of a script without spaces: rarely a query."""
    words = normal(heading).split()
    if len(words) != 1:
        return False
    return words[0] < "\u2e80" or len(words[0]) <= 4


def is_version(heading: str) -> bool:
    """Whether it is the number of a release, maybe with its date."""
    return bool(_VERSION.fullmatch(heading.strip()))


def joined(path: Sequence[str]) -> str:
    """`("Requests", "API", "Session", "Hooks")` -> `Requests > Session > Hooks`."""
    inner = [name for name in path[1:] if has_word(name) and normal(name) not in CONTENTS]
    return MARK.join((path[0], *inner[1 - LONGEST_PATH :]))


# Outlines

ABOUT_TEXT = "a section around the text (references, licence, contents and the like)"
LINKED = 0.7  # a section with more of its characters in links leads elsewhere
# "Source", "Edit this page": a short block with more of it in links is about the page.
ASIDE, ASIDE_LINKED = 40, 0.4
EXAMPLE = 200  # characters of a text that was skipped


@dataclass
class Section:
    """What stands under one heading, up to the next."""

    heading: str
    level: int  # 1 is the highest, 0 before the first heading
    line: int  # of the heading, from 1; 0: not known
    blocks: list[str] = field(default_factory=list)  # and what is between them
    characters: int = 0
    linked: int = 0  # of the characters, those in links

    @property
    def text(self) -> str:
        """The blocks with empty lines or line breaks between them."""
        return "".join(self.blocks).strip()


class Outline:
    """Takes headings and blocks in the order of the document."""

    def __init__(self, title: str = "", lang: str = "", *, fallback: str = "") -> None:
        """title: of the document, where it is said; fallback: where no heading is the title."""
        self.title, self.lang, self.fallback = one_line(title), lang, one_line(fallback)
        self.sections = [Section("", 0, 0)]
        self._listed = False

    def heading(self, level: int, text: str, number: int = 0) -> None:
        """Opens a section; number is its line, from 1."""
        self.sections.append(Section(one_line(text), level, number))
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
        before, *headed = self.sections
        first = headed[0] if headed else None
        top = first is not None and all(section.level > first.level for section in headed[1:])
        if top and first is not None:
            self.title = self.title or first.heading
        self.title = self.title or self.fallback
        if first is not None and before.blocks:
            top = top and first.heading == self.title
        above: list[Section] = []
        # badges and breadcrumbs stand before a title that has a lead below it
        for section in headed if first and top and first.blocks else self.sections:
            inner: list[str] = []
            if section.level and not (section is first and top):
                above = [*(outer for outer in above if outer.level < section.level), section]
                inner = [outer.heading for outer in above if outer.heading]
            yield ((self.title, *inner) if self.title else tuple(inner)), section


def read_document(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """A file of Markdown, HTML or reStructuredText as one unit; raises Unreadable."""
    raw, label = read_bytes(file.paths[0], file.label), file.label
    text = clean(decode(raw, label, html_encoding(raw) if file.kind == "html" else None))
    if file.kind == "restructuredtext":
        outline = restructured_outline(text, label)
    else:
        outline = html_outline(text) if file.kind == "html" else markdown_outline(text)
    structures = options.structures or ("heading-section",)
    yield 0, list(document_pairs(outline, options, label, structures))


def document_pairs(
    outline: Outline, options: PairOptions, label: str, structures: Sequence[str]
) -> Iterator[Outcome]:
    """The pairs of some structures that a document gives."""

    def pair(structure: str, path: Headings, body: str, where: str, wrong: str) -> Outcome:
        """The pair of the last heading and a body, unless it is wrong or the body too short."""
        reason = wrong or ("a body shorter than asked" if len(body) < options.min_chars else "")
        if reason:
            return Skipped(reason, where, f"{MARK.join(path)}: {body}"[:EXAMPLE])
        pos, lang = (shorten(body, options.max_chars),), options.lang or outline.lang
        return Pair(structure, path[-1], pos, where, lang, path)

    sections: list[tuple[Headings, Section, str]] = []
    for path, section in outline.paths():
        where = f"{label}:{section.line}" if section.line else label
        reason = first_reason(
            (is_around(outline.title, path[1:] if outline.title else path), ABOUT_TEXT),
            (not section.blocks, "an empty section"),
            (section.linked > LINKED * section.characters, "a section of links"),
        )
        if not reason:
            sections.append((path, section, where))
        elif "heading-section" in structures and (section.blocks or section.level):
            yield pair("heading-section", path, section.text, where, reason)
    for structure in ("heading-section", "question-answer"):
        for path, section, where in sections if structure in structures else ():
            if structure == "heading-section" or is_question(section.heading):
                is_query = path and has_word(path[-1]) and not is_version(path[-1])
                wrong = "" if is_query else "a heading without words"
                yield pair(structure, path, section.text, where, wrong)
    title = (outline.title,) if outline.title else ()
    wrong = "" if title else "a document without a title"
    if "title-body" in structures:
        texts = [
            f"{section.heading}\n{section.text}"
            if section.heading not in ("", outline.title)
            else section.text
            for _, section, _ in sections
        ]
        yield pair("title-body", title, "\n\n".join(texts), label, wrong)
    if "title-abstract" in structures:
        named = [part.text for _, part, _ in sections if normal(part.heading) in ABSTRACTS][:1]
        lead = named or [section.text for path, section, _ in sections if len(path) <= 1]
        yield pair("title-abstract", title, "\n\n".join(lead), label, wrong)


# Markdown

_ANCHOR = re.compile(r"\s*\{[#:.][^{}]*\}\s*$")  # of a heading: {#name}, {:.class}
# Lines of site generators: a fence of a box, a template's tag.
_TEMPLATE = re.compile(r"(?m)^[ \t]*(?::{3,}.*|\{%.*%\}|\{\{[<%].*[>%]\}\})[ \t]*$")


def markdown_outline(text: str) -> Outline:
    """The outline of a text; title and language are in its front matter if it has one."""
    fields, body = front_matter(text)
    outline = Outline(
        fields.get("title", ""), tag_or_none(fields.get("lang") or fields.get("language"))
    )
    above = "\n" * (text.count("\n") - body.count("\n"))
    for block in markdown_blocks(above + _TEMPLATE.sub("", body), prose=True):
        if block.kind == "heading":
            outline.heading(block.level, _ANCHOR.sub("", block.text), block.line)
        elif block.kind == "html":
            add_html(outline, block.text)
        else:
            text = block.text.strip(" |") if block.kind == "row" else block.text
            listed = block.listed and block.kind != "code"
            outline.block(text, listed=listed, linked=block.linked)
    return outline


# HTML

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
_ANCHORS = " \t\n¶§#🔗⚓"  # what links to a heading itself shows
_SITE = re.compile(r"\s+[—–|·»-]\s+")  # between the name of a page and that of its site


def html_outline(text: str) -> Outline:
    page = parse_html(text)
    root, title = page.css_first("html"), page.head and page.head.css_first("title")
    language = tag_or_none(root.attributes.get("lang")) if root is not None else ""
    name = _SITE.split(one_line(title.text(deep=True)))[0] if title is not None else ""
    outline = Outline(lang=language, fallback=name)
    body = page.body
    if body is not None:
        articles = body.css("article")
        main = body.css_first("main, [role=main]") or (articles[0] if len(articles) == 1 else None)
        _Feed(outline).read(body if main is None or not main.text(strip=True) else main)
    return outline


def add_html(outline: Outline, text: str) -> None:
    """Adds what is in a piece of HTML to an outline."""
    if (body := parse_html(text).body) is not None:
        _Feed(outline).read(body)


class _Feed:
    """Collects the text of inline nodes until a block begins or ends."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.parts: list[str] = []
        self.linked = 0
        self.links = self.preformatted = self.items = self.cells = 0  # that are open
        self.around: list[int] = []  # the cells that are open around each open table

    def read(self, root: LexborNode) -> None:
        for kind, node in walk_html(root, _is_skipped):
            tag, step = node.tag or "", 1 if kind == "open" else -1
            if kind == "text":
                content = node.text_content or ""
                # outside <pre> a line break is a space
                self.parts.append(content if self.preformatted else content.replace("\n", " "))
                self.linked += len(content.strip()) if self.links else 0
            elif tag in _HEADINGS:
                self.flush(_HEADINGS[tag] if kind == "close" else 0)
            elif tag == "a":
                self.links += step
            elif tag == "br":
                self.parts.append("\n" if kind == "open" and not self.cells else " ")
            elif tag in ("td", "th"):
                self.cells += step
                self.parts.append(" | " if kind == "close" else "")
            elif tag in _BLOCKS and self.cells and tag not in ("pre", "table", "tr"):
                self.parts.append(" ")  # in a cell most blocks are but a space
            elif tag in _BLOCKS:
                self.flush()
                self.preformatted += step if tag == "pre" else 0
                self.items += step if tag in ("li", "dt", "dd") else 0
                if tag == "table" and kind == "open":  # maybe in a cell of one for the layout
                    self.around.append(self.cells)
                    self.cells = 0
                elif tag == "table":
                    self.cells = self.around.pop()
        self.flush()

    def flush(self, level: int = 0) -> None:
        text, linked = "".join(self.parts), self.linked
        self.parts, self.linked = [], 0
        if level:
            self.outline.heading(level, " ".join(text.split()).strip(_ANCHORS))
            return
        if not self.preformatted:
            lines = filter(None, (" ".join(line.split()) for line in text.split("\n")))
            text = "\n".join(lines).strip(" |").removesuffix("¶")
        self.outline.block(text, listed=bool(self.items) or " | " in text, linked=linked)


def _is_skipped(node: LexborNode) -> bool:
    """Whether an element is no text, about the site, or not shown."""
    if node.tag in _UNREAD or node.tag not in _BOXES:
        return node.tag in _UNREAD
    facts = node.attributes
    return facts.get("role") in _AROUND or "hidden" in facts or facts.get("aria-hidden") == "true"


# reStructuredText, with Sphinx' directives and roles, by docutils. Nothing that a file names is
# read and nothing is run.

_NAME = re.compile(r"(?m)^[ \t]*\.\.[ \t]+(?:\|[^|\n]+\|[ \t]+)?([\w.:+-]+?)[ \t]?::(?:\s|$)")
_TARGET = re.compile(r"(?s)(.+?)\s*<[^<>]*>")  # of a role: text <where it leads>
_CODE = frozenset(
    "code code-block sourcecode highlight prompt ipython doctest testcode productionlist "
    "jupyter-execute plot".split()
)
_EMPTY = frozenset(
    "toctree index include literalinclude image raw csv-table meta contents sectnum "
    "section-numbering header footer target-notes class role default-role title date automodule "
    "autoclass autofunction automethod autoexception autodata autosummary currentmodule module "
    "py:module py:currentmodule highlight tabularcolumns codeauthor sectionauthor moduleauthor "
    "testsetup testcleanup graphviz inheritance-diagram uml mermaid youtube bibliography "
    "deprecated-removed versionadded versionchanged deprecated versionremoved".split()
)
_NAMED = re.compile(  # what an object is called stands before what is said of it
    r"(?:\w+:)?(?:\w*function|\w*method|\w*decorator\w*|class|attribute|property|data|exception|"
    r"describe|object|type|macro|member|struct|enum|enumerator|var|option|envvar|confval|setting|"
    r"opcode|pdbcommand|2to3fixer|templatetag|templatefilter|fieldlookup|django-admin|directive|"
    r"role|rst:directive)"
)
_PARAGRAPHS = frozenset("paragraph term attribution caption rubric line".split())
_VERBATIM = frozenset("literal_block doctest_block math_block option_group".split())
_ITEMS = frozenset("list_item definition_list_item option_list_item line_block".split())
_NOT_READ = frozenset(
    "comment system_message target substitution_definition image decoration pending footnote "
    "citation raw meta".split()
)


def restructured_outline(text: str, label: str) -> Outline:
    """The outline of a text; raises MissingExtraError without docutils."""
    need("docutils")
    from docutils.frontend import get_default_settings
    from docutils.parsers.rst import Parser, directives
    from docutils.utils import new_document

    settings = get_default_settings(Parser)
    settings.report_level = settings.halt_level = 5  # what is wrong in a file is passed over
    settings.file_insertion_enabled = settings.raw_enabled = False
    settings.syntax_highlight = "none"
    settings.line_length_limit = 1 << 30
    settings.warning_stream = False
    theirs = directives._directive_registry.keys() - _CODE - _EMPTY  # texts and tables
    for name in {match.lower() for match in _NAME.findall(text)} - theirs:
        directives.register_directive(name, _directive())
    document = new_document(label, settings)
    try:
        Parser(inliner=_inliner()).parse(text, document)
    except (RecursionError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        # docutils fails in these ways on files that are no reStructuredText
        raise Unreadable(label, f"docutils cannot parse it: {error!r:.80}") from error
    for node in list(document.findall(lambda node: type(node).__name__ in _NOT_READ)):
        node.parent.remove(node)
    outline = Outline()
    _add_nodes(outline, document, level=0)
    return outline


def _inliner() -> Any:
    """Roles become the text that they show: `:meth:`~a.B.c`` is `c`, whoever defines them."""
    from docutils import nodes
    from docutils.parsers.rst.states import Inliner

    def interpreted(rawsource: str, text: str, role: str, number: int) -> Any:
        shown = nodes.unescape(text)
        if match := _TARGET.fullmatch(shown):
            shown = match[1]
        elif shown.startswith("~"):
            shown = shown.rpartition(".")[2].lstrip("~")
        return [nodes.inline(rawsource, shown.lstrip("!"))], []

    inliner = Inliner()
    inliner.interpreted = interpreted  # of the instance: docutils reads vars() of the class
    return inliner


@cache
def _directive() -> Any:
    """A directive that gives its content as it is, or nothing."""
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class AnyOption(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return lambda value: value

    class Content(Directive):  # type: ignore[misc]
        optional_arguments = 1
        final_argument_whitespace = True
        has_content = True
        option_spec = AnyOption(name=str)

        def run(self) -> list[Any]:
            name = self.name.lower()
            if name in _EMPTY:
                return []
            if name in _CODE:
                return [nodes.literal_block("", "\n".join(self.content))] if self.content else []
            box = nodes.container()
            if self.arguments and _NAMED.fullmatch(name):
                box += nodes.paragraph("", self.arguments[0])
            self.state.nested_parse(self.content, self.content_offset, box)
            return [box]

    return Content


def _add_nodes(outline: Outline, node: Any, level: int, listed: bool = False) -> None:
    for child in node.children:
        kind = type(child).__name__
        if kind == "section":
            title = child.next_node(lambda node: type(node).__name__ == "title")
            number = max(0, (title.line or 0) - 1) if title else 0  # docutils tells the underline
            outline.heading(level + 1, title.astext() if title else "", number)
            _add_nodes(outline, child, level + 1)
        elif kind in _PARAGRAPHS:
            outline.block(one_line(child.astext()), listed=listed, linked=_linked(child))
        elif kind in _VERBATIM:
            outline.block(child.astext(), listed=listed)
        elif kind in ("row", "field"):
            cells = [one_line(cell.astext()) for cell in child.children]
            text = (" | " if kind == "row" else ": ").join(cells)
            outline.block(text, listed=True, linked=_linked(child))
        elif kind == "field_list" and level < 2 and node.index(child) < 2:
            continue  # facts about the document: its author, its date
        elif kind == "title" and type(node).__name__ != "section":
            outline.block(child.astext())  # of a box
        elif kind not in ("title", "problematic"):
            _add_nodes(outline, child, level, listed or kind in _ITEMS)


def _linked(node: Any) -> int:
    links = (link for link in node.findall() if type(link).__name__ == "reference")
    return sum(len(link.astext()) for link in links)


# Articles of encyclopedias in plain text, as the usual dumps leave them

_WIKI = re.compile(r"(={2,6})\s*(\S.*?)\s*\1\s*")  # == History ==
_MARKDOWN = re.compile(r"(#{1,6})\s+(\S.*)")
_MARKED = re.compile(r"(?m)^(?:={2,6}\s*\S.*?={2,6}|#{2,6}\s+\S.*)\s*$")
_ENDS = (".", "!", "?", "…", ":", ";", ",", "。", "！", "？", "：", "；", "、", "।", "؟", "۔")
LONGEST = 80  # characters of a line that may be a heading


def article_outline(title: str, text: str, lang: str = "") -> Outline:
    """The outline of an article, given clean text.

    Headings are lines such as `== History ==` or `## History`. Without any, they are what dumps
    without markup leave: a short line that stands alone, with no mark at its end, before a text;
    some in a row are of rising level.
    """
    outline = Outline(title, lang)
    text = _without_title(outline.title, text)
    if _MARKED.search(text):
        block: list[str] = []
        for number, row in enumerate([*text.split("\n"), ""], 1):
            match = _WIKI.fullmatch(row) or _MARKDOWN.fullmatch(row)
            if match or not row.strip():
                outline.block("\n".join(block))
                block = []
            else:
                block.append(row.strip())
            if match:
                outline.heading(len(match[1]), match[2], number)
        return outline
    level, blocks = 1, [block.strip() for block in re.split(r"\n\s*\n", text)]
    for number, text_block in enumerate(blocks, 1):
        alone = len(text_block) <= LONGEST and "\n" not in text_block
        if 1 < number < len(blocks) and alone and not text_block.endswith(_ENDS):
            level += 1
            outline.heading(level, text_block)
        else:
            level = 1
            outline.block("\n".join(row.strip() for row in text_block.split("\n")))
    return outline


def _without_title(title: str, text: str) -> str:
    first, _, rest = text.strip().partition("\n")
    return rest.strip() if one_line(first) == title else text.strip()


def is_list_of_meanings(title: str, text: str) -> bool:
    """Whether an article only says what its title may mean: `Mercury may refer to:`, and a list."""
    first = _without_title(title, text).partition("\n")[0]
    return (
        len(first) <= 200
        and first.rstrip().endswith((":", "："))
        and first.casefold().startswith(title.partition(" (")[0].casefold())
    )
