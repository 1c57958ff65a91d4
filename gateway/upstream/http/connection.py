"""One connection to an upstream: sends a request, feeds its answer into a `Response`.

A connection serves one request at a time. It goes back to its pool only after an answer that came
whole, with nothing behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.upstream.http.framing import MAX_HEAD_BYTES, AnswerParser, NotHttp
from gateway.upstream.http.response import Response

END_GRACE_S = 0.25
"""Longest wait for the end of a body after its last event; then its connection is closed."""
MAX_END_BYTES = 64 * 1024
"""Most bytes that are skipped after the last event; then its connection is closed."""
PIECE_BYTES = 256 * 1024
"""Bytes of a request's body between two waits for the connection."""


class Connection(asyncio.Protocol):
    """An open connection.

    Attributes:
        reused: whether it has served an earlier request.
        began: whether anything of the current answer has come.
        idle_since_s: when it became idle, on the event loop's clock.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        """`on_idle`: called when it can take another request. `on_closed`: called at its end."""
        self.reused = False
        self.began = False
        self.idle_since_s = 0.0
        self._loop = loop
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = AnswerParser()
        self._response: Response | None = None
        self._is_paused = False
        self._is_sending = False
        """A large body is being written."""
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._headless_bytes = 0
        """Bytes that came since the last byte of a body."""
        self._skipped_bytes: int | None = None
        """Bytes that came after the last event; None: the answer is still read."""
        self._end_timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent on it."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._response is None
        )

    def send(self, head: bytes, body: bytes | None) -> Response:
        """Sends a request, and returns the answer to come. `body`: at most `PIECE_BYTES`; a larger
        one follows with `send_body`."""
        assert self._transport is not None
        self._parser = AnswerParser()
        self._headless_bytes = 0
        self.began = False
        self._response = response = Response(
            self._loop, pause=self._pause, finish=self._finish, abort=self.abort
        )
        self._transport.write(head + body if body else head)
        return response

    async def send_body(self, body: bytes) -> None:
        """Sends a large body in pieces, without a copy. Stops early if the answer has come or the
        connection is closed."""
        self._is_sending = True
        view = memoryview(body)
        for start in range(0, len(view), PIECE_BYTES):
            if self.began or self._transport is None or self._transport.is_closing():
                return  # the rest is missing: the connection cannot be used again
            self._transport.write(view[start : start + PIECE_BYTES])
            await self._can_write.wait()
        self._is_sending = False

    def abort(self) -> None:
        """Closes the connection at once; what is not yet written is dropped."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are of no such class

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        response, parser = self._response, self._parser
        if response is None:
            return self.abort()  # bytes that nobody asked for
        self.began = True
        try:
            body = parser.feed(data)
            self._headless_bytes = 0 if body else self._headless_bytes + len(data)
            if self._headless_bytes > 2 * MAX_HEAD_BYTES:
                raise NotHttp("bytes without end that belong to no body")
        except NotHttp as error:
            self._break_off(f"the answer is not HTTP: {error}", FailureKind.PROTOCOL)
            return self.abort()
        if parser.has_head and not response.has_head:
            response.add_head(parser.status, parser.headers)
        if body and self._skipped_bytes is None:
            response.add(body)
        if parser.complete:
            self._complete(response)
        elif self._skipped_bytes is not None:
            self._skipped_bytes += len(data)
            if self._skipped_bytes > MAX_END_BYTES:
                self.abort()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        response = self._response
        self._can_write.set()
        self._stop_skipping()
        if response is not None and exc is None and self._parser.ends_with_connection:
            self._response = None
            response.end()
        else:
            self._break_off("the connection broke before an answer", FailureKind.SERVER_ERROR)
        self._on_closed(self)

    def _break_off(self, message: str, kind: FailureKind) -> None:
        """Fails the answer. Once its head has come, it was cut, in whatever way."""
        response, self._response = self._response, None
        if response is None:
            return
        if response.has_head:
            kind, message = FailureKind.SERVER_ERROR, "the stream was cut: the connection broke"
        response.fail(UpstreamFailure(kind, message))

    def _complete(self, response: Response) -> None:
        self._response = None
        self._stop_skipping()
        response.end()
        if not self._parser.keeps_alive or self._is_sending:
            return self.abort()
        self._pause(False)
        self.reused = True
        self.idle_since_s = self._loop.time()
        self._on_idle(self)

    def _pause(self, pause: bool) -> None:
        transport = self._transport
        if pause is self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = pause
        if pause:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _finish(self) -> None:
        """Skips the rest of the answer, for a bounded time."""
        self._skipped_bytes = 0
        self._pause(False)
        self._end_timer = self._loop.call_later(END_GRACE_S, self.abort)

    def _stop_skipping(self) -> None:
        self._skipped_bytes = None
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
