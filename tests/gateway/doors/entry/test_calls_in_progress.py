"""A burst is served or refused by rule, by the gateway itself, and counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.telemetry import TelemetryConfig
from moegate.v1 import inference_pb2, inference_pb2_grpc, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.serving import METADATA, Serving

ARRIVALS, CHANNELS = 4000, 4
LIST = inference_pb2.ListModelsRequest()
OPERATOR, OTHER = "mg-operator-key", "mg-other-key"
OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


@contextlib.asynccontextmanager
async def gateway_with(**limits: Any) -> AsyncIterator[Serving]:
    operator = KeyConfig(id="operator", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR)
    other = KeyConfig(id="other", sha256=key_sha256(OTHER))
    settings = serving.config(
        keys=[operator],
        limits=LimitsConfig(**limits),
        telemetry=TelemetryConfig(metrics_listen="127.0.0.1:0"),
    )
    tenants = (*settings.tenants, TenantConfig(name="other", keys=(other,)))
    async with serving.serving(msgspec.structs.replace(settings, tenants=tenants)) as running:
        yield running


def key(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", name),)


@contextlib.asynccontextmanager
async def channels(gateway: Serving) -> AsyncIterator[list[grpc.aio.Channel]]:
    async with contextlib.AsyncExitStack() as opened:
        options = (("grpc.use_local_subchannel_pool", 1),)
        yield [
            await opened.enter_async_context(
                grpc.aio.insecure_channel(gateway.gateway.address, options=options)
            )
            for _ in range(CHANNELS)
        ]


def refusals(gateway: Serving, reason: str) -> float:
    instruments = gateway.gateway.telemetry.instruments
    assert instruments is not None
    labels = {"moegate_refusal_reason": reason}
    return instruments.registry.get_sample_value("moegate_rpc_refusals_total", labels) or 0.0


def check_refusal(error: grpc.aio.AioRpcError, reason: str) -> None:
    info = serving.detail(error, error_details_pb2.ErrorInfo)
    retry = serving.detail(error, error_details_pb2.RetryInfo)
    assert (info.reason, info.domain) == (reason, "moegate")
    assert 500 <= retry.retry_delay.ToMilliseconds() <= 1501
    assert 500 <= int(str(serving.trailer(error, "grpc-retry-pushback-ms"))) <= 1501


async def outcome(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


async def test_a_burst_is_served(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway_with() as gateway, channels(gateway) as open_:
        stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in open_]
        calls = [
            stubs[i % CHANNELS].ListModels(LIST, metadata=METADATA, timeout=120)
            for i in range(ARRIVALS)
        ]
        assert Counter(await asyncio.gather(*map(outcome, calls))) == {OK: ARRIVALS}
        assert refusals(gateway, "SERVER_RPCS") == refusals(gateway, "TENANT_RPCS") == 0
    assert not caplog.records


@contextlib.asynccontextmanager
async def held(gateway: Serving, count: int) -> AsyncIterator[list[Any]]:
    """Streams of an operator of the tenant `team` that go on until this ends."""
    stub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    calls: list[Any] = [
        stub.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=key(OPERATOR)) for _ in range(count)
    ]
    for call in calls:
        assert await call.read() is not grpc.aio.EOF
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()


async def test_a_burst_beyond_the_bound_is_refused_by_rule() -> None:
    async with (
        gateway_with(rpcs=20, tenant_rpcs=20) as gateway,
        channels(gateway) as open_,
        held(gateway, 20),
    ):
        stubs = [inference_pb2_grpc.InferenceServiceStub(channel) for channel in open_]
        calls: list[Any] = [
            stubs[i % CHANNELS].ListModels(LIST, metadata=metadata, timeout=120)
            for i in range(ARRIVALS // 2)
            for metadata in (METADATA, key("mg-unknown"))
        ]
        found = Counter(await asyncio.gather(*map(outcome, calls)))
        assert found == {EXHAUSTED: ARRIVALS}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await calls[0]
        check_refusal(caught.value, "SERVER_RPCS")
        assert "20 RPCs are in progress here: limits.rpcs" in str(caught.value.details())
        assert refusals(gateway, "SERVER_RPCS") == ARRIVALS


async def test_a_tenant_has_its_share() -> None:
    async with gateway_with(rpcs=9, tenant_rpcs=3) as gateway:
        async with held(gateway, 3) as calls:
            for metadata in (METADATA, key(OPERATOR)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await gateway.stub.ListModels(LIST, metadata=metadata)
                check_refusal(caught.value, "TENANT_RPCS")
            await gateway.stub.ListModels(LIST, metadata=key(OTHER))
            assert refusals(gateway, "TENANT_RPCS") == 2
            calls[0].cancel()
            await served_again(gateway)
        for _ in range(20):  # nothing is left behind
            await gateway.stub.ListModels(LIST, metadata=key(OTHER))


async def served_again(gateway: Serving) -> None:
    async with asyncio.timeout(serving.READY_S):
        while await is_refused(gateway):
            await asyncio.sleep(0.01)


async def test_a_call_that_sends_no_request_counts_and_gives_its_place_back() -> None:
    async with gateway_with(tenant_rpcs=2) as gateway:
        channel: Any = gateway.channel
        method = "/moegate.v1.InferenceService/ListModels"
        calls = []
        async with asyncio.timeout(serving.READY_S):
            # Each may arrive late, and be refused itself.
            while not await is_refused(gateway):
                calls.append(channel.stream_unary(method)(metadata=METADATA))
        for call in calls:
            call.cancel()
        await served_again(gateway)


async def is_refused(gateway: Serving) -> bool:
    try:
        await gateway.stub.ListModels(LIST, metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        check_refusal(error, "TENANT_RPCS")
        return True
    return False


async def test_what_needs_no_key_cannot_take_the_places_of_others() -> None:
    async with gateway_with(rpcs=9, keyless_rpcs=2) as gateway:
        stub = health_pb2_grpc.HealthStub(gateway.channel)
        request = health_pb2.HealthCheckRequest()
        watches: list[Any] = [stub.Watch(request) for _ in range(2)]
        for watch in watches:
            assert await watch.read() is not grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(request)
        check_refusal(caught.value, "KEYLESS_RPCS")
        await gateway.stub.ListModels(LIST, metadata=METADATA)
        for watch in watches:
            watch.cancel()


async def test_the_bounds_hold_at_once_after_a_reload(tmp_path: Any) -> None:
    async with gateway_with() as gateway, held(gateway, 2):
        limits = LimitsConfig(tenant_rpcs=2)
        changed = msgspec.structs.replace(gateway.gateway.active.config, limits=limits)
        await gateway.gateway.reload(changed, tmp_path)
        assert await is_refused(gateway)
