"""The breakers of one placement: one for all requests, and one for each kind."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scheduler.blame.placement_breakers import MAX_KINDS, PlacementBreakers
from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, Request
from scheduler.limits.breaker import BreakerLimits, BreakerPhase
from tests.scheduler.requests_made import request

LIMITS = BreakerLimits()


def made(name: str, key: str = "k", features: str = "chat") -> Request:
    return structs.replace(request(name, key_id=key), features=features)


def run(
    breakers: PlacementBreakers,
    asked: Request,
    now: float,
    fault: Fault = Fault.NONE,
    **fields: Any,
) -> None:
    """One attempt that starts and ends at `now`."""
    breakers.count_start(asked, now)
    outcome = AttemptOutcome.OK if fault is Fault.NONE else AttemptOutcome.RETRYABLE
    given = {"outcome": outcome, "fault": fault, "detail": "why", "output_tokens": 9, **fields}
    end = AttemptEnded(request_id=asked.request_id, attempt=1, **given)
    breakers.count_end(asked, end, now, now)


def fail(breakers: PlacementBreakers, count: int, key: str = "k", features: str = "chat") -> None:
    for number in range(count):
        run(breakers, made(f"{key}{number}", key, features), 0.0, Fault.PLACEMENT)


def test_one_key_is_kept_away_and_others_are_admitted() -> None:
    breakers = PlacementBreakers()
    run(breakers, made("ok", "honest"), 0.0)
    fail(breakers, LIMITS.failures)
    assert not breakers.admits(made("x"), 1.0)
    assert breakers.broken(made("x"), 1.0) is not None
    assert breakers.admits(made("x", "honest"), 1.0)
    assert breakers.broken(made("x", "honest"), 1.0) is None
    assert breakers.shown(1.0) is breakers.whole, "it serves others"
    assert not breakers.closed(1.0)
    trial = made("trial")
    assert breakers.admits(trial, LIMITS.first_open_s)
    run(breakers, trial, LIMITS.first_open_s)
    assert breakers.closed(LIMITS.first_open_s)


def test_operators_see_a_breaker_that_leaves_nobody() -> None:
    breakers = PlacementBreakers()
    fail(breakers, LIMITS.failures)
    assert breakers.shown(1.0).phase(1.0) is BreakerPhase.OPEN
    assert breakers.whole.phase(1.0) is BreakerPhase.CLOSED


def test_several_keys_open_the_breaker_of_all_requests() -> None:
    breakers = PlacementBreakers()
    for key in ("a", "b", "c"):
        fail(breakers, 2, key)
    assert breakers.whole.phase(1.0) is BreakerPhase.OPEN
    assert not breakers.admits(made("x", "new"), 1.0)


def test_rejections_that_others_refute_open_it_and_an_answer_closes_it() -> None:
    breakers = PlacementBreakers()
    for number in range(2):
        asked = made(f"r{number}")
        run(breakers, asked, 0.0, Fault.REJECTED)
        assert breakers.admits(made("x"), 0.0)
        breakers.count_taken_elsewhere(asked, 0.0)
    assert breakers.whole.phase(1.0) is BreakerPhase.OPEN
    assert breakers.whole.reason == "why: another placement took the same request"
    trial = made("trial")
    run(breakers, trial, 5.0, Fault.REJECTED)
    breakers.count_taken_elsewhere(trial, 5.1)
    assert breakers.whole.next_change_s(6.0) == 15.1, "the trial failed: twice as long"
    run(breakers, made("good"), 15.1)
    assert breakers.whole.phase(16.0) is BreakerPhase.CLOSED


def test_an_empty_answer_is_no_proof_that_the_placement_works() -> None:
    breakers = PlacementBreakers()
    run(breakers, made("r"), 0.0, output_tokens=0)
    assert not breakers.trust.has_answered("chat", 0.0)
    assert not breakers.evidence.has_success(0.0)
    run(breakers, made("s"), 0.0, output_tokens=None)
    assert breakers.trust.has_answered("chat", 0.0), "tokens that are not reported are not none"


def test_the_opening_that_a_bad_request_caused_is_taken_back() -> None:
    breakers = PlacementBreakers()
    fail(breakers, 3, "a")
    fail(breakers, 2, "b")
    assert breakers.whole.phase(1.0) is BreakerPhase.OPEN
    breakers.take_back(made("b1", "b"), "b1")
    assert breakers.whole.phase(1.0) is BreakerPhase.CLOSED


def test_a_failed_trial_that_is_taken_back_leaves_the_next_request_as_the_trial() -> None:
    breakers = PlacementBreakers()
    for key in ("a", "b", "c"):
        fail(breakers, 2, key)
    poison = made("poison", "p")
    run(breakers, poison, 5.0, Fault.PLACEMENT)
    assert breakers.whole.phase(6.0) is BreakerPhase.OPEN
    breakers.take_back(poison, "poison")
    assert breakers.whole.phase(6.0) is BreakerPhase.HALF_OPEN
    assert breakers.admits(made("next", "honest"), 6.0)


def test_a_refused_account_concerns_all_requests() -> None:
    breakers = PlacementBreakers()
    run(breakers, made("r"), 0.0, Fault.ACCOUNT)
    assert not breakers.admits(made("x", "other", "tools"), 1.0)


def test_a_kind_that_never_comes_again_is_forgotten() -> None:
    breakers = PlacementBreakers()
    run(breakers, made("ok", "honest"), 0.0)
    fail(breakers, LIMITS.failures)
    later = LIMITS.first_open_s + LIMITS.longest_open_s + 1.0
    breakers.closed(later)
    assert breakers.closed(later)
    assert not breakers._kinds


def test_a_probe_that_brings_the_server_back_closes_all_and_trusts_nothing() -> None:
    breakers = PlacementBreakers()
    run(breakers, made("ok", "honest"), 0.0)
    fail(breakers, LIMITS.failures)
    breakers.close()
    assert breakers.closed(1.0)
    assert not breakers.trust.believes("chat", 1.0)


KINDS = st.tuples(st.sampled_from("abcd"), st.integers(0, 60))
FAULTS = st.sampled_from([Fault.NONE, Fault.PLACEMENT, Fault.ABSENT, Fault.REJECTED, Fault.BUSY])


@given(st.lists(st.tuples(KINDS, FAULTS, st.floats(0, 9), st.booleans()), max_size=120))
def test_kinds_are_bounded_and_every_breaker_lets_requests_try_again(
    events: list[tuple[tuple[str, int], Fault, float, bool]],
) -> None:
    breakers, now = PlacementBreakers(), 0.0
    for at, ((key, number), fault, pause_s, refuted) in enumerate(events):
        now += pause_s
        asked = made(f"r{at}", key, f"f{number}")
        if not breakers.admits(asked, now):
            continue
        run(breakers, asked, now, fault)
        if refuted:
            breakers.count_taken_elsewhere(asked, now)
        assert len(breakers._kinds) <= MAX_KINDS
    later = now + LIMITS.longest_open_s + 1.0
    for (key, number), *_ in events:
        asked = made("again", key, f"f{number}")
        assert breakers.admits(asked, later)
        assert breakers.broken(asked, later) is None
