"""Breaker, rates and learnt slots of each placement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.rate_limit import RateLimits
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement
from tests.scheduler.requests_made import request

FAR = Placement(
    name="far", kind=PlacementKind.REMOTE, model="moe", max_running=4, remote_class="eu"
)
OWN = Placement(name="own", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1)


def run(
    admission: PlacementAdmission,
    name: str,
    now: float,
    *,
    fault: Fault = Fault.NONE,
    tokens: int | None = None,
) -> None:
    """One attempt that starts and ends at `now`."""
    admission.record_start(name, request("r"), now)
    outcome = AttemptOutcome.OK if fault is Fault.NONE else AttemptOutcome.RETRYABLE
    end = AttemptEnded(
        request_id="r", attempt=1, outcome=outcome, detail="why", fault=fault, output_tokens=tokens
    )
    admission.record_end(name, "r", end, now)


def test_a_server_of_its_own_takes_what_its_engine_takes() -> None:
    admission = PlacementAdmission([OWN])
    for i in range(5):
        assert admission.admits("own", request(f"r{i}"), 0.0)
        admission.record_start("own", request(f"r{i}"), 0.0)
    report = admission.report("own", 0.0)
    assert (report.phase, report.reason, report.slots) == (BreakerPhase.CLOSED, "", None)


def test_an_open_breaker_lets_nothing_pass_and_tells_when_it_will() -> None:
    admission = PlacementAdmission([OWN, FAR])
    run(admission, "own", 0.0, fault=Fault.ACCOUNT)
    assert admission.broken("own", 1.0)
    assert not admission.closed("own", 1.0)
    assert not admission.admits("own", request("x"), 1.0)
    assert admission.report("own", 1.0).reason == "why"
    assert admission.next_change_s(1.0) == 60.0
    assert admission.all_broken(["own", "far"], 1.0) is None
    broken = admission.all_broken(["own"], 1.0)
    assert broken is not None
    assert (broken.reason, broken.retry_after_s) == ("why", 59.0)
    admission.close_breaker("own")
    assert admission.admits("own", request("x"), 1.0)
    assert admission.next_change_s(1.0) is None


def test_a_rate_counts_what_an_attempt_used_in_the_end() -> None:
    limits = RateLimits(tokens_per_minute=300)
    admission = PlacementAdmission([replace(FAR, send_limits=limits)])
    assert admission.admits("far", request("x"), 0.0)  # 100 prompt tokens and 100 of output
    run(admission, "far", 0.0)
    assert not admission.admits("far", request("x"), 0.0)
    assert admission.opens_s("far", request("x"), 0.0) == pytest.approx(60.0)
    admission = PlacementAdmission([replace(FAR, send_limits=limits)])
    run(admission, "far", 0.0, tokens=10)
    assert admission.admits("far", request("x"), 0.0)


def test_asking_changes_nothing() -> None:
    limits = RateLimits(requests_per_minute=1)
    admission = PlacementAdmission([replace(FAR, send_limits=limits)])
    for now in (0.0, 10.0, 20.0):
        assert admission.admits("far", request("x"), now)
    run(admission, "far", 20.0)
    for now in (20.0, 41.3, 79.9):
        assert not admission.admits("far", request("x"), now)
    assert admission.admits("far", request("x"), 80.0)


def test_a_request_that_is_larger_than_the_rate_never_passes() -> None:
    admission = PlacementAdmission([replace(FAR, send_limits=RateLimits(tokens_per_minute=100))])
    assert not admission.admits("far", request("x"), 0.0)
    assert admission.opens_s("far", request("x"), 0.0) is None
    with pytest.raises(ValueError, match="tokens_per_minute"):
        admission.record_start("far", request("x"), 0.0)


def test_changed_bounds_keep_what_was_learnt() -> None:
    admission = PlacementAdmission([FAR])
    admission.change(replace(FAR, max_running=8))
    assert admission.report("far", 0.0).slots == 8, "nothing had cut them"
    for i in range(4):
        admission.record_start("far", request(f"r{i}"), 0.0)
    busy = AttemptEnded(
        request_id="r0", attempt=1, outcome=AttemptOutcome.RETRYABLE, fault=Fault.BUSY
    )
    admission.record_end("far", "r0", busy, 1.0)
    assert admission.report("far", 1.0).slots == 2
    admission.change(replace(FAR, max_running=9))
    assert admission.report("far", 1.0).slots == 2


def test_a_new_server_behind_a_name_starts_with_a_closed_breaker() -> None:
    admission = PlacementAdmission([OWN])
    admission.record_start("own", request("old"), 0.0)
    run(admission, "own", 0.0, fault=Fault.ACCOUNT)
    admission.restart(OWN)
    assert admission.admits("own", request("x"), 1.0)
    failed = AttemptEnded(
        request_id="old", attempt=1, outcome=AttemptOutcome.RETRYABLE, fault=Fault.ACCOUNT
    )
    admission.record_end("own", "old", failed, 2.0)
    assert admission.closed("own", 2.0), "what ran on the former server says nothing of this one"


def test_the_end_of_an_attempt_on_a_removed_placement_is_ignored() -> None:
    admission = PlacementAdmission([FAR])
    admission.record_start("far", request("r"), 0.0)
    admission.remove("far")
    admission.record_end("far", "r", None, 1.0)
    admission.add(FAR)
    admission.record_end("far", "r", None, 1.0)
    assert admission.report("far", 1.0).slots == 4


def busy(admission: PlacementAdmission, name: str, retry_after_s: float, now: float) -> None:
    """An attempt that the placement refuses for load."""
    admission.record_start(name, request("busy"), now)
    end = AttemptEnded(
        request_id="busy",
        attempt=1,
        outcome=AttemptOutcome.RETRYABLE,
        detail="HTTP 503",
        fault=Fault.BUSY,
        retry_after_s=retry_after_s,
    )
    admission.record_end(name, "busy", end, now)


def test_a_server_of_its_own_pauses_half_a_minute_at_most_and_is_then_tried() -> None:
    admission = PlacementAdmission([OWN, FAR])
    for name in ("own", "far"):
        busy(admission, name, 3600.0, 0.0)
        assert admission.report(name, 29.9).phase is BreakerPhase.PAUSED
    assert admission.report("own", 30.0).phase is BreakerPhase.HALF_OPEN
    assert admission.report("far", 3599.0).phase is BreakerPhase.PAUSED
    assert admission.report("far", 3600.0).phase is BreakerPhase.CLOSED
    run(admission, "own", 30.0)
    assert admission.report("own", 30.0).phase is BreakerPhase.CLOSED


def test_a_short_pause_of_a_server_of_its_own_is_kept_as_it_is() -> None:
    admission = PlacementAdmission([OWN])
    busy(admission, "own", 9.0, 0.0)
    assert admission.report("own", 8.9).phase is BreakerPhase.PAUSED
    assert admission.report("own", 9.0).phase is BreakerPhase.CLOSED


def test_a_remote_gets_its_requests_per_minute_in_every_minute_and_not_twice_in_the_first() -> None:
    limits = RateLimits(requests_per_minute=10)
    admission = PlacementAdmission([replace(FAR, send_limits=limits)])
    sent = []
    for tick in range(600):
        now = tick * 0.2
        if admission.admits("far", request("r"), now):
            run(admission, "far", now)
            sent.append(now)
    assert len([at_s for at_s in sent if at_s < 60.0]) == 10
    assert len(sent) == 20
