"""The scheduler under test, with the switches of the ablations."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

from msgspec import structs

from benchmarks.lab.fleets import LabFleet
from scheduler.contract import Action, Objective, PlacementKind, Request
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.policy import Policy
from scheduler.queue.model_queue import QueueLimits
from simulation.decider import Decider

QUEUE_REQUESTS = 4096
QUEUE_BYTES = 1 << 30


def own_placements(fleet: LabFleet, names: Sequence[str], objective: Objective) -> list[Placement]:
    """The replicas of a fleet as the scheduler knows them: the prior, not the truth."""
    return [
        Placement(
            name=name,
            kind=PlacementKind.SELF_HOSTED,
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


class WithoutPrefixes:
    """A decider that hides from the scheduler what prompts have in common."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.handle = scheduler.handle
        self.tick = scheduler.tick

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """A new request."""
        return self._scheduler.submit(
            structs.replace(request, prefix_blocks=(), token_blocks=()), now
        )


_ANY_VIOLATIONS = {
    name: math.inf for name in ("max_violations", "spare_violations", "last_call_violations")
}
WITHOUT: Mapping[str, Mapping[str, float | bool]] = {
    "late_binding": {"late_binding": False, **_ANY_VIOLATIONS},
    "moe_term": {"moe_term": False},
    "interference_check": _ANY_VIOLATIONS,
    "shedding": {"shedding": False},
    "shaping": {"open_after_share": 0.0},
    "prefix": {},
}
"""Parts of the scheduler, by name, and the figures of `Policy` that turn each off."""


def our_decider(fleet: LabFleet, names: Sequence[str], switches: Mapping[str, str]) -> Decider:
    """`our_scheduler`, with prefixes hidden from it where `switches` say so."""
    scheduler = our_scheduler(fleet, names, switches)
    return WithoutPrefixes(scheduler) if "prefix" in _off(switches) else scheduler


def our_scheduler(fleet: LabFleet, names: Sequence[str], switches: Mapping[str, str]) -> Scheduler:
    """A scheduler for the fleet that knows the prior, not the truth.

    `switches`: `False` for parts in `WITHOUT`, Python literals for other fields of `Policy`, and
    `objective`. Raises ValueError for any other switch.
    """
    figures = {field.name for field in fields(Policy)}
    unknown = switches.keys() - figures - WITHOUT.keys() - {"objective"}
    if unknown:
        raise ValueError(f"unknown switches {sorted(unknown)}")
    values = {
        name: ast.literal_eval(value)
        for name, value in switches.items()
        if name in figures - WITHOUT.keys()
    }
    for name in _off(switches):
        values.update(WITHOUT[name])
    objective = Objective(switches.get("objective", Objective.LATENCY))
    placements = own_placements(fleet, names, objective)
    queue = QueueLimits(requests=QUEUE_REQUESTS, size_bytes=QUEUE_BYTES)
    limits = SchedulerLimits(queue=queue, attempts=2)
    return Scheduler(placements, limits, Policy(**values))


def _off(switches: Mapping[str, str]) -> list[str]:
    return [name for name in WITHOUT if not ast.literal_eval(switches.get(name, "True"))]
