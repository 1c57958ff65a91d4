"""Tracks the branches submitted to the core, and performs the core's actions for them.

A branch is kept until `RequestEnded`. Each branch runs at most one attempt at a time, which the
attempt recorder meters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import structs

from gateway.scheduling.attempt_recorder import AttemptRecorder, OpenAttempt, Resumed
from gateway.scheduling.budget_admission import Reservation
from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    Event,
    Evict,
    Progress,
    Refuse,
    Start,
)
from scheduler.core import Scheduler
from scheduler.decision_record import decision_record
from scheduler.metering.rate_snapshot import NO_RATES, RateSnapshot
from scheduler.metering.settlement import SettledAttempt
from scheduler.model.resumed import RunningAttempt
from scheduler.port import (
    AttemptEnd,
    BranchKind,
    Deliver,
    Settled,
    Started,
    Submission,
    Waiting,
)


class ClaimedRequest(msgspec.Struct, kw_only=True, eq=False):
    """A client's request in progress."""

    submission: Submission
    deliver: Deliver
    budgeted: bool = False
    reservation: Reservation | None = None
    """What it holds of its budgets; None: none applies, or it is not admitted yet."""
    rates: RateSnapshot = NO_RATES
    """Prices at the request's admission."""
    attempts: int = 0
    charge_limit_nano_usd: int | None = None
    """Most that all of its attempts may be charged; None: no limit."""
    charged_nano_usd: int = 0
    branches: list[OpenBranch] = []


class OpenBranch(msgspec.Struct, kw_only=True, eq=False):
    """A branch submitted to the core."""

    claimed: ClaimedRequest
    submission: Submission
    deliver: Deliver
    decided: bool = False
    """Whether the answer to the submission, or to the last attempt's end, was delivered."""
    core_attempt: int = 0
    """The running attempt's number in the core; `number` is its number at the port."""
    number: int = 0
    attempt: OpenAttempt | None = None
    untracked: bool = False
    """The core does not know the running attempt: it was started by an earlier scheduler, on a
    placement that is not configured any more."""


class Branches:
    """Maps port messages to core events and core actions to answers."""

    def __init__(
        self, core: Scheduler, recorder: AttemptRecorder, clock: Callable[[], float]
    ) -> None:
        self._core = core
        self._recorder = recorder
        self._clock = clock
        self._by_id: dict[str, OpenBranch] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def handle(self, event: Event) -> None:
        """Passes an event to the core and performs the resulting actions."""
        self.perform(self._core.handle(event, self._clock()))

    def submit(
        self,
        claimed: ClaimedRequest,
        submission: Submission,
        deliver: Deliver,
        *,
        may_wait: bool = True,
    ) -> OpenBranch:
        """Submits a branch to the core. `may_wait`: report the queue position if the branch is
        queued."""
        branch = OpenBranch(claimed=claimed, submission=submission, deliver=deliver)
        claimed.branches.append(branch)
        self._by_id[submission.request.request_id] = branch
        self.perform(self._core.submit(submission.request, self._clock()))
        if may_wait:
            self._deliver_position(branch)
        return branch

    def resume(
        self,
        claimed: ClaimedRequest,
        submission: Submission,
        deliver: Deliver,
        start: Start,
        *,
        started_s: float,
        output_tokens: int,
    ) -> None:
        """Takes over an attempt that an earlier scheduler has started. `start`: as it was
        delivered; `started_s`: on the clock of this scheduler."""
        branch = self._resumed(claimed, submission, deliver)
        branch.decided, branch.core_attempt, branch.number = True, start.attempt, start.attempt
        request = submission.request
        running = RunningAttempt(
            request=request,
            placement=start.placement,
            attempt=start.attempt,
            started_s=started_s,
            output_tokens=output_tokens,
        )
        branch.untracked = not self._core.resume(running, self._clock())
        branch.attempt = self._recorder.begin(
            claimed.submission.request,
            start,
            claimed.rates,
            self._clock(),
            Resumed(output_tokens=output_tokens),
        )

    def wait_again(
        self, claimed: ClaimedRequest, submission: Submission, deliver: Deliver, attempts: int
    ) -> None:
        """Submits a branch that waited at an earlier scheduler. `attempts`: that it has had."""
        branch = self._resumed(claimed, submission, deliver)
        self.perform(self._core.submit(submission.request, self._clock(), attempts=attempts))
        self._deliver_position(branch)

    def book(self, claimed: ClaimedRequest, start: Start, end: AttemptEnd) -> SettledAttempt:
        """Settles an attempt that an earlier scheduler has started, and that ended while there was
        none."""
        resumed = Resumed(is_over=True)
        request = claimed.submission.request
        attempt = self._recorder.begin(request, start, claimed.rates, self._clock(), resumed)
        return self._settle(claimed, attempt, end)

    def withdraw(self, request_id: str) -> None:
        """Cancels a branch that waits, or whose attempt has not reached its upstream, and forgets
        it. An unknown one is ignored."""
        branch = self._by_id.pop(request_id, None)
        if branch is None:
            return
        branch.claimed.branches.remove(branch)
        if branch.attempt is not None:
            branch.attempt.discard(self._clock())
        self.handle(Cancelled(request_id=request_id))

    def record_progress(self, progress: Progress) -> None:
        """Records new tokens. Progress of an ended attempt is ignored."""
        branch = self._by_id.get(progress.request_id)
        if branch is None or branch.attempt is None or branch.number != progress.attempt:
            return
        now = self._clock()
        branch.attempt.record_progress(progress.output_tokens, now)
        if progress.attempt != branch.core_attempt:
            progress = structs.replace(progress, attempt=branch.core_attempt)
        if actions := self._core.handle(progress, now):
            self.perform(actions)

    def end_attempt(self, end: AttemptEnd) -> None:
        """Settles an attempt and reports its end to the core. A second end is ignored."""
        branch = self._by_id.get(end.request_id)
        if branch is None or branch.attempt is None or branch.number != end.attempt:
            return
        attempt, branch.attempt = branch.attempt, None
        branch.decided = False
        branch.deliver(Settled(attempt=self._settle(branch.claimed, attempt, end)))
        outcome = AttemptOutcome.FAILED if end.abandoned else end.outcome
        usage = end.usage if end.reported else None
        self.handle(
            AttemptEnded(
                request_id=end.request_id,
                attempt=branch.core_attempt,
                outcome=outcome,
                detail=end.detail,
                prompt_tokens=None if usage is None else usage.prompt_tokens,
                cached_tokens=None if usage is None else usage.cached_tokens,
                output_tokens=None if usage is None else usage.completion_tokens,
                fault=end.fault,
                retry_after_s=end.retry_after_s,
            )
        )
        if outcome in (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED):
            if branch.untracked:
                branch.untracked = False
                request = branch.submission.request
                self.perform(self._core.submit(request, self._clock(), attempts=end.attempt))
            self._deliver_position(branch)

    def end_all(self, claimed: ClaimedRequest) -> None:
        """Cancels the branches of an ended request that still run or wait."""
        for branch in claimed.branches:
            del self._by_id[branch.submission.request.request_id]
            if branch.attempt is not None:
                branch.attempt.discard(self._clock())
        # Waiting branches first, so that none of them starts in the room that a running one leaves.
        for branch in sorted(claimed.branches, key=lambda branch: branch.attempt is not None):
            # Has no effect if the core has already seen the end: a refusal, or the last attempt's
            # end.
            self.handle(Cancelled(request_id=branch.submission.request.request_id))

    def perform(self, actions: Iterable[Action]) -> None:
        """Delivers the core's actions to their branches."""
        for action in actions:
            branch = self._by_id.get(action.request_id)
            if branch is None:
                continue
            match action:
                case Evict():
                    if branch.attempt is not None and action.attempt == branch.core_attempt:
                        branch.deliver(structs.replace(action, attempt=branch.number))
                case Refuse():
                    branch.decided = True
                    branch.deliver(action)
                case Start():
                    self._start(branch, action)

    def _resumed(
        self, claimed: ClaimedRequest, submission: Submission, deliver: Deliver
    ) -> OpenBranch:
        branch = OpenBranch(claimed=claimed, submission=submission, deliver=deliver)
        claimed.branches.append(branch)
        self._by_id[submission.request.request_id] = branch
        return branch

    def _settle(
        self, claimed: ClaimedRequest, attempt: OpenAttempt, end: AttemptEnd
    ) -> SettledAttempt:
        limit = claimed.charge_limit_nano_usd
        left = None if limit is None else max(0, limit - claimed.charged_nano_usd)
        settled = attempt.settle(end, self._clock(), charge_limit_nano_usd=left)
        claimed.charged_nano_usd += settled.charged_nano_usd or 0
        return settled

    def _start(self, branch: OpenBranch, start: Start) -> None:
        claimed, submission = branch.claimed, branch.submission
        claimed.attempts += 1
        branch.decided = True
        branch.core_attempt, branch.number = start.attempt, claimed.attempts
        if start.attempt != claimed.attempts:
            start = structs.replace(start, attempt=claimed.attempts)
        if submission.kind is BranchKind.HEDGE:
            start = structs.replace(start, reason=f"hedge: {start.reason}")
        branch.attempt = self._recorder.begin(
            claimed.submission.request, start, claimed.rates, self._clock()
        )
        decision = None
        if submission.wants_decision:
            found = self._core.decisions.get(start.request_id)
            decision = None if found is None else decision_record(found, lists=False)
        branch.deliver(Started(start=start, decision=decision))

    def _deliver_position(self, branch: OpenBranch) -> None:
        if not branch.decided:
            request_id = branch.submission.request.request_id
            branch.deliver(Waiting(request_id=request_id, position=self._core.queued_requests))
