"""Follows the addresses of the replicas of pools in DNS or in Kubernetes.

A pool has `max_replicas` numbered places, which are placements of the scheduler from the start; a
place without an address is out of service. A new address gets a place, and its replica is probed
and enters service like any other. When an address is gone, its place takes no new requests
and is free for another address once its last stream has ended. So no stream is cut.

Only an answer changes anything: a failed look-up keeps the last answer. An empty answer of DNS
counts only when the next one is empty too, because a resolver that has just started may know
nothing yet.
Replicas that have really gone refuse connections and leave service by that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.config.discovery import DiscoveryConfig
from gateway.fleet.found import Answer, LookupFailed, url_of
from gateway.fleet.keyed_tasks import KeyedTasks

log = logging.getLogger(__name__)

Lookup = Callable[[], Awaitable[Answer]]
"""Looks up the servers of one pool, at once or as soon as they have changed. Raises
LookupFailed."""
OnChange = Callable[[Mapping[str, str]], Awaitable[None]]
"""Called when addresses have changed, with the reason for each place that lost its address."""


@dataclass(slots=True)
class Assignment:
    """Which address has which place."""

    places: Sequence[str]
    current: dict[str, str] = field(default_factory=dict)
    """Address by place."""
    _last: dict[str, str] = field(default_factory=dict)

    def leaving(self, addresses: Sequence[str]) -> dict[str, str]:
        """Frees the places of addresses that are gone; returns those addresses by place."""
        gone = {p: a for p, a in self.current.items() if a not in addresses}
        for place in gone:
            del self.current[place]
        return gone

    def coming(
        self, addresses: Sequence[str], is_idle: Callable[[str], bool]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Gives places to new addresses. Returns those by place, and the addresses without a place.

        An address that comes back gets its old place, even while its streams there go on.
        """
        given: dict[str, str] = {}
        without: list[str] = []
        taken = set(self.current.values())
        for address in addresses:
            if address in taken:
                continue
            free = [place for place in self.places if place not in self.current]
            old = [place for place in free if self._last.get(place) == address]
            place = next(iter([*old, *(p for p in free if is_idle(p))]), None)
            if place is None:
                without.append(address)
                continue
            self.current[place] = self._last[place] = given[place] = address
        return given, tuple(without)

    def adopt(self, old: Assignment) -> None:
        """Takes over the places of another assignment, as far as they exist here."""
        self.current = {p: a for p, a in old.current.items() if p in self.places}
        self._last = {p: a for p, a in old._last.items() if p in self.places}


class Discovery:
    """Follows one pool while `run` is running."""

    def __init__(
        self,
        settings: DiscoveryConfig,
        pool: str,
        lookup: Lookup,
        *,
        is_idle: Callable[[str], bool],
        on_change: OnChange,
    ) -> None:
        """`is_idle`: whether nothing runs at a place."""
        self.settings = settings
        self.pool = pool
        self._lookup = lookup
        self._is_idle = is_idle
        self._on_change = on_change
        self._assignment = Assignment(place_names(pool, settings))
        self._was_empty = False
        self._crowded: Answer | None = None
        """The last answer, if an address of it has no place."""
        self._trouble = ""

    @property
    def urls(self) -> dict[str, str]:
        """Address of the API by place, now."""
        port = self.settings.port
        return {place: url_of(found, port) for place, found in self._assignment.current.items()}

    def adopt(self, old: Discovery) -> None:
        """Begins with what another one has found, if it looks up the same servers."""
        if _looked_up(self.settings) == _looked_up(old.settings):
            self._assignment.adopt(old._assignment)

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            wait_s = await self.refresh()
            await asyncio.sleep(wait_s)

    async def refresh(self) -> float:
        """Looks up once, and reports what has changed. Returns the seconds to the next look-up."""
        low, high = self.settings.min_refresh_s, self.settings.max_refresh_s
        name = self.settings.source
        try:
            answer = await self._look_up()
        except LookupFailed as error:
            self._log_trouble(f"look-up of {name} failed, the last answer holds: {error}")
            return low
        if not answer.addresses and not self._was_empty and not answer.is_certain:
            self._was_empty = True
            return low
        self._was_empty = not answer.addresses
        gone = self._assignment.leaving(answer.addresses)
        given, without = self._assignment.coming(answer.addresses, self._is_idle)
        for place, address in gone.items():
            log.info("%s: %s is gone from %s", place, address, name)
        for place, address in given.items():
            log.info("%s: is %s now, from %s", place, address, name)
        if gone or given:
            await self._on_change({p: f"{a} is gone from {name}" for p, a in gone.items()})
        self._crowded = answer if without else None
        if without:
            self._log_trouble(
                f"no place for {', '.join(without)}: raise discover.max_replicas, "
                f"{self.settings.max_replicas}, unless other replicas are about to end"
            )
            return low
        self._log_trouble("" if answer.addresses else f"{name} has no address")
        return high if answer.ttl_s is None else min(high, max(low, answer.ttl_s))

    async def _look_up(self) -> Answer:
        """Raises LookupFailed. While an address has no place, a look-up that waits for a change is
        not waited for: a place may have become free."""
        if self._crowded is None:
            return await self._lookup()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await self._lookup()
        except TimeoutError:
            return self._crowded

    def _log_trouble(self, trouble: str) -> None:
        """Logs a trouble once, and its end."""
        if trouble and trouble != self._trouble:
            log.warning("pool %s: %s", self.pool, trouble)
        elif self._trouble and not trouble:
            log.info("pool %s: %s is answered again", self.pool, self.settings.source)
        self._trouble = trouble


class Discoveries:
    """Follows all pools that `apply` names, while `run` is running."""

    def __init__(
        self,
        lookup: Callable[[DiscoveryConfig], Lookup],
        *,
        is_idle: Callable[[str], bool],
        on_change: OnChange,
    ) -> None:
        """`lookup`: makes the look-up of a pool; the others: see `Discovery`."""
        self._lookup = lookup
        self._is_idle = is_idle
        self._on_change = on_change
        self._by_pool: dict[str, Discovery] = {}
        self._following: KeyedTasks[str, DiscoveryConfig] = KeyedTasks(
            "moegate-discovery", self._follow
        )

    def apply(self, pools: Mapping[str, DiscoveryConfig]) -> None:
        """Makes these the pools that are followed. What was found stays known where the same
        servers are looked up."""
        known, self._by_pool = self._by_pool, {}
        for pool, settings in pools.items():
            old = known.get(pool)
            if old is not None and old.settings == settings:
                self._by_pool[pool] = old
                continue
            new = self._by_pool[pool] = Discovery(
                settings,
                pool,
                self._lookup(settings),
                is_idle=self._is_idle,
                on_change=self._on_change,
            )
            if old is not None:
                new.adopt(old)
        self._following.apply(pools)

    def urls(self, pool: str) -> dict[str, str]:
        """Address of the API by place of a pool, now."""
        return self._by_pool[pool].urls

    async def run(self) -> None:
        """Follows until cancelled."""
        await self._following.run()

    async def _follow(self, pool: str, settings: DiscoveryConfig) -> None:
        del settings  # the discovery of the pool has them
        await self._by_pool[pool].run()


def _looked_up(settings: DiscoveryConfig) -> tuple[object, ...]:
    return settings.dns, settings.endpoint_slices, settings.port, settings.nameserver


def place_names(pool: str, settings: DiscoveryConfig) -> tuple[str, ...]:
    """Places of a pool whose replicas are found."""
    return tuple(f"{pool}/{number}" for number in range(settings.max_replicas))
