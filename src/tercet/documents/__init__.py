"""Files to documents to chunks: readers, cleaning, and cutting on sentence borders.

Readers yield documents and, for what cannot be read, problems in words; the rest goes on. Knows
nothing of models, indexes or collections.
"""
