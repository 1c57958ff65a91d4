"""Requests that do not arrive, in whole or at all: each wait for one ends."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import pytest

from gateway.config.limits import LimitsConfig
from moegate.v1 import inference_pb2
from tests import serving
from tests.raw_http2 import DATA, END_STREAM, frame, raw_connection
from tests.serving import METADATA, Serving

KEY = (b"authorization", b"Bearer mg-test-key")
LIST = b"/moegate.v1.InferenceService/ListModels"
METHODS = [
    (LIST, KEY),
    (b"/moegate.v1.InferenceService/Generate", KEY),
    (b"/moegate.v1.UsageService/ExportAttempts", KEY),
    (b"/grpc.health.v1.Health/Check", (b"x", b"")),
    (b"/grpc.health.v1.Health/Watch", (b"x", b"")),
    (b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", (b"x", b"")),
]
OK, INVALID, DEADLINE = 0, 3, 4


def message(content: bytes) -> bytes:
    """A gRPC message, not compressed."""
    return struct.pack(">BI", 0, len(content)) + content


@pytest.fixture
async def gateway() -> AsyncIterator[Serving]:
    limits = LimitsConfig(request_s=0.3, tenant_rpcs=3, keyless_rpcs=3)
    async with serving.serving(serving.config(limits=limits)) as running:
        yield running


@pytest.mark.parametrize(("method", "field"), METHODS)
@pytest.mark.parametrize("part", [b"", message(bytes(100))[:3], message(bytes(100))[:60]])
async def test_a_request_that_does_not_arrive_is_waited_for_in_vain_no_longer(
    gateway: Serving, method: bytes, field: tuple[bytes, bytes], part: bytes
) -> None:
    async with raw_connection(gateway.gateway.address) as connection:
        for stream in (1, 3, 5, 7, 9):  # more than may be in progress: each gives its place back
            await connection.call(stream, method, field)
            if part:
                await connection.send(frame(DATA, part, stream=stream))
            assert await connection.status(stream) == DEADLINE
    await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)


@pytest.mark.parametrize(("method", "field"), METHODS[:-1])
async def test_a_call_that_ends_without_a_request_is_refused(
    gateway: Serving, method: bytes, field: tuple[bytes, bytes]
) -> None:
    async with raw_connection(gateway.gateway.address) as connection:
        await connection.call(1, method, field)
        await connection.send(frame(DATA, flags=END_STREAM, stream=1))
        assert await connection.status(1) == INVALID


async def test_a_request_in_pieces_is_served(gateway: Serving) -> None:
    async with raw_connection(gateway.gateway.address) as connection:
        await connection.call(1, LIST, KEY)
        for byte in message(b"")[:-1]:
            await connection.send(frame(DATA, bytes([byte]), stream=1))
        await connection.send(frame(DATA, message(b"")[-1:], flags=END_STREAM, stream=1))
        assert await connection.status(1) == OK
