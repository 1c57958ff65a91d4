"""Replicas and remotes that an operator keeps out of service, whatever their probes say.

Kept over reloads, not over restarts. Events pass a `DrainFilter` on their way to the scheduler: it
knows what the probes said last, which holds again once the placement is taken back. A replica's
pinned ranks are drained with it, also those that a reload brings.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from gateway.fleet.placement_names import replica_of
from scheduler.contract import Event, ServingChanged

DRAINED = "drained by an operator"


class DrainFilter:
    """Before one scheduler. `drained` is shared, and changes."""

    def __init__(self, drained: Set[str]) -> None:
        self._drained = drained
        self._probed: dict[str, ServingChanged] = {}

    def __call__(self, event: Event) -> Event:
        """The event as the scheduler is to see it."""
        if not isinstance(event, ServingChanged):
            return event
        self._probed[event.placement] = event
        if event.serving and replica_of(event.placement) in self._drained:
            return replace(event, serving=False, reason=DRAINED)
        return event

    def now(self, placement: str) -> ServingChanged:
        """What to tell the scheduler of a placement that was drained or taken back."""
        probed = self._probed.get(placement)
        if probed is None:
            reason = DRAINED if replica_of(placement) in self._drained else "not probed yet"
            return ServingChanged(placement=placement, serving=False, reason=reason)
        return probed
