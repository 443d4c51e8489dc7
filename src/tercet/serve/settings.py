"""What `tercet serve` is told: where it listens, who may ask, how much at once."""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tercet.errors import InputError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
KEY_ENV = "TERCET_KEYS"
SHORTEST_KEY = 8


@dataclass(frozen=True)
class ServeSettings:
    """What is served, to whom, and how much at once.

    Options:
      host NAME: Address to listen at; beyond this machine only with a key.
      port N: 0: any that is free.
      read_only: Search the index and leave changing it to others.
      key_file FILE: API keys, one a line; also $TERCET_KEYS, separated by commas.
      allow_host NAME: Name that the server is asked by, besides its own; may be repeated.
          [default: any name where it listens beyond this machine, else localhost]
      allow_origin URL: Page elsewhere that may ask, as https://example.com; may be repeated.
      max_body_mb N: Largest body of a request.
      max_upload_mb N: Largest upload of files.
      max_files N: Files of an upload.
      max_requests N: Requests under way at once.
      queue_tokens N: Tokens that may wait for the model, about; more are refused with 429.
      batch_tokens N: Tokens of a pass of the model.  [default: 2048 on a CPU, 65536 on a GPU]
      trace: Send a span of each request to OpenTelemetry, as its environment variables say.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    read_only: bool = False
    key_file: Path | None = None
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    max_body_mb: int = 16
    max_upload_mb: int = 256
    max_files: int = 1000
    max_requests: int = 1024
    queue_tokens: int = 1 << 17
    batch_tokens: int | None = None
    trace: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}: give 0 to 65535")
        limits = ("max_body_mb", "max_upload_mb", "max_files", "max_requests", "queue_tokens")
        for name in (*limits, "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: give at least 1")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def keys(self) -> tuple[bytes, ...]:
        """The API keys; raises InputError where one is short, or beyond loopback none is given."""
        given = os.environ.get(KEY_ENV, "").split(",")
        if self.key_file is not None:
            try:
                given += self.key_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{self.key_file}: no keys can be read: {error}") from error
        keys = [key.strip() for key in given if key.strip()]
        if self.key_file is not None and not keys:
            raise InputError(f"{self.key_file}: holds no key: write one a line")
        if any(len(key) < SHORTEST_KEY or not key.isascii() or " " in key for key in keys):
            raise InputError(
                f"an API key has at least {SHORTEST_KEY} letters, digits or signs, and no space"
            )
        if not keys and not self.is_local:
            raise InputError(
                f"{self.host} is reached from other machines: give an API key (--key-file or "
                f"{KEY_ENV}), or listen at 127.0.0.1"
            )
        return tuple(key.encode() for key in keys)
