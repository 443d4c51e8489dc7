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
from selectolax.lexbor import LexborHTMLParser, LexborNode

from tercet.errors import MissingExtraError
from tercet.evaluate import report as module
from tercet.evaluate.plots import looks_of
from tercet.evaluate.report import best, labels, meaning, page
from tercet.evaluate.results import percent, reading, section_of, text, verdicts
from tests.evaluate.reports import HOSTILE, LEVELS, NAMES, REPORTS, made, result

PAGES = {name: page(report) for name, report in REPORTS.items()}
TREES = {name: LexborHTMLParser(text) for name, text in PAGES.items()}
SHOWN = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
each = pytest.mark.parametrize("name", list(REPORTS))


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
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def words(node: LexborNode | None) -> str:
    """What the eye sees."""
    assert node is not None
    (copy,) = LexborHTMLParser(f"<table><tr>{node.html}</table>").css(str(node.tag))[:1]
    for extra in copy.css(".vh, svg, [aria-hidden]"):
        extra.decompose()
    return copy.text().strip()


def table_of(name: str, caption: str) -> LexborNode:
    tables = TREES[name].css("table")
    (table,) = (node for node in tables if node.css("caption")[0].text() == caption)
    return table


def rows_of(name: str, caption: str) -> list[list[str]]:
    """The cells of a table, without the names of groups."""
    rows = (row for row in table_of(name, caption).css("tr") if not row.css(".group"))
    return [[words(cell) for cell in row.css("th, td")] for row in rows]


def by_name(rows: list[list[str]]) -> dict[tuple[str, str], str]:
    """Cells by the names of their row and of their column."""
    head, *body = rows
    pairs = ((row[0], zip(head[1:], row[1:], strict=True)) for row in body)
    return {(row, column): cell for row, cells in pairs for column, cell in cells}


def marks_of(table: LexborNode) -> Counter[tuple[str, str]]:
    return Counter(
        (row.css("th")[0].text(), mark.text())
        for row in table.css("tbody tr")
        for mark in row.css(".up, .down")
    )


@each
def test_the_page_is_well_formed_needs_nothing_else_and_is_the_same_again(name: str) -> None:
    parsed, tree = Balanced(PAGES[name]), TREES[name]
    assert parsed.headings[0] == 1
    assert parsed.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(parsed.headings))
    ids = parsed.values("id")
    assert len(set(ids)) == len(ids)
    assert {value.removeprefix("#") for value in parsed.values("href")} <= set(ids)
    assert set(parsed.values("aria-labelledby")) <= set(ids)
    assert all(node.css_first("caption") for node in tree.css("table"))
    assert all(node.attributes.get("scope") for node in tree.css("th"))
    for plot in tree.css("svg:not([aria-hidden])"):
        assert plot.attributes["role"] == "img"
        assert (title := plot.css_first("title")) is not None
        assert title.text()
    for box in tree.css(".box"):  # can be scrolled by keyboard, and says what it is
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]

    tags = {tag for tag, _, _ in parsed.attributes}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form", "use", "image"}
    assert not [key for _, key, _ in parsed.attributes if key.startswith("on") or key == "src"]
    assert all(value.startswith("#") for value in parsed.values("href"))
    assert not re.search(r"url\(|@import|https?:", PAGES[name])
    assert "default-src 'none'" in " ".join(parsed.values("content"))
    assert page(json.loads(json.dumps(REPORTS[name]))) == PAGES[name]
    assert len(PAGES[name].encode()) < 500_000
    heads = [node.text() for node in tree.css("h2")]
    assert heads[-1] == ("How it was measured" if name == "empty" else "The columns")


def test_names_are_text_whatever_they_hold() -> None:
    PAGES["strange"].encode("utf-8")
    assert "\x00" not in PAGES["strange"]
    assert not TREES["strange"].css("script")
    (title,) = TREES["strange"].css("h1")
    assert title.text() == f"Evaluation of {SHOWN}"
    shown = by_name(rows_of("strange", "beir, nDCG@10, 8,192 tokens, percent"))
    assert {row for row, _ in shown} >= {*NAMES, SHOWN, "no query"}
    assert {column for _, column in shown} == {"BM25", "BM25 pieces", "dense", "all", SHOWN}
    assert {shown["no query", column] for column in ("BM25", "dense", "all")} == {"-"}
    assert SHOWN in [node.text() for node in TREES["strange"].css("td bdi")]  # a note


@each
def test_every_figure_is_in_its_table(name: str) -> None:
    report, checked = REPORTS[name], 0
    for average in report["averages"]:
        suite, measure, how = average["suite"], average["measure"], reading(average, report)
        tasks = [t for t in report["tasks"] if section_of(t) == section_of(average)]
        several = len({section_of(t) for t in report["tasks"] if t["suite"] == suite}) > 1
        if several:
            by = ", whole and by best passage" if name == "chunked" else " by length"
            cells = by_name(rows_of(name, f"{suite}, {measure}{by}, percent"))
            for column, value in average["tasks"].items():
                assert cells[how, column] == percent(value)
        if several and len(tasks) == 1:
            continue
        cells = by_name(rows_of(name, f"{suite}, {measure}{how and f', {how}'}, percent"))
        if ("ar", "BM25") not in cells and ("BM25", "ar") in cells:  # columns go down
            cells = {(row, column): cell for (column, row), cell in cells.items()}
        shown = {HOSTILE: SHOWN}
        for label, task in zip(labels(tasks), tasks, strict=True):
            for column, of in task["figures"].items():
                cell = cells[shown.get(label, label), shown.get(column, column)]
                assert cell == percent(of[measure])
                checked += 1
        rows: dict[str, Mapping[str, Any]] = {"average": average["tasks"]} if tasks[1:] else {}
        if 1 < len(average["by_language"]) < len(tasks):
            rows[f"average of {len(average['by_language'])} languages"] = average["languages"]
        for row, means in rows.items():
            for column, value in means.items():
                assert cells[row, column] == percent(value)
    assert checked or name == "empty"


def test_languages_stand_side_by_side_where_they_are_few_and_short() -> None:
    rows = rows_of("miracl", "miracl, nDCG@10, 8,192 tokens, percent")
    assert rows[0][1:] == ["average", *labels(REPORTS["miracl"]["tasks"])]
    assert [row[0] for row in rows[1:]] == REPORTS["miracl"]["columns"]
    caption = "beir, nDCG@10, 8,192 tokens"
    assert rows_of("own_sets", f"{caption}, percent")[0][1:] == REPORTS["own_sets"]["columns"]
    cells = by_name(rows_of("own_sets", f"{caption} by language, percent"))
    for language, of in REPORTS["own_sets"]["averages"][0]["by_language"].items():
        for column, value in of.items():
            assert cells[language or "not said", column] == percent(value)


@pytest.mark.parametrize("name", ["miracl", "own_sets", "sweep", "outside", "mixed"])
def test_verdicts_and_comparisons_are_shown_and_marked(name: str) -> None:
    report, tree = REPORTS[name], TREES[name]
    suites = list(dict.fromkeys(one["suite"] for one in report["comparisons"]))
    compared = sorted(report["comparisons"], key=lambda c: suites.index(c["suite"]))
    rows = [row for node in tree.css("table.compared") for row in node.css("tbody tr")]
    for row, one in zip(rows, compared, strict=True):
        cells = [words(cell) for cell in row.css("th, td")]
        assert cells[0] == one["b"]
        assert f"{100 * one['difference']:+.1f}" in cells
        assert f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}" in cells
        assert ("yes" in cells) == (one["corrected"] < 0.05)
    last = {c["suite"]: section_of(c) for c in compared}
    longest = [c for c in compared if section_of(c) == last[c["suite"]]]
    marks = marks_of(table_of(name, "Averages of all suites, percent"))
    assert Counter(mark for _, mark in marks.elements()) == Counter(
        "▲" if c["difference"] > 0 else "▼" for c in longest if c["corrected"] < 0.05
    )
    # the verdict is first and true
    shown = [node.text() for node in tree.css("header .verdict")]
    assert shown == verdicts(report) == text(report).split("\n")[: len(shown)]
    sure = report | {"comparisons": [one | {"corrected": 5e-5} for one in compared]}
    assert text(sure).count("p < 0.0001") == len(compared) + len(verdicts(sure))
    for verdict, suite in zip(shown, suites, strict=True):
        group = [c for c in longest if c["suite"] == suite and not c["b"].startswith("BM25")]
        one = max(group, key=lambda c: c["difference"])
        assert verdict.startswith(suite)
        assert f": {one['b'] if one['difference'] > 0 else one['a']} " in verdict
        assert f"{abs(100 * one['difference']):.1f} points more" in verdict
        assert ("not significant" in verdict) == (one["corrected"] >= 0.05)


def test_each_length_has_its_own_marks_and_points() -> None:
    compared = REPORTS["sweep"]["comparisons"]
    assert any(c["corrected"] < 0.05 for c in compared)
    for suite in ("narrativeqa", "mldr"):
        sure = [c for c in compared if c["suite"] == suite and c["corrected"] < 0.05]
        assert marks_of(table_of("sweep", f"{suite}, nDCG@10 by length, percent")) == Counter(
            (f"{c['max_length']:,} tokens", "▲" if c["difference"] > 0 else "▼") for c in sure
        )
    titles = [node.text() for node in TREES["sweep"].css("svg title")]
    for average in REPORTS["sweep"]["averages"]:
        for column, value in average["tasks"].items():
            assert f"{column}, {average['max_length']:,} tokens: {percent(value)}" in titles


def test_questions_won_and_lost_are_those_that_differ_most() -> None:
    one = result("pairs/mine", columns=("BM25", "dense"), measures=("nDCG@10",), queries=30)
    report = made([one])
    base, other = (one.values[name]["nDCG@10"].values for name in ("BM25", "dense"))
    order = (other - base).argsort(kind="stable").tolist()
    lost = [str(n) for n in order[:5] if other[n] < base[n]]
    expected = [str(n) for n in order[::-1][:5]] + lost
    assert lost
    assert [example["query"] for example in report["examples"]] == expected
    TREES["pairs"] = LexborHTMLParser(page(report))
    rows = rows_of("pairs", "pairs, questions won and lost by nDCG@10, percent")
    assert rows == [
        ["Question", "Task", "BM25", "dense"],
        *([f"question {query} of pairs/mine", "pairs/mine", percent(base[int(query)]),
           percent(other[int(query)])] for query in expected),
    ]  # fmt: skip


def test_bars_say_what_the_figures_say() -> None:
    plots = TREES["own_sets"].css("svg[role=img]")
    title = "beir, nDCG@10, 8,192 tokens, as bars"
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


def test_best_passages_are_named_and_explained() -> None:
    head, *rows = rows_of("chunked", "Tasks")
    assert {(row[head.index("Tokens")], row[head.index("Chunks")]) for row in rows} == {
        ("512", "-"), ("8,192", "-"), ("128, best passage", "4,321"),
        ("320, best passage", "4,321"),
    }  # fmt: skip
    glance = [row[0] for row in rows_of("chunked", "Averages of all suites, percent")[1:]]
    compared = rows_of("chunked", "nDCG@10: every column less BM25, points of percent")
    for how in ("whole, to 8,192 tokens", "best passage of 128 tokens"):
        assert f"longdoc: nDCG@10, {how}" in glance
        assert how in {row[1] for row in compared[1:]}
    assert "longdoc: nDCG@10, whole, to 512 tokens" not in glance
    assert "scores a document by the best of its chunks" in PAGES["chunked"]
    assert "best passage" not in PAGES["sweep"].lower()


def test_what_was_cut_missing_or_left_out_is_said() -> None:
    cells = by_name(rows_of("own_sets", "Tasks"))
    for task in REPORTS["own_sets"]["tasks"]:
        assert cells[task["name"], "Passages cut, %"] == percent(task["cut"]["passages"])
        assert cells[task["name"], "Without a relevant passage"] == str(task["skipped"])
        assert cells[task["name"], "Notes"] == ("; ".join(task["notes"]) or "-")
    run = "splade-v3 (Lucene)"
    assert by_name(rows_of("outside", "Tasks"))["beir/arguana", "Missing"] == f"{run}: 4"
    for name, said in (
        ("own_sets", "3 queries have no relevant passage"),
        ("own_sets", "cut in 7 tasks, at most 37.1%"),
        ("outside", f"missing from {run} in 3 tasks"),
        ("strange", "No query counts in 1 task"),
        ("empty", "No task was measured"),
    ):
        (mind,) = TREES[name].css(".mind")
        assert said in mind.text()
    assert "There are no figures" in page(made([result("beir/none", columns=())]))


def test_settings_weights_and_machine_are_told() -> None:
    told = {name: tree.css(".facts")[0].text() for name, tree in TREES.items() if name != "pairs"}
    for said in ("Candidates of multi and all: 100", "Tokens for each [CLS] (MCLS): 256",
                 "2 threads", "torch 2.6.0"):  # fmt: skip
        assert said in told["sweep"]
    assert "ranks the best 100 of dense" in PAGES["sweep"]
    assert "1, 0.25, 0.8 on pairs/dev: nDCG@10 51.2 before, 53.3 after" in told["mixed"]
    assert "all as they come" in told["miracl"]
    weights = ["18 tasks", "the model", "1", "0.3", "1", "0.3", "1"]
    assert rows_of("miracl", "Weights")[1] == weights


def test_what_says_nothing_is_left_out() -> None:
    assert not TREES["single"].css("svg, .best, .key, .compared, .verdict")
    assert "At a glance" not in PAGES["single"]
    assert "again" not in TREES["bitext"].css(".columns")[0].text()  # nothing is ranked again


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    module._template.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[evaluate\]'"):
        page(REPORTS["single"])


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    full = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(full[place : place + 2], 16) / 255 for place in (0, 2, 4)]
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


def test_best_marks_all_that_show_the_same_and_common_measures_are_explained() -> None:
    assert best([0.5, 0.50004, 0.3, None]) == {"50.0"}
    assert best([0.5, None]) == best([1.0, 1.0]) == set()
    for report in REPORTS.values():
        assert all(meaning(average["measure"]) for average in report["averages"])
    assert meaning("Bpref") == ""
