"""The listening sockets of the HTTP doors and the console, and the bounds on its connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from gateway.config.server import ServerConfig
from gateway.domain.listening import listening_sockets
from gateway.doors.entry.caller_noise import HTTP_LOGGER, bound_caller_noise
from gateway.doors.entry.open_files import connections_that_fit

LINGER_S = 2.0
"""Time for which the rest of a refused body is read and dropped, so that the client sees why."""
SWEEP_S = 1.0
"""Seconds between two looks for connections without a request."""
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
MAX_LINE_BYTES = 8190
"""Longest request line, and longest header."""
MAX_HEADERS = 128


class _Connection(web.RequestHandler):
    """One connection. `asked`: whether a request has come; `lost`: whether it is closed."""

    __slots__ = ("asked", "lost", "opened_s")

    opened_s: float
    asked: bool
    lost: bool

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed."""
        self.lost = True
        super().connection_lost(exc)


class Door(Protocol):
    """Answers requests. `is_draining`: set at the beginning of a drain."""

    is_draining: bool

    async def handle(self, request: web.BaseRequest, *, is_last: bool) -> web.StreamResponse:
        """Answers one request. `is_last`: the connection takes no further ones."""


class HttpListener:
    """Accepts connections. Each has a time for its first request, an idle time and an age. Requires
    the task `run`."""

    def __init__(self, door: Door, config: ServerConfig, clock: Callable[[], float]) -> None:
        self._door = door
        self._config = config
        self._clock = clock
        self._most = connections_that_fit(config.max_connections)
        self._open: set[_Connection] = set()
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._listening: list[asyncio.Server] = []
        bound_caller_noise(HTTP_LOGGER)

    @property
    def connections(self) -> int:
        """Open connections."""
        return sum(not connection.lost for connection in self._open)

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
                    self._accept,
                    sock=opened,
                    ssl=tls,
                    ssl_handshake_timeout=None if tls is None else self._config.handshake_timeout_s,
                    backlog=BACKLOG,
                )
            )
        return f"{listen.rpartition(':')[0]}:{port}"

    async def run(self) -> None:
        """Closes connections whose first request does not come, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._sweep()

    def begin_drain(self) -> None:
        """From now on the port is not ready, and every answer closes its connection."""
        self._door.is_draining = True

    def close(self) -> None:
        """Takes no more connections, and closes those that are idle. Requests go on."""
        self.begin_drain()
        for server in self._listening:
            server.close()
        self._server.pre_shutdown()

    async def stop(self) -> None:
        """Closes all connections at once."""
        self.close()
        await self._server.shutdown(0)

    def _accept(self) -> asyncio.BaseProtocol:
        """A protocol for a new connection, or one that closes it if there are too many."""
        if len(self._open) >= self._most:
            self._sweep()
            if len(self._open) >= self._most:
                return _Refusing()
        connection = _Connection(
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
        connection.opened_s = self._clock()
        connection.asked = connection.lost = False
        self._open.add(connection)
        return connection

    def _sweep(self) -> None:
        """Forgets closed connections, and closes those whose first request is late. One that fails
        in its TLS handshake was never opened, nor will it be closed."""
        late_s = self._clock() - self._config.handshake_timeout_s
        for connection in [*self._open]:
            if connection.lost:
                self._open.discard(connection)
            elif not connection.asked and connection.opened_s < late_s:
                self._open.discard(connection)
                if connection.transport is not None:
                    connection.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)
        connection.asked = True
        # Clients reconnect through the load balancer, so new pods receive their share.
        age_s = self._clock() - connection.opened_s
        return await self._door.handle(request, is_last=age_s >= self._config.max_connection_age_s)


class _Refusing(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        assert isinstance(transport, asyncio.Transport)
        transport.abort()
