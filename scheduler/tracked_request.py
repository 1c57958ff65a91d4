"""A request that has not ended: where it runs, and which placements its next attempt avoids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scheduler.contract import Fault, Request
from scheduler.placement_state import Placement, PlacementState


@dataclass(slots=True)
class TrackedRequest:
    """State of one request. `attempts`: attempts started so far, evicted ones included."""

    request: Request
    attempts: int = 0
    placement: PlacementState | None = None
    evictions: int = 0
    ttft_s: float = 0.0
    """Promised time to first token."""
    output_tokens: float = 0.0
    """Expected output of all choices together, as estimated on arrival."""
    reserve_tokens: int = 0
    spread_tokens: float = 0.0
    """KV tokens to reserve: prompt and expected output. Nine of ten outputs exceed the expected one
    by at most `spread_tokens`."""
    _tried: set[str] = field(default_factory=set)
    _unsuited_pools: set[str] = field(default_factory=set)
    _failed_domains: set[str] = field(default_factory=set)

    def record_failure(self, facts: Placement, fault: Fault) -> None:
        """Records that an attempt failed on the placement."""
        self._tried.add(facts.name)
        if fault is Fault.REQUEST:
            if facts.pool:
                self._unsuited_pools.add(facts.pool)
        elif facts.failure_domain:
            self._failed_domains.add(facts.failure_domain)

    @property
    def failed(self) -> bool:
        """Whether an attempt failed."""
        return bool(self._tried)

    def may_try(self, facts: Placement) -> bool:
        """Whether no attempt failed on the placement, and none showed the request unsuited to its
        pool."""
        return facts.name not in self._tried and facts.pool not in self._unsuited_pools

    def preferred(self, states: Sequence[PlacementState]) -> Sequence[PlacementState]:
        """The placements outside the failure domains of failed attempts; all if none is outside."""
        if not self._failed_domains:
            return states
        return [
            state for state in states if state.facts.failure_domain not in self._failed_domains
        ] or states
