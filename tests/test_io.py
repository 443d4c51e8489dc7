"""Files and folders appear whole or not at all, and can be read by others."""

import gzip
import os
import stat
from pathlib import Path

import pytest

from tercet.io import LARGEST_JSON, atomic_folder, atomic_write, read_json


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_appears_at_the_end_of_its_block(name: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / name
    with atomic_write(path) as file:
        file.write(b"one\n")
        assert not path.exists()
        file.write(b"two\n")
    raw = path.read_bytes()
    assert (gzip.decompress(raw) if path.suffix == ".gz" else raw) == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with atomic_write(path) as file:
        file.write(b"one\ntwo\n")
    assert path.read_bytes() == raw


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_an_error_leaves_what_was_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_of_a_folder_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    others = [tmp_path / name for name in (".index.abcdefgh", ".other.abcdefgh", ".index.ab")]
    for other in others:
        other.mkdir()
        os.utime(other, (0, 0))
    with atomic_folder(folder) as living:
        os.utime(living, (0, 0))
        with pytest.raises(RuntimeError), atomic_folder(folder):
            assert living.is_dir()
            raise RuntimeError
    assert {path.name for path in tmp_path.iterdir()} == {"index", ".other.abcdefgh", ".index.ab"}


def test_what_a_folder_replaced_is_swept_once_the_new_one_is_there(tmp_path: Path) -> None:
    folder, old = tmp_path / "model", tmp_path / ".model.abcdefgh.old"
    old.mkdir()
    os.utime(old, (0, 0))
    with atomic_folder(folder, replace=True):
        assert old.exists()
    with atomic_folder(folder, replace=True):
        assert not old.exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_scratch_folder_may_vanish_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / ".index.abcdefgh"
    other.mkdir()
    os.utime(other, (0, 0))
    real = os.open

    def vanish(path: str | Path, *arguments: int, **options: int) -> int:
        if path == other:
            other.rmdir()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", vanish)
    with atomic_folder(tmp_path / "index"):
        pass
    assert (tmp_path / "index").is_dir()


def test_a_folder_appears_at_the_end_of_its_block(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "index"
    with atomic_folder(folder) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner/file").write_text("text")
        (scratch / "inner/file").chmod(0o600)
        assert not folder.exists()
    assert (folder / "inner/file").read_text() == "text"
    assert stat.S_IMODE((folder / "inner/file").stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_empty_folder_is_replaced_and_a_full_one_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as scratch:
        (scratch / "file").touch()
    assert (tmp_path / "empty/file").exists()
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "empty") as scratch:
        (scratch / "other").touch()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "third") as scratch:
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["empty", "file"]


def test_content_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def named(real):
        def call(old, new) -> None:
            done.append("name")
            real(old, new)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named(replace))
    monkeypatch.setattr(os, "rename", named(rename))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"one\n")
    with atomic_folder(tmp_path / "folder") as scratch:
        (scratch / "inner").write_text("text")
    assert done == ["file", "name", "folder", "file", "folder", "name", "folder"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1"),
        ("{", "line 1"),
        ("[" * 10**6, "nested"),
        ("1" * 5000, "digits"),
        ("\0", "line 1"),
        ('"' + "a" * LARGEST_JSON, "larger than"),
    ],
)
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "a.json")


def test_json_is_read_from_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent"):
        with pytest.raises(OSError, match=r"not a regular file|No such file"):
            read_json(path)
