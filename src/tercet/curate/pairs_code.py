"""Source code into pairs: what a function's documentation says, and the function without it.

Python by its own parser; JavaScript, TypeScript, Java, Go and Rust by tree-sitter. Follows
CodeSearchNet (Husain et al. 2019, section 2.1) in what is skipped: short functions and
descriptions, tests, constructors and other special methods.
"""

import ast
import io
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

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
)
from tercet.documents.base import Unreadable, decode

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

WORDS = 3  # that a description has at least: CodeSearchNet
LINES = 3  # that a function has at least: CodeSearchNet
LONGEST_LINE = 1000  # characters; files with longer ones were made by a program
_ROLE = re.compile(r":[\w:+-]+:`(?:[~!]?(?:[\w.]+\.)?([^`<]*?)(?:\s*<[^`]*>)?)`")
_MARKS = re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}")
_FIELDS = re.compile(  # where a docstring turns from prose to a list of arguments
    r"(?im)^[^\S\n]*(?:args|arguments|parameters|params|returns?|yields?|raises|examples?|usage|"
    r"notes?|attributes|see also|keyword arguments|type|inputs?|outputs?)[^\S\n]*:?[^\S\n]*$|"
    r"^[^\S\n]*(?::\w|@\w|>>>|\.\. )"
)
_SIGNATURE = re.compile(r"(?s)([\w.]+)\s*\([^()]*\)\s*(?:->.*)?")
_GENERATED = re.compile(r"(?i)@generated\b|\bgenerated\b.{0,80}\bdo not (?:edit|modify)\b")
_SPECIAL = re.compile(
    r"__\w+__|(?i:tests?)(?:$|[_A-Z])|.*(?:_tests?|Tests?)$|constructor$|toString$"
)


def read_code(file: SourceFile, options: PairOptions, has: Has) -> Units:
    """The documented functions of a file, all as one unit.

    Raises Unreadable where it cannot be parsed, MissingExtraError without tree-sitter.
    """
    raw, label = read_bytes(file.paths[0], file.label), file.label
    encoding = _encoding(raw, label) if file.kind == "python" else None
    text = re.sub("\r\n?", "\n", decode(raw, label, encoding))
    not_by_people = first_reason(
        (bool(_GENERATED.search(text, 0, 1000)), "a file that a program made"),
        (max(map(len, text.split("\n"))) > LONGEST_LINE, "a file with very long lines"),
    )
    if not_by_people:
        yield 0, [Skipped(not_by_people, label)]
    elif file.kind == "python":
        yield 0, list(_python_functions(text, options, label))
    else:
        grammar = GRAMMARS[file.paths[0].suffix.lower()]
        yield 0, list(_documented(text.encode(), grammar, options, label))


def function_pair(
    name: str, text: str, code: str, options: PairOptions, where: str
) -> Iterator[Outcome]:
    """The pair of a function, its documentation as plain text."""
    query = summary(text, name)
    unspaced = sum(char >= "\u2e80" for char in query) >= 2 * WORDS  # no spaces to count words by
    is_short = code.count("\n") + 1 < LINES or len(code) < options.min_chars
    reason = first_reason(
        (len(query.split()) < WORDS and not unspaced, "a description of a word or two"),
        (not has_word(query), "a description without words"),
        (bool(_SPECIAL.match(name)), "a test, a constructor or another special method"),
        (is_short, "a function of a line or two"),
        (len(query) > options.max_query_chars, "a query longer than asked"),
    )
    if reason:
        yield Skipped(reason, where, f"{name}: {query}"[:200])
        return
    if len(code) > options.max_chars:  # it is cut at the end of a line
        code = code[: code.rfind("\n", 0, options.max_chars + 1)].rstrip()
    yield Pair("code-docstring", query, (code,), where, options.lang)


def summary(text: str, name: str = "") -> str:
    """The first paragraph of a documentation, its markup gone, up to a list of arguments.

    One that only repeats the signature of the function (`name`) is passed over.
    """
    text = clean(text).strip()
    if match := _FIELDS.search(text):
        text = text[: match.start()].strip()
    paragraphs = re.split(r"\n\s*\n", text, maxsplit=2)
    signature = _SIGNATURE.fullmatch(paragraphs[0].strip())
    if signature and len(paragraphs) > 1 and signature[1].rpartition(".")[2] == name:
        del paragraphs[0]
    shown = _ROLE.sub(r"\1", paragraphs[0])
    return one_line(_MARKS.sub(lambda mark: mark[1] or mark[2] or "", shown)).rstrip(":")


# Python


def _encoding(raw: bytes, label: str) -> str:
    try:
        return tokenize.detect_encoding(io.BytesIO(raw).readline)[0]
    except SyntaxError as error:
        raise Unreadable(label, f"Python cannot parse it: {error.msg}") from error


def _python_functions(text: str, options: PairOptions, label: str) -> Iterator[Outcome]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and the like in what others wrote
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        reason = f"Python cannot parse it: {getattr(error, 'msg', error)}"
        raise Unreadable(f"{label}:{line}" if line else label, reason) from error
    lines = text.split("\n")
    for node in _defined(tree):
        where = f"{label}:{node.lineno}"
        text = ast.get_docstring(node) or ""
        if not text:
            continue
        if all(map(_does_nothing, node.body[1:])):
            yield Skipped(
                "a function without a body", where, f"{node.name}: {one_line(text)}"[:200]
            )
            continue
        docstring, after = node.body[0], node.body[1]
        if docstring.end_lineno == after.lineno or docstring.lineno == node.lineno:
            continue  # several statements in a line: rare, and hard to read
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        body = lines[docstring.end_lineno or docstring.lineno : node.end_lineno]
        rows = lines[first - 1 : docstring.lineno - 1] + (body if body[0].strip() else body[1:])
        code = textwrap.dedent(clean("\n".join(rows))).strip()
        yield from function_pair(node.name, text, code, options, where)


def _defined(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, by its statements alone: expressions hold none that are named."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        statements = ("body", "orelse", "finalbody", "handlers", "cases")
        waiting += reversed([below for name in statements for below in getattr(node, name, ())])


def _does_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        return "NotImplemented" in ast.dump(node)
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass)


# Other languages: a documentation comment, and what stands below it if that is a function


class Grammar(NamedTuple):
    """A language's grammar of tree-sitter."""

    module: str
    language: str = "language"  # the function of the module that gives it
    comment: str = ""  # the mark of documentation in comments of a line; "": only in /** */


GRAMMARS = {
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), Grammar("javascript")),
    ".ts": Grammar("typescript", "language_typescript"),
    ".tsx": Grammar("typescript", "language_tsx"),
    ".java": Grammar("java"),
    ".go": Grammar("go", comment="//"),
    ".rs": Grammar("rust", comment="///"),
}
# Nodes of all the grammars that are functions, and those that may hold one: `export`, `const f =`.
_FUNCTIONS = frozenset(
    "function_declaration generator_function_declaration method_definition arrow_function "
    "function_expression method_declaration function_item".split()
)
_WRAPPERS = frozenset(
    "export_statement lexical_declaration variable_declaration variable_declarator "
    "expression_statement assignment_expression pair public_field_definition "
    "field_definition".split()
)
_ATTRIBUTES = frozenset(("attribute_item", "decorator"))
_COMMENTS = frozenset(("comment", "line_comment", "block_comment"))
_STARS = re.compile(r"(?m)^[ \t]*\*[ \t]?")
_INLINE = re.compile(r"\{@\w+\s+([^{}]*)\}")  # {@link java.util.List list}
_LINK = re.compile(r"\[([^\][]+)\](?:\([^()]*\)|\[[^\][]*\])|\[(`[^`\][]+`)\]")
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,80}>")
_DIRECTIVE = re.compile(r"//[a-z]+:\S")  # Go: for the compiler, not for people
_NAME = re.compile(r"([\w$#]+)\s*[=:(<]")


@cache
def _parser(grammar: Grammar) -> "Parser":
    name = f"tree_sitter_{grammar.module}"
    for module in ("tree_sitter", name):
        need(module)
    from tree_sitter import Language, Parser

    return Parser(Language(getattr(import_module(name), grammar.language)()))


def _documented(
    raw: bytes, grammar: Grammar, options: PairOptions, label: str
) -> Iterator[Outcome]:
    waiting = [_parser(grammar).parse(raw).root_node]
    while waiting:
        siblings = waiting.pop().children
        waiting.extend(reversed(siblings))
        for index, node in enumerate(siblings):
            function = _function(node)
            if function is None or not (text := _documentation(siblings, index, grammar)):
                continue
            start = raw.rfind(b"\n", 0, node.start_byte) + 1  # with the space before it
            code = textwrap.dedent(clean(raw[start : node.end_byte].decode()))
            named, match = function.child_by_field_name("name"), _NAME.search(code)
            name = _text(named) if named is not None else match[1] if match else ""
            where = f"{label}:{node.start_point[0] + 1}"
            yield from function_pair(name, text, code.strip(), options, where)


def _function(node: "Node") -> "Node | None":
    """The function that a node is, or wraps; one without a body is none."""
    inner: Node | None = node
    while inner is not None and inner.type in _WRAPPERS:
        held = (child for child in inner.children if child.type in _FUNCTIONS | _WRAPPERS)
        inner = next(held, None)
    if inner is None or inner.type not in _FUNCTIONS:
        return None
    return inner if inner.child_by_field_name("body") is not None else None


def _documentation(siblings: "Sequence[Node]", index: int, grammar: Grammar) -> str:
    """The documentation comment right above a node, attributes between them."""
    while index and siblings[index - 1].type in _ATTRIBUTES:
        index -= 1
    rows: list[str] = []
    while index and siblings[index - 1].type in _COMMENTS:
        comment, below = siblings[index - 1], siblings[index]
        text = _text(comment).rstrip()
        if below.start_point[0] - comment.start_point[0] > text.count("\n") + 1:
            break  # an empty line between them
        if text.startswith("/**") and not rows:
            return _plain(_STARS.sub("", text.removesuffix("*/")[3:].lstrip("*")))
        if not grammar.comment or not re.match(rf"{grammar.comment}(?!/)", text):
            break
        if not _DIRECTIVE.match(text):
            rows.insert(0, text.removeprefix(grammar.comment))
        index -= 1
    return _plain("\n".join(rows))


def _plain(text: str) -> str:
    """A documentation without links and tags; what they show stays."""
    text = _INLINE.sub(lambda link: (link[1].split() or [""])[-1], text)
    text = _LINK.sub(lambda link: link[1] or link[2], text)
    return textwrap.dedent(_TAG.sub("", text)).strip()


def _text(node: "Node") -> str:
    return (node.text or b"").decode("utf-8", "replace")
