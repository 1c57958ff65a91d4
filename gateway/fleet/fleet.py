"""The servers of the configuration: their clients, and what is observed of them.

`apply` compares the configuration (and what DNS has found) with what is connected, and changes only
the difference: what stays the same is not disturbed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import aiohttp

from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig, TimeoutsConfig
from gateway.config.remote import Feature
from gateway.config.resolve.secrets import resolve
from gateway.domain.generation import Generation
from gateway.fleet.adapters import adapter_names, adapter_rules
from gateway.fleet.discovery import Discoveries
from gateway.fleet.dns_lookup import DnsLookup
from gateway.fleet.kv_events import KvEventsListener, Publisher, publisher
from gateway.fleet.placement_names import placement_names
from gateway.fleet.placements import pinned_ranks, replica_names
from gateway.fleet.probes import Prober, WatchedReplica
from gateway.fleet.remotes import (
    RemoteClient,
    RemoteConnection,
    extra_body,
    remote_client,
    remote_connection,
)
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.signatures import newest_origin
from gateway.upstream.vllm.client import VllmClient
from scheduler.contract import Event, ServingChanged

Client = VllmClient | RemoteClient
"""The client of a placement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """What of the configuration the fleet needs, with its secrets and files read."""

    pools: tuple[tuple[PoolConfig, str | None], ...] = field(repr=False)
    """Each pool, and the key of its servers."""
    remotes: tuple[tuple[RemoteConfig, RemoteConnection], ...]
    probe_interval_s: float


def fleet_settings(config: GatewayConfig, base_dir: Path) -> FleetSettings:
    """Reads what the configuration names; `base_dir`: what files are relative to. Nothing is
    connected. Raises ConfigError."""
    return FleetSettings(
        pools=tuple((pool, resolve(pool.api_key, base_dir)) for pool in config.pools),
        remotes=tuple((remote, remote_connection(remote, base_dir)) for remote in config.remotes),
        probe_interval_s=config.server.probe_interval_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServerConnection:
    """How a self-hosted server is called. While it stays equal, the same client serves."""

    url: str
    model: str
    upstream_model: str
    adapters: Mapping[str, str] | None
    api_key: str | None
    extra_body_json: str | None
    timeouts: TimeoutsConfig


class Fleet:
    """Connects the servers, and observes them while `run` is running.

    `report` is called with events for the scheduler: `EngineReport`, `EngineSteps`,
    `ServingChanged` and `CacheEvents`. They may name a placement that a reload has removed.
    `is_idle`: whether nothing runs at a placement; `on_change` is awaited after a placement has
    entered or left service.
    """

    def __init__(
        self,
        settings: FleetSettings,
        *,
        session: aiohttp.ClientSession,
        pace: Pace,
        clock: Callable[[], float],
        report: Callable[[Event], None],
        is_idle: Callable[[str], bool],
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """Must be made inside a running event loop."""
        self._settings = settings
        self._session = session
        self._pace = pace
        self._report = report
        self._is_idle = is_idle
        self._on_change = on_change
        self._servers: dict[str, tuple[_ServerConnection, VllmClient]] = {}
        self._remotes: dict[str, tuple[RemoteConnection, RemoteClient]] = {}
        self._remotes_by_model: dict[str, list[tuple[RemoteConfig, RemoteClient]]] = {}
        self._clients: dict[str, Client] = {}
        self._targets: dict[str, tuple[str, str]] = {}
        self._retired: dict[asyncio.Task[None], RemoteClient] = {}
        self._prober = Prober(
            interval_s=settings.probe_interval_s, clock=clock, report=report, on_change=on_change
        )
        self._listener = KvEventsListener(report)
        self._discoveries = Discoveries(
            DnsLookup, is_idle=self._replica_is_idle, on_change=self._reconnect
        )
        self._connect()

    @property
    def clients(self) -> Mapping[str, Client]:
        """Client by placement; a view that follows. A placement that was removed keeps its last
        client, for a request that was about to start there."""
        return MappingProxyType(self._clients)

    @property
    def targets(self) -> Mapping[str, tuple[str, str]]:
        """Address and model of each placement that has an address; a view that follows."""
        return MappingProxyType(self._targets)

    @property
    def cannot_continue(self) -> frozenset[str]:
        """Remotes that cannot continue the answer of another server."""
        remotes = self._remotes.items()
        return frozenset(n for n, (_, c) in remotes if Feature.CONTINUATION not in c.features)

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Fields of the request that a placement cannot honour, by placement of its model.

        Self-hosted servers honour every field.
        """
        found: dict[str, tuple[str, ...]] = {}
        for config, client in self._remotes_by_model.get(generation.model, ()):
            fields = client.unsupported_fields(generation)
            most = config.max_output_tokens
            if most is not None and generation.max_output_tokens > most:
                fields = (*fields, "max_output_tokens")
            if fields:
                found[config.name] = fields
        return found

    def signed_by(self, generation: Generation) -> frozenset[str]:
        """Remotes of its model that made the newest reasoning signature in the history."""
        remotes = self._remotes_by_model.get(generation.model)
        if not remotes or not (origin := newest_origin(generation)):
            return frozenset()
        return frozenset(config.name for config, client in remotes if client.origin == origin)

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
            group.create_task(self._listener.run(), name="moegate-kv-events")
            group.create_task(self._discoveries.run(), name="moegate-discoveries")

    async def close(self) -> None:
        """Frees what the clients hold, and ends their streams; `run` has ended."""
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        for client in (*retired.values(), *(client for _, client in self._remotes.values())):
            await client.close()

    async def _reconnect(self, gone: Mapping[str, str]) -> None:
        """DNS names other servers now. `gone`: reasons by replica."""
        self._connect(gone)
        await self._on_change()

    def _connect(self, gone: Mapping[str, str] | None = None) -> None:
        """Makes the settings true, with what DNS has found; `gone`: why replicas leave."""
        pools = [pool for pool, _ in self._settings.pools]
        self._discoveries.apply({p.name: p.discover for p in pools if p.discover is not None})
        self._targets.clear()
        replicas, publishers = self._connect_servers()
        self._connect_remotes()
        self._prober.interval_s = self._settings.probe_interval_s
        self._prober.apply(replicas, self._remotes, gone)
        self._listener.apply(publishers)

    def _connect_servers(self) -> tuple[list[WatchedReplica], list[Publisher]]:
        before, self._servers = self._servers, {}
        replicas: list[WatchedReplica] = []
        publishers: list[Publisher] = []
        for pool, api_key in self._settings.pools:
            for name, url, kv_events_port in self._addresses(pool):
                connection = _ServerConnection(
                    url=url,
                    model=pool.model,
                    upstream_model=pool.upstream_model or pool.model,
                    adapters=None if pool.adapters is None else adapter_names(pool),
                    api_key=api_key,
                    extra_body_json=pool.extra_body_json,
                    timeouts=pool.timeouts,
                )
                known = before.get(name)
                if known is None or known[0] != connection:
                    known = connection, self._server(connection)
                self._servers[name] = known
                placements = placement_names(name, pinned_ranks(pool))
                self._clients.update(dict.fromkeys(placements, known[1]))
                target = url, connection.upstream_model
                self._targets.update(dict.fromkeys(placements, target))
                replicas.append(
                    WatchedReplica(
                        name=name,
                        placements=placements,
                        url=url,
                        upstream_model=connection.upstream_model,
                        engine=known[1],
                        adapters=adapter_rules(pool),
                        reads_feed=pool.engine_feed and api_key is not None,
                    )
                )
                if (found := publisher(pool, name, url, kv_events_port)) is not None:
                    publishers.append(found)
        return replicas, publishers

    def _connect_remotes(self) -> None:
        before, self._remotes = self._remotes, {}
        self._remotes_by_model = {}
        for remote, connection in self._settings.remotes:
            known = before.pop(remote.name, None)
            if known is None or known[0] != connection:
                if known is not None:
                    self._close_when_idle(known[1])
                known = connection, remote_client(connection, self._session, self._pace)
            self._remotes[remote.name] = known
            self._remotes_by_model.setdefault(remote.model, []).append((remote, known[1]))
            self._clients[remote.name] = known[1]
            self._targets[remote.name] = remote.url, connection.upstream_model
        for _, client in before.values():
            self._close_when_idle(client)

    def _addresses(self, pool: PoolConfig) -> Iterator[tuple[str, str, int | None]]:
        """Name, address and own port of KV events of each replica that is known now."""
        if pool.discover is not None:
            urls = self._discoveries.urls(pool.name)
            yield from ((place, url, None) for place, url in urls.items())
            return
        for replica in pool.replicas:
            yield f"{pool.name}/{replica.name}", replica.url, replica.kv_events_port

    def _server(self, connection: _ServerConnection) -> VllmClient:
        return VllmClient(
            session=self._session,
            base_url=connection.url,
            upstream_model=connection.upstream_model,
            model=None if connection.adapters is None else connection.model,
            adapters=connection.adapters,
            api_key=connection.api_key,
            timeouts=connection.timeouts,
            pace=self._pace,
            extra=extra_body(connection.extra_body_json),
        )

    def _close_when_idle(self, client: RemoteClient) -> None:
        closing = asyncio.get_running_loop().create_task(
            client.close_when_idle(), name="moegate-closing-remote"
        )
        self._retired[closing] = client
        closing.add_done_callback(self._retired.pop)

    def _replica_is_idle(self, replica: str) -> bool:
        for pool, _ in self._settings.pools:
            if replica in replica_names(pool):
                return all(map(self._is_idle, placement_names(replica, pinned_ranks(pool))))
        return True  # the pool is gone
