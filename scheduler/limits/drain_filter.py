"""Replicas and remotes that an operator keeps out of service, whatever their probes say.

Drains survive reloads but not restarts. `ServingChanged` events pass the filter on their way to the
core. The filter remembers the last probe result of each placement, which applies again when the
drain ends. The pinned ranks of a replica are drained with it, including those that a reload adds.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.contract import ServingChanged

DRAINED = "drained by an operator"


class DrainFilter:
    """The drained placements. A group is a replica; a remote is a group of its own."""

    def __init__(self) -> None:
        self._drained: set[str] = set()
        self._probed: dict[str, ServingChanged] = {}

    @property
    def names(self) -> frozenset[str]:
        """The drained groups."""
        return frozenset(self._drained)

    def drain(self, group: str) -> None:
        """Keeps the group out of service."""
        self._drained.add(group)

    def undrain(self, group: str) -> None:
        """Ends the drain of the group; its probe results apply again."""
        self._drained.discard(group)

    def filtered(self, event: ServingChanged, group: str) -> ServingChanged:
        """The event of a placement of `group`, changed to not serving if the group is drained."""
        self._probed[event.placement] = event
        if event.serving and group in self._drained:
            return replace(event, serving=False, reason=DRAINED)
        return event

    def current(self, placement: str, group: str) -> ServingChanged:
        """Current event of a placement, after its group was drained or undrained."""
        probed = self._probed.get(placement)
        if probed is None:
            reason = DRAINED if group in self._drained else "not probed yet"
            return ServingChanged(placement=placement, serving=False, reason=reason)
        return self.filtered(probed, group)
