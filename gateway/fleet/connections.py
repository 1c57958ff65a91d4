"""The clients of all placements. A client is kept while its connection settings stay equal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from gateway.config.engines import EnginesConfig
from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig, TimeoutsConfig
from gateway.config.remote import Feature
from gateway.config.resolve.secrets import resolve
from gateway.domain.generation import Generation
from gateway.fleet.adapters import adapter_names
from gateway.fleet.placement_names import placement_names
from gateway.fleet.placements import pinned_ranks
from gateway.fleet.remotes import (
    RemoteClient,
    RemoteConnection,
    extra_body,
    remote_client,
    remote_connection,
)
from gateway.upstream.features import task_of
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.signatures import newest_origin
from gateway.upstream.vllm.client import VllmClient

_TASK_FIELDS = ("input",)
"""Field that a placement with another task than the request's cannot honour."""
Client = VllmClient | RemoteClient
"""The client of a placement."""
Addresses = Callable[[PoolConfig], Iterable[tuple[str, str]]]
"""Name and address of each replica of a pool that has an address now."""


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
    engines: EnginesConfig | None
    api_key: str | None
    extra_body_json: str | None
    timeouts: TimeoutsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClients:
    """Clients of the engines behind the proxy of a disaggregated replica."""

    prefill: tuple[VllmClient, ...]
    decode: tuple[VllmClient, ...]


def engines_of(pool: PoolConfig, replica: str) -> EnginesConfig | None:
    """The engines behind a replica's proxy; None: it has none."""
    engines = {f"{pool.name}/{each.name}": each.engines for each in pool.replicas}
    return engines.get(replica)


def _of_engine(connection: _ServerConnection, url: str) -> _ServerConnection:
    return replace(connection, url=url, engines=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedReplica:
    """A self-hosted replica with its client. `placements`: itself, or its pinned ranks in order."""

    name: str
    placements: tuple[str, ...]
    url: str
    upstream_model: str
    client: VllmClient
    engines: EngineClients | None
    """Of a disaggregated replica behind a proxy."""
    pool: PoolConfig
    api_key: str | None = field(repr=False)


class Connections:
    """The clients of the placements. Implements `gateway.pipeline.upstreams.Upstreams`.

    The scheduler's side and every front have their own. Nothing is connected before a request.
    """

    def __init__(
        self,
        *,
        session: HttpSession,
        pace: Pace,
        on_refused: Callable[[str, str], None],
        on_silent: Callable[[str], None],
        on_adapter_missing: Callable[[str], None],
    ) -> None:
        """Must be made inside a running event loop. `on_refused`: told that a placement refused a
        connection, and why. `on_silent`: told that a placement brought no token in time.
        `on_adapter_missing`: told that it does not have an adapter that it had."""
        self._session = session
        self._pace = pace
        self._on_refused = on_refused
        self._on_silent = on_silent
        self._on_adapter_missing = on_adapter_missing
        self._servers: dict[str, tuple[_ServerConnection, VllmClient]] = {}
        self._pools_by_model: dict[str, list[tuple[PoolConfig, tuple[str, ...]]]] = {}
        """Pools, and placements of each replica, by model."""
        self._remotes: dict[str, tuple[RemoteConnection, RemoteClient]] = {}
        self._remotes_by_model: dict[str, list[tuple[RemoteConfig, RemoteClient]]] = {}
        self._clients: dict[str, Client] = {}
        self._targets: dict[str, tuple[str, str]] = {}
        self._retired: dict[asyncio.Task[None], RemoteClient] = {}

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
    def remotes(self) -> Iterable[str]:
        """Names of the remotes."""
        return self._remotes.keys()

    @property
    def cannot_continue(self) -> frozenset[str]:
        """Remotes that cannot continue the answer of another server."""
        remotes = self._remotes.items()
        return frozenset(n for n, (_, c) in remotes if Feature.CONTINUATION not in c.features)

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Fields of the request that a placement cannot honour, by placement of its model.

        Self-hosted servers honour every field of the requests that are their task.
        """
        found: dict[str, tuple[str, ...]] = {}
        task = task_of(generation)
        for pool, placements in self._pools_by_model.get(generation.model, ()):
            if task not in pool.tasks:
                found |= dict.fromkeys(placements, _TASK_FIELDS)
        for config, client in self._remotes_by_model.get(generation.model, ()):
            fields = client.unsupported_fields(generation)
            if task not in config.tasks:
                fields = (*fields, *_TASK_FIELDS)
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
        """A placement refused a connection."""
        self._on_refused(placement, reason)

    def notify_silent(self, placement: str) -> None:
        """A placement brought no token in time."""
        self._on_silent(placement)

    def notify_adapter_missing(self, placement: str) -> None:
        """A placement does not have an adapter that it had."""
        self._on_adapter_missing(placement)

    def connect(self, settings: FleetSettings, addresses: Addresses) -> list[ConnectedReplica]:
        """Makes these the connections, and returns the replicas; what stays the same keeps its
        client."""
        self._targets.clear()
        replicas = list(self._connect_servers(settings, addresses))
        self._connect_remotes(settings)
        return replicas

    async def close(self) -> None:
        """Frees what the clients hold, and ends their streams."""
        retired = dict(self._retired)
        for task in retired:
            task.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        for client in (*retired.values(), *(client for _, client in self._remotes.values())):
            await client.close()

    def _connect_servers(
        self, settings: FleetSettings, addresses: Addresses
    ) -> Iterator[ConnectedReplica]:
        before, self._servers = self._servers, {}
        self._pools_by_model = {}
        for pool, api_key in settings.pools:
            for name, url in addresses(pool):
                connection = _ServerConnection(
                    url=url,
                    model=pool.model,
                    upstream_model=pool.upstream_model or pool.model,
                    adapters=None if pool.adapters is None else adapter_names(pool),
                    engines=engines_of(pool, name),
                    api_key=api_key,
                    extra_body_json=pool.extra_body_json,
                    timeouts=pool.timeouts,
                )
                known = before.get(name)
                if known is None or known[0] != connection:
                    known = connection, self._server(connection)
                self._servers[name] = known
                placements = placement_names(name, pinned_ranks(pool))
                for model in (pool.model, *adapter_names(pool)):
                    self._pools_by_model.setdefault(model, []).append((pool, placements))
                self._clients.update(dict.fromkeys(placements, known[1]))
                target = url, connection.upstream_model
                self._targets.update(dict.fromkeys(placements, target))
                yield ConnectedReplica(
                    name=name,
                    placements=placements,
                    url=url,
                    upstream_model=connection.upstream_model,
                    client=known[1],
                    engines=self._engines(connection),
                    pool=pool,
                    api_key=api_key,
                )

    def _connect_remotes(self, settings: FleetSettings) -> None:
        before, self._remotes = self._remotes, {}
        self._remotes_by_model = {}
        for remote, connection in settings.remotes:
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

    def _server(self, connection: _ServerConnection) -> VllmClient:
        return VllmClient(
            session=self._session,
            base_url=connection.url,
            upstream_model=connection.upstream_model,
            model=None if connection.adapters is None else connection.model,
            adapters=connection.adapters,
            control_url=None if connection.engines is None else connection.engines.decode[0],
            api_key=connection.api_key,
            timeouts=connection.timeouts,
            pace=self._pace,
            extra=extra_body(connection.extra_body_json),
        )

    def _engines(self, connection: _ServerConnection) -> EngineClients | None:
        """Clients that only read metrics; they hold nothing."""
        engines = connection.engines
        if engines is None:
            return None
        return EngineClients(
            prefill=tuple(self._server(_of_engine(connection, url)) for url in engines.prefill),
            decode=tuple(self._server(_of_engine(connection, url)) for url in engines.decode),
        )

    def _close_when_idle(self, client: RemoteClient) -> None:
        closing = asyncio.get_running_loop().create_task(
            client.close_when_idle(), name="moegate-closing-remote"
        )
        self._retired[closing] = client
        closing.add_done_callback(self._retired.pop)
