"""One connection of HTTP/2: the protocol is the library's (`h2`), the bounds are here.

Every request is answered in a task of its own, which is cancelled when the client resets its stream
or goes away. Flow control works both ways: a body that nobody reads shuts its window, and an answer
waits for the client's window and its socket (`output.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.tcp_helpers import tcp_keepalive
from aiohttp.web_protocol import RequestHandler
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from gateway.doors.http.http2.frames import Flood, FrameCutter
from gateway.doors.http.http2.header_blocks import Malformed, request_message
from gateway.doors.http.http2.library import new_library
from gateway.doors.http.http2.output import Output
from gateway.doors.http.http2.stream import Http2Stream, Http2Writer

log = logging.getLogger(__name__)

STREAMS = 128
"""Most requests at once of a connection, whatever the configuration allows."""
HELD_BYTES = 65_536
"""Bytes received beyond which nothing more is read until they are handled."""
UNSENT_BYTES = 1_048_576
"""Bytes in front of a socket that is full, beyond which the connection is closed: acknowledgements
and heads of answers to a client that does not read."""
LINGERS = 10
"""Times that an answered request is waited for anew, as long as more of its body comes."""
GOODBYE_S = 2.0
"""Time after the first GOAWAY in which requests that were on their way are still taken."""

Answer = Callable[[web.BaseRequest, "Http2Connection"], Awaitable[web.StreamResponse]]
"""Answers a request and sends its answer."""


@dataclass(slots=True)
class Room:
    """Requests over HTTP/2 at once, of all connections of a port."""

    most: int
    open: int = 0


class Http2Connection(asyncio.Protocol):
    """One connection.

    Attributes:
        opened_s: when the client connected.
        asked: whether a request has come.
        lost: whether the connection is closed.
    """

    def __init__(
        self,
        answer: Answer,
        room: Room,
        clock: Callable[[], float],
        *,
        opened_s: float,
        max_streams: int,
        linger_s: float,
        grace_s: float,
    ) -> None:
        """`room`: that of the port. `max_streams`: most requests at once. `linger_s`: how long the
        rest of a body is read after the answer. `grace_s`: longest life of a connection after an
        answer that was to be its last."""
        self._answer = answer
        self._room = room
        self._clock = clock
        self._linger_s = linger_s
        self._grace_s = grace_s
        self.opened_s = opened_s
        self.asked = self.lost = False
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._cutter = FrameCutter(clock())
        self._library = new_library(min(STREAMS, max_streams))
        self._output = Output(self._library, self._cutter.sent)
        self._streams: dict[int, Http2Stream] = {}
        self._last_id = 0
        self._paused_since_s: float | None = None
        self._idle_since_s = opened_s
        self._leave_by_s = math.inf
        self._told_s: float | None = None
        self._refuses_since_s: float | None = None
        self._closing_since_s: float | None = None
        self._reads_later = False

    # --- of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = cast(asyncio.Transport, transport)
        tcp_keepalive(self.transport)
        self._output.transport = self.transport
        self._output.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes have come. What is too much for one turn of the loop waits for the next."""
        self._cutter.feed(data)
        if not self._reads_later:
            self._read()

    def eof_received(self) -> bool:
        """The client sends no more: the connection closes."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed."""
        self.lost = self._output.is_over = True
        self.transport = self._output.transport = None
        self._cancel_all()

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused_since_s = self._clock()
        self._output.is_full = True

    def resume_writing(self) -> None:
        """The socket has room."""
        self._paused_since_s = None
        self._output.is_full = False
        self._output.pump()

    # --- for the listener

    def finish(self, within_s: float) -> None:
        """Takes no more requests once those in progress have ended, at the latest in `within_s`
        seconds. The connection closes after its last answer.

        It waits because some clients (httpx) break off every request at the first GOAWAY, though it
        means new ones only.
        """
        now_s = self._clock()
        self._leave_by_s = min(self._leave_by_s, now_s + within_s)
        self._leave(now_s)

    def sweep(self, now_s: float, *, idle_s: float, unread_s: float) -> None:
        """Ends what has had its time: an idle connection, one that is leaving, or one whose client
        has read nothing for `unread_s` seconds."""
        if self._closing_since_s is not None:
            if now_s >= self._closing_since_s + GOODBYE_S:
                self.close_at_once()
        elif self._paused_since_s is not None and now_s >= self._paused_since_s + unread_s:
            self.close_at_once()
        elif self._refuses_since_s is not None:
            if not self._streams and now_s >= self._refuses_since_s + GOODBYE_S:
                self._close()  # the client should have done so
        elif not self._streams and now_s >= self._idle_since_s + idle_s:
            self.finish(0.0)
        else:
            self._leave(now_s)

    def close_at_once(self) -> None:
        """Breaks the connection."""
        if self.transport is not None:
            self.transport.abort()

    async def stop(self) -> None:
        """Breaks the connection, and returns once all its requests have ended."""
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        self.close_at_once()
        self._cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- receiving

    def _read(self) -> None:
        """Handles one run of frames."""
        self._reads_later = False
        transport = self.transport
        if transport is None or self._output.is_over:
            return
        try:
            run = self._cutter.run(self._clock())
            for event in self._library.receive_data(run) if run else ():
                self._handle(event)
        except Flood as error:
            log.info("an HTTP/2 connection is closed: %s", error)
            self._output.say_goodbye(self._last_id, ErrorCodes.ENHANCE_YOUR_CALM)
            return self._close()
        except ProtocolError as error:
            log.info("an HTTP/2 connection is closed: %s", type(error).__name__)
            self._output.flush()  # the library says why
            return self._close()
        self._output.flush()
        if transport.get_write_buffer_size() > UNSENT_BYTES:
            return self.close_at_once()
        if run and self._cutter.kept_bytes:
            self._reads_later = True
            self._loop.call_soon(self._read)
        if self._reads_later and self._cutter.kept_bytes > HELD_BYTES:
            transport.pause_reading()
        elif not transport.is_reading():
            transport.resume_reading()

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._open(event)
            case DataReceived():
                self._receive(event)
            case StreamEnded(stream_id=int(stream_id)):
                if (stream := self._streams.get(stream_id)) is not None:
                    stream.content.feed_eof()
            case StreamReset(stream_id=int(stream_id)):
                if (stream := self._streams.get(stream_id)) is not None:
                    self._cancel(stream)
            case WindowUpdated(stream_id=0) | RemoteSettingsChanged():
                self._output.room_for(self._streams.values())
            case WindowUpdated(stream_id=int(stream_id)):
                if (stream := self._streams.get(stream_id)) is not None:
                    self._output.room_for((stream,))

    def _open(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        self._last_id = stream_id
        stream = Http2Stream(self._output, stream_id)
        if self._refuses_since_s is not None or self._room.open >= self._room.most:
            return self._output.reset(stream, ErrorCodes.REFUSED_STREAM)
        try:
            message = request_message(event.headers)
        except Malformed:
            return self._output.reset(stream, ErrorCodes.PROTOCOL_ERROR)
        self.asked = True
        self._streams[stream_id] = stream
        self._room.open += 1
        task = stream.task = self._loop.create_task(self._serve(stream, message))
        task.add_done_callback(lambda _: self._ended(stream))

    def _receive(self, event: DataReceived) -> None:
        stream_id = event.stream_id
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.drops_body and stream.is_open:
            stream.content.feed_data(bytes(event.data or b""))
            if stream.is_shut:
                stream.shut_bytes += event.flow_controlled_length
                return
        elif stream is not None:
            stream.dropped_bytes += event.flow_controlled_length
        if event.flow_controlled_length:
            self._library.acknowledge_received_data(event.flow_controlled_length, stream_id)

    # --- a request

    async def _serve(self, stream: Http2Stream, message: Any) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        protocol = cast(RequestHandler, stream)
        writer = Http2Writer(stream, self._output)
        request = web.BaseRequest(message, stream.content, protocol, writer, task, self._loop)
        try:
            response = await self._answer(request, self)
            if stream.is_open and not response.keep_alive:
                self.finish(self._grace_s)
            await self._linger(stream)
        except ConnectionError:
            pass  # the client has gone away
        except Exception:
            log.exception("a request failed inside the gateway")
            self._output.reset(stream, ErrorCodes.INTERNAL_ERROR)

    async def _linger(self, stream: Http2Stream) -> None:
        """Reads and drops what still comes of a body, so that the client sees the answer: some
        clients send all of it before they look."""
        stream.drops_body = True
        stream.resume_reading()
        for _ in range(LINGERS):
            if not stream.is_open or stream.content.is_eof():
                return
            stream.dropped_bytes = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s):
                    await stream.content.wait_eof()
            if not stream.dropped_bytes:
                break
        if not stream.content.is_eof():
            self._output.reset(stream, ErrorCodes.NO_ERROR)

    def _ended(self, stream: Http2Stream) -> None:
        """The task of a request has ended, by itself or cancelled."""
        if stream.is_open and not stream.has_ended:
            self._output.reset(stream, ErrorCodes.CANCEL)
        stream.is_open = False
        del self._streams[stream.stream_id]
        self._output.forget(stream)
        self._room.open -= 1
        if not self._streams:
            self._idle_since_s = self._clock()
            self._leave(self._idle_since_s)

    def _cancel_all(self) -> None:
        for stream in self._streams.values():
            self._cancel(stream)

    def _cancel(self, stream: Http2Stream) -> None:
        stream.lost()
        if stream.task is not None:
            stream.task.cancel()

    # --- its end

    def _leave(self, now_s: float) -> None:
        """Tells the client that the connection is to end, if it is."""
        if self._leave_by_s == math.inf or self._refuses_since_s is not None:
            return
        if not self._streams or (self._told_s is not None and now_s >= self._told_s + GOODBYE_S):
            self._refuses_since_s = now_s
            self._output.say_goodbye(self._last_id)
        elif self._told_s is None and now_s >= self._leave_by_s:
            self._told_s = now_s
            self._output.say_goodbye((1 << 31) - 1)  # those on their way are still taken

    def _close(self) -> None:
        """Closes the connection, once what is written has gone."""
        if not self._output.is_over:
            self._output.is_over = True
            self._closing_since_s = self._clock()
            self._cancel_all()
            if self.transport is not None:
                self.transport.close()
