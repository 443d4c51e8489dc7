"""Documents, encoder and index in one folder: add, delete, search. Every door calls this alone.

    DIR/documents.sqlite    texts, spans, states, settings: all that cannot be made again
    DIR/index-000001/       vectors, made from the documents and, if need be, made again
    DIR/lock                the process that has the collection open

Files are read in `documents`, SQLite in `store`, the order of durable steps in `ingest`. Knows
nothing of formats, tokens or engines.
"""

import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

from tercet.config import Mode, Weights, check_heads
from tercet.documents.chunks import Chunker
from tercet.documents.readers import clean, prepare
from tercet.errors import InputError, StoreError
from tercet.index import create_index, open_index
from tercet.index.base import DEFAULT_CANDIDATES, Backend, Dtype, Filter, Index
from tercet.index.files import Lock
from tercet.ingest import AddReport, Encodes, Ingest, OnChange, OnProgress
from tercet.query import best_hits, check_questions
from tercet.records import Document, Hit
from tercet.scan import add_files
from tercet.settings import CollectionInfo, Settings, how_to_rebuild
from tercet.store import DONE, PENDING, Store

DOCUMENTS = "documents.sqlite"
REBUILD_DOCUMENTS = 1024  # between two flushes of a new index


class Collection:
    """A folder of searchable documents; any thread may call it, calls go one after the other."""

    def __init__(
        self, path: Path, lock: Lock, store: Store, settings: Settings, encoder: Encodes | None
    ) -> None:
        """Use `Collection.open`."""
        self.path, self.settings = path, settings
        self._lock: Lock | None = lock
        self._documents = store
        self._encoder = encoder
        self._cutter: Chunker | None = None
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
        wanted: dict[str, Any] = {
            "backend": backend,
            "heads": None if heads is None else check_heads(tuple(heads)),
            "dtype": dtype,
            "chunk": chunk,
            "overlap": overlap,
            "late_chunking": late_chunking,
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}
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
                encoder = _load(None) if encoder is None else encoder
                made = Settings.new(encoder, wanted)
                Store.create(path / DOCUMENTS, {"settings": asdict(made)})
            store = Store(path / DOCUMENTS)
            undo.callback(store.close)
            recorded = Settings.from_json(store.fact("settings"), store.path)
            settings = recorded.checked(path, wanted, remade=rebuild)
            collection = cls(path, lock, store, settings, encoder)
            undo.pop_all()
            undo.callback(collection.close)
            if rebuild and not new:
                collection.rebuild(progress=progress)
            else:
                if encoder is not None:
                    settings.check_model(path, encoder)
                collection._open_index()
                if store.moving() or store.counts()[1] != len(collection.index):
                    collection._ingest(progress=progress).recover()
            undo.pop_all()
        return collection

    # what is loaded when needed

    @property
    def encoder(self) -> Encodes:
        """The model of the collection, loaded at the first use."""
        if self._encoder is None:
            encoder = _load(self.settings.source)
            self.settings.check_model(self.path, encoder)
            self._encoder = encoder
        return self._encoder

    def _chunker(self) -> Chunker:
        if self._cutter is None:
            encoder = self.encoder
            tokenizer = encoder.tokenizer.backend
            self._cutter = Chunker(tokenizer, self.settings.chunking, encoder.max_length)
        return self._cutter

    @property
    def index(self) -> Index:
        """The vectors of the collection; raises StoreError after `close`."""
        if self._index is None:
            raise StoreError(f"the collection {self.path} is closed")
        return self._index

    @property
    def _store(self) -> Store:
        if self._lock is None:
            raise StoreError(f"the collection {self.path} is closed")
        return self._documents

    def _open_index(self) -> None:
        folder = self.path / self.settings.index
        for pattern in ("index-*", ".index-*"):  # of a rebuild, or a start, that was killed
            for other in self.path.glob(pattern):
                if other != folder:
                    shutil.rmtree(other)
        empty = self._store.counts() == (0, 0) and not self._store.moving()
        if empty and not (folder / "index.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._index = self._new_index(folder)
            return
        try:
            self._index = open_index(folder, fingerprint=self.settings.fingerprint)
        except StoreError as error:
            raise StoreError(
                f"{error}. The documents are safe: {how_to_rebuild(self.path)}"
            ) from error

    def _new_index(self, folder: Path) -> Index:
        try:
            return create_index(
                folder,
                self.settings.backend,
                heads=self.settings.heads,
                dims=self.encoder.dims,
                dtype=self.settings.dtype,
                fingerprint=self.encoder.fingerprint,
            )
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror}") from error

    def _ingest(self, report: OnChange = None, progress: OnProgress = None) -> Ingest:
        parts = (self._store, self.index, lambda: self.encoder, self._chunker)
        return Ingest(*parts, report=report, progress=progress)

    def _recover(self, progress: OnProgress = None) -> None:
        """Finishes what was left undone, by a dead process or by a failure of this one."""
        if self._store.moving():
            self._ingest(progress=progress).recover()

    # changing

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
            ingest = self._ingest(report, progress)
            if first is None:
                return ingest.result
            both = chain((first,), given)
            if isinstance(first, Document):
                for item in both:
                    if not isinstance(item, Document):
                        raise InputError(_mixed(item))
                    usable = prepare(item)
                    if isinstance(usable, Document):
                        ingest.put(usable)
                    else:
                        ingest.skip(usable)
                ingest.commit()
            else:
                paths = list(both)
                for item in paths:
                    if not isinstance(item, str | Path):
                        raise InputError(_mixed(item))
                add_files(ingest, paths)
            result = ingest.result
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
            # An id that cannot be stored is not there.
            wanted = [id for id in ids if clean(id) == id]
            self._recover()
            return len(self._ingest().remove(wanted))

    def rebuild(self, *, progress: OnProgress = None) -> None:
        """Encodes every document anew into a new index, which then takes the old one's place.

        Until that moment the old one stays; a failure or a death before it changes nothing.
        """
        with self._turn:
            store, encoder = self._store, self._encoder or _load(self.settings.source)
            self._encoder, self._cutter = encoder, None
            self.settings.check_heads(encoder)
            number = int(self.settings.index.rpartition("-")[2]) + 1
            folder = self.path / f"index-{number:06d}"
            shutil.rmtree(folder, ignore_errors=True)
            index = self._new_index(folder)
            settings = replace(
                self.settings,
                source=encoder.source,
                fingerprint=encoder.fingerprint,
                index=folder.name,
            )
            old, self._index = self._index, index
            try:
                ingest = self._ingest(progress=progress)
                ingest.total = store.counts()[1]
                keys = sorted(store.keys(DONE) + store.keys(PENDING))
                for first in range(0, len(keys), REBUILD_DOCUMENTS):
                    ingest.write_rows(keys[first : first + REBUILD_DOCUMENTS])
                    index.flush()
                index.optimize()
                with store.transaction():
                    store.set_facts({"settings": asdict(settings)})
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

    # asking

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
        check_questions(queries, k, mode)
        with self._turn:
            if not queries or not len(self.index):
                return [[] for _ in queries]
            vectors = self.encoder.encode(queries, heads=self.settings.heads, role="query")
            return best_hits(
                self._store,
                self.index,
                vectors,
                k=k,
                mode=mode,
                weights=weights or self.weights,
                candidates=candidates,
                filter=filter,
                chunks=chunks,
            )

    @property
    def weights(self) -> Weights:
        """Of the hybrid sum: those that were kept here, else the model's."""
        kept = self._store.fact("weights")
        return Weights(*kept) if kept else self.encoder.weights

    def keep_weights(self, weights: Weights) -> None:
        """Searches with these weights from now on, where none are given."""
        with self._turn, self._store.transaction() as store:
            store.set_facts({"weights": weights.as_tuple()})

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


def _check_free(path: Path, create: bool) -> None:
    """Raises StoreError where no collection is, and none may be made."""
    if not create:
        raise StoreError(f"{path} holds no collection: make one by adding documents")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: give a folder for the collection")
    others = [item.name for item in path.iterdir()] if path.exists() else []
    if any(name.startswith("index-") for name in others):
        raise StoreError(f"{path}: {DOCUMENTS} is missing: restore it, or empty the folder")
    others = [name for name in others if name not in ("lock", f"{DOCUMENTS}.new")]
    if others:
        raise StoreError(
            f"{path} holds no collection but other files ({others[0]}): choose an empty folder"
        )


def _mixed(item: object) -> str:
    return f"add takes paths or Documents, all of one kind, not a {type(item).__name__}"
