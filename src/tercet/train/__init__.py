"""Rows to checkpoints; never sees an index or a collection.

Bounds oneDNN's caches of what it prepared for a shape of matrices, where torch is not loaded yet:
batches without padding have a new shape each step, and 1,024 entries, their default, come to some
GB (measured: 1,370 MB after 600 products of random lengths, 270 MB with 64 entries, as fast).
"""

import os

for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")
