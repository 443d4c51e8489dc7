"""Documents, encoder and index in one folder: add, delete, search. Every entry point calls this.

    DIR/documents.sqlite    texts, spans, states, settings: all that cannot be made again
    DIR/index-000001/       vectors, made from the documents and, if need be, made again
    DIR/lock                the process that has the collection open

Files are read in `documents`, SQLite in `store`, the order of durable steps in `sync`. Knows
nothing of formats, tokens or engines.
"""

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from tercet.collection.store import DONE, PENDING, DocumentStore
from tercet.collection.sync import (
    AddReport,
    BatchSize,
    Encodes,
    OnChange,
    OnProgress,
    Sync,
    sync_files,
)
from tercet.config import Head, Mode, Weights, check_heads
from tercet.documents.chunks import Chunking
from tercet.documents.readers import clean
from tercet.errors import InputError, StoreError
from tercet.index import create_index, open_index
from tercet.index.base import DEFAULT_CANDIDATES, Filter, Index
from tercet.index.store import Backend, Dtype, IndexSpec, Lock
from tercet.records import Document, Hit, IndexHit

DOCUMENTS = "documents.sqlite"
REMADE = ("backend", "heads", "dtype")  # what may change when the index is made again
FETCH, MORE = 3, 4  # chunks asked for per document wanted; times that where they do not do


@dataclass(frozen=True)
class CollectionSettings:
    """What is recorded when a collection is made."""

    source: str | None  # where its model is loaded from; None: the one that comes with Tercet
    fingerprint: str  # of that model
    backend: Backend
    heads: tuple[Head, ...]
    dtype: Dtype
    chunk: int
    overlap: int
    late_chunking: bool
    index: str = "index-000001"  # the folder of its vectors

    @property
    def chunking(self) -> Chunking:
        return Chunking(self.chunk, self.overlap, self.late_chunking)

    def spec(self, encoder: Encodes) -> IndexSpec:
        """Of an index of these; raises InputError where the model has no such vectors."""
        if lacking := [head for head in self.heads if head not in encoder.heads]:
            raise InputError(
                f"the model {_named(encoder.source)} has no {lacking[0]} head: store "
                f"{', '.join(encoder.heads)}"
            )
        return IndexSpec(
            fingerprint=encoder.fingerprint,
            backend=self.backend,
            heads=self.heads,
            dtype=self.dtype,
            **encoder.dims,
        )


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is and holds."""

    path: str
    documents: int
    chunks: int
    settings: CollectionSettings
    bytes: dict[str, int]  # on disk: by head, "other" of the index, and "documents"


class Collection:
    """A folder of searchable documents; any thread may call it, calls go one after the other."""

    def __init__(
        self,
        path: Path,
        lock: Lock,
        store: DocumentStore,
        settings: CollectionSettings,
        encoder: Encodes | None,
    ) -> None:
        """Use `Collection.open`."""
        self.path, self.settings = path, settings
        self.batch = BatchSize()
        self._lock: Lock | None = lock
        self._documents = store
        self._encoder = encoder
        self._index: Index | None = None
        self._turn = threading.RLock()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: Encodes | None = None,
        *,
        create: bool = True,
        rebuild: bool = False,
        backend: Backend | None = None,
        heads: Sequence[str] | None = None,
        dtype: Dtype | None = None,
        chunk: int | None = None,
        overlap: int | None = None,
        late_chunking: bool | None = None,
        progress: OnProgress = None,
    ) -> "Collection":
        """Opens the collection in a folder, or makes one there.

        Without an encoder, the model it was made with is loaded when it is first needed. The
        options are fixed when a collection is made (by default: edge, all heads of the model,
        float16, 512, 64, no late chunking); for one that is there, leave them out. What a killed
        process left undone is finished first. rebuild encodes all documents anew: for a damaged
        index, another model, or another backend, heads or dtype. Raises StoreError where the
        collection is in use, damaged, or another model's, and where create is False and there is
        none; InputError where an option is not what was recorded.
        """
        path = Path(folder)
        options: dict[str, Any] = {
            "backend": backend,
            "heads": None if heads is None else check_heads(tuple(heads)),
            "dtype": dtype,
            "chunk": chunk,
            "overlap": overlap,
            "late_chunking": late_chunking,
        }
        options = {name: value for name, value in options.items() if value is not None}
        if not (path / DOCUMENTS).exists():
            _check_free(path, create)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = Lock(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
        with ExitStack() as undo:
            undo.callback(lock.release)
            new = not (path / DOCUMENTS).exists()  # for certain, now that it is ours
            if new:
                encoder = encoder or _load(None)
                facts = {"settings": asdict(_new_settings(encoder, options))}
                DocumentStore.create(path / DOCUMENTS, facts)
            store = DocumentStore(path / DOCUMENTS)
            undo.callback(store.close)
            settings = _recorded_settings(store)
            for name, value in options.items():
                recorded = getattr(settings, name)
                if value != recorded and not (rebuild and name in REMADE):
                    raise InputError(
                        f"{path} was made with {name} = {recorded!r}, not {value!r}: leave the "
                        f"option out, or make another collection"
                    )
            collection = cls(path, lock, store, replace(settings, **options), encoder)
            undo.pop_all()
            undo.callback(collection.close)
            if rebuild and not new:
                collection.rebuild(progress=progress)
            else:
                if encoder is not None:
                    collection._check_model(encoder)
                collection._open_index()
                if store.moving() or store.counts()[1] != len(collection.index):
                    collection._sync(progress=progress).recover()
            undo.pop_all()
        return collection

    # What is loaded when needed

    @property
    def encoder(self) -> Encodes:
        """The model of the collection, loaded at the first use."""
        if self._encoder is None:
            encoder = _load(self.settings.source)
            self._check_model(encoder)
            self._encoder = encoder
        return self._encoder

    def _check_model(self, encoder: Encodes) -> None:
        """Raises StoreError where the vectors are another model's."""
        settings = self.settings
        if encoder.fingerprint != settings.fingerprint:
            raise StoreError(
                f"{self.path} holds vectors of another model ({_named(settings.source)}, "
                f"{settings.fingerprint}) than {_named(encoder.source)} ({encoder.fingerprint}): "
                f"open it with that model, or {_how_to_rebuild(self.path)}"
            )

    @property
    def index(self) -> Index:
        """The vectors of the collection; raises StoreError after `close`."""
        if self._index is None:
            raise StoreError(f"the collection {self.path} is closed")
        return self._index

    @property
    def _store(self) -> DocumentStore:
        if self._lock is None:
            raise StoreError(f"the collection {self.path} is closed")
        return self._documents

    def _open_index(self) -> None:
        folder = self.path / self.settings.index
        for other in [*self.path.glob("index-*"), *self.path.glob(".index-*")]:
            if other != folder:  # of a rebuild, or a start, that was killed
                shutil.rmtree(other)
        empty = self._store.counts() == (0, 0) and not self._store.moving()
        if empty and not (folder / "index.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._index = create_index(folder, self.settings.spec(self.encoder))
            return
        try:
            self._index = open_index(folder, fingerprint=self.settings.fingerprint)
        except StoreError as error:
            raise StoreError(
                f"{error}. The documents are safe: {_how_to_rebuild(self.path)}"
            ) from error

    def _sync(self, report: OnChange = None, progress: OnProgress = None) -> Sync:
        return Sync(
            self._store,
            self.index,
            lambda: self.encoder,
            self.settings.chunking,
            batch=self.batch,
            report=report,
            progress=progress,
        )

    def _recover(self, progress: OnProgress = None) -> None:
        """Finishes what was left undone, by a dead process or by a failure of this one."""
        if self._store.moving():
            self._sync(progress=progress).recover()

    # Changing

    def add(
        self,
        items: str | Path | Iterable[str | Path | Document],
        *,
        report: OnChange = None,
        progress: OnProgress = None,
    ) -> AddReport:
        """Adds or replaces documents: files and folders by their paths, or Documents.

        Unchanged files and documents are passed over, files that are gone from under the folders
        given are removed, what cannot be read is skipped by name. A document is in the collection
        for good when `report` is told of it, and all are when this returns.
        """
        given: Iterator[Any] = iter((items,) if isinstance(items, str | Path) else items)
        first = next(given, None)
        with self._turn:
            self._recover(progress)
            sync = self._sync(report, progress)
            if first is None:
                return sync.result
            kind = Document if isinstance(first, Document) else (str, Path)
            checked = (_checked(item, kind) for item in chain((first,), given))
            if kind is Document:
                for document in checked:
                    sync.take(document)
                sync.commit()
            else:
                sync_files(sync, list(checked))
            result = sync.result
            if result.added or result.updated or result.removed:
                self.index.optimize()
            return result

    def delete(self, ids: Iterable[str]) -> int:
        """Removes documents for good; returns how many of the ids were there.

        A document of a file that does not change stays away; it comes back when the file changes.
        """
        if isinstance(ids, str):
            raise InputError(f"delete takes a list of ids: give [{ids!r}]")
        with self._turn:
            storable = [id for id in ids if clean(id) == id]  # others are not there
            self._recover()
            sync = self._sync()
            sync.remove(storable)
            return sync.result.removed

    def rebuild(self, *, progress: OnProgress = None) -> None:
        """Encodes every document anew into a new index, which then takes the old one's place.

        Until that moment the old one stays; a failure or a death before it changes nothing.
        """
        with self._turn:
            store, encoder = self._store, self._encoder or _load(self.settings.source)
            self._encoder = encoder
            number = int(self.settings.index.rpartition("-")[2]) + 1
            folder = self.path / f"index-{number:06d}"
            shutil.rmtree(folder, ignore_errors=True)
            settings = replace(
                self.settings,
                source=encoder.source,
                fingerprint=encoder.fingerprint,
                index=folder.name,
            )
            index = create_index(folder, settings.spec(encoder))
            old, self._index = self._index, index
            try:
                sync = self._sync(progress=progress)
                sync.total = store.counts()[1]
                keys = sorted(store.keys(DONE) + store.keys(PENDING))
                for first in range(0, len(keys), self.batch.documents):
                    sync.write_rows(keys[first : first + self.batch.documents])
                index.optimize()
                with store.transaction():
                    store.set_fact("settings", asdict(settings))
                    store.promote(store.keys(PENDING))
            except BaseException:
                index.close()
                self._index = old
                shutil.rmtree(folder, ignore_errors=True)
                raise
            previous, self.settings = self.settings.index, settings
            if old is not None:
                old.close()
            shutil.rmtree(self.path / previous, ignore_errors=True)
            self._recover()

    # Asking

    def search(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        weights: Weights | None = None,
        candidates: int | None = DEFAULT_CANDIDATES,
        filter: Filter | None = None,
        chunks: bool = False,
    ) -> list[list[Hit]]:
        """The k best documents for each query, best first, each by its best chunk.

        chunks: the k best chunks instead, of however few documents. weights default to
        `weights`. candidates is the number of chunks that dense and sparse each bring (more
        where k documents need more), None: all. filter: metadata key -> value, or values of which
        one must equal. Raises InputError for an empty query or an option that is unknown.
        """
        if isinstance(queries, str):
            raise InputError(f"search takes a list of questions: give [{queries!r}]")
        for number, question in enumerate(queries, 1):
            if not isinstance(question, str) or not question.strip():
                raise InputError(f"question {number} of {len(queries)} is empty: ask something")
        with self._turn:
            out: list[list[Hit]] = [[] for _ in queries]
            if not queries or not len(self.index):
                return out
            vectors = self.encoder.encode(queries, heads=self.settings.heads, role="query")
            options: dict[str, Any] = {"mode": mode, "candidates": candidates, "filter": filter}
            options["weights"] = weights or self.weights
            waiting = list(range(len(queries)))
            fetch = k if chunks else FETCH * k
            while waiting:  # for more rows until there are k documents or no more rows
                ranked = self.index.search(vectors[waiting], k=fetch, **options)
                short = []
                for number, rows in zip(waiting, ranked, strict=True):
                    out[number] = self._hits(rows, k, chunks)
                    if len(out[number]) < k and len(rows) == fetch < len(self.index):
                        short.append(number)
                waiting, fetch = short, MORE * fetch
            return out

    def _hits(self, rows: Sequence[IndexHit], k: int, chunks: bool) -> list[Hit]:
        """The k best documents (or chunks) of ranked rows."""
        stored = self._store.chunks(row.id for row in rows)
        out: dict[int | str, Hit] = {}
        for row in rows:
            if row.id not in stored:
                continue  # on its way in or out
            span, document = stored[row.id]
            key = row.id if chunks else document.id
            if key not in out:
                facts = {**vars(row), **vars(document)}
                out[key] = Hit(**facts, span=span)
            if len(out) == k:
                break
        return list(out.values())

    @property
    def weights(self) -> Weights:
        """Of the hybrid sum: those that were kept here, else the model's."""
        recorded = self._store.fact("weights")
        return Weights(*recorded) if recorded else self.encoder.weights

    def keep_weights(self, weights: Weights) -> None:
        """Searches with these weights from now on, where none are given."""
        with self._turn, self._store.transaction() as store:
            store.set_fact("weights", weights.as_tuple())

    def __len__(self) -> int:
        """The number of documents."""
        with self._turn:
            return self._store.counts()[0]

    def __contains__(self, id: str) -> bool:
        with self._turn:
            return clean(id) == id and self._store.known(id) is not None

    def info(self) -> CollectionInfo:
        """What the collection is and holds."""
        with self._turn:
            documents, chunks = self._store.counts()
            files = self.path.glob(f"{DOCUMENTS}*")  # SQLite's log is part of it
            sizes = {**self.index.sizes(), "documents": sum(f.stat().st_size for f in files)}
            return CollectionInfo(str(self.path), documents, chunks, self.settings, sizes)

    def close(self) -> None:
        """Lets go of the folder; a second call does nothing."""
        with self._turn:
            index, lock, self._index, self._lock = self._index, self._lock, None, None
            if lock is None:
                return
            try:
                if index is not None:
                    index.close()
            finally:
                self._documents.close()
                lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _load(source: str | None) -> Encodes:
    from tercet.encoder import Encoder  # loads torch, which opening alone does not need

    return Encoder.load(source)


def _named(source: str | None) -> str:
    return source or "that comes with Tercet"


def _how_to_rebuild(path: Path) -> str:
    return (
        f"`tercet index --rebuild --to {path}` or Collection.open({str(path)!r}, rebuild=True) "
        f"encodes its documents anew"
    )


def _new_settings(encoder: Encodes, options: dict[str, Any]) -> CollectionSettings:
    """The settings of a collection that is made now; raises InputError for bad options."""
    usual = Chunking()
    chunk = options.get("chunk", min(usual.chunk, encoder.max_length))
    defaults: dict[str, Any] = {
        "backend": "edge",
        "heads": encoder.heads,
        "dtype": "float16",
        "chunk": chunk,
        "overlap": min(usual.overlap, chunk // 8),
        "late_chunking": usual.late,
    }
    settings = CollectionSettings(encoder.source, encoder.fingerprint, **{**defaults, **options})
    if settings.chunking.chunk > encoder.max_length:
        raise InputError(
            f"chunk is {settings.chunk} tokens, the model {_named(encoder.source)} reads "
            f"{encoder.max_length}: give at most that"
        )
    settings.spec(encoder)
    return settings


def _recorded_settings(store: DocumentStore) -> CollectionSettings:
    facts = store.fact("settings")
    names = {field.name for field in fields(CollectionSettings)}
    if not isinstance(facts, dict) or set(facts) != names:
        raise StoreError(
            f"{store.path}: its settings are of no known form: index the documents anew"
        )
    return CollectionSettings(**{**facts, "heads": check_heads(tuple(facts["heads"]))})


def _check_free(path: Path, create: bool) -> None:
    """Raises StoreError where no collection is, and none may be made."""
    if not create:
        raise StoreError(f"{path} holds no collection: make one by adding documents")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: give a folder for the collection")
    files = sorted(item.name for item in path.iterdir()) if path.exists() else []
    for name in files:
        if name != "lock" and not name.startswith(f".{DOCUMENTS}."):  # left by a start that died
            raise StoreError(
                f"{path} holds no collection but other files ({name}): choose an empty folder, or "
                f"restore {DOCUMENTS}"
            )


def _checked(item: Any, kind: Any) -> Any:
    if not isinstance(item, kind):
        name = type(item).__name__
        raise InputError(f"add takes paths or Documents, all of one kind, not a {name}")
    return item
