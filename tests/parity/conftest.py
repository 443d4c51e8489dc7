"""The small random checkpoint that FlagEmbedding was run on, written again from its seed."""

from pathlib import Path

import pytest
from make_reference import SMALL, Shape, write_reference


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shape]:
    """Folder and shape of the checkpoint."""
    folder = tmp_path_factory.mktemp("parity") / "reference"
    return folder, write_reference(folder, SMALL)
