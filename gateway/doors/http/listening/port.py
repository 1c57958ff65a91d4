"""The HTTP port: the doors of all dialects behind one listener."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from gateway.batch.port import BatchPort
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.watches import Watches
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.budget_standings import BudgetStandings
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.certificates import Certificates
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.tenant_calls import TenantCalls
from gateway.doors.http.dialect import Dialect, Routes
from gateway.doors.http.door import HttpDoor
from gateway.doors.http.exchange import Services
from gateway.doors.http.listening.listener import HttpListener
from gateway.doors.http.observer import HttpObserver
from gateway.doors.http.sse import SilentStreams
from gateway.pipeline.pipeline import Pipeline
from gateway.telemetry.observer import Telemetry
from scheduler.port import SchedulerPort


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpParts:
    """The parts of the gateway that the HTTP port is put together from."""

    active: ActiveSettings
    pipeline: Pipeline
    port: SchedulerPort
    deliveries: Deliveries
    watches: Watches
    key_limits: KeyLimits
    in_progress: CallsInProgress
    tenant_calls: TenantCalls
    telemetry: Telemetry
    certificates: Certificates | None
    clock: Callable[[], float]
    batches: BatchPort
    shares_port: bool = False
    """Whether other fronts of the same gateway listen on the same port."""


@dataclass(frozen=True, slots=True)
class HttpPort:
    """A port that accepts requests. `address`: host:port with the bound port."""

    address: str
    listener: HttpListener


@contextlib.asynccontextmanager
async def http_port(
    parts: HttpParts, dialects: Sequence[Dialect]
) -> AsyncIterator[HttpPort | None]:
    """Serves the dialects; yields None if `server.http_listen` is absent. Leaving the context
    closes all connections. Raises OSError if it cannot listen."""
    config = parts.active.config.server
    if config.http_listen is None:
        yield None
        return
    silences = SilentStreams(lambda: parts.active.config.server.ping_s, parts.clock)
    services = Services(
        active=parts.active,
        pipeline=parts.pipeline,
        port=parts.port,
        deliveries=parts.deliveries,
        watches=parts.watches,
        silences=silences,
        standings=BudgetStandings(parts.port, parts.clock),
        clock=parts.clock,
        batches=parts.batches,
    )
    observing = parts.telemetry
    door = HttpDoor(
        Routes(dialects),
        services,
        key_limits=parts.key_limits,
        in_progress=parts.in_progress,
        tenant_calls=parts.tenant_calls,
        observer=HttpObserver(
            observing.tracer, parts.clock, observing.http_ended, is_on=observing.is_on
        ),
    )
    listener = HttpListener(door, config, parts.clock)
    tls = None if parts.certificates is None else parts.certificates.following_context()
    address = await listener.start(config.http_listen, tls, shares_port=parts.shares_port)
    tasks = (
        asyncio.create_task(silences.run(), name="moegate-http-pings"),
        asyncio.create_task(listener.run(), name="moegate-http-connections"),
    )
    try:
        yield HttpPort(address, listener)
    finally:
        await listener.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
