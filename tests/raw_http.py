"""An HTTP server that writes exactly the bytes that a test wants, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Exchange:
    """One request on a connection; `nth`: its number on this connection, from 1."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    nth: int
    head: bytes

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Breaks the connection without a goodbye."""
        self.writer.transport.abort()


@dataclass(slots=True)
class RawServer:
    """What came to it. `sent_bytes`: bytes that the answering function counted itself."""

    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    """Heads of the requests."""
    bodies: list[bytes] = field(default_factory=list)
    sent_bytes: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """A client has closed its connection in the middle of an answer."""


Answer = Callable[[Exchange], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(answer: Answer) -> AsyncIterator[RawServer]:
    """Calls `answer` for each request until the client or `answer` closes the connection."""
    state = RawServer()
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        open_writers.add(writer)
        nth = 0
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                nth += 1
                state.requests.append(head)
                length = 0
                for line in head.split(b"\r\n"):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                state.bodies.append(await reader.readexactly(length))
                await answer(Exchange(reader, writer, nth, head))
        except ConnectionError:
            state.gone.set()
        except asyncio.IncompleteReadError:
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        for writer in tuple(open_writers):
            writer.transport.abort()
        server.close()
        await server.wait_closed()
