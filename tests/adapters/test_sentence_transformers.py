"""An exported checkpoint: one file of weights, and the numbers of the encoder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_reference import SMALL, write_reference
from numpy.testing import assert_allclose

from tercet.adapters.sentence_transformers import SHARED, export
from tercet.checkpoint import read_checkpoint
from tercet.cli import run
from tercet.config import HEADS, Role
from tercet.encoder import Encoder, RowCollector
from tercet.errors import InputError
from tercet.model import M3Model

TEXTS = [
    "the river the river and the mountain",  # a repeated token
    "",
    "music & history, 水山 ☃",  # ids that are unknown
    "water </s> light <unk> river",  # special tokens in a text
    " ".join(["the city of light and water"] * 120),  # cut at 510 tokens
    "la casa",
]


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    assert export(tiny_checkpoint, folder).heads == HEADS
    return folder


def expected(folder: Path, role: Role) -> Any:
    """What our encoder gives, with multi-vectors in float32."""
    encoder = Encoder.load(folder, dtype="float32")
    tokens = encoder.tokenize(TEXTS, role=role)
    rows = RowCollector(encoder.dims, HEADS, len(TEXTS), half=False)
    for batch in encoder.runtime.passes(tokens, HEADS, half=False):
        rows.add(batch)
    return rows.embeddings(tokens.lengths, tokens.truncated, "")


def check(folder: Path, source: Path) -> None:
    """The three models of a folder against the checkpoint, as queries and as documents."""
    library: Any = pytest.importorskip("sentence_transformers", minversion="6")  # and pandas' kin
    dense = library.SentenceTransformer(str(folder / "dense"), device="cpu")
    sparse = library.SparseEncoder(str(folder / "sparse"), device="cpu", trust_remote_code=True)
    multi = library.MultiVectorEncoder(str(folder / "multi"), device="cpu")
    roles: tuple[tuple[Role, str], ...] = (
        ("query", "encode_query"),
        ("passage", "encode_document"),
    )
    for role, method in roles:
        ours = expected(source, role)
        assert_allclose(getattr(dense, method)(TEXTS), ours.dense, atol=1e-5)
        theirs = getattr(sparse, method)(TEXTS, convert_to_sparse_tensor=False).numpy()
        assert theirs.shape == ours.sparse.shape
        assert_allclose(theirs, ours.sparse.toarray(), atol=1e-4)
        np.testing.assert_array_equal(theirs > 0, ours.sparse.toarray() > 0)
        vectors = getattr(multi, method)(TEXTS, convert_to_numpy=True)
        assert [len(rows) for rows in vectors] == np.diff(ours.offsets).tolist()
        assert_allclose(np.concatenate(vectors), ours.multi, atol=1e-5)
    assert (dense.similarity_fn_name, sparse.similarity_fn_name, multi.similarity_fn_name) == (
        "cosine",
        "dot",
        "meanmaxsim",
    )


def test_the_numbers_are_those_of_the_encoder(exported: Path, tiny_checkpoint: Path) -> None:
    check(exported, tiny_checkpoint)


def test_what_was_trained_further_is_saved_and_loaded(exported: Path, tmp_path: Path) -> None:
    library: Any = pytest.importorskip("sentence_transformers", minversion="6")
    model = library.SparseEncoder(str(exported / "sparse"), device="cpu", trust_remote_code=True)
    with torch.no_grad():
        model[1].linear.bias += 1
    model.save_pretrained(str(tmp_path / "saved"))
    again = library.SparseEncoder(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    one, other = (each.encode(TEXTS, convert_to_sparse_tensor=False) for each in (model, again))
    assert torch.equal(one, other)


def test_a_checkpoint_in_other_files(tmp_path: Path) -> None:
    """torch's files and a SentencePiece model become safetensors and tokenizer.json."""
    write_reference(tmp_path / "source", SMALL)
    export(tmp_path / "source", tmp_path / "out")
    check(tmp_path / "out", tmp_path / "source")


def test_weights_are_there_once(
    exported: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in SHARED:
        assert len({(exported / head / name).stat().st_ino for head in HEADS}) == 1, name
    again = read_checkpoint(exported / "dense").model.state_dict()
    for name, tensor in read_checkpoint(tiny_checkpoint).model.state_dict().items():
        assert torch.equal(again[name], tensor), name

    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    command = ["export", "sentence-transformers", str(tiny_checkpoint), "--json", "--to"]
    assert run([*command, str(tmp_path / "linked")]) == 0
    one = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(os, "link", refuse)
    assert run([*command, str(tmp_path / "copied")]) == 0
    other = json.loads(capsys.readouterr().out)
    assert (one["linked"], other["linked"]) == (True, False)
    weights = "model.safetensors"
    assert (tmp_path / "copied/multi" / weights).read_bytes() == (
        exported / "dense" / weights
    ).read_bytes()
    size = sum((exported / "dense" / name).stat().st_size for name in SHARED)
    assert other["bytes"] - one["bytes"] == 2 * size
    assert other["loads"].keys() == set(HEADS)
    assert run([*command[:3], "--to", str(tmp_path / "told")]) == 0
    assert "copy of the weights" in capsys.readouterr().out


def test_a_model_without_heads_has_one_folder(
    tmp_path: Path, tiny_model: M3Model, tokenizer: Any
) -> None:
    from tercet.checkpoint import write_checkpoint

    bare = M3Model(tiny_model.backbone.config, [], sparse=False)
    bare.backbone.load_state_dict(tiny_model.backbone.state_dict())
    write_checkpoint(tmp_path / "bare", bare, tokenizer)
    assert export(tmp_path / "bare", tmp_path / "out").heads == ("dense",)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dense"]
    with pytest.raises(InputError, match="exists already"):
        export(tmp_path / "bare", tmp_path / "out")
