"""Clients that do not read: they hold no placement, no memory without bound, and no shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.server import RunningGateway
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2_grpc, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.serving import METADATA, Call, Serving, chat_request, read_stream

WINDOW_BYTES = 1024
SMALL_WINDOW = (
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A client with these options takes about one message more than it reads."""
OPERATOR = "mg-operator"
AS_OPERATOR = (("authorization", f"Bearer {OPERATOR}"),)
LONG = 60_000
"""Output tokens of a request that does not end during a test."""


def settings(
    engine: SimulatedVllm, *, limits: LimitsConfig | None = None, **server: object
) -> GatewayConfig:
    config = serving.config(
        pools=[serving.pool([engine.url], upstream_model="sim", max_num_seqs=1)],
        keys=[KeyConfig(id="operator", role=KeyRole.OPERATOR, sha256=key_sha256(OPERATOR))],
        limits=limits,
        interactive=serving.PATIENT,
    )
    return msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, **server))


@asynccontextmanager
async def engines(speed: float = 200.0) -> AsyncIterator[SimulatedVllm]:
    config = SimulatedVllmConfig(served_model_name="sim", speed=speed, max_model_len=80_000)
    async with simulated_vllm(config) as engine:
        yield engine


@asynccontextmanager
async def slow_client(gateway: Serving) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(gateway.gateway.address, options=SMALL_WINDOW) as channel:
        yield channel


def unread(channel: grpc.aio.Channel, max_output_tokens: int) -> Call:
    """A stream that nobody reads."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    request = chat_request(max_output_tokens=max_output_tokens, ignore_eos=True)
    return stub.Generate(request, metadata=METADATA)


def is_idle(gateway: RunningGateway) -> bool:
    return repr(gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"


async def code_at_the_end(call: grpc.aio.UnaryStreamCall[Any, Any]) -> grpc.StatusCode:
    """Reads what is left; the status of the call."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_the_place_is_free_when_the_upstream_has_ended_whoever_still_reads() -> None:
    async with (
        engines() as engine,
        serving.serving(settings(engine)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, 2000)
        await serving.until(lambda: gateway.gateway.deliveries.open_streams == 1)
        await serving.until(lambda: is_idle(gateway.gateway))
        assert engine.open_requests == 0
        assert gateway.gateway.pipeline.active_requests == 0
        # The client has not read anything, and its only place serves another.
        assert gateway.gateway.deliveries.open_streams == 1
        other = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert other.done is not None
        seen = await read_stream(call)
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 2000
        await serving.until(lambda: gateway.gateway.deliveries.open_streams == 0)
        assert gateway.gateway.deliveries.unread_bytes == 0


async def test_a_blocked_write_is_ended_and_the_upstream_closed() -> None:
    limits = LimitsConfig(unread_stream_bytes=20_000)
    async with (
        engines() as engine,
        serving.serving(settings(engine, limits=limits, blocked_write_s=1.0)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, LONG)
        await serving.until(lambda: gateway.gateway.deliveries.unread_bytes > 0)
        most_bytes = 0
        while gateway.gateway.deliveries.open_streams:
            most_bytes = max(most_bytes, gateway.gateway.deliveries.unread_bytes)
            await asyncio.sleep(0.01)
        # One message of the upstream more than the limit.
        assert 20_000 <= most_bytes <= 200_000
        await serving.until(lambda: engine.open_requests == 0)
        assert is_idle(gateway.gateway)
        assert gateway.gateway.deliveries.unread_bytes == 0
        # When it reads at last, it learns why.
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await read_stream(call)
        assert raised.value.code() is grpc.StatusCode.ABORTED
        assert "does not read" in (raised.value.details() or "")
        assert serving.trailer(raised.value, "grpc-retry-pushback-ms") == "-1"


async def test_a_reader_that_trickles_holds_an_upstream_no_longer_than_one_that_does_not() -> None:
    limits = LimitsConfig(unread_stream_bytes=2000)
    async with (
        engines() as engine,
        serving.serving(settings(engine, limits=limits, blocked_write_s=1.0)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, LONG)

        await serving.first_message(call)
        while engine.open_requests:
            await serving.first_message(call)
            await asyncio.sleep(0.5)
        assert await code_at_the_end(call) is grpc.StatusCode.ABORTED
        assert is_idle(gateway.gateway)


async def test_the_deadline_of_the_request_holds_during_a_write() -> None:
    limits = LimitsConfig(default_deadline_s=1.5, unread_stream_bytes=20_000)
    async with (
        engines() as engine,
        serving.serving(settings(engine, limits=limits, blocked_write_s=600.0)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, LONG)
        await serving.until(lambda: gateway.gateway.deliveries.unread_bytes > 0)
        await serving.until(lambda: gateway.gateway.deliveries.open_streams == 0)
        await serving.until(lambda: engine.open_requests == 0)
        assert is_idle(gateway.gateway)
        assert await code_at_the_end(call) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_one_tenant_fills_its_own_share_of_the_unread_memory_only() -> None:
    limits = LimitsConfig(unread_tenant_bytes=20_000)
    async with (
        engines() as engine,
        serving.serving(settings(engine, limits=limits)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, LONG)
        deliveries = gateway.gateway.deliveries
        await serving.until(lambda: deliveries.unread_bytes > 20_000)
        await asyncio.sleep(0.5)
        assert deliveries.unread_bytes <= 200_000
        call.cancel()
        await serving.until(lambda: deliveries.unread_bytes == 0)
        await serving.until(lambda: engine.open_requests == 0)


async def test_watches_and_reflection_that_nobody_reads_are_ended() -> None:
    async with (
        engines() as engine,
        serving.serving(settings(engine, blocked_write_s=0.5)) as gateway,
        slow_client(gateway) as channel,
    ):
        watches = gateway.gateway.watches
        interval = Duration(nanos=100_000_000)
        watch = usage_pb2_grpc.UsageServiceStub(channel).WatchFleet(
            usage_pb2.WatchFleetRequest(interval=interval), metadata=AS_OPERATOR
        )
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        for _ in range(20):
            await reflect.write(
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=INFERENCE)
            )
        await serving.until(lambda: watches.open_streams == 2)
        await serving.until(lambda: watches.open_streams == 0)
        assert await code_at_the_end(watch) is grpc.StatusCode.ABORTED
        assert await code_at_the_end(reflect) is grpc.StatusCode.ABORTED


INFERENCE = "moegate.v1.InferenceService"


async def test_watches_do_not_hold_a_drain_but_generations_do() -> None:
    async with (
        engines(speed=3.0) as engine,
        serving.serving(settings(engine, drain_s=60.0)) as gateway,
    ):
        channel = gateway.channel
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        fleet = usage_pb2_grpc.UsageServiceStub(channel).WatchFleet(
            usage_pb2.WatchFleetRequest(), metadata=AS_OPERATOR
        )
        await fleet.read()
        request = chat_request(max_output_tokens=150, ignore_eos=True)
        call = gateway.stub.Generate(request, metadata=METADATA)
        await serving.first_message(call)
        drain = asyncio.create_task(gateway.gateway.drain())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await code_at_the_end(health) is grpc.StatusCode.UNAVAILABLE
        assert await code_at_the_end(fleet) is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in (await fleet.details() or "")
        assert engine.open_requests == 1  # the watches have ended, the generation runs
        assert not drain.done()
        assert (await read_stream(call)).done is not None
        async with asyncio.timeout(30.0):
            await drain


async def test_a_stream_that_was_ended_unread_does_not_hold_a_drain() -> None:
    limits = LimitsConfig(unread_stream_bytes=2000)
    config = {"blocked_write_s": 0.5, "drain_s": 600.0}
    async with (
        engines() as engine,
        serving.serving(settings(engine, limits=limits, **config)) as gateway,
        slow_client(gateway) as channel,
    ):
        call = unread(channel, LONG)
        await serving.until(lambda: gateway.gateway.deliveries.open_streams == 1)
        await serving.until(lambda: gateway.gateway.deliveries.open_streams == 0)
        async with asyncio.timeout(60.0):
            await gateway.gateway.drain()
        assert not call.done()


async def test_reloads_are_not_counted_and_a_revoked_key_ends_at_once(tmp_path: Path) -> None:
    async with (
        engines(speed=1.0) as engine,
        serving.serving_in(tmp_path, settings(engine)) as gateway,
        slow_client(gateway) as channel,
    ):
        fleet = usage_pb2_grpc.UsageServiceStub(gateway.channel).WatchFleet(
            usage_pb2.WatchFleetRequest(interval=Duration(nanos=100_000_000)), metadata=AS_OPERATOR
        )
        await fleet.read()
        calls = []
        for number in range(12):
            calls.append(unread(channel, LONG))
            await asyncio.sleep(0.05)
            config = settings(engine, limits=LimitsConfig(queue_requests=100 + number))
            await gateway.gateway.reload(config, tmp_path)
        assert gateway.gateway.pipeline.active_requests > 8
        without = msgspec.structs.replace(
            config,
            tenants=(msgspec.structs.replace(config.tenants[0], keys=config.tenants[0].keys[:1]),),
        )
        await gateway.gateway.reload(without, tmp_path)
        assert await code_at_the_end(fleet) is grpc.StatusCode.UNAUTHENTICATED
        again = usage_pb2_grpc.UsageServiceStub(gateway.channel).WatchFleet(
            usage_pb2.WatchFleetRequest(), metadata=AS_OPERATOR
        )
        assert await code_at_the_end(again) is grpc.StatusCode.UNAUTHENTICATED
        for call in calls:
            call.cancel()
        assert isinstance(calls[0], grpc.aio.Call)
        await serving.until(lambda: is_idle(gateway.gateway))
