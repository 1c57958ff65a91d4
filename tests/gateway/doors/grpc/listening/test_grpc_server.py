"""Method names that are unknown or no text: refused, and the server goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moegate.v1 import inference_pb2
from tests import serving
from tests.raw_http2 import raw_connection
from tests.serving import METADATA, Serving

UNIMPLEMENTED, UNAUTHENTICATED = 12, 16
KNOWN = b"/moegate.v1.InferenceService/ListModels"


@pytest.fixture
async def gateway() -> AsyncIterator[Serving]:
    settings = serving.config()
    server = msgspec.structs.replace(settings.server, health_listen="127.0.0.1:0")
    async with serving.serving(msgspec.structs.replace(settings, server=server)) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        b"/moegate.v1.InferenceService/\xff\xfe",
        b"/\x80",
        b"/moegate.v1.InferenceService/Generate\xc3",
        b"/moegate.v1.InferenceService/Nothing",
        b"/grpc.health.v1.Health/\xed\xa0\x80",
        b"/" + b"\xff" * 5000,
        b"/",
        b"x",
    ],
)
async def test_a_method_that_is_unknown_or_no_text_ends_that_call_only(
    gateway: Serving, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert gateway.gateway.health_address is not None
    for address in (gateway.gateway.address, gateway.gateway.health_address):
        async with raw_connection(address) as connection:
            for stream in (1, 3, 5):
                await connection.call(stream, path)
                assert await connection.status(stream) == UNIMPLEMENTED
    assert (await models(gateway)).models == []
    assert not caplog.records
    async with grpc.aio.insecure_channel(gateway.gateway.health_address) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def test_a_known_method_is_found_beside_them(gateway: Serving) -> None:
    async with raw_connection(gateway.gateway.address) as connection:
        await connection.call(1, b"/\xff")
        await connection.call(3, KNOWN)
        assert await connection.status(1) == UNIMPLEMENTED
        await connection.call(5, KNOWN)
        assert await connection.status(5) == UNAUTHENTICATED


async def models(gateway: Serving) -> inference_pb2.ListModelsResponse:
    return await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
