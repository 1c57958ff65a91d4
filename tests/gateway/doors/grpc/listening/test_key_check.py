"""What callers with and without a key may make the gateway receive, inflate and parse."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gateway.config.gateway import KeyConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.doors.grpc import parsing
from gateway.doors.grpc.listening import request_bounds
from moegate.v1 import admin_pb2, generation_pb2, inference_pb2, usage_pb2
from tests import serving
from tests.serving import METADATA, Serving

INFERENCE = "/moegate.v1.InferenceService"
WIDE = (("authorization", "Bearer mg-wide-key"),)
COUNT = f"{INFERENCE}/CountTokens"
SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
METHODS = [
    (f"/{service.full_name}/{method.name}", method.server_streaming)
    for service in SERVICES
    for method in service.methods
]
OPEN = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
async def gateway() -> AsyncIterator[Serving]:
    wide = KeyConfig(
        id="wide",
        sha256=key_sha256("mg-wide-key"),
        limits=KeyLimitsConfig(message_bytes=400_000),
    )
    limits = LimitsConfig(message_bytes=500_000, key_message_bytes=100_000)
    async with serving.serving(serving.config(keys=[wide], limits=limits)) as running:
        yield running


async def answer(
    gateway: Serving,
    method: str,
    raw: bytes,
    metadata: tuple[tuple[str, str], ...] = METADATA,
    *,
    streamed: bool = False,
) -> grpc.aio.AioRpcError:
    """Sends raw bytes as a request, and returns the error that follows."""
    make: Any = gateway.channel.unary_stream if streamed else gateway.channel.unary_unary
    call = make(method)(raw, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if streamed else call)
    return caught.value


@pytest.mark.parametrize(("method", "streamed"), METHODS)
@pytest.mark.parametrize("metadata", [(), (("x-api-key", "mg-unknown"),)])
async def test_no_method_reads_a_request_without_a_known_key(
    gateway: Serving,
    method: str,
    streamed: bool,
    metadata: tuple[tuple[str, str], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def must_not(*_: object) -> object:
        raise AssertionError("a request was read before its key was known")

    monkeypatch.setattr(parsing, "inflated", must_not)
    monkeypatch.setattr(request_bounds, "parse_message", must_not)
    for raw in (b"", b"\xff" * 1000, gzip.compress(bytes(1 << 20))):
        error = await answer(gateway, method, raw, metadata, streamed=streamed)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_refusal_does_not_wait_for_the_request(gateway: Serving) -> None:
    """A caller that sends metadata and then nothing is refused all the same."""
    channel: Any = gateway.channel
    call = channel.stream_unary(COUNT)(metadata=())
    async with asyncio.timeout(serving.READY_S):
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("method", "streamed"), METHODS)
async def test_no_method_accepts_bytes_that_are_no_message(
    gateway: Serving, method: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for raw in (b"\xff" * 1000, gzip.compress(b"\xff" * 1000)):
        error = await answer(gateway, method, raw, streamed=streamed)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no moegate.v1." in str(error.details())
    assert not caplog.records


def counting(size: int) -> bytes:
    request = generation_pb2.GenerateRequest(model="moe", prompt="x" * size)
    return inference_pb2.CountTokensRequest(request=request).SerializeToString()


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
async def test_each_key_has_its_own_limit(gateway: Serving, squeeze: object) -> None:
    assert callable(squeeze)
    small, large, too_large = (squeeze(counting(size)) for size in (90_000, 390_000, 450_000))
    for raw, metadata in ((small, METADATA), (small, WIDE), (large, WIDE)):
        error = await answer(gateway, COUNT, raw, metadata)
        assert error.code() is grpc.StatusCode.NOT_FOUND  # parsed: no such model
    for raw, metadata, most in ((large, METADATA, "100000"), (too_large, WIDE, "400000")):
        error = await answer(gateway, COUNT, raw, metadata)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"at most {most} may be sent" in str(error.details())


@pytest.mark.parametrize("method", OPEN)
async def test_what_needs_no_key_has_a_small_limit(gateway: Serving, method: str) -> None:
    for raw in (bytes(5000), gzip.compress(bytes(1 << 20))):
        error = await answer(gateway, method, raw, (), streamed=method.endswith("Watch"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 4096 may be sent" in str(error.details())


@pytest.mark.parametrize("raw", [bytes(5000), b"\xff" * 9, gzip.compress(bytes(1 << 20))])
async def test_reflection_has_the_same_limit(
    gateway: Serving, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    channel: Any = gateway.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.stream_stream(REFLECTION)(iter([raw])).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls_of_a_grpc_client_are_served(
    gateway: Serving, compression: grpc.Compression
) -> None:
    address = gateway.gateway.address
    channel: Any
    async with grpc.aio.insecure_channel(address, compression=compression) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(COUNT)(counting(50_000), metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
