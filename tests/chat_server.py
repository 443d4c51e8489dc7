"""A chat endpoint on 127.0.0.1 that speaks OpenAI's protocol, and fails in every way it is told to.

What it says is a function of the prompt, so that runs can be compared.
"""

import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL, KEY = "writer", "sk-a-key-of-tests"


@dataclass
class Reply:
    """What goes back: JSON or bytes; or nothing, where the connection is cut."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before it
    cut: bool = False  # after half of the body
    drip: float = 0.0  # seconds between its bytes


def says(text: str | None, *, tokens: int = 100) -> Reply:
    """A chat completion with usage, as OpenAI's API sends it."""
    out = len((text or "").split()) + 1
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": tokens, "completion_tokens": out, "total_tokens": tokens + out}
    facts = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    return Reply({**facts, "choices": [choice], "usage": usage})


def fails(status: int, message: str, *, code: str = "", **headers: str) -> Reply:
    """An error as OpenAI's API sends it."""
    error = {"message": message, "type": "error", "param": None, "code": code or None}
    return Reply({"error": error}, status, {n.replace("_", "-"): v for n, v in headers.items()})


def question_on(prompt: str) -> str:
    """A question with the longest words of a prompt's paragraph; another one for each."""
    paragraph = prompt.rpartition("Paragraph:\n")[2]
    words = sorted(set(re.findall(r"\w+", paragraph)), key=lambda word: (-len(word), word))
    case = zlib.crc32(paragraph.strip().encode())
    return f"Which rule connects {' and '.join(words[:3])} in case {case}?"


Mind = Callable[[dict[str, Any], int], Reply]  # the request, and its number from 0


def writer(request: dict[str, Any], number: int) -> Reply:
    """Answers every prompt with a good question."""
    first = request["messages"][0]["content"]
    return says(question_on(first), tokens=len(first.encode()) // 4)


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: whoever asked has gone."""


class ChatServer:
    """Runs while its block does; `url` is its address, `requests` what it was sent.

    The first requests get `faults`, one each; the others what `mind` says.
    """

    def __init__(
        self, mind: Mind = writer, *, faults: tuple[Reply, ...] = (), key: str | None = None
    ) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._mind, self._faults, self._key = mind, faults, key
        self._open = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        run = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=run, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """What a request gets."""
        if path != "/v1/chat/completions":
            return fails(404, f"Invalid URL (POST {path})")
        if self._key is not None and headers.get("authorization") != f"Bearer {self._key}":
            sent = headers.get("authorization", "none")
            return fails(401, f"Incorrect API key provided: {sent}", code="invalid_api_key")
        request = json.loads(body)
        if request["model"] != MODEL:
            return fails(404, f"The model {request['model']} does not exist")
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.times.append(time.monotonic())
            self.headers.append(headers)
        return self._faults[number] if number < len(self._faults) else self._mind(request, number)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with server._lock:
                    server._open += 1
                    server.most_at_once = max(server.most_at_once, server._open)
                reply = server.answer(self.path, headers, body)
                time.sleep(reply.delay)
                with server._lock:
                    server._open -= 1
                try:
                    self._send(reply)
                except OSError:  # whoever asked has gone
                    self.close_connection = True

            def _send(self, reply: Reply) -> None:
                raw = reply.body
                kind = "text/html; charset=utf-8"
                if not isinstance(raw, bytes):
                    raw, kind = json.dumps(raw).encode(), "application/json"
                self.send_response(reply.status)
                for name, value in {"Content-Type": kind, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                size = 1 if reply.drip else max(1, len(raw))
                raw = raw[: len(raw) // 2] if reply.cut else raw
                for start in range(0, len(raw), size):
                    self.wfile.write(raw[start : start + size])
                    time.sleep(reply.drip)
                self.close_connection = self.close_connection or reply.cut

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


HTML = Reply(b"<html><body><h1>Please log in</h1></body></html>")
NO_JSON = Reply(b'{"choices": [{"mess', headers={"Content-Type": "application/json"})
