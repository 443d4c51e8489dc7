"""The processes that search and change a collection: one with a reader's view, one with the lock.

The reader gets the vectors of queries, so that it needs no model; the writer has a model of its
own, loaded when the first document comes, and runs at low priority. Knows nothing of HTTP.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from tercet.collection import Collection
from tercet.collection.sync import AddReport, Change, SyncState
from tercet.config import Head, Weights
from tercet.documents.base import Problem
from tercet.documents.files import read_file
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder
from tercet.errors import StoreError
from tercet.records import Document
from tercet.serve.processes import Reply
from tercet.tokenizer import Tokenizer

Tell = Callable[[Any], None]
THREADS = 2  # searches at the same time: most of one runs without Python's lock


class Described:
    """What a collection must know of the model that encodes in another process."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.source: str | None = facts["source"]
        self.fingerprint: str = facts["fingerprint"]
        self.heads: tuple[Head, ...] = facts["heads"]
        self.dims: dict[str, int] = facts["dims"]
        self.max_length: int = facts["max_length"]
        self.weights = Weights(**facts["weights"])
        self.min_score: float | None = facts["min_score"]
        self.tokenizer = Tokenizer(Backend.from_str(facts["tokenizer"]))

    def encode(self, texts: Sequence[str], **options: Any) -> Embeddings:
        """Raises StoreError: the vectors come from another process."""
        raise StoreError("this process has no model")

    def encode_spans(self, texts: Sequence[str], spans: Any, **options: Any) -> Embeddings:
        """Raises StoreError as well."""
        raise StoreError("this process has no model")


class _Threads:
    """Answers each call by the method of its name, in a thread of a pool."""

    facts: Any

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        """Answers a call when a thread is free, if somebody still waits then."""

        def work() -> None:
            if reply.cancelled:
                return
            try:
                reply.done(getattr(self, method)(*arguments, **options, reply=reply))
            except BaseException as error:  # noqa: BLE001 - it is answered
                reply.failed(error)

        self._pool.submit(work)

    def close(self) -> None:
        """Finishes what was asked."""
        self._pool.shutdown()


class Searcher(_Threads):
    """Answers `search`, `documents` and `info` with the state that was committed last."""

    def __init__(self, *, tell: Tell, index: str, model: dict[str, Any]) -> None:
        super().__init__(THREADS)
        self.collection = Collection.open(index, Described(model), read_only=True)
        self.facts = None

    def search(
        self, query: str, vectors: Embeddings, *, reply: Reply, **options: Any
    ) -> dict[str, Any]:
        """Hits as dictionaries, and the weights of the sum."""
        hits = self.collection.search([query], vectors=vectors, highlight=True, **options)[0]
        weights = options["weights"] or self.collection.weights
        return {"hits": [asdict(hit) for hit in hits], "weights": asdict(weights)}

    def documents(self, after: str, limit: int, *, reply: Reply) -> list[dict[str, Any]]:
        """At most `limit` documents behind an id, without their texts."""
        page = []
        for document in self.collection.documents(after=after):
            facts = asdict(document)
            del facts["text"], facts["outline"]
            page.append(facts)
            if len(page) == limit:
                break
        return page

    def info(self, *, reply: Reply) -> dict[str, Any]:
        """What the collection holds."""
        info = self.collection.info()
        return {
            "documents": info.documents,
            "chunks": info.chunks,
            "weights": asdict(self.collection.weights),
            "filters": info.filters,
            "languages": info.languages,
            "bytes": info.bytes,
        }

    def close(self) -> None:
        """Finishes what was asked and lets go of the folder."""
        super().close()
        self.collection.close()


class Writer(_Threads):
    """Answers `add_documents`, `add_files` and `delete`, one after the other."""

    def __init__(self, *, tell: Tell, index: str, model: str | None, revision: str | None) -> None:
        """Opens the collection of a folder, or makes one with the model."""
        super().__init__(1)
        new = not (Path(index) / "documents.sqlite").exists()
        encoder = Encoder.load(model, revision=revision) if new else None
        self.collection = Collection.open(index, encoder)
        self.facts = _model_of(self.collection)

    def add_documents(self, documents: list[dict[str, Any]], *, reply: Reply) -> dict[str, Any]:
        """Adds or replaces documents for good."""
        return self._add((Document(**fields) for fields in documents), reply)

    def add_files(
        self, folder: str, files: list[tuple[str, str]], *, reply: Reply
    ) -> dict[str, Any]:
        """Adds the documents of files (path, name), which are removed with their folder."""
        problems: list[Problem] = []

        def documents() -> Iterator[Document]:
            for path, name in files:
                for item in read_file(Path(path), name):
                    if isinstance(item, Document):
                        yield item
                    else:
                        problems.append(item)
                        kind = "skipped" if item.failed else "note"
                        reply.event({"kind": kind, "id": item.source, "reason": item.reason})

        try:
            report = self._add(documents(), reply)
        finally:
            with suppress(OSError):
                shutil.rmtree(folder)
        for problem in problems:
            report["skipped" if problem.failed else "notes"].append(_told(problem))
        return report

    def _add(self, documents: Iterator[Document], reply: Reply) -> dict[str, Any]:
        def changed(change: Change) -> None:
            reply.event(asdict(change))

        def progress(state: SyncState) -> None:
            reply.event({"kind": "progress", "done": state.done, "total": state.total})

        report: AddReport = self.collection.add(documents, report=changed, progress=progress)
        facts = {name: value for name, value in vars(report).items() if isinstance(value, int)}
        return {
            **facts,
            "skipped": [_told(problem) for problem in report.skipped],
            "notes": [_told(note) for note in report.notes],
        }

    def delete(self, ids: list[str], *, reply: Reply) -> int:
        """Removes documents for good; how many of them were there."""
        return self.collection.delete(ids)

    def close(self) -> None:
        """Finishes what was asked and lets go of the folder."""
        super().close()
        self.collection.close()


def _told(problem: Problem) -> dict[str, str]:
    return {"source": problem.source, "reason": problem.reason}


class Recorded(_Threads):
    """Says which model a collection was made with, and answers nothing."""

    def __init__(self, *, tell: Tell, index: str) -> None:
        super().__init__(1)
        with Collection.open(index, read_only=True) as collection:
            self.facts = _model_of(collection)


def _model_of(collection: Collection) -> dict[str, Any]:
    settings = collection.settings
    return {"source": settings.source, "fingerprint": settings.fingerprint}
