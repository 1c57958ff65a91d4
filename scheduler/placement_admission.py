"""Admission of each placement: circuit breakers, rate limits, and adaptive concurrency limit.

The concurrency limit of a remote adapts as TCP's window does: a "busy" answer cuts it, a success
while all slots were in use raises it a little (additive increase, multiplicative decrease:
Jacobson, SIGCOMM 1988). Room and policy are not considered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from scheduler.blame.likeness import Like, like_of
from scheduler.blame.placement_breakers import PlacementBreakers
from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, Request
from scheduler.limits.breaker import BreakerLimits, BreakerPhase
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


class _Attempt(msgspec.Struct, frozen=True):
    """An attempt that runs. `breakers`: the breakers that admitted it. After a reload that changed
    the incarnation, these are not the placement's present breakers."""

    request: Request
    started_s: float
    tokens: int
    breakers: PlacementBreakers


@dataclass(slots=True)
class _PlacementLimits:
    facts: Placement
    breakers: PlacementBreakers
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
        entry = _PlacementLimits(facts, self._breakers(facts), float(facts.max_running))
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
        self._admission[facts.name].breakers = self._breakers(facts)

    def _breakers(self, facts: Placement) -> PlacementBreakers:
        own = facts.kind is PlacementKind.SELF_HOSTED
        return PlacementBreakers(self._own_limits if own else self._limits)

    def broken(self, name: str, now: float, request: Request | None = None) -> bool:
        """Whether waiting for the placement is of no use now: its breaker is open, or the one of
        this kind of request. None: any request."""
        return self._admission[name].breakers.broken(request, now) is not None

    def closed(self, name: str, now: float) -> bool:
        """Whether all breakers of the placement are closed."""
        return self._admission[name].breakers.closed(now)

    def all_broken(
        self, names: Sequence[str], now: float, request: Request | None = None
    ) -> Broken | None:
        """The reason and the time if all these placements are broken for the request; None if one
        is not."""
        found = [self._admission[name].breakers.broken(request, now) for name in names]
        breakers = [breaker for breaker in found if breaker is not None]
        if len(breakers) < len(found):
            return None
        waits = [at_s - now for b in breakers if (at_s := b.next_change_s(now)) is not None]
        reason = breakers[0].reason if breakers else ""
        return Broken(reason=reason, retry_after_s=min(waits, default=0.0))

    def believes(self, name: str, request: Request, now: float) -> bool:
        """Whether the placement is believed if it rejects the request, or answers with nothing."""
        return self._admission[name].breakers.trust.believes(request.features, now)

    def record_taken_elsewhere(self, name: str, request: Request, now: float) -> None:
        """Records that another placement took a request that failed here."""
        if (entry := self._admission.get(name)) is not None:
            entry.breakers.count_taken_elsewhere(request, now)

    def has_answered(self, name: str, request: Request, now: float) -> bool:
        """Whether the placement has answered requests with the same features lately."""
        entry = self._admission.get(name)
        return entry is not None and entry.breakers.trust.has_answered(request.features, now)

    def record_confirmed(self, name: str, by: str, request: Request, now: float) -> None:
        """Records that the placement `by` rejected the same request as well."""
        is_proven = self.has_answered(by, request, now)
        if (entry := self._admission.get(name)) is not None:
            entry.breakers.trust.record_confirmed(request.features, now, is_proven=is_proven)

    def take_back(self, name: str, request: Request, request_id: str) -> None:
        """Forgets the failure of `request_id`, a request like `request`, which was itself the
        cause."""
        if (entry := self._admission.get(name)) is not None:
            entry.breakers.take_back(request, request_id)

    def serves_others(
        self,
        name: str,
        request: Request,
        started_s: float,
        now: float,
        ignored: Callable[[Like], bool],
    ) -> bool:
        """Whether the placement served requests unlike this when it came, at `started_s`. Failures
        of `ignored` requests do not count."""
        entry = self._admission.get(name)
        return entry is not None and entry.breakers.evidence.serves_others(
            like_of(request), started_s, now, ignored
        )

    def admits(self, name: str, request: Request, now: float) -> bool:
        """Whether the request may start there now."""
        entry = self._admission[name]
        if not entry.breakers.admits(request, now):
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
        entry.breakers.count_start(request, now)
        entry.running[request.request_id] = _Attempt(request, now, tokens, entry.breakers)
        if entry.facts.kind is PlacementKind.REMOTE:
            refusal = entry.window.refusal(entry.facts.send_limits, tokens, now)
            if refusal is not None:
                raise ValueError(f"{name} was sent a request beyond its {refusal.limit}")
            entry.window.take(tokens, now)

    def record_resumed(self, name: str, request: Request, now: float) -> None:
        """Records an attempt that runs already, as if it started now. It may exceed a limit."""
        entry = self._admission[name]
        tokens = _tokens(request)
        entry.running[request.request_id] = _Attempt(request, now, tokens, entry.breakers)
        if entry.facts.kind is PlacementKind.REMOTE:
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
        ok, fault = False, Fault.NONE
        if end is not None:
            ok, fault = end.outcome is AttemptOutcome.OK, end.fault
            if end.output_tokens is not None:
                used = (end.prompt_tokens or 0) + end.output_tokens
        if entry.facts.kind is PlacementKind.REMOTE:
            entry.window.settle(started_s, reserved, used, now)
            if fault is Fault.BUSY and started_s >= entry.cut_s:
                entry.slots = max(1.0, SLOTS_CUT * in_use)
                entry.cut_s = now
            elif ok and in_use >= int(entry.slots):
                entry.slots = min(float(entry.facts.max_running), entry.slots + 1.0 / entry.slots)
        attempt.breakers.count_end(attempt.request, end, started_s, now)

    def close_breaker(self, name: str) -> None:
        """Closes the breaker of a placement that has answered a probe."""
        self._admission[name].breakers.close()

    def next_change_s(self, now: float) -> float | None:
        """When the next opening or pause of a breaker ends; None if there is none."""
        changes = (entry.breakers.next_change_s(now) for entry in self._admission.values())
        return min((at_s for at_s in changes if at_s is not None), default=None)

    def report(self, name: str, now: float) -> AdmissionReport:
        """The admission state of a placement."""
        entry = self._admission[name]
        breaker = entry.breakers.shown(now)
        phase = breaker.phase(now)
        return AdmissionReport(
            phase=phase,
            reason="" if phase is BreakerPhase.CLOSED else breaker.reason,
            slots=None if entry.facts.kind is PlacementKind.SELF_HOSTED else int(entry.slots),
        )


def _tokens(request: Request) -> int:
    """Tokens that a rate limit reserves for a request: prompt and longest output."""
    return request.prompt_tokens + request.choices * request.max_output_tokens
