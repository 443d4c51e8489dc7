"""Exported graphs: the checkpoint's numbers from a folder that stands alone; int8 stays near."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet import exports
from tercet.cli import run
from tercet.encoder import Encoder
from tercet.errors import InputError, ModelError
from tercet.evaluate.parity import differences, golden_texts
from tercet.exports import KINDS, export

TEXTS = list(golden_texts().values())[:45]


@pytest.fixture(scope="module")
def exact(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, backend="torch", dtype="float32", device="cpu")


@pytest.fixture(scope="module", params=KINDS)
def made(request: Any, tiny_checkpoint: Path, tmp_path_factory: Any) -> dict[bool, Path]:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="180 MB: pip install 'tercet[openvino]'")
    folder = tmp_path_factory.mktemp("exports")
    for int8 in (False, True):
        export(tiny_checkpoint, folder / str(int8), request.param, int8=int8)
    return {int8: folder / str(int8) for int8 in (False, True)}


def test_numbers_are_the_checkpoints(exact: Encoder, made: dict[bool, Path]) -> None:
    encoder = Encoder.load(made[False])
    assert (encoder.heads, encoder.dims, encoder.max_length) == (
        exact.heads,
        exact.dims,
        exact.max_length,
    )
    assert (encoder.weights, encoder.fingerprint) == (exact.weights, exact.fingerprint)
    found = differences(exact.encode(TEXTS, role="query"), encoder.encode(TEXTS, role="query"))
    assert found["dense"]["largest difference"] < 5e-6
    assert found["multi"]["largest difference"] < 1e-3  # both are rounded to float16
    assert found["sparse"]["largest difference"] < 5e-6
    assert found["sparse"]["ids shared"] == 1.0


def test_int8_stays_near(exact: Encoder, made: dict[bool, Path]) -> None:
    encoder = Encoder.load(made[True])
    assert encoder.dtype == "int8"
    found = differences(exact.encode(TEXTS), encoder.encode(TEXTS))
    assert 1e-6 < 1 - found["dense"]["mean cosine"] < 0.01
    assert found["multi"]["mean cosine"] > 0.99
    assert found["sparse"]["ids shared"] > 0.95


def test_what_an_export_cannot_do_is_said(made: dict[bool, Path]) -> None:
    encoder = Encoder.load(made[False])
    with pytest.raises(ModelError, match="gives no states"):
        encoder.encode(["the river " * 9], mcls=4)
    with pytest.raises(ModelError, match="gives no states"):
        encoder.encode_spans(["the river"], [[(0, 3)]])
    with pytest.raises(InputError, match=r"exported for .* leave out device='cuda'"):
        Encoder.load(made[False], device="cuda")
    with pytest.raises(InputError, match="leave out backend='torch'"):
        Encoder.load(made[False], backend="torch")
    with pytest.raises(InputError, match="exists already"):
        export(None, made[False], "onnx")


def test_large_weights_are_beside_the_graph(
    exact: Encoder, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "INLINE", 0)
    export(tiny_checkpoint, tmp_path / "made", "onnx")
    graph, data = tmp_path / "made" / "model.onnx", tmp_path / "made" / "model.onnx_data"
    assert graph.stat().st_size < data.stat().st_size
    found = differences(exact.encode(TEXTS), Encoder.load(tmp_path / "made").encode(TEXTS))
    assert found["dense"]["largest difference"] < 5e-6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "has no model.onnx: export it again"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no graph"), "cannot load the model"),
        (lambda folder: (folder / "export.json").write_text("{}"), "not what an export has"),
        (lambda folder: (folder / "export.json").write_text('{"format": 9}'), "format 9"),
    ],
)
def test_what_is_broken_is_named(
    tiny_checkpoint: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    export(tiny_checkpoint, tmp_path / "made", "onnx")
    change(tmp_path / "made")
    with pytest.raises(ModelError, match=sentence):
        Encoder.load(tmp_path / "made")


def test_the_graph_gives_all_positions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    export(tiny_checkpoint, tmp_path / "made", "onnx")
    encoder = Encoder.load(tiny_checkpoint, backend="torch", dtype="float32", device="cpu")
    session = ort.InferenceSession(str(tmp_path / "made" / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == [
        "dense",
        "token_weights",
        "multi_vectors",
    ]
    tokens = encoder.tokenize(["the river and the mountain", "water"])
    one: Any
    (one,) = encoder.runtime.passes(tokens.take(np.array([1])), encoder.heads, half=False)
    ids = np.full((2, int(tokens.lengths.max())), 1, dtype=np.int64)
    for row in range(2):
        ids[row, : tokens.lengths[row]] = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
    mask = (ids != 1).astype(np.int64)
    dense, weights, multi = session.run(None, {"input_ids": ids, "attention_mask": mask})
    own = tokens.lengths[1]
    np.testing.assert_allclose(dense[1], one.dense[0], atol=5e-6)
    np.testing.assert_allclose(weights[1, :own], one.weights, atol=5e-6)
    np.testing.assert_allclose(multi[1, :own], one.multi, atol=5e-6)
    assert not weights[1, own:].any()


def test_the_command_tells_what_differs(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS[:20])]
    (beir / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{n}", "text": TEXTS[n][:30]} for n in range(2, 8)]
    (beir / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(2, 8))]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    made = str(tmp_path / "made")
    command = ["export", "onnx", str(tiny_checkpoint), "--to", made, "--int8"]
    assert run([*command, "--beir", str(beir), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dtype"] == "int8"
    assert facts["parity"]["dense"]["mean cosine"] > 0.99
    assert facts["ndcg_at_10"]["before"].keys() == facts["ndcg_at_10"]["after"].keys()
    assert facts["ndcg_at_10"]["before"]["dense"] > 0.3
    assert run([*command, "--beir", str(beir)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(["export", "onnx", "--to", str(tmp_path / "other"), "--beir", str(tmp_path)]) == 2
    assert "no corpus.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
