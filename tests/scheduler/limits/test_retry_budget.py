"""How many retries a scheduler may cause."""

from __future__ import annotations

import pytest

from scheduler.limits.retry_budget import RetryBudget, RetryLimits

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
