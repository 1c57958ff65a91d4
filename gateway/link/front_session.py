"""What one front has at the scheduler: branches, claims and slots.

A front may only speak of its own requests. When it is lost, everything that it has is ended:
waiting branches are cancelled, running attempts are settled from what was last told of them, and
claims and slots are freed. So nothing leaks, and what the engines were asked to do is in the
ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.link.messages import ANSWERS, Kind, PromptCounted
from gateway.scheduling.claims import request_in_flight
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.contract import AttemptOutcome, Fault, Progress, Refuse, Usage
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    AttemptEnd,
    BranchKind,
    RequestEnded,
    SlotFreed,
    Started,
    Submission,
)

Send = Callable[[Kind, int, Any], None]
LOST = "the gateway process that ran the request was lost"


@dataclass(slots=True, kw_only=True, eq=False)
class _Owned:
    """A client's request of this front."""

    submission: Submission
    branches: list[_Branch] = field(default_factory=list)
    may_have_output: bool = False
    """Whether the client may have received output."""
    seen_tokens: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Branch:
    """A branch of this front. `attempt`: number of the running attempt; 0: none runs."""

    number: int
    owned: _Owned
    submission: Submission
    attempt: int = 0
    started_s: float = 0.0
    output_tokens: int = 0
    reserving: asyncio.Task[None] | None = None
    """The reservation in budgets that its submission waits for."""


class FrontSession:
    """The session of one front, from its connection to its loss."""

    def __init__(
        self, scheduler: InProcessScheduler, send: Send, clock: Callable[[], float]
    ) -> None:
        """`send` sends an answer to the front. `clock`: monotonic seconds."""
        self._scheduler = scheduler
        self._send = send
        self._clock = clock
        self._requests: dict[str, _Owned] = {}
        self._branches: dict[str, _Branch] = {}
        """Branches by their request id."""
        self._numbers: dict[int, _Branch] = {}
        self._slots: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_lost = False

    @property
    def requests(self) -> int:
        """Number of client requests that the front has."""
        return len(self._requests)

    def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        return self._scheduler.claims.take_request(key_id, limits, self._clock())

    def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        refusal = self._scheduler.claims.take_slot(key_id, limits)
        if refusal is None:
            self._slots[key_id] += 1
        return refusal

    def submit(self, number: int, submission: Submission) -> None:
        """Submits a branch. `number` names it in the answers."""
        request = submission.request
        if submission.kind is BranchKind.ORIGINAL:
            owned = _Owned(submission=submission)
        else:
            found = self._requests.get(submission.original_id)
            if found is None:  # ended, or another front's
                self._send(Kind.REFUSE, number, request_in_flight(request))
                return
            owned = found
        if request.request_id in self._branches:
            self._send(Kind.REFUSE, number, request_in_flight(request))
            return
        branch = _Branch(number=number, owned=owned, submission=submission)
        self._add(branch)
        claimed = self._scheduler.begin(submission, partial(self._deliver, branch))
        if claimed is not None:
            branch.reserving = self._run(self._scheduler.reserve(claimed))

    def prompt_counted(self, message: PromptCounted) -> None:
        """See `SchedulerPort`."""
        branch = self._branches.get(message.request_id)
        if branch is not None:
            branch.reserving = self._run(
                self._scheduler.prompt_counted(message.request_id, message.prompt_tokens)
            )

    def withdraw(self, number: int) -> None:
        """Takes back a branch whose submission was cancelled."""
        branch = self._numbers.get(number)
        if branch is None:
            return
        request_id = branch.submission.request.request_id
        if branch.submission.kind is BranchKind.ORIGINAL:
            self._forget(branch.owned)
            ended = RequestEnded(request_id=request_id, used_tokens=0, keep_idempotency_key=False)
            self._after_reservation(branch, lambda: self._scheduler.send(ended))
        else:
            branch.owned.branches.remove(branch)
            self._drop(branch)
            self._scheduler.withdraw(request_id)

    def record_progress(self, message: Progress) -> None:
        """Reports the progress of a branch."""
        branch = self._branches.get(message.request_id)
        if branch is None or branch.attempt != message.attempt:
            return
        branch.output_tokens = max(branch.output_tokens, message.output_tokens)
        branch.owned.may_have_output |= not branch.submission.request.whole_answer
        self._scheduler.send(message)

    def end_attempt(self, message: AttemptEnd) -> None:
        """Reports the end of an attempt."""
        branch = self._branches.get(message.request_id)
        if branch is None or branch.attempt != message.attempt:
            return
        self._attempt_ended(branch, message.output_tokens)
        branch.owned.may_have_output |= message.committed or message.outcome is AttemptOutcome.OK
        self._scheduler.send(message)

    def end_request(self, message: RequestEnded) -> None:
        """Reports the end of a request."""
        owned = self._requests.get(message.request_id)
        if owned is not None:
            self._forget(owned)
            self._scheduler.send(message)

    def free_slot(self, message: SlotFreed) -> None:
        """Gives back a slot that the front has taken."""
        if self._slots[message.key_id] > 0:
            self._slots[message.key_id] -= 1
            self._scheduler.send(message)

    def lose(self) -> None:
        """Ends everything that the front has, because it is gone. Nothing is sent any more."""
        self._is_lost = True
        requests = list(self._requests.values())
        # Waiting branches first, so that none of them starts in the room that a running one leaves.
        for branch in self._branches.values():
            if not branch.attempt:
                self._scheduler.withdraw(branch.submission.request.request_id)
        for owned in requests:
            self._lose_request(owned)
        for key_id, slots in self._slots.items():
            for _ in range(slots):
                self._scheduler.send(SlotFreed(key_id=key_id))
        self._slots.clear()

    # Internals.

    def _add(self, branch: _Branch) -> None:
        submission = branch.submission
        if submission.kind is BranchKind.ORIGINAL:
            self._requests[submission.request.request_id] = branch.owned
        branch.owned.branches.append(branch)
        self._branches[submission.request.request_id] = branch
        self._numbers[branch.number] = branch

    def _drop(self, branch: _Branch) -> None:
        self._branches.pop(branch.submission.request.request_id, None)
        self._numbers.pop(branch.number, None)

    def _forget(self, owned: _Owned) -> None:
        self._requests.pop(owned.submission.request.request_id, None)
        for branch in owned.branches:
            self._drop(branch)

    def _deliver(self, branch: _Branch, answer: Answer) -> None:
        """Passes an answer of the scheduler on to the front."""
        match answer:
            case Started(start=start):
                branch.attempt, branch.output_tokens = start.attempt, 0
                branch.started_s = self._clock()
            case Refuse(reason=reason) if reason in NOT_ADMITTED:
                if branch.submission.kind is BranchKind.ORIGINAL:
                    self._forget(branch.owned)
            case _:
                pass
        if not self._is_lost:
            self._send(ANSWERS[type(answer)], branch.number, answer)

    def _attempt_ended(self, branch: _Branch, output_tokens: int) -> None:
        branch.attempt = 0
        tokens = branch.submission.request.prompt_tokens + output_tokens
        branch.owned.seen_tokens = max(branch.owned.seen_tokens, tokens)

    def _lose_request(self, owned: _Owned) -> None:
        self._forget(owned)
        for branch in owned.branches:
            if branch.attempt:
                self._scheduler.send(self._lost_end(branch))
                self._attempt_ended(branch, branch.output_tokens)
        ended = RequestEnded(
            request_id=owned.submission.request.request_id,
            used_tokens=owned.seen_tokens,
            keep_idempotency_key=owned.may_have_output,
        )
        self._after_reservation(owned.branches[0], lambda: self._scheduler.send(ended))

    def _lost_end(self, branch: _Branch) -> AttemptEnd:
        """The end of an attempt of which nothing more will be told. Its usage is what was told."""
        request = branch.submission.request
        if not request.whole_answer:
            # The client may have output of the last moments, of which no progress was told.
            branch.owned.may_have_output = True
        return AttemptEnd(
            request_id=request.request_id,
            attempt=branch.attempt,
            outcome=AttemptOutcome.FAILED,
            detail=LOST,
            usage=Usage(
                prompt_tokens=request.prompt_tokens,
                completion_tokens=branch.output_tokens,
                estimated=True,
            ),
            reported=False,
            committed=branch.output_tokens > 0 and not request.whole_answer,
            may_be_continued=False,
            abandoned=False,
            duration_s=self._clock() - branch.started_s,
            first_token_s=None,
            ttft_s=None,
            tpot_s=None,
            output_tokens=branch.output_tokens,
            fault=Fault.NONE,
            retry_after_s=None,
        )

    def _run(self, reservation: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(reservation)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _after_reservation(self, branch: _Branch, end: Callable[[], None]) -> None:
        """Cancels a reservation that runs, and calls `end` afterwards. A cancelled reservation
        frees what it holds, unless it had not begun."""
        if branch.reserving is None or branch.reserving.done():
            end()
        else:
            branch.reserving.add_done_callback(lambda _: end())
            branch.reserving.cancel()
