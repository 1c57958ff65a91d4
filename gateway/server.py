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
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from gateway.access.store import AccessStore, read_access, running_store
from gateway.accounting.accounting import Accounting, open_accounting
from gateway.auth.run_time import AccessTable
from gateway.batch_lane import BatchLane
from gateway.cluster.member import RunningMember, running_member
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ConfigError, Problem, ReloadRefused
from gateway.delivery.deliveries import Deliveries
from gateway.delivery.watches import Watches
from gateway.doors.grpc.accounts.services import add_account_services
from gateway.doors.grpc.listening.health import HealthService, health_port
from gateway.doors.keda.external_scaler import scaler_port
from gateway.front import FrontSurroundings, RunningFront, running_front
from gateway.fronts.supervisor import serve_fronts
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration, changed_sections
from gateway.runtime.assembly import SchedulerParts, assemble_with_ledger
from gateway.runtime.memory import return_large_blocks
from gateway.runtime.reload import FILE_WATCH, SIGNAL, ReloadRequests, prepared_reload, reload_on
from gateway.runtime.startup import announce, prepare_start
from gateway.runtime.watched_files import watch_files
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.settings import metering_state
from gateway.telemetry.logs import to_stderr
from gateway.telemetry.observer import Telemetry, metrics_page, telemetry
from gateway.telemetry.sources import GatewayFigures
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that accepts calls, in one process. Addresses are host:port with the bound port."""

    front: RunningFront
    parts: SchedulerParts
    lane: BatchLane
    accounting: Accounting
    access: AccessStore
    health_address: str | None
    scaler_address: str | None
    telemetry: Telemetry
    metrics_address: str | None
    path: Path | None
    """The configuration file; None: the gateway was not started from one."""
    reload_lock: asyncio.Lock
    """One reload at a time, whoever asks for it."""

    @property
    def address(self) -> str:
        """Address of the gRPC door."""
        return self.front.address

    @property
    def active(self) -> ActiveConfiguration:
        """The configuration in force."""
        return self.front.active

    @property
    def server(self) -> grpc.aio.Server:
        """The gRPC server."""
        return self.front.server

    @property
    def watches(self) -> Watches:
        """Open watches and exports."""
        return self.front.watches

    @property
    def deliveries(self) -> Deliveries:
        """Streams on their way to clients."""
        return self.front.deliveries

    @property
    def scheduler(self) -> InProcessScheduler:
        """The scheduler."""
        return self.parts.scheduler

    @property
    def pipeline(self) -> Pipeline:
        """The request pipeline."""
        return self.front.parts.pipeline

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
        old = self.active.config
        prepared = await prepared_reload(self.active, config, base_dir)
        self.front.apply(prepared, base_dir)
        await self.parts.apply(self.active.prepared)
        return changed_sections(old, config)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. Setting `hurry` skips the remaining waits."""
        self.lane.begin_drain()
        await self.front.drain(hurry)

    async def stop(self) -> None:
        """Takes no more calls, and waits up to `drain_s` for generations."""
        await self.front.stop()


async def serve(path: Path, log_level: str, fronts: int = 0) -> None:
    """Serves until SIGTERM or SIGINT. `fronts`: number of front processes; 0: one process does it
    all. Raises ConfigError or OSError if it cannot start."""
    config = load(path)
    return_large_blocks()
    with to_stderr(config.telemetry.log_format, log_level):
        if fronts:
            if config.cluster is not None:
                raise ConfigError(str(path), [_one_front(fronts)])
            await serve_fronts(config, path, log_level, fronts)
        else:
            await _serve(config, path)


def _one_front(fronts: int) -> Problem:
    return Problem(
        path="cluster",
        value=f"--fronts {fronts}",
        message="each gateway of a cluster is one front",
        fix="run more gateways instead",
    )


async def _serve(config: GatewayConfig, path: Path) -> None:
    stop, hurry, reloads = asyncio.Event(), asyncio.Event(), ReloadRequests()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    loop.add_signal_handler(signal.SIGHUP, reloads.ask, SIGNAL)
    running: contextlib.AbstractAsyncContextManager[RunningGateway | RunningMember]
    if config.cluster is not None:
        running = running_member(config, path.parent, path=path)
    else:
        running = running_gateway(config, path.parent, path=path)
    async with running as gateway:
        # Freezes the loaded objects: a full collection that scanned them would stall every stream
        # for 30 ms. Spans kept until export make such collections more frequent.
        gc.collect()
        gc.freeze()
        front = gateway.front
        announce(front.address, http=front.http_address, console=front.console_address)
        reloading = asyncio.create_task(reload_on(reloads, gateway))
        watching = asyncio.create_task(
            watch_files(path, lambda: gateway.active.config, lambda: reloads.ask(FILE_WATCH))
        )
        await stop.wait()
        reloading.cancel()
        watching.cancel()
        log.info(
            "draining: %d requests in flight; new calls are taken for %g s more, streams have %g s;"
            " a second signal ends the waiting",
            front.active_requests,
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

    def add_accounts(server: grpc.aio.Server) -> None:
        add_account_services(
            server, active, parts.scheduler, accounting, access, watches, reload_file
        )

    async def publish(table: AccessTable) -> None:
        active.use_access(table)
        parts.scheduler.use_tenants(active.prepared.scheduling)

    prepared = prepare_start(config, base_dir, path)
    active = ActiveConfiguration(prepared)
    loop_load = LoopLoad(clock, time.process_time, config.server.longest_hold_s)
    async with (
        upstream_session() as upstream,
        telemetry(config.telemetry, clock) as observing,
        health_port(servicer, config, observing.rpc_refused) as health_address,
        open_accounting(config, base_dir) as accounting,
    ):
        active.use_access(await read_access(accounting, config))
        prepared = active.prepared
        parts, counts = assemble_with_ledger(
            prepared,
            accounting,
            upstream=upstream,
            clock=clock,
            pace=loop_load,
            meter_state=metering_state(config, base_dir),
            on_change=update_health,
            allocation=observing.allocation,
            sinks=sinks,
        )
        lane = BatchLane(accounting, active, parts.fleet, clock)
        try:
            await update_health()
            around = FrontSurroundings(
                port=parts.scheduler,
                upstreams=parts.fleet.connections,
                load=loop_load,
                observing=observing,
                watches=watches,
                health=servicer,
                add_accounts=add_accounts,
                batches=lane.desk,
            )
            async with (
                running_store(accounting, active, path, publish) as access,
                running_front(active, prepared, base_dir, around) as front,
                lane.running(front.parts.pipeline, parts.scheduler),
            ):
                figures = GatewayFigures(
                    port=parts.scheduler,
                    accounting=accounting,
                    load=loop_load,
                    active_requests=lambda: front.active_requests,
                    batches=lane.load,
                )
                async with (
                    metrics_page(config.telemetry, observing, figures) as metrics_address,
                    scaler_port(counts, config, observing.rpc_refused) as scaler_address,
                ):
                    gateway = RunningGateway(
                        front=front,
                        parts=parts,
                        lane=lane,
                        accounting=accounting,
                        access=access,
                        health_address=health_address,
                        scaler_address=scaler_address,
                        telemetry=observing,
                        metrics_address=metrics_address,
                        path=path,
                        reload_lock=asyncio.Lock(),
                    )
                    try:
                        yield gateway
                    finally:
                        servicer.begin_drain()
                        await front.stop()
        finally:
            await parts.close()
