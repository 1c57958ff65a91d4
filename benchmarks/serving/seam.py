"""What an exchange between two processes costs: frames over a Unix socket, or one gRPC stream.

Both gather: what is sent in one turn of the event loop, or within a millisecond under load, goes
out as one message. CPU in µs of each side for an exchange of 300 bytes, one at a time and 32 at
once.

    python -m benchmarks.serving.seam [--exchanges 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import grpc
import msgspec
import uvloop

from benchmarks.serving.overhead import cpu_s
from gateway.link.wire.connection import GATHER_S, Connection, connect, listen

PAYLOAD = "x" * 300
METHOD = "/seam/Exchange"
Exchange = Callable[[], Awaitable[None]]


class Gathered:
    """A gRPC stream whose messages are lists of what has gathered."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []
        self._ready = asyncio.Event()
        self._sent_s = 0.0

    def post(self, message: Any) -> None:
        self._waiting.append(message)
        self._ready.set()

    async def frames(self) -> AsyncIterator[bytes]:
        while True:
            await self._ready.wait()
            wait_s = self._sent_s + GATHER_S - time.monotonic()
            if wait_s > 0 and len(self._waiting) > 4:
                await asyncio.sleep(wait_s)
            self._ready.clear()
            messages, self._waiting = self._waiting, []
            self._sent_s = time.monotonic()
            yield msgspec.msgpack.encode(messages)


async def serve_frames(folder: Path, ready: Event) -> None:
    handlers = {"echo": (str, lambda text: text)}
    made = lambda: Connection(lambda *_: None, handlers, lambda _: None)  # noqa: E731
    await listen(folder / "frames", made)
    ready.set()
    await asyncio.Event().wait()


async def serve_grpc(folder: Path, ready: Event) -> None:
    async def exchange(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        gathered = Gathered()

        async def read() -> None:
            async for frame in requests:
                for message in msgspec.msgpack.decode(frame):
                    gathered.post(message)

        reading = asyncio.create_task(read())
        try:
            async for frame in gathered.frames():
                yield frame
        finally:
            reading.cancel()

    server = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(exchange)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("seam", {"Exchange": handler}),)
    )
    server.add_insecure_port(f"unix:{folder / 'grpc'}")
    await server.start()
    ready.set()
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def over_frames(folder: Path) -> AsyncIterator[Exchange]:
    connection = Connection(lambda *_: None, {}, lambda _: None)
    await connect(folder / "frames", lambda: connection)

    async def exchange() -> None:
        await connection.call("echo", PAYLOAD, str)

    yield exchange
    await connection.finish()


@contextlib.asynccontextmanager
async def over_grpc(folder: Path) -> AsyncIterator[Exchange]:
    gathered = Gathered()
    waiting: dict[int, asyncio.Future[None]] = {}
    async with grpc.aio.insecure_channel(f"unix:{folder / 'grpc'}") as channel:
        opened: Any = channel.stream_stream(METHOD)
        call = opened(gathered.frames())

        async def read() -> None:
            async for frame in call:
                for number, _ in msgspec.msgpack.decode(frame):
                    waiting.pop(number).set_result(None)

        reading = asyncio.create_task(read())
        last = 0

        async def exchange() -> None:
            nonlocal last
            last += 1
            answer = waiting[last] = asyncio.get_running_loop().create_future()
            gathered.post((last, PAYLOAD))
            await answer

        yield exchange
        reading.cancel()
        call.cancel()


WAYS: dict[str, tuple[Any, Any]] = {
    "frames over a Unix socket": (serve_frames, over_frames),
    "one gRPC stream": (serve_grpc, over_grpc),
}


def run_server(name: str, folder: Path, ready: Event) -> None:
    """The server's process."""
    uvloop.run(WAYS[name][0](folder, ready))


async def measure(name: str, folder: Path, server: int, exchanges: int, at_once: int) -> str:
    """CPU of both sides, and the time of one exchange."""
    async with WAYS[name][1](folder) as exchange:

        async def client() -> None:
            for _ in range(exchanges // at_once):
                await exchange()

        await asyncio.gather(*(client() for _ in range(at_once)))  # warm
        own, other, began_s = time.process_time(), cpu_s(server), time.perf_counter()
        await asyncio.gather(*(client() for _ in range(at_once)))
        passed_s = time.perf_counter() - began_s
        mine, theirs = time.process_time() - own, cpu_s(server) - other
    each = 1e6 / exchanges
    return f"{mine * each:6.1f} / {theirs * each:6.1f} µs CPU, {passed_s * each * at_once:7.1f} µs"


def main() -> None:
    """Prints one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exchanges", type=int, default=20_000)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in WAYS:
            ready = context.Event()
            server = context.Process(target=run_server, args=(way, folder, ready), daemon=True)
            server.start()
            ready.wait(30)
            assert server.pid is not None
            for at_once in (1, 32):
                found = uvloop.run(measure(way, folder, server.pid, args.exchanges, at_once))
                print(f"{way:26} {at_once:3} at once: client / server {found} an exchange")
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
