"""The circuit breakers of one placement: one for all requests, and one for each kind.

Requests of one key with the same features are a *kind*. Failures count for the breaker of their
kind, as the only one that they can open alone. The breaker for all requests opens when the evidence
condemns the placement itself, when its trial fails, or when it refuses the gateway's account. So
one key, or one missing feature, takes the placement out for itself only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from scheduler.blame.evidence import REJECTION_WEIGHT, Evidence
from scheduler.blame.trust import Trust
from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, Request
from scheduler.limits.breaker import Breaker, BreakerLimits, BreakerPhase

MAX_KINDS = 64
"""Kinds of requests with a breaker of their own. Above, the one that failed longest ago goes."""
_COUNTED = (Fault.PLACEMENT, Fault.ABSENT)

Kind = tuple[str, str]
"""Id of the key, and features."""


def is_answer(end: AttemptEnded) -> bool:
    """Whether the attempt brought an answer that is not empty."""
    return end.outcome is AttemptOutcome.OK and end.output_tokens != 0


class PlacementBreakers:
    """All breakers of one placement, and the evidence that opens them.

    Attributes:
        whole: the breaker for all requests.
        evidence: recent outcomes by key.
        trust: whether a rejection is believed.
    """

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self._limits = limits
        self.whole = Breaker(limits)
        self.evidence = Evidence()
        self.trust = Trust()
        self._kinds: OrderedDict[Kind, Breaker] = OrderedDict()

    def admits(self, request: Request, now: float) -> bool:
        """Whether the request may start there now."""
        return all(breaker.admits(now) for breaker in self._of(request))

    def broken(self, request: Request | None, now: float) -> Breaker | None:
        """The breaker for which waiting for the placement is of no use; None: there is none.
        `request`: None if only the breaker for all requests matters."""
        return next((b for b in self._of(request) if b.broken(now)), None)

    def closed(self, now: float) -> bool:
        """Whether all breakers are closed. Forgets kinds that have not failed for long."""
        for kind, breaker in tuple(self._kinds.items()):
            breaker.forget_old(now)
            if breaker.is_idle:
                del self._kinds[kind]
        breakers = (self.whole, *self._kinds.values())
        return all(breaker.phase(now) is BreakerPhase.CLOSED for breaker in breakers)

    def shown(self, now: float) -> Breaker:
        """The breaker to show to operators: the one of all requests, or an open one of a kind while
        nothing shows that the placement serves any other."""
        if self.whole.phase(now) is not BreakerPhase.CLOSED or self.evidence.has_success(now):
            return self.whole
        phases = ((breaker.phase(now), breaker) for breaker in self._kinds.values())
        return next((b for phase, b in phases if phase is not BreakerPhase.CLOSED), self.whole)

    def next_change_s(self, now: float) -> float | None:
        """When the next opening or pause ends; None: there is none."""
        breakers = (self.whole, *self._kinds.values())
        changes = (breaker.next_change_s(now) for breaker in breakers)
        return min((at_s for at_s in changes if at_s is not None), default=None)

    def count_start(self, request: Request, now: float) -> None:
        """Records that an admitted request has started."""
        for breaker in self._of(request):
            breaker.count_start(request.request_id, now)

    def count_end(
        self, request: Request, end: AttemptEnded | None, started_s: float, now: float
    ) -> None:
        """Counts the end of an attempt. `end`: None if the client cancelled."""
        kind = self._kinds.get((request.key_id, request.features)) if self._kinds else None
        if end is not None and is_answer(end):
            self.evidence.record_success(request, now)
            self.trust.record_answer(request.features, now)
            self.whole.count_answer(request.request_id, started_s, now)
            if kind is not None:
                kind.count_answer(request.request_id, started_s, now)
            return
        fault = Fault.NONE if end is None else end.fault
        detail = "" if end is None else end.detail
        request_id = request.request_id
        if fault in _COUNTED:
            self.evidence.record_failure(request, detail, now)
            kind = kind or self._add_kind(request)
        elif fault is Fault.REJECTED:
            self.evidence.record_rejection(request, detail, now)
        if fault is Fault.REJECTED or (end is not None and end.outcome is AttemptOutcome.OK):
            self.trust.record_rejection(request.features)  # an empty answer is one, too
        whole_fault = fault
        if fault in _COUNTED and not self.whole.is_trial(request_id):
            whole_fault = Fault.NONE  # the evidence decides
            if started_s >= self.whole.opened_s:
                self._judge(fault, detail, request_id, now)
        retry_after_s = None if end is None else end.retry_after_s
        kind_fault = fault if fault in _COUNTED else Fault.NONE
        for breaker, counted in ((self.whole, whole_fault), (kind, kind_fault)):
            if breaker is not None:
                breaker.count_end(
                    request_id,
                    started_s=started_s,
                    ok=False,
                    fault=counted,
                    retry_after_s=retry_after_s,
                    detail=detail,
                    now=now,
                )

    def count_taken_elsewhere(self, request: Request, now: float) -> None:
        """Another placement took a request that failed here, or was rejected here."""
        outcome = self.evidence.refute(request)
        if outcome is None:
            return
        detail = f"{outcome.detail}: another placement took the same request"
        fault = Fault.PLACEMENT
        if outcome.weight == REJECTION_WEIGHT:
            fault = Fault.REJECTED
            self.trust.record_refuted(request.features)
            kind = self._kinds.get((request.key_id, request.features)) or self._add_kind(request)
            kind.count_rejection(request.request_id, REJECTION_WEIGHT, detail, now)
            if self.whole.phase(now) is BreakerPhase.HALF_OPEN:
                self.whole.open(fault, detail, request.request_id, now)
        self._judge(fault, detail, request.request_id, now)

    def take_back(self, request: Request, request_id: str) -> None:
        """Forgets the failures of `request_id`, a request like `request`, which was itself the
        cause."""
        self.evidence.take_back(request, request_id)
        for breaker in self._of(request):
            breaker.take_back(request_id)

    def close(self) -> None:
        """Closes all breakers and forgets failures, because a probe has shown that the placement
        works. It must prove anew what it can do."""
        self.whole.close()
        self._kinds.clear()
        self.evidence.clear()
        self.trust = Trust()

    def _judge(self, fault: Fault, detail: str, request_id: str, now: float) -> None:
        if self.whole.phase(now) is BreakerPhase.CLOSED and self.evidence.condemns(now):
            self.whole.open(fault, detail, request_id, now)
            self.evidence.clear()

    def _of(self, request: Request | None) -> Iterator[Breaker]:
        yield self.whole
        if self._kinds and request is not None:
            kind = self._kinds.get((request.key_id, request.features))
            if kind is not None:
                yield kind

    def _add_kind(self, request: Request) -> Breaker:
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.popitem(last=False)
        made = self._kinds[request.key_id, request.features] = Breaker(self._limits)
        return made
