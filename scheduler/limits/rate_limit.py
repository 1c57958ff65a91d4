"""Limits of one API key: requests and tokens per minute, requests at once.

Rates are token buckets that hold one minute's worth: over any w seconds at most
`limit * (1 + w / 60)` is admitted. A request's tokens are estimated when it is admitted and settled
when it ends, so a bucket may go into debt; a debt delays later requests. Each key has one entry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

MINUTE_S = 60.0
SLOT_RETRY_S = 1.0
"""Retry hint when all slots are taken: the time at which one becomes free is unknown."""
_ROUNDING = 1e-6
"""Tolerance of the comparison: without it, rounding could refuse a retry at the hinted time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Limits of a key or a remote; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


NO_RATE_LIMITS = RateLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`limit`: name of the field of `RateLimits`; `retry_after_s`: None when waiting cannot help,
    because the request alone is larger than the limit."""

    limit: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLevel:
    """How full the buckets of a key were when each was last taken from, and how long ago that was.
    None: nothing was taken."""

    key_id: str
    requests: float | None
    requests_ago_s: float
    tokens: float | None
    tokens_ago_s: float


class _Bucket:
    """A token bucket. It starts full; a negative level is debt."""

    __slots__ = ("_at_s", "_left")

    def __init__(self) -> None:
        self._left: float | None = None
        self._at_s = 0.0

    def left(self, limit: int, now: float) -> float:
        """The amount left at `now`. A changed limit applies from `now` on."""
        if self._left is None:
            return float(limit)
        elapsed_s = max(0.0, now - self._at_s)
        return min(float(limit), self._left + elapsed_s * limit / MINUTE_S)

    def take(self, amount: int, limit: int, now: float) -> None:
        """Takes an amount. A negative one is given back, up to the size of the bucket."""
        self._left = min(float(limit), self.left(limit, now) - amount)
        self._at_s = now

    def level(self, now: float) -> tuple[float | None, float]:
        """What was left at the last change, and the seconds since."""
        return self._left, max(0.0, now - self._at_s)

    def restore(self, left: float | None, at_s: float) -> None:
        """Puts a level of an earlier bucket back, unless this one has changed since."""
        if left is not None and (self._left is None or self._at_s < at_s):
            self._left, self._at_s = left, at_s


class _Account:
    """State of one key. `leaving`: the key is not configured any more."""

    __slots__ = ("leaving", "limits", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.limits = NO_RATE_LIMITS
        self.leaving = False
        self.running = 0
        self.requests = _Bucket()
        self.tokens = _Bucket()


class RateLimiter:
    """Every request that `admit` lets in is settled exactly once.

    State is one entry per key id that was admitted: callers pass ids of configured keys only, and
    call `retain` after the configuration has changed.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._changed: set[str] = set()
        """Keys whose buckets have changed since `changed_levels`."""

    def retain(self, key_ids: Collection[str]) -> None:
        """Drops the state of all other keys. That of a key whose requests still run is dropped when
        the last one is settled."""
        for key_id, account in list(self._accounts.items()):
            account.leaving = key_id not in key_ids
            if account.leaving and not account.running:
                del self._accounts[key_id]

    def running(self, key_id: str) -> int:
        """Requests of the key that are not settled yet."""
        account = self._accounts.get(key_id)
        return account.running if account else 0

    def take_request(self, key_id: str, limits: RateLimits, now: float) -> Refusal | None:
        """Takes one request of the rate, without slot and tokens, and returns None. It needs no
        settlement. If the rate refuses it, nothing is taken and the refusal is returned."""
        limit = limits.requests_per_minute
        if limit is None:
            return None
        bucket = self._account(key_id).requests
        refusal = _refusal("requests_per_minute", limit, bucket, 1, now)
        if refusal is None:
            bucket.take(1, limit, now)
            self._changed.add(key_id)
        return refusal

    def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """Takes a slot alone and returns None. It is settled with no tokens. If no slot is free,
        the refusal is returned."""
        refusal = self._no_slot(key_id, limits)
        if refusal is None:
            self._account(key_id).running += 1
        return refusal

    def admit(
        self, key_id: str, limits: RateLimits, tokens: int, now: float, *, requests: int = 1
    ) -> Refusal | None:
        """Admits a request: takes a slot and `tokens` (an estimate), and returns None. `requests`:
        taken of the rate; 0 after `take_request`.

        If a limit refuses the request, nothing is taken and the refusal is returned.

        `now`: seconds on a clock that never goes back. Raises ValueError for negative tokens.
        """
        refusal = self.refusal(key_id, limits, tokens, now, requests=requests)
        if refusal is not None:
            return refusal
        account = self._account(key_id)
        account.limits = limits
        if (limit := limits.requests_per_minute) is not None:
            account.requests.take(requests, limit, now)
        if (limit := limits.tokens_per_minute) is not None:
            account.tokens.take(tokens, limit, now)
        account.running += 1
        self._changed.add(key_id)
        return None

    def resume(self, key_id: str, limits: RateLimits) -> None:
        """Adds a request that an earlier limiter has admitted. It takes a slot, whatever is free,
        and is settled like any other."""
        account = self._accounts.setdefault(key_id, _Account())
        account.limits = limits
        account.running += 1

    def refusal(
        self, key_id: str, limits: RateLimits, tokens: int, now: float, *, requests: int = 1
    ) -> Refusal | None:
        """The result that `admit` would return. Changes nothing."""
        if tokens < 0:
            raise ValueError(f"{tokens} tokens")
        if (no_slot := self._no_slot(key_id, limits)) is not None:
            return no_slot
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return None
        account = self._accounts.get(key_id) or _Account()
        rates = (
            ("requests_per_minute", limits.requests_per_minute, account.requests, requests),
            ("tokens_per_minute", limits.tokens_per_minute, account.tokens, tokens),
        )
        refusals = [
            refusal
            for name, limit, bucket, amount in rates
            if limit is not None
            and (refusal := _refusal(name, limit, bucket, amount, now)) is not None
        ]
        # The refusal with the longest wait: it would refuse an earlier retry.
        return max(refusals, key=lambda refusal: _wait(refusal.retry_after_s), default=None)

    def settle(self, key_id: str, reserved: int, used: int, now: float) -> None:
        """Ends a request: frees its slot and charges the tokens it used in place of `reserved`.

        Raises ValueError when none of the key's requests is running, or for negative tokens.
        """
        account = self._accounts.get(key_id)
        if account is None or account.running == 0:
            raise ValueError(f"key {key_id} has no request to settle")
        if reserved < 0 or used < 0:
            raise ValueError(f"{reserved} tokens reserved, {used} used")
        account.running -= 1
        if account.leaving and account.running == 0:
            del self._accounts[key_id]
        limit = account.limits.tokens_per_minute
        if limit is not None:
            account.tokens.take(used - reserved, limit, now)
            self._changed.add(key_id)

    def changed_levels(self, now: float, *, every: bool = False) -> list[RateLevel]:
        """Returns the levels of keys that have changed since the last call. `every`: of all."""
        keys = list(self._accounts) if every else list(self._changed)
        self._changed.clear()
        found = []
        for key_id in keys:
            account = self._accounts.get(key_id)
            if account is not None:
                requests, requests_ago_s = account.requests.level(now)
                tokens, tokens_ago_s = account.tokens.level(now)
                level = RateLevel(
                    key_id=key_id,
                    requests=requests,
                    requests_ago_s=requests_ago_s,
                    tokens=tokens,
                    tokens_ago_s=tokens_ago_s,
                )
                found.append(level)
        return found

    def restore(self, level: RateLevel, now: float) -> None:
        """Goes on with the buckets of an earlier limiter, where this one has none that are
        newer."""
        account = self._account(level.key_id)
        account.requests.restore(level.requests, now - level.requests_ago_s)
        account.tokens.restore(level.tokens, now - level.tokens_ago_s)
        self._changed.add(level.key_id)

    def _account(self, key_id: str) -> _Account:
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = _Account()
        return account

    def _no_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        slots = limits.concurrent_requests
        if slots is None or self.running(key_id) < slots:
            return None
        return Refusal(limit="concurrent_requests", retry_after_s=SLOT_RETRY_S)


def _refusal(name: str, limit: int, bucket: _Bucket, amount: int, now: float) -> Refusal | None:
    if amount > limit:
        return Refusal(limit=name, retry_after_s=None)
    missing = amount - bucket.left(limit, now)
    if missing <= _ROUNDING:
        return None
    return Refusal(limit=name, retry_after_s=missing * MINUTE_S / limit)


def _wait(retry_after_s: float | None) -> float:
    return float("inf") if retry_after_s is None else retry_after_s
