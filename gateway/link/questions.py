"""What a front may ask the scheduler, beside what its session answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.link.connection import Handler
from gateway.link.messages import with_times
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.contract import Request
from scheduler.decision_record import DecisionRecord
from scheduler.port import FleetFigures


def questions(scheduler: InProcessScheduler, clock: Callable[[], float]) -> dict[str, Handler]:
    """Returns the handlers. `clock`: monotonic seconds."""

    async def quote(request: Request) -> DecisionRecord:
        return await scheduler.quote(with_times(request, clock()))

    async def figures(_: None) -> FleetFigures:
        found = await scheduler.figures()
        age_s = found.snapshot.at_s - clock()
        return replace(found, snapshot=replace(found.snapshot, at_s=age_s))

    return {
        "quote": (Request, quote),
        "explain": (str, scheduler.explain),
        "figures": (None, figures),
        "pool_cost": (tuple[str, int], lambda args: scheduler.pool_cost(*args)),
        "pool_rates": (None, lambda _: scheduler.pool_rates()),
        "token_rates": (None, lambda _: scheduler.token_rates()),
        "budget_standings": (tuple[str, str], lambda args: scheduler.budget_standings(*args)),
        "key_spend": (tuple[str, str], lambda args: scheduler.key_spend(*args)),
        "drain": (str, scheduler.drain),
        "undrain": (str, scheduler.undrain),
    }
