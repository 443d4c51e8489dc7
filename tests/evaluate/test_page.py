"""The page of a report: whole, safe, and true to its figures."""

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.evaluate.page import page, rivals
from tercet.evaluate.page.figures import Grid, best, labels, looks, meaning
from tercet.evaluate.page.markup import EMPTY, el
from tercet.evaluate.page.plots import against, bars, fitted, spread, ticks
from tercet.evaluate.results import percent, reading, section_of
from tests.evaluate.reports import (
    ALL,
    HOSTILE,
    LEVELS,
    NAMES,
    bitext,
    made,
    own_sets,
    result,
)

REPORTS = {name: make() for name, make in ALL.items()}
PAGES = {name: page(report) for name, report in REPORTS.items()}
WITH_WHOLE = ("longdoc",)  # suites of `chunked`, whose whole passages are called so
each = pytest.mark.parametrize("name", list(ALL))
SHOWN = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


class Balanced(HTMLParser):
    """Fails on an element that is closed out of turn; keeps headings, ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


def parsed(text: str) -> LexborHTMLParser:
    return LexborHTMLParser(text)


def table(tree: LexborHTMLParser, caption: str) -> list[list[str]]:
    """What the eye sees in the cells of a table, without the names of groups."""
    found = [node for node in tree.css("table") if words(node.css_first("caption")) == caption]
    assert len(found) == 1, caption
    return [
        [words(cell) for cell in row.css("th, td")]
        for row in found[0].css("tr")
        if not row.css(".group")
    ]


def words(node: LexborNode | None) -> str:
    assert node is not None
    for extra in node.css(".vh, svg, [aria-hidden]"):
        extra.decompose()
    return node.text().strip()


def by_name(rows: list[list[str]]) -> dict[tuple[str, str], str]:
    """Cells by the names of their row and of their column."""
    head, *body = rows
    return {
        (row[0], column): cell
        for row in body
        for column, cell in zip(head[1:], row[1:], strict=True)
    }


def where(section: dict[str, Any]) -> str:
    """The caption of the table of a suite, a measure and a length."""
    how = reading(section, section["suite"] in WITH_WHOLE)
    return f"{section['suite']}, {section['measure']}{how and f', {how}'}, percent"


@each
def test_the_page_is_well_formed_and_its_parts_have_names(name: str) -> None:
    found = Balanced(PAGES[name])
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(found.headings))
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    assert {value.removeprefix("#") for value in found.values("href")} <= set(ids)
    assert set(found.values("aria-labelledby")) <= set(ids)
    tree = parsed(PAGES[name])
    assert (html := tree.css_first("html")) is not None
    assert html.attributes["lang"] == "en"
    assert all(node.css_first("caption") for node in tree.css("table"))
    assert all(node.attributes.get("scope") for node in tree.css("th"))
    for plot in tree.css("svg:not([aria-hidden])"):
        assert plot.attributes["role"] == "img"
        assert (title := plot.css_first("title")) is not None
        assert title.text()
    for box in tree.css(".box"):  # can be scrolled by keyboard, and says what it is
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]


@each
def test_the_page_needs_nothing_but_itself(name: str) -> None:
    found = Balanced(PAGES[name])
    tags = {tag for tag, _, _ in found.attributes}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "use", "image"}
    assert not [key for _, key, _ in found.attributes if key.startswith("on") or key == "src"]
    assert all(value.startswith("#") for value in found.values("href"))
    assert not re.search(r"url\(|@import|https?:", PAGES[name])
    assert "default-src 'none'" in " ".join(found.values("content"))


def test_names_are_text_whatever_they_hold() -> None:
    text = PAGES["strange"]
    text.encode("utf-8")
    assert "\x00" not in text
    assert "<script" not in text
    tree = parsed(text)
    assert not tree.css("script")
    assert len(tree.css("table")) == text.count("<table ") + text.count("<table>")
    assert (title := tree.css_first("h1")) is not None
    assert title.text() == f"Evaluation of {SHOWN}"
    shown = by_name(table(tree, "beir, nDCG@10, 8,192 tokens, percent"))
    assert {row for row, _ in shown} >= {*NAMES, SHOWN, "no query"}
    assert {column for _, column in shown} == {"BM25", "BM25 pieces", "dense", "all", SHOWN}
    assert SHOWN in [node.text() for node in tree.css("td bdi")]  # a note


@pytest.mark.parametrize("text", ["<b>", 'a"b', "&amp;", "a\x00b", "\ud800", "\ufffe"])
def test_an_element_holds_any_text_as_it_is(text: str) -> None:
    tree = parsed(el("p", text, title=text))
    node = tree.css_first("p")
    assert node is not None
    kept = re.sub("[\x00\ud800\ufffe]", "\ufffd", text)
    assert node.text() == node.attributes["title"] == kept
    assert not node.css("b")


@each
def test_every_figure_is_in_its_table(name: str) -> None:
    report, tree = REPORTS[name], parsed(PAGES[name])
    checked = 0
    for average in report["averages"]:
        suite = average["suite"]
        tasks = [t for t in report["tasks"] if section_of(t) == section_of(average)]
        places = {section_of(t) for t in report["tasks"] if t["suite"] == suite}
        swept = len(places) > 1
        if swept:
            by = ", whole and by best passage" if suite in WITH_WHOLE else " by length"
            caption = f"{suite}, {average['measure']}{by}, percent"
            row = reading(average, suite in WITH_WHOLE)
            found = by_name(table(tree, caption))
            for column, value in average["tasks"].items():
                assert found[row, column] == percent(value)
                checked += 1
        if swept and len(tasks) == 1:
            continue
        found = by_name(table(tree, where(average)))
        if ("ar", "BM25") not in found and ("BM25", "ar") in found:  # columns go down
            found = {(row, column): cell for (column, row), cell in found.items()}
        for label, task in zip(labels(tasks), tasks, strict=True):
            if label == HOSTILE:
                label = SHOWN
            for column, of in task["figures"].items():
                shown = SHOWN if column == HOSTILE else column
                assert found[label, shown] == percent(of[average["measure"]])
                checked += 1
        if len(tasks) > 1:
            for column, value in average["tasks"].items():
                assert found["average", column] == percent(value)
                checked += 1
    assert checked or name == "empty"


def test_languages_stand_side_by_side_where_they_are_few_and_short() -> None:
    rows = table(parsed(PAGES["miracl"]), "miracl, nDCG@10, 8,192 tokens, percent")
    assert rows[0][1:] == ["average", *labels(REPORTS["miracl"]["tasks"])]
    assert [row[0] for row in rows[1:]] == REPORTS["miracl"]["columns"]
    rows = table(parsed(PAGES["own_sets"]), "beir, nDCG@10, 8,192 tokens, percent")
    assert rows[0][1:] == REPORTS["own_sets"]["columns"]


def test_averages_of_languages_are_there_where_they_differ_from_those_of_tasks() -> None:
    report, tree = REPORTS["own_sets"], parsed(PAGES["own_sets"])
    average = report["averages"][0]
    found = by_name(table(tree, where(average)))
    name = f"average of {len(average['by_language'])} languages"
    for column, value in average["languages"].items():
        assert found[name, column] == percent(value)
    caption = where(average).replace(", percent", " by language, percent")
    found = by_name(table(tree, caption))
    for language, of in average["by_language"].items():
        for column, value in of.items():
            assert found[language or "not said", column] == percent(value)
    assert " by language" not in PAGES["miracl"]


@pytest.mark.parametrize("name", ["miracl", "own_sets", "sweep", "outside"])
def test_comparisons_are_shown_and_marked(name: str) -> None:
    report, tree = REPORTS[name], parsed(PAGES[name])
    assert report["comparisons"]
    rows = []
    for node in tree.css("table.compared"):
        rows += [[words(cell) for cell in row.css("th, td")] for row in node.css("tbody tr")]
    suites = list(dict.fromkeys(task["suite"] for task in report["tasks"]))
    wanted = sorted(report["comparisons"], key=lambda c: suites.index(c["suite"]))
    for row, one in zip(rows, wanted, strict=True):
        assert row[0] == one["b"]
        assert f"{100 * one['difference']:+.1f}" in row
        assert f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}" in row
        assert ("yes" in row) == (one["corrected"] < 0.05)
    longest = {c["suite"]: c["max_length"] for c in wanted}
    sure = [c for c in wanted if c["corrected"] < 0.05 and c["max_length"] == longest[c["suite"]]]
    summary = next(
        node
        for node in tree.css("table")
        if "all suites" in (node.css_first("caption") or node).text()
    )
    marks = Counter(mark.text() for mark in summary.css(".up, .down"))
    assert marks == Counter("▲" if c["difference"] > 0 else "▼" for c in sure)


def test_each_length_has_its_own_marks() -> None:
    report, tree = REPORTS["sweep"], parsed(PAGES["sweep"])
    suites = {c["suite"] for c in report["comparisons"] if c["corrected"] < 0.05}
    assert suites
    for suite in suites:
        caption = f"{suite}, nDCG@10 by length, percent"
        found = next(
            node
            for node in tree.css("table.figures")
            if (node.css_first("caption") or node).text() == caption
        )
        marks = {
            (row.css("th")[0].text(), mark.text())
            for row in found.css("tbody tr")
            for mark in row.css(".up, .down")
        }
        assert marks == {
            (f"{c['max_length']:,} tokens", "▲" if c["difference"] > 0 else "▼")
            for c in report["comparisons"]
            if c["suite"] == suite and c["corrected"] < 0.05
        }


def test_the_plots_say_what_the_figures_say() -> None:
    report, tree = REPORTS["own_sets"], parsed(PAGES["own_sets"])
    plot = next(
        node
        for node in tree.css("svg[role=img]")
        if (node.css_first("title") or node).text() == "beir, nDCG@10, 8,192 tokens, as bars"
    )
    widths = {}
    for bar in plot.css("rect title"):
        said, _, value = bar.text().rpartition(": ")
        assert bar.parent is not None
        widths[said] = (float(value), float(bar.parent.attributes["width"] or "nan"))
    tasks = report["tasks"]
    wanted = {
        f"{label}, {column}": round(100 * of["nDCG@10"], 1)
        for label, task in zip(labels(tasks), tasks, strict=True)
        for column, of in task["figures"].items()
    }
    assert {said: value for said, (value, _) in widths.items() if "average" not in said} == wanted
    most, full = max(widths.values())
    for one, drawn in widths.values():
        assert drawn == pytest.approx(one * full / most, abs=0.25)


def test_bars_of_nothing_but_zeros_stand_at_zero() -> None:
    grid = Grid(("a", "b"), ("dense", "all"), ((0.0, 0.0), (0.0, None)))
    _, drawn = bars(grid, looks(grid.columns), "dense", "t", "d")
    tree = parsed(drawn)
    assert {bar.attributes["width"] for bar in tree.css("rect[class^=c-]")} == {"0.0"}
    assert [text.text() for text in tree.css("text.soft")] == ["0", "0.5", "1"] * 2


def test_a_point_above_the_diagonal_is_filled() -> None:
    names, across, up = (
        list("abcdef"),
        [0.1, 0.5, 0.9, None, 0.3, 0.7],
        [0.2, 0.4, 1.0, 0.5, 0.3, 0],
    )
    tree = parsed(against(names, across, up, ("x", "y"), "t", "d"))
    assert len(tree.css("circle")) == 5
    assert {node.text().partition(":")[0] for node in tree.css("circle.up title")} == {"a", "c"}
    for point in tree.css("circle"):
        x, y = (float(point.attributes[key] or "nan") for key in ("cx", "cy"))
        assert (x - 42 > 244 - y) == (point.attributes["class"] == "down") or x - 42 == 244 - y


def test_curves_have_a_point_for_each_length() -> None:
    report, tree = REPORTS["sweep"], parsed(PAGES["sweep"])
    titles = [node.text() for node in tree.css("svg title")]
    for average in report["averages"]:
        for column, value in average["tasks"].items():
            said = f"{column}, {average['max_length']:,} tokens: {percent(value)}"
            assert said in titles


def test_best_passages_are_named_and_explained() -> None:
    tree, plain = parsed(PAGES["chunked"]), PAGES["sweep"]
    head, *rows = table(tree, "Tasks")
    sizes = [(row[head.index("Tokens")], row[head.index("Chunks")]) for row in rows]
    assert set(sizes) == {
        ("512", "-"), ("8,192", "-"), ("128, best passage", "4,321"),
        ("320, best passage", "4,321"),
    }  # fmt: skip
    glance = [row[0] for row in table(tree, "Averages of all suites, percent")[1:]]
    for how in ("whole, to 8,192 tokens", "best passage of 128 tokens"):
        assert f"longdoc: nDCG@10, {how}" in glance
        assert how in {row[1] for row in table(tree, compared_caption())[1:]}
    assert "longdoc: nDCG@10, whole, to 512 tokens" not in glance
    titles = [node.text() for node in tree.css("svg title")]
    for kind in ("whole", "best passage"):
        assert f"longdoc, nDCG@10, whole and by best passage, {kind}" in titles
    assert "score a document by the best of its chunks" not in plain
    assert "scores a document by the best of its chunks" in PAGES["chunked"]
    assert "best passage" not in plain


def compared_caption() -> str:
    return "nDCG@10: every column less BM25, points of percent"


def test_what_was_cut_missing_or_left_out_is_said() -> None:
    tree = parsed(PAGES["own_sets"])
    found = by_name(table(tree, "Tasks"))
    for task in REPORTS["own_sets"]["tasks"]:
        assert found[task["name"], "Passages cut, %"] == percent(task["cut"]["passages"])
        assert found[task["name"], "Without a relevant passage"] == str(task["skipped"])
        assert found[task["name"], "Notes"] == ("; ".join(task["notes"]) or "-")
    assert (minded := tree.css_first(".mind")) is not None
    assert "3 queries have no relevant passage" in minded.text()
    assert "cut in 12 tasks, at most 37.1%" in minded.text()
    run = "splade-v3 (Lucene)"
    tree = parsed(PAGES["outside"])
    assert by_name(table(tree, "Tasks"))["beir/arguana", "Missing"] == f"{run}: 4"
    assert (minded := tree.css_first(".mind")) is not None
    assert f"missing from {run} in 3 tasks" in minded.text()


def test_settings_weights_and_machine_are_told() -> None:
    text = parsed(PAGES["sweep"]).css_first(".facts")
    assert text is not None
    assert "Candidates of multi and all: 100; Tokens for each [CLS] (MCLS): 256" in _sorted(text)
    assert "2 threads" in text.text()
    assert "torch 2.6.0" in text.text()
    assert "ranks the best 100 of dense" in PAGES["sweep"]
    mixed = parsed(PAGES["mixed"]).css_first(".facts")
    assert mixed is not None
    assert "1, 0.25, 0.8 on pairs/dev: nDCG@10 51.2 before, 53.3 after" in mixed.text()
    assert "all as they come" in PAGES["miracl"]
    row = table(parsed(PAGES["miracl"]), "Weights")[1]
    assert row == ["18 tasks", "the model", "1", "0.3", "1", "0.3", "1"]


def _sorted(facts: LexborNode) -> str:
    """The changed settings in the order of the alphabet."""
    rows = {words(row.css_first("dt")): words(row.css_first("dd")) for row in facts.css("div")}
    return "; ".join(sorted(rows["Settings"].split("; ")))


def test_seconds_add_up() -> None:
    rows = table(parsed(PAGES["miracl"]), "Seconds of each task and step")
    sums = [float(cell.replace(",", "")) for cell in rows[-1][1:]]
    columns = zip(*(row[1:] for row in rows[1:-1]), strict=True)
    for column, total in zip(columns, sums, strict=True):
        assert sum(map(float, column)) == pytest.approx(total, abs=0.1)
    assert sum(sums[:-1]) == pytest.approx(sums[-1], abs=0.02)


@each
def test_a_report_makes_the_same_page_again_and_from_its_file(name: str) -> None:
    report = REPORTS[name]
    assert page(report) == PAGES[name]
    assert page(json.loads(json.dumps(report))) == PAGES[name]


@pytest.mark.parametrize(("make", "most"), [(own_sets, 500), (lambda: bitext(125), 500)])
def test_pages_stay_small(make: Callable[[], dict[str, Any]], most: int) -> None:
    assert len(page(make()).encode()) < 1000 * most


def test_without_anything_to_show_the_page_says_so() -> None:
    assert "No task was measured" in PAGES["empty"]
    nothing = page(made([result("beir/none", columns=())]))
    Balanced(nothing)
    assert "There are no figures" in nothing
    assert "No query counts in 1 task" in PAGES["strange"]
    no_query = by_name(table(parsed(PAGES["strange"]), "beir, nDCG@10, 8,192 tokens, percent"))
    assert {no_query["no query", column] for column in ("BM25", "dense", "all")} == {"-"}


def test_one_task_and_column_have_neither_marks_nor_plots() -> None:
    tree = parsed(PAGES["single"])
    assert not tree.css("svg, .best, .key, .compared")
    assert "At a glance" not in PAGES["single"]


def test_a_suite_of_translations_alone_says_nothing_of_ranking_again() -> None:
    assert "again" not in (parsed(PAGES["bitext"]).css_first(".columns") or parsed("")).text()
    assert "again" in PAGES["miracl"]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    full = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(scheme: int) -> None:
    css = files("tercet.evaluate.page").joinpath("page.css").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--([\w]+): (#[0-9a-f]{3,6});", roots[0]))
    if scheme:
        colours |= dict(re.findall(r"--([\w]+): (#[0-9a-f]{3,6});", roots[1]))
    texts = {"ink", "soft", "link", "up", "down"}
    grounds = {"ground", "band", "best"}
    assert set(colours) >= texts | grounds
    for text in texts:
        for ground in grounds if text != "link" else {"ground"}:
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for drawn in set(colours) - texts - grounds - {"rule"}:
        assert contrast(colours[drawn], colours["ground"]) >= 3, drawn


def test_columns_look_different() -> None:
    seen = looks([*LEVELS, "one", "two", "three", "four"])
    assert len({(look.css, look.marker, look.dash) for look in seen.values()}) == len(seen)
    curves = [look for look in seen.values() if look.group != "run"]
    assert len({(look.marker, look.dash) for look in curves}) == len(curves)  # without colour


def test_rivals() -> None:
    own = ["BM25", "BM25 pieces", "dense", "sparse", "multi", "dense+sparse", "all", "other"]
    assert rivals(own, "BM25") == [("dense", "sparse"), ("BM25", "all"), ("other", "all")]
    assert rivals(["BM25", "other"], None) == [("other", "BM25")]
    assert rivals(["BM25"], "BM25") == []
    assert rivals([], None) == []


def test_best_marks_all_that_show_the_same() -> None:
    assert best([0.5, 0.50004, 0.3, None]) == {0, 1}
    assert best([0.5, None]) == set()
    assert best([1.0, 1.0]) == set()


def test_common_measures_are_explained() -> None:
    for report in REPORTS.values():
        for average in report["averages"]:
            assert meaning(average["measure"])
    assert meaning("Bpref") == ""


numbers = st.floats(-1e4, 1e4, allow_nan=False)


@given(numbers, numbers, st.integers(2, 8))
def test_ticks_hold_the_range_and_stay_few(one: float, other: float, count: int) -> None:
    low, high = min(one, other), max(one, other)
    found = ticks(low, high, count)
    slack = 1e-5 * max(1.0, high - low)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= count + 3
    assert found == sorted(set(found))


@given(st.lists(st.floats(0, 300), max_size=12).map(sorted))
def test_spread_keeps_order_and_distance(places: list[float]) -> None:
    found = spread(places)
    assert len(found) == len(places)
    assert all(b - a >= 16 - 1e-6 for a, b in pairwise(found))
    assert all(at >= 10 for at in found)
    if places and places[0] >= 10 and all(b - a >= 16 for a, b in pairwise(places)):
        assert found == places


@given(st.text(max_size=60), st.integers(20, 300))
def test_a_shortened_text_is_its_beginning(text: str, width: int) -> None:
    found = fitted(text, width)
    assert found == text or text.startswith(found.removesuffix("…").rstrip())
    assert len(found) <= max(2, len(text))
