"""How a request ends: its account when it ended well, and the errors that end it otherwise."""

from __future__ import annotations

import enum

import msgspec

from gateway.domain.failures import UpstreamFailure
from scheduler.contract import PlacementKind, RefusalReason, Refuse, Usage
from scheduler.metering.settlement import SettledAttempt


class RequestOutcome(enum.StrEnum):
    """How a client's request ended."""

    OK = "ok"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    PARTIAL = "partial"
    """The upstream failed after the client had output."""
    DEADLINE = "deadline"
    FAILED = "failed"


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, over, as the client is told. `started_unix_s`: wall clock, for the reader."""

    placement: str
    outcome: str
    started_unix_s: float
    duration_s: float


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The account of a request that ended well. Times count from its arrival; None: unknown.

    `settled`: the attempt that answered; `broken`: those before it whose output the client has,
    because the answer broke off and was continued. `pool`, `replica`: empty for a remote.
    """

    model: str
    usage: Usage
    settled: SettledAttempt
    broken: tuple[SettledAttempt, ...] = ()
    kind: PlacementKind
    placement: str
    pool: str
    replica: str
    reason: str
    attempts: tuple[AttemptRecord, ...]
    queue_s: float
    ttft_s: float | None
    tpot_s: float | None
    total_s: float


class RequestRefused(Exception):
    """The request is not run, or not tried any more; the client has no output of it.

    Attributes:
        reason: what every door maps to its own status.
        message: for a reader.
        retry_after_s: when it is worth another try; None: never.
        subject: what is exhausted (a budget, a price); else empty.
        other_request_id: the request that has the id or the idempotency key; else empty.
        model: the model that is not served; else empty.
        fields: fields of the request that no server which may run it honours.
    """

    def __init__(
        self,
        reason: RefusalReason,
        message: str,
        *,
        retry_after_s: float | None = None,
        subject: str = "",
        other_request_id: str = "",
        model: str = "",
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.subject = subject
        self.other_request_id = other_request_id
        self.model = model
        self.fields = fields


def refused(refuse: Refuse, fields: tuple[str, ...] = ()) -> RequestRefused:
    """A refusal by the scheduler, as the doors take it."""
    return RequestRefused(
        refuse.reason,
        refuse.message,
        retry_after_s=refuse.retry_after_s,
        subject=refuse.subject,
        other_request_id=refuse.other_request_id,
        fields=fields if refuse.reason is RefusalReason.NO_PLACEMENT_ALLOWED else (),
    )


class PartialOutput(Exception):
    """The upstream failed after the client had output. `usage`: what came until then; `settled`:
    the account of the attempt that broke off; None: not known."""

    def __init__(
        self, failure: UpstreamFailure, usage: Usage, settled: SettledAttempt | None
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.usage = usage
        self.settled = settled
