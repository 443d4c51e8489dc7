"""The command line: every command does its work, and what goes wrong is a sentence and a code."""

import errno
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pytest

from tercet import cli as cli_package
from tercet.cli import run, tercet
from tercet.cli.meter import Meter
from tercet.collection import Collection
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import StoreError
from tercet.records import Document, Section

DOCS = {
    "river.md": "# The river\n\nThe water of the river and the sea.",
    "night.txt": "A star in the winter night, light on the mountain.",
    "casa.txt": "La casa de la ciudad y el agua.",
    "rows.jsonl": '{"id": "bread", "text": "bread and fire", "kind": "food", "year": 2024}\n'
    '{"id": "horse", "text": "the horse of the king", "kind": "animal", "year": 1999}\n',
}


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON line of the output."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON lines of the output."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line in this process."""

    def call(*arguments: object, stdin: bytes = b"") -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return call


def one_sentence(result: Result) -> str:
    """The complaint of a failed command: one line, no traceback."""
    assert result.err.startswith("tercet: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    return result.err


def write_docs(folder: Path) -> Path:
    folder.mkdir()
    for name, text in DOCS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of a few documents."""
    return write_docs(tmp_path / "docs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """An index of DOCS that tests only read."""
    folder = tmp_path_factory.mktemp("cli")
    arguments = ["index", str(write_docs(folder / "docs")), "--to", str(folder / "index")]
    assert run([*arguments, "--model", str(tiny_checkpoint), "--backend", "exact"]) == 0
    return folder / "index"


# help


def commands(command: click.Command, path: str = "tercet") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), list(commands(tercet)))
def test_every_command_and_option_has_help(path: str, command: click.Command, cli: Cli) -> None:
    assert command.help
    assert f"  {path} " in command.help, "give examples"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[0]} has no help"
    shown = cli(*path.split()[1:], "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: {path}")
    if command is not tercet:
        short = command.get_short_help_str(70)
        assert not short.endswith("..."), "the first sentence of the help is too long for a list"


def test_help_is_quick() -> None:
    script = "import sys, tercet.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "click" in loaded
    assert not {"torch", "numpy", "scipy", "tokenizers", "rich", "usearch"} & set(loaded)


def test_choices_and_defaults_are_those_of_the_library(cli: Cli) -> None:
    from tercet.documents.chunks import Chunking
    from tercet.index import DEFAULT_CANDIDATES
    from tercet.index.store import Backend, Dtype

    shown = " ".join(cli("index", "--help").out.split())
    assert f"--dtype [{'|'.join(get_args(Dtype))}]" in shown
    assert f"--backend [{'|'.join(get_args(Backend))}]" in shown
    assert f"[default: {Chunking().chunk}]" in shown
    assert f"[default: {Chunking().overlap}," in shown
    assert f"[default: {DEFAULT_CANDIDATES}]" in " ".join(cli("search", "--help").out.split())


# wrong usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serch"], "no such command 'serch'"),
        (["index", "--to", "x"], "missing argument 'PATH...'"),
        (["index", "docs"], "missing option '--to'"),
        (["index", "docs", "--to", "x", "--colour"], "--colour"),
        (["index", "docs", "--to", "x", "--chunk", "5"], "chunk is 5 tokens"),
        (["index", "docs", "--to", "x", "--overlap", "400"], "overlap is 400 tokens"),
        (["index", "docs", "--to", "x", "--chunk", "0", "--late-chunking"], "needs chunks"),
        (["index", "docs", "--to", "x", "--heads", "dense,thick"], "unknown head 'thick'"),
        (["index", "docs", "--to", "x", "--dtype", "float64"], "'float64' is not one of"),
        (["search", "--index", "x", "--weights", "1,2", "q"], "not three numbers"),
        (["search", "--index", "x", "--weights", "1,nan,1", "q"], "must be 0, or 1e-6 to"),
        (["search", "--index", "x", "--filter", "kind", "q"], "key=value"),
        (["search", "--index", "x", "-k", "0", "q"], "not in the range"),
        (["search", "--index", "x", "how loud", "how big"], "several come on stdin"),
        (["search", "--index", "x", "--mode", "best", "q"], "'best' is not one of"),
        (["encode", "texts.doc", "--out", "x"], "ends in .txt or .jsonl"),
        (["encode", "texts.txt", "--out", "x", "--max-length", "2"], "not in the range"),
        (["data", "split", "rows", "--to", "x", "--share", "1"], "not in the range"),
    ],
)
def test_wrong_usage_is_code_2_and_a_sentence(cli: Cli, arguments: list[str], says: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert says in one_sentence(result)
    assert "--help`)" in result.err


def test_no_command_shows_the_help(cli: Cli) -> None:
    result = cli()
    assert result.code == 2
    assert "Search:" in result.err


# index and search


def test_index_follows_the_files(cli: Cli, docs: Path, tiny_checkpoint: Path) -> None:
    to = docs.parent / "index"
    first = cli("index", docs, "--to", to, "--model", tiny_checkpoint, "--json")
    assert (first.code, first.err) == (0, "")
    assert first.json["added"] == first.json["documents"] == 5
    (docs / "empty.txt").write_text(" \n")  # named, and no failure
    empty = cli("index", docs, "--to", to)
    assert (empty.code, "empty.txt" in one_sentence(empty)) == (0, True)
    (docs / "empty.txt").unlink()
    (docs / "night.txt").write_text("Another night without a star.")
    (docs / "casa.txt").unlink()
    (docs / "bad.txt").write_bytes(b"not \xff text")
    second = cli("index", docs, "--to", to, "--json")
    assert second.code == 3
    assert "bad.txt" in one_sentence(second)
    report = second.json
    assert (report["added"], report["updated"], report["removed"]) == (0, 1, 1)
    assert (report["unchanged"], report["documents"]) == (3, 4)
    assert [problem["failed"] for problem in report["skipped"]] == [True]
    words = cli("index", docs, "--to", to)
    assert words.code == 3
    assert "4 documents; 0 added, 0 updated" in words.out
    alone = cli("index", docs / "bad.txt", "--to", to)
    assert (alone.code, "bad.txt" in one_sentence(alone)) == (1, True)


def test_settings_are_those_asked_for(cli: Cli, docs: Path, tiny_checkpoint: Path) -> None:
    to = docs.parent / "index"
    options: list[object] = ["--heads", "dense,sparse", "--dtype", "int8", "--backend", "exact"]
    options += ["--chunk", "32", "--overlap", "4", "--late-chunking", "--multi-pool", "2"]
    options += ["--model", tiny_checkpoint]
    assert cli("index", docs, "--to", to, *options).code == 0
    settings = cli("info", to, "--json").json["settings"]
    assert settings == {
        "backend": "exact",
        "heads": ["dense", "sparse"],
        "dtype": "int8",
        "chunk": 32,
        "overlap": 4,
        "late_chunking": True,
        "multi_pool": 2,
    }
    refused = cli("index", docs, "--to", to, "--chunk", 64)
    assert refused.code == 1
    assert "chunk = 32" in one_sentence(refused)
    again = cli("index", "--rebuild", "--to", to, "--dtype", "float16", "--json")
    assert (again.code, again.json["documents"]) == (0, 5)
    assert cli("info", to, "--json").json["settings"]["dtype"] == "float16"


def test_search_prints_every_part(cli: Cli, made: Path) -> None:
    result = cli("search", "--index", made, "water of the river", "-k", 3, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["query"] == "water of the river"
    hits = result.json["hits"]
    assert len(hits) == 3
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    for hit in hits:  # the weights of the tiny model
        whole = 1.0 * hit["dense"] + 0.5 * hit["sparse"] + 0.8 * hit["multi"]
        assert hit["score"] == pytest.approx(whole, abs=1e-4)
    words = cli("search", "--index", made, "water of the river", "-k", 3)
    for rank, hit in enumerate(hits, 1):
        assert f"{rank:2}. {hit['score']:.3f}  (dense {hit['dense']:.3f}, " in words.out
    lines = cli("search", "--index", made, "bread and fire").out.splitlines()
    (row,) = [line for line in lines if ")  bread  " in line]
    assert row.endswith("rows.jsonl#1")  # the file and line of what has a name of its own


def test_search_shows_where_a_hit_stands(cli: Cli, tmp_path: Path, tiny_checkpoint: Path) -> None:
    document = Document(
        "law",
        "Part one\nThe court\nThe judge of the court.",
        "The law",
        "law.pdf",
        outline=(Section(0, 0, "12"), Section(0, 1, "Part one \x1b[31m"), Section(9, 2, "x" * 999)),
    )
    with Collection.open(tmp_path / "index", Encoder.load(tiny_checkpoint)) as collection:
        collection.add([document])
    ask = ["search", "--index", tmp_path / "index", "judge", "--model", tiny_checkpoint]
    first, *lines = cli(*ask).out.splitlines()
    assert first.endswith("  law.pdf  page 12")
    path = f"    Part one \\x1b[31m › {'x' * 999}"
    assert [line[:30] for line in lines[:-1]] == ["    The law", path[:30]]
    assert lines[1].endswith("x…")
    assert len(lines[1]) < 260
    (hit,) = cli(*ask, "--json").json["hits"]
    assert (hit["page"], hit["headings"]) == (12, ["Part one \x1b[31m", "x" * 256])


def test_search_shows_the_best_sentence_first_and_matched_words_bold(
    cli: Cli, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["search", "--index", made, "water of the river", "-k", 5]
    hits = cli(*ask, "--json").json["hits"]
    styled: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("click.echo", lambda text="", nl=True, **_: styled.append(text + "\n" * nl))
        cli(*ask)
    shown = [line for line in "".join(styled).splitlines() if line.startswith("    ")]
    assert any(hit["marks"] for hit in hits)
    for hit in hits:
        text, start = hit["text"], hit["sentence"]["start"]
        line = ("… " if text[:start].strip() else "") + " ".join(text[start:].split())
        (row,) = [row for row in shown if click.unstyle(row)[4:].startswith(line[:200])]
        plain = click.unstyle(row)[4:]
        assert plain == line or (plain.endswith("…") and line.startswith(plain[:-1]))
        assert len(plain) <= 243
        marked = [text[mark["start"] : mark["end"]] for mark in hit["marks"]]
        bold = re.findall("\x1b\\[1m(.*?)\x1b", row)
        behind = [
            word for word, mark in zip(marked, hit["marks"], strict=True) if mark["start"] >= start
        ]
        assert bold == behind[: len(bold)]
        assert bool(bold) == bool(behind) or len(plain) > 240


def test_weights_and_mode_count(cli: Cli, made: Path) -> None:
    ask = ["search", "--index", made, "the horse", "--json", "-k", 5]
    dense = cli(*ask, "--mode", "dense").json["hits"]
    alone = cli(*ask, "--weights", "1,0,0", "--candidates", 0).json["hits"]
    assert [hit["id"] for hit in dense] == [hit["id"] for hit in alone]
    assert [hit["score"] for hit in alone] == pytest.approx([hit["dense"] for hit in alone])


def test_filters(cli: Cli, made: Path) -> None:
    ask = ["search", "--index", made, "the horse", "--json"]

    def found(*filters: str) -> set[str]:
        options = [part for given in filters for part in ("--filter", given)]
        return {hit["metadata"].get("kind", "") for hit in cli(*ask, *options).json["hits"]}

    assert found() == {"", "food", "animal"}
    assert found("kind=food") == {"food"}
    assert found("year=1999") == {"animal"}
    assert found("year=1999", "year=2024") == {"food", "animal"}
    assert found("year=1999", "kind=food") == set()
    unknown = cli(*ask, "--filter", "king=animal", "--filter", "year=1999")
    assert unknown.code == 1
    assert "no document has 'king'" in one_sentence(unknown)
    assert "the keys are kind, language, path, suffix, year" in unknown.err


def test_documents_are_listed_and_removed(cli: Cli, made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "index"))
    listed = cli("ls", copy, "--json").lines
    assert [document["id"] for document in listed][-2:] == ["bread", "horse"]
    assert listed[-2]["metadata"]["kind"] == "food"
    words = cli("ls", copy).out.splitlines()
    assert len(words) == len(listed) == 5
    assert [line.split("\t")[0] for line in words] == [document["id"] for document in listed]
    assert any("\tThe river\t" in line for line in words)
    removed = cli("rm", copy, "bread", "bred", "--json")
    assert (removed.code, removed.json["removed"], removed.json["missing"]) == (1, 1, ["bred"])
    assert "'bred'" in one_sentence(removed)
    again = cli("rm", copy, "horse")
    assert (again.code, again.out) == (0, f"{copy}: 3 documents; 1 removed\n")
    assert {line.split("\t")[0] for line in cli("ls", copy).out.splitlines()} == {
        document["id"] for document in listed
    } - {"bread", "horse"}


def test_questions_from_stdin(cli: Cli, made: Path) -> None:
    questions = [f"the {word} of the house" for word in ("river", "star", "king")]
    piped = cli(
        "search", "--index", made, "--json", stdin="\n\n".join(questions).encode() + b"\n"
    ).lines
    assert [line["query"] for line in piped] == questions
    for question, line in zip(questions, piped, strict=True):  # words of one question, unquoted
        given = cli("search", "--index", made, "--json", *question.split()).json
        assert given == {**line, "hits": given["hits"]}
        assert [hit["id"] for hit in given["hits"]] == [hit["id"] for hit in line["hits"]]
    odd = cli("search", "--index", made, "the \udcff river", "--json")  # escaped, no error
    assert odd.json["query"] == "the \udcff river"
    bad = cli("search", "--index", made, stdin=b"good\nb\xffd\n")
    assert bad.code == 1
    assert "line 2 of stdin is not UTF-8" in one_sentence(bad)


# failures


def test_failures_are_code_1_and_a_sentence(
    cli: Cli, made: Path, docs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    empty = tmp_path / "empty"
    empty.mkdir()
    texts = tmp_path / "texts.txt"
    texts.write_bytes(b"one\nb\xffd\n")
    cases = [
        (["search", "--index", tmp_path / "none", "q"], "holds no collection"),
        (["search", "--index", made, " "], "is empty"),
        (["index", docs, "--to", docs], "other files"),
        (["index", docs, "--to", tmp_path / "a", "--model", tmp_path / "none"], "no such folder"),
        (["index", docs, "--to", tmp_path / "b", "--model", broken], "model.safetensors"),
        (["encode", tmp_path / "none.txt", "--out", tmp_path / "c"], "none.txt: no such file"),
        (["encode", texts, "--out", tmp_path / "d", "--model", tiny_checkpoint], "texts.txt:2"),
        (["encode", texts, "--out", empty, "--model", tiny_checkpoint], "exists already"),
        (["info", tmp_path / "none"], "no such folder"),
        (["ls", tmp_path / "none"], "holds no collection"),
        (["rm", tmp_path / "none", "a"], "holds no collection"),
        (["index", tmp_path / "typo", "--to", tmp_path / "new"], "typo: no such file or folder"),
        (
            ["index", docs, "--to", tmp_path / "new", "--chunk", 600, "--model", tiny_checkpoint],
            "reads 510",
        ),
        (["index", empty, "--to", tmp_path / "f", "--model", tiny_checkpoint], "no file that can"),
        (["data", "split", empty, "--to", tmp_path / "e"], "no .jsonl"),
    ]
    for arguments, says in cases:
        result = cli(*arguments)
        assert result.code == 1, (arguments, result)
        assert says in one_sentence(result), arguments
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "new").exists()


def test_another_model_is_refused(
    cli: Cli, docs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    facts = json.loads((other / "tercet.json").read_text())
    (other / "tercet.json").write_text(json.dumps({**facts, "query_prefix": "other: "}))
    to = tmp_path / "index"
    assert cli("index", docs, "--to", to, "--model", tiny_checkpoint).code == 0
    refused = cli("search", "--index", to, "--model", other, "river")
    assert refused.code == 1
    assert "vectors of another model" in one_sentence(refused)
    assert cli("index", "--to", to, "--model", other, "--rebuild").code == 0
    assert cli("search", "--index", to, "--model", other, "river").code == 0


# encode, info, data


def test_encode_writes_what_the_encoder_gives(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    texts = ["the river", "", "la casa de la ciudad", "水山河" * 30]
    (tmp_path / "texts.txt").write_text("\ufeff" + "\r\n".join(texts), newline="")
    options: list[object] = ["--max-length", 20, "--model", tiny_checkpoint, "--json"]
    result = cli("encode", tmp_path / "texts.txt", "--out", tmp_path / "vectors", *options)
    assert result.code == 0
    assert "1 of 4 texts were cut to 20 tokens" in one_sentence(result)
    want: Any = Encoder.load(tiny_checkpoint).encode(texts, max_length=20)
    got: Any = Embeddings.load(tmp_path / "vectors")
    np.testing.assert_allclose(got.dense, want.dense, atol=1e-5)
    np.testing.assert_array_equal(got.offsets, want.offsets)
    np.testing.assert_allclose(got.sparse.toarray(), want.sparse.toarray(), atol=1e-5)
    assert result.json["tokens"] == int(want.lengths.sum())
    facts = cli("info", tmp_path / "vectors", "--json").json
    assert (facts["kind"], facts["texts"], facts["truncated"]) == ("embeddings", 4, 1)
    assert facts["model"]["fingerprint"] == want.fingerprint
    rows = [{"title": "The sea", "text": "a ship"}, {"text": "a ship"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options += ["--heads", "dense", "--role", "query"]
    assert cli("encode", tmp_path / "rows.jsonl", "--out", tmp_path / "v", *options).code == 0
    want = Encoder.load(tiny_checkpoint).encode(["The sea\na ship", "a ship"], role="query")
    got = Embeddings.load(tmp_path / "v")
    assert got.heads == ("dense",)
    np.testing.assert_allclose(got.dense, want.dense, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "rows.jsonl:2: not readable as JSON lines"),
        ("[" * 100_000, "rows.jsonl:2: not readable as JSON lines"),
        ('["a"]', "rows.jsonl:2: not readable as JSON lines: expected a JSON object"),
        ('{"txt": ""}', "rows.jsonl:2: no field named text, contents, body"),
        ('{"text": "a", "title": ["b"]}', "rows.jsonl:2: 'title' is a list"),
    ],
)
def test_a_bad_row_is_named(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' + line + "\n")
    out = tmp_path / "v"
    result = cli("encode", tmp_path / "rows.jsonl", "--out", out, "--model", tiny_checkpoint)
    assert result.code == 1
    assert says in one_sentence(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_info(cli: Cli, made: Path, tiny_checkpoint: Path) -> None:
    model = cli("info", tiny_checkpoint, "--json").json
    assert (model["kind"], model["heads"]) == ("model", ["dense", "sparse", "multi"])
    assert model["weights"] == {"dense": 1.0, "sparse": 0.5, "multi": 0.8}
    index = cli("info", made, "--json").json
    assert (index["kind"], index["documents"]) == ("index", 5)
    assert index["model"]["fingerprint"] == model["fingerprint"]
    assert index["weights"] == model["weights"]
    assert index["filters"] == {"kind": 2, "language": 3, "path": 5, "suffix": 5, "year": 2}
    words = cli("info", made)
    assert words.code == 0
    assert model["fingerprint"] in words.out


# a process of its own


def popen(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Starts a command line in another process."""
    command = [sys.executable, "-c", "from tercet.cli import main; main()", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def test_ctrl_c_and_readers_beside_a_writer(cli: Cli, made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "index"))
    with popen("search", "--index", copy, "--json", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("the river\n" * 64)  # as many as are encoded together
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["query"] == "the river"
        with Collection.open(copy):
            assert cli("search", "--index", copy, "river").code == 0
            second = cli("index", copy.parent, "--to", copy)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert second.code == 1
    assert str(os.getpid()) in one_sentence(second)
    assert process.returncode == 130
    assert complaint.strip() == "tercet: interrupted"


def test_a_reader_that_goes_is_no_error(made: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("the river of the king\n" * 300)
    with (
        questions.open() as stdin,
        popen("search", "--index", made, "--json", stdin=stdin) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == ""
    assert process.returncode == 1


def test_a_full_disk_is_a_sentence(tiny_checkpoint: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the disk

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    (tmp_path / "texts.txt").write_text("the river and the sea\n" * 3000)
    out = tmp_path / "vectors"
    arguments = ["encode", tmp_path / "texts.txt", "--out", out, "--model", tiny_checkpoint]
    with popen(*arguments, preexec_fn=limit) as process:
        _, complaint = process.communicate()
    assert process.returncode == 1
    assert complaint.startswith("tercet: ")
    assert complaint.count("\n") == 1
    assert "File too large" in complaint
    assert os.listdir(tmp_path) == ["texts.txt"]


def test_a_failed_encode_says_what_is_kept_and_goes_on(
    cli: Cli, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("the river\n" * 1100)
    arguments = ["encode", tmp_path / "texts.txt", "--out", tmp_path / "v"]
    arguments += ["--model", tiny_checkpoint]
    encode = Encoder.encode

    def failing(self: Encoder, texts: list[str], **options: Any) -> Embeddings:
        if len(texts) < 1024:
            raise OSError(28, "No space left on device")
        return encode(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", failing)
        failed = cli(*arguments)
    assert failed.code == 1
    assert f"is kept in {tmp_path / 'v'}.partial: the same command goes on" in failed.err
    assert "No space left" in failed.err
    assert cli(*arguments).code == 0
    assert sorted(os.listdir(tmp_path)) == ["texts.txt", "v"]


# progress


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_sees_throughput_and_a_pipe_no_bar(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    note = "tercet: skipped [x]: for a reason"
    with Meter("encoding") as meter:
        meter.show(0, 10)
        meter.note(note)
        meter.show(5, 10, count=5000, unit="tokens")
    if terminal:
        assert all(part in shown.getvalue() for part in ("encoding", "50%", "tokens/s", note))
    else:
        assert shown.getvalue() == f"{note}\n"


# what a terminal would obey

EVIL = "\x1b[31mred\x1b]0;title\x07 \x9b2J\x7f\r\u202e\u2066 gone"


def test_documents_command_no_terminal(cli: Cli, docs: Path, tiny_checkpoint: Path) -> None:
    row = {"id": f"id {EVIL}", "title": f"title {EVIL}\nmore", "text": f"the river {EVIL}"}
    (docs / "rows.jsonl").write_text(json.dumps(row))
    (docs / f"{EVIL.replace('/', '')}.txt").write_bytes(b"not \xff text")
    to = docs.parent / "index"
    indexed = cli("index", docs, "--to", to, "--model", tiny_checkpoint)
    shown = cli("search", "--index", to, f"river {EVIL}", "night")
    refused = cli("search", "--index", EVIL, "q")
    told = cli("info", EVIL)
    usage = cli(EVIL)
    for result in (indexed, shown, refused, told, usage):
        assert not set(result.out + result.err) & set("\x1b\x07\x9b\x7f\r\u202e\u2066"), result
    assert "\\x1b[31mred" in shown.out
    as_json = cli("search", "--index", to, "river", "--json")
    assert not set(as_json.out) & set("\x1b\x07\x9b\x7f\r")
    assert "\x9b2J\x7f" in next(h for h in as_json.json["hits"] if "red" in h["id"])["id"]


def test_commands_print_through_one_function() -> None:
    for path in Path(cli_package.__file__).parent.glob("*.py"):
        text = path.read_text()
        assert "print(" not in text.replace("console.print(message", ""), path
        assert path.name == "options.py" or "click.echo" not in text, path


def test_a_bar_shows_any_label(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with Meter(f"[/bold] {EVIL}") as meter:
        meter.show(1, 2)
        meter.note(f"[/red] a\nb {EVIL}")
    assert "[/red] a b \\x1b[31mred" in shown.getvalue()
    assert "\x1b]0;" not in shown.getvalue()


# what the system has no more of


def fail_with(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    return fail


SHORTAGES: list[tuple[BaseException, str]] = [
    (MemoryError(), "out of memory"),
    (
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "x.npy"),
        "x.npy: Cannot allocate memory: close",
    ),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "out of memory"),
    (RuntimeError("CUDA out of memory. Tried"), "out of memory"),
    (RuntimeError("can't start new thread"), "out of memory"),
    (SystemError("error return without exception set"), "out of memory"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.txt"), "a.txt.*ulimit -n"),
    (Exception("IO error: Too many open files (os error 24)"), "ulimit -n"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out"), "out: No space left.*free some"),
    (sqlite3.OperationalError("database or disk is full"), "free some"),
]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("error", "says"), SHORTAGES, ids=lambda value: repr(value)[:40])
def test_what_the_system_lacks_is_a_sentence(
    error: BaseException, says: str, wrapped: bool, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrapped:  # as some libraries do
        outer = ValueError("no such thing")
        outer.__cause__, error = error, outer
    monkeypatch.setattr(sys.modules["tercet.cli.search"], "_model_facts", fail_with(error))
    result = cli("info")
    assert result.code == 1
    assert re.search(says, one_sentence(result))


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "ulimit -v"), (errno.EACCES, "rebuild it")],
)
def test_advice_on_an_error_is_for_what_it_came_from(
    number: int, says: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StoreError("rows.bin cannot be read: rebuild it")
    error.__cause__ = OSError(number, os.strerror(number), "rows.bin")
    monkeypatch.setattr(sys.modules["tercet.cli.search"], "_model_facts", fail_with(error))
    result = cli("info")
    assert (result.code, "rows.bin" in result.err, says in one_sentence(result)) == (1, True, True)


def test_a_defect_shows_itself(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    defect = KeyError("allocation")
    defect.__context__ = FileNotFoundError(errno.ENOENT, "no such file", "x")
    monkeypatch.setattr(sys.modules["tercet.cli.search"], "_model_facts", fail_with(defect))
    with pytest.raises(KeyError, match="allocation"):
        cli("info")


# Ctrl-C


@pytest.mark.parametrize("module", ["click", "torch"])
@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
def test_ctrl_c_while_modules_load(module: str, source: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "tercet", "info"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (130, "tercet: interrupted")


LOST = """
import os, signal, sys, weakref
from tercet.__main__ import main
import tercet.cli

class Thing: pass

def info(*_):
    thing = Thing()
    keep = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing  # in its callback, Ctrl-C raises where nobody can catch it
    signal.sigtimedwait([signal.SIGTERM], 20)

sys.modules["tercet.cli.search"]._model_facts = info
sys.argv[1:] = ["info"]
main()
"""


SWALLOWED = """
import os, signal, sys, time
from tercet.__main__ import main
import tercet.cli

def info(*_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    except KeyboardInterrupt:
        pass  # as code in C clears it
    raise ValueError("could not determine the shape")

sys.modules["tercet.cli.search"]._model_facts = info
sys.argv[1:] = ["info"]
main()
"""


LOADING = """
import os, signal, sys, weakref
from tercet.__main__ import main

class Loader:
    def find_spec(self, *_):
        sys.meta_path.remove(self)
        thing = Loader()
        self.keep = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del thing
        signal.sigtimedwait([signal.SIGTERM], 20)

sys.meta_path.insert(0, Loader())
main()
"""
ENDING = """
import os, signal, sys
from tercet.__main__ import main

class Thing:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)

thing = Thing()
sys.argv[1:] = ["--version"]
main()
"""


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        (LOST, (130, "tercet: interrupted")),
        (SWALLOWED, (130, "tercet: interrupted")),
        (LOADING, (130, "tercet: interrupted")),
        (ENDING, (0, "")),
    ],
)
def test_ctrl_c_in_a_callback_and_at_the_end(source: str, ends: tuple[int, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == ends


def test_ctrl_c_that_a_library_made_another_error_of(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ImportError("it cannot be imported")
    error.__context__ = KeyboardInterrupt()
    monkeypatch.setattr(sys.modules["tercet.cli.search"], "_model_facts", fail_with(error))
    result = cli("info")
    assert (result.code, result.err) == (130, "tercet: interrupted\n")


KEPT = [
    ("index t.txt --to x", "collection.Collection.open", "documents indexed so far are kept in x"),
    ("index --rebuild --to x", "collection.Collection.open", "x is as it was: the same command"),
    ("encode t.txt --out x", "bulk.EncodeJob.encode", "nothing is kept of x"),
    ("encode t.txt --out x --workers 2", "curate.shards.run", "0 whole parts are kept in x.parts"),
    ("evaluate pairs:r.jsonl --cache c", "evaluate.runner.evaluate", "encoded is kept in c"),
    ("train unified --rows r.jsonl --to x", "train.trainer.train", "nothing is kept: there was no"),
    ("mine r.jsonl --to x.jsonl", "mining.miner.mine", "nothing is kept of x.jsonl"),
    ("data teach r.jsonl --model m --to x", "train.teacher.teach", "is kept beside x"),
    ("data filter r.jsonl --to x.jsonl", "curate.shards.run", "0 whole parts are kept"),
]


@pytest.mark.parametrize(("line", "called", "says"), KEPT)
def test_ctrl_c_says_what_is_kept(
    line: str, called: str, says: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"tercet.{called}", fail_with(KeyboardInterrupt()))
    monkeypatch.setattr("tercet.encoder.Encoder.load", lambda *_, **options: None)
    (tmp_path / "t.txt").write_text("text")
    result = cli(*line.split())
    assert result.code == 130
    assert "tercet: interrupted: " in result.err
    assert says in result.err


@pytest.mark.parametrize("name", ["", ".hidden.txt", "picture.png"])
def test_a_folder_without_a_readable_file_makes_no_index(
    name: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    if name:
        (tmp_path / "docs" / name).write_text("text")
    result = cli("index", tmp_path / "docs", "--to", tmp_path / "index")
    assert (result.code, "nothing to index" in one_sentence(result)) == (1, True)
    assert os.listdir(tmp_path) == ["docs"]
