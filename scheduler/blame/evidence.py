"""Recent outcomes of one placement, by key: whether it fails, and whether it serves others.

A placement is condemned by its outcomes in two ways. *By keys*: enough failures, of which one key
gives at most `heard_per_key`, and one tenant at most as many while another is served. *By
comparison*: another placement took enough of the requests that failed here, and no other kind of
request was served here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from scheduler.blame.likeness import Like, NewestByLike, like_of
from scheduler.contract import Request

REJECTION_WEIGHT = 3
"""Failures that one rejection counts for once another placement has taken the request. A server
that answers, but calls good requests bad, is misconfigured: waiting for more proof helps nobody."""
MAX_FAILURES = 16
"""Failures that are remembered to judge other requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceLimits:
    """Bounds of the evidence about one placement.

    Attributes:
        window_s: seconds for which an outcome counts.
        serves_s: seconds for which a success shows that the placement serves others.
        failures, failed_share: it is condemned by this many failures, which are at least this share
            of the outcomes.
        heard_per_key: newest outcomes of one key that count; also failures of one tenant that count
            while another tenant is served.
        kept: newest outcomes that are kept of one kind of request: one key, the same features.
        kinds_per_key, keys: kinds and keys that are remembered. The one that was heard of longest
            ago is dropped.
    """

    window_s: float = 120.0
    serves_s: float = 120.0
    failures: int = 5
    failed_share: float = 0.5
    heard_per_key: int = 3
    kept: int = 8
    kinds_per_key: int = 8
    keys: int = 64


class Outcome(msgspec.Struct, eq=False):
    """The end of one attempt. `weight`: 0 for a success, or for a rejection that nothing refutes.
    `refuted`: another placement took the request."""

    at_s: float
    request_id: str
    features: str
    weight: int = 0
    ok: bool = False
    refuted: bool = False
    detail: str = ""


@dataclass(slots=True)
class _KeyOutcomes:
    """Outcomes of one key, by the features of its requests, in the order of their ends."""

    tenant: str
    kinds: OrderedDict[str, deque[Outcome]] = field(default_factory=OrderedDict)


class Evidence:
    """Recent outcomes of one placement."""

    def __init__(self, limits: EvidenceLimits | None = None) -> None:
        self._limits = limits or EvidenceLimits()
        self._by_key: OrderedDict[str, _KeyOutcomes] = OrderedDict()
        self._served = NewestByLike()
        self._failed: deque[tuple[float, Like]] = deque(maxlen=MAX_FAILURES)

    def __len__(self) -> int:
        return sum(len(kind) for key in self._by_key.values() for kind in key.kinds.values())

    def record_success(self, request: Request, now: float) -> None:
        """Counts an answer."""
        self._served.record(like_of(request), now)
        self._add(request, Outcome(now, request.request_id, request.features, ok=True))

    def record_failure(self, request: Request, detail: str, now: float) -> None:
        """Counts a failure."""
        self._failed.append((now, like_of(request)))
        outcome = Outcome(now, request.request_id, request.features, weight=1, detail=detail)
        self._add(request, outcome)

    def record_rejection(self, request: Request, detail: str, now: float) -> None:
        """Keeps a rejection, which counts only if another placement takes the request."""
        self._add(request, Outcome(now, request.request_id, request.features, detail=detail))

    def refute(self, request: Request) -> Outcome | None:
        """Marks the failure or rejection of a request that another placement took, and returns it;
        None: it is not known any more."""
        for outcome in self._kind(request):
            if outcome.request_id == request.request_id and not outcome.ok:
                outcome.refuted = True
                outcome.weight = outcome.weight or REJECTION_WEIGHT
                return outcome
        return None

    def take_back(self, request: Request, request_id: str) -> None:
        """Forgets the failures of `request_id`, a request like `request`, which was itself the
        cause."""
        kind = self._kind(request)
        for outcome in [o for o in kind if o.request_id == request_id and not o.ok]:
            kind.remove(outcome)

    def clear(self) -> None:
        """Forgets the outcomes, because the placement is tried anew."""
        self._by_key.clear()

    def has_success(self, now: float) -> bool:
        """Whether any request was answered within the window."""
        return any(outcome.ok for *_, outcomes in self._recent(now) for outcome in outcomes)

    def condemns(self, now: float) -> bool:
        """Whether the outcomes show that the placement itself fails."""
        return self._fails_several_keys(now) or self._fails_what_others_take(now)

    def serves_others(
        self, like: Like, started_s: float, now: float, ignored: Callable[[Like], bool]
    ) -> bool:
        """Whether the placement served other requests when one like this came, at `started_s`.

        It has answered another one lately, and has failed none between that answer and the start.
        `ignored`: requests whose failures do not count.
        """
        served_s = self._served.of_others(like)
        if now - served_s > self._limits.serves_s:
            return False
        return not any(
            served_s < at_s < started_s and other != like and not ignored(other)
            for at_s, other in self._failed
        )

    def _add(self, request: Request, outcome: Outcome) -> None:
        limits = self._limits
        known = self._by_key.get(request.key_id)
        if known is None:
            if len(self._by_key) >= limits.keys:
                self._by_key.popitem(last=False)
            known = self._by_key[request.key_id] = _KeyOutcomes(request.tenant)
        else:
            self._by_key.move_to_end(request.key_id)
        kind = known.kinds.get(request.features)
        if kind is None:
            if len(known.kinds) >= limits.kinds_per_key:
                known.kinds.popitem(last=False)
            kind = known.kinds[request.features] = deque(maxlen=limits.kept)
        else:
            known.kinds.move_to_end(request.features)
        kind.append(outcome)

    def _kind(self, request: Request) -> deque[Outcome]:
        """Outcomes of requests of the same key with the same features."""
        known = self._by_key.get(request.key_id)
        return _NOTHING if known is None else known.kinds.get(request.features, _NOTHING)

    def _recent(self, now: float) -> Iterator[tuple[str, _KeyOutcomes, list[Outcome]]]:
        since_s = now - self._limits.window_s
        for key_id, known in self._by_key.items():
            found = [o for kind in known.kinds.values() for o in kind if o.at_s >= since_s]
            yield key_id, known, sorted(found, key=lambda outcome: outcome.at_s)

    def _fails_several_keys(self, now: float) -> bool:
        limits = self._limits
        failures: dict[str, int] = {}
        successes: dict[str, int] = {}
        for _, known, outcomes in self._recent(now):
            heard = [o for o in outcomes if o.ok or o.weight == 1][-limits.heard_per_key :]
            oks = sum(outcome.ok for outcome in heard)
            tenant = known.tenant
            successes[tenant] = successes.get(tenant, 0) + oks
            failures[tenant] = failures.get(tenant, 0) + len(heard) - oks
        served = [tenant for tenant, count in successes.items() if count]
        failed = 0
        for tenant, count in failures.items():
            others_served = any(other != tenant for other in served)
            failed += min(count, limits.heard_per_key) if others_served else count
        total = failed + sum(successes.values())
        return failed >= limits.failures and failed >= limits.failed_share * total

    def _fails_what_others_take(self, now: float) -> bool:
        refuted: list[Outcome] = []
        kinds: set[tuple[str, str]] = set()
        served: list[tuple[str, Outcome]] = []
        for key_id, _, outcomes in self._recent(now):
            for outcome in outcomes:
                if outcome.refuted:
                    refuted.append(outcome)
                    kinds.add((key_id, outcome.features))
                elif outcome.ok:
                    served.append((key_id, outcome))
        if any((key_id, outcome.features) not in kinds for key_id, outcome in served):
            return False
        last_ok_s = max((outcome.at_s for _, outcome in served), default=float("-inf"))
        weight = sum(outcome.weight for outcome in refuted if outcome.at_s > last_ok_s)
        return weight >= self._limits.failures


_NOTHING: deque[Outcome] = deque(maxlen=0)
