"""Rows to checkpoints; never sees an index or a collection."""
