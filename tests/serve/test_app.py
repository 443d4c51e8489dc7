"""Who may ask, how much, what failures look like, and what happens when processes die."""

import http.client
import http.server
import json
import os
import random
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tercet.errors import InputError
from tercet.serve.openapi import document
from tercet.serve.routes import ENDPOINTS
from tercet.serve.settings import ServeSettings
from tests.serve.conftest import TEXTS, Running, multipart, start, stop, until

SECRET = "a-very-secret-key"


def test_failures_are_json_with_a_sentence(server: Running) -> None:
    cases: list[tuple[str, str, Any, dict[str, str], int]] = [
        ("GET", "/nothing", None, {}, 404),
        ("PUT", "/search", b"", {}, 405),
        ("POST", "/search", b"{", {}, 400),
        ("POST", "/search", b"[]", {}, 422),
        ("POST", "/search", b'{"query": "a"}', {"content-type": "text/plain"}, 415),
        ("POST", "/search", b'{"query": "a", "k": 0}', {}, 422),
        ("POST", "/search", b'{"query": "' + b"a" * (2 << 20) + b'"}', {}, 413),
        ("POST", "/search", b"[" * 100_000, {}, 422),
        ("POST", "/encode", b'{"items": [{"text": "\xff"}]}', {}, 400),
        ("GET", "/documents?limit=0", None, {}, 422),
        ("GET", f"/documents?limit={'9' * 5000}", None, {}, 422),
        ("GET", "/health", None, {"host": "elsewhere.test"}, 403),
        ("POST", "/search", b'{"query": "a"}', {"origin": "https://evil.test"}, 403),
        ("POST", "/search", b'{"query": "a"}', {"origin": "http://["}, 403),
        ("POST", "/search", b'{"query": "a"}', {"sec-fetch-site": "cross-site"}, 403),
    ]
    for method, path, body, headers, status in cases:
        answer = server.ask(method, path, body, headers=headers)
        assert answer.status == status, (method, path, body, answer.body)
        assert len(answer.json["error"]["message"]) > 10
        assert answer.headers["x-request-id"]
    assert server.ask("POST", "/search", b"{", headers={"x-request-id": "mine-1"}).headers[
        "x-request-id"
    ] == ("mine-1")


def test_a_page_that_is_allowed_may_ask(server: Running) -> None:
    origin = {"origin": "https://friend.test"}
    answer = server.post("/search", {"query": "bread"}, headers=origin)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://friend.test"
    asked = server.ask("OPTIONS", "/search", headers=origin)
    assert asked.status == 204
    assert "content-type" in asked.headers["access-control-allow-headers"]
    own = {"origin": f"http://127.0.0.1:{server.port}"}
    plain = server.post("/search", {"query": "bread"}, headers=own)
    assert plain.status == 200
    assert "access-control-allow-origin" not in plain.headers


def test_texts_are_in_no_log(server: Running) -> None:
    server.post("/search", {"query": "xylophone zebra"})
    server.post("/search", {"query": "xylophone zebra", "mode": "none"})
    server.post("/v1/embeddings", {"input": ["xylophone zebra", 5]})
    until(lambda: sum('"/search"' in line for line in server.log) >= 2)
    assert not any("xylophone" in line for line in server.log)
    facts = json.loads(next(line for line in server.log if '"/search"' in line))
    assert {"time", "level", "request_id", "route", "status", "seconds"} <= facts.keys()


def test_metrics_and_readiness(server: Running) -> None:
    assert server.ask("GET", "/ready").status == 200
    before = _metric(server, "tercet_texts_total")
    server.post("/v1/embeddings", {"input": ["a", "b", "c"]})
    assert _metric(server, "tercet_texts_total") == before + 3
    assert _metric(server, 'tercet_requests_total{route="/v1/embeddings",status="200"}') >= 1
    assert _metric(server, "tercet_queue_tokens") == 0


def _metric(server: Running, name: str) -> float:
    text = server.ask("GET", "/metrics").body.decode()
    value = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert value is not None, name
    return float(value[1])


def test_requests_side_by_side_get_their_own_answers(server: Running) -> None:
    words = "river mountain city water light history music science people world".split()

    def one(number: int) -> tuple[str, Any]:
        text = " ".join(random.Random(number).choices(words, k=1 + number % 40))
        if number % 7 == 3:  # one that fails must touch nobody
            return "bad", server.post("/encode", {"items": [{"text": text, "x": 1}]}).status
        if number % 11 == 5:
            return "bad", server.post("/v1/embeddings", {"input": [[10**7]]}).status
        body = {"items": [{"id": text, "text": text}], "params": {"output_types": ["sparse"]}}
        return text, server.post("/encode", body).json["items"][0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(150)))
    single: dict[str, Any] = {}
    for text, item in answers:
        if text == "bad":
            assert item == 422
            continue
        assert item["id"] == text
        if text not in single:
            body = {"items": [{"text": text}], "params": {"output_types": ["sparse"]}}
            single[text] = server.post("/encode", body).json["items"][0]
        weights = [
            dict(zip(s["indices"], s["values"], strict=True))
            for s in (item["sparse"], single[text]["sparse"])
        ]
        for index in weights[0].keys() | weights[1].keys():
            assert abs(weights[0].get(index, 0) - weights[1].get(index, 0)) < 0.1
        assert item["num_tokens"] == single[text]["num_tokens"]


def test_fuzzed_bodies_never_break_it(server: Running) -> None:
    draw = random.Random(7)
    values: list[Any] = [None, True, -1, 0, 1.5, 1e308, "", "a", "\0", "\ud800", "水" * 50]
    values += [[], {}, [[]], [{}], {"a": []}, ["a"] * 3, [1, 2], [["a"]], {"text": "b"}]
    for endpoint in ENDPOINTS:
        if endpoint.takes is None:
            continue
        fields = [field.encode_name for field in msgspec.structs.fields(endpoint.takes)]
        for _ in range(12):
            body = {name: draw.choice(values) for name in fields if draw.random() < 0.7}
            raw = json.dumps(body).encode()
            if draw.random() < 0.2:
                raw = raw[: draw.randrange(len(raw))]
            answer = server.ask("POST", endpoint.path, raw)
            assert answer.status < 500, (endpoint.path, raw, answer.body)
            assert b"Traceback" not in answer.body
            assert b".py" not in answer.body
    for document_id in {d["id"] for d in server.ask("GET", "/documents").json["documents"]}:
        if document_id not in TEXTS:
            server.ask("DELETE", f"/documents/{document_id}")


def test_the_openapi_document_names_every_route_and_shape(server: Running) -> None:
    served = server.ask("GET", "/openapi.json").json
    assert served == json.loads(msgspec.json.encode(document(ENDPOINTS)))
    assert {"/encode", "/search", "/documents", "/documents/{id}", "/v1/embeddings"} <= (
        served["paths"].keys()
    )
    names = served["components"]["schemas"].keys()
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(served)):
        assert name in names
    ids = [op["operationId"] for path in served["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids))


def test_the_pages_and_their_files(server: Running) -> None:
    for path, kind, words in (
        ("/", "text/html", b"search"),
        ("/docs", "text/html", b"OpenAPI"),
        ("/static/docs.js", "text/javascript", b"openapi.json"),
        ("/static/style.css", "text/css", b"body"),
    ):
        answer = server.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert words in answer.body
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/.hidden", "/static/x.js"):
        assert server.ask("GET", path).status == 404


def test_keys(tiny_checkpoint: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{SECRET}\nanother-secret-key\n", encoding="utf-8")
    running = start("--model", str(tiny_checkpoint), "--key-file", str(keys))
    try:
        body = {"input": "bread"}
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong-wrong"}, 401),
            ({"authorization": f"Basic {SECRET}"}, 401),
            ({"authorization": f"Bearer {SECRET}"}, 200),
            ({"x-api-key": "another-secret-key"}, 200),
        ):
            answer = running.post("/v1/embeddings", body, headers=headers)
            assert answer.status == status, headers
        assert running.ask("GET", "/health").status == 200
        assert running.ask("GET", "/metrics").status == 401
        known = {"authorization": f"Bearer {SECRET}"}
        no_index = running.post("/search", {"query": "a"}, headers=known)
        assert no_index.status == 404
        assert "tercet serve INDEX" in no_index.json["error"]["message"]
        info = running.ask("GET", "/info", headers=known).json
        assert info["index"] is None
        assert info["model"]["heads"] == ["dense", "sparse", "multi"]
    finally:
        assert stop(running) == 0
    assert not any("secret" in line for line in running.log)


def test_it_is_only_reached_from_elsewhere_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERCET_KEYS", raising=False)
    assert ServeSettings().keys() == ()
    for host in ("0.0.0.0", "::", "192.168.1.5", "myhost"):
        with pytest.raises(InputError, match="key"):
            ServeSettings(host=host).keys()
    monkeypatch.setenv("TERCET_KEYS", f"{SECRET}, second-secret")
    assert ServeSettings(host="0.0.0.0").keys() == (SECRET.encode(), b"second-secret")
    monkeypatch.setenv("TERCET_KEYS", "short")
    with pytest.raises(InputError, match="8"):
        ServeSettings().keys()
    monkeypatch.delenv("TERCET_KEYS")
    (tmp_path / "none").write_text("\n")
    with pytest.raises(InputError, match="none"):
        ServeSettings(key_file=tmp_path / "none").keys()


@pytest.mark.parametrize(
    "given", [{"port": 99999}, {"port": -1}, {"max_files": 0}, {"batch_tokens": 0}], ids=str
)
def test_settings_that_cannot_be_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(given))):
        ServeSettings(**given)


def test_processes_that_die_are_started_again_and_nothing_is_lost(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    running = start(
        *(str(tmp_path / "index"), "--model", str(tiny_checkpoint)), env={"TMPDIR": str(scratch)}
    )
    documents = [{"id": id, "text": text} for id, text in TEXTS.items()]
    assert running.post("/documents", {"documents": documents}).json["added"] == 3
    for pid in running.children():
        os.kill(pid, signal.SIGKILL)
    until(lambda: running.ask("GET", "/ready").status == 503)
    assert running.ask("GET", "/health").status == 200
    away = running.post("/search", {"query": "bread"})
    assert away.status == 503
    assert int(away.headers["retry-after"]) >= 1
    upload, headers = multipart([("up.md", b"the snow of winter")])
    assert running.ask("POST", "/documents", upload, headers=headers).status == 503
    told = headers | {"accept": "application/x-ndjson"}
    assert b'"error"' in running.ask("POST", "/documents", upload, headers=told).body
    until(lambda: not any(scratch.glob("tercet-upload-*")))
    until(lambda: running.ask("GET", "/ready").status == 200, 120)
    hits = running.post("/search", {"query": "bread and fire", "k": 3}).json["hits"]
    assert {hit["id"] for hit in hits} == set(TEXTS)
    again = running.post("/documents", {"documents": documents}).json
    assert again["unchanged"] == 3
    # a second server may read the same index, and is told why it cannot change it
    with pytest.raises(RuntimeError, match=f"{running.children()[0]}|process"):
        start(str(tmp_path / "index"), "--model", str(tiny_checkpoint))
    reader = start(str(tmp_path / "index"), "--model", str(tiny_checkpoint), "--read-only")
    assert reader.post("/search", {"query": "fire", "k": 1}).status == 200
    assert reader.post("/documents", {"documents": documents}).status == 403
    assert stop(reader) == 0
    # told to stop, it answers what is under way
    slow = threading.Thread(target=lambda: answers.append(running.post("/encode", body)))
    answers: list[Any] = []
    body = {"items": [{"text": "river water " * 200}] * 200, "params": {"output_types": ["dense"]}}
    slow.start()
    time.sleep(0.2)
    assert stop(running) == 0
    slow.join(60)
    assert [answer.status for answer in answers] == [200]


def test_a_client_that_leaves_is_no_work(server: Running) -> None:
    body = json.dumps({"items": [{"text": "river water " * 200}] * 60}).encode()
    head = (
        f"POST /encode HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + body)
            time.sleep(0.02)
    start_time = time.monotonic()
    assert server.post("/v1/embeddings", {"input": "bread"}).status == 200
    assert time.monotonic() - start_time < 30
    until(lambda: _metric(server, "tercet_queue_tokens") == 0)


def test_what_the_queue_cannot_take_is_refused(tiny_checkpoint: Path) -> None:
    running = start("--model", str(tiny_checkpoint), "--queue-tokens", "4000")
    try:
        texts = ["river water " * 100] * 9
        assert running.post("/v1/embeddings", {"input": texts * 3}).status == 413
        pairs = {"queries": texts * 2, "documents": texts * 2}
        assert running.post("/v1/score", pairs).status == 413

        def one(_: int) -> Any:
            return running.post("/v1/embeddings", {"input": texts})

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(one, range(36)))
        assert {answer.status for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json["error"]["type"] == "rate_limit_error"
    finally:
        stop(running)


def test_keep_alive_connections_are_served_again(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for _ in range(3):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()


def test_spans_are_sent_where_that_is_asked(tiny_checkpoint: Path) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            received.append((self.path, self.rfile.read(size)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{collector.server_address[1]}"
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    running = start("--model", str(tiny_checkpoint), "--trace", env=env)
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    running.post("/v1/embeddings", {"input": "bread"}, headers=headers)
    until(lambda: any(b"/v1/embeddings" in body for _, body in received))
    assert stop(running) == 0
    collector.shutdown()
    bodies = b"".join(body for _, body in received)
    assert {path for path, _ in received} == {"/v1/traces"}
    assert bytes.fromhex(trace) in bodies
    assert b"bread" not in bodies
