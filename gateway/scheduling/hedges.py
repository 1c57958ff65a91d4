"""Starts hedges: second branches beside slow ones, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import structs

from gateway.scheduling.branches import Branches, ClaimedRequest
from gateway.scheduling.claims import no_hedge
from gateway.scheduling.views import same_failure_domain
from scheduler.limits.retry_budget import RetryBudget, RetryLimits
from scheduler.placement_state import Placement
from scheduler.port import Deliver, Submission


class Hedges:
    """`budget`: how many hedges may start, as a share of the requests."""

    def __init__(self, branches: Branches, limits: RetryLimits, clock: Callable[[], float]) -> None:
        self.budget = RetryBudget(limits)
        self._branches = branches
        self._clock = clock

    def start(
        self,
        claimed: ClaimedRequest,
        submission: Submission,
        deliver: Deliver,
        facts: Mapping[str, Placement],
    ) -> None:
        """Starts a hedge at once on another placement, outside the failure domain of the first, or
        refuses it."""
        request = submission.request
        if not self.budget.take(self._clock()):
            deliver(no_hedge(request, "the budget of hedges is used up"))
            return
        avoided = same_failure_domain(facts, submission.beside) | {submission.beside}
        request = structs.replace(request, unsupported_by=request.unsupported_by | avoided)
        submission = structs.replace(submission, request=request)
        branch = self._branches.submit(claimed, submission, deliver, may_wait=False)
        if not branch.decided:  # a queued hedge is useless
            self._branches.withdraw(request.request_id)
            deliver(no_hedge(request, "no other placement could start it at once"))
