"""The scheduler's side of a gateway of several processes, which fronts join over sockets.

It has the scheduler, the fleet and the ledger. It tells the fronts the configuration, and serves
one metrics page and one health port for all. It may replace one that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.access.store import AccessStore, read_access, running_store
from gateway.accounting.accounting import Accounting, open_accounting
from gateway.auth.run_time import AccessTable
from gateway.batch_lane import BatchLane
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ReloadRefused
from gateway.delivery.watches import Watches
from gateway.doors.entry.certificates import Certificates
from gateway.doors.grpc.accounts.services import add_account_services
from gateway.doors.grpc.listening.forwarded_accounts import (
    CHANNEL_OPTIONS,
    ForwardedKeys,
    accounts_target,
)
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.health import HealthService, health_port
from gateway.doors.keda.external_scaler import scaler_port
from gateway.fronts.access_link import publish_access
from gateway.fronts.batch_link import batch_handlers
from gateway.fronts.bookings import LedgerBookings
from gateway.fronts.messages import APPLY, PREPARE, READY, FrontAddresses, FrontSetting
from gateway.fronts.metrics import AllFronts, fronts_page
from gateway.fronts.session_secret import with_session_secret
from gateway.link.host import SchedulerHost
from gateway.link.hosted_front import HostedFront
from gateway.link.opening import ExpectedFronts, Opening
from gateway.link.wire.connection import CallFailed, Handler, LinkLost, listen
from gateway.link.wire.messages import LinkError
from gateway.link.wire.resume import Resumed
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration, changed_sections
from gateway.runtime.assembly import SchedulerParts, assemble_front, assemble_with_ledger
from gateway.runtime.configuration import prepare
from gateway.runtime.reload import check_reload, warn_of_reload
from gateway.runtime.startup import prepare_start
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from gateway.scheduling.settings import metering_state
from gateway.telemetry.observer import telemetry
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.contract import ServingChanged
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)

PREPARE_S = 60.0
"""Longest time for a front to read a configuration."""
OLD = "it has an old configuration"


@dataclass(slots=True, kw_only=True)
class SchedulerSide:
    """A scheduler that fronts may join. Addresses are host:port. `sockets`: folder of the sockets
    that fronts use."""

    health_address: str | None
    scaler_address: str | None
    metrics_address: str | None
    active: ActiveConfiguration
    parts: SchedulerParts
    lane: BatchLane
    batch_pipeline: Pipeline
    accounting: Accounting
    access: AccessStore
    host: SchedulerHost
    health: HealthService
    path: Path | None
    sockets: Path
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
        config = with_session_secret(config, self.sockets)
        check_reload(old, config, self.active.access)
        prepared = await asyncio.to_thread(prepare, config, base_dir)
        if config.server.tls is not None:
            Certificates(config.server.tls, base_dir)  # raises for files that cannot be used
        told = self.host.fronts
        for front, problem in zip(
            told, await asyncio.gather(*(_prepare(each, config) for each in told)), strict=True
        ):
            if problem:
                raise ReloadRefused(f"front {front.number}: {problem}")
        warn_of_reload(old, config, base_dir)
        # Before any front uses it: another scheduler, and fronts that join, must find it.
        await asyncio.to_thread(keep_config, self.sockets, config)
        self.active.replace(prepared, self.batch_pipeline)
        for front in self.host.fronts:
            if front not in told:  # it has started meanwhile, with the old configuration
                self.host.dismiss(front, OLD)
        # The fronts first: they need clients for placements before requests start there.
        await asyncio.gather(*(_apply(front, self.host) for front in told))
        await self.parts.apply(self.active.prepared)
        return changed_sections(old, config)


async def _prepare(front: HostedFront, config: GatewayConfig) -> str:
    try:
        async with asyncio.timeout(PREPARE_S):
            answer: str = await front.connection.call(PREPARE, config, str)
    except LinkLost:
        return ""  # it starts again, with the configuration then in force
    except (CallFailed, LinkError, TimeoutError) as error:
        return f"it could not read the configuration: {error or type(error).__name__}"
    return answer


async def _apply(front: HostedFront, host: SchedulerHost) -> None:
    try:
        async with asyncio.timeout(PREPARE_S):
            await front.connection.call(APPLY, None, None)
    except LinkLost:
        pass  # it joins again, and finds the configuration in force
    except (CallFailed, LinkError, TimeoutError) as error:
        # It must not go on with an old configuration, whose keys may be revoked.
        host.dismiss(front, f"it could not use the new configuration: {error}")


@contextlib.asynccontextmanager
async def running_scheduler_side(
    config: GatewayConfig,
    base_dir: Path,
    sockets: Path,
    *,
    addresses: dict[str, str],
    path: Path | None = None,
    log_level: str = "INFO",
    fronts_before: int = 0,
    sinks: tuple[Sink, ...] = (),
) -> AsyncIterator[SchedulerSide]:
    """Runs the scheduler's side on the current event loop. Leaving the context stops it.

    `sockets`: folder for the sockets that fronts use. `addresses`: `listen` and `http_listen` with
    the ports that were taken. `path`: configuration file for reloads; None: reloads are refused.
    `log_level`: of the fronts. `fronts_before`: fronts of a scheduler that was killed, which this
    one replaces. `sinks`: callbacks that receive every settled attempt. Raises ConfigError or
    OSError.
    """
    clock = asyncio.get_running_loop().time
    watches = Watches()
    health = HealthService(watches, config.server.blocked_write_s)
    config = with_session_secret(config, sockets)
    prepared = prepare_start(config, base_dir, path)
    active = ActiveConfiguration(prepared)
    load_of_loop = LoopLoad(clock, time.process_time, 0.0)
    ready: set[int] = set()

    async def update_health() -> None:
        if ready:
            health.publish(parts.scheduler.fleet.serves)

    async def reload_file() -> list[str]:
        return await side.reload_file()

    def setting() -> bytes:
        """The configuration in force, on the ports that were taken at the start."""
        now = active.config
        server = msgspec.structs.replace(now.server, **addresses)
        return msgspec.msgpack.encode(
            FrontSetting(
                config=msgspec.structs.replace(now, server=server),
                base_dir=str(base_dir),
                accounts=str(sockets / "accounts"),
                log_level=log_level,
                access=active.access,
            )
        )

    async def publish(table: AccessTable) -> None:
        active.use_access(table)
        parts.scheduler.use_tenants(active.prepared.scheduling)
        await publish_access(table, host, lambda front, why: host.dismiss(front, why))

    def handlers(front: HostedFront) -> dict[str, Handler]:
        async def accepts(_: FrontAddresses) -> None:
            ready.add(front.number)
            await update_health()

        return {READY: (FrontAddresses, accepts), **batch_handlers(lane.desk)}

    async def opened(told: Resumed | None, complete: bool) -> None:
        """What an operator has drained stays drained, and what served is taken to serve, until
        probes say otherwise. Money that nobody holds is free again."""
        host.settle_keys(complete=complete)
        if told is not None:
            await take_over_fleet(parts.scheduler, told)
        await accounting.budgets.adopted.end(complete=complete)

    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_session())
        observing = await stack.enter_async_context(telemetry(config.telemetry, clock))
        health_address = await stack.enter_async_context(
            health_port(health, config, observing.rpc_refused)
        )
        accounting = await stack.enter_async_context(
            open_accounting(config, base_dir, adopt=fronts_before > 0)
        )
        active.use_access(await read_access(accounting, config))
        prepared = active.prepared
        parts, counts = assemble_with_ledger(
            prepared,
            accounting,
            upstream=upstream,
            clock=clock,
            pace=load_of_loop,
            meter_state=metering_state(config, base_dir),
            on_change=update_health,
            allocation=observing.allocation,
            sinks=sinks,
        )
        stack.push_async_callback(parts.close)
        lane = BatchLane(accounting, active, parts.fleet, clock)
        # Items of batches run in this process: one runner, whatever fronts come and go.
        batch_front = assemble_front(
            prepared,
            parts.scheduler,
            parts.fleet.connections,
            clock=clock,
            load=load_of_loop,
            observe=observing.observe_at(parts.scheduler),
        )
        stack.push_async_callback(batch_front.close)
        opening = Opening(ExpectedFronts(count=fronts_before), opened) if fronts_before else None
        host = SchedulerHost(
            parts.scheduler,
            clock=clock,
            met=parts.fleet,
            setting=setting,
            handlers=handlers,
            bookings=LedgerBookings(accounting),
            opening=opening,
        )
        ticking = asyncio.create_task(host.run(), name="moegate-host")
        stack.callback(ticking.cancel)
        access = await stack.enter_async_context(running_store(accounting, active, path, publish))
        accounts = grpc_server(CHANNEL_OPTIONS[:2], [ForwardedKeys(active)])
        add_account_services(
            accounts, active, parts.scheduler, accounting, access, watches, reload_file
        )
        for name in ("accounts", "link"):
            (sockets / name).unlink(missing_ok=True)
        accounts.add_insecure_port(accounts_target(sockets / "accounts"))
        await accounts.start()
        stack.push_async_callback(accounts.stop, 0)
        stack.callback(watches.end)
        await asyncio.to_thread(keep_config, sockets, config)
        server = await listen(sockets / "link", host.connection)
        stack.callback(host.close)
        stack.callback(server.close)
        await stack.enter_async_context(
            lane.running(
                batch_front.pipeline,
                parts.scheduler,
                opening=None if opening is None else opening.over,
            )
        )
        metrics_address = await stack.enter_async_context(
            fronts_page(
                config.telemetry,
                observing,
                AllFronts(host, load_of_loop),
                accounting,
                lane.load,
            )
        )
        scaler_address = await stack.enter_async_context(
            scaler_port(counts, config, observing.rpc_refused)
        )
        side = SchedulerSide(
            health_address=health_address,
            scaler_address=scaler_address,
            metrics_address=metrics_address,
            active=active,
            parts=parts,
            lane=lane,
            batch_pipeline=batch_front.pipeline,
            accounting=accounting,
            access=access,
            host=host,
            health=health,
            path=path,
            sockets=sockets,
            reload_lock=asyncio.Lock(),
        )
        yield side


async def take_over_fleet(scheduler: InProcessScheduler, told: Resumed) -> None:
    """Applies what a front has seen last of the fleet of an earlier scheduler."""
    for name in told.drained:
        await scheduler.drain(name)
    for name in told.serving:
        view = scheduler.fleet.by_name.get(name)
        if view is not None and not view.serving:
            event = ServingChanged(placement=name, serving=True, reason="served before")
            scheduler.report(event)


def keep_config(sockets: Path, config: GatewayConfig) -> None:
    """Keeps the configuration in force for a scheduler that is started after this one. Raises
    OSError."""
    new = sockets / "config.new"
    new.write_bytes(msgspec.msgpack.encode(config))
    new.replace(sockets / "config")


def kept_config(sockets: Path) -> GatewayConfig:
    """Returns the configuration that was in force last. Raises OSError."""
    return msgspec.msgpack.decode((sockets / "config").read_bytes(), type=GatewayConfig)
