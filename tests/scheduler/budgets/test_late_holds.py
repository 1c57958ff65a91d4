"""Parts of adopted leases that count as spent, and requests that tell of them later."""

from __future__ import annotations

from scheduler.budgets.late_holds import LATE_S, LateHolds
from scheduler.budgets.lease_orders import Unspent


def taken_over(unaccounted_nano_usd: int) -> LateHolds:
    late = LateHolds()
    late.begin()
    assert not late.tell("known", "lease", 10), "the takeover has not ended"
    late.add_unaccounted("lease", unaccounted_nano_usd)
    return late


def test_what_a_late_request_has_not_spent_is_taken_back_once() -> None:
    late = taken_over(100)
    assert late.tell("late", "lease", 60)
    assert late.due(0.0) == ()
    late.end("late", "lease", 25)
    assert late.due(0.0) == (Unspent(lease_id="lease", request_id="late", nano_usd=25),)
    assert late.due(0.0) == ()
    assert not late.tell("late", "lease", 25)


def test_no_more_is_told_than_was_booked() -> None:
    late = taken_over(100)
    assert late.tell("first", "lease", 60)
    assert not late.tell("second", "lease", 41)
    assert late.tell("third", "lease", 40)
    assert not late.tell("fourth", "lease", 1)
    assert not late.tell("fifth", "another", 1)


def test_a_request_that_was_known_at_the_takeover_has_no_part() -> None:
    late = taken_over(100)
    assert not late.tell("known", "lease", 10)


def test_a_request_that_spent_all_returns_nothing() -> None:
    late = taken_over(100)
    assert late.tell("late", "lease", 60)
    late.end("late", "lease", 0)
    assert late.due(0.0) == ()


def test_what_is_told_too_late_stays_spent() -> None:
    late = taken_over(100)
    late.due(1000.0)
    late.due(1000.0 + LATE_S - 1.0)
    assert late.tell("late", "lease", 60)
    late.end("late", "lease", 60)
    assert len(late.due(1000.0 + LATE_S)) == 1, "it was told in time"
    assert not late.tell("later", "lease", 40)


def test_without_a_takeover_nothing_is_late() -> None:
    late = LateHolds()
    assert not late.tell("request", "lease", 10)
    assert late.take() == ()


def test_who_has_told_is_forgotten_where_no_request_can_be_late_any_more() -> None:
    complete = LateHolds()
    complete.begin()
    complete.tell("known", "lease", 10)
    complete.end_takeover()
    late = taken_over(100)
    late.end_takeover()
    assert late.tell("late", "lease", 60)
    assert late.take_unaccounted() == {"lease": 40}
    for each in (complete, late):
        assert not each.tell("again", "lease", 1)
        assert each._told is None
