"""Listening sockets: one for both families, and what is left where there is no IPv6."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.domain.listening import listening_sockets, open_sockets


@contextmanager
def opened(listen: str) -> Iterator[list[socket.socket]]:
    sockets = open_sockets(listen)
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def takes(host: str, port: int) -> bool:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as client:
            client.connect((host, port))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["[::]", "[0:0::0]"])
def test_every_ipv6_address_is_one_socket_for_both_families(host: str) -> None:
    with opened(f"{host}:0") as (one,):
        assert takes("127.0.0.1", port_of(one))
        assert takes("::1", port_of(one))


@pytest.mark.parametrize(
    ("listen", "ipv4", "ipv6"),
    [("0.0.0.0:0", True, False), ("127.0.0.1:0", True, False), ("[::1]:0", False, True)],
)
def test_an_address_of_one_family_is_that_family(listen: str, ipv4: bool, ipv6: bool) -> None:
    with opened(listen) as (one,):
        assert (takes("127.0.0.1", port_of(one)), takes("::1", port_of(one))) == (ipv4, ipv6)


def test_a_name_has_a_socket_for_each_address_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: [*addresses, addresses[1]])
    with opened("name.example:0") as sockets:
        first, second = map(port_of, sockets)
        assert first == second
        assert takes("127.0.0.1", first)
        assert takes("::1", first)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_every_address_is_every_ipv4_address(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class Ipv4Only(socket.socket):
        def bind(self, address: object) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, "no IPv6")
            super().bind(address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Ipv4Only)
    with opened("[::]:0") as (one,):
        assert one.getsockname()[0] == "0.0.0.0"
        assert takes("127.0.0.1", port_of(one))


def test_a_taken_port_is_no_lack_of_ipv6() -> None:
    with opened("[::]:0") as (one,):
        taken = f"[::]:{port_of(one)}"
        with pytest.raises(OSError, match=r"^server\.x: cannot listen on \[::\]:"):
            listening_sockets(taken, field="server.x")


def test_a_port_may_be_shared() -> None:
    first = open_sockets("[::]:0", shares_port=True)
    second = open_sockets(f"[::]:{port_of(first[0])}", shares_port=True)
    for one in (*first, *second):
        one.close()


def test_a_port_that_is_none_is_told() -> None:
    with pytest.raises(OSError, match=r"^server\.x: cannot listen on \[::\]:70000"):
        listening_sockets("[::]:70000", field="server.x")


def test_a_name_without_an_address_is_an_error_that_names_the_field() -> None:
    with pytest.raises(OSError, match=r"^server\.x: cannot listen on no\.such\.invalid:1: "):
        listening_sockets("no.such.invalid:1", field="server.x")
