"""Source code into pairs: what a function's documentation says, and the function without it.

Python by its own parser; JavaScript, TypeScript, Java, Go and Rust by tree-sitter. Follows
CodeSearchNet (Husain et al. 2019, section 2.1) in what is left out: short functions and
descriptions, tests, constructors and other special methods.
"""

import ast
import io
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from tercet.data.pairs.base import (
    Found,
    Left,
    Pair,
    Plan,
    Unreadable,
    clean,
    decode,
    has_word,
    line,
    read_bytes,
    shorten_code,
)

WORDS = 3  # that a description has at least: CodeSearchNet
LINES = 3  # that a function has at least: CodeSearchNet
LONGEST_LINE = 1000  # characters; files with longer ones were made by a program
_ROLE = re.compile(r":[\w:+-]+:`(?:[~!]?(?:[\w.]+\.)?([^`<]*?)(?:\s*<[^`]*>)?)`")
_MARKS = re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}")
_FIELDS = re.compile(  # where a docstring turns from prose to a list of arguments
    r"(?im)^\s*(?:args|arguments|parameters|params|returns?|yields?|raises|examples?|usage|"
    r"notes?|attributes|see also|keyword arguments|type|inputs?|outputs?)\s*:?\s*$|"
    r"^\s*(?::\w|@\w|>>>|\.\. )"
)
_SIGNATURE = re.compile(r"(?s)([\w.]+)\s*\([^()]*\)\s*(?:->.*)?")
_INNER = ("body", "orelse", "finalbody", "handlers", "cases")  # where a node has statements
_GENERATED = re.compile(r"(?i)@generated\b|\bgenerated\b.{0,80}\bdo not (?:edit|modify)\b")
_SPECIAL = re.compile(
    r"__\w+__|(?i:tests?)(?:$|[_A-Z])|.*(?:_tests?|Tests?)$|constructor$|toString$"
)


def function_pair(name: str, text: str, code: str, plan: Plan, where: str) -> Iterator[Found]:
    """The pair of a function, its documentation as plain text."""
    query = summary(text, name)
    reason = ""
    if len(query.split()) < WORDS and not _unspaced(query):
        reason = "a description of a word or two"
    elif not has_word(query):
        reason = "a description without words"
    elif _SPECIAL.match(name):
        reason = "a test, a constructor or another special method"
    elif code.count("\n") + 1 < LINES or len(code) < plan.min_chars:
        reason = "a function of a line or two"
    elif len(query) > plan.max_query_chars:
        reason = "a query longer than asked"
    if reason:
        yield Left(reason, where, f"{name}: {query}"[:200])
    else:
        code = shorten_code(code, plan.max_chars)
        yield Pair("code-docstring", query, (code,), where, plan.lang)


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
    return line(_MARKS.sub(lambda found: found[1] or found[2] or "", shown)).rstrip(":")


def _unspaced(text: str) -> bool:
    """Whether words in it cannot be counted by spaces."""
    return sum(char >= "\u2e80" for char in text) >= 2 * WORDS


def read_python(path: Path, label: str, plan: Plan) -> list[Found]:
    """The functions and methods of a file; raises Unreadable where Python cannot parse it."""
    raw = read_bytes(path, label)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = re.sub("\r\n?", "\n", decode(raw, label, encoding))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and the like in what others wrote
            tree = ast.parse(text)
    except SyntaxError as error:
        where = f"{label}:{error.lineno}" if error.lineno else label
        raise Unreadable(where, f"Python cannot parse it: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(label, f"Python cannot parse it: {error}") from error
    if reason := generated(text):
        return [Left(reason, label)]
    return list(_python(tree, text.split("\n"), plan, label))


def generated(text: str) -> str:
    """Why code was not written by people, "" where it seems to be."""
    if _GENERATED.search(text, 0, 1000):
        return "a file that a program made"
    return "a file with very long lines" if longest_line(text) > LONGEST_LINE else ""


def longest_line(text: str) -> int:
    """Characters of the longest line."""
    return max(map(len, text.split("\n")))


def _python(tree: ast.Module, lines: list[str], plan: Plan, label: str) -> Iterator[Found]:
    for node in _defined(tree):
        where = f"{label}:{node.lineno}"
        text = ast.get_docstring(node)
        if not text:
            continue
        if len(node.body) == 1 or all(map(_does_nothing, node.body[1:])):
            yield Left("a function without a body", where, f"{node.name}: {line(text)}"[:200])
            continue
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        string, after = node.body[0], node.body[1]
        kept = lines[first - 1 : string.lineno - 1]
        if string.end_lineno == after.lineno or string.lineno == node.lineno:
            continue  # several statements in a line: rare, and hard to read
        body = lines[string.end_lineno or string.lineno : node.end_lineno]
        kept += body if body[0].strip() else body[1:]
        code = textwrap.dedent(clean("\n".join(kept))).strip()
        yield from function_pair(node.name, text, code, plan, where)


def _defined(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a file, by its statements alone: expressions hold none that are named."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        inner = [one for name in _INNER for one in getattr(node, name, ())]
        waiting += reversed(inner)


def _does_nothing(node: ast.stmt) -> bool:
    if isinstance(node, ast.Raise):
        return "NotImplemented" in ast.dump(node)
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass)
