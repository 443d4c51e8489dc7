"""The processes that search and change a collection: one with a reader's view, one with the lock.

The reader gets the vectors of queries, so that it needs no model; the writer has a model of its
own, loaded when the first document comes, and runs at low priority. Knows nothing of HTTP.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from tercet.collection import Collection
from tercet.collection.sync import AddReport, Change, SyncState
from tercet.config import Head, Weights
from tercet.documents.base import Problem, prepare
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
        self._pool.submit(self._answer, reply, method, arguments, options)

    def _answer(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        if reply.cancelled:
            return
        try:
            reply.done(getattr(self, method)(*arguments, **options, reply=reply))
        except BaseException as error:  # noqa: BLE001 - it is answered
            reply.failed(error)

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


Call = tuple[Reply, str, Any, dict[str, Any]]  # as `handle` gets it


@dataclass
class _Addition:
    """A call of `add_documents` that shares a batch with others, and what it is told."""

    reply: Reply
    documents: list[Document]
    bytes: int  # of their texts
    report: AddReport = field(default_factory=AddReport)


class Writer(_Threads):
    """Answers `add_documents`, `add_files` and `delete` in the order they came.

    A batch of one document becomes durable no sooner than a batch of many, so that calls of
    `add_documents` that wait one behind the other share one; each gets its own report.
    """

    def __init__(self, *, tell: Tell, index: str, model: str | None, revision: str | None) -> None:
        """Opens the collection of a folder, or makes one with the model."""
        super().__init__(1)
        new = not (Path(index) / "documents.sqlite").exists()
        encoder = Encoder.load(model, revision=revision) if new else None
        self.collection = Collection.open(index, encoder)
        self.facts = _model_of(self.collection)
        self._calls: deque[Call] = deque()

    def handle(self, reply: Reply, method: str, arguments: Any, options: dict[str, Any]) -> None:
        """Answers a call when those before it are answered."""
        self._calls.append((reply, method, arguments, options))
        self._pool.submit(self._next)

    def _next(self) -> None:
        """Answers the call that waits longest, and those behind it that share its batch."""
        if not self._calls:  # it shared the batch of another
            return
        calls, sharing = [self._calls.popleft()], list[_Addition]()
        if self._calls and (first := self._shared(calls[0], sharing)):
            sharing.append(first)
            while self._calls and (more := self._shared(self._calls[0], sharing)):
                calls.append(self._calls.popleft())
                sharing.append(more)
        if len(sharing) > 1:
            try:
                self._add_together(sharing)
                return
            except Exception:  # noqa: BLE001 - nothing was added; each is tried alone
                pass
        for call in calls:
            self._answer(*call)

    def _shared(self, call: Call, sharing: list[_Addition]) -> _Addition | None:
        """The call as a part of one batch with others; None where it must stand alone.

        So it must where a document is wrong or blank, an id occurs twice, or all would be more than
        a batch: what is told of it, and of the others, is then as if each had been alone.
        """
        reply, method, arguments, _ = call
        if method != "add_documents" or reply.cancelled:
            return None
        most, (fields,) = self.collection.batch, arguments
        ids = {document.id for addition in sharing for document in addition.documents}
        room = most.bytes - sum(addition.bytes for addition in sharing)
        if len(ids) + len(fields) > most.documents or sum(len(f["text"]) for f in fields) > room:
            return None
        documents = [Document(**one) for one in fields]
        try:
            ready = [prepare(document) for document in documents]
        except Exception:  # noqa: BLE001 - whatever it is, it is told where the call stands alone
            return None
        texts = {d.id: d.text for d in ready if isinstance(d, Document) and d.id not in ids}
        bytes = sum(len(text.encode()) for text in texts.values())
        fits = len(texts) == len(documents) and bytes <= room
        return _Addition(reply, documents, bytes) if fits else None

    def _add_together(self, sharing: list[_Addition]) -> None:
        """Adds the documents of several calls as one batch, and answers them."""
        owners = {d.id: addition for addition in sharing for d in addition.documents}

        def changed(change: Change) -> None:
            for addition in sharing if change.kind == "note" else [owners[change.id]]:
                addition.reply.event(asdict(change))
                addition.report.chunks += change.chunks
                if change.kind in ("added", "updated", "truncated"):
                    count = getattr(addition.report, change.kind)
                    setattr(addition.report, change.kind, count + 1)

        def progress(state: SyncState) -> None:
            before = 0
            for addition in sharing:
                done = min(max(0, state.done - before), addition.bytes)
                addition.reply.event({"kind": "progress", "done": done, "total": None})
                before += addition.bytes

        documents = [document for addition in sharing for document in addition.documents]
        notes = self.collection.add(documents, report=changed, progress=progress).notes
        for addition in sharing:
            report = addition.report
            report.unchanged = len(addition.documents) - report.added - report.updated
            report.notes = notes
            addition.reply.done(_facts(report))

    def add_documents(self, documents: list[dict[str, Any]], *, reply: Reply) -> dict[str, Any]:
        """Adds or replaces documents for good."""
        return self._add((Document(**fields) for fields in documents), reply)

    def add_files(self, files: list[tuple[str, str]], *, reply: Reply) -> dict[str, Any]:
        """Adds the documents of files (path, name)."""
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

        report = self._add(documents(), reply)
        for problem in problems:
            report["skipped" if problem.failed else "notes"].append(_told(problem))
        return report

    def _add(self, documents: Iterator[Document], reply: Reply) -> dict[str, Any]:
        def changed(change: Change) -> None:
            reply.event(asdict(change))

        def progress(state: SyncState) -> None:
            reply.event({"kind": "progress", "done": state.done, "total": state.total})

        return _facts(self.collection.add(documents, report=changed, progress=progress))

    def delete(self, ids: list[str], *, reply: Reply) -> int:
        """Removes documents for good; how many of them were there."""
        return self.collection.delete(ids)

    def close(self) -> None:
        """Finishes what was asked and lets go of the folder."""
        super().close()
        self.collection.close()


def _facts(report: AddReport) -> dict[str, Any]:
    counts = {name: value for name, value in vars(report).items() if isinstance(value, int)}
    return {
        **counts,
        "skipped": [_told(problem) for problem in report.skipped],
        "notes": [_told(note) for note in report.notes],
    }


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
