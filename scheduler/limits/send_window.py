"""Requests and tokens per minute that one remote accepts, as a sliding window.

Never more than the limit is sent in any 60 seconds. A token bucket would let twice the limit pass
in its first minute, and providers refuse that. Requests that are sent within half a second share a
slot, which is kept until the last of them is a minute old: so the size of the window does not
depend on the traffic.
"""

from __future__ import annotations

import math
from collections import deque

from scheduler.limits.rate_limit import MINUTE_S, RateLimits, Refusal

SLOT_S = 0.5


class _Slot:
    """Requests sent from `first_s` to `last_s`."""

    __slots__ = ("first_s", "last_s", "requests", "tokens")

    def __init__(self, first_s: float) -> None:
        self.first_s = self.last_s = first_s
        self.requests = 0
        self.tokens = 0


class SendWindow:
    """What was sent to a remote in the last minute. Times are those of a clock that never goes
    back."""

    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()
        self._requests = 0
        self._tokens = 0

    def refusal(self, limits: RateLimits, tokens: int, now: float) -> Refusal | None:
        """Why a request of so many tokens may not be sent now; None: it may."""
        self._expire(now)
        found = [
            Refusal(limit=name, retry_after_s=wait_s)
            for name, limit, amount in (
                ("requests_per_minute", limits.requests_per_minute, 1),
                ("tokens_per_minute", limits.tokens_per_minute, tokens),
            )
            if limit is not None and (wait_s := self._wait_s(name, limit, amount, now)) != 0.0
        ]
        return max(
            found,
            key=lambda each: math.inf if each.retry_after_s is None else each.retry_after_s,
            default=None,
        )

    def take(self, tokens: int, now: float) -> None:
        """Counts a request that is sent now, with its tokens at most."""
        self._expire(now)
        if not self._slots or self._slots[-1].first_s + SLOT_S <= now:
            self._slots.append(_Slot(now))
        slot = self._slots[-1]
        slot.last_s = now
        slot.requests += 1
        slot.tokens += tokens
        self._requests += 1
        self._tokens += tokens

    def settle(self, sent_s: float, reserved: int, used: int, now: float) -> None:
        """Counts the tokens that a request sent at `sent_s` used, in place of those reserved."""
        self._expire(now)
        for slot in reversed(self._slots):
            if slot.first_s <= sent_s <= slot.last_s:
                slot.tokens += used - reserved
                self._tokens += used - reserved
                return

    def _expire(self, now: float) -> None:
        while self._slots and self._slots[0].last_s + MINUTE_S <= now:
            slot = self._slots.popleft()
            self._requests -= slot.requests
            self._tokens -= slot.tokens

    def _wait_s(self, name: str, limit: int, amount: int, now: float) -> float | None:
        """Seconds until the amount fits; 0: it fits now; None: it never does."""
        if amount > limit:
            return None
        by_tokens = name == "tokens_per_minute"
        excess = (self._tokens if by_tokens else self._requests) + amount - limit
        if excess <= 0:
            return 0.0
        for slot in self._slots:
            excess -= slot.tokens if by_tokens else slot.requests
            if excess <= 0:
                return slot.last_s + MINUTE_S - now
        return MINUTE_S
