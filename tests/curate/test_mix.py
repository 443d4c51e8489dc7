"""The mix follows from its rows and its seed; weights, caps and temperature are what they say."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.cli import run as tercet
from tercet.config import MAX_LENGTH
from tercet.curate.mix import (
    LengthGroups,
    Mix,
    Scatter,
    Source,
    allot,
    parse_source,
    read_config,
)
from tercet.curate.shards import Parts, Shard, merge, parts_folder, run, run_part
from tercet.errors import InputError
from tercet.rows import check_row, files_of, numbered_rows, read_rows
from tercet.tokenizer import Tokenizer

Rows = list[dict[str, Any]]
LANGUAGES = {"en": 300, "de": 40, "": 5, "de-en": 11}


def rows_of(name: str, language: str, count: int, words: int = 3) -> Rows:
    return [
        {
            "query": f"{name} {language} {number}",
            "pos": ["the river " * (1 + number % words)],
            "neg": [],
            "lang": language,
            "id": f"{name}-{language}-{number}",
        }
        for number in range(count)
    ]


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def job(tmp_path: Path) -> Mix:
    a = [row for language, count in LANGUAGES.items() for row in rows_of("a", language, count)]
    b = rows_of("b", "en", 280, words=70)
    b[7]["query"] = "tabs\t, lines\n, \u2028 and a lone \ud800"
    names = write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b)
    return Mix(str(tmp_path / "mixed"), tuple(map(parse_source, names)), lengths=(40, 100, 300))


def mixed(job: Mix) -> Rows:
    """The rows of the mix, file after file."""
    return [row for path in files_of(Path(job.target)) for row in read_rows(path)]


def contents(job: Mix) -> dict[str, bytes]:
    """The bytes of its files, but for the report, which names the target."""
    return {path.name: path.read_bytes() for path in Path(job.target).glob("*.jsonl.gz")}


def copies(job: Mix) -> Counter[str]:
    return Counter(row["id"] for row in mixed(job))


def test_the_cut_changes_nothing(job: Mix) -> None:
    job = replace(job, alpha=0.4, rows=500, file_mb=0.01)
    whole = replace(job, target=f"{job.target}.whole")
    report = run(whole, workers=1)
    assert len(contents(whole)) > 3
    for count in (2, 3, 7):
        part = replace(job, target=f"{job.target}.{count}")
        for shard in reversed(Shard.all(count)):
            run_part(part, shard)
        found = Parts.find(Path(part.target)).job(Mix, Path(part.target))
        assert merge(found, count) == {**report, "to": part.target}
        assert contents(part) == contents(whole)
    processes = replace(job, target=f"{job.target}.processes")
    run(processes, workers=2)
    assert contents(processes) == contents(whole)


def test_nothing_asked_is_every_row_once(job: Mix) -> None:
    report = run(job, workers=1)
    every = [row for source in job.sources for row in read_rows(Path(source.files[0]))]
    assert {row["id"]: row for row in mixed(job)} == {row["id"]: row for row in every}
    assert set(copies(job).values()) == {1}
    assert report["rows"] == len(every) == sum(file["rows"] for file in report["files"])
    assert report["languages"]["en"] == {"found": 580, "rows": 580, "left_out": 0, "repeats": 1}
    assert json.loads((Path(job.target) / "mix.json").read_text()) == report


def test_rows_repeat_only_where_there_are_too_few(job: Mix) -> None:
    a, b = job.sources
    sources = (replace(a, weight=0.5), replace(b, weight=2.5))
    report = run(replace(job, sources=sources), workers=1)
    drawn = copies(job)
    assert {drawn[name] for name in drawn if name.startswith("a-")} == {1}
    counts = Counter(drawn[name] for name in drawn if name.startswith("b-"))
    assert counts == {2: 140, 3: 140}
    assert report["sources"] == {
        "a": {"found": 356, "rows": 178, "left_out": 178, "repeats": 1},
        "b": {"found": 280, "rows": 700, "left_out": 0, "repeats": 3},
    }


def test_every_row_has_the_same_chance(job: Mix, tmp_path: Path) -> None:
    name = write(tmp_path / "c.jsonl", rows_of("c", "en", 12))
    total: Counter[str] = Counter()
    for seed in range(60):
        one = Mix(f"{job.target}{seed}", (parse_source(name),), rows=3, seed=seed)
        run(one, workers=1)
        drawn = copies(one)
        assert len(drawn) == 3
        total.update(drawn)
    # 15 of each are expected, with a standard deviation of 3.4
    assert len(total) == 12
    assert min(total.values()) > 2
    assert max(total.values()) < 29


def test_rows_lie_in_random_order(job: Mix) -> None:
    job = replace(job, lengths=(5000,))
    run(job, workers=1)
    first = [row["id"] for row in mixed(job)]
    sides = [name.startswith("a-") for name in first]
    assert sum(x != y for x, y in pairwise(sides)) > 200  # not one source after the other
    other = replace(job, target=f"{job.target}.seed", seed=1)
    run(other, workers=1)
    assert [row["id"] for row in mixed(other)] != first
    assert copies(other) == copies(job)


def test_files_hold_the_lengths_that_they_are_called_by(
    job: Mix, tiny_checkpoint: Path, tokenizer: Tokenizer
) -> None:
    tokens: dict[str, Any] = {
        "unit": "tokens",
        "model": str(tiny_checkpoint),
        "lengths": (9, 20, 60),
    }
    in_tokens = replace(job, target=f"{job.target}.tokens", **tokens)  # as training counts them

    def length(unit: str, texts: Sequence[str]) -> int:
        if unit == "characters":
            return max(map(len, texts))
        return int(tokenizer.encode(texts, max_length=MAX_LENGTH).lengths.max())

    for mix, limits in ((job, "00040 00100 up"), (in_tokens, "00009 00020 up")):
        run(mix, workers=1)
        seen = []
        for path in files_of(Path(mix.target)):
            unit, low, high = path.name.partition(".")[0].split("-")
            seen.append(high)
            for number, row in numbered_rows(path):
                record = check_row(row, f"{path}:{number}")  # and it can train
                longest = length(unit, (record.query, *record.pos))
                assert int(low) <= longest <= (float("inf") if high == "up" else int(high))
        assert seen == limits.split()
    assert LengthGroups("tokens", (3, 9)).file_name(0) == "tokens-00001-00003"


def test_files_are_no_larger_than_asked(job: Mix) -> None:
    report = run(replace(job, file_mb=0.02, lengths=(40, 5000)), workers=1)
    names = [file["name"] for file in report["files"]]
    assert len(names) > 6
    assert names == sorted(names)
    assert set(copies(job).values()) == {1}
    sizes = [sum(len(json.dumps(row)) for row in read_rows(Path(job.target) / n)) for n in names]
    assert max(sizes) < 2 * 0.02 * (1 << 20)  # by chance some are larger than the mean


@pytest.mark.parametrize("buffer", [1, 100, 1 << 20])
def test_lines_are_scattered_by_their_keys_alone(tmp_path: Path, buffer: int) -> None:
    scatter = Scatter(tmp_path, buffer=buffer)
    keys = [0.3, 0.9, 0.1, 0.75, 0.5, 0.1]
    for number, key in enumerate(keys):
        scatter.add(4, 2, key, b"line %d\t\n" % number)
    scatter.add(2, 1, 0.5, b"other\n")
    first, second = ([b"line %d\t\n" % n for n in part] for part in ((2, 5, 0), (4, 3, 1)))
    assert list(scatter.files()) == [(2, 1, 1, [b"other\n"]), (4, 1, 2, first), (4, 2, 2, second)]
    assert not list(tmp_path.iterdir())


# settings


def test_a_bad_row_is_named_and_nothing_is_left(job: Mix) -> None:
    with open(job.sources[1].files[0], "a") as file:
        file.write('{"query": "q", "pos": []}\n')
    with pytest.raises(InputError, match=r"b\.jsonl:281: 'pos' is empty"):
        run(job, workers=1)
    assert not parts_folder(Path(job.target)).exists()
    assert not Path(job.target).exists()


@pytest.mark.parametrize(
    ("text", "weight", "share"),
    [("a.jsonl", 1, None), ("a.jsonl=2.5", 2.5, None), ("a=b.jsonl", 1, None), ("x=30%", 1, 30)],
)
def test_sources_of_the_command_line(text: str, weight: float, share: float | None) -> None:
    source = parse_source(text)
    assert (source.weight, source.share) == (weight, share)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rows = 3", r"no \[\[sources\]\]"),
        ("[[sources]]\nfiles = 'a'", "a source needs files, a list"),
        ("[[sources]]\nfiles = []", "files must be a list"),
        ("[[sources]]\nfiles = ['a']\nwheight = 2", "unknown key 'wheight': a source has"),
        ("[[sources]]\nfiles = ['a']\nweight = -1", "source a: weight must be a number from 0"),
        ("colour = 1\n[[sources]]\nfiles = ['a']", "unknown key 'colour': it may hold"),
        (
            "rows = '3'\n[[sources]]\nfiles = ['a']",
            "rows must be a whole number from 1 to inf, got '3'",
        ),
        ("rows = 3\nepochs = 1\n[[sources]]\nfiles = ['a']", "rows and epochs both"),
        ("caps = 3\n[[sources]]\nfiles = ['a']", "caps must be"),
        ("model = 3\n[[sources]]\nfiles = ['a']", "model and revision must be names"),
        ("lengths = 3\n[[sources]]\nfiles = ['a']", "lengths must be a list"),
        ("sources = 3", "sources must be a list"),
        ("sources = [3]", "a source is a table"),
        ("= 3", "not readable as TOML"),
    ],
)
def test_a_wrong_file_of_settings(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(InputError, match=rf"mix\.toml: .*{told}"):
        read_config(tmp_path / "mix.toml")


A, B = Source(("a",)), Source(("b",))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alpha": 1.5}, "alpha must be a number from 0 to 1, got 1.5"),
        ({"rows": 0}, "rows must be a whole number from 1 to inf, got 0"),
        ({"epochs": 0.0}, "epochs and file_mb must be above 0"),
        ({"caps": {"en": -1}}, "caps must be"),
        ({"lengths": (9, 3)}, "lengths must be whole numbers that rise"),
        ({"unit": "tokens"}, "say of which model"),
        ({"unit": "words"}, "unit 'words': choose from"),
        ({"sources": ()}, "nothing to mix"),
        ({"sources": (A, A)}, "two sources are called 'a'"),
        ({"sources": (replace(A, share=50), B)}, "source b has no share"),
        ({"sources": (replace(A, share=50), replace(B, share=60))}, "add up to 110%"),
        ({"sources": (replace(A, weight=0), replace(B, weight=0))}, "all weights are 0"),
    ],
)
def test_wrong_settings(job: Mix, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(job, **settings)


def test_the_command(job: Mix, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = tercet(["data", *arguments])
        return code, *capsys.readouterr()

    a, b = (source.files[0] for source in job.sources)
    options = ("--cap", "50", "--cap", "en=100", "--rows", "170", "--workers", "1")
    code, out, _ = call("mix", f"{a}=2", b, "--to", job.target, *options)
    assert code == 0
    assert "170 rows" in out
    assert "not said" in out
    settings = f"""
    cap = 50
    caps = {{en = 100}}
    epochs = 3
    sources = [{{files = ["{a}"], weight = 2}}, {{files = ["{b}"]}}]
    """
    (tmp_path / "mix.toml").write_text(settings)
    other = f"{job.target}.toml"
    toml = ("mix", str(tmp_path / "mix.toml"), "--to", other, "--rows", "170", "--json")
    assert call(*toml, "--shard", "1/1")[0] == 0
    report = json.loads(call("merge", other, "--json")[1])
    # 100 of 182 rows, as "en" and "de" count as no more than their caps
    assert report["languages"]["en"]["rows"] in (93, 94)
    assert contents(replace(job, target=other)) == contents(job)
    code, _, complaint = call("mix", a, "--to", f"{job.target}3", "--rows", "9999", "--repeats=2")
    assert code == 0
    assert "9,287 rows fewer than asked for" in complaint
    new = ("--to", f"{job.target}4")
    for arguments, exit_code, told in (
        ((a, *new, "--rows", "5", "--epochs", "2"), 2, "give one"),
        ((f"{a}=much", *new), 2, "'much' is no weight"),
        ((f"{a}=50%", b, *new), 2, "source b has no share"),
        ((a, *new, "--cap", "en"), 2, "no cap such as"),
        ((a, *new, "--lengths", "5,a"), 2, "no list of lengths"),
        (("none.jsonl", *new), 1, "none.jsonl: no such file"),
        ((str(tmp_path / "none.toml"), *new), 1, "No such file"),
        ((a, "--to", job.target), 1, "exists already"),
    ):
        code, _, complaint = call("mix", *arguments)
        assert (code, told in complaint) == (exit_code, True), complaint


# Quotas: counts in, counts out

COUNTS = np.array([[1000, 100, 10], [500, 0, 7]])


def quotas(weights: Sequence[float], counts: Any = COUNTS, **options: Any) -> Any:
    for name in options.keys() & {"source_caps", "language_caps"}:
        options[name] = np.array(options[name])
    return allot(np.array(counts), weights=np.array(weights, dtype=float), **options)


def test_a_weight_is_how_often_a_row_is_drawn() -> None:
    np.testing.assert_array_equal(quotas([1, 1]), COUNTS)
    np.testing.assert_array_equal(quotas([1, 1], epochs=2.0), 2 * COUNTS)
    assert quotas([1, 0])[1].sum() == 0
    drawn = quotas([2, 0.5])
    np.testing.assert_array_equal(drawn[0], 2 * COUNTS[0])
    assert drawn[1].tolist()[:2] == [250, 0]
    assert drawn[1, 2] in (3, 4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_temperature_is_the_formula(alpha: float) -> None:
    counts = np.array([[999_000, 0, 100], [1_000, 10_000, 0]])  # of all sources together
    drawn = quotas([1, 1], counts, alpha=alpha, rows=300_000).sum(axis=0)
    share = counts.sum(axis=0) ** alpha
    np.testing.assert_allclose(drawn / drawn.sum(), share / share.sum(), atol=1e-5)
    assert drawn.sum() == 300_000


def test_shares_hold_whatever_the_languages() -> None:
    drawn = quotas([70, 30], by_share=True, rows=1000, alpha=0.3)
    assert drawn.sum(axis=1).tolist() == [700, 300]
    # without a number of rows: as many as there are before the first source is used up
    assert quotas([50, 50], by_share=True).sum(axis=1).tolist() == [507, 507]
    with pytest.raises(InputError, match="source 2 has a share of the mix, but no rows"):
        quotas([50, 50], [[5, 5], [0, 0]], by_share=True)


def test_caps_hold_and_the_rest_fills_up() -> None:
    capped: dict[str, Any] = {"language_caps": [300, np.inf, np.inf]}
    drawn = quotas([1, 1], **capped)
    assert drawn.sum(axis=0).tolist() == [300, 100, 17]
    np.testing.assert_allclose(drawn[0, 0] / drawn[1, 0], 2, rtol=0.02)  # in proportion
    assert quotas([1, 1], **capped, rows=600).sum(axis=0)[0] == 300
    assert quotas([1, 1], **capped, rows=600).sum() == 600
    assert quotas([5, 1], source_caps=[50, np.inf]).sum(axis=1)[0] == 50


def test_what_repeats_keep_from_small_languages_goes_to_others() -> None:
    few: dict[str, Any] = {"repeats": 3, "alpha": 0.1}
    np.testing.assert_array_equal(quotas([1, 1], rows=10_000, **few), 3 * COUNTS)
    assert quotas([1, 1], rows=4000, **few).sum() == 4000
    drawn = quotas([1], [[100_000, 10_000, 10]], alpha=0.3, repeats=2)[0].tolist()
    assert drawn == [90_000 - 10, 20_000, 20]
    # weights that ask for more than the limit are cut, and nothing else is drawn instead
    np.testing.assert_array_equal(quotas([5, 1], repeats=2), [[2000, 200, 20], [500, 0, 7]])


@given(
    counts=st.lists(
        st.lists(st.integers(0, 2000), min_size=3, max_size=3), min_size=2, max_size=2
    ).filter(lambda rows: all(map(any, rows))),
    weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=2),
    cap=st.integers(1, 3000),
    source_cap=st.integers(1, 3000),
    alpha=st.floats(0, 1),
    rows=st.none() | st.integers(1, 20_000),
    repeats=st.just(np.inf) | st.integers(1, 5),
    by_share=st.booleans(),
)
def test_limits_always_hold(
    counts: list[list[int]],
    weights: list[float],
    cap: int,
    source_cap: int,
    rows: int | None,
    repeats: float,
    **options: Any,
) -> None:
    caps = {"language_caps": [cap, np.inf, np.inf], "source_caps": [np.inf, source_cap]}
    drawn = quotas(weights, counts, rows=rows, repeats=repeats, **caps, **options)
    table = np.array(counts)
    assert (drawn >= 0).all()
    assert (drawn[table == 0] == 0).all()
    assert drawn[:, 0].sum() <= cap
    assert drawn[1].sum() <= source_cap
    assert drawn.sum() <= (np.inf if rows is None else rows)
    assert (drawn[table > 0] <= repeats * table[table > 0]).all()
