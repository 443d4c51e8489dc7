"""The cut changes nothing; what is whole is kept, what is not is told."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.cli.data import JOBS, find
from tercet.curate.shards import (
    BLOCK,
    MANIFEST,
    PartError,
    Parts,
    Shard,
    _scratch_name,
    merge,
    parts_folder,
    run,
    run_part,
    settings,
)
from tercet.errors import InputError, MissingExtraError
from tests.curate.counting import Counting

LINES = 50


@pytest.fixture
def job(tmp_path: Path) -> Counting:
    (tmp_path / "in.txt").write_text("".join(f"line {number}\n" for number in range(LINES)))
    return Counting(str(tmp_path / "out.json"), str(tmp_path / "in.txt"), log=str(tmp_path / "log"))


@pytest.fixture
def whole(job: Counting) -> str:
    """What a run in one part writes."""
    other = replace(job, target=f"{job.target}.whole", log="")
    assert run(other, workers=1) == {"rows": LINES}
    return Path(other.target).read_text()


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
def test_parts_by_hand_in_any_order_make_the_whole(job: Counting, whole: str, count: int) -> None:
    for shard in reversed(Shard.all(count)):
        run_part(job, shard)
    assert merge(job, count) == {"rows": LINES}
    assert Path(job.target).read_text() == whole
    assert not parts_folder(Path(job.target)).exists()


def test_processes_make_the_whole_and_no_part_twice(job: Counting, whole: str) -> None:
    run_part(job, Shard(2, 3))
    seen: list[tuple[int, int]] = []
    report = run(job, workers=3, progress=lambda done, count: seen.append((done, count)))
    assert report == {"rows": LINES}
    assert Path(job.target).read_text() == whole
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert made(job) == ["1/3", "2/3", "3/3"]


def test_a_part_that_fails_leaves_nothing_and_stops_the_others(job: Counting) -> None:
    with pytest.raises(InputError, match="7: no good line"):
        run(replace(job, trouble="refuse"), workers=2)  # the other would take a minute
    assert names(job) == []
    assert not Path(job.target).exists()


def test_a_killed_process_is_told_and_the_run_goes_on_later(job: Counting, whole: str) -> None:
    dying = replace(job, trouble="kill")
    run_part(dying, Shard(1, 2))
    with pytest.raises(PartError, match=r"whole parts are kept"):
        run(dying, workers=2)
    assert not Path(job.target).exists()
    assert "00001-of-00002" in names(job)
    assert any(name.startswith(".00002") for name in names(job))  # what it had begun
    run_part(dying, Shard(2, 2))
    assert names(job) == ["00001-of-00002", "00002-of-00002"]  # swept
    assert run(dying, workers=2) == {"rows": LINES}
    assert Path(job.target).read_text() == whole
    assert made(job) == ["1/2", "2/2"]


def test_what_living_processes_write_is_not_swept(job: Counting) -> None:
    folder = run_part(job, Shard(1, 2))
    for process in (os.getpid(), "x"):
        name = _scratch_name(folder.with_name("00002-of-00002"))
        (folder.parent / f"{name}{process}.abc").mkdir()
    (folder.parent / f".00002-of-00002.elsewhere.{2**22 + 1}.abc").mkdir()
    run_part(job, Shard(2, 2))
    assert len(names(job)) == 5


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


def test_a_killed_run_by_hand_is_swept(job: Counting) -> None:
    if (child := os.fork()) == 0:
        run_part(replace(job, trouble="kill"), Shard(2, 2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(names(job)) == 1
    run_part(job, Shard(2, 2))
    assert names(job) == ["00002-of-00002"]


# errors


def change_input(job: Counting) -> Counting:
    path = Path(job.file)
    path.write_text(path.read_text().replace("line 3", "LINE 3"))  # as many bytes as before
    return job


def tear(name: str, text: str | None) -> Callable[[Counting], Counting]:
    """Writes into a file of the second part, or removes it."""

    def torn(job: Counting) -> Counting:
        path = parts_folder(Path(job.target)) / "00002-of-00003" / name
        path.write_text(text) if text else path.unlink()
        return job

    return torn


def remove_part(job: Counting) -> Counting:
    shutil.rmtree(parts_folder(Path(job.target)) / "00002-of-00003")
    return job


def other_command(job: Counting) -> Counting:
    path = parts_folder(Path(job.target)) / "00002-of-00003" / MANIFEST
    path.write_text(path.read_text().replace('"counting"', '"filter"'))
    return job


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_part, r"1 of 3 parts are missing: 2/3: run .* --shard 2/3"),
        (lambda job: replace(job, prefix="x"), r'other options \(prefix: "", now "x"\)'),
        (change_input, r"00001-of-00003 was made with other inputs .*in\.txt"),
        (lambda job: replace(job, file=f"{job.file}2"), r"in\.txt2: no such file"),
        (tear(MANIFEST, '{"command": "cou'), r"00002-of-00003 is not whole"),
        (tear(MANIFEST, None), r"00002-of-00003 is not whole"),
        (tear("rows.jsonl", '{"#": 1'), r"00002-of-00003 is not whole \(rows\.jsonl"),
        (tear("rows.jsonl", None), r"00002-of-00003 is not whole"),
        (other_command, r"other command \(filter"),
    ],
)
def test_parts_that_cannot_be_joined(
    job: Counting, harm: Callable[[Counting], Counting], message: str
) -> None:
    for shard in Shard.all(3):
        run_part(job, shard)
    before = len(names(job))
    changed = harm(job)
    with pytest.raises(InputError, match=message):
        merge(changed, 3)
    assert not Path(job.target).exists()
    assert len(names(job)) >= before - 1  # work is kept


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
    assert merge(same, parts.count) == {"rows": LINES}
    assert json.loads(moved.read_text())[3] == [3, {"text": "ü line 3"}]


def test_parts_that_say_nothing_clear(job: Counting) -> None:
    target = Path(job.target)
    with pytest.raises(InputError, match=r"no parts of .*out\.json"):
        Parts.find(target)
    for shard in (Shard(1, 3), Shard(2, 2)):
        run_part(job, shard)
    with pytest.raises(InputError, match="different cuts, of 2 and of 3"):
        Parts.find(target)


def test_options_of_another_version_are_refused(job: Counting) -> None:
    path = run_part(job, Shard()) / MANIFEST
    facts = json.loads(path.read_text())
    facts["options"]["colour"] = "red"
    path.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"another version of Tercet.*colour"):
        Parts.find(Path(job.target)).job(Counting, Path(job.target))


def test_settings_follow_bytes_not_times(job: Counting) -> None:
    before = settings(job)
    os.utime(job.file, (1, 1))
    assert settings(job) == before
    assert settings(replace(job, target="x", log="y")) == before
    assert settings(change_input(job)) != before


@pytest.mark.parametrize("command", JOBS)
def test_every_command_that_can_be_joined_is_there(command: str) -> None:
    kind, tell = map(find, JOBS[command])
    assert kind.name == command
    assert callable(tell)


# a cluster


def test_without_ray_the_extra_is_named(job: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"tercet\[ray\]"):
        run(job, ray="local")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_makes_the_whole(
    job: Counting, whole: str, monkeypatch: pytest.MonkeyPatch
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
    assert Path(job.target).read_text() == whole
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
