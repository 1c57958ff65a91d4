"""The service counters of tenants."""

from __future__ import annotations

import pytest

from scheduler.queue.fairness import MOST_TENANTS, ServiceCounters


def test_service_counts_over_the_weight_and_can_be_given_back() -> None:
    counters = ServiceCounters()
    counters.charge("light", 1.0, 12.0)
    counters.charge("heavy", 3.0, 12.0)
    assert (counters.served("light"), counters.served("heavy")) == (12.0, 4.0)
    counters.charge("light", 1.0, -2.0)
    assert counters.served("light") == pytest.approx(10.0)


def test_who_comes_back_starts_at_the_least_of_those_that_wait() -> None:
    counters = ServiceCounters()
    counters.charge("a", 1.0, 50.0)
    counters.charge("b", 1.0, 30.0)
    counters.tenant_returned("away", ["a", "b"])
    assert counters.served("away") == 30.0
    counters.tenant_returned("a", ["b"])
    assert counters.served("a") == 50.0, "what was served is not forgiven"


def test_a_newcomer_starts_where_the_last_one_was_served_if_none_waits() -> None:
    counters = ServiceCounters()
    counters.charge("a", 1.0, 50.0)
    counters.tenant_started("a")
    counters.tenant_returned("new", [])
    assert counters.served("new") == 50.0
    counters.tenant_started("new")
    counters.charge("b", 1.0, -20.0)
    counters.tenant_started("b")
    assert counters.served("later") == 50.0, "the floor never sinks"


def test_counters_are_bounded_and_those_that_wait_are_kept() -> None:
    counters = ServiceCounters()
    for i in range(MOST_TENANTS):
        counters.charge(f"t{i}", 1.0, 1.0 + i)
    counters.tenant_returned("new", ["t0", "t1"])
    assert len(counters) <= MOST_TENANTS / 2 + 3
    assert (counters.served("t0"), counters.served("t1")) == (1.0, 2.0)
    assert counters.served(f"t{MOST_TENANTS - 1}") == MOST_TENANTS, "the least served go"
