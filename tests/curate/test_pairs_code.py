"""Source code: the documentation is the query, the function without it the positive."""

import ast
import inspect
import textwrap
import time
from pathlib import Path

import pytest

from tercet.curate import pairs_code as code
from tercet.curate.pairs_sources import Outcome, Pair, PairOptions, Skipped, SourceFile
from tercet.documents.base import Unreadable

PYTHON = '''\
"""A module."""

@cache
def area(width, height):
    """Return the area of a :class:`~shapes.Rectangle`, in ``cm``.

    Args:
        width: of it
    """
    text = """no docstring"""
    return width * height


class Shape:
    """A class is no function."""

    async def draw(self, canvas):
        r"""draw(canvas) -> None

        Draw the shape on a canvas.
        """

        if canvas:
            def inner(a):
                "Do one step of three."
                a += canvas.size
                return a
        return inner

    def __init__(self):
        """Make a shape of nothing."""
        self.a = 1
        self.b = 2

    def empty(self):
        """Say what others should do."""
        raise NotImplementedError

    def test_it(self):
        """Test this and all that."""
        self.a = 1
        self.b = 2

    def short(self): return 1
'''
SOURCES = {
    ".js": """\
        /** Licence of the file, which is long. */

        import x from "y";
        /**
         * Turns [a {@link module.Date date}](x) into a <b>short</b> text.
         * @param date what is turned
         */
        export const format = async (date) => {
          const x = 1;
          return `${date}${x}`;
        };
        class A {
          /** Makes a reader of tokens. */
          constructor() {
            this.a = 1;
          }
          // no documentation, but three words
          next() {
            this.a = 2;
          }
        }
        """,
    ".ts": """\
        export class Reader {
          /** Turns a date into a short text. */
          @log()
          format<T>(date: T): string {
            const x: number = 1;
            return `${date}${x}`;
          }
          /** Has no body at all, being abstract. */
          abstract next(): void;
        }
        """,
    ".java": """\
        class A {
          /**
           * Turns a {@code date} into a short text.
           * @return the text
           */
          @Override
          public String format(Date date) {
            int x = 1;
            return date + x;
          }
        }
        """,
    ".go": """\
        package a

        // Turns a date into
        // a short text.
        //
        // It is quick.
        //go:noinline
        func Format(date Date) string {
          x := 1
          return date.Text(x)
        }

        // A comment that is apart from it.

        func Other() int {
          x := 1
          return x
        }
        """,
    ".rs": """\
        //! About the crate, which is long.

        impl A {
            /// Turns a [`Date`] into a [short](x) text.
            ///
            /// # Examples
            #[inline]
            #[must_use]
            pub fn format(&self, date: Date) -> String {
                let x = 1;
                date.text(x)
            }
        }

        //// Four slashes are no documentation.
        fn other() -> i32 {
            let x = 1;
            x
        }
        """,
}


def made(
    folder: Path, name: str, text: str | bytes, options: PairOptions | None = None
) -> list[Outcome]:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    kind = "python" if name.endswith(".py") else "code"
    file = SourceFile(kind, (folder / name,), name, "s")
    ((_, outcomes),) = code.read_code(file, options or PairOptions(), lambda unit: True)
    return outcomes


def pairs(outcomes: list[Outcome]) -> dict[str, str]:
    return {one.query: one.pos[0] for one in outcomes if isinstance(one, Pair)}


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [one.reason for one in outcomes if isinstance(one, Skipped)]


def test_functions_of_python(tmp_path: Path) -> None:
    outcomes = made(tmp_path, "a.py", PYTHON)
    functions = pairs(outcomes)
    assert list(functions) == [
        "Return the area of a Rectangle, in cm.",
        "Draw the shape on a canvas.",
        "Do one step of three.",
    ]
    first, second, _ = functions.values()
    assert first.startswith("@cache\ndef area(width, height):\n    text =")
    assert second.startswith("async def draw(self, canvas):\n    if canvas:")
    special = "a test, a constructor or another special method"
    assert sorted(reasons(outcomes)) == ["a function without a body", special, special]


def test_only_the_documentation_is_taken_out(tmp_path: Path) -> None:
    """Over the real modules that the tests run on: what is left is the rest of the function."""
    compared = 0
    for module in (ast, inspect, textwrap):
        source = inspect.getsource(module)
        outcomes = made(tmp_path, "a.py", source, PairOptions(max_chars=len(source)))
        defined = {
            node.lineno: node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef)
        }
        for one in outcomes:
            if isinstance(one, Pair):
                node = defined[int(one.where.partition(":")[2])]
                del node.body[0]
                assert ast.dump(ast.parse(one.pos[0]).body[0]) == ast.dump(node)
                compared += 1
    assert compared > 40


@pytest.mark.parametrize("suffix", SOURCES)
def test_functions_of_other_languages(tmp_path: Path, suffix: str) -> None:
    text = textwrap.dedent(SOURCES[suffix])
    outcomes = made(tmp_path, f"a{suffix}", text)
    query = (
        "Turns a Date into a short text." if suffix == ".rs" else "Turns a date into a short text."
    )
    assert list(pairs(outcomes)) == [query]
    (one,) = (one for one in outcomes if isinstance(one, Pair))
    assert "Turns" not in one.pos[0]
    first = one.pos[0].split("\n")[0]
    assert first.strip() in text.split("\n")[int(one.where.partition(":")[2]) - 1]
    assert not first[0].isspace()
    for end in range(0, len(text), 40):  # broken code is no harm
        made(tmp_path, f"a{suffix}", text[:end])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# @generated by a program\n" + PYTHON, "a file that a program made"),
        (PYTHON + "x = '" + 2000 * "x" + "'\n", "a file with very long lines"),
    ],
)
def test_code_of_programs_is_skipped(tmp_path: Path, text: str, reason: str) -> None:
    for name in ("a.py", "a.go"):
        assert made(tmp_path, name, text) == [Skipped(reason, name)]


def test_long_functions_are_cut_at_a_line(tmp_path: Path) -> None:
    body = "".join(f"    value_{number} = {number}\n" for number in range(100))
    text = f'def f():\n    """Set a hundred values."""\n{body}'
    (cut,) = pairs(made(tmp_path, "a.py", text, PairOptions(max_chars=200))).values()
    assert 150 < len(cut) <= 200
    assert f"def f():\n{body}".startswith(f"{cut}\n")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"def f(:\n", "a.py:1"),
        (b"x = 1\nprint 'x'\n", "a.py:2"),
        (b"# coding: unheard-of\n", "a.py"),
        (b"x = '\xff'\n", "a.py"),
        (b"x = 1\0\n", "a.py"),
        (b"(" * 900, "a.py"),
    ],
)
def test_code_that_cannot_be_parsed_is_named(tmp_path: Path, text: bytes, where: str) -> None:
    with pytest.raises(Unreadable, match=rf"^{where}(:1)?: "):
        made(tmp_path, "a.py", text)


def test_code_in_another_encoding(tmp_path: Path) -> None:
    body = "    b = a.copy()\n    return b.text()\n"
    text = f'# coding: latin-1\ndef f(a):\n    """Grüße an alle."""\n{body}'
    assert list(pairs(made(tmp_path, "a.py", text.encode("latin-1")))) == ["Grüße an alle."]


@pytest.mark.parametrize("row", ["\n", "\n   ", "\n args", "\n:a"])
def test_a_documentation_of_many_lines_takes_time_in_proportion(row: str) -> None:
    start = time.process_time()
    assert code.summary(f"Says a thing well.{row * 10_000}x").startswith("Says a thing well.")
    assert time.process_time() - start < 2
