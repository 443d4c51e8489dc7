"""The page of a report: whole, safe, and true to its figures."""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.errors import MissingExtraError
from tercet.evaluate import report as module
from tercet.evaluate.plots import fitted, looks_of, spread, ticks
from tercet.evaluate.report import best, labels, meaning, page
from tercet.evaluate.results import percent, reading, section_of, text, verdicts
from tests.evaluate.reports import ALL, HOSTILE, LEVELS, NAMES, made, result

REPORTS = {name: make() for name, make in ALL.items()}
PAGES = {name: page(report) for name, report in REPORTS.items()}
WITH_WHOLE = ("longdoc",)  # suites of `chunked`, whose whole passages are called so
SHOWN = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
VOID = ("meta", "br", "col")
each = pytest.mark.parametrize("name", list(ALL))


class Balanced(HTMLParser):
    """Fails on an element that is closed out of turn; keeps headings and attributes."""

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
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def words(node: LexborNode | None) -> str:
    assert node is not None
    for extra in node.css(".vh, svg, [aria-hidden]"):
        extra.decompose()
    return node.text().strip()


def table(name: str, caption: str) -> list[list[str]]:
    """What the eye sees in the cells of a table, without the names of groups."""
    tables = LexborHTMLParser(PAGES[name]).css("table")
    (found,) = (node for node in tables if words(node.css_first("caption")) == caption)
    rows = (row for row in found.css("tr") if not row.css(".group"))
    return [[words(cell) for cell in row.css("th, td")] for row in rows]


def by_name(rows: list[list[str]]) -> dict[tuple[str, str], str]:
    """Cells by the names of their row and of their column."""
    head, *body = rows
    return {
        (row[0], column): cell
        for row in body
        for column, cell in zip(head[1:], row[1:], strict=True)
    }


def where(average: Mapping[str, Any]) -> str:
    """The caption of the table of a suite, a measure and a length."""
    how = reading(average, average["suite"] in WITH_WHOLE)
    return f"{average['suite']}, {average['measure']}{how and f', {how}'}, percent"


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
    tree = LexborHTMLParser(PAGES[name])
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
def test_the_page_needs_nothing_but_itself_and_is_the_same_again(name: str) -> None:
    found = Balanced(PAGES[name])
    tags = {tag for tag, _, _ in found.attributes}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "use", "image"}
    assert not [key for _, key, _ in found.attributes if key.startswith("on") or key == "src"]
    assert all(value.startswith("#") for value in found.values("href"))
    assert not re.search(r"url\(|@import|https?:", PAGES[name])
    assert "default-src 'none'" in " ".join(found.values("content"))
    assert page(json.loads(json.dumps(REPORTS[name]))) == PAGES[name]
    assert len(PAGES[name].encode()) < 500_000


def test_names_are_text_whatever_they_hold() -> None:
    PAGES["strange"].encode("utf-8")
    assert "\x00" not in PAGES["strange"]
    tree = LexborHTMLParser(PAGES["strange"])
    assert not tree.css("script")
    assert words(tree.css_first("h1")) == f"Evaluation of {SHOWN}"
    shown = by_name(table("strange", "beir, nDCG@10, 8,192 tokens, percent"))
    assert {row for row, _ in shown} >= {*NAMES, SHOWN, "no query"}
    assert {column for _, column in shown} == {"BM25", "BM25 pieces", "dense", "all", SHOWN}
    assert {shown["no query", column] for column in ("BM25", "dense", "all")} == {"-"}
    assert SHOWN in [node.text() for node in tree.css("td bdi")]  # a note


@each
def test_every_figure_is_in_its_table(name: str) -> None:
    report, checked = REPORTS[name], 0
    for average in report["averages"]:
        suite = average["suite"]
        tasks = [t for t in report["tasks"] if section_of(t) == section_of(average)]
        swept = len({section_of(t) for t in report["tasks"] if t["suite"] == suite}) > 1
        if swept:
            by = ", whole and by best passage" if suite in WITH_WHOLE else " by length"
            found = by_name(table(name, f"{suite}, {average['measure']}{by}, percent"))
            row = reading(average, suite in WITH_WHOLE)
            for column, value in average["tasks"].items():
                assert found[row, column] == percent(value)
        if swept and len(tasks) == 1:
            continue
        found = by_name(table(name, where(average)))
        if ("ar", "BM25") not in found and ("BM25", "ar") in found:  # columns go down
            found = {(row, column): cell for (column, row), cell in found.items()}
        shown = {HOSTILE: SHOWN}
        for label, task in zip(labels(tasks), tasks, strict=True):
            for column, of in task["figures"].items():
                cell = found[shown.get(label, label), shown.get(column, column)]
                assert cell == percent(of[average["measure"]])
                checked += 1
        rows = {"average": average["tasks"]} if len(tasks) > 1 else {}
        if 1 < len(average["by_language"]) < len(tasks):
            rows[f"average of {len(average['by_language'])} languages"] = average["languages"]
        for row, means in rows.items():
            for column, value in means.items():
                assert found[row, column] == percent(value)
    assert checked or name == "empty"


def test_languages_stand_side_by_side_where_they_are_few_and_short() -> None:
    rows = table("miracl", "miracl, nDCG@10, 8,192 tokens, percent")
    assert rows[0][1:] == ["average", *labels(REPORTS["miracl"]["tasks"])]
    assert [row[0] for row in rows[1:]] == REPORTS["miracl"]["columns"]
    caption = "beir, nDCG@10, 8,192 tokens, percent"
    assert table("own_sets", caption)[0][1:] == REPORTS["own_sets"]["columns"]
    found = by_name(table("own_sets", caption.replace(", percent", " by language, percent")))
    for language, of in REPORTS["own_sets"]["averages"][0]["by_language"].items():
        for column, value in of.items():
            assert found[language or "not said", column] == percent(value)


@pytest.mark.parametrize("name", ["miracl", "own_sets", "sweep", "outside"])
def test_comparisons_are_shown_and_marked(name: str) -> None:
    report, tree = REPORTS[name], LexborHTMLParser(PAGES[name])
    rows = []
    for node in tree.css("table.compared"):
        rows += [[words(cell) for cell in row.css("th, td")] for row in node.css("tbody tr")]
    suites = list(dict.fromkeys(task["suite"] for task in report["tasks"]))
    compared = sorted(report["comparisons"], key=lambda c: suites.index(c["suite"]))
    assert compared
    for row, one in zip(rows, compared, strict=True):
        assert row[0] == one["b"]
        assert f"{100 * one['difference']:+.1f}" in row
        assert f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}" in row
        assert ("yes" in row) == (one["corrected"] < 0.05)
    longest = {c["suite"]: c["max_length"] for c in compared}
    sure = [c for c in compared if c["corrected"] < 0.05 and c["max_length"] == longest[c["suite"]]]
    (summary,) = (
        node for node in tree.css("table") if "all suites" in node.css("caption")[0].text()
    )
    marks = Counter(mark.text() for mark in summary.css(".up, .down"))
    assert marks == Counter("▲" if c["difference"] > 0 else "▼" for c in sure)


def test_each_length_has_its_own_marks() -> None:
    tree, compared = LexborHTMLParser(PAGES["sweep"]), REPORTS["sweep"]["comparisons"]
    for suite in ("narrativeqa", "mldr"):
        caption = f"{suite}, nDCG@10 by length, percent"
        (found,) = (n for n in tree.css("table") if n.css("caption")[0].text() == caption)
        marks = {
            (row.css("th")[0].text(), mark.text())
            for row in found.css("tbody tr")
            for mark in row.css(".up, .down")
        }
        assert marks == {
            (f"{c['max_length']:,} tokens", "▲" if c["difference"] > 0 else "▼")
            for c in compared
            if c["suite"] == suite and c["corrected"] < 0.05
        }
    assert any(c["corrected"] < 0.05 for c in compared)


@pytest.mark.parametrize("name", ["miracl", "sweep", "mixed", "outside"])
def test_the_verdict_is_first_and_true(name: str) -> None:
    report = REPORTS[name]
    shown = [words(node) for node in LexborHTMLParser(PAGES[name]).css("header .verdict")]
    assert shown == verdicts(report) == text(report).split("\n")[: len(shown)]
    suites = list(dict.fromkeys(one["suite"] for one in report["comparisons"]))
    assert len(shown) == len(suites) > 0
    for verdict, suite in zip(shown, suites, strict=True):
        last = [c for c in report["comparisons"] if c["suite"] == suite][-1]
        group = [c for c in report["comparisons"] if section_of(c) == section_of(last)]
        best_one = max((c for c in group if not c["b"].startswith("BM25")),
                       key=lambda c: c["difference"])  # fmt: skip
        ahead = best_one["b"] if best_one["difference"] > 0 else best_one["a"]
        assert verdict.startswith(suite)
        assert f": {ahead} " in verdict
        assert f"{abs(100 * best_one['difference']):.1f} points more" in verdict
        assert ("not significant" in verdict) == (best_one["corrected"] >= 0.05)


def test_questions_won_and_lost_are_those_that_differ_most() -> None:
    one = result("pairs/mine", columns=("BM25", "dense"), measures=("nDCG@10",), queries=30)
    report = made([one])
    base, other = (one.values[name]["nDCG@10"].values for name in ("BM25", "dense"))
    order = (other - base).argsort(kind="stable")
    won, lost = report["examples"][:5], report["examples"][5:]
    assert [example["query"] for example in won] == [str(n) for n in order[::-1][:5]]
    assert [example["query"] for example in lost] == [str(n) for n in order[: len(lost)]]
    assert lost
    PAGES["pairs"] = page(report)
    rows = table("pairs", "pairs, questions won and lost by nDCG@10, percent")
    assert rows[0] == ["Question", "Task", "BM25", "dense"]
    for row, example in zip(rows[1:], report["examples"], strict=True):
        assert row[0] == f"question {example['query']} of pairs/mine"
        assert row[2:] == [percent(example["value_a"]), percent(example["value_b"])]


def test_the_glossary_comes_last() -> None:
    for name, text_of_page in PAGES.items():
        heads = [node.text() for node in LexborHTMLParser(text_of_page).css("h2")]
        assert heads[-1] == ("How it was measured" if name == "empty" else "The columns")


def test_bars_say_what_the_figures_say() -> None:
    title = "beir, nDCG@10, 8,192 tokens, as bars"
    plots = LexborHTMLParser(PAGES["own_sets"]).css("svg[role=img]")
    plot = next(node for node in plots if node.css("title")[0].text() == title)
    drawn = {}
    for bar in plot.css("rect title"):
        said, _, value = bar.text().rpartition(": ")
        assert bar.parent is not None
        drawn[said] = (float(value), float(bar.parent.attributes["width"] or "nan"))
    tasks = REPORTS["own_sets"]["tasks"]
    assert {said: value for said, (value, _) in drawn.items() if "average" not in said} == {
        f"{label}, {column}": round(100 * of["nDCG@10"], 1)
        for label, task in zip(labels(tasks), tasks, strict=True)
        for column, of in task["figures"].items()
    }
    most, full = max(drawn.values())
    for figure, width in drawn.values():
        assert width == pytest.approx(figure * full / most, abs=0.25)


def test_curves_have_a_point_for_each_length() -> None:
    titles = [node.text() for node in LexborHTMLParser(PAGES["sweep"]).css("svg title")]
    for average in REPORTS["sweep"]["averages"]:
        for column, value in average["tasks"].items():
            assert f"{column}, {average['max_length']:,} tokens: {percent(value)}" in titles


def test_best_passages_are_named_and_explained() -> None:
    head, *rows = table("chunked", "Tasks")
    assert {(row[head.index("Tokens")], row[head.index("Chunks")]) for row in rows} == {
        ("512", "-"), ("8,192", "-"), ("128, best passage", "4,321"),
        ("320, best passage", "4,321"),
    }  # fmt: skip
    glance = [row[0] for row in table("chunked", "Averages of all suites, percent")[1:]]
    compared = table("chunked", "nDCG@10: every column less BM25, points of percent")
    for how in ("whole, to 8,192 tokens", "best passage of 128 tokens"):
        assert f"longdoc: nDCG@10, {how}" in glance
        assert how in {row[1] for row in compared[1:]}
    assert "longdoc: nDCG@10, whole, to 512 tokens" not in glance
    assert "scores a document by the best of its chunks" in PAGES["chunked"]
    assert "best passage" not in PAGES["sweep"].lower()


def test_what_was_cut_missing_or_left_out_is_said() -> None:
    cells = by_name(table("own_sets", "Tasks"))
    for task in REPORTS["own_sets"]["tasks"]:
        assert cells[task["name"], "Passages cut, %"] == percent(task["cut"]["passages"])
        assert cells[task["name"], "Without a relevant passage"] == str(task["skipped"])
        assert cells[task["name"], "Notes"] == ("; ".join(task["notes"]) or "-")
        assert cells[task["name"], "Seconds"] == f"{sum(task['seconds'].values()):,.1f}"
    run = "splade-v3 (Lucene)"
    assert by_name(table("outside", "Tasks"))["beir/arguana", "Missing"] == f"{run}: 4"
    for name, said in (
        ("own_sets", "3 queries have no relevant passage"),
        ("own_sets", "cut in 12 tasks, at most 37.1%"),
        ("outside", f"missing from {run} in 3 tasks"),
        ("strange", "No query counts in 1 task"),
        ("empty", "No task was measured"),
    ):
        assert said in words(LexborHTMLParser(PAGES[name]).css_first(".mind"))
    assert "There are no figures" in page(made([result("beir/none", columns=())]))


def test_settings_weights_and_machine_are_told() -> None:
    told = {name: words(LexborHTMLParser(of).css_first(".facts")) for name, of in PAGES.items()}
    for said in ("Candidates of multi and all: 100", "Tokens for each [CLS] (MCLS): 256",
                 "2 threads", "torch 2.6.0"):  # fmt: skip
        assert said in told["sweep"]
    assert "ranks the best 100 of dense" in PAGES["sweep"]
    assert "1, 0.25, 0.8 on pairs/dev: nDCG@10 51.2 before, 53.3 after" in told["mixed"]
    assert "all as they come" in told["miracl"]
    weights = ["18 tasks", "the model", "1", "0.3", "1", "0.3", "1"]
    assert table("miracl", "Weights")[1] == weights


def test_one_task_and_column_have_neither_marks_nor_plots() -> None:
    tree = LexborHTMLParser(PAGES["single"])
    assert not tree.css("svg, .best, .key, .compared, .verdict")
    assert "At a glance" not in PAGES["single"]
    glossary = words(LexborHTMLParser(PAGES["bitext"]).css_first(".columns"))
    assert "again" not in glossary  # nothing is ranked again among translations


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    module._template.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[evaluate\]'"):
        page(REPORTS["single"])


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    full = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(scheme: int) -> None:
    css = files("tercet.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours: dict[str, str] = {}
    for root in roots[: scheme + 1]:
        colours |= dict(re.findall(r"--([\w]+): (#[0-9a-f]{3,6});", root))
    texts, grounds = {"ink", "soft", "link", "up", "down"}, {"ground", "band", "best"}
    assert set(colours) >= texts | grounds

    def contrast(one: str, other: str) -> float:
        low, high = sorted(luminance(colours[name]) for name in (one, other))
        return (high + 0.05) / (low + 0.05)

    for shown in texts:
        for ground in grounds if shown != "link" else {"ground"}:
            assert contrast(shown, ground) >= 4.5, (shown, ground)
    for drawn in set(colours) - texts - grounds - {"rule"}:
        assert contrast(drawn, "ground") >= 3, drawn


def test_columns_look_different() -> None:
    seen = looks_of([*LEVELS, "one", "two", "three", "four"])
    assert len({(look.css, look.marker, look.dash) for look in seen.values()}) == len(seen)
    curves = [look for look in seen.values() if look.group != "Other runs"]
    assert len({(look.marker, look.dash) for look in curves}) == len(curves)  # without colour


def test_best_marks_all_that_show_the_same() -> None:
    assert best([0.5, 0.50004, 0.3, None]) == {0, 1}
    assert best([0.5, None]) == best([1.0, 1.0]) == set()


def test_common_measures_are_explained() -> None:
    for report in REPORTS.values():
        assert all(meaning(average["measure"]) for average in report["averages"])
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
def test_a_shortened_text_is_its_beginning(whole: str, width: int) -> None:
    found = fitted(whole, width)
    assert found == whole or whole.startswith(found.removesuffix("…").rstrip())
    assert len(found) <= max(2, len(whole))
