"""Tuned weights put where they are used: into a model's folder or an index.

Knows nothing of how they were found.
"""

from pathlib import Path

from tercet.checkpoint import set_weights
from tercet.collection import DOCUMENTS, Collection
from tercet.config import Weights
from tercet.errors import InputError


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index."""
    return (folder / DOCUMENTS).exists()


def keep_weights(folder: Path, weights: Weights) -> Path:
    """Keeps weights in a checkpoint's tercet.json or in an index; returns what was changed.

    Raises InputError where the folder is neither.
    """
    if is_index(folder):
        with Collection.open(folder, create=False) as collection:
            collection.keep_weights(weights)
        return folder
    if (folder / "config.json").exists():
        return set_weights(folder, weights)
    raise InputError(
        f"{folder} is neither a model's folder (with config.json) nor an index: the weights found "
        f"are {weights.dense:g}, {weights.sparse:g}, {weights.multi:g}"
    )
