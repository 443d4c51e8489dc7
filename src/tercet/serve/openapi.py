"""The OpenAPI document of the routes, made from the shapes that they take and give."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from tercet.serve import wire
from tercet.serve.app import JSON, MSGPACK, NDJSON, Endpoint

_FAILURES = {
    "400": "No JSON.",
    "401": "A wrong key, or none.",
    "403": "A host or page that may not ask.",
    "413": "Too large.",
    "415": "A content type that is not taken.",
    "422": "A field that does not fit; the message says which and why.",
    "429": "Too much waits: Retry-After has the seconds.",
    "503": "A process is started again, or the server ends.",
}
_FILES = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["file"],
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """OpenAPI 3.1 of the endpoints that speak JSON."""
    shown = [endpoint for endpoint in endpoints if endpoint.gives is not None]
    types: list[Any] = [wire.ErrorResponse, wire.TeiError]
    for endpoint in shown:
        types += [kind for kind in (endpoint.takes, endpoint.gives) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    remaining = iter(schemas)
    openai_error, tei_error = next(remaining), next(remaining)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in shown:
        takes = None if endpoint.takes is None else next(remaining)
        gives = next(remaining)
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "operationId": endpoint.handler.__name__ + endpoint.path.replace("/", "_"),
            "tags": [endpoint.tag],
            "responses": {"200": _content("What was asked for.", gives, endpoint)},
        }
        if endpoint.open:
            operation["security"] = []
        error = tei_error if endpoint.dialect == "tei" else openai_error
        for status, sentence in _FAILURES.items():
            operation["responses"][status] = {
                "description": sentence,
                "content": {JSON: {"schema": error}},
            }
        parameters: list[dict[str, Any]] = [
            {
                "name": name,
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": 1000}
                if kind is int
                else {"type": "string"},
            }
            for name, kind in endpoint.query.items()
        ]
        path = endpoint.path.replace(":path}", "}")
        if "{" in path:
            schema = {"type": "string", "minLength": 1}
            parameters.append({"name": "id", "in": "path", "required": True, "schema": schema})
            operation["responses"]["404"] = {
                "description": "No such document.",
                "content": {JSON: {"schema": error}},
            }
        if parameters:
            operation["parameters"] = parameters
        if takes is not None:
            content: dict[str, Any] = {JSON: {"schema": takes}}
            if endpoint.raw:
                content["multipart/form-data"] = {"schema": _FILES}
            elif endpoint.tag == "tercet":
                content[MSGPACK] = {"schema": takes}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tercet",
            "version": version("tercet"),
            "description": "Three representations of a text, scores, and search over an index.",
        },
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _content(sentence: str, schema: Any, endpoint: Endpoint) -> dict[str, Any]:
    content = {JSON: {"schema": schema}}
    if endpoint.method == "POST" and endpoint.path == "/documents":
        content[NDJSON] = {"schema": {"type": "string"}}
    elif endpoint.tag == "tercet" and not endpoint.raw and endpoint.takes is not None:
        content[MSGPACK] = {"schema": schema}
    return {"description": sentence, "content": content}
