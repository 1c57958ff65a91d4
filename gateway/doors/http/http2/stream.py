"""One request of an HTTP/2 connection, in the place of the connection of its own that aiohttp's
requests and responses expect."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import ClientConnectionResetError, StreamReader
from aiohttp.abc import AbstractStreamWriter

from gateway.doors.http.http2.header_blocks import answer_headers

BODY_LIMIT_BYTES = 65_536
"""Of a body that nobody reads, twice so much is taken before its window stays shut."""
UNWAITED_BYTES = 65_536
"""Most that is kept of what is written without waiting: pings to a client that does not read."""


class Sender(Protocol):
    """What a stream asks of its connection."""

    def send_head(self, stream: Http2Stream, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends the headers of an answer, or of an interim one."""

    def send_output(self, stream: Http2Stream) -> None:
        """Sends of `stream.output` what its windows and the socket have room for, now or later."""

    def abort(self, stream: Http2Stream) -> None:
        """Ends the stream at once, and nothing else."""

    def take_in(self, stream: Http2Stream) -> None:
        """Opens the window of the stream by the bytes of its body that were kept shut."""

    def extra_info(self, name: str) -> Any:
        """As `get_extra_info` of a transport."""


class Http2Stream:
    """A stream. In aiohttp's words it is the protocol and the transport of its request.

    Attributes:
        content: the body of the request.
        shut_bytes: bytes of the body by which the window is to be opened once it is read.
        is_shut: whether the body is not read, and its window stays as it is.
        drops_body: whether what still comes of the body is of no use.
        dropped_bytes: how much of it came lately.
        output: pieces that are not sent yet.
        ends: whether the answer ends with them.
        has_ended: whether its end is sent.
        is_open: whether the client still hears.
        task: answers the request.
    """

    __slots__ = (
        *("_sender", "_waiting", "content", "dropped_bytes", "drops_body", "ends", "has_ended"),
        *("is_open", "is_shut", "output", "shut_bytes", "stream_id", "task"),
    )

    def __init__(self, sender: Sender, stream_id: int) -> None:
        self._sender = sender
        self._waiting: asyncio.Future[None] | None = None
        self.stream_id = stream_id
        self.content = StreamReader(self, BODY_LIMIT_BYTES)  # type: ignore[arg-type]
        self.shut_bytes = self.dropped_bytes = 0
        self.is_shut = self.drops_body = self.ends = self.has_ended = False
        self.is_open = True
        self.output: deque[memoryview] = deque()
        self.task: asyncio.Task[None] | None = None

    # --- what aiohttp asks of a protocol and its transport

    @property
    def transport(self) -> Http2Stream | None:
        """None: the client has gone away."""
        return self if self.is_open else None

    @property
    def connected(self) -> bool:
        """Whether more of the body may come."""
        return self.is_open

    @property
    def ssl_context(self) -> Any:
        """That of the connection."""
        return self._sender.extra_info("sslcontext")

    @property
    def peername(self) -> Any:
        """Address of the client."""
        return self._sender.extra_info("peername")

    @property
    def sockname(self) -> Any:
        """Address of the server."""
        return self._sender.extra_info("sockname")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As that of a transport."""
        found = self._sender.extra_info(name)
        return default if found is None else found

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return not self.is_open

    def abort(self) -> None:
        """Ends this request at once. Others of the connection go on."""
        self._sender.abort(self)

    def pause_reading(self) -> None:
        """The body is not read: its window stays shut."""
        self.is_shut = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The body is read again."""
        if self.is_shut:
            self.is_shut = False
            self._sender.take_in(self)

    # --- what the connection tells

    def lost(self) -> None:
        """The client has gone away, or hears no more of this request."""
        self.is_open = False
        self.output.clear()
        error = ClientConnectionResetError("the client has gone away")
        self.content.set_exception(error)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def piece(self, most_bytes: int) -> bytes:
        """Takes the next bytes of the output."""
        first = self.output[0]
        if len(first) <= most_bytes:
            self.output.popleft()
            return bytes(first)
        self.output[0] = first[most_bytes:]
        return bytes(first[:most_bytes])

    def all_sent(self) -> None:
        """The output is sent."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # --- what its writer asks

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Adds output. Raises ConnectionError if the client has gone away."""
        if not self.is_open:
            raise ClientConnectionResetError("the client has gone away")
        if data:
            self.output.append(memoryview(data).cast("B"))
        self._sender.send_output(self)

    @property
    def has_output(self) -> bool:
        """Whether something is to be sent."""
        return bool(self.output) or (self.ends and not self.has_ended)

    async def sent(self) -> None:
        """Waits until the output is sent. Raises ConnectionError if the client goes away."""
        if self.has_output:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None


class Http2Writer(AbstractStreamWriter):
    """Writes an answer to a stream, in the words of aiohttp's own writer."""

    def __init__(self, stream: Http2Stream, sender: Sender) -> None:
        self._stream = stream
        self._sender = sender

    async def write(
        self,
        chunk: bytes | bytearray | memoryview,
        *,
        drain: bool = True,
        LIMIT: int = 0,
    ) -> None:
        """Writes a piece of the body, and waits until it is sent. `drain`: False: it never waits.
        `LIMIT`: not used, since nothing is collected."""
        stream = self._stream
        if not drain and sum(map(len, stream.output)) > UNWAITED_BYTES:
            return
        if self.length is not None:
            chunk = chunk[: self.length]
            self.length -= len(chunk)
        self.output_size += len(chunk)
        stream.add(chunk)
        if drain:
            await stream.sent()

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Writes the last piece of the body."""
        if self._stream.ends:
            return
        if self.length is not None:
            chunk = chunk[: self.length]
        self.output_size += len(chunk)
        self._stream.ends = True
        self._stream.add(chunk)
        await self._stream.sent()

    async def drain(self) -> None:
        """Waits until everything is sent."""
        await self._stream.sent()

    async def write_headers(self, status_line: str, headers: Mapping[str, str]) -> None:
        """Sends the head of the answer. `status_line`: that of HTTP/1.1, by which aiohttp tells the
        status."""
        status = int(status_line.split(" ", 2)[1])
        self._sender.send_head(self._stream, answer_headers(status, headers))

    def send_continue(self) -> None:
        """Tells a client that waits before it sends a large body to send it."""
        self._sender.send_head(self._stream, answer_headers(100, {}))

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """No answer is compressed."""
        raise NotImplementedError

    def enable_chunking(self) -> None:
        """HTTP/2 has frames instead."""
