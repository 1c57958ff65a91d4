"""Numbers that callers choose, over real sockets: bounded in every RPC, with errors that help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    generation_pb2,
    inference_pb2,
    usage_pb2,
    usage_pb2_grpc,
)
from tests import serving
from tests.serving import METADATA, Serving, chat_request, detail, read_stream

OPERATOR = (("x-api-key", "mg-operator"),)
OTHER = (("x-api-key", "mg-other"),)
Slo = generation_pb2.Slo


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedVllm]:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="sim", speed=20.0)) as running:
        yield running


@pytest.fixture
async def gateway(engine: SimulatedVllm) -> AsyncIterator[Serving]:
    operator = KeyConfig(id="op", sha256=key_sha256("mg-operator"), role=KeyRole.OPERATOR)
    settings = serving.config(
        pools=[serving.pool([engine.url], upstream_model="sim", max_num_seqs=256)],
        keys=[operator],
        limits=LimitsConfig(max_deadline_s=1.0, default_deadline_s=1.0),
    )
    other = KeyConfig(
        id="other",
        sha256=key_sha256("mg-other"),
        limits=KeyLimitsConfig(max_output_tokens=40),
    )
    tenants = (*settings.tenants, TenantConfig(name="other", keys=(other,)))
    async with serving.serving(msgspec.structs.replace(settings, tenants=tenants)) as running:
        yield running


async def fault(call: Awaitable[object]) -> dict[str, str]:
    """The violations of a call that fails with INVALID_ARGUMENT, by field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    bad = detail(error, error_details_pb2.BadRequest)
    return {found.field: found.description for found in bad.field_violations}


async def all_of(stream: Any) -> list[object]:
    return [message async for message in stream]


async def test_a_tight_slo_is_no_veto_for_another_tenant(gateway: Serving) -> None:
    """Four streams that ask for 8 ms a token, on a server with room for 256: refused, and what
    they are allowed to ask for lets every request of the other tenant start at once."""
    tight = chat_request(
        slo=Slo(tpot=Duration(nanos=8_000_000)), max_output_tokens=400, ignore_eos=True
    )
    for _ in range(4):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(tight, metadata=METADATA))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "slo.tpot: 0.008 s is below 0.05 s" in (caught.value.details() or "")
    allowed = chat_request(
        slo=Slo(tpot=Duration(nanos=50_000_000)), max_output_tokens=400, ignore_eos=True
    )
    streams = [gateway.stub.Generate(allowed, metadata=METADATA) for _ in range(4)]
    for stream in streams:
        await stream.read()
    others = [read_stream(gateway.stub.Generate(chat_request(), metadata=OTHER)) for _ in range(6)]
    for seen in await asyncio.gather(*others):
        assert seen.done is not None
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("slo.ttft", {"slo": Slo(ttft=Duration(seconds=10**12))}),
        ("slo.ttft", {"slo": Slo(ttft=Duration(seconds=1, nanos=-1))}),
        ("slo.tpot", {"slo": Slo(tpot=Duration(nanos=2_000_000_000))}),
        ("slo.tpot", {"slo": Slo(tpot=Duration(seconds=-(2**63)))}),
        ("max_cost_nano_usd", {"max_cost_nano_usd": 2**63 - 1}),
        ("max_output_tokens", {"max_output_tokens": 2**32 - 1}),
        ("max_output_tokens", {"max_output_tokens": 200_000, "choices": 16}),
        ("priority", {"priority": 2**31 - 1}),
        ("priority", {"priority": -(2**31)}),
    ],
)
async def test_numbers_of_a_generation_are_bounded(
    gateway: Serving, field: str, fields: dict[str, Any]
) -> None:
    request = chat_request(**fields)
    found = await fault(read_stream(gateway.stub.Generate(request, metadata=METADATA)))
    assert list(found) == [field]
    once = inference_pb2.GenerateOnceRequest(request=request)
    assert await fault(gateway.stub.GenerateOnce(once, metadata=METADATA)) == found
    quote = inference_pb2.QuoteRequest(request=request)
    assert await fault(gateway.stub.Quote(quote, metadata=METADATA)) == found


async def test_a_key_bounds_output_tokens_and_the_default_stays_below(gateway: Serving) -> None:
    too_many = chat_request(max_output_tokens=21, choices=2)
    found = await fault(read_stream(gateway.stub.Generate(too_many, metadata=OTHER)))
    assert "of key other is 40: ask for at most 20" in found["max_output_tokens"]
    default = chat_request(choices=2, ignore_eos=True)
    default.ClearField("max_output_tokens")
    seen = await read_stream(gateway.stub.Generate(default, metadata=OTHER))
    assert seen.done is not None
    assert seen.done.usage.completion_tokens == 40


async def test_a_priority_needs_a_key_that_may(gateway: Serving) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(chat_request(priority=1), metadata=METADATA))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "max_priority 0 of key test" in (caught.value.details() or "")


async def test_a_late_deadline_is_cut_to_the_limit(gateway: Serving) -> None:
    endless = chat_request(max_output_tokens=20_000, ignore_eos=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(endless, metadata=METADATA, timeout=10**8))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


YEAR_0 = Timestamp(seconds=-62_135_596_801)
YEAR_10000 = Timestamp(seconds=253_402_300_800)
BAD_NANOS = Timestamp(seconds=1, nanos=-5)


@pytest.mark.parametrize(
    ("field", "window"),
    [
        ("from", {"from": YEAR_0}),
        ("to", {"to": YEAR_10000}),
        ("from", {"from": BAD_NANOS}),
        ("to", {"to": Timestamp(nanos=2_000_000_000)}),
        ("from", {"from": Timestamp(seconds=2000), "to": Timestamp(seconds=1000)}),
        ("from", {"from": Timestamp(seconds=253_402_300_799)}),
    ],
)
async def test_times_of_spend_and_exports_are_bounded(
    gateway: Serving, field: str, window: dict[str, Any]
) -> None:
    usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    spend = usage_pb2.GetSpendRequest(**window)
    assert list(await fault(usage.GetSpend(spend, metadata=METADATA))) == [field]
    export = usage_pb2.ExportAttemptsRequest(**window)
    assert list(await fault(all_of(usage.ExportAttempts(export, metadata=METADATA)))) == [field]


async def test_the_whole_calendar_can_be_asked_for(gateway: Serving) -> None:
    usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    ends = {
        "from": Timestamp(seconds=-62_135_596_800),
        "to": Timestamp(seconds=253_402_300_799, nanos=999_999_999),
    }
    asked = usage_pb2.GetSpendRequest(**ends, group_by=[usage_pb2.SPEND_GROUP_WEEK])  # type: ignore[arg-type]
    assert not (await usage.GetSpend(asked, metadata=METADATA)).rows
    early = usage_pb2.ExportAttemptsRequest(to=Timestamp(seconds=-62_135_596_800))
    assert await all_of(usage.ExportAttempts(early, metadata=METADATA)) == []


@pytest.mark.parametrize(
    "duration",
    [Duration(seconds=10**15), Duration(seconds=-1), Duration(seconds=1, nanos=10**9), Duration()],
)
async def test_durations_of_watches_and_windows_are_bounded(
    gateway: Serving, duration: Duration
) -> None:
    usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    watch = usage_pb2.WatchFleetRequest(interval=duration)
    assert list(await fault(all_of(usage.WatchFleet(watch, metadata=OPERATOR)))) == ["interval"]
    window = usage_pb2.GetPoolCostRequest(pool="own", window=duration)
    assert list(await fault(usage.GetPoolCost(window, metadata=OPERATOR))) == ["window"]


async def test_texts_and_sums_of_other_rpcs_are_bounded(gateway: Serving) -> None:
    usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    admin: Any = admin_pb2_grpc.AdminServiceStub(gateway.channel)
    spend = usage_pb2.GetSpendRequest(model="m" * 300, tenant="a\0b")
    found = await fault(usage.GetSpend(spend, metadata=OPERATOR))
    assert list(found) == ["tenant", "model"]
    fields = {"epoch": "e", "seq": 1, "delta_nano_usd": 1, "note": "n"}
    for field, value in (
        ("epoch", "a\0"),
        ("note", "a\0"),
        ("delta_nano_usd", 2**63 - 1),
        ("delta_nano_usd", -(2**63)),
    ):
        wrong = admin_pb2.CorrectChargeRequest(**{**fields, field: value})  # type: ignore[arg-type]
        assert list(await fault(admin.CorrectCharge(wrong, metadata=OPERATOR))) == [field]
    scope = admin_pb2.BudgetScope(tenant="team", period=admin_pb2.BUDGET_PERIOD_DAY)
    for cap in (0, -1, 2**63 - 1):
        budget = admin_pb2.Budget(scope=scope, cap_nano_usd=cap)
        asked = admin_pb2.SetBudgetRequest(budget=budget)
        assert list(await fault(admin.SetBudget(asked, metadata=OPERATOR))) == [
            "budget.cap_nano_usd"
        ]
