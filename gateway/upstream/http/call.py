"""One HTTP call with time limits. Each way in which it can break becomes an `UpstreamFailure`.

A limit covers a single wait, never a `yield`, where it would cancel the consumer of the stream
instead of the read. One timer serves all reads of a call and is set again only when it fires too
early, because a timer for each read costs as much as the read.
"""

from __future__ import annotations

import asyncio
import functools
import io
import math
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure

END_GRACE_S = 0.25
"""Longest wait for the end of a body after its last event; then its connection is closed."""
_LARGE_BODY_BYTES = 1 << 20
"""aiohttp wants a larger body as a file, which it sends in pieces, and warns otherwise."""
_STALL_S = 0.25
"""A timer that is this late shows that the event loop stood still."""


class CallBounds:
    """Time limits of the waits of one call.

    Attributes:
        next_s: when the next wait fails, on the event loop's clock.
    """

    __slots__ = (
        "_armed_s",
        "_end_s",
        "_first_s",
        "_idle_s",
        "_started",
        "_timer",
        "_waits",
        "next_s",
    )

    def __init__(self, now_s: float, *, first_s: float, idle_s: float, end_s: float) -> None:
        """`first_s`: from `now_s` to the first output; `idle_s`: between two outputs; `end_s`: when
        the whole call fails, on the event loop's clock."""
        self._first_s = first_s
        self._idle_s = idle_s
        self._end_s = end_s
        self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = math.inf
        self._waits: aiohttp.StreamReader | None = None
        self.next_s = min(now_s + first_s, end_s)

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """The bytes that have come, or that come next by `next_s`; empty: the end. Raises
        TimeoutError, after which `content` cannot be read any more."""
        if (self._timer is None or self.next_s < self._armed_s) and not content.is_eof():
            self._arm()  # at the end of the body there is nothing to wait for
        self._waits = content
        try:
            return await content.readany()
        finally:
            self._waits = None

    def close(self) -> None:
        """Ends the timer: the call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.close()
        if self.next_s < math.inf:
            loop = asyncio.get_running_loop()
            self._armed_s = self.next_s
            self._timer = loop.call_at(self.next_s, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waits is None:
            return
        if loop.time() < self.next_s:
            self._arm()
        else:
            self._waits.set_exception(TimeoutError())

    def record_output(self, now_s: float) -> None:
        """Output has come: the idle limit starts anew."""
        self._started = True
        self.next_s = min(now_s + self._idle_s, self._end_s)

    def check_end(self, now_s: float) -> None:
        """Raises the failure if the end of the call has passed: a read that need not wait never
        times out, however long a server goes on sending."""
        if now_s >= self._end_s:
            self.next_s = self._end_s
            raise self.failure()

    def failure(self) -> UpstreamFailure:
        """The failure of a wait that lasted until `next_s`."""
        if self.next_s >= self._end_s:
            return UpstreamFailure(FailureKind.DEADLINE, "not complete by the deadline")
        if self._started:
            message = f"silent for {self._idle_s:g} s in the middle of its answer"
        else:
            message = f"no output within {self._first_s:g} s"
        return UpstreamFailure(FailureKind.TIMEOUT, message)


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and how long a connection for it may take. `headers`: all that are sent."""

    session: aiohttp.ClientSession
    url: str
    headers: Mapping[str, str]
    connect_s: float
    method: str = "POST"
    body: bytes | None = None


@functools.lru_cache
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    """Limits the connection only; the default of aiohttp would cut a stream after 5 minutes."""
    return aiohttp.ClientTimeout(total=None, connect=connect_s)


async def open_response(request: HttpRequest, bounds: CallBounds) -> aiohttp.ClientResponse:
    """Sends a request. Returns the response once its headers have come; the caller closes it."""
    body, connect_s = request.body, request.connect_s
    data = io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY_BYTES else body
    now_s = asyncio.get_running_loop().time
    late_s = now_s() + connect_s + _STALL_S
    try:
        async with asyncio.timeout_at(bounds.next_s):
            while True:
                try:
                    return await request.session.request(
                        request.method,
                        request.url,
                        data=data,
                        headers=request.headers,
                        timeout=_timeout(connect_s),
                        allow_redirects=False,
                    )
                except aiohttp.ConnectionTimeoutError:
                    # A late timer means that this process stalled, not the server. Try once more.
                    if now_s() < late_s:
                        raise
                    late_s = math.inf
    except aiohttp.ConnectionTimeoutError as error:
        message = f"no connection within {connect_s:g} s"
        raise UpstreamFailure(FailureKind.CONNECT, message) from error
    except TimeoutError as error:
        raise bounds.failure() from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or type(error.os_error).__name__
        raise UpstreamFailure(FailureKind.CONNECT, f"no connection: {reason}") from error
    except aiohttp.ClientConnectionError as error:
        raise UpstreamFailure(
            FailureKind.SERVER_ERROR, "the connection broke before an answer"
        ) from error
    except aiohttp.ClientError as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, "the answer is not HTTP") from error


async def read_some(response: aiohttp.ClientResponse, bounds: CallBounds) -> bytes:
    """The bytes that have come, or that come next; empty: the end of the body."""
    try:
        return await bounds.read(response.content)
    except TimeoutError as error:
        raise bounds.failure() from error
    except aiohttp.ClientError as error:
        raise UpstreamFailure(
            FailureKind.SERVER_ERROR, "the stream was cut: the connection broke"
        ) from error


async def read_at_most(
    response: aiohttp.ClientResponse, max_bytes: int, bounds: CallBounds
) -> bytes:
    """The body; one that is longer than `max_bytes` is cut to `max_bytes + 1`."""
    body = bytearray()
    while len(body) <= max_bytes and (data := await read_some(response, bounds)):
        body += data
    return bytes(body[: max_bytes + 1])


async def await_end(response: aiohttp.ClientResponse) -> None:
    """Reads the end of a body after its last event, so that its connection can be used again."""
    if response.content.at_eof():
        return  # it came with the last event
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END_GRACE_S):
            while await response.content.readany():
                pass
