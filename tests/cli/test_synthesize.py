"""`tercet data synthesize`: estimates, asks, goes on after kill -9, and says what it cannot do."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tercet.cli import run
from tercet.rows import read_rows
from tests.chat_server import KEY, MODEL, ChatServer, Reply, writer
from tests.curate.test_synthesize import article, write

NAMES = [f"{first}{second}" for first in "ABCDEF" for second in "uvwxyz"]
NOBODY = "http://127.0.0.1:9/v1"


def command(folder: Path, url: str, *options: str) -> list[str]:
    source = folder / "articles.jsonl"
    if not source.exists():
        write(source, [{"text": article(name), "lang": "en"} for name in NAMES])
    fixed = ["--to", str(folder / "out.jsonl"), "--base-url", url, "--model", MODEL]
    fixed += ["--min-tokens", "300", "--backoff", "0.001", "--retries", "1"]
    return ["data", "synthesize", str(source), *fixed, *options]


def test_a_dry_run_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer() as server:
        priced = ["--price-in", "1", "--price-out", "2"]
        assert run(command(tmp_path, server.url, "--dry-run", *priced)) == 0
        text = capsys.readouterr().out
        assert run(command(tmp_path, server.url, "--dry-run", *priced, "--json")) == 0
        plan = json.loads(capsys.readouterr().out)
    assert "articles: 36 (en 36)" in text
    assert "requests: about 36, at most 108" in text
    assert text.count("Here is a paragraph") == 3
    assert plan["requests"] == 36
    assert plan["cost"] == pytest.approx((plan["tokens_in"] + 2 * plan["tokens_out"]) / 1e6)
    assert len(plan["prompts"]) == 3
    assert not server.requests
    assert [path.name for path in tmp_path.iterdir()] == ["articles.jsonl"]


def test_the_key_is_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--yes", "--key-env", "A_KEY", "--price-in", "1", "--price-out", "2"]
    with ChatServer(key=KEY) as server:
        monkeypatch.setenv("A_KEY", "sk-wrong")
        assert run(command(tmp_path, server.url, *options)) == 1
        failed = capsys.readouterr()
        monkeypatch.setenv("A_KEY", KEY)
        assert run(command(tmp_path, server.url, *options)) == 0
        made = capsys.readouterr()
    assert "check the key in A_KEY (401)" in failed.err
    assert "36 questions on 36 articles (en 36)" in made.out
    assert "; cost 0.0" in made.out
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    shown = "".join([*failed, *made, *written])
    assert KEY not in shown
    assert "sk-wrong" not in shown
    assert len(list(read_rows(tmp_path / "out.jsonl"))) == 36


def test_parts_are_joined_to_the_same_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.jsonl"
    made, told = [], []
    with ChatServer() as server:
        for options in (["--json"], ["--workers", "2", "--json"]):
            assert run(command(tmp_path, server.url, "--yes", *options)) == 0
            made.append(target.read_bytes())
            told.append(capsys.readouterr().out)
            target.unlink()
        for part in ("2/2", "1/2"):
            assert run(command(tmp_path, server.url, "--yes", "--shard", part)) == 0
            assert not target.exists()
        assert "tercet data merge" in capsys.readouterr().out
        assert run(["data", "merge", str(target), "--json"]) == 0
    made.append(target.read_bytes())
    told.append(capsys.readouterr().out)
    assert len(server.requests) == 3 * len(NAMES)
    assert len(set(made)) == len(set(told)) == 1


@pytest.mark.parametrize("answer", ["y\n", "n\n", ""])
def test_without_yes_it_asks_first(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with ChatServer() as server:
        assert run(command(tmp_path, server.url)) == (0 if answer == "y\n" else 130)
    assert len(server.requests) == (36 if answer == "y\n" else 0)


WRONG = {
    "": "--yes",  # nobody is there to ask
    "--base-url http://user:secret@host": "takes no user",
    "--price-in 1": "give --price-in and --price-out",
    "--body {1": "no JSON",
    '--body {"stream":true}': "stream cannot be set",
    "--shard 9/8": "no part 9 of 8",
    "--paragraph 60": "not a range",
    "--temperature 9": "temperature",
    "--key-env NOT_THERE": "NOT_THERE is not set",
    "--prompt {folder}/prompt.txt": "prompt.txt: {paragraph} is missing",
    "--prompt {folder}/latin.txt": "latin.txt is not UTF-8",
}


@pytest.mark.parametrize("options", WRONG)
def test_wrong_usage(
    options: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    (tmp_path / "prompt.txt").write_text("Ask something.")
    (tmp_path / "latin.txt").write_bytes("{paragraph} für".encode("latin-1"))
    given = options.replace("{folder}", str(tmp_path)).split(None, 1)
    assert run(command(tmp_path, NOBODY, *given)) == 2
    error = capsys.readouterr().err
    assert WRONG[options] in error
    assert "secret" not in error


def test_what_stands_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(tmp_path, NOBODY, "--yes")
    assert run([*arguments, "--min-tokens", "99999"]) == 1
    assert "no article of 99,999 tokens" in capsys.readouterr().err
    assert run([*arguments, "--to", str(tmp_path / "out.csv")]) == 1
    assert "must end in .jsonl or .jsonl.gz" in capsys.readouterr().err
    assert run([*arguments, "--limit", "1"]) == 1
    assert "cannot connect" in capsys.readouterr().err
    (tmp_path / "out.jsonl").write_text("precious")
    assert run(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "articles.jsonl").write_text('{"text": "a"}\nno JSON\n')
    assert run([*arguments, "--dry-run"]) == 1
    assert "articles.jsonl:2" in capsys.readouterr().err


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    def slow(request: dict[str, Any], number: int) -> Reply:
        return dataclasses.replace(writer(request, number), delay=0.03)

    asked: list[str] = []
    for kill in (True, True, False):
        with ChatServer(slow) as server:
            arguments = command(tmp_path, server.url, "--yes", "--concurrency", "2")
            process = subprocess.Popen(
                [sys.executable, "-m", "tercet", *arguments], stdout=subprocess.DEVNULL
            )
            while kill and process.poll() is None and len(server.requests) < 8:
                time.sleep(0.002)
            if kill:
                process.send_signal(signal.SIGKILL)
                assert process.wait(60) == -signal.SIGKILL
                journal = tmp_path / "out.jsonl.parts" / "00001-of-00001.answers.jsonl"
                with journal.open("ab") as file:  # torn, as a power cut leaves it
                    file.write(b'{"key": "to')
            assert process.wait(60) == (-signal.SIGKILL if kill else 0)
        asked += [request["messages"][0]["content"] for request in server.requests]
    assert len(set(asked)) == len(NAMES)
    assert len(asked) <= len(NAMES) + 2 * 2  # what was on its way when it was killed
    whole = tmp_path / "whole"
    whole.mkdir()
    with ChatServer() as server:
        assert run(command(whole, server.url, "--yes")) == 0
    assert (whole / "out.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
