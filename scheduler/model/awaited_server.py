"""Whether a request may wait for the first server of a pool that an autoscaler starts from none."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.contract import Request
from scheduler.model.model_names import serves
from scheduler.model.refusals import permitted
from scheduler.overflow.remotes import fits_context
from scheduler.placement_state import PlacementState

AWAITS_SERVER = "waits for a server, which an autoscaler starts"
"""Reason of the decision."""


def awaited_server_s(states: Sequence[PlacementState], request: Request) -> float | None:
    """Longest time in seconds that a server which may run the request takes to start.

    None: there is nothing to wait for. A server that may run the request is in service already, or
    no pool that may run it is started for requests that wait. `states`: self-hosted placements.
    """
    usable = [
        state
        for state in states
        if serves(state, request) and permitted(state, request) and fits_context(state, request)
    ]
    if any(state.serving for state in usable):
        return None
    starts_s = [start_s for state in usable if (start_s := state.facts.start_s) is not None]
    return max(starts_s, default=None)
