"""The listening sockets of the HTTP doors and the console, and the bounds on its connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp import web

from gateway.config.server import ServerConfig
from gateway.domain.listening import listening_sockets
from gateway.doors.entry.caller_noise import HTTP_LOGGER, bound_caller_noise
from gateway.doors.entry.open_files import connections_that_fit
from gateway.doors.http.http2.connection import Http2Connection, Room

LINGER_S = 2.0
"""Time for which the rest of a refused body is read and dropped, so that the client sees why."""
BUSY_S = 5.0
"""Time in a drain after which the client of a busy HTTP/2 connection is told to open another."""
SWEEP_S = 1.0
"""Seconds between two looks for connections without a request."""
FORGET_S = 0.1
"""Longest wait of aiohttp for a connection that is no longer known; 0 would be for ever."""
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
MAX_LINE_BYTES = 8190
"""Longest request line, and longest header."""
MAX_HEADERS = 128


class _Http1Connection(web.RequestHandler):
    """One connection of HTTP/1.1. `asked`: whether a request has come; `is_leaving`: whether the
    answer of the request in progress is the last; `lost`: whether it is closed."""

    __slots__ = ("asked", "is_leaving", "lost", "opened_s")

    opened_s: float
    asked: bool
    is_leaving: bool
    lost: bool

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed."""
        self.lost = True
        super().connection_lost(exc)

    def finish(self) -> None:
        """Closes the connection after the request in progress, whose body still comes; at once if
        there is none. aiohttp's `close` would drop what still comes: the rest of that body, for
        which the request would wait, and what an idle client sends."""
        self.is_leaving = True
        waits = self._waiter is not None and not self._waiter.done()
        if self.transport is not None and (waits or not self._request_count):
            self.force_close()

    async def stop(self) -> None:
        """Breaks the connection, and returns once its request has ended."""
        task = self._task_handler
        self.force_close()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


_Connection = _Http1Connection | Http2Connection


class _Handshake(asyncio.Protocol):
    """A connection that has not finished its TLS handshake, in which the client chooses the
    protocol."""

    asked = lost = False
    transport: asyncio.Transport | None = None

    def __init__(self, opened_s: float, chosen: Callable[[_Handshake, bool], _Connection]) -> None:
        """`chosen`: makes the connection that follows; called with whether it speaks HTTP/2."""
        self.opened_s = opened_s
        self._chosen = chosen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        tls = transport.get_extra_info("ssl_object")
        connection = self._chosen(self, tls.selected_alpn_protocol() == "h2")
        transport.set_protocol(connection)
        connection.connection_made(transport)


class Door(Protocol):
    """Answers requests. `is_draining`: set at the beginning of a drain."""

    is_draining: bool

    async def handle(self, request: web.BaseRequest, *, is_last: bool) -> web.StreamResponse:
        """Answers one request. `is_last`: the connection takes no further ones."""


class HttpListener:
    """Accepts connections, of HTTP/1.1 and, over TLS, of HTTP/2. Each has a time for its first
    request, an idle time and an age. Requires the task `run`."""

    def __init__(self, door: Door, config: ServerConfig, clock: Callable[[], float]) -> None:
        self._door = door
        self._config = config
        self._clock = clock
        self._most = connections_that_fit(config.max_connections)
        self._open: set[_Connection | _Handshake] = set()
        self._room = Room(self._most)
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._listening: list[asyncio.Server] = []
        self._is_closed = False
        self._requests = 0
        bound_caller_noise(HTTP_LOGGER)

    @property
    def connections(self) -> int:
        """Open connections."""
        return sum(not connection.lost for connection in self._open)

    @property
    def requests(self) -> int:
        """Requests in progress."""
        return self._requests

    async def start(
        self,
        listen: str,
        tls: ssl.SSLContext | None,
        *,
        field: str = "server.http_listen",
        shares_port: bool = False,
    ) -> str:
        """Listens and returns the bound address. Raises OSError that names the field."""
        sockets = listening_sockets(listen, field=field, shares_port=shares_port)
        port = sockets[0].getsockname()[1]
        for opened in sockets:
            self._listening.append(
                await asyncio.get_running_loop().create_server(
                    self._accept if tls is None else self._accept_tls,
                    sock=opened,
                    ssl=tls,
                    ssl_handshake_timeout=None if tls is None else self._config.handshake_timeout_s,
                    backlog=BACKLOG,
                )
            )
        return f"{listen.rpartition(':')[0]}:{port}"

    async def run(self) -> None:
        """Closes connections whose time is up, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._sweep()

    def begin_drain(self) -> None:
        """From now on the port is not ready, and every answer closes its connection."""
        self._door.is_draining = True

    def close(self) -> None:
        """Takes no more connections, and closes those that are idle. Requests go on."""
        self.begin_drain()
        self._is_closed = True
        loop = asyncio.get_running_loop()
        for server in self._listening:
            for listening in server.sockets:
                loop.remove_reader(listening)
            # asyncio begins an accepted connection in the next turn of the loop: a server that is
            # closed before would leave it open, and deaf.
            loop.call_soon(server.close)
        for connection in [*self._open]:
            if isinstance(connection, Http2Connection):
                connection.finish(BUSY_S)
            elif isinstance(connection, _Http1Connection):
                connection.finish()

    async def stop(self) -> None:
        """Closes all connections at once, and returns once their requests have ended."""
        self.close()
        known = [each for each in self._open if not isinstance(each, _Handshake)]
        await asyncio.gather(*(connection.stop() for connection in known))
        await self._server.shutdown(FORGET_S)

    def _accept(self) -> asyncio.BaseProtocol:
        """A protocol for a new connection, or one that closes it if there are too many."""
        return self._new_http1(self._clock()) if self._has_room() else _Refusing()

    def _accept_tls(self) -> asyncio.BaseProtocol:
        """As `_accept`, for a connection that begins with a TLS handshake."""
        if not self._has_room():
            return _Refusing()
        handshake = _Handshake(self._clock(), self._chosen)
        self._open.add(handshake)
        return handshake

    def _has_room(self) -> bool:
        if len(self._open) >= self._most:
            self._sweep()
        return len(self._open) < self._most

    def _chosen(self, handshake: _Handshake, is_http2: bool) -> _Connection:
        self._open.discard(handshake)
        return (self._new_http2 if is_http2 else self._new_http1)(handshake.opened_s)

    def _new_http1(self, opened_s: float) -> _Http1Connection:
        connection = _Http1Connection(
            self._server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # which means none
            keepalive_timeout=self._config.max_connection_idle_s,
            lingering_time=LINGER_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
        )
        connection.opened_s = opened_s
        connection.asked = connection.lost = False
        connection.is_leaving = self._is_closed
        self._open.add(connection)
        return connection

    def _new_http2(self, opened_s: float) -> Http2Connection:
        connection = Http2Connection(
            self._answer,
            self._room,
            self._clock,
            opened_s=opened_s,
            max_streams=self._config.max_streams_per_connection,
            linger_s=LINGER_S,
            grace_s=self._config.max_connection_age_grace_s,
        )
        self._open.add(connection)
        return connection

    def _sweep(self) -> None:
        """Forgets closed connections, and closes those whose first request is late. One that fails
        in its TLS handshake was never opened, nor will it be closed."""
        now_s, config = self._clock(), self._config
        late_s = now_s - config.handshake_timeout_s
        for connection in [*self._open]:
            if connection.lost:
                self._open.discard(connection)
            elif not connection.asked and connection.opened_s < late_s:
                self._open.discard(connection)
                if connection.transport is not None:
                    connection.transport.abort()
            elif isinstance(connection, Http2Connection):
                idle_s, unread_s = config.max_connection_idle_s, config.blocked_write_s
                connection.sweep(now_s, idle_s=idle_s, unread_s=unread_s)
            elif isinstance(connection, _Http1Connection) and connection.is_leaving:
                connection.finish()  # its last answer was sent in the turn of the loop before

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Http1Connection)
        connection.asked = True
        response = await self._answer(request, connection)
        if connection.is_leaving:
            response.force_close()
        return response

    async def _answer(
        self, request: web.BaseRequest, connection: _Connection
    ) -> web.StreamResponse:
        # Clients reconnect through the load balancer, so new pods receive their share.
        age_s = self._clock() - connection.opened_s
        is_last = age_s >= self._config.max_connection_age_s
        self._requests += 1
        try:
            return await self._door.handle(request, is_last=is_last)
        finally:
            self._requests -= 1


class _Refusing(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        # Not every transport of uvloop is an instance of it.
        cast(asyncio.Transport, transport).abort()
