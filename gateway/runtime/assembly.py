"""Builds and connects the parts of a running gateway. A reload changes parts, never replaces
them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from gateway.accounting.budgets import Budgets
from gateway.fleet.fleet import Fleet
from gateway.pipeline.observer import Observe
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.configuration import PreparedConfiguration
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.metering import Metering
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """The running parts. Built by `assemble` inside a running event loop."""

    scheduler: InProcessScheduler
    fleet: Fleet
    pipeline: Pipeline
    metering: Metering
    tasks: tuple[asyncio.Task[None], ...]

    async def close(self) -> None:
        """Cancels every task and closes the fleet's clients. Requests should have ended before. The
        caller owns the HTTP session and closes it."""
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a task of the gateway failed", exc_info=result)
        await self.fleet.close()


def assemble(
    prepared: PreparedConfiguration,
    *,
    upstream: aiohttp.ClientSession,
    clock: Callable[[], float],
    load: LoopLoad,
    metering: Metering,
    budgets: Budgets,
    observe: Observe,
    on_change: Callable[[], Awaitable[None]],
    sinks: tuple[Sink, ...] = (),
) -> GatewayParts:
    """Builds the parts and starts their tasks.

    `upstream`: HTTP session for all upstreams. `clock`: monotonic seconds. `sinks`: callbacks that
    receive every settled attempt. `on_change`: awaited after each change of the fleet.
    """

    async def changed() -> None:
        scheduler.refresh_fleet()
        await on_change()

    fleet = Fleet(
        prepared.fleet,
        session=upstream,
        pace=load,
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
        targets=fleet.targets,
        sinks=sinks,
    )
    pipeline = Pipeline(
        scheduler,
        fleet,
        prepared.pipeline,
        clock=clock,
        observe=observe,
        on_tick=load.sample,
    )
    return GatewayParts(
        scheduler=scheduler,
        fleet=fleet,
        pipeline=pipeline,
        metering=metering,
        tasks=(
            asyncio.create_task(scheduler.run(), name="moegate-scheduler"),
            asyncio.create_task(pipeline.report_progress(), name="moegate-progress"),
            asyncio.create_task(fleet.run(), name="moegate-fleet"),
        ),
    )
