"""An index whose rows are points of a Qdrant server or cluster, through `qdrant-client`.

    NAME              alias of the collection that counts: what searchers ask
    NAME-000001       a collection; one that was rebuilt has the next number

    metadata          "tercet": format, spec, owner (whose folder writes it) and published facts
    a point's vectors dense; sparse, where the row has terms; multi, without a graph, for MaxSim
    its payload       "filter": `"key"="value"` of all that can be filtered by; the row's record

The best rows of each leg are asked for first, then the scores of their union under every head, with
exact search among those ids: what a hit shows is what an index in a folder shows. Knows nothing of
texts, documents or models.
"""

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.errors import InputError, MissingExtraError, StoreError
from tercet.index.contract import Asked, Parts, Payloads, Progress, Records, VectorIndex, check_ids
from tercet.index.store import Ids, IndexSpec
from tercet.records import Value
from tercet.sparse import SparseRows

SCHEMES = {"qdrant": "http", "qdrant+https": "https"}
KEY = "QDRANT_API_KEY"  # the environment variable with the key of the server
PORT = 6333
TIMEOUT = 60  # seconds
FIRST = "index-000001"
FORMAT = 1
META = "tercet"  # the key of a collection's metadata, and of all that is ours in it
FILTER = "filter"  # the payload field with tokens that filters match

MULTI_NUMBERS = 1 << 20  # a point holds fewer in its multi-vectors (validation.rs of Qdrant 1.19)
# In a request of points, and one point more: 26 of the 32 MB of JSON that a server takes.
NUMBERS = 1 << 18
IDS = 1000  # in a request that asks for points
QUERIES = 32  # in a request


@dataclass(frozen=True)
class Address:
    """Where a collection is: `qdrant://HOST:PORT/NAME`, or `qdrant+https://`."""

    url: str  # of the server
    name: str  # of the collection
    shards: int | None = None  # when it is made; None: as the server has it
    replicas: int | None = None

    @staticmethod
    def matches(text: str) -> bool:
        """Whether a text begins as such an address does."""
        return text.partition("://")[0].lower() in SCHEMES and "://" in text

    @staticmethod
    def parse(text: str) -> "Address":
        """Raises InputError where it is none."""
        wrong = InputError(
            f"{text!r} is no address of a Qdrant collection such as qdrant://localhost:6333/name "
            f"(qdrant+https:// for TLS; ?shards=6&replicas=2 for a new one on a cluster; the "
            f"server's key comes from the environment variable {KEY})"
        )
        try:
            parts = urlsplit(text)
            options = {key: int(*values) for key, values in parse_qs(parts.query).items()}
            port = parts.port or PORT
        except (ValueError, TypeError) as error:
            raise wrong from error
        prefix, _, name = parts.path.rpartition("/")
        usable = parts.scheme in SCHEMES and parts.hostname and parts.username is None
        known = options.keys() <= {"shards", "replicas"} and all(n > 0 for n in options.values())
        if not usable or not known or parts.fragment or not re.fullmatch(r"[\w.-]{1,200}", name):
            raise wrong
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return Address(f"{SCHEMES[parts.scheme]}://{host}:{port}{prefix}", name, **options)

    def __str__(self) -> str:
        scheme, _, rest = self.url.partition("://")
        return f"{'qdrant' if scheme == 'http' else 'qdrant+https'}://{rest}/{self.name}"

    def collection(self, index: str) -> str:
        """The collection of an index: that of index-000002 is NAME-000002."""
        return f"{self.name}-{index.rpartition('-')[2]}"


def connect(address: Address) -> Any:
    """A client of a server; raises MissingExtraError without qdrant-client."""
    try:
        from qdrant_client import QdrantClient
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{address} needs {error.name}: pip install 'tercet[qdrant]'"
        ) from error
    parts = urlsplit(address.url)
    return QdrantClient(
        url=f"{parts.scheme}://{parts.netloc}",
        prefix=parts.path.strip("/") or None,
        api_key=os.environ.get(KEY, "").strip() or None,
        timeout=TIMEOUT,
        check_compatibility=False,  # it would ask the server only to print a warning
    )


class QdrantIndex(VectorIndex):
    """Rows of an index as points of a collection; safe in many threads.

    What `add` and `delete` did is in the server's write-ahead log when they return. A request that
    fails between two others leaves a batch in part: adding it again mends that.
    """

    keeps_records: ClassVar[bool] = True

    def __init__(
        self, address: Address, client: Any, collection: str, *, read_only: bool = False
    ) -> None:
        """Use `create` or `open`."""
        super().__init__(address, read_only=read_only)
        self.address, self._client, self._collection = address, client, collection
        self.facts = self.published()
        self.name: str = self.facts["index"]
        self.owner: str = self.facts["owner"]
        try:
            self.spec = IndexSpec(**self.facts["spec"])
        except (TypeError, InputError) as error:
            raise StoreError(
                f"{address} is damaged ({error}): make it anew from its documents"
            ) from error
        self._exact = self._models.SearchParams(
            exact=True, quantization=self._models.QuantizationSearchParams(ignore=True)
        )

    @staticmethod
    def create(
        address: Address, spec: IndexSpec, *, name: str = FIRST, owner: str | None = None
    ) -> "QdrantIndex":
        """Makes an empty collection, in place of one that its owner left half made.

        Nobody sees it under the address before `publish`. Raises StoreError where the name is in
        use by somebody else.
        """
        client, collection = connect(address), address.collection(name)
        from qdrant_client import models

        owner = owner or secrets.token_hex(8)

        def vectors(size: int, *, graph: bool, **more: Any) -> Any:
            return models.VectorParams(
                size=size,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                hnsw_config=None if graph else models.HnswConfigDiff(m=0),
                **more,
            )

        config: dict[str, Any] = {}
        if spec.dense:
            config["dense"] = vectors(spec.dense, graph=spec.backend == "graph")
            if spec.dtype == "int8":  # in memory, for candidates; float16 on disk, for scores
                codes = models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8, always_ram=True
                )
                config["dense"].quantization_config = models.ScalarQuantization(scalar=codes)
                config["dense"].on_disk = True
        if spec.multi:
            by = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            config["multi"] = vectors(spec.multi, graph=False, on_disk=True, multivector_config=by)
        facts = {"format": FORMAT, "spec": asdict(spec), "owner": owner, "index": name}
        facts = json.loads(json.dumps(facts))
        with _in_words(address):
            if client.collection_exists(collection):
                _check_owner(address, client, collection, owner)
                client.delete_collection(collection)
            client.create_collection(
                collection,
                vectors_config=config,
                sparse_vectors_config={"sparse": models.SparseVectorParams()}
                if spec.vocabulary
                else None,
                shard_number=address.shards,
                replication_factor=address.replicas,
                on_disk_payload=True,
                metadata={META: facts},
            )
            client.create_payload_index(collection, FILTER, models.PayloadSchemaType.KEYWORD)
        return QdrantIndex(address, client, collection)

    @staticmethod
    def open(
        address: Address,
        *,
        name: str | None = None,
        owner: str | None = None,
        fingerprint: str | None = None,
        read_only: bool = False,
    ) -> "QdrantIndex":
        """Opens a collection by the index's name, or what was published under the address.

        Raises StoreError where it is missing, or belongs to another model or owner.
        """
        client = connect(address)
        collection = address.name if name is None else address.collection(name)
        index = QdrantIndex(address, client, collection, read_only=read_only)
        if owner not in (None, index.owner):
            raise _others(address)
        if fingerprint not in (None, index.spec.fingerprint):
            raise StoreError(
                f"{address} holds vectors of the model {index.spec.fingerprint!r}, not of "
                f"{fingerprint!r}: open it with that, or rebuild it"
            )
        return index

    @property
    def _models(self) -> Any:
        from qdrant_client import models

        return models

    def published(self) -> dict[str, Any]:
        """Format, spec, owner, and the facts that were published last."""
        with self._asking() as client:
            if not client.collection_exists(self._collection):
                raise StoreError(f"{self.address}: there is no such collection on the server")
            facts = _metadata(client, self._collection)
        if facts is None or not {"spec", "owner", "index"} <= facts.keys():
            raise StoreError(f"{self.address} is a collection that Tercet has not made")
        if facts.get("format") != FORMAT:
            raise StoreError(
                f"{self.address} has format {facts.get('format')}, this Tercet reads {FORMAT}"
            )
        return facts

    # Writing

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Tells facts to who opens the address, which is this collection from now on.

        Older collections of the owner under it are dropped.
        """
        models = self._models
        with self._asking(writing=True) as client:
            self.facts |= json.loads(json.dumps(facts))
            client.update_collection(self._collection, metadata={META: self.facts})
            aliases = {a.alias_name: a.collection_name for a in client.get_aliases().aliases}
            before = aliases.get(self.address.name)
            if before == self._collection:
                return
            if before is not None:
                _check_owner(self.address, client, before, self.owner)
            actions: list[Any] = []
            if before is not None:
                gone = models.DeleteAlias(alias_name=self.address.name)
                actions.append(models.DeleteAliasOperation(delete_alias=gone))
            made = models.CreateAlias(
                collection_name=self._collection, alias_name=self.address.name
            )
            actions.append(models.CreateAliasOperation(create_alias=made))
            client.update_collection_aliases(actions)
            if before is not None:
                client.delete_collection(before)

    def drop(self) -> None:
        """Removes the collection with all that is in it."""
        with self._asking(writing=True) as client:
            client.delete_collection(self._collection)

    def _add(self, ids: Ids, rows: Embeddings, payloads: Payloads, records: Records) -> None:
        sizes = np.zeros(len(rows), dtype=np.int64)
        if rows.offsets is not None and self.spec.multi:
            sizes += np.diff(rows.offsets) * self.spec.multi
        if (sizes >= MULTI_NUMBERS).any():
            raise InputError(
                f"text {int(sizes.argmax())} has {int(sizes.max()):,} numbers of multi-vectors, "
                f"and Qdrant takes fewer than {MULTI_NUMBERS:,}: cut it into smaller chunks"
            )
        sizes += self.spec.dense or 0
        batches = np.cumsum(sizes) // NUMBERS
        for number in np.unique(batches):
            places = np.flatnonzero(batches == number)
            vectors = rows[places].to_qdrant()
            points = [
                self._models.PointStruct(
                    id=int(ids[place]),
                    vector=vector,
                    payload={
                        **({} if records is None else records[place]),
                        FILTER: sorted(_tokens(payloads[place])),
                    },
                )
                for place, vector in zip(places.tolist(), vectors, strict=True)
            ]
            with self._asking(writing=True) as client:
                client.upsert(self._collection, points, wait=True)

    def delete(self, ids: Iterable[int]) -> int:
        checked = np.unique(check_ids(ids)).tolist()
        removed = 0
        for first in range(0, len(checked), IDS):
            with self._asking(writing=True) as client:
                batch = checked[first : first + IDS]
                there = client.retrieve(self._collection, batch, with_payload=False)
                if there:
                    gone = self._models.PointIdsList(points=[point.id for point in there])
                    client.delete(self._collection, gone, wait=True)
                removed += len(there)
        return removed

    # Reading

    def _scored(self, asked: Asked) -> list[tuple[Ids, Parts]]:
        models, queries, count = self._models, asked.queries.to_qdrant(), asked.count
        matching = self._filter(
            models.FieldCondition(
                key=FILTER, match=models.MatchAny(any=[_token(key, value) for value in values])
            )
            for key, values in asked.choices.items()
        )
        limit, filters = len(self) if count is None else count, [matching] * len(queries)
        unions: list[set[int]] | None = None
        if count is not None:
            exact = self._exact if self.spec.backend == "exact" else None
            found = self._ask(
                [
                    self._request(vectors, leg, matching, limit, exact)
                    for vectors in queries
                    for leg in asked.legs
                    if leg in vectors
                ]
            )
            legs = asked.legs
            unions = [set().union(*(next(found) for leg in legs if leg in v)) for v in queries]
            filters = [self._filter([models.HasIdCondition(has_id=sorted(u))]) for u in unions]
        answers = self._ask(
            [
                self._request(
                    vectors, head, filter, limit if unions is None else len(unions[n]), self._exact
                )
                for n, (vectors, filter) in enumerate(zip(queries, filters, strict=True))
                for head in asked.heads
                if head in vectors and (unions is None or unions[n])
            ]
        )
        out: list[tuple[Ids, Parts]] = []
        for number, vectors in enumerate(queries):
            if unions is not None and not unions[number]:
                out.append((np.empty(0, dtype=np.uint64), {}))
                continue
            scores = {head: next(answers) for head in asked.heads if head in vectors}
            # A row that shares no term has no sparse score; one that was deleted just now has none.
            whole = [rows.keys() for head, rows in scores.items() if head != "sparse"]
            ids = sorted(set.intersection(*map(set, whole)) if whole else scores.get("sparse", ()))
            parts: Parts = {}
            for head, rows in scores.items():
                tokens = len(vectors["multi"]) if head == "multi" else 1
                part = [rows.get(id, 0.0) / tokens for id in ids]  # their mean, as everywhere here
                parts[head] = np.array(part, dtype=np.float32)
            out.append((np.array(ids, dtype=np.uint64), parts if ids else {}))
        return out

    def _filter(self, conditions: Iterable[Any]) -> Any:
        must = list(conditions)
        return self._models.Filter(must=must) if must else None

    def _request(
        self, vectors: Mapping[str, Any], head: Head, filter: Any, limit: int, params: Any
    ) -> Any:
        models, query = self._models, vectors[head]
        return models.QueryRequest(
            query=models.SparseVector(**query) if head == "sparse" else query,
            using=head,
            filter=filter,
            limit=max(1, limit),
            params=params if head != "sparse" else None,
            with_payload=False,
        )

    def _ask(self, requests: list[Any]) -> Iterator[dict[int, float]]:
        """The scores by id that each request finds."""
        for first in range(0, len(requests), QUERIES):
            with self._asking() as client:
                batch = requests[first : first + QUERIES]
                answers = client.query_batch_points(self._collection, batch)
            for answer in answers:
                yield {point.id: point.score for point in answer.points}

    def __len__(self) -> int:
        with self._asking() as client:
            return int(client.count(self._collection, exact=True).count)

    def __bool__(self) -> bool:
        with self._asking() as client:  # counting exactly reads the ids of all rows
            return bool(client.count(self._collection, exact=False).count)

    def _points(self, ids: Iterable[int], **options: Any) -> Iterator[Any]:
        wanted = check_ids(ids).tolist()
        for first in range(0, len(wanted), IDS):
            with self._asking() as client:
                batch = client.retrieve(self._collection, wanted[first : first + IDS], **options)
            yield from batch

    def records(self, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The records of those of these ids that are there."""
        points = {point.id: point.payload for point in self._points(ids, with_payload=True)}
        for payload in points.values():
            del payload[FILTER]
        return points

    def stored(self, ids: Iterable[int]) -> tuple[list[int], Embeddings]:
        points = list(self._points(ids, with_payload=False, with_vectors=True))
        heads, vectors = self.spec.heads, [point.vector for point in points]
        dense = sparse = multi = offsets = None
        if "dense" in heads:
            rows = [vector["dense"] for vector in vectors]
            dense = np.array(rows, dtype=np.float32).reshape(len(rows), self.spec.dense or 0)
        if "sparse" in heads:
            terms = [vector.get("sparse") for vector in vectors]
            indices = [[] if row is None else row.indices for row in terms]
            values = [[] if row is None else row.values for row in terms]
            sparse = SparseRows(
                np.array([v for row in values for v in row], dtype=np.float32),
                np.array([i for row in indices for i in row], dtype=np.int32),
                np.cumsum([0, *map(len, indices)]),
                (len(points), self.spec.vocabulary or 0),
            ).canonical()
        if "multi" in heads and points:
            tokens = [np.array(vector["multi"], dtype=np.float16) for vector in vectors]
            multi = np.concatenate(tokens)
            offsets = np.cumsum([0, *map(len, tokens)]).astype(np.int64)
        return [point.id for point in points], Embeddings(
            dense=dense,
            sparse=sparse,
            multi=multi,
            offsets=offsets,
            fingerprint=self.spec.fingerprint,
        )

    def ids(self) -> Ids:
        return np.sort(np.array([point.id for point in self._every(False)], dtype=np.uint64))

    def every_record(self, *fields: str) -> Iterator[dict[str, Any]]:
        """Some fields of the records of all rows."""
        return (point.payload for point in self._every(list(fields)))

    def _every(self, payload: bool | list[str]) -> Iterator[Any]:
        page: Any = None
        while True:
            with self._asking() as client:
                points, page = client.scroll(
                    self._collection, limit=10 * IDS, offset=page, with_payload=payload
                )
            yield from points
            if page is None:
                return

    # What the server does by itself

    def flush(self) -> None:
        self._check_open()

    def optimize(self, *, growth: float = 0.0, progress: Progress | None = None) -> None:
        self._check_open()

    def verify(self) -> None:
        """Raises StoreError where the server says that the collection is not whole."""
        with self._asking() as client:
            facts = client.get_collection(self._collection)
        if facts.status == self._models.CollectionStatus.RED:
            raise StoreError(f"{self.address} is not whole: the server's log says why")

    def sizes(self) -> dict[str, int]:
        self._check_open()
        return {}

    def close(self) -> None:
        if not self._closed and self._pid == os.getpid():
            self._closed = True
            self._client.close()

    @contextmanager
    def _asking(self, *, writing: bool = False) -> Iterator[Any]:
        """The client; what the server refuses is told in words."""
        self._check_open(writing=writing)
        with _in_words(self.address):
            yield self._client


def _token(key: str, value: Any) -> str:
    """What a row with this value of a key has: as JSON, where 1, true and "1" are three values."""
    return f"{json.dumps(key)}={json.dumps(value)}"


def _tokens(payload: Mapping[str, Value]) -> set[str]:
    """A token of each value; of a list one of each member."""
    return {
        _token(key, part)
        for key, value in payload.items()
        for part in (value if isinstance(value, list) else [value])
    }


def _metadata(client: Any, collection: str) -> dict[str, Any] | None:
    metadata = client.get_collection(collection).config.metadata
    facts = (metadata or {}).get(META)
    return facts if isinstance(facts, dict) else None


def _check_owner(address: Address, client: Any, collection: str, owner: str) -> None:
    if (_metadata(client, collection) or {}).get("owner") != owner:
        raise _others(address)


def _others(address: Address) -> StoreError:
    return StoreError(
        f"{address} is a collection of another folder, or none of Tercet's: choose another name, "
        "or remove it from the server"
    )


@contextmanager
def _in_words(address: Address) -> Iterator[None]:
    """Turns what the client raises into a StoreError."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            given = os.environ.get(KEY, "").strip()
            mend = f"the key in {KEY} is not one of its" if given else f"put its key into {KEY}"
            raise StoreError(f"{address} wants a key: {mend}") from error
        words = error.content.decode(errors="replace")[:300]
        raise StoreError(f"{address}: Qdrant answers {error.status_code}: {words}") from error
    except ApiException as error:
        raise StoreError(f"no Qdrant answers at {address} ({error})") from error
