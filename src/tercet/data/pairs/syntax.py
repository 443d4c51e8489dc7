"""Source code of several languages into pairs, by tree-sitter's grammars.

A documentation comment, and what stands below it if that is a function or a method. Knows nothing
of what a comment means beyond its marks.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tercet.data.pairs.base import Found, Left, Plan, clean, decode, need, read_bytes
from tercet.data.pairs.code import function_pair, generated

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


@dataclass(frozen=True)
class Grammar:
    """What the nodes of a language are called in its grammar."""

    module: str
    language: str  # the function of the module that gives it
    functions: frozenset[str]  # nodes that are functions with a body
    wrappers: frozenset[str] = frozenset()  # nodes that may hold one: `export`, `const f =`
    lines: str = ""  # the mark of documentation in comments of a line; "": only in /** */


_SCRIPT_FUNCTIONS = frozenset(
    "function_declaration generator_function_declaration method_definition arrow_function "
    "function_expression".split()
)
_SCRIPT_WRAPPERS = frozenset(
    "export_statement lexical_declaration variable_declaration variable_declarator "
    "expression_statement assignment_expression pair public_field_definition "
    "field_definition".split()
)
_ATTRIBUTES = frozenset(("attribute_item", "decorator"))
_JAVASCRIPT = Grammar("javascript", "language", _SCRIPT_FUNCTIONS, _SCRIPT_WRAPPERS)
GRAMMARS = {
    ".js": _JAVASCRIPT,
    ".mjs": _JAVASCRIPT,
    ".cjs": _JAVASCRIPT,
    ".jsx": _JAVASCRIPT,
    ".ts": Grammar("typescript", "language_typescript", _SCRIPT_FUNCTIONS, _SCRIPT_WRAPPERS),
    ".tsx": Grammar("typescript", "language_tsx", _SCRIPT_FUNCTIONS, _SCRIPT_WRAPPERS),
    ".java": Grammar("java", "language", frozenset(("method_declaration",))),
    ".go": Grammar(
        "go", "language", frozenset(("function_declaration", "method_declaration")), lines="//"
    ),
    ".rs": Grammar("rust", "language", frozenset(("function_item",)), lines="///"),
}
_COMMENTS = frozenset(("comment", "line_comment", "block_comment"))
_STARS = re.compile(r"(?m)^[ \t]*\*[ \t]?")
_INLINE = re.compile(r"\{@\w+\s+([^{}]*)\}")  # {@link java.util.List list}
_LINK = re.compile(r"\[([^\][]+)\](?:\([^()]*\)|\[[^\][]*\])|\[(`[^`\][]+`)\]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>")
_DIRECTIVE = re.compile(r"//[a-z]+:\S")  # Go: for the compiler, not for people
_NAME = re.compile(r"([\w$#]+)\s*[=:(<]")


def read_code(path: Path, label: str, plan: Plan) -> list[Found]:
    """The documented functions of a file; raises MissingExtraError without tree-sitter."""
    grammar = GRAMMARS[path.suffix.lower()]
    text = decode(read_bytes(path, label), label)
    if reason := generated(text):
        return [Left(reason, label)]
    raw = text.encode()
    tree = _parser(grammar).parse(raw)
    return list(_functions(tree.root_node, grammar, raw, plan, label))


@cache
def _parser(grammar: Grammar) -> "Parser":
    need("tree_sitter")
    from tree_sitter import Language, Parser

    name = f"tree_sitter_{grammar.module}"
    need(name)
    return Parser(Language(getattr(import_module(name), grammar.language)()))


def _functions(
    root: "Node", grammar: Grammar, raw: bytes, plan: Plan, label: str
) -> Iterator[Found]:
    """Goes through a tree without recursion."""
    waiting = [root]
    while waiting:
        siblings = waiting.pop().children
        waiting.extend(reversed(siblings))
        for at, node in enumerate(siblings):
            function = _function(node, grammar)
            if function is None or not (text := _documentation(siblings, at, grammar)):
                continue
            start = raw.rfind(b"\n", 0, node.start_byte) + 1  # with the space before it
            code = textwrap.dedent(clean(raw[start : node.end_byte].decode()))
            named = function.child_by_field_name("name")
            found = _NAME.search(code)
            name = _text(named) if named is not None else found[1] if found else ""
            where = f"{label}:{node.start_point[0] + 1}"
            yield from function_pair(name, text, code.strip(), plan, where)


def _function(node: "Node", grammar: Grammar) -> "Node | None":
    """The function that a node is, or wraps; one without a body is none."""
    inner: Node | None = node
    while inner is not None and inner.type in grammar.wrappers:
        within = grammar.functions | grammar.wrappers
        inner = next((child for child in inner.children if child.type in within), None)
    if inner is None or inner.type not in grammar.functions:
        return None
    return inner if inner.child_by_field_name("body") is not None else None


def _documentation(siblings: "list[Node]", at: int, grammar: Grammar) -> str:
    """The documentation comment right above a node, attributes between them."""
    while at and siblings[at - 1].type in _ATTRIBUTES:
        at -= 1
    rows: list[str] = []
    while at and siblings[at - 1].type in _COMMENTS:
        comment, below = siblings[at - 1], siblings[at]
        text = _text(comment).rstrip()
        if below.start_point[0] - comment.start_point[0] > text.count("\n") + 1:
            break  # an empty line between them
        if text.startswith("/**") and not rows:
            return _plain(_STARS.sub("", text.removesuffix("*/")[3:].lstrip("*")))
        if not grammar.lines or not re.match(rf"{grammar.lines}(?!/)", text):
            break
        if not _DIRECTIVE.match(text):
            rows.insert(0, text.removeprefix(grammar.lines))
        at -= 1
    return _plain("\n".join(rows))


def _plain(text: str) -> str:
    """A documentation without links and tags; what they show stays."""
    text = _INLINE.sub(lambda found: (found[1].split() or [""])[-1], text)
    text = _LINK.sub(lambda found: found[1] or found[2], text)
    return textwrap.dedent(_TAG.sub("", text)).strip()


def _text(node: "Node") -> str:
    return (node.text or b"").decode("utf-8", "replace")
