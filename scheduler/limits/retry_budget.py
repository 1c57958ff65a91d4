"""Budget of retries: a share of the requests, so that retries cannot multiply the load of a fleet
on which everything fails.

A retry that succeeds is given back, so that all requests of one dead replica can move.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

MOST_TENANTS = 4096
"""Bound of the tenants with a budget; the one without requests for longest is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """Size of a retry budget.

    `share`: retries per request in the long run. `reserve`: retries allowed at once beyond that
    share; the reserve refills at `reserve_per_s`. `most`: largest number of saved retries.
    """

    share: float = 0.2
    reserve: float = 64.0
    reserve_per_s: float = 1.0
    most: float = 1024.0


DEFAULT_RETRIES = RetryLimits()


class RetryBudget:
    """Counts the retries that are left. It starts with the reserve."""

    def __init__(self, limits: RetryLimits | None = None) -> None:
        self._limits = limits or RetryLimits()
        self._left = self._limits.reserve
        self._at_s: float | None = None

    def set_limits(self, limits: RetryLimits) -> None:
        """Applies changed limits. The retries left stay, up to the new bound."""
        self._limits = limits
        self._left = min(limits.most, self._left)

    def request(self) -> None:
        """Adds the share of one new request."""
        self._add(self._limits.share)

    def take(self, now: float) -> bool:
        """Takes one retry. Returns False if none is left."""
        limits = self._limits
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now - self._at_s)
        self._at_s = now
        if self._left < limits.reserve:
            self._left = min(limits.reserve, self._left + elapsed_s * limits.reserve_per_s)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def succeeded(self) -> None:
        """Gives back a retry that succeeded."""
        self._add(1.0)

    def _add(self, retries: float) -> None:
        self._left = min(self._limits.most, self._left + retries)


class SharedRetryBudget:
    """A retry budget of all tenants. What the requests of a tenant earn is its own; the reserve is
    for whoever comes first. So a tenant whose requests fail leaves others what they earned."""

    def __init__(self, limits: RetryLimits | None = None) -> None:
        self._limits = limits or RetryLimits()
        self._reserve = RetryBudget(self._limits)
        self._earned: OrderedDict[str, RetryBudget] = OrderedDict()

    def set_limits(self, limits: RetryLimits) -> None:
        """Applies changed limits. The retries left stay, up to the new bounds."""
        self._limits = limits
        self._reserve.set_limits(limits)
        for earned in self._earned.values():
            earned.set_limits(_without_reserve(limits))

    def request(self, tenant: str) -> None:
        """Adds the share of one new request."""
        self._of(tenant).request()

    def take(self, tenant: str, now: float) -> bool:
        """Takes one retry. Returns False if the tenant has none left, and the reserve neither."""
        return self._of(tenant).take(now) or self._reserve.take(now)

    def succeeded(self, tenant: str) -> None:
        """Gives back a retry that succeeded."""
        self._of(tenant).succeeded()

    def _of(self, tenant: str) -> RetryBudget:
        earned = self._earned.get(tenant)
        if earned is not None:
            self._earned.move_to_end(tenant)
            return earned
        if len(self._earned) >= MOST_TENANTS:
            self._earned.popitem(last=False)
        earned = self._earned[tenant] = RetryBudget(_without_reserve(self._limits))
        return earned


def _without_reserve(limits: RetryLimits) -> RetryLimits:
    return replace(limits, reserve=0.0, reserve_per_s=0.0)
