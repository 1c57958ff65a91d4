"""Builds and connects the parts of a running gateway. A reload changes parts, never replaces them.

There are two sides, which know of each other only through `SchedulerPort`: the scheduler's side
(scheduler, fleet, accounting), of which a deployment has one, and the front's side (pipeline,
clients of the upstreams, doors), of which it may have many.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.accounting.accounting import Accounting, configured_budget
from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.caller_reads import CallerReads
from gateway.accounting.pool_accounts import PoolAccounts
from gateway.fleet.fleet import Fleet
from gateway.pipeline.observer import Observe
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.upstreams import Upstreams
from gateway.runtime.configuration import PreparedConfiguration
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.key_accounts import KeyAccounts
from gateway.scheduling.metering import Metering
from gateway.scheduling.replica_counts import ReplicaCounts
from gateway.telemetry.instruments import Allocation
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import LoopLoad, Pace
from scheduler.metering.settlement import Sink
from scheduler.port import SchedulerPort

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerParts:
    """The scheduler's side. Built by `assemble_scheduler` inside a running event loop."""

    scheduler: InProcessScheduler
    fleet: Fleet
    metering: Metering
    budgets: Budgets
    tasks: tuple[asyncio.Task[None], ...]

    async def apply(self, prepared: PreparedConfiguration) -> None:
        """Puts another configuration into force."""
        # The scheduler comes first, because the fleet may report new placements at once.
        self.scheduler.apply(prepared.scheduling)
        await self.fleet.apply(prepared.fleet)
        self.budgets.configure(map(configured_budget, prepared.config.budgets))

    async def close(self) -> None:
        """Cancels every task and closes the fleet's clients. Requests should have ended before. The
        caller owns the HTTP session and closes it."""
        await _end(self.tasks)
        await self.fleet.close()


def assemble_scheduler(
    prepared: PreparedConfiguration,
    *,
    upstream: HttpSession,
    clock: Callable[[], float],
    pace: Pace,
    metering: Metering,
    budgets: Budgets,
    reads: CallerReads,
    pool_accounts: PoolAccounts | None = None,
    on_change: Callable[[], Awaitable[None]],
    sinks: tuple[Sink, ...] = (),
) -> SchedulerParts:
    """Builds the scheduler's side and starts its tasks.

    `upstream`: HTTP session for all upstreams. `clock`: monotonic seconds. `reads`: of the ledger,
    for callers. `sinks`: callbacks that receive every settled attempt. `pool_accounts`: books what
    the meter measures. `on_change`: awaited after each change of the fleet.
    """

    async def changed() -> None:
        scheduler.refresh_fleet()
        await on_change()

    fleet = Fleet(
        prepared.fleet,
        session=upstream,
        pace=pace,
        clock=clock,
        report=lambda event: scheduler.report(event),
        is_idle=lambda placement: scheduler.is_idle(placement),
        on_change=changed,
    )
    scheduler = InProcessScheduler(
        prepared.scheduling,
        clock=clock,
        metering=metering,
        budgets=budgets,
        accounts=KeyAccounts(budgets, reads),
        targets=fleet.connections.targets,
        sinks=sinks,
    )
    tasks = [
        asyncio.create_task(scheduler.run(), name="moegate-scheduler"),
        asyncio.create_task(fleet.run(), name="moegate-fleet"),
        asyncio.create_task(metering.run(), name="moegate-meter"),
    ]
    if pool_accounts is not None:
        keeping = pool_accounts.keep(metering.meter, lambda: metering.now_ns)
        tasks.append(asyncio.create_task(keeping, name="moegate-pool-accounts"))
    return SchedulerParts(
        scheduler=scheduler,
        fleet=fleet,
        metering=metering,
        budgets=budgets,
        tasks=tuple(tasks),
    )


def assemble_with_ledger(
    prepared: PreparedConfiguration,
    accounting: Accounting,
    *,
    upstream: HttpSession,
    clock: Callable[[], float],
    pace: Pace,
    meter_state: Path | None,
    on_change: Callable[[], Awaitable[None]],
    allocation: Allocation | None,
    sinks: tuple[Sink, ...],
) -> tuple[SchedulerParts, ReplicaCounts]:
    """Builds the scheduler's side on an open ledger, and the counts of replicas that follow what it
    settles. `meter_state`: file of the meter's state; None: it is in the ledger alone.
    `allocation`: the counter of cost; None: metrics are off. For the others see
    `assemble_scheduler`."""
    counts = ReplicaCounts(lambda: parts.scheduler, time.time)
    pool_accounts = accounting.pool_accounts
    if allocation is not None:
        pool_accounts.on_booked = allocation.booked
        sinks = (allocation.settled, *sinks)
    parts = assemble_scheduler(
        prepared,
        upstream=upstream,
        clock=clock,
        pace=pace,
        metering=Metering(clock, time.time_ns, meter_state, pool_accounts.checkpoint),
        pool_accounts=pool_accounts,
        budgets=accounting.budgets,
        reads=accounting.reads,
        on_change=on_change,
        sinks=(accounting.record_attempt, counts.settled, *sinks),
    )
    return parts, counts


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontParts:
    """The front's side without its doors. Built by `assemble_front` inside a running event loop."""

    pipeline: Pipeline
    tasks: tuple[asyncio.Task[None], ...]

    async def close(self) -> None:
        """Cancels every task. Requests should have ended before."""
        await _end(self.tasks)


def assemble_front(
    prepared: PreparedConfiguration,
    port: SchedulerPort,
    upstreams: Upstreams,
    *,
    clock: Callable[[], float],
    load: LoopLoad,
    observe: Observe,
) -> FrontParts:
    """Builds the front's side and starts its task. `clock`: monotonic seconds."""
    pipeline = Pipeline(
        port,
        upstreams,
        prepared.pipeline,
        clock=clock,
        observe=observe,
        on_tick=load.sample,
    )
    task = asyncio.create_task(pipeline.report_progress(), name="moegate-progress")
    return FrontParts(pipeline=pipeline, tasks=(task,))


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("a task of the gateway failed", exc_info=result)
