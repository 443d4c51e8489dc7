"""Hub ids: read from the hub's cache without a network, pinned to a revision, refused in words."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from tercet.checkpoint import Checkpoint, fetch, read_checkpoint
from tercet.errors import InputError, ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"


@pytest.fixture
def cache(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the tiny model as `someone/tiny`, its main branch at COMMIT."""
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_checkpoint, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return model


def test_a_cached_model_is_read_offline(cache: Path, tiny: Checkpoint) -> None:
    read = read_checkpoint("someone/tiny")
    assert read.folder == cache / "snapshots" / COMMIT
    assert read.fingerprint == tiny.fingerprint
    assert fetch("someone/tiny", COMMIT) == read.folder


def test_weights_may_be_a_torch_file(cache: Path, tiny: Checkpoint) -> None:
    folder = cache / "snapshots" / COMMIT
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    read = read_checkpoint("someone/tiny")
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], tensor), name


def test_a_revision_that_is_not_cached(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"someone/tiny: .*cannot be reached"):
        fetch("someone/tiny", OTHER)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("someone/else", "someone/else: no such folder here"),
        ("../outside", "no such folder"),
        ("a/b/c", "no such folder"),
        ("has space/x", "no such folder"),
        ("bad--name/x..y", "neither a folder nor a hub id|no such folder"),
    ],
)
def test_what_is_neither_folder_nor_model(cache: Path, source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        fetch(source)


def test_folders_have_no_revisions(tmp_path: Path) -> None:
    assert fetch(tmp_path) == tmp_path
    with pytest.raises(InputError, match="revision is for hub ids"):
        fetch(tmp_path, "main")
