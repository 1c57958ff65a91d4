"""Streams of server-sent events: written as they come, with pings in silences."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from aiohttp import web
from aiohttp.http_writer import StreamWriter

LOOK_S = 0.5
"""Seconds between two looks for silent streams."""
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
"""The last one keeps nginx from collecting the stream."""


def event(name: str, data: bytes) -> bytes:
    """One event with a name. `data`: JSON on one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def data_event(data: bytes) -> bytes:
    """One event without a name. `data`: JSON on one line."""
    return b"data: " + data + b"\n\n"


class EventStream:
    """One response of events. Its status line goes out with the first of them."""

    def __init__(
        self,
        request: web.BaseRequest,
        headers: Callable[[], Mapping[str, str]],
        *,
        opening: Callable[[], bytes],
        ping: bytes,
        clock: Callable[[], float],
    ) -> None:
        """`headers`: those of the response, read when it begins. `opening`: first events of the
        stream. `ping`: an event or comment that clients ignore."""
        self.response = web.StreamResponse()
        self._request = request
        self._headers = headers
        self._opening = opening
        self._ping = ping
        self._clock = clock
        self._writer = cast(StreamWriter, request.writer)
        self._writing = False
        self.begun = False
        """Whether the status line is decided."""
        self.last_write_s = clock()

    async def write(self, data: bytes) -> None:
        """Writes events. Waits while the client does not read."""
        if not self.begun:
            data = await self._begin() + data
        await self._write(data)

    async def ping(self) -> None:
        """Writes a ping, unless a write is in progress. Begins the stream if it has not begun."""
        if self._writing:
            return
        opening = b"" if self.begun else await self._begin()
        self.last_write_s = self._clock()
        # It never waits: the transport has room, as no write is waiting for some.
        await self._writer.write(opening + self._ping, drain=False)

    async def end(self) -> None:
        """Ends the stream."""
        if not self.begun:
            await self._write(await self._begin())
        await self.response.write_eof()

    def abort(self) -> None:
        """Closes the connection at once, for a client that does not read."""
        self.response.force_close()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _begin(self) -> bytes:
        self.begun = True
        self.response.headers.update(_HEADERS)
        self.response.headers.update(self._headers())
        await self.response.prepare(self._request)
        return self._opening()

    async def _write(self, data: bytes) -> None:
        self._writing = True
        # LIMIT 0: wait as soon as the transport is full, not after each 64 KiB.
        await self._writer.write(data, LIMIT=0)
        self._writing = False
        self.last_write_s = self._clock()


class SilentStreams:
    """The open streams. Requires the task `run`, which pings those that are silent."""

    def __init__(self, ping_s: Callable[[], float], clock: Callable[[], float]) -> None:
        """`ping_s`: silence after which a stream is pinged, in force."""
        self._ping_s = ping_s
        self._clock = clock
        self._open: set[EventStream] = set()
        self._wake = asyncio.Event()

    @contextlib.contextmanager
    def watched(self, stream: EventStream) -> Iterator[None]:
        """Pings the stream in this context."""
        self._open.add(stream)
        self._wake.set()
        try:
            yield
        finally:
            self._open.discard(stream)

    async def run(self) -> None:
        """Pings silent streams until cancelled."""
        while True:
            if self._open:
                await asyncio.sleep(LOOK_S)
            else:
                self._wake.clear()
                await self._wake.wait()
            before_s = self._clock() - self._ping_s()
            for stream in [each for each in self._open if each.last_write_s <= before_s]:
                if stream in self._open:
                    with contextlib.suppress(ConnectionError):
                        await stream.ping()
