"""Files to documents to chunks: readers, cleaning, and cutting on sentence borders.

Readers yield documents and, for what cannot be read, problems in words; the rest goes on. Knows
nothing of models, indexes or collections.
"""

from tercet.documents.base import Problem, prepare
from tercet.documents.chunks import Chunker
from tercet.documents.files import READERS, Found, find_files, read_file

__all__ = ["READERS", "Chunker", "Found", "Problem", "find_files", "prepare", "read_file"]
