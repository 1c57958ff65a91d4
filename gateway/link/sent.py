"""What a front has sent to the scheduler, as the front keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from msgspec import structs

from gateway.link.wire.messages import Kind, with_durations
from gateway.link.wire.resume import BranchState, EndedAttempt, RequestState, Standing
from gateway.scheduling.budget_admission import Reservation
from scheduler.contract import Start
from scheduler.port import AttemptEnd, Deliver, RequestEnded, SlotFreed, Submission


@dataclass(slots=True, eq=False)
class Ended:
    """An attempt that has ended. `told`: the pipeline has an account of it. `booked`: the
    scheduler's account has come, with this charge. `received`: its end has taken effect."""

    start: Start
    started_s: float
    ended_s: float
    end: AttemptEnd
    told: bool = False
    booked: bool = False
    charged_nano_usd: int | None = None
    received: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class SentBranch:
    """A branch that was submitted. `answered`: resolved by its first answer."""

    number: int
    submission: Submission
    deliver: Deliver
    answered: asyncio.Future[None]
    request: SentRequest
    standing: Standing = Standing.WAITING
    start: Start | None = None
    started_s: float = 0.0
    output_tokens: int = 0
    ended: list[Ended] = field(default_factory=list)
    count_asked: bool = False
    counted: bool = False
    prompt_tokens: int | None = None
    told: bool = False
    """Whether the scheduler of the present connection was told of it."""

    def runs(self, attempt: int) -> bool:
        """Whether the attempt with this number runs."""
        running = self.standing is Standing.RUNNING and self.start is not None
        return running and self.start is not None and self.start.attempt == attempt


@dataclass(slots=True, kw_only=True, eq=False)
class SentRequest:
    """A client's request."""

    branches: list[SentBranch] = field(default_factory=list)
    admitted: bool = False
    attempts: int = 0
    charged: list[int | None] = field(default_factory=list)
    reservation: Reservation | None = None
    may_have_output: bool = False
    ended: RequestEnded | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """A report. `number`: of the message; of a withdrawn submission that of the branch."""

    number: int
    kind: Kind
    message: AttemptEnd | RequestEnded | SlotFreed | int
    request: SentRequest | None = None
    branch: SentBranch | None = None
    ended: Ended | None = None

    @property
    def message_number(self) -> int:
        """Number that its message has on the wire: of a withdrawal that of the branch."""
        return self.message if isinstance(self.message, int) else self.number


@dataclass(slots=True)
class Changes:
    """What has changed since it was told last. `progress`: branches with more output."""

    requests: set[SentRequest] = field(default_factory=set)
    progress: set[SentBranch] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.requests or self.progress)


def request_state(request: SentRequest, now: float, *, with_blocks: bool = True) -> RequestState:
    """Returns a request as it is told on joining. `with_blocks`: with the names of the blocks of a
    prompt that waits."""
    return RequestState(
        branches=tuple(_branch_state(branch, now, with_blocks) for branch in request.branches),
        admitted=request.admitted,
        attempts=request.attempts,
        charged=tuple(request.charged),
        reservation=request.reservation,
        may_have_output=request.may_have_output,
        ended=request.ended,
    )


def _branch_state(branch: SentBranch, now: float, with_blocks: bool) -> BranchState:
    asked = with_durations(branch.submission.request, now)
    runs = branch.standing is Standing.RUNNING
    if branch.standing is not Standing.WAITING or not with_blocks:
        # A prompt of a million tokens has a megabyte of names of its blocks.
        asked = structs.replace(asked, prefix_blocks=(), token_blocks=())
    return BranchState(
        number=branch.number,
        submission=structs.replace(branch.submission, request=asked),
        standing=branch.standing,
        start=branch.start if runs else None,
        started_ago_s=now - branch.started_s if runs else 0.0,
        output_tokens=branch.output_tokens if runs else 0,
        ended=tuple(
            EndedAttempt(start=each.start, started_ago_s=now - each.started_s, end=each.end)
            for each in branch.ended
            if not each.received
        ),
        had_attempts=branch.start is not None,
        counted=branch.counted,
        prompt_tokens=branch.prompt_tokens,
    )
