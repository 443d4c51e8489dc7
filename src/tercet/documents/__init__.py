"""Files to documents to chunks: readers, cleaning, and cutting on sentence borders.

Readers yield documents and, for what cannot be read, problems in words; the rest goes on. Knows
nothing of models, indexes or collections.
"""

from tercet.documents.chunks import Chunker, Chunking
from tercet.documents.readers import READERS, Problem, SourceFile, find_files, prepare, read_file

__all__ = [
    "READERS",
    "Chunker",
    "Chunking",
    "Problem",
    "SourceFile",
    "find_files",
    "prepare",
    "read_file",
]
