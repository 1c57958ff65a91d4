"""What a front tells when it comes back: what it runs, and what has ended since it was last heard.

The scheduler may be the one that the front was joined to before, or a new one that knows nothing.
Times are seconds before the moment of sending; those of requests travel as in every submission.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.scheduling.budget_admission import Reservation
from gateway.scheduling.resumption import RememberedKey
from scheduler.contract import AttemptOutcome, Start
from scheduler.limits.rate_limit import RateLevel
from scheduler.port import AttemptEnd, RequestEnded, Submission

AGAIN = (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED)
"""Outcomes after which the branch waits for another attempt, unless it is abandoned."""


class Standing(enum.StrEnum):
    """How a branch stands at its front."""

    WAITING = "waiting"
    """It waits for its first or its next attempt."""
    RUNNING = "running"
    OVER = "over"
    """It was refused, or its last attempt has ended."""
    WITHDRAWN = "withdrawn"
    """It was taken back before its first answer. It has reached no upstream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """An attempt that has ended, which is not known to be booked."""

    start: Start
    started_ago_s: float
    end: AttemptEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchState:
    """A branch.

    Attributes:
        number: names it in answers.
        start, started_ago_s, output_tokens: of the attempt that runs.
        ended: attempts that are not known to be booked.
        had_attempts: an attempt has started.
        counted: the prompt was counted, as `CountPrompt` asked, with the result `prompt_tokens`.
    """

    number: int
    submission: Submission
    standing: Standing
    start: Start | None = None
    started_ago_s: float = 0.0
    output_tokens: int = 0
    ended: tuple[EndedAttempt, ...] = ()
    had_attempts: bool = False
    counted: bool = False
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestState:
    """A client's request.

    Attributes:
        branches: the original is the first.
        admitted: it holds its claims and budgets; else it is submitted as a new one.
        attempts: started so far, over all branches.
        charged: what attempts that are booked were charged, nano-USD; None: unknown.
        may_have_output: the client may have received output.
        ended: its end, if the request has ended.
    """

    branches: tuple[BranchState, ...]
    admitted: bool
    attempts: int
    charged: tuple[int | None, ...]
    reservation: Reservation | None
    may_have_output: bool
    ended: RequestEnded | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Ends what a front tells on joining.

    Attributes:
        reports: number of the last report that is included.
        slots: slots of keys that it holds, by key id.
        remembered: idempotency keys of its requests that have ended; of a witness, of others too.
        levels: rates of keys as a witness was told them.
        fleet_version: of the newest fleet view that it has seen; `serving` and `drained` are of it.
        serving: placements in service.
        drained: placements and replicas that an operator has drained.
    """

    reports: int
    slots: Mapping[str, int]
    remembered: tuple[RememberedKey, ...] = ()
    levels: tuple[RateLevel, ...] = ()
    fleet_version: int = 0
    serving: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontCopy:
    """A part of what the leader's own front has, as another front keeps it for the next leader.

    Attributes:
        front: incarnation of the front.
        term: of the leader.
        ago_s: since the leader has told the newest part.
        begins: what was told of the front before is out of date.
        complete: with this part everything was told.
        requests: those that are new, or have changed.
        progress: number of a branch, its attempt and output tokens.
        over: requests of which nothing is left to book, by the number of their original branch.
    """

    front: str
    term: int
    ago_s: float = 0.0
    begins: bool = False
    complete: bool = False
    requests: tuple[RequestState, ...] = ()
    progress: tuple[tuple[int, int, int], ...] = ()
    over: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """Names an attempt of a request that began so long ago at most."""

    request_id: str
    key_id: str
    attempt: int
    started_ago_s: float


def attempt_keys(state: RequestState) -> list[AttemptKey]:
    """Returns the attempts of a request that may be booked already."""
    found = []
    for branch in state.branches:
        request = branch.submission.request
        attempts = [(each.start, each.started_ago_s) for each in branch.ended]
        if branch.start is not None and branch.standing is Standing.RUNNING:
            attempts.append((branch.start, branch.started_ago_s))
        # The ledger has all attempts under the id of the client's request.
        original_id = branch.submission.original_id
        found += [
            AttemptKey(original_id, request.key_id, start.attempt, ago_s)
            for start, ago_s in attempts
        ]
    return found
