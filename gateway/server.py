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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ConfigError, ReloadRefused
from gateway.doors.grpc.admin_service import AdminService
from gateway.doors.grpc.inference_service import InferenceService
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.health import (
    ADMIN,
    HEALTH,
    INFERENCE,
    USAGE,
    health_port,
    publish_health,
)
from gateway.doors.grpc.listening.key_check import KeyCheck
from gateway.doors.grpc.listening.key_limits import KeyLimits
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import Certificates, bind, follow, server_options
from gateway.doors.grpc.listening.rpc_observer import RpcObserver
from gateway.doors.grpc.listening.rpcs_in_progress import RpcsInProgress
from gateway.doors.grpc.usage_service import UsageService
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import GatewayParts, assemble
from gateway.runtime.configuration import prepare
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

_AT_ONCE = frozenset({"tls", "drain_delay_s", "drain_s", "probe_interval_s"})
"""Fields of `server` that a reload puts into force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that accepts calls. Addresses are host:port with the bound port."""

    address: str
    active: ActiveConfiguration
    parts: GatewayParts
    accounting: Accounting
    server: grpc.aio.Server
    health: health.aio.HealthServicer
    health_address: str | None
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
        await self.health.enter_graceful_shutdown()
        await _unless(hurry, asyncio.sleep(server.drain_delay_s))
        # The listener closes at once. `stop` returns when the streams have ended.
        await _unless(hurry, self.server.stop(server.drain_s))
        await self.server.stop(0)


async def serve(path: Path, log_level: str) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigError or OSError if it cannot start."""
    config = load(path)
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
    servicer = health.aio.HealthServicer()

    async def update_health() -> None:
        await publish_health(servicer, parts.scheduler.fleet.serves)

    async def reload_file() -> list[str]:
        return await gateway.reload_file()

    prepared = prepare(config, base_dir)
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
        try:
            await update_health()
            in_progress = RpcsInProgress(lambda: active.config.limits, observing.rpc_refused)
            interceptors: list[grpc.aio.ServerInterceptor] = [
                KeyCheck(active, KeyLimits(parts.scheduler), in_progress),
                OpenRpcs(lambda: active.config.limits, in_progress),
            ]
            if observing.is_on:
                observer = RpcObserver(observing.tracer, clock, observing.rpc_ended)
                interceptors.insert(0, observer)
            server = grpc_server(server_options(config), interceptors)
            _add_services(server, active, parts, accounting, servicer, reload_file)
            address = bind(server, config.server.listen, certificates)
            await server.start()
            figures = GatewayFigures(
                port=parts.scheduler,
                accounting=accounting,
                load=loop_load,
                active_requests=lambda: parts.pipeline.active_requests,
            )
            async with metrics_page(config.telemetry, observing, figures) as metrics_address:
                gateway = RunningGateway(
                    address=address,
                    active=active,
                    parts=parts,
                    accounting=accounting,
                    server=server,
                    health=servicer,
                    health_address=health_address,
                    certificates=certificates,
                    telemetry=observing,
                    metrics_address=metrics_address,
                    path=path,
                    reload_lock=asyncio.Lock(),
                )
                following = asyncio.create_task(follow(certificates), name="moegate-certificates")
                ticking = asyncio.create_task(metering.run(), name="moegate-meter")
                try:
                    yield gateway
                finally:
                    following.cancel()
                    ticking.cancel()
                    await servicer.enter_graceful_shutdown()
                    await server.stop(active.config.server.drain_s)
        finally:
            await parts.close()


def _add_services(
    server: grpc.aio.Server,
    active: ActiveConfiguration,
    parts: GatewayParts,
    accounting: Accounting,
    servicer: health.aio.HealthServicer,
    reload: Callable[[], Awaitable[list[str]]],
) -> None:
    port = parts.scheduler
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        InferenceService(active, parts.pipeline, port), server
    )
    usage_pb2_grpc.add_UsageServiceServicer_to_server(
        UsageService(active, port, accounting), server
    )
    admin_pb2_grpc.add_AdminServiceServicer_to_server(
        AdminService(active, port, accounting, reload), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if active.config.server.reflection:
        names = (INFERENCE, USAGE, ADMIN, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)


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
