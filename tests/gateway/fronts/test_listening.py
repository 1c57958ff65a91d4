"""A shared port belongs to one gateway."""

from __future__ import annotations

import socket

import pytest

from gateway.fronts.listening import shared_port


def reusing(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0", "localhost"])
def test_fronts_may_share_it_and_others_may_not(host: str) -> None:
    with shared_port(f"{host}:0", "server.listen") as address:
        name, _, port = address.rpartition(":")
        assert name == host
        assert int(port) > 0
        family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
        with socket.socket(family) as alone, pytest.raises(OSError, match="in use"):
            alone.bind((host.strip("[]"), int(port)))
        if host == "127.0.0.1":
            with reusing(int(port)) as front:
                front.listen()
                with socket.create_connection(("127.0.0.1", int(port))):
                    pass


def test_a_port_that_is_taken_is_told() -> None:
    with (
        shared_port("127.0.0.1:0", "server.listen") as address,
        pytest.raises(OSError, match=r"server\.listen: cannot listen on 127\.0\.0\.1"),
        shared_port(address, "server.listen"),
    ):
        pass


def test_a_host_that_does_not_exist_is_told() -> None:
    with (
        pytest.raises(OSError, match=r"server\.http_listen: cannot listen on 192\.0\.2\.1:0"),
        shared_port("192.0.2.1:0", "server.http_listen"),
    ):
        pass
