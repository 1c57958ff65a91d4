"""The clients of a front that is joined to a scheduler elsewhere: of the scheduler, and of the
upstreams, whose addresses are those of the configuration or, from DNS, those that it tells."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.gateway import GatewayConfig, PoolConfig
from gateway.fleet.connections import Connections
from gateway.fleet.placement_names import placement_names
from gateway.fleet.placements import pinned_ranks, replica_names
from gateway.link.away import AwayLimits
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.runtime.configuration import PreparedConfiguration
from gateway.scheduling.settings import tenant_share
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace


class FrontClients:
    """The clients of one front."""

    def __init__(
        self,
        prepared: PreparedConfiguration,
        scheduler: RemoteScheduler,
        session: HttpSession,
        pace: Pace,
    ) -> None:
        """Must be made inside a running event loop."""
        self._prepared = prepared
        self._scheduler = scheduler
        scheduler.limits = away_limits(prepared.config)
        self.connections = Connections(
            session=session,
            pace=pace,
            on_refused=scheduler.notify_refused,
            on_silent=scheduler.notify_silent,
            on_adapter_missing=scheduler.notify_adapter_missing,
        )
        self.connect()

    def apply(self, prepared: PreparedConfiguration) -> None:
        """Puts another configuration into force."""
        self._prepared = prepared
        self._scheduler.limits = away_limits(prepared.effective)
        self.connect()

    def connect(self) -> None:
        """Makes clients for the addresses that are known now."""
        self.connections.connect(self._prepared.fleet, self._addresses)

    def _addresses(self, pool: PoolConfig) -> Iterator[tuple[str, str]]:
        if pool.discover is None:
            for replica in pool.replicas:
                yield f"{pool.name}/{replica.name}", replica.url
            return
        placements = self._scheduler.fleet.by_name
        for name in replica_names(pool):
            first, *_ = placement_names(name, pinned_ranks(pool))
            view = placements.get(first)
            if view is not None and view.address:
                yield name, view.address


def away_limits(config: GatewayConfig) -> AwayLimits:
    """Returns the bounds on what waits while there is no scheduler."""
    limits = config.limits
    return AwayLimits(
        requests=limits.queue_requests,
        tenant_share=tenant_share(config),
    )
