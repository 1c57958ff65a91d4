"""Opens the listening sockets of the gateway's HTTP doors and of its metrics page.

asyncio and aiohttp restrict a socket on `::` to IPv6, so that `[::]:port` would be closed to IPv4
clients. gRPC opens its own sockets, by the same rules as this module.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

MAX_PORT = 65_535
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""Errors of a socket on `::` where the kernel has no IPv6, or has it switched off."""


def listening_sockets(listen: str, *, field: str, shares_port: bool = False) -> list[socket.socket]:
    """Returns the sockets of `open_sockets`. An OSError names the configuration field `field`."""
    try:
        return open_sockets(listen, shares_port=shares_port)
    except OSError as error:
        message = f"{field}: cannot listen on {listen}: {error.strerror or error}"
        raise OSError(message) from None


def open_sockets(listen: str, *, shares_port: bool = False) -> list[socket.socket]:
    """Returns sockets that listen on an address `host:port`. The caller closes them.

    `[::]` is one socket for IPv6 and IPv4, or for IPv4 alone where there is no IPv6. A name has one
    socket for each of its addresses, all with the same port. Port 0 takes a free port.
    `shares_port`: other processes may listen on the same port. Raises OSError.
    """
    name, _, port_text = listen.rpartition(":")
    host, port = name.strip("[]"), int(port_text)
    if port > MAX_PORT:
        raise OSError(errno.EINVAL, f"there is no port above {MAX_PORT}")
    if _is_every_ipv6_address(host):
        try:
            return [_open(socket.AF_INET6, ("::", port), shares_port, dual_stack=True)]
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        return [_open(socket.AF_INET, ("0.0.0.0", port), shares_port)]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            same_port = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_open(family, (address[0], same_port, *address[2:]), shares_port))
    except OSError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _is_every_ipv6_address(host: str) -> bool:
    try:
        return ipaddress.IPv6Address(host).is_unspecified
    except ValueError:
        return False


def _open(
    family: int, address: tuple[object, ...], shares_port: bool, *, dual_stack: bool = False
) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        opened.bind(address)
        opened.listen()
    except BaseException:
        opened.close()
        raise
    return opened
