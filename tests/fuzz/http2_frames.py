"""Fuzzes a connection of HTTP/2: frames of all types in any order, cut anywhere, then broken."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from hypothesis import strategies as st

from gateway.doors.http.http2.connection import (
    HELD_BYTES,
    STREAMS,
    UNSENT_BYTES,
    Http2Connection,
    Room,
)
from gateway.doors.http.http2.library import WINDOW_BYTES
from tests.fuzz.mutations import scratched
from tests.raw_http2 import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    header,
)

ROOM = 5
ANSWER = bytes(100_000)
WORDS = (frame(PING, bytes(8)), frame(HEADERS, b"\x82", flags=5, stream=3), b"\0\0\0")
KINDS = (DATA, HEADERS, 2, RST_STREAM, SETTINGS, 5, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, 99)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a client sends, in the pieces in which it comes. `reads`: whether it reads."""

    pieces: list[bytes]
    reads: bool


class Socket(asyncio.Transport):
    """A socket in memory, which is full once it holds 64 KiB that nobody reads."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        self.protocol: Http2Connection | None = None
        self._reads = reads
        self.held_bytes = 0
        self.is_closed = self.is_paused = False

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written after its end"
        self.held_bytes += 0 if self._reads else len(data)
        if self.held_bytes > 65_536 and not self.is_paused:
            self.is_paused = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.held_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.is_closed

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


def _head(path: bytes, method: bytes, more: bytes) -> bytes:
    fields = ((b":method", method), (b":scheme", b"https"), (b":path", path), (b":authority", b"g"))
    return b"".join(header(name, value) for name, value in fields) + more


def sent() -> st.SearchStrategy[Sent]:
    """Mostly requests, their bodies and resets, among frames of any kind and content."""
    streams = st.sampled_from([0, 1, 1, 3, 5, 7, 9, 11, 13, 2])
    heads = st.builds(
        _head,
        st.sampled_from([b"/a", b"/b?x", b"", b"*", b"/large"]),
        st.sampled_from([b"POST", b"GET", b"HEAD", b"CONNECT"]),
        st.sampled_from([b"", header(b"x", b"y" * 300), header(b"Upper", b"1"), b"\xbe", b"\xff"])
        | st.binary(max_size=20),
    )
    flags = st.sampled_from([0, 1, 4, 5, 5, 8, 0x20, 0x2D, 255])
    frames = st.one_of(
        st.builds(lambda s, h, f: frame(HEADERS, h, flags=f, stream=s), streams, heads, flags),
        st.builds(
            lambda s, size, f: frame(DATA, bytes(size), flags=f, stream=s),
            *(streams, st.sampled_from([0, 1, 300, 16_384, 20_000]), st.sampled_from([0, 1, 8])),
        ),
        st.builds(lambda s: frame(RST_STREAM, bytes([0, 0, 0, 8]), stream=s), streams),
        st.builds(
            lambda s, size: frame(WINDOW_UPDATE, size.to_bytes(4, "big"), stream=s),
            *(streams, st.sampled_from([0, 1, 65_535, (1 << 31) - 1])),
        ),
        st.builds(
            lambda key, value: frame(SETTINGS, key.to_bytes(2, "big") + value.to_bytes(4, "big")),
            *(st.integers(0, 9), st.sampled_from([0, 1, 16_384, 1 << 20, (1 << 32) - 1])),
        ),
        st.builds(
            lambda k, p, f, s: frame(k, p, flags=f, stream=s),
            *(st.sampled_from(KINDS), st.binary(max_size=30), st.integers(0, 255), streams),
        ),
    )
    whole = st.lists(frames, max_size=40).map(b"".join)
    begun = st.builds(lambda first, rest: first + frame(SETTINGS) + rest, st.just(PREFACE), whole)
    either = begun | begun.flatmap(lambda data: scratched(data, WORDS))
    return st.builds(_cut, either, st.lists(st.integers(1, 30_000), max_size=6), st.booleans())


def _cut(data: bytes, sizes: list[int], reads: bool) -> Sent:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return Sent([*pieces, data], reads)


async def _answered(request: web.BaseRequest) -> web.StreamResponse:
    """Reads the body of some requests, and answers much or little."""
    if request.method == "POST":
        async for _ in request.content.iter_any():
            pass
    response = web.Response(body=ANSWER if request.path == "/large" else b"ok")
    await response.prepare(request)
    await response.write_eof()
    return response


async def _play(client: Sent, failures: list[object]) -> None:
    async def answer(request: web.BaseRequest, _: Http2Connection) -> web.StreamResponse:
        try:
            return await _answered(request)
        except ConnectionError:
            raise
        except Exception as error:
            failures.append(error)
            raise

    room = Room(ROOM)
    loop = asyncio.get_running_loop()
    connection = Http2Connection(
        *(answer, room, loop.time),
        opened_s=loop.time(),
        max_streams=STREAMS,
        linger_s=0.01,
        grace_s=1.0,
    )
    socket = Socket(reads=client.reads)
    socket.protocol = connection
    connection.connection_made(socket)
    before = asyncio.all_tasks()
    for piece in client.pieces:
        if socket.is_closed:
            break
        connection.data_received(piece)
        for _ in range(5):
            await asyncio.sleep(0)
        assert room.open <= ROOM
        assert socket.held_bytes <= UNSENT_BYTES + HELD_BYTES
        kept = [stream.content.total_bytes for stream in connection._streams.values()]
        assert sum(kept) <= sum(map(len, client.pieces)) + WINDOW_BYTES
    connection.sweep(loop.time() + 1e6, idle_s=1.0, unread_s=1.0)
    connection.connection_lost(None)
    tasks = asyncio.all_tasks() - before
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    for _ in range(3):
        await asyncio.sleep(0)
    assert room.open == 0, "a request stays behind"
    assert not connection._streams


def check_connection(client: Sent) -> None:
    """Nothing that a client sends fails in the connection, or stays behind it."""
    failures: list[object] = []

    async def played() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        await _play(client, failures)

    asyncio.run(played())
    assert not failures, failures
