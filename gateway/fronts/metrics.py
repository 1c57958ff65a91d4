"""One metrics page for all processes of a gateway, each figure once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from prometheus_client import CollectorRegistry

from gateway.accounting.accounting import Accounting
from gateway.batch.running.runner import TenantLoad
from gateway.config.telemetry import TelemetryConfig
from gateway.fronts.messages import MEASURE, Measured
from gateway.link.host import SchedulerHost
from gateway.link.hosted_front import HostedFront
from gateway.link.wire.connection import CallFailed, LinkLost
from gateway.link.wire.messages import LinkError
from gateway.telemetry.exposition import exposition
from gateway.telemetry.fleet import FleetMetrics
from gateway.telemetry.logs import dropped_lines
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.page_samples import AddedPages, PageSamples, added, page_samples
from gateway.telemetry.sources import GatewayFigures
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.port import SchedulerPort

log = logging.getLogger(__name__)

MEASURE_S = 2.0
"""Longest wait for the figures of a front. One that is late is shown as it was."""


class AllFronts:
    """Figures of all fronts as of the last `measure`, and what fronts that have ended have left."""

    def __init__(self, host: SchedulerHost, load: LoopLoad) -> None:
        """`load`: of the parent's process."""
        self._host = host
        self._load = load
        self._measured: dict[str, Measured] = {}
        """By the incarnation of the front: a connection that is made again is no other front."""
        self._left = PageSamples()
        self._left_dropped = 0
        self._left_lost = 0

    @property
    def port(self) -> SchedulerPort:
        """The scheduler."""
        return self._host.scheduler

    @property
    def active_requests(self) -> int:
        """Requests in the gateway, waiting or running."""
        return sum(measured.active_requests for measured in self._measured.values())

    @property
    def dropped_log_lines(self) -> int:
        """Log lines that found no room, since the start."""
        found = sum(measured.dropped_log_lines for measured in self._measured.values())
        return dropped_lines() + self._left_dropped + found

    @property
    def lost_ends(self) -> int:
        """Ends of attempts that fronts could not keep until a scheduler took them."""
        return self._left_lost + sum(each.lost_ends for each in self._measured.values())

    def share_now(self) -> float:
        """CPU time of the busiest process as a share of one core."""
        shares = [measured.busy_share for measured in self._measured.values()]
        return max([self._load.share_now(), *shares])

    def page(self, own: PageSamples) -> PageSamples:
        """Adds the counters of all processes. `own`: those of the parent."""
        return added([self._left, own, *(m.page for m in self._measured.values())])

    async def measure(self) -> None:
        """Asks all fronts."""
        fronts = self._host.fronts
        found = await asyncio.gather(*map(_measured, fronts))
        for incarnation in self._measured.keys() - self._host.incarnations:
            last = self._measured.pop(incarnation)
            self._left = added([self._left, last.page])
            self._left_dropped += last.dropped_log_lines
            self._left_lost += last.lost_ends
        for front, measured in zip(fronts, found, strict=True):
            if measured is not None:
                self._measured[front.incarnation] = measured


async def _measured(front: HostedFront) -> Measured | None:
    try:
        async with asyncio.timeout(MEASURE_S):
            found: Measured = await front.connection.call(MEASURE, None, Measured)
    except (LinkLost, CallFailed, LinkError, TimeoutError) as error:
        log.warning("front %d gives no figures: %s", front.number, error or "it is late")
        return None
    return found


@contextlib.asynccontextmanager
async def fronts_page(
    settings: TelemetryConfig,
    observing: Telemetry,
    fronts: AllFronts,
    accounting: Accounting,
    batches: Callable[[], Sequence[TenantLoad]],
) -> AsyncIterator[str | None]:
    """Serves the metrics page if metrics are on. Yields its address or None. Raises OSError."""
    instruments = observing.instruments
    if instruments is None or settings.metrics_listen is None:
        yield None
        return
    figures = GatewayFigures(
        port=fronts.port,
        accounting=accounting,
        load=fronts,
        active_requests=lambda: fronts.active_requests,
        batches=batches,
    )
    fleet = FleetMetrics(figures, lambda: fronts.dropped_log_lines, lambda: fronts.lost_ends)
    pages = AddedPages()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(fleet)
    registry.register(pages)

    async def refresh() -> None:
        await fronts.measure()
        pages.page = fronts.page(page_samples(instruments.registry))
        await fleet.refresh()

    watching = asyncio.create_task(figures.watch_budgets(), name="moegate-budget-metrics")
    try:
        async with exposition(settings.metrics_listen, registry, refresh) as address:
            yield address
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
