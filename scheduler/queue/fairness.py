"""Weighted fairness between tenants: a virtual service counter for each, in nano-dollars.

A tenant's counter grows by its service divided by its weight; the waiting tenant with the lowest
counter goes next. The counter of a tenant that returns from idle is raised to the lowest counter of
the waiting tenants, so that idle time earns nothing (VTC, arXiv 2401.00588). The service of two
tenants that both wait then differs by at most one start and one batch, however much each asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_TENANTS = 4096
"""Bound of the counters; beyond it, those of tenants that do not wait are dropped, lowest first."""


class ServiceCounters:
    """Service over weight of each tenant of one model."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._floor = 0.0
        """Counter of the tenant that was served last; a new tenant starts there if none waits."""

    def __len__(self) -> int:
        return len(self._served)

    def served(self, tenant: str) -> float:
        """Service over weight so far, nano-USD."""
        return self._served.get(tenant, self._floor)

    def charge(self, tenant: str, weight: float, nano_usd: float) -> None:
        """Adds service; a negative amount corrects an estimate."""
        self._served[tenant] = self.served(tenant) + nano_usd / weight

    def tenant_returned(self, tenant: str, waiting: Iterable[str]) -> None:
        """A request of the tenant begins to wait; `waiting`: the tenants that already wait."""
        least = min((self.served(other) for other in waiting), default=self._floor)
        self._served[tenant] = max(self.served(tenant), least)
        if len(self._served) > MOST_TENANTS:
            keep = set(waiting) | {tenant}
            idle = sorted((t for t in self._served if t not in keep), key=self.served)
            for other in idle[: len(idle) // 2]:
                del self._served[other]

    def tenant_started(self, tenant: str) -> None:
        """A request of the tenant was started."""
        self._floor = max(self._floor, self.served(tenant))
