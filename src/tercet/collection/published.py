"""The documents of a collection as those see them who know only its address in Qdrant.

Its writer keeps what a hit shows with each point, and settings and counts with the collection; all
else is in the writer's folder. Knows nothing of vectors, models or files.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tercet.collection.store import Chunk, Known
from tercet.errors import StoreError
from tercet.index.qdrant import Address, QdrantIndex
from tercet.records import Document, Span

LOOK_AGAIN = 1.0  # seconds for which facts count as new


class PublishedDocuments:
    """What can be read of `DocumentStore` without its file."""

    def __init__(self, address: Address) -> None:
        """Raises StoreError where nothing was published there."""
        self.path = address
        self.index = QdrantIndex.open(address, read_only=True)
        self._facts, self._read = self.index.facts, time.monotonic()
        self._turn = threading.Lock()
        if "settings" not in self._facts:
            self.close()
            raise StoreError(f"{address} has vectors alone, and no documents")

    def fact(self, name: str) -> Any:
        """A published fact, None where there is none."""
        with self._turn:
            if time.monotonic() - self._read > LOOK_AGAIN:
                self._facts, self._read = self.index.published(), time.monotonic()
                if self._facts["index"] != self.index.name:  # who searches the old one goes on
                    self.index = QdrantIndex.open(self.path, read_only=True)
                    self._facts = self.index.facts
            return self._facts.get(name)

    def chunks(self, rows: Iterable[int]) -> dict[int, Chunk]:
        """The chunks of some rows; those that are gone are left out."""
        out = {}
        for row, record in self.index.records(rows).items():
            with self._in_words():
                record |= {"span": Span(**record["span"]), "headings": tuple(record["headings"])}
                out[row] = Chunk(**record)
        return out

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{self.path} holds points of another form ({error!r}): index the documents anew"
            ) from error

    def counts(self) -> tuple[int, int]:
        """(documents, chunks)"""
        return self.fact("documents"), self.fact("chunks")

    def filter_keys(self) -> dict[str, int]:
        """The keys of metadata, and how many documents have each."""
        return dict(self.fact("filters"))

    def languages(self) -> dict[str, int]:
        """The languages of documents, and how many have each."""
        return dict(self.fact("languages"))

    def documents(self, after: str = "") -> Iterator[Document]:
        """The documents by their ids, from behind one of them; reads a part of every point."""
        found: dict[str, Document] = {}
        for record in self.index.every_record("id", "title", "source", "language", "metadata"):
            with self._in_words():
                if record["id"] > after:
                    found[record["id"]] = Document(text="", **record)
        return (found[id] for id in sorted(found))

    def known(self, id: str) -> Known | None:
        """Raises StoreError: one is looked up in its folder."""
        raise StoreError(f"{self.path}: a document is looked up where the folder is")

    def close(self) -> None:
        """Lets go of the connection."""
        self.index.close()
