"""Budget of retries: a share of the requests, so that retries cannot multiply the load of a fleet
on which everything fails.

A retry that succeeds is given back, so that all requests of one dead replica can move.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """`share`: retries per request in the long run; `reserve`: retries beyond that share at once,
    which come back at `reserve_per_s`; `most`: what is saved up at most."""

    share: float = 0.2
    reserve: float = 64.0
    reserve_per_s: float = 1.0
    most: float = 1024.0


DEFAULT_RETRIES = RetryLimits()


class RetryBudget:
    """Counts retries. Starts with its reserve."""

    def __init__(self, limits: RetryLimits | None = None) -> None:
        self._limits = limits or RetryLimits()
        self._left = self._limits.reserve
        self._at_s: float | None = None

    def set_limits(self, limits: RetryLimits) -> None:
        """Applies changed limits; what is left stays, up to the new bound."""
        self._limits = limits
        self._left = min(limits.most, self._left)

    def request(self) -> None:
        """A new request has come."""
        self._add(self._limits.share)

    def take(self, now: float) -> bool:
        """Takes one retry; False: none is left."""
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
        """A retry that was taken has answered."""
        self._add(1.0)

    def _add(self, retries: float) -> None:
        self._left = min(self._limits.most, self._left + retries)
