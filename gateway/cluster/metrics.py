"""The metrics page of a member of a cluster: what its front counts, and the figures of the whole
while it leads, so that all pages together show each figure once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.cluster.leading import LeaderSide
from gateway.config.telemetry import TelemetryConfig
from gateway.telemetry import semconv
from gateway.telemetry.exposition import exposition
from gateway.telemetry.fleet import FleetMetrics
from gateway.telemetry.logs import dropped_lines
from gateway.telemetry.observer import Telemetry
from gateway.telemetry.scheduler_gauges import Standing, standing_metrics
from gateway.telemetry.sources import GatewayFigures, Load


class MemberMetrics(Collector):
    """Collector of a member: the gauges of its process and, in its terms, those of the fleet."""

    def __init__(
        self, load: Load, active_requests: Callable[[], int], standing: Callable[[], Standing]
    ) -> None:
        """`active_requests`: of the front of this process. `standing`: who leads."""
        self._standing = standing
        self._load = load
        self._active_requests = active_requests
        self._fleet: FleetMetrics | None = None
        self._own: tuple[int, float] = (0, 0.0)

    @contextlib.asynccontextmanager
    async def shown(self, side: LeaderSide) -> AsyncIterator[None]:
        """Shows the figures of the fleet while the context is open."""
        figures = GatewayFigures(
            port=side.parts.scheduler,
            accounting=side.accounting,
            load=self._load,
            active_requests=self._active_requests,
            batches=side.lane.load,
        )
        self._fleet = FleetMetrics(figures, standing=self._standing)
        watching = asyncio.create_task(figures.watch_budgets(), name="moegate-budget-metrics")
        try:
            yield
        finally:
            self._fleet = None
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def refresh(self) -> None:
        """Reads the current values."""
        self._own = self._active_requests(), self._load.share_now()
        if self._fleet is not None:
            await self._fleet.refresh()

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics as of the last `refresh`."""
        fleet = self._fleet
        if fleet is not None:
            yield from fleet.collect()
            return
        for metric, value in zip((semconv.IN_FLIGHT, semconv.LOOP_BUSY), self._own, strict=True):
            family = GaugeMetricFamily(metric.prometheus, metric.about)
            family.add_metric((), value)
            yield family
        yield from standing_metrics(self._standing())
        dropped = semconv.LOG_LINES_DROPPED
        yield CounterMetricFamily(dropped.prometheus, dropped.about, value=dropped_lines())


@contextlib.asynccontextmanager
async def member_page(
    settings: TelemetryConfig, observing: Telemetry, metrics: MemberMetrics
) -> AsyncIterator[str | None]:
    """Serves the metrics page if metrics are on. Yields its address or None. Raises OSError."""
    instruments = observing.instruments
    if instruments is None or settings.metrics_listen is None:
        yield None
        return
    registry = instruments.registry
    registry.register(metrics)
    async with exposition(settings.metrics_listen, registry, metrics.refresh) as address:
        yield address
