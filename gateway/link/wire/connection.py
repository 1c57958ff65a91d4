"""A connection that carries frames of messages in both directions.

Messages are gathered: up to `FREE_FRAMES` frames leave in each `GATHER_S` as soon as there is
something to send, and under more load one frame carries all that has gathered. A message with a
key replaces an unsent one of the same key, so that progress of a stream costs one message however
slowly the other side reads.

What waits to be sent is bounded: a peer that does not read `MAX_UNSENT_BYTES` of bytes and
`MAX_WAITING` messages is lost. Whoever could wait or be refused instead asks `is_congested` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from gateway.link.wire.messages import (
    MAX_FRAME_BYTES,
    Call,
    Kind,
    LinkError,
    LinkMessage,
    decode,
    decode_value,
    encode,
    encode_value,
)

log = logging.getLogger(__name__)

GATHER_S = 0.001
"""Longest time for which a message waits for others."""
FREE_FRAMES = 8
"""Frames that leave without gathering in each `GATHER_S`."""
MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""Bytes in the transport's buffer from which on the connection is congested."""
MAX_WAITING = 100_000
"""Messages that wait while the connection is congested."""
MAX_CALLS = 10_000
"""Calls that wait for their answers."""
FINISH_S = 2.0
"""Longest time for the last bytes of a connection to leave this process."""
BACKLOG = 128
"""Connections to a Unix socket that wait to be accepted."""
_LENGTH = struct.Struct("!I")

Receive = Callable[[Kind, int, Any], None]
Handler = tuple[Any, Callable[[Any], Any]]
"""Type of a call's argument, and the function that answers: a value, or an awaitable of one."""


class LinkLost(ConnectionError):
    """The connection is lost, or too congested for another call."""


class CallFailed(Exception):
    """The other side could not answer a call."""


class Connection(asyncio.Protocol):
    """One connection. `receive` is called with every message that is no call or answer of one;
    `handlers`: what may be called here, by name; `on_lost`: called once, with the reason."""

    def __init__(
        self,
        receive: Receive,
        handlers: dict[str, Handler],
        on_lost: Callable[[str], None],
    ) -> None:
        """Must be made inside a running event loop."""
        self.receive = receive
        self.may_act: Callable[[], bool] | None = None
        """Asked before each frame that comes or leaves; False ends the connection."""
        self._handlers = handlers
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read = bytearray()
        self._waiting: list[LinkMessage] = []
        self._newest: dict[str, LinkMessage] = {}
        self._is_scheduled = False
        self._paused = False
        self._window_s = 0.0
        self._frames = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self.lost = ""
        """Why the connection is lost; empty: it stands."""

    @property
    def is_congested(self) -> bool:
        """Whether the other side reads too slowly."""
        return self._paused

    def post(self, kind: Kind, number: int, payload: Any, *, key: str = "") -> None:
        """Sends a message soon. `key`: replaces an unsent message with the same key. Has no effect
        on a lost connection."""
        if self.lost:
            return
        if key:
            self._newest[key] = kind, number, payload
        else:
            self._waiting.append((kind, number, payload))
            if len(self._waiting) > MAX_WAITING:
                self.close(f"the other side does not read: {MAX_WAITING} messages wait")
                return
        self._schedule()

    async def call(self, name: str, argument: Any, type_: Any) -> Any:
        """Asks the other side, and returns its answer of this type. Raises LinkLost, CallFailed or
        LinkError."""
        if self.lost or len(self._calls) >= MAX_CALLS:
            raise LinkLost(self.lost or "too many calls wait")
        self._call_number += 1
        number = self._call_number
        waiting = self._calls[number] = self._loop.create_future()
        self.post(Kind.CALL, number, Call(name=name, argument=encode_value(argument)))
        try:
            return decode_value(await waiting, type_)
        finally:
            self._calls.pop(number, None)

    def close(self, reason: str) -> None:
        """Ends the connection at once."""
        if self.lost:
            return
        self.lost = reason
        if self._transport is not None:
            self._transport.abort()
        self._waiting.clear()
        self._newest.clear()
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(LinkLost(reason))
        for task in self._tasks:
            task.cancel()
        self._on_lost(reason)

    def flush(self) -> None:
        """Sends what waits as a frame now."""
        self._flush()

    async def finish(self) -> None:
        """Sends what waits, and ends the connection once it has left this process."""
        self._flush()
        if self._transport is not None and not self.lost:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH_S):
                    await self._ended.wait()
        self.close("closed")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not checked: the transports of uvloop are no subclasses.
        self._transport = stream = cast(asyncio.Transport, transport)
        stream.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._ended.set()
        self.close("the other side ended the connection" if exc is None else reason_of(exc))

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = False
        self._schedule()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.may_act is not None and not self.may_act():
            self.close("this process may not act any more")
            return
        self._read += data
        try:
            self._receive_frames()
        except LinkError as error:
            log.error("a link between processes is broken: %s", error)
            self.close(str(error))
        except Exception as error:
            log.exception("a message between processes could not be handled")
            self.close(f"a message could not be handled: {type(error).__name__}")

    # Internals.

    def _receive_frames(self) -> None:
        start, read = 0, self._read
        while len(read) - start >= _LENGTH.size and not self.lost:
            (length,) = _LENGTH.unpack_from(read, start)
            if length > MAX_FRAME_BYTES:
                raise LinkError(f"a frame of {length} bytes: at most {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + length
            if len(read) < end:
                break
            frame = bytes(read[start + _LENGTH.size : end])
            start = end
            for kind, number, payload in decode(frame):
                match kind:
                    case Kind.CALL:
                        self._answer(number, payload)
                    case Kind.RETURN | Kind.FAIL:
                        self._returned(kind, number, payload)
                    case _:
                        self.receive(kind, number, payload)
        del read[:start]

    def _schedule(self) -> None:
        if self._is_scheduled or self._paused or self._transport is None:
            return
        self._is_scheduled = True
        wait_s = self._window_s + GATHER_S - self._loop.time()
        if wait_s <= 0 or self._frames < FREE_FRAMES:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self.lost or self._transport is None or not (self._waiting or self._newest):
            return
        if self.may_act is not None and not self.may_act():
            self.close("this process may not act any more")
            return
        now = self._loop.time()
        if now - self._window_s >= GATHER_S:
            self._window_s, self._frames = now, 0
        self._frames += 1
        # Progress first: an end that waits is of the same attempt or of another one.
        messages = [*self._newest.values(), *self._waiting]
        self._newest.clear()
        self._waiting.clear()
        frame = encode(messages)
        self._transport.write(_LENGTH.pack(len(frame)) + frame)

    def _answer(self, number: int, call: Call) -> None:
        handler = self._handlers.get(call.name)
        if handler is None:
            self.post(Kind.FAIL, number, f"no such call: {call.name[:100]}")
            return
        type_, function = handler
        argument = decode_value(call.argument, type_)
        try:
            answer = function(argument)
        except Exception as error:
            self._fail(number, call.name, error)
            return
        if isinstance(answer, Awaitable):
            task = self._loop.create_task(self._answer_later(number, call.name, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.post(Kind.RETURN, number, encode_value(answer))

    async def _answer_later(self, number: int, name: str, answer: Awaitable[Any]) -> None:
        try:
            encoded = encode_value(await answer)
        except Exception as error:
            self._fail(number, name, error)
        else:
            self.post(Kind.RETURN, number, encoded)

    def _fail(self, number: int, name: str, error: Exception) -> None:
        log.error("call %s of another process failed", name, exc_info=error)
        detail = error if isinstance(error, LinkError) else type(error).__name__
        self.post(Kind.FAIL, number, f"{name}: {detail}")

    def _returned(self, kind: Kind, number: int, payload: Any) -> None:
        waiting = self._calls.get(number)
        if waiting is None or waiting.done():
            return
        if kind is Kind.RETURN:
            # A copy: a Raw would keep the whole frame.
            waiting.set_result(payload.copy())
        else:
            waiting.set_exception(CallFailed(payload))


def reason_of(error: Exception) -> str:
    """Returns what is wrong with a connection or its handshake, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "TLS failed").replace("_", " ").lower()
        if "alert" in reason:
            return f"it refuses the certificate of this gateway: {reason}"
        return reason
    return str(error) or type(error).__name__


# On one machine: a Unix socket in a folder that only its user may enter. Who connects is trusted.


async def listen(path: Path, make: Callable[[], Connection]) -> asyncio.Server:
    """Accepts connections at a path, which must not exist. Raises OSError."""
    loop = asyncio.get_running_loop()
    # The mode is set before anyone can connect: a socket appears with that of the umask.
    before = os.umask(0o177)
    try:
        return await loop.create_unix_server(make, str(path), backlog=BACKLOG)
    finally:
        os.umask(before)


async def connect(path: Path, make: Callable[[], Connection]) -> Connection:
    """Connects to a path. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(make, str(path))
    return connection
