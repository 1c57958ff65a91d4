"""A process of a cluster: a front of the leader, and the leader itself in its terms."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from gateway.accounting.ledger.database import LedgerUnavailable, LedgerUnusable
from gateway.auth.run_time import AccessTable, newest
from gateway.cluster.address import link_address, process_name
from gateway.cluster.leading import LeaderSurroundings
from gateway.cluster.metrics import MemberMetrics, member_page
from gateway.cluster.reload_audit import RemoteAuditLog
from gateway.cluster.reloads import reload_handlers
from gateway.cluster.roles import Roles
from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import load
from gateway.config.problems import ConfigError, Problem, ReloadRefused
from gateway.config.resolve.secrets import resolve
from gateway.delivery.watches import Watches
from gateway.doors.grpc.listening.forwarded_accounts import add_forwarded_accounts
from gateway.doors.grpc.listening.health import HealthService, health_port
from gateway.doors.keda.external_scaler import scaler_port
from gateway.front import FrontSurroundings, RunningFront, running_front
from gateway.fronts.batch_link import RemoteBatches
from gateway.fronts.front_clients import FrontClients
from gateway.fronts.messages import ACCESS
from gateway.fronts.replica_count_link import RemoteReplicaCounts
from gateway.leadership.leadership import Leadership
from gateway.leadership.lease_row import LeaseRow
from gateway.link.joining import FAILURES, Joining
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.certificates import LinkCertificates
from gateway.link.wire.messages import WIRE_VERSION
from gateway.runtime.active_configuration import ActiveConfiguration, changed_sections
from gateway.runtime.reload import AuditLog, prepared_reload
from gateway.runtime.startup import prepare_start
from gateway.telemetry.observer import telemetry
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.fleet_view import FleetView
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)

START_S = 60.0
"""Longest time for a member to join a leader at its start."""
AGAIN_S = 0.1
"""Time after a failure before the next attempt at the start."""
WITHDRAW_S = 2.0
"""Longest time to give the lease back at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMember:
    """A gateway of a cluster that accepts calls. Addresses are host:port with the bound port."""

    front: RunningFront
    roles: Roles
    clients: FrontClients
    row: LeaseRow
    health_address: str | None
    metrics_address: str | None
    scaler_address: str | None
    path: Path | None
    reload_lock: asyncio.Lock
    audit: RemoteAuditLog

    @property
    def active(self) -> ActiveConfiguration:
        """The configuration in force."""
        return self.front.active

    @property
    def access(self) -> AuditLog:
        """The audit log, which the leader writes."""
        return self.audit if self.roles.side is None else self.roles.side.access

    async def reload_file(self) -> list[str]:
        """Reads the configuration file again, and puts it into force in this process. Returns the
        names of the sections that changed. Raises ConfigError, ReloadRefused or OSError, and then
        changes nothing."""
        if self.path is None:
            raise ReloadRefused("this gateway was not started from a file")
        config = await asyncio.to_thread(load, self.path)
        async with self.reload_lock:
            old, base_dir = self.active.config, self.path.parent
            prepared = await prepared_reload(self.active, config, base_dir)
            self.front.apply(prepared, base_dir)
            self.clients.apply(self.active.prepared)
            if self.roles.side is not None:
                await self.roles.side.apply(self.active.prepared)
            return changed_sections(old, config)

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully. It gives the leadership away first, so that the others need not wait
        for the streams of this front. Setting `hurry` skips the remaining waits."""
        self.front.health.begin_drain()
        with contextlib.suppress(LedgerUnavailable):
            if await self.row.members() > 1:
                await self.roles.hand_over()
        await self.front.drain(hurry)


@contextlib.asynccontextmanager
async def running_member(
    config: GatewayConfig, base_dir: Path, *, path: Path | None = None, sinks: tuple[Sink, ...] = ()
) -> AsyncIterator[RunningMember]:
    """Runs a gateway of a cluster on the current event loop. It begins when it has joined a leader.
    Leaving the context drains and stops it.

    `path`: configuration file for reloads; None: reloads are refused. `sinks`: callbacks that
    receive every settled attempt of its terms. Raises ConfigError or OSError.
    """
    cluster = config.cluster
    assert cluster is not None
    clock = asyncio.get_running_loop().time
    prepared = prepare_start(config, base_dir, path)
    active = ActiveConfiguration(prepared)
    load_of_loop = LoopLoad(clock, time.process_time, config.server.longest_hold_s)
    watches = Watches()
    health = HealthService(watches, config.server.blocked_write_s)
    front: RunningFront | None = None
    member: RunningMember | None = None
    name = process_name()

    def active_requests() -> int:
        return 0 if front is None else front.active_requests

    async def reload_file() -> list[str]:
        if member is None:
            raise ReloadRefused("this gateway starts")
        return await member.reload_file()

    def use_access(table: AccessTable) -> None:
        """The leader tells of other keys and tenants made at run time."""
        if table != active.access:
            active.use_access(table)
            if front is not None:
                clients.apply(active.prepared)

    def welcomed(setting: bytes) -> None:
        if setting:  # a leader of an older version tells nothing
            table = msgspec.msgpack.decode(setting, type=AccessTable)
            use_access(newest(table, active.access))

    def fleet_changed(view: FleetView) -> None:
        if front is not None:
            clients.connect()
            health.publish(view.serves)

    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_session())
        observing = await stack.enter_async_context(telemetry(config.telemetry, clock))
        health_address = await stack.enter_async_context(
            health_port(health, config, observing.rpc_refused)
        )
        scheduler = RemoteScheduler(
            clock=clock,
            on_fleet=fleet_changed,
            handlers={ACCESS: (AccessTable, use_access), **reload_handlers(name, reload_file)},
            incarnation=name,
        )
        around = LeaderSurroundings(
            cluster=cluster,
            gateway=name,
            record=scheduler.record,
            active=active,
            base_dir=base_dir,
            path=path,
            certificates=LinkCertificates(cluster.tls, base_dir),
            upstream=upstream,
            clock=clock,
            pace=load_of_loop,
            reload_file=reload_file,
            observing=observing,
            before=lambda: row.before,
            sinks=sinks,
        )
        metrics = MemberMetrics(load_of_loop, active_requests, lambda: roles.standing)
        roles = Roles(around, metrics)
        stack.push_async_callback(roles.close)
        row = await _campaign(stack, name, config, base_dir, roles)
        number = secrets.randbelow(2**31 - 1) + 1
        joining = Joining(scheduler, number, roles.locate, roles.connect, clock)
        welcomed(await _first_join(joining))
        stack.push_async_callback(scheduler.leave)
        _run(stack, joining.keep(welcomed), "moegate-joining")
        _run(stack, roles.follow(scheduler), "moegate-following")
        prepared = active.prepared
        clients = FrontClients(prepared, scheduler, upstream, load_of_loop)
        stack.push_async_callback(clients.connections.close)
        surroundings = FrontSurroundings(
            port=scheduler,
            upstreams=clients.connections,
            load=load_of_loop,
            observing=observing,
            watches=watches,
            health=health,
            add_accounts=lambda server: add_forwarded_accounts(
                server, roles.accounts, watches, config.server.blocked_write_s
            ),
            batches=RemoteBatches(scheduler.present),
        )
        front = await stack.enter_async_context(
            running_front(active, prepared, base_dir, surroundings)
        )
        fleet_changed(scheduler.fleet)
        metrics_address = await stack.enter_async_context(
            member_page(config.telemetry, observing, metrics)
        )
        scaler_address = await stack.enter_async_context(
            scaler_port(RemoteReplicaCounts(scheduler.present), config, observing.rpc_refused)
        )
        member = RunningMember(
            front=front,
            roles=roles,
            clients=clients,
            row=row,
            health_address=health_address,
            metrics_address=metrics_address,
            scaler_address=scaler_address,
            path=path,
            reload_lock=asyncio.Lock(),
            audit=RemoteAuditLog(name, scheduler.present),
        )
        yield member


async def _campaign(
    stack: contextlib.AsyncExitStack,
    name: str,
    config: GatewayConfig,
    base_dir: Path,
    roles: Roles,
) -> LeaseRow:
    """Follows and leads from now on, until the stack exits. Raises ConfigError or OSError."""
    cluster, dsn = config.cluster, resolve(config.ledger.postgres, base_dir)
    assert cluster is not None
    assert dsn is not None
    leadership = roles.leadership = Leadership(
        name=name,
        address=await link_address(cluster, dsn),
        wire_version=WIRE_VERSION,
        lease_s=cluster.lease_s,
        on_change=roles.notify_changed,
    )
    row = LeaseRow(
        *(dsn, cluster.name, name, cluster.lease_s),
        *(leadership.notify_changed, leadership.notify_too_short),
    )
    row.fronts = roles
    try:
        await row.prepare()
    except (LedgerUnavailable, LedgerUnusable) as error:
        problem = Problem(
            path="cluster", value=cluster.name, message=str(error), fix="see docs/deployment.md"
        )
        raise ConfigError("cluster", [problem]) from error
    stack.push_async_callback(row.close)
    _run(stack, leadership.run(row), "moegate-leadership")
    leading = _run(stack, roles.lead(), "moegate-leading")

    async def withdraw() -> None:
        await roles.hand_over()
        leading.cancel()
        leadership.withdraw()
        await leadership.withdrawn(WITHDRAW_S)

    stack.push_async_callback(withdraw)
    return row


async def _first_join(joining: Joining[Any]) -> bytes:
    """Joins a leader, and returns what it welcomes with. Raises OSError after `START_S`."""
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            return await joining.join()
        except FAILURES as error:
            if time.monotonic() >= give_up_s:
                raise OSError(
                    f"the leader cannot be joined: {error or type(error).__name__}"
                ) from None
            await asyncio.sleep(AGAIN_S)


def _run(
    stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str
) -> asyncio.Task[None]:
    """Runs a task until the stack exits."""
    task = asyncio.create_task(work, name=name)

    async def end() -> None:
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Exception):
            log.error("a task of the cluster failed", exc_info=result)

    stack.push_async_callback(end)
    return task
