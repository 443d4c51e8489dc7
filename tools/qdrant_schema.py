"""A stand-in for a Qdrant server: every request is checked against Qdrant's published schema.

    git clone --depth 1 https://github.com/qdrant/qdrant
    pip install 'tercet[qdrant]' openapi-schema-validator
    python tools/qdrant_schema.py qdrant/docs/redoc/master/openapi.json --port 6399
    TERCET_QDRANT_URL=http://localhost:6399 pytest tests/index tests/collection/test_published.py

The path, the method and the body of a request must be in openapi.json as they are sent; what is
refused is answered with 422 and printed. The answers come from the client's local mode, in the form
of the server's; with --engine from Qdrant's engine (`pip install qdrant-edge-py`).
"""

import argparse
import json
import re
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

from openapi_schema_validator import OAS30Validator
from qdrant_client import QdrantClient, models
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

turn = Lock()
local: Any = QdrantClient(":memory:")


class Schema:
    """The request bodies of openapi.json."""

    def __init__(self, path: Path) -> None:
        self.document = _strict(json.loads(path.read_text(encoding="utf-8")))
        resource = Resource.from_contents(self.document, default_specification=DRAFT4)
        self.registry: Any = Registry().with_resource("openapi", resource)
        self.checked: dict[str, int] = {}

    def problem(self, method: str, path: str, body: Any) -> str | None:
        """Why a request is none of the schema's; None where it is."""
        for template, operations in self.document["paths"].items():
            pattern = re.sub(r"\{\w+\}", "[^/]+", template)
            if method in operations and re.fullmatch(pattern, path):
                break
        else:
            return f"no operation {method} {path}"
        name = f"{method.upper()} {template}"
        self.checked[name] = self.checked.get(name, 0) + 1
        content = operations[method].get("requestBody", {}).get("content")
        if content is None:
            return None if body is None else f"{name} takes no body"
        pointer = f"{template.replace('~', '~0').replace('/', '~1')}/{method}/requestBody"
        reference = f"openapi#/paths/{pointer}/content/application~1json/schema"
        validator: Any = OAS30Validator({"$ref": reference}, registry=self.registry)
        errors = [error.message for error in validator.iter_errors(body)]
        return f"{name}: {errors[0]:.500}" if errors else None


def _strict(node: Any) -> Any:
    """A schema in which what may be null is null or what it should be, and no key is unknown."""
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node == {"nullable": True}:  # by the letter of OpenAPI 3.0 this allows anything
        return {"enum": [None]}
    node = {key: _strict(part) for key, part in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        node.setdefault("additionalProperties", False)
    return node


def answer(method: str, parts: list[str], body: Any) -> Any:
    """What a server would say."""
    match (method, parts):
        case ("get", ["collections"]):
            return local.get_collections()
        case ("get", ["aliases"]):
            return local.get_aliases()
        case ("post", ["collections", "aliases"]):
            actions = models.ChangeAliasesOperation(**body).actions
            return local.update_collection_aliases(actions)
        case ("get", ["collections", name, "exists"]):
            return {"exists": local.collection_exists(name)}
        case ("get", ["collections", name]):
            return local.get_collection(name)
        case ("put", ["collections", name]):
            made = models.CreateCollection(**body)
            return local.create_collection(
                name,
                vectors_config=made.vectors,
                sparse_vectors_config=made.sparse_vectors,
                metadata=made.metadata,
            )
        case ("patch", ["collections", name]):
            return local.update_collection(name, metadata=body["metadata"])
        case ("delete", ["collections", name]):
            return local.delete_collection(name)
        case ("put", ["collections", name, "index"]):
            kind = models.PayloadSchemaType(body["field_schema"])
            return local.create_payload_index(name, body["field_name"], kind)
        case ("put", ["collections", name, "points"]):
            return local.upsert(name, models.PointsList(**body).points)
        case ("post", ["collections", name, "points"]):
            asked: Any = models.PointRequest(**body)
            return local.retrieve(name, asked.ids, asked.with_payload, asked.with_vector)
        case ("post", ["collections", name, "points", "delete"]):
            return local.delete(name, models.PointIdsList(**body))
        case ("post", ["collections", name, "points", "query", "batch"]):
            return local.query_batch_points(name, models.QueryRequestBatch(**body).searches)
        case ("post", ["collections", name, "points", "count"]):
            counted = models.CountRequest(**body)
            return local.count(name, counted.filter, bool(counted.exact))
        case ("post", ["collections", name, "points", "scroll"]):
            scrolled: Any = models.ScrollRequest(**body)
            points, following = local.scroll(
                name,
                scroll_filter=scrolled.filter,
                limit=scrolled.limit or 10,
                offset=scrolled.offset,
                with_payload=scrolled.with_payload,
            )
            return {"points": points, "next_page_offset": following}
    raise LookupError(f"{method} {parts}")


class Handler(BaseHTTPRequestHandler):
    """Checks and answers one request after another."""

    schema: Schema

    def _do(self) -> None:
        path, method = urlsplit(self.path).path, self.command.lower()
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.loads(raw) if raw else None
        status, result = 200, None
        with turn:
            if problem := self.schema.problem(method, path, body):
                print(problem, flush=True)
                status, result = 422, problem
            else:
                try:
                    result = answer(method, [unquote(part) for part in path.split("/")[1:]], body)
                except (ValueError, LookupError) as error:
                    status, result = 404, str(error)
            content = json.dumps(
                {"result": result, "status": "ok" if status == 200 else "error", "time": 0},
                default=lambda model: model.model_dump(mode="json", exclude_none=True),
            ).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of requests that are as they should be."""


for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
    setattr(Handler, f"do_{method}", Handler._do)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schema", type=Path)
    parser.add_argument("--port", type=int, default=6399)
    parser.add_argument("--engine", action="store_true", help="answers are those of the engine")
    options = parser.parse_args()
    if options.engine:
        from engine_client import EngineClient

        global local
        local = EngineClient()
    Handler.schema = Schema(options.schema)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            for name, times in sorted(Handler.schema.checked.items()):
                print(f"{times:6} {name}")


if __name__ == "__main__":
    main()
