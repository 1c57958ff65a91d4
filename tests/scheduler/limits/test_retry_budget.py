"""How many retries a scheduler may cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.limits.retry_budget import RetryBudget, RetryLimits, SharedRetryBudget

LIMITS = RetryLimits(share=0.25, reserve=2.0, reserve_per_s=1.0, most=4.0)


def taken(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.take(now):
        count += 1
    return count


def test_requests_earn_a_share_of_retries() -> None:
    budget = RetryBudget(LIMITS)
    assert taken(budget, 0.0) == 2, "it starts with the reserve"
    for _ in range(8):
        budget.request()
    assert taken(budget, 0.0) == 2


def test_the_reserve_comes_back_with_time_and_no_more_than_that() -> None:
    budget = RetryBudget(LIMITS)
    assert taken(budget, 10.0) == 2
    assert taken(budget, 11.0) == 1
    assert taken(budget, 1000.0) == 2
    assert taken(budget, 999.0) == 0, "a clock that goes back gives nothing"


@pytest.mark.parametrize("requests", [16, 1000])
def test_what_is_saved_up_is_bounded(requests: int) -> None:
    budget = RetryBudget(LIMITS)
    for _ in range(requests):
        budget.request()
    assert taken(budget, 0.0) == 4


def test_a_retry_that_succeeds_is_given_back() -> None:
    budget = RetryBudget(LIMITS)
    for _ in range(20):
        assert budget.take(0.0)
        budget.succeeded()


def all_taken(budget: SharedRetryBudget, tenant: str, now: float) -> int:
    count = 0
    while budget.take(tenant, now):
        count += 1
    return count


def test_a_tenant_has_what_it_earned_and_the_reserve() -> None:
    budget = SharedRetryBudget(LIMITS)
    for _ in range(8):
        budget.request("alone")
    assert all_taken(budget, "alone", 0.0) == 2 + 2
    assert all_taken(budget, "alone", 1.0) == 1, "of the reserve"


def test_a_tenant_whose_requests_fail_leaves_others_what_they_earned() -> None:
    budget = SharedRetryBudget(LIMITS)
    for _ in range(8):
        budget.request("honest")
    for _ in range(1000):
        budget.request("hostile")
        budget.take("hostile", 0.0)
    assert all_taken(budget, "hostile", 0.0) == 0
    assert all_taken(budget, "honest", 0.0) == 2


def test_a_shared_retry_that_succeeds_is_given_back() -> None:
    budget = SharedRetryBudget(LIMITS)
    for _ in range(20):
        assert budget.take("t", 0.0)
        budget.succeeded("t")


def test_lower_limits_hold_at_once_for_every_tenant() -> None:
    budget = SharedRetryBudget(LIMITS)
    for _ in range(8):
        budget.request("t")
    budget.set_limits(RetryLimits(share=0.0, reserve=0.0, reserve_per_s=0.0, most=0.0))
    assert not budget.take("t", 0.0)


@given(st.lists(st.tuples(st.sampled_from(["request", "take", "ok"]), st.integers(0, 2))))
def test_no_tenant_waits_for_retries_that_its_own_requests_have_earned(
    steps: list[tuple[str, int]],
) -> None:
    """The honest tenant sends four requests; each four earn one retry, whatever the others do."""
    budget = SharedRetryBudget(LIMITS)
    for _ in range(4):
        budget.request("honest")
    for step, number in steps:
        tenant = f"hostile {number}" if step == "request" else "hostile 0"
        if step == "request":
            budget.request(tenant)
        elif budget.take(tenant, 0.0) and step == "ok":
            budget.succeeded(tenant)
    assert budget.take("honest", 0.0)
