"""The remotes of one model: which of them are open to a request, their quotes and the choice."""

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
"""A request that waits goes to a remote once the time left until its first token is late falls to
this multiple of the remote's mean time to first token."""


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
        """The remotes of a changed configuration. The times of the last tries are kept."""
        self._explorer.keep_only({state.facts.name for state in states})
        return Remotes(states, self._admission, self._explorer)

    def refresh_facts(self) -> None:
        """Reads the facts of the remotes anew, after a change of prices."""
        self.facts = tuple(state.facts for state in self.states)

    def open(self, tracked: TrackedRequest, now: float) -> list[PlacementState]:
        """Remotes that are in service, have no open breaker, serve the model or adapter, may run
        the request, and on which no attempt of it has failed."""
        request = tracked.request
        return [
            state
            for state in self.states
            if state.serving
            and state.facts.model == request.model
            and state.facts.remote_class in request.remote_classes
            and state.facts.name not in request.unsupported_by
            and tracked.may_try(state.facts)
            and not self._admission.broken(state.facts.name, now, request)
            and fits_context(state, request)
        ]

    def quotes(
        self,
        tracked: TrackedRequest,
        hit_tokens: Floats,
        output_tokens: float,
        now: float,
        any_ttft: bool,
        lost_nano_usd: float = 0.0,
    ) -> tuple[RemoteQuote, ...]:
        """One quote for each remote. `hit_tokens`: prompt tokens expected in the cache of each
        remote, shape (remotes,). `any_ttft`: a late first token does not block a remote.
        `lost_nano_usd`: cost of the prefix that is lost at home.
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
                lost_nano_usd=lost_nano_usd,
            )
            for i, state in enumerate(self.states)
        )

    def choose(self, quotes: Sequence[RemoteQuote]) -> tuple[RemoteQuote, str] | None:
        """The remote to take and the reason; None if no remote can take the request."""
        return self._explorer.choose(quotes)

    def record_try(self, placement: str) -> None:
        """Records that a request was sent to the remote."""
        self._explorer.record_try(placement)

    def spill_s(self, tracked: TrackedRequest, now: float) -> float | None:
        """Latest time at which a remote can still give the first token in time; None if none is
        open to the request."""
        states = self.open(tracked, now)
        if not states:
            return None
        fastest_s = min(state.ttft_s or 0.0 for state in states)
        return tracked.request.arrival_s + tracked.ttft_s - SPILL_MARGIN * fastest_s


def fits_context(state: PlacementState, request: Request) -> bool:
    """Whether the context has room for the prompt and one token. A prompt whose length is only
    estimated always fits: the engine counts it."""
    context = state.context_tokens
    return context is None or not request.prompt_tokens_exact or request.prompt_tokens < context
