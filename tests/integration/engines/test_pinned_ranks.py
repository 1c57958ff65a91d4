"""Data-parallel ranks as placements: the gateway chooses the rank of each request."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from gateway.config.gateway import GpuConfig, KeyConfig, KeyRole, PoolConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm
from moegate.v1 import admin_pb2, admin_pb2_grpc, generation_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.integration.doors.test_gateway import UPSTREAM, engine
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream, until

RANKS = 4
OPERATOR = (("authorization", "Bearer mg-operator-key"),)
BOSS = KeyConfig(id="boss", sha256=key_sha256("mg-operator-key"), role=KeyRole.OPERATOR)


def pool(url: str, **settings: object) -> PoolConfig:
    base = serving.pool([url], upstream_model=UPSTREAM)
    changed = {
        "data_parallel_ranks": RANKS,
        "pin_ranks": True,
        "gpu": GpuConfig(type="H100", count=RANKS, usd_per_gpu_hour="2"),
    }
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    return PoolConfig(**{**fields, **changed, **settings})


def running(sim: SimulatedVllm) -> list[int]:
    return [len(rank.running) + len(rank.waiting) for rank in sim.engine.ranks]


def endless(name: str) -> generation_pb2.GenerateRequest:
    """Long prompts that share nothing, so that what each rank holds is plain."""
    text = f"{name}: " + "tell me a story. " * 200
    return chat_request(text, ignore_eos=True, max_output_tokens=4000, request_id=name)


async def test_requests_are_spread_over_the_ranks_by_what_they_hold() -> None:
    async with engine(data_parallel_size=RANKS, speed=1.0) as sim:
        settings = serving.config(pools=[pool(sim.url)], keys=(BOSS,))
        async with serving.serving(settings) as gateway:
            scheduler = gateway.gateway.scheduler.core
            assert [s.facts.name for s in scheduler.placements] == [
                f"own/a/{rank}" for rank in range(RANKS)
            ]
            assert {s.facts.group for s in scheduler.placements} == {"own/a"}
            capacity = sim.config.num_gpu_blocks * sim.config.block_size
            assert {s.kv_capacity_tokens for s in scheduler.placements} == {capacity}
            calls = []
            for number in range(2 * RANKS):  # one after another, so that each decision knows all
                call = gateway.stub.Generate(endless(f"r{number}"), metadata=METADATA)
                calls.append(call)
                await first_message(call)
            assert running(sim) == [2] * RANKS
            for state in scheduler.placements:
                assert len(state.residents) == 2
            # A scrape of the one server tells each rank's own figures.
            await until(
                lambda: all(s.report and s.report.running == 2 for s in scheduler.placements)
            )
            assert not any(s.external_sequences for s in scheduler.placements)
            told = await first_fleet(gateway)
            assert [state.dp_rank for state in told.placements] == list(range(RANKS))
            assert {state.group for state in told.placements} == {"own/a"}
            assert [(p.groups, p.groups_serving) for p in told.pools] == [(1, 1)]
            # The whole group pays, once: its ranks are no groups of their own.
            assert {state.predicted_batch for state in told.placements} == {2 * RANKS}
            for call in calls:
                call.cancel()
            await until(lambda: not any(running(sim)))


async def first_fleet(gateway: Serving) -> usage_pb2.WatchFleetResponse:
    usage: usage_pb2_grpc.UsageServiceAsyncStub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    async for told in usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=OPERATOR):
        return told
    raise AssertionError("the stream ended")


async def test_ranks_leave_service_together_and_no_rank_alone() -> None:
    async with engine(data_parallel_size=RANKS) as sim:
        settings = serving.config(pools=[pool(sim.url)], keys=(BOSS,))
        async with serving.serving(settings) as gateway:
            scheduler = gateway.gateway.scheduler.core
            admin: admin_pb2_grpc.AdminServiceAsyncStub
            admin = admin_pb2_grpc.AdminServiceStub(gateway.channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await admin.Drain(admin_pb2.DrainRequest(placement="own/a/1"), metadata=OPERATOR)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "give own/a" in str(caught.value.details())
            await admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=OPERATOR)
            assert not any(state.serving for state in scheduler.placements)
            await admin.Undrain(admin_pb2.UndrainRequest(placement="own/a"), metadata=OPERATOR)
            assert all(state.serving for state in scheduler.placements)
            seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
            assert seen.done is not None
            route = seen.done.route
            assert route.replica == f"a/{route.dp_rank}"
            assert route.HasField("dp_rank")


async def test_a_drained_replica_stays_drained_whatever_ranks_a_reload_makes_of_it() -> None:
    async with engine(data_parallel_size=RANKS) as sim:

        async def reload(**settings: object) -> list[str]:
            """Placements that serve; the reload is over when all of them have been probed."""
            settings_ = serving.config(pools=[pool(sim.url, **settings)], keys=(BOSS,))
            await gateway.gateway.reload(settings_, Path.cwd())
            states = gateway.gateway.scheduler.core.placements
            await until(lambda: all(s.report and s.reason != "not probed yet" for s in states))
            return [state.facts.name for state in states if state.serving]

        # One placement, then four ranks, then one again.
        start = serving.config(pools=[pool(sim.url, pin_ranks=False)], keys=(BOSS,))
        async with serving.serving(start) as gateway:
            admin: admin_pb2_grpc.AdminServiceAsyncStub
            admin = admin_pb2_grpc.AdminServiceStub(gateway.channel)
            await admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=OPERATOR)
            assert await reload() == []
            assert await reload(pin_ranks=False) == []
            assert await reload() == []
            await admin.Undrain(admin_pb2.UndrainRequest(placement="own/a"), metadata=OPERATOR)
            await serving.until_serving(gateway.gateway, RANKS)


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        (2, "data_parallel_ranks, 2, is too small"),
        (8, "data_parallel_rank 4 is out of range [0, 4)"),
    ],
)
async def test_a_wrong_number_of_ranks_keeps_the_replica_out_and_says_why(
    ranks: int, reason: str
) -> None:
    async with engine(data_parallel_size=RANKS) as sim:
        gpu = GpuConfig(type="H100", count=8, usd_per_gpu_hour="2")
        settings = serving.config(pools=[pool(sim.url, data_parallel_ranks=ranks, gpu=gpu)])
        async with serving.serving(settings, ready=False) as gateway:
            states = gateway.gateway.scheduler.core.placements
            await until(lambda: all(reason in state.reason for state in states))
            assert not any(state.serving for state in states)
