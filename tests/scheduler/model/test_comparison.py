"""The party at fault, for one model: what an end says of the request and of other placements."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from scheduler.blame.quarantine import Strike
from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Fault,
    RefusalReason,
    Refuse,
    Request,
    Start,
)
from scheduler.core import Scheduler
from tests.scheduler.reload_made import EU, local, remote, scheduler, state_of
from tests.scheduler.requests_made import request


def made(name: str, key: str = "k", **fields: Any) -> Request:
    return structs.replace(request(name, key_id=key, remote_classes=EU), **fields)


def begin(core: Scheduler, asked: Request, now: float) -> Start:
    [action] = core.submit(asked, now)
    assert isinstance(action, Start), action
    return action


def finish(
    core: Scheduler,
    start: Start,
    now: float,
    fault: Fault = Fault.NONE,
    outcome: AttemptOutcome | None = None,
) -> Any:
    ok = AttemptOutcome.OK if fault is Fault.NONE else AttemptOutcome.RETRYABLE
    end = AttemptEnded(
        request_id=start.request_id,
        attempt=start.attempt,
        outcome=outcome or ok,
        fault=fault,
        detail="it broke",
        output_tokens=10 if fault is Fault.NONE else None,
    )
    actions = core.handle(end, now)
    return actions[0] if actions else None


def serve_others(core: Scheduler, now: float, count: int = 3) -> None:
    for number in range(count):
        start = begin(core, made(f"honest {number} {now}", "honest"), now)
        finish(core, start, now)


def test_the_failures_of_a_request_that_is_the_cause_are_taken_back() -> None:
    core = scheduler(local("a", slots=8), local("b", slots=8), local("c", slots=8))
    serve_others(core, 0.0)
    first = begin(core, made("poison", fingerprint=1), 1.0)
    second = finish(core, first, 1.1, Fault.PLACEMENT)
    assert isinstance(second, Start)
    assert state_of(core, first.placement).error_share > 0.0
    told = finish(core, second, 1.2, Fault.PLACEMENT)
    assert isinstance(told, Refuse)
    assert (told.reason, told.retry_after_s) == (RefusalReason.QUARANTINED, None)
    assert {state.error_share for state in core.placements} == {0.0}
    for name in (first.placement, second.placement):
        assert not len(core._admission._admission[name].breakers._kinds["k", ""]._recent)
    [again] = core.submit(made("again", fingerprint=1), 2.0)
    assert isinstance(again, Refuse)
    assert again.reason is RefusalReason.QUARANTINED
    begin(core, made("of another key", "other", fingerprint=1), 2.0)


def test_a_request_that_waits_is_refused_when_its_like_is_put_into_quarantine() -> None:
    core = scheduler(local("a"))
    runs = begin(core, made("runs", "honest"), 0.0)
    waiting = made("waits", fingerprint=1)
    assert core.submit(waiting, 0.0) == ()
    for name in ("x", "y"):
        strike = Strike(
            placement=name,
            request_id="other",
            at_s=0.0,
            outcome=1,
            serves_others=True,
            detail="",
        )
        core._quarantine.record_strike(waiting, strike, 0.0)
    told = finish(core, runs, 0.1)
    assert isinstance(told, Refuse)
    assert (told.request_id, told.reason) == ("waits", RefusalReason.QUARANTINED)
    assert core.queued_requests == 0


def test_only_another_own_server_is_asked_about_a_rejection() -> None:
    core = scheduler(local("a", slots=8), remote("far"))
    start = begin(core, made("r"), 0.0)
    assert not start.compare, "a remote is other software, and is paid for"
    told = finish(core, start, 0.1, Fault.REJECTED)
    assert isinstance(told, Refuse)
    assert told.reason is RefusalReason.ATTEMPTS_EXHAUSTED


def test_a_cut_after_content_is_a_strike_as_well() -> None:
    """The client's retries of a stream that broke off do not kill one server each."""
    core = scheduler(*(local(name, slots=8) for name in "abcd"))
    serve_others(core, 0.0, 8)
    places = set()
    for number in range(2):
        start = begin(core, made(f"r{number}", fingerprint=1), 1.0 + number)
        places.add(start.placement)
        finish(core, start, 1.5 + number, Fault.PLACEMENT, AttemptOutcome.FAILED)
        serve_others(core, 1.6 + number, 4)
    assert len(places) == 2
    [told] = core.submit(made("again", fingerprint=1), 4.0)
    assert isinstance(told, Refuse)
    assert told.reason is RefusalReason.QUARANTINED


def test_a_timeout_is_no_strike() -> None:
    core = scheduler(local("a", slots=8), local("b", slots=8))
    serve_others(core, 0.0, 4)
    first = begin(core, made("slow", fingerprint=1), 1.0)
    second = finish(core, first, 1.1, Fault.ABSENT)
    assert isinstance(second, Start)
    told = finish(core, second, 1.2, Fault.ABSENT)
    assert isinstance(told, Refuse)
    assert told.reason is RefusalReason.ATTEMPTS_EXHAUSTED
    assert told.retry_after_s is not None


def test_where_every_account_is_refused_no_retry_is_suggested() -> None:
    core = scheduler(remote("far"))
    start = begin(core, made("r"), 0.0)
    told = finish(core, start, 0.1, Fault.ACCOUNT)
    assert isinstance(told, Refuse)
    assert told.retry_after_s is None


def test_retries_of_one_broken_server_are_kept_apart() -> None:
    core = scheduler(*(local(name, slots=8) for name in "abcd"))
    starts = [begin(core, made(f"r{number}"), 0.0) for number in range(12)]
    broken = [start for start in starts if start.placement == "a"]
    assert len(broken) == 3
    moved = [finish(core, start, 0.1, Fault.PLACEMENT) for start in broken]
    assert sorted(start.placement for start in moved) == ["b", "c", "d"]
