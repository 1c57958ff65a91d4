"""Weighted fairness between tenants: a virtual counter of service each, in nano-dollars.

Every tenant's counter grows by the service it gets over its weight; the waiting tenant with the
least counter goes next. A tenant that returns from idle is lifted to the least counter of those
that wait, so that it has no claim on the time it was away (VTC, arXiv 2401.00588). The service of
two tenants that both wait then differs by what one dispatch and one batch can hold, not by how much
either asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_TENANTS = 4096
"""Counters kept; beyond it those who do not wait are forgotten, least service first."""


class ServiceCounters:
    """Service over weight of each tenant of one model."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._floor = 0.0
        """Of the tenant that was served last: where a newcomer starts when none waits."""

    def __len__(self) -> int:
        return len(self._served)

    def served(self, tenant: str) -> float:
        """Service over weight so far, nano-USD."""
        return self._served.get(tenant, self._floor)

    def charge(self, tenant: str, weight: float, nano_usd: float) -> None:
        """Counts service; negative: what was counted too much."""
        self._served[tenant] = self.served(tenant) + nano_usd / weight

    def tenant_returned(self, tenant: str, waiting: Iterable[str]) -> None:
        """The tenant begins to wait; `waiting`: those who do already."""
        least = min((self.served(other) for other in waiting), default=self._floor)
        self._served[tenant] = max(self.served(tenant), least)
        if len(self._served) > MOST_TENANTS:
            keep = set(waiting) | {tenant}
            idle = sorted((t for t in self._served if t not in keep), key=self.served)
            for other in idle[: len(idle) // 2]:
                del self._served[other]

    def tenant_started(self, tenant: str) -> None:
        """The tenant's request goes to a placement."""
        self._floor = max(self._floor, self.served(tenant))
