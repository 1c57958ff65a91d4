"""Callers that speak HTTP/2 by hand, and so may send what no gRPC client sends."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
WINDOW_UPDATE, CONTINUATION = 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
NO_TABLE = struct.pack(">HI", 1, 0)
"""A setting: the server must not refer back to header fields, so that each can be read as it is."""
WAIT_S = 20.0
"""Bound on one wait: generous, the machine is shared."""


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """One header field, without indexing and without Huffman coding."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An HPACK integer with a prefix of 7 bits."""
    if size < 127:
        return bytes([size])
    size -= 127
    out = bytearray([127])
    while size >= 128:
        out.append(size % 128 + 128)
        size //= 128
    return bytes([*out, size])


def request_headers(path: bytes, *further: tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"gateway"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *further,
    ]
    return b"".join(header(name, value) for name, value in fields)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that came back."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class RawConnection:
    """A connection whose frames are written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: bytes) -> None:
        """Sends bytes as they are. Raises ConnectionError once the server has closed."""
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def call(self, stream: int, path: bytes, *further: tuple[bytes, bytes]) -> None:
        """Begins a call with its headers, and sends no message."""
        block = request_headers(path, *further)
        pieces = [block[i : i + 16_000] for i in range(0, len(block), 16_000)]
        for i, piece in enumerate(pieces):
            flags = END_HEADERS if i == len(pieces) - 1 else 0
            await self.send(frame(HEADERS if i == 0 else 9, piece, flags=flags, stream=stream))

    async def frame(self) -> Frame | None:
        """The next frame; None: the server has closed the connection."""
        try:
            async with asyncio.timeout(WAIT_S):
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        return Frame(kind, flags, stream, payload)

    async def until(self, kind: int) -> Frame | None:
        """The next frame of a kind; None: the connection was closed before."""
        while (found := await self.frame()) is not None and found.kind != kind:
            pass
        return found

    async def status(self, stream: int) -> int | None:
        """The gRPC status of a call; None: the connection was closed without one."""
        while (found := await self.frame()) is not None:
            if found.kind == HEADERS and found.stream == stream:
                block = found.payload
                if b"grpc-status" in block:
                    rest = block[block.index(b"grpc-status") + len(b"grpc-status") :]
                    return int(rest[1 : 1 + rest[0]])
        return None


@contextlib.asynccontextmanager
async def raw_connection(address: str, first: bytes | None = None) -> AsyncIterator[RawConnection]:
    """Connects. `first`: bytes to begin with; None: a correct HTTP/2 preface."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = RawConnection(reader, writer)
    try:
        await connection.send(PREFACE + frame(SETTINGS, NO_TABLE) if first is None else first)
        yield connection
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
