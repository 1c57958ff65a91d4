"""Quarantine of requests that fail servers which work for others.

A *strike* is one failure of a request on one placement. A request with strikes on several
placements that serve others is the cause of its failures: it, and requests like it, are refused for
a while, so that neither the gateway's retries nor the client's reach a third placement. A success
anywhere clears the strikes.

Requests of one key with the same output constraint are alike in a second way: once several
different ones are in quarantine, the constraint itself is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from scheduler.blame.likeness import Like, constraint_like, like_of
from scheduler.contract import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineLimits:
    """Bounds of the quarantine.

    Attributes:
        strikes: placements that a request must fail to be put into quarantine.
        strike_s: seconds for which a strike counts.
        first_s, longest_s: length of the first quarantine; each further one is twice as long, up to
            the longest.
        memory_s: seconds for which a former quarantine is remembered. Within them, one strike is
            enough.
        cases_per_tenant: remembered requests of one tenant. The oldest is dropped.
        cases: remembered requests of all tenants. The tenant with the most gives way.
    """

    strikes: int = 2
    strike_s: float = 300.0
    first_s: float = 60.0
    longest_s: float = 600.0
    memory_s: float = 3600.0
    cases_per_tenant: int = 256
    cases: int = 4096


DEFAULT_QUARANTINE = QuarantineLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One failure of a request.

    Attributes:
        placement: where it failed.
        request_id: the request that failed.
        at_s: when it failed.
        outcome: number of the failure among the outcomes of the placement.
        serves_others: the placement served other requests around the failure.
        detail: the failure, for a person.
    """

    placement: str
    request_id: str
    at_s: float
    outcome: int
    serves_others: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A quarantine that holds: from when, until when, and why."""

    since_s: float
    until_s: float
    reason: str


@dataclass(slots=True)
class _Case:
    """What is known of alike requests. `strikes`: the newest of each placement."""

    strikes: dict[str, Strike] = field(default_factory=dict)
    sentence: Sentence | None = None
    sentences: int = 0
    seen_s: float = 0.0


class Quarantine:
    """Strikes and quarantines of all tenants, bounded by tenant before globally."""

    def __init__(self, limits: QuarantineLimits | None = None) -> None:
        self._limits = limits or DEFAULT_QUARANTINE
        self._tenants: dict[str, OrderedDict[Like, _Case]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def record_strike(self, request: Request, strike: Strike, now: float) -> tuple[Strike, ...]:
        """Counts a failure. Returns the strikes for which the request is in quarantine now; empty:
        it is not."""
        like = like_of(request)
        blamed = self._strike(like, strike, now)
        if len(blamed) > 1 and (constraint := constraint_like(request)) is not None:
            same = replace(strike, placement=str(request.fingerprint or request.request_id))
            self._strike(constraint, same, now)
        return blamed

    def clear(self, request: Request) -> None:
        """Forgets what is held against the request and its constraint, because it succeeded."""
        for like in (like_of(request), constraint_like(request)):
            if like is not None:
                self.release(like)

    def release(self, like: Like) -> None:
        """Forgets what is held against alike requests."""
        cases = self._tenants.get(like[0])
        if cases is not None and cases.pop(like, None) is not None:
            self._size -= 1
            if not cases:
                del self._tenants[like[0]]

    def sentence(self, request: Request, now: float) -> tuple[Like, Sentence] | None:
        """The quarantine that holds for the request, and the likeness by which it does."""
        if request.tenant not in self._tenants:
            return None
        for like in (like_of(request), constraint_like(request)):
            if like is not None and (sentence := self.sentence_of(like, now)) is not None:
                return like, sentence
        return None

    def sentence_of(self, like: Like, now: float) -> Sentence | None:
        """The quarantine that holds for alike requests; None: there is none."""
        case = self._tenants.get(like[0], _NONE).get(like)
        if case is None or case.sentence is None or now >= case.sentence.until_s:
            return None
        return case.sentence

    def _strike(self, like: Like, strike: Strike, now: float) -> tuple[Strike, ...]:
        limits = self._limits
        case = self._case(like, now)
        if case.sentence is not None and now < case.sentence.until_s:
            return (strike,)  # it ran already when the quarantine began
        case.strikes[strike.placement] = strike
        case.strikes = {
            name: known
            for name, known in case.strikes.items()
            if now - known.at_s <= limits.strike_s
        }
        strong = tuple(known for known in case.strikes.values() if known.serves_others)
        needed = 1 if case.sentences and strike.serves_others else limits.strikes
        if len(strong) < needed:
            while len(case.strikes) > 2 * limits.strikes:  # the oldest first
                del case.strikes[next(iter(case.strikes))]
            return ()
        length_s = min(limits.longest_s, limits.first_s * 2.0 ** min(case.sentences, 16))
        where = " and ".join(sorted(known.placement for known in strong))
        case.sentences += 1
        case.sentence = Sentence(
            since_s=now,
            until_s=now + length_s,
            reason=f"failed on {where}, which serve others; {strike.detail}",
        )
        case.strikes = {}
        return strong

    def _case(self, like: Like, now: float) -> _Case:
        """The case of alike requests, as the newest of its tenant. Makes room for a new one."""
        limits = self._limits
        cases = self._tenants.setdefault(like[0], OrderedDict())
        case = cases.get(like)
        if case is None:
            if len(cases) >= limits.cases_per_tenant:
                self._drop_oldest(cases)
            elif self._size >= limits.cases:
                self._drop_oldest(max(self._tenants.values(), key=len))
            case = cases[like] = _Case()
            self._size += 1
            self._tenants[like[0]] = cases
        elif now - case.seen_s > limits.memory_s:
            case.sentences = 0
        case.seen_s = now
        cases.move_to_end(like)
        return case

    def _drop_oldest(self, cases: OrderedDict[Like, _Case]) -> None:
        (tenant, *_), _ = cases.popitem(last=False)
        self._size -= 1
        if not cases:
            self._tenants.pop(tenant, None)


_NONE: OrderedDict[Like, _Case] = OrderedDict()
