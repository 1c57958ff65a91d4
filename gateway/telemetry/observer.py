"""Telemetry of one gateway: what is on, and where requests and RPCs report to.

Off is nearly free: without traces, metrics and a JSON log there is no interceptor, and every
request gets the one trail that does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from gateway.config.telemetry import TelemetryConfig
from gateway.domain.generation import Generation
from gateway.pipeline.observer import UNOBSERVED, Observe, RequestObserver
from gateway.telemetry import semconv
from gateway.telemetry.call_record import CURRENT
from gateway.telemetry.exposition import exposition
from gateway.telemetry.fleet import FleetMetrics
from gateway.telemetry.instruments import Allocation, Instruments
from gateway.telemetry.logs import REQUESTS
from gateway.telemetry.request_log import request_line
from gateway.telemetry.request_telemetry import RequestTelemetry
from gateway.telemetry.sources import GatewayFigures
from gateway.telemetry.tracing import tracer_provider
from scheduler.contract import Request
from scheduler.fleet_view import FleetView
from scheduler.port import SchedulerPort


class Telemetry:
    """Telemetry of a gateway. `provider`, `instruments`: None if they are off."""

    def __init__(
        self,
        *,
        provider: TracerProvider | None,
        instruments: Instruments | None,
        record_content: bool,
        clock: Callable[[], float],
    ) -> None:
        self.instruments = instruments
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer(semconv.SCOPE)
        self._record_content = record_content
        self._clock = clock
        self._logs_requests = REQUESTS.isEnabledFor(logging.INFO)

    @property
    def is_on(self) -> bool:
        """Whether traces, metrics or the request log are on."""
        return self._tracer is not None or self.instruments is not None or self._logs_requests

    @property
    def tracer(self) -> Tracer | None:
        """The tracer; None: traces are off."""
        return self._tracer

    @property
    def allocation(self) -> Allocation | None:
        """Counts cost where the ledger is; None: metrics are off."""
        return None if self.instruments is None else self.instruments.allocation

    def observe_at(self, port: SchedulerPort) -> Observe:
        """What observes the requests of a pipeline at this port."""
        return lambda request, generation: self.observe(request, generation, lambda: port.fleet)

    def observe(
        self, request: Request, generation: Generation, fleet: Callable[[], FleetView]
    ) -> RequestObserver:
        """The observer of a request; to be called in the task of its call. `fleet`: the newest view
        of it."""
        record = CURRENT.get() if self.is_on else None
        if record is None:
            return UNOBSERVED
        observed = RequestTelemetry(
            record,
            request,
            generation,
            key_id=request.key_id,
            tracer=self._tracer,
            instruments=self.instruments,
            fleet=fleet,
            content=self._record_content,
            clock=self._clock,
        )
        record.on_end = functools.partial(self._call_ended, observed)
        return observed

    def rpc_ended(self, method: str, code: str, duration_s: float) -> None:
        """Records the end of an RPC. `code`: name of its status."""
        if self.instruments is not None:
            self.instruments.observe(semconv.RPC_DURATION, duration_s, method, code)

    def http_ended(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Records the end of an HTTP request. `route`: the path that the door knows it by."""
        if self.instruments is not None:
            self.instruments.observe(semconv.HTTP_DURATION, duration_s, method, route, str(status))

    def rpc_refused(self, reason: str) -> None:
        """Counts an RPC that was refused before its request was read."""
        if self.instruments is not None:
            self.instruments.add(semconv.RPC_REFUSALS, 1, reason)

    def _call_ended(
        self, observed: RequestTelemetry, code: str, detail: str, duration_s: float
    ) -> None:
        observed.call_ended(duration_s)
        if self._logs_requests:
            fields = request_line(observed, code, detail, duration_s)
            # Not `info`, which searches the stack for its caller: half of the cost of a line.
            outcome = observed.outcome.value
            record = REQUESTS.makeRecord(
                REQUESTS.name, logging.INFO, "", 0, "request %s", (outcome,), None
            )
            record.fields = fields
            REQUESTS.handle(record)

    async def close(self) -> None:
        """Exports the remaining spans, in a thread, as the collector may be unreachable."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


@contextlib.asynccontextmanager
async def telemetry(
    settings: TelemetryConfig, clock: Callable[[], float], environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Telemetry]:
    """Makes telemetry from the configuration and the environment."""
    found = Telemetry(
        provider=tracer_provider(environ),
        instruments=None if settings.metrics_listen is None else Instruments(settings),
        record_content=settings.record_content,
        clock=clock,
    )
    try:
        yield found
    finally:
        await found.close()


@contextlib.asynccontextmanager
async def metrics_page(
    settings: TelemetryConfig, observing: Telemetry, figures: GatewayFigures
) -> AsyncIterator[str | None]:
    """Serves the metrics page if metrics are on. Yields its address or None. Raises OSError."""
    instruments = observing.instruments
    if instruments is None or settings.metrics_listen is None:
        yield None
        return
    fleet = FleetMetrics(figures)
    instruments.registry.register(fleet)
    watching = asyncio.create_task(figures.watch_budgets(), name="moegate-budget-metrics")
    try:
        async with exposition(
            settings.metrics_listen, instruments.registry, fleet.refresh
        ) as address:
            yield address
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
