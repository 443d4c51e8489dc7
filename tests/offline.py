"""Refuses every connection that leaves this machine, for the rest of the process.

`tests/conftest.py` calls `block` for the tests. A copy of this file named `sitecustomize.py` on
PYTHONPATH does the same for a command run in a process of its own. Uses the standard library only.
"""

import ipaddress
import sys
from typing import Any

# Raised before the call is made; the arguments are those of Python's audit events.
EVENTS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
EVENTS |= {"socket.gethostbyname", "socket.gethostbyaddr"}


class NetworkUsed(RuntimeError):
    """Not an OSError: libraries would take that for a slow network and try again."""


def is_local(host: Any) -> bool:
    """Whether a host is this machine: a loopback address, its name, or no host at all."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not host or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: raises NetworkUsed for an address that is not local."""
    if event not in EVENTS:
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # else a Unix socket's path
    else:
        host = arguments[0]
    if not is_local(host):
        raise NetworkUsed(f"{event} to {host}: nothing here may use the network")


def block() -> None:
    """Installs the hook; an audit hook cannot be taken away again."""
    sys.addaudithook(refuse)


if __name__ == "sitecustomize":
    block()
