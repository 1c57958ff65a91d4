"""Demand by time: what is bound, what is movable, and what a full replica does."""

from __future__ import annotations

import pytest

from scheduler.overflow.demand_window import (
    BUCKET_S,
    MOST_BUCKETS,
    USABLE_SHARE,
    DemandWindow,
)

BEGAN_S = 1000 * BUCKET_S + 3.0


def at(bucket: int) -> float:
    """A time in the bucket; 0: the first whole one."""
    return (1001 + bucket) * BUCKET_S + 1.0


def test_work_is_counted_in_replicas_that_it_fills() -> None:
    window = DemandWindow(BEGAN_S)
    window.add_self_hosted(at(0), 2 * USABLE_SHARE * BUCKET_S, None)
    window.add_self_hosted(at(0), USABLE_SHARE * BUCKET_S, 700)
    window.add_overflow(at(0), 0.05 * BUCKET_S, 30)
    (found,) = window.buckets(at(1))
    assert found.seconds == BUCKET_S
    assert found.bound_replicas == pytest.approx(2.0)
    assert found.movable_replicas == pytest.approx(1.0 + 0.05 / USABLE_SHARE)
    assert found.movable_nano_usd == 730


def test_the_price_of_a_bucket_is_unknown_where_one_part_is() -> None:
    window = DemandWindow(BEGAN_S)
    window.add_overflow(at(0), 1.0, None)
    window.add_overflow(at(0), 1.0, 30)
    window.add_self_hosted(at(0), 1.0, 30)
    assert window.buckets(at(1))[0].movable_nano_usd is None


def test_the_bucket_that_runs_does_not_count_and_empty_ones_do() -> None:
    window = DemandWindow(BEGAN_S)
    assert window.buckets(at(0)) == ()
    window.add_self_hosted(at(2), 1.0, 1)
    window.add_self_hosted(at(3), 1.0, 1)
    assert [b.movable_nano_usd for b in window.buckets(at(3))] == [0, 0, 1]


def test_full_replicas_teach_what_one_does() -> None:
    window = DemandWindow(BEGAN_S)
    for bucket in range(40):
        window.observe(at(bucket), 2, late=False)
        window.add_self_hosted(at(bucket), 2 * 0.6 * BUCKET_S, 1)
        window.add_overflow(at(bucket), 0.6 * BUCKET_S, 1)
    newest = window.buckets(at(40))[-1]
    assert window.usable_per_s == pytest.approx(0.6, rel=0.01)
    assert newest.movable_replicas == pytest.approx(3.0, rel=0.01)
    window.buckets(at(40))
    assert window.usable_per_s == pytest.approx(0.6, rel=0.01), "a bucket teaches once"


def test_replicas_that_are_not_full_teach_nothing() -> None:
    window = DemandWindow(BEGAN_S)
    for bucket in range(5):
        window.observe(at(bucket), 2, late=False)
        window.add_self_hosted(at(bucket), 1.0, 1)
    window.add_overflow(at(6), 9.0, 1)  # nobody looked how many served
    window.buckets(at(8))
    assert window.usable_per_s == USABLE_SHARE


def test_late_requests_need_one_more_than_there_was() -> None:
    window = DemandWindow(BEGAN_S)
    window.observe(at(0), 3, late=True)
    window.observe(at(0), 3, late=False)
    assert window.buckets(at(1))[0].bound_replicas == 4.0


def test_memory_is_bounded() -> None:
    window = DemandWindow(BEGAN_S)
    for bucket in range(3 * MOST_BUCKETS):
        window.add_self_hosted(at(bucket), 1.0, 1)
    assert len(window.buckets(at(3 * MOST_BUCKETS))) < MOST_BUCKETS
