"""A server of the tiny model with an index of its own, for the tests of this folder."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TEXTS = {
    "river": "the river and the water of the city",
    "stars": "the star and the light of the night",
    "bread": "bread and fire in the house",
}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: list[str] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:
        """Sends JSON, or bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        given = {"content-type": "application/json"} | (headers or {})
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, payload, given)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.ask("POST", path, body, **options)

    def children(self) -> list[int]:
        """The processes that it started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in listed.read_text().split()]


def start(*arguments: str, env: dict[str, str] | None = None, wait: float = 120) -> Running:
    """A server with these arguments, when it answers; raises RuntimeError with its log."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tercet", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
    )
    running = Running(process, 0)
    serving = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode()
            running.log.append(line)
            if address := re.search(r"serving .* at http://[^:]+:(\d+)", line):
                running.port = int(address[1])
                serving.set()
        serving.set()

    threading.Thread(target=read, daemon=True).start()
    serving.wait(wait)
    if not running.port:
        process.kill()
        raise RuntimeError("".join(running.log) or "the server does not start")
    return running


def stop(running: Running) -> int:
    """Ends a server in order; its exit code."""
    running.process.send_signal(signal.SIGTERM)
    return running.process.wait(60)


def until(condition: Any, seconds: float = 60) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def multipart(files: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """The body of a form with files, and its headers."""
    parts = [
        b'--mark\r\ncontent-disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    headers = {"content-type": "multipart/form-data; boundary=mark"}
    return b"".join(parts) + b"--mark--\r\n", headers


@pytest.fixture(scope="session")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose index holds TEXTS; tests that change it put it back."""
    folder = tmp_path_factory.mktemp("served")
    running = start(
        *(str(folder / "index"), "--model", str(tiny_checkpoint)),
        *("--max-body-mb", "1", "--max-upload-mb", "1", "--allow-origin", "https://friend.test"),
    )
    documents = [{"id": id, "text": text, "language": "en"} for id, text in TEXTS.items()]
    report = running.post("/documents", {"documents": documents})
    assert report.json["added"] == len(TEXTS), report.body
    yield running
    assert stop(running) == 0
