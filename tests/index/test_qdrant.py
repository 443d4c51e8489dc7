"""What an index in Qdrant does beside what every index does: addresses, owners, records, limits."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest

from tercet.errors import InputError, StoreError
from tercet.index import IndexSpec
from tercet.index import qdrant as module
from tercet.index.qdrant import Address, QdrantIndex

from .conftest import DIMS, MODEL, create, create_on, make_embeddings

ROWS = make_embeddings(40, seed=1, empty_sparse=(3,))
QUERIES = make_embeddings(5, seed=2, empty_sparse=(1,))
SPEC = IndexSpec(fingerprint=MODEL, **DIMS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("qdrant://localhost:6333/laws", "http://localhost:6333", "laws"),
        ("qdrant://db/laws", "http://db:6333", "laws"),
        ("qdrant+https://db.example:443/laws.v2", "https://db.example:443", "laws.v2"),
        ("qdrant+https://db.example/under/it/laws", "https://db.example:6333/under/it", "laws"),
        ("qdrant://[::1]:6333/laws", "http://[::1]:6333", "laws"),
    ],
)
def test_an_address_says_where_a_collection_is(text: str, url: str, name: str) -> None:
    address = Address.parse(text)
    assert (address.url, address.name) == (url, name)
    assert Address.parse(str(address)) == address
    sharded = Address.parse(f"{text}?shards=6&replicas=2")
    assert sharded == replace(address, shards=6, replicas=2)
    assert address.collection("index-000002") == f"{name}-000002"


@pytest.mark.parametrize(
    "text",
    """qdrant://localhost:6333 qdrant://localhost:6333/ qdrant:///laws http://localhost:6333/laws
    qdrant://localhost:x/laws qdrant://me@localhost/laws qdrant://localhost/laws?shards=0
    qdrant://localhost/laws?shards=many qdrant://localhost/laws?what=1 qdrant://localhost/la*ws
    qdrant://localhost/laws#1 qdrant://localhost/laws?shards=1&shards=2""".split(),
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no address of a Qdrant collection"):
        Address.parse(text)


def test_hits_are_those_of_an_index_in_a_folder(qdrant: str, tmp_path: Any) -> None:
    folder = create(tmp_path / "index")
    for index in (folder, create_on(qdrant)):
        index.add(np.arange(40), ROWS, [{"n": n % 3} for n in range(40)])
    for options in ({"k": 7}, {"k": 3, "candidates": 5, "filter": {"n": 1}}, {"k": None}):
        for mode in ("hybrid", "multi", "dense"):
            want = folder.search(QUERIES, mode=mode, **options)
            have = index.search(QUERIES, mode=mode, **options)
            assert [[h.id for h in hits] for hits in want] == [
                [h.id for h in hits] for hits in have
            ]
            for one, other in zip(chain(*want), chain(*have), strict=True):
                for part in ("score", "dense", "sparse", "multi"):
                    expected = getattr(one, part)
                    assert getattr(other, part) == (
                        expected if expected is None else pytest.approx(expected, abs=2e-3)
                    )


def test_large_batches_go_in_parts(qdrant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, calls = create_on(qdrant), 0
    upsert = index._client.upsert

    def counted(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        upsert(*arguments, **options)

    monkeypatch.setattr(index._client, "upsert", counted)
    monkeypatch.setattr("tercet.index.qdrant.NUMBERS", 300)
    monkeypatch.setattr("tercet.index.qdrant.IDS", 7)
    monkeypatch.setattr("tercet.index.qdrant.QUERIES", 3)
    index.add(np.arange(40), ROWS, records=[{"text": str(n)} for n in range(40)])
    assert 2 < calls < 40
    assert index.ids().tolist() == list(range(40))
    assert index.records([5, 39, 40]) == {5: {"text": "5"}, 39: {"text": "39"}}
    assert sorted(index.stored(range(40))[0]) == list(range(40))
    assert [hits[0].id for hits in index.search(ROWS, k=1)] == list(range(40))
    assert index.delete(range(30)) == 30
    assert len(index) == 10
    assert index


def test_a_row_that_a_point_cannot_hold_is_refused(
    qdrant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = create_on(qdrant)
    monkeypatch.setattr("tercet.index.qdrant.MULTI_NUMBERS", 40)
    with pytest.raises(InputError, match=r"numbers of multi-vectors, and Qdrant takes fewer"):
        index.add(np.arange(40), ROWS)
    assert len(index) == 0
    assert not index


def test_a_new_collection_takes_the_place_of_the_one_before(qdrant: str) -> None:
    first = create_on(qdrant)
    address = first.address
    first.add([1], ROWS[:1])
    reader = QdrantIndex.open(address, read_only=True)
    second = QdrantIndex.create(address, SPEC, name="index-000002", owner=first.owner)
    second.add([1, 2], ROWS[:2])
    assert (len(reader), reader.published()["index"]) == (1, "index-000001")
    second.publish({"settings": {"heads": ("dense",)}})
    assert (len(reader), reader.published()["index"]) == (2, "index-000002")
    assert reader.published()["settings"] == {"heads": ["dense"]}
    with pytest.raises(StoreError, match="no such collection"):
        QdrantIndex.open(address, name="index-000001")
    with pytest.raises(StoreError, match="open for reading alone"):
        reader.add([3], ROWS[:1])
    again = QdrantIndex.create(address, SPEC, name="index-000003", owner=first.owner)
    again.add([7], ROWS[:1])
    again = QdrantIndex.create(address, SPEC, name="index-000003", owner=first.owner)
    assert len(again) == 0, "what was left half made is made anew"
    again.drop()


def test_collections_of_others_are_left_alone(qdrant: str) -> None:
    index = create_on(qdrant)
    address = index.address
    index.add([1], ROWS[:1])
    with pytest.raises(StoreError, match="a collection of another folder"):
        QdrantIndex.create(address, SPEC, owner="somebody else")
    with pytest.raises(StoreError, match="a collection of another folder"):
        QdrantIndex.open(address, owner="somebody else")
    other = QdrantIndex.create(address, SPEC, name="index-000002", owner="somebody else")
    with pytest.raises(StoreError, match="a collection of another folder"):
        other.publish({})
    assert QdrantIndex.open(address).ids().tolist() == [1]
    other.drop()
    from qdrant_client import models

    strange = Address.parse(f"{qdrant}/{address.name}-strange")
    vectors = models.VectorParams(size=4, distance=models.Distance.DOT)
    index._client.create_collection(strange.name, vectors_config=vectors)
    with pytest.raises(StoreError, match="that Tercet has not made"):
        QdrantIndex.open(strange)


def test_a_server_that_is_not_there_is_named(qdrant: str) -> None:
    with pytest.raises(StoreError, match=r"no Qdrant answers at qdrant://127\.0\.0\.1:9/laws"):
        QdrantIndex.open(Address.parse("qdrant://127.0.0.1:9/laws"))


def test_a_key_is_asked_for(qdrant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    headers: Any = None
    address = Address.parse("qdrant://localhost/laws")
    for key, words in (("", "put its key into QDRANT_API_KEY"), ("k", "is not one of its")):
        monkeypatch.setenv("QDRANT_API_KEY", key)
        with pytest.raises(StoreError, match=words), module._in_words(address):
            raise UnexpectedResponse(401, "Unauthorized", b"no", headers)
