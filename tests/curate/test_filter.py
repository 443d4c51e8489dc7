"""The cut into parts changes nothing; what is dropped is what should be, and is told."""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.curate import shards
from tercet.curate.filter import COUNTS, STEPS, FilterJob
from tercet.curate.near_duplicates import jaccard, shingles
from tercet.curate.shards import Shard, parts_folder
from tercet.errors import InputError
from tercet.rows import read_rows
from tests.kinds import KINDS, write_as

Row = dict[str, Any]
WORDS = """river mountain city water light history music science people world language year house
garden school night star bread stone fire winter summer tree bird horse letter number king queen
doctor market road bridge carries keeps finds leaves holds gives takes brings follows under over
between without because although old young green heavy quiet early second other""".split()


def sentence(seed: str, words: int = 12) -> str:
    """The same words for the same seed; two seeds share little."""
    draw = random.Random(seed)
    return " ".join(["the", *(draw.choice(WORDS) for _ in range(words))]).capitalize() + "."


def passage(seed: str) -> str:
    return " ".join(sentence(f"{seed}/{n}") for n in range(8))


def row(seed: str, **more: Any) -> Row:
    return {"query": sentence(f"query {seed}"), "pos": [passage(seed)], "lang": "en", **more}


def write(path: Path, rows: Sequence[Row | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    path.write_text(text)
    return path


def run(job: FilterJob, count: int = 1) -> dict[str, Any]:
    for shard in Shard.all(count):
        shards.run_part(job, shard)
    return shards.merge(job, count)


def filtered(
    tmp_path: Path, rows: Sequence[Row | str], **options: Any
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """What is left, what was dropped, and the report."""
    source = write(tmp_path / "rows.jsonl", rows)
    target, dropped = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    options.setdefault("sources", [str(source)])
    report = run(FilterJob(target=str(target), dropped=str(dropped), **options))
    assert not parts_folder(target).exists()
    return list(read_rows(target)), list(read_rows(dropped)), report


def count_letters(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [len(passage) for _, passage in pairs]


def scale(by: float) -> Any:
    return lambda pairs: [len(passage) * by for _, passage in pairs]


def nothing_but_nan(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [float("nan") for _ in pairs]


SCORER = "tests.curate.test_filter:count_letters"


@pytest.fixture
def many(tmp_path: Path) -> FilterJob:
    """A thousand rows in two files with every defect, repeats across blocks and files."""
    rows: list[Row | str] = [row(str(n)) for n in range(1000)]
    rows[3] = "no json"
    rows[299] = {"query": "a question without an answer"}
    rows[300] = row("ctrl", query="what is \x07\x07 here in this line?")
    rows[555] = row("short", pos=["abc"])
    rows[556] = row("digits", pos=["12 34 56 78 90 11 a"])
    rows[557] = row("cookies", pos=["We use cookies to make this site better for you."])
    rows[700] = row("same") | {"pos": [row("same")["query"].upper()]}
    rows[701] = row("lang", lang="de")
    rows[702] = row("cut") | {"pos": [passage("cut"), "x y", passage("left")]}
    for at, of in ((400, 10), (600, 10), (998, 900), (999, 5)):
        rows[at] = rows[of]
    for at, of in ((401, 11), (850, 12)):  # nearly
        first = row(str(of))
        rows[at] = {**first, "pos": [first["pos"][0].replace("The ", "That ", 2)]}
    rows[500] = {"text": passage("raw")}
    rows[901] = {"text": passage("raw") + " And so on."}
    held = row("77")
    write(tmp_path / "held.jsonl", [{"query": held["query"], "pos": []}])
    sources = [write(tmp_path / "a.jsonl", rows[:620]), write(tmp_path / "b.jsonl", rows[620:])]
    return FilterJob(
        sources=tuple(map(str, sources)),
        target=str(tmp_path / "out.jsonl.gz"),
        dropped=str(tmp_path / "dropped.jsonl"),
        against=(str(tmp_path / "held.jsonl"),),
        min_score=10.0,
        scorer=SCORER,
    )


def test_an_evaluation_file_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    rows = [row(str(n)) for n in range(20)]
    source, held = write(tmp_path / "rows.jsonl", rows), tmp_path / "held.jsonl"
    job = FilterJob(
        sources=(str(source),),
        target=str(tmp_path / "out.jsonl"),
        dropped=str(tmp_path / "dropped.jsonl"),
        steps=("evaluation", "relevance"),
        against=(str(held),),
        min_score=10.0,
        scorer="tests.curate.test_filter:nothing_but_nan",
    )
    write(held, [{"query": rows[3]["query"].ljust(200), "pos": []}])
    with pytest.raises(InputError, match="gave nan"):
        run(job)
    write(held, [{"query": rows[7]["query"].ljust(200), "pos": []}])
    run(replace(job, scorer=SCORER))
    assert [one["row"] for one in read_rows(tmp_path / "dropped.jsonl")] == [rows[7]]


def test_the_cut_changes_nothing(many: FilterJob) -> None:
    results = []
    for count in (1, 2, 5):
        report = run(many, count)
        kept, dropped = Path(many.target).read_bytes(), Path(many.dropped or "").read_bytes()
        results.append((gzip.decompress(kept), dropped, report))
        assert not parts_folder(Path(many.target)).exists()
    for other in results[1:]:
        assert other == results[0]
    report = results[0][2]
    counts = {name: step["rows"] for name, step in report["steps"].items()}
    assert counts == {
        "fields": 2,
        "encoding": 1,
        "length": 1,
        "letters": 1,
        "boilerplate": 1,
        "same": 1,
        "language": 1,
        "evaluation": 1,
        "relevance": 0,
        "exact": 4,
        "near": 3,
    }
    assert report["rows"] == 1000
    assert report["kept"] == 1000 - sum(counts.values())
    assert report["steps"]["length"]["positives"] == 1


def test_every_row_is_kept_or_told_of(many: FilterJob) -> None:
    run(many, 2)
    lines = [
        (str(path), number, line)
        for path in many.sources
        for number, line in enumerate(Path(path).read_text().splitlines(), 1)
    ]
    entries = list(read_rows(Path(many.dropped or "")))
    places = [(entry["file"], entry["line"]) for entry in entries]
    assert places == sorted(places)
    gone = {
        place for place, entry in zip(places, entries, strict=True) if entry["dropped"] == "row"
    }
    by_place = {(file, number): line for file, number, line in lines}
    for place, entry in zip(places, entries, strict=True):
        assert entry["step"] in STEPS
        assert entry["reason"]
        if place in gone and "row" in entry:
            row = json.loads(by_place[place])
            assert {"lang": "en", **row} == {"lang": "en", **entry["row"]}
    # what is kept is all else, in the order of the files
    left = [json.loads(line) for file, number, line in lines if (file, number) not in gone]
    kept = list(read_rows(Path(many.target)))
    assert [row.get("query", row.get("text")) for row in kept] == [
        row.get("query", row.get("text")) for row in left
    ]


def test_the_first_of_repeats_is_kept(tmp_path: Path) -> None:
    rows = [row("a", source="1"), row("b"), row("a", source="2"), row("a", source="3")]
    rows[2]["query"] = rows[2]["query"].upper() + "  "
    rows += [{"text": rows[0]["query"]}]  # a raw text is no row
    kept, dropped, _ = filtered(tmp_path, rows, steps=["exact"])
    assert [one.get("source") for one in kept] == ["1", None, None]
    assert all(one["reason"].endswith("rows.jsonl:1") for one in dropped)


def test_positives_in_another_order_are_the_same_row(tmp_path: Path) -> None:
    two = [passage("x"), passage("y")]
    rows = [row("a", pos=two), row("a", pos=two[::-1]), row("a", pos=two[:1])]
    kept, _, _ = filtered(tmp_path, rows, steps=["exact"])
    assert [len(one["pos"]) for one in kept] == [2, 1]


def test_near_repeats_are_those_that_brute_force_finds(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for n in range(60):
        words = passage(str(n % 15)).split()
        for _ in range(draw.choice([0, 1, 2, 40])):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        rows.append({"text": " ".join(words)})
    sets = [shingles(one["text"]) for one in rows]
    wanted: list[int] = []
    close = False
    for n in range(len(rows)):
        alike = [jaccard(sets[n], sets[m]) for m in wanted]
        close = close or any(0.7 < one < 0.85 for one in alike)
        if not any(one >= 0.8 for one in alike):
            wanted.append(n)
    assert not close, "the test needs clear cases: MinHash may miss others"
    assert 15 < len(wanted) < 45
    kept, dropped, _ = filtered(tmp_path, rows, steps=["near"])
    assert kept == [rows[n] for n in wanted]
    assert len(dropped) == len(rows) - len(wanted)


@pytest.mark.parametrize(
    ("left", "right", "kept"),
    [
        (row("1", query="Who won in 2010?"), row("1", query="Who won in 2015?"), 2),
        (row("1", query="Who was it not?"), row("1", query="Who was it?"), 2),
        (row("1", query="who wrote this book"), row("1", query="Who wrote this book?!"), 1),
        (row("1", query="What is it?"), row("2", query="What is it?"), 2),
    ],
)
def test_both_sides_must_be_alike(tmp_path: Path, left: Row, right: Row, kept: int) -> None:
    rows, _, _ = filtered(tmp_path, [left, right], steps=["near"])
    assert rows == [left, right][:kept]


def test_a_bad_positive_leaves_the_row(tmp_path: Path) -> None:
    one = row("a", pos=["x", passage("a"), "y"], pos_scores=[1.0, 2.0, 3.0], neg=["z"])
    kept, dropped, report = filtered(tmp_path, [one, row("b", pos=["x", "y"])])
    assert kept == [{**one, "pos": [passage("a")], "pos_scores": [2.0]}]
    assert [entry["dropped"] for entry in dropped] == ["positives", "row"]
    assert dropped[0]["row"]["pos"] == ["x", "y"]
    assert report["steps"]["length"]["positives"] == 2


def test_languages_are_written_where_none_is_said(tmp_path: Path) -> None:
    english = "The committee will publish its report on the new railway line in the spring."
    german = "Der Ausschuss veröffentlicht im Frühjahr seinen Bericht über die neue Bahnstrecke."
    rows: list[Row | str] = [
        {"text": german},
        {"query": english, "pos": [english + " It is long."]},
        {"query": german, "pos": [english]},
        {"query": "C3PO", "pos": ["0x22 0x33"]},
        {"text": english, "lang": "de-en"},  # a raw text in two languages is not judged
        {"query": german, "pos": [english], "lang": "en-de"},
        {"query": german, "pos": [german + " Er ist lang."], "lang": "de-en"},  # not translated
    ]
    kept, dropped, report = filtered(tmp_path, rows, steps=["language"])
    assert [one.get("lang") for one in kept] == ["de", "en", "de-en", None, "de-en", "en-de"]
    assert report["languages_written"] == {"de": 1, "en": 1, "de-en": 1}
    assert report["languages_unknown"] == {"de-en": 1}
    assert report["steps"]["language"]["groups"] == {"de-en: de": 1}
    assert [one["line"] for one in dropped] == [7]


def test_low_scores_go_and_the_spread_is_told(tmp_path: Path) -> None:
    rows = [row("a", pos=["a" * n, "b" * (n + 5)]) for n in range(10, 20)]
    options = {"steps": ["relevance"], "scorer": SCORER, "min_score": 20.0}
    kept, dropped, report = filtered(tmp_path, rows, **options)
    assert [len(text) for one in kept for text in one["pos"]] == [20, 21, 22, 23, 24]
    assert sum(one["dropped"] == "row" for one in dropped) == 5
    assert report["scores"]["50%"] == 17.0
    made = {"scorer": "tests.curate.test_filter:scale", "scorer_options": {"by": -1}}
    with pytest.raises(InputError, match=r"no row is left of 10: .*relevance 10"):
        filtered(tmp_path / "other", rows, **{**options, **made})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_filtered(tmp_path: Path, kind: str) -> None:
    rows = [row("a"), row("b"), row("a")]
    (tmp_path / "in").mkdir()
    path = write_as(kind, tmp_path / "in", rows)
    kept, dropped, _ = filtered(tmp_path, [], sources=[str(path)])
    assert [one["query"] for one in kept] == [rows[0]["query"], rows[1]["query"]]
    assert dropped[0]["line"] == 3


def test_steps_are_switched_alone(many: FilterJob) -> None:
    for step in STEPS[1:]:
        report = run(replace(many, steps=(step,)))
        assert list(report["steps"]) == ["fields", step]
        if step != "relevance":
            assert report["steps"][step]["rows"] + report["steps"][step]["positives"] > 0


def test_examples_are_the_first_of_all_parts(tmp_path: Path) -> None:
    rows = [row(str(n), pos=["ab"]) if n % 50 == 3 else row(str(n)) for n in range(900)]
    source = write(tmp_path / "rows.jsonl", rows)
    job = FilterJob(sources=(str(source),), target=str(tmp_path / "o.jsonl"), steps=("length",))
    for count in (1, 4):
        found = run(job, count)["steps"]["length"]
        assert [one["line"] for one in found["examples"]] == [4, 54, 104]
        assert found["rows"] == 18


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": ["speed"]}, "unknown step 'speed'"),
        ({"query_length": (5, 2)}, "query length 5-2"),
        ({"letters": 1.5}, "letters must lie between 0 and 1"),
        ({"near": 0.3}, "near must lie between 0.5 and 1"),
        ({"passages": "some"}, "passages 'some'"),
        ({"scorer": SCORER}, "a scorer needs a least score"),
        ({"target": "out.csv"}, "must end in .jsonl"),
        ({"shared_characters": 2}, "at least 1 word and 12 characters"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        FilterJob(**{"sources": ["x"], "target": "y.jsonl", **options})


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([], {}, "no rows in .*rows.jsonl"),
        ([row("a")], {"sources": ["none.jsonl"]}, "none.jsonl: no such file"),
        ([row("a")], {"against": ["none"]}, "none: no such evaluation set"),
        (
            [row("a")],
            {"scorer": SCORER.replace("count_letters", "nothing_but_nan"), "min_score": 0.0},
            r"rows.jsonl:1: the scorer gave nan",
        ),
        ([row("a")], {"scorer": "no.such:thing", "min_score": 0.0}, "'no.such:thing' is not there"),
        ([row("a")], {"scorer": "json:__name__", "min_score": 0.0}, "is a str, not a function"),
        ([row("a")], {"scorer": "math:prod", "min_score": 0.0}, "numbers"),
        (["{", "[1]"], {}, r"no row is left of 2: fields 2.*; the first is .*:1: "),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, rows: list[Row | str], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        filtered(tmp_path, rows, **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_read_is_not_written(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row("a")])
    for written in ({"target": str(source)}, {"dropped": f"{tmp_path}/./rows.jsonl"}):
        options: dict[str, Any] = {"target": str(tmp_path / "out.jsonl"), **written}
        with pytest.raises(InputError, match="read and would be written"):
            run(FilterJob(sources=(str(source),), **options))
    assert list(read_rows(source)) == [row("a")]


def test_parts_of_other_versions_of_minhash_are_not_joined(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row(str(n)) for n in range(600)])
    job = FilterJob(sources=(str(source),), target=str(tmp_path / "o.jsonl"))
    folders = [shards.run_part(job, shard) for shard in Shard.all(2)]
    tally = folders[0] / COUNTS
    facts = json.loads(tally.read_text())
    facts["sums"]["minhash"] = {"another": 1}
    tally.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="different versions of rensa"):
        job.merge(folders)
