"""The mix follows from its rows and its seed; the cut changes nothing."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tercet.cli import run as tercet
from tercet.config import MAX_LENGTH
from tercet.curate.mix import BOUNDS, LengthGroups, Mix, Scatter, Source, parse_source, read_config
from tercet.curate.shards import Parts, Shard, merge, parts_folder, run, run_part
from tercet.errors import InputError
from tercet.rows import check_row, files_of, numbered_rows, read_rows
from tercet.tokenizer import Tokenizer
from tercet.train.config import LENGTHS

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
def sources(tmp_path: Path) -> tuple[str, str]:
    a = [row for language, count in LANGUAGES.items() for row in rows_of("a", language, count)]
    b = rows_of("b", "en", 280, words=70)
    b[7]["query"] = "tabs\t, lines\n, \u2028 and a lone \ud800"
    return write(tmp_path / "a.jsonl", a), write(tmp_path / "b.jsonl", b)


@pytest.fixture
def job(tmp_path: Path, sources: tuple[str, str]) -> Mix:
    found = tuple(parse_source(name) for name in sources)
    return Mix(str(tmp_path / "mixed"), found, lengths=(40, 100, 300))


def mixed(job: Mix) -> Rows:
    """The rows of the mix, file after file."""
    return [row for path in files_of(Path(job.target)) for row in read_rows(path)]


def contents(job: Mix) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(job.target).iterdir()}


def copies(job: Mix) -> Counter[str]:
    return Counter(row["id"] for row in mixed(job))


def weighted(job: Mix, *weights: float) -> Mix:
    sources = zip(job.sources, weights, strict=True)
    return replace(job, sources=tuple(replace(source, weight=w) for source, w in sources))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_cut_changes_nothing(job: Mix, count: int) -> None:
    job = replace(job, alpha=0.4, rows=500, file_mb=0.01)
    whole = replace(job, target=f"{job.target}.whole")
    told = run(whole, workers=1)
    for shard in reversed(Shard.all(count)):
        run_part(job, shard)
    report = merge(Parts.find(Path(job.target)).job(Mix, Path(job.target)), count)
    assert report == {**told, "to": job.target}
    names = contents(whole).keys()
    assert contents(job).keys() == names
    assert len(names) > 3
    assert all(contents(job)[name] == contents(whole)[name] for name in names - {"mix.json"})


def test_processes_change_nothing(job: Mix) -> None:
    run(job, workers=1)
    other = replace(job, target=f"{job.target}.2")
    run(other, workers=2)
    assert {**contents(job), "mix.json": b""} == {**contents(other), "mix.json": b""}


def test_nothing_asked_is_every_row_once(job: Mix, sources: tuple[str, str]) -> None:
    report = run(job, workers=1)
    want = [row for name in sources for row in read_rows(Path(name))]
    by_id = {row["id"]: row for row in mixed(job)}
    assert by_id == {row["id"]: row for row in want}
    assert set(copies(job).values()) == {1}
    assert report["rows"] == len(want) == sum(file["rows"] for file in report["files"])
    assert report["languages"]["en"] == {"found": 580, "rows": 580, "left_out": 0, "repeats": 1}
    assert json.loads((Path(job.target) / "mix.json").read_text()) == report


def test_rows_repeat_only_where_there_are_too_few(job: Mix) -> None:
    report = run(weighted(job, 0.5, 2.5), workers=1)
    drawn = copies(job)
    assert {drawn[name] for name in drawn if name.startswith("a-")} == {1}
    counts = Counter(drawn[name] for name in drawn if name.startswith("b-"))
    assert counts == {2: 140, 3: 140}
    a, b = report["sources"]["a"], report["sources"]["b"]
    assert (a["rows"], a["left_out"], a["repeats"]) == (178, 178, 1)
    assert (b["rows"], b["left_out"], b["repeats"]) == (700, 0, 3)


def test_every_row_has_the_same_chance(job: Mix, tmp_path: Path) -> None:
    name = write(tmp_path / "c.jsonl", rows_of("c", "en", 12))
    total: Counter[str] = Counter()
    for seed in range(120):
        one = Mix(f"{job.target}{seed}", (parse_source(name),), rows=3, seed=seed)
        run(one, workers=1)
        drawn = copies(one)
        assert len(drawn) == 3
        total.update(drawn)
    # 30 of each are expected, with a standard deviation of 4.7
    assert len(total) == 12
    assert min(total.values()) > 11
    assert max(total.values()) < 49


def test_rows_lie_in_random_order(job: Mix) -> None:
    job = replace(job, lengths=(5000,))
    run(job, workers=1)
    first = [row["id"] for row in mixed(job)]
    assert first != sorted(first)
    sides = [name.startswith("a-") for name in first]
    changes = sum(x != y for x, y in pairwise(sides))
    assert changes > 200  # sources are mixed, not one after the other
    other = replace(job, target=f"{job.target}.seed", seed=1)
    run(other, workers=1)
    assert [row["id"] for row in mixed(other)] != first
    assert copies(other) == copies(job)


def test_files_hold_the_lengths_that_they_are_called_by(job: Mix) -> None:
    run(job, workers=1)
    names = [path.name for path in files_of(Path(job.target))]
    assert [name.partition(".")[0] for name in names] == [
        "characters-00001-00040",
        "characters-00041-00100",
        "characters-00101-up",
    ]
    for path in files_of(Path(job.target)):
        _, low, high = path.name.partition(".")[0].split("-")
        for number, row in numbered_rows(path):
            record = check_row(row, f"{path}:{number}")  # and it can train
            longest = max(map(len, (record.query, *record.pos)))
            assert int(low) <= longest <= (float("inf") if high == "up" else int(high))


def test_tokens_are_counted_as_training_does(
    job: Mix, tiny_checkpoint: Path, tokenizer: Tokenizer
) -> None:
    run(replace(job, unit="tokens", model=str(tiny_checkpoint), lengths=(9, 20, 60)), workers=1)
    seen = set()
    for path in files_of(Path(job.target)):
        _, low, high = path.name.partition(".")[0].split("-")
        for row in read_rows(path):
            texts = [row["query"], *row["pos"]]
            longest = int(tokenizer.encode(texts, max_length=MAX_LENGTH).lengths.max())
            assert int(low) <= longest
            assert high == "up" or longest <= int(high)
            seen.add(high)
    assert seen == {"00009", "00020", "up"}


def test_groups_are_those_of_training() -> None:
    assert BOUNDS["tokens"] == LENGTHS
    groups = LengthGroups("tokens", (3, 9))
    assert [groups.file_name(0), groups.file_name(1)] == ["tokens-00001-00003", "tokens-00004-up"]
    with pytest.raises(InputError, match="whole numbers that rise, got 5, 5"):
        LengthGroups("tokens", (5, 5))


def test_files_are_no_larger_than_asked(job: Mix, monkeypatch: pytest.MonkeyPatch) -> None:
    small = partial(Scatter, buffer=1000)  # scattered bit by bit
    monkeypatch.setattr("tercet.curate.mix.Scatter", small)
    report = run(replace(job, file_mb=0.02, lengths=(40, 5000)), workers=1)
    names = [file["name"] for file in report["files"]]
    assert len(names) > 6
    assert names == sorted(names)
    assert set(copies(job).values()) == {1}
    sizes = [sum(len(json.dumps(row)) for row in read_rows(Path(job.target) / n)) for n in names]
    assert max(sizes) < 2 * 0.02 * (1 << 20)  # by chance some are larger than the mean


def test_a_bad_row_is_named_and_nothing_is_left(job: Mix, sources: tuple[str, str]) -> None:
    with open(sources[1], "a") as file:
        file.write('{"query": "q", "pos": []}\n')
    with pytest.raises(InputError, match=r"b\.jsonl:281: 'pos' is empty"):
        run(job, workers=1)
    assert not parts_folder(Path(job.target)).exists()
    assert not Path(job.target).exists()


def test_a_target_that_exists_is_kept(job: Mix) -> None:
    Path(job.target).mkdir()
    with pytest.raises(InputError, match="mixed exists already"):
        run(job, workers=1)


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
        ("[[sources]]\nfiles = ['a']\nweight = -1", "source a: weight must be a number of at"),
        ("colour = 1\n[[sources]]\nfiles = ['a']", "unknown key 'colour': it may hold"),
        ("rows = '3'\n[[sources]]\nfiles = ['a']", "rows is '3': not of the right kind"),
        ("rows = 3\nepochs = 1\n[[sources]]\nfiles = ['a']", "rows and epochs both"),
        ("= 3", "not readable as TOML"),
    ],
)
def test_a_wrong_file_of_settings(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(InputError, match=rf"mix\.toml: .*{told}"):
        read_config(tmp_path / "mix.toml")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sources": ()}, "no sources"),
        ({"alpha": 1.5}, "alpha lies between"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"epochs": 0.0}, "epochs and file_mb must be above 0"),
        ({"caps": {"en": -1}}, "caps must be"),
        ({"lengths": (9, 3)}, "lengths must be whole numbers that rise"),
        ({"unit": "tokens"}, "say of which model"),
        ({"unit": "words"}, "unit 'words': choose from"),
    ],
)
def test_wrong_settings(job: Mix, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(job, **settings)


def test_sources_that_do_not_fit_each_other(job: Mix) -> None:
    a, b = job.sources
    refused: list[tuple[tuple[Source, ...], str]] = [
        ((a, a), "two sources are called 'a'"),
        ((replace(a, share=50), b), "source b has no share"),
        ((replace(a, share=50), replace(b, share=60)), "add up to 110%"),
        ((replace(a, weight=0), replace(b, weight=0)), "all weights are 0"),
    ]
    for sources, told in refused:
        with pytest.raises(InputError, match=told):
            replace(job, sources=sources)


def test_the_command(
    job: Mix, sources: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = tercet(["data", "mix", *arguments])
        return code, *capsys.readouterr()

    a, b = sources
    options = ("--cap", "50", "--cap", "en=100", "--rows", "170", "--workers", "1")
    code, out, _ = call(f"{a}=2", b, "--to", job.target, *options)
    assert code == 0
    assert "170 rows" in out
    assert "not said" in out
    settings = f"""
    cap = 50
    caps = {{en = 100}}
    epochs = 3
    [[sources]]
    files = ["{a}"]
    weight = 2
    [[sources]]
    files = ["{b}"]
    """
    (tmp_path / "mix.toml").write_text(settings)
    other = f"{job.target}.toml"
    toml = (str(tmp_path / "mix.toml"), "--to", other, "--rows", "170", "--json")
    code, out, _ = call(*toml, "--shard", "1/1")
    assert code == 0
    assert tercet(["data", "merge", other, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 170
    # 100 of 182 rows, as "en" and "de" count as no more than their caps
    assert report["languages"]["en"]["rows"] in (93, 94)
    assert contents(job).keys() == contents(replace(job, target=other)).keys()
    assert mixed(job) == mixed(replace(job, target=other))
    code, out, complaint = call(a, "--to", f"{job.target}3", "--rows", "9999", "--repeats", "2")
    assert (code, out[:0]) == (0, "")
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
        code, _, complaint = call(*arguments)
        assert (code, told in complaint) == (exit_code, True), complaint
