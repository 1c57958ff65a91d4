"""The own replicas of a pool, connected to placements: those that are listed, at the start, and
those that DNS finds, as they come and go."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from gateway.fleet.kv_events import KvEventsListener, Publisher
from gateway.fleet.probes import Probed, Prober
from gateway.fleet.rank_names import rank_names
from gateway.fleet.remotes import AnyBackend
from gateway.upstream.openai.http import OpenAIHttpBackend
from scheduler.snapshot import SchedulerSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnReplicas:
    """Connects replicas of one pool. `backends` and `targets` are those of the runtime."""

    upstream_model: str
    backend: Callable[..., OpenAIHttpBackend]
    """Makes the backend of a `base_url`."""
    pinned_ranks: int
    """Data-parallel ranks of a replica that are placements of their own; 0: it is one placement."""
    backends: dict[str, AnyBackend]
    targets: dict[str, tuple[str, str]]

    def connect(self, place: str, url: str) -> Probed:
        """Requests that start at the place go to this address from now on."""
        engine = self.backend(base_url=url)
        names = rank_names(place, self.pinned_ranks)
        for name in names:
            self.backends[name] = engine
            self.targets[name] = (url, self.upstream_model)
        return Probed(
            replica=place, placements=names, upstream_model=self.upstream_model, engine=engine
        )

    def disconnect(self, place: str) -> None:
        """The place has no address any more."""
        for name in rank_names(place, self.pinned_ranks):
            del self.targets[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundReplicas:
    """Performs what `Discovery` finds."""

    own: OwnReplicas
    prober: Prober
    listener: KvEventsListener
    publisher: Callable[[str, str], Publisher | None]
    """Where the replica of a placement and URL publishes KV events, if it does."""
    placement_is_idle: Callable[[str], bool]
    """Whether the scheduler counts nothing at a placement."""

    def appear(self, place: str, url: str) -> None:
        """Probes it, and so brings it into service."""
        if (publisher := self.publisher(place, url)) is not None:
            self.listener.watch(publisher)
        self.prober.watch(self.own.connect(place, url))

    async def vanish(self, place: str, reason: str) -> None:
        """Running streams keep the backend that they began with."""
        self.own.disconnect(place)
        self.listener.forget(place)
        await self.prober.forget(place, reason)

    def is_idle(self, place: str) -> bool:
        """Whether the scheduler counts nothing there."""
        names = rank_names(place, self.own.pinned_ranks)
        return all(self.placement_is_idle(name) for name in names)


def occupied(snapshot: SchedulerSnapshot, targets: Container[str]) -> SchedulerSnapshot:
    """The same without placements that have no address and run nothing: free places."""
    placements = tuple(p for p in snapshot.placements if p.name in targets or p.running_requests)
    if len(placements) == len(snapshot.placements):
        return snapshot
    pools = tuple(
        replace(pool, groups=len({p.group for p in placements if p.pool == pool.pool}))
        for pool in snapshot.pools
    )
    return replace(snapshot, placements=placements, pools=pools)
