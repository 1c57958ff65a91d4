"""An answer on its way from the connection that receives it to the call that reads it.

The connection adds what comes, without waiting. One task reads. It is woken by the first byte, by
the end and by a failure; while it gathers output, only by enough output, the end or a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from multidict import CIMultiDict

PAUSE_BYTES = 128 * 1024
"""Unread bytes above which nothing more is read from the connection."""
GATHER_BYTES = 16 * 1024
"""Unread bytes that end the wait for more: a larger piece saves nothing."""


class Response:
    """Status, headers and body of one answer.

    Attributes:
        status, headers: known once `await_head` has returned.
        has_head: whether the head has come.
    """

    __slots__ = (
        "_abort",
        "_ended",
        "_error",
        "_finish",
        "_gathers",
        "_last_event",
        "_loop",
        "_pause",
        "_paused",
        "_pieces",
        "_unread_bytes",
        "_waiter",
        "has_head",
        "headers",
        "status",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        pause: Callable[[bool], None],
        finish: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        """`pause`: stops to read from the connection, or goes on. `finish`: lets the connection
        skip the rest of the answer. `abort`: closes the connection at once."""
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.has_head = False
        self._loop = loop
        self._pause = pause
        self._finish = finish
        self._abort = abort
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._gathers = False
        self._last_event = b""

    # For the call.

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def needs_wait(self) -> bool:
        """Whether a read would wait now."""
        return not (self._pieces or self._ended or self._error)

    async def await_head(self) -> None:
        """Returns once the head has come. Raises UpstreamFailure, or TimeoutError by `time_out`."""
        while not self.has_head:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """The bytes that have come, or that come next; empty: the end. What came before a failure
        is read before it is raised. Raises UpstreamFailure, or TimeoutError by `time_out`."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces, self._unread_bytes = [], 0
        if self._paused:
            self._paused = False
            self._pause(False)
        return data

    async def gather(self, window_s: float, last_event: bytes) -> None:
        """Waits while output gathers: for `window_s` seconds, or until the body has ended, broken
        off or much of it has come. `last_event`: bytes that only the last event of a stream has,
        since some servers leave a body open after it."""
        if self._ended or self._error or self._unread_bytes >= GATHER_BYTES:
            return
        if any(last_event in piece for piece in self._pieces):
            return
        timer = self._loop.call_later(window_s, self._wake)
        self._gathers, self._last_event = True, last_event
        try:
            await self._wait()
        finally:
            self._gathers = False
            timer.cancel()

    def time_out(self) -> None:
        """Ends a wait with TimeoutError."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def finish(self) -> None:
        """The call has read all that matters. The connection skips the rest of the answer by
        itself, for a bounded time, and is used again."""
        if not self._ended:
            self._finish()
        self._finish = self._abort = _nothing

    def close(self) -> None:
        """The call is over. An answer that has not ended closes its connection."""
        if not self._ended:
            self._abort()

    # For the connection.

    def add_head(self, status: int, headers: CIMultiDict[str]) -> None:
        """The head has come."""
        self.status, self.headers, self.has_head = status, headers, True
        self._wake()

    def add(self, data: bytes) -> None:
        """Bytes of the body have come."""
        self._pieces.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > PAUSE_BYTES and not self._paused:
            self._paused = True
            self._pause(True)
        if (
            not self._gathers
            or self._unread_bytes >= GATHER_BYTES
            or (self._last_event and self._last_event in data)
        ):
            self._wake()

    def end(self) -> None:
        """The body is complete. The connection is no longer this answer's."""
        self._ended = True
        self._paused = False
        self._wake()

    def fail(self, error: Exception) -> None:
        """The answer breaks off."""
        if not self._ended and self._error is None:
            self._error = error
            self._wake()

    async def _wait(self) -> None:
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _nothing() -> None:
    """The call is over, and the connection is no longer its own."""
