"""Opens the connections of a link between machines: TLS over TCP, both sides with certificates.

Before a peer has shown a certificate of the cluster, it costs a bounded number of handshakes, each
of bounded time, and nothing that it sends reaches a `Connection`. A peer that is gone without a
word (a cut network, a machine that is off) is noticed within `GONE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import cast

from gateway.link.wire.certificates import LinkCertificates
from gateway.link.wire.connection import Connection, reason_of

log = logging.getLogger(__name__)

BACKLOG = 128
HANDSHAKE_S = 5.0
"""Longest time for a handshake, and for a connection to come about."""
MAX_HANDSHAKES = 64
"""Handshakes at once; of one address, `MAX_HANDSHAKES_OF_ADDRESS`. Further ones are closed."""
MAX_HANDSHAKES_OF_ADDRESS = 8
MAX_CONNECTIONS = 1024
"""Connections at once after their handshakes."""
GONE_S = 3
"""Silence of a peer's machine after which a connection is lost."""
REPORT_S = 10.0
"""Shortest time between two log lines on refused connections."""


class LinkServer:
    """Accepts connections until it is closed. `listener`: made by `bound`; closed with it."""

    def __init__(
        self,
        listener: socket.socket,
        certificates: LinkCertificates,
        make: Callable[[], Connection],
    ) -> None:
        self._listener = listener
        self._certificates = certificates
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._handshakes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._refused = 0
        self._report_s = 0.0
        self._accepting = self._loop.create_task(self._accept(), name="moegate-link")

    @property
    def address(self) -> str:
        """host:port that it listens on."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Accepts no more connections, and ends handshakes. The port is closed."""
        self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        while True:
            try:
                peer, address = await self._loop.sock_accept(self._listener)
            except OSError as error:  # out of files, or the peer has gone already
                self._refuse("a peer", str(error))
                await asyncio.sleep(0.1)
                continue
            host = str(address[0])
            self._open = {connection for connection in self._open if not connection.lost}
            of_all, of_host = self._handshakes.total(), self._handshakes[host]
            if of_all >= MAX_HANDSHAKES or of_host >= MAX_HANDSHAKES_OF_ADDRESS:
                peer.close()
                self._refuse(host, "too many handshakes at once")
            elif len(self._open) >= MAX_CONNECTIONS:
                peer.close()
                self._refuse(host, f"{MAX_CONNECTIONS} connections are open")
            else:
                self._handshakes[host] += 1
                task = self._loop.create_task(self._shake_hands(peer, host))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _shake_hands(self, peer: socket.socket, host: str) -> None:
        try:
            notice_silence(peer)
            await self._loop.connect_accepted_socket(
                lambda: _Admission(self, host),
                peer,
                ssl=self._certificates.server(),
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, ssl.SSLError) as error:
            peer.close()
            self._refuse(host, reason_of(error))
        finally:
            self._handshakes[host] -= 1
            if self._handshakes[host] <= 0:
                del self._handshakes[host]

    def admit(self, transport: asyncio.Transport, host: str) -> None:
        """Lets a peer in that has shown a certificate, if that is a member's."""
        certificate = transport.get_extra_info("peercert")
        if reason := self._certificates.why_no_member(certificate):
            transport.abort()
            self._refuse(host, reason)
            return
        connection = self._make()
        self._open.add(connection)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def _refuse(self, host: str, reason: str) -> None:
        self._refused += 1
        now = self._loop.time()
        if now >= self._report_s:
            log.warning(
                "the link refused a connection of %s: %s (%d refused since the last such line)",
                *(host, reason, self._refused),
            )
            self._report_s, self._refused = now + REPORT_S, 0


class _Admission(asyncio.Protocol):
    """Protocol of a connection until its certificate is looked at."""

    def __init__(self, server: LinkServer, host: str) -> None:
        self._server = server
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not checked: the transports of uvloop are no subclasses.
        self._server.admit(cast(asyncio.Transport, transport), self._host)


async def bound(listen: str) -> socket.socket:
    """Returns a socket that listens at host:port. Peers that connect before a `LinkServer` accepts
    wait in its backlog. Raises OSError."""
    host, _, port = listen.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        text = f"cluster.listen: cannot listen on {listen}: {error.strerror or error}"
        raise OSError(text) from None
    return listener


async def connect_tls(
    address: str, certificates: LinkCertificates, make: Callable[[], Connection]
) -> Connection:
    """Connects to host:port. Raises OSError that says why not."""
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            transport, connection = await loop.create_connection(
                make,
                host.strip("[]"),
                int(port),
                ssl=certificates.client(),
                server_hostname=certificates.member,
            )
    except TimeoutError:
        raise OSError(f"{address} does not answer within {HANDSHAKE_S:g} s") from None
    except (OSError, ssl.SSLError) as error:
        raise OSError(f"{address}: {reason_of(error)}") from error
    notice_silence(transport.get_extra_info("socket"))
    return connection


def notice_silence(sock: socket.socket) -> None:
    """Lets the system end a connection whose peer's machine is silent for `GONE_S`."""
    options = {
        (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): 1,
        (socket.IPPROTO_TCP, "TCP_KEEPCNT"): GONE_S - 1,
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): GONE_S * 1000,
    }
    for (level, name), value in options.items():
        if hasattr(socket, name):  # macOS lacks some
            with contextlib.suppress(OSError):
                sock.setsockopt(level, getattr(socket, name), value)
