"""The block that all tests run under: what leaves the machine is refused, what stays works."""

import socket

import pytest

from tests.offline import NetworkUsed


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_what_leaves_the_machine_is_refused(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as out, pytest.raises(NetworkUsed):
        out.connect((address, 80))


def test_names_are_not_looked_up() -> None:
    with pytest.raises(NetworkUsed):
        socket.getaddrinfo("example.org", 80)


def test_this_machine_answers() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.sendall(b"x")
        assert server.accept()[0].recv(1) == b"x"
