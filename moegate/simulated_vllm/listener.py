"""The listening socket. Faults close it and open it again on the same port."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

from aiohttp import web

SHUTDOWN_S = 0.1
"""Time in which open streams may end when the server stops; then they are cut off."""
REOPEN_POLL_S = 0.05
REOPEN_S = 10.0
"""Longest wait for a port that is still taken: an event loop closes its sockets a little later."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Listener:
    """Serves an application. `start` comes first; the port and `url` stay the same from then on."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self.url = ""
        self._host = host
        self._port = port
        self._site: web.TCPSite | None = None
        self._busy: set[asyncio.Transport | None] = set()
        app.middlewares.insert(0, self._note_busy)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
        )

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._site is not None

    async def start(self) -> None:
        """Starts to listen. Raises OSError if it cannot."""
        await self._runner.setup()
        await self._open()
        host, self._port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def stop(self) -> None:
        """Stops listening and ends all connections."""
        await self._runner.cleanup()

    async def reopen(self) -> None:
        """Listens again. Raises OSError if another process has taken the port."""
        for _ in range(round(REOPEN_S / REOPEN_POLL_S)):
            try:
                return await self._open()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            await asyncio.sleep(REOPEN_POLL_S)
        await self._open()

    async def close(self) -> None:
        """Stops listening. Idle connections end at once, the others after their answer."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        if self._runner.server is None:
            return
        self._runner.server.pre_shutdown()
        for connection in self._runner.server.connections:
            # `pre_shutdown` ends their handlers, but leaves idle connections open.
            if connection.transport is not None and connection.transport not in self._busy:
                connection.transport.close()

    async def break_off(self) -> None:
        """Stops listening and aborts all connections, like the end of the process."""
        await self.close()
        for transport in self._busy:
            if transport is not None:
                transport.abort()

    async def _open(self) -> None:
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError:
            await site.stop()
            raise
        self._site = site

    @web.middleware
    async def _note_busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        self._busy.add(transport)
        try:
            return await handler(request)
        finally:
            self._busy.discard(transport)
