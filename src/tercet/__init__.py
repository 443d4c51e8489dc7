"""Tercet: dense, sparse and multi-vector embeddings of a text from one encoder pass."""
