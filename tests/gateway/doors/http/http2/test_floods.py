"""Clients that abuse HTTP/2: their connection is closed, nothing of theirs stays, others go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import serving
from tests.gateway.doors.http.http2.tls import ask, get, head, tls_port
from tests.gateway.doors.http.listening.test_listener import settings
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
    RawConnection,
    frame,
    header,
)

ABORTED = bytes([0, 0, 0, 8])


def rapid_resets() -> bytes:
    """CVE-2023-44487: requests that are aborted at once."""
    streams = range(1, 4001, 2)
    return b"".join(
        b"".join(ask(stream, b'{"text":"hi","stream":true}'))
        + frame(RST_STREAM, ABORTED, stream=stream)
        for stream in streams
    )


def continuations() -> bytes:
    """CVE-2024-27983: a block of headers without an end."""
    block = b"".join(header(b"x-%d" % number, b"a" * 100) for number in range(140))
    return frame(HEADERS, b"", stream=1) + frame(CONTINUATION, block, stream=1) * 20


def bomb() -> bytes:
    """Headers that are small as sent: one entry of the table, named again and again."""
    large = b"\x40" + header(b"x-large", b"a" * 3900)[1:]
    block = b"".join(
        header(name, value)
        for name, value in (
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":path", b"/livez"),
            (b":authority", b"x"),
        )
    )
    return frame(HEADERS, block + large + b"\xbe" * 4000, flags=5, stream=1)


FLOODS: dict[str, Callable[[], bytes]] = {
    "rapid resets": rapid_resets,
    "continuations": continuations,
    "bomb": bomb,
    "pings": lambda: frame(PING, bytes(8)) * 3000,
    "settings": lambda: frame(SETTINGS, b"\0\4\0\0\xff\xff") * 300,
    "windows": lambda: frame(WINDOW_UPDATE, b"\0\0\0\1") * 3000,
    "empty data": lambda: head(1, b"/plain/echo") + frame(DATA, b"", stream=1) * 3000,
    "priorities": lambda: frame(2, bytes(5), stream=1) * 3000,
    "unknown frames": lambda: frame(200, b"what") * 3000,
    "too long a frame": lambda: frame(DATA, bytes(20_000), stream=1),
    "data of no request": lambda: frame(DATA, bytes(100), stream=9),
    "a window of no size": lambda: frame(WINDOW_UPDATE, bytes(4)),
    "a window beyond all": lambda: frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff") * 2,
    "more than was announced": lambda: (
        head(1, b"/plain/echo", (b"content-length", b"1")) + frame(DATA, bytes(99), stream=1)
    ),
    "no method": lambda: frame(HEADERS, header(b":path", b"/livez"), flags=5, stream=1),
    "a header of HTTP/1.1": lambda: head(1, b"/livez", (b"connection", b"close")),
    "a line end in a header": lambda: head(1, b"/livez", (b"x", b"a\r\nb: c")),
    "an upper-case header": lambda: head(1, b"/livez", (b"X-Upper", b"a")),
}


async def gone(raw: RawConnection) -> list[int]:
    """Reads until the server has closed. Returns the kinds of the frames that came."""
    kinds = []
    while (found := await raw.frame()) is not None:
        kinds.append(found.kind)
    return kinds


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_its_connection_and_no_other(tmp_path: Path, name: str) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls, tls.raw() as good:
        await good.send(*get(1, b"/livez"))
        assert await good.until(HEADERS) is not None
        async with tls.raw() as raw:
            await raw.send(FLOODS[name]())
            assert GOAWAY in await gone(raw)
        await serving.until(lambda: tls.port.listener.connections == 1)
        await serving.until(lambda: tls.served.gateway.pipeline.active_requests == 0)
        await good.send(*get(3, b"/livez"))
        assert await good.until(HEADERS) is not None


async def test_a_wrong_path_ends_its_stream_only(tmp_path: Path) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls, tls.raw() as raw:
        await raw.send(head(1, b"livez", method=b"GET", flags=1))
        assert await raw.until(RST_STREAM) is not None
        await raw.send(*get(3, b"/livez"))
        assert await raw.until(HEADERS) is not None


NO_HTTP2 = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("first", [NO_HTTP2, PREFACE + frame(PING, b"1")])
async def test_a_wrong_beginning_ends_the_connection(tmp_path: Path, first: bytes) -> None:
    async with tls_port(settings(), tmp_path, ready=False) as tls:
        async with tls.raw(first) as raw:
            await gone(raw)
        await serving.until(lambda: tls.port.listener.connections == 0)


async def test_requests_beyond_the_room_of_the_port_are_refused(tmp_path: Path) -> None:
    bounds = {"max_connections": 2}
    async with tls_port(settings(), tmp_path, ready=False, bounds=bounds) as tls, tls.raw() as raw:
        await raw.send(*(ask(stream, b"")[0] for stream in (1, 3, 5)))
        found = await raw.until(RST_STREAM)
        assert found is not None
        assert (found.stream, found.payload) == (5, bytes([0, 0, 0, 7])), "REFUSED_STREAM"


async def test_a_client_that_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    bounds = {"blocked_write_s": 0.5}
    async with tls_port(settings(), tmp_path, ready=False, bounds=bounds) as tls, tls.raw() as raw:
        await raw.send(*get(1, b"/livez"))
        assert await raw.until(DATA) is not None
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        stream = 3
        while tls.port.listener.connections:
            try:
                large = (b"x-echoed", b"a" * 12_000)
                await raw.send(head(stream, b"/nowhere", large, flags=1))
            except ConnectionError:
                break
            stream += 2
        await serving.until(lambda: tls.port.listener.connections == 0)
