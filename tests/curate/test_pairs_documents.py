"""Markdown, HTML, reStructuredText and articles: the same document gives the same pairs."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.curate import pairs_documents as documents
from tercet.curate.pairs_documents import Outline, document_pairs
from tercet.curate.pairs_sources import Outcome, Pair, PairOptions, Skipped
from tercet.errors import InputError

MARKDOWN = """\
# Bees at work

Bees carry *pollen* from flower to [flower](x.html) all summer long.

## How bees talk

A bee dances in `figures of eight` to show the way:

- the angle is the direction
- the length is the distance

```
dance(angle, length)
```

### What is a swarm?

Name | Size
--- | ---
small swarm | five thousand bees or so

## See also

Wasps and hornets are other insects that fly about in summer.
"""
HTML = """\
<html lang="en"><head><title>Bees at work - The site</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><main><h1>Bees at work<a class=headerlink>¶</a></h1>
<p>Bees carry <em>pollen</em> from flower to <a href="x.html">flower</a> all
summer long.<h2>How bees talk</h2>
<p>A bee dances in <code>figures of eight</code> to show the way:
<ul><li>the angle is the direction<li>the length is the distance</ul>
<pre>dance(angle, length)
</pre>
<h3>What is a swarm?</h3>
<table><tr><th>Name<th>Size<tr><td>small swarm<td><p>five thousand bees or so</table>
<h2>See also</h2><p>Wasps and hornets are other insects that fly about in summer.</main>
<footer>Imprint of the site, which nobody reads but lawyers.</footer>
"""
RESTRUCTURED = """\
Bees at work
============

Bees carry *pollen* from flower to `flower <x.html>`_ all
summer long.

How bees talk
-------------

A bee dances in ``figures of eight`` to show the way:

- the angle is the direction
- the length is the distance

.. code-block:: python
   :emphasize-lines: 1

   dance(angle, length)

What is a swarm?
~~~~~~~~~~~~~~~~

=========== ========================
Name        Size
small swarm five thousand bees or so
=========== ========================

See also
--------

Wasps and hornets are other insects that fly about in summer.
"""
EXPECTED = {
    ("Bees at work",): "Bees carry pollen from flower to flower all summer long.",
    ("Bees at work", "How bees talk"): "A bee dances in figures of eight to show the way:\n\n"
    "the angle is the direction\nthe length is the distance\n\ndance(angle, length)",
    ("Bees at work", "How bees talk", "What is a swarm?"): "Name | Size\n"
    "small swarm | five thousand bees or so",
}
FORMS = [(".md", MARKDOWN), (".html", HTML), (".rst", RESTRUCTURED)]
READ: dict[str, Callable[[str], Outline]] = {
    ".md": documents.markdown_outline,
    ".html": documents.html_outline,
    ".rst": lambda text: documents.restructured_outline(text, "x"),
}


def made(outline: Outline, *structures: str, min_chars: int = 40) -> list[Outcome]:
    options = PairOptions(min_chars=min_chars)
    return list(document_pairs(outline, options, "x", structures or ("heading-section",)))


def of_html(text: str) -> Outline:
    outline = Outline("x")
    documents.add_html(outline, text)
    return outline


def paths(outcomes: list[Outcome]) -> dict[tuple[str, ...], str]:
    return {one.path: one.pos[0] for one in outcomes if isinstance(one, Pair)}


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [one.reason for one in outcomes if isinstance(one, Skipped)]


@pytest.mark.parametrize(("suffix", "text"), FORMS)
def test_every_markup_gives_the_same_pairs(suffix: str, text: str) -> None:
    outline = READ[suffix](text)
    sections = made(outline)
    assert paths(sections) == EXPECTED
    assert reasons(sections) == [documents.ABOUT_TEXT]
    if suffix != ".html":  # a line number finds the heading
        for one in sections:
            assert isinstance(one, Pair | Skipped)
            row = text.split("\n")[int(one.where.partition(":")[2]) - 1]
            assert row.lstrip("# ") == (one.path[-1] if isinstance(one, Pair) else "See also")
    others = made(outline, "title-body", "title-abstract", "question-answer")
    answer, body, abstract = (pair for pair in others if isinstance(pair, Pair))
    assert answer.query == "What is a swarm?"
    assert body.query == abstract.query == "Bees at work"
    assert body.pos[0].startswith(abstract.pos[0])
    assert "How bees talk\nA bee dances" in body.pos[0]
    assert "Wasps" not in body.pos[0]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("---\ntitle: 'Bees: a life'\nlang: de_AT\n---\n# Bees\n", "Bees: a life"),
        ('+++\ntitle = "Bees"\n+++\ntext', "Bees"),
        ("text\n\n## Bees\n\n### More", "Bees"),
        ("# Bees\n\n# Wasps", ""),
        ("---\n\nno front matter", ""),
    ],
)
def test_the_title_is_in_the_front_matter_or_the_only_top_heading(text: str, title: str) -> None:
    outline = documents.markdown_outline(text)
    list(outline.paths())
    assert outline.title == title
    assert outline.lang == ("de-AT" if "lang" in text else "")


def test_a_page_without_headings_has_the_title_of_its_tab() -> None:
    text = f"<title>Bread and salt — The site</title><body><p>{20 * 'bread '}"
    assert list(paths(made(READ[".html"](text)))) == [("Bread and salt",)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "an empty section"),
        ("- [One page of many](a)\n- [Another page of many](b)", "a section of links"),
        ("Too short.", "a body shorter than asked"),
    ],
)
def test_what_is_no_body_is_skipped(body: str, reason: str) -> None:
    text = f"# Bees at work\n\n{40 * 'x'}\n\n## Of honey\n\n{body}\n"
    assert reasons(made(documents.markdown_outline(text))) == [reason]


def test_nothing_that_a_document_names_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret of the house is under the mat of the door")
    text = "Bees at work\n============\n\n.. include:: secret.txt\n\n.. raw:: html\n   :file: "
    text += f"secret.txt\n\n.. csv-table:: x\n   :file: {tmp_path}/secret.txt\n\n{30 * 'bees '}\n"
    assert list(paths(made(READ[".rst"](text))).values()) == [(30 * "bees ").strip()]


def test_roles_and_directives_of_sphinx_are_read() -> None:
    outline = documents.restructured_outline(
        ":orphan:\n\nThe dance module\n================\n\n"
        "See :py:meth:`~dance.Floor.turn`, :ref:`the guide <guide>` and :unheard:`of`.\n\n"
        ".. py:function:: turn(angle)\n   :module: dance\n\n   Turns by an angle.\n\n"
        ".. versionadded:: 3.2\n\n.. unheard-of:: some title\n   :with: an option\n\n   Content.\n",
        "x",
    )
    text = "See turn, the guide and of.\n\nturn(angle)\n\nTurns by an angle.\n\nContent."
    assert list(paths(made(outline)).values()) == [text]


@pytest.mark.parametrize(
    ("check", "yes", "no"),
    [
        (
            lambda headings: documents.is_around("Bees", headings),
            [("References",), ("Weblinks", "Books"), ("Table of contents",), ("4. Siehe auch:",)],
            [("Table of contents", "Dances"), ("Dances",)],
        ),
        (
            lambda title: documents.is_around(title, ()),
            ["The MIT License", "Changelog"],
            ["References"],
        ),
        (documents.is_vague, ["Usage!", "歴史"], ["江戸時代の歴史", "Of bees"]),
        (
            documents.is_version,
            ["v1.2.0 (2024-05-01)", "Release 0.23 (2026-05-27)", "Changes for v1.9.5 – May 2019"],
            ["How to move to 2.0", "2.0 Migration guide"],
        ),
        (documents.is_question, ["Wer bist du?", "何ですか？"], ["Who"]),
        (documents.is_common, ["2. Overview:", "Geschichte"], ["How bees talk"]),
    ],
)
def test_what_headings_say(check: Callable[[Any], bool], yes: list[Any], no: list[Any]) -> None:
    assert [check(heading) for heading in yes + no] == [True] * len(yes) + [False] * len(no)


def test_headings_are_joined_from_the_title_down() -> None:
    for path, query in (("Life Summer Dances", "Summer > Dances"), ("Contents 1 Dances", "Dances")):
        assert documents.joined(("Bees", *path.split())) == f"Bees > {query}"


WIKI = "A bee is an insect with four wings.\n\n{}\n\nBees live in colonies of many thousands.\n\n{}"
WIKI += "\n\nIn autumn the drones leave the colony, or they are driven out.\n\n{}\n\nBook"


@pytest.mark.parametrize(
    "headings",
    [
        ("== Life ==", "=== Of drones ===", "== References =="),
        ("## Life", "### Of drones", "## References"),
        ("Life", "Of drones", "References"),
    ],
)
def test_articles_of_every_dump_give_the_same_sections(headings: tuple[str, ...]) -> None:
    outline = documents.article_outline("Bee", f"Bee\n\n{WIKI.format(*headings)}")
    sections = paths(made(outline, min_chars=10))
    assert [path[-1] for path in sections] == ["Bee", "Life", "Of drones"]
    assert sections[("Bee",)] == "A bee is an insect with four wings."


def test_a_list_of_meanings_is_known_in_any_language() -> None:
    assert documents.is_list_of_meanings("Mercury", "Mercury may refer to:\nMercury (planet)")
    assert documents.is_list_of_meanings("Merkur", "Merkur steht für:\n\nMerkur (Planet)")
    assert not documents.is_list_of_meanings("Mercury", "Mercury is a planet.")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=400))
def test_any_text_is_read_without_harm(text: str) -> None:
    for outline in (documents.markdown_outline(text), documents.article_outline("x", text)):
        for pair in made(outline, "heading-section", "title-body", min_chars=1):
            if isinstance(pair, Pair):
                assert pair.query.strip()
                assert pair.pos[0].strip()
                assert "\x00" not in pair.pos[0]
                pair.pos[0].encode()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab.:`*_|-=~ <>/\"'\n&;{}\\[]phr12tdlione", max_size=300))
def test_any_marks_are_read_or_refused(text: str) -> None:
    made(of_html(text), "heading-section", "title-body")
    with contextlib.suppress(InputError):
        made(documents.restructured_outline(text, "x"))


def test_tables_in_tables_are_read_apart() -> None:
    row = "<tr><td>{}<td>two"
    inner = f"<table>{row.format('one')}</table>"
    outline = of_html(f"<table>{row.format(f'before {inner} after')}</table><p>end</p>")
    assert outline.sections[0].text == "before\n\none | two\nafter | two\n\nend"


def test_deep_nesting_is_no_harm() -> None:
    for piece in ("<div>", "<b>", "<ul><li>"):
        assert of_html(5000 * piece + "bees").sections[0].text == "bees"
    documents.markdown_outline("".join(" " * n + "- bees\n" for n in range(200)))
    with pytest.raises(InputError, match="nest too deep"):
        documents.markdown_outline(5000 * ">" + "bees")
