"""Pinned data-parallel ranks: mistakes, and what becomes a placement."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq.asyncio

from gateway.config.load.file import ConfigError, parse
from gateway.fleet.kv_events import RankSubscription, publisher
from gateway.fleet.placement_names import placement_names
from scheduler.prefix.token_blocks import CacheEvents

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: %d}
    data_parallel_ranks: %d
    pin_ranks: true
    replicas: [{name: x, url: 'http://10.0.0.1:8000'}]
"""


@pytest.mark.parametrize(
    ("gpus", "ranks", "further", "path", "message"),
    [
        (8, 1, "", "pools[0].pin_ranks", "nothing to choose from"),
        (8, 3, "", "pools[0].data_parallel_ranks", "8 GPUs (gpu.count) cannot be shared"),
        (2, 4, "", "pools[0].data_parallel_ranks", "cannot be shared evenly by 4 ranks"),
        (8, 8, "disaggregated: {prefill: 1, decode: 1}", "pools[0].pin_ranks", "its nodes"),
    ],
)
def test_mistakes_are_told(gpus: int, ranks: int, further: str, path: str, message: str) -> None:
    text = POOL % (gpus, ranks) + (f"    {further}\n" if further else "")
    with pytest.raises(ConfigError) as caught:
        parse(text, "moegate.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_names_of_placements() -> None:
    assert placement_names("a/x", 0) == ("a/x",)
    assert placement_names("a/x", 2) == ("a/x/0", "a/x/1")


async def test_a_rank_tells_of_the_cache_of_its_own_placement() -> None:
    text = POOL % (8, 8) + "    kv_events: {}\n"
    (pool,) = parse(text, "moegate.yaml", Path()).pools
    found = publisher(pool, "a/x", "http://127.0.0.1:8000")
    assert found is not None
    told: list[CacheEvents] = []
    context = zmq.asyncio.Context()
    following = asyncio.create_task(RankSubscription(found, 3, told.append, context).follow())
    try:
        async with asyncio.timeout(30.0):
            while not told:
                await asyncio.sleep(0.001)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        context.destroy(linger=0)
    assert (told[0].placement, told[0].rank, told[0].ranks) == ("a/x/3", 0, 1)
