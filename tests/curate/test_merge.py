"""Of every command: parts made by hand and joined are what a run at once makes."""

import json
from pathlib import Path

import pytest

from tercet.cli import run

ROWS = [
    {"query": f"question {n % 40}", "pos": [f"The answer to question number {n % 40} is long."]}
    for n in range(60)
]
SOURCES = {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS)}
SOURCES |= {
    f"docs/{n}.md": f"# Title {n}\n\n## Section {n}\n\n" + f"Text of section {n}. " * 9
    for n in range(7)
}
COMMANDS = {
    "pairs": ("pairs", "docs", "--lang", "en"),
    "filter": ("filter", "rows.jsonl", "--without", "language,near"),
    "mix": ("mix", "rows.jsonl=0.5", "--lengths", "20,50"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_parts_that_are_joined_are_the_whole(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in SOURCES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)

    def call(*arguments: str) -> str:
        assert run(["data", *arguments]) == 0
        return capsys.readouterr().out

    def written(target: str) -> list[bytes]:
        found = sorted(Path(target).iterdir()) if Path(target).is_dir() else [Path(target)]
        return [path.read_bytes() for path in found if path.name != "mix.json"]

    given = COMMANDS[command]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    target = "rows.jsonl" if command != "mix" else "mixed"
    whole = call(*given, "--to", f"a/{target}", "--workers", "1", "--json")
    for part in ("3/3", "1/3", "2/3"):
        told = json.loads(call(*given, "--to", f"b/{target}", "--shard", part, "--json"))
        assert Path(told["folder"]).is_dir()
    joined = call("merge", f"b/{target}", "--json")
    assert written(f"b/{target}") == written(f"a/{target}")
    assert sum(map(len, written(f"a/{target}"))) > 100
    assert json.loads(joined.replace("b/", "a/")) == json.loads(whole)
    assert not Path(f"b/{target}.parts").exists()
