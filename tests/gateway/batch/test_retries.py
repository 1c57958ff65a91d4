"""What lets an item run again."""

from __future__ import annotations

import pytest

from gateway.batch.running.retries import Retry, retry_of
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from scheduler.contract import RefusalReason, Usage

ROOM = {
    "queue_full", "shed", "queue_timeout", "deadline", "unavailable", "request_in_flight",
    "idempotency_key_used", "key_limit", "budget_held", "budget_unchecked",
}  # fmt: skip


@pytest.mark.parametrize("reason", RefusalReason)
def test_a_refusal_for_want_of_room_passes(reason: RefusalReason) -> None:
    found = retry_of(RequestRefused(reason, "text", retry_after_s=2.0))
    if reason is RefusalReason.MAX_COST:
        assert found == Retry(for_budget=True)
    elif reason is RefusalReason.ATTEMPTS_EXHAUSTED:
        assert found == Retry(2.0, is_failure=True)
    else:
        assert found == (Retry(2.0) if reason.value in ROOM else None)


@pytest.mark.parametrize(
    ("kind", "may"),
    [
        (FailureKind.SERVER_ERROR, True),
        (FailureKind.CONNECT, True),
        (FailureKind.BAD_REQUEST, False),
        (FailureKind.CONTEXT_LENGTH, False),
    ],
)
def test_a_failure_of_a_server_is_tried_again_and_a_fault_of_the_request_is_not(
    kind: FailureKind, may: bool
) -> None:
    assert retry_of(UpstreamFailure(kind, "text")) == (Retry(is_failure=True) if may else None)


def test_an_answer_that_broke_off_is_a_failure() -> None:
    failure = UpstreamFailure(FailureKind.SERVER_ERROR, "text")
    partial = PartialOutput(failure, Usage(prompt_tokens=1, completion_tokens=1), None)
    assert retry_of(partial) == Retry(is_failure=True)
