"""reStructuredText into an Outline, Sphinx' directives and roles included, by docutils.

Nothing that a file names is read and nothing is run. Knows nothing of pairs.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from tercet.data.pairs.base import Unreadable, clean, decode, need, read_bytes
from tercet.data.pairs.outline import Outline

_NAME = re.compile(r"(?m)^[ \t]*\.\.[ \t]+(?:\|[^|\n]+\|[ \t]+)?([\w.:+-]+?)[ \t]?::(?:\s|$)")
_TARGET = re.compile(r"(?s)(.+?)\s*<[^<>]*>")  # of a role: text <where it leads>
# Directives of text and tables, which docutils knows and which read nothing.
_OWN = frozenset(
    "admonition attention caution danger error hint important note tip warning topic sidebar "
    "line-block parsed-literal math rubric epigraph highlights pull-quote compound container "
    "table list-table figure replace unicode".split()
)
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
# What an object is called stands before what is said of it.
_NAMED = re.compile(
    r"(?:\w+:)?(?:\w*function|\w*method|\w*decorator\w*|class|attribute|property|data|exception|describe|object|"
    r"type|macro|member|struct|enum|enumerator|var|option|envvar|confval|setting|opcode|pdbcommand|"
    r"2to3fixer|templatetag|templatefilter|fieldlookup|django-admin|directive|role|rst:directive)"
)
_INLINE = ("reference", "title_reference", "literal", "emphasis", "strong", "inline")


def read_restructured(path: Path, label: str) -> Outline:
    """The outline of a file; raises Unreadable where it cannot be read."""
    return outline_of(clean(decode(read_bytes(path, label), label)), label)


def outline_of(text: str, label: str) -> Outline:
    """The outline of a text; raises MissingExtraError without docutils."""
    need("docutils")
    from docutils.frontend import get_default_settings
    from docutils.parsers.rst import Parser
    from docutils.utils import new_document

    settings = get_default_settings(Parser)
    settings.report_level = settings.halt_level = 5  # what is wrong in a file is passed over
    settings.file_insertion_enabled = settings.raw_enabled = False
    settings.syntax_highlight = "none"
    settings.line_length_limit = 1 << 30
    settings.warning_stream = False
    _register(text)
    document = new_document(label, settings)
    try:
        Parser(inliner=_inliner()).parse(text, document)
    except (RecursionError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        # docutils fails in these ways on files that are no reStructuredText
        raise Unreadable(label, f"docutils cannot parse it: {error!r:.80}") from error
    outline = Outline()
    _add(outline, document, level=0)
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


def _register(text: str) -> None:
    """Makes docutils take every directive of a text, and none that reads files or runs code."""
    from docutils.parsers.rst import directives

    for name in {match.lower() for match in _NAME.findall(text)} - _OWN:
        directives.register_directive(name, _directive())


@cache
def _directive() -> Any:
    """A directive that gives its content as it is, or nothing."""
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Options(dict[str, Any]):
        """Any option, as it is written."""

        def __missing__(self, name: str) -> Any:
            return lambda value: value

    class Content(Directive):  # type: ignore[misc]
        optional_arguments = 1
        final_argument_whitespace = True
        has_content = True
        option_spec = Options(name=str)

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


_PARAGRAPHS = frozenset("paragraph term attribution caption rubric line".split())
_VERBATIM = frozenset("literal_block doctest_block math_block option_group".split())
_ITEMS = frozenset("list_item definition_list_item option_list_item line_block".split())
_SKIPPED = frozenset(
    "comment system_message target substitution_definition image decoration pending footnote "
    "citation raw meta problematic".split()
)


def _add(outline: Outline, node: Any, level: int, listed: bool = False) -> None:
    """Adds what is in a node of docutils' tree."""
    for child in node.children:
        kind = type(child).__name__
        if kind == "section":
            title = child.next_node(lambda one: type(one).__name__ == "title")
            number = max(0, (title.line or 0) - 1) if title else 0  # docutils tells the underline
            outline.heading(level + 1, _text(title), number)
            _add(outline, child, level + 1)
        elif kind in _PARAGRAPHS:
            outline.block(_joined(child), listed=listed, linked=_linked(child))
        elif kind in _VERBATIM:
            outline.block(child.astext(), listed=listed)
        elif kind == "row":
            cells = [_joined(entry) for entry in child.children]
            outline.block(" | ".join(cells), listed=True, linked=_linked(child))
        elif kind == "field":
            name, body = child.children
            outline.block(f"{_text(name)}: {_joined(body)}", listed=True, linked=_linked(body))
        elif kind == "field_list" and level < 2 and node.index(child) < 2:
            continue  # facts about the document: its author, its date
        elif kind == "title" and type(node).__name__ != "section":
            outline.block(_text(child))  # of a box
        elif kind not in _SKIPPED and kind != "title":
            _add(outline, child, level, listed or kind in _ITEMS)


def _text(node: Any) -> str:
    return "" if node is None else node.astext()


def _joined(node: Any) -> str:
    """The text of a node, its lines and paragraphs in one."""
    parts: list[str] = []
    for child in node.children:
        kind = type(child).__name__
        if kind not in _SKIPPED or kind == "problematic":
            parts.append(_joined(child) if child.children else child.astext())
            parts.append(" " if kind in ("paragraph", "list_item") else "")
    return " ".join("".join(parts).split())


def _linked(node: Any) -> int:
    return sum(
        len(found.astext()) for found in node.findall() if type(found).__name__ == "reference"
    )
