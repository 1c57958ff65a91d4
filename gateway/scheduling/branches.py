"""Branches that the core has, and the actions that it decides for them.

A branch is kept until `RequestEnded`. Each one runs one attempt at a time, which the recorder
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gateway.scheduling.attempt_recorder import AttemptRecorder, OpenAttempt
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
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.placement_state import Placement
from scheduler.port import (
    AttemptEnd,
    BranchKind,
    Deliver,
    Settled,
    Started,
    Submission,
    Waiting,
)


@dataclass(slots=True, kw_only=True)
class ClaimedRequest:
    """A client's request that has not ended."""

    submission: Submission
    deliver: Deliver
    budgeted: bool = False
    rates: RateSnapshot = field(default_factory=RateSnapshot)
    """Prices at its admission."""
    attempts: int = 0
    branches: list[OpenBranch] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class OpenBranch:
    """A branch that was given to the core."""

    claimed: ClaimedRequest
    submission: Submission
    deliver: Deliver
    decided: bool = False
    """Whether the answer to its submission, or to its last attempt's end, was delivered."""
    core_attempt: int = 0
    """The running attempt as the core counts, and as the port does."""
    number: int = 0
    attempt: OpenAttempt | None = None


class Branches:
    """Performs what the core decides. `placements`: facts of the configured ones, by name."""

    def __init__(
        self, core: Scheduler, recorder: AttemptRecorder, clock: Callable[[], float]
    ) -> None:
        self.placements: Mapping[str, Placement] = {}
        self._core = core
        self._recorder = recorder
        self._clock = clock
        self._by_id: dict[str, OpenBranch] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    def handle(self, event: Event) -> None:
        """Gives the core an event, and performs what it answers."""
        self.perform(self._core.handle(event, self._clock()))

    def submit(
        self,
        claimed: ClaimedRequest,
        submission: Submission,
        deliver: Deliver,
        *,
        may_wait: bool = True,
    ) -> OpenBranch:
        """Gives the core a branch. Unless it `may_wait`, it is not told that it waits."""
        branch = OpenBranch(claimed=claimed, submission=submission, deliver=deliver)
        claimed.branches.append(branch)
        self._by_id[submission.request.request_id] = branch
        self.perform(self._core.submit(submission.request, self._clock()))
        if may_wait:
            self._deliver_position(branch)
        return branch

    def withdraw(self, branch: OpenBranch) -> None:
        """Takes a branch back that waits."""
        request_id = branch.submission.request.request_id
        del self._by_id[request_id]
        branch.claimed.branches.remove(branch)
        self.handle(Cancelled(request_id=request_id))

    def record_progress(self, progress: Progress) -> None:
        """Tokens have come. One of an attempt that is over is ignored."""
        branch = self._by_id.get(progress.request_id)
        if branch is None or branch.attempt is None or branch.number != progress.attempt:
            return
        branch.attempt.record_progress(progress.output_tokens, self._clock())
        self.handle(replace(progress, attempt=branch.core_attempt))

    def end_attempt(self, end: AttemptEnd) -> None:
        """Settles an attempt, and tells the core. One that is over is ignored."""
        branch = self._by_id.get(end.request_id)
        if branch is None or branch.attempt is None or branch.number != end.attempt:
            return
        attempt, branch.attempt = branch.attempt, None
        branch.decided = False
        branch.deliver(Settled(account=attempt.settle(end, self._clock())))
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
            self._deliver_position(branch)

    def end_all(self, claimed: ClaimedRequest) -> None:
        """The client's request is over: what still runs or waits of it is cancelled."""
        for branch in claimed.branches:
            request_id = branch.submission.request.request_id
            del self._by_id[request_id]
            if branch.attempt is not None:
                branch.attempt.discard(self._clock())
            # A no-op where the core has seen the end: a refusal, or the last attempt's.
            self.handle(Cancelled(request_id=request_id))

    def perform(self, actions: Iterable[Action]) -> None:
        """Delivers the core's decisions."""
        for action in actions:
            branch = self._by_id.get(action.request_id)
            if branch is None:
                continue
            match action:
                case Evict():
                    if branch.attempt is not None and action.attempt == branch.core_attempt:
                        branch.deliver(replace(action, attempt=branch.number))
                case Refuse():
                    branch.decided = True
                    branch.deliver(action)
                case Start():
                    self._start(branch, action)

    def _start(self, branch: OpenBranch, start: Start) -> None:
        claimed, submission = branch.claimed, branch.submission
        claimed.attempts += 1
        branch.decided = True
        branch.core_attempt, branch.number = start.attempt, claimed.attempts
        facts = self.placements.get(start.placement)
        start = replace(
            start,
            attempt=claimed.attempts,
            pool="" if facts is None else facts.pool,
            replica="" if facts is None else facts.replica,
        )
        if submission.kind is BranchKind.HEDGE:
            start = replace(start, reason=f"hedge: {start.reason}")
        branch.attempt = self._recorder.begin(
            claimed.submission.request, start, claimed.rates, self._clock()
        )
        decision = None
        if submission.wants_decision:
            decision = self._core.decisions.get(start.request_id)
        branch.deliver(Started(start=start, decision=decision))

    def _deliver_position(self, branch: OpenBranch) -> None:
        if not branch.decided:
            request_id = branch.submission.request.request_id
            branch.deliver(Waiting(request_id=request_id, position=self._core.queued_requests))
