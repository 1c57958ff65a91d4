"""One tenant fills what all share, over real sockets: the other one notices nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2

from gateway.accounting.ledger import sqlite
from gateway.accounting.ledger.caller_reads import MOST_OF_TENANT
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.spend import Spend, spend
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.doors.grpc.accounts import usage_service
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import generation_pb2, inference_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.serving import METADATA, Serving, chat_request, detail, read_stream

LOUD = (("x-api-key", "mg-loud"),)
BATCH = generation_pb2.Slo(slo_class=generation_pb2.SLO_CLASS_BATCH)


@pytest.fixture
async def slow() -> AsyncIterator[SimulatedVllm]:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="sim", speed=1.0)) as running:
        yield running


def shared(engine: SimulatedVllm, limits: LimitsConfig, *, max_num_seqs: int = 8) -> GatewayConfig:
    """A gateway of two tenants: the team of `METADATA`, and the loud one."""
    settings = serving.config(
        pools=[serving.pool([engine.url], upstream_model="sim", max_num_seqs=max_num_seqs)],
        limits=limits,
        interactive=serving.PATIENT,
    )
    key = KeyConfig(id="loud", sha256=key_sha256("mg-loud"))
    tenants = (*settings.tenants, TenantConfig(name="loud", keys=(key,)))
    return msgspec.structs.replace(settings, tenants=tenants)


async def once(gateway: Serving, metadata: tuple[tuple[str, str], ...], key: str) -> None:
    request = chat_request(idempotency_key=key, max_output_tokens=1)
    await read_stream(gateway.stub.Generate(request, metadata=metadata))


async def test_idempotency_keys_of_one_tenant_push_out_its_own_and_refuse_nobody(
    slow: SimulatedVllm,
) -> None:
    async with serving.serving(shared(slow, LimitsConfig(idempotency_keys=6))) as gateway:
        await once(gateway, METADATA, "mine")
        for number in range(10):
            await once(gateway, LOUD, str(number))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await once(gateway, METADATA, "mine")
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS, "remembered all the same"
        await once(gateway, METADATA, "another")
        await once(gateway, LOUD, "0")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await once(gateway, LOUD, "9")
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_one_tenant_leaves_half_of_the_queue_to_others_of_any_class(
    slow: SimulatedVllm,
) -> None:
    settings = shared(slow, LimitsConfig(queue_requests=4), max_num_seqs=1)
    async with serving.serving(settings) as gateway:
        core = gateway.gateway.scheduler.core
        long = chat_request(max_output_tokens=4000, ignore_eos=True)
        running = gateway.stub.Generate(long, metadata=LOUD)
        await running.read()
        flood = [gateway.stub.Generate(long, metadata=LOUD) for _ in range(6)]
        reads = [asyncio.ensure_future(call.read()) for call in flood]
        await serving.until(lambda: sum(read.done() for read in reads) == 4)
        assert core.queued_requests == 2
        for call in flood:
            if call.done():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await read_stream(call)
                error = caught.value
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert detail(error, error_details_pb2.ErrorInfo).reason == "QUEUE_FULL"
                assert "tenant loud has its share of the queue" in (error.details() or "")
                assert detail(error, error_details_pb2.RetryInfo)
        mine = [gateway.stub.Generate(chat_request(slo=BATCH), metadata=METADATA) for _ in range(2)]
        await serving.until(lambda: core.queued_requests == 4)
        for call in (running, *flood, *mine):
            call.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


async def test_a_flood_of_decisions_drops_no_record_of_another_tenant(
    slow: SimulatedVllm,
) -> None:
    async with serving.serving(shared(slow, LimitsConfig())) as gateway:
        gateway.gateway.scheduler.core.decisions._by_id.resize(5)

        async def ran(name: str, metadata: tuple[tuple[str, str], ...]) -> None:
            request = chat_request(request_id=name, max_output_tokens=1)
            await read_stream(gateway.stub.Generate(request, metadata=metadata))

        await ran("mine", METADATA)
        for number in range(12):
            await ran(f"loud-{number}", LOUD)
        asked = inference_pb2.ExplainRequest(request_id="mine")
        assert (await gateway.stub.Explain(asked, metadata=METADATA)).placement == "own/a"
        asked = inference_pb2.ExplainRequest(request_id="loud-0")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.Explain(asked, metadata=LOUD)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_long_reads_of_one_tenant_leave_the_ledger_to_others(
    slow: SimulatedVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) FROM n"

    async def slow_spend(tx: Tx, selection: Selection, *rest: Any, **named: Any) -> list[Spend]:
        if selection.tenant == "loud":
            await tx.rows(endless)
        return await spend(tx, selection, *rest, **named)

    monkeypatch.setattr(usage_service, "spend", slow_spend)
    monkeypatch.setattr(sqlite, "READ_S", 0.3)
    async with serving.serving(shared(slow, LimitsConfig())) as gateway:
        usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
        asked = usage_pb2.GetSpendRequest()
        calls = [usage.GetSpend(asked, metadata=LOUD) for _ in range(40)]
        loud = [asyncio.ensure_future(call.code()) for call in calls]
        await serving.until(lambda: sum(call.done() for call in loud) == 40 - MOST_OF_TENANT)
        assert {call.result() for call in loud if call.done()} == {
            grpc.StatusCode.RESOURCE_EXHAUSTED
        }
        await usage.GetSpend(asked, metadata=METADATA)
        assert sum(not call.done() for call in loud) >= MOST_OF_TENANT - 3, "others still wait"
        await once(gateway, METADATA, "k")
        for call in calls:
            call.cancel()
        await asyncio.gather(*loud, return_exceptions=True)
