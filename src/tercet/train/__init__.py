"""Pairs to batches to losses to checkpoints; never sees an index or a collection."""
