"""The share of arrivals that own servers do not take in time, and whether requests overflow."""

from __future__ import annotations

import pytest

from scheduler.contract import PlacementKind, ServingChanged, SloClass
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.overflow.turned_away import MEMORY_S, TurnedAway
from scheduler.placement_state import Placement
from scheduler.pricing import RateTier, TokenRates
from scheduler.queue.model_queue import QueueLimits
from scheduler.snapshot import PoolSnapshot
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

TIER = RateTier(uncached_input=1, cached_input=1, cache_write=1, output=1)


def test_the_share_is_of_the_last_minute() -> None:
    counts = TurnedAway()
    assert counts.share(0.0) == 0.0
    for second in range(60):
        counts.record(float(second), in_time=second % 4 > 0)
    assert counts.share(60.0) == pytest.approx(0.25, abs=0.02)
    for second in range(60, 600):
        counts.record(float(second), in_time=True)
    assert counts.share(600.0) < 0.001


def test_where_nobody_comes_nobody_is_turned_away() -> None:
    counts = TurnedAway()
    counts.record(0.0, in_time=False)
    assert counts.share(0.0) == 1.0
    assert counts.share(10 * MEMORY_S) == 0.0


def test_overflow_is_active_for_a_minute() -> None:
    counts = TurnedAway()
    assert not counts.overflows(0.0)
    counts.record_overflow(5.0)
    assert counts.overflows(5.0 + MEMORY_S - 1)
    assert not counts.overflows(5.0 + MEMORY_S)


def scheduler() -> Scheduler:
    """One own placement with one slot, and a remote of class `us`."""
    own = Placement(
        name="pool/a", pool="pool", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1,
        step_model=QWEN3_30B_H100,
    )  # fmt: skip
    remote = Placement(
        name="far", pool="", kind=PlacementKind.REMOTE, model="moe", max_running=99,
        remote_class="us", rates=TokenRates(row_id="row", tiers=(TIER,)),
    )  # fmt: skip
    limits = SchedulerLimits(queue=QueueLimits(requests=2, size_bytes=9999), attempts=1)
    core = Scheduler((own, remote), limits)
    for name in ("pool/a", "far"):
        core.handle(ServingChanged(placement=name, serving=True, reason="up"), 0.0)
    return core


def pool_at(core: Scheduler, now: float) -> PoolSnapshot:
    [pool] = core.snapshot(now).pools
    return pool


def test_what_overflows_for_want_of_room_is_turned_away() -> None:
    core = scheduler()
    core.submit(request("runs", max_output_tokens=5000), 0.0)
    assert (pool_at(core, 0.0).turned_away_share, pool_at(core, 0.0).overflows) == (0.0, False)
    core.submit(request("waits", ttft_s=0.5, remote_classes=frozenset({"us"})), 0.0)
    at_s = 0.0
    while not pool_at(core, at_s).overflows:
        at_s += 0.05
        core.tick(at_s)
        assert at_s < 5.0
    assert pool_at(core, at_s).turned_away_share == pytest.approx(0.5, abs=0.02)
    assert not pool_at(core, at_s + MEMORY_S + 1.0).overflows


def test_where_nothing_may_overflow_it_is_never_active_and_refusals_count() -> None:
    core = scheduler()
    core.submit(request("runs", max_output_tokens=5000), 0.0)
    for number in range(3):
        core.submit(request(f"waits-{number}"), 0.0)
    pool = pool_at(core, 0.0)
    assert pool.turned_away_share == pytest.approx(0.5), "one runs, one found no room, two wait"
    assert not pool.overflows


def test_batch_work_may_wait() -> None:
    core = scheduler()
    core.submit(request("runs", max_output_tokens=5000), 0.0)
    for number in range(3):
        core.submit(request(f"batch-{number}", SloClass.BATCH), 0.0)
    assert pool_at(core, 0.0).turned_away_share == 0.0
