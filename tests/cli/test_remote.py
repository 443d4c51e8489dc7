"""A question to a running server: as from its folder, nothing slow loaded, errors in words."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tercet import Collection, Document, Encoder
from tercet.cli import run
from tercet.records import Hit, Span

KEY = "key-of-a-test"
Answer = tuple[int, Any]


@contextmanager
def serving(answer: Callable[[str, dict[str, Any], str], Answer]) -> Iterator[str]:
    """A server on 127.0.0.1 with answers to (path, body, Authorization); its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = (self.path, json.loads(body or b"{}"), self.headers.get("Authorization", ""))
            status, content = answer(*given)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("remote") / "index"
    texts = {"river": "The water of the river.", "star": "A star E14 in the winter night."}
    documents = [
        Document(name, text, name.title(), language="en", metadata={"year": year})
        for year, (name, text) in enumerate(texts.items())
    ]
    with Collection.open(folder, Encoder.load(str(tiny_checkpoint)), backend="exact") as collection:
        collection.add(documents)
    return folder


@contextmanager
def serving_folder(folder: Path, min_score: float | None = None) -> Iterator[str]:
    """A server with the answers of `tercet serve` as its contract has them; its address."""
    with (
        Collection.open(folder, read_only=True) as collection,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TERCET_KEY", KEY)
        weights = asdict(collection.encoder.weights)

        def answer(path: str, body: dict[str, Any], key: str) -> Answer:
            assert key == f"Bearer {KEY}"
            if path == "/base/info":
                model = {"weights": weights, "min_score": min_score}
                return 200, {"model": model, "index": {"documents": 2, "weights": weights}}
            assert path == "/base/search"
            query = body.pop("query")
            if body["weights"]:
                body["weights"] = tuple(body["weights"].values())
            hits = collection.search([query], highlight=True, **body)[0]
            return 200, {"hits": [asdict(hit) | {"newer": 1} for hit in hits], "took_ms": 1.0}

        with serving(answer) as url:
            yield f"{url}/base"


def test_a_server_gives_what_its_folder_gives(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_folder(made) as url:
        for options in (
            ["error E14"], ["the", "river", "--json"], ["star", "-k", "1", "--mode", "dense"],
            ["star", "--filter", "year=0", "--weights", "1,0,0.5", "--chunks", "--json"],
            ["star", "--candidates", "1", "--min-score", "100"],
        ):  # fmt: skip
            said = []
            for index in (str(made), f"{url}/"):
                assert run(["search", "--index", index, *options]) == 0
                said.append(capsys.readouterr().out)
            assert said[0] == said[1]
            assert said[0]


@pytest.mark.parametrize("learned", [0.0, 100.0])
def test_a_best_hit_below_what_the_model_learned_is_no_answer(
    learned: float,
    made: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Encoder, "min_score", learned, raising=False)
    monkeypatch.setattr(Collection, "min_score", property(lambda self: learned))
    with serving_folder(made, learned) as url:
        for index in (str(made), url):
            shown = []
            for options in ([], ["--min-score", "none"], ["--mode", "dense"]):
                assert run(["search", "--index", index, "star", *options]) == 0
                shown.append(capsys.readouterr().out)
            assert ("--min-score none shows the nearest" in shown[0]) == (learned > 1)
            assert ("1. " in shown[0]) == (learned < 1)
            assert all("1. " in text for text in shown[1:])
            assert run(["search", "--index", index, "star", "--json"]) == 0
            assert bool(json.loads(capsys.readouterr().out)["hits"]) == (learned < 1)


def test_a_terminal_is_told_what_it_asks(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_folder(made) as url:
        for index in (str(made), url):
            terminal = io.TextIOWrapper(io.BytesIO(b"river\n\nstar\n"))
            monkeypatch.setattr(terminal, "isatty", lambda: True)
            monkeypatch.setattr(sys, "stdin", terminal)
            assert run(["search", "--index", index, "-k", "1"]) == 0
            out, err = capsys.readouterr()
            assert err.startswith(f"{index}: 2 documents; a question a line, Ctrl-D ends\n")
            assert err.count("question> ") == 4
            assert [line[:3] for line in out.splitlines() if line[1:3] == "1."] == [" 1."] * 2


@pytest.mark.parametrize(
    ("start", "shown"),
    [(0, "The sea. A star is here. End."), (9, "… A star is here. End."), (-1, "The sea. A star")],
)
def test_a_hit_is_shown_from_its_best_sentence_on(
    start: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hit = Hit("a", 1.0, None, None, None, "The sea. A star\tis  here.\nEnd.", Span(0, 30))
    sentence = None if start < 0 else {"start": start, "end": start + 8}
    answer = {"hits": [asdict(hit) | {"sentence": sentence}, asdict(hit)]}
    with serving(lambda *_: (200, answer)) as url:
        assert run(["search", "--index", url, "--min-score", "none", "star"]) == 0
    assert f"\n    {shown}" in capsys.readouterr().out


ERROR = {"error": {"message": "weights: three numbers", "code": "invalid_request"}}


@pytest.mark.parametrize(
    ("status", "content", "key", "said"),
    [
        (401, ERROR, "", "wants a key: put its key into TERCET_KEY"),
        (401, ERROR, "other", "the key in TERCET_KEY is not one of its"),
        (422, ERROR, "", "answers 422: weights: three numbers"),
        (429, ERROR, "", "answers 429"),
        (404, b"<html>not here</html>", "", "is no Tercet server: it answers POST /search with 40"),
        (200, {"took_ms": 1}, "", "is no Tercet server"),
        (200, [], "", "is no Tercet server"),
        (200, {"hits": [{"id": "a"}]}, "", "is no Tercet server"),
    ],
)
def test_what_a_server_refuses_is_a_sentence(
    status: int,
    content: Any,
    key: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERCET_KEY", key)
    with serving(lambda *_: (status, content)) as url:
        assert run(["search", "--index", url, "--min-score", "none", "star"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert url in err


def test_a_server_that_is_not_there_or_has_no_index_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERCET_KEY", raising=False)
    with serving(lambda *_: (200, {"model": {}, "index": None})) as url:
        assert run(["search", "--index", url, "star"]) == 1
        assert f"{url} has no index: start it with" in capsys.readouterr().err
    with serving(lambda *_: (200, {"model": {}, "index": {}})) as url:
        assert run(["search", "--index", url, "star"]) == 1
        assert f"{url} is no Tercet server" in capsys.readouterr().err
    for odd in (f"{url}/ä", f"http://{'a' * 64}.test"):
        assert run(["search", "--index", odd, "star"]) == 1
        assert f"no server answers at {odd}" in capsys.readouterr().err
    assert run(["search", "--index", url, "star"]) == 1
    assert f"no server answers at {url} (Connection refused)" in capsys.readouterr().err
    for wrong in ("http://", "http://a b", "http://user:pass@host", "http://host?x=1"):
        assert run(["search", "--index", wrong, "star"]) == 1
        err = capsys.readouterr().err
        assert "the address of a server is like http://localhost:8080" in err
        assert "pass" not in err.replace("password", "")
    for scheme in ("ftp", "HTTP+unix", "file", "qdrantx"):
        assert run(["search", "--index", f"{scheme}://host/x", "star"]) == 1
        err = capsys.readouterr().err
        assert "give a folder, or the address of a collection" in err
        assert "asks servers, too, as http://localhost:8080" in err
        assert f"{scheme}://host/x" in err
    assert run(["search", "--index", url, "--model", "m", "star"]) == 2
    assert "a server has its own model" in capsys.readouterr().err
    monkeypatch.setenv("TERCET_KEY", "a\nb")
    assert run(["search", "--index", url, "star"]) == 1
    assert "TERCET_KEY holds no key" in capsys.readouterr().err


def test_a_server_is_asked_without_what_is_slow_to_load() -> None:
    with serving(lambda *_: (200, {"hits": []})) as url:
        code = (
            "import sys; from tercet.cli import run; "
            f"code = run(['search', '--index', '{url}', '--min-score', 'none', 'star']); "
            "heavy = {'torch', 'numpy', 'httpx', 'sqlite3', 'asyncio'} & set(sys.modules); "
            "sys.exit(f'loads {heavy}' if code or heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "   no hits\n"
