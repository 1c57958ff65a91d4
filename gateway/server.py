"""Gateway process: startup, serving, reload and graceful shutdown.

SIGHUP reloads the configuration file. SIGTERM and SIGINT start a drain: health becomes NOT_SERVING,
load balancers have `drain_delay_s` seconds to notice it, new calls are then rejected, running
streams have `drain_s` seconds to finish, and upstream connections close. A second signal skips the
remaining waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ConfigError, ReloadRefused
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.unread_memory import UnreadLimits
from gateway.delivery.watches import Watches
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.certificates import Certificates, follow
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.grpc.admin_service import AdminService
from gateway.doors.grpc.inference_service import InferenceService
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.health import HealthService, ReflectionService, health_port
from gateway.doors.grpc.listening.key_check import KeyCheck
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import bind, server_options
from gateway.doors.grpc.listening.rpc_observer import RpcObserver
from gateway.doors.grpc.usage_service import UsageService
from gateway.doors.http.port import HttpParts, HttpPort, http_port
from gateway.doors.openai.dialect import OPENAI
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import GatewayParts, assemble
from gateway.runtime.configuration import prepare
from gateway.runtime.file_access import certificate_problems
from gateway.runtime.memory import return_large_blocks
from gateway.runtime.startup import startable
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.metering import Metering
from gateway.scheduling.settings import metering_state
from gateway.telemetry.logs import to_stderr
from gateway.telemetry.observer import Telemetry, metrics_page, telemetry
from gateway.telemetry.sources import GatewayFigures
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from moegate.v1 import admin_pb2_grpc, inference_pb2_grpc, usage_pb2_grpc
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)

_AT_ONCE = frozenset(
    {
        *("tls", "drain_delay_s", "drain_s", "blocked_write_s", "probe_interval_s"),
        *("cors_origins", "ping_s"),
    }
)
"""Fields of `server` that a reload puts into force."""
TELL_S = 0.05
"""Shortest time between NOT_SERVING and the end of the health watches."""
DRAIN_POLL_S = 0.05
REST_S = 2.0
"""Seconds for the other RPCs after the last generation of a drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that accepts calls. Addresses are host:port with the bound port."""

    address: str
    active: ActiveConfiguration
    parts: GatewayParts
    accounting: Accounting
    server: grpc.aio.Server
    health: HealthService
    watches: Watches
    deliveries: Deliveries
    health_address: str | None
    http: HttpPort | None
    certificates: Certificates | None
    telemetry: Telemetry
    metrics_address: str | None
    path: Path | None
    """The configuration file; None: the gateway was not started from one."""
    reload_lock: asyncio.Lock
    """One reload at a time, whoever asks for it."""

    @property
    def scheduler(self) -> InProcessScheduler:
        """The scheduler."""
        return self.parts.scheduler

    @property
    def pipeline(self) -> Pipeline:
        """The request pipeline."""
        return self.parts.pipeline

    async def reload(self, config: GatewayConfig, base_dir: Path) -> list[str]:
        """Applies a validated configuration. Returns the names of the sections that changed.

        Raises ConfigError or ReloadRefused, and then changes nothing.
        """
        async with self.reload_lock:
            return await self._reload(config, base_dir)

    async def reload_file(self) -> list[str]:
        """Reads the configuration file again, and puts it into force. Raises as `reload`, and
        OSError."""
        if self.path is None:
            raise ReloadRefused("this gateway was not started from a file")
        config = await asyncio.to_thread(load, self.path)
        return await self.reload(config, self.path.parent)

    async def _reload(self, config: GatewayConfig, base_dir: Path) -> list[str]:
        old_config = self.active.config
        old, new = old_config.server, config.server
        if (old.tls is None) != (new.tls is None):
            raise ReloadRefused("server.tls: turning TLS on or off needs a restart")
        prepared = prepare(config, base_dir)
        # Dates prevent a start, but no reload: a key has to be revocable at any time.
        for _, found in certificate_problems(config, base_dir, time.time()):
            log.warning("%s", found)
        if self.certificates is not None and new.tls is not None:
            self.certificates.reload(new.tls, base_dir)
        for name in new.__struct_fields__:
            if name not in _AT_ONCE and getattr(old, name) != getattr(new, name):
                log.warning("server.%s: takes effect at the next start", name)
        if old_config.ledger != config.ledger:
            log.warning("ledger: takes effect at the next start")
        return await self.active.apply(prepared)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. Setting `hurry` skips the remaining waits."""
        server = self.active.config.server
        self.health.begin_drain()
        if self.http is not None:
            self.http.listener.begin_drain()
        await _unless(hurry, asyncio.sleep(max(server.drain_delay_s, TELL_S)))
        await _unless(hurry, self.stop())
        await self.server.stop(0)

    async def stop(self) -> None:
        """Takes no more calls, ends watches and exports, and waits up to `drain_s` for
        generations."""
        # The listener closes at once.
        stopping = asyncio.create_task(self.server.stop(self.active.config.server.drain_s))
        self.watches.end()
        if self.http is not None:
            self.http.listener.close()
        try:
            while self._generates and not stopping.done():
                await asyncio.wait({stopping}, timeout=DRAIN_POLL_S)
            # A stream that its client left unread has ended here, but not for gRPC.
            await asyncio.wait({stopping}, timeout=REST_S)
            await self.server.stop(0)
        finally:
            stopping.cancel()

    @property
    def _generates(self) -> bool:
        return bool(self.deliveries.open_streams or self.pipeline.active_requests)


async def serve(path: Path, log_level: str) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigError or OSError if it cannot start."""
    config = load(path)
    return_large_blocks()
    with to_stderr(config.telemetry.log_format, log_level):
        await _serve(config, path)


async def _serve(config: GatewayConfig, path: Path) -> None:
    stop, hurry, reload_requested = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    loop.add_signal_handler(signal.SIGHUP, reload_requested.set)
    async with running_gateway(config, path.parent, path=path) as gateway:
        # Freezes the loaded objects: a full collection that scanned them would stall every stream
        # for 30 ms. Spans kept until export make such collections more frequent.
        gc.collect()
        gc.freeze()
        print(f"moegate listens on {gateway.address}", flush=True)
        if gateway.http is not None:
            print(f"moegate speaks HTTP on {gateway.http.address}", flush=True)
        reloading = asyncio.create_task(_reload_on(reload_requested, gateway))
        await stop.wait()
        reloading.cancel()
        log.info(
            "draining: %d requests in flight; new calls are taken for %g s more, streams have %g s;"
            " a second signal ends the waiting",
            gateway.pipeline.active_requests,
            config.server.drain_delay_s,
            config.server.drain_s,
        )
        await gateway.drain(hurry)
        log.info("stopped")


@contextlib.asynccontextmanager
async def running_gateway(
    config: GatewayConfig, base_dir: Path, *, path: Path | None = None, sinks: tuple[Sink, ...] = ()
) -> AsyncIterator[RunningGateway]:
    """Runs a gateway on the current event loop. Leaving the context drains and stops it.

    `path`: configuration file for reloads; None: reloads are refused. `sinks`: callbacks that
    receive every settled attempt. Raises ConfigError.
    """
    clock = asyncio.get_running_loop().time
    watches = Watches()
    servicer = HealthService(watches, config.server.blocked_write_s)

    async def update_health() -> None:
        servicer.publish(parts.scheduler.fleet.serves)

    async def reload_file() -> list[str]:
        return await gateway.reload_file()

    source = "the configuration" if path is None else str(path)
    prepared, warnings = startable(config, base_dir, source, time.time())
    for warning in warnings:
        log.warning("%s", warning)
    loop_load = LoopLoad(clock, time.process_time, config.server.longest_hold_s)
    async with (
        upstream_session() as upstream,
        telemetry(config.telemetry, clock) as observing,
        health_port(servicer, config, observing.rpc_refused) as health_address,
        open_accounting(config, base_dir) as accounting,
    ):
        certificates = (
            None if config.server.tls is None else Certificates(config.server.tls, base_dir)
        )
        metering = Metering(clock, time.time_ns, metering_state(config, base_dir))
        parts = assemble(
            prepared,
            upstream=upstream,
            clock=clock,
            load=loop_load,
            metering=metering,
            budgets=accounting.budgets,
            observe=lambda request, generation: observing.observe(
                request, generation, lambda: parts.scheduler.fleet
            ),
            on_change=update_health,
            sinks=(accounting.record_attempt, *sinks),
        )
        active = ActiveConfiguration(prepared, parts, accounting)
        deliveries = Deliveries(lambda: _unread_limits(active.config), clock)
        try:
            await update_health()
            in_progress = CallsInProgress(lambda: active.config.limits, observing.rpc_refused)
            key_limits = KeyLimits(parts.scheduler, clock, observing.rpc_refused)
            interceptors: list[grpc.aio.ServerInterceptor] = [
                KeyCheck(active, key_limits, in_progress),
                OpenRpcs(lambda: active.config.limits, in_progress),
            ]
            if observing.is_on:
                observer = RpcObserver(observing.tracer, clock, observing.rpc_ended)
                interceptors.insert(0, observer)
            server = grpc_server(server_options(config), interceptors)
            reflecting = ReflectionService(watches, config.server.blocked_write_s)
            inference = InferenceService(active, parts.pipeline, parts.scheduler, deliveries)
            usage = UsageService(active, parts.scheduler, accounting, watches)
            admin = AdminService(active, parts.scheduler, accounting, reload_file)
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
            usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, server)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            if config.server.reflection:
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)
            address = bind(server, config.server.listen, certificates)
            await server.start()
            figures = GatewayFigures(
                port=parts.scheduler,
                accounting=accounting,
                load=loop_load,
                active_requests=lambda: parts.pipeline.active_requests,
            )
            http_parts = HttpParts(
                active=active,
                pipeline=parts.pipeline,
                port=parts.scheduler,
                deliveries=deliveries,
                watches=watches,
                key_limits=key_limits,
                in_progress=in_progress,
                telemetry=observing,
                certificates=certificates,
                clock=clock,
            )
            async with (
                metrics_page(config.telemetry, observing, figures) as metrics_address,
                http_port(http_parts, (OPENAI,)) as http,
            ):
                gateway = RunningGateway(
                    address=address,
                    active=active,
                    parts=parts,
                    accounting=accounting,
                    server=server,
                    health=servicer,
                    watches=watches,
                    deliveries=deliveries,
                    health_address=health_address,
                    http=http,
                    certificates=certificates,
                    telemetry=observing,
                    metrics_address=metrics_address,
                    path=path,
                    reload_lock=asyncio.Lock(),
                )
                tasks = (
                    asyncio.create_task(follow(certificates), name="moegate-certificates"),
                    asyncio.create_task(metering.run(), name="moegate-meter"),
                    asyncio.create_task(deliveries.run(), name="moegate-deliveries"),
                )
                try:
                    yield gateway
                finally:
                    servicer.begin_drain()
                    await gateway.stop()
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


async def _reload_on(reload_requested: asyncio.Event, gateway: RunningGateway) -> None:
    """Reloads the file each time the event is set. An invalid file changes nothing."""
    while True:
        await reload_requested.wait()
        reload_requested.clear()
        try:
            await gateway.reload_file()
        except (ConfigError, ReloadRefused, OSError) as error:
            log.error("reload refused, the old configuration stays in force: %s", error)
        except Exception:  # the next signal must still be heard
            log.exception("reload failed inside the gateway")
        else:
            log.info("reloaded %s", gateway.path)


async def _unless(hurry: asyncio.Event | None, wait: Awaitable[object]) -> None:
    """Awaits `wait`, or cancels it once `hurry` is set."""
    waiting = asyncio.ensure_future(wait)
    hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
    await asyncio.wait((waiting, hurried), return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, hurried):
        task.cancel()
    await asyncio.gather(waiting, hurried, return_exceptions=True)
