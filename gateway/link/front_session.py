"""What one front has at the scheduler: branches, claims and slots.

A front may only speak of its own requests. Its session outlives a broken connection for a while
(`session_resumption.py`). When the front is lost, everything that it has is ended: waiting branches
are cancelled, running attempts are settled from what was last told of them, and claims and slots
are freed. So nothing leaks, and what the engines were asked to do is in the ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from gateway.link.owned import NO_BOOKING, Booking, OwnedBranch, OwnedRequest, Send
from gateway.link.wire.messages import ANSWERS, Kind, PromptCounted
from gateway.link.wire.resume import AGAIN
from gateway.scheduling.claims import request_in_flight
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.contract import AttemptOutcome, Evict, Fault, Progress, Refuse, Usage
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    AttemptEnd,
    BranchKind,
    CountPrompt,
    RequestEnded,
    Settled,
    SlotFreed,
    Started,
    Submission,
    Waiting,
)

LOST = "the gateway process that ran the request was lost"


class FrontSession:
    """The session of one front, from its connection to its loss."""

    def __init__(
        self,
        scheduler: InProcessScheduler,
        send: Send,
        clock: Callable[[], float],
        booking: Booking = NO_BOOKING,
    ) -> None:
        """`send` sends an answer to the front. `clock`: monotonic seconds."""
        self.scheduler = scheduler
        self._send: Send | None = send
        self._clock = clock
        self._booking = booking
        self.requests: dict[str, OwnedRequest] = {}
        """By the id of their original branch."""
        self.branches: dict[str, OwnedBranch] = {}
        """By their request id."""
        self.numbers: dict[int, OwnedBranch] = {}
        self.slots: Counter[str] = Counter()
        self._awaited: set[int] = set()
        """Branches that are submitted once requests are admitted."""
        self._reports: deque[tuple[int, int]] = deque()
        """Reports that are not acknowledged: number, and the ledger's rows after it."""
        self._progress: dict[str, Progress] = {}
        """The newest of each branch that the scheduler has not been told of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_lost = False
        self.has_resumed = False
        """Whether the front has told what it has."""

    def attach(self, send: Send) -> None:
        """The front has another connection."""
        self._send = send

    def detach(self) -> None:
        """The connection of the front is broken. Answers are kept as far as `resume` needs them."""
        self._send = None

    def send(self, kind: Kind, number: int, payload: Any) -> None:
        """Sends a message to the front, if it is connected."""
        if self._send is not None:
            self._send(kind, number, payload)

    def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        return self.scheduler.claims.take_request(key_id, limits, self._clock())

    def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        refusal = self.scheduler.claims.take_slot(key_id, limits)
        if refusal is None:
            self.slots[key_id] += 1
        return refusal

    def begin_resume(self) -> None:
        """The front tells anew what it has: what was to be submitted later counts no more."""
        self._awaited.clear()

    def submit_later(self, number: int, submission: Submission) -> Callable[[], None]:
        """Returns what submits a branch later, unless it is withdrawn before."""
        self._awaited.add(number)

        def submit_awaited() -> None:
            if number in self._awaited:
                self._awaited.discard(number)
                self.submit(number, submission, again=True)

        return submit_awaited

    def submit(self, number: int, submission: Submission, *, again: bool = False) -> None:
        """Submits a branch. `number` names it in the answers. One that is known is ignored.
        `again`: see `Claims.claim`."""
        request = submission.request
        if number in self.numbers:
            return
        if submission.kind is BranchKind.ORIGINAL:
            owned = OwnedRequest(submission=submission)
        else:
            found = self.requests.get(submission.original_id)
            if found is None:  # ended, or another front's
                self.send(Kind.REFUSE, number, request_in_flight(request))
                return
            owned = found
        if request.request_id in self.branches:
            self.send(Kind.REFUSE, number, request_in_flight(request))
            return
        branch = OwnedBranch(number=number, owned=owned, submission=submission)
        self.add(branch)
        claimed = self.scheduler.begin(submission, partial(self.deliver, branch), again=again)
        if claimed is not None:
            owned.claimed = claimed
            branch.reserving = self._run(self.scheduler.reserve(claimed))

    def prompt_counted(self, message: PromptCounted) -> None:
        """See `SchedulerPort`."""
        branch = self.branches.get(message.request_id)
        # A count that comes again after a broken connection is no answer to a new question.
        if branch is not None and isinstance(branch.decision, CountPrompt):
            branch.decision = None
            branch.reserving = self._run(
                self.scheduler.prompt_counted(message.request_id, message.prompt_tokens)
            )

    def reported(self, number: int) -> None:
        """A report with this number has taken effect here."""
        if number:
            self._reports.append((number, self._booking.accepted_rows))
            self.acknowledge()

    def acknowledge(self) -> None:
        """Tells the front which reports it need not keep: those whose rows are durable."""
        last, durable = 0, self._booking.durable_rows
        while self._reports and self._reports[0][1] <= durable:
            last, _ = self._reports.popleft()
        if last and self._send is not None:
            self._send(Kind.RECEIVED, last, None, key="received")

    def withdraw(self, number: int) -> None:
        """Takes back a branch whose submission was cancelled."""
        self._awaited.discard(number)
        branch = self.numbers.get(number)
        if branch is None:
            return
        request_id = branch.submission.request.request_id
        if branch.submission.kind is BranchKind.ORIGINAL:
            self._forget(branch.owned)
            ended = RequestEnded(request_id=request_id, used_tokens=0, keep_idempotency_key=False)
            self._after_reservation(branch, lambda: self.scheduler.send(ended))
        else:
            branch.owned.branches.remove(branch)
            self._drop(branch)
            self.scheduler.withdraw(request_id)

    def record_progress(self, message: Progress) -> None:
        """Takes the progress of a branch. The scheduler is told at once of a first token, whose
        time counts, and else by `tell_progress`."""
        branch = self.branches.get(message.request_id)
        if branch is None or branch.attempt != message.attempt:
            return
        is_first = not branch.output_tokens
        branch.output_tokens = max(branch.output_tokens, message.output_tokens)
        branch.owned.may_have_output |= not branch.submission.request.whole_answer
        if is_first:
            self.scheduler.send(message)  # ignored if the scheduler does not run it
        else:
            self._progress[message.request_id] = message

    def tell_progress(self) -> None:
        """Tells the scheduler what progress came since the last call. To be called for all fronts
        together: a scheduler that hears of one after another decides on a part of the truth in
        between, which costs a fleet at its limit several points of its SLO (docs/overhead.md)."""
        messages, self._progress = self._progress, {}
        for message in messages.values():
            branch = self.branches.get(message.request_id)
            if branch is not None and branch.attempt == message.attempt:
                self.scheduler.send(message)

    def end_attempt(self, message: AttemptEnd) -> None:
        """Reports the end of an attempt."""
        branch = self.branches.get(message.request_id)
        if branch is None or branch.attempt != message.attempt:
            return
        self._attempt_ended(branch, message.output_tokens)
        if message.committed or message.outcome is AttemptOutcome.OK:
            branch.owned.may_have_output = True
            if not branch.owned.stray:
                self.scheduler.claims.record_output(branch.owned.submission)
        if branch.booked is None and not branch.owned.stray:
            self.scheduler.send(message)
        else:
            self._end_unknown(branch, message)

    def _end_unknown(self, branch: OwnedBranch, end: AttemptEnd) -> None:
        """Answers the end of an attempt that the scheduler does not run."""
        owned, resumption = branch.owned, self.scheduler.resumption
        assert owned.claimed is not None
        assert branch.start is not None
        settled, branch.booked = branch.booked, None
        if settled is None:
            settled = resumption.book(owned.claimed, branch.start, end)
        self.deliver(branch, Settled(attempt=settled))
        if end.abandoned or end.outcome not in AGAIN:
            return
        if owned.stray:
            self.refuse_stray(branch)
        else:
            deliver = partial(self.deliver, branch)
            resumption.wait(owned.claimed, branch.submission, deliver, end.attempt)

    def refuse_stray(self, branch: OwnedBranch) -> None:
        """Refuses another attempt to a request that holds no claims."""
        self.deliver(branch, request_in_flight(branch.submission.request))

    def end_request(self, message: RequestEnded) -> None:
        """Reports the end of a request."""
        owned = self.requests.get(message.request_id)
        if owned is not None:
            self._forget(owned)
            if not owned.stray:
                # A reservation that still runs would hold a budget for a request that has ended.
                first = owned.branches[0]
                self._after_reservation(first, lambda: self.scheduler.send(message))

    def cancel(self, branch: OwnedBranch) -> None:
        """Takes a branch back, whose request goes on, and which has reached no upstream."""
        branch.attempt, branch.decision = 0, None
        self.scheduler.withdraw(branch.submission.request.request_id)

    def free_slot(self, message: SlotFreed) -> None:
        """Gives back a slot that the front has taken."""
        if self.slots[message.key_id] > 0:
            self.slots[message.key_id] -= 1
            self.scheduler.send(message)

    def lose(self) -> None:
        """Ends everything that the front has, because it is gone. Nothing is sent any more."""
        self.is_lost, self._send = True, None
        requests = list(self.requests.values())
        # Waiting branches first, so that none of them starts in the room that a running one leaves.
        for branch in self.branches.values():
            if not branch.attempt:
                self.scheduler.withdraw(branch.submission.request.request_id)
        for owned in requests:
            self.lose_request(owned)
        for key_id, slots in self.slots.items():
            for _ in range(slots):
                self.scheduler.send(SlotFreed(key_id=key_id))
        self.slots.clear()

    # Internals.

    def add(self, branch: OwnedBranch) -> None:
        """Adds a branch of this front."""
        submission = branch.submission
        if submission.kind is BranchKind.ORIGINAL:
            self.requests[submission.request.request_id] = branch.owned
        branch.owned.branches.append(branch)
        self.branches[submission.request.request_id] = branch
        self.numbers[branch.number] = branch

    def _drop(self, branch: OwnedBranch) -> None:
        self.branches.pop(branch.submission.request.request_id, None)
        self.numbers.pop(branch.number, None)

    def _forget(self, owned: OwnedRequest) -> None:
        self.requests.pop(owned.submission.request.request_id, None)
        for branch in owned.branches:
            self._drop(branch)

    def deliver(self, branch: OwnedBranch, answer: Answer) -> None:
        """Passes an answer of the scheduler on to the front."""
        match answer:
            case Started(start=start):
                branch.resume(start, self._clock(), 0)
                branch.decision = answer
                if not branch.submission.request.whole_answer and not branch.owned.stray:
                    self.scheduler.claims.record_output(branch.owned.submission)
            case Refuse(reason=reason):
                branch.decision = answer
                if reason in NOT_ADMITTED and branch.submission.kind is BranchKind.ORIGINAL:
                    self._forget(branch.owned)
            case Settled():
                branch.settled, branch.decision = answer, None
            case Waiting() | CountPrompt():
                branch.decision = answer
            case Evict():
                pass
        self._tell_reserved(branch)
        self.send(ANSWERS[type(answer)], branch.number, answer)

    def _tell_reserved(self, branch: OwnedBranch) -> None:
        """Tells the front what its request holds of budgets, so that it can tell another
        scheduler."""
        owned = branch.owned
        if owned.reserved or owned.claimed is None or owned.claimed.reservation is None:
            return
        owned.reserved = True
        original = owned.branches[0]
        self.send(Kind.RESERVED, original.number, owned.claimed.reservation)

    @property
    def now(self) -> float:
        """Now on the clock of the scheduler."""
        return self._clock()

    def _attempt_ended(self, branch: OwnedBranch, output_tokens: int) -> None:
        branch.attempt = 0
        self.note_tokens(branch, output_tokens)

    def note_tokens(self, branch: OwnedBranch, output_tokens: int) -> None:
        """Notes the tokens of an attempt, for the limits of the key."""
        tokens = branch.submission.request.prompt_tokens + output_tokens
        branch.owned.seen_tokens = max(branch.owned.seen_tokens, tokens)

    def lose_request(self, owned: OwnedRequest) -> None:
        """Ends a request of which nothing more will be told."""
        for branch in owned.branches:
            if branch.attempt:
                self.end_attempt(self._lost_end(branch))
        self._forget(owned)
        ended = RequestEnded(
            request_id=owned.submission.request.request_id,
            used_tokens=owned.seen_tokens,
            keep_idempotency_key=owned.may_have_output,
        )
        if not owned.stray:
            self._after_reservation(owned.branches[0], lambda: self.scheduler.send(ended))

    def _lost_end(self, branch: OwnedBranch) -> AttemptEnd:
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

    def _after_reservation(self, branch: OwnedBranch, end: Callable[[], None]) -> None:
        """Cancels a reservation that runs, and calls `end` afterwards. A cancelled reservation
        frees what it holds, unless it had not begun."""
        if branch.reserving is None or branch.reserving.done():
            end()
        else:
            branch.reserving.add_done_callback(lambda _: end())
            branch.reserving.cancel()
