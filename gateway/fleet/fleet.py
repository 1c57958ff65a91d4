"""The servers of the configuration: their clients, and what is observed of them.

`apply` compares the configuration (and what DNS has found) with what is connected, and changes only
the difference: what stays the same is not disturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

from gateway.config.discovery import DiscoveryConfig
from gateway.config.gateway import PoolConfig
from gateway.fleet.adapters import adapter_rules
from gateway.fleet.connections import ConnectedReplica, Connections, FleetSettings
from gateway.fleet.discovery import Discoveries, Lookup
from gateway.fleet.dns_lookup import DnsLookup
from gateway.fleet.endpoint_slices import EndpointSliceLookup
from gateway.fleet.engine_feed import Signatures
from gateway.fleet.kv_events import KvEventsListener, Publisher, publisher
from gateway.fleet.placement_names import placement_names
from gateway.fleet.placements import pinned_ranks, replica_names
from gateway.fleet.probes import Prober, WatchedReplica
from gateway.fleet.server_info import ControlAddress, ServerInfoWatch, control_address
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace
from scheduler.contract import Event, ServingChanged


class Fleet:
    """Connects the servers, and observes them while `run` is running.

    `report` is called with events for the scheduler: `EngineReport`, `EngineSteps`,
    `AdapterReport`, `ServingChanged` and `CacheEvents`. They may name a placement that a reload has
    removed. `is_idle`: whether nothing runs at a placement; `on_change` is awaited after a
    placement has entered or left service. `on_signatures`, which may be set, is called with the
    experts of finished requests.
    """

    def __init__(
        self,
        settings: FleetSettings,
        *,
        session: HttpSession,
        pace: Pace,
        clock: Callable[[], float],
        report: Callable[[Event], None],
        is_idle: Callable[[str], bool],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """Must be made inside a running event loop."""
        self._settings = settings
        self._report = report
        self._is_idle = is_idle
        self._on_change = on_change
        self.on_signatures: Callable[[Signatures], None] | None = None
        self.connections = Connections(
            session=session,
            pace=pace,
            on_refused=self.notify_refused,
            on_silent=self.notify_silent,
            on_adapter_missing=self.notify_adapter_missing,
        )
        """The clients of the servers: those that are probed, and in one process also those that
        requests use."""
        self._server_info = ServerInfoWatch()
        self._prober = Prober(
            interval_s=settings.probe_interval_s,
            clock=clock,
            report=report,
            report_signatures=self._report_signatures,
            on_change=on_change,
            server_info=self._server_info,
        )
        self._listener = KvEventsListener(report)
        self._discoveries = Discoveries(
            _lookup, is_idle=self._replica_is_idle, on_change=self._reconnect
        )
        self._connect()

    def notify_refused(self, placement: str, reason: str) -> None:
        """A placement refused a connection: it is out of service until a probe succeeds."""
        self._report(ServingChanged(placement=placement, serving=False, reason=reason))
        self._prober.notify_refused(placement)

    def notify_silent(self, placement: str) -> None:
        """A placement brought no token in time: it must show that it still generates."""
        self._prober.notify_silent(placement)

    def notify_adapter_missing(self, placement: str) -> None:
        """A placement has unloaded an adapter: its adapters are read anew."""
        self._prober.notify_adapter_missing(placement)

    async def apply(self, settings: FleetSettings) -> None:
        """Puts other settings into force, at any time; what stays the same is not disturbed."""
        self._settings = settings
        self._connect()
        await self._on_change()

    async def run(self) -> None:
        """Observes until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._prober.run(), name="moegate-prober")
            group.create_task(self._server_info.run(), name="moegate-server-infos")
            group.create_task(self._listener.run(), name="moegate-kv-events")
            group.create_task(self._discoveries.run(), name="moegate-discoveries")

    async def close(self) -> None:
        """Frees what the clients hold, and ends their streams; `run` has ended."""
        await self.connections.close()

    def _report_signatures(self, signatures: Signatures) -> None:
        if self.on_signatures is not None:
            self.on_signatures(signatures)

    async def _reconnect(self, gone: Mapping[str, str]) -> None:
        """There are other servers now. `gone`: reasons by replica."""
        self._connect(gone)
        await self._on_change()

    def _connect(self, gone: Mapping[str, str] | None = None) -> None:
        """Makes the settings true, with what DNS has found; `gone`: why replicas leave."""
        pools = [pool for pool, _ in self._settings.pools]
        self._discoveries.apply({p.name: p.discover for p in pools if p.discover is not None})
        replicas = self.connections.connect(self._settings, self._addresses)
        controls = {replica.name: _control(replica) for replica in replicas}
        self._server_info.apply({name: at for name, at in controls.items() if at is not None})
        self._prober.interval_s = self._settings.probe_interval_s
        self._prober.apply(map(_watched, replicas), self.connections.remotes, gone)
        self._listener.apply(filter(None, map(_publisher, replicas)))

    def _addresses(self, pool: PoolConfig) -> Iterator[tuple[str, str]]:
        """Name and address of each replica that is known now."""
        if pool.discover is not None:
            yield from self._discoveries.urls(pool.name).items()
            return
        for replica in pool.replicas:
            yield f"{pool.name}/{replica.name}", replica.url

    def _replica_is_idle(self, replica: str) -> bool:
        for pool, _ in self._settings.pools:
            if replica in replica_names(pool):
                return all(map(self._is_idle, placement_names(replica, pinned_ranks(pool))))
        return True  # the pool is gone


def _watched(replica: ConnectedReplica) -> WatchedReplica:
    return WatchedReplica(
        name=replica.name,
        placements=replica.placements,
        url=replica.url,
        upstream_model=replica.upstream_model,
        engine=replica.client,
        adapters=adapter_rules(replica.pool),
        task=replica.pool.task,
        # The feed of an engine that only decodes tells a part of each request.
        reads_feed=replica.pool.engine_feed
        and replica.api_key is not None
        and replica.engines is None,
        prefill=() if replica.engines is None else replica.engines.prefill,
        decode=() if replica.engines is None else replica.engines.decode,
    )


def _control(replica: ConnectedReplica) -> ControlAddress | None:
    """Where the replica tells what it is; None: its pool names no port."""
    pool = replica.pool
    ports = {f"{pool.name}/{each.name}": each.grpc_port for each in pool.replicas}
    return control_address(pool, replica.url, ports.get(replica.name))


def _publisher(replica: ConnectedReplica) -> Publisher | None:
    """The publisher of the replica's KV events; None: it has none."""
    pool = replica.pool
    ports = {f"{pool.name}/{each.name}": each.kv_events_port for each in pool.replicas}
    return publisher(pool, replica.name, replica.url, ports.get(replica.name))


def _lookup(settings: DiscoveryConfig) -> Lookup:
    """What looks up the servers of a pool."""
    if settings.endpoint_slices is not None:
        return EndpointSliceLookup(settings.endpoint_slices, settings)
    return DnsLookup(settings.dns or "", settings)
