"""`tercet explain`: texts, files and indexes in the terminal, as JSON and as a page."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from tercet import Document, Encoder, explain
from tercet.cli import run
from tercet.collection import Collection

QUERY = "the river and the city"
PASSAGE = "A city on the river. The people of the house."
HEADS = ("dense", "sparse", "multi", "hybrid")


@pytest.fixture(autouse=True)
def model(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model in place of the bundled one."""
    monkeypatch.setattr("tercet.encoder.BUNDLED", tiny_checkpoint)


def objects(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_passage_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", QUERY, PASSAGE]) == 0
    out = capsys.readouterr().out
    told = explain(Encoder.load(), QUERY, PASSAGE)
    for head in HEADS:
        assert re.search(rf"{head} .*{getattr(told.scores, head):.3f}", out), head
    assert sum(map(int, re.findall(r"(\d+)%", out))) in (99, 100, 101)
    for shared in told.shared:
        assert re.search(
            rf"^  {re.escape(shared.text)} .* {shared.product:.3f}$", out, re.MULTILINE
        )
    for token in told.tokens:
        assert token.met is not None
        assert f"{token.met.similarity:.3f}" in out
    assert PASSAGE in out  # plain where nobody sees colours
    assert "\x1b" not in out


def test_colours_show_heat_and_the_best_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    told = explain(Encoder.load(), QUERY, PASSAGE)
    assert told.sentence is not None
    from tercet.cli.explain import _show_passage

    written: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text="", **_: written.append(text))
    _show_passage(told)
    out = "".join(written)
    assert click.unstyle(out) == PASSAGE
    hottest = max(told.heat, key=lambda heat: heat.value)
    word = PASSAGE[hottest.start : hottest.end]
    assert re.search(rf"\x1b\[48;5;208m(\x1b\[4m)?{word}", out)
    lined = re.findall("\x1b\\[4m(.*?)\x1b", out)
    assert "".join(lined) == PASSAGE[told.sentence.start : told.sentence.end]


def test_the_best_chunk_of_a_file_or_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.md"
    chapters = [f"The {word} of the house. " * 60 for word in ("garden", "bread", "river")]
    file.write_text("# Notes\n\n" + "\n\n".join(chapters))
    assert run(["explain", "river of the house", str(file), "--json"]) == 0
    assert run(["explain", "river of the house", str(file), "--json", "--whole"]) == 0
    best, whole = objects(capsys)
    assert best["title"] == whole["title"] == "Notes"
    assert best["passage"] in whole["passage"]
    assert len(best["passage"]) < len(whole["passage"])
    scores = [
        explain(Encoder.load(), "river of the house", text, "Notes").scores.hybrid
        for text in (best["passage"], chapters[0][:500])
    ]
    assert best["scores"]["hybrid"] == pytest.approx(scores[0], abs=1e-5)
    assert scores[0] >= scores[1]


def test_the_best_row_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    texts = ["Bread is a book.", PASSAGE, "Das Haus"]
    file.write_text("".join(json.dumps({"id": t[:3], "text": t}) + "\n" for t in texts))
    assert run(["explain", PASSAGE, str(file), "--json"]) == 0
    (told,) = objects(capsys)
    assert told["passage"] in texts
    encoder = Encoder.load()
    best = max(texts, key=lambda text: explain(encoder, PASSAGE, text).scores.hybrid)
    assert told["passage"] == best
    assert told["source"] == best[:3]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    with Collection.open(folder, Encoder.load(), chunk=40, overlap=0) as collection:
        title = "the garden of the city and the house of the people of the world"
        collection.add([Document("a", PASSAGE, title), Document("b", "Bread </script><b>")])
        collection.keep_weights((1.0, 0.0, 2.0))
    return folder


def test_the_hits_of_an_index(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", QUERY, "--index", str(index), "--json", "-k", "5"]) == 0
    assert run(["explain", QUERY, "--index", str(index), "--json", "-k", "5"]) == 0
    found, *told = objects(capsys)
    assert len(told) == len(found["hits"]) == 2
    for hit, facts in zip(found["hits"], told, strict=True):
        assert facts["passage"] == hit["text"]
        assert facts["weights"] == {"dense": 1.0, "sparse": 0.0, "multi": 2.0}
        if hit["id"] == "a":  # a short chunk's stored vectors are shorter
            assert facts["scores"]["hybrid"] == pytest.approx(hit["score"], abs=5e-3)


def test_the_page_stands_alone(index: Path, tmp_path: Path) -> None:
    page, query = tmp_path / "why.html", "<b>river</b> </script>"
    assert run(["explain", query, "--index", str(index), "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert not re.search(r"(src|href|@import|url\()\s*=?[\"'(]?\s*(https?:|//|\.|/)", text)
    assert text.count("</script>") == 2  # its own
    assert text.count("<script") == 2
    assert "<b>" not in text.replace("&lt;b&gt;", "")
    found = re.search(r'id="explanations">(.*?)</script>', text)
    assert found is not None
    told = json.loads(found[1])
    assert [facts["query"] for facts in told] == [query] * 2
    assert "Bread </script><b>" in [facts["passage"] for facts in told]
    assert list(tmp_path.glob(".why*")) == []


@pytest.mark.skipif(shutil.which("node") is None, reason="asks node whether a script is whole")
def test_the_script_of_the_page_is_a_module(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    assert run(["explain", QUERY, "--index", str(index), "--html", str(page)]) == 0
    found = re.search(r'<script type="module">(.*)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    script = tmp_path / "script.mjs"
    script.write_text(found[1])
    subprocess.run(["node", "--check", str(script)], check=True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["q"], 2, "give a PASSAGE, a FILE or --index DIR"),
        (["q", "text", "--index", "x"], 2, "one of them alone"),
        ([" ", "text"], 2, "the query is empty"),
        (["q", "absent.md"], 1, "absent.md: cannot be read"),
        (["q", "."], 1, "is a folder"),
        (["q", " "], 1, "give a text to explain"),
    ],
)
def test_what_cannot_be_explained_is_told(
    words: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["explain", *words]) == code
    assert sentence in capsys.readouterr().err
