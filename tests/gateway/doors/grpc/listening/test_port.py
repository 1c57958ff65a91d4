"""Bounds on what one connection may do: pings, settings, streams, metadata, garbage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest

from gateway.config.limits import LimitsConfig
from gateway.doors.entry.caller_noise import LINES, MAX_CHARACTERS
from moegate.v1 import inference_pb2
from tests import serving
from tests.raw_http2 import (
    ACK,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    WAIT_S,
    RawConnection,
    frame,
    raw_connection,
)
from tests.serving import METADATA, Serving

LIST = b"/moegate.v1.InferenceService/ListModels"
WATCH = b"/grpc.health.v1.Health/Watch"
UNAUTHENTICATED = 16
KEY = (b"authorization", b"Bearer mg-test-key")


@contextlib.asynccontextmanager
async def gateway_with(**server: Any) -> AsyncIterator[Serving]:
    settings = serving.config()
    changed = msgspec.structs.replace(settings.server, **server)
    async with serving.serving(msgspec.structs.replace(settings, server=changed)) as running:
        yield running


async def flood(connection: RawConnection, piece: bytes) -> None:
    """Sends the same bytes until the server closes the connection, and reads what comes back."""

    async def read() -> None:
        while await connection.reader.read(1 << 16):
            pass

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(WAIT_S):
            while not reading.done():
                await connection.send(piece * 100)
                await asyncio.sleep(0)
    except ConnectionError:
        pass
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await reading


async def still_serves(gateway: Serving) -> None:
    await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)


async def test_a_flood_of_pings_is_cut() -> None:
    async with gateway_with() as gateway:
        async with raw_connection(gateway.gateway.address) as connection:
            await connection.send(frame(PING, bytes(8)) * 50)
            goaway = await connection.until(GOAWAY)
            assert goaway is not None
            assert b"too_many_pings" in goaway.payload
            await flood(connection, frame(PING, bytes(8)))
        await still_serves(gateway)


async def test_a_client_with_keepalive_stays_connected() -> None:
    async with (
        gateway_with(client_ping_interval_s=0.05) as gateway,
        raw_connection(gateway.gateway.address) as connection,
    ):
        for _ in range(15):
            await connection.send(frame(PING, bytes(8)))
            answer = await connection.until(PING)
            assert answer is not None
            assert answer.flags == ACK
            await asyncio.sleep(0.1)
        await connection.call(1, LIST)
        assert await connection.status(1) == UNAUTHENTICATED


@pytest.mark.parametrize("piece", [frame(SETTINGS), frame(SETTINGS, b"\0\4\0\0\xff\xff")])
async def test_a_flood_of_settings_ends_with_the_idle_connection(piece: bytes) -> None:
    async with gateway_with(max_connection_idle_s=0.5) as gateway:
        async with raw_connection(gateway.gateway.address) as connection:
            await flood(connection, piece)
        await still_serves(gateway)


async def test_an_idle_connection_is_closed_and_a_client_does_not_notice() -> None:
    async with gateway_with(max_connection_idle_s=0.3) as gateway:
        await still_serves(gateway)
        async with raw_connection(gateway.gateway.address) as connection:
            assert await connection.until(GOAWAY) is not None
            await flood(connection, b"")
        for _ in range(3):
            await asyncio.sleep(0.4)
            await still_serves(gateway)


@pytest.mark.parametrize("first", [b"", b"PRI", b"\x16\x03\x01"])
async def test_a_handshake_that_never_ends_is_cut(first: bytes) -> None:
    async with gateway_with(handshake_timeout_s=0.3) as gateway:
        async with raw_connection(gateway.gateway.address, first) as connection:
            while await connection.frame() is not None:
                pass
        await still_serves(gateway)


async def test_connections_beyond_the_bound_are_closed() -> None:
    async with gateway_with(max_connections=3) as gateway, contextlib.AsyncExitStack() as open_:
        address = gateway.gateway.address
        await still_serves(gateway)  # the first
        for _ in range(2):
            connection = await open_.enter_async_context(raw_connection(address))
            await connection.call(1, LIST)
            assert await connection.status(1) == UNAUTHENTICATED
        async with raw_connection(address) as connection:
            assert await connection.until(SETTINGS) is None
        await still_serves(gateway)
        await open_.aclose()
        async with asyncio.timeout(WAIT_S):  # a place is free again
            while True:
                async with raw_connection(address) as connection:
                    if await connection.until(SETTINGS) is not None:
                        break


async def test_a_connection_may_have_so_many_streams() -> None:
    async with gateway_with(max_streams_per_connection=4) as gateway:
        async with raw_connection(gateway.gateway.address) as connection:
            settings = await connection.until(SETTINGS)
            assert settings is not None
            assert b"\0\3\0\0\0\4" in settings.payload  # SETTINGS_MAX_CONCURRENT_STREAMS
            await connection.send(frame(SETTINGS, flags=ACK))
            for stream in range(1, 2 * 12, 2):
                await connection.call(stream, WATCH)
            refused = 0
            while refused < 8:
                found = await connection.frame()
                if found is None:  # refused by closing the connection
                    break
                refused += found.kind in (3, HEADERS) and found.stream > 8
        await still_serves(gateway)


def metadata_of_size(size: int) -> tuple[tuple[str, str], ...]:
    """Metadata with a key; HTTP/2 counts 32 bytes for each field."""
    rest = size - sum(len(name) + len(value) + 32 for name, value in METADATA)
    return (*METADATA, ("x-large", "x" * (rest - len("x-large") - 32)))


@pytest.mark.parametrize("size", [16_500, 20_000, 40_000, 60_000])
async def test_metadata_that_is_too_large_is_no_reason_to_send_it_again(size: int) -> None:
    async with gateway_with() as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=metadata_of_size(size)
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 16384, limits.metadata_bytes" in str(caught.value.details())


async def test_many_small_fields_count_as_much() -> None:
    many = tuple((f"x-{number}", "") for number in range(450))
    async with gateway_with() as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=(*METADATA, *many)
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_metadata_within_the_limit_is_served() -> None:
    async with gateway_with() as gateway:
        for size in (9_000, 13_000, 16_000):
            await gateway.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=metadata_of_size(size)
            )


async def test_the_limit_of_metadata_holds_after_a_reload(tmp_path: Any) -> None:
    async with gateway_with() as gateway:
        limits = LimitsConfig(metadata_bytes=2048)
        changed = msgspec.structs.replace(gateway.gateway.active.config, limits=limits)
        await gateway.gateway.reload(changed, tmp_path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=metadata_of_size(3000)
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "field",
    [
        (b"x-bad", b"\xff" * 6000),
        (b"authorization", b"Bearer \xc3\x28"),
        (b"x-api-key", b"\xf0\x9f"),
        (b"traceparent", b"\x80\x81"),
        (b"moegate-hops", b"\xff"),
        (b"x-bad-bin", b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("key", [(), (KEY,)])
async def test_metadata_that_is_no_text_costs_few_short_lines(
    field: tuple[bytes, bytes],
    key: tuple[tuple[bytes, bytes], ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway_with() as gateway:
        caplog.clear()
        async with raw_connection(gateway.gateway.address) as connection:
            for stream in range(1, 2 * 40, 2):
                await connection.call(stream, LIST, field, *key)
            if not key:
                assert await connection.status(stream) in (UNAUTHENTICATED, 13)
        await still_serves(gateway)
    lines = [r for r in caplog.records if r.name.startswith("grpc") or r.levelno >= logging.WARNING]
    assert len(lines) <= 2 * LINES
    for line in lines:
        assert line.exc_info is None
        assert len(line.getMessage()) < MAX_CHARACTERS + 50


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 5000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS)
        + frame(HEADERS, b"\xff" * 900, stream=2),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS) + frame(9, b"\xff" * 900, stream=1),
    ],
)
async def test_garbage_ends_its_connection_only(
    first: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with gateway_with(handshake_timeout_s=0.5) as gateway:
        caplog.clear()
        for _ in range(20):
            async with raw_connection(gateway.gateway.address, first) as connection:
                while await connection.frame() is not None:
                    pass
        await still_serves(gateway)
    assert not caplog.records
    assert not capfd.readouterr().err
