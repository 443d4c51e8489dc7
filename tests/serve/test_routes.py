"""Each route over HTTP: the shapes that others have published, and our own."""

import asyncio
import base64
import gzip
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openai
import pytest
from starlette.requests import Request

from tercet.encoder import Encoder
from tercet.scores import SCORES, weighted_sum
from tercet.serve import routes, wire
from tercet.serve.app import Endpoint, encoded
from tests.serve.conftest import TEXTS, Answer, Running, multipart

PASSAGES = ["the star and the light", "bread and fire", "the river"]


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint)


def close(actual: Any, expected: Any, atol: float = 0.03) -> None:
    """As they are in bfloat16, whose passes need not be cut alike."""
    np.testing.assert_allclose(actual, expected, atol=atol)


def data(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def hybrid(encoder: Encoder, query: str) -> list[float]:
    """The hybrid sums of a query with PASSAGES."""
    queries, passages = encoder.encode([query], role="query"), encoder.encode(PASSAGES)
    parts = {head: SCORES[head](queries, passages)[0] for head in encoder.heads}
    return list(weighted_sum(parts, encoder.weights))


def test_the_official_client_gets_the_encoders_vectors(server: Running, encoder: Encoder) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    expected = encoder.encode(PASSAGES)
    assert expected.dense is not None
    assert expected.lengths is not None
    for form in ("float", "base64"):
        answer = client.embeddings.create(input=PASSAGES, model="any", encoding_format=form)
        assert [item.index for item in answer.data] == [0, 1, 2]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == expected.lengths.sum()
        for item, vector in zip(answer.data, expected.dense, strict=True):
            raw: Any = item.embedding
            numbers = np.frombuffer(base64.b64decode(raw), "<f4") if form == "base64" else raw
            close(numbers, vector)
    assert [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.UnprocessableEntityError, match="trained for 32"):
        client.embeddings.create(input="a", model="any", dimensions=8)
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(input=[], model="any")


def test_token_ids_are_texts(server: Running, encoder: Encoder) -> None:
    ids = encoder.tokenizer.contents(PASSAGES)
    answer = data(server.post("/v1/embeddings", {"input": ids}))
    expected = encoder.encode(PASSAGES, heads=("dense",)).dense
    assert expected is not None
    close([item["embedding"] for item in answer["data"]], expected)
    one = data(server.post("/v1/embeddings", {"input": ids[0]}))
    close(one["data"][0]["embedding"], expected[0])
    assert server.post("/v1/embeddings", {"input": [[10**6]]}).status == 422
    assert server.post("/v1/embeddings", {"input": ["a", [5]]}).status == 422


def relevance(answer: Any) -> list[float]:
    return [result["relevance_score"] for result in answer["results"]]


@pytest.mark.parametrize(
    ("path", "body", "scores"),
    [
        ("/rerank", {"texts": PASSAGES, "truncate": True}, lambda a: [r["score"] for r in a]),
        (
            "/rerank",
            {"documents": PASSAGES},
            lambda a: [r["relevance_score"] for r in a["results"]],
        ),
        (
            "/v1/rerank",
            {"documents": PASSAGES},
            lambda a: [r["relevance_score"] for r in a["results"]],
        ),
        ("/v2/rerank", {"documents": [{"text": text} for text in PASSAGES]}, relevance),
    ],
    ids=["tei", "jina-path", "jina", "cohere"],
)
def test_rerank_orders_by_the_hybrid_sum(
    server: Running, encoder: Encoder, path: str, body: dict[str, Any], scores: Any
) -> None:
    query = "light of the night"
    expected = hybrid(encoder, query)
    answer = data(server.post(path, {"query": query, **body}))
    rows = answer if isinstance(answer, list) else answer["results"]
    order = [row["index"] for row in rows]
    assert order == sorted(range(3), key=lambda row: -expected[row])
    close(scores(answer), [expected[row] for row in order], atol=0.1)


def test_rerank_cuts_and_gives_texts_back(server: Running) -> None:
    body = {"query": "fire", "documents": PASSAGES, "top_n": 1, "return_documents": True}
    (result,) = data(server.post("/v1/rerank", body))["results"]
    assert result["document"] == {"text": PASSAGES[result["index"]]}
    rows = data(server.post("/rerank", {"query": "fire", "texts": PASSAGES, "return_text": True}))
    assert [row["text"] for row in rows] == [PASSAGES[row["index"]] for row in rows]


def test_score_pairs_as_vllm(server: Running, encoder: Encoder) -> None:
    answer = data(server.post("/v1/score", {"text_1": "fire", "text_2": PASSAGES}))
    scores = [item["score"] for item in answer["data"]]
    close(scores, hybrid(encoder, "fire"), atol=0.1)
    pairs = {"queries": ["fire", "fire"], "documents": PASSAGES[:2]}
    several = [item["score"] for item in data(server.post("/v1/score", pairs))["data"]]
    close(several, scores[:2], atol=0.1)
    assert server.post("/v1/score", {"queries": ["a", "b"], "documents": ["c"] * 3}).status == 422
    assert server.post("/v1/score", {"queries": "a"}).status == 422


def test_score_gives_every_part(server: Running, encoder: Encoder) -> None:
    body = {"query": "fire", "passages": PASSAGES, "weights": {"dense": 0, "sparse": 1, "multi": 0}}
    answer = data(server.post("/score", body))
    queries, passages = encoder.encode(["fire"], role="query"), encoder.encode(PASSAGES)
    for head in ("dense", "sparse", "multi"):
        expected = SCORES[head](queries, passages)[0]
        close([row[head] for row in answer["scores"]], expected, atol=0.1)
    assert [row["score"] for row in answer["scores"]] == [r["sparse"] for r in answer["scores"]]


def test_cohere_types(server: Running, encoder: Encoder) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"texts": PASSAGES, "embedding_types": types, "input_type": "search_query"}
    made = data(server.post("/v2/embed", body))["embeddings"]
    vectors = np.array(made["float"], dtype=np.float32)
    close(vectors, encoder.encode(PASSAGES, role="query").dense)
    close(np.array(made["int8"]) / 127, vectors, atol=0.005)
    assert (np.array(made["uint8"]) == np.array(made["int8"]) + 128).all()
    bits = np.unpackbits(np.array(made["ubinary"], dtype=np.uint8), axis=1)
    assert (bits == (vectors > 0)).all()
    assert (np.array(made["binary"]) == np.array(made["ubinary"]) - 128).all()
    assert np.frombuffer(base64.b64decode(made["base64"][1]), "<f4").tolist() == vectors[1].tolist()


def test_ollama(server: Running, encoder: Encoder) -> None:
    answer = data(server.post("/api/embed", {"model": "m", "input": "bread"}))
    assert answer["model"] == "m"
    assert answer["total_duration"] > 0
    expected = encoder.encode(["bread"], role="plain").dense
    close(answer["embeddings"], expected)
    assert data(server.post("/api/embed", {"input": []}))["embeddings"] == []


def test_the_routes_of_text_embeddings_inference(server: Running, encoder: Encoder) -> None:
    expected = encoder.encode(PASSAGES, role="plain")
    assert expected.dense is not None
    assert expected.sparse is not None
    close(data(server.post("/embed", {"inputs": PASSAGES})), expected.dense)
    sparse = data(server.post("/embed_sparse", {"inputs": PASSAGES}))
    dense = np.zeros(expected.sparse.shape)
    for row, values in enumerate(sparse):
        for value in values:
            dense[row, value["index"]] = value["value"]
    close(dense, expected.sparse.toarray(), atol=0.1)
    tokens = data(server.post("/embed_all", {"inputs": PASSAGES}))
    for row in range(3):
        close(tokens[row], expected.tokens(row), atol=0.1)
    query = data(server.post("/embed", {"inputs": "bread", "prompt_name": "query"}))
    close(query, encoder.encode(["bread"], role="query").dense)
    inputs = {"source_sentence": PASSAGES[0], "sentences": PASSAGES}
    cosines = data(server.post("/similarity", {"inputs": inputs}))
    close(cosines, expected.dense @ expected.dense[0], atol=0.05)


def test_tokens_and_back(server: Running, encoder: Encoder) -> None:
    text = "el río 水"
    (tokens,) = data(server.post("/tokenize", {"inputs": text}))
    assert [token["special"] for token in tokens] == [True, *[False] * (len(tokens) - 2), True]
    inner = tokens[1:-1]
    assert [token["id"] for token in inner] == encoder.tokenizer.contents([text])[0]
    assert text[inner[-1]["start"] : inner[-1]["stop"]] == "水"
    (bare,) = data(server.post("/tokenize", {"inputs": text, "add_special_tokens": False}))
    assert bare == inner
    ids = [token["id"] for token in tokens]
    assert data(server.post("/decode", {"ids": ids})) == [text]


def test_what_is_too_long_is_cut_only_where_that_is_asked(server: Running) -> None:
    long = "river " * 600
    answer = server.post("/embed", {"inputs": ["short", long]})
    assert answer.status == 422
    assert answer.json["error_type"] == "Validation"
    assert "input 1 has more than 510 tokens" in answer.json["error"]
    assert server.post("/embed", {"inputs": long, "truncate": True}).status == 200
    refused = server.post("/v1/embeddings", {"input": long})
    assert refused.json["error"]["type"] == "invalid_request_error"
    body = {"items": [{"text": long}], "params": {"output_types": ["dense"]}}
    (item,) = data(server.post("/encode", body))["items"]
    assert item["truncated"] is True
    assert item["num_tokens"] == 510


def test_encode_gives_any_subset_in_any_numbers(server: Running, encoder: Encoder) -> None:
    expected = encoder.encode(PASSAGES)
    assert expected.dense is not None
    assert expected.sparse is not None
    items = [{"id": f"p{row}", "text": text} for row, text in enumerate(PASSAGES)]
    for kind, near in (("float32", 0.1), ("float16", 0.1), ("int8", 0.15)):
        for form in ("float", "base64"):
            params = {"output_dtype": kind, "encoding": form}
            answer = data(server.post("/encode", {"items": items, "params": params}))
            for row, item in enumerate(answer["items"]):
                assert item["id"] == f"p{row}"
                multi = item["multivector"]
                shape = (multi["num_tokens"], multi["token_dims"])
                vectors = _read(multi["values"], kind).reshape(shape).astype(np.float32)
                if kind == "int8":
                    vectors = vectors * _read(multi["scales"], "float32")[:, None]
                close(vectors, expected.tokens(row), atol=near)
                dense = _read(item["dense"]["values"], kind) * item["dense"].get("scale", 1)
                close(dense, expected.dense[row], atol=near)
                sparse = item["sparse"]
                weights = np.zeros(sparse["dims"])
                weights[_read(sparse["indices"], "int32")] = _read(
                    sparse["values"], sparse["dtype"]
                )
                close(weights, expected.sparse[[row]].toarray()[0], atol=0.1)
    only = {"output_types": ["sparse"], "options": {"is_query": True}}
    (item,) = data(server.post("/encode", {"items": items[:1], "params": only}))["items"]
    assert "dense" not in item
    assert "multivector" not in item
    assert item["num_tokens"] == encoder.tokenize(PASSAGES[:1], role="query").lengths[0]


def _read(values: Any, kind: str) -> Any:
    if isinstance(values, str):
        names = {"float32": "<f4", "float16": "<f2", "int8": "i1", "int32": "<i4"}
        return np.frombuffer(base64.b64decode(values), names[kind])
    return np.array(values)


def test_msgpack_both_ways(server: Running) -> None:
    body = {"items": [{"text": "bread"}], "params": {"output_types": ["dense"]}}
    packed = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    answer = server.ask("POST", "/encode", msgspec.msgpack.encode(body), headers=packed)
    assert answer.headers["content-type"] == "application/msgpack"
    plain = data(server.post("/encode", body))
    got = msgspec.msgpack.decode(answer.body)["items"][0]["dense"]
    close(got["values"], plain["items"][0]["dense"]["values"])


def test_a_field_that_is_not_known_is_refused_where_the_request_is_ours(server: Running) -> None:
    answer = server.post("/search", {"query": "bread", "kk": 3})
    assert answer.status == 422
    assert "kk" in answer.json["error"]["message"]
    assert server.post("/v1/embeddings", {"input": "a", "extra": 1}).status == 200


def test_search(server: Running) -> None:
    answer = data(server.post("/search", {"query": TEXTS["bread"], "k": 2}))
    hits = answer["hits"]
    assert len(hits) == 2
    assert hits[0]["id"] == "bread"
    assert hits[0]["text"] == TEXTS["bread"]
    marked = [hits[0]["text"][mark["start"] : mark["end"]] for mark in hits[0]["marks"]]
    assert marked
    assert set(" ".join(marked).split()) <= set(TEXTS["bread"].split())
    assert hits[0]["sentence"] == {"start": 0, "end": len(TEXTS["bread"])}
    weights = answer["weights"]
    assert weights == {"dense": 1.0, "sparse": 0.5, "multi": 0.8}
    for hit in hits:
        total = sum(weights[head] * (hit[head] or 0) for head in weights)
        assert hit["score"] == pytest.approx(total + (hit["exact"] or 0), abs=1e-4)
    sparse = {"dense": 0, "sparse": 1, "multi": 0}
    other = data(server.post("/search", {"query": "bread", "weights": sparse}))
    assert other["weights"] == {"dense": 0.0, "sparse": 1.0, "multi": 0.0}
    assert other["hits"][0]["score"] == pytest.approx(other["hits"][0]["sparse"])
    none = data(server.post("/search", {"query": "bread", "filter": {"language": "de"}}))
    assert none["hits"] == []
    unknown = server.post("/search", {"query": "bread", "filter": {"year": 1}})
    assert unknown.status == 422
    assert "year" in unknown.json["error"]["message"]
    assert server.post("/search", {"query": "  "}).status == 422


def test_documents_come_and_go(server: Running) -> None:
    new = {"id": "a/new one?", "text": "the ship and the sea", "metadata": {"year": 1912}}
    report = data(server.post("/documents", {"documents": [new]}))
    assert (report["added"], report["skipped"]) == (1, [])
    assert data(server.post("/documents", {"documents": [new]}))["unchanged"] == 1
    hits = data(server.post("/search", {"query": "ship", "filter": {"year": 1912}}))["hits"]
    assert [hit["id"] for hit in hits] == ["a/new one?"]
    page = data(server.ask("GET", "/documents?limit=2"))
    assert [document["id"] for document in page["documents"]] == ["a/new one?", "bread"]
    rest = data(server.ask("GET", f"/documents?limit=2&after={page['next']}"))
    assert [document["id"] for document in rest["documents"]] == ["river", "stars"]
    info = data(server.ask("GET", "/info"))
    assert info["index"]["documents"] == 4
    assert info["index"]["languages"]["en"] == 3
    removed = server.ask("DELETE", "/documents/a/new%20one%3F")
    assert data(removed) == {"removed": 1}
    assert server.ask("DELETE", "/documents/a/new%20one%3F").status == 404


def test_files_are_read_as_their_kinds(server: Running) -> None:
    files = [
        ("up.md", b"# the mountain\n\nthe snow of winter"),
        ("../../bad.pdf", b"no pdf"),
        ("notes.csv", b"text\nsummer garden\n"),
        ("rows.jsonl.gz", gzip.compress(b'{"id": "row", "text": "a horse"}')),
        ("LICENSE", b"free for all"),
        ("program", b"\x7fELF\0"),
    ]
    body, headers = multipart(files)
    lines = server.ask(
        "POST", "/documents", body, headers=headers | {"accept": "application/x-ndjson"}
    )
    events = [json.loads(line) for line in lines.body.splitlines()]
    assert events[-1]["kind"] == "done"
    assert events[-1]["added"] == 4
    assert [problem["source"] for problem in events[-1]["skipped"]] == ["bad.pdf", "program"]
    assert "not a kind of file that is read" in events[-1]["skipped"][1]["reason"]
    assert {event["id"] for event in events if event["kind"] == "skipped"} == {"bad.pdf", "program"}
    assert any(event["kind"] == "progress" for event in events)
    (hit,) = data(server.post("/search", {"query": "snow winter mountain", "k": 1}))["hits"]
    assert (hit["id"], hit["title"]) == ("up.md", "the mountain")
    for id in ("up.md", "row", "LICENSE", "notes.csv%231", "notes.csv%3A2", "notes.csv%232"):
        server.ask("DELETE", f"/documents/{id}")
    assert data(server.ask("GET", "/info"))["index"]["documents"] == len(TEXTS)


def test_a_client_that_does_not_read_holds_no_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "EVENTS", 5)
    monkeypatch.setattr(routes, "PATIENCE", 0.01)

    async def run() -> list[Any]:
        events = routes.Events()
        report: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()
        for number in range(20):  # nobody reads
            await events.put({"number": number})
            assert events.waiting <= 5
        report.set_result({"added": 20})
        return [json.loads(line) async for line in events.lines(report)]

    *kept, note, last = asyncio.run(run())
    assert kept == [{"number": number} for number in range(5)]
    assert "15 lines are left out" in note["reason"]
    assert last == {"kind": "done", "added": 20}


def test_a_client_that_reads_slowly_misses_nothing_and_one_that_leaves_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(routes, "EVENTS", 2)
    monkeypatch.setattr(routes, "PATIENCE", 1e6)

    async def run() -> list[Any]:
        events = routes.Events()

        async def work(count: int) -> dict[str, int]:
            for number in range(count):
                await events.put({"number": number})
            return {"added": count}

        told = [json.loads(line) async for line in events.lines(asyncio.create_task(work(20)))]
        lines = events.lines(left := asyncio.create_task(work(1000)))
        await anext(lines)
        await lines.aclose()
        assert await asyncio.wait_for(left, 30) == {"added": 1000}
        return told

    *told, last = asyncio.run(run())
    assert told == [{"number": number} for number in range(20)]
    assert last["kind"] == "done"


def test_answers_with_vectors_are_made_in_another_thread_to_the_same_bytes() -> None:
    values = wire.DenseValues(2, "float32", [0.5, -1.0])
    items = [wire.EncodedItem(None, 3, False, values), wire.EncodedItem("b", 1, True)]
    answer = wire.EncodeResponse("m", items, wire.TotalTokens(4), {"total_ms": 0.5})
    threads = []

    async def handler(server: Any) -> Any:
        def made() -> wire.EncodeResponse:
            threads.append(threading.current_thread())
            return answer

        return made

    async def ask(accept: bytes) -> bytes:
        async def receive() -> Any:  # the client stays
            await asyncio.Event().wait()

        request = Request({"type": "http", "headers": [(b"accept", accept)]}, receive)
        endpoint: Any = Endpoint("GET", "/encode", "", handler)
        return bytes((await endpoint.answer(None, request)).body)

    assert asyncio.run(ask(b"")) == msgspec.json.encode(answer)
    assert asyncio.run(ask(b"application/msgpack")) == msgspec.msgpack.encode(answer)
    assert threading.current_thread() not in threads
    for other in ([[0.5], []], {"a": [1, 2], "b": 3}, [], "text", wire.Removed(1)):
        assert encoded(other, msgspec.json.encode) == msgspec.json.encode(other)


def test_uploads_are_bounded(server: Running) -> None:
    body, headers = multipart([("big.txt", b"x" * (2 << 20))])
    assert server.ask("POST", "/documents", body, headers=headers).status == 413
    body, headers = multipart([("same.txt", b"a"), ("same.txt", b"b")])
    assert server.ask("POST", "/documents", body, headers=headers).status == 422
    nothing = b'--mark\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n--mark--\r\n'
    assert server.ask("POST", "/documents", nothing, headers=headers).status == 422
    assert server.ask("POST", "/documents", b"--other", headers=headers).status in (400, 422)


def test_explain(server: Running) -> None:
    body = {"query": "the fire", "passage": "bread and fire in the house"}
    answer = data(server.post("/explain", body))
    assert answer["query"] == "the fire"
    shared = {entry["text"] for entry in answer["shared"]}
    assert any("fire" in text for text in shared)
    (fire,) = [token for token in answer["tokens"] if "fire" in token["text"]]
    span = fire["met"]["span"]
    assert 0 <= span["start"] < span["end"] <= len(body["passage"])
