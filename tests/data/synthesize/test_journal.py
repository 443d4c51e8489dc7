"""The journal: what was answered is there, however the writer ended."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tercet.data.synthesize.chat import Answer
from tercet.data.synthesize.journal import Journal
from tercet.errors import InputError

SETTINGS: dict[str, Any] = {"command": "synthesize", "options": {"model": "a", "seed": 0}}
ANSWERS = [
    ("a", Answer("Who?\nMe.", "stop", 7, 2)),
    ("b", Answer("\ud800 ü 水", None, 0, 0)),
    ("a", Answer("", "length", 1, 9)),
]


def write(path: Path) -> None:
    with Journal(path, SETTINGS) as journal:
        for key, answer in ANSWERS:
            journal.add(key, answer)


def test_what_is_added_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    write(path)
    with Journal(path, SETTINGS) as journal:
        assert journal.answers == {"a": [ANSWERS[0][1], ANSWERS[2][1]], "b": [ANSWERS[1][1]]}


def test_an_answer_is_on_disk_before_the_next_one_is_asked_for(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl", SETTINGS) as journal:
        for at, (key, answer) in enumerate(ANSWERS):
            journal.add(key, answer)
            assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == at + 2


@given(st.integers(0, 400))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_torn_end_is_mended(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.jsonl"
    path.unlink(missing_ok=True)
    write(path)
    whole = path.read_bytes()
    torn = whole[:kept]
    path.write_bytes(torn)
    with Journal(path, SETTINGS) as journal:
        assert sum(map(len, journal.answers.values())) == max(0, torn.count(b"\n") - 1)
        journal.add("c", ANSWERS[0][1])
    with Journal(path, SETTINGS) as journal:
        assert journal.answers["c"] == [ANSWERS[0][1]]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"command": "other", "options": SETTINGS["options"]}, r"\(command\)"),
        ({"command": "synthesize", "options": {"model": "b", "seed": 0}}, "model: 'a', now 'b'"),
        ({"command": "synthesize", "options": {"model": "a"}}, "seed: 0, now None"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=named):
        Journal(path, settings)
    assert path.read_bytes() == before


def test_settings_may_change_as_long_as_there_is_no_answer(tmp_path: Path) -> None:
    for settings in (SETTINGS, {**SETTINGS, "options": {}}):
        with Journal(tmp_path / "a.jsonl", settings) as journal:
            assert not journal.answers
    write(tmp_path / "a.jsonl")


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"no\n", b'{"key": "a", "other": 1}\n', b"[]\n"])
def test_a_damaged_line_is_named_and_nothing_is_cut_off(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path)
    damaged = path.read_bytes().split(b"\n", 1)
    path.write_bytes(damaged[0] + b"\n" + line + damaged[1])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a\.jsonl:2: no line of a journal"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == before


def test_two_cannot_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, SETTINGS), pytest.raises(InputError, match="another process"):
        Journal(path, SETTINGS)
    write(path)
