"""The connections of all upstream calls: opened, kept while idle, and closed.

A server may close an idle connection in the moment in which a request is sent on it. Such a
request was lost, not refused: it is sent once more, on a new connection to an address that is
looked up anew. That is safe only while nothing of an answer has come, and soon after the sending: a
connection that breaks later may have broken because of the request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from types import TracebackType
from typing import Self

import aiohappyeyeballs

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.upstream.http.connection import Connection
from gateway.upstream.http.target import Origin

UPSTREAM_KEEPALIVE_S = 4.0
"""Seconds before an idle upstream connection is closed. vLLM's HTTP server closes it after 5 s, and
a request sent into a closing connection is lost."""
STALE_S = 1.0
"""Longest time from the sending of a request to the break of a connection that counts as stale."""
ADDRESSES_S = 10.0
"""How long the addresses of a name are remembered."""
MAX_NAMES = 1024
"""Names whose addresses are remembered."""
NEXT_ADDRESS_S = 0.25
"""Time after which the next address of a name is tried beside the first (RFC 8305)."""
_STALL_S = 0.25
"""A timer that is this late shows that the event loop stood still."""

Addresses = list[aiohappyeyeballs.AddrInfoType]


class HttpSession:
    """Connections to any number of servers, for use inside one running event loop.

    Their number is not bounded, because the scheduler bounds concurrency.
    """

    def __init__(self) -> None:
        self._idle: dict[Origin, deque[Connection]] = {}
        self._open: set[Connection] = set()
        self._addresses: dict[Origin, tuple[float, Addresses]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def open_connections(self) -> int:
        """Connections that are open, idle ones included."""
        return len(self._open)

    @property
    def busy_connections(self) -> int:
        """Connections with a request in progress."""
        return len(self._open) - sum(map(len, self._idle.values()))

    async def close(self) -> None:
        """Closes all connections."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # the transports close in the next turn of the loop

    def take_idle(self, origin: Origin) -> Connection | None:
        """A connection to the server that has served a request before; None: there is none."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        oldest_s = asyncio.get_running_loop().time() - UPSTREAM_KEEPALIVE_S
        while idle:
            connection = idle.pop()  # the one that was used last
            if connection.idle_since_s >= oldest_s and connection.is_usable:
                return connection
            connection.abort()
        return None

    async def connect(
        self, origin: Origin, connect_s: float, *, look_up_anew: bool = False
    ) -> Connection:
        """Opens a connection. Raises UpstreamFailure. `look_up_anew`: addresses that are remembered
        do not count."""
        now_s = asyncio.get_running_loop().time
        for is_last in (False, True):
            late_s = now_s() + connect_s + _STALL_S
            try:
                async with asyncio.timeout(connect_s) as limit:
                    return await self._connect(origin, look_up_anew)
            except TimeoutError as error:
                # A late timer means that this process stalled, not the server. Try once more.
                if limit.expired() and (is_last or now_s() < late_s):
                    message = f"no connection within {connect_s:g} s"
                    raise UpstreamFailure(FailureKind.CONNECT, message) from error
                if not limit.expired():
                    raise _no_connection(error) from error
            except (OSError, UnicodeError) as error:  # also DNS, TLS, and what is no name
                raise _no_connection(error) from error
        raise AssertionError("unreachable")

    async def _connect(self, origin: Origin, look_up_anew: bool) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._look_up(origin, look_up_anew)
        opened = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1
        )
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # From here on the socket is the loop's, which closes it if this fails.
        _, connection = await loop.create_connection(
            lambda: Connection(
                loop,
                on_idle=lambda it: self._keep(origin, it),
                on_closed=lambda it: self._forget(origin, it),
            ),
            sock=opened,
            ssl=self._tls if origin.is_tls else None,
            server_hostname=origin.host if origin.is_tls else None,
        )
        self._open.add(connection)
        return connection

    async def _look_up(self, origin: Origin, anew: bool) -> Addresses:
        """The addresses of a server, each time another one first."""
        loop = asyncio.get_running_loop()
        until_s, addresses = self._addresses.get(origin, (0.0, []))
        if anew or loop.time() >= until_s:
            found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            if len(self._addresses) >= MAX_NAMES:
                self._addresses.clear()
            addresses = [*found]
            until_s = loop.time() + ADDRESSES_S
        self._addresses[origin] = (until_s, [*addresses[1:], *addresses[:1]])
        return addresses

    def _keep(self, origin: Origin, connection: Connection) -> None:
        if self._is_closed:
            return connection.abort()
        self._idle.setdefault(origin, deque()).append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(UPSTREAM_KEEPALIVE_S, self._close_idle, loop)

    def _forget(self, origin: Origin, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(origin)
        if idle is not None and connection in idle:
            idle.remove(connection)

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest_s = loop.time() - UPSTREAM_KEEPALIVE_S
        for idle in self._idle.values():
            while idle and idle[0].idle_since_s <= oldest_s:
                idle.popleft().abort()
        self._idle = {origin: idle for origin, idle in self._idle.items() if idle}
        since_s = min((idle[0].idle_since_s for idle in self._idle.values()), default=None)
        self._sweep = None
        if since_s is not None:
            self._sweep = loop.call_at(since_s + UPSTREAM_KEEPALIVE_S, self._close_idle, loop)


def upstream_session() -> HttpSession:
    """Opens the HTTP session of all upstream calls."""
    return HttpSession()


def _no_connection(error: Exception) -> UpstreamFailure:
    stated = error.strerror if isinstance(error, OSError) else None
    reason = one_line(stated or str(error) or type(error).__name__, 200)
    return UpstreamFailure(FailureKind.CONNECT, f"no connection: {reason}")
