"""What a front does without a scheduler: who may wait for one, how long, and what is said then."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.link.sent import Ended, SentBranch
from gateway.link.wire.resume import Standing
from scheduler.contract import RefusalReason, Refuse, Request
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import settle
from scheduler.port import RETRY_AFTER_S, Settled

SWEEP_S = 0.05
"""Time between two looks at what waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayLimits:
    """Bounds while there is no scheduler.

    Attributes:
        requests: most requests that wait for one.
        tenant_share: part of them that one tenant may be.
        calls: most other questions that wait.
        call_s: longest wait of a question, with a scheduler or without.
        account_s: longest wait of an ended attempt for its account.
    """

    requests: int = 1024
    tenant_share: float = 0.5
    calls: int = 10_000
    call_s: float = 5.0
    account_s: float = 2.0


def has_room(branches: Iterable[SentBranch], tenant: str, limits: AwayLimits) -> bool:
    """Whether another request of the tenant may wait beside `branches`."""
    waiting = [branch for branch in branches if branch.standing is Standing.WAITING]
    mine = sum(branch.submission.request.tenant == tenant for branch in waiting)
    most = max(1, int(limits.tenant_share * limits.requests))
    return len(waiting) < limits.requests and mine < most


def expired(branch: SentBranch, now: float) -> bool:
    """Whether the branch has waited for a placement as long as it may."""
    request = branch.submission.request
    if branch.standing is not Standing.WAITING:
        return False
    return now >= min(request.deadline_s, request.arrival_s + request.slo.max_queue_s)


def unavailable(request: Request) -> Refuse:
    """The refusal of a request for which there is no scheduler."""
    return Refuse(
        request_id=request.request_id,
        reason=RefusalReason.UNAVAILABLE,
        message="the scheduler cannot be reached now",
        retry_after_s=RETRY_AFTER_S,
    )


def unknown_account(request: Request, ended: Ended) -> Settled:
    """The account of an attempt that is booked later: its tokens are known, its cost is not."""
    end = ended.end
    now_unix_s = time.time()
    return Settled(
        attempt=settle(
            request,
            ended.start,
            rate_snapshot=RateSnapshot(),
            pool=ended.start.pool,
            outcome=end.outcome,
            committed=end.committed,
            usage=end.usage,
            metered=None,
            started_unix_s=now_unix_s - end.duration_s,
            ended_unix_s=now_unix_s,
            may_be_continued=end.may_be_continued,
        )
    )
