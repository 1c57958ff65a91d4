"""Publishers of KV events, and the name under which each rank reports."""

from __future__ import annotations

import asyncio

import pytest
import zmq.asyncio
from msgspec.structs import replace

from gateway.config.engines import KvEventsConfig
from gateway.config.gateway import GpuConfig, PoolConfig
from gateway.fleet.kv_events import RankSubscription, publisher
from scheduler.prefix.token_blocks import CacheEvents

POOL = PoolConfig(
    name="a",
    model="m",
    gpu=GpuConfig(type="H100", count=8),
    data_parallel_ranks=8,
    kv_events=KvEventsConfig(port=5557, replay_port=6000),
)


@pytest.mark.parametrize(("pinned", "named"), [(True, ("a/x/3", 0, 1)), (False, ("a/x", 3, 8))])
async def test_a_rank_reports_under_the_name_of_its_own_placement(
    pinned: bool, named: tuple[str, int, int]
) -> None:
    told: list[CacheEvents] = []
    context = zmq.asyncio.Context()
    found = publisher(replace(POOL, pin_ranks=pinned), "a/x", "http://127.0.0.1:8000")
    assert found is not None
    following = asyncio.create_task(RankSubscription(found, 3, told.append, context).follow())
    try:
        async with asyncio.timeout(30.0):
            while not told:
                await asyncio.sleep(0.001)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        context.destroy(linger=0)
    assert (told[0].placement, told[0].rank, told[0].ranks) == named


def test_a_replica_publishes_at_its_own_port_with_its_replay_port_as_far_away() -> None:
    usual = publisher(POOL, "a/x", "http://[::1]:8000")
    assert usual is not None
    assert (usual.host, usual.port, usual.replay_port, usual.ranks) == ("::1", 5557, 6000, 8)
    moved = publisher(POOL, "a/x", "http://10.0.0.1:8000", 5600)
    assert moved is not None
    assert (moved.port, moved.replay_port) == (5600, 6043)
    assert publisher(replace(POOL, kv_events=None), "a/x", "http://10.0.0.1:8000") is None
