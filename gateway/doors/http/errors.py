"""Every failure as an HTTP error, before a dialect gives it its own shape.

Handlers raise `HttpError`. `from_outcome` has one table from refusal reasons, and one from the
kinds of upstream failures, to statuses.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.doors.entry.refusals import UNTOLD_RETRY_S, CallRefused, not_honoured
from scheduler.budgets.budget_window import Window
from scheduler.contract import RefusalReason

MAX_MESSAGE_CHARS = 1500


class ErrorKind(enum.StrEnum):
    """Kind of an error, from which each dialect chooses its word and, where it differs, its
    status."""

    INVALID = "invalid"
    TOO_LARGE = "too_large"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    RATE_LIMIT = "rate_limit"
    BUDGET = "budget"
    """A spend limit is reached."""
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    UPSTREAM = "upstream"
    """No server could answer."""
    INTERNAL = "internal"
    NOT_SUPPORTED = "not_supported"


_STATUSES = {
    ErrorKind.INVALID: 400,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.AUTHENTICATION: 401,
    ErrorKind.PERMISSION: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.RATE_LIMIT: 429,
    ErrorKind.BUDGET: 429,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.DEADLINE: 504,
    ErrorKind.UPSTREAM: 503,
    ErrorKind.INTERNAL: 500,
    ErrorKind.NOT_SUPPORTED: 501,
}
_MAY_PASS = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.OVERLOADED, ErrorKind.UPSTREAM})
"""Kinds after which the same request may succeed."""


class HttpError(Exception):
    """An answer other than success.

    Attributes:
        kind: kind of the error.
        message: text for a person, with the fix.
        code: machine-readable reason; empty: none.
        param: path of the field at fault; empty: none.
        retry_after_s: seconds after which the same request may succeed; None: it cannot, or nobody
            knows.
        status: HTTP status.
        may_retry: whether a client should send the same request again.
        window: that of the spent budget; None: none is spent.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        code: str = "",
        param: str = "",
        retry_after_s: float | None = None,
        status: int | None = None,
        may_retry: bool | None = None,
        window: Window | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message[:MAX_MESSAGE_CHARS]
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.status = _STATUSES[kind] if status is None else status
        self.may_retry = kind in _MAY_PASS if may_retry is None else may_retry
        self.window = window


def invalid(param: str, message: str, code: str = "") -> HttpError:
    """400: a field is wrong. `message`: the value and the fix."""
    text = f"{param}: {message}" if param else message
    return HttpError(ErrorKind.INVALID, text, param=param, code=code)


def all_invalid(faults: Iterable[tuple[str, str]]) -> HttpError:
    """400: fields are wrong. `faults`: pairs of field path and description with a fix."""
    found = list(faults)
    text = "; ".join(f"{field}: {description}" for field, description in found)
    return HttpError(ErrorKind.INVALID, text, param=found[0][0])


def call_refused(refusal: CallRefused) -> HttpError:
    """429: too many calls are in progress, or the key is at a limit. 503: the scheduler cannot be
    reached."""
    retry_s = refusal.retry_after_s
    return HttpError(
        ErrorKind.OVERLOADED if refusal.unavailable else ErrorKind.RATE_LIMIT,
        refusal.message,
        code=refusal.reason.lower(),
        retry_after_s=retry_s,
        may_retry=retry_s is not None,
    )


def ledger_away() -> HttpError:
    """503: the ledger does not answer, or the tenant has too many reads of it."""
    text = "the ledger does not answer now: call again"
    return HttpError(ErrorKind.UPSTREAM, text, code="ledger", retry_after_s=UNTOLD_RETRY_S)


def internal() -> HttpError:
    """500: a fault of the gateway, which its log explains."""
    return HttpError(ErrorKind.INTERNAL, "the gateway failed: its log says why")


def unread(limit_s: float | None) -> HttpError:
    """The client has not read its stream. It cannot be told, but the telemetry is."""
    text = "the deadline passed during a write" if limit_s is None else f"blocked for {limit_s:g} s"
    return HttpError(ErrorKind.DEADLINE, f"the client does not read its stream: {text}")


def shutting_down() -> HttpError:
    """503: the gateway drains. Another gateway can answer at once."""
    text = "the gateway is shutting down: call again"
    return HttpError(ErrorKind.UPSTREAM, text, code="shutting_down", retry_after_s=0.0)


def from_outcome(error: RequestRefused | PartialOutput | UpstreamFailure) -> HttpError:
    """Converts an exception of the pipeline."""
    match error:
        case RequestRefused():
            return _from_refused(error)
        case PartialOutput():
            late = error.failure.kind is FailureKind.DEADLINE
            return HttpError(
                ErrorKind.DEADLINE if late else ErrorKind.UPSTREAM,
                f"the answer is incomplete: {error.failure.message}",
                code="partial_output",
                may_retry=False,
            )
        case UpstreamFailure():
            return _from_failure(error)


def _from_failure(failure: UpstreamFailure) -> HttpError:
    message, code = failure.message, failure.kind.value
    match failure.kind:
        case FailureKind.BAD_REQUEST:
            param = failure.param.removeprefix("body.")
            return HttpError(ErrorKind.INVALID, message, param=param)
        case FailureKind.CONTEXT_LENGTH:
            return _too_long(message)
        case FailureKind.CONTENT_FILTER:
            return HttpError(ErrorKind.INVALID, message, code=code)
        case FailureKind.DEADLINE:
            return HttpError(ErrorKind.DEADLINE, message, code=code)
        case FailureKind.QUARANTINED:
            return HttpError(ErrorKind.INVALID, message, code=code)
        case FailureKind.CREDENTIALS | FailureKind.CREDIT | FailureKind.MODEL_NOT_FOUND:
            # The gateway's own account or configuration is at fault: no retry mends it.
            told = failure.retry_after_s
            return HttpError(
                ErrorKind.UPSTREAM,
                message,
                code=code,
                status=502,
                retry_after_s=told,
                may_retry=told is not None,
            )
        case _:
            told = failure.retry_after_s
            retry_s = UNTOLD_RETRY_S if told is None else told
            return HttpError(ErrorKind.UPSTREAM, message, code=code, retry_after_s=retry_s)


def _too_long(message: str) -> HttpError:
    return HttpError(ErrorKind.INVALID, message, code="context_length_exceeded")


_KINDS: dict[RefusalReason, ErrorKind] = {
    RefusalReason.QUEUE_FULL: ErrorKind.OVERLOADED,
    RefusalReason.SHED: ErrorKind.OVERLOADED,
    RefusalReason.QUEUE_TIMEOUT: ErrorKind.OVERLOADED,
    RefusalReason.KEY_LIMIT: ErrorKind.RATE_LIMIT,
    RefusalReason.DEADLINE: ErrorKind.DEADLINE,
    RefusalReason.TOO_LONG: ErrorKind.INVALID,
    RefusalReason.UNKNOWN_MODEL: ErrorKind.NOT_FOUND,
    RefusalReason.PERMISSION_DENIED: ErrorKind.PERMISSION,
    RefusalReason.OUT_OF_BOUNDS: ErrorKind.INVALID,
    RefusalReason.NO_PLACEMENT_ALLOWED: ErrorKind.INVALID,
    RefusalReason.UNAVAILABLE: ErrorKind.UPSTREAM,
    RefusalReason.ATTEMPTS_EXHAUSTED: ErrorKind.UPSTREAM,
    RefusalReason.QUARANTINED: ErrorKind.INVALID,
    RefusalReason.BUDGET_UNCHECKED: ErrorKind.UPSTREAM,
    RefusalReason.REQUEST_IN_FLIGHT: ErrorKind.CONFLICT,
    RefusalReason.IDEMPOTENCY_KEY_USED: ErrorKind.CONFLICT,
    RefusalReason.BUDGET_SPENT: ErrorKind.BUDGET,
    RefusalReason.BUDGET_HELD: ErrorKind.RATE_LIMIT,
    RefusalReason.PRICE_UNKNOWN: ErrorKind.BUDGET,
    RefusalReason.MAX_COST: ErrorKind.BUDGET,
}
_CODES = {
    RefusalReason.TOO_LONG: "context_length_exceeded",
    RefusalReason.UNKNOWN_MODEL: "model_not_found",
}
"""Codes that clients know; that of every other reason is its own value."""


def _from_refused(error: RequestRefused) -> HttpError:
    if error.fields:
        return all_invalid((field, not_honoured(field)) for field in error.fields)
    kind = _KINDS[error.reason]
    message = error.message
    if error.subject:
        message = f"{error.subject}: {message}"
    param = error.subject if error.reason is RefusalReason.OUT_OF_BOUNDS else ""
    if error.model:
        param = "model"
    return HttpError(
        kind,
        message,
        code=_CODES.get(error.reason, error.reason.value),
        param=param,
        retry_after_s=error.retry_after_s,
        may_retry=kind in _MAY_PASS and error.retry_after_s is not None,
        window=error.window,
    )
