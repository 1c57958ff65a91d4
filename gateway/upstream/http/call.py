"""One HTTP call with time limits. Each way in which it can break becomes an `UpstreamFailure`.

A limit covers a single wait, never a `yield`, where it would cancel the consumer of the stream
instead of the read. One timer serves all reads of a call and is set again only when it fires too
early, because a timer for each read costs as much as the read.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.upstream.http.connections import Reuse, is_stale, unpooled_session
from gateway.upstream.http.large_body import LARGE_BODY_BYTES, LargeBody

END_GRACE_S = 0.25
"""Longest wait for the end of a body after its last event; then its connection is closed."""
MAX_END_BYTES = 64 * 1024
"""Most bytes that are read after the last event; then its connection is closed."""
_STALL_S = 0.25
"""A timer that is this late shows that the event loop stood still."""
_PLAIN = frozenset({"", "identity", "none", "utf-8", "utf8"})
"""Values of Content-Encoding that leave the body as it is; some servers put the charset there."""
_PLAIN_TRANSFER = frozenset({"", "identity", "chunked"})


class CallBounds:
    """Time limits of the waits of one call.

    Output and proof of life are told apart. Silence is bounded by `first_s` and `idle_s`. Bytes
    without output (pings, comments, empty pieces) show that the server lives, and so prolong a
    wait, but no longer than `pings_first_s` and `pings_idle_s`.

    Attributes:
        next_s: when the next wait fails, on the event loop's clock.
    """

    __slots__ = (
        "_armed_s",
        "_end_s",
        "_first_s",
        "_idle_s",
        "_output_due_s",
        "_pings_first_s",
        "_pings_idle_s",
        "_started",
        "_timer",
        "_waits",
        "next_s",
    )

    def __init__(
        self,
        now_s: float,
        *,
        first_s: float,
        idle_s: float,
        end_s: float,
        pings_first_s: float = math.inf,
        pings_idle_s: float = math.inf,
    ) -> None:
        """`first_s`: from `now_s` to the first output; `idle_s`: between two outputs; `end_s`: when
        the whole call fails, on the event loop's clock; `pings_first_s`, `pings_idle_s`: the same
        as the first two while the server shows that it lives, if they are longer."""
        self._first_s = first_s
        self._idle_s = idle_s
        self._end_s = end_s
        self._pings_first_s = max(first_s, pings_first_s)
        self._pings_idle_s = max(idle_s, pings_idle_s)
        self._output_due_s = now_s + self._pings_first_s
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
        self._output_due_s = now_s + self._pings_idle_s
        self.next_s = min(now_s + self._idle_s, self._end_s)

    def record_life(self, now_s: float) -> None:
        """Bytes without output have come: the wait is prolonged, within its own bound."""
        silence_s = self._idle_s if self._started else min(self._first_s, self._idle_s)
        alive_s = min(now_s + silence_s, self._output_due_s, self._end_s)
        self.next_s = max(self.next_s, alive_s)

    def check_end(self, now_s: float) -> None:
        """Raises the failure if the end of the call has passed, or output is overdue: a read that
        need not wait never times out, however long a server goes on sending."""
        if now_s >= self._end_s:
            self.next_s = self._end_s
            raise self.failure()
        if now_s >= self._output_due_s:
            self.next_s = self._output_due_s
            raise self.failure()

    def failure(self) -> UpstreamFailure:
        """The failure of a wait that lasted until `next_s`."""
        if self.next_s >= self._end_s:
            return UpstreamFailure(FailureKind.DEADLINE, "not complete by the deadline")
        pings_s = self._pings_idle_s if self._started else self._pings_first_s
        longest_s = self._idle_s if self._started else self._first_s
        if self.next_s >= self._output_due_s and pings_s > longest_s:
            message = f"only signs of life, and no output, for {pings_s:g} s"
        elif self._started:
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
    connect_s = request.connect_s
    now_s = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout_at(bounds.next_s):
            late_s = now_s() + connect_s + _STALL_S
            try:
                return await _send_unless_stale(request)
            except aiohttp.ConnectionTimeoutError:
                # A late timer means that this process stalled, not the server. Try once more.
                if now_s() < late_s:
                    raise
            return await _send(request, request.session, Reuse())
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


async def _send_unless_stale(request: HttpRequest) -> aiohttp.ClientResponse:
    """Sends a request; where a pooled connection was stale, once more on a fresh one."""
    now_s = asyncio.get_running_loop().time
    sent_s, reuse = now_s(), Reuse()
    try:
        return await _send(request, request.session, reuse)
    except aiohttp.ClientError as error:
        if not is_stale(error, reuse, now_s() - sent_s):
            raise
        broken = error
    fresh = unpooled_session()
    try:
        response = await _send(request, fresh, Reuse())
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        await fresh.close()
        raise broken from None
    except BaseException:
        await fresh.close()
        raise
    fresh.detach()
    return response


async def _send(
    request: HttpRequest, session: aiohttp.ClientSession, reuse: Reuse
) -> aiohttp.ClientResponse:
    body = request.body
    data = LargeBody(body) if body is not None and len(body) > LARGE_BODY_BYTES else body
    return await session.request(
        request.method,
        request.url,
        data=data,
        headers=request.headers,
        timeout=_timeout(request.connect_s),
        allow_redirects=False,
        trace_request_ctx=reuse,
    )


def foreign_encoding(response: aiohttp.ClientResponse) -> str:
    """The encoding in which the body has come although plain bytes were asked for; empty: none."""
    for name, plain in (("Content-Encoding", _PLAIN), ("Transfer-Encoding", _PLAIN_TRANSFER)):
        for value in response.headers.getall(name, ()):
            for word in value.split(","):
                if word.strip().lower() not in plain:
                    return one_line(word, 40)
    return ""


async def gather(response: aiohttp.ClientResponse, window_s: float) -> None:
    """Waits while output gathers: for `window_s` seconds, or until the body has ended or broken."""
    content = response.content
    if content.is_eof() or content.exception() is not None:
        return
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(window_s):
            await content.wait_eof()


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
    received = 0
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END_GRACE_S):
            while received <= MAX_END_BYTES and (data := await response.content.readany()):
                received += len(data)
