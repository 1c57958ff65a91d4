"""Every refusal and every failure has a status and a word about retries."""

from __future__ import annotations

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.doors.http.errors import ErrorKind, from_outcome
from scheduler.contract import RefusalReason, Usage

REFUSALS = {
    RefusalReason.QUEUE_FULL: (503, True),
    RefusalReason.SHED: (503, True),
    RefusalReason.QUEUE_TIMEOUT: (503, True),
    RefusalReason.DEADLINE: (504, False),
    RefusalReason.TOO_LONG: (400, False),
    RefusalReason.UNKNOWN_MODEL: (404, False),
    RefusalReason.NO_PLACEMENT_ALLOWED: (400, False),
    RefusalReason.UNAVAILABLE: (503, True),
    RefusalReason.ATTEMPTS_EXHAUSTED: (503, True),
    RefusalReason.QUARANTINED: (400, False),
    RefusalReason.PERMISSION_DENIED: (403, False),
    RefusalReason.OUT_OF_BOUNDS: (400, False),
    RefusalReason.REQUEST_IN_FLIGHT: (409, False),
    RefusalReason.IDEMPOTENCY_KEY_USED: (409, False),
    RefusalReason.KEY_LIMIT: (429, True),
    RefusalReason.BUDGET_SPENT: (429, False),
    RefusalReason.BUDGET_HELD: (429, True),
    RefusalReason.BUDGET_UNCHECKED: (503, True),
    RefusalReason.PRICE_UNKNOWN: (429, False),
    RefusalReason.MAX_COST: (429, False),
}
FAILURES = {
    FailureKind.CONNECT: (503, True),
    FailureKind.BUSY: (503, True),
    FailureKind.BAD_REQUEST: (400, False),
    FailureKind.MODEL_NOT_FOUND: (502, False),
    FailureKind.ADAPTER_NOT_FOUND: (503, True),
    FailureKind.CREDENTIALS: (502, False),
    FailureKind.CREDIT: (502, False),
    FailureKind.CONTEXT_LENGTH: (400, False),
    FailureKind.CONTENT_FILTER: (400, False),
    FailureKind.SERVER_ERROR: (503, True),
    FailureKind.PROTOCOL: (503, True),
    FailureKind.TIMEOUT: (503, True),
    FailureKind.EMPTY: (503, True),
    FailureKind.QUARANTINED: (400, False),
    FailureKind.DEADLINE: (504, False),
}


@pytest.mark.parametrize("reason", RefusalReason)
def test_every_refusal(reason: RefusalReason) -> None:
    retry_s = 1.5 if REFUSALS[reason][1] else None
    error = from_outcome(RequestRefused(reason, "why", retry_after_s=retry_s))
    assert (error.status, error.may_retry) == REFUSALS[reason]
    assert (error.retry_after_s, error.message) == (retry_s, "why")
    assert error.code


@pytest.mark.parametrize("reason", [RefusalReason.UNAVAILABLE, RefusalReason.KEY_LIMIT])
def test_a_refusal_that_no_retry_can_mend_says_so(reason: RefusalReason) -> None:
    assert not from_outcome(RequestRefused(reason, "why")).may_retry


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure(kind: FailureKind) -> None:
    error = from_outcome(UpstreamFailure(kind, "why"))
    assert (error.status, error.may_retry) == FAILURES[kind]
    assert error.message == "why"


def test_what_broke_off_after_content_is_not_to_be_sent_again() -> None:
    failure = UpstreamFailure(FailureKind.SERVER_ERROR, "gone")
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    error = from_outcome(PartialOutput(failure, usage, None))
    assert (error.kind, error.code, error.may_retry) == (
        ErrorKind.UPSTREAM,
        "partial_output",
        False,
    )


def test_fields_that_nobody_honours_are_named() -> None:
    refused = RequestRefused(
        RefusalReason.NO_PLACEMENT_ALLOWED, "why", fields=("logprobs", "sampling.top_k")
    )
    error = from_outcome(refused)
    assert error.param == "logprobs"
    assert "sampling.top_k: no server" in error.message
