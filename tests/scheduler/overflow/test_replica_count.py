"""The count of replicas by money: bounds, hysteresis, and what the SLO demands."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler.overflow.replica_count import DemandBucket, ReplicaLimits, wanted_replicas

PRICE = 1_000_000
LIMITS = ReplicaLimits(least=1, most=8, up_window_s=60.0, down_window_s=120.0)


def bucket(movable: float, bound: float = 0.0, factor: float | None = 4.0) -> DemandBucket:
    """30 s of demand; a remote takes `factor` times the price of a full replica."""
    return DemandBucket(
        seconds=30.0,
        bound_replicas=bound,
        movable_replicas=movable,
        movable_nano_usd=None if factor is None else round(movable * 30 * PRICE * factor),
    )


BUCKETS = st.lists(
    st.builds(bucket, st.floats(0, 12), st.floats(0, 6), st.floats(0.1, 8)), max_size=8
)


def wanted(
    buckets: list[DemandBucket], replicas: int, price: int | None = PRICE, others: int = 0
) -> int:
    found = wanted_replicas(
        buckets, replicas=replicas, nano_usd_per_s=price, limits=LIMITS, others=others
    )
    assert found.reason
    return found.replicas


def test_a_replica_more_where_remotes_are_dearer() -> None:
    assert wanted([bucket(3.9)] * 2, 2) == 4


def test_none_more_for_a_demand_that_fills_a_fifth_of_it() -> None:
    assert wanted([bucket(3.2)] * 4, 3) == 3


def test_remotes_that_are_cheaper_take_all_that_they_may() -> None:
    assert wanted([bucket(3.0, bound=1.5, factor=0.5)] * 4, 5) == 2


def test_work_that_no_remote_may_take_is_never_left_out() -> None:
    assert wanted([bucket(0.0, bound=5.1, factor=0.1)], 1) == 6


def test_fewer_only_after_the_whole_window() -> None:
    assert wanted([bucket(1.0)] * 3, 4) == 4
    assert wanted([bucket(1.0)] * 4, 4) == 1
    assert wanted([bucket(4.0), *[bucket(1.0)] * 2], 4) == 4


def test_a_peak_in_the_newest_minutes_keeps_what_it_needs() -> None:
    assert wanted([*[bucket(1.0)] * 2, *[bucket(3.0)] * 2], 5) == 3


def test_an_unknown_price_is_no_opinion() -> None:
    assert wanted([bucket(6.0)] * 4, 3, price=None) == 3
    assert wanted([bucket(0.1)] * 4, 3, price=None) == 3
    assert wanted([bucket(6.0, factor=None)] * 4, 3) == 3
    assert wanted([bucket(0.1, bound=5.0, factor=None)] * 4, 3) == 5


def test_nothing_measured_is_no_opinion() -> None:
    assert wanted([], 3) == 3


def test_replicas_of_other_pools_count() -> None:
    assert wanted([bucket(5.0)] * 4, 1, others=3) == 2


@given(BUCKETS, st.integers(0, 12), st.one_of(st.none(), st.integers(1, 10**9)), st.integers(0, 3))
def test_the_count_is_within_its_bounds(
    buckets: list[DemandBucket], replicas: int, price: int | None, others: int
) -> None:
    assert LIMITS.least <= wanted(buckets, replicas, price, others) <= LIMITS.most


@given(BUCKETS, st.integers(1, 8), st.integers(2, 9))
def test_dearer_remotes_never_mean_fewer_replicas(
    buckets: list[DemandBucket], replicas: int, factor: int
) -> None:
    dearer = [
        replace(
            b, movable_nano_usd=None if b.movable_nano_usd is None else b.movable_nano_usd * factor
        )
        for b in buckets
    ]
    assert wanted(dearer, replicas) >= wanted(buckets, replicas)


@given(st.floats(0, 12), st.floats(0, 6), st.floats(0.1, 8), st.integers(1, 8))
def test_a_constant_demand_changes_the_count_once_at_most(
    movable: float, bound: float, factor: float, replicas: int
) -> None:
    buckets = [bucket(movable, bound, factor)] * 4
    once = wanted(buckets, replicas)
    assert wanted(buckets, once) == once


@given(BUCKETS, st.integers(1, 8))
def test_the_bound_work_fits(buckets: list[DemandBucket], replicas: int) -> None:
    if buckets:
        needed = max(b.bound_replicas for b in buckets[-2:])
        assert wanted(buckets, replicas) >= min(LIMITS.most, needed - 1e-6)
