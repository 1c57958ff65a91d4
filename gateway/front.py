"""The front's side of a gateway: pipeline and doors in one process.

A gateway has one front in the scheduler's process, or several in processes of their own. A front
reaches the scheduler through `SchedulerPort` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from gateway.batch.port import BatchPort
from gateway.config.gateway import GatewayConfig
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.unread_memory import UnreadLimits
from gateway.delivery.watches import Watches
from gateway.doors.anthropic.dialect import ANTHROPIC
from gateway.doors.console.listening.port import ConsoleParts, ConsolePort, console_port
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.certificates import Certificates, follow
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.tenant_calls import TenantCalls
from gateway.doors.grpc.batch.service import BatchService
from gateway.doors.grpc.inference_service import InferenceService
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.health import HealthService, ReflectionService
from gateway.doors.grpc.listening.key_check import KeyCheck
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import bind, server_options
from gateway.doors.grpc.listening.rpc_observer import RpcObserver
from gateway.doors.http.listening.port import HttpParts, HttpPort, http_port
from gateway.doors.openai.dialect import openai_dialect
from gateway.pipeline.upstreams import Upstreams
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import FrontParts, assemble_front
from gateway.runtime.configuration import PreparedConfiguration
from gateway.telemetry.observer import Telemetry
from gateway.upstream.http.loop_load import LoopLoad
from moegate.v1 import batch_pb2_grpc, inference_pb2_grpc
from scheduler.port import SchedulerPort

TELL_S = 0.05
"""Shortest time between NOT_SERVING and the end of the health watches."""
DRAIN_POLL_S = 0.05
REST_S = 2.0
"""Seconds for the other RPCs after the last generation of a drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSurroundings:
    """What a front works with.

    Attributes:
        port: the scheduler.
        upstreams: clients of the placements.
        health: health service of the process.
        add_accounts: adds the services of usage and administration to a server. They need the
            ledger, which stands on the scheduler's side.
        batches: the batch lane, which stands on the scheduler's side.
        shares_port: other fronts of the same gateway listen on the same port.
    """

    port: SchedulerPort
    upstreams: Upstreams
    load: LoopLoad
    observing: Telemetry
    watches: Watches
    health: HealthService
    add_accounts: Callable[[grpc.aio.Server], None]
    batches: BatchPort
    shares_port: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFront:
    """A front that accepts calls. `address`: host:port with the bound port. `http`, `console`:
    None if there is no such port."""

    address: str
    active: ActiveConfiguration
    parts: FrontParts
    server: grpc.aio.Server
    health: HealthService
    watches: Watches
    deliveries: Deliveries
    certificates: Certificates | None
    http: HttpPort | None
    console: ConsolePort | None

    @property
    def http_address(self) -> str | None:
        """Address of the HTTP doors; None: there are none."""
        return None if self.http is None else self.http.address

    @property
    def console_address(self) -> str | None:
        """Address of the console; None: there is none."""
        return None if self.console is None else self.console.address

    @property
    def active_requests(self) -> int:
        """Number of client requests in progress at this front."""
        return self.parts.pipeline.active_requests

    def apply(self, prepared: PreparedConfiguration, base_dir: Path) -> None:
        """Puts another configuration into force. Raises ConfigError for TLS files that cannot be
        used, and then changes nothing."""
        tls = prepared.config.server.tls
        if self.certificates is not None and tls is not None:
            self.certificates.reload(tls, base_dir)
        self.active.replace(prepared, self.parts.pipeline)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. Setting `hurry` skips the remaining waits."""
        server = self.active.config.server
        self.health.begin_drain()
        for port in (self.http, self.console):
            if port is not None:
                port.listener.begin_drain()
        await _unless(hurry, asyncio.sleep(max(server.drain_delay_s, TELL_S)))
        await _unless(hurry, self.stop())
        await self.server.stop(0)

    async def stop(self) -> None:
        """Takes no more calls, ends watches and exports, and waits up to `drain_s` for generations
        and for requests over HTTP, of which some still send their body."""
        clock, drain_s = asyncio.get_running_loop().time, self.active.config.server.drain_s
        until_s = clock() + drain_s
        # The listener closes at once.
        stopping = asyncio.create_task(self.server.stop(drain_s))
        self.watches.end()
        for port in (self.http, self.console):
            if port is not None:
                port.listener.close()
        try:
            # Without RPCs the gRPC server has stopped at once: it tells nothing of HTTP.
            while clock() < until_s:
                if not self._is_busy:
                    break
                await asyncio.sleep(DRAIN_POLL_S)
            # A stream that its client left unread has ended here, but not for gRPC.
            await asyncio.wait({stopping}, timeout=REST_S)
            await self.server.stop(0)
        finally:
            stopping.cancel()

    @property
    def _is_busy(self) -> bool:
        requests = 0 if self.http is None else self.http.listener.requests
        generations = self.deliveries.open_streams or self.active_requests
        return bool(requests or generations)


@contextlib.asynccontextmanager
async def running_front(
    active: ActiveConfiguration,
    prepared: PreparedConfiguration,
    base_dir: Path,
    around: FrontSurroundings,
) -> AsyncIterator[RunningFront]:
    """Runs a front on the current event loop. Leaving the context stops it. Raises ConfigError or
    OSError."""
    config, observing, watches = prepared.config, around.observing, around.watches
    clock = asyncio.get_running_loop().time
    certificates = None if config.server.tls is None else Certificates(config.server.tls, base_dir)
    parts = assemble_front(
        prepared,
        around.port,
        around.upstreams,
        clock=clock,
        load=around.load,
        observe=observing.observe_at(around.port),
    )
    try:
        deliveries = Deliveries(lambda: _unread_limits(active.config), clock)
        in_progress = CallsInProgress(lambda: active.config.limits, observing.rpc_refused)
        tenant_calls = TenantCalls(
            around.port,
            lambda: active.config.limits,
            observing.rpc_refused,
            lambda: [tenant.name for tenant in active.effective.tenants],
        )
        key_limits = KeyLimits(around.port, clock, observing.rpc_refused)
        interceptors: list[grpc.aio.ServerInterceptor] = [
            KeyCheck(active, key_limits, in_progress, tenant_calls),
            OpenRpcs(lambda: active.config.limits, in_progress),
        ]
        if observing.is_on:
            observer = RpcObserver(observing.tracer, clock, observing.rpc_ended)
            interceptors.insert(0, observer)
        server = grpc_server(server_options(config, shares_port=around.shares_port), interceptors)
        inference = InferenceService(active, parts.pipeline, around.port, deliveries)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        around.add_accounts(server)
        batches = BatchService(active, around.batches, watches)
        batch_pb2_grpc.add_BatchServiceServicer_to_server(batches, server)
        health_pb2_grpc.add_HealthServicer_to_server(around.health, server)
        if config.server.reflection:
            reflecting = ReflectionService(watches, config.server.blocked_write_s)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)
        http_parts = HttpParts(
            active=active,
            pipeline=parts.pipeline,
            port=around.port,
            deliveries=deliveries,
            watches=watches,
            key_limits=key_limits,
            in_progress=in_progress,
            tenant_calls=tenant_calls,
            telemetry=observing,
            certificates=certificates,
            clock=clock,
            batches=around.batches,
            shares_port=around.shares_port,
        )
        console_parts = ConsoleParts(
            active=active,
            server=server,
            in_progress=in_progress,
            certificates=certificates,
            clock=clock,
            shares_port=around.shares_port,
        )
        async with (
            http_port(http_parts, (ANTHROPIC, openai_dialect())) as http,
            console_port(console_parts) as console,
        ):
            address = bind(server, config.server.listen, certificates)
            await server.start()
            tasks = (
                asyncio.create_task(follow(certificates), name="moegate-certificates"),
                asyncio.create_task(deliveries.run(), name="moegate-deliveries"),
            )
            front = RunningFront(
                address=address,
                active=active,
                parts=parts,
                server=server,
                health=around.health,
                watches=watches,
                deliveries=deliveries,
                certificates=certificates,
                http=http,
                console=console,
            )
            try:
                yield front
            finally:
                around.health.begin_drain()
                await front.stop()
                for task in tasks:
                    task.cancel()
    finally:
        await parts.close()


def _unread_limits(config: GatewayConfig) -> UnreadLimits:
    return UnreadLimits(
        blocked_write_s=config.server.blocked_write_s,
        stream_bytes=config.limits.unread_stream_bytes,
        tenant_bytes=config.limits.unread_tenant_bytes,
        total_bytes=config.limits.unread_bytes,
    )


async def _unless(hurry: asyncio.Event | None, wait: Awaitable[object]) -> None:
    """Awaits `wait`, or cancels it once `hurry` is set."""
    waiting = asyncio.ensure_future(wait)
    hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
    await asyncio.wait((waiting, hurried), return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, hurried):
        task.cancel()
    await asyncio.gather(waiting, hurried, return_exceptions=True)
