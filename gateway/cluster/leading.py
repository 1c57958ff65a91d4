"""What the leader of a cluster runs: the scheduler's side, its link, and the services that need the
ledger. It stands for one term, and stops deciding the moment that the term is over.

Nothing passes the link of a leader whose lease is over, in neither direction: `Connection.may_act`
is asked for every frame. What it writes to the ledger is fenced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec

from gateway.access.store import AccessStore, read_access, running_store
from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.ledger.postgres import Fence
from gateway.auth.run_time import AccessTable
from gateway.batch_lane import BatchLane
from gateway.cluster.address import accounts_address
from gateway.cluster.reload_audit import reload_audit_handlers
from gateway.cluster.reloads import reload_all
from gateway.config.server import ClusterConfig, TlsConfig
from gateway.delivery.watches import Watches
from gateway.doors.entry.certificates import Certificates, follow
from gateway.doors.grpc.accounts.services import add_account_services
from gateway.doors.grpc.listening.forwarded_accounts import CHANNEL_OPTIONS, ForwardedKeys
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.port import bind
from gateway.fronts.access_link import publish_access
from gateway.fronts.batch_link import batch_handlers
from gateway.fronts.bookings import LedgerBookings
from gateway.fronts.replica_count_link import replica_count_handlers
from gateway.fronts.scheduler_side import take_over_fleet
from gateway.leadership.lease_row import LeaderBefore
from gateway.link.front_record import FrontRecord
from gateway.link.host import SchedulerHost
from gateway.link.opening import ExpectedFronts, FrontListing, Opening
from gateway.link.own_front_copy import OwnFrontCopy
from gateway.link.wire.certificates import LinkCertificates
from gateway.link.wire.connection import Connection
from gateway.link.wire.resume import Resumed
from gateway.link.wire.tls_transport import LinkServer, bound
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import SchedulerParts, assemble_front, assemble_with_ledger
from gateway.runtime.configuration import PreparedConfiguration
from gateway.telemetry.observer import Telemetry
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.metering.settlement import Sink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSurroundings:
    """What the scheduler's side works with, whoever leads.

    Attributes:
        active: the configuration in force.
        path: the configuration file; None: there is none.
        pace: how busy the process is.
        gateway: name of this process, and of its front.
        record: what its front has.
        before: what is known of the leader before.
        sinks: callbacks that receive every settled attempt.
    """

    cluster: ClusterConfig
    gateway: str
    record: FrontRecord
    active: ActiveConfiguration
    base_dir: Path
    path: Path | None
    certificates: LinkCertificates
    upstream: HttpSession
    clock: Callable[[], float]
    pace: LoopLoad
    reload_file: Callable[[], Awaitable[list[str]]]
    observing: Telemetry
    before: Callable[[], LeaderBefore]
    sinks: tuple[Sink, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSide:
    """The scheduler's side in one term."""

    term: int
    parts: SchedulerParts
    lane: BatchLane
    batch_pipeline: Pipeline
    accounting: Accounting
    access: AccessStore
    host: SchedulerHost
    listing: FrontListing
    _may_act: Callable[[], bool]

    async def apply(self, prepared: PreparedConfiguration) -> None:
        """Puts another configuration into force, which `active` has already."""
        self.batch_pipeline.settings = prepared.pipeline
        await self.parts.apply(prepared)

    def connection(self, *, own: bool = False) -> Connection:
        """Makes the protocol of a new connection of a front. `own`: of the one of this process."""
        connection = self.host.connection(own=own)
        connection.may_act = self._may_act
        return connection

    async def connect_own(self, connection: Connection) -> None:
        """Connects the front of this process, without a network."""
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        for end in (here, there):
            end.setblocking(False)
        await loop.create_unix_connection(lambda: self.connection(own=True), sock=there)
        await loop.create_unix_connection(lambda: connection, sock=here)


@contextlib.asynccontextmanager
async def leader_side(
    term: int,
    may_act: Callable[[], bool],
    renew: Callable[[], None],
    around: LeaderSurroundings,
) -> AsyncIterator[LeaderSide]:
    """Runs the scheduler's side for one term. Leaving the context ends it: what it has not written
    is written if the term lasts. `may_act`: whether the term lasts. `renew`: has the lease renewed
    soon. Raises ConfigError or OSError."""
    cluster, active, clock = around.cluster, around.active, around.clock
    watches = Watches()
    async with contextlib.AsyncExitStack() as stack:
        # Fronts that find the new leader before it is ready wait at its port.
        listener = await bound(cluster.listen)
        stack.callback(listener.close)
        fence = Fence(cluster.name, term)
        accounting = await stack.enter_async_context(
            open_accounting(active.config, around.base_dir, fence=fence, adopt=True)
        )
        active.use_access(await read_access(accounting, active.config))
        parts, counts = assemble_with_ledger(
            active.prepared,
            accounting,
            upstream=around.upstream,
            clock=clock,
            pace=around.pace,
            meter_state=None,
            on_change=_nothing,
            allocation=around.observing.allocation,
            sinks=around.sinks,
        )
        stack.push_async_callback(parts.close)
        lane = BatchLane(accounting, active, parts.fleet, clock)
        # Items of batches run in this process, through a pipeline of their own.
        batch_front = assemble_front(
            active.prepared,
            parts.scheduler,
            parts.fleet.connections,
            clock=clock,
            load=around.pace,
            observe=around.observing.observe_at(parts.scheduler),
        )
        stack.push_async_callback(batch_front.close)
        before = around.before()

        async def opened(told: Resumed | None, complete: bool) -> None:
            await host.left.take()
            host.settle_keys(complete=complete)
            if told is not None:
                await take_over_fleet(parts.scheduler, told)
            assert opening is not None
            for front in host.left.ended:
                opening.account_for(front)
            known = opening.all_known.is_set() or (complete and before.complete)
            await accounting.budgets.adopted.end(complete=known)
            host.left.end()

        async def return_unaccounted(opening: Opening) -> None:
            await opening.over()
            await opening.all_known.wait()
            await accounting.budgets.adopted.return_unaccounted()

        async def publish(table: AccessTable) -> None:
            active.use_access(table)
            parts.scheduler.use_tenants(active.prepared.scheduling)
            # It joins again, and is welcomed with the table.
            await publish_access(table, host, lambda front, why: front.connection.close(why))

        opening = None
        if term > 1:
            opening = Opening(expected(before, around.gateway), opened, missed=before.missed)
            returning = asyncio.create_task(return_unaccounted(opening), name="moegate-adoption")
            stack.callback(returning.cancel)
        listing = FrontListing(before.names or (), renew)
        host = SchedulerHost(
            parts.scheduler,
            clock=clock,
            met=parts.fleet,
            setting=lambda: msgspec.msgpack.encode(active.access),
            handlers=lambda front: (
                batch_handlers(lane.desk)
                | replica_count_handlers(counts)
                | reload_audit_handlers(lambda: access)
            ),
            bookings=LedgerBookings(accounting),
            opening=opening,
            listing=listing,
            forgets_unfinished=before.gone,
            own_copy=OwnFrontCopy(around.record, around.gateway, term, clock),
            gone_term=term - 1 if before.gone else 0,
        )
        ticking = asyncio.create_task(host.run(), name="moegate-host")
        stack.callback(ticking.cancel)
        access = await stack.enter_async_context(
            running_store(accounting, active, around.path, publish)
        )
        side = LeaderSide(
            term=term,
            parts=parts,
            lane=lane,
            batch_pipeline=batch_front.pipeline,
            accounting=accounting,
            access=access,
            host=host,
            listing=listing,
            _may_act=may_act,
        )
        await stack.enter_async_context(_accounts_port(side, watches, around))
        server = LinkServer(listener, around.certificates, side.connection)
        stack.callback(host.close)
        stack.callback(server.close)
        await stack.enter_async_context(
            lane.running(
                batch_front.pipeline,
                parts.scheduler,
                opening=None if opening is None else opening.over,
            )
        )
        yield side


def expected(before: LeaderBefore, own: str) -> ExpectedFronts:
    """Returns the fronts that a leader waits for. `own`: its own, which may have been the witness
    of the leader before for a moment that the row knows nothing of."""
    if before.names is None:  # a leader of an earlier version counts its fronts
        return ExpectedFronts(count=before.fronts, names=frozenset({own}))
    return ExpectedFronts(names=before.names | {own})


@contextlib.asynccontextmanager
async def _accounts_port(
    side: LeaderSide, watches: Watches, around: LeaderSurroundings
) -> AsyncIterator[None]:
    """Serves usage and administration to the fronts of the cluster."""
    cluster, active = around.cluster, around.active
    tls = TlsConfig(cert=cluster.tls.cert, key=cluster.tls.key, client_ca=cluster.tls.ca)
    certificates = Certificates(tls, around.base_dir)
    server = grpc_server(CHANNEL_OPTIONS[:2], [ForwardedKeys(active)])

    async def reload_cluster() -> list[str]:
        return await reload_all(around.gateway, around.reload_file, side.host)

    add_account_services(
        *(server, active, side.parts.scheduler, side.accounting, side.access),
        *(watches, reload_cluster),
    )
    bind(server, accounts_address(cluster.listen), certificates, field="cluster.listen (+ 1)")
    await server.start()
    following = asyncio.create_task(follow(certificates), name="moegate-cluster-certificates")
    try:
        yield
    finally:
        following.cancel()
        watches.end()
        await server.stop(0)


def accounts_channel(around: LeaderSurroundings, address: str) -> grpc.aio.Channel:
    """Makes a channel to the services of a leader, of which `address` is that of the link. Raises
    OSError."""
    tls = around.cluster.tls
    ca, key, cert = ((around.base_dir / file).read_bytes() for file in (tls.ca, tls.key, tls.cert))
    return grpc.aio.secure_channel(
        accounts_address(address),
        grpc.ssl_channel_credentials(ca, key, cert),
        options=(
            *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.default_authority"),
            ("grpc.ssl_target_name_override", tls.member),
        ),
    )


async def _nothing() -> None:
    pass
