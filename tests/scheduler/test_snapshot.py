"""The figures that the scheduler shows."""

from __future__ import annotations

import pytest

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    PlacementKind,
    Progress,
    ServingChanged,
    SloClass,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.snapshot import PoolSnapshot
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request


def scheduler() -> Scheduler:
    """One placement with one slot."""
    placement = Placement(
        name="pool/a", pool="pool", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1,
        step_model=QWEN3_30B_H100,
    )  # fmt: skip
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=999), attempts=1)
    return Scheduler((placement,), limits)


def test_a_snapshot_follows_requests_through_queue_and_placement() -> None:
    core = scheduler()
    [idle] = core.snapshot(0.0).placements
    assert (idle.serving, idle.report_stale, idle.group) == (False, True, "pool/a")

    core.handle(ServingChanged(placement="pool/a", serving=True, reason="up"), 0.0)
    core.submit(request("r1", prompt_tokens=1000), 0.0)
    core.submit(request("r2", SloClass.BATCH, prompt_tokens=10), 1.0)
    [placed] = core.snapshot(0.0).placements
    assert placed.pending_prefill_s > 0
    busy = core.snapshot(3.0)
    [placed] = busy.placements
    assert (placed.running_requests, placed.predicted_batch, placed.kv_tokens) == (1, 1, 1000)
    assert placed.distinct_experts == 8
    [queue] = busy.queues
    assert queue.requests[SloClass.BATCH] == 1
    assert queue.oldest_wait_s[SloClass.BATCH] == 3.0
    assert queue.oldest_wait_s[SloClass.INTERACTIVE] == 0.0
    [pool] = busy.pools
    assert (pool.pool, pool.groups, pool.groups_serving) == ("pool", 1, 1)

    core.handle(Progress(request_id="r1", attempt=1, output_tokens=7), 3.5)
    [placed] = core.snapshot(3.5).placements
    assert (placed.kv_tokens, placed.pending_prefill_s) == (1007, 0)
    for name in ("r1", "r2"):
        core.handle(AttemptEnded(request_id=name, attempt=1, outcome=AttemptOutcome.OK), 4.0)
    [placed] = core.snapshot(9.0).placements
    assert (placed.running_requests, placed.idle_s, placed.kv_tokens) == (0, 5.0, 0)


def test_saturation_counts_those_that_wait_beyond_their_promise() -> None:
    core = scheduler()
    core.handle(ServingChanged(placement="pool/a", serving=True, reason="up"), 0.0)
    core.submit(request("runs"), 0.0)
    core.submit(request("waits", ttft_s=2.0), 0.0)

    def pool_at(now: float) -> PoolSnapshot:
        core.tick(now)
        [pool] = core.snapshot(now).pools
        return pool

    assert pool_at(1.0).saturation == pytest.approx(0.5), "half of the promise is gone"
    late = pool_at(6.0)
    assert late.saturation == pytest.approx(3.0, rel=0.05), "6 s of waiting for 2 s promised"
    assert not late.saturated, "the mark would hold the late one back, and so stay set"
    core.submit(request("batch", SloClass.BATCH, ttft_s=1.0, arrival_s=6.0), 6.0)
    assert pool_at(9.0).saturation == pytest.approx(4.5, rel=0.05), "batch waits as it may"
    core.handle(AttemptEnded(request_id="runs", attempt=1, outcome=AttemptOutcome.OK), 9.5)
    core.handle(AttemptEnded(request_id="batch", attempt=1, outcome=AttemptOutcome.OK), 9.6)
    core.handle(AttemptEnded(request_id="waits", attempt=1, outcome=AttemptOutcome.OK), 9.7)
    assert pool_at(40.0).saturation < 0.1


def test_a_request_that_waits_for_a_remote_saturates_no_server() -> None:
    own = Placement(
        name="pool/a", pool="pool", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1,
        step_model=QWEN3_30B_H100,
    )  # fmt: skip
    far = Placement(
        name="far", kind=PlacementKind.REMOTE, model="moe", max_running=1, remote_class="eu"
    )
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=999), attempts=1)
    core = Scheduler((own, far), limits)
    for name in ("pool/a", "far"):
        core.handle(ServingChanged(placement=name, serving=True, reason="up"), 0.0)
    for name in ("runs", "waits"):
        made = request(name, remote_classes=frozenset({"eu"}), unsupported_by=frozenset({"pool/a"}))
        core.submit(made, 0.0)
    core.tick(8.0)
    snapshot = core.snapshot(8.0)
    assert snapshot.queues[0].requests[SloClass.INTERACTIVE] == 1
    assert snapshot.queues[0].predicted_drain_s == 0.0
    assert snapshot.pools[0].saturation == 0.0
