"""Takes slots at the scheduler, which counts them for all fronts together."""

from __future__ import annotations

import asyncio

from gateway.doors.entry.refusals import scheduler_away
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.port import SchedulerAway, SchedulerPort, SlotFreed


async def take_slot(port: SchedulerPort, holder: str, limits: RateLimits) -> Refusal | None:
    """Takes a slot until `SlotFreed`. Returns the refusal if none is free.

    A call that is cancelled while it asks holds nothing: the slot is given back when the answer
    comes. Raises CallRefused if the scheduler cannot be reached.
    """
    asking = asyncio.ensure_future(port.take_slot(holder, limits))
    try:
        return await asyncio.shield(asking)
    except SchedulerAway:
        raise scheduler_away() from None
    except asyncio.CancelledError:

        def give_back(answered: asyncio.Future[Refusal | None]) -> None:
            if not answered.cancelled() and not answered.exception() and answered.result() is None:
                port.send(SlotFreed(key_id=holder))

        asking.add_done_callback(give_back)
        raise
