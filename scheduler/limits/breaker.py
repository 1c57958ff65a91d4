"""Circuit breaker of one placement: the outcomes of its last requests decide whether it gets more.

The breaker is *closed* while the placement works. It opens after too many failures or a refused
key, and pauses after every "busy" for as long as the placement asks. After an opening it is *half
open*: one request at a time is sent, and its end closes the breaker or opens it again.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.contract import Fault


class BreakerPhase(enum.StrEnum):
    """State of a breaker: which requests it admits."""

    CLOSED = "closed"
    """Admits every request."""
    PAUSED = "paused"
    """Admits none for some time: the placement answered that it is full."""
    OPEN = "open"
    """Admits none for some time: the placement failed too often, or refuses the gateway's key."""
    HALF_OPEN = "half_open"
    """Admits one request at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """When a breaker opens, and for how long (seconds).

    It looks at the last `outcomes` attempts that are not older than `window_s`. It opens when at
    least `failures` of them, and at least the share `failed_share`, failed. Each opening in a row
    is twice as long as the one before, from `first_open_s` (`account_open_s` for a refused key) to
    `longest_open_s`. Pauses grow in the same way from `first_pause_s` to `longest_pause_s`, unless
    the placement states their length.
    After `pauses_before_trial` pauses in a row the next request is a trial. A placement that
    asks for a longer pause than `longest_stated_pause_s` gets this one, and then a trial.
    """

    outcomes: int = 20
    window_s: float = 120.0
    failures: int = 5
    failed_share: float = 0.5
    first_open_s: float = 5.0
    account_open_s: float = 60.0
    longest_open_s: float = 300.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    pauses_before_trial: int = 2
    longest_stated_pause_s: float = 3600.0


class _Outcome(NamedTuple):
    """One outcome. `failures`: number of failures that it counts for; 0: a success."""

    at_s: float
    request_id: str
    failures: int = 0


_FAILURES = (Fault.PLACEMENT, Fault.ABSENT, Fault.ACCOUNT)


class Breaker:
    """The breaker of one placement. Times are those of the caller's monotonic clock.

    Attributes:
        reason: cause of the last opening or pause, as text for operators.
        fault: party at fault for the last opening or pause.
        opened_s: start of the last opening or pause; -inf: none.
    """

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self._limits = limits or BreakerLimits()
        self._recent: deque[_Outcome] = deque(maxlen=self._limits.outcomes)
        self.opened_s = float("-inf")
        self._opened_by = ""
        self._until_s: float | None = None
        self._broken = False
        self._trial_due = False
        self._trial: str | None = None
        self._openings = 0
        self._pauses = 0
        self.reason = ""
        self.fault = Fault.NONE

    def __repr__(self) -> str:
        return f"<Breaker until {self._until_s}, {self._openings} openings: {self.reason}>"

    def phase(self, now: float) -> BreakerPhase:
        """The state at `now`."""
        if self._until_s is not None and now < self._until_s:
            return BreakerPhase.OPEN if self._broken else BreakerPhase.PAUSED
        return BreakerPhase.HALF_OPEN if self._trial_due else BreakerPhase.CLOSED

    def broken(self, now: float) -> bool:
        """Whether waiting for the placement is of no use: open, or half open while a trial runs."""
        if not self._broken:
            return False
        return self.phase(now) is BreakerPhase.OPEN or self._trial is not None

    def admits(self, now: float) -> bool:
        """Whether a request may start there now."""
        match self.phase(now):
            case BreakerPhase.CLOSED:
                return True
            case BreakerPhase.HALF_OPEN:
                return self._trial is None
            case _:
                return False

    def next_change_s(self, now: float) -> float | None:
        """Time at which an opening or a pause ends; None if there is none."""
        return self._until_s if self._until_s is not None and now < self._until_s else None

    def count_start(self, request_id: str, now: float) -> None:
        """Records that an admitted request has started."""
        if self.phase(now) is BreakerPhase.HALF_OPEN:
            self._trial = request_id

    def count_end(
        self,
        request_id: str,
        *,
        started_s: float,
        ok: bool,
        fault: Fault,
        retry_after_s: float | None,
        detail: str,
        now: float,
    ) -> None:
        """Counts the end of an attempt. An end that is neither `ok` nor a fault of the placement
        changes nothing."""
        is_trial = self._trial == request_id
        if is_trial:
            self._trial = None
        if fault is Fault.BUSY:
            self._pause(started_s, retry_after_s, detail, now)
        elif fault in _FAILURES:
            self._recent.append(_Outcome(now, request_id, failures=1))
            # An attempt that started before the opening gives no new evidence.
            if is_trial or (started_s >= self.opened_s and self._too_many(fault, now)):
                self.open(fault, detail, request_id, now)
        elif ok:
            self._count_answer(request_id, is_trial, started_s, now)

    def count_answer(self, request_id: str, started_s: float, now: float) -> None:
        """Counts an answer."""
        is_trial = self._trial == request_id
        if is_trial:
            self._trial = None
        self._count_answer(request_id, is_trial, started_s, now)

    def _count_answer(self, request_id: str, is_trial: bool, started_s: float, now: float) -> None:
        if self._trial_due and not is_trial:
            return
        self._recent.append(_Outcome(now, request_id))
        if started_s >= self.opened_s:
            self._pauses = 0
        if is_trial:
            self.close()

    def count_rejection(self, request_id: str, failures: int, detail: str, now: float) -> None:
        """Counts a rejection that another placement has refuted, as this many failures."""
        self._recent.append(_Outcome(now, request_id, failures))
        phase = self.phase(now)
        failed_trial = phase is BreakerPhase.HALF_OPEN
        if failed_trial or (phase is BreakerPhase.CLOSED and self._too_many(Fault.REJECTED, now)):
            self.open(Fault.REJECTED, detail, request_id, now)

    def is_trial(self, request_id: str) -> bool:
        """Whether this request is the trial that runs."""
        return self._trial == request_id

    def take_back(self, request_id: str) -> None:
        """Forgets the failure of a request that was itself the cause, and the opening that it
        caused."""
        kept = (outcome for outcome in self._recent if outcome.request_id != request_id)
        self._recent = deque(kept, maxlen=self._limits.outcomes)
        if self._opened_by == request_id and self._broken:
            self._until_s, self._opened_by = None, ""
            self._openings -= 1
            # After a trial that was taken back, the next request is the trial.
            self._broken = self._trial_due = self._openings > 0

    def close(self) -> None:
        """Closes the breaker and forgets failures, because a trial or a probe has shown that the
        placement works."""
        self._recent.clear()
        self._until_s = self._trial = None
        self._broken = self._trial_due = False
        self._openings = self._pauses = 0

    def _too_many(self, fault: Fault, now: float) -> bool:
        if fault is Fault.ACCOUNT:
            return True
        limits = self._limits
        recent = [o.failures for o in self._recent if now - o.at_s <= limits.window_s]
        failures = sum(recent)
        total = failures + recent.count(0)
        return failures >= limits.failures and failures >= limits.failed_share * total

    @property
    def is_idle(self) -> bool:
        """Whether the breaker is closed and remembers no outcome."""
        return self._until_s is None and not self._recent and not self._trial_due

    def forget_old(self, now: float) -> None:
        """Forgets outcomes that no longer count, and an opening after which no trial came."""
        limits = self._limits
        while self._recent and now - self._recent[0].at_s > limits.window_s:
            self._recent.popleft()
        untried = self._until_s is not None and self._trial is None
        if untried and now - (self._until_s or 0.0) > limits.longest_open_s:
            self.close()

    def open(self, fault: Fault, detail: str, request_id: str, now: float) -> None:
        """Opens the breaker. `request_id`: the request whose end is the last proof."""
        limits = self._limits
        first_s = limits.account_open_s if fault is Fault.ACCOUNT else limits.first_open_s
        self._shut(now, min(limits.longest_open_s, first_s * 2.0 ** min(self._openings, 16)))
        self._openings += 1
        self._broken = self._trial_due = True
        self._recent.clear()
        self.reason, self.fault, self._opened_by = detail, fault, request_id

    def _pause(
        self, started_s: float, retry_after_s: float | None, detail: str, now: float
    ) -> None:
        limits = self._limits
        # A burst that met the same limit counts as one pause: requests sent before the pause began
        # give no new evidence.
        fresh = started_s >= self.opened_s
        if fresh:
            self._pauses += 1
            self._broken = False
            many = self._pauses >= limits.pauses_before_trial
            cut = retry_after_s is not None and retry_after_s > limits.longest_stated_pause_s
            self._trial_due = self._trial_due or many or cut
        length_s = retry_after_s
        if length_s is None:
            length_s = limits.first_pause_s * 2.0 ** min(self._pauses - 1, 16) if fresh else 0.0
            length_s = min(limits.longest_pause_s, length_s)
        else:
            length_s = min(length_s, limits.longest_stated_pause_s)
            length_s = max(length_s, limits.first_pause_s) if fresh else length_s
        self._shut(now, length_s, anew=fresh)
        self.reason, self.fault, self._opened_by = detail, Fault.BUSY, ""

    def _shut(self, now: float, length_s: float, *, anew: bool = True) -> None:
        if anew:
            self.opened_s = now
        self._until_s = max(self._until_s or 0.0, now + length_s)
