"""What the clients of the demo saw: every request once, by its outcome.

`submitted` counts where a request is sent, the outcomes where it ends: that the two agree is what
the demo shows, not what this module makes so.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

WINDOW_S = 10.0
"""Latencies of the live table: those of the last seconds."""


class Outcome(enum.StrEnum):
    """How a request ended."""

    OK_LOCAL = "ok on own servers"
    OK_REMOTE = "ok on a remote"
    REFUSED = "refused"
    CANCELLED = "cancelled by its client"
    BROKEN = "broken after content"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One request, over.

    Attributes:
        why: code and reason of what is not ok.
        placement: the pool and replica, or the remote, that `done` names.
        reason: why there, as `done` says.
        prompt_tokens, cached_tokens, output_tokens: as the usage of `done` says; 0 without one.
        nano_usd: what it cost, as `done` says; None: not known.
        deltas: messages with content that were received.
        most_tokens: limit of output that was asked for.
        ttft_s, tpot_s: as the client measured them; None without such tokens.
    """

    outcome: Outcome
    slo_class: str
    sent_s: float
    at_s: float
    why: str = ""
    placement: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int | None = None
    deltas: int = 0
    most_tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(slots=True)
class Tally:
    """Counts and latencies. `deltas` counts messages with content of all requests so far."""

    submitted: int = 0
    deltas: int = 0
    ended: list[Ended] = field(default_factory=list)
    _recent: deque[Ended] = field(default_factory=deque)

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return self.submitted - len(self.ended)

    def end(self, ended: Ended) -> None:
        """Takes the end of a request."""
        self.ended.append(ended)
        self._recent.append(ended)

    def of(self, *outcomes: Outcome) -> list[Ended]:
        """Requests that ended so."""
        return [ended for ended in self.ended if ended.outcome in outcomes]

    def count(self, *outcomes: Outcome) -> int:
        """How many requests ended so."""
        return len(self.of(*outcomes))

    def reasons(self, outcome: Outcome) -> Counter[str]:
        """Why requests ended so, and how many each."""
        return Counter(ended.why for ended in self.of(outcome))

    def overflowed(self, now: float) -> list[Ended]:
        """Requests that a remote answered in the last `WINDOW_S`."""
        return [ended for ended in self.recent(now) if ended.outcome is Outcome.OK_REMOTE]

    def recent(self, now: float) -> list[Ended]:
        """Requests that ended in the last `WINDOW_S`."""
        while self._recent and self._recent[0].at_s < now - WINDOW_S:
            self._recent.popleft()
        return list(self._recent)


def percentile_s(values: Iterable[float | None], percent: float) -> float | None:
    """A percentile of the values that are there; None when there are none."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, percent)) if known else None
