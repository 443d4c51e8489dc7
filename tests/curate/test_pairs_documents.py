"""Markdown, HTML, reStructuredText and articles: the same document gives the same pairs."""

import contextlib
from collections.abc import Callable
from pathlib import Path

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
READ: dict[str, Callable[[Path, str], Outline]] = {
    ".md": documents.read_markdown,
    ".html": documents.read_html,
    ".rst": documents.read_restructured,
}


def made(outline: Outline, *structures: str, **options: int) -> list[Outcome]:
    plan = PairOptions(structures=structures, **options)  # type: ignore[arg-type]
    return list(document_pairs(outline, plan, "x", "heading-section"))


def read(folder: Path, suffix: str, text: str) -> Outline:
    (folder / f"x{suffix}").write_text(text)
    return READ[suffix](folder / f"x{suffix}", "x")


def paths(found: list[Outcome]) -> dict[tuple[str, ...], str]:
    return {one.path: one.pos[0] for one in found if isinstance(one, Pair)}


@pytest.mark.parametrize(("suffix", "text"), FORMS)
def test_every_markup_gives_the_same_sections(tmp_path: Path, suffix: str, text: str) -> None:
    found = made(read(tmp_path, suffix, text))
    assert paths(found) == EXPECTED
    assert [one.reason for one in found if isinstance(one, Skipped)] == [
        "a section around the text (references, licence, contents and the like)"
    ]


@pytest.mark.parametrize(("suffix", "text"), FORMS)
def test_every_markup_gives_the_other_structures(tmp_path: Path, suffix: str, text: str) -> None:
    outline = read(tmp_path, suffix, text)
    (body,) = made(outline, "title-body")
    (abstract,) = made(outline, "title-abstract")
    (answer,) = made(outline, "question-answer")
    assert isinstance(body, Pair)
    assert isinstance(abstract, Pair)
    assert isinstance(answer, Pair)
    assert body.query == abstract.query == "Bees at work"
    assert body.pos[0].startswith(abstract.pos[0])
    assert "How bees talk\nA bee dances" in body.pos[0]
    assert "Wasps" not in body.pos[0]
    assert answer.query == "What is a swarm?"


def test_a_line_number_finds_the_heading(tmp_path: Path) -> None:
    for suffix, text in FORMS:
        if suffix != ".html":
            for one in made(read(tmp_path, suffix, text)):
                assert isinstance(one, Pair | Skipped)
                row = text.split("\n")[int(one.where.partition(":")[2]) - 1]
                heading = one.path[-1] if isinstance(one, Pair) else "See also"
                assert row.lstrip("# ") == heading


def test_the_title_is_what_the_front_matter_says_or_the_only_top_heading() -> None:
    def title(text: str) -> str:
        outline = documents.markdown_outline(text)
        list(outline.paths())
        return outline.title

    assert title("---\ntitle: 'Bees: a life'\nlang: de_AT\n---\n# Bees\n") == "Bees: a life"
    assert title('+++\ntitle = "Bees"\n+++\ntext') == "Bees"
    assert title("text\n\n## Bees\n\n### More") == "Bees"
    assert title("# Bees\n\n# Wasps") == ""
    assert title("---\n\nno front matter") == ""
    assert documents.markdown_outline("---\nlang: de_AT\n---\n").lang == "de-AT"


def test_a_page_without_headings_has_the_title_of_its_tab(tmp_path: Path) -> None:
    text = f"<title>Bread and salt — The site</title><body><p>{20 * 'bread '}"
    (found,) = made(read(tmp_path, ".html", text))
    assert isinstance(found, Pair)
    assert found.path == ("Bread and salt",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "an empty section"),
        ("- [One page of many](a)\n- [Another page of many](b)", "a section of links"),
        ("Too short.", "a body shorter than asked"),
    ],
)
def test_what_is_no_body_is_left_out(body: str, reason: str) -> None:
    found = made(
        documents.markdown_outline(f"# Bees at work\n\n{40 * 'x'}\n\n## Of honey\n\n{body}\n")
    )
    assert [one.reason for one in found if isinstance(one, Skipped)] == [reason]


def test_nothing_that_a_document_names_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("the secret of the house is under the mat of the door")
    text = "Bees at work\n============\n\n.. include:: secret.txt\n\n.. raw:: html\n   :file: "
    text += f"secret.txt\n\n.. csv-table:: x\n   :file: {tmp_path}/secret.txt\n\n{30 * 'bees '}\n"
    (found,) = made(read(tmp_path, ".rst", text))
    assert isinstance(found, Pair)
    assert found.pos[0] == (30 * "bees ").strip()


def test_roles_and_directives_of_sphinx_are_read() -> None:
    outline = documents.restructured_outline(
        ":orphan:\n\nThe dance module\n================\n\n"
        "See :py:meth:`~dance.Floor.turn`, :ref:`the guide <guide>` and :unheard:`of`.\n\n"
        ".. py:function:: turn(angle)\n   :module: dance\n\n   Turns by an angle.\n\n"
        ".. versionadded:: 3.2\n\n.. unheard-of:: some title\n   :with: an option\n\n   Content.\n",
        "x",
    )
    (found,) = made(outline)
    assert isinstance(found, Pair)
    assert found.pos[0] == (
        "See turn, the guide and of.\n\nturn(angle)\n\nTurns by an angle.\n\nContent."
    )


@pytest.mark.parametrize(
    ("title", "inner", "around"),
    [
        ("Bees", ("References",), True),
        ("Bees", ("Weblinks", "Books"), True),
        ("Bees", ("Table of contents",), True),
        ("Bees", ("Table of contents", "Dances"), False),
        ("References", ("Of values",), False),
        ("The MIT License", (), True),
        ("Bees", ("4.2. Siehe auch:",), True),
        ("Bees", ("Dances",), False),
    ],
)
def test_sections_around_the_text(title: str, inner: tuple[str, ...], around: bool) -> None:
    assert documents.is_around(title, inner) is around


def test_headings_as_queries() -> None:
    assert documents.joined(("Bees", "Life", "Summer", "Dances")) == "Bees > Summer > Dances"
    assert documents.joined(("Bees", "Contents", "1", "Dances")) == "Bees > Dances"
    assert documents.normal("  2.1 Über  Bienen: ") == "über bienen"
    assert documents.is_vague("Usage!")
    assert documents.is_vague("歴史")
    assert not documents.is_vague("江戸時代の歴史")
    assert documents.is_version("v1.2.0 (2024-05-01)")
    assert documents.is_version("Release 0.23 (2026-05-27)")
    assert documents.is_version("Changes for v1.9.5 – May 2019")
    assert not documents.is_version("How to move to 2.0")
    assert not documents.is_version("2.0 Migration guide")
    assert documents.is_question("Wer bist du?")
    assert documents.is_question("何ですか？")


WIKI = "A bee is an insect with four wings.\n\n{}\n\nBees live in colonies of many thousands.\n\n{}"
WIKI += "\n\nIn autumn the drones leave the colony, or they are driven out.\n\n{}\n\nBook"


@pytest.mark.parametrize(
    "text",
    [
        WIKI.format("== Life ==", "=== Of drones ===", "== References =="),
        WIKI.format("## Life", "### Of drones", "## References"),
        WIKI.format("Life", "Of drones", "References"),
    ],
)
def test_articles_of_every_dump_give_the_same_sections(text: str) -> None:
    outline = documents.article_outline("Bee", f"Bee\n\n{text}")
    found = paths(made(outline, min_chars=10))
    assert [path[-1] for path in found] == ["Bee", "Life", "Of drones"]
    assert found[("Bee",)] == "A bee is an insect with four wings."


def test_a_list_of_meanings_is_known_in_any_language() -> None:
    assert documents.is_list_of_meanings("Mercury", "Mercury may refer to:\nMercury (planet)")
    assert documents.is_list_of_meanings("Merkur", "Merkur steht für:\n\nMerkur (Planet)")
    assert not documents.is_list_of_meanings("Mercury", "Mercury is a planet.")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=400))
def test_any_text_is_read_without_harm(text: str) -> None:
    for outline in (documents.markdown_outline(text), documents.article_outline("x", text)):
        for found in made(outline, "heading-section", "title-body", min_chars=1):
            if isinstance(found, Pair):
                assert found.query.strip()
                assert found.pos[0].strip()
                assert "\x00" not in found.pos[0]
                found.pos[0].encode()


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab <>/=\"'\n&;|phr12tdlione", max_size=300))
def test_any_tags_are_read_without_harm(text: str) -> None:
    node = documents.fragment(text)
    if node is not None:
        outline = Outline("x")
        documents.add_html(outline, node)
        made(outline, "heading-section", "title-body")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab.:`*_|-=~\n {}\\[]", max_size=300))
def test_any_marks_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        made(documents.restructured_outline(text, "x"))


def test_tables_in_tables_are_read_apart() -> None:
    row = "<tr><td>{}<td>two"
    inner = f"<table>{row.format('one')}</table>"
    node = documents.fragment(f"<table>{row.format(f'before {inner} after')}</table><p>end</p>")
    assert node is not None
    outline = Outline("x")
    documents.add_html(outline, node)
    assert outline.sections[0].text == "before\n\none | two\nafter | two\n\nend"


def test_deep_nesting_is_no_harm() -> None:
    deep = 5000
    for text in ("<div>" * deep + "bees", "<b>" * deep + "bees", "<ul><li>" * deep + "bees"):
        node = documents.fragment(text)
        assert node is not None
        outline = Outline("x")
        documents.add_html(outline, node)
    documents.markdown_outline(">" * deep + "bees")
    documents.markdown_outline("".join(" " * n + "- bees\n" for n in range(200)))
