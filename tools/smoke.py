"""Runs every entry point of an installed Tercet as a stranger would, without network.

`python tools/smoke.py BIN`, where BIN is the bin folder of the environment that the wheel was
installed in. The commands run in an empty folder, with an empty home, and with every connection
that leaves the machine refused; each must exit 0 and print what it should. Uses the standard
library only.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "docs"
FOLDERS = ("food", "history")  # of the example documents
QUESTION = "Welche Insel brach 1883 aus?"

API = """
from importlib.resources import files
from pathlib import Path
import tercet
assert "site-packages" in tercet.__file__, tercet.__file__
from tercet import Collection, Encoder
from tercet.scores import dense_scores
encoder = Encoder.load()
vectors = encoder.encode(["a cat", "eine Katze"])
assert vectors.heads == ("dense", "sparse", "multi"), vectors.heads
assert dense_scores(vectors, vectors).shape == (2, 2)
with Collection.open("api-index", encoder) as collection:
    collection.add([Path("docs")])
    assert len(collection.search(["cat"], k=1)[0]) == 1
print("ok")
"""


class Environment:
    """An installed Tercet and an empty place to run it."""

    def __init__(self, binaries: Path, place: Path) -> None:
        self.binaries, self.place = binaries.resolve(), place / "here"
        block = place / "block"
        for folder in (self.place, block, place / "home"):
            folder.mkdir()
        shutil.copy(ROOT / "tests" / "offline.py", block / "sitecustomize.py")
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        home = {"HOME": str(place / "home"), "HF_HOME": str(place / "home" / "hf")}
        self.variables = {**kept, **home, "PYTHONPATH": str(block)}

    def run(self, name: str, *arguments: str, stdin: str = "") -> str:
        """What a program prints; exits with its complaint where it fails."""
        start = time.monotonic()
        done = subprocess.run(
            [str(self.binaries / name), *arguments],
            cwd=self.place,
            env=self.variables,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = " ".join([name, *(part if len(part) < 60 else "..." for part in arguments)])
        print(f"  {time.monotonic() - start:5.1f} s  {shown}", flush=True)
        if done.returncode:
            sys.exit(f"smoke: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def check(condition: bool, what: str, got: Any) -> None:
    """Exits where something is not as it should be."""
    if not condition:
        sys.exit(f"smoke: {what}; got {got}")


def main() -> None:
    """Runs everything; exits 1 at the first failure."""
    with tempfile.TemporaryDirectory() as folder:
        place = Environment(Path(sys.argv[1]), Path(folder))
        blocked = "import socket\ntry: socket.getaddrinfo('example.org', 80)\n"
        blocked += "except RuntimeError: print('refused')"
        check("refused" in place.run("python", "-c", blocked), "the network is not blocked", None)
        check("tercet 0." in place.run("tercet", "--version"), "no version", None)
        helps(place, [])
        for part in FOLDERS:
            shutil.copytree(EXAMPLES / part, place.place / "docs" / part)
        commands(place)
        check(place.run("python", "-c", API).endswith("ok\n"), "the library fails", None)
    print("smoke: every entry point works")


def helps(place: Environment, path: list[str]) -> None:
    """Asks every command for help, down the tree."""
    lines = place.run("tercet", *path, "--help").splitlines()
    if "Commands:" in lines:
        for line in lines[lines.index("Commands:") + 1 :]:
            if line.strip():
                helps(place, [*path, line.split()[0]])


def commands(place: Environment) -> None:
    """Every command on the example documents, with the model that comes with the package."""
    model = json.loads(place.run("tercet", "info", "--json"))
    check(model["heads"] == ["dense", "sparse", "multi"], "a bundled model lacks heads", model)
    check(model["runs"]["backend"] == "onnxruntime", "the base installation has torch", model)
    report = json.loads(place.run("tercet", "index", "docs", "--to", "index", "--json"))
    check(report["added"] > 10 and not report["skipped"], "documents are missing", report)
    again = json.loads(place.run("tercet", "index", "docs", "--to", "index", "--json"))
    check(again["unchanged"] == report["added"], "unchanged documents were read anew", again)
    stored = json.loads(place.run("tercet", "info", "index", "--json"))
    check(stored["documents"] == report["added"], "the index lost documents", stored)
    hits = json.loads(place.run("tercet", "search", "--index", "index", "--json", QUESTION))["hits"]
    check(len(hits) == 10, "ten hits were asked for", hits)
    lines = place.run("tercet", "search", "--index", "index", stdin=f"{QUESTION}\nkimchi\n")
    check(lines.count(" 1. ") == 2, "two questions were asked", lines)
    (place.place / "texts.txt").write_text("a cat\neine Katze\n", encoding="utf-8")
    encoded = json.loads(place.run("tercet", "encode", "texts.txt", "--out", "v", "--json"))
    check(encoded["texts"] == 2, "two texts were given", encoded)
    place.run("tercet", "info", "v")
    rows = [{"query": f"question {n}", "pos": [f"answer {n}"]} for n in range(100)]
    (place.place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    split = place.run("tercet", "data", "split", "rows.jsonl", "--to", "split", "--share", "0.1")
    check("100" not in split.split()[:2], "nothing was held out", split)
    for part in ("1/2", "2/2"):
        place.run("tercet", "encode", "texts.txt", "--out", "parts", "--shard", part)
    merged = json.loads(place.run("tercet", "data", "merge", "parts", "--json"))
    check(merged["texts"] == 2, "parts of an encoding are not joined", merged)
    made = ["tercet", "data", "pairs", "docs", "--to", "pairs.jsonl", "--lang", "en", "--json"]
    check(json.loads(place.run(*made))["rows"] > 0, "no pairs of the documents", None)
    place.run("tercet", "data", "mix", "rows.jsonl=0.5", "pairs.jsonl", "--to", "mixed")
    check(any((place.place / "mixed").glob("*.jsonl*")), "nothing was mixed", None)
    place.run("python", "-c", "import tercet.evaluate.runner, tercet.mining.miner")


if __name__ == "__main__":
    main()
