"""Replicas and remotes that an operator keeps out of service, whatever their probes say.

Kept over reloads, not over restarts. `ServingChanged` events pass the filter on their way to the
core. It remembers what the probes said last, which holds again once the placement is taken back. A
replica's pinned ranks are drained with it, also those that a reload adds.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.contract import ServingChanged

DRAINED = "drained by an operator"


class DrainFilter:
    """Which placements are drained. A group is a replica; a remote is a group of its own."""

    def __init__(self) -> None:
        self._drained: set[str] = set()
        self._probed: dict[str, ServingChanged] = {}

    def drain(self, group: str) -> None:
        """Keeps the group out of service."""
        self._drained.add(group)

    def undrain(self, group: str) -> None:
        """Ends that."""
        self._drained.discard(group)

    def filtered(self, event: ServingChanged, group: str) -> ServingChanged:
        """The event of a placement of `group` as the core is to see it."""
        self._probed[event.placement] = event
        if event.serving and group in self._drained:
            return replace(event, serving=False, reason=DRAINED)
        return event

    def current(self, placement: str, group: str) -> ServingChanged:
        """What holds for a placement whose group was drained or taken back."""
        probed = self._probed.get(placement)
        if probed is None:
            reason = DRAINED if group in self._drained else "not probed yet"
            return ServingChanged(placement=placement, serving=False, reason=reason)
        return self.filtered(probed, group)
