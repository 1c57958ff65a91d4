"""Placements and schedulers for tests of the scheduler: everything has a default."""

from __future__ import annotations

from typing import Any

from scheduler.contract import PlacementKind, ServingChanged
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100


def self_hosted(name: str = "own/a", *, max_running: int = 64, **facts: Any) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.LOCAL, model="moe", max_running=max_running, pool="own",
        step_model=QWEN3_30B_H100, **facts,
    )  # fmt: skip


def remote(name: str = "far", *, max_running: int = 64, **facts: Any) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model="moe", max_running=max_running,
        remote_class="eu", **facts,
    )  # fmt: skip


def serving_scheduler(*placements: Placement, queue: int = 100, attempts: int = 3) -> Scheduler:
    """A scheduler whose placements are all in service at 0 s."""
    limits = SchedulerLimits(
        queue=QueueLimits(requests=queue, size_bytes=1 << 20), attempts=attempts
    )
    core = Scheduler(placements, limits)
    for placement in placements:
        changed = ServingChanged(placement=placement.name, serving=True, reason="")
        core.handle(changed, 0.0)
    return core
