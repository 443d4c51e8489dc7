"""Files to documents to chunks: readers, cleaning, and cutting on sentence borders.

Readers yield documents and, for what cannot be read, problems in words; the rest goes on. Knows
nothing of models, indexes or collections. Names are loaded when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.documents.base import Note, Problem, Reading, prepare
    from tercet.documents.files import find_files, read_file

__all__ = ["Note", "Problem", "Reading", "find_files", "prepare", "read_file"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tercet.documents' has no attribute {name!r}")
    home = "files" if name in ("find_files", "read_file") else "base"
    return getattr(import_module(f"tercet.documents.{home}"), name)
