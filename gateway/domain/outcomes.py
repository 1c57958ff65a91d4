"""Final results of a request: `Finished`, or one of the exceptions that end it early."""

from __future__ import annotations

import enum

import msgspec

from gateway.domain.failures import UpstreamFailure
from scheduler.budgets.budget_window import Window
from scheduler.contract import PlacementKind, RefusalReason, Refuse, Usage
from scheduler.metering.settlement import SettledAttempt


class RequestOutcome(enum.StrEnum):
    """Final state of a client's request, for metrics and logs."""

    OK = "ok"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    PARTIAL = "partial"
    """The upstream failed after the client had received output."""
    DEADLINE = "deadline"
    FAILED = "failed"


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One completed attempt, as reported to the client. `started_unix_s`: Unix seconds."""

    placement: str
    outcome: str
    started_unix_s: float
    duration_s: float


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a request that succeeded. Durations count from its arrival; None: unknown.

    `settled`: the attempt that completed the answer. `broken`: earlier attempts whose partial
    output the client received before the answer was continued. `pool`, `replica`: empty for a
    remote. `missing_choices`: requested choices that the upstream did not make.
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
    longest_gap_s: float | None = None
    """Longest time between two pieces of output; None: there were fewer than two."""
    missing_choices: int = 0
    dp_rank: int | None = None
    """Data-parallel rank of the replica, where one was pinned."""

    @property
    def charged_nano_usd(self) -> int | None:
        """The charge of the answer, earlier attempts that broke off included; None: unknown."""
        parts = [part.charged_nano_usd for part in (self.settled, *self.broken)]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class RequestRefused(Exception):
    """The gateway refuses the request or stops trying. The client has received no output.

    Attributes:
        reason: machine-readable reason. Every door maps it to a status.
        message: text for a person.
        retry_after_s: suggested retry delay in seconds; None: a retry cannot succeed.
        subject: the exhausted budget, the missing price, or the field that is out of bounds;
            empty: none.
        other_request_id: the request that holds the id or the idempotency key; empty: none.
        model: the model that is unknown, or that the key may not use; empty: none.
        fields: request fields that no permitted placement supports.
        window: that of the spent budget; None: none is spent.
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
        window: Window | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.subject = subject
        self.other_request_id = other_request_id
        self.model = model
        self.fields = fields
        self.window = window


def refused(refuse: Refuse, fields: tuple[str, ...] = ()) -> RequestRefused:
    """Converts a refusal of the scheduler into the exception of the pipeline. `fields`: unsupported
    request fields; used only if no placement is allowed."""
    return RequestRefused(
        refuse.reason,
        refuse.message,
        retry_after_s=refuse.retry_after_s,
        subject=refuse.subject,
        other_request_id=refuse.other_request_id,
        fields=fields if refuse.reason is RefusalReason.NO_PLACEMENT_ALLOWED else (),
        window=refuse.window,
    )


class PartialOutput(Exception):
    """The upstream failed after the client had received output.

    Attributes:
        failure: the upstream failure.
        usage: usage up to the failure.
        settled: cost of the failed attempt; None: unknown.
    """

    def __init__(
        self, failure: UpstreamFailure, usage: Usage, settled: SettledAttempt | None
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.usage = usage
        self.settled = settled
