"""Without torch: the same numbers from the same files, and the same errors for what is broken."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tercet.arrays import StoredArrays
from tercet.checkpoint import EMBEDDINGS, read_checkpoint, write_checkpoint
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.layout import TYPES
from tercet.runtime import padded_batches

TEXTS = [
    "the river and the mountain",
    "",
    "science and history of the old world, " * 12,
    "水山河光史語世界日本人",
    "<pad> history <pad></s> the the the",
    "das Wasser und die Stadt mit dem Buch",
]
SPANS = [[(0, 9), (10, 26)], [(0, 0)], [(0, 30), (20, 400)], [(2, 2), (0, 5)], [(0, 13)], [(0, 3)]]


@pytest.fixture(scope="module")
def exact(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, backend="torch", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def light(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, backend="onnx")


def assert_close(left: Any, right: Any, tolerance: float = 2e-6) -> None:
    assert left.heads == right.heads
    assert left.fingerprint == right.fingerprint
    if left.dense is not None:
        np.testing.assert_allclose(left.dense, right.dense, rtol=0, atol=tolerance)
    if left.sparse is not None:
        assert np.array_equal(left.sparse.indices, right.sparse.indices)
        np.testing.assert_allclose(left.sparse.data, right.sparse.data, rtol=1e-5, atol=tolerance)
    if left.multi is not None:
        np.testing.assert_array_equal(left.offsets, right.offsets)
        np.testing.assert_allclose(left.multi, right.multi, rtol=2**-10, atol=1e-3)


def test_numbers_are_those_of_torch(exact: Encoder, light: Encoder) -> None:
    assert (light.heads, light.dims, light.max_length) == (
        exact.heads,
        exact.dims,
        exact.max_length,
    )
    assert (light.runtime.name, light.dtype, light.device) == ("onnxruntime", "float32", "cpu")
    assert (light.weights, light.settings) == (exact.weights, exact.settings)
    whole = exact.encode(TEXTS, role="query")
    assert whole.sparse is not None
    assert whole.sparse.nnz > 20  # else nothing is compared
    assert_close(light.encode(TEXTS, role="query"), whole)
    for head in light.heads:
        assert_close(light.encode(TEXTS, heads=[head]), exact.encode(TEXTS, heads=[head]))


def test_unrounded_multi_vectors_are_those_of_torch(exact: Encoder, light: Encoder) -> None:
    tokens = exact.tokenize(TEXTS)
    for text in range(len(TEXTS)):
        one = tokens.take(np.array([text]))
        left, right = (
            np.concatenate([p.multi for p in encoder.runtime.passes(one, ["multi"], half=False)])
            for encoder in (light, exact)
        )
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [{"mcls": 4}, {"max_length": 7}, {"token_budget": 9}])
def test_options_are_followed(exact: Encoder, light: Encoder, options: dict[str, Any]) -> None:
    assert_close(light.encode(TEXTS, **options), exact.encode(TEXTS, **options))


def test_late_chunking(exact: Encoder, light: Encoder) -> None:
    assert_close(light.encode_spans(TEXTS, SPANS), exact.encode_spans(TEXTS, SPANS))


def test_a_head_that_is_not_there_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (folder / "colbert_linear.pt").unlink()
    encoder = Encoder.load(folder, backend="onnx")
    assert encoder.heads == ("dense", "sparse")
    with pytest.raises(ModelError, match="no multi head"):
        encoder.encode(["the river"])
    with pytest.raises(ModelError, match="no multi head"):
        next(encoder.runtime.passes(encoder.tokenize(["the"]), ["multi"]))


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"dtype": "bfloat16"}])
def test_what_needs_torch_is_said(tiny_checkpoint: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"tercet\[torch\]"):
        Encoder.load(tiny_checkpoint, backend="onnx", **options)


def test_an_unknown_backend_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="choose from torch, onnx"):
        Encoder.load(tiny_checkpoint, backend="jax")


def as_bfloat16(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    shutil.rmtree(folder)
    write_checkpoint(
        folder,
        checkpoint.model,
        checkpoint.tokenizer,
        settings=checkpoint.settings,
        dtype=torch.bfloat16,
        embeddings=EMBEDDINGS,
    )


def as_bin(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    torch.save({"state_dict": tensors}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_prefix(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in ("sparse_linear", "colbert_linear"):
        head = torch.load(folder / f"{name}.pt", weights_only=True)
        tensors |= {f"{name}.{part}": tensor for part, tensor in head.items()}
        (folder / f"{name}.pt").unlink()
    renamed = {f"module.roberta.{name}": tensor for name, tensor in tensors.items()}
    save_file(renamed | {"module.lm_head.bias": torch.zeros(3)}, folder / "model.safetensors")


@pytest.mark.parametrize("change", [as_bfloat16, as_bin, with_prefix])
def test_every_layout_is_read(tiny_checkpoint: Path, tmp_path: Path, change: Any) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    change(folder)
    left = Encoder.load(folder, backend="onnx").encode(TEXTS)
    assert_close(left, Encoder.load(folder, backend="torch", dtype="float32").encode(TEXTS))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def absurd_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def misshapen(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"] = torch.zeros(32, 63)
    save_file(tensors, folder / "model.safetensors")


def missing(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors")


def code(folder: Path) -> None:
    torch.save({"weight": print, "bias": torch.zeros(1)}, folder / "sparse_linear.pt")


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cut, "model.safetensors: corrupt or truncated"),
        (absurd_header, "model.safetensors: corrupt or truncated"),
        (misshapen, r"output.dense.weight is \(32, 63\), but config.json says \(32, 64\)"),
        (missing, "has no tensor 'encoder.layer.1.output.dense.weight'"),
        (code, "sparse_linear.pt: is corrupt, or holds more than tensors"),
        (not_finite, "encoder.layer.1.output.dense.weight holds values that are not finite"),
    ],
)
def test_what_is_broken_is_named(
    tiny_checkpoint: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    change(folder)
    with pytest.raises(ModelError, match=sentence):
        Encoder.load(folder, backend="onnx")


def test_arrays_are_those_of_torch(tiny_checkpoint: Path, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    plain = torch.randn(6, 4, generator=draw)
    given = {
        "f32": plain,
        "f16": plain.half(),
        "f64": plain.double(),
        "bf16": plain.bfloat16(),
        "f8": plain.to(torch.float8_e5m2),
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
    }
    save_file(given, tmp_path / "a.safetensors")
    torch.save(
        {n: t for n, t in given.items() if n != "f8"} | {"part": plain[2:4]}, tmp_path / "a.pt"
    )
    for path, count in ((tmp_path / "a.safetensors", 7), (tmp_path / "a.pt", 7)):
        arrays = StoredArrays([path])
        assert len(arrays) == count
        for name, array in arrays.items():
            want = plain[2:4] if name == "part" else given[name]
            assert np.array_equal(array.astype(np.float64), want.double().numpy()), name
    torch.save({"turned": plain.T}, tmp_path / "b.pt")
    with pytest.raises(ModelError, match="turned is a view"):
        StoredArrays([tmp_path / "b.pt"])
    assert StoredArrays([tiny_checkpoint / "model.safetensors"]).shape(TYPES) == (1, 32)


def test_batches_are_padded_little() -> None:
    lengths = np.array([512, 8, 500, 9, 100, 440, 10, 8])
    taken = list(padded_batches(lengths, 2048))
    assert sorted(np.concatenate(taken).tolist()) == list(range(8))
    for rows in taken:
        own = lengths[rows]
        assert own.max() * len(own) <= 1.15 * own.sum()
    assert len(taken) < len(lengths)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_encodes(light: Encoder) -> None:
    want: Any = light.encode(["the river"]).dense
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        found: Any = light.encode(["the river"]).dense
        os.write(writing, b"same" if np.allclose(found, want, atol=1e-6) else b"other")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"same"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("torch", "scipy", "usearch"):
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
MAIN = "from tercet.cli import main; main()"


def test_commands_need_no_extra(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for number, text in enumerate(("the river and the mountain", "science and history")):
        (tmp_path / "docs" / f"{number}.txt").write_text(text)

    def run(*arguments: str, script: str = MAIN) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT + script, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )

    model = str(tiny_checkpoint)
    indexed = run("index", "docs", "--to", "index", "--model", model)
    assert indexed.returncode == 0, indexed.stderr
    found = run("search", "--index", "index", "-k", "1", "the river")
    assert "docs/0.txt" in found.stdout, found.stderr
    facts = run("info", model)
    assert "onnxruntime" in facts.stdout, facts.stderr
    (tmp_path / "texts.txt").write_text("the river and the mountain of science\n" * 3)
    pooled = run("encode", "texts.txt", "--out", "vectors", "--multi-pool", "2", "--model", model)
    assert pooled.returncode == 0, pooled.stderr
    pairs = [{"query": f"river {n}", "pos": [f"the river and mountain {n}"]} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    measured = run("evaluate", "pairs:pairs.jsonl", "--model", model, "--cache", "cache")
    assert measured.returncode == 0, measured.stderr
    started = run(script="import tercet.serve.routes, tercet.mining.miner, tercet.bulk")
    assert started.returncode == 0, started.stderr
    refused = run("train", "unified", "--rows", "rows.jsonl", "--to", "run")
    assert refused.returncode == 1
    assert refused.stderr == "tercet: torch is not installed: pip install 'tercet[torch]'\n"
