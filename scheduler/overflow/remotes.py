"""The remotes of one model: which are open to a request, and which one takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.contract import Request
from scheduler.output_length import Floats
from scheduler.overflow.overflow import Explorer, RemoteQuote, quote_remote
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import PlacementState
from scheduler.tracked_request import TrackedRequest

SPILL_MARGIN = 1.2
"""A request turns to a remote when this many times its usual time to first token is left."""


class Remotes:
    """States of the remotes, in a fixed order."""

    def __init__(
        self,
        states: Sequence[PlacementState],
        admission: PlacementAdmission,
        explorer: Explorer | None = None,
    ) -> None:
        self.states = list(states)
        self.refresh_facts()
        self.index = {state.facts.name: i for i, state in enumerate(self.states)}
        self._admission = admission
        self._explorer = explorer or Explorer()

    def carried_over(self, states: Sequence[PlacementState]) -> Remotes:
        """Those of a changed configuration, with what is known of when each was tried."""
        self._explorer.keep_only({state.facts.name for state in states})
        return Remotes(states, self._admission, self._explorer)

    def refresh_facts(self) -> None:
        """Reads the facts of the remotes, whose prices change."""
        self.facts = tuple(state.facts for state in self.states)

    def open(self, tracked: TrackedRequest, now: float) -> list[PlacementState]:
        """Those in service, unbroken, that may run it and have not failed it yet."""
        request = tracked.request
        return [
            state
            for state in self.states
            if state.serving
            and state.facts.remote_class in request.remote_classes
            and state.facts.name not in request.unsupported_by
            and tracked.may_try(state.facts)
            and not self._admission.broken(state.facts.name, now)
            and fits_context(state, request)
        ]

    def quotes(
        self,
        tracked: TrackedRequest,
        hit_tokens: Floats,
        output_tokens: float,
        now: float,
        any_ttft: bool,
    ) -> tuple[RemoteQuote, ...]:
        """What each remote promises; `hit_tokens`: shape (remotes,), expected in their caches.

        `any_ttft`: also those whose first token is late, since nothing else is left.
        """
        request = tracked.request
        left_s = math.inf if any_ttft else request.arrival_s + tracked.ttft_s - now
        allowed = {s.facts.name for s in tracked.preferred(self.open(tracked, now))}
        return tuple(
            quote_remote(
                state,
                request,
                hit_tokens=int(hit_tokens[i] * state.cache_trust),
                output_tokens=output_tokens,
                ttft_left_s=left_s,
                allowed=state.facts.name in allowed,
                admits=self._admission.admits(state.facts.name, request, now),
            )
            for i, state in enumerate(self.states)
        )

    def choose(self, quotes: Sequence[RemoteQuote]) -> tuple[RemoteQuote, str] | None:
        """The remote to take, and why; None: no one can."""
        return self._explorer.choose(quotes)

    def record_try(self, placement: str) -> None:
        """A request goes there."""
        self._explorer.record_try(placement)

    def spill_s(self, tracked: TrackedRequest, now: float) -> float | None:
        """Until when a request may wait if a remote is still to be in time; None: no remote."""
        states = self.open(tracked, now)
        if not states:
            return None
        fastest_s = min(state.ttft_s or 0.0 for state in states)
        return tracked.request.arrival_s + tracked.ttft_s - SPILL_MARGIN * fastest_s


def fits_context(state: PlacementState, request: Request) -> bool:
    """Whether the prompt leaves room for a token; an estimated prompt is left to the engine."""
    context = state.context_tokens
    return context is None or not request.prompt_tokens_exact or request.prompt_tokens < context
