"""Replicas and remotes that an operator keeps out of service, whatever their probes report.

Drains last over reloads, not over restarts. Every event passes a `DrainFilter` on its way to the
scheduler. The filter remembers what the probes reported last, which holds again once a drain ends.
Pinned ranks are drained with their replica, also those that a reload adds.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from gateway.fleet.placement_names import replica_of
from scheduler.contract import Event, ServingChanged

DRAINED = "drained by an operator"


class DrainFilter:
    """Filters the events of one scheduler."""

    def __init__(self, drained: Set[str]) -> None:
        """`drained`: names of replicas and remotes. The caller changes it when drains begin or
        end."""
        self._drained = drained
        self._last_probed: dict[str, ServingChanged] = {}

    def __call__(self, event: Event) -> Event:
        """The event as the scheduler receives it."""
        if not isinstance(event, ServingChanged):
            return event
        self._last_probed[event.placement] = event
        if event.serving and replica_of(event.placement) in self._drained:
            return replace(event, serving=False, reason=DRAINED)
        return event

    def last_probed(self, placement: str) -> ServingChanged:
        """The newest report of the probes: to be handled again when a drain begins or ends."""
        probed = self._last_probed.get(placement)
        if probed is None:
            reason = DRAINED if replica_of(placement) in self._drained else "not probed yet"
            return ServingChanged(placement=placement, serving=False, reason=reason)
        return probed
