"""Results of the requests as the demo's clients saw them, one for each request.

`submitted` is counted where a request is sent, its outcome where it ends. The demo checks that both
counts agree.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

WINDOW_S = 10.0
"""The live table has the latencies of this period."""


class Outcome(enum.StrEnum):
    """How a request ended."""

    OK_LOCAL = "ok on own servers"
    OK_REMOTE = "ok on a remote"
    REFUSED = "refused"
    CANCELLED = "cancelled by its client"
    BROKEN = "broken after content"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """The result of one request.

    Attributes:
        code: gRPC status code if the call did not end with OK, else empty.
        error: what went wrong, for a reader; empty if nothing did.
        placement: pool and replica, or remote, from the route of `done`.
        reason: reason of the placement, from the route of `done`.
        prompt_tokens, cached_tokens, output_tokens: from the usage of `done`; 0 without usage.
        nano_usd: metered cost from `done`; None: unknown.
        deltas: messages with content that were received.
        max_output_tokens: limit of the request.
        ttft_s, tpot_s: measured by the client; None without enough tokens.
    """

    outcome: Outcome
    slo_class: str
    sent_s: float
    at_s: float
    code: str = ""
    error: str = ""
    placement: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int | None = None
    deltas: int = 0
    max_output_tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(slots=True)
class ClientResults:
    """All results so far. `deltas`: messages with content of all requests."""

    submitted: int = 0
    deltas: int = 0
    ended: list[RequestResult] = field(default_factory=list)
    _recent: deque[RequestResult] = field(default_factory=deque)

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have not ended."""
        return self.submitted - len(self.ended)

    def end(self, ended: RequestResult) -> None:
        """Records the end of a request."""
        self.ended.append(ended)
        self._recent.append(ended)

    def of(self, *outcomes: Outcome) -> list[RequestResult]:
        """Requests with one of these outcomes."""
        return [ended for ended in self.ended if ended.outcome in outcomes]

    def count(self, *outcomes: Outcome) -> int:
        """Number of requests with one of these outcomes."""
        return len(self.of(*outcomes))

    def errors(self, outcome: Outcome) -> Counter[str]:
        """Errors of the requests with this outcome, with their counts."""
        return Counter(ended.error for ended in self.of(outcome))

    def overflowed(self, now: float) -> list[RequestResult]:
        """Requests that a remote answered in the last `WINDOW_S`."""
        return [ended for ended in self.recent(now) if ended.outcome is Outcome.OK_REMOTE]

    def recent(self, now: float) -> list[RequestResult]:
        """Requests that ended in the last `WINDOW_S`."""
        while self._recent and self._recent[0].at_s < now - WINDOW_S:
            self._recent.popleft()
        return list(self._recent)


def percentile_s(values: Iterable[float | None], percent: float) -> float | None:
    """A percentile of the known values; None without any."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, percent)) if known else None
