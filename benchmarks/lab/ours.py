"""The scheduler under test, with the switches of the ablations."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import fields

from benchmarks.lab.fleets import LabFleet
from scheduler.contract import Objective, PlacementKind
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.policy import Policy
from scheduler.queue.model_queue import QueueLimits

QUEUE_REQUESTS = 4096
QUEUE_BYTES = 1 << 30


def own_placements(fleet: LabFleet, names: Sequence[str], objective: Objective) -> list[Placement]:
    """The replicas of a fleet as the scheduler knows them: the prior, not the truth."""
    return [
        Placement(
            name=name,
            kind=PlacementKind.LOCAL,
            model=fleet.model,
            max_running=fleet.max_running,
            pool=fleet.name,
            group=name,
            step_model=fleet.step_model,
            nano_usd_per_s=round(fleet.usd_per_s * 1e9),
            objective=objective,
        )
        for name in names
    ]


def our_scheduler(fleet: LabFleet, names: Sequence[str], switches: Mapping[str, str]) -> Scheduler:
    """A scheduler for the fleet that knows the prior, not the truth.

    `switches`: fields of `Policy` by name, as Python literals, and `objective`. Raises ValueError:
    one that is neither.
    """
    known = {field.name for field in fields(Policy)}
    unknown = switches.keys() - known - {"objective"}
    if unknown:
        raise ValueError(f"unknown switches {sorted(unknown)}")
    objective = Objective(switches.get("objective", Objective.LATENCY))
    values = {name: ast.literal_eval(switches[name]) for name in known & switches.keys()}
    placements = own_placements(fleet, names, objective)
    queue = QueueLimits(requests=QUEUE_REQUESTS, size_bytes=QUEUE_BYTES)
    limits = SchedulerLimits(queue=queue, attempts=2)
    return Scheduler(placements, limits, Policy(**values))
