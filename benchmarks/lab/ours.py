"""The scheduler under test, with the switches of the ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.lab.fleets import LabFleet
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.fleet import Placement
from scheduler.flow_control import QueueLimits
from scheduler.types import PlacementKind

QUEUE_REQUESTS = 4096
QUEUE_BYTES = 1 << 30


def our_scheduler(fleet: LabFleet, names: Sequence[str], switches: Mapping[str, str]) -> Scheduler:
    """A scheduler for the fleet that knows the prior, not the truth.

    Raises ValueError: a switch that the scheduler does not have.
    """
    if switches:
        raise ValueError(f"unknown switches {sorted(switches)}")
    placements = (
        Placement(
            name=name,
            kind=PlacementKind.LOCAL,
            model=fleet.model,
            max_running=fleet.max_running,
            pool=fleet.name,
            group=name,
            step_model=fleet.step_model,
            nano_usd_per_s=round(fleet.usd_per_s * 1e9),
        )
        for name in names
    )
    queue = QueueLimits(requests=QUEUE_REQUESTS, size_bytes=QUEUE_BYTES)
    return Scheduler(placements, SchedulerLimits(queue=queue, attempts=2))
