"""Follows the addresses of a pool's replicas in DNS.

The pool has `max_replicas` numbered places, which are placements of the scheduler from the start;
one without an address is out of service. An address takes a place, its replica is probed and comes
into service like any other. When it is gone from DNS, the place takes no new requests, and is free
for another address once its last stream has ended. So nothing is rebuilt and no stream is cut.

What DNS does not say changes nothing: a failed look-up keeps the last answer, and an empty answer
counts only when the next one is empty too, because a resolver that has just started may know
nothing yet. Replicas that are really gone refuse connections and leave service by that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.config.discovery import DiscoveryConfig
from gateway.fleet.dns_lookup import Answer, LookupFailed, url_of

log = logging.getLogger(__name__)


class Places(Protocol):
    """What is done with the places. Names are those of placements."""

    def appear(self, place: str, url: str) -> None:
        """A replica is there: watch it."""

    async def vanish(self, place: str, reason: str) -> None:
        """It is gone: no new requests."""

    def is_idle(self, place: str) -> bool:
        """Whether nothing runs there any more."""


@dataclass(slots=True)
class Assignment:
    """Which address has which place. `assign` only decides; the caller performs."""

    places: Sequence[str]
    current: dict[str, str] = field(default_factory=dict)
    """Address by place."""
    _last: dict[str, str] = field(default_factory=dict)

    def leaving(self, addresses: Sequence[str]) -> dict[str, str]:
        """Takes the places of addresses that are gone; returns those by place."""
        gone = {p: a for p, a in self.current.items() if a not in addresses}
        for place in gone:
            del self.current[place]
        return gone

    def coming(
        self, addresses: Sequence[str], is_idle: Callable[[str], bool]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Gives new addresses places: those by place, and the addresses that found none.

        An address that comes back gets its old place, even while its streams there go on.
        """
        given: dict[str, str] = {}
        without: list[str] = []
        taken = set(self.current.values())
        for address in addresses:
            if address in taken:
                continue
            free = [place for place in self.places if place not in self.current]
            own = [place for place in free if self._last.get(place) == address]
            place = next(iter([*own, *(p for p in free if is_idle(p))]), None)
            if place is None:
                without.append(address)
                continue
            self.current[place] = self._last[place] = given[place] = address
        return given, tuple(without)

    def adopt(self, old: Assignment) -> None:
        """Takes over what another one of the same places has given."""
        self.current, self._last = dict(old.current), dict(old._last)


class Discovery:
    """Follows one pool. `run` must be running."""

    def __init__(
        self,
        settings: DiscoveryConfig,
        pool: str,
        lookup: Callable[[], Awaitable[Answer]],
        places: Places,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self._lookup = lookup
        self._places = places
        self._assignment = Assignment(place_names(pool, settings))
        self._was_empty = False
        self._trouble = ""

    @property
    def addresses(self) -> Mapping[str, str]:
        """Address by place, now."""
        return self._assignment.current

    def adopt(self, old: Discovery) -> None:
        """Begins with what another one has found, without a look-up."""
        if old.settings != self.settings or old.pool != self.pool:
            return
        self._assignment.adopt(old._assignment)
        for place, address in self.addresses.items():
            self._places.appear(place, url_of(address, self.settings.port))

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            wait_s = await self.look()
            await asyncio.sleep(wait_s)

    async def look(self) -> float:
        """Looks once, and performs what changed. Returns when to look again, seconds."""
        low, high = self.settings.min_refresh_s, self.settings.max_refresh_s
        try:
            answer = await self._lookup()
        except LookupFailed as error:
            self._say(f"look-up of {self.settings.dns} failed, the last answer holds: {error}")
            return low
        if not answer.addresses and not self._was_empty:
            self._was_empty = True
            return low
        self._was_empty = not answer.addresses
        for place, address in self._assignment.leaving(answer.addresses).items():
            log.info("%s: %s is gone from %s", place, address, self.settings.dns)
            await self._places.vanish(place, f"{address} is gone from {self.settings.dns}")
        given, without = self._assignment.coming(answer.addresses, self._places.is_idle)
        for place, address in given.items():
            log.info("%s: is %s now, from %s", place, address, self.settings.dns)
            self._places.appear(place, url_of(address, self.settings.port))
        if without:
            self._say(
                f"no place for {', '.join(without)}: raise discover.max_replicas, "
                f"{self.settings.max_replicas}, unless other replicas are about to end"
            )
            return low
        self._say("" if answer.addresses else f"{self.settings.dns} has no address")
        return high if answer.ttl_s is None else min(high, max(low, answer.ttl_s))

    def _say(self, trouble: str) -> None:
        """Logs a trouble once, and its end."""
        if trouble and trouble != self._trouble:
            log.warning("pool %s: %s", self.pool, trouble)
        elif self._trouble and not trouble:
            log.info("pool %s: DNS answers again", self.pool)
        self._trouble = trouble


def place_names(pool: str, settings: DiscoveryConfig) -> tuple[str, ...]:
    """Placements of a pool whose replicas are found in DNS."""
    return tuple(f"{pool}/{number}" for number in range(settings.max_replicas))
