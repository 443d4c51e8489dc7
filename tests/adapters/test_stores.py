"""The embedding functions of Chroma and LanceDB are found again by the name that is stored."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tercet.encoder import Encoder
from tests.adapters.conftest import QUESTION, TEXTS, cosines


def test_chroma(tmp_path: Path, tiny_checkpoint: Path) -> None:
    chromadb = pytest.importorskip("chromadb")  # brings onnxruntime, kubernetes, grpcio
    from tercet.adapters.chroma import TercetEmbeddingFunction

    function = TercetEmbeddingFunction(str(tiny_checkpoint))
    client = chromadb.PersistentClient(str(tmp_path))
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(ids=[str(n) for n in range(len(TEXTS))], documents=TEXTS)
    expected = 1 - cosines(function.encoder)
    again = chromadb.PersistentClient(str(tmp_path)).get_collection("texts")
    found = again.query(query_texts=[QUESTION], n_results=len(TEXTS))
    assert found["ids"] == [[str(n) for n in np.argsort(expected)]]
    assert_allclose(found["distances"][0], np.sort(expected), atol=1e-5)
    assert function.build_from_config(function.get_config()).model == str(tiny_checkpoint)


LATER = """
import sys, lancedb, tercet.adapters.lancedb
table = lancedb.connect(sys.argv[1]).open_table("t")
for row in table.search(sys.argv[2]).distance_type("cosine").limit(4).to_list():
    print(row["text"], row["_distance"], sep="\\t")
"""


def test_lancedb(tmp_path: Path, tiny_checkpoint: Path) -> None:
    lancedb = pytest.importorskip("lancedb")  # 150 MB of wheels
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    import tercet.adapters.lancedb  # noqa: F401

    function = get_registry().get("tercet").create(name=str(tiny_checkpoint))

    class Row(LanceModel):  # type: ignore[misc]
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(tmp_path).create_table("t", schema=Row)
    table.add([{"text": text} for text in TEXTS])
    expected = 1 - cosines(Encoder.load(tiny_checkpoint))
    done = subprocess.run(
        [sys.executable, "-c", LATER, str(tmp_path), QUESTION],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [text for text, _ in rows] == [TEXTS[n] for n in np.argsort(expected)]
    assert_allclose([float(distance) for _, distance in rows], np.sort(expected), atol=1e-5)
