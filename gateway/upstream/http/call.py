"""One HTTP call with time limits. Each way in which it can break becomes an `UpstreamFailure`.

A limit covers a single wait, never a `yield`, where it would cancel the consumer of the stream
instead of the read. One timer serves all reads of a call and is set again only when it fires too
early, because a timer for each read costs as much as the read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping
from typing import Protocol, TypeVar

import msgspec

from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.upstream.http import connections
from gateway.upstream.http.connection import PIECE_BYTES, Connection
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.response import Response
from gateway.upstream.http.target import Origin, request_head, target_of

_PLAIN = frozenset({"", "identity", "none", "utf-8", "utf8"})
"""Values of Content-Encoding that leave the body as it is; some servers put the charset there."""
_PLAIN_TRANSFER = frozenset({"", "identity", "chunked"})


T = TypeVar("T")


class Waits(Protocol):
    """What a call waits for."""

    def time_out(self) -> None:
        """Ends the wait with TimeoutError."""


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
        self._waits: Waits | None = None
        self.next_s = min(now_s + first_s, end_s)

    async def wait(self, on: Waits, awaited: Awaitable[T]) -> T:
        """Awaits what waits on `on`, until `next_s`. Raises UpstreamFailure after that."""
        if self._timer is None or self.next_s < self._armed_s:
            self._arm()
        self._waits = on
        try:
            return await awaited
        except TimeoutError as error:
            raise self.failure() from error
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
            self._waits.time_out()

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
    """A request, and how long a connection for it may take. `headers`: all that are sent but
    `Host`, `User-Agent` and `Content-Length`."""

    session: HttpSession
    url: str
    headers: Mapping[str, str]
    connect_s: float
    method: str = "POST"
    body: bytes | None = None


async def open_response(request: HttpRequest, bounds: CallBounds) -> Response:
    """Sends a request. Returns the response once its headers have come; the caller closes it.

    Where a pooled connection was stale, sends it once more on a fresh one.
    """
    origin, head = _target_and_head(request)
    body = request.body
    connection = request.session.take_idle(origin)
    if connection is None:
        connection = await _connect(request, origin, bounds)
        return await _exchange(connection, head, body, bounds)
    now_s = asyncio.get_running_loop().time
    sent_s = now_s()
    try:
        return await _exchange(connection, head, body, bounds)
    except UpstreamFailure as failure:
        is_stale = failure.kind is FailureKind.SERVER_ERROR and not connection.began
        if not is_stale or now_s() - sent_s > connections.STALE_S:
            raise
        stale = failure
    try:
        connection = await _connect(request, origin, bounds, look_up_anew=True)
    except UpstreamFailure as failure:
        raise stale if failure.kind is FailureKind.CONNECT else failure from None
    return await _exchange(connection, head, body, bounds)


def _target_and_head(request: HttpRequest) -> tuple[Origin, bytes]:
    """Where the request goes, and its head. Raises UpstreamFailure."""
    try:
        origin, rest_of_line = target_of(request.url)
    except ValueError as error:
        raise UpstreamFailure(FailureKind.CONNECT, f"no connection: {error}") from error
    length = None if request.body is None else len(request.body)
    try:
        return origin, request_head(request.method, rest_of_line, request.headers, length)
    except ValueError as error:
        raise UpstreamFailure(FailureKind.BAD_REQUEST, str(error)) from error


async def _connect(
    request: HttpRequest, origin: Origin, bounds: CallBounds, *, look_up_anew: bool = False
) -> Connection:
    try:
        async with asyncio.timeout_at(bounds.next_s):
            return await request.session.connect(
                origin, request.connect_s, look_up_anew=look_up_anew
            )
    except TimeoutError as error:
        raise bounds.failure() from error


async def _exchange(
    connection: Connection, head: bytes, body: bytes | None, bounds: CallBounds
) -> Response:
    """Sends a request and awaits the head of its answer."""
    is_large = body is not None and len(body) > PIECE_BYTES
    response = connection.send(head, None if is_large else body)
    try:
        if is_large:
            await _send_body(connection, body or b"", bounds)
        await bounds.wait(response, response.await_head())
    except BaseException:
        connection.abort()
        raise
    return response


async def _send_body(connection: Connection, body: bytes, bounds: CallBounds) -> None:
    try:
        async with asyncio.timeout_at(bounds.next_s):
            await connection.send_body(body)
    except TimeoutError as error:
        raise bounds.failure() from error


def foreign_encoding(response: Response) -> str:
    """The encoding in which the body has come although plain bytes were asked for; empty: none."""
    for name, plain in (("Content-Encoding", _PLAIN), ("Transfer-Encoding", _PLAIN_TRANSFER)):
        for value in response.headers.getall(name, ()):
            for word in value.split(","):
                if word.strip().lower() not in plain:
                    return one_line(word, 40)
    return ""


async def read_some(response: Response, bounds: CallBounds) -> bytes:
    """The bytes that have come, or that come next; empty: the end of the body."""
    if response.needs_wait:
        return await bounds.wait(response, response.read())
    return await response.read()


async def read_at_most(response: Response, max_bytes: int, bounds: CallBounds) -> bytes:
    """The body; one that is longer than `max_bytes` is cut to `max_bytes + 1`."""
    body = bytearray()
    while len(body) <= max_bytes and (data := await read_some(response, bounds)):
        body += data
    return bytes(body[: max_bytes + 1])
