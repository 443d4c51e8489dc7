"""The JavaScript example gives our numbers; it runs where `npm install` was run beside it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tercet.encoder import Encoder
from tercet.exports import export

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "javascript"
TEXTS = ["Wo saß die Katze?", "hello\tworld \x07" * 30, "日本語のテキスト", "x"]

pytestmark = pytest.mark.skipif(
    not (FOLDER / "node_modules").exists() or shutil.which("node") is None,
    reason="run npm install in examples/javascript",
)


def test_node_gives_the_same_numbers(tmp_path: Path) -> None:
    export(None, tmp_path / "model", "onnx")
    ours = Encoder.load(tmp_path / "model").encode(TEXTS)
    done = subprocess.run(
        ["node", "encode.mjs", str(tmp_path / "model"), *TEXTS],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["tokens"] for row in rows] == list(ours.lengths if ours.lengths is not None else ())
    for number, row in enumerate(rows):
        one = ours[number]
        assert one.dense is not None
        assert one.sparse is not None
        np.testing.assert_allclose(row["dense"], one.dense[0], atol=2e-6)
        assert row["sparse"]["indices"] == one.sparse.indices.tolist()
        np.testing.assert_allclose(row["sparse"]["values"], one.sparse.data, atol=2e-6)
        np.testing.assert_allclose(row["multi"], one.tokens(0).astype(np.float32), atol=1e-3)
