"""The cut into parts changes nothing; what is dropped is what should be, and is told."""

import gzip
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.cli import run as tercet
from tercet.curate.filter import STEPS, SUMS, FilterJob, encoder_scorer
from tercet.curate.near_duplicates import Side, jaccard
from tercet.curate.shards import Shard, merge, parts_folder, run_part
from tercet.errors import InputError, MissingExtraError
from tercet.rows import read_rows
from tests.kinds import KINDS, write_as

Row = dict[str, Any]
WORDS = """river mountain city water light history music science people world language year house
garden school night star bread stone fire winter summer tree bird horse letter number king queen
doctor market road bridge carries keeps finds leaves holds gives takes brings follows under over
between without because although old young green heavy quiet early second other""".split()
SCORER = "tests.curate.test_filter:count_letters"
ENGLISH = "The committee will publish its report on the new railway line in the spring."
GERMAN = "Der Ausschuss veröffentlicht im Frühjahr seinen Bericht über die neue Bahnstrecke."


def count_letters(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [len(passage) for _, passage in pairs]


def scale(by: float) -> Any:
    return lambda pairs: [len(passage) * by for _, passage in pairs]


def nothing_but_nan(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [float("nan") for _ in pairs]


def sentence(seed: str, words: int = 12) -> str:
    """The same words for the same seed; two seeds share little."""
    draw = random.Random(seed)
    return " ".join(["the", *(draw.choice(WORDS) for _ in range(words))]).capitalize() + "."


def passage(seed: str) -> str:
    return " ".join(sentence(f"{seed}/{n}") for n in range(8))


def row(seed: str, **more: Any) -> Row:
    return {"query": sentence(f"query {seed}"), "pos": [passage(seed)], "lang": "en", **more}


def write(path: Path, rows: Sequence[Row | str]) -> Path:
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    path.write_text(text)
    return path


def run(job: FilterJob, count: int = 1) -> dict[str, Any]:
    for shard in Shard.all(count):
        run_part(job, shard)
    report = merge(job, count)
    assert not parts_folder(Path(job.target)).exists()
    return report


def filtered(
    tmp_path: Path, rows: Sequence[Row | str], **options: Any
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """What is left, what was dropped, and the report."""
    source = write(tmp_path / "rows.jsonl", rows)
    target, dropped = tmp_path / "out.jsonl", tmp_path / "dropped.jsonl"
    options = {"sources": [str(source)], "target": str(target), "dropped": str(dropped), **options}
    report = run(FilterJob(**options))
    return list(read_rows(target)), list(read_rows(dropped)), report


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
    write(tmp_path / "held.jsonl", [{"query": row("77")["query"], "pos": []}])
    sources = [write(tmp_path / "a.jsonl", rows[:620]), write(tmp_path / "b.jsonl", rows[620:])]
    return FilterJob(
        sources=tuple(map(str, sources)),
        target=str(tmp_path / "out.jsonl.gz"),
        dropped=str(tmp_path / "dropped.jsonl"),
        against=(str(tmp_path / "held.jsonl"),),
        min_score=10.0,
        scorer=SCORER,
    )


def test_the_cut_changes_nothing_and_every_row_is_kept_or_told_of(many: FilterJob) -> None:
    dropped = Path(many.dropped or "")
    results = [
        (run(many, count), gzip.decompress(Path(many.target).read_bytes()), dropped.read_bytes())
        for count in (1, 2, 5)
    ]
    assert results[0] == results[1] == results[2]
    report = results[0][0]
    counts = {name: step["rows"] for name, step in report["steps"].items()}
    singles = ("encoding", "length", "letters", "boilerplate", "same", "language", "evaluation")
    more = {"fields": 2, "relevance": 0, "exact": 4, "near": 3}
    assert counts == {**dict.fromkeys(singles, 1), **more}
    assert (report["rows"], report["kept"]) == (1000, 1000 - sum(counts.values()))
    assert report["steps"]["length"]["positives"] == 1

    lines = {
        (path, number): line
        for path in many.sources
        for number, line in enumerate(Path(path).read_text().splitlines(), 1)
    }
    entries = {(entry["file"], entry["line"]): entry for entry in read_rows(dropped)}
    assert list(entries) == sorted(entries)
    gone = {place for place, entry in entries.items() if entry["dropped"] == "row"}
    for place in gone:
        assert entries[place]["reason"]
        if "row" in entries[place]:
            assert {"lang": "en", **entries[place]["row"]} == {
                "lang": "en",
                **json.loads(lines[place]),
            }
    # what is kept is all else, in the order of the files
    left = [json.loads(line) for place, line in lines.items() if place not in gone]
    queries = [row.get("query", row.get("text")) for row in read_rows(Path(many.target))]
    assert queries == [row.get("query", row.get("text")) for row in left]


def test_steps_are_switched_alone(many: FilterJob) -> None:
    for step in STEPS[1:]:
        report = run(replace(many, steps=(step,)))
        assert list(report["steps"]) == ["fields", step]
        if step != "relevance":
            assert report["steps"][step]["rows"] + report["steps"][step]["positives"] > 0


def test_an_evaluation_file_of_the_same_size_is_read_again(many: FilterJob) -> None:
    """Also where a run before it failed, and left its index."""
    job, held = replace(many, steps=("evaluation", "relevance")), Path(many.against[0])
    write(held, [{"query": row("20")["query"].ljust(200), "pos": []}])
    with pytest.raises(InputError, match="gave nan"):
        run(replace(job, scorer="tests.curate.test_filter:nothing_but_nan"))
    write(held, [{"query": row("21")["query"].ljust(200), "pos": []}])
    run(job)
    (entry,) = (one for one in read_rows(Path(job.dropped or "")) if one["step"] == "evaluation")
    assert entry["row"] == row("21")


# repeats


def test_the_first_of_repeats_is_kept(tmp_path: Path) -> None:
    two = [passage("x"), passage("y")]
    rows = [row("a", source="1"), row("b"), row("a", source="2"), row("a", source="3")]
    rows[2]["query"] = rows[2]["query"].upper() + "  "
    rows += [{"text": rows[0]["query"]}]  # a raw text is no row
    rows += [row("a", pos=two), row("a", pos=two[::-1]), row("a", pos=two[:1])]
    kept, dropped, _ = filtered(tmp_path, rows, steps=["exact"])
    assert kept == [rows[at] for at in (0, 1, 4, 5, 7)]
    reasons = [one["reason"].rpartition("/")[2] for one in dropped]
    assert reasons == ["rows.jsonl:1", "rows.jsonl:1", "rows.jsonl:6"]


def test_near_repeats_are_those_that_brute_force_finds(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for n in range(60):
        words = passage(str(n % 15)).split()
        for _ in range(draw.choice([0, 1, 2, 40])):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        rows.append({"text": " ".join(words)})
    sets = [Side(one["text"], 0).shingles for one in rows]
    wanted: list[int] = []
    for n in range(len(rows)):
        alike = [jaccard(sets[n], sets[m]) for m in wanted]
        assert not any(0.7 < one < 0.85 for one in alike), "MinHash may miss such a pair"
        if not any(one >= 0.8 for one in alike):
            wanted.append(n)
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
        (row("1", query="What is C++?"), row("1", query="What is C#?"), 2),
        (row("1", query="第一回の大会は"), row("1", query="第二回の大会は"), 2),
        (row("1", query=passage("q") * 9), row("1", query=passage("q") * 9 + " So."), 1),
    ],
)
def test_both_sides_must_be_alike(tmp_path: Path, left: Row, right: Row, kept: int) -> None:
    rows, _, _ = filtered(tmp_path, [left, right], steps=["near"])
    assert rows == [left, right][:kept]


def test_parts_of_other_versions_of_minhash_are_not_joined(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [row(str(n)) for n in range(600)])
    job = FilterJob(sources=(str(source),), target=str(tmp_path / "o.jsonl"))
    folders = [run_part(job, shard) for shard in Shard.all(2)]
    sums = json.loads((folders[0] / SUMS).read_text())
    (folders[0] / SUMS).write_text(json.dumps({**sums, "minhash": {"another": 1}}))
    with pytest.raises(InputError, match="different versions of rensa"):
        job.merge(folders)


# rows by themselves


def test_a_bad_positive_leaves_the_row(tmp_path: Path) -> None:
    one = row("a", pos=["x", passage("a"), "y"], pos_scores=[1.0, 2.0, 3.0], neg=["z"])
    kept, dropped, report = filtered(tmp_path, [one, row("b", pos=["x", "y"])])
    assert kept == [{**one, "pos": [passage("a")], "pos_scores": [2.0]}]
    assert [entry["dropped"] for entry in dropped] == ["positives", "row"]
    assert dropped[0]["row"]["pos"] == ["x", "y"]
    assert report["steps"]["length"]["positives"] == 2


def test_languages_are_written_where_none_is_said(tmp_path: Path) -> None:
    rows: list[Row | str] = [
        {"text": GERMAN},
        {"query": ENGLISH, "pos": [ENGLISH + " It is long."]},
        {"query": GERMAN, "pos": [ENGLISH]},
        {"query": "C3PO", "pos": ["0x22 0x33"]},
        {"text": ENGLISH, "lang": "de-en"},  # a raw text in two languages is not judged
        {"query": GERMAN, "pos": [ENGLISH], "lang": "en-de"},
        {"query": GERMAN, "pos": [GERMAN + " Er ist lang."], "lang": "de-en"},  # not translated
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
        filtered(tmp_path, rows, **{**options, **made})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_filtered(tmp_path: Path, kind: str) -> None:
    rows = [row("a"), row("b"), row("a")]
    path = write_as(kind, tmp_path, rows, name="source")
    kept, dropped, _ = filtered(tmp_path, [], sources=[str(path)])
    assert [one["query"] for one in kept] == [rows[0]["query"], rows[1]["query"]]
    assert dropped[0]["line"] == 3


def test_examples_are_the_first_of_all_parts(tmp_path: Path) -> None:
    rows = [row(str(n), pos=["ab"]) if n % 50 == 3 else row(str(n)) for n in range(900)]
    source = write(tmp_path / "rows.jsonl", rows)
    job = FilterJob(sources=(str(source),), target=str(tmp_path / "o.jsonl"), steps=("length",))
    for count in (1, 4):
        report = run(job, count)["steps"]["length"]
        assert [one["line"] for one in report["examples"]] == [4, 54, 104]
        assert report["rows"] == 18


# what cannot be done


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": ["speed"]}, "unknown step 'speed'"),
        ({"query_length": (5, 2)}, "query length 5-2"),
        ({"letters": 1.5}, "letters must lie between 0 and 1"),
        ({"passages": "some"}, "passages 'some'"),
        ({"scorer": SCORER}, "a scorer needs a least score"),
        ({"shared_characters": 2}, "at least 1 word and 12 characters"),
        ({"target": "rows.jsonl"}, "read and would be written"),
        ({"dropped": "./rows.jsonl"}, "read and would be written"),
        ({"sources": ["none.jsonl"]}, "none.jsonl: no such file"),
        ({"sources": ["empty.jsonl"]}, "no rows in .*empty.jsonl"),
        ({"sources": ["broken.jsonl"]}, r"no row is left of 2: fields 2; the first is .*:1: "),
        ({"against": ["none"]}, "none: no such evaluation set"),
        (
            {"scorer": SCORER.replace("count_letters", "nothing_but_nan"), "min_score": 0.0},
            r"rows.jsonl:1: the scorer gave nan",
        ),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [row("a")])
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "broken.jsonl", ["{", "[1]"])
    with pytest.raises(InputError, match=told):
        run(FilterJob(**{"sources": ["rows.jsonl"], "target": "out.jsonl", **options}))
    assert not (tmp_path / "out.jsonl").exists()
    assert list(read_rows(tmp_path / "rows.jsonl")) == [row("a")]


@pytest.mark.parametrize(("step", "library"), [("language", "py3langid.langid"), ("near", "rensa")])
def test_a_missing_library_is_named(
    many: FilterJob, step: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r"tercet\[filter\]"):
        run(replace(many, steps=(step,)))


# `tercet data filter`: what is typed reaches the job, what comes back is told

QUERY, PASSAGE = "what do bees eat", "Bees eat the pollen and the nectar of the plants they visit."


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    """The beginning of a command line, in the folder of rows.jsonl, which it reads."""
    rows: list[Row | str] = [
        {"query": QUERY, "pos": [PASSAGE], "lang": "en"},
        {"query": "what is a wasp", "pos": ["404 Not Found"]},
        {"query": QUERY, "pos": [PASSAGE]},
        {"query": "wie leben Bienen im Winter", "pos": ["In einer Traube, die sich wärmt."]},
        {"query": "q"},
    ]
    source = write(tmp_path / "rows.jsonl", rows)
    return ["data", "filter", str(source), "--to", str(tmp_path / "out.jsonl"), "--workers", "1"]


def test_the_report_is_told(
    typed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, dropped = tmp_path / "rows.jsonl", tmp_path / "dropped.jsonl"
    assert tercet([*typed, "--dropped", str(dropped)]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'out.jsonl'}: 2 of 5 rows kept" in told
    assert f"{rows}:2: positive: an error page: '404 Not Found' | 404 Not Found" in told
    assert f"{rows}:3: the same as {rows}:1" in told
    assert f"{rows}:5: 'pos' is missing" in told
    assert "languages written into rows: " in told
    assert [one["line"] for one in read_rows(dropped)] == [2, 3, 5]


def test_a_model_scores(
    typed: list[str], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = encoder_scorer(str(tiny_checkpoint), None, "cpu", 64)
    pairs = [("the river", "the river in the city"), ("the star", "bread"), ("the river", "bread")]
    scores = list(score(pairs))
    assert scores == pytest.approx([score([pair])[0] for pair in pairs], abs=1e-5)
    assert all(-1.001 <= one <= 1.001 for one in scores)
    typed += ["--json", "--steps", "relevance", "--model", str(tiny_checkpoint), "--device", "cpu"]
    assert tercet([*typed, "--min-score", "-1.1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] == 4
    assert set(report["scores"]) == {"1%", "5%", "25%", "50%", "75%"}
    assert tercet([*typed, "--min-score", "1.1"]) == 1
    assert "no row is left of 5: fields 1, relevance 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--steps near,speed", "unknown step 'speed'"),
        ("--without speed", "unknown step 'speed'"),
        ("--steps evaluation", "the step evaluation needs --against"),
        ("--steps relevance", "the step relevance needs --min-score"),
        ("--steps near --against x", "--against is for the step evaluation"),
        ("--model x", "give that too"),
        ("--min-score 0 --model x --scorer y:z", "not both"),
        ("--query-length 5", "'5' is not a range"),
        ("--near 2", "near must lie between 0.5 and 1"),
        ("--to x.csv", "must end in .jsonl or .jsonl.gz"),
        ("--dropped x.csv", "x.csv: the result must end in .jsonl or .jsonl.gz"),
        ("--to x.jsonl --dropped ./x.jsonl", "x.jsonl is the result: name another file"),
    ],
)
def test_wrong_usage_is_told(
    typed: list[str], options: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tercet([*typed, *options.split()]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "see `tercet data filter --help`" in error
