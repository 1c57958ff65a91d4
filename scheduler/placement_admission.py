"""Admission of each placement: circuit breaker, rate limits, and adaptive concurrency limit.

The concurrency limit of a remote adapts as TCP's window does: a "busy" answer cuts it, a success
while all slots were in use raises it a little (additive increase, multiplicative decrease:
Jacobson, SIGCOMM 1988). Room and policy are not considered here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, Request
from scheduler.limits.breaker import Breaker, BreakerLimits, BreakerPhase
from scheduler.limits.send_window import SendWindow
from scheduler.placement_state import Placement

LONGEST_OWN_PAUSE_S = 30.0
"""Longest pause that a self-hosted server may ask for: a server that is wrong about this would
otherwise stand idle."""
SLOTS_CUT = 0.7
"""A "busy" answer cuts the slots to this share of those in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionReport:
    """Admission state of a placement, for operators. `slots`: the adaptive concurrency limit; None
    for a self-hosted placement."""

    phase: BreakerPhase
    reason: str
    slots: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Several placements with open breakers: the reason of one, and when the first may close."""

    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class _Attempt:
    """An attempt that runs. `breaker`: the breaker that admitted it. After a reload that changed
    the incarnation, this is not the placement's present breaker."""

    started_s: float
    tokens: int
    breaker: Breaker


@dataclass(slots=True)
class _PlacementLimits:
    facts: Placement
    breaker: Breaker
    slots: float
    window: SendWindow = field(default_factory=SendWindow)
    cut_s: float = float("-inf")
    running: dict[str, _Attempt] = field(default_factory=dict)


class PlacementAdmission:
    """One entry for each placement. Every `record_start` is followed by one `record_end`, which is
    ignored if a reload has removed the entry meanwhile."""

    def __init__(
        self, placements: Iterable[Placement], limits: BreakerLimits | None = None
    ) -> None:
        self._limits = limits or BreakerLimits()
        self._own_limits = replace(self._limits, longest_stated_pause_s=LONGEST_OWN_PAUSE_S)
        self._admission: dict[str, _PlacementLimits] = {}
        for facts in placements:
            self.add(facts)

    def add(self, facts: Placement) -> None:
        """Adds a placement without history. An entry of the same name is replaced."""
        self.remove(facts.name)
        entry = _PlacementLimits(facts, self._breaker(facts), float(facts.max_running))
        self._admission[facts.name] = entry

    def remove(self, name: str) -> None:
        """Removes a placement, if it is there, and its running attempts."""
        self._admission.pop(name, None)

    def change(self, facts: Placement) -> None:
        """Applies changed facts. Learnt limits of the placement stay, within the new bounds."""
        entry = self._admission[facts.name]
        most, uncut = float(facts.max_running), entry.slots >= entry.facts.max_running
        entry.slots = most if uncut else min(entry.slots, most)
        entry.facts = facts

    def restart(self, facts: Placement) -> None:
        """Gives the placement a new breaker, because another server is behind the name. The learnt
        limits of a remote's account stay."""
        self.change(facts)
        self._admission[facts.name].breaker = self._breaker(facts)

    def _breaker(self, facts: Placement) -> Breaker:
        own = facts.kind is PlacementKind.SELF_HOSTED
        return Breaker(self._own_limits if own else self._limits)

    def broken(self, name: str, now: float) -> bool:
        """Whether waiting for the placement is of no use now: its breaker is open."""
        return self._admission[name].breaker.broken(now)

    def closed(self, name: str, now: float) -> bool:
        """Whether the breaker of the placement is closed."""
        return self._admission[name].breaker.phase(now) is BreakerPhase.CLOSED

    def all_broken(self, names: Sequence[str], now: float) -> Broken | None:
        """The reason and the time if all these breakers are open; None if one is not."""
        breakers = [self._admission[name].breaker for name in names]
        if not all(breaker.broken(now) for breaker in breakers):
            return None
        waits = [at_s - now for b in breakers if (at_s := b.next_change_s(now)) is not None]
        reason = breakers[0].reason if breakers else ""
        return Broken(reason=reason, retry_after_s=min(waits, default=0.0))

    def admits(self, name: str, request: Request, now: float) -> bool:
        """Whether the request may start there now."""
        entry = self._admission[name]
        if not entry.breaker.admits(now):
            return False
        facts = entry.facts
        if facts.kind is PlacementKind.SELF_HOSTED:
            return True
        if len(entry.running) >= int(entry.slots):
            return False
        return entry.window.refusal(facts.send_limits, _tokens(request), now) is None

    def opens_s(self, name: str, request: Request, now: float) -> float | None:
        """When the placement's rate limits will admit the request, if nothing else is sent there;
        None if they admit it now, or never will."""
        entry = self._admission[name]
        refusal = entry.window.refusal(entry.facts.send_limits, _tokens(request), now)
        if refusal is None or refusal.retry_after_s is None:
            return None
        return now + refusal.retry_after_s

    def record_start(self, name: str, request: Request, now: float) -> None:
        """Records the start of an admitted request."""
        entry = self._admission[name]
        tokens = _tokens(request)
        entry.breaker.count_start(request.request_id, now)
        entry.running[request.request_id] = _Attempt(now, tokens, entry.breaker)
        if entry.facts.kind is PlacementKind.REMOTE:
            refusal = entry.window.refusal(entry.facts.send_limits, tokens, now)
            if refusal is not None:
                raise ValueError(f"{name} was sent a request beyond its {refusal.limit}")
            entry.window.take(tokens, now)

    def record_end(self, name: str, request_id: str, end: AttemptEnded | None, now: float) -> None:
        """Records the end of an attempt. `end`: None if the client cancelled."""
        entry = self._admission.get(name)
        if entry is None or request_id not in entry.running:
            return
        in_use = len(entry.running)
        attempt = entry.running.pop(request_id)
        started_s, reserved = attempt.started_s, attempt.tokens
        used = reserved
        ok, fault, retry_after_s, detail = False, Fault.NONE, None, ""
        if end is not None:
            ok, fault = end.outcome is AttemptOutcome.OK, end.fault
            retry_after_s, detail = end.retry_after_s, end.detail
            if end.output_tokens is not None:
                used = (end.prompt_tokens or 0) + end.output_tokens
        if entry.facts.kind is PlacementKind.REMOTE:
            entry.window.settle(started_s, reserved, used, now)
            if fault is Fault.BUSY and started_s >= entry.cut_s:
                entry.slots = max(1.0, SLOTS_CUT * in_use)
                entry.cut_s = now
            elif ok and in_use >= int(entry.slots):
                entry.slots = min(float(entry.facts.max_running), entry.slots + 1.0 / entry.slots)
        attempt.breaker.count_end(
            request_id,
            started_s=started_s,
            ok=ok,
            fault=fault,
            retry_after_s=retry_after_s,
            detail=detail,
            now=now,
        )

    def close_breaker(self, name: str) -> None:
        """Closes the breaker of a placement that has answered a probe."""
        self._admission[name].breaker.close()

    def next_change_s(self, now: float) -> float | None:
        """When the next opening or pause of a breaker ends; None if there is none."""
        changes = (entry.breaker.next_change_s(now) for entry in self._admission.values())
        return min((at_s for at_s in changes if at_s is not None), default=None)

    def report(self, name: str, now: float) -> AdmissionReport:
        """The admission state of a placement."""
        entry = self._admission[name]
        phase = entry.breaker.phase(now)
        return AdmissionReport(
            phase=phase,
            reason="" if phase is BreakerPhase.CLOSED else entry.breaker.reason,
            slots=None if entry.facts.kind is PlacementKind.SELF_HOSTED else int(entry.slots),
        )


def _tokens(request: Request) -> int:
    """Tokens that a rate limit reserves for a request: prompt and longest output."""
    return request.prompt_tokens + request.choices * request.max_output_tokens
