"""The cut changes nothing; what is whole is kept, what is not is told."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.cli import run as tercet
from tercet.cli.data import JOBS
from tercet.curate.shards import (
    BLOCK,
    FREE,
    MANIFEST,
    PartError,
    Parts,
    Shard,
    merge,
    part_rows,
    parts_folder,
    run,
    run_part,
    write_part,
)
from tercet.errors import InputError, MissingExtraError

LINES = 50


@dataclass(frozen=True)
class Counting:
    """Writes "number line" for each line of a file; notes in `log` which parts were made."""

    name: ClassVar[str] = "counting"

    target: str
    file: str
    prefix: str = ""
    lengths: tuple[int, ...] = (1, 2)
    log: str = field(default="", metadata=FREE)
    trouble: str = field(
        default="", metadata=FREE
    )  # "kill", "refuse" in the last part, or "ctrl-c"

    def inputs(self) -> list[Path]:
        return [Path(self.file)]

    def part(self, shard: Shard, folder: Path) -> None:
        (folder / "begun").touch()
        killed = Path(f"{self.target}.killed")
        if self.trouble == "kill" and shard.number == shard.count and not killed.exists():
            killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "refuse":
            if shard.number == shard.count:
                raise InputError(f"{self.file}:7: no good line")
            time.sleep(60)
        if self.trouble == "ctrl-c" and signal.SIGINT not in signal.pthread_sigmask(
            signal.SIG_BLOCK, ()
        ):
            raise InputError("Ctrl-C would have reached this process as it began")
        lines = enumerate(Path(self.file).read_text().splitlines())
        rows = [(n, {"text": f"{self.prefix}{line}"}) for n, line in lines if shard.has(n * BLOCK)]
        write_part(folder / "rows.jsonl", rows)
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{shard}\n")

    def merge(self, folders: Sequence[Path]) -> dict[str, Any]:
        rows = list(part_rows(folder / "rows.jsonl" for folder in folders))
        Path(self.target).write_text(json.dumps(rows))
        return {"rows": len(rows)}


@pytest.fixture
def job(tmp_path: Path) -> Counting:
    (tmp_path / "in.txt").write_text("".join(f"line {number}\n" for number in range(LINES)))
    return Counting(str(tmp_path / "out.json"), str(tmp_path / "in.txt"), log=str(tmp_path / "log"))


WHOLE = json.dumps([[number, {"text": f"line {number}"}] for number in range(LINES)])


def made(job: Counting) -> list[str]:
    """The parts that were made, each as often as it was."""
    return sorted(Path(job.log).read_text().split()) if Path(job.log).exists() else []


def names(job: Counting) -> list[str]:
    """What lies in the folder of parts."""
    return sorted(path.name for path in parts_folder(Path(job.target)).glob("*"))


@given(st.integers(1, 9), st.integers(0, 10 * BLOCK))
def test_every_unit_belongs_to_one_part(count: int, unit: int) -> None:
    assert sum(shard.has(unit) for shard in Shard.all(count)) == 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2", "1/2/3"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(InputError, match=r"2/8"):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 3, LINES + 5])
def test_parts_by_hand_in_any_order_make_the_whole(job: Counting, count: int) -> None:
    for shard in reversed(Shard.all(count)):
        run_part(job, shard)
    assert merge(job, count) == {"rows": LINES}
    assert Path(job.target).read_text() == WHOLE
    assert not parts_folder(Path(job.target)).exists()


def test_joining_removes_the_parts_alone(job: Counting) -> None:
    for shard in Shard.all(2):
        run_part(job, shard)
    parts = parts_folder(Path(job.target))
    for name in (".00001-of-00002.abc", "00001-of-00003", "notes"):
        (parts / name).mkdir()
    merge(job, 2)
    assert sorted(path.name for path in parts.iterdir()) == ["00001-of-00003", "notes"]


def test_processes_make_the_whole_and_no_part_twice(job: Counting) -> None:
    run_part(job, Shard(2, 3))
    seen: list[tuple[int, int]] = []
    report = run(job, workers=3, progress=lambda done, count: seen.append((done, count)))
    assert report == {"rows": LINES}
    assert Path(job.target).read_text() == WHOLE
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert made(job) == ["1/3", "2/3", "3/3"]


def test_a_part_that_fails_leaves_nothing_and_stops_the_others(job: Counting) -> None:
    with pytest.raises(InputError, match="7: no good line"):
        run(replace(job, trouble="refuse"), workers=2)  # the other would take a minute
    assert not parts_folder(Path(job.target)).exists()
    assert not Path(job.target).exists()


def test_ctrl_c_never_reaches_a_process_of_the_pool(job: Counting) -> None:
    run(replace(job, trouble="ctrl-c"), workers=2)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_killed_process_is_told_and_the_run_goes_on_later(job: Counting) -> None:
    dying = replace(job, trouble="kill")
    run_part(dying, Shard(1, 2))
    with pytest.raises(PartError, match=r"whole parts are kept"):
        run(dying, workers=2)
    assert not Path(job.target).exists()
    assert "00001-of-00002" in names(job)
    assert any(name.startswith(".00002") for name in names(job))  # what it had begun
    assert run(dying, workers=2) == {"rows": LINES}
    assert Path(job.target).read_text() == WHOLE
    assert made(job) == ["1/2", "2/2"]
    assert not parts_folder(Path(job.target)).exists()  # nor what was begun


def test_a_part_that_another_made_meanwhile_is_taken(
    job: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_part(job, Shard(1, 2))
    aside = first.with_name("aside")
    first.rename(aside)
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        rename(aside, first)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert run_part(job, Shard(1, 2)) == first
    assert names(job) == ["00001-of-00002"]


# errors


def change_input(job: Counting) -> Counting:
    path = Path(job.file)
    path.write_text(path.read_text().replace("line 3", "LINE 3"))  # as many bytes as before
    return job


def change_part(name: str, change: Callable[[Path], Any]) -> Callable[[Counting], Counting]:
    """Changes a file of the second part."""

    def changed(job: Counting) -> Counting:
        change(parts_folder(Path(job.target)) / "00002-of-00003" / name)
        return job

    return changed


def other_command(path: Path) -> None:
    path.write_text(path.read_text().replace('"counting"', '"filter"'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change_part("", shutil.rmtree), r"1 of 3 parts are missing: 2/3: run .* --shard 2/3"),
        (lambda job: replace(job, prefix="x"), r'other options \(prefix: "", now "x"\)'),
        (change_input, r"00001-of-00003 was made with other inputs .*in\.txt"),
        (lambda job: replace(job, file=f"{job.file}2"), r"in\.txt2: no such file"),
        (
            change_part(MANIFEST, lambda path: path.write_text('{"co')),
            "00002-of-00003 is not whole",
        ),
        (change_part(MANIFEST, os.unlink), r"00002-of-00003 is not whole"),
        (change_part("rows.jsonl", lambda path: os.truncate(path, 8)), "is not whole"),
        (change_part("rows.jsonl", os.unlink), r"00002-of-00003 is not whole"),
        (change_part(MANIFEST, other_command), r"other command \(filter"),
    ],
)
def test_parts_that_cannot_be_joined(
    job: Counting, harm: Callable[[Counting], Counting], message: str
) -> None:
    for shard in Shard.all(3):
        run_part(job, shard)
    changed = harm(job)
    with pytest.raises(InputError, match=message):
        merge(changed, 3)
    assert not Path(job.target).exists()
    assert {"00001-of-00003", "00003-of-00003"} <= {*names(job)}  # work is kept


def test_a_part_with_other_settings_than_its_neighbours_is_not_begun(job: Counting) -> None:
    run_part(job, Shard(1, 3))
    for changed in (replace(job, prefix="x"), change_input(job)):
        with pytest.raises(InputError, match=r"00001-of-00003 was made with other"):
            run_part(changed, Shard(2, 3))
    assert names(job) == ["00001-of-00003"]


def test_the_job_follows_from_its_parts(job: Counting, tmp_path: Path) -> None:
    parted = replace(job, lengths=(3, 4), prefix="ü ")
    for shard in Shard.all(2):
        run_part(parted, shard)
    moved = tmp_path / "elsewhere.json"  # where it is written changes nothing
    parts_folder(Path(job.target)).rename(parts_folder(moved))
    parts = Parts.find(moved)
    same = parts.job(Counting, moved)
    assert same == replace(parted, target=str(moved), log="")
    os.utime(job.file, (1, 1))  # bytes count, not times
    assert merge(same, parts.count) == {"rows": LINES}
    assert json.loads(moved.read_text())[3] == [3, {"text": "ü line 3"}]


def test_parts_that_say_nothing_clear(job: Counting) -> None:
    target = Path(job.target)
    with pytest.raises(InputError, match=r"no parts of .*out\.json"):
        Parts.find(target)
    path = run_part(job, Shard(1, 3)) / MANIFEST
    path.write_text(path.read_text().replace('"prefix"', '"colour"'))
    with pytest.raises(InputError, match=r"another version of Tercet.*colour, prefix"):
        Parts.find(target).job(Counting, target)
    run_part(job, Shard(2, 2))
    with pytest.raises(InputError):
        Parts.find(target)


# a cluster


def test_without_ray_the_extra_is_named(job: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"tercet\[ray\]"):
        run(job, ray="local")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_whole(
    job: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{Path.cwd()}")
    run_part(job, Shard(1, 3))
    seen: list[tuple[int, int]] = []
    dying = replace(job, trouble="kill")
    report = run(
        dying, ray="local", workers=3, progress=lambda done, count: seen.append((done, count))
    )
    assert report == {"rows": LINES}
    assert Path(job.target).read_text() == WHOLE
    killed = int(Path(f"{job.target}.killed").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(killed, 0)
    assert made(job) == ["1/3", "2/3", "3/3"]
    assert seen[-1] == (3, 3)
    assert not ray.is_initialized()
    # an error in a part comes back in its own words
    with pytest.raises(InputError, match="7: no good line"):
        run(replace(job, trouble="refuse"), ray="local", workers=1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_told_at_once(job: Counting, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(PartError, match=f"no Ray cluster at {address}: "):
        run(job, ray=address)


# Of every command: parts made by hand and joined are what a run at once makes.


def test_every_command_that_can_be_joined_is_there() -> None:
    for command, (kind, tell) in JOBS.items():
        assert resolve_name(kind).name == command
        assert callable(resolve_name(tell))


@pytest.mark.parametrize(
    "command",
    [
        ("pairs", "docs", "--lang", "en"),
        ("filter", "rows.jsonl", "--without", "language,near"),
        ("mix", "rows.jsonl=0.5", "--lengths", "20,50"),
    ],
)
def test_parts_of_a_command_that_are_joined_are_the_whole(
    command: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", "docs"):
        Path(folder).mkdir()
    rows = [
        {"query": f"question {n % 40}", "pos": [f"A long answer, {n % 40}."]} for n in range(60)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(7):
        section = f"# Title {n}\n\n## Section {n}\n\n" + f"Text of section {n}. " * 9
        Path(f"docs/{n}.md").write_text(section)

    def call(*arguments: str) -> str:
        assert tercet(["data", *arguments]) == 0
        return capsys.readouterr().out

    def written(target: str) -> list[bytes]:
        files = sorted(Path(target).iterdir()) if Path(target).is_dir() else [Path(target)]
        return [path.read_bytes() for path in files if path.name != "mix.json"]

    target = "mixed" if command[0] == "mix" else "rows.jsonl"
    whole = call(*command, "--to", f"a/{target}", "--workers", "1", "--json")
    for part in ("3/3", "1/3", "2/3"):
        told = json.loads(call(*command, "--to", f"b/{target}", "--shard", part, "--json"))
        assert Path(told["folder"]).is_dir()
    joined = call("merge", f"b/{target}", "--json")
    assert written(f"b/{target}") == written(f"a/{target}")
    assert sum(map(len, written(f"a/{target}"))) > 100
    assert json.loads(joined.replace("b/", "a/")) == json.loads(whole)
    assert not Path(f"b/{target}.parts").exists()
