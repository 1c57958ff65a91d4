"""A gateway of several processes: the parent has the scheduler, the fronts have the doors.

The parent has fleet and ledger, too. It reads the configuration and tells the fronts. It serves
one metrics page and one health port for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.batch_lane import BatchLane
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ReloadRefused
from gateway.delivery.watches import Watches
from gateway.doors.entry.certificates import Certificates
from gateway.doors.grpc.accounts.admin_service import AdminService
from gateway.doors.grpc.accounts.usage_service import UsageService
from gateway.doors.grpc.listening.forwarded_accounts import (
    CHANNEL_OPTIONS,
    ForwardedKeys,
    accounts_target,
)
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.health import HealthService, health_port
from gateway.fronts.batch_link import batch_handlers
from gateway.fronts.listening import shared_port
from gateway.fronts.messages import APPLY, PREPARE, READY, FrontAddresses, FrontSetting
from gateway.fronts.metrics import AllFronts, fronts_page
from gateway.fronts.processes import FrontProcesses, front_command
from gateway.link.connection import CallFailed, Handler, LinkLost
from gateway.link.host import HostedFront, SchedulerHost
from gateway.link.messages import LinkError
from gateway.link.transport import listen
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration, changed_sections
from gateway.runtime.assembly import SchedulerParts, assemble_front, assemble_scheduler
from gateway.runtime.configuration import prepare
from gateway.runtime.reload import check_reload, warn_of_reload
from gateway.runtime.startup import startable
from gateway.scheduling.metering import Metering
from gateway.scheduling.settings import metering_state
from gateway.telemetry.observer import telemetry
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from moegate.v1 import admin_pb2_grpc, usage_pb2_grpc
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)

PREPARE_S = 60.0
"""Longest time for a front to read a configuration."""
START_S = 120.0
"""Longest time for all fronts to start."""


@dataclass(slots=True, kw_only=True)
class RunningFronts:
    """A gateway of several processes that accepts calls. Addresses are host:port."""

    address: str
    http_address: str | None
    health_address: str | None
    metrics_address: str | None
    active: ActiveConfiguration
    parts: SchedulerParts
    lane: BatchLane
    batch_pipeline: Pipeline
    accounting: Accounting
    host: SchedulerHost
    processes: FrontProcesses
    health: HealthService
    path: Path | None
    reload_lock: asyncio.Lock

    @property
    def active_requests(self) -> int:
        """Number of client requests in progress."""
        return self.parts.scheduler.active_requests

    async def reload_file(self) -> list[str]:
        """Reads the configuration file again, and puts it into force in all processes. Returns the
        names of the sections that changed. Raises ConfigError, ReloadRefused or OSError, and then
        changes nothing."""
        if self.path is None:
            raise ReloadRefused("this gateway was not started from a file")
        config = await asyncio.to_thread(load, self.path)
        async with self.reload_lock:
            return await self._reload(config, self.path.parent)

    async def _reload(self, config: GatewayConfig, base_dir: Path) -> list[str]:
        old = self.active.config
        check_reload(old, config)
        prepared = prepare(config, base_dir)
        if config.server.tls is not None:
            Certificates(config.server.tls, base_dir)  # raises for files that cannot be used
        told = self.host.fronts
        for front, problem in zip(
            told, await asyncio.gather(*(_prepare(each, config) for each in told)), strict=True
        ):
            if problem:
                raise ReloadRefused(f"front {front.number}: {problem}")
        warn_of_reload(old, config, base_dir)
        self.active.replace(prepared, self.batch_pipeline)
        for front in self.host.fronts:
            if front not in told:  # it has started meanwhile, with the old configuration
                front.connection.close("it has an old configuration")
        # The fronts first: they need clients for placements before requests start there.
        await asyncio.gather(*map(_apply, told))
        await self.parts.apply(prepared)
        return changed_sections(old, config)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. Setting `hurry` skips the remaining waits."""
        self.health.begin_drain()
        self.lane.begin_drain()
        server = self.active.config.server
        await self.processes.stop(hurry, server.drain_delay_s + server.drain_s)


async def _prepare(front: HostedFront, config: GatewayConfig) -> str:
    try:
        async with asyncio.timeout(PREPARE_S):
            answer: str = await front.connection.call(PREPARE, config, str)
    except LinkLost:
        return ""  # it starts again, with the configuration then in force
    except (CallFailed, LinkError, TimeoutError) as error:
        return f"it could not read the configuration: {error or type(error).__name__}"
    return answer


async def _apply(front: HostedFront) -> None:
    try:
        async with asyncio.timeout(PREPARE_S):
            await front.connection.call(APPLY, None, None)
    except (LinkLost, CallFailed, LinkError, TimeoutError) as error:
        # It must not go on with an old configuration, whose keys may be revoked.
        front.connection.close(f"it could not use the new configuration: {error}")


@contextlib.asynccontextmanager
async def running_fronts(
    config: GatewayConfig,
    base_dir: Path,
    count: int,
    *,
    path: Path | None = None,
    log_level: str = "INFO",
    sinks: tuple[Sink, ...] = (),
) -> AsyncIterator[RunningFronts]:
    """Runs a gateway of this process and `count` fronts. Leaving the context drains and stops it.

    `path`: configuration file for reloads; None: reloads are refused. `log_level`: of the fronts.
    `sinks`: callbacks that receive every settled attempt. Raises ConfigError or OSError.
    """
    clock = asyncio.get_running_loop().time
    watches = Watches()
    health = HealthService(watches, config.server.blocked_write_s)
    source = "the configuration" if path is None else str(path)
    prepared, warnings = startable(config, base_dir, source, time.time())
    for warning in warnings:
        log.warning("%s", warning)
    active = ActiveConfiguration(prepared)
    load_of_loop = LoopLoad(clock, time.process_time, 0.0)
    ready: dict[int, FrontAddresses] = {}

    async def update_health() -> None:
        if ready:
            health.publish(parts.scheduler.fleet.serves)

    async def reload_file() -> list[str]:
        return await gateway.reload_file()

    with contextlib.ExitStack() as ports:
        grpc_port = shared_port(config.server.listen, "server.listen")
        addresses = {"listen": ports.enter_context(grpc_port)}
        if config.server.http_listen is not None:
            addresses["http_listen"] = ports.enter_context(
                shared_port(config.server.http_listen, "server.http_listen")
            )
        folder = Path(ports.enter_context(tempfile.TemporaryDirectory(prefix="moegate-")))

        def setting() -> bytes:
            """The configuration in force, on the ports that were taken at the start."""
            now = active.config
            server = msgspec.structs.replace(now.server, **addresses)
            return msgspec.msgpack.encode(
                FrontSetting(
                    config=msgspec.structs.replace(now, server=server),
                    base_dir=str(base_dir),
                    accounts=str(folder / "accounts"),
                    log_level=log_level,
                )
            )

        def handlers(front: HostedFront) -> dict[str, Handler]:
            async def accepts(found: FrontAddresses) -> None:
                ready[front.number] = found
                processes.notify_ready(front.number)
                await update_health()

            return {READY: (FrontAddresses, accepts), **batch_handlers(lane.desk)}

        async with contextlib.AsyncExitStack() as stack:
            upstream = await stack.enter_async_context(upstream_session())
            observing = await stack.enter_async_context(telemetry(config.telemetry, clock))
            health_address = await stack.enter_async_context(
                health_port(health, config, observing.rpc_refused)
            )
            accounting = await stack.enter_async_context(open_accounting(config, base_dir))
            parts = assemble_scheduler(
                prepared,
                upstream=upstream,
                clock=clock,
                pace=load_of_loop,
                metering=Metering(
                    clock,
                    time.time_ns,
                    metering_state(config, base_dir),
                    accounting.pool_accounts.checkpoint,
                ),
                pool_accounts=accounting.pool_accounts,
                budgets=accounting.budgets,
                reads=accounting.reads,
                on_change=update_health,
                sinks=(accounting.record_attempt, *sinks),
            )
            stack.push_async_callback(parts.close)
            lane = BatchLane(accounting, active, clock)
            # Items of batches run in this process: one runner, whatever fronts come and go.
            batch_front = assemble_front(
                prepared,
                parts.scheduler,
                parts.fleet.connections,
                clock=clock,
                load=load_of_loop,
                observe=lambda request, generation: observing.observe(
                    request, generation, lambda: parts.scheduler.fleet
                ),
            )
            stack.push_async_callback(batch_front.close)
            host = SchedulerHost(
                parts.scheduler,
                clock=clock,
                met=parts.fleet,
                setting=setting,
                handlers=handlers,
            )
            accounts = grpc_server(CHANNEL_OPTIONS[:2], [ForwardedKeys(active)])
            usage = UsageService(active, parts.scheduler, accounting, watches)
            admin = AdminService(active, parts.scheduler, accounting, reload_file)
            usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, accounts)
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, accounts)
            accounts.add_insecure_port(accounts_target(folder / "accounts"))
            await accounts.start()
            stack.push_async_callback(accounts.stop, 0)
            stack.callback(watches.end)
            server = await listen(folder / "link", host.connection)
            stack.callback(host.close)
            stack.callback(server.close)
            processes = FrontProcesses(count, front_command(folder / "link"))
            await stack.enter_async_context(_kept(processes))
            await stack.enter_async_context(lane.running(batch_front.pipeline, parts.scheduler))
            metrics_address = await stack.enter_async_context(
                fronts_page(
                    config.telemetry,
                    observing,
                    AllFronts(host, load_of_loop),
                    accounting,
                    lane.load,
                )
            )
            gateway = RunningFronts(
                address=ready[1].address,
                http_address=ready[1].http_address,
                health_address=health_address,
                metrics_address=metrics_address,
                active=active,
                parts=parts,
                lane=lane,
                batch_pipeline=batch_front.pipeline,
                accounting=accounting,
                host=host,
                processes=processes,
                health=health,
                path=path,
                reload_lock=asyncio.Lock(),
            )
            try:
                yield gateway
            finally:
                await gateway.drain()


@contextlib.asynccontextmanager
async def _kept(processes: FrontProcesses) -> AsyncIterator[None]:
    """Keeps the processes running while the context is open; begins when all accept calls."""
    keeping = asyncio.create_task(processes.run(), name="moegate-fronts")
    starting = asyncio.create_task(processes.until_ready())
    try:
        await asyncio.wait(
            {keeping, starting}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED
        )
        if keeping.done():
            raise _first_fault(keeping.exception())
        if not starting.done():
            raise OSError(f"the fronts do not accept calls after {START_S:g} s")
        yield
    finally:
        starting.cancel()
        processes.kill()
        await asyncio.gather(starting, keeping, return_exceptions=True)


def _first_fault(error: BaseException | None) -> OSError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, OSError) else OSError(f"the fronts cannot run: {error}")
