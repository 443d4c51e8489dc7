"""Documents, encoder and index in one folder: add, delete, search. Every entry point calls this.

    DIR/documents.sqlite    texts, spans, states, settings: all that cannot be made again
    DIR/index-000001/       vectors, made from the documents and, if need be, made again
    DIR/lock                the process that changes the collection

The vectors may be in Qdrant instead, with what a hit shows: such a collection is searched from
anywhere by its address (`qdrant://HOST:PORT/NAME`), and changed through its folder.

One process changes a collection, any number search it, also while it changes: they see what was
committed last. Files are read in `documents`, SQLite in `store`, the order of durable steps in
`sync`. Knows nothing of formats, tokens or graphs.
"""

import math
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, Self

from tercet.collection.published import PublishedDocuments
from tercet.collection.settings import (
    INDEX,
    CollectionSettings,
    named,
    new_settings,
    recorded_settings,
)
from tercet.collection.store import DONE, PENDING, Chunk, DocumentStore
from tercet.collection.sync import (
    AddReport,
    BatchSize,
    Encodes,
    OnChange,
    OnProgress,
    Sync,
    sync_files,
)
from tercet.config import Mode, Weights, check_count, check_heads, strings
from tercet.documents.base import DEFAULT, Reading, clean, plain_values, readable
from tercet.embeddings import Embeddings
from tercet.errors import InputError, ModelError, StoreError
from tercet.explanation import highlight as highlight_hit
from tercet.identifiers import Identifiers
from tercet.index import GraphOptions, create_index, open_index
from tercet.index.contract import DEFAULT_CANDIDATES, VectorIndex
from tercet.index.qdrant import Address, QdrantIndex
from tercet.index.store import Backend, Dtype, IndexSpec, Lock
from tercet.records import Document, Hit, IndexHit

DOCUMENTS = "documents.sqlite"
QDRANT = "qdrant"  # the fact that says where vectors are which are not in the folder
OWNER = "owner"  # the fact that says who this folder is in Qdrant, from its first move there
FOLDER = "folder"  # in place of an address
REMADE = ("backend", "heads", "dtype", "multi_pool")  # what may change when the index is made again
EXACT = 1.0  # what a hybrid score gains with all identifiers of its query: the most of a dense one
FETCH, MORE = 3, 4  # chunks asked for per document wanted; times that where they do not do


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection is and holds."""

    path: str  # or address
    documents: int
    chunks: int
    settings: CollectionSettings
    bytes: dict[str, int]  # on disk here: by head, "other" of the index, and "documents"
    filters: dict[str, int]  # keys of metadata, and how many documents have each
    languages: dict[str, int]  # and how many documents are in each


class Collection:
    """A folder of searchable documents, for any thread: changes wait for each other, reads do not.

    What is read is the state of the last commit, whoever made it.
    """

    def __init__(
        self,
        place: Path | Address,
        lock: Lock | None,
        encoder: Encodes | None,
        graph: GraphOptions | None,
    ) -> None:
        """Use `Collection.open`; without a lock it is read-only."""
        self.name = str(place)
        self._place = place
        self.batch = BatchSize()
        self._lock, self._encoder, self._graph = lock, encoder, graph
        self._pid, self._closed = os.getpid(), False
        self._turn, self._loading = threading.RLock(), threading.RLock()
        self._documents: DocumentStore | PublishedDocuments
        with ExitStack() as undo:
            if isinstance(place, Address):
                self._documents = PublishedDocuments(place)
            else:
                self._documents = DocumentStore(place / DOCUMENTS, read_only=True)
            undo.callback(self._documents.close)
            self.settings = recorded_settings(self._documents)
            self._writable = None if lock is None else DocumentStore(self.path / DOCUMENTS)
            undo.pop_all()
        self._index: VectorIndex | None = None  # that is changed
        self._reader: VectorIndex | None = None  # that is searched

    @property
    def path(self) -> Path:
        """The folder; raises StoreError for a collection that was opened by its address."""
        if isinstance(self._place, Address):
            raise StoreError(f"{self.name}: the folder of these documents is not here")
        return self._place

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder: Encodes | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
        rebuild: bool = False,
        backend: Backend | None = None,
        heads: Sequence[str] | None = None,
        dtype: Dtype | None = None,
        chunk: int | None = None,
        overlap: int | None = None,
        late_chunking: bool | None = None,
        multi_pool: int | None = None,
        index_url: str | None = None,
        graph: GraphOptions | None = None,
        progress: OnProgress = None,
    ) -> "Collection":
        """Opens the collection in a folder, or makes one there.

        Without an encoder, the model it was made with is loaded when it is first needed. read_only
        searches one that is there, beside whoever changes it; it writes nothing. The options are
        fixed when a collection is made (by default: graph, all heads of the model, float16, 512,
        64, no late chunking, every token's vector); for one that is there, leave them out. What a
        killed process left undone is finished first. rebuild encodes all documents anew: for a
        damaged index, another model, or another backend, heads, dtype or multi_pool. index_url: the
        vectors are in Qdrant, at an address such as qdrant://localhost:6333/name, which is
        recorded; those of a folder move there, "folder" moves them back, and another address of the
        same collection takes the recorded one's place. Instead of a folder such an address opens
        what is there, read_only. graph says how graphs are made and when. Raises StoreError where
        the collection is in use, damaged, or another model's, and where create is False and there
        is none; InputError where an option is not what was recorded.
        """
        if isinstance(folder, str) and Address.matches(folder):
            if not read_only:
                raise InputError(
                    f"{folder} is searched alone (read_only, `tercet serve --read-only`): "
                    "documents come and go through the folder that it was made from, as in "
                    "`tercet rm FOLDER ID`"
                )
            return cls(Address.parse(folder), None, encoder, graph)._searched(encoder)
        if re.match(r"[A-Za-z][\w+.-]+:/", str(folder)):
            raise InputError(
                f"{folder} cannot be opened: give a folder, or the address of a collection as "
                "qdrant://localhost:6333/name; `tercet search` asks servers, too, as "
                "http://localhost:8080"
            )
        path = Path(folder)
        place: dict[str, str] | None = None
        if index_url not in (None, FOLDER):
            Address.parse(str(index_url))
            place = {"url": str(index_url), "owner": secrets.token_hex(8)}
        options: dict[str, Any] = {
            "backend": backend,
            "heads": None if heads is None else check_heads(heads),
            "dtype": dtype,
            "chunk": chunk,
            "overlap": overlap,
            "late_chunking": late_chunking,
            "multi_pool": multi_pool,
        }
        options = {name: value for name, value in options.items() if value is not None}
        for name, least in (("chunk", 0), ("overlap", 0), ("multi_pool", 1)):
            if name in options:
                options[name] = check_count(name, options[name], least)
        if not isinstance(late_chunking, bool | None):
            raise InputError(f"late_chunking is True or False, got {late_chunking!r:.40}")
        if read_only and (options or rebuild or index_url):
            raise InputError("read_only changes nothing: leave out rebuild and the options")
        facts: dict[str, Any] = {}
        if not (path / DOCUMENTS).exists():
            _check_free(path, create and not read_only)
            encoder = encoder or _load(None)  # what is wrong leaves no empty folder
            facts = {"settings": asdict(new_settings(encoder, options)), QDRANT: place}
            facts |= {OWNER: place["owner"]} if place else {}
        if read_only:
            return cls(path, None, encoder, graph)._searched(encoder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = Lock(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
        with ExitStack() as undo:
            undo.callback(lock.release)
            new = bool(facts) and not (path / DOCUMENTS).exists()  # for certain: it is ours now
            if new:
                DocumentStore.create(path / DOCUMENTS, facts)
            collection = cls(path, lock, encoder, graph)
            undo.pop_all()
            undo.callback(collection.close)
            for name, value in options.items():
                recorded = getattr(collection.settings, name)
                if value != recorded and not (rebuild and name in REMADE):
                    way = "rebuild it with that" if name in REMADE else "make another collection"
                    raise InputError(
                        f"{path} was made with {name} = {recorded!r}, not {value!r}: leave the "
                        f"option out, or {way}"
                    )
            collection.settings = replace(collection.settings, **options)
            recorded = collection._store.fact(QDRANT)
            if place is not None and recorded is not None:
                place["owner"] = recorded["owner"]
            if rebuild and not new:
                collection.rebuild(index_url=index_url, progress=progress)
            else:
                if encoder is not None:
                    collection._check_model(encoder)
                collection._open_index(recorded and (place or recorded))
                store = collection._store
                if store.moving() or store.counts()[1] != len(collection.index):
                    collection._sync(progress=progress).recover()
                if index_url is not None and (place is None) != (recorded is None):
                    collection.move(index_url, progress=progress)
            undo.pop_all()
        return collection

    def _searched(self, encoder: Encodes | None) -> Self:
        """This read-only collection, when all that a search needs was opened."""
        with ExitStack() as undo:
            undo.callback(self.close)
            if encoder is not None:
                self._check_model(encoder)
            self._newest()
            undo.pop_all()
        return self

    # What is loaded when needed

    @property
    def encoder(self) -> Encodes:
        """The model of the collection, loaded at the first use."""
        with self._loading:
            if self._encoder is None:
                encoder = self._load()
                self._check_model(encoder)
                self._encoder = encoder
            return self._encoder

    def _load(self) -> Encodes:
        """The model that the folder names, from this machine alone: a stranger may have made it."""
        source = self.settings.source
        try:
            return _load(source)
        except ModelError as error:
            if source is None:
                raise
            raise ModelError(
                f"{error}. {self.name} names this model; if you trust that, open it with it: "
                f"--model {source}, or Collection.open(..., Encoder.load({source!r}))"
            ) from error

    def _check_model(self, encoder: Encodes) -> None:
        """Raises StoreError where the vectors are another model's."""
        settings = self.settings
        if encoder.fingerprint != settings.fingerprint:
            raise StoreError(
                f"{self.name} holds vectors of another model ({named(settings.source)}, "
                f"{settings.fingerprint}) than {named(encoder.source)} ({encoder.fingerprint}): "
                f"open it with that model, or {_how_to_rebuild(self.name)}"
            )

    @property
    def index(self) -> VectorIndex:
        """The vectors that are changed; raises StoreError where it is read-only or closed."""
        self._check_open(writable=True)
        assert self._index is not None
        return self._index

    @property
    def _store(self) -> DocumentStore:
        """The documents that are changed."""
        self._check_open(writable=True)
        assert self._writable is not None
        return self._writable

    def _newest(self) -> tuple[DocumentStore | PublishedDocuments, VectorIndex]:
        """Documents and vectors as they were committed last."""
        self._check_open()
        with self._loading:
            settings = recorded_settings(self._documents)
            while self._reader is None or self._reader.name != settings.index:
                if self._encoder is not None and settings.fingerprint != self._encoder.fingerprint:
                    raise StoreError(
                        f"{self.name} was rebuilt with another model "
                        f"({named(settings.source)}): open it again"
                    )
                try:  # another thread may still search the old one, which needs no closing
                    place = self._documents.fact(QDRANT)
                    self._reader = self._open(settings, place, read_only=True)
                    self.settings, settings = settings, recorded_settings(self._documents)
                except StoreError:
                    before, settings = settings, recorded_settings(self._documents)
                    if settings.index == before.index:  # else it was rebuilt and removed meanwhile
                        raise
            return self._documents, self._reader

    def _open(
        self,
        settings: CollectionSettings,
        place: Mapping[str, str] | None,
        *,
        read_only: bool = False,
    ) -> VectorIndex:
        """The vectors in the folder, or at a place in Qdrant."""
        if isinstance(self._documents, PublishedDocuments):
            index = self._documents.index
            if index.name != settings.index:
                raise StoreError(f"{self.name} has been rebuilt just now: search again")
            return index
        if place is not None:
            return QdrantIndex.open(
                Address.parse(place["url"]),
                name=settings.index,
                owner=place["owner"],
                fingerprint=settings.fingerprint,
                read_only=read_only,
            )
        with self._in_words():
            return open_index(
                self.path / settings.index,
                fingerprint=settings.fingerprint,
                read_only=read_only,
                options=self._graph,
            )

    def _create(
        self,
        settings: CollectionSettings,
        place: Mapping[str, str] | None,
        spec: IndexSpec | None = None,
    ) -> VectorIndex:
        """Empty vectors in the folder, or at a place in Qdrant; without a spec the model's."""
        spec = spec or settings.spec(self.encoder)
        if place is None:
            return create_index(self.path / settings.index, spec, options=self._graph)
        address = Address.parse(place["url"])
        return QdrantIndex.create(address, spec, name=settings.index, owner=place["owner"])

    def _publish(self) -> None:
        """Tells those who search by address what has changed."""
        if isinstance(self._index, QdrantIndex):
            store = self._store
            documents, chunks = store.counts()
            self._index.publish(
                {
                    "settings": asdict(self.settings),
                    "weights": store.fact("weights"),
                    "documents": documents,
                    "chunks": chunks,
                    "filters": store.filter_keys(),
                    "languages": store.languages(),
                }
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Adds the way out to what is wrong with an index."""
        try:
            yield
        except StoreError as error:
            raise StoreError(
                f"{error}. The documents are safe: {_how_to_rebuild(self.name)}"
            ) from error

    def _check_open(self, *, writable: bool = False) -> None:
        """Raises StoreError after `close`, in a fork, and for a change where it is read-only."""
        if self._closed:
            raise StoreError(f"the collection {self.name} is closed")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.name} was opened in process {self._pid}, and this is a fork: open it here"
            )
        if not writable:
            return
        if self._lock is None:
            raise StoreError(f"{self.name} was opened read_only: open it without, to change it")
        if not self._lock.holds(self.path):
            raise StoreError(
                f"{self.path} was removed, moved or replaced while it was open: open it again"
            )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time; says so where the folder is gone from under it."""
        with self._turn:
            try:
                yield
            except OSError:
                self._check_open(writable=True)
                raise

    def _open_index(self, place: dict[str, str] | None) -> None:
        folder = self.path / self.settings.index
        for other in self.path.iterdir():  # of a rebuild, or a start, that was killed
            if other != folder and re.fullmatch(rf"{INDEX}|\.{INDEX}\..*", other.name):
                _remove_index(other)
        empty = self._store.counts() == (0, 0) and not self._store.moving()
        if place is not None:
            try:
                self._index = self._open(self.settings, place)
            except StoreError:
                if not empty:
                    raise
                self._index = self._create(self.settings, place)
            if place != self._store.fact(QDRANT):
                with self._store.transaction() as store:
                    store.set_fact(QDRANT, place)
            self._publish()
        elif empty and not (folder / "index.json").exists():
            _remove_index(folder)
            self._index = self._create(self.settings, None)
        else:
            self._index = self._open(self.settings, None)

    def _sync(self, report: OnChange = None, progress: OnProgress = None) -> Sync:
        return Sync(
            self._store,
            self.index,
            lambda: self.encoder,
            self.settings.chunking,
            self.settings.multi_pool,
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
        items: str | Path | Document | Iterable[str | Path | Document],
        *,
        reading: Reading = DEFAULT,
        reread: bool = False,
        report: OnChange = None,
        progress: OnProgress = None,
    ) -> AddReport:
        """Adds or replaces documents: files and folders by their paths, or Documents.

        `reading` says how files are found and read. Unchanged documents are passed over, and
        unchanged files unless reread; files that are gone from under the folders given are removed,
        what cannot be read is skipped by name. A document is in the collection for good when
        `report` is told of it, and all are when this returns. Raises InputError where none of the
        paths is there.
        """
        if isinstance(items, str | Path | Document):
            items = (items,)
        elif isinstance(items, bytes | Mapping) or not isinstance(items, Iterable):
            _checked(items, Document)
        given: Iterator[Any] = iter(items)
        first = next(given, self)
        with self._changing():
            self._recover(progress)
            sync = self._sync(report, progress)
            if first is self:  # nothing was given
                return sync.result
            kind = Document if isinstance(first, Document) else (str, Path)
            checked = (_checked(item, kind) for item in chain((first,), given))
            if kind is Document:
                for document in checked:
                    sync.take(document)
                sync.commit()
            else:
                sync_files(sync, list(checked), reading, reread=reread)
            result = sync.result
            self.index.optimize()  # where nothing is new as well: usearch may be
            if result.added or result.updated or result.removed:
                self._publish()
            return result

    def delete(self, ids: Iterable[str]) -> int:
        """Removes documents for good; returns how many of the ids were there.

        A document of a file that does not change stays away; it comes back when the file changes.
        """
        if isinstance(ids, set | frozenset):
            ids = list(ids)
        with self._changing():
            storable = [id for id in strings(ids, "id") if clean(id) == id]  # others are not there
            self._recover()
            sync = self._sync()
            sync.remove(storable)
            self._publish()
            return sync.result.removed

    def rebuild(self, *, index_url: str | None = None, progress: OnProgress = None) -> None:
        """Encodes every document anew into a new index, which then takes the old one's place.

        index_url: an address in Qdrant, or "folder", where the new one is made, instead of where
        the old one is. Until that moment the old one stays; a failure or a death before it changes
        nothing.
        """
        with self._changing():
            encoder = self._encoder = self._encoder or self._load()
            settings = replace(
                self.settings, source=encoder.source, fingerprint=encoder.fingerprint
            )
            place = self._place_of(index_url)

            def encode(sync: Sync) -> None:
                keys = sorted(self._store.keys(DONE) + self._store.keys(PENDING))
                for first in range(0, len(keys), self.batch.documents):
                    sync.write_rows(keys[first : first + self.batch.documents])

            self._renew(settings, place, encode, progress=progress)

    def move(self, index_url: str, *, progress: OnProgress = None) -> None:
        """Copies the vectors to an address in Qdrant, or back to the "folder"; nothing is encoded.

        What is stored as int8 in a folder goes into Qdrant as the float16 nearest to what it stands
        for. As with `rebuild`, the old index stays until the new one takes its place. Raises
        StoreError where the old one is damaged or lacks a row.
        """
        with self._changing():
            self._recover()
            old, place = self.index, self._place_of(index_url)
            with self._in_words():
                old.verify()

            def copy(sync: Sync) -> None:
                with self._in_words():
                    sync.copy_rows(old)

            self._renew(self.settings, place, copy, spec=old.spec, progress=progress)

    def _place_of(self, index_url: str | None) -> dict[str, str] | None:
        """Where the next index is made: at a place in Qdrant, or None, in the folder."""
        store = self._store
        place: dict[str, str] | None = store.fact(QDRANT)
        if index_url is None or index_url == FOLDER:
            return place if index_url is None else None
        Address.parse(index_url)
        owner = store.fact(OWNER) if place is None else place["owner"]
        if owner is None:
            owner = secrets.token_hex(8)
            with store.transaction():  # what is half made when it dies is ours to make again
                store.set_fact(OWNER, owner)
        return {"url": index_url, "owner": owner}

    def _renew(
        self,
        settings: CollectionSettings,
        place: Mapping[str, str] | None,
        fill: Callable[[Sync], None],
        *,
        spec: IndexSpec | None = None,
        progress: OnProgress,
    ) -> None:
        """Makes and fills a new index, which takes the old one's place when it is whole."""
        store, previous = self._store, self.settings.index  # until a search takes up the new one
        number = int(previous.rpartition("-")[2]) + 1
        folder = self.path / f"index-{number:06d}"
        _remove_index(folder)
        settings = replace(settings, index=folder.name)
        index = self._create(settings, place, spec)
        old, self._index = self._index, index
        try:
            sync = self._sync(progress=progress)
            sync.total = store.counts()[1]
            fill(sync)
            index.optimize()
            with store.transaction():
                store.set_fact("settings", asdict(settings))
                store.set_fact(QDRANT, place)
                store.promote(store.keys(PENDING))
        except BaseException:
            with suppress(StoreError):
                if isinstance(index, QdrantIndex):
                    index.drop()
            index.close()
            self._index = old
            _remove_index(folder)
            raise
        self.settings = settings
        self._publish()
        if old is not None:
            if isinstance(old, QdrantIndex):
                with suppress(StoreError):  # gone already where the address is the same
                    old.drop()
            old.close()
        _remove_index(self.path / previous)
        self._recover()

    # Asking

    def search(
        self,
        queries: Iterable[str],
        *,
        k: int = 10,
        mode: Mode = "hybrid",
        weights: Weights | Iterable[float] | None = None,
        candidates: int | None = DEFAULT_CANDIDATES,
        filter: Mapping[str, Any] | None = None,
        chunks: bool = False,
        vectors: Embeddings | None = None,
        min_score: float | None = None,
        highlight: bool = False,
    ) -> list[list[Hit]]:
        """The k best documents for each query, best first, each by its best chunk.

        chunks: the k best chunks instead, of however few documents. weights default to
        `weights`. candidates is the number of chunks that dense and sparse each bring (more
        where k documents need more), None: all. filter: metadata key -> value, or values of which
        one must equal, of the types that metadata takes. vectors: the queries, encoded already
        with the role "query", a row each; the model is then neither loaded nor asked, and the
        weights must be given, kept here, or those of an open encoder. min_score: hits with a lower
        score are left out. highlight: find the best sentence and the shared words of each hit's
        text, by what is stored and the tokenizer. Raises InputError for an empty query, an option
        that is unknown, and a filter key that no document has, StoreError for vectors of another
        model.
        """
        queries = [readable(query) for query in strings(queries, "question")]
        k = check_count("k", k)
        for number, question in enumerate(queries, 1):
            if not question.strip():
                raise InputError(f"question {number} of {len(queries)} is empty: ask something")
        if min_score is not None:
            _check_score(min_score)
        if vectors is not None and len(vectors) != len(queries):
            raise InputError(f"{len(vectors)} vectors for {len(queries)} questions: give one each")
        store, index = self._newest()
        out: list[dict[int, Hit]] = [{} for _ in queries]
        if not queries or not index:
            return [[] for _ in queries]
        if weights is None and mode == "hybrid":
            weights = self._weights(load=vectors is None)
        if vectors is None:
            vectors = self.encoder.encode(queries, heads=index.spec.heads, role="query")
        choices: dict[str, Any] = {}
        if not isinstance(filter, Mapping | None):
            raise InputError(f"a filter is a dict of keys and values, got {filter!r:.80}")
        for key, value in (filter or {}).items():
            choices |= plain_values(key, value) or {key: []}
        options: dict[str, Any] = {"mode": mode, "filter": choices}
        if weights is not None:
            options["weights"] = Weights.of(weights)
        names = [Identifiers.of(query if mode == "hybrid" else "") for query in queries]
        waiting, again = list(range(len(queries))), False
        fetch = k if chunks else FETCH * k
        while waiting:  # for more rows until there are k documents or no more rows
            ranked: dict[int, list[IndexHit]] = {}
            for exact in (False, True):  # an identifier may stand in any row that is a candidate
                if not (several := [n for n in waiting if bool(names[n]) == exact]):
                    continue
                many: dict[str, Any] = {"k": fetch, "candidates": candidates}
                if exact:
                    many = {"k": None, "candidates": candidates and max(candidates, fetch)}
                found = index.search(vectors[several], **many, **options)
                ranked |= dict(zip(several, found, strict=True))
            short, missing = [], False
            for number, rows in ranked.items():
                stored = store.chunks(row.id for row in rows)
                missing = missing or len(stored) < len(rows)
                out[number] = _hits(stored, rows, names[number], k, chunks)
                if len(out[number]) < k and fetch <= len(rows) < len(index):
                    short.append(number)
            if missing and not again:  # what was replaced since the vectors were read
                again = True
                continue
            waiting, fetch = sorted(short), MORE * fetch
        if choices and not any(out):
            known = store.filter_keys()
            if unknown := [key for key in choices if key not in known]:
                raise InputError(
                    f"no document has {unknown[0]!r} to filter by: "
                    f"the keys are {', '.join(known) or 'none'}"
                )
        if min_score is not None:
            out = [{id: hit for id, hit in hits.items() if hit.score >= min_score} for hits in out]
        if highlight:
            for number, hits in enumerate(out):
                self._highlight(index, vectors[number : number + 1], hits)
        return [list(hits.values()) for hits in out]

    def _highlight(self, index: VectorIndex, asked: Embeddings, hits: dict[int, Hit]) -> None:
        """Fills sentences and marks; of a row that has just been replaced they stay empty."""
        tokenizer, longest = self.encoder.tokenizer, self.encoder.max_length
        ids, stored = index.stored(hits)
        for place, id in enumerate(ids):
            hit, given = hits[id], stored[place : place + 1]
            whole = given.offsets is not None and int(given.offsets[-1]) + 1 < longest
            sentence, marks = highlight_hit(
                tokenizer,
                hit.text,
                asked,
                given,
                aligned=whole and not (self.settings.late_chunking or self.settings.multi_pool > 1),
            )
            hits[id] = replace(hit, sentence=sentence, marks=marks)

    @property
    def min_score(self) -> float | None:
        """The hybrid score above which 99% of the model's dev questions found their answers.

        None where that is not known, and where other weights than the model's are kept here.
        """
        return self.encoder.min_score if self.weights == self.encoder.weights else None

    @property
    def weights(self) -> Weights:
        """Of the hybrid sum: those that were kept here, else the model's."""
        return self._weights(load=True)

    def _weights(self, *, load: bool) -> Weights:
        if recorded := self._newest()[0].fact("weights"):
            return Weights(*recorded)
        if self._encoder is None and not load:
            raise InputError(
                f"{self.name} keeps no weights of the hybrid sum, and its model is not loaded: "
                f"give weights beside the vectors"
            )
        return self.encoder.weights

    def keep_weights(self, weights: Weights | Iterable[float]) -> None:
        """Searches with these weights from now on, where none are given."""
        with self._changing():
            with self._store.transaction() as store:
                store.set_fact("weights", Weights.of(weights).as_tuple())
            self._publish()

    def __len__(self) -> int:
        """The number of documents."""
        return self._newest()[0].counts()[0]

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and clean(id) == id and self._newest()[0].known(id) is not None

    def documents(self, *, after: str = "") -> Iterator[Document]:
        """All documents by their ids, those behind `after`, without their texts."""
        return self._newest()[0].documents(after)

    def info(self) -> CollectionInfo:
        """What the collection is and holds."""
        store, index = self._newest()
        documents, chunks = store.counts()
        sizes = index.sizes()
        if isinstance(self._place, Path):
            files = self._place.glob(f"{DOCUMENTS}*")  # SQLite's log is part of it
            sizes["documents"] = sum(file.stat().st_size for file in files)
        return CollectionInfo(
            self.name,
            documents,
            chunks,
            self.settings,
            sizes,
            store.filter_keys(),
            store.languages(),
        )

    @property
    def advice(self) -> str:
        """What would make searches faster; empty where nothing is known."""
        return self._newest()[1].advice

    def verify(self) -> None:
        """Reads every byte of texts and vectors; raises StoreError naming what has changed."""
        _, index = self._newest()
        if isinstance(self._place, Path):
            with closing(DocumentStore(self._place / DOCUMENTS, read_only=True)) as store:
                store.verify()  # for so long nobody else could read from the one that is open
        with self._in_words():
            index.verify()

    def close(self) -> None:
        """Lets go of the folder; a second call, and one in a fork, does nothing."""
        if self._pid != os.getpid():
            return
        with self._turn:
            if self._closed:
                return
            self._closed = True
            with ExitStack() as closing:
                if self._lock is not None:
                    closing.callback(self._lock.release)
                # The last of SQLite's connections that is closed, and may write, folds its log.
                for part in (self._writable, self._documents, self._reader, self._index):
                    if part is not None:
                        closing.callback(part.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _hits(
    stored: Mapping[int, Chunk],
    rows: Sequence[IndexHit],
    names: Identifiers,
    k: int,
    chunks: bool,
) -> dict[int, Hit]:
    """The k best documents (or chunks) of ranked rows, by their rows' ids, best first.

    What holds identifiers rises by them.
    """
    shares: dict[int, float] = {}
    if names:
        for id, chunk in stored.items():
            shares[id] = names.share((chunk.title, chunk.text))
        rows = sorted(rows, key=lambda row: -row.score - EXACT * shares.get(row.id, 0.0))
    out: dict[int | str, tuple[int, Hit]] = {}
    for row in rows:
        if row.id not in stored:
            continue  # on its way in or out
        chunk = stored[row.id]
        key = row.id if chunks else chunk.id
        if key not in out:
            facts = {**vars(row), **vars(chunk), "exact": shares.get(row.id)}
            facts["score"] += EXACT * shares.get(row.id, 0.0)
            out[key] = row.id, Hit(**facts)
        if len(out) == k:
            break
    return dict(out.values())


def _load(source: str | None) -> Encodes:
    from tercet.encoder import Encoder  # loads torch, which opening alone does not need

    return Encoder.load(source, download=False)


def _how_to_rebuild(name: str) -> str:
    return (
        f"`tercet index --rebuild --to {name}` or Collection.open({name!r}, rebuild=True) "
        f"encodes its documents anew"
    )


def _remove_index(folder: Path) -> None:
    """Removes what an index left; a folder that holds anything else, and a link, stay."""
    if folder.is_dir() and not folder.is_symlink():
        names = {item.name for item in folder.iterdir()}
        own = r"\.?(index|manifest)\.json.*|lock|engine.*|\.?(rows|graph)-\d{6}.*"
        if all(re.fullmatch(own, name) for name in names):
            shutil.rmtree(folder, ignore_errors=True)


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


def _check_score(least: Any) -> None:
    if not isinstance(least, Real) or not math.isfinite(least):
        raise InputError(f"min_score must be a finite number, got {least!r:.40}")


def _checked(item: Any, kind: Any) -> Any:
    if not isinstance(item, kind):
        name = type(item).__name__
        raise InputError(f"add takes paths or Documents, all of one kind, not a {name}")
    return item
