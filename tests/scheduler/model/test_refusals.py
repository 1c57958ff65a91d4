"""Why a request is refused when no placement is open to it."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, RefusalReason
from scheduler.model.refusals import UNAVAILABLE_RETRY_S, expired, permitted, why_none_is_open
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement, PlacementState
from tests.scheduler.requests_made import request


def state(name: str = "a", *, serving: bool = True, **fields: Any) -> PlacementState:
    fields = {"kind": PlacementKind.SELF_HOSTED, "model": "moe", "max_running": 1, **fields}
    return PlacementState(Placement(name=name, **fields), serving=serving, reason="no answer")


def refused(*states: PlacementState, **fields: Any) -> tuple[RefusalReason, str, float | None]:
    admission = PlacementAdmission(each.facts for each in states)
    return why_none_is_open(states, admission, request("r", **fields), 0.0)


def test_only_a_remote_class_that_is_allowed_may_see_a_request() -> None:
    far = state("far", kind=PlacementKind.REMOTE, remote_class="eu")
    assert permitted(far, request("r", remote_classes=frozenset({"eu"})))
    assert not permitted(far, request("r", remote_classes=frozenset({"us"})))
    assert permitted(state(), request("r"))
    assert not permitted(state(), request("r", unsupported_by=frozenset({"a"})))
    reason, _, retry_s = refused(far)
    assert (reason, retry_s) == (RefusalReason.NO_PLACEMENT_ALLOWED, None)


def test_a_prompt_beyond_every_context_is_too_long() -> None:
    both = state("a", context_tokens=100), state("b", context_tokens=200)
    reason, message, retry_s = refused(*both, prompt_tokens=200, prompt_tokens_exact=True)
    assert (reason, retry_s) == (RefusalReason.TOO_LONG, None)
    assert message == "200 prompt tokens, the context has 200"


def test_what_has_waited_too_long_is_told_what_it_waited_for() -> None:
    made = request("r", max_queue_s=10.0, deadline_s=1000.0)
    # Also of one that was evicted, and so is older than its class may wait.
    assert expired(made, 25.0, awaits_server=False)[1] == "no room within 10 s (class interactive)"
    assert expired(made, 600.0, awaits_server=True)[1] == "no server has started within 600.0 s"
    assert expired(made, 999.9, awaits_server=True)[0] is RefusalReason.DEADLINE


def test_nothing_in_service_is_worth_another_try_soon() -> None:
    reason, message, retry_s = refused(state(serving=False))
    assert (reason, retry_s) == (RefusalReason.UNAVAILABLE, UNAVAILABLE_RETRY_S)
    assert "no answer" in message


@pytest.mark.parametrize("fault", [Fault.ACCOUNT, Fault.NONE])
def test_open_breakers_tell_why_and_when_they_let_something_pass(fault: Fault) -> None:
    only = state()
    admission = PlacementAdmission([only.facts])
    made = request("r")
    admission.record_start("a", made, 0.0)
    end = AttemptEnded(
        request_id="r", attempt=1, outcome=AttemptOutcome.RETRYABLE, detail="bad key", fault=fault
    )
    admission.record_end("a", "r", end, 1.0)
    reason, message, retry_s = why_none_is_open([only], admission, made, 2.0)
    assert reason is RefusalReason.UNAVAILABLE
    assert ("bad key" in message) is (fault is Fault.ACCOUNT)
    assert retry_s == (59.0 if fault is Fault.ACCOUNT else UNAVAILABLE_RETRY_S)
