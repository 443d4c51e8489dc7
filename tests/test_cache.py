"""The cache folder: what training and evaluation keep is listed, and removed by kind and age."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tercet.cache import KINDS, entries, remove, touch
from tercet.cli import tercet as command
from tercet.encoder import Encoder
from tercet.evaluate.vectors import EncodeOptions, VectorCache, digest_of
from tercet.train.config import DataConfig, SourceConfig
from tercet.train.dataset import Examples

ROWS, KEYS = f"rows-{1:032x}", [f"{number:040x}" for number in range(4)]
FILES = {  # a file of an entry, by kind
    "rows": f"{ROWS}/ids.npy",
    "vectors": f"evaluate/vectors/{KEYS[0]}/dense.npy",
    "chunks": f"evaluate/chunks/{KEYS[1]}.npy",
    "maxsim": f"evaluate/maxsim/{KEYS[2]}.npy",
    "unfinished": f"evaluate/blocks/{KEYS[3]}/000000/dense.npy",
}
OTHERS = [  # not of the cache
    "notes.txt",
    "rows-2024/a",
    ".rows-old/a",
    "evaluate/vectors.txt",
    "evaluate/vectors/of-mine/a",
    "evaluate/vectors/.git/a",
    "evaluate/chunks/a.npy",
    "evaluate/maxsim/.a.swp",
    f"evaluate/maxsim/{KEYS[2]}.txt",
    f"evaluate/blocks/{KEYS[3]}.backup/a",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An entry of each kind, of 1, 2, ... bytes, last used 10, 20, ... days ago."""
    for size, name in enumerate(FILES.values(), 1):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    for name in OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    for number, entry in enumerate(sorted(entries(tmp_path), key=lambda entry: entry.bytes), 1):
        os.utime(entry.path, (time.time() - 864000 * number,) * 2)
    return tmp_path


def test_entries_are_told_apart(folder: Path) -> None:
    found = entries(folder)
    assert [(entry.kind, entry.bytes) for entry in found] == [
        (kind, size) for size, kind in reversed([*enumerate(FILES, 1)])
    ]
    assert set(KINDS) == set(FILES)
    (folder / f".{ROWS}.scratch").mkdir()
    (folder / f"evaluate/vectors/.{KEYS[0]}.scratch").mkdir()
    assert [entry.kind for entry in entries(folder)].count("unfinished") == 3
    assert len(entries(folder, older_than=25)) == 3
    touch(folder / "evaluate/blocks" / KEYS[3])
    assert len(entries(folder, older_than=25)) == 2
    assert entries(folder / "nowhere") == []


def test_what_is_removed_is_gone_and_nothing_else(folder: Path) -> None:
    assert remove(entries(folder, older_than=35)) == 4 + 5
    assert {entry.kind for entry in entries(folder)} == {"rows", "vectors", "chunks"}
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (folder / f"rows-{2:032x}").symlink_to(outside)
    listed = entries(folder)
    remove(listed)
    assert remove(listed) == 0  # another process was quicker
    assert entries(folder) == []
    assert (outside / "kept").exists()
    assert all((folder / name).exists() for name in OTHERS)


def test_training_and_evaluation_keep_what_is_listed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "the river", "pos": ["the mountain"]}\n')
    encoder = Encoder.load(tiny_checkpoint)

    def use() -> None:
        sources = [SourceConfig((str(rows),))]
        Examples.load(sources, encoder.tokenizer, DataConfig(), cache=tmp_path)
        vectors = VectorCache(tmp_path / "evaluate", encoder)
        texts = ["the river"]
        vectors.encode(texts, digest_of(texts), EncodeOptions(("dense",)), lambda more: None)

    use()
    assert sorted(entry.kind for entry in entries(tmp_path)) == ["rows", "vectors"]
    for entry in entries(tmp_path):
        os.utime(entry.path, (0, 0))
    use()
    assert not entries(tmp_path, older_than=1)  # each use is noted


def test_the_command(folder: Path) -> None:
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(command, ["cache", "--cache", str(folder), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    listed = [json.loads(line) for line in call("--json").splitlines()]
    assert {entry["kind"]: entry["bytes"] for entry in listed} == {
        kind: size for size, kind in enumerate(FILES, 1)
    }
    assert str(folder / ROWS) in call("--older-than", "5")
    assert "1 entries" in call("--remove", "vectors")
    assert {entry.kind for entry in entries(folder)} == set(FILES) - {"vectors"}
    call("--remove", "all", "--older-than", "35")
    assert {entry.kind for entry in entries(folder)} == {"rows", "chunks"}
    call("--remove", "all")
    assert entries(folder) == []
    wrong = CliRunner().invoke(command, ["cache", "--remove", "everything"])
    assert wrong.exit_code == 2
