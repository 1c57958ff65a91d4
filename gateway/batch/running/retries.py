"""Whether an item that failed runs again.

An item has time: what ends an interactive request for want of room only lets an item wait, up to
the deadline of its job. What failed although it ran is tried a few times. A fault of the item
itself is final.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.domain.failures import UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from scheduler.contract import Fault, RefusalReason

MOST_FAILURES = 3
"""Runs of an item that may end in a failure of a server."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
"""Time before an item without a hint is tried again, doubled each time."""
_ROOM = frozenset(
    {
        RefusalReason.QUEUE_FULL,
        RefusalReason.SHED,
        RefusalReason.QUEUE_TIMEOUT,
        RefusalReason.DEADLINE,
        RefusalReason.UNAVAILABLE,
        RefusalReason.REQUEST_IN_FLIGHT,
        RefusalReason.IDEMPOTENCY_KEY_USED,
        RefusalReason.KEY_LIMIT,
        RefusalReason.BUDGET_HELD,
        RefusalReason.BUDGET_UNCHECKED,
    }
)
"""Refusals that pass: for want of room, or for a while."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The item may run again. `is_failure`: it counts for `MOST_FAILURES`; `for_budget`: the share
    of the job's budget that it was given did not suffice; `after_s`: hint, None: none."""

    after_s: float | None = None
    is_failure: bool = False
    for_budget: bool = False


def retry_of(error: RequestRefused | PartialOutput | UpstreamFailure) -> Retry | None:
    """Whether an item that ended so may run again; None: it may not."""
    match error:
        case RequestRefused(reason=RefusalReason.MAX_COST):
            return Retry(for_budget=True)
        case RequestRefused(reason=RefusalReason.ATTEMPTS_EXHAUSTED):
            return Retry(error.retry_after_s, is_failure=True)
        case RequestRefused():
            return Retry(error.retry_after_s) if error.reason in _ROOM else None
        case PartialOutput(failure=failure):
            return Retry(failure.retry_after_s, is_failure=True)
        case UpstreamFailure():
            may = error.retryable and error.fault is not Fault.REQUEST
            return Retry(error.retry_after_s, is_failure=True) if may else None


def wait_s(tries: int, hint_s: float | None) -> float:
    """Seconds before the next run. `tries`: runs so far, from 1."""
    own = FIRST_WAIT_S * 2.0 ** min(tries - 1, 10)
    return min(LONGEST_WAIT_S, max(own, hint_s or 0.0))
