"""The README and docs: their commands exist, their snippets run as typed in a clone."""

import json
import os
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tercet.cli import run, tercet
from tercet.config import HEADS
from tercet.scores import dense_scores, lexical_scores, maxsim_scores, weighted_sum

ROOT = Path(__file__).resolve().parent.parent
DATABASES = ROOT / "docs" / "databases.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Packages of snippets that `make test` may lack.
OPTIONAL = set(
    "mteb langchain_core langchain_qdrant llama_index haystack chromadb lancedb"
    " sentence_transformers fast_plaid pylate".split()
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def commands(text: str) -> list[list[str]]:
    """The `tercet` commands of a block: without prompts, comments and redirections."""
    lines = text.replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ").partition(" < ")[0] for line in lines]
    return [shlex.split(line, comments=True) for line in typed if line.startswith("tercet ")]


TYPED = [
    (page.name, words)
    for page in PAGES
    for words in [
        *(words for text in blocks(page, "") for words in commands(text)),
        *(
            words
            for code in re.findall(r"`(tercet [^`]+)`", page.read_text("utf-8"))
            for words in commands(" ".join(code.split()))
            if "..." not in words and " ".join(words).islower()
        ),
    ]
]


def test_there_are_commands() -> None:
    assert len(TYPED) > 40


@pytest.mark.parametrize(("page", "words"), TYPED, ids=lambda value: str(value)[:60])
def test_commands_are_there_with_their_options(page: str, words: list[str]) -> None:
    """Wrong options, choices and values are refused; required ones may be left out in prose."""
    command: click.Command = tercet
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        name = rest.pop(0)
        assert name in command.commands, f"{page}: {' '.join(words)}"
        command = command.commands[name]
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    for word in rest:
        if re.match(r"--?[a-z]", word):
            assert word in known | {"--help"}, f"{page}: {' '.join(words)}"


@pytest.fixture
def clone(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a clone has at its top, with a tiny model in place of the bundled one."""
    folder = tmp_path / "clone"
    (folder / "src" / "tercet" / "models").mkdir(parents=True)
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(tiny_checkpoint, folder / "src" / "tercet" / "models" / "small")
    for module in ("encoder", "exports", "layout", "train.plan", "adapters.sentence_transformers"):
        monkeypatch.setattr(f"tercet.{module}.BUNDLED", tiny_checkpoint, raising=False)
    monkeypatch.setenv("TERCET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    return folder


def test_the_quick_starts_work_as_typed(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    for title in ("Search my files", "Fine-tune"):
        section = page[page.index(f"## {title}\n") :].partition("\n## ")[0]
        typed = [words for kind, text in BLOCK.findall(section) if not kind
                 for words in commands(text)]  # fmt: skip
        assert len(typed) >= 2
        for words in typed:
            assert run(words[1:]) == 0, f"{words}\n{capsys.readouterr().err}"
    assert (clone / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != DATABASES], ids=lambda page: page.name
)
def test_python_snippets_run(page: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in blocks(page, "python"):
        packages = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) & OPTIONAL
        if any(find_spec(package) is None for package in packages):
            continue  # run where it is installed: tests/adapters has the same calls
        exec(compile(text, str(page), "exec"), {})
    if page.name == "README.md":
        assert capsys.readouterr().out.count("\n") >= 4


@pytest.mark.parametrize("engine", ["qdrant_client", "pymilvus", "psycopg"])
def test_a_database_ranks_by_the_exact_sum(engine: str, clone: Path) -> None:
    """psycopg runs where PGHOST says which server has pgvector."""
    pytest.importorskip(engine)
    if engine == "psycopg" and "PGHOST" not in os.environ:
        pytest.skip("PGHOST names no server")
    [text] = [text for text in blocks(DATABASES, "python") if f"\n{engine}" in _imports(text)]
    text, legs = re.subn(r"(?i)limit( |=)200", r"LIMIT\g<1>12", text)  # fewer than all passages
    names: dict[str, Any] = {}
    exec(compile(text.replace("LIMIT=", "limit="), f"{DATABASES}, {engine}", "exec"), names)
    encoder, texts = names["encoder"], names["texts"]
    asked, passages = encoder.encode([names["question"]], role="query"), encoder.encode(texts)
    parts = [score(asked, passages)[0] for score in (dense_scores, lexical_scores, maxsim_scores)]
    sums = weighted_sum(dict(zip(HEADS, parts, strict=True)), encoder.weights)
    dense, sparse = (np.argsort(-part)[:12] for part in parts[:2])
    union = np.union1d(dense, sparse[parts[1][sparse] > 0])
    assert legs
    assert 12 < len(union) < len(texts), "the legs agree: this test would see nothing"
    places, scores = (list(column) for column in zip(*names["found"], strict=True))
    np.testing.assert_allclose(scores, np.sort(sums[union])[::-1][:10], atol=2e-3)
    np.testing.assert_allclose(scores, sums[places], atol=2e-3)


def _imports(text: str) -> str:
    return "\n" + "\n".join(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))


@pytest.mark.slow
def test_the_bundled_model_answers_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["index", "examples/docs", "--to", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    for question, answer in (
        ("how do bees talk to each other?", "nature/honeybee-dance.md"),
        ("How many people died when Krakatau erupted in 1883?", "history/krakatau-1883.md"),
    ):
        assert run(["search", "--index", str(tmp_path / "index"), "--json", question]) == 0
        hits = json.loads(capsys.readouterr().out)["hits"]
        assert hits[0]["id"].endswith(answer)
