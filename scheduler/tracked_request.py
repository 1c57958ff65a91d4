"""A request that has not ended: where it runs, and which placements its next attempt avoids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from scheduler.contract import Fault, PlacementKind, Request
from scheduler.placement_state import Placement, PlacementState


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed before the client had output."""

    facts: Placement
    fault: Fault


class TrackedRequest(msgspec.Struct):
    """State of one request. `attempts`: attempts started so far, evicted ones included."""

    request: Request
    base_model: str = ""
    """The model whose scheduler decides: `request.model`, or the base model of that adapter."""
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
    failed_attempts: tuple[FailedAttempt, ...] = ()

    def record_failure(self, facts: Placement, fault: Fault) -> None:
        """Records that an attempt failed on the placement."""
        self.failed_attempts += (FailedAttempt(facts, fault),)

    @property
    def failed(self) -> bool:
        """Whether an attempt failed."""
        return bool(self.failed_attempts)

    def may_try(self, facts: Placement) -> bool:
        """Whether no attempt failed on the placement, and none showed the request unsuited to its
        pool. What a self-hosted placement rejects is compared on another one, not on a remote,
        which is other software and is paid for."""
        if facts.kind is PlacementKind.REMOTE and self.rejected_at_home:
            return False
        return not any(
            attempt.facts.name == facts.name
            or (attempt.fault is Fault.REQUEST and facts.pool and attempt.facts.pool == facts.pool)
            for attempt in self.failed_attempts
        )

    @property
    def rejected_by(self) -> str:
        """The placement that rejected the request first; empty: none."""
        return next((a.facts.name for a in self.failed_attempts if a.fault is Fault.REJECTED), "")

    @property
    def rejected_at_home(self) -> bool:
        """Whether a self-hosted placement rejected the request."""
        return any(
            attempt.fault is Fault.REJECTED and attempt.facts.kind is PlacementKind.SELF_HOSTED
            for attempt in self.failed_attempts
        )

    def preferred(self, states: Sequence[PlacementState]) -> Sequence[PlacementState]:
        """The placements outside the failure domains of failed attempts; all if none is outside."""
        own_faults = (Fault.REQUEST, Fault.REJECTED)  # those of the request
        domains = {
            a.facts.failure_domain for a in self.failed_attempts if a.fault not in own_faults
        }
        outside = [
            state
            for state in states
            if not state.facts.failure_domain or state.facts.failure_domain not in domains
        ]
        return outside or states
